"""The metrics against NumPy and scikit-learn, at their fixed points, and on two processes."""

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor

from kd.metrics import (
    FeatureAlignment,
    FidelityMetrics,
    NeuralCollapse,
    calibration_error,
    cka_matrix,
    feature_alignment,
    gram_cka,
    linear_cka,
    neural_collapse,
    parameter_distance,
)

Array = np.ndarray[Any, Any]
CLASSES, SAMPLES = 4, 211


def drawn(seed: int, n: int, classes: int, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(n, classes, generator=draw) for _ in range(2))
    return student, teacher, torch.randint(classes, (n,), generator=draw)


def naive_ece(probabilities: Array, label: Array, bins: int) -> float:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == label
    total = 0.0
    for low in range(bins):
        inside = (confidence >= low / bins) & (confidence < (low + 1) / bins if low + 1 < bins else True)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def oracle(student: Tensor, teacher: Tensor, label: Tensor) -> dict[str, float]:
    z, u, y = student.double().numpy(), teacher.double().numpy(), label.numpy()
    q, p = softmax(z, axis=1), softmax(u, axis=1)
    centred = (z - z.mean(1, keepdims=True)) - (u - u.mean(1, keepdims=True))
    return {
        "accuracy": accuracy_score(y, z.argmax(1)),
        "nll": log_loss(y, q, labels=range(z.shape[1])),
        "brier": ((q - np.eye(z.shape[1])[y]) ** 2).sum(1).mean(),
        "ece": naive_ece(q, y, 15),
        "entropy": scipy_entropy(q, axis=1).mean(),
        "agreement": accuracy_score(u.argmax(1), z.argmax(1)),
        "kl": (p * (log_softmax(u, axis=1) - log_softmax(z, axis=1))).sum(1).mean(),
        "hellinger": np.sqrt(0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(1)).mean(),
        "l2": np.sqrt(((p - q) ** 2).sum(1)).mean(),
        "logit_mse": ((z - u) ** 2).mean(),
        "centred_logit_mse": (centred**2).mean(),
    }


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 8), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_predictions_are_measured_as_numpy_does_whatever_the_batches(seed: int, n: int, classes: int, b: int) -> None:
    student, teacher, label = drawn(seed, n, classes)
    metrics = FidelityMetrics(classes)
    for part in torch.split(torch.arange(n), b):
        metrics.update(student=student[part], teacher=teacher[part], label=label[part])
    measured = {name: float(value) for name, value in metrics.compute().items()}
    assert measured == pytest.approx(oracle(student, teacher, label), rel=2e-5, abs=1e-6)


def test_a_student_that_is_its_teacher() -> None:
    student, _, label = drawn(0, 100, 6)
    features = torch.randn(100, 5)
    metrics = FidelityMetrics(6, alignment=True, prefix="test/")
    metrics.update(
        student=student,
        teacher=student.clone(),
        label=label,
        index=torch.arange(100),
        student_features=features,
        teacher_features=features,
    )
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values["test/agreement"] == 1
    for name in ("kl", "hellinger", "l2", "logit_mse", "centred_logit_mse"):
        assert values[f"test/{name}"] == 0
    assert values["test/cka"] == pytest.approx(1, abs=1e-9)
    assert values["test/feature_alignment"] == pytest.approx(1, abs=1e-9)


def test_accuracy_and_agreement_stay_apart_where_the_first_batch_cannot_tell_them_apart() -> None:
    label = torch.tensor([0, 1])
    right, wrong = 5.0 * torch.eye(2), 5.0 * torch.eye(2).flip(0)
    metrics = FidelityMetrics(2)
    metrics.update(student=right, teacher=right, label=label)
    metrics.update(student=right, teacher=wrong, label=label)
    values = metrics.compute()
    assert values["accuracy"] == 1
    assert values["agreement"] == 0.5


def test_half_precision_is_measured_in_single() -> None:
    student, teacher, label = drawn(1, 64, 5)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    metrics = FidelityMetrics(5)
    metrics.update(student=student, teacher=teacher, label=label)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values == pytest.approx(oracle(student, teacher, label), rel=2e-5, abs=1e-6)


def test_each_token_counts_as_a_sample() -> None:
    student, teacher, label = drawn(2, 60, 5)
    flat, shaped = FidelityMetrics(5), FidelityMetrics(5)
    flat.update(student=student, teacher=teacher, label=label)
    shaped.update(student=student.view(6, 10, 5), teacher=teacher.view(6, 10, 5), label=label.view(6, 10))
    assert flat.compute() == shaped.compute()


def test_a_model_that_knows_its_odds_is_calibrated() -> None:
    logits, _, _ = drawn(3, 40_000, 6, scale=1.5)
    draw = torch.Generator().manual_seed(4)
    label = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    assert calibration_error(logits, label) < 0.02
    assert calibration_error(3 * logits, label) > 0.1
    assert calibration_error(torch.zeros(10, 5), torch.zeros(10, dtype=torch.int64)) == pytest.approx(0.8)


def test_a_prediction_that_is_not_a_number_is_not_left_out() -> None:
    metrics = FidelityMetrics(3, teacher=False)
    metrics.update(student=torch.tensor([[1.0, 0, 0], [math.nan] * 3]), label=torch.tensor([0, 1]))
    assert metrics["nll"].compute().isnan()


shapes = st.tuples(st.integers(3, 40), st.integers(1, 60), st.integers(1, 20))


@given(shapes, st.integers(0, 1000), st.floats(1e-12, 1e12), st.floats(0, 100))
@settings(max_examples=40, deadline=None)
def test_both_forms_of_cka_agree_with_the_definition(
    shape: tuple[int, int, int], seed: int, scale: float, offset: float
) -> None:
    n, d, e = shape
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(n, d, generator=draw, dtype=torch.float64)
    second = torch.randn(n, e, generator=draw, dtype=torch.float64) + first.mean(dim=1, keepdim=True)
    kernel, other = (x.numpy() @ x.numpy().T for x in (first, second))
    centre = np.eye(n) - 1 / n

    def hsic(k: Array, m: Array) -> float:
        return float(np.trace(k @ centre @ m @ centre)) / (n - 1) ** 2

    wanted = hsic(kernel, other) / math.sqrt(hsic(kernel, kernel) * hsic(other, other))
    moved = scale * (first + offset)
    assert float(linear_cka(moved, second)) == pytest.approx(wanted, abs=1e-5)
    assert float(gram_cka(moved, second)) == pytest.approx(wanted, abs=1e-5)


def test_cka_is_blind_to_rotation_and_scale_and_plain_alignment_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(50, 6, generator=draw, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64)).Q
    assert float(linear_cka(features, 7 * features @ rotation)) == pytest.approx(1, abs=1e-9)
    assert float(gram_cka(features, 7 * features @ rotation)) == pytest.approx(1, abs=1e-9)
    assert float(feature_alignment(features, 7 * features)) == pytest.approx(1)
    assert float(feature_alignment(features, features @ rotation)) < 0.9
    cosine = torch.nn.functional.cosine_similarity(features.flatten(), (features @ rotation).flatten(), dim=0)
    assert float(feature_alignment(features, features @ rotation)) == pytest.approx(float(cosine))


def test_the_matrix_of_several_networks_is_that_of_their_pairs() -> None:
    """Of few and of many columns; a rotated network is the same one, a constant one has no alignment."""
    draw = torch.Generator().manual_seed(3)
    few, many = (torch.randn(20, width, generator=draw, dtype=torch.float64) for width in (4, 33))
    rotated = 3 * few @ torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64)).Q
    matrix = cka_matrix([few, many, rotated, torch.ones(20, 2, dtype=torch.float64)])
    assert matrix[3].isnan().all()
    assert matrix[:, 3].isnan().all()
    one, other = (x.numpy() - x.numpy().mean(0) for x in (few, many))
    wanted = np.linalg.norm(one.T @ other) ** 2 / np.linalg.norm(one.T @ one) / np.linalg.norm(other.T @ other)
    expected = [[1, wanted, 1], [wanted, 1, wanted], [1, wanted, 1]]
    np.testing.assert_allclose(matrix[:3, :3], expected, atol=1e-9)
    assert 0.05 < wanted < 0.9


def test_alignment_of_what_cannot_be_compared_is_not_a_number() -> None:
    features, constant = torch.randn(9, 4), torch.ones(9, 4)
    assert feature_alignment(features, features[:, :3]).isnan()
    assert linear_cka(features, constant).isnan()
    assert gram_cka(features, constant).isnan()


def test_alignment_chooses_its_samples_by_index_alone() -> None:
    """Any order, batches and repetitions give the value of the same samples; more than are kept are not needed."""
    draw = torch.Generator().manual_seed(1)
    index, one, other = torch.arange(500), torch.randn(500, 8, generator=draw), torch.randn(500, 3, generator=draw)
    other += one[:, :3]

    def value(rows: Tensor, batch: int) -> Tensor:
        metric = FeatureAlignment(limit=40)
        for part in torch.split(rows, batch):
            metric.update(index[part], one[part], other[part])
        assert len(metric.kept()["student_columns"]) == min(40, len(rows.unique()))
        return metric.compute()["cka"]

    whole = value(index, 500)
    shuffled = torch.randperm(500, generator=draw)
    assert value(torch.cat([shuffled, shuffled[:77]]), 7) == whole
    chosen = FeatureAlignment(limit=40)
    chosen.update(index, one, other)
    kept = chosen.kept()["student_columns"]
    assert float(linear_cka(kept, chosen.kept()["teacher_columns"])) == pytest.approx(float(whole))
    positions = [int((one.double() == row).all(1).nonzero()) for row in kept]
    assert max(positions) > 400  # not the first 40
    tokens = FeatureAlignment(limit=1000)
    tokens.update(index[:50], one[:500].view(50, 10, 8), other[:500].view(50, 10, 3))
    everything = FeatureAlignment(limit=1000)
    everything.update(index, one, other)
    assert tokens.compute()["cka"] == everything.compute()["cka"]


def test_rows_can_be_scaled_first() -> None:
    one, other = torch.randn(30, 5), torch.randn(30, 4)
    metric, plain = FeatureAlignment(normalize_rows=True), FeatureAlignment()
    metric.update(torch.arange(30), one * torch.rand(30, 1), other)
    unit = [torch.nn.functional.normalize(features, dim=1) for features in (one, other)]
    plain.update(torch.arange(30), *unit)
    assert float(metric.compute()["cka"]) == pytest.approx(float(plain.compute()["cka"]), abs=1e-6)


def simplex(classes: int, width: int) -> Tensor:
    """Corners of a simplex around 0, rotated, ``(classes, width)``."""
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    rotation = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q
    return corners @ rotation[:classes]


def test_complete_collapse_is_0_in_every_measure() -> None:
    means = simplex(5, 9)
    label = torch.arange(5).repeat(6)
    features = 3 * means[label] + 2.5  # the common offset does not matter
    found = neural_collapse(features, label, 5, weight=0.1 * means + 4, prediction=label)
    for name, value in found.items():
        assert float(value) == pytest.approx(0, abs=1e-9), name


def naive_collapse(features: Array, label: Array, classes: int, weight: Array, prediction: Array) -> dict[str, float]:
    means = np.stack([features[label == c].mean(0) for c in range(classes)])
    centred = means - means.mean(0)
    within = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(features, label, strict=True)) / len(label)
    between = sum(np.outer(m, m) for m in centred) / classes
    norms = np.linalg.norm(centred, axis=1)
    angles = [
        abs(centred[a] @ centred[b] / norms[a] / norms[b] + 1 / (classes - 1))
        for a in range(classes)
        for b in range(classes)
        if a != b
    ]
    rows = weight - weight.mean(0)
    nearest = [int(np.argmin([np.linalg.norm(x - m) for m in means])) for x in features]
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes,
        "nc2_norm": norms.std() / norms.mean(),
        "nc2_angle": np.mean(angles),
        "nc3": np.linalg.norm(rows / np.linalg.norm(rows) - centred / np.linalg.norm(centred)),
        "nc4": np.mean(np.array(nearest) != prediction),
    }


@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_collapse_is_measured_as_it_is_defined(classes: int, width: int, seed: int) -> None:
    """Narrow features too, where class means do not span a simplex."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.cat([torch.arange(classes).repeat(2), torch.randint(classes, (20,), generator=draw)])
    features = torch.randn(len(label), width, generator=draw, dtype=torch.float64) + label[:, None]
    weight = torch.randn(classes, width, generator=draw, dtype=torch.float64)
    prediction = (features @ weight.T).argmax(1)
    wanted = naive_collapse(features.numpy(), label.numpy(), classes, weight.numpy(), prediction.numpy())
    found = neural_collapse(features, label, classes, weight, prediction)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-6)


def test_collapse_of_too_few_samples_is_not_a_number() -> None:
    label = torch.tensor([0, 0, 1, 1, 2])
    found = neural_collapse(torch.randn(5, 4), label, 3, torch.randn(3, 4), label)
    assert all(value.isnan() for value in found.values())
    metric = NeuralCollapse(2)
    metric.update(torch.arange(4), torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), torch.randn(4, 3))
    values = metric.compute()
    assert values["nc3"].isnan()
    assert not values["nc1"].isnan()


def test_parameters_are_compared_where_they_correspond() -> None:
    one, other, wider = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)
    vectors = [torch.nn.utils.parameters_to_vector(network.parameters()) for network in (one, other)]
    wanted = float((vectors[0] - vectors[1]).norm().detach())
    assert float(parameter_distance(one, other)) == pytest.approx(wanted)
    assert parameter_distance(one, wider).isnan()


def test_a_limit_below_two_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="limit=1: must be at least 2 samples in FeatureAlignment"):
        FeatureAlignment(limit=1)


def test_metrics_can_be_used_again_after_a_reset() -> None:
    everything = samples()
    metrics = FidelityMetrics(CLASSES, alignment=True, collapse=True)
    metrics.update(**everything)
    first = metrics.compute()
    metrics.reset()
    metrics.update(**everything)
    for name, value in metrics.compute().items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=0, equal_nan=True)


def samples() -> dict[str, Tensor]:
    """What a student and a teacher say of some samples: the same at every call."""
    draw = torch.Generator().manual_seed(3)
    label = torch.randint(CLASSES, (SAMPLES,), generator=draw)
    teacher = torch.randn(SAMPLES, CLASSES, generator=draw) + 2 * torch.nn.functional.one_hot(label, CLASSES)
    features = torch.randn(SAMPLES, 12, generator=draw)
    return {
        "student": teacher + torch.randn(SAMPLES, CLASSES, generator=draw),
        "teacher": teacher,
        "label": label,
        "index": torch.randperm(1000, generator=draw)[:SAMPLES],
        "student_features": features,
        "teacher_features": features[:, :7] + torch.randn(SAMPLES, 7, generator=draw),
    }


def measure(rows: Tensor, batch: int) -> dict[str, float]:
    """The metrics of some rows, in batches; over all processes, where there are several."""
    everything = samples()
    weight = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(4))
    metrics = FidelityMetrics(CLASSES, alignment=True, collapse=True, alignment_samples=60, collapse_samples=150)
    for part in torch.split(rows, batch):
        metrics.update(**{name: values[part] for name, values in everything.items()}, weight=weight)
    return {name: float(value) for name, value in metrics.compute().items()}


def work(rank: int, root: Path, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    # Uneven parts: the second process has fewer samples and batches.
    rows = torch.arange(SAMPLES)[:130] if rank == 0 else torch.arange(SAMPLES)[130:]
    (root / f"rank-{rank}.json").write_text(json.dumps(measure(rows, 32)))
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(work, (tmp_path, port), nprocs=2, start_method="fork")
    alone = measure(torch.arange(SAMPLES), 50)
    for rank in range(2):
        together = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert together.keys() == alone.keys()
        for exact in ("accuracy", "agreement", "nc4"):
            assert together[exact] == alone[exact]
        assert together == pytest.approx(alone, rel=1e-6, abs=1e-6, nan_ok=True)
