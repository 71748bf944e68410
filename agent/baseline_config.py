"""Settings of the baselines, under Stable-Baselines3's own names; what is not here is its default."""

from dataclasses import dataclass

from world_model.settings import Settings


@dataclass(frozen=True)
class SACConfig(Settings):
    """SAC of Stable-Baselines3."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    gamma: float = 0.99
    gradient_steps: int = -1  # updates after a decision of all environments; -1: one for each agent step
    buffer_gb: float = 3.0  # GiB of replay: two stacks of frames a row; a longer run keeps its newest rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.buffer_gb > 0:
            raise ValueError(f"buffer_gb: got {self.buffer_gb}, expected a positive number")


@dataclass(frozen=True)
class PPOConfig(Settings):
    """PPO of Stable-Baselines3."""

    learning_rate: float = 3e-4
    n_steps: int = 512  # agent_steps of each environment between two rounds of updates
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2 or self.n_steps < 1 or self.n_steps % self.batch_size:
            sizes = (self.n_steps, self.batch_size)
            raise ValueError(f"n_steps, batch_size: got {sizes}, expected a multiple of a batch of at least 2")
