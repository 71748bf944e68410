"""Clocks of the training loop. Those that survive a stop have a state for the checkpoint."""

import math
import time
from collections.abc import Callable
from fractions import Fraction


class Every:
    """A clock that is due whenever a growing value (env_frames, seconds) passes another `interval` after `last`.

    It is first due `interval` after `last`. Late calls do not shift later ones; several intervals passed between two
    calls count as one. ValueError if interval is not positive.
    """

    def __init__(self, interval: float, last: float = 0.0) -> None:
        if not interval > 0:
            raise ValueError(f"interval: got {interval}, expected a positive number")
        self.interval, self.last = interval, last

    def due(self, value: float) -> bool:
        """Return whether the clock is due, and advance it if so."""
        passed = math.floor((value - self.last) / self.interval)
        if passed < 1:
            return False
        self.last += passed * self.interval
        return True

    def state_dict(self) -> dict[str, float]:
        """Return the clock's state."""
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`."""
        self.last = state["last"]


class Ratio:
    """The number of due updates: `per_step` of them per agent step, exact however long the run is.

    Fractions of an update are carried over, computed from whole counters only, so nothing drifts. ValueError if
    per_step is not positive and finite.
    """

    def __init__(self, per_step: float) -> None:
        if not 0 < per_step < math.inf:
            raise ValueError(f"per_step: got {per_step}, expected a positive number")
        self._per_step = Fraction(per_step).limit_denominator(10**6)
        self._origin, self._given = 0, 0

    def __call__(self, agent_steps: int) -> int:
        """Return the updates that have become due since the last call, at `agent_steps` in total."""
        due = math.floor((agent_steps - self._origin) * self._per_step) - self._given
        self._given += max(0, due)
        return max(0, due)

    def skip(self, agent_steps: int) -> None:
        """Start counting at `agent_steps`: earlier steps (the prefill) give no updates."""
        self._origin, self._given = agent_steps, 0

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return {"origin": self._origin, "given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore `state_dict`."""
        self._origin, self._given = state["origin"], state["given"]


class Deadline:
    """A wall-clock limit in minutes from now; None never passes. ValueError if it is not positive."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"max_minutes: got {minutes}, expected a positive number")
        self._clock = clock
        self._end = math.inf if minutes is None else clock() + 60 * minutes

    def passed(self) -> bool:
        """Return whether the time is up."""
        return self._clock() >= self._end
