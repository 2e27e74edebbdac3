"""What the theories of distillation say, asserted where it is exact."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression

from kd.losses import HardTeacher, KLDistillation, LabelCrossEntropy, LabelSmoothing, LogitMSE
from kd.study import power_law
from kd.targets import ClassMean, EntropyMatchedSmoothing, PermutedNonTargets, UniformRest
from kd.theory import (
    GaussianClasses,
    calibration_temperature,
    compare_targets,
    draw_regression,
    draw_risks,
    expected_label_divergence,
    expected_ratio,
    fit_linear,
    kernel_outcome,
    least_squares,
    linear_outcomes,
    project_on_rows,
    risk_moments,
    smoother,
)
from kd.theory.gaussians import with_ones

# Linear regression


@pytest.fixture(scope="module")
def regression():
    return draw_regression()


@pytest.fixture(scope="module")
def outcomes(regression):
    found = linear_outcomes(regression, [100, 475, 500, 525, 600, 1000, 2000], seeds=range(3))
    return {size: [outcome for outcome in found if outcome.size == size] for size in {o.size for o in found}}


def mean(outcomes, name):
    return float(np.mean([getattr(outcome, name) for outcome in outcomes]))


def test_least_squares_is_the_pseudo_inverse():
    for samples in (7, 12, 30):
        x, y = torch.randn(samples, 12, dtype=torch.float64), torch.randn(samples, 2, dtype=torch.float64)
        torch.testing.assert_close(least_squares(x, y), torch.linalg.pinv(x) @ y)
    wide = torch.randn(7, 12, dtype=torch.float64)
    projector = torch.linalg.pinv(wide) @ wide
    torch.testing.assert_close(project_on_rows(wide, x[0]), projector @ x[0])


@pytest.mark.parametrize("size", [100, 475])
def test_below_the_dimension_the_student_is_the_projected_teacher_and_gains_nothing(outcomes, size):
    assert max(outcome.projection_error for outcome in outcomes[size]) < 1e-8
    assert mean(outcomes[size], "label") == pytest.approx(mean(outcomes[size], "distilled"), rel=0.02)
    assert all(abs(outcome.ratio - 1) < 0.03 for outcome in outcomes[size])


@pytest.mark.parametrize("size", [500, 525, 600, 1000, 2000])
def test_from_the_dimension_on_the_student_is_the_teacher(outcomes, size):
    assert max(outcome.projection_error for outcome in outcomes[size]) < 1e-6
    for outcome in outcomes[size]:
        assert outcome.distilled == pytest.approx(outcome.teacher, rel=0.01)


def test_the_gain_is_a_step_and_falls_with_the_samples(outcomes):
    labels = {size: mean(found, "label") for size, found in outcomes.items()}
    distilled = {size: mean(found, "distilled") for size, found in outcomes.items()}
    sizes = sorted(outcomes)
    above = [size for size in sizes if size >= 500]
    assert labels[500] == max(labels[size] for size in above)
    assert labels[500] / distilled[500] > 1000
    assert all(distilled[a] >= distilled[b] * 0.999 for a, b in pairwise(sizes))
    gains = [labels[size] / distilled[size] for size in above]
    assert gains == sorted(gains, reverse=True)
    for size in (600, 1000, 2000):
        assert gains[above.index(size)] == pytest.approx(expected_ratio(10_000, size, 500), rel=0.35)
    assert 12 <= gains[above.index(1000)] <= 32


def test_the_label_risk_peaks_where_samples_and_dimension_meet():
    """Double descent under strong noise: the label student's risk rises before M = D, the distilled one's never."""
    problem = draw_regression(2000, 500, 100, 60, noise=200.0, seed=0)
    found = linear_outcomes(problem, [50, 90, 100, 110, 200], seeds=range(20))
    label, distilled = (
        {
            size: float(np.median([getattr(o, name) for o in found if o.size == size]))
            for size in (50, 90, 100, 110, 200)
        }
        for name in ("label", "distilled")
    )
    assert label[50] < label[90] < label[100] > label[110] > label[200]
    assert distilled[50] > distilled[90] > distilled[100]
    # From M = D on both are the teacher, and differ by the rounding of two least-squares solves.
    assert distilled[100] == pytest.approx(distilled[200], rel=1e-9)


# Linear classification with a known posterior


@pytest.fixture(scope="module")
def clouds():
    return GaussianClasses.drawn(5, 8, 0.6, seed=0)


def test_the_posterior_is_bayes_rule(clouds):
    x, y = clouds.draw(40_000, torch.Generator().manual_seed(0))
    normal = torch.distributions.MultivariateNormal(torch.zeros(8).double(), torch.eye(8).double())
    density = torch.stack([normal.log_prob(x[:50] - centre) for centre in clouds.means], dim=1)
    torch.testing.assert_close(torch.softmax(clouds.logits(x[:50]), 1), torch.softmax(density, 1))
    for c in range(5):  # and calibrated
        assert abs(torch.softmax(clouds.logits(x), 1)[:, c].mean() - (y == c).double().mean()) < 0.008


def centred(weight):
    return weight - weight.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("objective", [KLDistillation(4.0), KLDistillation(20.0), LogitMSE()], ids=["4", "20", "inf"])
def test_soft_targets_give_the_teacher_itself_from_as_many_samples_as_weights(clouds, objective):
    """Any temperature, up to the softmax's gauge; with fewer samples its projection on their span."""
    truth = torch.cat([clouds.means.T, -clouds.means.square().sum(1)[None] / 2])
    x, y = clouds.draw(30, torch.Generator().manual_seed(1))
    for size in (9, 12, 30):  # eight inputs and a bias
        student = fit_linear(clouds, x[:size], y[:size], objective)
        torch.testing.assert_close(centred(student.weight), centred(truth), atol=1e-3 if size == 9 else 1e-5, rtol=0)
    few = fit_linear(clouds, x[:6], y[:6], objective)
    inputs = with_ones(x[:6])
    projected = torch.linalg.pinv(inputs) @ inputs @ centred(truth)
    torch.testing.assert_close(centred(few.weight), projected, atol=1e-4, rtol=0)
    assert (centred(few.weight) - centred(truth)).abs().max() > 0.1


def test_labels_are_fitted_as_scikit_learn_does(clouds):
    x, y = clouds.draw(300, torch.Generator().manual_seed(2))
    ours = fit_linear(clouds, x, y, LabelCrossEntropy(), decay=0.01)
    solver = LogisticRegression(C=1 / (300 * 0.01), fit_intercept=False, tol=1e-10, max_iter=1000)
    solver.fit(with_ones(x).numpy(), y.numpy())
    np.testing.assert_allclose(ours.weight.T, solver.coef_, atol=1e-4)


SIZES = FEW, MANY = 200, 1600


@pytest.fixture(scope="module")
def by_target(clouds):
    targets = {
        "labels": (LabelCrossEntropy(), None),
        "smoothed": (LabelSmoothing(0.1), None),
        "matched": (KLDistillation(4.0), EntropyMatchedSmoothing()),
        "distilled": (KLDistillation(4.0), None),
        "permuted": (KLDistillation(4.0), PermutedNonTargets(seed=0)),
        "classwise": (KLDistillation(4.0), PermutedNonTargets("class", seed=0)),
        "level": (KLDistillation(4.0), UniformRest()),
        "class_mean": (KLDistillation(4.0), ClassMean()),
    }
    found = compare_targets(clouds, targets, SIZES, range(3), decay=1e-9, test_samples=5000)
    return {
        (name, size): np.array([found[name, size, seed][0] for seed in range(3)]) for name in targets for size in SIZES
    }


def test_labels_cost_half_a_nat_a_weight_over_the_samples(clouds):
    """So the gain of distillation, whose cost is 0, is amplified as the samples get fewer: like 1 / M."""
    sizes = [400, 800, 1600, 3200]
    found = compare_targets(clouds, {"labels": (LabelCrossEntropy(), None)}, sizes, range(3), test_samples=5000)
    assert list(found) == [("labels", size, seed) for seed in range(3) for size in sizes]
    cost = torch.tensor([divergence for divergence, _, _ in found.values()]).view(3, 4)
    for number, size in enumerate(sizes[1:], start=1):
        assert cost[:, number].mean().item() == pytest.approx(expected_label_divergence(clouds, size), rel=0.3)
    assert (cost[:, :-1] > cost[:, 1:]).all()
    assert power_law(sizes, cost.mean(0))[0] == pytest.approx(-1, abs=0.2)
    # what is missing to agreement falls like the root of the divergence: a law for this student, not for all
    missing = 1 - torch.tensor([agreement for _, _, agreement in found.values()]).view(3, 4)
    assert power_law(sizes, missing.mean(0))[0] == pytest.approx(-0.5, abs=0.15)


def test_the_whole_teacher_costs_nothing_at_any_size(by_target):
    for size in SIZES:
        assert by_target["distilled", size].max() < 1e-9
    gain = [by_target["labels", size] - by_target["distilled", size] for size in SIZES]
    assert (gain[0] > 5 * gain[1]).all()


@pytest.mark.parametrize("target", ["permuted", "classwise", "level", "class_mean"])
def test_without_dark_knowledge_the_teacher_is_not_learnt(by_target, target):
    """What is left of the teacher teaches something else: no number of samples makes up for it."""
    assert by_target[target, MANY].min() > 3 * by_target["labels", MANY].mean()
    assert by_target[target, MANY].mean() > 0.5 * by_target[target, FEW].mean()
    assert by_target["labels", MANY].mean() < 0.1 * by_target["labels", FEW].mean()


@pytest.mark.parametrize("target", ["smoothed", "matched"])
def test_label_smoothing_is_a_regulariser_and_no_teacher(by_target, target):
    """It helps a likelihood that has few samples and harms one that has many; the teacher does neither."""
    assert by_target[target, FEW].mean() < by_target["labels", FEW].mean()
    assert (by_target[target, MANY] > by_target["labels", MANY]).all()
    assert by_target[target, FEW].min() > 1e4 * by_target["distilled", FEW].max()


def test_the_limit_of_low_temperature_is_the_hard_teacher(clouds):
    """At T -> 0 only the arg max is left, whose likelihood has no optimum: the student's confidence grows for ever."""
    x, y = clouds.draw(200, torch.Generator().manual_seed(3))
    fresh = clouds.draw(2000, torch.Generator().manual_seed(4))[0]
    truth = clouds.logits(fresh)
    hard, soft = (fit_linear(clouds, x, y, o, iterations=300)(fresh) for o in (HardTeacher(), KLDistillation(4.0)))
    confidence = [torch.softmax(z, 1).amax(1).mean().item() for z in (hard, soft, truth)]
    assert confidence[0] > confidence[2] + 0.1
    assert confidence[1] == pytest.approx(confidence[2], abs=1e-6)


# The variance of the objective


@pytest.fixture(scope="module")
def risks():
    """The specification's check: ten classes in twenty dimensions, a fixed trained student, a grid of sizes."""
    problem = GaussianClasses.drawn(10, 20, 0.6, seed=1)
    x, y = problem.draw(400, torch.Generator().manual_seed(0))
    student = fit_linear(problem, x, y, LabelCrossEntropy(), decay=0.01)
    return problem, student, draw_risks(problem, student, [25, 50, 100, 200], draws=5000, seed=5)


def moments(problem, student, teacher=None):
    x, _ = problem.draw(200_000, torch.Generator().manual_seed(6))
    posterior = torch.softmax(problem.logits(x), 1)
    teacher = posterior if teacher is None else torch.softmax(teacher(problem.logits(x)), 1)
    return risk_moments(-F.log_softmax(student(x), dim=1), posterior, teacher)


def test_the_posterior_estimates_the_risk_with_less_variance(risks):
    problem, student, drawn = risks
    exact = moments(problem, student)
    assert exact.bias == 0
    assert exact.teacher_variance + exact.within_variance == pytest.approx(exact.label_variance)
    for size, (by_label, by_posterior) in drawn.items():
        label, bayes = by_label.var(), by_posterior.var()
        assert bayes < label
        standard_error = (by_label - by_posterior).std() / math.sqrt(len(by_label))
        assert abs(by_label.mean() - by_posterior.mean()) < 3 * standard_error
        assert by_label.mean().item() == pytest.approx(exact.risk, rel=0.01)
        assert (label - bayes).item() == pytest.approx(exact.within_variance / size, rel=0.05)
        assert label.item() == pytest.approx(exact.label_error(size), rel=0.06)
        assert bayes.item() == pytest.approx(exact.teacher_error(size), rel=0.06)


def test_both_variances_fall_like_one_over_the_samples(risks):
    sizes = list(risks[2])
    for estimate in (0, 1):
        variances = torch.stack([found[estimate].var() for found in risks[2].values()])
        assert power_law(sizes, variances)[0] == pytest.approx(-1, abs=0.05)


def test_another_teacher_trades_bias_for_variance(risks):
    """A softened posterior is biased and steadier: better below some number of samples, worse above."""
    problem, student, _ = risks
    soft = moments(problem, student, lambda logits: logits / 1.1)
    assert soft.bias != 0
    assert soft.teacher_variance < soft.label_variance
    crossing = (soft.label_variance - soft.teacher_variance) / soft.bias**2
    assert soft.teacher_error(max(int(crossing / 2), 1)) < soft.label_error(max(int(crossing / 2), 1))
    assert soft.teacher_error(int(crossing * 2) + 1) > soft.label_error(int(crossing * 2) + 1)
    one_hot = F.one_hot(torch.arange(4), 4)
    labels_only = risk_moments(torch.rand(4, 4), one_hot, torch.full((4, 4), 0.25))
    assert labels_only.within_variance == 0


def test_moments_by_enumeration():
    """Two inputs, three classes: the mean and variance over the six outcomes."""
    losses = torch.tensor([[1.0, 2.0, 4.0], [0.5, 3.0, 1.0]])
    posterior = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]])
    teacher = torch.tensor([[0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
    found = risk_moments(losses, posterior, teacher)
    weight = (posterior / 2).double().numpy().ravel()
    value = losses.double().numpy().ravel()
    risk = (weight * value).sum()
    assert found.risk == pytest.approx(risk)
    assert found.label_variance == pytest.approx((weight * (value - risk) ** 2).sum())
    by_teacher = np.array([0.2 + 0.4 + 2.4, 0.5])
    assert found.bias == pytest.approx(by_teacher.mean() - risk)
    assert found.teacher_variance == pytest.approx(by_teacher.var())


# Temperature and calibration


def test_calibration_temperature_is_the_best(clouds):
    x, y = clouds.draw(2000, torch.Generator().manual_seed(7))
    for tau in (0.3, 1.0, 5.0):
        logits = tau * clouds.logits(x)
        best = minimize_scalar(
            lambda log_t, logits=logits: F.cross_entropy(logits / math.exp(log_t), y).item(),
            bounds=(-4, 4),
            method="bounded",
        )
        assert calibration_temperature(logits, y) == pytest.approx(math.exp(best.x), rel=1e-3)
        assert calibration_temperature(logits, y) == pytest.approx(tau, rel=0.1)
    right = 5.0 * F.one_hot(y, 5)
    assert calibration_temperature(right, y) == pytest.approx(1e-3)
    assert calibration_temperature(-right, y) == pytest.approx(1e3)


def test_every_temperature_teaches_a_linear_student_the_same(clouds):
    """So where the student can equal its teacher, calibration decides nothing about the temperature."""
    confident = GaussianClasses(3 * clouds.means)
    x, y = confident.draw(60, torch.Generator().manual_seed(8))
    weights = [centred(fit_linear(confident, x, y, KLDistillation(t)).weight) for t in (4.0, 20.0, 100.0)]
    for weight in weights[1:]:
        torch.testing.assert_close(weight, weights[0], atol=1e-3, rtol=1e-3)


# Kernels


def test_kernel_students_differ_by_the_noise_alone():
    generator = torch.Generator().manual_seed(0)
    x, test_x = (torch.rand(n, 2, generator=generator, dtype=torch.float64) for n in (200, 300))
    truth = lambda x: torch.sin(5 * x[:, 0]) + x[:, 1] ** 2  # noqa: E731
    ridge = KernelRidge(alpha=0.1, kernel="rbf", gamma=1 / (2 * 0.3**2)).fit(x[:50], truth(x[:50]))
    outputs = smoother(x[:50], test_x, 0.3, 0.1)
    np.testing.assert_allclose(outputs @ truth(x[:50]), ridge.predict(test_x), atol=1e-9)
    found = {
        m: kernel_outcome(x[:m], truth(x[:m]), test_x, truth(test_x), sigma=0.5, width=0.3, ridge=0.1)
        for m in (25, 50, 100, 200)
    }
    noise = 0.5 * torch.randn(4000, 50, generator=generator, dtype=torch.float64)
    labels = (outputs @ (truth(x[:50]) + noise).T - truth(test_x)[:, None]).square().mean()
    assert labels.item() == pytest.approx(sum(found[50]), rel=0.03)
    terms = [noise for _, noise in found.values()]
    assert terms == sorted(terms, reverse=True)
    assert found[25][1] > 2 * found[200][1]
