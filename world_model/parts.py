"""Parts that users can swap or add by name; docs/extending.md has a recipe for each.

setting                               registry        what it is
world_model.prior_config.kind         PRIORS          settings -> prior p(z|g), an nn.Module like `PlainPrior`
world_model.dynamics                  DYNAMICS        settings -> recurrence, an nn.Module like `Dynamics`
world_model.extra_losses              EXTRA_LOSSES    a function of the model's output, with its group
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from world_model.config import WorldModelConfig
from world_model.generative_prior import DPGMMPrior, GaussianPrior
from world_model.loss_groups import GROUPS, Groups, terms
from world_model.output import ModelOutput
from world_model.prior import Prior
from world_model.registry import Registry
from world_model.settings import unknown_key
from world_model.slow_latent import STD_RANGE, SlowLatent
from world_model.temporal_dynamics import OrthogonalLSTM


class Dynamics(Protocol):
    """A recurrence over inputs [z, ĉ, a] of width `config.dynamics_dim`, an nn.Module.

    Its state is a pair of tensors [N, L, H] with H = `config.hidden_dim`; hidden[:, -1] is the carry. A recurrence
    without a cell passes it through.
    """

    def initial(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return hidden and cell [N, L, H] at the start of `batch` episodes."""
        ...

    def __call__(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step: inputs [N, I], hidden and cell [N, L, H] -> the next hidden and cell."""
        ...


class ExtraLoss(NamedTuple):
    """A user's loss: the group that it is added to, a key of `loss_groups.GROUPS`, and its function."""

    group: str
    measure: Callable[[ModelOutput], Tensor]  # -> [B, T]


PRIORS: Registry[Callable[[WorldModelConfig], Any]] = Registry("prior")
DYNAMICS: Registry[Callable[[WorldModelConfig], Any]] = Registry("dynamics")
EXTRA_LOSSES: Registry[ExtraLoss] = Registry("loss")


def _mixture(config: WorldModelConfig) -> DPGMMPrior:
    settings = config.prior_config
    prior = DPGMMPrior(
        config.prior_input_dim,
        config.latent_dim,
        config.max_components,
        settings.trunk_dim,
        settings.unimix,
        (settings.min_std, settings.max_std),
        settings.prior_shape,
        settings.prior_rate,
    )
    _begin_with_the_carry(prior.trunk, config)
    return prior


def _gaussian(config: WorldModelConfig) -> GaussianPrior:
    settings = config.prior_config
    std_range = (settings.min_std, settings.max_std)
    prior = GaussianPrior(config.prior_input_dim, config.latent_dim, settings.trunk_dim, std_range)
    _begin_with_the_carry(prior.trunk, config)
    return prior


@torch.no_grad()
def _begin_with_the_carry(layer: nn.Linear, config: WorldModelConfig) -> None:
    """Give what the prior reads besides the carry a weight of 0, which training moves."""
    layer.weight[:, config.hidden_dim :].zero_()


def _orthogonal_lstm(config: WorldModelConfig) -> OrthogonalLSTM:
    return OrthogonalLSTM(config.dynamics_dim, config.hidden_dim, config.n_lstm_layers, config.use_orthogonal)


PRIORS.register("mixture", _mixture)
PRIORS.register("gaussian", _gaussian)
DYNAMICS.register("orthogonal_lstm", _orthogonal_lstm)


def make_prior(config: WorldModelConfig) -> Prior:
    """Make the prior that `prior_config.kind` names. ValueError for an unknown name."""
    return _module(PRIORS, config.prior_config.kind, config)


def make_slow_latent(config: WorldModelConfig) -> SlowLatent | None:
    """Make the slow latent with a mixture prior of its own; None without `slow_config.every`."""
    slow, width = config.slow_config, config.prior_config.trunk_dim
    if slow.every is None:
        return None
    inputs = slow.latent_dim + config.hidden_dim
    prior: Any = DPGMMPrior(inputs, slow.latent_dim, slow.max_components, width, config.prior_config.unimix, STD_RANGE)
    return SlowLatent(config.hidden_dim, slow.every, slow, prior)


def make_dynamics(config: WorldModelConfig) -> Dynamics:
    """Make the recurrence that `dynamics` names. ValueError for an unknown name."""
    return _module(DYNAMICS, config.dynamics, config)


def _module(registry: Registry[Callable[[WorldModelConfig], Any]], name: str, config: WorldModelConfig) -> Any:
    made = registry[name](config)
    if not isinstance(made, nn.Module):  # no optimizer would train its weights
        raise ValueError(f"{registry.kind} '{name}': got a {type(made).__name__}, expected a torch.nn.Module")
    return made


def extra_groups(weights: Mapping[str, float]) -> Groups:
    """Return the groups of the extra losses with these weights. ValueError for unknown names and groups."""
    groups: dict[str, dict[str, tuple[float | str, ...]]] = {}
    for name, weight in weights.items():
        group = EXTRA_LOSSES[name].group
        if name in terms(GROUPS):
            raise ValueError(f"extra_losses: got '{name}', a loss of the model, expected a name of its own")
        if group not in GROUPS:
            raise ValueError(f"loss '{name}': {unknown_key(group, list(GROUPS), 'group')}")
        groups.setdefault(group, {})[name] = (weight,)
    return groups


def extra_losses(names: Mapping[str, float], output: ModelOutput) -> dict[str, Tensor]:
    """Compute the named extra losses of an output, [B, T] each. ValueError for another shape."""
    measured = {name: EXTRA_LOSSES[name].measure(output) for name in names}
    expected = output.inputs.is_first.shape
    for name, loss in measured.items():
        if loss.shape != expected:
            raise ValueError(f"loss '{name}': got shape {tuple(loss.shape)}, expected [B, T] = {tuple(expected)}")
    return measured
