import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dinopl.core.random import stream_seed
from dinopl.core.types import ImageShape
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.losses import CrossEntropyViews, MSEViews
from dinopl.distillation.network import copy_state, draw_network
from dinopl.distillation.student_start import (
    CheckpointStart,
    IndependentStart,
    InterpolatedStart,
    NeighbourhoodStart,
    TeacherCopy,
    combine_networks,
    interpolate,
    is_constant,
    neighbourhood,
)
from dinopl.distillation.teachers import FrozenTeacher

SHAPE = ImageShape(1, 6, 6)


def interpolate_networks(teacher, independent, alpha, **options):
    return combine_networks(teacher, independent, partial(interpolate, alpha=alpha), **options)


def neighbourhood_network(teacher, independent, eps, **options):
    return combine_networks(teacher, independent, partial(neighbourhood, eps=eps), **options)


class NormedEncoder(nn.Module):
    """BatchNorm (constants and buffers), one frozen parameter, and a buffer that checkpoints leave out."""

    def __init__(self, shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(shape.channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.position = nn.Parameter(torch.randn(128), requires_grad=False)
        self.register_buffer("directions", torch.randn(128), persistent=False)

    def forward(self, x):
        return self.layers(x) * self.directions + self.position


def draw(seed, encoder=NormedEncoder):
    head = partial(ProjectionHead, hidden=(32,), bottleneck_dim=16, out_dim=64)
    return draw_network(encoder, head, SHAPE, seed)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    network = FrozenTeacher().draw(draw)
    for layer in network.modules():  # as if it came from a trained checkpoint: buffers off their initial values
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.add_(3)
    return network


def tensors(network):
    return dict(network.named_parameters()) | dict(network.named_buffers())


def same(first, second):
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def storages(network):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(network).values()}


numbers = st.floats(-1e3, 1e3, width=32)
unit_interval = st.floats(0, 1)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), alpha=unit_interval)
def test_interpolate_equals_the_formula(values, alpha):
    a, b = torch.tensor(values, dtype=torch.float64).T
    delta = math.sqrt(2 * alpha**2 - 2 * alpha + 1)
    expected = [((1 - alpha) * x + alpha * y) / delta for x, y in values]
    plain = [((1 - alpha) * x + alpha * y) for x, y in values]
    assert interpolate(a, b, alpha).tolist() == pytest.approx(expected, abs=1e-9)
    assert interpolate(a, b, alpha, preserve_variance=False).tolist() == pytest.approx(plain, abs=1e-9)
    torch.testing.assert_close(interpolate(a, b, alpha), interpolate(b, a, 1 - alpha), atol=1e-9, rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), eps=st.floats(0, 1e3))
def test_neighbourhood_equals_the_formula(values, eps):
    a, b = torch.tensor(values, dtype=torch.float64).T
    expected = [(x + eps * y) / math.sqrt(1 + eps**2) for x, y in values]
    assert neighbourhood(a, b, eps).tolist() == pytest.approx(expected, abs=1e-9)
    plain = [x + eps * y for x, y in values]
    assert neighbourhood(a, b, eps, preserve_variance=False).tolist() == pytest.approx(plain, abs=1e-9)


def test_ends_are_bitwise_and_have_their_own_storage():
    a, b = torch.tensor([-0.0, 1.0, math.inf]), torch.tensor([0.0, math.nan, -0.0])
    for result, source in ((interpolate(a, b, 0), a), (interpolate(a, b, 1), b), (neighbourhood(a, b, 0), a)):
        assert torch.equal(result.view(torch.int32), source.view(torch.int32))
        assert result.data_ptr() != source.data_ptr()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_variance_is_preserved(alpha):
    a, b = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    assert interpolate(a, b, alpha).std().item() == pytest.approx(1, rel=0.02)
    assert interpolate(a, b, alpha, preserve_variance=False).std().item() == pytest.approx(
        math.hypot(alpha, 1 - alpha), rel=0.02
    )
    assert neighbourhood(a, b, alpha).std().item() == pytest.approx(1, rel=0.02)


def test_tiny_alpha_is_the_copy_up_to_rounding():
    """The paper's alpha of 1e-10 is, in float32, the teacher itself."""
    a, b = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)) * 0.02
    torch.testing.assert_close(interpolate(a, b, 1e-10), a, atol=1e-11, rtol=1e-7)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, math.nan, math.inf])
def test_bad_alpha(alpha):
    for make in (InterpolatedStart, partial(interpolate, torch.ones(1), torch.ones(1))):
        with pytest.raises(ValueError, match=rf"alpha={alpha}: must be in \[0, 1\]; 0 is") as caught:
            make(alpha)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eps", [-1e-9, math.nan, math.inf])
def test_bad_eps(eps):
    for make in (NeighbourhoodStart, partial(neighbourhood, torch.ones(1), torch.ones(1))):
        with pytest.raises(ValueError, match=f"eps={eps}: must be finite and at least 0; 0 is"):
            make(eps)


@pytest.mark.parametrize("function", [interpolate, neighbourhood])
def test_different_shapes(function):
    with pytest.raises(ValueError, match="one shape"):
        function(torch.ones(2), torch.ones(1), 0.5)


def test_constants_are_recognised():
    assert is_constant(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))  # a trained teacher's BatchNorm weight
    assert not is_constant(torch.tensor([1.0, 2.0]), torch.ones(2))
    assert is_constant(torch.ones(1), torch.ones(1))
    assert not is_constant(torch.tensor(0.3), torch.tensor(0.4))  # one random entry
    assert is_constant(torch.empty(0), torch.empty(0))


@pytest.mark.parametrize(
    ("mix", "divisor"), [(interpolate_networks, math.sqrt(0.5)), (neighbourhood_network, math.sqrt(1.25))]
)
def test_constants_are_rescaled_only_on_demand(mix, divisor):
    first, second = draw(1), draw(2)
    weight = "encoder.layers.1.weight"
    for rescale in (False, True):
        plain = dict(mix(first, second, 0.5, preserve_variance=False).named_parameters())
        student = dict(mix(first, second, 0.5, rescale_constants=rescale).named_parameters())
        torch.testing.assert_close(student[weight], plain[weight] / (divisor if rescale else 1))
        torch.testing.assert_close(student["head.neck.weight"], plain["head.neck.weight"] / divisor)
    assert (dict(interpolate_networks(first, second, 0.5).named_parameters())[weight] == 1).all()


def test_networks_equal_the_function_on_each_parameter(teacher):
    independent = draw(7)
    before = copy.deepcopy(tensors(teacher)), copy.deepcopy(tensors(independent))
    student = interpolate_networks(teacher, independent, 0.3, rescale_constants=True)
    near = neighbourhood_network(teacher, independent, 0.3, rescale_constants=True)
    for name, own in student.named_parameters():
        a, b = before[0][name], before[1][name]
        torch.testing.assert_close(own, interpolate(a, b, 0.3))
        torch.testing.assert_close(near.get_parameter(name), neighbourhood(a, b, 0.3))
    for name, own in student.named_buffers():
        assert torch.equal(own, before[0][name])
    for network, old in zip((teacher, independent), before, strict=True):
        assert all(torch.equal(tensor, old[name]) for name, tensor in tensors(network).items())
    assert not storages(student) & (storages(teacher) | storages(independent))


def test_ends_of_the_networks(teacher):
    independent = draw(7)
    assert same(interpolate_networks(teacher, independent, 0), teacher)
    assert same(InterpolatedStart(1.0, seed=7)(teacher, draw), independent)  # buffers too
    assert same(neighbourhood_network(teacher, independent, 0), teacher)


@pytest.mark.parametrize(
    "start",
    [TeacherCopy(), IndependentStart(), InterpolatedStart(0.0), InterpolatedStart(0.5), NeighbourhoodStart(0.1)],
)
def test_a_student_is_its_own(teacher, start):
    before = copy.deepcopy(teacher)
    student = start(teacher, draw)
    assert not storages(student) & storages(teacher)
    assert all(p.requires_grad == (name != "encoder.position") for name, p in student.named_parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        for tensor in tensors(student).values():
            tensor.add_(1)
    assert same(teacher, before)


def test_starts_at_the_teacher(teacher):
    assert same(TeacherCopy()(teacher, draw), teacher)
    assert same(InterpolatedStart(0.0)(teacher, draw), teacher)
    assert same(NeighbourhoodStart(0.0)(teacher, draw), teacher)


def test_seeds(teacher):
    named = IndependentStart()(teacher, draw)
    assert same(named, draw(stream_seed("student")))
    assert not torch.equal(named.head.neck.weight, teacher.head.neck.weight)
    assert same(InterpolatedStart(1.0)(teacher, draw), named)
    assert same(IndependentStart(seed=5)(teacher, draw), draw(5))
    half = InterpolatedStart(0.5, seed=5)(teacher, draw)
    assert same(half, InterpolatedStart(0.5, seed=5)(teacher, draw))
    assert same(half, interpolate_networks(teacher, draw(5), 0.5))
    torch.manual_seed(1)
    assert not torch.equal(IndependentStart()(teacher, draw).head.neck.weight, named.head.neck.weight)


def test_options_reach_the_functions(teacher):
    options = {"preserve_variance": True, "rescale_constants": True}
    assert same(
        InterpolatedStart(0.5, 5, **options)(teacher, draw), interpolate_networks(teacher, draw(5), 0.5, **options)
    )
    assert same(
        NeighbourhoodStart(0.5, 5, **options)(teacher, draw), neighbourhood_network(teacher, draw(5), 0.5, **options)
    )
    assert same(
        NeighbourhoodStart(0.5, 5, preserve_variance=False)(teacher, draw),
        neighbourhood_network(teacher, draw(5), 0.5, preserve_variance=False),
    )


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_start_from_a_checkpoint(teacher, tmp_path, which):
    saved = {"student": draw(11), "teacher": draw(12)}
    weights = {f"{w}.{name}": tensor for w, network in saved.items() for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": weights, "dinopl": {"family": "SelfDistillation"}}, tmp_path / "last.ckpt")
    student = CheckpointStart(tmp_path / "last.ckpt", which)(teacher, draw)
    assert all(torch.equal(t, saved[which].state_dict()[name]) for name, t in student.state_dict().items())
    assert not storages(student) & storages(teacher)


def test_a_missing_checkpoint_is_named_when_the_networks_are_built(teacher, tmp_path):
    start = CheckpointStart(str(tmp_path / "none.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"path=.*none.ckpt: no such file; give"):
        start(teacher, draw)


def test_copy_state_includes_what_checkpoints_leave_out():
    first, second = draw(1), draw(2)
    assert not same(first, second)
    copy_state(first, second)
    assert same(first, second)


def linear_encoder(shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU())


@pytest.mark.parametrize("loss", [CrossEntropyViews, MSEViews])
def test_departure_from_the_teacher(loss):
    """Under MSE the copy never moves, bit by bit; under cross-entropy rounding drives it away."""
    torch.manual_seed(0)
    fresh = partial(draw, encoder=linear_encoder)
    teacher = FrozenTeacher().draw(fresh)
    student = TeacherCopy()(teacher, fresh)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0)
    x = torch.randn(64, 1, 6, 6)
    kl = []
    for _ in range(20):
        losses, divergence = loss()([student(x)], [teacher(x)])
        kl.append(divergence.mean().item())
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert abs(kl[0]) < 1e-6
    moved = [(p - q).detach().norm() for p, q in zip(student.parameters(), teacher.parameters(), strict=True)]
    if loss is MSEViews:
        assert same(student, teacher)
    else:
        assert torch.stack(moved).norm() > 0.1
        assert max(kl) > 1e-4
