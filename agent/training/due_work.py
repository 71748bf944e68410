"""When updates become due, and what to say where none does."""

import math

from agent.config.settings import Config
from agent.training.clocks import Ratio
from replay import ReplayBuffer


def update_ratio(config: Config) -> Ratio:
    """Updates for each agent step."""
    return Ratio(config.train.train_ratio / (config.replay.batch_size * config.replay.batch_length))


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
