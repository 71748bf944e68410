"""Returns of a dream. Index alignment (H = 3), one row per dreamed start:

t         0        1        2        3
state     f0  a0   f1  a1   f2  a2   f3         features [N, H + 1], actions [N, H]
arrives       r1 n1    r2 n2    r3 n3           rewards, continues [N, H]; column t belongs to f_{t+1}
value     v0       v1       v2       v3         values [N, H + 1]
return    V0       V1       V2                  lambda_returns [N, H]
"""

import torch
from torch import Tensor, nn

from world_model import ranks


def lambda_returns(rewards: Tensor, continues: Tensor, values: Tensor, gamma: float, lambd: float) -> Tensor:
    """Compute V_t = r_{t+1} + γ n_{t+1} [(1-λ) v_{t+1} + λ V_{t+1}], V_H = v_H (Sutton & Barto 12.3; DreamerV3 eq. 7).

    rewards, continues [N, H], values [N, H + 1] -> [N, H].
    """
    discounts = gamma * continues
    bootstrapped = rewards + discounts * (1 - lambd) * values[:, 1:]
    result = values[:, -1]
    returns = []
    for t in reversed(range(rewards.shape[1])):
        result = bootstrapped[:, t] + discounts[:, t] * lambd * result
        returns.append(result)
    return torch.stack(returns[::-1], 1)


def played_returns(
    rewards: Tensor, is_first: Tensor, is_terminal: Tensor, values: Tensor, gamma: float, lambd: float
) -> tuple[Tensor, Tensor]:
    """Compute the lambda-returns of replayed rows [B, T] as in Chunk, and a mask of where they exist: both [B, T - 1].

    There is none where the next row begins another episode; the value before that row bootstraps the earlier returns.
    """
    has_return = ~is_first[:, 1:]
    arrives = torch.where(has_return, rewards[:, 1:], values[:, :-1])
    continues = (has_return & ~is_terminal[:, 1:]).to(values.dtype)
    return lambda_returns(arrives, continues, values, gamma, lambd), has_return


def dream_weights(root_continue: Tensor, continues: Tensor, gamma: float) -> Tensor:
    """Compute the discounted weight of every dreamed step: w_0 = n_0 of the real root, w_t = w_{t-1} γ n_t.

    root_continue [N], continues [N, H] -> [N, H].
    """
    steps = torch.cat([root_continue[:, None], gamma * continues[:, :-1]], 1)
    return steps.cumprod(1)


class ReturnScale(nn.Module):
    """The running range of returns S = EMA(P95 - P5); advantages are divided by max(1, S) (DreamerV3)."""

    value: Tensor
    debias: Tensor
    levels: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("debias", torch.zeros(()))
        self.register_buffer(
            "levels", torch.tensor([0.05, 0.95]), persistent=False
        )  # a buffer, so that it is on the device already

    @torch.no_grad()
    def forward(self, returns: Tensor) -> Tensor:
        """Add a batch of returns [...] and return the divisor max(1, S) []."""
        low, high = torch.quantile(ranks.gather(returns.float().flatten()), self.levels)
        step = torch.where(torch.isfinite(high - low), 1 - self.decay, 0.0)  # ignore non-finite dreams
        self.value.lerp_(torch.nan_to_num(high - low, posinf=0.0), step)
        self.debias.lerp_(torch.ones_like(self.debias), step)
        return (self.value / self.debias.clamp_min(1e-8)).clamp_min(1.0)
