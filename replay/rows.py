"""Rows: the schema of replay, episodes of rows, and their checks."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple, Protocol

import numpy as np


class Episode(NamedTuple):
    """One whole episode of L rows: is_first on the first row only, is_last on the last row only."""

    image: np.ndarray  # uint8 [L, H, W, 3]; [L, 0, 0, 3] where observations are vectors alone
    reward: np.ndarray  # float32 [L], 0 on the first row
    is_first: np.ndarray  # bool [L]
    is_last: np.ndarray  # bool [L]
    is_terminal: np.ndarray  # bool [L], at most on the last row
    action: np.ndarray  # float32 [L, A] in [-1, 1], zeros on the last row
    vector: np.ndarray | None = None  # float32 [L, V], finite; None where observations are frames alone

    def fields(self) -> dict[str, np.ndarray]:
        """Return the fields that are there, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Episode":
        """Apply a function to every field that is there."""
        return Episode(**{name: function(values) for name, values in self.fields().items()})


class StepLike(Protocol):
    """One tick of N environments: the fields of `Episode` with N in place of L (envs.Step is one)."""

    @property
    def image(self) -> np.ndarray: ...
    @property
    def reward(self) -> np.ndarray: ...
    @property
    def is_first(self) -> np.ndarray: ...
    @property
    def is_last(self) -> np.ndarray: ...
    @property
    def is_terminal(self) -> np.ndarray: ...
    @property
    def action(self) -> np.ndarray: ...
    @property
    def vector(self) -> np.ndarray | None: ...


Shapes = Mapping[str, tuple[int, ...]]  # of every field of one row
DTYPES: dict[str, np.dtype] = {
    "image": np.dtype(np.uint8),
    "reward": np.dtype(np.float32),
    "is_first": np.dtype(np.bool_),
    "is_last": np.dtype(np.bool_),
    "is_terminal": np.dtype(np.bool_),
    "action": np.dtype(np.float32),
    "vector": np.dtype(np.float32),
}


def field_shapes(image_shape: tuple[int, ...], action_dim: int, vector_dim: int | None = None) -> Shapes:
    """Return the shape of every field of one row; without `vector_dim` there is no vector."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(DTYPES, ()) | {"image": image_shape, "action": (action_dim,)}
    if vector_dim is None:
        del shapes["vector"]
    else:
        shapes["vector"] = (vector_dim,)
    return shapes


def row_bytes(image_shape: tuple[int, ...], action_dim: int, vector_dim: int | None = None) -> int:
    """Return the bytes of memory that one row takes."""
    return bytes_of(field_shapes(image_shape, action_dim, vector_dim))


def bytes_of(shapes: Shapes) -> int:
    """Return the bytes of a row with fields of these shapes."""
    return sum(prod(shape) * DTYPES[name].itemsize for name, shape in shapes.items())


def check_rows(rows: StepLike, name: str, num_rows: int, shapes: Shapes) -> None:
    """Check shapes, dtypes and ranges of `num_rows` rows; ValueError names the field as `name`.field."""
    if rows.vector is not None and "vector" not in shapes:
        raise ValueError(f"{name}.vector: got {rows.vector.dtype} {list(rows.vector.shape)}, expected none")
    for field, shape in shapes.items():
        array, expected = getattr(rows, field), (num_rows, *shape)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name}.{field}: got {type(array).__name__}, expected a numpy array")
        if array.dtype != DTYPES[field] or array.shape != expected:
            came, wanted = f"{array.dtype} {list(array.shape)}", f"{DTYPES[field]} {list(expected)}"
            raise ValueError(f"{name}.{field}: got {came}, expected {wanted}")
    for field, array in (("reward", rows.reward), ("vector", rows.vector)):
        if array is not None and not np.isfinite(array).all():
            raise ValueError(f"{name}.{field}: got {_first_bad(array)}, expected finite numbers")
    if not (np.abs(rows.action) <= 1.0).all():  # also False for NaN
        worst = rows.action[~(np.abs(rows.action) <= 1.0)][0]
        raise ValueError(f"{name}.action: got {worst}, expected numbers in [-1, 1]")
    if rows.reward[rows.is_first].any():
        raise ValueError(f"{name}.reward: got a non-zero number where is_first, expected 0: r_t arrives with x_t")
    if rows.action[rows.is_last].any():
        raise ValueError(f"{name}.action: got a non-zero one where is_last, expected zeros: a_t is chosen after x_t")
    if (rows.is_terminal & ~rows.is_last).any():
        raise ValueError(f"{name}.is_terminal: got True where is_last is False, expected it on last rows only")


def check_episode(episode: Episode, shapes: Shapes | None = None) -> None:
    """Check that rows are one whole episode, of any frames, actions and vectors if `shapes` is None; ValueError."""
    length = len(episode.reward)
    if length == 0:
        raise ValueError("episode: got no rows, expected at least one")
    if shapes is None:
        vector_dim = None if episode.vector is None else np.shape(episode.vector)[-1]
        shapes = field_shapes((*np.shape(episode.image)[1:3], 3), np.shape(episode.action)[-1], vector_dim)
    check_rows(episode, "episode", length, shapes)
    if not episode.is_first[0] or episode.is_first[1:].any():
        raise ValueError("episode.is_first: got other flags, expected True on the first row only")
    if not episode.is_last[-1] or episode.is_last[:-1].any():
        raise ValueError("episode.is_last: got other flags, expected True on the last row only")


def join(rows: Sequence[StepLike], function: Callable[[list[np.ndarray]], np.ndarray]) -> Episode:
    """Make one episode of rows, or of parts of it, field by field."""
    names = [name for name in Episode._fields if getattr(rows[0], name) is not None]
    return Episode(**{name: function([getattr(row, name) for row in rows]) for name in names})


def cut_off(rows: Episode) -> Episode:
    """Turn the beginning of an episode into a truncated episode, in place."""
    rows.is_last[-1], rows.action[-1] = True, 0
    return rows


def _first_bad(array: np.ndarray) -> float:
    return float(array[~np.isfinite(array)][0])
