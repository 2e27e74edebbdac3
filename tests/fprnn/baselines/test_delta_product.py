"""DeltaProduct: the chunked form, the recurrence and numpy's products of matrices, in value and gradient."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fprnn.baselines import DeltaNetLayer, DeltaProductLayer, delta_product_chunked, delta_product_recurrent

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(
    length: int,
    reflections: int = 2,
    batch: int = 2,
    heads: int = 3,
    width: int = 5,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, length, *shape, generator=generator, dtype=torch.float64).to(dtype)

    keys = F.normalize(draw(reflections, heads, width), dim=-1)
    betas = 2 * draw(reflections, heads).sigmoid()
    return draw(heads, width), keys, draw(reflections, heads, width - 1), betas


def by_matrices(queries: Tensor, keys: Tensor, values: Tensor, betas: Tensor, start: Tensor) -> tuple[Any, Any]:
    """Each token's product of (I - beta k k^T), as a matrix, in numpy."""
    q, k, v, b = (part.numpy() for part in (queries, keys, values, betas))
    state, outputs = start.numpy().copy(), np.zeros((*q.shape[:3], v.shape[-1]))
    for row, head in np.ndindex(q.shape[0], q.shape[2]):
        for t in range(q.shape[1]):
            product, written = np.eye(k.shape[-1]), np.zeros(state.shape[2:])
            for j in range(k.shape[2]):
                key = k[row, t, j, head]
                factor = np.eye(len(key)) - b[row, t, j, head] * np.outer(key, key)
                product = factor @ product
                written = factor @ written + b[row, t, j, head] * np.outer(key, v[row, t, j, head])
            state[row, head] = product @ state[row, head] + written
            outputs[row, t, head] = state[row, head].T @ q[row, t, head]
    return outputs, state


@pytest.mark.parametrize(("length", "reflections"), [(0, 2), (1, 1), (1, 3), (7, 1), (7, 2), (13, 3)])
def test_the_recurrence_multiplies_reflections(length: int, reflections: int) -> None:
    parts, start = inputs(length, reflections), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    outputs, state = delta_product_recurrent(*parts, start)
    expected, last = by_matrices(*parts, start)
    np.testing.assert_allclose(outputs.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(state.numpy(), last, atol=1e-12)


@given(st.integers(0, 20), st.integers(1, 4), st.integers(1, 25), st.booleans())
@settings(max_examples=40, deadline=None)
def test_chunks_agree_with_the_recurrence(length: int, reflections: int, chunk_size: int, started: bool) -> None:
    parts = inputs(length, reflections)
    start = torch.randn(2, 3, 5, 4, dtype=torch.float64) if started else None
    for ours, reference in zip(
        delta_product_chunked(*parts, start, chunk_size), delta_product_recurrent(*parts, start), strict=True
    ):
        assert ours.shape == reference.shape
        torch.testing.assert_close(ours, reference, atol=1e-12, rtol=0)


@pytest.mark.parametrize("reflections", [1, 4])
def test_chunks_agree_with_the_recurrence_in_float32(reflections: int) -> None:
    parts = inputs(100, reflections, dtype=torch.float32)
    for ours, reference in zip(delta_product_chunked(*parts), delta_product_recurrent(*parts), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def test_gradients_of_both_forms_agree() -> None:
    gradients = []
    for form in (delta_product_recurrent, delta_product_chunked):
        parts = [part.requires_grad_() for part in (*inputs(11, 3), torch.ones(2, 3, 5, 4, dtype=torch.float64))]
        options = {"chunk_size": 4} if form is delta_product_chunked else {}
        outputs, state = form(*parts, **options)
        (outputs.sin().sum() + state.cos().sum()).backward()
        gradients.append([part.grad for part in parts])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-11, rtol=0)


def test_gradients_of_chunks_are_those_of_finite_differences() -> None:
    parts = [part.requires_grad_() for part in inputs(5, 2, batch=1, heads=1, width=3)]
    assert torch.autograd.gradcheck(lambda *x: delta_product_chunked(*x, chunk_size=2), parts)


def test_non_contiguous_inputs() -> None:
    queries, *rest = inputs(9)
    strided = queries.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(delta_product_chunked(strided, *rest)[0], delta_product_recurrent(queries, *rest)[0])


def test_a_full_reflection_turns_the_state_around() -> None:
    """With beta = 2 and nothing to write, two reads of the same key have opposite signs: parity in one direction."""
    key = F.normalize(torch.randn(1, 4, 1, 1, 3)[:, :1].expand(1, 4, 1, 1, 3), dim=-1)
    start = torch.randn(1, 1, 3, 2)
    for form in (delta_product_recurrent, delta_product_chunked):
        read, _ = form(key[:, :, 0], key, torch.zeros(1, 4, 1, 1, 2), torch.full((1, 4, 1, 1), 2.0), start)
        torch.testing.assert_close(read[:, 1:], -read[:, :-1])


def test_two_reflections_are_a_rotation() -> None:
    """Keys at an angle of pi / 3 rotate by 2 pi / 3: three tokens bring the state back."""
    angle = torch.tensor([0.0, torch.pi / 3])
    keys = torch.stack([angle.cos(), angle.sin()], dim=-1).reshape(1, 1, 2, 1, 2).expand(1, 3, 2, 1, 2)
    start = torch.randn(1, 1, 2, 4)
    ones = torch.full((1, 3, 2, 1), 2.0)
    _, once = delta_product_chunked(keys[:, :1, 0], keys[:, :1], torch.zeros(1, 1, 2, 1, 4), ones[:, :1], start)
    _, thrice = delta_product_chunked(keys[:, :, 0], keys, torch.zeros(1, 3, 2, 1, 4), ones, start)
    assert (once - start).abs().max() > 0.1
    torch.testing.assert_close(thrice, start)


@pytest.fixture
def layer() -> DeltaProductLayer:
    torch.manual_seed(0)
    return DeltaProductLayer(12, num_heads=3, num_householder=2, chunk_size=4)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 11])
def test_steps_equal_forward(layer: DeltaProductLayer, length: int) -> None:
    x = torch.randn(2, length, 12)
    state, outputs = layer.initial_state(2), []
    for t in range(length):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    whole = layer(x)
    assert whole.shape == x.shape
    assert state.shape == layer.initial_state(2).shape
    if length:
        torch.testing.assert_close(torch.stack(outputs, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_the_chunk_size_changes_nothing(layer: DeltaProductLayer) -> None:
    x, whole = torch.randn(2, 11, 12), {}
    for size in (None, 1, 4, 16):
        layer.chunk_size = size
        whole[size] = layer(x)
    for size in (1, 4, 16):
        torch.testing.assert_close(whole[size], whole[None], atol=1e-5, rtol=1e-5)


def test_outputs_do_not_see_the_future_or_the_batch(layer: DeltaProductLayer) -> None:
    x = torch.randn(3, 9, 12)
    torch.testing.assert_close(layer(x[:, :5]), layer(x)[:, :5], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer(x[1:2]), layer(x)[1:2], atol=1e-6, rtol=1e-5)


def test_every_parameter_gets_a_gradient(layer: DeltaProductLayer) -> None:
    layer(torch.randn(2, 9, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize(("negative", "top"), [(True, 2.0), (False, 1.0)])
def test_beta_reaches_its_bound_and_no_further(negative: bool, top: float) -> None:
    layer = DeltaProductLayer(4, num_heads=1, num_householder=1, negative_eigenvalues=negative).double()
    query, key, value = (torch.randn(1, 50, 4, dtype=torch.float64) for _ in range(3))
    reach = torch.linspace(-30, 30, 50, dtype=torch.float64).reshape(1, 50, 1)
    q, k, _, beta = layer.per_head(query, key, value, reach)
    assert 0 < beta.min() < 1e-9
    assert beta.max() == pytest.approx(top)
    assert (beta <= top).all()
    ones = torch.ones(1, 50, 1, dtype=torch.float64)
    torch.testing.assert_close(q.norm(dim=-1), ones)
    torch.testing.assert_close(k.norm(dim=-1), ones[..., None])


def test_bfloat16_keeps_a_float32_state(layer: DeltaProductLayer) -> None:
    x = torch.randn(2, 11, 12)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
        step, state = layer.step(x[:, 0], layer.initial_state(2))
    assert mixed.dtype == step.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(mixed.float(), exact, atol=0.05, rtol=0.05)
    low = layer.bfloat16()
    assert low.initial_state(1).dtype == torch.float32
    torch.testing.assert_close(low(x.bfloat16()).float(), exact, atol=0.05, rtol=0.05)


def test_float64_stays_float64(layer: DeltaProductLayer) -> None:
    layer.double()
    assert layer(torch.randn(1, 3, 12, dtype=torch.float64)).dtype == torch.float64
    assert layer.initial_state(1).dtype == torch.float64


def test_an_empty_batch(layer: DeltaProductLayer) -> None:
    assert layer(torch.zeros(0, 5, 12)).shape == (0, 5, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads: 5 does not divide d_model=12; use a divisor, or set head_dim"),
        ({"num_heads": 0}, "num_heads: 0 is too small; use 1 or more"),
        ({"head_dim": 0}, "head_dim: 0 is too small"),
        ({"num_householder": 0}, "num_householder: 0 is too small"),
        ({"chunk_size": 0}, "chunk_size: 0 is too small"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeltaProductLayer(12, **options)


def test_heads_may_be_wider_than_the_model() -> None:
    layer = DeltaProductLayer(12, num_heads=5, head_dim=8, num_householder=3)
    assert layer(torch.randn(2, 4, 12)).shape == (2, 4, 12)
    # queries, keys, values, betas, output, norm
    assert sum(p.numel() for p in layer.parameters()) == 12 * 40 * (1 + 3 + 3 + 1) + 12 * 15 + 8


@pytest.mark.parametrize("negative", [False, True])
def test_delta_net_is_one_reflection(negative: bool) -> None:
    torch.manual_seed(0)
    net = DeltaNetLayer(12, num_heads=3, negative_eigenvalues=negative)
    product = DeltaProductLayer(12, num_heads=3, num_householder=1, negative_eigenvalues=negative)
    product.load_state_dict(net.state_dict())
    x = torch.randn(2, 7, 12)
    assert torch.equal(net(x), product(x))


@pytest.mark.parametrize("form", [delta_product_recurrent, delta_product_chunked])
def test_the_delta_rule_overwrites_what_a_key_held(form: Any) -> None:
    """Two values under one key: at beta = 1 the second is read, and not their sum as in linear attention."""
    key = F.normalize(torch.randn(1, 1, 1, 1, 5), dim=-1).expand(1, 2, 1, 1, 5)
    values = torch.randn(1, 2, 1, 1, 4)
    read, _ = form(key[:, :, 0], key, values, torch.ones(1, 2, 1, 1))
    torch.testing.assert_close(read[:, 1, 0], values[:, 1, 0, 0])
