"""Posterior q(z|x,c,g) and decoder p(x|z,g,A), the only path from a frame to its reconstruction."""

from world_model.encoder_decoder.decoder import Decoder
from world_model.encoder_decoder.posterior import Posterior
from world_model.encoder_decoder.vector import VectorDecoder

__all__ = ["Decoder", "Posterior", "VectorDecoder"]
