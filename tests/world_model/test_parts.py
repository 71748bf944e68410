"""Parts by name: a prior, a recurrence and a loss of a user's own train through the public doors; unknown names."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import run_agent
from agent import Agent, Trainer, make_config
from agent.config.files import load_config
from agent.config.presets import parse_overrides
from agent.training.guard import Guard
from multi_task_learning import LossAggregator
from tests.agent.learning.small_agent import make_chunk
from tests.world_model.small_model import SWITCHES, make_model, make_sample, rng
from world_model.config import WorldModelConfig
from world_model.loss_groups import GROUPS, terms
from world_model.output import ModelOutput
from world_model.parts import DYNAMICS, EXTRA_LOSSES, PRIORS, ExtraLoss
from world_model.prior import PlainPrior
from world_model.registry import Registry

# ---------------------------------------------------------------- a prior of a user's own


class LaplaceParams(NamedTuple):
    mean: Tensor
    scale: Tensor

    def kl(self, mean: Tensor, std: Tensor) -> tuple[Tensor, None]:
        gap = mean - self.mean
        distance = std * math.sqrt(2 / math.pi) * (-0.5 * (gap / std).square()).exp()  # E|z - μ| under q
        distance = distance + gap * torch.erf(gap / (math.sqrt(2) * std))
        negative_entropy = -0.5 * math.log(2 * math.pi * math.e) - std.log()
        return (negative_entropy + (2 * self.scale).log() + distance / self.scale).sum(-1), None

    def sample(self, noise: tuple[Tensor, ...], spread: float = 1.0) -> Tensor:
        size = -torch.special.log_ndtr(-noise[0].abs()) - math.log(2)  # exponential: the quantile of |noise|
        return self.mean + spread * self.scale * noise[0].sign() * size

    def log_prob(self, z: Tensor) -> Tensor:
        return (-(z - self.mean).abs() / self.scale - (2 * self.scale).log()).sum(-1)

    def detach(self) -> "LaplaceParams":
        return LaplaceParams(self.mean.detach(), self.scale.detach())


class LaplacePrior(PlainPrior):
    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.hidden_dim, 2 * config.latent_dim)

    def forward(self, carry: Tensor) -> LaplaceParams:
        mean, raw_scale = self.head(carry).float().chunk(2, -1)
        return LaplaceParams(mean, 0.1 + nn.functional.softplus(raw_scale))


# ---------------------------------------------------------------- a recurrence of a user's own


class GRU(nn.Module):
    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.cell = nn.GRUCell(config.dynamics_dim, config.hidden_dim)

    def initial(self, batch: int) -> tuple[Tensor, Tensor]:
        hidden = self.cell.weight_hh.new_zeros(batch, 1, self.cell.hidden_size)
        return hidden, hidden

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        return self.cell(inputs, hidden[:, 0])[:, None], cell


# ---------------------------------------------------------------- a loss of a user's own


def latent_norm(output: ModelOutput) -> Tensor:
    """Squared length of the latents, [B, T]."""
    return output.observed.drawn.latent.square().sum(-1)


REGISTRIES = (PRIORS, DYNAMICS, EXTRA_LOSSES)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The three are known inside a test of this file."""
    before = [dict(registry) for registry in REGISTRIES]
    PRIORS.register("laplace", LaplacePrior)
    DYNAMICS.register("gru", GRU)
    EXTRA_LOSSES.register("latent_norm", ExtraLoss("total_predictive", latent_norm))
    yield
    for registry, names in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(names)


KIND, RECURRENCE, EXTRA = "world_model.prior_config.kind", "world_model.dynamics", "world_model.extra_losses"
OWN: list[dict[str, Any]] = [
    {KIND: "laplace"},
    {RECURRENCE: "gru"},
    {EXTRA: {"latent_norm": 0.01}},
    {KIND: "laplace", RECURRENCE: "gru", EXTRA: {"latent_norm": 0.01}},
]


@pytest.mark.parametrize("changes", OWN, ids=lambda changes: " ".join(key.split(".")[-1] for key in changes))
def test_parts_of_a_users_own_train_act_and_dream(changes: dict[str, Any]) -> None:
    agent, chunk = Agent(make_config("debug", "counting", changes), 1), make_chunk(2, 8)
    first = {name: value.detach().clone() for name, value in agent.model.named_parameters()}
    metrics = [agent.update(chunk) for _ in range(4)]
    for row in metrics:
        assert all(value.isfinite().all() for name, value in row.items() if name in terms(agent.model.loss_groups()))
        assert row["rgb_skipped"] == 0
    assert metrics[-1]["recon_loss"] < metrics[0]["recon_loss"]
    swapped = [name for name in first if name.startswith(("prior.", "dynamics."))]
    assert all(not torch.equal(first[name], agent.model.get_parameter(name)) for name in swapped)
    actions, _ = agent.predict(chunk.image[:, 0].numpy())
    assert actions.shape == (2, 1)


def test_the_recipes_kl_is_the_expected_log_ratio() -> None:
    """By a Monte Carlo estimate with 200,000 samples of q."""
    params = LaplaceParams(torch.tensor([0.5, -1.0]), torch.tensor([0.7, 2.0]))
    mean, std = torch.tensor([1.0, 0.0]), torch.tensor([0.4, 1.2])
    z = mean + std * torch.randn(200_000, 2, generator=rng())
    log_ratio = torch.distributions.Normal(mean, std).log_prob(z).sum(-1) - params.log_prob(z)
    assert params.kl(mean, std)[0].item() == pytest.approx(log_ratio.mean().item(), abs=0.02)
    drawn = params.sample((torch.randn(200_000, 2, generator=rng()),))
    torch.testing.assert_close(drawn.mean(0), params.mean, atol=0.04, rtol=0)
    torch.testing.assert_close(drawn.std(0), math.sqrt(2) * params.scale, atol=0.04, rtol=0)


def test_an_extra_loss_is_added_to_its_group_and_logged_under_its_name() -> None:
    chunk = make_chunk(2, 8)
    plain, extra = (
        Agent(make_config("debug", "counting", {EXTRA: weights}), 1).update(chunk)
        for weights in ({}, {"latent_norm": 0.01})
    )
    assert extra.keys() - plain.keys() == {"latent_norm"}
    assert extra["latent_norm"] > 0
    expected = plain["total_predictive"] + 0.01 * extra["latent_norm"]
    torch.testing.assert_close(extra["total_predictive"], expected)
    assert torch.equal(extra["total_elbo"], plain["total_elbo"])


def test_an_extra_loss_that_is_not_finite_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    EXTRA_LOSSES.register("broken", ExtraLoss("total_elbo", lambda output: latent_norm(output) * torch.nan))
    agent, notes = Agent(make_config("debug", "counting", {EXTRA: {"broken": 1.0}}), 1), []
    Guard(tmp_path, 10, notes.append).update(agent, make_chunk(2, 8))
    assert notes[0].startswith("update 1: skipped, not finite: broken; ")


def test_a_run_keeps_its_parts_in_its_config(tmp_path) -> None:  # type: ignore[no-untyped-def]
    short = {"env_frames": 60, "replay.prefill_frames": 40, "train.eval_every": 60, "train.video_frames": 0}
    config = make_config("debug", "counting", OWN[-1] | short | {"env.num_envs": 1, "threads": 1})
    trainer = Trainer(config, tmp_path, quiet=True)
    trainer.run()
    assert not trainer.has_failed
    assert trainer.agent.updates > 0
    saved = load_config(tmp_path / "config.yaml").world_model
    assert (saved.prior_config.kind, saved.dynamics, saved.extra_losses) == ("laplace", "gru", {"latent_norm": 0.01})
    parsed = parse_overrides(["--world_model.extra_losses", "{latent_norm: 0.01}"], "debug", "counting")
    assert parsed.world_model.extra_losses == {"latent_norm": 0.01}


# ---------------------------------------------------------------- losses and groups


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("given", [(), ("rewards",), ("rewards", "is_terminal")])
def test_the_losses_of_a_model_are_the_terms_of_its_groups(switch: str, given: tuple[str, ...]) -> None:
    """And weigh as the seed's aggregator weighs the dict view."""
    model, sample = make_model(**SWITCHES[switch]).eval(), make_sample()
    targets = {name: getattr(sample, name) for name in given}
    output = model(*sample[:3], **targets, generator=rng())
    groups = model.loss_groups(**{name: name in given for name in ("rewards", "is_terminal")})
    assert set(terms(groups)) == set(output.losses)
    assert all(loss.shape == (2, 6) for loss in output.losses.values())
    exact, tasks = LossAggregator(groups).compute_losses(output.losses, beta=0.7)
    lenient, same_tasks = LossAggregator().compute_losses(output.as_dict(), beta=0.7)
    assert exact == lenient
    assert tasks == same_tasks
    assert not {"vq_perplexity", "effective_components", "kl_bound"} & set(output.losses)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prior_config": {"kind": "gausian"}}, "unknown prior 'gausian'; the nearest known one is 'gaussian'"),
        ({"dynamics": "lstm"}, "unknown dynamics 'lstm'; the nearest known one is 'orthogonal_lstm'"),
        ({"extra_losses": {"latent_nrm": 1.0}}, "unknown loss 'latent_nrm'; the nearest known one is 'latent_norm'"),
        ({"extra_losses": {"kl_z": 1.0}}, "extra_losses: got 'kl_z', a loss of the model, expected a name of its own"),
        ({"extra_losses": {"lost": 1.0}}, "loss 'lost': unknown group 'total_predict'; the nearest known one is "
                                          "'total_predictive'"),
        ({"extra_losses": {"latent_norm": "much"}}, "extra_losses: got a dict, expected a mapping of plain values"),
        ({"dynamics": "function"}, "dynamics 'function': got a function, expected a torch.nn.Module"),
    ],
)  # fmt: skip
def test_bad_names_are_one_line(changes: dict[str, Any], line: str) -> None:
    EXTRA_LOSSES.register("lost", ExtraLoss("total_predict", latent_norm))
    EXTRA_LOSSES.register("kl_z", ExtraLoss("total_elbo", latent_norm))
    DYNAMICS.register("function", lambda config: latent_norm)
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        make_model(**changes)


def test_an_extra_loss_of_another_shape_is_one_line() -> None:
    EXTRA_LOSSES.register("mean", ExtraLoss("total_elbo", lambda output: latent_norm(output).mean()))
    model = make_model(extra_losses={"mean": 1.0})
    with pytest.raises(ValueError, match=r"^loss 'mean': got shape \(\), expected \[B, T\] = \(2, 6\)$"):
        model(*make_sample(), generator=rng())


def test_a_registry_has_each_name_once() -> None:
    registry: Registry[int] = Registry("number")
    with pytest.raises(ValueError, match=r"^unknown number 'one'; none is registered$"):
        registry["one"]
    assert registry.register("one", 1) == registry["one"] == 1
    with pytest.raises(ValueError, match=r"^number 'one': got a second one, expected a name that is not taken$"):
        registry.register("one", 2)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (f"--{KIND}=gausian", "unknown prior 'gausian'; the nearest known one is 'gaussian'"),
        (f"--{EXTRA}={{latent_nrm: 1}}", "unknown loss 'latent_nrm'; the nearest known one is 'latent_norm'"),
    ],
)
def test_the_command_ends_with_status_2_before_anything_is_written(setting, line, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    logdir = tmp_path / "run"
    assert run_agent.main(["train", "--preset=debug", "--task=counting", f"--logdir={logdir}", setting]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [f"run_agent.py: error: {line}"]
    assert not logdir.exists()


def test_the_groups_of_the_default_model_are_all_there() -> None:
    extended = {"vector_dim": 2, "encoder_config": {"motion_dim": 8}, "overshoot": 3, "slow_config": {"every": 2}}
    assert make_model(**extended).loss_groups() == GROUPS
    optional = {"vector_recon", "motion_nll", "overshoot_kl", "overshoot_nll", "slow_kl"}
    assert set(terms(GROUPS)) - set(terms(make_model().loss_groups())) == optional
