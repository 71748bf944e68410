"""Where agents' files are: in the package, on the Hugging Face Hub, on the disk."""

from pathlib import Path
from typing import TypeGuard

from agent.run_folder import hub
from agent.run_folder.agent_file import SUFFIX

PRETRAINED_FOLDER = Path(__file__).resolve().parents[1] / "pretrained"
_PRETRAINED, _HUB = "pretrained:", "hub:"


def pretrained_names() -> list[str]:
    """Return the names of the agents that come with the package."""
    return sorted(path.stem for path in PRETRAINED_FOLDER.glob(f"*{SUFFIX}"))


def is_named(place: object) -> TypeGuard[str]:
    """Return whether `place` names an agent as "pretrained:NAME" or "hub:user/name"."""
    return isinstance(place, str) and place.startswith((_PRETRAINED, _HUB))


def find_agent(place: str) -> Path:
    """Return the file of an agent: "pretrained:NAME" or NAME alone, "hub:user/name" (downloaded once), or a path.

    FileNotFoundError if there is no such file; ValueError for an unknown name, a folder, or a hub that does not answer.
    """
    if place.startswith(_HUB):
        return hub.fetch(place.removeprefix(_HUB))
    path, name = Path(place), place.removeprefix(_PRETRAINED)
    if place == name:
        if path.is_file():
            return path
        if path.is_dir():
            raise ValueError(f"agent: got '{place}', a folder, expected a file; --logdir reads a run's folder")
        if path.suffix or len(path.parts) > 1:
            raise FileNotFoundError(f"agent: got '{place}', expected the file of an agent (no such file)")
    if name not in pretrained_names():
        known = ", ".join(f"'{known}'" for known in pretrained_names())
        raise ValueError(f"agent: got '{place}', expected one that comes with the package ({known}), or a file")
    return PRETRAINED_FOLDER / f"{name}{SUFFIX}"


def short_name(place: str) -> str:
    """Return the last part of an agent's place without its suffix, for the names of files about it."""
    last = place.rpartition("/")[2].removeprefix(_PRETRAINED).removeprefix(_HUB)
    return last.removesuffix(SUFFIX)
