"""The loop that ties environments, replay and agent together."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from agent.checkpoint import load_newest, save_checkpoint
from agent.config import Config, save_config
from agent.evaluation import evaluate
from agent.health import Health, expected_ranges
from agent.logger import Display, Logger
from agent.recording import record
from agent.schedule import Deadline, Every, Ratio
from envs import Driver, Step, make_vector_env
from replay import EpisodeStore, ReplayBuffer, check_budget, row_bytes

EVALUATION_SEED = 10_000  # evaluation episodes start here, far from those of training


class Trainer:
    """One training run in a folder. Its loop, with clocks and display left out, is

        step = driver.tick(policy)                  # one row per environment
        replay.add(step)
        for _ in range(ratio(agent_steps)):         # train_ratio / (batch_size * batch_length) updates a decision
            agent.update(replay.sample(batch_size, batch_length))

    A checkpoint is written by the clock, at every evaluation and at every stop. A run that is killed goes on from its
    last one: updates and episodes after it are done again.
    """

    def __init__(
        self,
        config: Config,
        logdir: Path,
        resume: bool = False,
        max_minutes: float | None = None,
        quiet: bool = False,
    ) -> None:
        self.config, self.logdir = config, Path(logdir)
        if config.threads > 0:
            torch.set_num_threads(config.threads)
        payload = load_newest(self.logdir / "checkpoints", "cpu")[0] if resume else None
        counters = payload["counters"] if payload is not None else {}
        self.env_frames, self.agent_steps = counters.get("env_frames", 0), counters.get("agent_steps", 0)
        self.seconds_before = counters.get("wall_seconds", 0.0)
        episode_seed = int(np.random.SeedSequence([config.seed, self.agent_steps]).generate_state(1)[0])
        self.driver = Driver(
            make_vector_env(
                config.task,
                config.env.num_envs,
                seed=episode_seed,
                action_repeat=config.env.action_repeat,
                render=config.env.render,
            )
        )
        try:
            self.agent = Agent(config, self.driver.action_dim)
            if config.compile:
                self.agent.compile()
            self._make_replay()
            replay = config.replay
            self.ratio = Ratio(config.train.train_ratio / (replay.batch_size * replay.batch_length))
            self.evaluate_clock = Every(config.train.eval_every)
            if payload is None:
                self.store.remove_newer(-1)  # what a run left that was killed before its first checkpoint
            else:
                self._restore(payload)
            save_config(config, self.logdir / "config.yaml")
        except BaseException:
            self.driver.close()
            raise
        self.random = np.random.default_rng(episode_seed)
        self.memory = self.agent.initial_state(config.env.num_envs)
        self.checkpoint_clock = Every(60 * config.train.checkpoint_minutes, last=time.monotonic())
        self.deadline = Deadline(max_minutes)
        at = {"updates": self.agent.updates, "env_frames": self.env_frames} if resume else {}
        self.logger = Logger(self.logdir, **at)
        self.display = Display(config.env_frames, quiet)
        self.health = Health(expected_ranges(config))
        self.returns = np.zeros(config.env.num_envs)
        self.recent: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.evaluated_at = -1
        self.update_seconds = 0.0
        self.stop_reason = ""

    def _make_replay(self) -> None:
        """The buffer and its folder. ReplayBudgetError now, not in a week, if memory or disk cannot hold it."""
        settings = self.config.replay
        capacity_bytes = None if settings.capacity_gb is None else int(settings.capacity_gb * 2**30)
        row = row_bytes((64, 64, 3), self.driver.action_dim)
        needed = min(settings.capacity_steps * row, capacity_bytes if capacity_bytes is not None else sys.maxsize)
        folder, key = self.logdir / "episodes", "replay.capacity_steps"
        if not settings.memmap:
            check_budget(needed, memory_key=f"replay.memmap to true, or {key}", unit_bytes=row)
        # Rendered frames compress at least fourfold (docs/dependencies.md), so episodes are given a quarter.
        quarters = 5 if settings.memmap else 1
        check_budget(0, folder, quarters * needed // 4, disk_key=key, unit_bytes=quarters * row // 4)
        self.store = EpisodeStore(folder)
        self.replay = ReplayBuffer(
            settings.capacity_steps,
            capacity_bytes,
            action_dim=self.driver.action_dim,
            num_envs=self.config.env.num_envs,
            seed=self.config.seed,
            store=self.store,
            memmap_folder=folder if settings.memmap else None,
            pin_memory=self.agent.device.type == "cuda",
        )

    def _restore(self, payload: dict[str, Any]) -> None:
        """Agent, clocks and replay of the run that goes on; episodes that ended after the checkpoint are dropped."""
        self.agent.load_state_dict(payload["agent"])
        self.store.remove_newer(payload["replay"]["last_number"])
        self.replay.load_state_dict(payload["replay"])
        self.replay.restore(self.store)
        self.ratio.load_state_dict(payload["ratio"])
        self.evaluate_clock.load_state_dict(payload["evaluate_clock"])

    # ---------------------------------------------------------------- the loop

    def run(self) -> None:
        """Train until the budget, the wall-clock limit or a signal; always ends with a checkpoint."""
        started = time.monotonic()
        self.started = started - self.seconds_before
        try:
            with stop_signals(self), self.driver, self.display:
                while not self._finished():
                    self._tick()
                if self.stop_reason == "" and self.evaluated_at != self.env_frames:
                    self._evaluate()
                self.replay.finish_partial()
                self._checkpoint()
        finally:
            self.driver.close()
            self.logger.close()

    def _finished(self) -> bool:
        if self.deadline.passed():
            self.stop_reason = "wall-clock limit"
        return self.stop_reason != "" or self.env_frames >= self.config.env_frames

    def _tick(self) -> None:
        step = self.driver.tick(self._policy)
        self.replay.add(step)
        self._count(step)
        replay = self.config.replay
        if self.env_frames < replay.prefill_frames or not self.replay.can_sample(replay.batch_length):
            self.ratio.skip(self.agent_steps)  # nothing to learn from yet: rows arrive as episodes end
        else:
            due = self.ratio(self.agent_steps)
            for done in range(due):
                if self.stop_reason != "" or self.deadline.passed():
                    self.ratio.give_back(due - done)
                    return
                self._update()
        if self.evaluate_clock.due(self.env_frames) and self.agent.updates > 0:
            self._evaluate()
            self._checkpoint()
        elif self.checkpoint_clock.due(time.monotonic()):
            self._checkpoint()

    def _policy(self, step: Step) -> np.ndarray:
        """Random actions until the prefill is done, the agent's (with exploration) after it."""
        if self.agent.updates == 0:
            return self.random.uniform(-1, 1, step.action.shape).astype(np.float32)
        actions, self.memory = self.agent.act(step.image, step.is_first, self.memory, "collect")
        return actions

    def _count(self, step: Step) -> None:
        """Decisions that have arrived with this row, and the returns of episodes that end in it."""
        decisions = int((~step.is_first).sum())
        self.agent_steps += decisions
        self.env_frames += decisions * self.config.env.action_repeat
        self.returns = np.where(step.is_first, 0.0, self.returns + step.reward)
        for value in self.returns[step.is_last]:
            self.recent["train_return"] = float(value)
            self.logger.write(self._counters(), {"train_return": float(value)})
        self.display.update(self.env_frames, self.agent.updates, self.recent)

    def _update(self) -> None:
        replay, begun = self.config.replay, time.monotonic()
        metrics = self.agent.update(self.replay.sample(replay.batch_size, replay.batch_length))
        self.update_seconds += time.monotonic() - begun
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] += 1
        if self.agent.updates % self.config.train.log_every == 0:
            means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
            self.sums.clear()
            self.counts.clear()
            means["updates_per_second"] = self.agent.updates / max(1e-9, self._seconds())
            notes = self.health.check(means, self.agent.updates)
            means["health_warnings"] = len(self.health.outside)
            self.logger.write(self._counters(), means)
            for line in notes:
                self.logger.note(f"update {self.agent.updates:,}: {line}")
                self.display.note(f"update {self.agent.updates:,}: {line}")
            self.recent["update_share"] = self.update_seconds / max(1e-9, self._seconds() - self.seconds_before)
        self.display.update(self.env_frames, self.agent.updates, self.recent)

    # ---------------------------------------------------------------- clocks

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _counters(self) -> dict[str, float]:
        return {
            "env_frames": self.env_frames,
            "agent_steps": self.agent_steps,
            "updates": self.agent.updates,
            "wall_seconds": round(self._seconds(), 2),
        }

    def _evaluate(self) -> None:
        """Deterministic episodes with fixed seeds, and a short video of the first."""
        self.evaluated_at = self.env_frames
        train = self.config.train
        result = evaluate(self.agent, train.eval_episodes, seed=self.config.seed + EVALUATION_SEED)
        self.recent["eval_return"] = result.mean
        self.logger.write(self._counters(), {"eval_return": result.mean, "eval_return_std": result.std})
        if train.video_frames > 0:
            path = self.logdir / "videos" / f"{self.env_frames:09d}.mp4"
            frames: list[np.ndarray] = []
            seed, length = self.config.seed + EVALUATION_SEED, train.video_frames
            record(self.agent, path, seed=seed, size=128, max_frames=length, on_frame=frames.append)
            self.logger.video("evaluation", np.stack(frames), fps=20)

    def _checkpoint(self) -> None:
        payload = {
            "counters": self._counters(),
            "agent": self.agent.state_dict(),
            "replay": self.replay.state_dict(),
            "ratio": self.ratio.state_dict(),
            "evaluate_clock": self.evaluate_clock.state_dict(),
        }
        save_checkpoint(self.logdir / "checkpoints", payload, self.agent.updates, self.config.train.keep_checkpoints)
        self.store.prune(self.replay.capacity)
        self.logger.flush()


@contextmanager
def stop_signals(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run after the current update; a second Ctrl-C interrupts at once."""

    def stop(number: int, _: Any) -> None:
        trainer.stop_reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
