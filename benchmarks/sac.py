"""Stable-Baselines3's SAC on the very frames that our agent gets: the arm "sac" of learning.py, which calls this.

    python benchmarks/sac.py --task cartpole_swingup --preset cpu --env_frames 100000 --logdir runs/sac [--seed 0]
        [--threads 2] [--max_minutes 90] [--json evaluation.json] [--any.key value]

Action repeat, render profile and prefill are the preset's for the task (or --any.key's); all other settings of ours
change nothing. The last three frames are stacked; everything that SETTINGS does not name is Stable-Baselines3's
default. The folder gets config.yaml, metrics.jsonl and the state that the same command with a larger --env_frames goes
on from. With --json, once all frames are spent, the policy plays held-out episodes and their figures go there.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from agent.agent import Mode, choose_device
from agent.checkpoint import checkpoint_paths, load_newest, save_checkpoint
from agent.config import Config, parse_overrides
from agent.evaluation import play_episodes, random_evaluation
from agent.logger import Logger
from agent.schedule import Deadline
from envs import make_env
from envs.tasks import checked_task

EPISODES, FIRST_SEED = 10, 500_000  # of the evaluation
STACK = 3  # frames of an observation
SETTINGS: dict[str, Any] = {"batch_size": 128, "gamma": 0.99, "learning_rate": 1e-3, "gradient_steps": 1}
BUFFER_BYTES = 3 * 2**30  # two stacks of frames a row; a longer run keeps its newest rows
ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
CHUNK = 10  # agent_steps between two looks at the clock


class Player:
    """The policy as `agent.evaluation.play_episodes` takes it; its memory is the stack of frames."""

    def __init__(self, model: SAC) -> None:
        self._model = model

    def initial_state(self, num_envs: int) -> NDArray[np.uint8]:
        """Black frames [N, 64, 64, 3 STACK], as VecFrameStack has them before an episode."""
        return np.zeros((num_envs, 64, 64, 3 * STACK), np.uint8)

    def act(
        self, images: NDArray[np.uint8], is_first: NDArray[np.bool_], state: NDArray[np.uint8], mode: Mode
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Actions [N, A] for images [N, 64, 64, 3], and the stack that holds them."""
        state = np.concatenate([state[..., 3:], images], axis=-1)
        actions, _ = self._model.predict(state.transpose(0, 3, 1, 2), deterministic=mode == "deterministic")
        return actions.astype(np.float32), state


class Returns(BaseCallback):
    """Writes the return of every episode that ends."""

    def __init__(self, metrics: Logger, repeat: int, started: float) -> None:
        super().__init__()
        self._metrics, self._repeat, self._started = metrics, repeat, started

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                now = counters(self.model, self._repeat, self._started)
                self._metrics.write(now, {"train_return": float(info["episode"]["r"])})
        return True


def counters(model: Any, repeat: int, started: float) -> dict[str, Any]:
    """The counters of a line of metrics, under the names of our own runs."""
    return {
        "env_frames": model.num_timesteps * repeat,
        "agent_steps": model.num_timesteps,
        "updates": model._n_updates,  # Stable-Baselines3 has no public name for it
        "wall_seconds": round(time.monotonic() - started, 2),
    }


def stacked_env(config: Config) -> VecEnv:
    """One env whose observations are the last STACK frames, uint8 [1, 3 STACK, 64, 64]."""

    def make() -> Monitor:
        return Monitor(make_env(config.task, action_repeat=config.env.action_repeat, render=config.env.render))

    return VecTransposeImage(VecFrameStack(DummyVecEnv([make]), STACK))


def settings(config: Config) -> dict[str, Any]:
    """Everything that is handed to SAC, ready for its constructor."""
    repeat = config.env.action_repeat
    rows = min(config.env_frames // repeat, BUFFER_BYTES // (2 * STACK * 3 * 64 * 64))
    return SETTINGS | {"buffer_size": rows, "learning_starts": config.replay.prefill_frames // repeat}


def build(config: Config, state: Path) -> SAC:
    """A new SAC, or the one that `save` left in `state`, with a buffer as large as this budget asks for."""
    env, device = stacked_env(config), choose_device(config.device)
    if not state.is_dir():
        return SAC("CnnPolicy", env, seed=config.seed, device=device, **settings(config))
    model = SAC.load(state / "model.zip", env, device, **settings(config))
    steps, buffer = model.num_timesteps, model.replay_buffer
    assert buffer is not None
    for name in ARRAYS:
        rows = np.load(state / f"{name}.npy", mmap_mode="r")
        getattr(buffer, name)[: len(rows)] = rows
    buffer.pos, buffer.full = steps % buffer.buffer_size, steps >= buffer.buffer_size  # a row is an agent step
    model.set_random_seed(int(np.random.SeedSequence([config.seed, steps]).generate_state(1)[0]))
    return model


def save(model: SAC, state: Path) -> None:
    """Model and replay buffer into the folder `state`, in the place of older ones."""
    partial, buffer = state.with_name(f"{state.name}.partial"), model.replay_buffer
    assert buffer is not None
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    model.save(partial / "model.zip")
    for name in ARRAYS:
        np.save(partial / f"{name}.npy", getattr(buffer, name)[: buffer.size()])
    shutil.rmtree(state, ignore_errors=True)
    partial.rename(state)


def train(config: Config, logdir: Path, max_minutes: float | None) -> SAC | None:
    """Train to config.env_frames -> the model; None where the wall-clock limit came first."""
    state, checkpoints, repeat = logdir / "state", logdir / "checkpoints", config.env.action_repeat
    model = build(config, state)
    is_resumed = state.is_dir() and bool(checkpoint_paths(checkpoints))
    before = load_newest(checkpoints)[0]["counters"]["wall_seconds"] if is_resumed else 0.0
    started, deadline = time.monotonic() - before, Deadline(max_minutes)
    first = counters(model, repeat, started)
    at = {"updates": first["updates"], "env_frames": first["env_frames"]} if is_resumed else {}
    metrics = Logger(logdir, **at)
    steps = config.env_frames // repeat
    try:
        while model.num_timesteps < steps and not deadline.passed():
            chunk = min(CHUNK, steps - model.num_timesteps)
            model.learn(chunk, Returns(metrics, repeat, started), reset_num_timesteps=False)
        if model.num_timesteps > first["agent_steps"]:
            save(model, state)
            now = counters(model, repeat, started)
            save_checkpoint(checkpoints, {"counters": now}, now["updates"], keep=1)
    finally:
        metrics.close()
        if model.env is not None:
            model.env.close()
    return model if model.num_timesteps >= steps else None


def evaluate(model: SAC, config: Config) -> dict[str, Any]:
    """Held-out episodes with deterministic, sampled and random actions, in the form of `run_agent.py evaluate`."""
    found: dict[str, Any] = {"updates": model._n_updates}
    modes: tuple[Mode, ...] = ("deterministic", "sample")
    for mode in modes:
        torch.manual_seed(FIRST_SEED)  # what sampled actions are drawn from
        found[mode] = play_episodes(Player(model), config, EPISODES, FIRST_SEED, mode, mode).to_json()
    found["random"] = random_evaluation(config, EPISODES, FIRST_SEED).to_json()
    return found


def describe(config: Config) -> dict[str, Any]:
    """What config.yaml says: the settings of ours that matter here, and SAC's."""
    ours = {key: getattr(config, key) for key in ("task", "preset", "seed", "env_frames", "device", "threads")}
    return ours | {"env": asdict(config.env) | {"num_envs": 1}, "sac": settings(config) | {"frame_stack": STACK}}


def check_same_run(path: Path, wanted: dict[str, Any]) -> None:
    """ValueError where config.yaml belongs to a run of other settings than those that may grow with the budget."""
    if path.is_file():
        saved = yaml.safe_load(path.read_text())
        for key in ("task", "preset", "seed", "env"):
            if saved.get(key) != wanted[key]:
                raise ValueError(f"logdir: '{path.parent}' holds another run ({key}: {saved.get(key)})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, write; exit status 0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--env_frames", type=int, required=True, help="budget; those of earlier calls count")
    parser.add_argument("--logdir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--max_minutes", type=float, default=None, help="stop training after so many minutes")
    parser.add_argument("--json", type=Path, default=None, help="file for the evaluation; none without it")
    given, overrides = parser.parse_known_args(arguments)
    own = [f"--{name}={getattr(given, name)}" for name in ("env_frames", "seed", "threads")]
    try:
        Deadline(given.max_minutes)
        config = parse_overrides([*overrides, *own], given.preset, checked_task(given.task))
        check_same_run(given.logdir / "config.yaml", describe(config))
    except ValueError as error:
        print(f"sac.py: error: {error}", file=sys.stderr)
        return 2
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    given.logdir.mkdir(parents=True, exist_ok=True)
    (given.logdir / "config.yaml").write_text(yaml.safe_dump(describe(config), sort_keys=False))
    model = train(config, given.logdir, given.max_minutes)
    if model is not None and given.json is not None:
        given.json.write_text(json.dumps(evaluate(model, config), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
