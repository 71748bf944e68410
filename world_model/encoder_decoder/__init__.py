"""Posterior q(z|x,c,g) and decoder p(x|z,g,A). No path leads from a frame to its reconstruction but through these."""

from world_model.encoder_decoder.decoder import Decoder
from world_model.encoder_decoder.posterior import Posterior

__all__ = ["Decoder", "Posterior"]
