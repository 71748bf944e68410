"""Reward and continue heads on the agent feature f_t = [g_t, z_t], for the same index t."""

from torch import Tensor, nn

from world_model.config import HeadConfig
from world_model.distributions import twohot_log_prob, twohot_mean
from world_model.layers import head


class RewardHead(nn.Module):
    """Two-hot distribution over symlog rewards: features [..., F] -> logits [..., bins]. Zero-initialised output."""

    def __init__(self, feature_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, config.num_bins, zero_init=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def predict(self, features: Tensor) -> Tensor:
        """Return the expected reward [...]."""
        return twohot_mean(self.net(features))

    def nll(self, features: Tensor, rewards: Tensor) -> Tensor:
        """Return -ln p(r|f) [...] in nats."""
        return -twohot_log_prob(self.net(features), rewards)


class ContinueHead(nn.Module):
    """Bernoulli logit of n_t = 1 - is_terminal_t: features [..., F] -> [...]."""

    def __init__(self, feature_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, 1, zero_init=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features).squeeze(-1)

    def predict(self, features: Tensor) -> Tensor:
        """Return the probability that the episode continues [...]."""
        return self(features).sigmoid()
