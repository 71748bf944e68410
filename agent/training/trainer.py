"""The training loop over environments, replay and agent."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.config.files import save_config
from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.learning.errors import NotFinite
from agent.run_folder.checkpoint import save_checkpoint
from agent.run_folder.datasets import Dataset
from agent.run_folder.load import load_run
from agent.run_folder.lock import RunLock
from agent.run_folder.logger import Logger, NoLogger
from agent.run_folder.random_state import (
    global_random_state,
    restore_global_random_state,
    seed_global_random_state,
)
from agent.run_folder.running_means import RunningMeans
from agent.run_folder.shards import check_num_ranks, of_rank, pack_part, rank_folder, unpack_part
from agent.run_folder.storage import check_storage, open_storage
from agent.run_folder.trackers import DEFAULT, open_trackers
from agent.run_folder.weights import Start
from agent.training.clocks import Deadline, Every
from agent.training.collector import Collector, NoEnvironment
from agent.training.display import Display
from agent.training.due_work import DueWork, check_learnable, why_no_update
from agent.training.evaluator import Evaluator, dispensable
from agent.training.guard import Guard
from agent.training.health import Health, expected_ranges
from agent.training.ranks import RankFailed, Ranks
from agent.training.recovery import SLOWER, back_to_sound, halved, is_slower, protected, slower
from agent.training.remote_collector import RemoteCollector
from agent.training.stopping import Stopped
from agent.training.threads import Pace, choose_threads, one_update
from envs import Step
from envs.driver import EnvironmentFailure

CHECKPOINT_SHARE = 0.02  # largest share of the run's time for regular checkpoints


class Trainer:
    """One training run in a folder. Its loop, with clocks and display left out, is

        collector.collect(agent, replay)            # one row per environment
        due.add_row(...)                            # train_ratio / (batch_size * batch_length) updates per decision
        while due.updates > 0:
            guard.update(agent, replay.sample(batch_size, batch_length))

    Checkpoints are written regularly, at every evaluation and at every stop. They hold everything that the rest of the
    run depends on, including the episodes in progress: on a CPU a resumed run is identical bit for bit to one that was
    never stopped. Work of a killed run after its last checkpoint is repeated.

    start: the weights that a new run begins with. ValueError if they are of other actions or of another model.
    dataset: the episodes that a new run has in its replay from the start, for `train.offline_updates`.
    log: trackers that get a copy of the metrics: tensorboard, wandb, trackio. Their trouble never ends the run.

    With several `ranks` each of them runs this loop on environments and a replay of its own, in step with the others
    (docs/scaling.md). What decides what comes next is therefore the same on all of them.
    """

    def __init__(
        self,
        config: Config,
        logdir: Path,
        resume: bool = False,
        max_minutes: float | None = None,
        quiet: bool = False,
        start: Start | None = None,
        ranks: Ranks | None = None,
        dataset: Dataset | None = None,
        log: Sequence[str] = DEFAULT,
    ) -> None:
        self.config, self.logdir, self.start, self.dataset = config, Path(logdir), start, dataset
        self.ranks = Ranks() if ranks is None else ranks
        self.folder = rank_folder(self.logdir, self.ranks.index)  # of what only this rank writes
        self.lock = RunLock(self.folder)
        with ExitStack() as cleanup:
            cleanup.callback(self.lock.release)
            with self.ranks.together():
                if self.folder.is_dir():
                    self.lock.acquire()
                payload = load_run(self.logdir) if resume else None
                if payload is None or payload["counters"]["updates"] == 0:
                    check_learnable(config)
                if payload is None and (dataset is None) != (config.offline_data is None):
                    raise ValueError(
                        "dataset: got it without config.offline_data or the reverse, expected both or none"
                    )
                payload = self._own(payload)
                self.collector = self._make_collector(payload)
                cleanup.callback(self.collector.close)
            self._build(payload)
            cleanup.pop_all()
        self.checkpoint_clock = Every(60 * config.train.checkpoint_minutes, last=time.monotonic())
        self.deadline = Deadline(max_minutes)
        offline = config.train.offline_updates
        self.display = Display(config.env_frames, quiet or not self.ranks.is_first, offline_updates=offline)
        if self.ranks.is_first:
            self.logger.attach(*open_trackers(log, self.logdir, asdict(self.config), resume, self.display.note))
        self.evaluator = Evaluator(config, self.logdir, self.note, config.train.video_frames)
        self.recent: dict[str, float] = {}
        self._reported: set[str] = set()  # notes that were shown already
        self.pace = Pace(self.threads)
        self.update_seconds = self.collect_seconds = 0.0  # since the first update of this session
        self.seconds_before = payload["counters"]["wall_seconds"] if payload is not None else 0.0
        self.is_saved = self.is_halved = False
        self.is_whole = True  # whether the run is between two steps, in a state that a checkpoint can hold
        self.stop_reason, self.has_failed = "", False  # why the run ends, and whether the user has to fix that

    def _own(self, payload: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return a payload as this rank reads it. ValueError for one of another number of ranks."""
        if payload is None:
            return None
        check_num_ranks(payload, self.ranks.count)
        return of_rank(payload, self.ranks.index)

    def _make_collector(self, payload: dict[str, Any] | None) -> Collector | RemoteCollector:
        state, own = payload["collector"] if payload is not None else None, self.ranks.share(self.config)
        unplayed = None
        if self.config.env_frames == 0:
            spaces = payload["agent"] if payload is not None else vars(self.dataset)
            vector_dim = self.config.world_model.vector_dim if self.dataset is None else self.dataset.vector_dim
            actions = spaces["action_dim"], spaces["is_discrete"]
            unplayed = NoEnvironment(self.config.env.num_envs, *actions, vector_dim)
        elif own.env.collectors is not None:
            return RemoteCollector(own, state, self.note)
        return Collector(own, state, self.ranks, unplayed)

    def _build(self, payload: dict[str, Any] | None) -> None:
        """Build everything but the environments: new, or from a checkpoint's payload."""
        with self.ranks.together():
            self.config = self.config.with_vector(self.collector.vector_dim)
            threads = choose_threads(self.config, one_update)
        self.threads = self.ranks.gather(threads)[0]  # with other ones a rank's weights might round differently
        torch.set_num_threads(self.threads.count)
        self.config = replace(self.config, threads=self.threads.count)  # kept by a resumed run
        config, collector = self.config, self.collector
        with self.ranks.together():
            self.agent = Agent(config, collector.action_dim, is_discrete=collector.is_discrete)
            if payload is None and self.start is not None:
                self.start.give_to(self.agent)
            if self.dataset is not None:
                self.dataset.check_spaces(collector.action_dim, collector.is_discrete, collector.vector_dim)
            if config.compile:
                self.agent.compile()
            check_storage(config, self.logdir, collector.action_dim)
        with self.ranks.together():  # nothing was written before
            self._open(config, payload)

    def _open(self, config: Config, payload: dict[str, Any] | None) -> None:
        """Open the run's folder and restore the payload."""
        own, action_dim, pin_memory = self.ranks.share(config), self.agent.action_dim, self.agent.device.type == "cuda"
        self.lock.acquire()
        self.store, self.replay = open_storage(own, self.logdir, action_dim, pin_memory, self.ranks.index)
        self.guard = Guard(self.folder, config.train.max_skipped, self.note)
        self.due = DueWork(config)
        self.health = Health(expected_ranges(config))
        self.means = RunningMeans()
        at = {}
        if payload is None:
            self.store.remove_newer(-1)  # episodes of a run that was killed before its first checkpoint
            seed_global_random_state(own.seed)
            self.agent.seed_generators(own.seed)
            for episode in () if self.dataset is None else self.dataset.read():
                self.replay.add_episode(episode)
        else:
            self.load_state_dict(payload)
            at = {"updates": self.agent.updates, "env_frames": self.env_frames}
        self.logger: Logger | NoLogger = NoLogger()
        if self.ranks.is_first:
            save_config(config, self.logdir / "config.yaml")
            self.logger = Logger(self.logdir, **at)

    @property
    def env_frames(self) -> int:
        """The simulator's control steps so far."""
        return self.collector.env_frames

    def close(self) -> None:
        """Release environments, logs and folder; a second call does nothing."""
        self.collector.close()
        with suppress(OSError):  # a full disk, which has been reported already
            self.logger.close()
        self.lock.release()

    # ---------------------------------------------------------------- the loop

    def run(self) -> None:
        """Train until the budget, the wall-clock limit, a signal or a failure, and write a checkpoint if possible.

        An unexpected error is raised after a checkpoint, unless it came in the middle of a step.
        """
        self.started = time.monotonic() - self.seconds_before
        with protected(self, self._checkpoint if self.ranks.count == 1 else _save_nothing):
            while not (self._finished() and self.is_saved):
                trouble = self._advance()
                if trouble:  # outside the handler, where no traceback keeps the agent alive
                    self._go_back(trouble)
            if self.agent.updates == 0 and self.stop_reason == "":
                self.note(why_no_update(self.config, self.collector.agent_steps, self.replay))
            self.logger.close()

    def _advance(self) -> str:
        """Do one tick, or write the last checkpoint; return what was not finite if the run has to go back."""
        self.is_whole = True
        try:
            if self._finished():
                self._checkpoint()
            else:
                self._tick()
        except Stopped:
            pass
        except NotFinite as error:
            return str(error)
        except EnvironmentFailure as error:
            self.fail(str(error))
        return ""

    @contextmanager
    def _indivisible(self) -> Iterator[None]:
        """Mark the run as inside a step, which no checkpoint can hold; after an error the mark stays."""
        self.is_whole = False
        yield
        self.is_whole = True

    def stop(self, reason: str) -> None:
        """Ask the run to end soon: after the current update, or between two rows of an evaluation."""
        self.stop_reason = reason

    def fail(self, reason: str) -> None:
        """Ask the run to end soon as failed, for a reason that the user has to fix."""
        self.stop(reason)
        self.has_failed = True

    def _finished(self) -> bool:
        return self._stopping() or self.due.is_over(self.env_frames, self.agent.updates)

    def _stopping(self) -> bool:
        """Return whether the run should end: when one rank is asked to stop, all do."""
        if not self.ranks.any(self._is_asked_to_stop()):
            return False
        self.stop_reason = next(filter(None, self.ranks.gather(self.stop_reason)))
        return True

    def _is_asked_to_stop(self) -> bool:
        if self.stop_reason == "" and self.deadline.passed():
            self.stop("wall-clock limit")
        return self.stop_reason != ""

    def _tick(self) -> None:
        """Collect one row and do the work that is due; a stop leaves the rest for the resumed run."""
        if self.due.is_done and not self.due.add_offline(self.env_frames, self.agent.updates):
            with self._indivisible():
                self._collect()
            self._show()
        while self.due.updates > 0:
            if self._stopping():
                return
            with self._indivisible():
                self._update()
            self._show()
        if self.due.evaluation:
            self._evaluate()
            self._checkpoint()
        elif self.ranks.any(self.ranks.is_first and self.checkpoint_clock.due(time.monotonic())):
            self._checkpoint()

    def _collect(self) -> None:
        """Collect a row of every environment, and add the work that becomes due."""
        self.is_saved = False
        collector, begun = self.collector, time.monotonic()
        ended = collector.collect(self.agent, self.replay)
        if self.agent.updates > 0:
            self.collect_seconds += time.monotonic() - begun
        for value in ended:
            self.recent["train_return"] = value
            self.logger.write(self.counters(), {"train_return": value} | collector.about)
        if collector.cut:
            self.logger.write(self.counters(), {"env_restarts": collector.restarts})
        if collector.at_bound:
            steps, reason = collector.bound
            self.note_once(f"an episode was truncated after {steps:,} agent_steps: {reason} (shown once)")
        self.due.add_row(self.env_frames, collector.agent_steps, self.agent.updates, collector.can_sample)

    def _update(self) -> None:
        replay, begun = self.config.replay, time.monotonic()
        self.is_saved = False
        self.agent.progress = self.due.progress(self.env_frames, self.agent.updates)
        try:
            with self.ranks.shared_batch():
                chunk = self.replay.sample(replay.batch_size // self.ranks.count, replay.sample_length)
                metrics = self.guard.update(self.agent, chunk)
        except torch.cuda.OutOfMemoryError:
            if self.ranks.count > 1:  # the others are in the midst of the update
                raise
            metrics = None
        if metrics is None:  # outside the handler, where no traceback keeps the update's tensors alive
            self._halve_batch()
            return
        self.due.updates -= 1
        self.collector.share(self.agent)
        seconds = time.monotonic() - begun
        self.update_seconds += seconds
        self.means.add(metrics)
        if slow := self.pace.add(seconds):
            self.note(slow)
        if self.agent.updates % self.config.train.log_every == 0:
            self._log()

    def _evaluate(self) -> None:
        """Evaluate the average of the weights, at most once per frame; Stopped if the run should end."""
        with self.ranks.together():
            if self.ranks.is_first and not self.due.is_evaluated(self.env_frames):
                self._score()
        self.due.finish_evaluation(self.env_frames)

    def _score(self) -> None:
        """Play the episodes of an evaluation and log them."""
        self.display.busy(f"evaluating {self.config.train.eval_episodes} episodes")
        with self.agent.average.swapped():
            found = self.evaluator(self.agent, self.env_frames, self.leave_if_stopping)
        if found is None:
            return
        self.recent["eval_return"] = found.scores.mean
        self.logger.write(self.counters(), found.metrics)
        if found.frames:
            with dispensable("video in TensorBoard", self.note, self.logdir):
                self.logger.video("evaluation", np.stack(found.frames), fps=20)

    def _show(self) -> None:
        self.display.update(self.env_frames, self.agent.updates, self.recent)

    def _log(self) -> None:
        means = self.ranks.mean(self.means.take())
        means["updates_per_second"] = self.agent.updates / max(1e-9, time.monotonic() - self.started)
        means["skipped_updates"] = self.guard.skipped
        notes = self.health.check(means, self.agent.updates)
        means["health_warnings"] = len(self.health.outside)
        self.logger.write(self.counters(), means)
        for line in notes:
            self.note(f"update {self.agent.updates:,}: {line}")
        self.recent["update_share"] = self.update_seconds / (self.update_seconds + self.collect_seconds)

    def note(self, line: str) -> None:
        """Show and log a line of text."""
        self.logger.note(line)
        self.display.note(line)

    def note_once(self, line: str) -> None:
        """Show and log a line of text unless it was shown before."""
        if line not in self._reported:
            self._reported.add(line)
            self.note(line)

    def counters(self) -> dict[str, float]:
        """Return the run's counters."""
        return {
            "env_frames": self.env_frames,
            "agent_steps": self.collector.agent_steps,
            "updates": self.agent.updates,
            "wall_seconds": round(time.monotonic() - self.started, 2),
        }

    def leave_if_stopping(self, _: Step) -> None:
        """Raise Stopped if the run should end; called between the rows of an evaluation."""
        if self._is_asked_to_stop():
            raise Stopped

    # ---------------------------------------------------------------- recovery

    def _go_back(self, trouble: str) -> None:
        """Return to the newest checkpoint before the failure, once, with lower learning rates."""
        with self.ranks.together():
            payload = back_to_sound(self.logdir / "checkpoints") if self.ranks.is_first else None
        if not self.ranks.is_first:  # after the first rank has removed the later ones
            payload = back_to_sound(self.logdir / "checkpoints")
        payload = self._own(payload)
        if is_slower(self.config):
            factor = self.config.optimizer.lr_factor
            tried = f"with optimizer.lr_factor {factor:g} already"
            self.fail(f"{trouble}, {tried}; see {self.logdir / 'faults'}; try a lower one")
            self.is_saved = True  # the newest checkpoint is from before the failure
            return
        mirrors = self.logger.detach()
        self.collector.close()
        self.logger.close()
        self.config = slower(self.config)
        del self.agent, self.replay  # free their memory for the new ones
        with self.ranks.together():
            self.collector = self._make_collector(payload)
        self._build(payload)
        self.logger.attach(*mirrors)
        self.note(f"{trouble}; back to update {self.agent.updates:,} with learning rates times {SLOWER}")

    def _halve_batch(self) -> None:
        """Halve the batch size and double the updates after a GPU ran out of memory; the second time, fail the run."""
        torch.cuda.empty_cache()
        replay, smaller = self.config.replay, halved(self.config)
        shape = f"{replay.batch_size} x {replay.batch_length}"
        if self.is_halved or smaller is None:
            fitting = f"replay.batch_size {smaller.replay.batch_size}" if smaller is not None else "a smaller size"
            self.fail(f"the GPU's memory is too small for updates of {shape} frames; try {fitting}")
            return
        self.is_halved, self.config = True, smaller
        self.due.rescale(smaller, replay.batch_size, self.collector.agent_steps)
        save_config(smaller, self.logdir / "config.yaml")
        size = smaller.replay.batch_size
        self.note(
            f"the GPU's memory is too small for updates of {shape} frames; replay.batch_size is {size} from now on"
        )

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, as tensors and plain values: for the first rank."""
        payload = {
            "config": asdict(self.config),
            "counters": self.counters(),
            "agent": self.agent.state_dict(),
            "replay": self.replay.state_dict(),
            "collector": self.collector.state_dict(),
            **self.due.state_dict(),
            "guard": self.guard.state_dict(),
            "health": self.health.state_dict(),
            "means": self.means.state_dict(),
            "random": global_random_state(),
        }
        if self.ranks.count > 1:
            payload["ranks"] = [unpack_part(packed) for packed in self.ranks.gather(pack_part(payload))[1:]]
        return payload

    def load_state_dict(self, payload: dict[str, Any]) -> None:
        """Restore `state_dict`; episodes that ended after it are removed from the folder."""
        self.agent.load_state_dict(payload["agent"])
        self.collector.load_state_dict(payload["collector"], self.agent)
        self.store.remove_newer(payload["replay"]["last_number"])
        self.replay.load_state_dict(payload["replay"])
        self.replay.restore(self.store)
        self.due.load_state_dict(payload)
        self.guard.load_state_dict(payload["guard"])
        self.health.load_state_dict(payload["health"])
        self.means.load_state_dict(payload["means"], self.agent.device)
        restore_global_random_state(payload["random"])

    def _check_replicas(self) -> None:
        """Raise RankFailed unless all ranks have the same weights, as they do on processors of one kind."""
        if self.ranks.count > 1:
            sums = self.ranks.gather(
                [weight.detach().double().sum().item() for _, weight in self.agent.named_weights()]
            )
            if any(other != sums[0] for other in sums):
                line = "the ranks' weights are no longer equal; expected processors or GPUs of one kind"
                raise RankFailed(f"{line}, and an extension that learns from averaged gradients only (docs/scaling.md)")

    def _checkpoint(self) -> None:
        """Write a checkpoint; NotFinite if the weights are broken."""
        begun = time.monotonic()
        self.guard.finish(self.agent)
        self._check_replicas()
        payload, keep = self.state_dict(), self.config.train.keep_checkpoints
        with self.ranks.together():
            if self.ranks.is_first:
                save_checkpoint(self.logdir / "checkpoints", payload, self.agent.updates, keep)
        with self.ranks.together():  # now that the checkpoint is there
            self.store.prune(self.replay.capacity, self.replay.first_number)
            self.logger.flush()
        self.is_saved = True
        seconds = time.monotonic() - begun
        self.checkpoint_clock.interval = max(60 * self.config.train.checkpoint_minutes, seconds / CHECKPOINT_SHARE)


def _save_nothing() -> None:
    """Leave the run at its last checkpoint after an error of one rank, since a new one takes them all."""
