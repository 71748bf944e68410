"""Whole episodes as rows for data sets, and players with noise."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray

from agent.evaluation.episodes import EpisodeResult, Player, episode_rows
from agent.learning.agent import Mode
from envs.pixels import Observation
from envs.spaces import one_hot
from replay import Episode
from replay.rows import join


class NoisyPlayer:
    """A player whose actions are disturbed: Gaussian noise of a standard deviation, or random choices of that share.

    Continuous actions stay in [-1, 1]. ValueError for a negative noise, or for discrete actions one above 1.
    """

    def __init__(self, player: Player, noise: float, is_discrete: bool, seed: int) -> None:
        if not 0 <= noise <= (1 if is_discrete else np.inf):
            expected = "a share from 0 to 1" if is_discrete else "a standard deviation of at least 0"
            raise ValueError(f"noise: got {noise}, expected {expected}")
        self._player, self._noise, self._is_discrete = player, noise, is_discrete
        self._random = np.random.default_rng([seed, 2])

    def initial_state(self, num_envs: int) -> Any:
        """Return the player's memory before the first frame."""
        return self._player.initial_state(num_envs)

    def act(
        self,
        images: NDArray[np.uint8],
        is_first: NDArray[np.bool_],
        state: Any,
        mode: Mode,
        vectors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """Return the player's actions [N, A], disturbed, and its next memory. It remembers the actions of its own."""
        beside = () if vectors is None else (vectors,)
        action, state = self._player.act(images, is_first, state, mode, *beside)
        if self._is_discrete:
            is_random = self._random.random(len(action)) < self._noise
            choice = one_hot(self._random.integers(action.shape[1], size=len(action)), action.shape[1])
            return np.where(is_random[:, None], choice, action), state
        noisy = action + self._noise * self._random.standard_normal(action.shape)
        return np.clip(noisy, -1, 1).astype(np.float32), state


def played_episodes(
    player: Player, env: Env[Observation, NDArray[np.float32]], seeds: Sequence[int], mode: Mode
) -> Iterator[tuple[Episode, EpisodeResult]]:
    """Play an episode from each seed; yield its rows [L, ...] and its result. EnvironmentFailure if the env raises."""
    for seed in seeds:
        rows, result = [], EpisodeResult(0.0, 0)
        for row, reached in episode_rows(player, env, seed, mode):
            rows.append(row)
            result = reached
        yield join(rows, np.concatenate), result
