"""The world model's losses by name: their groups, which are the tasks of pillar 5, and the weight of each.

total -> term -> factors of its weight: a number times weights of `LossAggregator.compute_losses`. Every term is in
exactly one group; the order of the groups is the order of the task losses.
"""

from collections.abc import Collection, Mapping

Groups = Mapping[str, Mapping[str, tuple[float | str, ...]]]

GROUPS: Groups = {
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
# Losses that are always present, and those that need a part of the model, a setting, a target, or several
ALWAYS = ("kl_z",)
OF_PART = {
    "perceiver": ("vq_recon", "vq_commit", "next_token_ce"),
    "context_predictor": ("context_nll",),
    "attention": ("attention_kl", "attention_dynamics_loss", "attention_diversity", "slot_recon"),
    "decoder": ("recon_loss",),
    "vector_decoder": ("vector_recon",),
    "teacher": ("gram_enc_loss",),
    "motion": ("motion_nll",),
    "slow": ("slow_kl",),
}
OF_SETTING = {"overshoot": ("overshoot_kl", "overshoot_nll")}
OF_TARGET = {"rewards": ("reward_nll", "overshoot_nll", "motion_nll"), "is_terminal": ("continue_nll",)}

# The task losses of method "balanced": these terms, and in the first group all others, users' own losses included
BALANCED: Mapping[str, tuple[str, ...]] = {
    "total_reconstruction": (),
    "total_kl": ("kl_z", "overshoot_kl", "slow_kl", "hierarchical_kl", "cluster_entropy"),
    "total_reward": ("reward_nll", "overshoot_nll", "motion_nll", "continue_nll"),
}


def terms(groups: Groups) -> list[str]:
    """Return the names of all losses in groups, in order."""
    return [term for group in groups.values() for term in group]


def possible(given: Mapping[str, bool]) -> set[str]:
    """Return the names of the losses, without the prior's own, that need no part, setting or target that is missing."""
    needing = OF_PART | OF_SETTING | OF_TARGET
    missing = [needing[name] for name, is_given in given.items() if not is_given]
    return {*ALWAYS}.union(*needing.values()).difference(*missing)


def select(names: Collection[str], extra: Groups) -> Groups:
    """Return the groups of the losses in `names` and in `extra`; empty groups are omitted."""
    chosen = {
        total: {term: factors for term, factors in group.items() if term in names} | dict(extra.get(total, {}))
        for total, group in GROUPS.items()
    }
    return {total: group for total, group in chosen.items() if group}


def regroup(groups: Groups) -> Groups:
    """Return the same losses with the same weights in the groups of `BALANCED`; empty groups are omitted."""
    totals = {term: total for total, named in BALANCED.items() for term in named}
    regrouped: dict[str, dict[str, tuple[float | str, ...]]] = {total: {} for total in BALANCED}
    for group in groups.values():
        for term, factors in group.items():
            regrouped[totals.get(term, "total_reconstruction")][term] = factors
    return {total: group for total, group in regrouped.items() if group}
