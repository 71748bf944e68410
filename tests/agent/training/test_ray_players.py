"""Collectors as actors of a real Ray cluster on this machine, which is started for the test: slow."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent import Trainer, make_config
from agent.training.ray_players import _reason
from replay import EpisodeStore
from tests.envs.sleepers import is_alive

RAY = Path(sys.executable).with_name("ray")
SETTINGS = {"env_frames": 200, "env.num_envs": 1, "env.collectors": 2, "replay.prefill_frames": 40}
SETTINGS |= {"train.video_frames": 0, "train.train_ratio": 0.4, "env.weights_every": 1, "threads": 1}


def test_reports_of_ray_become_one_line():
    died = "The actor died unexpectedly before finishing this task.\n\tclass_name: Player\n\tpid: 12"
    assert _reason(died) == "The actor died unexpectedly before finishing this task."
    failed = "The actor died because of an error raised in its creation task, ray::Player.__init__()\nValueError: no GL"
    assert _reason(failed) == "ValueError: no GL"


@pytest.fixture
def cluster(tmp_path_factory):
    """The address of a cluster of two CPUs, which ends with the test; others on this machine are left alone."""
    ray = pytest.importorskip("ray", reason="needs ray, of the extra `scale`")
    folder = tmp_path_factory.mktemp("r")
    options = ["--head", "--block", "--num-cpus=2", "--port=6397", "--include-dashboard=false"]
    options += ["--disable-usage-stats", "--object-store-memory=100000000", f"--temp-dir={folder}"]
    head = subprocess.Popen([RAY, "start", *options], stdout=subprocess.PIPE, text=True)
    try:
        assert head.stdout is not None
        for line in head.stdout:  # ends with the head
            if "ray start --address=" in line:
                yield line.split("'")[1]
                break
        else:
            pytest.skip("no Ray head starts here")
    finally:
        ray.shutdown()
        head.terminate()
        head.communicate(timeout=60)


@pytest.mark.slow
def test_a_run_with_actors_one_of_which_is_killed(cluster, tmp_path):
    trainer = Trainer(make_config("debug", "counting", SETTINGS | {"env.ray": cluster}), tmp_path / "run", quiet=True)
    killed: list[int] = []
    take = trainer.collector._fetch

    def kill_once(updates):
        if trainer.collector.agent_steps >= 60 and not killed:
            killed.append(players()[0])
            os.kill(killed[0], signal.SIGKILL)
        take(updates)

    trainer.collector._fetch = kill_once
    trainer.run()
    assert trainer.env_frames == 200
    assert not is_alive(killed[0])
    store = EpisodeStore(tmp_path / "run" / "episodes")
    found = [store.load_metadata(path) for path in store.paths()]
    for index, count in enumerate(trainer.collector.numbers):
        assert [facts["number"] for facts in found if facts["collector"] == index] == list(range(count))
    assert sum(entry.length - 1 for entry in store.entries()) == 200
    assert max(facts["updates"] for facts in found) > 0
    assert trainer.collector.restarts == 1


def players() -> list[int]:
    """The processes of actors on this machine."""
    names = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in names.splitlines() if "ray::Player" in line]
