"""Where a run's rows live: the ring that is sampled, and its episodes on disk."""

import sys
from pathlib import Path

from agent.config import Config
from agent.saved_run import first_episodes
from replay import EpisodeStore, ReplayBuffer, check_budget, row_bytes


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
    limit = _capacity_bytes(config)
    rows = config.replay.capacity_steps * row_bytes((64, 64, 3), action_dim)
    rows = min(rows, limit if limit is not None else sys.maxsize)
    return (0, rows // 4 + rows) if config.replay.memmap else (rows, rows // 4)


def open_storage(config: Config, logdir: Path, action_dim: int, pin_memory: bool) -> tuple[EpisodeStore, ReplayBuffer]:
    """The run's episodes, and an empty ring that writes every finished one there."""
    folder = logdir / "episodes"
    store = EpisodeStore(folder, config.train.keep_checkpoints)
    store.needed.extend(first_episodes(logdir))
    buffer = ReplayBuffer(
        config.replay.capacity_steps,
        _capacity_bytes(config),
        action_dim=action_dim,
        num_envs=config.env.num_envs,
        seed=config.seed,
        store=store,
        memmap_folder=folder if config.replay.memmap else None,
        pin_memory=pin_memory,
    )
    return store, buffer


def _capacity_bytes(config: Config) -> int | None:
    return None if config.replay.capacity_gb is None else int(config.replay.capacity_gb * 2**30)
