"""Pillar 4: attention over the frame (slot attention), and its prediction from the state (the attention schema)."""

from world_model.attention_schema.attention_prior import AttentionPrior
from world_model.attention_schema.schema import (
    AttentionOutput,
    AttentionSchema,
    attention_kl,
    centre_of_mass,
    diversity,
    movement_loss,
)
from world_model.attention_schema.slot_attention import SlotAttention, SlotOutput

__all__ = [
    "AttentionOutput",
    "AttentionPrior",
    "AttentionSchema",
    "SlotAttention",
    "SlotOutput",
    "attention_kl",
    "centre_of_mass",
    "diversity",
    "movement_loss",
]
