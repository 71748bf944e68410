"""Pillar 3: the orthogonal LSTM and the predictor that closes its context channel."""

from world_model.temporal_dynamics.context_predictor import ContextPredictor
from world_model.temporal_dynamics.orthogonal_lstm import OrthogonalLSTM

__all__ = ["ContextPredictor", "OrthogonalLSTM"]
