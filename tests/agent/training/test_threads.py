"""Threads: the number asked for, that of OMP_NUM_THREADS, or the fastest; the same in a run that goes on."""

from dataclasses import replace

import pytest
import torch

from agent.config.files import load_config
from agent.config.presets import make_config
from agent.run_folder.checkpoint import load_newest
from agent.stable_baselines.baselines import one_pass
from agent.training import threads
from agent.training.threads import Pace, Threads, choose_threads, fastest
from agent.training.trainer import Trainer
from run_agent import main

CONFIG = make_config("cpu", "reaching")
DEBUG = ["train", "--preset", "debug", "--env.num_envs", "1", "--train.video_frames", "0", "--replay.prefill_frames=30"]


def choose(config):
    """The choice of a run of ours, by updates of `threads.one_update` as it is now."""
    return choose_threads(config, threads.one_update)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No OMP_NUM_THREADS, nothing measured yet, and torch's number of threads as before."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_measured", {})
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """A machine of four cores on which an update takes the seconds that `machine(...)` says for 1, 2 and 4 threads."""

    def build(seconds: dict[int, float], crowded: tuple[int, ...] = ()) -> list[int]:
        timed, now = [], [0.0]

        def update() -> None:
            timed.append(torch.get_num_threads())
            now[0] += seconds[timed[-1]]

        monkeypatch.setattr(threads, "choices", lambda _: [1, 2, 4])
        monkeypatch.setattr(threads, "one_update", lambda _: update)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
        speed = lambda: 1.0 if torch.get_num_threads() in crowded else 100.0  # noqa: E731
        monkeypatch.setattr(threads, "operations_per_second", speed)
        return timed

    return build


@pytest.mark.parametrize(
    ("seconds", "count", "tried"),
    [
        ({1: 0.4, 2: 0.2, 4: 0.1}, 4, {1, 2, 4}),
        ({1: 0.4, 2: 0.2, 4: 0.3}, 2, {1, 2, 4}),
        ({1: 0.2, 2: 0.3, 4: 0.1}, 1, {1, 2}),  # more of them than gain nothing are not tried
        ({1: 0.2, 2: 0.19, 4: 0.185}, 1, {1, 2, 4}),  # alike: the fewest
    ],
)
def test_the_fastest_number_is_taken(machine, seconds, count, tried):
    timed = machine(seconds)
    before = torch.get_num_threads()
    found = choose(CONFIG)
    assert (found.count, set(timed)) == (count, tried)
    assert found.update_seconds == pytest.approx(seconds[count])
    assert str(found).startswith(f"{count} (measured: 1 thread {1000 * seconds[1]:.0f} ms")
    assert torch.get_num_threads() == before
    timed.clear()
    assert choose(replace(CONFIG, seed=3)) == found  # measured once
    assert timed == []


def test_threads_that_wait_for_a_core_are_not_tried(machine):
    timed = machine({1: 0.2}, crowded=(2, 4))
    assert str(choose(CONFIG)) == "1 (measured: 1 thread 200 ms per update, slower: 2, 4)"
    assert set(timed) == {1}


def test_what_is_asked_for_is_taken_unmeasured(machine, monkeypatch):
    timed = machine({1: 0.2}, crowded=(2, 4))
    assert str(choose(replace(CONFIG, threads=3))) == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert str(choose(CONFIG)) == "2 (OMP_NUM_THREADS)"
    assert str(choose(replace(CONFIG, threads=2))) == "2"
    assert str(choose(replace(CONFIG, threads=3))) == "3 (not OMP_NUM_THREADS=2, which --threads 0 uses)"
    assert timed == []
    monkeypatch.setenv("OMP_NUM_THREADS", "many")  # which OpenMP takes for none
    assert choose(CONFIG).count == 1


@pytest.mark.parametrize("algo", ["aime", "sac", "ppo"])
def test_an_update_of_every_algorithm_is_measured(monkeypatch, algo):
    monkeypatch.setattr(threads, "choices", lambda _: [1, 2])
    speeds = iter([100.0, 100.0, 1.0])  # alone, with one thread that is not asked, with two that wait
    monkeypatch.setattr(threads, "operations_per_second", lambda: next(speeds) if torch.get_num_threads() == 1 else 1.0)
    found = choose_threads(
        make_config("debug", "reaching", {"algo": algo}), threads.one_update if algo == "aime" else one_pass
    )
    assert found.count == 1
    assert 0 < found.update_seconds < 60


def test_measuring_changes_nothing(monkeypatch, tmp_path):
    weights = []
    state = torch.get_rng_state()
    for name, count in (("measured", 0), ("asked", 1)):
        monkeypatch.setattr(threads, "choices", lambda _: [1, 2])
        monkeypatch.setattr(threads, "operations_per_second", lambda: 100.0 / torch.get_num_threads() ** 5)
        overrides = {"env_frames": 130, "env.num_envs": 1, "train.video_frames": 0, "threads": count}
        Trainer(make_config("debug", None, overrides), tmp_path / name, quiet=True).run()
        weights.append(load_newest(tmp_path / name / "checkpoints")[0]["agent"]["model"])
        assert load_config(tmp_path / name / "config.yaml").threads == 1
    assert list(threads._measured) != []
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    torch.set_rng_state(state)


def test_a_run_goes_on_with_as_many_threads(monkeypatch, capsys, tmp_path):
    command = [*DEBUG, "--logdir", str(tmp_path / "run")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([*command, "--env_frames", "60"]) == 0
    assert "  threads 1 (OMP_NUM_THREADS)\n" in capsys.readouterr().out
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert main([*command, "--env_frames", "62"]) == 0
    assert "  threads 1 (not OMP_NUM_THREADS=2, which --threads 0 uses)\n" in capsys.readouterr().out
    assert main([*command, "--env_frames", "64", "--threads", "0"]) == 0
    assert "  threads 2 (OMP_NUM_THREADS)\n" in capsys.readouterr().out
    assert load_config(tmp_path / "run" / "config.yaml").threads == 2


def test_the_cpu_preset_leaves_the_number_open():
    assert make_config("cpu", "cartpole_swingup").threads == 0
    assert fastest({1: 1.0, 2: 0.95}) == 1
    assert fastest({1: 1.0, 2: 0.9, 4: 0.5}) == 4


# ---------------------------------------------------------------- an overloaded machine


def lines(pace: Pace, *windows: float) -> list[str]:
    """What is told in windows of ten seconds whose updates take so many each."""
    told = []
    for seconds in windows:
        told += [line for line in (pace.add(seconds) for _ in range(round(10 / seconds))) if line]
    return told


def test_updates_that_become_slow_are_told_once():
    (line,) = lines(Pace(Threads(2, "")), 0.5, 0.625, 2.5, 2.5)
    assert line.startswith("an update takes 2,500 ms, 5.0 times as long as before: the machine is overloaded (load ")
    assert line.endswith("; stop and resume with --threads 0, which measures again")
    (line,) = lines(Pace(Threads(1, "", 0.5)), 0.625, 2.5)
    assert "5.0 times" in line
    assert "--threads" not in line  # one thread is the fewest


def test_usual_updates_and_a_slow_start_are_not_told():
    assert lines(Pace(Threads(2, "")), 0.5, 1.25, 0.625) == []
    assert lines(Pace(Threads(2, "", 0.5)), 5.0, 0.625, 0.5) == []  # compiling, at the start


def test_an_overloaded_machine_is_told_at_the_start(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for load, is_told in ((9.04, True), (3.9, False)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert main([*DEBUG, "--logdir", str(tmp_path / f"{load}"), "--env_frames", "60", "--threads", "1"]) == 0
        assert ("load 9.0 on 4 cores in the last minute: other programs are busy" in capsys.readouterr().out) == is_told
