"""Episodes as datasets of Minari, in its folder of datasets (MINARI_DATASETS_PATH, else ~/.minari/datasets).

Importing this module does not import minari, which is optional. Frames are stored as they are, without JPEG.
"""

import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from envs.packages import check_installed
from envs.pixels import joined, split
from envs.spaces import is_vector_alone, one_hot
from envs.wording import describe_error, one_line
from replay.rows import Episode
from replay.transitions import Transitions, from_rows, to_rows

REQUIREMENT = "'minari[hdf5]>=0.5.4,<0.6'"
_NAME = re.compile(r"([\w-]{2,}/)*[\w-]+-v\d+")
_ABOUT = "aime"  # our entry in a dataset's metadata


def _library() -> ModuleType:
    """Import minari. A one-line ValueError if it is not installed."""
    for package in ("minari", "h5py"):
        check_installed(package, "minari", REQUIREMENT)
    import minari

    return minari


def place_of(name: str) -> Path:
    """Return the folder of a dataset. ValueError if that is no name, or minari is not installed."""
    _library()
    from minari.storage import get_dataset_path

    if _NAME.fullmatch(name) is None:
        raise ValueError(f"minari: got '{name}', expected a name like walker/mixed-v0")
    return Path(get_dataset_path(name))


def check_new(name: str) -> None:
    """Raise ValueError unless a dataset of this name can be written."""
    if place_of(name).exists():
        raise ValueError(f"minari: got '{name}', which exists, expected a new name")


class MinariDataset:
    """A dataset that is on this machine. FileNotFoundError without one, ValueError for other observations or actions.

    about: what `write_minari` was given, None for a dataset of another program.
    """

    def __init__(self, name: str) -> None:
        minari, self.name = _library(), name
        if not place_of(name).is_dir():
            line = f"minari: got '{name}', expected a dataset on this machine (none in {place_of(name)})"
            raise FileNotFoundError(f"{line}; `minari download {name}` fetches one")
        try:
            self._data = minari.load_dataset(name)
            about = self._data.storage.metadata.get(_ABOUT)
            self.about: dict[str, Any] | None = None if about is None else dict(json.loads(about))
        except Exception as error:  # of h5py and of JSON: whatever a damaged file causes
            raise ValueError(f"minari:{name}: {describe_error(error, 160)}") from None
        seen, actions = self._data.observation_space, self._data.action_space
        self._is_alone = is_vector_alone(seen)
        frames = seen["image"] if isinstance(seen, Dict) and set(seen) == {"image", "vector"} else seen
        is_frame = isinstance(frames, Box) and frames.dtype == np.uint8 and frames.shape[2:] == (3,)
        if not is_frame and not self._is_alone:
            expected = "frames uint8 [H, W, 3], a vector, or a Dict of image and vector"
            raise ValueError(f"minari:{name}: observations: got {one_line(seen)}, expected {expected}")
        self._num_actions = _num_actions(actions, name)
        self.is_discrete = self._num_actions is not None

    def episodes(self) -> Iterator[tuple[str, Episode]]:
        """Yield the label and the rows of every episode. A one-line ValueError for one that is damaged or differs."""
        for index in range(self._data.total_episodes):
            label = f"minari:{self.name}, episode {index}"
            try:
                yield label, self._episode(index)
            except ValueError as error:
                raise ValueError(f"{label}: {one_line(error)}") from None
            except (OSError, KeyError, AssertionError, IndexError) as error:  # a damaged file
                raise ValueError(f"{label}: {describe_error(error, 160)}") from None

    def _episode(self, index: int) -> Episode:
        found = self._data[index]
        ends, cuts = np.asarray(found.terminations), np.asarray(found.truncations)
        if ends[:-1].any() or cuts[:-1].any():
            raise ValueError("terminations, truncations: got an end before the last step, expected one episode")
        actions = np.asarray(found.actions)
        if self._num_actions is not None:
            actions = one_hot(actions - self._data.action_space.start, self._num_actions)
        frames, vectors = split(found.observations.astype(np.float32) if self._is_alone else found.observations)
        return to_rows(Transitions(frames, actions, found.rewards, bool(len(ends) and ends[-1]), vectors))


def _num_actions(space: Space[Any], name: str) -> int | None:
    """Return the number of discrete actions, None for continuous ones. ValueError for others."""
    if isinstance(space, Discrete):
        return int(space.n)
    if not isinstance(space, Box) or len(space.shape) != 1 or (space.low != -1).any() or (space.high != 1).any():
        raise ValueError(f"minari:{name}: actions: got {one_line(space)}, expected [A] from -1 to 1, or discrete ones")
    return None


def write_minari(
    name: str,
    episodes: Iterable[Episode],
    observations: Space[Any],
    action_dim: int,
    is_discrete: bool,
    about: dict[str, Any],
) -> int:
    """Write a new dataset, one episode at a time, and return the number of episodes.

    observations: their space, that of a PixelEnv. `about` is JSON-serialisable. ValueError if the name is taken. If
    anything fails, the dataset is removed.
    """
    check_new(name)
    minari, place = _library(), place_of(name)
    from minari.data_collector import EpisodeBuffer

    def buffer(rows: Episode) -> Any:
        given = from_rows(rows)
        is_last = np.arange(len(given.rewards)) == len(given.rewards) - 1
        return EpisodeBuffer(
            observations=joined(given.frames, given.vectors),
            actions=given.actions.argmax(-1) if is_discrete else given.actions,
            rewards=given.rewards,
            terminations=is_last & given.is_terminal,
            truncations=is_last & (not given.is_terminal),
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # advice to name an author and a link
            written = minari.create_dataset_from_buffers(
                name,
                map(buffer, episodes),
                observation_space=observations,
                action_space=Discrete(action_dim) if is_discrete else Box(-1.0, 1.0, (action_dim,), np.float32),
                algorithm_name=str(about.get("policy") or "unknown"),
                description="episodes, written by aime",
                data_format="hdf5",
                jpeg_encoding=False,
            )
        written.storage.update_metadata({_ABOUT: json.dumps(about)})
        return int(written.storage.total_episodes)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
