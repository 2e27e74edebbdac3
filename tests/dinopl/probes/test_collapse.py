"""Label-free measures against closed forms, and which features and targets count as collapsed."""

import math

import numpy as np
import pytest
import torch

from dinopl.probes import alpha_req, effective_rank, lidar, rankme
from dinopl.probes.collapse import (
    collapsed_features,
    collapsed_targets,
    decay_exponent,
    feature_measures,
    singular_values,
)


def with_spectrum(values, n=300, seed=0, centred=True):
    """Features whose (centred) singular values are the given ones."""
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(n, len(values), generator=g, dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0) if centred else left)[0]
    right = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))[0]
    return left * torch.as_tensor(values, dtype=torch.float64) @ right


@pytest.mark.parametrize("count", [1, 3, 17])
def test_equal_singular_values_are_as_many_directions(count):
    # each share gets 1e-7 more, and so has a rank of zeros beside it: below 1e-4 together
    assert rankme(with_spectrum([2.0] * count + [0.0] * (20 - count))) == pytest.approx(count, rel=1e-4)


def test_rankme_is_its_formula():
    values = np.array([5.0, 3.0, 1.0, 0.2, 1e-3])
    p = values / values.sum() + 1e-7
    assert rankme(with_spectrum(values)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    # two equal directions and a third of share s: exp of the entropy in closed form
    share = torch.tensor([0.4, 0.4, 0.2])
    assert effective_rank(share, eps=0) == pytest.approx(0.4**-0.8 * 0.2**-0.2)
    assert effective_rank(torch.zeros(3)) == 0
    x = torch.randn(30, 80, generator=torch.Generator().manual_seed(0))  # wider than long
    expected = np.linalg.svd(x.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(x), expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_req_finds_the_power_law(alpha):
    eigenvalues = np.arange(1, 41) ** -alpha
    x = with_spectrum(eigenvalues**0.5) + 3.0  # a mean does not matter
    assert alpha_req(x) == pytest.approx(alpha, rel=1e-6)
    bent = eigenvalues * np.where(np.arange(40) < 5, 7.0, 1.0)
    assert alpha_req(with_spectrum(bent**0.5), first=6, last=40) == pytest.approx(alpha, rel=1e-6)
    fitted = -np.polyfit(np.log(np.arange(1, 41)), np.log(bent), 1)[0]
    assert decay_exponent(torch.from_numpy(bent)) == pytest.approx(fitted, rel=1e-9)
    assert math.isnan(decay_exponent(torch.tensor([1.0, 0.0])))


def test_lidar_is_the_rank_of_the_discriminant_matrix():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 6, generator=g, dtype=torch.float64) + 0.3 * torch.randn(40, 5, 6, generator=g).double()
    means, delta = x.mean(1).numpy(), 1e-4
    between = np.cov(means.T, bias=True)
    within = sum((v - m)[:, None] * (v - m)[None] for e, m in zip(x.numpy(), means, strict=True) for v in e) / 200
    values, vectors = np.linalg.eigh(within + delta * np.eye(6))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ between @ root)
    p = spectrum / spectrum.sum() + 1e-7
    assert lidar(x, delta) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    with pytest.raises(ValueError, match=r"x=\(40, 1, 6\): must be \(n, q, D\)"):
        lidar(x[:, :1])


def test_lidar_sees_what_views_share_and_rankme_does_not():
    """Two directions tell images apart, four are noise of the views: RankMe counts six, LiDAR two."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, 6, generator=g)
    x[:, :, :2] = 30 * torch.randn(400, 1, 2, generator=g) + 0.01 * x[:, :, :2]
    assert lidar(x) == pytest.approx(2, abs=0.05)
    noise = x / x.flatten(0, 1).std(0)
    assert rankme(noise.flatten(0, 1)) > 5.9


def test_measures_of_features():
    x = with_spectrum(np.arange(1, 11.0)).float() + 50  # the mean outweighs everything
    measures = feature_measures(x)
    p = np.arange(1, 11) / 55
    assert measures["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-3)
    assert measures["rankme"] < 1.2 < measures["effective_rank"]
    assert measures["rankme"] == pytest.approx(rankme(x))
    assert measures["alpha_req"] == pytest.approx(alpha_req(x))
    broken = feature_measures(torch.full((5, 3), math.inf))
    assert broken.keys() == measures.keys()
    assert all(map(math.isnan, broken.values()))


def test_what_counts_as_collapsed_features():
    g = torch.Generator().manual_seed(0)
    constant = torch.randn(1, 64, generator=g).expand(500, 64) * (1 + 1e-7 * torch.randn(500, 64, generator=g))
    line = torch.randn(500, 1, generator=g) * torch.randn(1, 64, generator=g) + 1e-3 * torch.randn(500, 64, generator=g)
    healthy = torch.randn(500, 3, generator=g) @ torch.randn(3, 64, generator=g)
    said = [collapsed_features(feature_measures(x)["effective_rank"], 64) for x in (constant, line, healthy)]
    assert said[0] == "the features are the same for every image (effective rank 0 of 64)"
    assert said[1].startswith("the features vary along one direction (effective rank 1.")
    assert said[2] is None
    assert collapsed_features(math.nan, 64) is None
    assert collapsed_features(1.0, 1) is None  # one feature has one direction


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "a single class"), (0.0099, "a single class"), (0.011, None), (0.985, None), (0.991, "uniform")],
)
def test_what_counts_as_collapsed_targets(share, text):
    """Within 1 % of 0 or of ln m; a frozen random teacher would be among them (6.924 of 6.931) and is not asked."""
    said = collapsed_targets(share * math.log(1024), 1024)
    assert (said is None) if text is None else (text in said)
    assert "uniform" in collapsed_targets(6.924, 1024)
