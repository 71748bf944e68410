"""What the world model infers from whole episodes, part by part."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from agent.learning.agent import Agent
from agent.report.held_out import HeldOut
from world_model.attention_schema import centre_of_mass
from world_model.state import State, stack_states


@dataclass(frozen=True)
class Attention:
    """The slots' maps over the 8 x 8 cells, their prior's, and each cell's shares: [B, L, S, 8, 8], on the CPU."""

    maps: Tensor
    prior_maps: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Inference:
    """What is inferred from B episodes of L rows, on the CPU; None for parts that are off.

    states: latents at their means. sources: what linear probes read, [B, L, F] by name: frame (the trunk's features,
    averaged over 2 x 2 cells), z (the posterior's mean), g (the carry), c (the Perceiver's context), slots (their
    vectors, centres and shares of the frame). responsibilities [B, L, K], of a mixture. tokens int64 [B, L, 8, 8].
    """

    states: State
    sources: Mapping[str, Tensor]
    responsibilities: Tensor | None
    tokens: Tensor | None
    attention: Attention | None


@torch.no_grad()
def infer(agent: Agent, data: HeldOut, seed: int) -> Inference:
    """Infer from held-out episodes; one at a time bounds the memory."""
    model, parts, states = agent.model.eval(), defaultdict(list), []
    generator = torch.Generator(agent.device).manual_seed(seed)
    for row in range(len(data.frames)):
        vectors = None if data.vectors is None else data.vectors[row : row + 1]
        seen = data.frames[row : row + 1], data.actions[row : row + 1]
        observed = model.observe(*seen, None, generator, sample=False, vectors=vectors)
        features, carry = observed.features[0], observed.states.carry
        found = {"frame": functional.avg_pool2d(features, 2).flatten(1), "z": observed.mean[0], "g": carry[0]}
        if observed.perceived is not None:
            found |= {"c": observed.context[0], "tokens": observed.perceived.indices[0]}
        if model.attention is not None:
            seen = model.attention.posterior(features, carry[0])
            found["slots"] = torch.cat([seen.slots.flatten(1), centre_of_mass(seen.maps).flatten(1), seen.mass], -1)
            found |= {"maps": seen.maps, "shares": seen.responsibilities}
            found["prior_maps"] = model.attention.expect(carry, observed.states.latent).maps[0]
        shares = model.prior(observed.states.prior_input).kl(observed.mean, observed.std)[1]
        if shares is not None and shares.shape[-1] > 1:
            found["responsibilities"] = shares[0]
        for name, part in found.items():
            parts[name].append(part.cpu())
        states.append(observed.states.map(lambda x: x[0].cpu()))
    whole = {name: torch.stack(part) for name, part in parts.items()}
    responsibilities, tokens = whole.pop("responsibilities", None), whole.pop("tokens", None)
    attention = None
    if "slots" in whole:
        attention = Attention(*(whole.pop(name) for name in ("maps", "prior_maps", "shares")))
    return Inference(stack_states(states, 0), whole, responsibilities, tokens, attention)
