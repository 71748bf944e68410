"""Named per-step losses -> the task losses. This file owns grouping and weights, nothing else."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# total -> term -> factors of its weight: a number times named weights of `compute_losses`.
# Every term is in exactly one group; the order of the groups is the order of `task_losses`.
GROUPS: dict[str, dict[str, tuple[float | str, ...]]] = {
    "total_elbo": {
        "recon_loss": ("lambda_recon",),
        "kl_z": ("beta",),
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
        "continue_nll": (1.0,),
    },
}
REQUIRED = ("recon_loss", "kl_z")


class LossAggregator:
    """Groups the world model's per-step losses into its (at most) three tasks: ELBO, Perceiver, Predictive.

    total = Σ_terms weight(term) · mean_{b,t} outputs[term], the terms and weights being those of `GROUPS`.
    """

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
        """Per-step losses [B, T] in `outputs` -> (dict of scalars: every term and every total, list of the totals).

        A term whose pillar is switched off is absent from `outputs`; a group without terms is left out of both results.
        Raises ValueError where recon_loss or kl_z is missing, or a term is not a non-empty tensor.
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
        missing = [name for name in REQUIRED if name not in outputs]
        if missing:
            raise ValueError(f"outputs: lacks {', '.join(missing)}; expected at least {', '.join(REQUIRED)}")
        losses: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}
        for total, terms in GROUPS.items():
            for name, factors in terms.items():
                if name not in outputs:
                    continue
                losses[name] = _mean(name, outputs[name])
                weighted = _weight(factors, weights) * losses[name]
                totals[total] = totals[total] + weighted if total in totals else weighted
        return losses | totals, list(totals.values())


def task_names(losses: Iterable[str]) -> list[str]:
    """The names of the task losses among `compute_losses`' dict, in the order of its list."""
    present = set(losses)
    return [total for total in GROUPS if total in present]


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
