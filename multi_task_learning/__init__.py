"""Pillar 5: loss grouping and rotation-based gradient balancing for several losses on shared parameters."""

from multi_task_learning.balanced_sum import BalancedSum
from multi_task_learning.loss_aggregator import LossAggregator, task_names
from multi_task_learning.rgb import METHODS, RGB
from multi_task_learning.rgb_aggregator import RGBAggregator

__all__ = ["METHODS", "RGB", "BalancedSum", "LossAggregator", "RGBAggregator", "task_names"]
