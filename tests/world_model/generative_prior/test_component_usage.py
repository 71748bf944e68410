import math

import numpy as np
import pytest
import torch

from world_model.generative_prior import cluster_entropy, effective_components, usage_metrics


def test_uniform_use_of_n_counts_n_and_one_hot_counts_one():
    weights = torch.zeros(3, 8)
    weights[0, 2], weights[1, :5], weights[2] = 1.0, 0.2, 0.125
    for name, count in effective_components(weights).items():
        np.testing.assert_allclose(count, [1, 5, 8], rtol=1e-6, err_msg=name)


def test_counts_by_hand():
    counts = effective_components(torch.tensor([0.0005, 0.5, 0.001, 0.4985]))
    assert counts["inverse_simpson"].item() == pytest.approx(1 / (0.25 + 0.4985**2 + 1.25e-6), rel=1e-5)
    entropy = -sum(w * math.log(w) for w in (0.0005, 0.5, 0.001, 0.4985))
    assert counts["entropy"].item() == pytest.approx(math.exp(entropy), rel=1e-5)
    assert counts["coverage"].item() == 3  # .9985, then .9995
    assert effective_components(torch.tensor([0.6, 0.3995, 0.0005]))["coverage"].item() == 2


def test_decided_rows_that_use_all_components_carry_full_information():
    metrics = usage_metrics(torch.eye(4).expand(3, 4, 4))
    assert metrics["usage_entropy"].item() == pytest.approx(4, rel=1e-6)
    assert metrics["conditional_entropy"].item() == 0
    assert metrics["mutual_information"].item() == pytest.approx(math.log(4), rel=1e-6)


def test_interchangeable_components_carry_none():
    metrics = usage_metrics(torch.full((6, 4), 0.25))
    assert metrics["usage_inverse_simpson"].item() == pytest.approx(4)
    assert metrics["conditional_entropy"].item() == pytest.approx(math.log(4))
    assert metrics["mutual_information"].item() == pytest.approx(0, abs=1e-6)
    assert all(value.shape == () for value in metrics.values())


def test_cluster_entropy_between_one_component_and_all():
    one = torch.zeros(2, 3, 4)
    one[..., 2] = 1.0
    each = torch.eye(4).view(2, 2, 4).requires_grad_()  # every entry sure of its own component
    assert cluster_entropy(one).item() == pytest.approx(0.0, abs=1e-6)
    assert cluster_entropy(each).item() == pytest.approx(math.log(4))
    (gradient,) = torch.autograd.grad(cluster_entropy(one.requires_grad_()), one)
    assert gradient.isfinite().all()
