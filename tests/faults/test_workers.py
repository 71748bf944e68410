"""No environment worker outlives the process that started it, and a run survives the loss of one."""

import os
import subprocess
import sys
import time
from pathlib import Path

from agent import Trainer, make_config
from agent.run_folder.checkpoint import load_newest
from agent.run_folder.logger import read_metrics
from benchmarks.reliability import injection, processes

ROOT = Path(__file__).resolve().parents[2]

# A trainer's place: a process with two workers, which it tells of. One of them never comes back from its step.
PARENT = """
import time
from functools import partial
from gymnasium.vector import AsyncVectorEnv
from envs.factory import _make
from envs.reaching import ReachingEnv

class Hanging(ReachingEnv):
    def _advance(self, action):
        while action[0] > 0:
            pass
        return super()._advance(action)

def main():
    envs = AsyncVectorEnv([partial(_make, Hanging, None, None)] * 2, context="forkserver")
    envs.reset()
    envs.step_async([[1.0], [0.0]])
    print(*[process.pid for process in envs.processes], flush=True)
    time.sleep(600)

if __name__ == "__main__":
    main()
"""


def test_workers_end_with_a_killed_parent_even_in_a_step_that_hangs(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        below = processes.descendants(parent.pid)
        assert len(workers) == 2
        assert set(workers) <= set(below)
        parent.kill()
    deadline = time.monotonic() + 60  # a loaded machine's; a second elsewhere
    while any(map(processes.is_running, below)):
        assert time.monotonic() < deadline, "workers are left"
        time.sleep(0.05)


SETTINGS = {"env.num_envs": 1, "env_frames": 130, "replay.prefill_frames": 60, "train.eval_every": 1000}
SETTINGS |= {"train.eval_episodes": 1, "train.video_frames": 0}


def trained(logdir, resume=False):
    trainer = Trainer(make_config("debug", "reaching", SETTINGS), logdir, resume=resume, quiet=True)
    trainer.run()
    return trainer


def test_an_environment_that_raises_costs_the_rest_of_its_episode(tmp_path):
    with injection.failing_env("raise", range(70, 71)):
        trainer = trained(tmp_path)
    assert not trainer.has_failed
    assert trainer.env_frames == 130
    assert [row["env_restarts"] for row in read_metrics(tmp_path / "metrics.jsonl") if "env_restarts" in row] == [1]
    lengths = [int(path.stem.split("-")[1]) for path in sorted((tmp_path / "episodes").glob("*.ep"))]
    assert sorted(set(lengths)) == [lengths[2], 26]  # 25 steps an episode: the third was cut at its 20th step
    assert lengths[2] == 20


def test_an_environment_that_always_raises_ends_the_run_with_a_checkpoint(tmp_path):
    with injection.failing_env("raise", range(70, 10_000)):
        trainer = trained(tmp_path)
    assert trainer.has_failed
    assert "environment 0 failed after 3 restarts" in trainer.stop_reason
    assert load_newest(tmp_path / "checkpoints")[0]["counters"]["env_frames"] == trainer.env_frames < 130
    assert trained(tmp_path, resume=True).env_frames == 130  # once it is mended
