"""Settings of a run: frozen dataclasses, filled from a preset, its rows for the task, then the command line.

Importing this module does not import torch. Units: env_frames (simulator control steps), agent_steps (decisions),
updates (gradient steps); train_ratio = batch_size * batch_length * updates / agent_steps.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent.config.schedules import Schedule, check_schedule
from world_model.config import WorldModelConfig
from world_model.settings import Settings

MOST_SIZE = 256  # pixels, side of a frame


@dataclass(frozen=True)
class EnvConfig(Settings):
    """Settings of the environments and their rendering."""

    num_envs: int = 1  # parallel environments; several run in one worker process each
    action_repeat: int = 2  # env_frames for which each action is repeated; their rewards are summed
    size: int = 64  # side of the frames, pixels, a multiple of 32; 0: none, the agent sees vectors alone
    render: Literal["standard", "fast"] = "standard"  # profile: fast omits shadows, reflections and multisampling
    camera: int | str | None = None  # camera of the suite's model, by number or name; null: Dreamer's
    kwargs: dict[str, Any] = field(default_factory=dict)  # arguments of the environment itself, such as {time_limit: 5}
    wrappers: dict[str, Any] = field(default_factory=dict)  # of Gymnasium around a gym: task, name: arguments
    vector: bool | None = False  # whether a vector comes beside the frame; null: where a gym task's Dict has both
    max_episode_frames: int = 27_000  # env_frames after which a running episode is truncated
    collectors: int | None = None  # Ray actors that play elsewhere, each in num_envs environments; null: played here
    ray: str | None = None  # address of the head of their Ray cluster; null: RAY_ADDRESS, else the one on this machine
    weights_every: int = 50  # updates after which collectors get new weights, also in the middle of an episode
    max_lag: int = 10_000  # updates during which an episode may become old; collectors wait to keep within it

    @property
    def max_steps(self) -> int:
        """Return `max_episode_frames` in agent_steps."""
        return -(-self.max_episode_frames // self.action_repeat)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of a frame, [H, W, 3]."""
        return self.size, self.size, 3

    def options(self) -> dict[str, Any]:
        """Return the arguments that `envs.make_env` and `envs.make_vector_env` share."""
        shared = ("action_repeat", "size", "render", "camera", "kwargs", "wrappers", "vector")
        return {name: getattr(self, name) for name in shared}


@dataclass(frozen=True)
class ReplayConfig(Settings):
    """Settings of the sequence buffer and of its samples."""

    capacity_steps: int = 500_000  # rows (agent_steps)
    capacity_gb: float | None = None  # bound in GiB; the smaller of the two applies
    memmap: bool = False  # keep the rows in a file of the run's folder, for replays larger than memory
    batch_size: int = 16  # B, chunks per update
    batch_length: int = 64  # T, rows per chunk
    burn_in: int = 0  # rows before every chunk from which the carry at its start is inferred, without gradient
    recency: float = 0.0  # r: newer chunks are likelier, by the r-th power of their place in order of age
    shift: int = 0  # pixels by which a chunk's frames are shifted at random, all alike, in updates (DrQ: 4)
    prefill_frames: int = 5000  # env_frames of random actions before the first update

    @property
    def sample_length(self) -> int:
        """The rows of a sample: those of a chunk and of its burn-in."""
        return self.burn_in + self.batch_length

    @property
    def sample_keys(self) -> str:
        """The settings that add up to `sample_length`, for messages."""
        return "batch_length + burn_in" if self.burn_in else "batch_length"


@dataclass(frozen=True)
class LossConfig(Settings):
    """Weights of the LossAggregator, each a number or points [[updates, value], ...]."""

    beta: Schedule = 1.0  # weight of both KLs and the attention KL
    lambda_recon: Schedule = 1.0  # weight of recon_loss and vector_recon
    lambda_att_dyn: Schedule = 0.1  # weight of attention_dynamics_loss
    lambda_gram: Schedule = 0.05  # weight of gram_enc_loss
    entropy_weight: Schedule = 0.1  # weight of cluster_entropy, which is maximised
    hier_scale: Schedule = 1.0  # weight of hierarchical_kl, multiplied by beta
    lambda_context: Schedule = 0.1  # weight of context_nll


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Settings of Adam for world model, actor and critic, and of Muon for the world model's matrices."""

    model_lr: float = 1e-4  # learning rate of the world model
    matrix_lr: float = 0.0  # learning rate of Muon for the world model's matrices (agent/learning/muon.py); 0: Adam
    actor_lr: float = 3e-5  # learning rate of the actor
    critic_lr: float = 3e-5  # learning rate of the critic
    model_clip: float = 1000.0  # bound on the global gradient norm of the world model
    behavior_clip: float = 100.0  # bound on the global gradient norms of actor and critic, each
    behavior_eps: float = 1e-5  # Adam's epsilon for actor and critic; a much smaller one lets noise saturate the actor
    warmup_updates: int = 1000  # learning rates rise linearly from 0
    anneal: float = 0.0  # share of the run at its end over which learning rates fall linearly to a tenth; 0: they stay
    average_decay: float = 0.0  # decay of the moving average of all weights, used outside of training; 0: no average
    average_collects: bool = False  # whether that average also plays the episodes that are learned from
    lr_factor: float = 1.0  # factor on all learning rates; lowered when a run goes back after non-finite numbers


@dataclass(frozen=True)
class BehaviorConfig(Settings):
    """Settings of actor and critic, which learn in imagination."""

    hidden_dim: int = 512  # width of actor and critic
    num_layers: int = 3  # hidden layers of actor and critic
    num_bins: int = 255  # two-hot bins of the critic over symlog returns in [-20, 20]
    horizon: int = 15  # H, steps of a dream
    gamma: float = 0.997  # discount per agent_step; a preset's follows from the action repeat (Per env_frame, below)
    lambd: float = 0.95  # lambda of the lambda-return
    gradient: Literal["auto", "dynamics", "reinforce"] = "auto"  # through the dream (auto: if continuous) or REINFORCE
    every: int = 1  # updates of the world model for each one of actor and critic
    entropy: float = 3e-4  # weight of the policy's entropy
    target_std: Schedule = 0.0  # mean std of the policy that the entropy's weight follows; 0: the weight is `entropy`
    min_std: float = 0.1  # smallest standard deviation of the policy
    start_std: float = 0.9  # standard deviation of an untrained policy
    exploration: str = "noise"  # exploration method, a name in agent.learning.exploration.EXPLORATIONS
    action_noise: float = 0.0  # std of Gaussian noise added to actions while collecting
    return_decay: float = 0.99  # decay of the running 5th to 95th percentile range of returns
    replay_value: float = 0.0  # weight of the critic's loss on replayed experience (DreamerV3: 0.3)
    slow_critic_decay: float = 0.98  # decay of the moving average of the critic's weights that regularises the critic
    start_fraction: float = 1.0  # fraction of the B * T posterior states that dreams start from
    planner: Literal["none", "mppi"] = "none"  # whether the agent acts by planning in its world model (`planner`)

    @property
    def has_target_std(self) -> bool:
        """Whether the policy's std has a target."""
        return self.target_std != 0


@dataclass(frozen=True)
class PlannerConfig(Settings):
    """Settings of planning at the moment of acting, for `behavior.planner` and `--planner`."""

    horizon: int = 5  # H, steps of a plan; the critic's value stands for the rest
    candidates: int = 64  # sequences of actions that a round compares
    policy_share: float = 0.5  # share of them that the actor proposes
    elites: int = 8  # the best of a round, from which the next one draws
    iterations: int = 4  # rounds
    temperature: float = 0.5  # of the elites' weights, in standard deviations of their scores
    min_std: float = 0.05  # smallest standard deviation of what a round draws

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("horizon", "candidates", "elites", "iterations", "temperature", "min_std"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name}: got {value}, expected a positive number")
        if not 1 <= self.proposals <= self.candidates - 2:  # the plan before, and one that is drawn
            share = f"{self.policy_share} of {self.candidates}"
            raise ValueError(f"policy_share, candidates: got {share}, expected 1 of the actor and 2 others at least")
        if self.elites > self.candidates:
            counts = (self.elites, self.candidates)
            raise ValueError(f"elites, candidates: got {counts}, expected at most as many elites as candidates")

    @property
    def proposals(self) -> int:
        """The number of candidates that are the actor's."""
        return round(self.policy_share * self.candidates)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of the training loop's clocks."""

    train_ratio: float = 512.0  # replayed rows per agent_step; a preset's follows from the action repeat, like gamma
    offline_updates: int = 0  # updates on the episodes of `train --offline`, before the first env_frame
    final_updates: int = 0  # further updates after the last frame, before the final evaluation
    log_every: int = 100  # updates between lines of metrics
    eval_every: int = 10_000  # env_frames between evaluations
    eval_episodes: int = 3  # deterministic episodes per evaluation
    video_frames: int = 100  # frames of the video written at every evaluation; 0 writes none
    checkpoint_minutes: float = 10.0  # minutes between checkpoints; evaluations and stops write one too
    keep_checkpoints: int = 3  # number of newest checkpoints that are kept
    max_skipped: int = 10  # consecutive skipped updates (non-finite numbers) after which the run goes back


@dataclass(frozen=True)
class SACConfig(Settings):
    """Settings of Stable-Baselines3's SAC."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    gamma: float = 0.99
    gradient_steps: int = -1  # updates after each decision of all environments; -1: one per agent_step
    buffer_gb: float = 3.0  # GiB of replay, two frame stacks per row; a longer run keeps its newest rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.buffer_gb > 0:
            raise ValueError(f"buffer_gb: got {self.buffer_gb}, expected a positive number")


@dataclass(frozen=True)
class PPOConfig(Settings):
    """Settings of Stable-Baselines3's PPO."""

    learning_rate: float = 3e-4
    n_steps: int = 512  # agent_steps per environment between two rounds of updates
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
    """All settings of one run. `preset`, `size`, `started_from` and `offline_data` record where values came from.

    Resuming ignores the first two.
    """

    task: str = "cartpole_swingup"  # task to learn, see docs/environments.md
    algo: Literal["aime", "sac", "ppo"] = "aime"  # algorithm: our agent, or a baseline of Stable-Baselines3
    preset: str = "gpu"  # preset that the values came from
    size: str | None = None  # widths of presets/sizes.yaml, all pillars on, instead of the preset's own, such as "10m"
    seed: int = 0  # seed of weights, replay, exploration and episodes
    started_from: str | None = None  # agent whose weights the run started from, name and hash; noted by `train --from`
    offline_data: str | None = None  # episodes learned from at first, name and hash; noted by `train --offline`
    env_frames: int = 1_000_000  # budget of the run; 0 with --offline: no environment is stepped
    device: str = "auto"  # "auto": cuda if available, else cpu
    threads: int = 0  # torch's CPU threads; 0: OMP_NUM_THREADS, else the fastest number, measured once at the start
    precision: Literal["float32", "bfloat16"] = "float32"  # dtype of matrix products and convolutions only
    compile: bool = False  # torch.compile the loops over time: faster updates after minutes of compiling
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task:
            raise ValueError("task: got an empty string, expected a task such as 'cartpole_swingup'")
        positive = {
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
            "behavior.every": self.behavior.every,
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
        if self.env_frames < (self.algo != "aime"):  # 0: `check_learnable` decides
            raise ValueError(f"env_frames: got {self.env_frames}, expected a positive number")
        self._check_replay()
        for name in ("gamma", "lambd", "start_fraction"):
            if not 0 < getattr(self.behavior, name) <= 1:
                raise ValueError(f"behavior.{name}: got {getattr(self.behavior, name)}, expected (0, 1]")
        for name, weight in vars(self.losses).items():
            check_schedule(f"losses.{name}", weight)
        not_negative: dict[str, float] = {"seed": self.seed, "behavior.replay_value": self.behavior.replay_value}
        not_negative |= {f"train.{name}": getattr(self.train, name) for name in ("offline_updates", "final_updates")}
        for name, value in not_negative.items():
            if not value >= 0:
                raise ValueError(f"{name}: got {value}, expected 0 or more")
        if not 0 < self.behavior.min_std < self.behavior.start_std < 1:
            stds = (self.behavior.min_std, self.behavior.start_std)
            raise ValueError(f"behavior.min_std, start_std: got {stds}, expected 0 < min_std < start_std < 1")
        self._check_target_std()
        self._check_optimizer()
        self._check_collectors()
        if self.env.size == 0:
            self._check_vectors_alone()
        if self.algo != "aime" and self.env.vector is not False:
            got = "null" if self.env.vector is None else "true"
            raise ValueError(f"env.vector: got {got} with algo {self.algo}, expected false: it sees frames alone")

    def with_vector(self, vector_dim: int | None) -> "Config":
        """Return this config for a task with vectors of `vector_dim` numbers, None for frames alone.

        ValueError if it belongs to a task with others already, as that of a run or of an agent does.
        """
        model, expected = self.world_model, self.world_model.vector_dim
        if expected not in (None, vector_dim):
            came = "none" if vector_dim is None else vector_dim
            raise ValueError(f"world_model.vector_dim: got {expected}, expected {came}, the numbers of {self.task}")
        return replace(self, world_model=replace(model, vector_dim=vector_dim))

    def _check_vectors_alone(self) -> None:
        """Raise ValueError if something needs the frames that there are not."""
        if self.algo != "aime":
            raise ValueError(f"env.size: got 0 with algo {self.algo}, expected frames: it sees nothing else")
        if self.env.vector is False:
            raise ValueError("env.size, env.vector: got 0 and false, expected frames, vectors or both")
        if line := next(self.world_model.frame_readers(), None):
            raise ValueError(f"world_model.{line} with env.size 0")

    @property
    def update_round(self) -> int:
        """The updates after which their work repeats: solves of gradient balancing, steps of actor and critic."""
        solves = self.world_model.rgb_config.every if self.world_model.use_rgb else 1
        return math.lcm(solves, self.behavior.every)

    def _check_replay(self) -> None:
        """Raise ValueError if frames or samples of the replay are out of range, or too short for the model."""
        if not 0 <= self.env.size <= MOST_SIZE or self.env.size % 32:
            expected = f"a multiple of 32 up to {MOST_SIZE}, which the trunk can halve, or 0 for vectors alone"
            raise ValueError(f"env.size: got {self.env.size}, expected {expected}")
        if self.replay.recency < 0:
            raise ValueError(f"replay.recency: got {self.replay.recency}, expected a number of at least 0")
        if self.replay.capacity_gb is not None and self.replay.capacity_gb <= 0:
            raise ValueError(f"replay.capacity_gb: got {self.replay.capacity_gb}, expected a positive number")
        if not 0 <= self.replay.burn_in <= self.replay.batch_length:
            lengths = (self.replay.burn_in, self.replay.batch_length)
            raise ValueError(f"replay.burn_in, batch_length: got {lengths}, expected 0 <= burn_in <= batch_length")
        lengths = (self.world_model.overshoot or 0, self.replay.batch_length)
        if lengths[0] >= lengths[1]:
            raise ValueError(f"world_model.overshoot, replay.batch_length: got {lengths}, expected overshoot < length")
        clocks = (self.world_model.slow_config.every or 0, self.replay.batch_length)
        if clocks[0] > clocks[1]:
            names = "world_model.slow_config.every, replay.batch_length"
            raise ValueError(f"{names}: got {clocks}, expected the slow clock to tick within a chunk")
        half = self.env.size // 2
        if not 0 <= self.replay.shift <= half:
            got = f"{self.replay.shift} with env.size {self.env.size}"
            raise ValueError(f"replay.shift: got {got}, expected 0 to {half} pixels, half a frame")
        lengths = (self.replay.sample_length, self.replay.capacity_steps)
        if lengths[0] > lengths[1]:
            raise ValueError(
                f"replay.{self.replay.sample_keys}, capacity_steps: got {lengths}, expected room for a chunk"
            )

    def _check_collectors(self) -> None:
        """Raise ValueError for collectors elsewhere that are impossible."""
        env = self.env
        for name in ("collectors", "weights_every", "max_lag"):
            if (count := getattr(env, name)) is not None and count < 1:
                raise ValueError(f"env.{name}: got {count}, expected at least 1")
        if env.collectors is None and env.ray is not None:
            raise ValueError(f"env.ray: got '{env.ray}' without env.collectors, expected a number of them, such as 8")
        if env.collectors is not None and self.algo != "aime":
            raise ValueError(f"env.collectors: got {env.collectors} with algo {self.algo}, expected algo aime")

    def _check_optimizer(self) -> None:
        """Raise ValueError if a setting of the optimizer or of the weights' average is out of range."""
        optimizer = self.optimizer
        for name in ("model_lr", "matrix_lr", "actor_lr", "critic_lr"):
            if (rate := getattr(optimizer, name)) < 0:
                raise ValueError(f"optimizer.{name}: got {rate}, expected at least 0")
        if not 0 <= optimizer.average_decay < 1:
            raise ValueError(f"optimizer.average_decay: got {optimizer.average_decay}, expected [0, 1)")
        if not 0 <= optimizer.anneal <= 1:
            raise ValueError(f"optimizer.anneal: got {optimizer.anneal}, expected [0, 1]")
        if optimizer.average_collects and optimizer.average_decay == 0:
            names = "optimizer.average_collects, average_decay"
            raise ValueError(f"{names}: got (True, 0), expected an average_decay above 0 for an average that collects")

    def _check_target_std(self) -> None:
        """Raise ValueError if the target of the policy's std is no schedule, or outside of the policy's range."""
        check_schedule("behavior.target_std", self.behavior.target_std)
        if not self.behavior.has_target_std:
            return
        target, least = self.behavior.target_std, self.behavior.min_std
        values = [value for _, value in target] if isinstance(target, list) else [target]
        if not all(least < value < 1 for value in values):
            expected = f"expected values above min_std ({least:g}) and below 1"
            raise ValueError(f"behavior.target_std, min_std: got {target} and {least:g}, {expected}")


# Keys that may change when a run is resumed.
MAY_CHANGE: tuple[str, ...] = ("env_frames", "device", "threads", "precision", "compile", "replay.memmap")
MAY_CHANGE += ("env.num_envs", "replay.batch_size", "optimizer.lr_factor")
MAY_CHANGE += ("env.collectors", "env.ray", "env.weights_every", "env.max_lag")
MAY_CHANGE += ("train.offline_updates", "train.final_updates")
