"""The trainer of a baseline: Stable-Baselines3's loop with this package's clocks, counters and logs around it."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agent.config.files import save_config
from agent.config.settings import Config
from agent.learning.agent import choose_device
from agent.run_folder.lock import RunLock
from agent.run_folder.logger import Logger
from agent.run_folder.trackers import DEFAULT, open_trackers
from agent.stable_baselines.baselines import Baseline, buffer_rows, make_model, one_pass, restore, save, stacked_envs
from agent.training.clocks import Deadline, Every
from agent.training.display import Display
from agent.training.due_work import check_learnable
from agent.training.evaluator import Evaluator
from agent.training.recovery import protected
from agent.training.threads import choose_threads
from envs.workers import close_env


class BaselineTrainer:
    """One run of SAC or PPO in a folder, with the same logs, clocks and stops as `agent.Trainer`.

    A resumed run has its weights, optimizers and replay, but begins new episodes. PPO learns from whole rollouts: it
    ends with the rollout in which env_frames are spent, and a stop loses the rows of an unfinished one.
    """

    def __init__(
        self,
        config: Config,
        logdir: Path,
        resume: bool = False,
        max_minutes: float | None = None,
        quiet: bool = False,
        log: Sequence[str] = DEFAULT,
    ) -> None:
        self.threads = choose_threads(config, one_pass)
        torch.set_num_threads(self.threads.count)
        config = replace(config, threads=self.threads.count)
        self.config, self.logdir = config, Path(logdir)
        if config.algo == "sac":  # PPO has no prefill, and always finishes the rollout that it begins
            check_learnable(config)
        self._envs = stacked_envs(config)
        self._lock = RunLock(self.logdir)
        try:
            self.agent = Baseline(
                make_model(config, self._envs, choose_device(config.device), buffer_rows(config)), config
            )
            self._lock.acquire()
            counters = restore(self.agent, self.logdir) if resume else {}
            save_config(config, self.logdir / "config.yaml")
            at = {name: counters[name] for name in ("updates", "env_frames") if resume}
            self.logger = Logger(self.logdir, **at)
        except BaseException:
            self._envs.close()
            self._lock.release()
            raise
        self._started = time.monotonic() - counters.get("wall_seconds", 0.0)
        self._evaluate_clock = Every(config.train.eval_every)
        self._evaluate_clock.due(self.env_frames)
        self._checkpoint_clock = Every(60 * config.train.checkpoint_minutes, last=time.monotonic())
        self._deadline = Deadline(max_minutes)
        self.display = Display(config.env_frames, quiet)
        self.logger.attach(*open_trackers(log, self.logdir, asdict(config), resume, self.display.note))
        self._evaluator = Evaluator(config, self.logdir, self.note, video_frames=0)
        self._recent: dict[str, float] = {}
        self._logged = self.agent.updates
        self._evaluated_at = self.env_frames if resume else -1
        self.stop_reason = ""
        self.has_failed = False
        self.is_whole = True  # whether the run is between two steps, in a state that can be saved

    @property
    def env_frames(self) -> int:
        """The simulator's control steps over all environments."""
        return self.agent.algorithm.num_timesteps * self.config.env.action_repeat

    def run(self) -> None:
        """Train until the budget, the wall-clock limit, a signal or a failure, and write a checkpoint if possible.

        An unexpected error, of the environments too, is raised after a checkpoint, unless it came during an update.
        """
        repeat, model = self.config.env.action_repeat, self.agent.algorithm
        left = -(-self.config.env_frames // repeat) - model.num_timesteps
        with protected(self, self._checkpoint):
            if left > 0 and not self._stopping():
                model.learn(left, _EveryStep(self), log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            if self.stop_reason == "":
                self._evaluate()
            self._checkpoint()
            self.logger.close()

    def close(self) -> None:
        """Release environments, logs and folder; a second call does nothing."""
        close_env(self._envs)
        with suppress(OSError):  # a full disk, which has been reported already
            self.logger.close()
        self._lock.release()

    def stop(self, reason: str) -> None:
        """Ask the run to end soon."""
        self.stop_reason = reason

    def fail(self, reason: str) -> None:
        """Ask the run to end soon as failed, for a reason that the user has to fix."""
        self.stop(reason)
        self.has_failed = True

    def note(self, line: str) -> None:
        """Show and log a line of text."""
        self.logger.note(line)
        self.display.note(line)

    def after_step(self, infos: list[dict[str, Any]]) -> bool:
        """Do what is due after a decision of all environments; return False if the run should end."""
        for info in infos:
            if "episode" in info:
                self._recent["train_return"] = float(info["episode"]["r"])
                self.logger.write(self._counters(), {"train_return": self._recent["train_return"]})
        if self.agent.updates - self._logged >= self.config.train.log_every:
            self._logged = self.agent.updates
            found = self.agent.algorithm.logger.name_to_value
            names = [name for name in found if name.startswith("train/") and name != "train/n_updates"]
            self.logger.write(self._counters(), {name.removeprefix("train/"): float(found[name]) for name in names})
        self.display.update(self.env_frames, self.agent.updates, self._recent)
        is_over = self.env_frames >= self.config.env_frames  # evaluated after the last updates
        if self._evaluate_clock.due(self.env_frames) and self.agent.updates > 0 and not is_over:
            self._evaluate()
        if self._checkpoint_clock.due(time.monotonic()):
            self._checkpoint()
        return not self._stopping()

    def _stopping(self) -> bool:
        if self.stop_reason == "" and self._deadline.passed():
            self.stop("wall-clock limit")
        return self.stop_reason != ""

    def _counters(self) -> dict[str, Any]:
        return {
            "env_frames": self.env_frames,
            "agent_steps": self.agent.algorithm.num_timesteps,
            "updates": self.agent.updates,
            "wall_seconds": round(time.monotonic() - self._started, 2),
        }

    def _evaluate(self) -> None:
        """Play deterministic episodes with the same fixed seeds as our own runs."""
        if self._evaluated_at == self.env_frames:
            return
        self._evaluated_at = self.env_frames
        found = self._evaluator(self.agent, self.env_frames)
        if found is not None:
            self._recent["eval_return"] = found.scores.mean
            self.logger.write(self._counters(), found.metrics)

    def _checkpoint(self) -> None:
        save(self.agent, self.logdir, self._counters())
        self.logger.flush()


class _EveryStep(BaseCallback):
    """A callback that notifies the trainer of every step, and of the updates between rollouts."""

    def __init__(self, trainer: BaselineTrainer) -> None:
        super().__init__()
        self._trainer = trainer

    def _on_rollout_start(self) -> None:
        self._trainer.is_whole = True

    def _on_rollout_end(self) -> None:
        self._trainer.is_whole = False

    def _on_training_end(self) -> None:
        self._trainer.is_whole = True

    def _on_step(self) -> bool:
        return self._trainer.after_step(self.locals["infos"])
