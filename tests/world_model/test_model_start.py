"""What an untrained model is: its initial weights and first predictions."""

import math

import pytest
import torch
from torch import nn

from tests.world_model.small_model import make_model, make_sample, rng
from world_model.config import EncoderConfig
from world_model.encoder_decoder import Posterior
from world_model.temporal_dynamics import ContextPredictor, OrthogonalLSTM


def test_without_orthogonal_the_recurrent_blocks_are_xavier() -> None:
    torch.manual_seed(0)
    lstm = OrthogonalLSTM(10, 64, orthogonal=False)
    assert isinstance(lstm.cells[0], nn.LSTMCell)
    for block in lstm.cells[0].weight_hh.detach().chunk(4):
        assert (block @ block.T - torch.eye(64)).abs().max() > 0.1
        assert block.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.1)  # 4096 draws
        assert block.abs().max() <= math.sqrt(6 / 128)


def test_input_blocks_are_xavier_gate_by_gate_and_reset_states_zero() -> None:
    torch.manual_seed(0)
    lstm = OrthogonalLSTM(100, 60)
    assert isinstance(lstm.cells[0], nn.LSTMCell)
    for block in lstm.cells[0].weight_ih.detach().chunk(4):
        assert block.std().item() == pytest.approx(math.sqrt(2 / 160), rel=0.05)  # 6000 draws
    for state in lstm.initial(3):
        assert state.shape == (3, 1, 60)
        assert not state.any()


@pytest.mark.parametrize("name", ["input_dim", "hidden_dim", "num_layers"])
@pytest.mark.parametrize("size", [0, -2])
def test_lstm_sizes_are_positive(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got {size}, expected at least 1$"):
        OrthogonalLSTM(**({"input_dim": 4, "hidden_dim": 8} | {name: size}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["carry_dim", "latent_dim", "context_dim", "hidden_dim"])
def test_context_predictor_sizes_are_positive(name: str) -> None:
    sizes = {"carry_dim": 8, "latent_dim": 2, "context_dim": 4, "hidden_dim": 8} | {name: 0}
    with pytest.raises(ValueError, match=rf"^{name}: got 0, expected at least 1$"):
        ContextPredictor(**sizes)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3, 2, 4)])
def test_lstm_inputs_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    lstm = OrthogonalLSTM(4, 8)
    with pytest.raises(ValueError, match=r"^inputs: got shape \(.*\), expected \(3, 4\)$"):
        lstm(torch.zeros(shape), *lstm.initial(3))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_recurrent_blocks_start_orthogonal_and_the_forget_gate_open(num_layers: int) -> None:
    torch.manual_seed(0)
    lstm = OrthogonalLSTM(10, 16, num_layers)
    for cell in lstm.cells:
        assert isinstance(cell, nn.LSTMCell)
        for block in cell.weight_hh.detach().chunk(4):
            torch.testing.assert_close(block @ block.T, torch.eye(16), rtol=0, atol=1e-5)
        gates = (cell.bias_ih + cell.bias_hh).detach().view(4, 16)  # i, f, g, o
        assert torch.equal(gates, torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None].expand(4, 16))


def test_the_lstm_is_torch_s_own_stacked_lstm() -> None:
    torch.manual_seed(0)
    ours, theirs = OrthogonalLSTM(5, 8, num_layers=2), nn.LSTM(5, 8, num_layers=2, batch_first=True)
    for layer, cell in enumerate(ours.cells):
        for name, value in cell.named_parameters():
            getattr(theirs, f"{name}_l{layer}").data.copy_(value.data)
    inputs = torch.randn(3, 6, 5)
    hidden, cell_state = ours.initial(3)
    tops = []
    for t in range(6):
        hidden, cell_state = ours(inputs[:, t], hidden, cell_state)
        tops.append(hidden[:, -1])
    expected, (last_hidden, last_cell) = theirs(inputs)
    torch.testing.assert_close(torch.stack(tops, 1), expected)
    torch.testing.assert_close(hidden, last_hidden.transpose(0, 1))
    torch.testing.assert_close(cell_state, last_cell.transpose(0, 1))


def test_posterior_starts_informative_and_its_std_stays_in_range() -> None:
    torch.manual_seed(0)
    posterior = Posterior(8, 4, 16, 6, EncoderConfig(embedding_dim=32, hidden_dim=32, min_std=0.05, max_std=2.0))
    projected = posterior.project(torch.randn(50, 8, 8, 8), torch.randn(50, 4))
    mean, std = posterior(projected, torch.randn(50, 16))
    assert std.mean().item() == pytest.approx(0.05 + 1.95 / (1 + math.exp(2)), rel=0.15)
    assert mean.std() > 0.25  # at the scale of the noise: the decoder has something to read from the first update on
    posterior.out.weight.data.mul_(1e4)
    _, std = posterior(projected, torch.randn(50, 16))
    assert std.min().item() == pytest.approx(0.05, abs=1e-4)
    assert std.max().item() == pytest.approx(2.0, abs=1e-4)


def test_a_posterior_without_carry_ignores_it() -> None:
    sample = make_sample(steps=3)
    model = make_model(encoder_config={"uses_carry": False}).eval()
    before = model.observe(*sample[:2], sample=False)
    after = model.observe(sample.observations, -sample.actions, sample=False)
    assert torch.equal(before.mean, after.mean)
    assert not torch.equal(before.states.carry, after.states.carry)


def test_first_rewards_are_exactly_zero_and_ends_even() -> None:
    model, sample = make_model(), make_sample()
    outputs = model.forward_sequence(*sample, rng())
    features = outputs["states"].features
    assert torch.equal(model.reward_head.predict(features), torch.zeros(2, 6))
    assert torch.equal(model.continue_head.predict(features), torch.full((2, 6), 0.5))
    # uniform two-hot over 255 bins: -ln(1/255) whatever the reward
    torch.testing.assert_close(outputs["reward_nll"], torch.full((2, 6), 5.541264), rtol=1e-5, atol=0)
    torch.testing.assert_close(outputs["continue_nll"], torch.full((2, 6), 0.693147), rtol=1e-5, atol=0)


def test_the_mixture_starts_uniform() -> None:
    model, sample = make_model(), make_sample()
    outputs = model.forward_sequence(*sample, rng())
    fresh = outputs["pi"][:, 0]  # carry 0: biases alone
    torch.testing.assert_close(fresh, torch.full_like(fresh, 0.25), rtol=0, atol=0.03)


def test_concentration_and_prior_samples_of_the_uniform_mixture() -> None:
    """Biases alone give a = 1, b = 3, 2, 1: S = 1/b, so E[α] = (1 + 3) / (1 + 1/3 + 1/2 + 1) = 24/17."""
    model, sample = make_model().eval(), make_sample(batch=20, steps=20)
    with torch.no_grad():
        model.prior.head.weight.zero_()
        model.prior.component_means[:, 0] = torch.tensor([-9.0, -3.0, 3.0, 9.0])
        model.prior.std_offsets.fill_(-100.0)  # σ = 0.1
        outputs = model.forward_sequence(*sample, rng())
    torch.testing.assert_close(outputs["alpha"], torch.full((20, 20), 24 / 17), rtol=1e-5, atol=0)
    torch.testing.assert_close(outputs["effective_components"], outputs["cluster_entropy"][0, 0].exp())
    drawn = outputs["z_prior"][..., 0].flatten()
    counts = [int((drawn - place).abs().lt(0.6).sum()) for place in (-9, -3, 3, 9)]
    assert sum(counts) == 400  # on a component, never between two
    assert all(abs(count - 100) < 4 * math.sqrt(400 * 3 / 16) for count in counts)
    nearest = (drawn[:, None] - torch.tensor([-9.0, -3.0, 3.0, 9.0])).abs().amin(1)
    assert nearest.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.15)


def test_one_seed_one_model() -> None:
    first, again, other = (make_model(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["trunk.layers.0.weight"], other["trunk.layers.0.weight"])
