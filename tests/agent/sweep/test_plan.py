"""A sweep's definition: the runs it makes, what may be added to it, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.config.presets import parse_overrides
from agent.sweep.plan import Sweep, load_sweep, parse_grid, save_sweep

SMALL = Sweep(
    "debug",
    ["counting", "reaching"],
    2,
    {"env_frames": "200"},
    {"world_model.max_components": ["1", "8"], "losses.beta": ["[[0, 0.0], [9, 1.0]]", "0.5", "2"]},
)


def test_every_combination_is_run_once_the_first_seed_first(tmp_path):
    runs = SMALL.runs(tmp_path)
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * 2 * 3
    assert [run.config.seed for run in runs] == [0] * 12 + [1] * 12
    found = {(c.task, c.seed, c.world_model.max_components, str(c.losses.beta)) for c in (run.config for run in runs)}
    assert len(found) == 24
    assert ("reaching", 1, 8, "[[0.0, 0.0], [9.0, 1.0]]") in found
    assert runs[1].name == "counting-max_components1-beta0.5-seed0"
    assert runs[1].logdir == tmp_path / "runs" / runs[1].name


def test_keys_that_end_alike_are_named_in_full(tmp_path):
    grid = {f"world_model.{part}_config.enabled": ["true"] for part in ("perceiver", "attention")}
    [run] = Sweep("debug", ["counting"], grid=grid).runs(tmp_path)
    parts = ("perceiver_config.enabledtrue", "attention_config.enabledtrue")
    assert run.name == "-".join(["counting", *(f"world_model.{part}" for part in parts), "seed0"])


def test_a_run_s_command_makes_its_config(tmp_path):
    for run in SMALL.runs(tmp_path):
        program, train, *options = run.command(3)
        values = dict(option.removeprefix("--").split("=", 1) for option in options)
        assert (Path(program).name, train) == ("run_agent.py", "train")
        assert Path(values.pop("logdir")) == run.logdir
        task, preset = values.pop("task"), values.pop("preset")
        made = parse_overrides([f"--{key}={value}" for key, value in values.items()], preset, task)
        assert made == replace(run.config, threads=3)


def test_the_budget_is_named_even_if_it_is_the_preset_s(tmp_path):
    [run] = Sweep("debug", ["counting"]).runs(tmp_path)
    assert "--env_frames=400" in run.command(None)
    assert not any(word.startswith("--threads") for word in run.command(None))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("env_frames=1,2,1", ["1", "2"]),
        ("losses.beta=[[0, 0.0], [5000, 1.0]],1.0", ["[[0, 0.0], [5000, 1.0]]", "1.0"]),
        ("env.kwargs={a: 1, b: [2, 3]}", ["{a: 1, b: [2, 3]}"]),
    ],
)
def test_values_are_split_outside_of_brackets(text, values):
    assert list(parse_grid([text]).values()) == [values]


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["world_model.max_component=1"], "'world_model.max_components'"),
        (["env_frames"], "got 'env_frames', expected key=value"),
        (["env_frames=1,,2"], "got 'env_frames=1,,2'"),
        (["env_frames=1", "env_frames=2"], "got 'env_frames=2'"),
    ],
)
def test_bad_grids_are_refused(texts, named):
    with pytest.raises(ValueError, match=named):
        parse_grid(texts)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tasks": ["countin"]}, "'counting'"),
        ({"preset": "debgu"}, "'debug'"),
        ({"seeds": 0}, "seeds: got 0"),
        ({"grid": {"replay.batch_size": ["2", "two"]}}, "replay.batch_size: got 'two'"),
        ({"grid": {"behavior.horizon": ["2", "0"]}}, "behavior.horizon: got 0"),
        ({"grid": {"seed": ["1", "2"]}}, "seed: got a value, expected the option --seeds"),
        ({"settings": {"task": "counting"}}, "task: got a value, expected the option --tasks"),
        ({"grid": {"env_frames": ["1", "2"]}}, "env_frames: got --env_frames and --set env_frames"),
        ({"settings": {"env_frames": "50"}}, "env_frames: got 50, expected at least replay.prefill_frames"),
        ({"grid": {"losses.beta": ["[[0,1]]", "[[0;1]]"]}}, "losses.beta: got"),
        ({"grid": {"replay.prefill_frames": ["90 ", "90!"]}}, "replay.prefill_frames: got '90!'"),
    ],
)
def test_bad_definitions_are_refused(tmp_path, changes, named):
    with pytest.raises(ValueError, match=named):
        replace(SMALL, **changes).runs(tmp_path)


def test_values_that_make_one_name_are_refused(tmp_path):
    texts = ["[[0, 0.0], [9, 1.0]]", "[[0, 0.0],  [9, 1.0]]"]
    with pytest.raises(ValueError, match="set: got two values that make the same name"):
        Sweep("debug", ["counting"], grid={"losses.beta": texts}).runs(tmp_path)


def test_a_sweep_may_grow_but_not_change():
    grown = replace(SMALL, tasks=["reaching", "walker_walk", "counting"], seeds=5, settings={"env_frames": "900"})
    assert SMALL.lost(grown) == ""
    assert SMALL.lost(replace(grown, grid=SMALL.grid | {"losses.beta": [*SMALL.grid["losses.beta"], "3"]})) == ""
    changes = {
        "seeds: 0 1 -> 0": {"seeds": 1},
        "tasks: counting reaching -> counting": {"tasks": ["counting"]},
        "preset: debug -> cpu": {"preset": "cpu"},
        "replay.batch_length: None -> 4": {"settings": {"replay.batch_length": "4"}},
        "world_model.max_components: 1 8 -> 1": {"grid": SMALL.grid | {"world_model.max_components": ["1"]}},
        "keys of --set: ['losses.beta', 'world_model.max_components'] -> []; "
        "world_model.max_components: 1 8 -> ; losses.beta: [[0, 0.0], [9, 1.0]] 0.5 2 -> ": {"grid": {}},
    }
    for line, change in changes.items():
        assert SMALL.lost(replace(SMALL, **change)) == line


def test_runs_of_a_sweep_that_grew_keep_their_names(tmp_path):
    grown = replace(SMALL, seeds=3, grid=SMALL.grid | {"world_model.max_components": ["1", "8", "15"]})
    before, after = ({run.name: run.config for run in sweep.runs(tmp_path)} for sweep in (SMALL, grown))
    assert len(after) == 3 * 2 * 3 * 3
    assert before.items() <= after.items()


def test_a_definition_is_read_as_it_was_written(tmp_path):
    assert load_sweep(tmp_path) is None
    save_sweep(SMALL, tmp_path)
    assert load_sweep(tmp_path) == SMALL
    (tmp_path / "sweep.yaml").write_text("preset: debug\ntasks: counting\n")
    with pytest.raises(ValueError, match=r"sweep.yaml: tasks: got 'counting', expected a list of short texts"):
        load_sweep(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"holds something else, expected a new folder or that of a sweep"):
        load_sweep(tmp_path)
