"""Evaluation of agents: whole episodes, their statistics, published scores and learning curves."""
