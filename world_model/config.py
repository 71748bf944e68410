"""Settings of the world model: frozen dataclasses with the figures of preset `reference` as defaults.

There is one block per pillar; `enabled: false` (or the control named beside a key) switches the pillar off.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from world_model.settings import Settings

# Settings of what reads or draws frames, and their values in a model of vectors alone
WITHOUT_FRAMES: dict[str, Any] = {
    "perceiver_config.enabled": False,
    "attention_config.enabled": False,
    "encoder_config.frame_stack": 1,
    "encoder_config.motion_dim": None,
    "encoder_config.gram_fraction": 0.0,
    "decoder_config.resolutions": 1,
}

Method = Literal["rgb", "balanced", "sum", "pcgrad", "cagrad", "mgda", "upgrad", "nash_mtl"]


class Block(Settings):
    """A block of the model's settings, whose whole numbers are at least 1."""

    least = 1


@dataclass(frozen=True)
class PerceiverConfig(Block):
    """Pillar 1: VQ tokens and the causal Perceiver that turns them into a context."""

    enabled: bool = True  # False: no tokens, no context (context_mode "none")
    codebook_size: int = 256  # number of codes
    code_dim: int = 64  # width of a code
    context_dim: int = 256  # C, width of the context c
    num_latents: int = 8  # latents that read the 64 tokens of a frame
    width: int = 256  # width of a latent
    num_heads: int = 4  # heads of every attention
    num_blocks: int = 2  # blocks of attention over time
    window: int = 16  # frames of temporal attention, including the current one
    fine_cells: bool = False  # True: the latents also read the trunk's 16 x 16 features (an extension)
    train_fraction: float = 1.0  # share of frames for vq_recon and next_token_ce (unbiased: rescaled)
    trains_trunk: bool = True  # False: this pillar's losses and its context leave the trunk's weights alone


@dataclass(frozen=True)
class PriorConfig(Block):
    """Pillar 2: the prior over latents and the KL to it. `max_components=1` is the mixture's Gaussian control."""

    kind: str = "mixture"  # a name in world_model.parts.PRIORS: mixture, gaussian, or one of your own
    trunk_dim: int = 256  # width of the hidden layer between the carry and the prior
    unimix: float = 0.0  # share of the uniform distribution mixed into the component weights
    min_std: float = 0.1  # smallest standard deviation of a component
    max_std: float = 2.0  # largest standard deviation of a component
    prior_shape: float = 1.0  # Gamma(shape, rate) over the concentration
    prior_rate: float = 1.0  # rate of that Gamma
    kl_balance: bool = False  # True: dynamics side + representation_scale * representation side, each above free_nats
    free_nats: float = 0.0  # lower bound on the KL (with kl_balance: on its dynamics side), below which it is free
    representation_scale: float = 0.1  # with kl_balance: weight of the side that moves the posterior
    representation_free_nats: float = 0.0  # with kl_balance: free nats of that side
    action_path: bool = False  # True: the prior also reads z_{t-1} and a_{t-1} themselves, at first with zero weights


@dataclass(frozen=True)
class SlowConfig(Block):
    """A slow latent above z (an extension)."""

    every: int | None = None  # rows between two draws of the slow latent; null: none
    latent_dim: int = 8  # U, width of the slow latent
    max_components: int = 4  # components of its own mixture prior
    hidden_dim: int = 64  # width of the hidden layer of its posterior
    free_nats: float = 0.5  # lower bound on its KL at a tick, below which it is free


@dataclass(frozen=True)
class EncoderConfig(Block):
    """The shared conv trunk and the posterior q(z|x,c,g)."""

    base_channels: int = 32  # channels of the trunk's first convolution, a multiple of 8
    frame_stack: int = 1  # frames that the trunk sees at once: the current one and its predecessors
    motion_dim: int | None = None  # width of what a second trunk sees of the frame's change; null: no such trunk
    residual: bool = True  # whether the trunk ends with a residual pair of convolutions
    stem_stride: Literal[2, 4, 8] = 2  # stride of the trunk's first conv; 4, 8: faster, coarser; the decoder mirrors it
    embedding_dim: int = 512  # width of a frame's embedding in the posterior
    hidden_dim: int = 512  # width of the hidden layer of posterior and context predictor
    min_std: float = 0.05  # smallest standard deviation of the posterior
    max_std: float = 2.0  # largest standard deviation of the posterior
    uses_carry: bool = True  # False: q(z|x,c), the seed's literal data flow
    gram_fraction: float = 0.25  # share of frames compared with the EMA teacher trunk; 0: no teacher


@dataclass(frozen=True)
class DecoderConfig(Block):
    """The decoder p(x|z,g,A)."""

    base_channels: int = 32  # the layers have 8, 4 and 2 times as many channels; a multiple of 8
    train_fraction: float = 1.0  # share of frames decoded in training (unbiased: the loss is rescaled)
    resolutions: int = 1  # resolutions at which the frames' error counts, each half as fine as the one before


@dataclass(frozen=True)
class AttentionConfig(Block):
    """Pillar 4: slot attention, its top-down prior and movement prediction."""

    enabled: bool = True  # False: the decoder sees uniform maps
    num_slots: int = 5  # S, slots that share the 64 cells of a frame
    slot_dim: int = 64  # width of a slot
    iterations: int = 3  # rounds of slot attention
    prior_dim: int = 256  # width of the hidden layer of the top-down prior
    map_mix: float = 0.01  # share of the uniform map in every map, which bounds the KL
    prior_share: float = 1.0  # share of sequences decoded under prior maps in training, the others under posterior ones
    train_fraction: float = 1.0  # share of sequences attended to in training (unbiased: the losses are rescaled)
    use_precision: bool = True  # False: plain Huber loss on the predicted movement


@dataclass(frozen=True)
class HeadConfig(Block):
    """The reward and continue heads."""

    hidden_dim: int = 512  # width of reward and continue head
    num_layers: int = 2  # hidden layers of reward and continue head
    num_bins: int = 255  # two-hot bins over symlog rewards in [-20, 20]


@dataclass(frozen=True)
class RGBConfig(Block):
    """Pillar 5: gradient balancing. The learner, not the model, builds RGB (or a plain sum) from these."""

    method: Method = "rgb"  # how the tasks' gradients are combined; balanced: a sum weighted by their averaged geometry
    mu: float = 0.9  # decay of the consensus; 0: the current batch only
    lambd: float = 1.0  # cost of rotating a gradient
    alpha_steps: int = 3  # steps of the solver for the angles
    lr_inner: float = 0.2  # learning rate of that solver
    scale: Literal["sum", "unit", "per_task"] = "sum"  # per_task: each gradient keeps its norm; else equal weights
    every: int = 1  # solve every m-th update, and reuse the coefficients in between
    gram_decay: float = 0.95  # balanced: decay of the moving average of the tasks' norms and cosines
    min_weight: float = 1 / 3  # balanced: smallest weight of a task, relative to the reconstruction's
    max_weight: float = 30.0  # balanced: largest weight of a task, relative to the reconstruction's
    reward_share: float = 0.1  # balanced: aimed norm of the reward's gradient, as a share of the reconstruction's


@dataclass(frozen=True)
class WorldModelConfig(Block):
    """All settings of `DPGMMVariationalRecurrentAutoencoder`."""

    max_components: int = 15  # K, components of the mixture prior; 1: a Gaussian
    latent_dim: int = 36  # D, width of z
    hidden_dim: int = 512  # H, width of the carry
    action_dim: int = 6  # A; a run takes it from the task
    vector_dim: int | None = None  # V, numbers beside the frame; null: none; a run takes it from the task (env.vector)
    image_size: int = field(default=64, metadata={"least": None})  # side of the frames, pixels, 0: none; see env.size
    n_lstm_layers: int = 1  # layers of the LSTM; the top one is the carry
    dynamics: str = "orthogonal_lstm"  # a name in world_model.parts.DYNAMICS: the recurrence that carries the state
    use_orthogonal: bool = True  # orthogonal initial recurrent matrices
    context_mode: Literal["closed", "teacher", "none"] = "closed"  # input of the LSTM: ĉ; c in training; no context
    recurrence_noise: float = 1.0  # factor on the posterior's std for the recurrence's z; 0: its mean
    dream_noise: float = 1.0  # factor on a component's std for a dream's z; 0: its mean
    overshoot: int | None = None  # k: dreams of k rows each, back to back under the chunk's actions, must foretell it
    use_rgb: bool = True  # False: the plain sum of the task losses
    extra_losses: dict[str, float] = field(default_factory=dict)  # weights of losses in world_model.parts.EXTRA_LOSSES
    perceiver_config: PerceiverConfig = field(default_factory=PerceiverConfig)
    prior_config: PriorConfig = field(default_factory=PriorConfig)
    slow_config: SlowConfig = field(default_factory=SlowConfig)
    encoder_config: EncoderConfig = field(default_factory=EncoderConfig)
    decoder_config: DecoderConfig = field(default_factory=DecoderConfig)
    attention_config: AttentionConfig = field(default_factory=AttentionConfig)
    head_config: HeadConfig = field(default_factory=HeadConfig)
    rgb_config: RGBConfig = field(default_factory=RGBConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("encoder_config", "decoder_config"):
            channels = getattr(self, name).base_channels
            if channels % 8:
                raise ValueError(f"{name}.base_channels: got {channels}, expected a positive multiple of 8")
        encoder, prior = self.encoder_config, self.prior_config
        if self.image_size == 0 and (line := next(self.frame_readers(), None)):
            raise ValueError(f"{line} with image_size 0")
        if self.image_size == 0 and self.vector_dim is None:
            raise ValueError("vector_dim, image_size: got (None, 0), expected frames, vectors or both")
        if self.image_size < 0 or self.image_size % 32:
            expected = "a multiple of 32, which the trunk can halve, or 0 for no frames"
            raise ValueError(f"image_size: got {self.image_size}, expected {expected}")
        if self.decoder_config.resolutions > 4:  # the coarsest has 4 pixels for the smallest frames
            raise ValueError(f"decoder_config.resolutions: got {self.decoder_config.resolutions}, expected 1 to 4")
        if not 0 < encoder.min_std < encoder.max_std:
            stds = (encoder.min_std, encoder.max_std)
            raise ValueError(f"encoder_config.min_std, max_std: got {stds}, expected 0 < min_std < max_std")
        if not 0 <= encoder.gram_fraction <= 1:
            raise ValueError(f"encoder_config.gram_fraction: got {encoder.gram_fraction}, expected [0, 1]")
        for name in ("perceiver_config", "decoder_config", "attention_config"):
            fraction = getattr(self, name).train_fraction
            if not 0 < fraction <= 1:
                raise ValueError(f"{name}.train_fraction: got {fraction}, expected (0, 1]")
        share = self.attention_config.prior_share
        if not 0 <= share <= 1:
            raise ValueError(f"attention_config.prior_share: got {share}, expected [0, 1]")
        shares = (share, self.attention_config.train_fraction)
        if max(shares) < 1:
            raise ValueError(f"attention_config.prior_share, train_fraction: got {shares}, expected one of them at 1")
        for name in ("free_nats", "representation_scale", "representation_free_nats"):
            if getattr(prior, name) < 0:
                raise ValueError(f"prior_config.{name}: got {getattr(prior, name)}, expected 0 or more")
        if self.slow_config.free_nats < 0:
            raise ValueError(f"slow_config.free_nats: got {self.slow_config.free_nats}, expected 0 or more")
        for name in ("recurrence_noise", "dream_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected [0, 1]")
        num_bins = self.head_config.num_bins
        if num_bins < 2:
            raise ValueError(f"head_config.num_bins: got {num_bins}, expected at least 2")

    def frame_readers(self) -> Iterator[str]:
        """Yield a line for every setting that only a model with frames can have."""
        for key, value in WITHOUT_FRAMES.items():
            block, _, name = key.partition(".")
            if (found := getattr(getattr(self, block), name)) != value:
                yield f"{key}: got {json.dumps(found)}, expected {json.dumps(value)}"

    @property
    def gradient_method(self) -> str:
        """How the tasks' gradients are combined, a value of `rgb_config.method`."""
        return self.rgb_config.method if self.use_rgb else "sum"

    @property
    def feature_dim(self) -> int:
        """The width of the agent feature f = [g, z, u]."""
        return self.hidden_dim + self.latent_dim + self.slow_dim

    @property
    def slow_dim(self) -> int:
        """U, the width of the slow latent; 0 without one."""
        return 0 if self.slow_config.every is None else self.slow_config.latent_dim

    @property
    def prior_input_dim(self) -> int:
        """The width of what the prior reads: g, and with extensions u and [z, a] of the row before."""
        path = self.latent_dim + self.action_dim if self.prior_config.action_path else 0
        return self.hidden_dim + self.slow_dim + path

    @property
    def dynamics_dim(self) -> int:
        """The width of the recurrence's input [z, ĉ, a]."""
        return self.latent_dim + self.perceiver_config.context_dim + self.action_dim
