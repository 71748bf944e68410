"""Exploration: changes to the policy's actions while episodes are collected, and intrinsic rewards in dreams.

A method is a subclass of `Exploration`, registered in EXPLORATIONS under the name that `behavior.exploration` takes.
"""

from collections.abc import Callable

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from agent.config.settings import BehaviorConfig
from agent.learning.policies import Policy
from world_model.registry import Registry


class Exploration(nn.Module):
    """The base of all methods: it executes the policy's samples unchanged and adds no reward.

    A method that learns holds its networks as submodules, which the agent moves to its device, and one Adam in
    `optimizer`; both are saved in checkpoints.

    Args:
        config: settings of the behaviour.
        feature_dim: F, width of the features [g, z].
        action_dim: A.
        is_discrete: whether actions are one-hot vectors.
    """

    optimizer: Optimizer | None = None

    def __init__(self, config: BehaviorConfig, feature_dim: int, action_dim: int, is_discrete: bool) -> None:
        super().__init__()
        self.config = config

    def act(self, policy: Policy, action: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the actions [N, A] to execute instead of `action` [N, A], a sample of `policy`."""
        return action

    def intrinsic_reward(self, features: Tensor, actions: Tensor) -> Tensor | None:
        """Return a reward to add to the model's in a dream: features [N, H + 1, F], actions [N, H, A] -> [N, H].

        None adds nothing. Parameters are frozen here; unless the actor learns by REINFORCE (`behavior.gradient`), the
        gradient reaches it through the features.
        """
        return None

    def learn(self, features: Tensor, actions: Tensor, is_first: Tensor) -> dict[str, Tensor]:
        """Learn, once per update: features [B, T, F] without gradient, actions [B, T, A]; return metrics."""
        return {}


class ActionNoise(Exploration):
    """Noise of `behavior.action_noise`: the std of Gaussian noise, or the fraction of discrete actions made random.

    ValueError if actions are discrete and it is not in [0, 1].
    """

    def __init__(self, config: BehaviorConfig, feature_dim: int, action_dim: int, is_discrete: bool) -> None:
        super().__init__(config, feature_dim, action_dim, is_discrete)
        if is_discrete and not 0 <= config.action_noise <= 1:
            raise ValueError(
                f"behavior.action_noise: got {config.action_noise}, expected [0, 1], "
                "the fraction of random actions for discrete actions"
            )

    def act(self, policy: Policy, action: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the actions with noise added."""
        amount = self.config.action_noise
        return policy.explore(action, amount, generator) if amount > 0 else action


EXPLORATIONS: Registry[Callable[[BehaviorConfig, int, int, bool], Exploration]] = Registry("exploration method")
EXPLORATIONS.register("noise", ActionNoise)
