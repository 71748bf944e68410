"""What the critic expects beside what came."""

import torch
from torch import Tensor

from agent.learning.agent import Agent
from agent.learning.returns import played_returns


@torch.no_grad()
def values_and_returns(agent: Agent, features: Tensor, reward: Tensor, is_terminal: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's values in the first halves of episodes, and the discounted returns that came: both [B, T // 2].

    features [B, T, F] of inferred states; reward, is_terminal [B, T] as in Chunk. Where an episode was cut by its time
    limit the critic's value of its last frame stands for what would have come; hence the first halves, where that
    hardly counts.
    """
    values = agent.actor_critic.critic.value(features)
    is_first = torch.zeros_like(is_terminal)
    came, _ = played_returns(reward, is_first, is_terminal, values, agent.config.behavior.gamma, lambd=1.0)
    half = reward.shape[1] // 2
    return values[:, :half], came[:, :half]
