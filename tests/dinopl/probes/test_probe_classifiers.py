"""The probes against independent oracles: autograd, numpy, brute force, scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dinopl.probes import (
    KNNProbe,
    LDAProbe,
    LinearProbe,
    LogisticRegressionProbe,
    Probe,
    WeightedKNNProbe,
    knn_predict,
    linear_probe,
    standardize,
    weighted_knn_predict,
)
from dinopl.probes import knn as knn_module
from dinopl.probes.linear import softmax_regression_gradient, softmax_regression_loss

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
seeds = st.integers(0, 2**31)


def random_problem(n=150, d=6, m=80, classes=4, seed=0, dtype=torch.float32):
    """Features around class centres that overlap, and queries."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g)
    y = torch.randint(0, classes, (n,), generator=g)
    x = centres[y] + torch.randn(n, d, generator=g)
    return x.to(dtype), y, torch.randn(m, d, generator=g).mul(1.5).to(dtype)


def linear_by_autograd(train_x, train_y, x, classes, *, seed, epochs, batch_size, lr, weight_decay, frozen_order):
    """The naive reference: nn.Linear, automatic differentiation, the plain loop of AdamW."""
    g = torch.Generator().manual_seed(seed)
    bound = train_x.shape[1] ** -0.5
    layer = nn.Linear(train_x.shape[1], classes).to(train_x.dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=g))
        layer.bias.copy_(torch.empty(layer.bias.shape).uniform_(-bound, bound, generator=g))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=weight_decay, foreach=False)
    orders = [torch.randperm(len(train_x), generator=g) for _ in range(epochs)]
    for epoch in range(epochs):
        order = orders[0 if frozen_order else epoch]
        for start in range(0, len(train_x), batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            F.cross_entropy(layer(train_x[batch]), train_y[batch]).backward()
            optimizer.step()
    return layer(x).argmax(1)


@pytest.mark.parametrize("frozen_order", [False, True])
@pytest.mark.parametrize(("n", "batch_size"), [(150, 32), (64, 32), (33, 32), (20, 64)])
def test_linear_probe_equals_autograd(n, batch_size, frozen_order):
    train_x, train_y, x = random_problem(n=n, m=400, dtype=torch.float64)
    options = {"seed": 3, "epochs": 4, "batch_size": batch_size, "lr": 0.02, "weight_decay": 0.1}
    expected = linear_by_autograd(train_x, train_y, x, 4, frozen_order=frozen_order, **options)
    assert torch.equal(linear_probe(train_x, train_y, x, 4, frozen_order=frozen_order, **options), expected)


def test_reshuffling_is_what_frozen_order_leaves_out():
    train_x, train_y, x = random_problem(m=2000)
    options = {"seed": 0, "epochs": 5, "batch_size": 16, "lr": 0.1}
    shuffled = linear_probe(train_x, train_y, x, 4, **options)
    assert not torch.equal(shuffled, linear_probe(train_x, train_y, x, 4, frozen_order=True, **options))
    options["epochs"] = 1
    assert torch.equal(
        linear_probe(train_x, train_y, x, 4, **options),
        linear_probe(train_x, train_y, x, 4, frozen_order=True, **options),
    )


@pytest.mark.parametrize("seed", range(5))
def test_linear_probe_separates_two_gaussians(seed):
    """Means -2 and +2 in both of 2 dimensions, std 1, 100 samples, 100 epochs."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(100) % 2
    x = torch.randn(100, 2, generator=g) + (4 * y - 2)[:, None]
    predicted = LinearProbe(epochs=100, batch_size=10).predict(x, y, x, 2, seed=seed)
    assert (predicted == y).float().mean() >= 0.95


def test_linear_probe_is_a_function_of_its_seed_only():
    train_x, train_y, x = random_problem(m=1000)
    probe = LinearProbe(epochs=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = probe.predict(train_x, train_y, x, 4, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(probe.predict(train_x, train_y, x, 4, seed=5), first)
    assert not torch.equal(probe.predict(train_x, train_y, x, 4, seed=6), first)
    own = LinearProbe(epochs=2, seed=5)
    assert torch.equal(own.predict(train_x, train_y, x, 4, seed=6), first)


def test_linear_probe_in_inference_mode_and_low_precision():
    train_x, train_y, x = random_problem(dtype=torch.bfloat16)
    expected = linear_probe(train_x.float(), train_y, x.float(), 4, seed=0)
    with torch.inference_mode():
        assert torch.equal(linear_probe(train_x.clone(), train_y.clone(), x.clone(), 4, seed=0), expected)


@pytest.mark.parametrize(
    "probe",
    [
        *(LinearProbe(), LinearProbe(standardize=True), KNNProbe(), WeightedKNNProbe()),
        *(LogisticRegressionProbe(), LDAProbe()),
    ],
)
def test_inputs_stay_as_they_are(probe):
    train_x, train_y, x = random_problem()
    copies = [t.clone() for t in (train_x, train_y, x)]
    predicted = probe.predict(train_x, train_y, x, 4, seed=0)
    assert predicted.dtype == torch.int64
    assert predicted.shape == (80,)
    assert all(torch.equal(a, b) for a, b in zip((train_x, train_y, x), copies, strict=True))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 5), scale=st.floats(0.01, 100), seed=seeds)
def test_standardize_equals_numpy(n, d, scale, seed):
    g = torch.Generator().manual_seed(seed)
    train = scale * (torch.randn(n, d, generator=g, dtype=torch.float64) + 3)
    other = torch.randn(7, d, generator=g, dtype=torch.float64)
    a, b = train.numpy(), other.numpy()
    got_train, got_other = standardize(train, other)
    np.testing.assert_allclose(got_train, (a - a.mean(0)) / a.std(0, ddof=1), atol=1e-9)
    np.testing.assert_allclose(got_other, (b - a.mean(0)) / a.std(0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(got_train.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(got_train.std(0), 1, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.3, -3e5])
@pytest.mark.parametrize("n", [1, 2, 1167])
def test_standardized_constant_features_are_zero(value, n):
    train, other = standardize(torch.full((n, 3), value), torch.full((2, 3), value + 1))
    assert torch.equal(train, torch.zeros(n, 3))
    assert other.isfinite().all()


def test_standardize_promotes_low_precision():
    x = torch.randn(20, 3).bfloat16()
    (got,) = standardize(x)
    assert got.dtype == torch.float32
    assert torch.equal(got, standardize(x.float())[0])


def test_standardized_probe_is_the_probe_of_standardized_features():
    train_x, train_y, x = random_problem(m=300)
    train_x, x = train_x * torch.tensor([1, 5, 0.1, 20, 1, 0]), x * torch.tensor([1, 5, 0.1, 20, 1, 0])
    options = {"seed": 1, "epochs": 3}
    expected = linear_probe(*interleave(standardize(train_x, x), train_y), 4, **options)
    got = LinearProbe("linear_standardized", standardize=True, epochs=3).predict(train_x, train_y, x, 4, seed=1)
    assert torch.equal(got, expected)
    assert not torch.equal(got, LinearProbe(epochs=3).predict(train_x, train_y, x, 4, seed=1))


def interleave(features, train_y):
    return features[0], train_y, features[1]


def knn_by_brute_force(train_x, train_y, x, classes, k):
    """Sorts all distances in float64; a tie in votes goes to the smallest label (numpy's argmax)."""
    a, b = train_x.double().numpy(), x.double().numpy()
    nearest = ((b[:, None] - a[None]) ** 2).sum(2).argsort(1, kind="stable")[:, :k]
    return np.stack([np.bincount(row, minlength=classes).argmax() for row in train_y.numpy()[nearest]])


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(20, 120),
    d=st.integers(1, 8),
    k=st.integers(1, 20),
    chunk=st.sampled_from([1, 500, 2**24]),
    seed=seeds,
)
def test_knn_equals_brute_force(n, d, k, chunk, seed):
    train_x, train_y, x = random_problem(n=n, d=d, m=30, seed=seed)
    expected = knn_by_brute_force(train_x, train_y, x, 4, k)
    np.testing.assert_array_equal(knn_predict(train_x, train_y, x, 4, k=k, chunk_elements=chunk), expected)


def test_knn_is_exact_far_from_the_origin():
    """Where a float32 matrix product would lose all digits: two clouds 1e4 apart, distances within them near 1."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=g)
    x[150:] += 1e4
    y = torch.randint(0, 5, (300,), generator=g)
    queries = x[::3] + 0.3 * torch.randn(100, 4, generator=g)
    np.testing.assert_array_equal(knn_predict(x, y, queries, 5, k=7), knn_by_brute_force(x, y, queries, 5, 7))


def by_distance(train_x, x, k):
    """Sorted distances to the k nearest in float64, by differences."""
    a, b = train_x.double().numpy(), x.double().numpy()
    return np.sort(((b[:, None] - a[None]) ** 2).sum(2), axis=1)[:, :k]


@pytest.mark.parametrize("part", [2**24, 7 * 6])
@pytest.mark.parametrize("search", [knn_module.neighbors_in_float32, knn_module.neighbors_in_float64])
@pytest.mark.parametrize("kind", ["overlapping", "far", "twins", "equal", "huge query", "few"])
def test_both_searches_are_exact(monkeypatch, kind, search, part):
    """Also where float32 alone cannot tell who is near: then its error's bound must say so."""
    monkeypatch.setattr(knn_module, "TRAIN_ELEMENTS", part)  # 7 or 28 training features at a time
    train_x, _, x = random_problem(n=150, d=6, m=40)
    if kind == "far":  # within the cloud, differences are as large as float32's rounding of its place
        train_x, x = (tensor.double() * 1e-4 + 1 for tensor in (train_x, x))
    if kind == "twins":  # each feature again, moved by less than float32 resolves beside the largest
        train_x = torch.cat([train_x[:75].double(), train_x[:75].double() + 1e-9, 3e3 * torch.eye(6).double()])
    if kind == "equal":
        train_x = torch.ones(150, 6)
    if kind == "huge query":
        x[0] = 1e30
    if kind == "few":
        train_x = train_x[:6]
    k = min(9, len(train_x))
    found = search(train_x, x, k, chunk_elements=500)
    assert all(len(set(row)) == k for row in found.tolist())
    distances = (train_x[found].double() - x[:, None].double()).square().sum(2).sort(1).values
    # equal up to the rounding of float64, which cannot tell what is nearer by less
    scale = 1e-7 if kind == "twins" else 1e-12
    np.testing.assert_allclose(distances, by_distance(train_x, x, k), rtol=1e-9, atol=scale)


def test_a_large_problem_takes_the_fast_search_and_predicts_the_same(monkeypatch):
    train_x, train_y, x = random_problem(n=400, d=20, m=300)
    expected = knn_predict(train_x, train_y, x, 4, k=9)
    calls = []

    def counted(*args, search=knn_module.neighbors_in_float32, **kwargs):
        calls.append(args)
        return search(*args, **kwargs)

    monkeypatch.setattr(knn_module, "neighbors_in_float32", counted)
    monkeypatch.setattr(knn_module, "SMALL", 1000)
    assert torch.equal(knn_predict(train_x, train_y, x, 4, k=9), expected)
    assert len(calls) == 1
    torch.set_float32_matmul_precision("medium")  # products may then be in bfloat16, beyond the bound
    try:
        assert torch.equal(knn_predict(train_x, train_y, x, 4, k=9), expected)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(calls) == 1


@pytest.mark.parametrize("temperature", [0.07, 1.0, 1e-3])
def test_weighted_knn_equals_its_formula(temperature):
    train_x, train_y, x = random_problem(n=200, d=5, m=100, dtype=torch.float64)
    train_x[3], x[7] = 0, 0
    a, b = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) for z in (train_x.numpy(), x.numpy()))
    cosine = b @ a.T
    expected = []
    for row in cosine[np.arange(100) != 7]:  # to a query of zeros all are alike
        nearest = row.argsort()[::-1][:15]
        votes = [np.exp((row[nearest] - 1) / temperature)[train_y.numpy()[nearest] == c].sum() for c in range(4)]
        expected.append(int(np.argmax(votes)))
    got = weighted_knn_predict(train_x, train_y, x, 4, k=15, temperature=temperature)
    assert got[torch.arange(100) != 7].tolist() == expected
    assert got[7] in range(4)
    probe = WeightedKNNProbe(k=15, temperature=temperature)
    assert torch.equal(probe.predict(train_x, train_y, x, 4, seed=0), got)
    assert torch.equal(probe.predict(3 * train_x, train_y, 0.1 * x, 4, seed=0)[:7], got[:7])  # cosines know no scale


def test_a_weighted_vote_can_beat_the_majority():
    train_x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    train_y, query = torch.tensor([1, 0, 0]), torch.tensor([[1.0, 0.05]])
    assert knn_predict(train_x, train_y, query, 2, k=3).tolist() == [0]
    assert weighted_knn_predict(train_x, train_y, query, 2, k=3).tolist() == [1]


def test_knn_votes_ties_to_the_smallest_label():
    train_x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    predicted = KNNProbe(k=4).predict(train_x, torch.tensor([3, 1, 3, 1]), torch.tensor([[0.2], [9.0]]), 4, seed=0)
    assert predicted.tolist() == [1, 1]
    everywhere = KNNProbe(k=20).predict(torch.zeros(20, 3), torch.arange(20) % 10, torch.zeros(2, 3), 10, seed=0)
    assert everywhere.tolist() == [0, 0]


def test_knn_of_no_queries_and_in_low_precision():
    train_x, train_y, x = random_problem(dtype=torch.bfloat16)
    assert knn_predict(train_x, train_y, x[:0], 4).shape == (0,)
    np.testing.assert_array_equal(knn_predict(train_x, train_y, x, 4), knn_by_brute_force(train_x, train_y, x, 4, 20))


@pytest.mark.parametrize(
    ("probe", "oracle"),
    [
        (LogisticRegressionProbe(inverse_penalty=0.5), ("sklearn.linear_model", "LogisticRegression", {"C": 0.5})),
        (LDAProbe(), ("sklearn.discriminant_analysis", "LinearDiscriminantAnalysis", {})),
        (KNNProbe(k=7), ("sklearn.neighbors", "KNeighborsClassifier", {"n_neighbors": 7})),
    ],
    ids=lambda value: value.name if isinstance(value, Probe) else "",
)
def test_probes_equal_sklearn(probe, oracle):
    import importlib

    module, name, options = oracle
    train_x, train_y, x = random_problem(n=300, m=200)
    classifier = getattr(importlib.import_module(module), name)(**options)
    expected = classifier.fit(train_x.double().numpy(), train_y.numpy()).predict(x.double().numpy())
    np.testing.assert_array_equal(probe.predict(train_x, train_y, x, 4, seed=0), expected)


def test_logistic_regression_has_converged():
    """More iterations change nothing, on badly scaled features too."""
    train_x, train_y, x = random_problem(n=300, m=500)
    train_x, x = train_x * torch.logspace(-1, 1, 6), x * torch.logspace(-1, 1, 6)
    short, long = (LogisticRegressionProbe(max_iter=n).predict(train_x, train_y, x, 4, 0) for n in (10_000, 50_000))
    assert torch.equal(short, long)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearProbe(epochs=0), "epochs=0: probe 'linear' needs at least 1"),
        (lambda: LinearProbe(batch_size=0), "batch_size=0: probe 'linear' needs at least 1"),
        (lambda: LinearProbe("mine", lr=0.0), "lr=0.0: probe 'mine' needs a number above 0"),
        (lambda: LinearProbe(lr=float("nan")), "lr=nan: probe 'linear' needs a number above 0"),
        (lambda: LinearProbe(weight_decay=-1), "weight_decay=-1: probe 'linear' needs at least 0"),
        (lambda: LinearProbe(name="a/b"), "name=a/b: must be a word without '/'"),
        (lambda: KNNProbe(k=0), "k=0: probe 'knn' needs at least 1"),
        (lambda: KNNProbe(name=""), "name=: must be a word"),
        (lambda: WeightedKNNProbe(temperature=0), "temperature=0: probe 'knn_weighted' needs a number above 0"),
        (lambda: LinearProbe(features="head"), "features=head: must be one of encoder, bottleneck, logits"),
        (lambda: LogisticRegressionProbe(inverse_penalty=0), "inverse_penalty=0: probe 'logistic_regression' needs"),
        (lambda: LogisticRegressionProbe(max_iter=0), "max_iter=0: probe 'logistic_regression' needs"),
    ],
)
def test_constructors_name_option_and_remedy(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train_x", "train_y", "x", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(5).long(), torch.zeros(3, 3), r"\(5, 2\) and \(3, 3\)"),
        (torch.zeros(5, 2, 1), torch.zeros(5).long(), torch.zeros(3, 2), r"features must be"),
        (torch.zeros(5, 2), torch.zeros(4).long(), torch.zeros(3, 2), r"labels of shape \(4,\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(3, 2), "0 training features"),
        (torch.zeros(5, 2), torch.full((5,), 3), torch.zeros(3, 2), "num_classes=3: give at least 4"),
        (torch.zeros(5, 2), torch.full((5,), -1), torch.zeros(3, 2), "labels from -1 to -1"),
        (torch.zeros(5, 2), torch.zeros(5).long(), torch.zeros(3, 2), "k=20: is more than the 5 training samples"),
    ],
)
def test_unfit_features_are_refused(train_x, train_y, x, message):
    with pytest.raises(ValueError, match=message):
        KNNProbe().predict(train_x, train_y, x, 3, seed=0)


@cuda
@pytest.mark.parametrize(
    "probe", [LinearProbe(epochs=3), LinearProbe(standardize=True, epochs=3), KNNProbe(), LDAProbe()]
)
def test_probes_run_on_cuda(probe):
    train_x, train_y, x = random_problem(m=500)
    expected = probe.predict(train_x, train_y, x, 4, seed=0)
    got = probe.predict(train_x.cuda(), train_y.cuda(), x.cuda(), 4, seed=0)
    assert got.is_cuda
    assert (got.cpu() == expected).float().mean() > 0.99


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 5), d=st.integers(1, 4), classes=st.integers(1, 4), seed=seeds)
def test_the_gradient_by_hand_is_autograds(batch, d, classes, seed):
    g = torch.Generator().manual_seed(seed)
    weight, bias, x = (torch.randn(*shape, generator=g).double() for shape in ((classes, d), (classes,), (batch, d)))
    target = F.one_hot(torch.randint(classes, (batch,), generator=g), classes).double()
    weight.requires_grad_(), bias.requires_grad_()
    softmax_regression_loss(weight, bias, x, target).backward()
    ours = softmax_regression_gradient(weight.detach(), bias.detach(), x, target)
    torch.testing.assert_close(ours, (weight.grad, bias.grad), atol=1e-12, rtol=1e-12)
