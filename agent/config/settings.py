"""Settings of a run: frozen dataclasses, filled from a preset, the task's rows in it, then the command line.

Importing this costs no torch. Units: env_frames (simulator control steps), agent_steps (decisions), updates (gradient
steps); train_ratio = batch_size * batch_length * updates / agent_steps.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from agent.config.schedules import Schedule, check_schedule
from world_model.config import WorldModelConfig
from world_model.settings import Settings


@dataclass(frozen=True)
class EnvConfig(Settings):
    """How the task is played and drawn."""

    num_envs: int = 1  # environments side by side, each in a worker process where there are several
    action_repeat: int = 2  # env_frames an action is held for; rewards are summed
    render: Literal["standard", "fast"] = "standard"  # profile: fast leaves out shadows, reflections and multisampling
    camera: int | str | None = None  # of the suite's model, by number or name; null: Dreamer's
    kwargs: dict[str, Any] = field(default_factory=dict)  # arguments of the environment itself, such as {frameskip: 4}
    max_episode_frames: int = 27_000  # env_frames after which an episode that has not ended is cut off, as truncated

    @property
    def max_steps(self) -> int:
        """`max_episode_frames` in agent_steps."""
        return -(-self.max_episode_frames // self.action_repeat)

    def options(self) -> dict[str, Any]:
        """How `envs.make_env` and `envs.make_vector_env` are to make the task, whatever the number and the bound."""
        return {name: getattr(self, name) for name in ("action_repeat", "render", "camera", "kwargs")}


@dataclass(frozen=True)
class ReplayConfig(Settings):
    """The sequence buffer and what is sampled from it."""

    capacity_steps: int = 500_000  # rows (agent_steps)
    capacity_gb: float | None = None  # bound in GiB; the smaller of the two counts
    memmap: bool = False  # rows in a file of the run's folder instead of memory: for more than the memory holds
    batch_size: int = 16  # B, chunks of an update
    batch_length: int = 64  # T, rows of a chunk
    prefill_frames: int = 5000  # env_frames of random actions before the first update


@dataclass(frozen=True)
class LossConfig(Settings):
    """Weights of the LossAggregator: each a number, or points [[updates, value], ...]."""

    beta: Schedule = 1.0  # of both KLs and the attention KL
    lambda_recon: Schedule = 1.0  # of recon_loss
    lambda_att_dyn: Schedule = 0.1  # of attention_dynamics_loss
    lambda_gram: Schedule = 0.05  # of gram_enc_loss
    entropy_weight: Schedule = 0.1  # of cluster_entropy, which is rewarded
    hier_scale: Schedule = 1.0  # of hierarchical_kl, times beta
    lambda_context: Schedule = 0.1  # of context_nll


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Adam for world model, actor and critic."""

    model_lr: float = 1e-4  # learning rate of the world model
    actor_lr: float = 3e-5  # learning rate of the actor
    critic_lr: float = 3e-5  # learning rate of the critic
    model_clip: float = 1000.0  # global norm
    behavior_clip: float = 100.0  # global norm, actor and critic each
    behavior_eps: float = 1e-5  # of Adam; much smaller, and the noise of a model that knows nothing saturates the actor
    warmup_updates: int = 1000  # learning rates rise linearly from 0
    average_decay: float = 0.0  # of the moving average of all weights that plays outside of training; 0: no average
    lr_factor: float = 1.0  # of all learning rates; below 1 in a run that went back after numbers were not finite


@dataclass(frozen=True)
class BehaviorConfig(Settings):
    """Actor and critic, learning in imagination."""

    hidden_dim: int = 512  # width of actor and critic
    num_layers: int = 3  # hidden layers of actor and critic
    num_bins: int = 255  # two-hot bins of the critic over symlog returns in [-20, 20]
    horizon: int = 15  # H, steps of a dream
    gamma: float = 0.997  # discount an agent_step
    lambd: float = 0.95  # of the lambda-return
    gradient: Literal["dynamics", "reinforce"] = "reinforce"  # of the actor: through the dream, or of log-probabilities
    entropy: float = 3e-4  # weight of the policy's entropy
    min_std: float = 0.1  # of the policy
    start_std: float = 0.9  # of an untrained policy
    exploration: str = "noise"  # method of agent.learning.exploration.EXPLORATIONS that collects
    action_noise: float = 0.0  # std of Gaussian noise added to actions while collecting
    return_decay: float = 0.99  # of the running 5th to 95th percentile range of returns
    replay_value: float = 0.0  # weight of the critic's loss on what was really played (DreamerV3: 0.3)
    slow_critic_decay: float = 0.98  # of the moving average of the critic's weights that regularises it
    start_fraction: float = 1.0  # share of the B * T posterior states that dreams start from


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The loop's clocks."""

    train_ratio: float = 512.0  # frames trained on per agent_step
    final_updates: int = 0  # further updates after the budget's last frame, before the evaluation there
    log_every: int = 100  # updates
    eval_every: int = 10_000  # env_frames
    eval_episodes: int = 3  # deterministic episodes at an evaluation
    video_frames: int = 100  # length of the video written at every evaluation; 0 writes none
    checkpoint_minutes: float = 10.0  # wall-clock time between checkpoints; evaluations and stops write one too
    keep_checkpoints: int = 3  # the newest so many stay
    max_skipped: int = 10  # updates in a row with numbers that are not finite, after which the run goes back


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


@dataclass(frozen=True)
class Config(Settings):
    """One run. `preset` and `size` record where the values came from; a run that goes on reads the values alone."""

    task: str = "cartpole_swingup"  # what to learn: see docs/environments.md
    algo: Literal["aime", "sac", "ppo"] = "aime"  # what learns: our agent, or a baseline of Stable-Baselines3
    preset: str = "gpu"  # where the values came from
    size: str | None = None  # widths of presets/sizes.yaml, all pillars on, instead of the preset's own, such as "10m"
    seed: int = 0  # of weights, replay, exploration and episodes
    env_frames: int = 1_000_000  # the budget
    device: str = "auto"  # "auto": cuda where there is one, else cpu
    threads: int = 0  # of torch on the CPU; 0: OMP_NUM_THREADS, else the fastest number, measured once at the start
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products and convolutions; the rest is float32
    compile: bool = False  # torch.compile the loops over time: faster updates after minutes of compiling at the start
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task:
            raise ValueError("task: got an empty string, expected a task such as 'cartpole_swingup'")
        positive = {
            "env_frames": self.env_frames,
            "env.num_envs": self.env.num_envs,
            "env.action_repeat": self.env.action_repeat,
            "env.max_episode_frames": self.env.max_episode_frames,
            "replay.capacity_steps": self.replay.capacity_steps,
            "replay.batch_size": self.replay.batch_size,
            "replay.batch_length": self.replay.batch_length,
            "behavior.horizon": self.behavior.horizon,
            "train.train_ratio": self.train.train_ratio,
            "behavior.num_layers": self.behavior.num_layers,
            "behavior.hidden_dim": self.behavior.hidden_dim,
            "train.log_every": self.train.log_every,
            "train.eval_episodes": self.train.eval_episodes,
            "train.eval_every": self.train.eval_every,
            "train.checkpoint_minutes": self.train.checkpoint_minutes,
            "train.keep_checkpoints": self.train.keep_checkpoints,
            "train.max_skipped": self.train.max_skipped,
            "optimizer.lr_factor": self.optimizer.lr_factor,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name}: got {value}, expected a positive number")
        if self.replay.capacity_gb is not None and self.replay.capacity_gb <= 0:
            raise ValueError(f"replay.capacity_gb: got {self.replay.capacity_gb}, expected a positive number")
        lengths = (self.replay.batch_length, self.replay.capacity_steps)
        if lengths[0] > lengths[1]:
            raise ValueError(f"replay.batch_length, capacity_steps: got {lengths}, expected room for a chunk")
        for name in ("gamma", "lambd", "start_fraction"):
            if not 0 < getattr(self.behavior, name) <= 1:
                raise ValueError(f"behavior.{name}: got {getattr(self.behavior, name)}, expected (0, 1]")
        for name, weight in vars(self.losses).items():
            check_schedule(f"losses.{name}", weight)
        not_negative = {"seed": self.seed, "train.final_updates": self.train.final_updates}
        for name, value in (not_negative | {"behavior.replay_value": self.behavior.replay_value}).items():
            if not value >= 0:
                raise ValueError(f"{name}: got {value}, expected 0 or more")
        if not 0 < self.behavior.min_std < self.behavior.start_std < 1:
            stds = (self.behavior.min_std, self.behavior.start_std)
            raise ValueError(f"behavior.min_std, start_std: got {stds}, expected 0 < min_std < start_std < 1")
        if not 0 <= self.optimizer.average_decay < 1:
            raise ValueError(f"optimizer.average_decay: got {self.optimizer.average_decay}, expected [0, 1)")


# Keys that may change when a run goes on.
MAY_CHANGE: tuple[str, ...] = ("env_frames", "device", "threads", "precision", "compile", "replay.memmap")
MAY_CHANGE += ("env.num_envs", "replay.batch_size", "optimizer.lr_factor", "train.final_updates")
