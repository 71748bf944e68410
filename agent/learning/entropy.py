"""The entropy's part of the actor's objective, at a constant weight or at one that keeps the std on a target."""

import math

import torch
from torch import Tensor, nn

from agent.config.schedules import value_at
from agent.config.settings import BehaviorConfig
from agent.learning.policies import Gaussian, Policy
from world_model import ranks

RATE = 0.005  # change of ln η per update and per unit of ln σ
LOG_RANGE = (-12.0, 0.0)  # of ln η
LEAST_START = 1e-4  # smallest η at the start


class EntropyBonus(nn.Module):
    """The weighted entropy of a policy [...], `behavior.entropy` times H.

    With `behavior.target_std` (Gaussian policies only), ln σ has a weight η of its own:

        bonus = η Σ ln σ + entropy (H - Σ ln σ),    ln η <- ln η + 0.005 (ln target - mean ln σ) at every update,

    so η rises while the geometric mean of σ is below the target, and falls above it, as SAC's temperature follows a
    target entropy (arXiv 1812.05905). One setting then fits tasks whose returns differ.
    """

    log_weight: Tensor

    def __init__(self, config: BehaviorConfig, is_discrete: bool = False) -> None:
        super().__init__()
        self.entropy, self.target_std = config.entropy, config.target_std
        self.has_target = config.has_target_std
        if self.has_target:
            if is_discrete:
                raise ValueError(f"behavior.target_std: got {config.target_std}, expected 0 for discrete actions")
            self.register_buffer("log_weight", torch.tensor(math.log(max(config.entropy, LEAST_START))))

    def forward(self, policy: Policy, entropy: Tensor) -> Tensor:
        """Return the bonus [...] of a policy over [..., A] whose entropy is H [...]."""
        if not self.has_target:
            return self.entropy * entropy
        spread = _log_std(policy).sum(-1)
        return self.log_weight.exp() * spread + self.entropy * (entropy - spread)

    @torch.no_grad()
    def follow(self, policy: Policy, updates: int) -> dict[str, Tensor]:
        """Move the weight towards the target of this update; return it as a metric, none without a target."""
        if not self.has_target:
            return {}
        gap = math.log(value_at(self.target_std, updates)) - ranks.mean(_log_std(policy).mean())
        moved = (self.log_weight + RATE * gap).clamp(*LOG_RANGE)
        self.log_weight.copy_(torch.where(torch.isfinite(gap), moved, self.log_weight))
        return {"entropy_weight": self.log_weight.exp()}


def _log_std(policy: Policy) -> Tensor:
    """Return ln σ [..., A] of a Gaussian policy."""
    assert isinstance(policy, Gaussian)
    return policy.std.log()
