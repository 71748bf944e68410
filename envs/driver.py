"""Driver: runs environments with a policy and returns Steps, independent of agent and replay."""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from numpy.typing import NDArray

from envs.checks import checked_action, checked_count
from envs.pixels import IS_CUT, EpisodeStart, Observation, split
from envs.spaces import OneHot, one_hot, vector_dim_of
from envs.step import Step
from envs.wording import one_line, quote_error
from envs.workers import close_vector_env, lost_workers

Policy = Callable[[Step], NDArray[np.float32]]


class Remake(Protocol):
    """A function that makes the same environments again, each at its EpisodeStart."""

    def __call__(self, *, starts: Sequence[EpisodeStart]) -> VectorEnv: ...


logger = logging.getLogger(__name__)

_MAX_RESTARTS = 3  # restarts of environments without a completed episode in between


class EnvironmentFailure(RuntimeError):
    """Environments failed repeatedly, so that another restart would be useless."""


class Driver:
    """The loop of N environments in lockstep with a policy, one row per environment and tick.

    The canonical loop is

        with Driver(make_vector_env("cartpole_swingup", 4)) as driver:
            while ...:
                step = driver.tick(policy)      # Step [N, ...]
                replay.add(step)
                learn()                         # the environments step meanwhile

    Actions are sent at a tick's end and answers fetched at the start of the next one, so environments in worker
    processes run while the caller learns.

    With `remake`, an environment that raises, dies, hangs or returns a non-finite reward is made again: its episode is
    cut off (`cut` names it at the next tick), and the others continue where they are.

    Args:
        vector_env: pixel environments that reset on the step after an episode's end (NEXT_STEP).
        seed: reseeds the environments at the first tick; None keeps their own seeds.
        timeout: seconds after which a worker that has not answered counts as dead.
        remake: makes the same environments again, each at its EpisodeStart.
        state: a driver's `state_dict` to continue from; `vector_env` must have been made with its `episode_starts`.
        first_episode: number of the first episode of the environments.

    Raises:
        ValueError: environments of another kind, or a negative seed.
    """

    def __init__(
        self,
        vector_env: VectorEnv,
        seed: int | None = None,
        timeout: float = 300.0,
        remake: Remake | None = None,
        state: dict[str, Any] | None = None,
        first_episode: int = 0,
    ) -> None:
        mode = vector_env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise ValueError(f"vector_env: got autoreset mode {mode}, expected {AutoresetMode.NEXT_STEP}")
        space = vector_env.single_action_space
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise ValueError(f"vector_env: got actions {space}, expected a Box of one dimension")
        self.num_envs = vector_env.num_envs
        self.action_dim = space.shape[0]
        self.is_discrete = isinstance(space, OneHot)
        self.vector_dim = vector_dim_of(vector_env.single_observation_space)
        self.cut: tuple[int, ...] = ()  # environments whose episode before this row was cut off by a failure
        self.at_bound: tuple[int, ...] = ()  # environments whose episode ends with this row because of max_steps
        self.restarts = 0  # restarts of environments in total
        self._vector_env = vector_env
        self._workers = vector_env if isinstance(vector_env, AsyncVectorEnv) else None
        self._seed = checked_count("seed", seed, 0) if seed is not None else None
        self._timeout, self._remake = timeout, remake
        self._row: Step | None = None  # a row without its action
        self._sent: Step | None = None  # the last row, whose action has been sent
        self._episodes = [first_episode] * self.num_envs  # number of each one's current episode
        self._actions: list[list[NDArray[np.float32]]] = [[] for _ in range(self.num_envs)]  # of the current episodes
        self._tries = 0  # restarts since an episode ended
        self._is_broken = False  # whether the environments must be made again
        if state is not None:
            self._sent = Step(**{name: np.asarray(values) for name, values in state["row"].items()})
            self._episodes = list(state["episodes"])
            self._actions = [list(np.asarray(actions)) for actions in state["actions"]]
            self._begin_again()

    def tick(self, policy: Policy) -> Step:
        """Return the next row of every environment, with the actions that `policy` chose for it.

        Args:
            policy: gets the row with zeros as actions, returns actions [N, A]. They are clipped to [-1, 1], or replaced
                by the nearest one-hot vectors if actions are discrete, and set to zero where is_last; the returned Step
                holds what was executed and never changes.

        Raises:
            ValueError: actions of another shape or not finite; the row is kept, so the tick can be repeated.
            RuntimeError: a worker died or did not answer in time. An environment's own error is raised unchanged.
            EnvironmentFailure: with `remake`, environments still fail after several restarts.
        """
        if self._row is None:
            self.cut = ()
            self._row = self._receive()
        row = self._row
        action = checked_action(policy(row), (self.num_envs, self.action_dim))
        if self.is_discrete:
            action = one_hot(action.argmax(-1), self.action_dim)
        action[row.is_last] = 0.0
        for i, taken in enumerate(self._actions):
            if row.is_first[i]:
                taken.clear()
            taken.append(action[i])
        self._send(action)
        self._sent, self._row = row._replace(action=action), None
        return self._sent

    @property
    def is_at_start(self) -> bool:
        """Whether no tick has been completed yet."""
        return self._sent is None

    def state_dict(self) -> dict[str, Any]:
        """Return the last row [N, ...], and each environment's episode number and its actions [L, A] so far.

        ValueError before the first tick.
        """
        if self._sent is None or self._row is not None:
            raise ValueError("state_dict: got no completed tick, expected one before this call")
        return {
            "row": self._sent.fields(),
            "episodes": list(self._episodes),
            "actions": [np.stack(taken) for taken in self._actions],
        }

    # ---------------------------------------------------------------- to the environments and back

    def _send(self, action: NDArray[np.float32]) -> None:
        if self._workers is not None:
            try:
                self._workers.step_async(action)
            except (OSError, AttributeError) as error:  # gymnasium replaces a failed worker's pipe by None
                if self._remake is None:  # otherwise the next tick handles it
                    raise RuntimeError("an environment worker has died") from error

    def _receive(self) -> Step:
        while True:
            try:
                if self._is_broken:
                    self._restart()
                row = self._fetch()
            except (Exception, SystemExit) as error:  # an environment may call sys.exit
                if self._remake is None:
                    raise
                if self._sent is None:
                    raise EnvironmentFailure(
                        f"environments failed at their first reset: {quote_error(error)}"
                    ) from error
                self._cut_off(lost_workers(self._workers) or [0], one_line(error), error)
                continue
            if self._remake is not None and not np.isfinite(row.reward).all():
                self._cut_off(np.flatnonzero(~np.isfinite(row.reward)).tolist(), "a reward that is not finite")
                continue
            for i in np.flatnonzero(row.is_first):
                self._episodes[i] += self._sent is not None
            if row.is_last.any():
                self._tries = 0
            return row

    def _fetch(self) -> Step:
        """Return the row that follows the last actions, or the first one."""
        previous = self._sent
        infos: dict[str, Any] = {}
        try:
            if previous is None:
                seen, _ = self._vector_env.reset(seed=self._spread_seed())
                return self._as_step(seen, np.zeros(self.num_envs), np.ones(self.num_envs, bool), None)
            if self._workers is not None:
                seen, reward, terminal, truncated, infos = self._workers.step_wait(timeout=self._timeout)
            else:
                seen, reward, terminal, truncated, infos = self._vector_env.step(previous.action)
        except multiprocessing.TimeoutError as error:
            raise RuntimeError(f"an environment worker gave no answer in {self._timeout:g} s") from error
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("an environment worker has died") from error
        self.at_bound = tuple(np.flatnonzero(infos.get(IS_CUT, False)).tolist())
        return self._as_step(seen, reward, previous.is_last.copy(), terminal, truncated)

    def _cut_off(self, failed: list[int], reason: str, error: BaseException | None = None) -> None:
        """Cut off the episodes of the `failed` environments; EnvironmentFailure after too many restarts."""
        assert self._sent is not None
        self._tries += 1
        if self._tries > _MAX_RESTARTS:
            raise EnvironmentFailure(
                f"environment {failed[0]} failed after {_MAX_RESTARTS} restarts without an episode's end: {reason}"
            ) from error
        lost = [i for i in failed if not self._sent.is_last[i]]
        for i in failed:
            steps = len(self._actions[i])
            logger.warning("environment %d: %s; it restarts, its episode ends after %d steps", i, reason, steps)
        self.restarts += len(failed)
        self.cut = tuple(sorted({*self.cut, *lost}))
        is_last = self._sent.is_last.copy()
        is_last[lost] = True  # only in this copy; the returned row stays unchanged
        self._sent = self._sent._replace(is_last=is_last)
        self._is_broken = True

    def _restart(self) -> None:
        """Make all environments again: the failed ones at a new episode, the others where they are."""
        assert self._remake is not None
        assert self._sent is not None
        close_vector_env(self._vector_env)
        position = {"row": self._sent.fields(), "episodes": self._episodes, "actions": self._actions}
        self._vector_env = self._remake(starts=episode_starts(position))
        self._workers = self._vector_env if isinstance(self._vector_env, AsyncVectorEnv) else None
        self._begin_again()
        self._is_broken = False

    def _begin_again(self) -> None:
        """Bring new environments to the last row, and send its actions again."""
        assert self._sent is not None
        image, vector = split(self._vector_env.reset()[0])
        differs = (image != self._sent.image).any((1, 2, 3))
        if vector is not None:
            differs |= (vector != self._sent.vector).any(1)
        differs &= ~self._sent.is_last
        if differs.any():
            places = ", ".join(map(str, np.flatnonzero(differs)))
            logger.warning(
                "environment %s: its observation differs from the one before the stop (another machine?)", places
            )
        self._send(self._sent.action)

    def _as_step(
        self,
        observation: Observation,
        reward: NDArray[np.float64],
        is_first: NDArray[np.bool_],
        terminal: NDArray[np.bool_] | None,
        truncated: NDArray[np.bool_] | None = None,
    ) -> Step:
        none, (image, vector) = np.zeros(self.num_envs, bool), split(observation)
        terminal = terminal if terminal is not None else none
        return Step(
            image=image,
            reward=reward.astype(np.float32),
            is_first=is_first,
            is_last=terminal | (truncated if truncated is not None else none),
            is_terminal=terminal.astype(bool),
            action=np.zeros((self.num_envs, self.action_dim), np.float32),
            vector=vector,
        )

    def _spread_seed(self) -> Any:  # gymnasium's base class is typed for one seed, its subclasses accept a list
        if self._seed is None:
            return None
        return [int(np.random.SeedSequence((self._seed, i)).generate_state(1)[0]) for i in range(self.num_envs)]

    def close(self) -> None:
        """Close the environments without hanging: workers that have not ended after five seconds are killed."""
        close_vector_env(self._vector_env)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def episode_starts(state: dict[str, Any]) -> list[EpisodeStart]:
    """Return the starts of a driver's `state_dict`: at its row, before the last action."""
    starts = []
    for is_last, episode, actions in zip(state["row"]["is_last"], state["episodes"], state["actions"], strict=True):
        if is_last:
            starts.append(EpisodeStart(episode + 1, None))
        else:
            taken = np.asarray(actions, np.float32)[:-1]
            starts.append(EpisodeStart(episode, taken))
    return starts
