"""The wiring of the five pillars. One transition (`_state`, `advance`) serves acting, training and dreaming.

    x_t -> trunk -> Perceiver IO -> c_t                       pillar 1   perceiver_io/
    [x_t, c_t, g_t] -> posterior -> z_t ; g_t -> mixture prior pillar 2   generative_prior/
    [z_t, ĉ_t, a_t] -> orthogonal LSTM -> g_{t+1}             pillar 3   temporal_dynamics/
    x_t, g_t -> slot attention -> A_t ; its prior in dreams   pillar 4   attention_schema/
    losses -> three task gradients -> rotation                pillar 5   multi_task_learning/
    [z_t, g_t, A_t] -> decoder -> x̂_t
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from multi_task_learning import LossAggregator
from world_model import losses
from world_model.attention_schema import AttentionOutput, AttentionSchema
from world_model.config import WorldModelConfig, from_mapping
from world_model.encoder_decoder import Decoder, Posterior
from world_model.generative_prior import DPGMMPrior
from world_model.heads import ContinueHead, RewardHead
from world_model.perceiver_io import CausalPerceiver, PerceiverOutput
from world_model.state import Memory, State, stack_states
from world_model.temporal_dynamics import ContextPredictor, OrthogonalLSTM
from world_model.trunk import ConvTrunk


class Observed(NamedTuple):
    """What a pass over a chunk infers; every tensor is [B, T, ...]."""

    features: Tensor  # trunk features F
    perceived: PerceiverOutput | None
    context: Tensor  # c_t
    states: State
    next_carry: Tensor  # h_t, the LSTM's output after a_t
    mean: Tensor
    std: Tensor


class DPGMMVariationalRecurrentAutoencoder(nn.Module):
    """Variational recurrent autoencoder with a stick-breaking mixture prior over its latents.

    Keyword arguments are the fields of `WorldModelConfig` (blocks as mappings); the defaults are the seed's sizes.
    Actions a_t are chosen after frame x_t; all tensors at index t depend on x_<=t and a_<=t-1 of the same episode only.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = config = from_mapping(WorldModelConfig, settings)
        perceiver, encoder, attention = config.perceiver_config, config.encoder_config, config.attention_config
        self.context_mode = config.context_mode if perceiver.enabled else "none"
        self.num_slots = attention.num_slots
        self.trunk = ConvTrunk(encoder.base_channels, encoder.residual)
        channels, hidden, latent = self.trunk.out_channels, config.hidden_dim, config.latent_dim
        self.perceiver = None
        if perceiver.enabled:
            sizes = {k: v for k, v in vars(perceiver).items() if k != "enabled"}
            self.perceiver = CausalPerceiver(channels, config.action_dim, **sizes)
        self.posterior = Posterior(
            channels,
            perceiver.context_dim,
            hidden,
            latent,
            encoder.embedding_dim,
            encoder.hidden_dim,
            encoder.min_std,
            encoder.max_std,
            encoder.uses_carry,
        )
        self.prior = DPGMMPrior(
            hidden,
            latent,
            config.max_components,
            trunk_dim=config.prior_config.trunk_dim,
            unimix=config.prior_config.unimix,
            std_range=(config.prior_config.min_std, config.prior_config.max_std),
            prior_shape=config.prior_config.prior_shape,
            prior_rate=config.prior_config.prior_rate,
        )
        self.dynamics = OrthogonalLSTM(
            latent + perceiver.context_dim + config.action_dim, hidden, config.n_lstm_layers, config.use_orthogonal
        )
        self.context_predictor = None
        if self.context_mode != "none":
            self.context_predictor = ContextPredictor(hidden, latent, perceiver.context_dim, encoder.hidden_dim)
        self.attention = None
        if attention.enabled:
            sizes = {k: v for k, v in vars(attention).items() if k != "enabled"}
            self.attention = AttentionSchema(channels, hidden, latent, **sizes)
        self.decoder = Decoder(config.feature_dim, attention.num_slots, config.decoder_config.base_channels)
        heads = config.head_config
        self.reward_head = RewardHead(config.feature_dim, heads.hidden_dim, heads.num_layers, heads.num_bins)
        self.continue_head = ContinueHead(config.feature_dim, heads.hidden_dim, heads.num_layers)
        self.teacher = copy.deepcopy(self.trunk).requires_grad_(False) if encoder.gram_fraction > 0 else None

    # ---------------------------------------------------------------- the one step function, in its two halves

    def _state(self, hidden: Tensor, cell: Tensor, latent: Tensor, context: Tensor | None = None) -> State:
        """Complete a belief with the context its transition will consume (`context`: c_t, used in teacher mode only)."""
        if self.context_predictor is None:
            context = latent.new_zeros(len(latent), self.config.perceiver_config.context_dim)
        elif self.context_mode == "closed" or context is None:
            context = self.context_predictor(hidden[:, -1], latent)
        return State(hidden, cell, latent, context)

    def advance(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """g_{t+1}, κ_{t+1} = LSTM([z_t, ĉ_t, a_t], (g_t, κ_t)): hidden and cell [N, L, H] after action [N, A]."""
        inputs = torch.cat([state.latent, state.context, action], -1)
        return self.dynamics(inputs, state.hidden, state.cell)

    def _infer(
        self, hidden: Tensor, cell: Tensor, projected: Tensor, context: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[State, Tensor, Tensor]:
        """Reset where an episode starts, then z_t ~ q(z|x_t, c_t, g_t): state, mean [N, D], std [N, D]."""
        fresh_hidden, fresh_cell = self.dynamics.initial(len(hidden))
        reset = is_first[:, None, None]
        hidden, cell = torch.where(reset, fresh_hidden, hidden), torch.where(reset, fresh_cell, cell)
        mean, std = self.posterior(projected, hidden[:, -1])
        return self._state(hidden, cell, mean + std * noise, context), mean, std

    # ---------------------------------------------------------------- acting

    def initial(self, batch: int) -> Memory:
        """Memory of `batch` environments before their first frame."""
        hidden, cell = self.dynamics.initial(batch)
        return Memory(hidden, cell, None if self.perceiver is None else self.perceiver.initial_cache(batch))

    def observe_step(
        self,
        memory: Memory,
        frames: Tensor,
        is_first: Tensor,
        generator: Generator | None = None,
        sample: bool = False,
    ) -> tuple[State, Memory]:
        """One frame per environment: frames [N, 3, 64, 64] in [0, 1], is_first [N] -> state at t, memory.

        After the action is chosen: `hidden, cell = advance(state, action)` go into the memory of the next call.
        """
        features = self.trunk(frames - 0.5)
        cache = memory.cache
        if self.perceiver is None:
            context = features.new_zeros(len(frames), self.config.perceiver_config.context_dim)
        else:
            context, cache = self.perceiver.step(features, is_first, cache)
        noise = features.new_zeros(len(frames), self.config.latent_dim)
        if sample:
            noise = torch.randn(noise.shape, generator=generator, device=noise.device, dtype=noise.dtype)
        projected = self.posterior.project(features, context)
        state, _, _ = self._infer(memory.hidden, memory.cell, projected, context, is_first, noise)
        return state, memory._replace(cache=cache)

    # ---------------------------------------------------------------- training

    def observe(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        generator: Generator | None = None,
        sample: bool = True,
    ) -> Observed:
        """Infer the latents of a chunk: observations [B, T, 3, 64, 64], actions [B, T, A], is_first [B, T].

        The first index is a reset whatever is_first says. `sample=False` takes every latent at its mean.
        """
        is_first = self._check(observations, actions, is_first)
        batch, steps = is_first.shape
        features = self.trunk(observations.flatten(0, 1) - 0.5).unflatten(0, (batch, steps))  # [B, T, Cf, 8, 8]
        if self.perceiver is None:
            perceived = None
            context = features.new_zeros(batch, steps, self.config.perceiver_config.context_dim)
        else:
            perceived = self.perceiver(features, is_first, generator)
            context = perceived.context
        projected = self.posterior.project(features, context)
        noise = features.new_zeros(steps, batch, self.config.latent_dim)
        if sample:
            noise = torch.randn(noise.shape, generator=generator, device=noise.device, dtype=noise.dtype)
        hidden, cell = self.dynamics.initial(batch)
        states, means, stds, carries = [], [], [], []
        for t in range(steps):  # the only sequential part
            state, mean, std = self._infer(hidden, cell, projected[:, t], context[:, t], is_first[:, t], noise[t])
            hidden, cell = self.advance(state, actions[:, t])
            states.append(state)
            means.append(mean)
            stds.append(std)
            carries.append(hidden[:, -1])
        mean, std, next_carry = (torch.stack(parts, 1) for parts in (means, stds, carries))
        return Observed(features, perceived, context, stack_states(states, 1), next_carry, mean, std)

    def forward_sequence(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        rewards: Tensor | None = None,
        is_terminal: Tensor | None = None,
        generator: Generator | None = None,
        sample: bool = True,
    ) -> dict[str, Any]:
        """Process a chunk and return predictions, distributions' parameters and every per-step loss [B, T].

        Shapes as in `observe`; rewards and is_terminal [B, T]: without them their two losses are absent. Keys are listed
        in docs/world_model.md. In train mode the codebook moves at the very end, when all outputs exist.
        """
        is_first = self._check(observations, actions, is_first, rewards=rewards, is_terminal=is_terminal)
        seen = self.observe(observations, actions, is_first, generator, sample)
        states, config = seen.states, self.config
        prior = self.prior(states.carry)
        concentration = self.prior.infer_concentration(prior)
        balance, free_nats = config.prior_config.kl_balance, config.prior_config.free_nats
        kl_z, bound, responsibilities = losses.latent_kl(seen.mean, seen.std, prior, balance, free_nats)
        attention = None
        if self.attention is not None:
            attention = self.attention(seen.features, states.carry, states.latent, is_first)
        reconstructions, recon_loss = self._reconstruct(observations, states, attention, generator)
        outputs: dict[str, Any] = {
            "observations": observations,
            "is_first": is_first,
            "states": states,
            "reconstructions": reconstructions,
            "z_mean": seen.mean,
            "z_logvar": 2 * seen.std.log(),
            "z_posterior": states.latent,
            "z_prior": self.prior.sample(prior, generator),
            "pi": prior.log_weights.exp(),
            "mu_k": prior.means,
            "sigma_k": prior.stds,
            "log_a": prior.log_a,
            "log_b": prior.log_b,
            "alpha": concentration.shape / concentration.rate,
            "h_t": seen.next_carry,
            "carry": states.carry,
            "responsibilities": responsibilities,
            "kl_bound": bound,
            "effective_components": losses.usage_entropy(responsibilities).exp(),
            "recon_loss": recon_loss,
            "kl_z": kl_z,
            "hierarchical_kl": concentration.kl,
            "cluster_entropy": losses.usage_entropy(responsibilities).expand_as(recon_loss),
        }
        outputs |= self._perception_losses(seen, observations, actions, is_first)
        outputs |= self._gram_loss(seen.features, observations, generator)
        if self.attention is not None and attention is not None:
            outputs |= self.attention.losses(attention, is_first)
            outputs |= {
                "attention_maps": attention.maps,
                "prior_attention_maps": attention.prior_maps,
                "slot_responsibilities": attention.responsibilities,
                "attention_precision": attention.log_precision.exp(),
                "predicted_movement": attention.predicted_movement,
            }
        if rewards is not None:
            outputs["reward_nll"] = self.reward_head.nll(states.features, rewards)
        if is_terminal is not None:
            outputs["continue_nll"] = losses.continue_nll(self.continue_head(states.features), is_terminal)
        if self.training and self.perceiver is not None:
            self.perceiver.update_codebook(seen.perceived, generator)
        return outputs

    def compute_total_loss(
        self, observations: Tensor, actions: Tensor, *sequence: Any, **weights: float
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """`forward_sequence` and `LossAggregator` in one call: (scalar losses with the three totals, outputs).

        `sequence`: is_first, rewards, is_terminal, generator as in `forward_sequence`; `weights` as in `compute_losses`.
        """
        outputs = self.forward_sequence(observations, actions, *sequence)
        losses_dict, _ = LossAggregator().compute_losses(outputs, **weights)
        return losses_dict, outputs

    def after_update(self, outputs: dict[str, Any], generator: Generator | None = None) -> None:
        """Once behind every optimizer step: move the gram teacher and re-seed components that died."""
        with torch.no_grad():
            if self.teacher is not None:
                for slow, fast in zip(self.teacher.parameters(), self.trunk.parameters(), strict=True):
                    slow.lerp_(fast, 0.005)
            self.prior.update_usage(outputs["responsibilities"], outputs["z_mean"], outputs["carry"], generator)

    def _perception_losses(
        self, seen: Observed, observations: Tensor, actions: Tensor, is_first: Tensor
    ) -> dict[str, Tensor]:
        """Pillar 1's own losses, and the distillation of its context into the state."""
        found: dict[str, Tensor] = {}
        if self.perceiver is None or seen.perceived is None:
            return found
        perceived = seen.perceived
        logits = self.perceiver.next_token_logits(perceived.latents, actions)
        found["vq_indices"] = perceived.indices
        found["vq_perplexity"] = self.perceiver.perplexity(perceived.indices)
        found["vq_recon"] = losses.squared_error(observations, self.perceiver.reconstruct(perceived.values))
        found["vq_commit"] = perceived.commitment
        found["next_token_ce"] = losses.next_token_loss(logits, perceived.indices, is_first)
        found["context"] = seen.context
        if self.context_predictor is not None:
            states = seen.states
            teacher = self.context_mode == "teacher"
            predicted = self.context_predictor(states.carry, states.latent) if teacher else states.context
            found["context_pred"] = predicted
            found["context_nll"] = losses.context_nll(seen.context, predicted)
        return found

    def _gram_loss(
        self, features: Tensor, observations: Tensor, generator: Generator | None
    ) -> dict[str, Tensor]:
        """Cell similarities stay close to the slow trunk's, on a random share of the frames."""
        if self.teacher is None:
            return {}
        chosen = self._some_frames(features.shape[:2], self.config.encoder_config.gram_fraction, generator)
        with torch.no_grad():
            teacher = self.teacher(observations.flatten(0, 1)[chosen] - 0.5)
        loss = losses.gram_loss(features.flatten(0, 1)[chosen], teacher)
        return {"gram_enc_loss": _spread(loss, chosen, features.shape[:2])}

    def _reconstruct(
        self, observations: Tensor, states: State, attention: AttentionOutput | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """x̂ [B, T, 3, 64, 64] and its loss [B, T]. In train mode half of the sequences are decoded from prior maps, so
        that maps are no side channel, and only `train_fraction` of the frames (the others stay 0)."""
        shape = observations.shape[:2]
        maps = None if attention is None else attention.maps
        if attention is not None and self.training:
            use_prior = torch.rand(shape[0], generator=generator, device=observations.device) < 0.5
            maps = torch.where(use_prior[:, None, None, None, None], attention.prior_maps, attention.maps)
        fraction = self.config.decoder_config.train_fraction if self.training else 1.0
        if fraction == 1.0:
            reconstructions = self.decode(states, maps)
            return reconstructions, losses.squared_error(observations, reconstructions)
        chosen = self._some_frames(shape, fraction, generator)
        part = self.decode(
            states.map(lambda x: x.flatten(0, 1)[chosen]), None if maps is None else maps.flatten(0, 1)[chosen]
        )
        loss = losses.squared_error(observations.flatten(0, 1)[chosen], part)
        frames = torch.zeros_like(observations).flatten(0, 1).index_copy(0, chosen, part.detach()).unflatten(0, shape)
        return frames, _spread(loss, chosen, shape)

    def _some_frames(self, shape: torch.Size, fraction: float, generator: Generator | None) -> Tensor:
        """A random share of the B * T frame indices, at least one."""
        frames = shape[0] * shape[1]
        device = self.dynamics.initial_hidden.device
        return torch.randperm(frames, generator=generator, device=device)[: max(1, round(fraction * frames))]

    # ---------------------------------------------------------------- dreaming

    def imagine_step(self, state: State, action: Tensor, generator: Generator | None = None) -> State:
        """One step of a dream: the transition of training, then z' ~ prior(g'). Gradients pass by straight-through."""
        hidden, cell = self.advance(state, action)
        prior = self.prior(hidden[:, -1])
        latent = self.prior.sample(prior, generator, straight_through=torch.is_grad_enabled())
        return self._state(hidden, cell, latent)

    def imagine(
        self, state: State, policy: Callable[[State], Tensor], horizon: int, generator: Generator | None = None
    ) -> tuple[State, Tensor]:
        """Dream `horizon` steps from state [N, ...]: states [N, horizon + 1, ...] (the start first), actions [N, horizon, A]."""
        states, actions = [state], []
        for _ in range(horizon):
            actions.append(policy(states[-1]))
            states.append(self.imagine_step(states[-1], actions[-1], generator))
        return stack_states(states, 1), torch.stack(actions, 1)

    def dream_maps(self, states: State, previous_maps: Tensor | None = None) -> Tensor:
        """Attention maps of a dream, by the top-down prior alone: states [N, T, ...] -> [N, T, S, 8, 8].

        previous_maps [N, S, 8, 8] are those of the frame before the first state; uniform where there was none.
        """
        batch, steps = states.latent.shape[:2]
        maps = states.latent.new_full((batch, self.num_slots, 8, 8), 1 / 64) if previous_maps is None else previous_maps
        if self.attention is None:
            return maps[:, None].expand(-1, steps, -1, -1, -1)
        dreamed = []
        for t in range(steps):
            maps = self.attention.dream_step(maps, states.carry[:, t], states.latent[:, t])
            dreamed.append(maps)
        return torch.stack(dreamed, 1)

    def decode(self, states: State, maps: Tensor | None = None) -> Tensor:
        """Frames [..., 3, 64, 64] of states [..., ·] under maps [..., S, 8, 8] (None: uniform maps)."""
        lead = states.latent.shape[:-1]
        if maps is None:
            maps = states.latent.new_full((*lead, self.num_slots, 8, 8), 1 / 64)
        features = states.features.reshape(-1, self.config.feature_dim)
        return self.decoder(features, maps.reshape(-1, self.num_slots, 8, 8)).unflatten(0, lead)

    # ---------------------------------------------------------------- checks

    def _check(
        self, observations: Tensor, actions: Tensor, is_first: Tensor | None, **targets: Tensor | None
    ) -> Tensor:
        """Shapes at the public door; returns is_first [B, T] with the first index set."""
        if observations.ndim != 5 or observations.shape[2:] != (3, 64, 64) or 0 in observations.shape[:2]:
            raise ValueError(f"observations: got shape {tuple(observations.shape)}, expected [B, T, 3, 64, 64]")
        if not observations.is_floating_point():
            raise ValueError(f"observations: got {observations.dtype}, expected floats in [0, 1]")
        shape = observations.shape[:2]
        if actions.shape != (*shape, self.config.action_dim):
            expected = [*shape, self.config.action_dim]
            raise ValueError(f"actions: got shape {tuple(actions.shape)}, expected {expected}")
        for name, tensor in {"is_first": is_first, **targets}.items():
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {list(shape)}")
        starts = torch.zeros(shape, dtype=torch.bool, device=observations.device)
        starts[:, 0] = True
        return starts if is_first is None else starts | is_first.bool()


def _spread(loss: Tensor, chosen: Tensor, shape: torch.Size) -> Tensor:
    """Losses [n] of the chosen frames as [B, T]: zero elsewhere, scaled so that the mean is kept."""
    whole = loss.new_zeros(shape[0] * shape[1]).index_copy(0, chosen, loss)
    return (whole * (whole.numel() / len(chosen))).view(shape)
