"""Acting, training and dreaming are one transition: closure, and an episode played equals the episode stored."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.world_model.small_model import EXTENDED, make_model, make_sample, rng, tensors
from world_model.generative_prior import PriorParams
from world_model.state import State, stack_states

WINDOW = 4  # of the toy model's Perceiver


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_lstm_layers": 2}, {"context_mode": "none"}, {"perceiver_config": {"enabled": False}}, EXTENDED],
)
def test_a_dream_of_posterior_latents_is_the_training_pass_bit_for_bit(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sample = make_model(**changes), make_sample(steps=6)
    seen = model.observe(sample.observations, sample.actions, generator=rng())
    queues = {part.shape[-1]: iter(part[:, 1:].unbind(1)) for part in (seen.states.latent, *seen.states.slow[:1])}
    monkeypatch.setattr(PriorParams, "sample", lambda params, *_: next(queues[params.means.shape[-1]]))
    actions = iter(sample.actions[:, :-1].unbind(1))
    start = seen.states.map(lambda x: x[:, 0].contiguous())
    dream, _ = model.imagine(start, lambda _: next(actions), horizon=5)
    dreamed, trained = tensors(dream), tensors(seen.states)
    assert dreamed.keys() == trained.keys()
    for name, tensor in dreamed.items():
        assert torch.equal(tensor, trained[name]), name


@torch.no_grad()
def test_acting_equals_training_with_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled latents, resets at different times, three windows of the Perceiver."""
    steps = 3 * WINDOW
    model, sample = make_model().eval(), make_sample(batch=3, steps=steps)
    is_first = torch.zeros(3, steps, dtype=torch.bool)
    is_first[1, 5] = is_first[2, [1, 2, 7]] = True
    noise = torch.randn(steps, 3, 6, generator=rng(4))
    queue = iter(noise.unbind(0))
    given = lambda shape, *_: noise if len(shape) == 3 else next(queue)  # noqa: E731
    monkeypatch.setattr("world_model.model.standard_normal", given)
    trained = model.forward_sequence(sample.observations, sample.actions, is_first)["states"]
    is_first[:, 0] = True  # acting has no chunk whose beginning would say so
    played = play(model, sample.observations, sample.actions, is_first)
    torch.testing.assert_close(tensors(played), tensors(trained), rtol=1e-4, atol=1e-4)


def test_h_is_the_next_carry_except_across_a_reset() -> None:
    model, sample = make_model(), make_sample(steps=5, resets=(3,))
    outputs = model.forward_sequence(*sample, rng())
    equal = (outputs["h_t"][:, :-1] == outputs["carry"][:, 1:]).all(-1)
    assert equal.tolist() == 2 * [[True, True, False, True]]
    fresh = model.initial(1).hidden[:, -1]
    for t in (0, 3):
        assert torch.equal(outputs["carry"][:, t], fresh.expand(2, -1))


def play(model: Any, frames: Tensor, actions: Tensor, is_first: Tensor) -> State:
    """The states of acting frame by frame on stored frames and actions, [N, T, ...]."""
    memory, states = model.initial(len(frames)), []
    for t in range(frames.shape[1]):
        state, memory = model.observe_step(memory, frames[:, t], is_first[:, t])
        memory = model.remember(memory, state, actions[:, t])
        states.append(state)
    return stack_states(states, 1)


@pytest.mark.parametrize("changes", [{}, {"context_mode": "teacher"}, {"context_mode": "none"}, EXTENDED])
@torch.no_grad()
def test_acting_equals_training(changes: dict[str, Any]) -> None:
    """Three environments that reset at different times, longer than the Perceiver's window."""
    steps = 3 * WINDOW
    model = make_model(**changes, n_lstm_layers=2).eval()
    model.dynamics.initial_hidden.normal_(std=0.3, generator=rng())  # a reset must be seen
    sample = make_sample(batch=3, steps=steps)
    is_first = torch.zeros(3, steps, dtype=torch.bool)
    for env, times in enumerate([(0,), (0, 5), (0, 2, 3, 9)]):
        is_first[env, list(times)] = True
    played = play(model, sample.observations, sample.actions, is_first)
    trained = model.forward_sequence(sample.observations, sample.actions, is_first, sample=False)["states"]
    torch.testing.assert_close(tensors(played), tensors(trained), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_environments_do_not_see_each_other() -> None:
    model, sample = make_model().eval(), make_sample(batch=2, steps=5, resets=(0,))
    both = play(model, *sample[:3])
    alone = play(model, *(x[:1] for x in sample[:3]))
    torch.testing.assert_close(both.features[:1], alone.features, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sampled_acting_draws_from_the_posterior() -> None:
    model = make_model().eval()
    frame = make_sample(batch=1, steps=1).observations[:, 0]
    frames, first = frame.expand(4000, -1, -1, -1), torch.ones(4000, dtype=torch.bool)
    mean, _ = model.observe_step(model.initial(1), frame, first[:1])
    seen = model.observe(frame[:, None], torch.zeros(1, 1, 2), sample=False)
    drawn, _ = model.observe_step(model.initial(4000), frames, first, rng(), sample=True)
    torch.testing.assert_close(mean.latent, seen.mean[:, 0], rtol=1e-4, atol=1e-5)
    # standard errors of mean and std of 4000 draws with std about 1 are 0.016 and 0.011: four of them
    torch.testing.assert_close(drawn.latent.mean(0), seen.mean[0, 0], rtol=0, atol=0.065)
    torch.testing.assert_close(drawn.latent.std(0), seen.std[0, 0], rtol=0, atol=0.045)


@pytest.mark.slow
@torch.no_grad()
def test_without_recurrence_noise_a_sample_reaches_what_is_drawn_and_not_the_recurrence() -> None:
    model = make_model(recurrence_noise=0.0).eval()
    sample = make_sample(batch=1, steps=2)
    many = sample._replace(**{name: x.expand(4000, *x.shape[1:]) for name, x in sample._asdict().items()})
    seen = model.observe(*sample[:3])
    outputs = model.forward_sequence(*many, rng())
    for name, x in tensors(outputs["states"]).items():
        torch.testing.assert_close(x, tensors(seen.states)[name].expand_as(x), rtol=1e-4, atol=1e-4, msg=name)
    # standard errors of mean and std of 4000 draws with std about 1 are 0.016 and 0.011: four of them
    drawn = outputs["z_posterior"]
    torch.testing.assert_close(drawn.mean(0), seen.mean[0], rtol=0, atol=0.065)
    torch.testing.assert_close(drawn.std(0), seen.std[0], rtol=0, atol=0.045)
    assert (outputs["reconstructions"].std(0) > 1e-4).any()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_a_dream_draws_components_and_a_share_of_their_std(share: float) -> None:
    model = make_model(dream_noise=share).eval()
    states = model.observe(*make_sample(batch=1)[:3], sample=False).states
    start = states.map(lambda x: x[:, -1].expand(4000, *x.shape[2:]))
    action = torch.zeros(4000, 2)
    prior = model.prior(model.advance(start, action)[0][:1, -1])
    weights, means = prior.log_weights[0].exp()[:, None], prior.means[0]
    noise = model.prior.draw_noise(start.latent.shape, start.latent, rng())
    latent = model.imagine_step(start, action, noise).latent
    mean = (weights * means).sum(0)
    spread = (weights * ((means - mean).square() + (share * prior.stds[0]).square())).sum(0).sqrt()
    torch.testing.assert_close(latent.mean(0), mean, rtol=0, atol=0.08)  # four standard errors, std about 1
    torch.testing.assert_close(latent.std(0), spread, rtol=0, atol=0.06)
    if share == 0.0:
        distance = torch.cdist(latent, means).min(1).values
        assert distance.max() < 1e-3  # every one is some component's mean


@torch.no_grad()
def test_a_dream_touches_no_pixels() -> None:
    model, sample = make_model().eval(), make_sample()
    states = model.observe(*sample[:3], rng()).states.map(lambda x: x[:, -1])
    called = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name.split(".")[0]))
    dream, actions = model.imagine(states, lambda state: state.features[:, :2].tanh(), 4, rng())
    assert set(called) == {"context_predictor", "dynamics", "prior"}
    assert dream.latent.shape == (2, 5, 6)
    assert actions.shape == (2, 4, 2)
    model.decode(dream)
    assert set(called) == {"context_predictor", "dynamics", "prior", "attention", "decoder"}


def test_a_dream_is_drawn_under_the_maps_that_its_prior_expects() -> None:
    model, sample = make_model().eval(), make_sample()
    outputs = model.forward_sequence(*sample, rng())
    maps = model.prior_maps(outputs["states"])
    torch.testing.assert_close(maps, outputs["prior_attention_maps"])
    torch.testing.assert_close(model.decode(outputs["states"]), model.decode(outputs["states"], maps))
    uniform = torch.full_like(maps, 1 / 64)
    assert not torch.allclose(model.decode(outputs["states"]), model.decode(outputs["states"], uniform), atol=1e-4)


@torch.no_grad()
def test_a_rollout_is_the_dream_of_its_actions_and_what_the_heads_say_of_it() -> None:
    model, sample = make_model().eval(), make_sample()
    start = model.observe(*sample[:3], rng()).states.map(lambda x: x[:, -1])
    actions = torch.rand(len(start.latent), 3, 2, generator=rng())
    queue = iter(actions.unbind(1))
    dream, _ = model.imagine(start, lambda _: next(queue), 3, rng())
    found = model.rollout(start, actions, rng(), value=lambda features: features.sum(-1))
    reached = dream.map(lambda x: x[:, 1:])
    for name, ours in tensors(found.states).items():
        assert torch.equal(ours, tensors(reached)[name])
    assert torch.equal(found.rewards, model.reward_head.predict(reached.features))
    assert torch.equal(found.continues, model.continue_head.predict(reached.features))
    assert found.values is not None
    assert torch.equal(found.values, reached.features.sum(-1))
    assert found.frames is not None
    assert torch.equal(found.frames, model.decode(reached))
    bare = model.rollout(start, actions, rng(), frames=False)
    assert bare.values is None
    assert bare.frames is None
    for wrong in (actions[:, 0], actions[:1], actions[..., :1]):
        with pytest.raises(ValueError, match=r"^actions: got shape .*, expected .*'H', 2\)$"):
            model.rollout(start, wrong)


def test_dreams_carry_gradients_to_actions() -> None:
    model, sample = make_model(), make_sample()
    start = model.observe(*sample[:3], rng()).states.map(lambda x: x[:, -1].detach())
    actions = torch.zeros(3, 2, 2, requires_grad=True)
    queue = iter(actions.unbind(0))
    dream, _ = model.imagine(start, lambda _: next(queue), 3, rng())
    (gradient,) = torch.autograd.grad(dream.latent[:, -1].square().sum(), actions)
    assert (gradient.abs().amax((1, 2)) > 0).all()
