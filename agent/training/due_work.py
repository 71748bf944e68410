"""Work that is due before a run's next row, updates and evaluations, and explanations if no update becomes due."""

import math
from typing import Any

from agent.config.settings import Config
from agent.training.clocks import Every, Ratio
from replay import ReplayBuffer

OFFLINE_PORTION = 100  # offline updates that become due at once; a regular checkpoint may follow


def updates_per_step(config: Config) -> float:
    """Return the updates that an agent step brings."""
    return config.train.train_ratio / (config.replay.batch_size * config.replay.batch_length)


def update_ratio(config: Config) -> Ratio:
    """Return the ratio of updates to agent steps."""
    return Ratio(updates_per_step(config))


def online_updates(config: Config) -> int:
    """Return about how many updates a run makes that plays its env_frames, without the final ones."""
    frames = max(0, config.env_frames - config.replay.prefill_frames)
    return max(1, round(updates_per_step(config) * frames / config.env.action_repeat))


def offline_left(config: Config, env_frames: int, updates: int) -> int:
    """Return the offline updates that are left after `updates`: none once the run has played."""
    return 0 if env_frames > 0 else max(0, config.train.offline_updates - updates)


class DueWork:
    """The due updates, by `train_ratio`, and the due evaluation, by `eval_every` and after the last row.

    `offline_updates` become due before the first row, with an evaluation after as many of them as come between two
    evaluations later on, and after the last one.
    """

    def __init__(self, config: Config) -> None:
        self.updates = 0
        self.evaluation = False
        self._config = config
        self._ratio = update_ratio(config)
        self._clock = Every(config.train.eval_every)
        self._evaluated_at = -1  # env_frames

    @property
    def is_done(self) -> bool:
        """True if nothing is due, so that the next row may be collected."""
        return self.updates == 0 and not self.evaluation

    def is_over(self, env_frames: int, updates: int) -> bool:
        """Return whether the run is complete: the budget is spent, and no work is due."""
        is_left = offline_left(self._config, env_frames, updates) > 0
        return self.is_done and not is_left and env_frames >= self._config.env_frames

    def progress(self, env_frames: int, updates: int) -> float:
        """Return the share of the run that is over; an offline update counts as the env_frames that it stands for."""
        frames, offline = self._frames_per_update(), self._config.train.offline_updates
        return (env_frames + frames * min(updates, offline)) / (self._config.env_frames + frames * offline)

    def _frames_per_update(self) -> float:
        return self._config.env.action_repeat / updates_per_step(self._config)

    def add_offline(self, env_frames: int, updates: int) -> bool:
        """Add the next offline updates, and the evaluation after them; return whether there were any."""
        left = offline_left(self._config, env_frames, updates)
        if left == 0:
            return False
        interval = max(1, round(self._config.train.eval_every / self._frames_per_update()))
        until_evaluation = min(left, interval - updates % interval)
        self.updates = min(until_evaluation, OFFLINE_PORTION)
        if self.updates == until_evaluation:
            self.evaluation, self._evaluated_at = True, -1
        return True

    def add_row(self, env_frames: int, agent_steps: int, updates: int, can_sample: bool) -> None:
        """Add the work that becomes due with a row of every environment; the counters include that row."""
        is_last = env_frames >= self._config.env_frames
        if can_update(self._config, agent_steps, can_sample):
            self.updates = self._ratio(agent_steps) + is_last * self._config.train.final_updates
        else:
            self._ratio.skip(agent_steps)  # nothing to learn from yet
        is_due = self._clock.due(env_frames) and updates + self.updates > 0
        self.evaluation = is_due or is_last

    def is_evaluated(self, env_frames: int) -> bool:
        """Return whether an evaluation at this frame has been made already."""
        return self._evaluated_at == env_frames

    def finish_evaluation(self, env_frames: int) -> None:
        """Mark the evaluation as done, whether it succeeded or not."""
        self.evaluation, self._evaluated_at = False, env_frames

    def rescale(self, config: Config, old_batch_size: int, agent_steps: int) -> None:
        """Continue with `config`; if the batch size has changed, rescale the due updates to the same number of rows."""
        self._config, batch_size = config, config.replay.batch_size
        if batch_size != old_batch_size:
            self.updates = round(self.updates * old_batch_size / batch_size)
            self._ratio = update_ratio(config)
            self._ratio.skip(agent_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the parts of a checkpoint's payload that `load_state_dict` reads."""
        due = {"updates": self.updates, "evaluation": self.evaluation, "evaluated_at": self._evaluated_at}
        return {"due": due, "ratio": self._ratio.state_dict(), "evaluate_clock": self._clock.state_dict()}

    def load_state_dict(self, payload: dict[str, Any]) -> None:
        """Restore the due work of a checkpoint's payload, adapted to this config's batch size and final updates."""
        due = payload["due"]
        self.updates, self.evaluation, self._evaluated_at = due["updates"], due["evaluation"], due["evaluated_at"]
        self._ratio.load_state_dict(payload["ratio"])
        self._clock.load_state_dict(payload["evaluate_clock"])
        old_batch_size = payload["config"]["replay"]["batch_size"]
        self.rescale(self._config, old_batch_size, payload["counters"]["agent_steps"])
        if more := _later_updates(payload, self._config):
            self.updates, self.evaluation, self._evaluated_at = self.updates + more, True, -1


def is_over(payload: dict[str, Any], config: Config) -> bool:
    """Return whether a run that resumes with `config` from this checkpoint has nothing left to do."""
    counters, due = payload["counters"], payload["due"]
    is_spent = counters["env_frames"] >= config.env_frames
    more = _later_updates(payload, config) + offline_left(config, counters["env_frames"], counters["updates"])
    return is_spent and not due["updates"] and not due["evaluation"] and not more


def _later_updates(payload: dict[str, Any], config: Config) -> int:
    """Return the final updates that were requested only after the budget's last frame."""
    if config.algo != "aime" or payload["counters"]["env_frames"] < config.env_frames:
        return 0
    before = payload["config"]["train"].get("final_updates", 0)  # older runs have none
    return max(0, config.train.final_updates - before)


def can_update(config: Config, agent_steps: int, can_sample: bool) -> bool:
    """Return whether the prefill is over and a chunk can be sampled."""
    return can_sample and not _is_prefill(config, agent_steps)


def check_learnable(config: Config) -> None:
    """Raise ValueError if no update can become due, or offline ones are without data."""
    if config.train.offline_updates > 0:
        if config.offline_data is None:
            raise ValueError(f"train.offline_updates: got {config.train.offline_updates}, expected 0 without --offline")
        return
    if config.env_frames == 0:
        raise ValueError("env_frames: got 0, expected a positive number, or train.offline_updates with --offline")
    repeat = config.env.action_repeat
    prefill = 0 if config.offline_data is not None else config.replay.prefill_frames
    if prefill > config.env_frames:
        line = f"env_frames: got {config.env_frames}, expected at least replay.prefill_frames ({prefill})"
        raise ValueError(f"{line}: all of them would be random actions, and no update would follow")
    most = math.ceil((config.env_frames - prefill) / repeat) + 2 * config.env.num_envs  # whole ticks
    if config.algo == "aime" and config.train.final_updates == 0 and update_ratio(config)(most) == 0:
        line = f"train.train_ratio: got {config.train.train_ratio:g}, expected at least one update"
        raise ValueError(f"{line} of replay.batch_size x batch_length rows in env_frames ({config.env_frames})")


def why_no_update(config: Config, agent_steps: int, replay: ReplayBuffer) -> str:
    """Explain in one line, naming the settings, why a run has made no update after `agent_steps`."""
    length, prefill = config.replay.sample_length, config.replay.prefill_frames
    if _is_prefill(config, agent_steps):
        frames = agent_steps * config.env.action_repeat
        return f"no update was made: {frames:,} env_frames were played, but replay.prefill_frames is {prefill:,}"
    if not replay.can_sample(length):
        return f"no update was made: the replay holds no sequence of replay.{config.replay.sample_keys} ({length}) rows"
    ratio = f"train.train_ratio {config.train.train_ratio:g}"
    return f"no update was made: with {ratio} none is due in {agent_steps:,} agent_steps"


def _is_prefill(config: Config, agent_steps: int) -> bool:
    """Return whether random actions are still being collected, which a run does not need that has offline episodes."""
    return config.offline_data is None and agent_steps * config.env.action_repeat < config.replay.prefill_frames
