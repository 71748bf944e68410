"""Clocks of the training loop. Those that must survive a stop have a state that goes into the checkpoint."""

import math
import time
from collections.abc import Callable
from fractions import Fraction


class Every:
    """Due once whenever a growing value (env_frames, seconds) has passed the next multiple of `interval` after `last`.

    The first call is due only `interval` after `last`. Multiples are kept, so that late calls do not shift later ones;
    several that were passed between two calls count as one. ValueError where interval is not positive.
    """

    def __init__(self, interval: float, last: float = 0.0) -> None:
        if not interval > 0:
            raise ValueError(f"interval: got {interval}, expected a positive number")
        self.interval, self.last = interval, last

    def due(self, value: float) -> bool:
        """Whether a multiple was passed since the last time this was true."""
        passed = math.floor((value - self.last) / self.interval)
        if passed < 1:
            return False
        self.last += passed * self.interval
        return True

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` takes."""
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where `state_dict` was taken."""
        self.last = state["last"]


class Ratio:
    """How many updates are due: `per_step` of them for each agent step, exact however long the run is.

    Fractions of an update stay as credit, and the credit is a function of whole counters only, so nothing drifts.
    ValueError where per_step is not positive and finite.
    """

    def __init__(self, per_step: float) -> None:
        if not 0 < per_step < math.inf:
            raise ValueError(f"per_step: got {per_step}, expected a positive number")
        self._per_step = Fraction(per_step).limit_denominator(10**6)
        self._origin, self._given = 0, 0

    def __call__(self, agent_steps: int) -> int:
        """Updates that have become due since the last call, at `agent_steps` in total."""
        due = math.floor((agent_steps - self._origin) * self._per_step) - self._given
        self._given += max(0, due)
        return max(0, due)

    def skip(self, agent_steps: int) -> None:
        """Start to count at `agent_steps`: the steps before (the prefill) give no updates."""
        self._origin, self._given = agent_steps, 0

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` takes."""
        return {"origin": self._origin, "given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self._origin, self._given = state["origin"], state["given"]


class Deadline:
    """A wall-clock limit in minutes from now; None never passes. ValueError where it is not positive."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"max_minutes: got {minutes}, expected a positive number")
        self._clock = clock
        self._end = math.inf if minutes is None else clock() + 60 * minutes

    def passed(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._end
