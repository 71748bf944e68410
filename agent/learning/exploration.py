"""Exploration: what becomes of the policy's actions while episodes are collected, and what novelty is paid in dreams.

A method is a subclass of `Exploration` under a name in EXPLORATIONS; `behavior.exploration` names it.
"""

from collections.abc import Callable

from torch import Generator, Tensor

from agent.config.settings import BehaviorConfig
from agent.learning.policies import Policy
from world_model.registry import Registry


class Exploration:
    """Takes the policy's samples as they are and pays nothing: what a method overrides.

    Args:
        config: settings of the behaviour.
        feature_dim: F, width of the features [g, z].
        action_dim: A.
        is_discrete: whether actions are one-hot vectors.
    """

    def __init__(self, config: BehaviorConfig, feature_dim: int, action_dim: int, is_discrete: bool) -> None:
        self.config = config

    def act(self, policy: Policy, action: Tensor, generator: Generator | None = None) -> Tensor:
        """Actions [N, A] to collect with, in the place of `action` [N, A], a sample of `policy`."""
        return action

    def intrinsic_reward(self, features: Tensor, actions: Tensor) -> Tensor | None:
        """What a dream is paid beside the model's rewards: features [N, H + 1, F], actions [N, H, A] -> [N, H].

        None for nothing. With `behavior.gradient` "dynamics" its gradient reaches the actor through the features.
        """
        return None

    def learn(self, features: Tensor, actions: Tensor, is_first: Tensor) -> dict[str, Tensor]:
        """Once an update, for methods that learn: features [B, T, F] without gradient, actions [B, T, A]; metrics."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on needs of it, by name."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""


class ActionNoise(Exploration):
    """`behavior.action_noise`: std of Gaussian noise on actions, or the share of discrete ones that are random.

    ValueError where it is no share of discrete ones.
    """

    def __init__(self, config: BehaviorConfig, feature_dim: int, action_dim: int, is_discrete: bool) -> None:
        super().__init__(config, feature_dim, action_dim, is_discrete)
        if is_discrete and not 0 <= config.action_noise <= 1:
            raise ValueError(
                f"behavior.action_noise: got {config.action_noise}, expected [0, 1], "
                "the share of random actions where actions are discrete"
            )

    def act(self, policy: Policy, action: Tensor, generator: Generator | None = None) -> Tensor:
        """Actions with the noise on them."""
        amount = self.config.action_noise
        return policy.explore(action, amount, generator) if amount > 0 else action


EXPLORATIONS: Registry[Callable[[BehaviorConfig, int, int, bool], Exploration]] = Registry("exploration method")
EXPLORATIONS.register("noise", ActionNoise)
