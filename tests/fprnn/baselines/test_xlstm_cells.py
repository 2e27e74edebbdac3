"""mLSTM and sLSTM against their unstabilised equations in numpy, and mLSTM's chunks against its recurrence."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fprnn.baselines import MatrixMemory, MLSTMLayer, SLSTMLayer, mlstm_chunked, mlstm_recurrent, slstm_recurrent
from fprnn.baselines.mlstm import empty_memory


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def mlstm_inputs(length: int, dtype: torch.dtype = torch.float64, spread: float = 3.0) -> list[Tensor]:
    """Two sequences, three heads, keys of 5 and values of 4; gates between tiny and huge."""
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, length, 3, *shape, generator=generator, dtype=torch.float64).to(dtype)

    return [draw(5), draw(5), draw(4), spread * draw(), F.logsigmoid(spread * draw())]


def some_memory() -> MatrixMemory:
    return MatrixMemory(*(torch.randn(2, 3, *size, dtype=torch.float64) for size in ((5, 4), (5,), ())))


def mlstm_in_numpy(parts: list[Tensor], start: MatrixMemory) -> tuple[np.ndarray, np.ndarray]:
    """Equations 19 to 27 without stabiliser; outputs and last matrix."""
    q, k, v, enter, forget = (x.numpy() for x in parts)
    scale = np.exp(start.stabilizer.numpy())
    memory, normalizer = start.memory.numpy() * scale[..., None, None], start.normalizer.numpy() * scale[..., None]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for row, head in np.ndindex(q.shape[0], q.shape[2]):
        matrix, vector = memory[row, head], normalizer[row, head]
        for t in range(q.shape[1]):
            f, i, key = np.exp(forget[row, t, head]), np.exp(enter[row, t, head]), k[row, t, head]
            matrix = f * matrix + i * np.outer(key, v[row, t, head])
            vector = f * vector + i * key
            out[row, t, head] = matrix.T @ q[row, t, head] / max(abs(vector @ q[row, t, head]), 1.0)
        memory[row, head] = matrix
    return out, memory


@pytest.mark.parametrize("form", [mlstm_recurrent, mlstm_chunked])
@pytest.mark.parametrize("length", [0, 1, 9])
def test_mlstm_is_the_papers_recurrence(form: Any, length: int) -> None:
    parts, start = mlstm_inputs(length), some_memory()
    outputs, last = form(*parts, start)
    expected, memory = mlstm_in_numpy(parts, start)
    np.testing.assert_allclose(outputs.numpy(), expected, atol=1e-10)
    scaled = last.memory * last.stabilizer.exp()[..., None, None]
    np.testing.assert_allclose(scaled.numpy(), memory, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 20), st.integers(1, 25), st.booleans())
@settings(max_examples=40, deadline=None)
def test_mlstm_chunks_agree_with_the_recurrence(length: int, chunk_size: int, started: bool) -> None:
    parts, start = mlstm_inputs(length), some_memory() if started else None
    ours, ours_last = mlstm_chunked(*parts, start, chunk_size)
    reference, last = mlstm_recurrent(*parts, start)
    torch.testing.assert_close(ours, reference, atol=1e-10, rtol=1e-10)
    for a, b in zip(ours_last, last, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 16, 100])
def test_mlstm_chunks_agree_with_the_recurrence_in_float32(chunk_size: int) -> None:
    parts = mlstm_inputs(100, torch.float32, spread=1.0)
    exact, _ = mlstm_recurrent(*(x.double() for x in parts))
    for outputs in (mlstm_chunked(*parts, chunk_size=chunk_size)[0], mlstm_recurrent(*parts)[0]):
        torch.testing.assert_close(outputs.double(), exact, atol=1e-5, rtol=1e-5)


def test_gradients_of_both_mlstm_forms_agree() -> None:
    gradients = []
    for form, options in ((mlstm_recurrent, {}), (mlstm_chunked, {"chunk_size": 4})):
        torch.manual_seed(0)
        parts, start = [part.requires_grad_() for part in mlstm_inputs(11)], some_memory()
        leaves = [*parts, *(part.requires_grad_() for part in start)]
        outputs, last = form(*parts, start, **options)
        (outputs.sin().sum() + form(*parts, last, **options)[0].cos().sum()).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("form", [mlstm_recurrent, mlstm_chunked])
@pytest.mark.parametrize("gate", [-200.0, 200.0])
def test_extreme_gates_stay_finite(form: Any, gate: float) -> None:
    """``exp(200)`` overflows float32; the unstabilised equations say what should come out."""
    parts = mlstm_inputs(12, torch.float32, spread=1.0)
    parts[3] = (parts[3] + gate).requires_grad_()
    outputs, _ = form(*parts)
    outputs.square().sum().backward()
    expected, _ = mlstm_in_numpy([x.detach().double() for x in parts], empty_memory(parts[0].double(), 2, 3, 5, 4))
    assert parts[3].grad is not None
    assert parts[3].grad.isfinite().all()
    np.testing.assert_allclose(outputs.detach().numpy(), expected, atol=1e-4, rtol=1e-3)


def test_the_mlstm_layer_is_its_parts() -> None:
    torch.manual_seed(0)
    layer, x = MLSTMLayer(6, num_heads=2, chunk_size=2).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    torch.nn.init.normal_(layer.gates.weight)
    q, k = (y.reshape(2, 5, 2, 3) for y in (x @ layer.query_key_proj.weight.T).chunk(2, -1))
    v = (x @ layer.value_proj.weight.T).reshape(2, 5, 2, 3)
    enter, forget = (x @ layer.gates.weight.T + layer.gates.bias).chunk(2, -1)
    parts = [y.detach() for y in (q, k / 3**0.5, v, enter, forget.sigmoid().log())]
    h = torch.from_numpy(mlstm_in_numpy(parts, empty_memory(x, 2, 2, 3, 3))[0])
    h = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = ((x @ layer.output_gate.weight.T).sigmoid() * h.flatten(-2)) @ layer.out_proj.weight.T
    torch.testing.assert_close(layer(x), expected, atol=1e-10, rtol=0)


def slstm_in_numpy(gates: Tensor, recurrent: Tensor) -> np.ndarray:
    """Equations 8 to 14 without stabiliser."""
    g, r = gates.numpy(), recurrent.numpy()
    out = np.zeros((g.shape[0], g.shape[1], *g.shape[3:]))
    for row, head in np.ndindex(g.shape[0], g.shape[3]):
        h = c = n = np.zeros(g.shape[4])
        for t in range(g.shape[1]):
            z, i, f, o = (g[row, t, gate, head] + h @ r[head, :, gate] for gate in range(4))
            c, n = sigmoid(f) * c + np.exp(i) * np.tanh(z), sigmoid(f) * n + np.exp(i)
            h = sigmoid(o) * c / n
            out[row, t, head] = h
    return out


@pytest.mark.parametrize(("length", "spread"), [(0, 1.0), (1, 1.0), (8, 4.0)])
def test_slstm_is_the_papers_recurrence(length: int, spread: float) -> None:
    gates = spread * torch.randn(2, length, 4, 3, 5, dtype=torch.float64)
    recurrent = torch.randn(3, 5, 4, 5, dtype=torch.float64)
    outputs, last = slstm_recurrent(gates, recurrent)
    np.testing.assert_allclose(outputs.numpy(), slstm_in_numpy(gates, recurrent), atol=1e-12)
    if length:
        assert torch.equal(last[0], outputs[:, -1])


def test_gradients_of_the_slstm_are_those_of_finite_differences() -> None:
    gates = torch.randn(1, 4, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    recurrent = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: slstm_recurrent(*x)[0], (gates, recurrent))


@pytest.mark.parametrize("gate", [-200.0, 200.0])
def test_slstm_gates_do_not_overflow(gate: float) -> None:
    """What all input gates have in common cancels: so huge and tiny gates give what moderate ones do."""
    gates, recurrent = torch.randn(2, 7, 4, 2, 3), 0.1 * torch.randn(2, 3, 4, 3)
    moderate, _ = slstm_recurrent(gates, recurrent)
    shifted = gates + gate * torch.tensor([0.0, 1, 0, 0])[:, None, None]
    shifted.requires_grad_()
    extreme, _ = slstm_recurrent(shifted, recurrent)
    torch.testing.assert_close(extreme, moderate, atol=1e-4, rtol=1e-4)
    extreme.sum().backward()
    assert shifted.grad is not None
    assert shifted.grad.isfinite().all()


def test_slstm_heads_do_not_mix() -> None:
    gates, recurrent = torch.randn(1, 6, 4, 3, 2), torch.randn(3, 2, 4, 2)
    changed = gates.clone()
    changed[..., 1, :] += 1
    before, after = (slstm_recurrent(x, recurrent)[0] for x in (gates, changed))
    assert torch.equal(before[:, :, [0, 2]], after[:, :, [0, 2]])
    assert (before[:, :, 1] - after[:, :, 1]).abs().min() > 0


def test_the_slstm_layer_is_its_parts() -> None:
    torch.manual_seed(0)
    layer, x = SLSTMLayer(6, num_heads=2).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    z, o = (x @ layer.cell_proj.weight.T + layer.cell_proj.bias).chunk(2, -1)
    i, f = (x @ layer.gate_proj.weight.T + layer.gate_proj.bias).chunk(2, -1)
    gates = torch.stack([part.reshape(2, 5, 2, 3) for part in (z, i, f, o)], 2)
    h = torch.from_numpy(slstm_in_numpy(gates.detach(), layer.recurrent.detach()))
    h = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), h.flatten(-2) @ layer.out_proj.weight.T, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MLSTMLayer(12, num_heads=5),
            "num_heads: 5 does not divide d_model=12; use a divisor, or set head_dim",
        ),
        (lambda: MLSTMLayer(12, chunk_size=0), "chunk_size: 0 is too small; use 1 or more"),
        (lambda: SLSTMLayer(12, num_heads=5), "num_heads: 5 does not divide d_model=12; use a divisor"),
        (lambda: SLSTMLayer(12, num_heads=0), "num_heads: 0 is too small; use 1 or more"),
        (lambda: SLSTMLayer(12, conv_width=0), "conv_width: 0 is too small; use 1 or more"),
    ],
)
def test_bad_cell_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
