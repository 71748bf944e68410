"""Grouping and weighting of named per-step losses into the task losses."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# total -> term -> factors of its weight: a number times named weights of `compute_losses`.
# Every term is in exactly one group; the order of the groups is the order of `task_losses`.
Groups = Mapping[str, Mapping[str, tuple[float | str, ...]]]

SEED_GROUPS: Groups = {  # the default of `LossAggregator()`; a model passes its own
    "total_elbo": {
        "recon_loss": ("lambda_recon",),
        "vector_recon": ("lambda_recon",),
        "kl_z": ("beta",),
        "overshoot_kl": ("beta",),
        "slow_kl": ("beta",),
        "hierarchical_kl": ("beta", "hier_scale"),
        "cluster_entropy": (-1.0, "entropy_weight"),
        "gram_enc_loss": ("lambda_gram",),
    },
    "perceiver_loss": {
        "vq_recon": (1.0,),
        "vq_commit": (0.25,),
        "next_token_ce": (1.0,),
    },
    "total_predictive": {
        "attention_kl": ("beta",),
        "attention_dynamics_loss": ("lambda_att_dyn",),
        "attention_diversity": (1.0,),
        "slot_recon": (1.0,),
        "context_nll": ("lambda_context",),
        "reward_nll": (1.0,),
        "overshoot_nll": (1.0,),
        "motion_nll": (1.0,),
        "continue_nll": (1.0,),
    },
}
REQUIRED = ("recon_loss", "kl_z")
WEIGHTS = (
    "beta",
    "lambda_recon",
    "lambda_att_dyn",
    "lambda_gram",
    "entropy_weight",
    "hier_scale",
    "lambda_context",
)


class LossAggregator:
    """The aggregator of per-step losses into task losses: total = Σ_terms weight(term) · mean_{b,t} outputs[term].

    groups: total -> term -> factors of its weight, numbers and names of `compute_losses`' weights. If given, they are
    exact: a loss without a group and a term without a loss are errors. By default they are the seed's three, ELBO,
    Perceiver and Predictive, where all terms but recon_loss and kl_z may be absent and other outputs are ignored.
    ValueError for an unknown weight.
    """

    def __init__(self, groups: Groups | None = None) -> None:
        self.groups = SEED_GROUPS if groups is None else groups
        self._is_exact = groups is not None
        for total, terms in self.groups.items():
            for term, factors in terms.items():
                for factor in factors:
                    if isinstance(factor, str) and factor not in WEIGHTS:
                        expected = f"expected a number or one of {', '.join(WEIGHTS)}"
                        raise ValueError(f"groups: got the weight '{factor}' of {total}'s {term}, {expected}")

    def compute_losses(
        self,
        outputs: Mapping[str, Any],
        beta: float = 1.0,
        lambda_recon: float = 1.0,
        lambda_att_dyn: float = 0.1,
        lambda_gram: float = 0.05,
        entropy_weight: float = 0.1,
        hier_scale: float = 1.0,
        lambda_context: float = 0.1,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Reduce per-step losses [B, T] to (dict of scalars: every term and every total, list of the totals).

        A group without terms is omitted from both results. ValueError if `outputs` and the groups do not match (see the
        class), or a term is not a non-empty tensor.
        """
        weights = {
            "beta": beta,
            "lambda_recon": lambda_recon,
            "lambda_att_dyn": lambda_att_dyn,
            "lambda_gram": lambda_gram,
            "entropy_weight": entropy_weight,
            "hier_scale": hier_scale,
            "lambda_context": lambda_context,
        }
        self._check_names(outputs)
        losses: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}
        for total, terms in self.groups.items():
            for name, factors in terms.items():
                if name not in outputs:
                    continue
                losses[name] = _mean(name, outputs[name])
                weighted = _weight(factors, weights) * losses[name]
                totals[total] = totals[total] + weighted if total in totals else weighted
        return losses | totals, list(totals.values())

    def _check_names(self, outputs: Mapping[str, Any]) -> None:
        """Raise ValueError for a loss without a group or a term without a loss; by default only for required terms."""
        if not self._is_exact:
            missing = [name for name in REQUIRED if name not in outputs]
            if missing:
                raise ValueError(f"outputs: lacks {', '.join(missing)}; expected at least {', '.join(REQUIRED)}")
            return
        named = [term for terms in self.groups.values() for term in terms]
        missing = [name for name in named if name not in outputs]
        if missing:
            raise ValueError(f"outputs: lacks {', '.join(missing)}; expected every term of the groups")
        ungrouped = [name for name in outputs if name not in named]
        if ungrouped:
            raise ValueError(f"outputs: got {', '.join(ungrouped)} without a group, expected a group for every loss")


def task_names(losses: Iterable[str], groups: Groups = SEED_GROUPS) -> list[str]:
    """Return the names of the task losses in `compute_losses`' dict, in the order of its list."""
    present = set(losses)
    return [total for total in groups if total in present]


def _weight(factors: tuple[float | str, ...], weights: dict[str, float]) -> float:
    product = 1.0
    for factor in factors:
        product *= weights[factor] if isinstance(factor, str) else factor
    return product


def _mean(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() == 0:
        came = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"outputs[{name!r}]: got {came}, expected a per-step loss tensor [B, T]")
    return value.mean()
