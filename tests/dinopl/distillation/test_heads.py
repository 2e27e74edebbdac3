import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dinopl.core.divergences import cross_entropy, entropy
from dinopl.core.random import seeded
from dinopl.core.types import ImageShape
from dinopl.distillation.heads import BottleneckLayer, ProjectionHead, plain_unit_rows, unit_rows
from dinopl.distillation.network import draw_network
from dinopl.encoders import VGG11


def head(in_dim=6, hidden=(7, 5), bottleneck_dim=4, out_dim=11, seed=0, dtype=None, **kwargs):
    with seeded(seed):
        module = ProjectionHead(in_dim, hidden, bottleneck_dim, out_dim, **kwargs)
    return module.to(dtype)


def norm(module):
    return torch.stack([torch.linalg.vector_norm(p.detach(), dtype=torch.float64) for p in module.parameters()]).norm()


@pytest.fixture(scope="module")
def paper_network():
    return draw_network(VGG11, ProjectionHead, ImageShape(3, 32, 32), seed=0)


def test_paper_head(paper_network):
    module = paper_network.head
    assert sum(p.numel() for p in module.parameters()) == 22_548_736
    assert module.last_layer.weight.numel() == 16_777_216
    assert norm(module) == pytest.approx(95.0, rel=0.01)
    assert norm(paper_network) == pytest.approx(116.2, rel=0.01)


def test_paper_head_at_the_start(paper_network):
    module = paper_network.head
    with torch.no_grad():
        rows = module.last_layer.effective_weight(torch.float32).double().norm(dim=1)
        assert (rows - 1).abs().max() < 1e-6
        logits = module(torch.randn(4, 512))
        other = module(torch.randn(4, 512))
    assert logits.shape == (4, 65536)
    assert logits.abs().max() <= 1 + 1e-6
    assert logits.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert cross_entropy(other, logits).mean().item() == pytest.approx(11.09, abs=0.01)
    assert entropy(logits).mean().item() == pytest.approx(math.log(65536) - 1 / 512, abs=2e-4)


def test_initial_values():
    module = head(64, (128,), 64, 512)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.06)
            assert layer.weight.abs().max() < 0.2
            assert layer.bias is None or not layer.bias.any()
    assert head(64, (128,), 64, 512, init_std=1.0).last_layer.weight.std().item() == pytest.approx(1, rel=0.06)


def oracle(module, x, weight_norm):
    """The head in numpy, with the exact GELU."""
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in module.named_parameters()}
    h = x
    for i in range(0, len(module.mlp), 2):
        h = h @ weights[f"mlp.{i}.weight"].T + weights[f"mlp.{i}.bias"]
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    z = h @ weights["neck.weight"].T + weights["neck.bias"]
    z = z / np.maximum(np.sqrt((z**2).sum(1, keepdims=True)), 1e-12)
    last = weights["last_layer.weight"]
    if weight_norm:
        last = last / np.sqrt((last**2).sum(1, keepdims=True))
    return z, z @ last.T


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("hidden", [(7, 5), (7,), ()])
def test_equals_numpy(hidden, weight_norm):
    module = head(hidden=hidden, weight_norm=weight_norm, dtype=torch.float64)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(9, 6, dtype=torch.float64)
    z, logits = oracle(module, x.numpy(), weight_norm)
    np.testing.assert_allclose(module.bottleneck(x).detach().numpy(), z, atol=1e-12)
    np.testing.assert_allclose(module(x).detach().numpy(), logits, atol=1e-12)
    assert torch.equal(module(x), module.classify(module.bottleneck(x)))


CONFIGS = ["/".join(fields) for fields in product(*((("wn", "-"), ("l", "lb", "-"), ("fn", "fnd", "-")) * 2))]
ABLATION = [  # appendix B.2, figure 12, and one more of the published code
    *("-/lb/fn/wn/l/-", "wn/lb/-/wn/l/-", "-/lb/fn/-/l/fn", "-/lb/-/-/l/fn", "-/lb/-/-/l/-", "-/-/-/-/l/fn"),
    "-/-/-/-/l/-",
]


def naive_bottleneck(config, x, weights):
    """The published code's ``L2Bottleneck``, as the paper's appendix A describes it, field by field."""
    wn1, lin1, fn1, wn2, lin2, fn2 = config.split("/")
    for wn, lin, fn, name in ((wn1, lin1, fn1, "neck"), (wn2, lin2, fn2, "last_layer")):
        if lin != "-":
            weight = weights[f"{name}.weight"]
            x = x @ (weight / weight.norm(dim=1, keepdim=True) if wn == "wn" else weight).t()
            x = x + weights[f"{name}.bias"] if lin == "lb" else x
        if fn != "-":
            norm = x.norm(dim=1, keepdim=True)
            x = x / (norm.detach() if fn == "fnd" else norm)
    return x


@pytest.mark.parametrize("wn1", ["wn", "-"])
def test_every_legal_bottleneck_equals_its_formula(wn1):
    embeddings, upstream = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    for config in (each for each in CONFIGS if each.startswith(wn1)):
        first, second = BottleneckLayer.pair(config)
        # without linear maps the width stays; where there is one map, its output has out_dim
        module = head(6, (), 4, 6, first=first, second=second, dtype=torch.float64)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        weights = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        x, y = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
        ours, theirs = module(x), naive_bottleneck(config, y, weights)
        torch.testing.assert_close(ours, theirs)
        ours.backward(upstream)
        theirs.backward(upstream)
        torch.testing.assert_close(x.grad, y.grad)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, weights[name].grad)
        assert torch.equal(module.classify(module.bottleneck(x)), ours)
    assert len(CONFIGS) == 324


@pytest.mark.parametrize("config", ABLATION)
def test_the_ablation_of_the_bottleneck_keeps_its_shapes(config):
    first, second = BottleneckLayer.pair(config)
    module = head(8, (7, 5), 3, 16, first=first, second=second)
    assert module.bottleneck(torch.randn(2, 8)).shape == (2, 3 if first.linear else 5)
    logits = module(torch.randn(2, 8))
    assert logits.shape == (2, 16)
    assert ((logits.norm(dim=1) - 1).abs().max() < 1e-6) == config.endswith("fn")


def test_the_published_default_is_the_papers_head():
    first, second = BottleneckLayer.pair("-/lb/fn/wn/l/-")
    given, default = head(first=first, second=second), head()
    x = torch.randn(3, 6)
    assert given.state_dict().keys() == default.state_dict().keys()
    assert torch.equal(given(x), default(x))
    first, second = BottleneckLayer.pair("-/lb/fn/-/l/-")
    assert torch.equal(head(first=first, second=second)(x), head(weight_norm=False)(x))


def test_the_plain_linear_map():
    first, second = BottleneckLayer.pair("-/-/-/-/lb/-")
    module = head(6, (), 99, None, first=first, second=second, init_std=None)
    with seeded(0):
        linear = nn.Linear(6, 6)
    x = torch.randn(3, 6)
    assert [name for name, _ in module.named_parameters()] == ["last_layer.weight", "last_layer.bias"]
    assert torch.equal(module(x), linear(x))


def test_initial_values_of_torch():
    module = head(100, (64,), 32, 500, init_std=None)
    for layer in (module.mlp[0], module.neck, module.last_layer):
        bound = 1 / math.sqrt(layer.in_features)
        assert bound * 0.98 < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias is None or 0 < layer.bias.abs().max() <= bound


def test_hidden_layers_with_norm_and_another_activation():
    module = head(6, (7, 5), norm=nn.BatchNorm1d, activation=nn.ReLU)
    kinds = ["Float32Linear", "BatchNorm1d", "ReLU"]
    assert [type(part).__name__ for part in module.mlp] == kinds * 2
    x = torch.randn(9, 6)
    h = x
    for linear, norm in ((module.mlp[0], module.mlp[1]), (module.mlp[3], module.mlp[4])):
        h = linear(h)
        h = ((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias).relu()
    torch.testing.assert_close(module(x), module.last_layer(nn.functional.normalize(module.neck(h))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module.eval()(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("out_dim", [2, 65536])
def test_any_number_of_outputs(out_dim):
    logits = head(8, (), 4, out_dim)(torch.randn(2, 8))
    assert logits.shape == (2, out_dim)
    assert logits.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "config", ["", "-/lb/fn/wn/l", "x/lb/fn/wn/l/-", "-/lb/wn/wn/l/-", "-/lb/fn/wn/l/-/-", "fn/lb/-/-/l/-"]
)
def test_an_illegal_bottleneck_is_said_in_one_line(config):
    with pytest.raises(ValueError, match=f"config={config}: must be six fields") as caught:
        BottleneckLayer.pair(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["-/lb/fn/wn/l/-", "-/lb/fn/wn/lb/fn", "-/lb/fn/-/l/-", "-/lb/fn/-/-/-"])
def test_a_fixed_classifier_computes_the_same(config):
    first, second = BottleneckLayer.pair(config)
    module = head(first=first, second=second, init_std=None)
    z = module.bottleneck(torch.randn(3, 6))
    fixed = module.fixed_classifier()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fixed(z), module.classify(z))
    assert len(list(module.parameters())) == len(list(head(first=first, second=second).parameters()))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 7),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_unit_rows_equals_its_plain_twin(rows, width, scale, seed):
    torch.manual_seed(seed)
    ours = (torch.randn(rows, width, dtype=torch.float64) * scale).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(rows, width, dtype=torch.float64)
    a, b = unit_rows(ours), plain_unit_rows(theirs)
    a.backward(upstream)
    b.backward(upstream)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.grad * scale, theirs.grad * scale, atol=1e-9, rtol=1e-7)


def test_unit_rows_derivatives():
    rows = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, rows)
    assert torch.autograd.gradgradcheck(unit_rows, rows)
    strided = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unit_rows(x.t()[::2]), strided)


def test_unit_rows_under_vmap():
    stack = torch.randn(3, 4, 5)
    expected = torch.stack([unit_rows(rows) for rows in stack])
    torch.testing.assert_close(torch.func.vmap(unit_rows)(stack), expected)
    grads = torch.func.vmap(torch.func.grad(lambda rows: unit_rows(rows)[:, 0].sum()))(stack)
    single = torch.func.grad(lambda rows: unit_rows(rows)[:, 0].sum())(stack[1])
    torch.testing.assert_close(grads[1], single)


def test_zero_rows_stay_finite():
    rows = torch.zeros(2, 3, requires_grad=True)
    out = unit_rows(rows)
    out.sum().backward()
    assert not out.any()
    assert rows.grad.isfinite().all()
    assert head(hidden=())(torch.zeros(2, 6)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    module, x = head(), torch.randn(8, 6)
    plain = module(x)
    plain.square().sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        mixed = module(x)
    mixed.square().sum().backward()
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)
    assert all(torch.equal(p.grad, expected[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize("weight_norm", [True, False])
def test_low_precision_parameters_are_promoted(weight_norm):
    module, x = head(dtype=torch.bfloat16, weight_norm=weight_norm), torch.randn(8, 6, dtype=torch.bfloat16)
    promoted = head(weight_norm=weight_norm)
    promoted.load_state_dict(module.state_dict())
    logits = module(x)
    assert module.bottleneck(x).dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, promoted(x.float()))
    logits.square().sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in module.parameters())


def test_double_precision_stays():
    x = torch.randn(8, 6, dtype=torch.float64)
    assert head(dtype=torch.float64)(x).dtype == torch.float64
    assert head()(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("kwargs", "option"),
    [
        ({"out_dim": 0}, "out_dim=0: must"),
        ({"bottleneck_dim": -1}, "bottleneck_dim=-1: must"),
        ({"hidden": (8, 0)}, r"hidden=\[8, 0\]: must"),
        ({"init_std": 0.0}, "init_std=0.0: must"),
        (
            {"first": BottleneckLayer(linear=False), "second": BottleneckLayer(linear=False)},
            "out_dim=11: a bottleneck without linear maps returns its 5 inputs",
        ),
    ],
)
def test_bad_options_are_named_in_one_line(kwargs, option):
    with pytest.raises(ValueError, match=option) as caught:
        head(**kwargs)
    assert "\n" not in str(caught.value)


def test_a_norm_that_is_not_there_cannot_be_detached():
    with pytest.raises(ValueError, match="detach_norm=True: there is no norm to detach"):
        BottleneckLayer(detach_norm=True)


class TestNetwork:
    shape = ImageShape(1, 4, 4)

    def draw(self, seed=0, head_factory=None):
        head_factory = head_factory or (lambda r: ProjectionHead(r, (8,), 3, 5))
        return draw_network(lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), head_factory, self.shape, seed)

    def test_parts(self):
        network, x = self.draw(), torch.randn(2, 1, 4, 4)
        assert network.embed_dim == 6
        assert network.embed(x).shape == (2, 6)
        assert network.bottleneck(x).shape == (2, 3)
        assert network(x).shape == (2, 5)
        assert torch.equal(network.classify(network.bottleneck(x)), network(x))

    def test_a_head_without_bottleneck(self):
        network, x = self.draw(head_factory=lambda r: nn.Linear(r, 9)), torch.randn(2, 1, 4, 4)
        assert torch.equal(network.bottleneck(x), network.embed(x))
        assert torch.equal(network.classify(network.bottleneck(x)), network(x))

    def test_draw_depends_on_its_seed_alone(self):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = self.draw(seed=5).state_dict()
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        second, third = self.draw(seed=5).state_dict(), self.draw(seed=6).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not any(torch.equal(first[name], third[name]) for name in first if name.endswith("weight"))
