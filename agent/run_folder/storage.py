"""Where a run's rows live: the ring that is sampled, and its episodes on disk."""

from pathlib import Path
from typing import NamedTuple

from agent.config.settings import Config
from agent.run_folder.load import first_episodes
from replay import EpisodeStore, ReplayBuffer, check_budget, row_bytes


class EpisodeBound(NamedTuple):
    """After how many agent_steps an episode of training is cut off, and the settings that decide it."""

    steps: int
    reason: str


def episode_bound(config: Config, action_dim: int) -> EpisodeBound:
    """The lesser of env.max_episode_frames and an environment's share of the replay. ValueError below one step."""
    settings = config.env
    share = check_room(capacity_rows(config, action_dim), settings.num_envs)
    if settings.max_steps < share:
        return EpisodeBound(settings.max_steps, f"env.max_episode_frames {settings.max_episode_frames:,}")
    return EpisodeBound(share - 1, f"its share of replay.capacity_steps, {share:,} rows")


def check_room(rows: int, num_envs: int) -> int:
    """The rows that each environment's running episode may have. ValueError below two, its first and its last."""
    if rows < 2 * num_envs:
        got = f"got room for {rows} rows"
        raise ValueError(f"replay.capacity_steps: {got}, expected at least 2 for each of {num_envs} environments")
    return rows // num_envs


def check_storage(config: Config, logdir: Path, action_dim: int) -> None:
    """ReplayBudgetError now, not in a week, if memory or disk cannot hold the replay. Writes nothing."""
    row, key = row_bytes((64, 64, 3), action_dim), "replay.capacity_steps"
    memory, disk = needed_bytes(config, action_dim)
    check_budget(memory, memory_key=f"replay.memmap to true, or {key}", unit_bytes=row)
    check_budget(0, logdir / "episodes", disk, disk_key=key, unit_bytes=(5 if config.replay.memmap else 1) * row // 4)


def needed_bytes(config: Config, action_dim: int) -> tuple[int, int]:
    """Memory and disk that a full replay takes.

    Rendered frames compress at least fourfold (docs/dependencies.md); a memory map has the rows on the disk.
    """
    rows = capacity_rows(config, action_dim) * row_bytes((64, 64, 3), action_dim)
    return (0, rows // 4 + rows) if config.replay.memmap else (rows, rows // 4)


def open_storage(config: Config, logdir: Path, action_dim: int, pin_memory: bool) -> tuple[EpisodeStore, ReplayBuffer]:
    """The run's episodes, and an empty ring that writes every finished one there."""
    folder = logdir / "episodes"
    store = EpisodeStore(folder, config.train.keep_checkpoints)
    store.needed.extend(first_episodes(logdir))
    buffer = ReplayBuffer(
        capacity_rows(config, action_dim),
        action_dim=action_dim,
        num_envs=config.env.num_envs,
        seed=config.seed,
        store=store,
        memmap_folder=folder if config.replay.memmap else None,
        pin_memory=pin_memory,
    )
    return store, buffer


def capacity_rows(config: Config, action_dim: int) -> int:
    """Rows of the replay: the lesser of its two settings. ValueError where that is no room for a chunk."""
    rows, length = config.replay.capacity_steps, config.replay.batch_length
    if config.replay.capacity_gb is not None:
        rows = min(rows, int(config.replay.capacity_gb * 2**30) // row_bytes((64, 64, 3), action_dim))
    if rows < length:
        fitting = f"{config.replay.capacity_gb:g}, room for {rows} rows"
        raise ValueError(f"replay.capacity_gb: got {fitting}, expected at least replay.batch_length ({length}) of them")
    return rows
