"""Driver: asks a policy for actions and yields Steps; it knows neither agent nor replay."""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from numpy.typing import NDArray

from envs.checks import checked_action, checked_count
from envs.step import Step

Policy = Callable[[Step], NDArray[np.float32]]

_CLOSE_SECONDS = 5.0


class Driver:
    """Runs N environments in step with a policy, one row per environment and tick.

    The canonical loop is

        with Driver(make_vector_env("cartpole_swingup", 4)) as driver:
            while ...:
                step = driver.tick(policy)      # Step [N, ...]
                replay.add(step)
                learn()                         # the environments are stepping meanwhile

    Actions are sent at a tick's end and answers fetched at the next one's start, so environments in worker
    processes run while the caller learns.

    Args:
        vector_env: gymnasium environments of pixels that reset on the step after an episode's end (NEXT_STEP).
        seed: reseeds the environments at the first tick; None leaves them to their own seeds.
        timeout: seconds that a worker may take for one step before it is taken for dead.

    Raises:
        ValueError: environments of another kind, or a negative seed.
    """

    def __init__(self, vector_env: VectorEnv, seed: int | None = None, timeout: float = 300.0) -> None:
        mode = vector_env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise ValueError(f"vector_env: got autoreset mode {mode}, expected {AutoresetMode.NEXT_STEP}")
        space = vector_env.single_action_space
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise ValueError(f"vector_env: got actions {space}, expected a Box of one dimension")
        self.num_envs = vector_env.num_envs
        self.action_dim = space.shape[0]
        self._vector_env = vector_env
        self._workers = vector_env if isinstance(vector_env, AsyncVectorEnv) else None
        self._seed = checked_count("seed", seed, 0) if seed is not None else None
        self._timeout = timeout
        self._row: Step | None = None  # a row that waits for its action
        self._sent: Step | None = None  # the last row whose action is on its way

    def tick(self, policy: Policy) -> Step:
        """Return the next row of every environment, with the actions that `policy` chose for it.

        Args:
            policy: gets the row with zeros for its actions, returns actions [N, A]. They are clipped to [-1, 1] and
                set to zero where is_last; the returned Step holds what was executed. Nothing changes it later.

        Raises:
            ValueError: actions of another shape or not finite; the row is kept, so the tick can be tried again.
            RuntimeError: a worker died or did not answer in time. An environment's own error comes as it is.
        """
        if self._row is None:
            self._row = self._receive()
        row = self._row
        action = checked_action(policy(row), (self.num_envs, self.action_dim))
        action[row.is_last] = 0.0
        self._send(action)
        self._sent, self._row = row._replace(action=action), None
        return self._sent

    def _send(self, action: NDArray[np.float32]) -> None:
        if self._workers is not None:
            try:
                self._workers.step_async(action)
            except (OSError, AttributeError) as error:  # gymnasium leaves None where a worker's pipe was
                raise RuntimeError("an environment worker has died") from error

    def _receive(self) -> Step:
        previous = self._sent
        try:
            if previous is None:
                image, _ = self._vector_env.reset(seed=self._spread_seed())
                return self._as_step(image, np.zeros(self.num_envs), np.ones(self.num_envs, bool), None)
            if self._workers is not None:
                image, reward, terminal, truncated, _ = self._workers.step_wait(timeout=self._timeout)
            else:
                image, reward, terminal, truncated, _ = self._vector_env.step(previous.action)
        except multiprocessing.TimeoutError as error:
            raise RuntimeError(f"an environment worker gave no answer in {self._timeout:g} s") from error
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("an environment worker has died") from error
        return self._as_step(image, reward, previous.is_last.copy(), terminal, truncated)

    def _as_step(
        self, image: NDArray[np.uint8], reward: NDArray[np.float64], is_first: NDArray[np.bool_],
        terminal: NDArray[np.bool_] | None, truncated: NDArray[np.bool_] | None = None,
    ) -> Step:  # fmt: skip
        none = np.zeros(self.num_envs, bool)
        terminal = terminal if terminal is not None else none
        return Step(
            image=image,
            reward=reward.astype(np.float32),
            is_first=is_first,
            is_last=terminal | (truncated if truncated is not None else none),
            is_terminal=terminal.astype(bool),
            action=np.zeros((self.num_envs, self.action_dim), np.float32),
        )

    def _spread_seed(self) -> Any:  # gymnasium's base class is typed for one seed, its subclasses take a list
        if self._seed is None:
            return None
        return [int(np.random.SeedSequence((self._seed, i)).generate_state(1)[0]) for i in range(self.num_envs)]

    def close(self) -> None:
        """Close the environments; workers that have not ended after five seconds are killed, so this never hangs."""
        if self._vector_env.closed:
            return
        if self._workers is None:
            self._vector_env.close()
            return
        # gymnasium's own close() waits for every worker without limit, and fails where one has died.
        for pipe in self._workers.parent_pipes:
            with suppress(OSError, AttributeError):
                pipe.send(("close", None))
        deadline = time.monotonic() + _CLOSE_SECONDS
        for process in self._workers.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._workers.parent_pipes:
            with suppress(OSError, AttributeError):
                pipe.close()
        self._workers.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
