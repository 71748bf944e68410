"""A trained agent as one file: its weights for acting and dreaming, and a card that says what they are.

The file is safetensors, so reading it runs no code. Numbers are in half precision where they fit into it. The metadata
holds one entry, JSON with the format's `version` and the `card`: safetensors writes several in any order.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from agent.config.settings import Config
from agent.learning.agent import Agent, choose_device
from agent.run_folder.contents import build_agent, saved_config
from agent.run_folder.schema import Count, Each, Maybe, check
from agent.run_folder.weights import Weights, check_weights, use_weights
from envs.wording import one_line
from replay.writing import write_whole

SUFFIX = ".aime"
_ENTRY, _VERSION = "aime.agent", 1
_MOST_CARD = 1 << 22  # characters; a card has 5,000, with the curve of a long run 10,000
_EXPECTED = "expected a file that `run_agent.py export` wrote"

SCORES = {
    "seeds": Each(Count()),
    "returns": Each(float),
    "mean": float,
    "std": Maybe(float),
    "interval_low": Maybe(float),
    "interval_high": Maybe(float),
    "action_repeat": Count(1),
    "render": str,
}
_CARD = {
    "config": dict,
    "action_dim": Count(1),
    "is_discrete": bool,
    "updates": Count(),
    "env_frames": Count(),
    "version": str,
    "commit": Maybe(str),
    "curve": Each([float, float]),
    "evaluation": Maybe({"deterministic": SCORES, "sample": SCORES}),
}


@dataclass(frozen=True)
class Card:
    """What a file says of its agent, as plain values.

    config: all settings of the run, its task and seed among them. action_dim, is_discrete: its actions. updates,
    env_frames: how long it learned. version, commit: of this program (None: not from a checkout). curve: pairs of
    env_frames and the mean return of the evaluation there. evaluation: `SCORES` of whole episodes with deterministic
    and with sampled actions, played before the weights were rounded.
    """

    config: dict[str, Any]
    action_dim: int
    is_discrete: bool
    updates: int
    env_frames: int
    version: str
    commit: str | None
    curve: list[list[float]]
    evaluation: dict[str, dict[str, Any]] | None


class AgentFile(NamedTuple):
    """A file's card, the settings in it, and the weights."""

    card: Card
    config: Config
    weights: Weights

    def agent(self, device: str | None = None) -> Agent:
        """Build the agent; `device` None is cuda if available."""
        chosen = choose_device(device if device is not None else "auto")
        agent = Agent(self.config, self.card.action_dim, str(chosen), self.card.is_discrete)
        use_weights(agent, self.weights)
        agent.updates = self.card.updates
        return agent


def is_agent_file(place: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether `place` is the path of a file that is named or begins like one of an agent."""
    if not isinstance(place, str | os.PathLike) or not Path(place).is_file():
        return False
    with open(place, "rb") as file:
        return Path(place).suffix == SUFFIX or file.read(9)[8:] == b"{"


def agent_bytes(card: Card, weights: Weights) -> bytes:
    """Return the content of a file. ValueError if a weight is not finite."""
    stored = {}
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"weights.{name}: got numbers that are not finite, expected finite ones")
        half = value.half() if value.is_floating_point() else value
        stored[name] = (half if bool(half.isfinite().all()) else value).contiguous()
    return save(stored, {_ENTRY: json.dumps({"version": _VERSION, "card": asdict(card)}, allow_nan=False)})


def write_agent_file(path: Path, card: Card, weights: Weights) -> int:
    """Write a file atomically, creating its folder; return its number of bytes."""
    content = agent_bytes(card, weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return len(content)


def read_agent_file(path: Path) -> AgentFile:
    """Read a file and check that its card and its weights make an agent.

    FileNotFoundError if there is none; a one-line ValueError for a file that is damaged, of a newer version, or none of
    an agent.
    """
    if not path.is_file():
        raise FileNotFoundError(f"agent: got '{path}', {_EXPECTED} (no such file)")
    try:
        with safe_open(path, framework="pt") as file:
            card = _card(file.metadata() or {})
            config = saved_config({"config": card.config})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if config.algo != "aime":
            raise ValueError(f"config.algo: got '{config.algo}', expected 'aime'")
        weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        state = {"action_dim": card.action_dim, "is_discrete": card.is_discrete, "weights": weights}
        check_weights(weights, build_agent(config, state))
    except SafetensorError as error:
        raise ValueError(
            f"agent: got '{path}', cut, damaged or another file ({one_line(error)}), {_EXPECTED}"
        ) from None
    except ValueError as error:
        raise ValueError(f"agent: got '{path}': {error}") from None
    return AgentFile(card, config, weights)


def _card(metadata: dict[str, str]) -> Card:
    """Return the card in a file's metadata, checked. ValueError without the file's name."""
    if _ENTRY not in metadata:
        raise ValueError(f"safetensors without an agent's card, {_EXPECTED}")
    text = metadata[_ENTRY]
    try:
        if len(text) > _MOST_CARD:
            raise ValueError(f"got {len(text)} characters, expected at most {_MOST_CARD}")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"card: not readable as JSON ({one_line(error)})") from None
    version = values.get("version") if isinstance(values, dict) else None
    if type(version) is int and version > _VERSION:
        raise ValueError(f"format version {version}, expected {_VERSION}; a newer version of this program reads it")
    check(values, {"version": Count(1), "card": _CARD}, "metadata")
    return Card(**values["card"])


def fingerprint(path: Path) -> str:
    """Return a file's name and the beginning of its SHA-256, which `sha256sum` prints too."""
    with open(path, "rb") as file:
        return f"{path.name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
