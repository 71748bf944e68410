"""Bad input is one line that names the argument, what came and what was expected."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.world_model.small_model import make_model, make_sample
from world_model import DPGMMVariationalRecurrentAutoencoder
from world_model.config import WorldModelConfig
from world_model.settings import from_mapping

BAD_CHUNKS: list[tuple[str, Any]] = [
    ("observations", torch.rand(2, 6, 3, 32, 32)),
    ("observations", torch.rand(2, 3, 64, 64)),
    ("observations", torch.rand(2, 6, 64, 64, 3)),
    ("observations", torch.zeros(2, 6, 3, 64, 64, dtype=torch.uint8)),
    ("observations", torch.rand(2, 6, 3, 64, 64, dtype=torch.float64)),
    ("actions", torch.rand(2, 6, 3)),
    ("actions", torch.rand(2, 5, 2)),
    ("actions", torch.zeros(2, 6, 2, dtype=torch.long)),
    ("is_first", torch.zeros(6, dtype=torch.bool)),
    ("is_first", torch.zeros(2, 6, 1, dtype=torch.bool)),
    ("is_first", torch.zeros(2, 6, dtype=torch.uint8)),  # as acting: a flag is a bool
    ("is_first", torch.zeros(2, 6, dtype=torch.long)),
    ("is_first", torch.zeros(2, 6)),
    ("rewards", torch.rand(2, 5)),
    ("rewards", torch.zeros(2, 6, dtype=torch.bool)),
    ("is_terminal", torch.rand(2, 6, 1)),
]


@pytest.mark.parametrize(("name", "value"), BAD_CHUNKS)
def test_chunks(name: str, value: torch.Tensor) -> None:
    model, sample = make_model(), make_sample()
    with pytest.raises(ValueError, match=rf"^{name}: got .*, expected .*$"):
        model.forward_sequence(*sample._replace(**{name: value}))


@pytest.mark.parametrize("rewards", [torch.float64, torch.int64])
@pytest.mark.parametrize("is_terminal", [torch.float32, torch.uint8])
def test_targets_may_have_any_dtype_of_numbers(rewards: torch.dtype, is_terminal: torch.dtype) -> None:
    model, sample = make_model(head_config={"num_bins": 5}), make_sample()
    with torch.no_grad():
        model.reward_head.net[-1].bias.copy_(torch.arange(5.0))  # else every reward costs the same
    whole = sample._replace(rewards=sample.rewards.gt(0).float())
    other = whole._replace(rewards=whole.rewards.to(rewards), is_terminal=whole.is_terminal.to(is_terminal))
    model.eval()
    before, after = model.forward_sequence(*whole, sample=False), model.forward_sequence(*other, sample=False)
    for name in ("reward_nll", "continue_nll"):
        torch.testing.assert_close(before[name], after[name].float(), msg=name)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0)])
def test_empty_chunks(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^observations: got shape"):
        make_model().forward_sequence(torch.rand(*shape, 3, 64, 64), torch.rand(*shape, 2))


@pytest.mark.parametrize(
    ("name", "frames", "is_first"),
    [
        ("frames", torch.rand(3, 3, 64, 64), torch.zeros(3, dtype=torch.bool)),
        ("frames", torch.rand(2, 64, 64, 3), torch.zeros(2, dtype=torch.bool)),
        ("frames", torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, dtype=torch.bool)),
        ("is_first", torch.rand(2, 3, 64, 64), torch.zeros(1, dtype=torch.bool)),
        ("is_first", torch.rand(2, 3, 64, 64), torch.zeros(2)),
    ],
)
@pytest.mark.parametrize("enabled", [True, False])
def test_acting(name: str, frames: torch.Tensor, is_first: torch.Tensor, enabled: bool) -> None:
    model = make_model(perceiver_config={"enabled": enabled})
    with pytest.raises(ValueError, match=rf"^{name}: got .*, expected .*$"):
        model.observe_step(model.initial(2), frames, is_first)


def test_an_action_of_another_width_is_refused_in_a_dream() -> None:
    model, sample = make_model(), make_sample()
    start = model.observe(*sample[:2]).states.map(lambda x: x[:, 0])
    for action in (torch.zeros(2, 3), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match=r"^\w+: got shape .*, expected \(2, .*\)$"):
            model.imagine(start, lambda _, action=action: action, 1)


def test_a_dream_has_a_length() -> None:
    model, sample = make_model(), make_sample()
    start = model.observe(*sample[:2]).states.map(lambda x: x[:, 0])
    with pytest.raises(ValueError, match=r"^horizon: got 0, expected at least 1$"):
        model.imagine(start, lambda state: state.features[:, :2], 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden_dim": 8}, "unknown key 'hiden_dim'; the nearest known one is 'hidden_dim'"),
        (
            {"attention_config": {"slots": 3}},
            "unknown key 'attention_config.slots'; the nearest known one is 'attention_config.num_slots'",
        ),
        ({"perceiver_config": 3}, "perceiver_config: got 3, expected a mapping of settings"),
        ({"max_components": 0}, "max_components: got 0, expected a positive integer"),
        ({"latent_dim": -1}, "latent_dim: got -1, expected a positive integer"),
        ({"hidden_dim": "512"}, "hidden_dim: got '512', expected a positive integer"),
        ({"hidden_dim": 512.5}, "hidden_dim: got 512.5, expected a positive integer"),
        ({"n_lstm_layers": True}, "n_lstm_layers: got True, expected a positive integer"),
        ({"head_config": {"num_layers": 0}}, "head_config.num_layers: got 0, expected a positive integer"),
        ({"head_config": {"num_bins": 1}}, "head_config.num_bins: got 1, expected at least 2"),
        ({"use_orthogonal": 1}, "use_orthogonal: got 1, expected true or false"),
        ({"context_mode": "open"}, "context_mode: got 'open', expected one of 'closed', 'teacher', 'none'"),
        ({"rgb_config": {"scale": "mean"}}, "rgb_config.scale: got 'mean', expected one of 'sum', 'unit', 'per_task'"),
        ({"rgb_config": {"mu": "1e-1"}}, "rgb_config.mu: got '1e-1', expected a finite number"),
        ({"rgb_config": {"mu": math.nan}}, "rgb_config.mu: got nan, expected a finite number"),
        ({"recurrence_noise": None}, "recurrence_noise: got None, expected a finite number"),
        (
            {"encoder_config": {"base_channels": 12}},
            "encoder_config.base_channels: got 12, expected a positive multiple",
        ),
        ({"encoder_config": {"min_std": 2.0}}, "encoder_config.min_std, max_std: got"),
        ({"encoder_config": {"gram_fraction": 1.5}}, "encoder_config.gram_fraction: got 1.5, expected"),
        ({"decoder_config": {"train_fraction": 0.0}}, "decoder_config.train_fraction: got 0.0, expected"),
        ({"prior_config": {"free_nats": -1.0}}, "prior_config.free_nats: got -1.0, expected 0 or more"),
        ({"prior_config": {"unimix": 1.0}}, "unimix: got 1.0, expected"),
        ({"perceiver_config": {"num_heads": 3}}, "width: got 256, expected a multiple of 2 * num_heads = 6"),
        ({"encoder_config": {"stem_stride": 3}}, "encoder_config.stem_stride: got 3, expected one of 2, 4, 8"),
        ({"attention_config": {"prior_share": 2.0}}, "attention_config.prior_share: got 2.0, expected"),
        ({"attention_config": {"train_fraction": 0.0}}, "attention_config.train_fraction: got 0.0, expected (0, 1]"),
        (
            {"attention_config": {"prior_share": 0.5, "train_fraction": 0.5}},
            "attention_config.prior_share, train_fraction: got (0.5, 0.5), expected one of them at 1",
        ),
        ({"attention_config": {"map_mix": 0.0}}, "map_mix: got 0.0, expected a number in (0, 1)"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is compared below)
        DPGMMVariationalRecurrentAutoencoder(**settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_whole_floats_and_numpy_numbers_are_settings() -> None:
    config = make_model(hidden_dim=16.0, latent_dim=np.int64(4), prior_config={"unimix": np.float32(0.5)}).config
    assert [repr(value) for value in (config.hidden_dim, config.latent_dim, config.prior_config.unimix)] == [
        "16",
        "4",
        "0.5",
    ]


def test_an_empty_block_is_its_defaults() -> None:
    assert from_mapping(WorldModelConfig, {"attention_config": {}, "rgb_config": None}) == WorldModelConfig()


def test_rgb_settings_are_kept_for_the_learner() -> None:
    config = make_model(use_rgb=False, rgb_config={"mu": 0.5, "lambd": 2}).config
    assert (config.use_rgb, config.rgb_config.mu, config.rgb_config.lambd) == (False, 0.5, 2)


def test_the_package_imports_without_torch_until_the_model_is_asked_for() -> None:
    import subprocess
    import sys

    code = "import sys, world_model, world_model.config; assert 'torch' not in sys.modules; world_model.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "has no attribute 'nothing'" in done.stderr
