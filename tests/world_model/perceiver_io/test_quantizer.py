"""Vector quantiser: gradients, codebook life cycle, perplexity; figures by hand or by a loop over codes."""

import copy

import numpy as np
import pytest
import torch

from world_model.perceiver_io import VectorQuantizer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(3, 20, 4, generator=generator(1))


def make(codebook_size: int = 8, code_dim: int = 4, **options: float) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(codebook_size, code_dim, **options)  # type: ignore[arg-type]


def state_of(quantizer: VectorQuantizer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(quantizer.state_dict())


def test_nearest_code_by_explicit_distances(vectors: torch.Tensor) -> None:
    quantizer = make()
    found = quantizer(vectors)
    distances = np.square(vectors.double().numpy()[..., None, :] - quantizer.codebook.double().numpy()).sum(-1)
    np.testing.assert_array_equal(found.indices.numpy(), distances.argmin(-1))
    np.testing.assert_allclose(found.commitment.numpy(), distances.min(-1), rtol=1e-5)
    assert torch.equal(found.values, quantizer.codebook[found.indices])


def test_lowest_index_wins_a_tie(vectors: torch.Tensor) -> None:
    quantizer = make()
    quantizer.codebook[5] = quantizer.codebook[2]
    quantizer.codebook[7] = quantizer.codebook[2]
    found = quantizer(quantizer.codebook[[5, 2, 7]])
    assert found.indices.tolist() == [2, 2, 2]
    assert not (quantizer(vectors).indices == 5).any()


def test_untrained_codes_have_mean_square_one() -> None:
    square = make(64, 16).codebook.square().mean(-1)
    torch.testing.assert_close(square, torch.ones(64), rtol=1e-4, atol=0)


def test_straight_through_gradient_is_the_identity(vectors: torch.Tensor) -> None:
    vectors.requires_grad_()
    upstream = torch.randn(vectors.shape, generator=generator(2))
    make()(vectors).values.backward(upstream)
    assert vectors.grad is not None
    assert torch.equal(vectors.grad, upstream)


def test_commitment_gradient_reaches_the_encoder_only(vectors: torch.Tensor) -> None:
    quantizer = make()
    quantizer.codebook.requires_grad_()
    vectors.requires_grad_()
    found = quantizer(vectors)
    found.commitment.sum().backward()
    expected = 2 * (vectors - quantizer.codebook[found.indices]).detach()
    torch.testing.assert_close(vectors.grad, expected, rtol=1e-6, atol=1e-6)
    assert quantizer.codebook.grad is None


def test_forward_changes_nothing(vectors: torch.Tensor) -> None:
    quantizer = make()
    before = state_of(quantizer)
    first, second = quantizer(vectors), quantizer(vectors)
    assert torch.equal(first.values, second.values)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_eval_mode_never_changes_the_codebook(vectors: torch.Tensor) -> None:
    quantizer = make().eval()
    before = state_of(quantizer)
    quantizer.initialise(vectors, generator())
    quantizer.update(vectors, quantizer(vectors).indices, generator())
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_first_training_call_takes_own_vectors_once(vectors: torch.Tensor) -> None:
    quantizer = make()
    quantizer.initialise(vectors, generator(3))
    codes = quantizer.codebook.clone()
    is_own = (codes[:, None] == vectors.reshape(1, -1, 4)).all(-1)
    assert is_own.any(1).all()
    assert len(codes.unique(dim=0)) == 8
    quantizer.initialise(torch.zeros_like(vectors), generator(4))
    assert torch.equal(quantizer.codebook, codes)


def test_initial_picks_follow_the_generator(vectors: torch.Tensor) -> None:
    picks = []
    for seed in (0, 0, 1):
        quantizer = make()
        quantizer.initialise(vectors, generator(seed))
        picks.append(quantizer.codebook)
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[0], picks[2])


def test_fewer_vectors_than_codes() -> None:
    quantizer = make()
    few = torch.randn(3, 4, generator=generator(5))
    quantizer.initialise(few, generator())
    assert torch.equal(quantizer.codebook.unique(dim=0), few.unique(dim=0))


def test_moving_average_by_hand() -> None:
    quantizer = make(codebook_size=2, code_dim=1, decay=0.75, epsilon=0.5)
    quantizer.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    quantizer.sums.copy_(quantizer.codebook)
    vectors = torch.tensor([[1.0], [2.0], [9.0]])
    quantizer.update(vectors, quantizer(vectors).indices, generator())
    # counts: .75 + .25 * [2, 1] = [1.25, 1]; sums: .75 * [0, 10] + .25 * [3, 9] = [.75, 9.75]
    # smoothed: ([1.25, 1] + .5) / (2.25 + 1) * 2.25 = [63/52, 54/52]
    torch.testing.assert_close(quantizer.counts, torch.tensor([1.25, 1.0]))
    torch.testing.assert_close(quantizer.sums, torch.tensor([[0.75], [9.75]]))
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[0.75 * 52 / 63], [9.75 * 52 / 54]]))


def test_codes_converge_to_the_means_of_their_vectors() -> None:
    quantizer = make(codebook_size=2, code_dim=2, decay=0.5)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 1.0]])
    quantizer.codebook.copy_(centres + 1.0)
    vectors = torch.cat([centres + 0.1, centres - 0.1])
    for _ in range(40):
        quantizer.update(vectors, quantizer(vectors).indices, generator())
    torch.testing.assert_close(quantizer.codebook, centres, rtol=0, atol=1e-3)


def test_dead_codes_are_revived_few_at_a_time() -> None:
    quantizer = make(codebook_size=40, code_dim=2, decay=0.5, patience=10, max_revived_share=0.05)
    quantizer.codebook.copy_(torch.cat([torch.tensor([[1.0, 1.0]]), torch.full((39, 2), 50.0)]))
    vectors = 1.0 + 0.1 * torch.randn(200, 2, generator=generator(6))
    is_near = []
    for _ in range(40):
        quantizer.update(vectors, torch.zeros(200, dtype=torch.int64), generator(7))
        is_near.append(int(((quantizer.codebook - 1.0).abs() < 0.6).all(-1).sum()))
    steps = np.diff(is_near)
    # the count of an idle code halves each update: below .03 / 40 of the total after a few, revived 10 later
    first = int(np.flatnonzero(steps)[0])
    assert 10 <= first + 1 <= 14
    assert steps.max() == 2  # 5 % of 40
    assert is_near[first + 19] >= 39  # 39 dead codes at 2 per update
    assert quantizer.counts.isfinite().all()


def test_revived_code_gets_the_mean_count_and_a_recent_vector() -> None:
    quantizer = make(codebook_size=2, code_dim=1, decay=0.0, patience=1, max_revived_share=0.5)
    vectors = torch.tensor([[4.0], [4.0]])
    quantizer.update(vectors, torch.zeros(2, dtype=torch.int64), generator())
    torch.testing.assert_close(quantizer.counts, torch.tensor([2.0, 1.0]))
    assert quantizer.idle_updates.tolist() == [0, 0]
    torch.testing.assert_close(quantizer.codebook, torch.full((2, 1), 4.0), rtol=0, atol=0.01)  # 10 std of the noise
    torch.testing.assert_close(quantizer.sums[1], quantizer.counts[1] * quantizer.codebook[1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_batch_leaves_the_codebook_alone(vectors: torch.Tensor, bad: float) -> None:
    broken = vectors.clone()
    broken[1, :, 3] = bad  # so many that some would be among the first codes
    quantizer = make(decay=0.5, patience=1)
    quantizer.initialise(broken, generator())
    assert not quantizer.is_initialised
    for _ in range(4):  # codes die in between
        before = state_of(quantizer)
        quantizer.update(broken, quantizer(broken).indices, generator())
        for name, value in quantizer.state_dict().items():
            assert torch.equal(value, before[name]), name
        quantizer.initialise(vectors, generator(3))
        quantizer.update(vectors, torch.zeros(3, 20, dtype=torch.int64), generator())
        assert not torch.equal(quantizer.codebook, before["codebook"])


@pytest.mark.parametrize("num_used", [1, 3, 8])
def test_perplexity_of_a_uniform_use_is_the_number_of_codes(num_used: int) -> None:
    quantizer = make()
    indices = torch.arange(num_used).repeat(5).view(5, num_used)
    torch.testing.assert_close(quantizer.perplexity(indices), torch.tensor(float(num_used)))


def test_running_perplexity() -> None:
    quantizer = make()
    torch.testing.assert_close(quantizer.ema_perplexity(), torch.tensor(8.0))
    quantizer.counts.copy_(torch.tensor([1.0, 1.0, 2.0, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(quantizer.ema_perplexity(), torch.tensor(2.0**1.5))  # entropy 1.5 bits


def test_distances_stay_in_float32_under_autocast(vectors: torch.Tensor) -> None:
    quantizer = make(64)
    expected = quantizer(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(vectors)
    assert found.values.dtype == torch.float32
    assert torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 0}, "codebook_size"),
        ({"code_dim": -1}, "code_dim: got -1"),
        ({"decay": 1.0}, "decay: got 1.0"),
        ({"max_revived_share": 1.5}, "max_revived_share: got 1.5"),
    ],
)
def test_bad_settings(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**options)  # type: ignore[arg-type]


def test_vectors_of_another_width_are_named() -> None:
    with pytest.raises(ValueError, match=r"^vectors: got shape \(3, 20, 8\), expected \[\.\.\., 4\]$"):
        make()(torch.zeros(3, 20, 8))
