"""From the ticks of a Stable-Baselines3 VecEnv, which resets at once, to rows of replay and updates that are due."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agent.agent import Agent
from agent.frames import SIZE, to_images
from agent.sb3_envs import Actions
from agent.schedule import Ratio
from envs import Step
from replay import Chunk, ReplayBuffer, check_budget, row_bytes


class Rollout:
    """Chooses the actions of N environments, keeps every frame as a row, and says how many updates are due.

    A tick is `act`, the VecEnv's step, then `keep`. VecEnvs hand the last frame of an episode over beside the first one
    of the next; here it is a row of its own, so an episode of L decisions is L + 1 rows.

    Raises:
        ReplayBudgetError: the replay buffer does not fit into memory.
    """

    def __init__(self, agent: Agent, actions: Actions, num_envs: int) -> None:
        settings = agent.config.replay
        self._agent, self._actions, self._num_envs = agent, actions, num_envs
        row = row_bytes((SIZE, SIZE, 3), actions.dim)
        limit = None if settings.capacity_gb is None else int(settings.capacity_gb * 2**30)
        needed = settings.capacity_steps * row
        check_budget(
            needed if limit is None else min(needed, limit), None, None, "replay.capacity_steps", unit_bytes=row
        )
        self.replay = ReplayBuffer(
            settings.capacity_steps,
            limit,
            action_dim=actions.dim,
            num_envs=num_envs,
            seed=agent.config.seed,
            pin_memory=agent.device.type == "cuda",
        )
        self._ratio = Ratio(agent.config.train.train_ratio / (settings.batch_size * settings.batch_length))
        self._prefill = -(-settings.prefill_frames // agent.config.env.action_repeat)  # agent_steps
        self._random = np.random.default_rng(agent.config.seed)
        self._agent_steps = 0
        self._memory = agent.initial_state(num_envs)
        self.restart()

    def restart(self) -> None:
        """The environments begin anew: episodes that were under way end here, cut off."""
        self.replay.finish_partial()
        self.is_stepping = False  # between `act` and `keep`: left so where the step was interrupted
        self._starts, self._rewards = np.ones(self._num_envs, bool), np.zeros(self._num_envs, np.float32)

    def act(self, observations: Any) -> NDArray[Any]:
        """Actions [N, ...] in the environment's space for its observations: random ones before the first update."""
        images, _ = to_images(observations)
        if self._agent.updates == 0:
            actions = self._actions.random(self._random, self._num_envs)
        else:
            actions, self._memory = self._agent.act(images, self._starts, self._memory, "collect")
        none = np.zeros(self._num_envs, bool)
        self.replay.add(Step(images, self._rewards, self._starts, none, none, actions))
        self.is_stepping = True
        return self._actions.to_env(actions)

    def keep(self, rewards: NDArray[Any], dones: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """What the step brought: rewards wait for their frames, which are here where an episode has ended."""
        dones, rewards = np.array(dones, bool), np.array(rewards, np.float32)
        ended = np.flatnonzero(dones)
        if len(ended):
            images, _ = to_images(np.stack([infos[i]["terminal_observation"] for i in ended]))
            cut = np.array([infos[i].get("TimeLimit.truncated", False) for i in ended])
            flags = np.zeros(len(ended), bool), np.ones(len(ended), bool), ~cut
            actions = np.zeros((len(ended), self._actions.dim), np.float32)
            self.replay.add(Step(images, rewards[ended], *flags, actions), ended.tolist())
        self._starts, self._rewards = dones, np.where(dones, np.float32(0), rewards)
        self._agent_steps += self._num_envs
        self.is_stepping = False

    def due(self) -> int:
        """Updates that have become due; none before the prefill and the first episodes that fill a chunk."""
        if self._agent_steps < self._prefill or not self.replay.can_sample(self._agent.config.replay.batch_length):
            self._ratio.skip(self._agent_steps)
            return 0
        return self._ratio(self._agent_steps)

    def sample(self) -> Chunk:
        """A chunk for one update."""
        settings = self._agent.config.replay
        return self.replay.sample(settings.batch_size, settings.batch_length)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch uses `count` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_callback(callback: object) -> None:
    """ValueError unless Stable-Baselines3's `learn` would take it: a callback, a list of them, a function, or None."""
    if isinstance(callback, list):
        is_known = all(isinstance(part, BaseCallback) for part in callback)
    else:
        is_known = callback is None or isinstance(callback, BaseCallback) or callable(callback)
    if not is_known:
        raise ValueError(
            f"callback: got {callback!r}, expected a callback of stable_baselines3, a list of them, or a function"
        )
