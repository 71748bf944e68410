"""ĉ = C(g, z): the context predicted from the state, so that a dream needs no pixels."""

import torch
from torch import Tensor, nn

from world_model.layers import check_sizes, head


class ContextPredictor(nn.Module):
    """A network from carry g [..., H], latent z [..., D] to the predicted context ĉ [..., C]; its target has ‖c‖² = C.

    Raises ValueError for sizes below 1.
    """

    def __init__(self, carry_dim: int, latent_dim: int, context_dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_sizes(carry_dim=carry_dim, latent_dim=latent_dim, context_dim=context_dim, hidden_dim=hidden_dim)
        self.net = head(carry_dim + latent_dim, hidden_dim, 1, context_dim)

    def forward(self, carry: Tensor, latent: Tensor) -> Tensor:
        return self.net(torch.cat([carry, latent], -1))
