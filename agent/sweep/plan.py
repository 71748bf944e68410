"""The definition of a sweep, tasks x values of settings x seeds, and the runs that it makes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from agent.config.files import parse_value, read_yaml, write_yaml
from agent.config.presets import make_config, setting_texts
from agent.config.settings import MAY_CHANGE, Config
from agent.sweep.training_run import TrainingRun
from agent.training.due_work import check_learnable
from envs.tasks import checked_task
from world_model.settings import Settings, declared, from_mapping

FILE = "sweep.yaml"  # in the sweep's folder: its definition
TAKEN = {"task": "--tasks", "seed": "--seeds", "preset": "--preset", "threads": "--threads"}


@dataclass(frozen=True)
class Sweep(Settings):
    """The definition of a sweep. Values of settings are texts, as on the command line."""

    preset: str
    tasks: list[str]
    seeds: int = 1  # number of seeds, from 0 on
    settings: dict[str, str] = field(default_factory=dict)  # key -> value, in every run
    grid: dict[str, list[str]] = field(default_factory=dict)  # key -> values, every combination of which is run

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise ValueError(f"seeds: got {self.seeds}, expected a positive number")
        for key in (*self.settings, *self.grid):
            if key in TAKEN:
                raise ValueError(f"{key}: got a value, expected the option {TAKEN[key]} instead")
        for key in self.grid:
            if key in self.settings:
                raise ValueError(f"{key}: got --{key} and --set {key}=..., expected one of them")

    def runs(self, folder: Path) -> list[TrainingRun]:
        """Return the runs, each with its own folder in `folder`/runs: all of the first seed, then all of the next.

        ValueError in one line for an unknown task, and for a setting that is unknown or out of range in any run.
        """
        combinations = [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]
        configs = {}
        for task in self.tasks:
            for chosen in combinations:
                name, config = self._name(task, chosen), self._config(checked_task(task), chosen)
                if name in configs:
                    raise ValueError(f"set: got two values that make the same name of a run, '{name}'")
                configs[name] = (config, self.settings | chosen)
        return [
            TrainingRun(f"{name}-seed{seed}", replace(config, seed=seed), settings, folder)
            for seed in range(self.seeds)
            for name, (config, settings) in configs.items()
        ]

    def _config(self, task: str, chosen: Mapping[str, str]) -> Config:
        hints, texts = declared(Config), self.settings | dict(chosen)
        config = make_config(self.preset, task, {key: parse_value(text, hints[key]) for key, text in texts.items()})
        check_learnable(config)
        return config

    def _name(self, task: str, chosen: Mapping[str, str]) -> str:
        """Return the name of a run, less its seed; it follows from the definition alone, since it has to last."""
        ends = [key.rpartition(".")[2] for key in chosen]
        shown = [end if ends.count(end) == 1 else key for end, key in zip(ends, chosen, strict=True)]
        parts = [task, *(f"{key}{value}" for key, value in zip(shown, chosen.values(), strict=True))]
        return "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts)

    def lost(self, later: "Sweep") -> str:
        """Return why `later` is not this sweep with more tasks, seeds or values, "" if it is.

        Settings that may change when a run is resumed, such as env_frames, may differ.
        """
        ours, theirs = (
            {key: value for key, value in sweep.settings.items() if key not in MAY_CHANGE} for sweep in (self, later)
        )
        changes: list[tuple[str, Any, Any]] = [("preset", self.preset, later.preset)]
        changes += [(key, ours.get(key), theirs.get(key)) for key in sorted({*ours, *theirs})]
        changes += [("keys of --set", sorted(self.grid), sorted(later.grid))]
        found = [(name, before, now) for name, before, now in changes if before != now]
        pairs = [("tasks", self.tasks, later.tasks), ("seeds", range(self.seeds), range(later.seeds))]
        pairs += [(key, values, later.grid.get(key, [])) for key, values in self.grid.items()]
        found += [(name, _listed(before), _listed(now)) for name, before, now in pairs if not {*before} <= {*now}]
        return "; ".join(f"{name}: {before} -> {now}" for name, before, now in found)


def _listed(values: Sequence[Any]) -> str:
    return " ".join(map(str, values))


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return key -> values of "key=a,b" texts. A one-line ValueError if a key is unknown or a value missing.

    Commas within brackets belong to a value: "losses.beta=[[0, 0.0], [5000, 1.0]],1.0" has two.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        setting_texts([f"--{key}="])
        found = _split(values)
        if key in grid or "" in found:
            raise ValueError(f"set: got '{text}', expected key=value or key=value,value, and each key once")
        grid[key] = list(dict.fromkeys(found))
    return grid


def _split(values: str) -> list[str]:
    """Split at commas that are outside of brackets."""
    parts, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def load_sweep(folder: Path) -> Sweep | None:
    """Return the definition in a sweep's folder, or None if the folder is new or empty.

    ValueError in one line for a folder of something else and for a damaged file.
    """
    path = folder / FILE
    try:
        return from_mapping(Sweep, read_yaml(path))
    except FileNotFoundError:
        if folder.is_dir() and any(entry.name != "lock" for entry in folder.iterdir()):
            expected = f"expected a new folder or that of a sweep (no {FILE} in it)"
            raise ValueError(f"logdir: got '{folder}', which holds something else, {expected}") from None
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def save_sweep(sweep: Sweep, folder: Path) -> None:
    """Write the definition into the sweep's folder."""
    write_yaml(folder / FILE, asdict(sweep))
