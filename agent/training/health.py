"""Expected ranges of the metrics, and one line of advice when a metric leaves its range (docs/monitors.md)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.config.settings import Config
from world_model.loss_groups import BALANCED, GROUPS


@dataclass(frozen=True)
class Range:
    """The expected range of a metric, with advice for values outside. Nothing is reported before `settled` updates."""

    low: float = -math.inf
    high: float = math.inf
    below: str = ""
    above: str = ""
    settled: int = 1000
    patience: int = 3  # consecutive lines of metrics that count as leaving the range or returning: one batch is noisy

    def contains(self, value: float) -> bool:
        """Return whether a value is in the range."""
        return self.low <= value <= self.high


def expected_ranges(config: Config) -> dict[str, Range]:
    """Return metric -> expected range, scaled to the run's codebook, components and floors."""
    return {
        **_learning_ranges(config),
        **_pillar_ranges(config),
        **_dream_ranges(),
        **(_vector_ranges() if config.world_model.vector_dim is not None else {}),
        **(_mixture_ranges(config.world_model.max_components) if config.world_model.max_components > 1 else {}),
    }


def _learning_ranges(config: Config) -> dict[str, Range]:
    """Return the ranges of the gradients, the latent and the policy."""
    prior = config.world_model.prior_config
    totals = BALANCED if config.world_model.gradient_method == "balanced" else GROUPS
    pull = "prior_config.representation_scale" if prior.kl_balance else "losses.beta"
    return {
        **{
            f"rgb_nonfinite/{total}": Range(
                high=0.0,
                above="a gradient was not finite and the update was skipped; the terms that are null in metrics.jsonl "
                "are the cause; try a lower optimizer.model_lr",
                settled=0,
                patience=1,
            )
            for total in totals
        },
        "behavior_skipped": Range(
            high=0.0,
            above="a gradient of actor or critic was not finite; try a lower optimizer.actor_lr",
            settled=0,
            patience=1,
        ),
        "kl_bound": Range(
            max(prior.free_nats, 0.1),
            40.0,
            f"the latent is empty (posterior collapse); try a lower {pull}",
            f"the prior cannot follow the posterior; try a higher {pull}",
        ),
        "actor_std": Range(
            1.1 * config.behavior.min_std,
            below="the actor no longer explores; try a higher behavior.entropy or behavior.action_noise",
        ),
    }


def _pillar_ranges(config: Config) -> dict[str, Range]:
    """Return the ranges of the Perceiver and of the attention schema."""
    codes = config.world_model.perceiver_config.codebook_size
    return {
        "vq_perplexity": Range(
            40 / 256 * codes,
            0.9 * codes,
            "few codes are in use; try a smaller perceiver_config.codebook_size, or wait for dead codes to be revived",
            "all codes are used evenly; try a larger perceiver_config.codebook_size",
            settled=2000,
        ),
        "vq_dead_share": Range(
            high=0.2, above="many codes are dead; try a smaller perceiver_config.codebook_size", settled=2000
        ),
        "context_ratio": Range(
            high=1.0,
            above="the predicted context is worse than a constant, so it tells the dynamics nothing; "
            "try a higher losses.lambda_context",
            settled=2000,
        ),
        "attention_kl": Range(
            0.01,
            2.0,
            "the maps hardly move; try more attention_config.num_slots",
            "the prior cannot predict the maps; try a lower optimizer.model_lr",
        ),
        "attention_mass_max": Range(
            high=0.8, above="one slot owns nearly all cells; try another attention_config.num_slots"
        ),
        "attention_movement_ratio": Range(
            high=1.1, above="movement is predicted worse than by 'no movement'; try a higher losses.lambda_att_dyn"
        ),
    }


def _dream_ranges() -> dict[str, Range]:
    """Return the ranges of dreams compared with what happened."""
    return {
        "imag_gap_carry/1": Range(
            high=0.01, above="a dream's transition differs from that of training: the loop is not closed", settled=0
        ),
        "imag_gap_carry/5": Range(
            high=1.4, above="after 5 steps dreams are unrelated to what happens; try more updates", settled=5000
        ),
        "reward_error_top": Range(
            high=0.5, above="the reward head misses the large rewards; more updates per frame may help", settled=3000
        ),
    }


def _vector_ranges() -> dict[str, Range]:
    """Return the ranges of vectors beside the frames."""
    advice = "vectors are predicted worse than by their mean; try a higher losses.lambda_recon"
    return {"vector_ratio": Range(high=1.0, above=advice)}


def _mixture_ranges(components: int) -> dict[str, Range]:
    """Return the ranges of a prior with several components."""
    return {
        "hierarchical_kl": Range(high=8.0, above="the sticks are far from their prior; try a higher losses.hier_scale"),
        "mixture_gap": Range(
            high=0.2,
            above="components overlap, so the bound on the KL is loose; try fewer world_model.max_components",
        ),
        "effective_components": Range(
            max(1.2, 4 / 15 * components),
            below="few components are used; try a higher losses.entropy_weight or fewer world_model.max_components",
        ),
        "component_mutual_information": Range(
            min(0.3, 0.25 * math.log(components)),
            below="components are alike; try fewer world_model.max_components or a higher losses.entropy_weight",
        ),
    }


class Health:
    """The monitor of a run's metrics, which reports once when a metric leaves its range, and once when it is back."""

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self.ranges = dict(ranges)
        self.outside: set[str] = set()  # metrics reported as out of range that have not returned
        self._streaks: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics out of range and the streaks."""
        return {"outside": sorted(self.outside), "streaks": dict(self._streaks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.outside, self._streaks = set(state["outside"]), dict(state["streaks"])

    def check(self, metrics: Mapping[str, float], updates: int) -> list[str]:
        """Return the lines to report for a line of metrics, mostly none. Absent and non-finite metrics are ignored."""
        lines = []
        for name, expected in self.ranges.items():
            value = metrics.get(name, math.nan)
            if updates < expected.settled or not math.isfinite(value):
                continue
            if expected.contains(value) != (name in self.outside):
                self._streaks[name] = 0
                continue
            self._streaks[name] = self._streaks.get(name, 0) + 1
            if self._streaks[name] < expected.patience:
                continue
            self._streaks[name] = 0
            self.outside ^= {name}
            lines.append(describe(name, value, expected))
        return lines


def bounds(expected: Range) -> str:
    """Describe a range: "40 to 230", "at most 0.2", "at least 4"."""
    ends = " to ".join(f"{bound:.3g}" for bound in (expected.low, expected.high) if math.isfinite(bound))
    if not math.isfinite(expected.low):
        return f"at most {ends}"
    return ends if math.isfinite(expected.high) else f"at least {ends}"


def describe(name: str, value: float, expected: Range) -> str:
    """Describe a value: "vq_perplexity 12 is below its range, 40 to 230: few codes are in use; try ..."."""
    if value < expected.low:
        return f"{name} {value:.3g} is below its range, {bounds(expected)}: {expected.below}"
    if value > expected.high:
        return f"{name} {value:.3g} is above its range, {bounds(expected)}: {expected.above}"
    return f"{name} {value:.3g} is back in its range, {bounds(expected)}"
