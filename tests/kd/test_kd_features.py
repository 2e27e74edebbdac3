import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from dinopl.core.types import ImageShape
from dinopl.encoders import MiniVGG
from kd.features import (
    CKAMatching,
    FeatureCapture,
    FeatureMSE,
    FeatureObjective,
    LogisticHead,
    SGDHead,
    SimilarityMatching,
    collect_features,
    find_module,
    kernel_cka,
    refit_head,
    similarity_difference,
    spectral_power,
)
from kd.losses import KLDistillation

B = 24


def features(seed, *shape, dtype=torch.float64):
    return torch.randn(*(shape or (B, 8)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Net(nn.Module):
    """A body of two layers, a block that returns a tuple, and a head."""

    def __init__(self, width=5, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, width), nn.Dropout(0.5))
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


# Capture


def test_capture_gives_what_the_modules_return_and_get():
    net, x = Net().eval(), torch.randn(B, 4)
    with FeatureCapture(net, ["body.0", "head:input", "head"]) as capture:
        logits = net(x)
        found = capture.take()
    assert list(found) == ["body.0", "head:input", "head"]
    torch.testing.assert_close(found["body.0"], net.body[0](x))
    torch.testing.assert_close(found["head:input"], torch.tanh(net.body(x)))
    assert found["head"] is logits
    found["head:input"].sum().backward()
    assert net.body[0].weight.grad is not None


def test_capture_leaves_no_trace():
    net = Net()
    hooks = len(net.head._forward_hooks)
    capture = FeatureCapture(net, ["head"])
    capture.attach().attach()
    assert len(net.head._forward_hooks) == hooks + 1
    net(torch.randn(2, 4))
    capture.take()
    with pytest.raises(ValueError, match="name=head: was not run"):
        capture.take()  # features are handed over once
    net(torch.randn(2, 4))
    capture.remove()
    assert len(net.head._forward_hooks) == hooks
    with pytest.raises(RuntimeError, match="inside"), capture:
        raise RuntimeError("inside")
    assert len(net.head._forward_hooks) == hooks


def test_features_are_collected_from_all_batches():
    net, x = Net().train(), torch.randn(B, 4)
    found = collect_features(net, "head:input", [(x[:10], torch.zeros(10)), {"views": [x[10:]]}])
    assert net.training  # dropout was off for the features only
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.tanh(net.eval().body(x)))
    tokens = nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 9))
    torch.testing.assert_close(collect_features(tokens, "0", [torch.arange(8).view(2, 4)]), tokens[0].weight[:8])
    with pytest.raises(ValueError, match="names=heat: no module of Net; did you mean 'head'"):
        collect_features(net, "heat", [x], "names")


def test_wrong_names_are_told_apart():
    net = Net()
    with pytest.raises(ValueError, match=r"features=body.5: no module of Net; did you mean 'body.\d'"):
        FeatureCapture(net, ["head", "body.5"], argument="features")
    with pytest.raises(ValueError, match="did you mean 'body' or 'attention' or 'head'"):
        find_module(net, "zzz", "module")
    with pytest.raises(ValueError, match="module=: no module"):
        find_module(net, "", "module")
    with FeatureCapture(net, ["attention"]) as capture:
        with pytest.raises(ValueError, match="name=attention: was not run"):
            capture.take()
        net.attention(*[torch.randn(1, 2, 5)] * 3)
        with pytest.raises(ValueError, match="name=attention: gives a tuple, not a tensor"):
            capture.take()


# Objectives


def pair(student, teacher):
    return {"s": student}, {"t": teacher}


def make(kind, **options):
    return kind(["s"], ["t"], **options)


@pytest.mark.parametrize(
    "objective",
    [make(FeatureMSE), make(SimilarityMatching), make(CKAMatching), make(CKAMatching, power=0.5, filter_student=True)],
    ids=lambda o: type(o).__name__,
)
class TestEveryFeatureObjective:
    def test_scalar_in_float32_with_a_gradient_for_the_student(self, objective):
        student, teacher = features(0, dtype=torch.bfloat16).requires_grad_(), features(1).requires_grad_()
        objective.connect(*pair(student, teacher))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective(*pair(student, teacher.float()))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward()
        assert student.grad.isfinite().all()
        assert student.grad.any()
        assert teacher.grad is None

    def test_equal_features_cost_nothing_but_their_norm(self, objective):
        x = features(0, B, 4, 3, 3)
        objective.connect(*pair(x, x))
        norm = getattr(objective, "norm_weight", 0) * x.flatten(1).norm(dim=1).mean()
        assert (objective(*pair(x, x.clone())) - norm).abs() < 1e-6

    def test_one_sample_and_constant_features_stay_finite(self, objective):
        for x in (features(0, 1, 8), torch.ones(B, 8).double(), torch.zeros(B, 8).double()):
            student = x.clone().requires_grad_()
            objective.connect(*pair(student, x))
            loss = objective(*pair(student, features(1, *x.shape)))
            loss.backward()
            assert loss.isfinite()
            assert student.grad.isfinite().all() or not x.any()  # a norm has no slope at 0


def test_feature_mse_with_and_without_a_regressor():
    s, t = features(0), features(1)
    plain = make(FeatureMSE, weight=3.0)
    plain.connect(*pair(s, t))
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(*pair(s, t)), 3 * F.mse_loss(s, t))
    wider = features(1, B, 12)
    mapped = make(FeatureMSE, seed=0)
    mapped.connect(*pair(s.float(), wider.float()))
    weight, bias = mapped.parameters()
    expected = F.mse_loss(s.float() @ weight.T + bias, wider.float())
    torch.testing.assert_close(mapped(*pair(s.float(), wider.float())), expected)
    again, other = make(FeatureMSE, seed=0), make(FeatureMSE, seed=1)
    for objective, same in ((again, True), (other, False)):
        objective.connect(*pair(s.float(), wider.float()))
        assert torch.equal(next(objective.parameters()), weight) == same
    assert len(list(make(FeatureMSE, regressor=True).regressors)) == 0
    always = make(FeatureMSE, regressor=True)
    always.connect(*pair(s, t))
    assert len(list(always.parameters())) == 2


@pytest.mark.parametrize(("ours", "theirs"), [((3, 6, 6), (5, 6, 6)), ((7, 3), (7, 5))], ids=["images", "tokens"])
def test_regressors_of_images_and_tokens(ours, theirs):
    s, t = features(0, B, *ours, dtype=torch.float32), features(1, B, *theirs, dtype=torch.float32)
    objective = make(FeatureMSE)
    objective.connect(*pair(s, t))
    weight = next(objective.parameters())
    assert weight.flatten(1).shape == (5, 3)
    assert objective(*pair(s, t)).isfinite()


def test_several_modules_are_averaged():
    s = {"a": features(0), "b": features(1)}
    t = {"a": features(2), "b": features(3)}
    objective = FeatureMSE(["a", "b"])
    objective.connect(s, t)
    torch.testing.assert_close(objective(s, t), (F.mse_loss(s["a"], t["a"]) + F.mse_loss(s["b"], t["b"])) / 2)


def test_similarity_difference_by_a_loop():
    s, t = features(0), features(1, B, 5)
    cosine = F.cosine_similarity
    terms = [(cosine(s[i], s[j], dim=0) - cosine(t[i], t[j], dim=0)) ** 2 for i in range(B) for j in range(B) if i != j]
    torch.testing.assert_close(similarity_difference(s, t), torch.stack(terms).mean())
    rotation = torch.linalg.qr(features(2, 8, 8)).Q
    assert similarity_difference(s, 5 * s @ rotation) < 1e-12
    loss = make(SimilarityMatching, weight=2.0, norm_weight=0.1)(*pair(s, t))
    torch.testing.assert_close(loss, 2 * torch.stack(terms).mean() + 0.1 * s.norm(dim=1).mean())


def hsic(k, m):
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ m @ h) / (n - 1) ** 2


def test_cka_by_its_definition_and_its_invariances():
    s, t = features(0), features(1, B, 5)
    k, m = (s @ s.T).numpy(), (t @ t.T).numpy()
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert kernel_cka(s @ s.T, t @ t.T).item() == pytest.approx(expected, abs=1e-12)
    c_s, c_t = s - s.mean(0), t - t.mean(0)
    by_features = (c_s.T @ c_t).norm() ** 2 / ((c_s.T @ c_s).norm() * (c_t.T @ c_t).norm())
    assert kernel_cka(s @ s.T, t @ t.T).item() == pytest.approx(by_features.item(), abs=1e-12)
    rotation = torch.linalg.qr(features(2, 8, 8)).Q
    loss = make(CKAMatching)
    for scale in (1e-6, 1.0, 1e6):
        assert loss(*pair(s.float(), (scale * s @ rotation + 3 * scale).float())) < 1e-5
    assert loss(*pair(s, t)).item() == pytest.approx(1 - expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: loss(*pair(x, t)), s.requires_grad_())


@pytest.mark.parametrize("power", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("width", [3, B + 4])
def test_spectral_power(power, width):
    """A power of the matrix, and a gradient that is right though eigenvalues coincide where the rank is not full."""
    x = features(0, B, width)
    kernel = x @ x.T
    values, vectors = np.linalg.eigh(kernel.numpy())
    scaled = (values / values.max()).clip(1e-6) ** power
    np.testing.assert_allclose(spectral_power(kernel, power), vectors * scaled @ vectors.T, atol=1e-9)
    weight = features(1, B, B)
    x.requires_grad_()
    scale = kernel.detach().diagonal().sum()

    def loss(x):
        kernel = x @ x.T / scale  # the function's own scale counts as constant: hold it fixed
        kernel = kernel / torch.linalg.matrix_norm(kernel.detach(), ord=2)
        return (spectral_power(kernel, power) * weight).sum()

    (ours,) = torch.autograd.grad(loss(x), x)
    assert ours.isfinite().all()
    step = features(2, B, width)
    fixed = torch.linalg.matrix_norm(kernel, ord=2)

    def value(h):
        moved = (x + h * step).detach()
        values, vectors = torch.linalg.eigh(moved @ moved.T / fixed)
        return ((vectors * values.clamp_min(1e-6) ** power) @ vectors.T * weight).sum().item()

    numeric = (value(1e-6) - value(-1e-6)) / 2e-6
    assert (ours * step).sum().item() == pytest.approx(numeric, rel=1e-4)


def test_filtering_lifts_small_directions():
    """Of a student that has the teacher's largest direction only, a filtered teacher asks for more."""
    t = features(0) * torch.tensor([10.0] + [1.0] * 7)
    s = t * torch.tensor([1.0] + [0.0] * 7)
    plain, filtered = make(CKAMatching)(*pair(s, t)), make(CKAMatching, power=0.3)(*pair(s, t))
    assert plain < 0.01
    assert filtered.item() == pytest.approx(1 - (1 + 7 * 0.01**0.6) ** -0.5, rel=0.2)  # of 1, 0.01, ... to the power


def test_feature_objectives_train_a_student():
    """A regressor and a student on a fixed teacher: the loss falls, and both have moved."""
    torch.manual_seed(0)
    student, teacher = Net(width=5).eval(), Net(width=9).eval()
    objective = FeatureMSE(["head:input"])
    x = torch.randn(B, 4)

    def both():
        with FeatureCapture(student, ["head:input"]) as ours, FeatureCapture(teacher, ["head:input"]) as theirs:
            student(x)
            teacher(x)
            return ours.take(), theirs.take()

    objective.connect(*both())
    optimizer = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr=0.02)
    before = objective(*both()).item()
    start = copy.deepcopy(objective.state_dict())
    for _ in range(60):
        optimizer.zero_grad()
        objective(*both()).backward()
        optimizer.step()
    assert objective(*both()).item() < before / 5
    assert all(not torch.equal(value, start[name]) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeatureMSE([]), "student=\\[\\]: 0 modules"),
        (lambda: CKAMatching(["a"], ["b", "c"]), "1 modules, and 2 of the teacher"),
        (lambda: CKAMatching(["a"], power=0.0), "power=0.0: must be above 0"),
        (
            lambda: make(FeatureMSE).connect(*pair(features(0, B, 3, 4, 4), features(0, B, 3, 2, 2))),
            r"student='s' and 't': their features are \(3, 4, 4\) and \(3, 2, 2\)",
        ),
        (
            lambda: make(FeatureMSE, regressor=False).connect(*pair(features(0), features(0, B, 3))),
            "leave regressor at None",
        ),
    ],
)
def test_mistakes_are_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert str(caught.value).startswith(("student=", "power="))
    assert "\n" not in str(caught.value)


def test_unconnected_feature_mse_says_so():
    with pytest.raises(RuntimeError, match=r"call connect\(\)"):
        make(FeatureMSE)(*pair(features(0), features(1)))
    with pytest.raises(TypeError):
        FeatureObjective(["a"])


# Linear retraining


def blobs(classes, count=300, width=6):
    label = torch.arange(count) % classes
    return features(7, classes, width)[label] * 1.5 + features(8, count, width), label


@pytest.mark.parametrize("classes", [2, 5])
def test_logistic_head_is_scikit_learns(classes):
    x, y = blobs(classes)
    head = LogisticHead()(x, y, classes)
    solver = LogisticRegression(max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(torch.softmax(head(x), 1), solver.predict_proba(x.numpy()), atol=1e-6)
    assert not head.weight.requires_grad
    assert LogisticHead()(x.float(), y, classes).weight.dtype == torch.float32
    with pytest.raises(ValueError, match="needs samples of each"):
        LogisticHead()(x, y, classes + 1)


def test_sgd_head_learns_labels_or_a_teacher():
    x, y = blobs(4)
    head = SGDHead(seed=0)(x, y, 4)
    best = LogisticHead()(x, y, 4)
    accuracy = [(h(x).argmax(1) == y).double().mean().item() for h in (head, best)]
    assert accuracy[0] > accuracy[1] - 0.05
    assert torch.equal(SGDHead(seed=0)(x, y, 4).weight, head.weight)
    assert not torch.equal(SGDHead(seed=1)(x, y, 4).weight, head.weight)
    teacher = x @ features(9, 6, 4)
    distilled = SGDHead(KLDistillation(1.0), lr=0.5, epochs=60, seed=0)(x, y, 4, teacher)
    agreement = (distilled(x).argmax(1) == teacher.argmax(1)).double().mean()
    assert agreement > 0.95
    with pytest.raises(ValueError, match="needs a teacher"):
        SGDHead(KLDistillation(), epochs=1)(x, y, 4)


def test_sgd_head_is_the_recipe():
    """Every step by hand: plain SGD, the whole set in a batch, the rate divided by ten after each third."""
    x, y = blobs(3)
    head = SGDHead(lr=0.2, epochs=6, batch_size=len(x), seed=0)(x, y, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = nn.Linear(6, 3).double()
    weight, bias = start.weight.detach(), start.bias.detach()
    for lr in (0.2, 0.2, 0.02, 0.02, 0.002, 0.002):
        error = (torch.softmax(x @ weight.T + bias, 1) - F.one_hot(y, 3)) / len(x)
        weight, bias = weight - lr * error.T @ x, bias - lr * error.sum(0)
    torch.testing.assert_close(head.weight, weight)
    torch.testing.assert_close(head.bias, bias)


def test_refit_replaces_the_head_alone():
    x, y = torch.randn(90, 4), torch.arange(90) % 3
    net = Net().train()
    batches = [
        {"views": [x[i : i + 40]], "label": y[i : i + 40], "index": torch.arange(90)[i : i + 40]} for i in (0, 40, 80)
    ]
    before = copy.deepcopy(net.state_dict())
    refitted = refit_head(net, "head", batches, 3)
    assert net.training  # dropout was off for the features only
    net.eval()
    expected = LogisticHead()(torch.tanh(net.body(x)).detach(), y, 3)
    torch.testing.assert_close(refitted.head.weight, expected.weight, rtol=1e-3, atol=1e-4)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(refitted.state_dict()[name], value) == ("head" not in name)
    distilled = refit_head(net, "head", batches, 3, SGDHead(KLDistillation(), epochs=2, seed=0), teacher=Net())
    assert not torch.equal(distilled.head.weight, refitted.head.weight)


def test_refit_of_a_nested_head_and_of_a_wrong_one():
    encoder = MiniVGG(ImageShape(1, 8, 8))
    net = nn.Sequential(encoder, nn.Sequential(nn.Linear(encoder.embed_dim, 3)))
    batches = [(torch.randn(12, 1, 8, 8), torch.arange(12) % 3)]
    refitted = refit_head(net, "1.0", batches, 3)
    assert refitted(batches[0][0]).shape == (12, 3)
    with pytest.raises(ValueError, match="head=2: no module of Sequential"):
        refit_head(net, "2", batches, 3)
    with pytest.raises(ValueError, match="not a vector; name the last layer"):
        refit_head(net, "0", batches, 3)
