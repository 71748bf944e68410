"""Sequence replay: a ring of rows in memory, episodes on disk, and budget checks."""

from replay.budget import ReplayBudgetError, check_budget
from replay.buffer import ReplayBuffer
from replay.chunk import Chunk
from replay.episodes import EpisodeStore
from replay.rows import Episode, row_bytes

__all__ = ["Chunk", "Episode", "EpisodeStore", "ReplayBudgetError", "ReplayBuffer", "check_budget", "row_bytes"]
