"""Health monitors of pillar 2's mixture: the usage of components, and the slack of the bound on the KL."""

from torch import Generator, Tensor

from world_model.generative_prior.component_usage import effective_components, usage_metrics
from world_model.generative_prior.mixture_kl import mixture_kl_monte_carlo
from world_model.generative_prior.mixture_sampling import PriorParams

KL_SAMPLES = 4


def mixture_monitors(
    params: PriorParams, mean: Tensor, std: Tensor, responsibilities: Tensor, generator: Generator | None = None
) -> dict[str, Tensor]:
    """Return the numbers of components in use by data (mean responsibilities) and by the weights, in [1, K].

    Entropies in nats. `mixture_gap` is the share of the bound J that is slack: (J - KL) / J, KL by Monte Carlo.
    """
    usage = usage_metrics(responsibilities)
    found = {f"components_used/{name.removeprefix('usage_')}": usage[name] for name in usage if "usage" in name}
    open_components = effective_components(params.log_weights.exp())
    found |= {f"components_open/{name}": count.mean() for name, count in open_components.items()}
    found |= {f"component_{name}": usage[name] for name in ("mutual_information", "conditional_entropy")}
    bound = params.kl(mean, std)[0].mean()
    mixture = (params.log_weights, params.means, params.stds)
    exact = mixture_kl_monte_carlo(mean, std, *mixture, num_samples=KL_SAMPLES, generator=generator).mean()
    return found | {"mixture_gap": (bound - exact) / bound}
