"""What a run owes before its next row: updates and evaluations; and what to say where no update ever becomes due."""

import math
from typing import Any

from agent.config.settings import Config
from agent.training.clocks import Every, Ratio
from replay import ReplayBuffer


def update_ratio(config: Config) -> Ratio:
    """Updates for each agent step."""
    return Ratio(config.train.train_ratio / (config.replay.batch_size * config.replay.batch_length))


class DueWork:
    """Updates, which rows make due by `train_ratio`, and an evaluation, by `eval_every` and after the last row."""

    def __init__(self, config: Config) -> None:
        self.updates = 0
        self.evaluation = False
        self._config = config
        self._ratio = update_ratio(config)
        self._clock = Every(config.train.eval_every)
        self._evaluated_at = -1  # env_frames

    @property
    def is_done(self) -> bool:
        """Whether the next row may come."""
        return self.updates == 0 and not self.evaluation

    def is_over(self, env_frames: int) -> bool:
        """Whether nothing is left to do: the budget is spent, and what its rows made due is done."""
        return self.is_done and env_frames >= self._config.env_frames

    def add_row(self, env_frames: int, agent_steps: int, updates: int, replay: ReplayBuffer) -> None:
        """What a row of every environment makes due, after which the counters are these."""
        is_last = env_frames >= self._config.env_frames
        if can_update(self._config, agent_steps, replay):
            self.updates = self._ratio(agent_steps) + is_last * self._config.train.final_updates
        else:
            self._ratio.skip(agent_steps)  # nothing to learn from yet
        is_due = self._clock.due(env_frames) and updates + self.updates > 0
        self.evaluation = is_due or is_last

    def is_evaluated(self, env_frames: int) -> bool:
        """Whether the evaluation that is due was made at this very frame before."""
        return self._evaluated_at == env_frames

    def finish_evaluation(self, env_frames: int) -> None:
        """It was made, or could not be."""
        self.evaluation, self._evaluated_at = False, env_frames

    def rescale(self, config: Config, old_batch_size: int, agent_steps: int) -> None:
        """Go on with `config`, and owe the same frames where updates were of another batch size."""
        self._config, batch_size = config, config.replay.batch_size
        if batch_size != old_batch_size:
            self.updates = round(self.updates * old_batch_size / batch_size)
            self._ratio = update_ratio(config)
            self._ratio.skip(agent_steps)

    def state_dict(self) -> dict[str, Any]:
        """The parts of a checkpoint's payload that `load_state_dict` takes."""
        due = {"updates": self.updates, "evaluation": self.evaluation, "evaluated_at": self._evaluated_at}
        return {"due": due, "ratio": self._ratio.state_dict(), "evaluate_clock": self._clock.state_dict()}

    def load_state_dict(self, payload: dict[str, Any]) -> None:
        """Owe what the run of a checkpoint's payload owed; more where its batches were larger or fewer came last."""
        due = payload["due"]
        self.updates, self.evaluation, self._evaluated_at = due["updates"], due["evaluation"], due["evaluated_at"]
        self._ratio.load_state_dict(payload["ratio"])
        self._clock.load_state_dict(payload["evaluate_clock"])
        old_batch_size = payload["config"]["replay"]["batch_size"]
        self.rescale(self._config, old_batch_size, payload["counters"]["agent_steps"])
        if more := _later_updates(payload, self._config):
            self.updates, self.evaluation, self._evaluated_at = self.updates + more, True, -1


def is_over(payload: dict[str, Any], config: Config) -> bool:
    """Whether a run that goes on with `config` from this checkpoint has nothing left to do."""
    is_spent = payload["counters"]["env_frames"] >= config.env_frames
    due = payload["due"]
    return is_spent and not due["updates"] and not due["evaluation"] and not _later_updates(payload, config)


def _later_updates(payload: dict[str, Any], config: Config) -> int:
    """Final updates that were asked for when the budget's last frame had come already."""
    if config.algo != "aime" or payload["counters"]["env_frames"] < config.env_frames:
        return 0
    before = payload["config"]["train"].get("final_updates", 0)  # a run of before they were there
    return max(0, config.train.final_updates - before)


def can_update(config: Config, agent_steps: int, replay: ReplayBuffer) -> bool:
    """Whether the prefill is over and there are rows for a chunk, those of running episodes included."""
    return not _is_prefill(config, agent_steps) and replay.can_sample(config.replay.batch_length)


def check_learnable(config: Config) -> None:
    """ValueError where no update can become due in `env_frames`, whatever happens."""
    prefill, repeat = config.replay.prefill_frames, config.env.action_repeat
    if prefill > config.env_frames:
        line = f"env_frames: got {config.env_frames}, expected at least replay.prefill_frames ({prefill})"
        raise ValueError(f"{line}: all of them would be random actions, and no update would follow")
    most = math.ceil((config.env_frames - prefill) / repeat) + 2 * config.env.num_envs  # ticks are whole
    if config.algo == "aime" and config.train.final_updates == 0 and update_ratio(config)(most) == 0:
        line = f"train.train_ratio: got {config.train.train_ratio:g}, expected at least one update"
        raise ValueError(f"{line} of replay.batch_size x batch_length rows in env_frames ({config.env_frames})")


def why_no_update(config: Config, agent_steps: int, replay: ReplayBuffer) -> str:
    """What kept a run of so many agent_steps from its first update: one line that names the settings."""
    length, prefill = config.replay.batch_length, config.replay.prefill_frames
    if _is_prefill(config, agent_steps):
        frames = agent_steps * config.env.action_repeat
        return f"no update was made: {frames:,} env_frames were played, replay.prefill_frames are {prefill:,}"
    if not replay.can_sample(length):
        return f"no update was made: nowhere do replay.batch_length ({length}) rows follow one another in the replay"
    ratio = f"train.train_ratio {config.train.train_ratio:g}"
    return f"no update was made: {ratio} made none due in {agent_steps:,} agent_steps"


def _is_prefill(config: Config, agent_steps: int) -> bool:
    return agent_steps * config.env.action_repeat < config.replay.prefill_frames
