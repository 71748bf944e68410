"""Two ranks train one agent as one process would: same gradients, same weights, same stops, exact resume."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from agent import Trainer, load, make_config
from agent.training.ranks import Ranks, _agree_on_name, join
from tests.agent.training.payloads import assert_same
from tests.agent.training.rank_work import METHODS, SETTINGS, start_two
from tests.agent.training.test_exact_resume import assert_same_run

FIRST_EPISODE = "00000000-26.ep"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    return start_two(folder)


@pytest.mark.parametrize("method", METHODS)
def test_halves_of_a_batch_give_the_gradients_and_statistics_of_the_whole(found, method):
    """The reference is an update of a process of its own on all rows, which knows nothing of ranks."""
    whole = found[0]["gradients"][method]["whole"]
    for rank in found:
        shared = rank["gradients"][method]["shared"]
        assert shared["gradients"].keys() == whole["gradients"].keys()
        for name, expected in whole["gradients"].items():
            error = torch.linalg.vector_norm(shared["gradients"][name] - expected)
            assert error <= 1e-5 * torch.linalg.vector_norm(expected) + 1e-7, name
        for name, expected in whole["buffers"].items():
            torch.testing.assert_close(shared["buffers"][name], expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_half_a_batch_alone_gives_other_gradients(found, method):
    """Else the comparison above would prove nothing: the two ranks' own rows differ."""
    shared, whole = (found[0]["gradients"][method][name]["gradients"] for name in ("shared", "whole"))
    assert any(not torch.equal(shared[name], whole[name]) for name in whole)  # rounding, at least
    assert all(torch.equal(shared[name], found[1]["gradients"][method]["shared"]["gradients"][name]) for name in whole)


def test_replicas_stay_equal_bit_for_bit(found):
    assert_same(found[0]["replica"], found[1]["replica"], "agent")
    assert found[0]["replica"]["updates"] == 4


def test_all_ranks_skip_an_update_that_is_not_finite_on_one(found):
    assert [rank["skipped"] for rank in found] == [{"skipped": 1, "changed": []}] * 2


def test_an_error_of_one_rank_is_raised_on_all(found):
    first, second = (rank["errors"] for rank in found)
    assert first == ["RankFailed: rank 1: no room", "NotFinite: rank 1: the actions are not finite"]
    assert second == ["ValueError: no room", "NotFinite: the actions are not finite"]


def test_ranks_with_other_settings_are_refused_before_anything_is_written(found, folder):
    line = "ValueError: seed: got 1 on rank 1, expected 0 as on rank 0"
    assert found[0]["differing"].startswith(line)
    assert found[1]["differing"] == "SystemExit: 2"  # the first rank has told it
    assert not (folder / "differing").exists()


def test_a_stop_of_one_rank_stops_all_at_the_same_update(found):
    first, second = (rank["stopped"] for rank in found)
    assert first["reason"] == second["reason"] == "SIGTERM"
    assert first["updates"] == second["updates"] == 9
    assert first["env_frames"] == second["env_frames"] < SETTINGS["env_frames"]


def test_weights_that_differ_by_a_bit_are_found_at_the_next_checkpoint(found):
    assert [rank["straight"]["drift"] for rank in found] == ["RankFailed"] * 2


def test_counters_are_sums_over_the_ranks(found):
    first, second = (rank["straight"] for rank in found)
    assert first["env_frames"] == second["env_frames"] >= SETTINGS["env_frames"]
    assert first["rows"] <= SETTINGS["replay.capacity_steps"] // 2
    decisions = first["updates"] * 16 / SETTINGS["train.train_ratio"]  # of 16 rows in a whole batch
    assert abs(decisions - (first["env_frames"] - SETTINGS["replay.prefill_frames"])) <= 4  # two rows of both


def test_a_stopped_run_of_two_ranks_resumes_exactly(found, folder):
    assert found[0]["resumed"]["reason"] == ""
    assert_same_run(folder / "straight", folder / "stopped")
    assert_same_run_of_the_second(folder / "straight", folder / "stopped")


def assert_same_run_of_the_second(first, second):
    ours, theirs = (sorted((logdir / "ranks" / "1" / "episodes").glob("*.ep")) for logdir in (first, second))
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed in /proc")
def test_no_thread_of_a_connection_outlives_leaving(found):
    """One that does can abort the process when Python ends, and torchrun then calls a finished run failed."""
    assert not [name for rank in found for name in rank["threads"] if "gloo" in name]


def test_ranks_play_episodes_of_their_own(found, folder):
    first, second = (folder / "straight" / place / FIRST_EPISODE for place in ("episodes", "ranks/1/episodes"))
    assert first.read_bytes() != second.read_bytes()


def test_a_run_of_two_ranks_is_evaluated_as_any_and_resumed_by_two_only(found, folder):
    agent = load(folder / "straight")
    assert agent.updates == found[0]["straight"]["updates"]
    with pytest.raises(ValueError, match="ranks: got 1 for a run of 2, expected 2 as before"):
        Trainer(make_config("debug", "reaching", SETTINGS | {"env_frames": 300}), folder / "straight", resume=True)


def test_a_killed_rank_restarts_all_and_the_run_resumes_exactly(found, folder, tmp_path):
    """A kill -9 after the evaluation's checkpoint, under torchrun, as a user starts it."""
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = ["run_agent.py", "train", "--task", "reaching", "--preset", "debug", "--logdir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*program, "--master-port", str(free_port()), *command, *settings],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not list(tmp_path.glob("checkpoints/*.pt")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        os.kill(int(json.loads((tmp_path / "ranks" / "1" / "lock").read_text())["pid"]), signal.SIGKILL)
        said = process.communicate()[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert f"resuming {tmp_path}" in said
    assert_same_run(folder / "straight", tmp_path)
    assert_same_run_of_the_second(folder / "straight", tmp_path)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("count", "changes", "line"),
    [
        (4, {}, "replay.batch_size: got 2 on 4 ranks, expected a multiple of 4"),
        (2, {"algo": "ppo"}, "algo: got 'ppo' on 2 ranks, expected 'aime'"),
        (2, {"world_model.rgb_config.method": "pcgrad", "world_model.rgb_config.every": 1}, "got 'pcgrad' on 2 ranks"),
        (2, {"replay.capacity_steps": 15}, "batch_length, capacity_steps: got"),
    ],
)
def test_what_ranks_cannot_share_is_one_line(count, changes, line):
    with pytest.raises(ValueError, match=line):
        Ranks(0, count).share(make_config("debug", "reaching", changes))


def test_the_shares_of_all_ranks_are_the_run(tmp_path):
    config = make_config("debug", "reaching", {"replay.batch_size": 6})
    shares = [Ranks(index, 3).share(config) for index in range(3)]
    assert Ranks().share(config) is config
    assert sum(share.replay.batch_size for share in shares) == 6
    assert sum(share.replay.capacity_steps for share in shares) <= config.replay.capacity_steps
    assert len({share.seed for share in shares}) == 3


def test_a_rank_that_waits_in_vain_says_so(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(ValueError, match=r"rank 1 of 2: not all ranks arrived at 127.0.0.1:\d+ within 0.3 s"):
        join(0.3)
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match="RANK: got '' with WORLD_SIZE=2"):
        join(0.3)


def test_names_of_a_restart_are_new_whatever_the_store_still_holds():
    """torchrun's store outlives its processes; with their keys in it new ones would wait for dead ones."""
    store = torch.distributed.HashStore()
    store.set("greeting/1", "of a process that has died")
    with ThreadPoolExecutor(3) as pool:
        first, second = (
            {future.result() for future in [pool.submit(_agree_on_name, store, index, 3, 30.0) for index in range(3)]}
            for _ in range(2)
        )
    assert len(first) == len(second) == 1
    assert first != second


def test_a_process_without_torchrun_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join()
    assert (ranks.index, ranks.count) == (0, 1)
    assert not torch.distributed.is_initialized()
