"""The storage of a run's rows: the ring that is sampled, and the episodes on disk."""

from pathlib import Path
from typing import NamedTuple

from agent.config.settings import Config
from agent.run_folder.load import first_episodes
from agent.run_folder.shards import rank_folder
from replay import EpisodeStore, ReplayBuffer, check_budget
from replay.rows import Shapes, bytes_of, field_shapes


class EpisodeBound(NamedTuple):
    """The agent_steps after which a training episode is cut off, and the setting that decides it."""

    steps: int
    reason: str


def episode_bound(config: Config, action_dim: int) -> EpisodeBound:
    """Return the smaller of env.max_episode_frames and an environment's share of the replay. ValueError if below 1."""
    settings = config.env
    share = check_room(capacity_rows(config, action_dim), settings.num_envs)
    if settings.max_steps < share:
        return EpisodeBound(settings.max_steps, f"env.max_episode_frames {settings.max_episode_frames:,}")
    return EpisodeBound(share - 1, f"its share of replay.capacity_steps, {share:,} rows")


def check_room(rows: int, num_envs: int) -> int:
    """Return the rows that each environment's running episode may have. ValueError below two, its first and last."""
    if rows < 2 * num_envs:
        got = f"got room for {rows} rows"
        raise ValueError(f"replay.capacity_steps: {got}, expected at least 2 for each of {num_envs} environments")
    return rows // num_envs


def check_storage(config: Config, logdir: Path, action_dim: int) -> None:
    """Raise ReplayBudgetError at once if memory or disk cannot hold a full replay. Write nothing."""
    row, key = run_row_bytes(config, action_dim), "replay.capacity_steps"
    memory, disk = needed_bytes(config, action_dim)
    check_budget(memory, memory_key=f"replay.memmap to true, or {key}", unit_bytes=row)
    check_budget(0, logdir / "episodes", disk, disk_key=key, unit_bytes=(5 if config.replay.memmap else 1) * row // 4)


def needed_bytes(config: Config, action_dim: int) -> tuple[int, int]:
    """Return the bytes of memory and of disk that a full replay takes.

    Rendered frames compress at least fourfold (docs/dependencies.md); a memory map keeps the rows on disk.
    """
    rows = capacity_rows(config, action_dim) * run_row_bytes(config, action_dim)
    return (0, rows // 4 + rows) if config.replay.memmap else (rows, rows // 4)


def open_storage(
    config: Config, logdir: Path, action_dim: int, pin_memory: bool, rank: int = 0
) -> tuple[EpisodeStore, ReplayBuffer]:
    """Open the run's episodes, those of one rank, and an empty ring that writes every finished episode there."""
    folder = rank_folder(logdir, rank) / "episodes"
    store = EpisodeStore(folder, config.train.keep_checkpoints)
    store.needed.extend(first_episodes(logdir, rank))
    buffer = ReplayBuffer(
        capacity_rows(config, action_dim),
        image_shape=config.env.image_shape,
        action_dim=action_dim,
        num_envs=config.env.num_envs,
        seed=config.seed,
        store=store,
        memmap_folder=folder if config.replay.memmap else None,
        pin_memory=pin_memory,
        recency=config.replay.recency,
        vector_dim=config.world_model.vector_dim,
    )
    return store, buffer


def run_shapes(config: Config, action_dim: int) -> Shapes:
    """Return the shapes of a run's rows."""
    return field_shapes(config.env.image_shape, action_dim, config.world_model.vector_dim)


def run_row_bytes(config: Config, action_dim: int) -> int:
    """Return the bytes of memory that one of a run's rows takes."""
    return bytes_of(run_shapes(config, action_dim))


def capacity_rows(config: Config, action_dim: int) -> int:
    """Return the rows of the replay, the smaller of its two bounds. ValueError if a chunk does not fit."""
    rows, length = config.replay.capacity_steps, config.replay.sample_length
    if config.replay.capacity_gb is not None:
        rows = min(rows, int(config.replay.capacity_gb * 2**30) // run_row_bytes(config, action_dim))
    if rows < length:
        fitting = f"{config.replay.capacity_gb:g}, room for {rows} rows"
        expected = f"expected at least replay.{config.replay.sample_keys} ({length}) of them"
        raise ValueError(f"replay.capacity_gb: got {fitting}, {expected}")
    return rows
