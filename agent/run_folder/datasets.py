"""Recorded episodes as data: where they may be, what is known of them, and the folders that `collect` writes."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from agent.config.files import load_config
from agent.config.settings import Config
from agent.run_folder.load import is_run
from agent.run_folder.storage import capacity_rows
from replay import Episode, EpisodeStore
from replay.episodes import episode_paths, read_episode
from replay.minari_format import MinariDataset
from replay.npz_format import read_npz
from replay.writing import write_whole
from world_model.settings import Settings, from_mapping

MINARI = "minari:"
DESCRIPTION = "dataset.json"
_MOST_DESCRIPTION = 1 << 26  # bytes; an episode takes about 100
_OF_ENV = ("action_repeat", "render", "camera", "kwargs", "wrappers")  # settings of EnvConfig that a description names


@dataclass(frozen=True)
class About(Settings):
    """What is known of recorded episodes beside their rows; null: nothing."""

    task: str | None = None
    action_repeat: int | None = None
    render: Literal["standard", "fast"] | None = None
    camera: int | str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None  # who played, in a few words

    @classmethod
    def of(cls, config: Config, policy: str) -> "About":
        """Return what a config says of the episodes of its task."""
        return cls(task=config.task, policy=policy, **{name: getattr(config.env, name) for name in _OF_ENV})

    def settings(self) -> dict[str, Any]:
        """Return the settings of a run that learns from the episodes, by dotted key, where the task is known."""
        if self.task is None:
            return {}
        return {"task": self.task} | {f"env.{name}": getattr(self, name) for name in _OF_ENV}


class _Source(NamedTuple):
    """Episodes that have not been checked: a function that yields the label and the rows of each."""

    about: About
    episodes: Callable[[], Iterator[tuple[str, Episode]]]


@dataclass(frozen=True)
class Dataset:
    """Episodes that have been read once and found whole: of one frame size, one kind of actions and one of vectors.

    name: that of the folder or dataset, with the beginning of a hash of all rows.
    lengths, returns: rows and sum of rewards of every episode.
    read: yields them again, in order.
    """

    name: str
    about: About
    size: int
    action_dim: int
    is_discrete: bool
    vector_dim: int | None
    lengths: tuple[int, ...]
    returns: tuple[float, ...]
    read: Callable[[], Iterator[Episode]]

    @property
    def num_rows(self) -> int:
        """The rows of all episodes."""
        return sum(self.lengths)

    def settings(self) -> dict[str, Any]:
        """Return the settings, by dotted key, that a run has to share with these episodes."""
        return self.about.settings() | {"env.size": self.size, "env.vector": self.vector_dim is not None}

    def check(self, config: Config) -> None:
        """Raise ValueError unless a run of this config can learn from these episodes."""
        own = {"task": config.task} | {f"env.{name}": value for name, value in vars(config.env).items()}
        for key, value in self.settings().items():
            if own[key] != value:
                raise ValueError(f"{key}: got {own[key]}, expected {value} as in the episodes of {self.name}")
        rows, least = self.num_rows, config.replay.sample_length
        if rows < least:
            raise ValueError(
                f"offline: got {rows} rows, expected at least replay.{config.replay.sample_keys} ({least})"
            )
        room = capacity_rows(config.with_vector(self.vector_dim), self.action_dim)
        if room < rows:
            names = "replay.capacity_steps" + ("" if config.replay.capacity_gb is None else ", capacity_gb")
            raise ValueError(f"{names}: got room for {room:,} rows, expected {rows:,}, those of {self.name}")

    def check_spaces(self, action_dim: int, is_discrete: bool, vector_dim: int | None) -> None:
        """Raise ValueError unless a task has the actions and the vectors of these episodes."""
        got, expected = (
            f"{dim} {'discrete actions' if choice else 'action dimensions'}"
            + ("" if width is None else f" and vectors of {width} numbers")
            for dim, choice, width in (
                (self.action_dim, self.is_discrete, self.vector_dim),
                (action_dim, is_discrete, vector_dim),
            )
        )
        if got != expected:
            raise ValueError(f"offline: got episodes with {got}, expected {expected} as the task has")


def open_dataset(place: str) -> Dataset:
    """Read and check recorded episodes: all of them, since a run should not find a damaged one after an hour.

    Args:
        place: a folder of `run_agent.py collect`, a run's folder, a folder of .npz files (`replay.npz_format`), or
            "minari:NAME".

    FileNotFoundError if there is nothing, a one-line ValueError for damaged, different or no episodes.
    """
    source = _source(place)
    found: list[tuple[int, float]] = []
    shape: tuple[int | None, ...] = ()
    digest, is_discrete = hashlib.sha256(), True
    for label, episode in source.episodes():
        side, action_dim = episode.image.shape[1:3], episode.action.shape[1]
        if side[0] != side[1]:
            raise ValueError(f"{label}: got frames of {side[0]} x {side[1]} pixels, expected square ones")
        own = (side[0], action_dim, None if episode.vector is None else episode.vector.shape[1])
        if shape and shape != own:
            got, expected = (
                f"frames of {s} pixels, {a} action dimensions and {v or 'no'} numbers beside"
                for s, a, v in (own, shape)
            )
            raise ValueError(f"{label}: got {got}, expected {expected} as in the first episode")
        shape = own
        is_discrete &= _are_one_hot(episode.action[:-1])
        for values in episode.fields().values():
            digest.update(np.ascontiguousarray(values).view(np.uint8).data)
        found.append((len(episode.reward), float(episode.reward.sum(dtype=np.float64))))
    if not found:
        raise ValueError(f"dataset: got '{place}', expected at least one episode in it")
    lengths, returns = zip(*found, strict=True)
    name = place if place.startswith(MINARI) else Path(place).resolve().name
    return Dataset(
        name=f"{name} sha256:{digest.hexdigest()[:12]}",
        about=source.about,
        size=own[0],
        action_dim=own[1],
        vector_dim=own[2],
        is_discrete=is_discrete,
        lengths=lengths,
        returns=returns,
        read=lambda: (episode for _, episode in source.episodes()),
    )


def _are_one_hot(actions: np.ndarray) -> bool:
    """Return whether these [L, A] are choices among A > 1 actions; continuous actions never are exactly zero."""
    is_choice = (actions == 1).sum(-1) == 1
    return actions.shape[1] > 1 and bool((is_choice & ((actions != 0).sum(-1) == 1)).all())


def _source(place: str) -> _Source:
    """Find out what kind of data `place` is."""
    if place.startswith(MINARI):
        data = MinariDataset(place.removeprefix(MINARI))
        return _Source(_about(data.about or {}, place), data.episodes)
    folder = Path(place)
    if not folder.is_dir():
        kinds = f"a folder of episodes, a run's folder, or {MINARI}NAME"
        raise FileNotFoundError(f"dataset: got '{place}', expected {kinds} (no such folder)")
    if (folder / DESCRIPTION).is_file():
        return _described(folder)
    about, episodes = About(), folder
    if is_run(folder):
        about = About.of(load_config(folder / "config.yaml"), f"run {folder.resolve().name}")
        episodes = folder / "episodes"
    paths = episode_paths(episodes) if episodes.is_dir() else []
    if paths:
        return _Source(about, lambda: ((str(path), read_episode(path)[0]) for path in paths))
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise ValueError(f"dataset: got '{place}', a folder without episodes, expected .ep or .npz files in it")
    return _Source(about, lambda: ((str(path), read_npz(path)) for path in files))


def _described(folder: Path) -> _Source:
    """Read a folder that `FolderWriter` wrote: the episodes that its description lists."""
    path = folder / DESCRIPTION
    if path.stat().st_size > _MOST_DESCRIPTION:
        raise ValueError(f"{path}: got more than {_MOST_DESCRIPTION} bytes, expected a description of episodes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = [entry["file"] for entry in found["episodes"]]
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("episodes: got other files, expected names of files beside it")
        about = _about(found["about"], str(path))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path}: ") if isinstance(error, ValueError) else f"no {error}"
        raise ValueError(f"{path}: {reason}") from None
    paths = [folder / name for name in names]
    return _Source(about, lambda: ((str(path), read_episode(path)[0]) for path in paths))


def _about(values: Any, where: str) -> About:
    """Return a description from JSON; entries of later versions are ignored. ValueError for values of other types."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: about: got something else, expected a description of the episodes")
    try:
        return from_mapping(About, {name: value for name, value in values.items() if name in vars(About())})
    except ValueError as error:
        raise ValueError(f"{where}: about: {error}") from None


class FolderWriter:
    """A folder of episodes with a description, complete after every episode: what a stop leaves can be learned from.

    ValueError if the folder holds anything.
    """

    def __init__(self, folder: Path, about: About) -> None:
        check_empty(folder)
        self.folder, self.about = folder, about
        self._store: EpisodeStore | None = None
        self._entries: list[dict[str, Any]] = []

    def add(self, episode: Episode, seed: int | None = None) -> None:
        """Write an episode, and the description with it; the first one makes the folder."""
        if self._store is None:
            self._store = EpisodeStore(self.folder)
        total = float(episode.reward.sum(dtype=np.float64))
        path = self._store.append(episode, {"seed": seed, "return": total})
        self._entries.append({"file": path.name, "seed": seed, "return": total})
        frames = {"size": episode.image.shape[1], "action_dim": episode.action.shape[1]}
        frames |= {} if episode.vector is None else {"vector_dim": episode.vector.shape[1]}
        value = {"version": 1, "about": asdict(self.about), **frames, "episodes": self._entries}
        write_whole(self.folder / DESCRIPTION, json.dumps(value, indent=1).encode())


def check_empty(folder: Path) -> None:
    """Raise ValueError unless a folder does not exist yet, or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"out: got '{folder}', which exists, expected a new folder")
