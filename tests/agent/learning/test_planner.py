"""The planner on problems whose solution is known, its search, its memory between decisions, and its settings."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import make_config
from agent.config.settings import PlannerConfig
from agent.learning.agent import Agent
from agent.learning.planner import MPPI
from agent.learning.policies import Categorical, Gaussian
from envs.reaching import ReachingEnv
from tests.agent.learning.small_agent import make_agent
from world_model.state import State, stack_states

GAMMA = 0.95


class Known:
    """A known problem in the form of a world model: the latent is [s, last action], the reward a function of it."""

    def __init__(
        self, action_dim: int, step: Callable[[Tensor, Tensor], Tensor], reward: Callable[..., Tensor]
    ) -> None:
        self.config = SimpleNamespace(action_dim=action_dim)
        self.step, self.action_dim = step, action_dim
        self.reward_head = SimpleNamespace(predict=lambda features: reward(*self.split(features)))
        self.continue_head = SimpleNamespace(predict=lambda features: torch.ones(features.shape[:-1]))

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state s [..., n] and the last action [..., A] of features [..., 1 + n + A]."""
        return features[..., 1 : -self.action_dim], features[..., -self.action_dim :]

    def state(self, s: Tensor) -> State:
        """Return the belief at s [N, n]."""
        zero = torch.zeros(len(s), 1, 1)
        return State(zero, zero, torch.cat([s, torch.zeros(len(s), self.action_dim)], -1), zero[:, 0])

    @staticmethod
    def draw_noise(shape: tuple[int, ...], generator: Any = None) -> tuple[Tensor, ...]:
        """Return noise that changes nothing."""
        return (torch.zeros(shape),)

    def imagine(self, state: State, policy: Any, horizon: int, noise: Any = None) -> tuple[State, Tensor]:
        """Dream as a world model does."""
        states, actions = [state], []
        for _ in range(horizon):
            actions.append(policy(states[-1]))
            s = self.step(self.split(states[-1].features)[0], actions[-1])
            states.append(state._replace(latent=torch.cat([s, actions[-1]], -1)))
        return stack_states(states, 1), torch.stack(actions, 1)


def planner_of(model: Known, policy: Any, value: Callable[[Tensor], Tensor], **settings: Any) -> MPPI:
    """A planner with the true model, a policy (distribution of features) and a value of s."""
    critic = SimpleNamespace(value=lambda features: value(model.split(features)[0]))

    def actor(features: Tensor) -> Any:
        return policy(features)

    actor.kind = Categorical if isinstance(policy(torch.zeros(1, 2)), Categorical) else Gaussian  # type: ignore
    networks = SimpleNamespace(actor=actor, critic=critic, slow_critic=critic)
    return MPPI(model, networks, PlannerConfig(**settings), GAMMA)  # type: ignore[arg-type]


def riccati(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The discounted problem's value -s' P s, with the cost of a state counted on arrival, and its gain K: u = -K s."""
    p = np.zeros_like(q)
    for _ in range(2000):
        total = q + GAMMA * p
        k = np.linalg.solve(r + b.T @ total @ b, b.T @ total @ a)
        p = k.T @ r @ k + (a - b @ k).T @ total @ (a - b @ k)
    return p, k


def clueless(features: Tensor) -> Gaussian:
    """A policy that knows nothing."""
    return Gaussian(torch.zeros(len(features), 1), torch.full((len(features), 1), 0.5))


def test_a_linear_quadratic_problem_is_solved_within_5_percent():
    a, b = np.array([[1.0, 0.2], [0.0, 1.0]]), np.array([[0.0], [0.2]])
    q, r = np.diag([1.0, 0.1]), np.array([[0.1]])
    p, gain = riccati(a, b, q, r)
    matrices = [torch.tensor(x, dtype=torch.float32) for x in (a, b, q, r, p)]
    a_, b_, q_, r_, p_ = matrices

    def reward(s: Tensor, action: Tensor) -> Tensor:
        return -((s @ q_) * s).sum(-1) - ((action @ r_) * action).sum(-1)

    model = Known(1, lambda s, action: s @ a_.T + action @ b_.T, reward)
    planner = planner_of(model, clueless, lambda s: -((s @ p_) * s).sum(-1))
    starts = torch.tensor([[0.3, 0.0], [-0.2, 0.2], [0.1, -0.3], [0.25, 0.1]])
    generator = torch.Generator().manual_seed(0)

    def play(choose: Callable[[Tensor], Tensor]) -> Tensor:
        s, total = starts, torch.zeros(len(starts))
        for t in range(60):
            action = choose(s)
            s = model.step(s, action)
            total += GAMMA**t * reward(s, action)
        return total

    plan = planner.initial(len(starts), starts)

    def by_planning(s: Tensor) -> Tensor:
        nonlocal plan
        found = planner(model.state(s), plan, generator=generator)
        plan = found.actions
        return found.action

    optimum = play(lambda s: -s @ torch.tensor(gain, dtype=torch.float32).T)
    torch.testing.assert_close(optimum, -((starts @ p_) * starts).sum(-1), rtol=0.02, atol=1e-4)  # P is what it says
    planned = play(by_planning)
    assert planned.sum() > 1.05 * optimum.sum()  # costs: at most 5 % more
    assert play(lambda s: torch.zeros(len(s), 1)).sum() < 3 * optimum.sum()  # there is something to gain


@pytest.mark.parametrize("axes", [1, 2])
def test_reaching_is_solved_within_5_percent_of_its_optimum(axes):
    """The true dynamics of `reaching`, played in the environment itself, beside its expert."""

    def step(s: Tensor, action: Tensor) -> Tensor:
        return torch.cat([(s[:, :axes] + 0.25 * action).clamp(-1, 1), s[:, axes:]], -1)

    def reward(s: Tensor, action: Tensor) -> Tensor:
        return (-(s[..., :axes] - s[..., axes:]).square().sum(-1) / 0.4**2).exp()

    def policy(features: Tensor) -> Gaussian:
        return Gaussian(torch.zeros(len(features), axes), torch.full((len(features), axes), 1.0))

    planner = planner_of(Known(axes, step, reward), policy, lambda s: torch.zeros(len(s)), horizon=8)
    generator, env = torch.Generator().manual_seed(0), ReachingEnv(axes=axes)

    def play(seed: int, is_expert: bool) -> float:
        env.reset(seed=seed)
        plan, total, is_over = planner.initial(1, torch.zeros(1)), 0.0, False
        while not is_over:
            where = torch.tensor([list(env.simulator_state().values())], dtype=torch.float32)
            plan_now = planner(planner.model.state(where), plan, generator=generator)
            plan, action = plan_now.actions, plan_now.action[0].numpy()
            _, gained, _, is_over, _ = env.step(env.expert_action() if is_expert else action)
            total += float(gained)
        return total

    seeds = range(5)
    assert sum(play(seed, False) for seed in seeds) > 0.95 * sum(play(seed, True) for seed in seeds)


def test_discrete_actions_find_the_only_good_sequence():
    """A lock: only the right action of four in each of four steps leads on; a wrong one ends it."""
    code = torch.tensor([2, 0, 3, 1])

    def step(s: Tensor, action: Tensor) -> Tensor:
        place = s[:, 0].long()
        is_right = action.argmax(-1) == code[place.clamp(0, 3)]
        return torch.where(is_right & (place >= 0) & (place < 4), place + 1, torch.full_like(place, -1))[
            :, None
        ].float()

    model = Known(4, step, lambda s, action: (s[..., 0] == 4).float() + 0.1 * s[..., 0].clamp_min(0))
    planner = planner_of(
        model,
        lambda features: Categorical(torch.full((len(features), 4), 0.25).log()),
        lambda s: 0 * s[..., 0],
        horizon=4,
        candidates=128,
        elites=16,
        iterations=6,
    )
    generator = torch.Generator().manual_seed(0)
    found = planner(model.state(torch.zeros(8, 1)), planner.initial(8, torch.zeros(())), generator=generator)
    assert (found.action.argmax(-1) == code[0]).all()
    assert (found.actions.argmax(-1) == code).all(1).float().mean() >= 0.75
    torch.testing.assert_close(found.actions.sum(-1), torch.ones(8, 4))


def test_the_policys_mode_is_a_candidate():
    """With everything else hopeless, the plan is what the policy would have done."""
    model = Known(1, lambda s, action: s, lambda s, action: -100.0 * ((action[..., 0] - 0.437).abs() > 1e-4).float())
    exact = lambda features: Gaussian(torch.full((len(features), 1), 0.437), torch.full((len(features), 1), 0.5))  # noqa: E731
    planner = planner_of(model, exact, lambda s: 0 * s[..., 0], elites=1)
    found = planner(model.state(torch.zeros(3, 1)), planner.initial(3, torch.zeros(())), generator=torch.Generator())
    torch.testing.assert_close(found.action, torch.full((3, 1), 0.437))


def test_all_candidates_dream_under_the_same_components_and_latents():
    agent = make_agent()
    agent.plan_with("mppi")
    planner, starts = agent.planner, torch.ones(2, dtype=torch.bool)
    noise = agent.model.draw_noise((3, 2))
    belief, _ = agent.model.observe_step(agent.model.initial(2), torch.rand(2, 3, 64, 64), starts)
    planner.config = PlannerConfig(horizon=3)
    actions = torch.full((2, 5, 3, agent.action_dim), 0.3)
    dreamt, scored = [], planner._scored
    planner._scored = lambda states, *rest: dreamt.append(states) or scored(states, *rest)
    scores = planner._dream(belief, actions, noise).scores
    [states] = [states.map(lambda x: x.unflatten(0, (2, 5))) for states in dreamt]
    torch.testing.assert_close(scores, scores[:, :1].expand_as(scores))  # rows of a product may round differently
    torch.testing.assert_close(states.latent, states.latent[:, :1].expand_as(states.latent))


def frames(seed: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_a_plan_goes_on_from_the_last_one_and_is_forgotten_at_a_reset():
    agent = make_agent(behavior__planner="mppi")
    memory = agent.initial_state(2)
    [plan] = memory.plan
    assert plan.eq(0).all()
    _, after = agent.act(frames(0), np.ones(2, bool), memory, "deterministic")
    [before] = after.plan
    assert not before.eq(0).all()
    seen = []
    planner = agent.planner
    agent.planner = lambda state, plan, **rest: seen.append(plan) or planner(state, plan, **rest)
    agent.planner.initial = planner.initial
    agent.act(frames(1), np.array([False, True]), after, "deterministic")
    assert torch.equal(seen[0][0], before[0])
    assert seen[0][1].eq(0).all()


def test_the_same_seed_makes_the_same_plan_and_none_of_the_policys():
    actions = []
    for planner in ("mppi", "mppi", "none"):
        agent = make_agent(behavior__planner=planner)
        agent.generators["act"].manual_seed(3)
        actions.append(agent.act(frames(0), np.ones(2, bool), agent.initial_state(2), "sample")[0])
    assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    assert np.abs(actions[0]).max() <= 1


def test_discrete_agents_plan_one_hot_actions():
    agent = Agent(make_config("debug", "counting", {"behavior.planner": "mppi"}), 3, is_discrete=True)
    for mode in ("deterministic", "sample", "collect"):
        action, memory = agent.act(frames(0), np.ones(2, bool), agent.initial_state(2), mode)
        assert set(np.unique(action)) <= {0.0, 1.0}
        assert (action.sum(-1) == 1).all()
        torch.testing.assert_close(memory.plan[0].sum(-1), torch.ones(2, agent.config.planner.horizon))


def test_a_planner_may_come_and_go():
    agent = make_agent()
    memory = copy.deepcopy(agent.initial_state(2))
    assert memory.plan == ()
    agent.plan_with("mppi")
    _, memory = agent.act(frames(0), np.ones(2, bool), memory, "deterministic")
    assert len(memory.plan) == 1
    agent.plan_with("none")
    assert agent.act(frames(0), np.zeros(2, bool), memory, "deterministic")[1].plan == ()
    with pytest.raises(ValueError, match=r"mpi.*nearest known one is 'mppi'"):
        agent.plan_with("mpi")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"horizon": 0}, "planner.horizon: got 0, expected a positive number"),
        ({"elites": 65}, "planner.elites, candidates: got (65, 64), expected at most as many elites as candidates"),
        ({"policy_share": 1.0}, "planner.policy_share, candidates: got 1.0 of 64, expected 1 of the actor"),
        ({"temperature": -1.0}, "planner.temperature: got -1.0, expected a positive number"),
    ],
)
def test_settings_that_cannot_be(settings, expected):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make_config("debug", overrides={f"planner.{key}": value for key, value in settings.items()})
    assert str(caught.value).startswith(expected)
