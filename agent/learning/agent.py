"""The agent: acting on frames, learning from chunks, saving and loading."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from agent.config.settings import Config, PlannerConfig
from agent.learning.actor_critic import ActorCritic
from agent.learning.behavior_learner import BehaviorLearner, ReplayTargets
from agent.learning.compiling import Compiled
from agent.learning.errors import NotFinite
from agent.learning.exploration import EXPLORATIONS
from agent.learning.frames import shift_chunks, to_frames, to_observation
from agent.learning.model_learner import ModelLearner
from agent.learning.planner import MPPI, PLANNERS
from agent.learning.weight_average import WeightAverage
from envs.wording import one_line
from replay import Chunk
from world_model import DPGMMVariationalRecurrentAutoencoder, ranks
from world_model.settings import from_mapping, unknown_key
from world_model.state import Memory, State

Mode = Literal["collect", "sample", "deterministic"]
ANNEALED = 0.1  # learning rates at the end of a run, with `optimizer.anneal`, as a share of those before


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is cuda if available, else cpu. ValueError if unknown or missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: got {name!r}, expected 'auto', 'cpu' or 'cuda'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {name!r}, but torch finds no GPU; use --device cpu")
    return device


def _average_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Average an optimizer's gradients over the ranks that share the batch, before its step."""
    ranks.average_gradients(weight for group in optimizer.param_groups for weight in group["params"])


class Agent:
    """World model, actor-critic and their learners on one device, with their own random generators.

    Actions are vectors in [-1, 1]^A or, with `is_discrete`, the one-hot vectors of A actions.
    """

    def __init__(self, config: Config, action_dim: int, device: str | None = None, is_discrete: bool = False) -> None:
        self.config, self.action_dim, self.is_discrete = config, action_dim, is_discrete
        self.device = choose_device(device if device is not None else config.device)
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(config.seed)
            settings = vars(config.world_model) | {"action_dim": action_dim, "image_size": config.env.size}
            self.model = DPGMMVariationalRecurrentAutoencoder(**settings).to(self.device)
            features = self.model.config.feature_dim
            self.actor_critic = ActorCritic(features, action_dim, config.behavior, is_discrete).to(self.device)
            explore = EXPLORATIONS[config.behavior.exploration]
            self.exploration = explore(config.behavior, features, action_dim, is_discrete).to(self.device)
            if self.exploration.optimizer is not None:  # it steps by itself
                self.exploration.optimizer.register_step_pre_hook(_average_gradients)
        self.model_learner = ModelLearner(self.model, config.losses, config.optimizer, self.autocast)
        self.behavior_learner = BehaviorLearner(
            self.model, self.actor_critic, config.behavior, config.optimizer, self.autocast, self.exploration
        )
        self.planner: MPPI | None = None
        self.plan_with(config.behavior.planner)
        self.average = WeightAverage(dict(self.named_weights()), config.optimizer.average_decay)
        self.updates = 0
        self.progress = 0.0  # share of the run that is over, set by who runs it; `optimizer.anneal` follows it
        self.generators = {name: Generator(self.device) for name in ("act", "learn")}
        self.seed_generators(config.seed)

    def seed_generators(self, seed: int) -> None:
        """Seed what acting and learning draw; the weights stay as they are."""
        seeds = np.random.SeedSequence(seed).generate_state(len(self.generators))
        for generator, own in zip(self.generators.values(), seeds, strict=True):
            generator.manual_seed(int(own))

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters of world model, actor and critic."""
        return sum(parameter.numel() for _, parameter in self.named_weights())

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trainable parameters of world model, actor and critic."""
        for place, module in (("model", self.model), ("actor_critic", self.actor_critic)):
            for name, parameter in module.named_parameters(prefix=place):
                if parameter.requires_grad:
                    yield name, parameter

    def autocast(self) -> torch.autocast:
        """Return the context for forward passes: matrix products and convolutions in the run's `precision`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    # ---------------------------------------------------------------- acting

    @torch.no_grad()
    def initial_state(self, num_envs: int) -> Memory:
        """Return the memory of `num_envs` environments before their first frame."""
        memory = self.model.initial(num_envs)
        if self.planner is None:
            return memory
        return memory._replace(plan=(self.planner.initial(num_envs, memory.hidden),))

    @torch.no_grad()
    def act(
        self,
        images: np.ndarray,
        is_first: np.ndarray,
        state: Memory,
        mode: Mode,
        vectors: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Memory]:
        """Choose actions: images uint8 [N, 64, 64, 3], is_first bool [N] -> float32 [N, A] in [-1, 1], next memory.

        vectors: float32 [N, V], beside the images of a task that has them.
        "deterministic" takes the latent's mean and the likeliest action, "sample" draws both, "collect" also applies
        `behavior.exploration` to the drawn action, all by the average of the weights with `optimizer.average_collects`.
        NotFinite if the actions are not finite.
        """
        generator = self.generators["act"]
        frames = to_frames(torch.from_numpy(images).to(self.device))
        first = torch.from_numpy(is_first).to(self.device)
        beside = None if vectors is None else torch.from_numpy(vectors).to(self.device)
        plays_average = mode == "collect" and self.config.optimizer.average_collects
        with self.average.swapped() if plays_average else nullcontext(), self.autocast():
            is_drawn = mode != "deterministic"
            belief, memory = self.model.observe_step(state, frames, first, generator, is_drawn, beside)
            action, plan = self._decide(belief, self._plan_before(memory, first), mode, generator)
            memory = self.model.remember(memory, belief, action)
        chosen = action.cpu().numpy()
        if not np.isfinite(chosen).all():
            raise NotFinite("the policy's actions are not finite")
        return chosen, memory._replace(plan=() if plan is None else (plan,))

    def choose(self, state: State, mode: Mode, generator: Generator | None = None) -> Tensor:
        """Choose actions [N, A] in [-1, 1] for beliefs [N, ...], observed or dreamed; modes as in `act`."""
        return self._decide(state, None, mode, generator)[0]

    def _decide(
        self, state: State, before: Tensor | None, mode: Mode, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Choose actions for beliefs; with a planner from the plan before, if any, and return the new plan, too."""
        policy, plan = self.actor_critic.actor(state.features), None
        if self.planner is not None:
            before = self.planner.initial(len(state.latent), state.latent) if before is None else before
            found = self.planner(state, before, sample=mode != "deterministic", generator=generator)
            action, plan = found.action, found.actions
        else:
            action = policy.mode if mode == "deterministic" else policy.sample(generator)[1]
        if mode == "collect":
            action = self.exploration.act(policy, action, generator)
        return action.clamp(-1, 1), plan

    def _plan_before(self, memory: Memory, is_first: Tensor) -> Tensor | None:
        """Return the last plan [N, H, A], in new episodes one that begins; None if there is none."""
        if self.planner is None or not memory.plan:
            return None
        fresh = self.planner.initial(len(is_first), memory.hidden)
        return torch.where(is_first[:, None, None], fresh, memory.plan[0])

    def plan_with(self, name: str, **settings: Any) -> None:
        """Act by the planner of this name from now on, or by the policy alone ("none").

        settings: fields of `PlannerConfig` in place of the run's. ValueError for unknown names and impossible values.
        """
        if name not in PLANNERS:
            raise ValueError(unknown_key(name, list(PLANNERS), "planner"))
        make, config = PLANNERS[name], self.config
        self.planner = None
        if make is not None:
            chosen = from_mapping(PlannerConfig, asdict(config.planner) | settings, "planner.")
            self.planner = make(self.model, self.actor_critic, chosen, config.behavior.gamma)

    def predict(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        state: Memory | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Memory]:
        """Choose actions as Stable-Baselines3's recurrent `predict` does.

        observation: uint8 frames [N, H, W, 3] or [N, 3, H, W], or a single frame without N; a dict of these and of
        vectors [N, ...] where the agent's task has both, as its environments give it. episode_start [N] marks
        environments that were just reset, whose memory is cleared (None: all if state is None, else none). Return
        actions [N, A] in [-1, 1] (or [A]) and the state for the next call. ValueError for other shapes or dtypes, or
        for a state of another number of environments.
        """
        seen = to_observation(observation, self.config.env.size, self.config.world_model.vector_dim)
        images, vectors, is_single = seen
        if episode_start is None:
            episode_start = np.full(len(images), state is None)
        starts = np.asarray(episode_start, bool).reshape(-1)
        if len(starts) != len(images):
            raise ValueError(f"episode_start: got {len(starts)} flags, expected {len(images)}")
        memory = self.initial_state(len(images)) if state is None else state
        if len(memory.hidden) != len(images):
            raise ValueError(f"state: got one of {len(memory.hidden)} environments, expected {len(images)}")
        mode: Mode = "deterministic" if deterministic else "sample"
        actions, memory = self.act(images, starts, memory, mode, vectors)
        return actions[0] if is_single else actions, memory

    # ---------------------------------------------------------------- learning

    def update(self, chunk: Chunk, behavior: bool = True) -> dict[str, Tensor]:
        """Take one gradient step of the world model on a chunk; actor and critic take theirs once in `behavior.every`.

        The chunk's first `replay.burn_in` rows are not learned from, and its frames are shifted by `replay.shift`.
        Without `behavior` only the world model learns. Metrics stay tensors on the device.
        """
        self._set_learning_rates()
        chunk = chunk.to(self.device)
        generator = self.generators["learn"]
        if self.config.replay.shift:
            chunk = chunk._replace(image=shift_chunks(chunk.image, self.config.replay.shift, generator))
        frames = to_frames(chunk.image)
        frames, chunk, memory = self._burn_in(frames, chunk)
        output, metrics = self.model_learner.update(
            frames,
            chunk.action,
            chunk.is_first,
            chunk.reward,
            chunk.is_terminal,
            generator,
            self.updates,
            monitor=(self.updates + 1) % self.config.train.log_every == 0,
            start=memory,
            vectors=chunk.vector,
        )
        if behavior and self.updates % self.config.behavior.every == 0:
            states = output.observed.states
            start, root_continue = self.dream_starts(states, chunk.is_terminal)
            played = ReplayTargets(states.features.detach(), chunk.reward, chunk.is_first, chunk.is_terminal)
            metrics |= self.behavior_learner.update(start, root_continue, generator, played, self.updates)
            metrics |= self.exploration.learn(played.features, chunk.action, chunk.is_first)
        self.updates += 1
        self.average.update(self.updates)
        return metrics

    def _burn_in(self, frames: Tensor, chunk: Chunk) -> tuple[Tensor, Chunk, Memory | None]:
        """Infer the memory after the rows of the burn-in; return the frames and rows after them, and the memory."""
        rows = self.config.replay.burn_in
        if rows == 0:
            return frames, chunk, None
        before = chunk.map(lambda field: field[:, :rows])
        self.model.train()
        with self.autocast():
            given = frames[:, :rows], before.action, before.is_first
            memory = self.model.warm_up(*given, self.generators["learn"], before.vector)
        return frames[:, rows:], chunk.map(lambda field: field[:, rows:]), memory

    def compile(self) -> None:
        """Compile the two loops over time for the shapes of the next update; if that fails they run eagerly."""
        self.model.scan = Compiled(self.model.scan, "scan over a chunk")  # type: ignore[assignment]
        self.behavior_learner.roll = Compiled(self.behavior_learner.roll, "dream")  # type: ignore[assignment]

    def dream_starts(self, states: State, is_terminal: Tensor) -> tuple[State, Tensor]:
        """Return a random part [N, ...] of the posterior states [B, T, ...], detached, and its continue flags [N]."""
        start = states.map(lambda x: x.detach().flatten(0, 1))
        root_continue = 1.0 - is_terminal.flatten().float()
        count = round(len(root_continue) * self.config.behavior.start_fraction)
        if count < len(root_continue):
            order = torch.randperm(len(root_continue), generator=self.generators["learn"], device=self.device)
            chosen = order[: max(1, count)]
            start, root_continue = start.map(lambda x: x[chosen]), root_continue[chosen]
        return start, root_continue

    def _set_learning_rates(self) -> None:
        """Set the learning rates, which rise linearly over the first updates and may fall over the last of a run."""
        optimizer = self.config.optimizer
        factor = optimizer.lr_factor * min(1.0, (self.updates + 1) / max(1, optimizer.warmup_updates))
        if (over := min(1.0, self.progress) - (1 - optimizer.anneal)) > 0:
            factor *= 1 - (1 - ANNEALED) * over / optimizer.anneal
        rates = (optimizer.actor_lr, optimizer.critic_lr)
        for group, rate in zip(self.behavior_learner.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        groups = self.model_learner.optimizer.param_groups  # a second one with Muon
        for group, rate in zip(groups, (optimizer.model_lr, optimizer.matrix_lr), strict=False):
            group["lr"] = rate * factor

    # ---------------------------------------------------------------- saving

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs: weights, optimizers, RGB, generators, update counter."""
        return {
            "action_dim": self.action_dim,
            "is_discrete": self.is_discrete,
            "updates": self.updates,
            "model": self.model.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
            "model_optimizer": self.model_learner.optimizer.state_dict(),
            "behavior_optimizer": self.behavior_learner.optimizer.state_dict(),
            "rgb": self.model_learner.rgb.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            **self._optional_state(),
        }

    def _optional_state(self) -> dict[str, dict[str, Any]]:
        """Return the state that only some runs have: an average of the weights, a learned exploration method."""
        found: dict[str, dict[str, Any]] = {"average": self.average.state_dict()}
        found["exploration"] = self.exploration.state_dict()
        if self.exploration.optimizer is not None:
            found["exploration_optimizer"] = self.exploration.optimizer.state_dict()
        return {name: state for name, state in found.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; random states are restored only on the kind of device that they were saved on.

        ValueError if the weights belong to another model.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.actor_critic.load_state_dict(state["actor_critic"])
            self.exploration.load_state_dict(state.get("exploration", {}))
        except RuntimeError as error:  # torch lists every key; the first ones are enough
            found = one_line(error, 200)
            raise ValueError(f"checkpoint: its weights do not fit this version's model ({found} ...)") from None
        self.updates = state["updates"]
        self.model_learner.optimizer.load_state_dict(state["model_optimizer"])
        self.behavior_learner.optimizer.load_state_dict(state["behavior_optimizer"])
        self.average.load_state_dict(state.get("average", {}))
        if self.exploration.optimizer is not None:
            self.exploration.optimizer.load_state_dict(state["exploration_optimizer"])
        self.model_learner.rgb.load_state_dict(state["rgb"])
        for name, saved in state["generators"].items():
            if saved.shape == self.generators[name].get_state().shape:
                self.generators[name].set_state(saved.cpu())
