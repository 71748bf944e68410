"""Pillar 2: a Dirichlet-process Gaussian-mixture prior with stick-breaking weights, and its Gaussian control."""

from world_model.generative_prior.component_usage import cluster_entropy, effective_components, usage_metrics
from world_model.generative_prior.dpgmm_prior import DPGMMPrior
from world_model.generative_prior.gaussian_prior import GaussianParams, GaussianPrior
from world_model.generative_prior.kumaraswamy import Kumaraswamy, expected_neg_log1m
from world_model.generative_prior.mixture_kl import (
    MixtureBound,
    mixture_kl_and_responsibilities,
    mixture_kl_lower_bound,
    mixture_kl_monte_carlo,
    mixture_kl_upper_bound,
    responsibilities,
)
from world_model.generative_prior.mixture_monitors import mixture_monitors
from world_model.generative_prior.mixture_sampling import MixtureNoise, PriorParams
from world_model.generative_prior.stick_breaking import (
    Concentration,
    concentration_kl,
    concentration_posterior,
    expected_stick_log_weights,
    expected_stick_weights,
    infer_concentration,
    sample_stick_log_weights,
    stick_breaking_log_weights,
    stick_breaking_weights,
)

__all__ = [
    "Concentration",
    "DPGMMPrior",
    "GaussianParams",
    "GaussianPrior",
    "Kumaraswamy",
    "MixtureBound",
    "MixtureNoise",
    "PriorParams",
    "cluster_entropy",
    "concentration_kl",
    "concentration_posterior",
    "effective_components",
    "expected_neg_log1m",
    "expected_stick_log_weights",
    "expected_stick_weights",
    "infer_concentration",
    "mixture_kl_and_responsibilities",
    "mixture_kl_lower_bound",
    "mixture_kl_monte_carlo",
    "mixture_kl_upper_bound",
    "mixture_monitors",
    "responsibilities",
    "sample_stick_log_weights",
    "stick_breaking_log_weights",
    "stick_breaking_weights",
    "usage_metrics",
]
