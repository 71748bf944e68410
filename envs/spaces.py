"""Spaces: maps from the agent's vectors to actions, one-hot vectors for discrete ones, and vectors in observations."""

import math
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from numpy.typing import NDArray

from envs.checks import checked_count
from envs.wording import one_line

_UNBOUNDED = 1e9  # libraries write 1e10, 3.4e38 or inf for a dimension without limits


class OneHot(Box):
    """The space of the n one-hot vectors float32 [n]: n discrete actions in the form of replay and networks.

    Two such spaces are equal if their n is. ValueError if n is not a whole number of at least 1.
    """

    def __init__(self, n: int, seed: int | np.random.Generator | None = None) -> None:
        self.n = checked_count("n", n, 1)
        super().__init__(0.0, 1.0, (self.n,), np.float32, seed)

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.float32]:
        """Return one of the n vectors, uniformly; ValueError if a mask is given."""
        if mask is not None or probability is not None:
            raise ValueError("mask: got one, expected none: masks are for Discrete spaces")
        return one_hot(self.np_random.integers(self.n), self.n)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is float32 [n] with a single 1 and zeros."""
        return super().contains(x) and np.count_nonzero(x) == 1 and bool(np.max(x) == 1)

    def __repr__(self) -> str:
        return f"OneHot({self.n})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneHot) and other.n == self.n


def is_vector(space: Space[Any]) -> bool:
    """Return whether a space holds vectors of numbers, or single ones."""
    return isinstance(space, Box) and np.dtype(space.dtype).kind in "fiu" and space.low.ndim <= 1 and space.low.size > 0


def is_vector_alone(space: Space[Any]) -> bool:
    """Return whether observations are single vectors [V], without frames."""
    return is_vector(space) and len(space.shape or ()) == 1


def vector_dim_of(space: Space[Any]) -> int | None:
    """Return V, the numbers in observations of one environment, beside an image or alone; None for frames alone."""
    if not isinstance(space, Dict):
        return math.prod(space.shape or ()) if is_vector(space) else None
    return sum(math.prod(part.shape or ()) for part in space.spaces.values() if is_vector(part))


def one_hot(choice: Any, n: int) -> NDArray[np.float32]:
    """Return the one-hot vectors float32 [..., n] of whole numbers [...] in [0, n)."""
    return np.eye(n, dtype=np.float32)[choice]


def random_actions(
    num_envs: int, action_dim: int, is_discrete: bool, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return random actions, float32 [num_envs, action_dim]: uniform in [-1, 1], or one-hot vectors."""
    if is_discrete:
        return one_hot(random.integers(action_dim, size=num_envs), action_dim)
    return random.uniform(-1, 1, (num_envs, action_dim)).astype(np.float32)


class ActionMap(Protocol):
    """A map from the agent's action vectors [..., A], elements of `space`, to actions of an environment."""

    space: "Box[Any]"

    def __call__(self, action: NDArray[np.float32]) -> Any:
        """Return the environment's action, or a batch of them."""


class ActionScale:
    """The map from [-1, 1]^A to the bounds of a flattened Box; unbounded dimensions get actions unchanged."""

    def __init__(self, box: "Box[Any]") -> None:
        self._box = box
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (box.low, box.high))
        is_bounded = (np.abs(low) < _UNBOUNDED) & (np.abs(high) < _UNBOUNDED)
        self._low, self._high = np.where(is_bounded, low, -1.0), np.where(is_bounded, high, 1.0)  # [A]
        self.space: Box[Any] = Box(-1.0, 1.0, (low.size,), np.float32)

    def __call__(self, action: NDArray[np.float32]) -> NDArray[Any]:
        """Return actions [..., *shape] of the Box for [..., A] in [-1, 1]; integers are rounded."""
        scaled = self._low + (self._high - self._low) * (action.astype(np.float64) + 1.0) / 2.0
        scaled = scaled.reshape(*action.shape[:-1], *self._box.shape)
        if np.issubdtype(self._box.dtype, np.integer):
            scaled = np.rint(scaled)
        # Clipped, since float32 may round a value beyond its bound, and a dimension may have one bound only.
        return np.clip(scaled, self._box.low, self._box.high).astype(self._box.dtype)


class ActionChoice:
    """The map from one-hot vectors to a Discrete: its start plus the index of the largest entry."""

    def __init__(self, discrete: Discrete) -> None:
        self._start = discrete.start
        self.space: Box[Any] = OneHot(int(discrete.n))

    def __call__(self, action: NDArray[np.float32]) -> Any:
        """Return whole numbers [...] for vectors [..., n]."""
        return self._start + action.argmax(-1)


class ActionAsIs:
    """The identity, for environments that take one-hot vectors."""

    def __init__(self, space: OneHot) -> None:
        self.space: Box[Any] = space

    def __call__(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vectors unchanged."""
        return action


def action_map(space: Space[Any]) -> ActionMap:
    """Return the map from the agent's actions to a space; ValueError unless it is a Box or a Discrete."""
    if isinstance(space, OneHot):
        return ActionAsIs(space)
    if isinstance(space, Discrete):
        return ActionChoice(space)
    if isinstance(space, Box) and space.low.size and np.dtype(space.dtype).kind in "fiu":
        return ActionScale(space)
    raise ValueError(f"actions: got {one_line(space)}, expected a Box of numbers or a Discrete")
