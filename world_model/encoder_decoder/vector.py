"""The vector v of an observation, such as joint angles beside the frame: its encoder and its decoder p(v|f)."""

from torch import Tensor, nn

from world_model.config import HeadConfig
from world_model.distributions import symexp, symlog
from world_model.layers import head, mlp


class VectorEncoder(nn.Module):
    """An MLP on symlog v: vectors [..., V] -> what the posterior's first layer adds for them, [..., P].

    The sum is a first layer on [frame, context, vector] in parts; both parts start with outputs of the same size.
    """

    def __init__(self, vector_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.net = mlp(vector_dim, hidden_dim, 2)
        self.to_posterior = nn.Linear(hidden_dim, hidden_dim, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.to_posterior(self.net(symlog(vectors)))


class VectorDecoder(nn.Module):
    """The decoder p(v|f), in symlog space a Gaussian of fixed variance ½ per number: features [..., F] -> [..., V]."""

    def __init__(self, vector_dim: int, feature_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, vector_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean of symlog v."""
        return self.net(features)

    def predict(self, features: Tensor) -> Tensor:
        """Return the vector that is expected, the inverse of that mean."""
        return symexp(self.net(features))

    def loss(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return the squared error of symlog v, summed over the vector: [..., F], [..., V] -> [...]."""
        return (self.net(features) - symlog(vectors)).square().float().sum(-1)
