"""docs/configuration.md, made from the settings' dataclasses, their comments and the presets.

    python -m docs.make_configuration > docs/configuration.md

A comment on a field's line is its description; a test holds the file equal to what is made here.
"""

import inspect
import io
import tokenize
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

import yaml

from agent.config.nested import flatten
from agent.config.presets import PRESET_FOLDER, SIZE_FILE, TASK_FILE, load_preset, preset_names
from agent.config.schedules import Schedule
from agent.config.settings import MAY_CHANGE, Config
from world_model.settings import from_mapping

PER_FRAME = """What these presets say in env_frames, so that it is the same at every action repeat:

- `train.train_ratio` = `train_ratio` x `env.action_repeat`: each env_frame is trained on as often.
- `behavior.gamma` = 1 - `discount_rate` x `env.action_repeat`: returns look 1 / `discount_rate` env_frames ahead.

So `--env.action_repeat 4` brings its own train ratio and discount: with `cpu` 64 and 0.99, where 2 has 32 and 0.995. A
row or an option that sets one of the two itself wins, as `gym:*` and `reaching` do."""
COMMAND = "python -m docs.make_configuration > docs/configuration.md"
INTRODUCTION = f"""# Configuration: every key

Made by `{COMMAND}` from the code; edit the comments there.

A key is an option of `train`: `--replay.batch_size 8`, or `--replay.batch_size=8`. The values of a run come from, later
ones winning: the default, the preset (`--preset`), the preset's rows for the task (below), the size (`--size`), the
command line. Where neither a row nor the command line sets train ratio or discount, they follow from the action repeat
([below](#per-env_frame)). `config.yaml` in a run's folder holds what came out. A preset's cell is empty where it keeps
the default. A list or a mapping is typed as YAML: `--losses.beta "[[0, 0.0], [5000, 1.0]]"`,
`--env.kwargs "{{time_limit: 5}}"`. Whole numbers may be written `100_000` or `1e5`.

Every value is checked where a config is made: on the command line, in a file, in `make_config`, `Config(...)`,
`dataclasses.replace` and `AIME(...)`. Whole floats (`1.5e2`) and numpy's scalars become the plain numbers that they
are; another type, `inf` and `nan` are refused in one line, `env_frames: got 1.5, expected a whole number`.

Keys marked * may change when a run is resumed; another difference ends with a line that names the key, and status 2.
Units are told apart in [runs.md](runs.md): env_frames, agent_steps, updates.
"""


def reference() -> str:
    """The whole page as Markdown."""
    presets = {name: _preset_values(name) for name in preset_names()}
    parts = [INTRODUCTION, _section(Config, "", "The run", presets)]
    parts += [_section(kind, f"{key}.", f"`{key}`", presets) for key, kind in _blocks(Config)]
    rows = {f"any: {pattern}": row for pattern, row in yaml.safe_load(TASK_FILE.read_bytes()).items()}
    rows |= {f"{name}: {pattern}": row for name in presets for pattern, row in _block(name, "per_task").items()}
    parts.append(_overrides("Rows for a task", "Over a preset's own values where the task fits the pattern.", rows))
    per_frame = {name: block for name in presets if (block := _block(name, "per_frame"))}
    parts.append(_overrides("Per env_frame", PER_FRAME, per_frame))
    sizes = yaml.safe_load(SIZE_FILE.read_bytes())
    parts.append(_overrides("Sizes", "`--size NAME` puts these widths over any preset, all pillars on.", sizes))
    return "\n".join(parts)


def comments(kind: type) -> dict[str, str]:
    """Field -> the comment behind it, "" where there is none, of a dataclass whose fields take a line each."""
    source = inspect.getsource(kind)
    found = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = list(enumerate(source.splitlines(), 1))
    names = {line.split(":")[0].strip(): number for number, line in reversed(lines)}  # fields come before methods
    return {item.name: found.get(names[item.name], "") for item in fields(kind)}


def _blocks(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Dotted key and class of every block of settings inside a dataclass, depth first."""
    for item in fields(kind):
        if is_dataclass(item.default_factory):
            yield prefix + item.name, item.default_factory
            yield from _blocks(item.default_factory, f"{prefix}{item.name}.")


def _preset_values(name: str) -> dict[str, Any]:
    """A preset's own values as dotted keys, for a task that none of its rows is for."""
    values = load_preset(name, task="")
    return dict(flatten(values | {"task": load_preset(name)["task"]}))


def _block(name: str, block: str) -> dict[str, Any]:
    """A preset's block beside its settings, `per_task` or `per_frame`; empty where it has none."""
    return yaml.safe_load((PRESET_FOLDER / f"{name}.yaml").read_bytes()).get(block, {})


def _section(kind: type, prefix: str, title: str, presets: dict[str, dict[str, Any]]) -> str:
    """A block's table: key, type, default, presets, description."""
    described, default = comments(kind), from_mapping(kind, {})
    head = ["key", "type", "default", *presets, "meaning"]
    rows = []
    for item in fields(kind):
        key = prefix + item.name
        if is_dataclass(item.default_factory):
            continue
        value = getattr(default, item.name)
        own = [_cell(p[key]) if key in p and p[key] != value else "" for p in presets.values()]
        star = " *" if key in MAY_CHANGE else ""
        rows.append([f"`{key}`{star}", _type(item), _cell(value), *own, _escape(described[item.name])])
    return f"## {title}\n\n{' '.join((kind.__doc__ or '').split())}\n\n{_table(head, rows)}"


def _overrides(title: str, text: str, columns: dict[str, dict[str, Any]]) -> str:
    """A table with a row for each of `columns` and what it sets."""
    rows = [
        [f"`{name}`", ", ".join(f"`{key}` {_cell(value)}" for key, value in flatten(values))]
        for name, values in columns.items()
    ]
    return f"## {title}\n\n{text}\n\n{_table(['for', 'sets'], rows)}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _type(item: Field) -> str:
    if get_origin(item.type) is Literal:
        return " or ".join(str(choice) for choice in get_args(item.type))
    if get_origin(item.type) is dict:
        return "mapping"
    if item.type == Schedule:
        return "float or points"
    if isinstance(item.type, type):
        return item.type.__name__
    return " or ".join("null" if part is type(None) else part.__name__ for part in get_args(item.type))


def _cell(value: Any) -> str:
    """As YAML would have it, on one line."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:,}".replace(",", "_") if isinstance(value, int) and value >= 10_000 else _escape(str(value))


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
