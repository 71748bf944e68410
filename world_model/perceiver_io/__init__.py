"""Pillar 1: a causal Perceiver IO over vector-quantised frame tokens."""

from world_model.perceiver_io.causal_perceiver import Cache, CausalPerceiver, PerceiverOutput
from world_model.perceiver_io.quantizer import Quantized, VectorQuantizer
from world_model.perceiver_io.tokenizer import Tokenizer

__all__ = ["Cache", "CausalPerceiver", "PerceiverOutput", "Quantized", "Tokenizer", "VectorQuantizer"]
