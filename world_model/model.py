"""The wiring of the five pillars. One transition (`_infer`, `advance`) serves acting, training and dreaming.

x_t -> trunk -> Perceiver IO -> c_t                        pillar 1   perceiver_io/
x_t, x_t - x_{t-1} -> motion trunk -> posterior            with `encoder_config.motion_dim`
[x_t, c_t, g_t] -> posterior -> z_t ; g_t -> mixture prior pillar 2   generative_prior/
[z_t, ĉ_t, a_t] -> orthogonal LSTM -> g_{t+1}              pillar 3   temporal_dynamics/
x_t, g_t -> slot attention -> A_t ; its prior in dreams    pillar 4   attention_schema/
losses -> three task gradients -> rotation                 pillar 5   multi_task_learning/
[z_t, g_t, prior maps] -> decoder -> x̂_t
v_t -> posterior ; [z_t, g_t] -> its decoder -> v̂_t       with `vector_dim`; alone with `image_size` 0
g_{t-k+1..t} -> u_t, every k rows -> prior, heads, actor   an extension: slow_latent.py

Prior, recurrence and extra losses are chosen by name: parts.py. What `forward` returns: output.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from multi_task_learning import LossAggregator
from world_model import losses, terms
from world_model.attention_schema import AttentionSchema
from world_model.checks import check_chunk, check_frames, check_vectors
from world_model.config import WorldModelConfig
from world_model.distributions import standard_normal
from world_model.encoder_decoder import Decoder, Posterior, VectorDecoder
from world_model.frame_norm import FrameNorm
from world_model.frame_stack import last_frames, newest, push, stack_chunk
from world_model.heads import ContinueHead, RewardHead
from world_model.layers import check_sizes
from world_model.loss_groups import OF_PART, OF_SETTING, Groups, possible, select
from world_model.motion import MotionTrunk
from world_model.output import ModelOutput, Rollout
from world_model.parts import extra_groups, extra_losses, make_dynamics, make_prior, make_slow_latent
from world_model.perceiver_io import CausalPerceiver
from world_model.prior import Noise
from world_model.settings import from_mapping
from world_model.state import Inputs, Memory, Observed, State, arrivals, prior_input, stack_states
from world_model.temporal_dynamics import ContextPredictor
from world_model.trunk import ConvTrunk, SlowTrunk


class DPGMMVariationalRecurrentAutoencoder(nn.Module):
    """Variational recurrent autoencoder with a stick-breaking mixture prior over its latents.

    Keyword arguments are the fields of `WorldModelConfig` (blocks as mappings) with the reference sizes as defaults.
    Actions a_t are chosen after frame x_t; all tensors at index t depend only on x_<=t and a_<=t-1 of the same episode
    (h_t also on a_t). Raises ValueError for unknown keys and values out of range.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = config = from_mapping(WorldModelConfig, settings)
        perceiver, encoder, attention = config.perceiver_config, config.encoder_config, config.attention_config
        carry_dim, latent_dim, context_dim = config.hidden_dim, config.latent_dim, perceiver.context_dim
        self.context_mode = config.context_mode if perceiver.enabled else "none"
        self.num_slots, self.context_dim = attention.num_slots, context_dim
        self.extra_groups = extra_groups(config.extra_losses)

        size = config.image_size
        self.frame_norm = FrameNorm(image_size=size)
        self.trunk = ConvTrunk(encoder.base_channels, encoder.residual, encoder.stem_stride, encoder.frame_stack, size)
        channels = self.trunk.out_channels
        self.perceiver: CausalPerceiver | None = None
        if perceiver.enabled:  # pillar 1
            fine_channels = self.trunk.half_channels
            self.perceiver = CausalPerceiver(channels, config.action_dim, perceiver, 2.0, size, fine_channels)
        self.posterior = Posterior(channels, context_dim, carry_dim, latent_dim, encoder, config.vector_dim)
        self.prior = make_prior(config)  # pillar 2
        self.slow = make_slow_latent(config)
        self.dynamics = make_dynamics(config)  # pillar 3
        self.context_predictor: ContextPredictor | None = None
        if self.context_mode != "none":
            self.context_predictor = ContextPredictor(carry_dim, latent_dim, context_dim, encoder.hidden_dim)
        self.attention: AttentionSchema | None = None
        if attention.enabled:  # pillar 4
            self.attention = AttentionSchema(channels, carry_dim, latent_dim, attention)
        self.decoder: Decoder | None = None
        if size > 0:
            base = config.decoder_config.base_channels
            self.decoder = Decoder(config.feature_dim, attention.num_slots, base, encoder.stem_stride, size)
        self.reward_head = RewardHead(config.feature_dim, config.head_config)
        self.continue_head = ContinueHead(config.feature_dim, config.head_config)
        self.teacher = SlowTrunk(self.trunk, encoder.gram_fraction) if encoder.gram_fraction > 0 else None
        self.motion: MotionTrunk | None = None
        if encoder.motion_dim is not None:
            of_motion = (encoder.motion_dim, config.action_dim, encoder.hidden_dim, config.head_config)
            self.motion = MotionTrunk(*of_motion, size)
        width, of_vector = config.vector_dim, (config.feature_dim, config.head_config)
        self.vector_decoder = None if width is None else VectorDecoder(width, *of_vector)
        self.frames_seen = max(encoder.frame_stack, 1 if self.motion is None else 2)  # by any trunk at once

    def loss_groups(self, rewards: bool = True, is_terminal: bool = True) -> Groups:
        """Return the groups, terms and weights (pillar 5) of all losses, for the active parts and given targets."""
        given = {part: getattr(self, part) is not None for part in OF_PART}
        given |= {setting: getattr(self.config, setting) is not None for setting in OF_SETTING}
        given |= {"rewards": rewards, "is_terminal": is_terminal}
        return select({*self.prior.loss_names, *possible(given)}, self.extra_groups)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the gradients of all losses reach: trunk, posterior and dynamics."""
        names = ("trunk", "posterior", "dynamics")
        return [parameter for name in names for parameter in self.get_submodule(name).parameters()]

    # ---------------------------------------------------------------- the one step function, in its two halves

    def _infer(
        self, hidden: Tensor, cell: Tensor, projected: Tensor, context: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[State, Tensor, Tensor]:
        """Reset at episode starts, then draw z_t ~ q(z|x_t, c_t, g_t): return state, mean [N, D], std [N, D]."""
        fresh_hidden, fresh_cell = self.dynamics.initial(len(hidden))
        reset = is_first[:, None, None]
        hidden = torch.where(reset, fresh_hidden, hidden)
        cell = torch.where(reset, fresh_cell, cell)
        mean, std = self.posterior(projected, hidden[:, -1])
        latent = mean + self.config.recurrence_noise * std * noise
        return self._state(hidden, cell, latent, context), mean, std

    def advance(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """Compute g_{t+1}, κ_{t+1} = LSTM([z_t, ĉ_t, a_t], (g_t, κ_t)): hidden, cell [N, L, H] after action [N, A]."""
        if action.shape != (len(state.latent), self.config.action_dim):
            expected = (len(state.latent), self.config.action_dim)
            raise ValueError(f"action: got shape {tuple(action.shape)}, expected {expected}")
        inputs = torch.cat([state.latent, state.context, action], -1)
        return self.dynamics(inputs, state.hidden, state.cell)

    def _state(self, hidden: Tensor, cell: Tensor, latent: Tensor, context: Tensor | None = None) -> State:
        """Complete a state with the context for `advance`; c_t is used in teacher mode only."""
        if self.context_predictor is None:
            context = latent.new_zeros(len(latent), self.context_dim)
        elif self.context_mode == "closed" or context is None:
            context = self.context_predictor(hidden[:, -1], latent)
        return State(hidden, cell, latent, context)

    # ---------------------------------------------------------------- acting

    def initial(self, batch: int) -> Memory:
        """Return the memory of `batch` environments before their first frame. ValueError below 1."""
        check_sizes(batch=batch)
        hidden, cell = self.dynamics.initial(batch)
        cache = None if self.perceiver is None else self.perceiver.initial_cache(batch)
        earlier = tuple(hidden.new_zeros(batch, *self.frame_norm.mean.shape) for _ in range(self.frames_seen - 1))
        latent, action = (hidden.new_zeros(batch, width) for width in (self.config.latent_dim, self.config.action_dim))
        slow = () if self.slow is None else self.slow.initial(hidden[:, -1])
        return Memory(hidden, cell, cache, earlier, arrival=self._arrival(latent, action), slow=slow)

    def observe_step(
        self,
        memory: Memory,
        frames: Tensor,
        is_first: Tensor,
        generator: Generator | None = None,
        sample: bool = False,
        vectors: Tensor | None = None,
    ) -> tuple[State, Memory]:
        """Infer from one frame per environment: frames [N, 3, 64, 64] in [0, 1], is_first bool [N] -> state, memory.

        Once the action is chosen, `remember(memory, state, action)` is the memory for the next call. vectors: [N, V].
        """
        check_frames(frames, is_first, len(memory.hidden), self.frame_norm.mean)
        check_vectors(vectors, is_first.shape, self.config.vector_dim, frames.dtype)
        places = push(frames, is_first, memory.frames)
        stacked = torch.cat([self.frame_norm(place) for place in places], 1)
        features, fine = self._see(stacked)
        context, cache = features.new_zeros(len(frames), self.context_dim), memory.cache
        if self.perceiver is not None and cache is not None:
            context, cache = self.perceiver.step(features, is_first, cache, fine)
        noise = standard_normal((len(frames), self.config.latent_dim), features, generator, sample)
        projected = self.posterior.project(features, context, vectors)
        if self.motion is not None:
            projected = projected + self.motion.inform(self.motion(newest(stacked, 2)))
        state, _, _ = self._infer(memory.hidden, memory.cell, projected, context, is_first, noise)
        arrival, slow = tuple(torch.where(is_first[:, None], 0.0, x) for x in memory.arrival), memory.slow
        if self.slow is not None:
            noise = standard_normal((len(frames), self.slow.dim), features, generator, sample)
            slow = self.slow.observe(state.carry, is_first, slow, noise)
        memory = memory._replace(cache=cache, frames=places[:-1], slow=slow)
        return state._replace(arrival=arrival, slow=slow[:2]), memory

    def remember(self, memory: Memory, state: State, action: Tensor) -> Memory:
        """Return the memory after action [N, A] in a state that `observe_step` gave with `memory`."""
        hidden, cell = self.advance(state, action)
        return memory._replace(hidden=hidden, cell=cell, arrival=self._arrival(state.latent, action))

    def _arrival(self, latent: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        """Return what the next state's prior reads of this one, [..., D + A]; nothing without `action_path`."""
        return (torch.cat([latent, action], -1),) if self.config.prior_config.action_path else ()

    # ---------------------------------------------------------------- inferring a chunk

    def observe(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        generator: Generator | None = None,
        sample: bool = True,
        start: Memory | None = None,
        vectors: Tensor | None = None,
    ) -> Observed:
        """Infer the latents of a chunk: observations [B, T, 3, 64, 64], actions [B, T, A], is_first [B, T].

        start: the memory before the first frame, as from `warm_up`; without it the first index counts as a reset (for
        pillar 1 always). `sample=False` takes every latent at its mean. vectors: [B, T, V], for models that have them.
        """
        frame = self.frame_norm.mean
        is_first = check_chunk(observations, actions, self.config.action_dim, frame, is_first, start is not None)
        check_vectors(vectors, is_first.shape, self.config.vector_dim, frame.dtype)
        batch, steps = is_first.shape
        self.frame_norm.initialise(observations.flatten(0, 1))
        stacked = self._stacked(observations, is_first, start).flatten(0, 1)
        features, fine = self._see(stacked)
        features = features.unflatten(0, (batch, steps))  # [B, T, Cf, 8, 8]
        perceived = None
        if self.perceiver is not None:
            window_starts = is_first.clone()
            window_starts[:, 0] = True
            perceived = self.perceiver(features, window_starts, generator, fine)
        context = features.new_zeros(batch, steps, self.context_dim) if perceived is None else perceived.context
        projected, motion = self.posterior.project(features, context, vectors), None
        if self.motion is not None:
            motion = self.motion(newest(stacked, 2)).unflatten(0, (batch, steps))
            projected = projected + self.motion.inform(motion)
        noise = standard_normal((steps, batch, self.config.latent_dim), features, generator, sample)
        carry = self.dynamics.initial(batch) if start is None else (start.hidden, start.cell)
        states, next_carry, mean, std = self.scan(*carry, projected, context, is_first, noise, actions)
        led, slow = self._arrival(states.latent, actions), None
        states = states._replace(arrival=arrivals(led, () if start is None else start.arrival, is_first))
        if self.slow is not None:
            slow_noise = standard_normal((batch, steps, self.slow.dim), features, generator, sample)
            slow = self.slow(states.carry, is_first, slow_noise, () if start is None else start.slow)
            states = states._replace(slow=(slow.latent, slow.age))
        drawn = states._replace(latent=mean + std * noise.transpose(0, 1))
        return Observed(features, perceived, context, states, drawn, next_carry, mean, std, motion, slow)

    @torch.no_grad()
    def warm_up(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor,
        generator: Generator | None = None,
        vectors: Tensor | None = None,
    ) -> Memory:
        """Return the memory after a chunk, the start for `observe` and `forward` on the rows that follow it."""
        observed = self.observe(observations, actions, is_first, generator, vectors=vectors)
        last = observed.states.map(lambda x: x[:, -1])
        frames = last_frames(observations, is_first, self.frames_seen)
        slow = () if observed.slow is None else observed.slow.memory
        return self.remember(Memory(last.hidden, last.cell, None, frames, slow=slow), last, actions[:, -1])

    def _stacked(self, observations: Tensor, is_first: Tensor, start: Memory | None) -> Tensor:
        """Return the frames of a chunk, each before its predecessors: [B, T, 3 * frames_seen, 64, 64]."""
        earlier = () if start is None else tuple(self.frame_norm(frame) for frame in start.frames)
        return stack_chunk(self.frame_norm(observations), is_first, self.frames_seen, earlier)

    def scan(
        self,
        hidden: Tensor,
        cell: Tensor,
        projected: Tensor,
        context: Tensor,
        is_first: Tensor,
        noise: Tensor,
        actions: Tensor,
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """Run the sequential part of `observe` with noise [T, B, D]: states, next carries, means, stds [B, T, ·]."""
        states, means, stds, carries = [], [], [], []
        for t in range(actions.shape[1]):
            state, mean, std = self._infer(hidden, cell, projected[:, t], context[:, t], is_first[:, t], noise[t])
            hidden, cell = self.advance(state, actions[:, t])
            states.append(state)
            means.append(mean)
            stds.append(std)
            carries.append(hidden[:, -1])
        next_carry, mean, std = (torch.stack(parts, 1) for parts in (carries, means, stds))
        return stack_states(states, 1), next_carry, mean, std

    # ---------------------------------------------------------------- training

    def forward(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        rewards: Tensor | None = None,
        is_terminal: Tensor | None = None,
        generator: Generator | None = None,
        sample: bool = True,
        start: Memory | None = None,
        vectors: Tensor | None = None,
    ) -> ModelOutput:
        """Return distributions, predictions and all per-step losses [B, T] of a chunk.

        Shapes, `start` and `vectors` as in `observe`, rewards and is_terminal [B, T]; without those two, their losses
        are absent. In train mode the codebook is updated at the end.
        """
        frame, targets = self.frame_norm.mean, {"rewards": rewards, "is_terminal": is_terminal}
        is_continued = start is not None
        is_first = check_chunk(observations, actions, self.config.action_dim, frame, is_first, is_continued, **targets)
        inputs = Inputs(observations, actions, is_first, rewards, is_terminal, vectors)
        observed = self.observe(observations, actions, is_first, generator, sample, start, vectors)

        settings = self.config.attention_config
        shares = self._share(settings.train_fraction), self._share(settings.prior_share)
        attention, maps, found = terms.attention_terms(
            self.attention, self.prior_maps, observed, is_first, *shares, generator
        )
        share = self._share(self.config.decoder_config.train_fraction)
        frames, of_frames = terms.reconstruction_terms(
            self.decode, observations, observed.drawn, maps, share, self.config.decoder_config.resolutions, generator
        )
        prior, of_prior = terms.prior_terms(self.prior, self.config.prior_config, observed, generator)
        found |= of_frames | of_prior
        scalars = dict(prior.report.scalars)
        if self.perceiver is not None and observed.perceived is not None:
            share = self._share(self.config.perceiver_config.train_fraction)
            found |= terms.perceiver_terms(
                self.perceiver, observed.perceived, self.frame_norm, inputs, share, generator
            )
            scalars["vq_perplexity"] = self.perceiver.perplexity(observed.perceived.indices)
        predicted_context = self._predicted_context(observed.states)
        if predicted_context is not None:
            found["context_nll"] = losses.context_nll(observed.context, predicted_context)
        if self.teacher is not None:
            stacked = self._stacked(observations, is_first, start).flatten(0, 1)
            seen = newest(stacked, self.config.encoder_config.frame_stack).unflatten(0, is_first.shape)
            found["gram_enc_loss"] = self.teacher.loss(observed.features, seen, generator)
        found |= self._predictive_losses(inputs, observed, generator)

        output = ModelOutput(inputs, observed, prior, attention, maps, frames, predicted_context, found, scalars)
        found |= extra_losses(self.config.extra_losses, output)
        if self.training and self.perceiver is not None and observed.perceived is not None:
            self.perceiver.update_codebook(observed.perceived, generator)
        self.frame_norm.update(observations.flatten(0, 1))
        return output

    def _see(self, stacked: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the trunk's features [N, ·, 8, 8] of stacked frames, and those at 16 x 16 if pillar 1 reads them."""
        frames = newest(stacked, self.config.encoder_config.frame_stack)
        if self.perceiver is None or self.perceiver.read_fine is None:
            return self.trunk(frames), None
        return self.trunk.halfway(frames)

    def _share(self, train_fraction: float) -> float:
        """Return the share of frames on which a loss is computed: all of them in eval mode."""
        return train_fraction if self.training else 1.0

    def _predicted_context(self, states: State) -> Tensor | None:
        """Return ĉ [B, T, C], or None without a predictor; in teacher mode the states hold c instead."""
        if self.context_predictor is None:
            return None
        return self.context_predictor(states.carry, states.latent) if self.context_mode == "teacher" else states.context

    def _predictive_losses(self, inputs: Inputs, observed: Observed, generator: Generator | None) -> dict[str, Tensor]:
        """Return the losses of vectors and heads, for given targets, and those of dreams, slow latent and motion."""
        found, features = {}, observed.drawn.features
        if self.vector_decoder is not None and inputs.vectors is not None:
            found["vector_recon"] = self.vector_decoder.loss(features, inputs.vectors)
        if inputs.rewards is not None:
            found["reward_nll"] = self.reward_head.nll(features, inputs.rewards)
        if inputs.is_terminal is not None:
            found["continue_nll"] = losses.continue_nll(self.continue_head(features), inputs.is_terminal)
        if self.config.overshoot is not None:
            dreamed = terms.overshoot_dreams(self.imagine, self.config.overshoot, inputs, observed, generator)
            free_nats = self.config.prior_config.free_nats
            found |= terms.overshoot_terms(self.prior, self.reward_head, free_nats, inputs, observed, *dreamed)
        if self.slow is not None and observed.slow is not None:
            found["slow_kl"] = self.slow.loss(observed.slow)
        if self.motion is not None and observed.motion is not None and inputs.rewards is not None:
            found["motion_nll"] = self.motion.nll(observed.motion, inputs.actions, inputs.is_first, inputs.rewards)
        return found

    def forward_sequence(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        rewards: Tensor | None = None,
        is_terminal: Tensor | None = None,
        generator: Generator | None = None,
        sample: bool = True,
        vectors: Tensor | None = None,
    ) -> dict[str, Any]:
        """Return `forward`'s results as one dict, whose keys are listed in docs/world_model.md."""
        return self(observations, actions, is_first, rewards, is_terminal, generator, sample, None, vectors).as_dict()

    def compute_total_loss(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        rewards: Tensor | None = None,
        is_terminal: Tensor | None = None,
        generator: Generator | None = None,
        vectors: Tensor | None = None,
        **weights: float,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all losses and totals as scalars, weighted by `LossAggregator`, and `forward_sequence`'s dict."""
        output = self(observations, actions, is_first, rewards, is_terminal, generator, vectors=vectors)
        aggregator = LossAggregator(self.loss_groups(rewards is not None, is_terminal is not None))
        return aggregator.compute_losses(output.losses, **weights)[0], output.as_dict()

    @torch.no_grad()
    def after_update(self, output: ModelOutput, generator: Generator | None = None) -> None:
        """Update the gram teacher and the prior's state; call this after every optimizer step."""
        if self.teacher is not None:
            self.teacher.follow(self.trunk)
        observed = output.observed
        self.prior.after_update(observed.mean, observed.states.prior_input, output.prior.responsibilities, generator)
        if self.slow is not None and observed.slow is not None:
            self.slow.after_update(observed.slow, generator)

    # ---------------------------------------------------------------- dreaming

    def imagine_step(self, state: State, action: Tensor, noise: Noise | None = None) -> State:
        """Take one step of a dream: the transition of training, then z' ~ prior(g')."""
        hidden, cell = self.advance(state, action)
        if noise is None:
            noise = self.draw_noise(state.latent.shape[:-1])
        arrival, slow = self._arrival(state.latent, action), state.slow
        if self.slow is not None:
            noise, of_slow = noise[: -self.slow.num_noises], noise[-self.slow.num_noises :]
            slow = self.slow.tick(slow, hidden[:, -1], of_slow)
        latent = self.prior(prior_input(hidden[:, -1], slow, arrival)).sample(noise, self.config.dream_noise)
        return self._state(hidden, cell, latent)._replace(arrival=arrival, slow=slow)

    def draw_noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Noise:
        """Return the noise of dreamed steps of any shape [...]: that of the prior, then that of the slow one."""
        like = self.frame_norm.mean
        noise = tuple(self.prior.draw_noise((*shape, self.config.latent_dim), like, generator))
        if self.slow is not None:
            noise += tuple(self.slow.prior.draw_noise((*shape, self.slow.dim), like, generator))
        return noise

    def imagine(
        self,
        state: State,
        policy: Callable[[State], Tensor],
        horizon: int,
        generator: Generator | None = None,
        noise: Noise | None = None,
    ) -> tuple[State, Tensor]:
        """Dream from state [N, ...]: return states [N, horizon + 1, ...], the start first, and actions [N, horizon, A].

        noise [horizon, N, ...] makes the dream a function of its arguments; None draws it from the generator.
        """
        check_sizes(horizon=horizon)
        if noise is None:
            noise = self.draw_noise((horizon, len(state.latent)), generator)
        states, actions = [state], []
        for step_noise in zip(*noise, strict=True):
            actions.append(policy(states[-1]))
            states.append(self.imagine_step(states[-1], actions[-1], step_noise))
        return stack_states(states, 1), torch.stack(actions, 1)

    def rollout(
        self,
        state: State,
        actions: Tensor,
        generator: Generator | None = None,
        noise: Noise | None = None,
        value: Callable[[Tensor], Tensor] | None = None,
        frames: bool = True,
    ) -> Rollout:
        """Dream from state [N, ...] under given actions [N, H, A]: what a planner of one's own needs.

        noise as in `imagine`. value: a critic of features [..., F], such as `agent.actor_critic.critic.value`.
        frames=False spares the decoder. ValueError for actions of another shape.
        """
        if actions.ndim != 3 or (len(actions), actions.shape[2]) != (len(state.latent), self.config.action_dim):
            expected = (len(state.latent), "H", self.config.action_dim)
            raise ValueError(f"actions: got shape {tuple(actions.shape)}, expected {expected}")
        following = iter(actions.unbind(1))
        states, _ = self.imagine(state, lambda _: next(following), actions.shape[1], generator, noise)
        reached = states.map(lambda x: x[:, 1:])
        return Rollout(
            states=reached,
            rewards=self.reward_head.predict(reached.features),
            continues=self.continue_head.predict(reached.features),
            values=None if value is None else value(reached.features),
            frames=self.decode(reached) if frames else None,
        )

    def prior_maps(self, states: State) -> Tensor:
        """Return the prior's attention maps [..., S, 8, 8] for states [..., ·]; uniform without pillar 4."""
        if self.attention is not None:
            return self.attention.expect(states.carry, states.latent).maps
        return states.latent.new_full((*states.latent.shape[:-1], self.num_slots, 8, 8), 1 / 64)

    def decode(self, states: State, maps: Tensor | None = None) -> Tensor:
        """Decode states [..., ·] to frames [..., 3, 64, 64] under maps [..., S, 8, 8] (None: the prior's maps)."""
        if self.decoder is None:
            return self.frame_norm.mean.expand(*states.latent.shape[:-1], 3, 0, 0)
        maps = self.prior_maps(states) if maps is None else maps
        frames = self.decoder(states.features.flatten(0, -2), maps.flatten(0, -4))
        return self.frame_norm.restore(frames).unflatten(0, states.latent.shape[:-1])
