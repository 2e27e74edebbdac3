"""selective_scan against a closed form, against the naive loop, its memory, and as a citizen of torch."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton_programs import run_program

from fprnn.ops import selective_scan
from fprnn.ops.selective_scan import channels

BACKENDS = ["reference", "torch"]
FORMS = ["channels", "heads"]
NAMES = ["inputs", "delta", "rates", "b", "c", "initial"]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def operands(
    form: str,
    length: int,
    *,
    batch: int = 2,
    heads: int = 4,
    width: int = 3,
    groups: int = 2,
    states: int = 3,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """A rate for each of ``heads`` channels, or for each head of ``width`` channels, in ``groups``; with gradients."""
    generator = torch.Generator().manual_seed(length)
    channels = heads if form == "channels" else heads * width
    vectors = (batch, length, states) if form == "channels" else (batch, length, groups, states)
    rates = (channels, states) if form == "channels" else (heads,)
    sizes = [(batch, length, channels), (batch, length, heads), rates, vectors, vectors, (batch, channels, states)]
    drawn = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    drawn[1], drawn[2] = drawn[1].sigmoid(), -drawn[2].exp()
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def closed_form(v: np.ndarray, delta: np.ndarray, rates: np.ndarray, b: np.ndarray, c: np.ndarray, h: np.ndarray):
    """Of one sequence, each operand with its own entry for each channel: outputs ``(T, d)`` and the last state.

    ``H_t = sum_k exp(rates sum_{k < i <= t} delta_i) delta_k v_k b_k``, plus what is left of the first state.
    """
    sums, states = np.cumsum(delta, 0), []
    for t in range(len(v)):
        state = np.exp(rates * sums[t][:, None]) * h
        for k in range(t + 1):
            state = state + np.exp(rates * (sums[t] - sums[k])[:, None]) * (delta[k] * v[k])[:, None] * b[k]
        states.append(state)
    return np.stack([(state * read).sum(-1) for state, read in zip(states, c, strict=True)]), states[-1]


def values_and_gradients(backend: str, tensors: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    results = selective_scan(*leaves, backend=backend)
    weights = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).reshape(r.shape) for r in results]
    gradients = torch.autograd.grad(results, leaves, weights, materialize_grads=True)
    return [*(result.detach() for result in results), *gradients]


def assert_same(left: list[Tensor], right: list[Tensor], **tolerance: float) -> None:
    for name, ours, theirs in zip(["outputs", "final", *NAMES], left, right, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 70])
def test_equals_the_closed_form(form: str, backend: str, length: int) -> None:
    tensors = operands(form, length)
    outputs, final = (result.detach().numpy() for result in selective_scan(*tensors, backend=backend))
    v, delta, rates, b, c, h = (tensor.detach().numpy() for tensor in tensors)
    if form == "heads":  # 2 groups of 2 heads of 3 channels
        delta, rates = delta.repeat(3, -1), rates.repeat(3)[:, None]
        b, c = b.repeat(6, 2), c.repeat(6, 2)
    else:
        b, c = b[:, :, None], c[:, :, None]
    for i in range(2):
        expected = closed_form(v[i], delta[i], rates, b[i], c[i], h[i])
        np.testing.assert_allclose(outputs[i], expected[0], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(final[i], expected[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_passes_gradcheck(form: str) -> None:
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x), tuple(operands(form, 5, states=2, width=2)))


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    length=st.one_of(st.integers(0, 18), st.integers(60, 140)),
    batch=st.integers(0, 3),
    heads=st.sampled_from([1, 4, 6]),
    width=st.integers(1, 3),
    groups=st.integers(1, 2),
    states=st.integers(1, 4),
)
def test_torch_backend_equals_reference(form: str, heads: int, groups: int, **sizes: int) -> None:
    tensors = operands(form, heads=heads, groups=1 if heads % groups else groups, **sizes)
    fast, slow = (values_and_gradients(backend, tensors) for backend in ("torch", "reference"))
    assert_same(fast, slow, rtol=1e-8, atol=1e-10)


def test_sequences_are_worked_through_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = operands("channels", 37, batch=5)
    whole = values_and_gradients("torch", tensors)
    monkeypatch.setattr(channels, "TILE_ELEMENTS", 2 * 16 * 4 * 3)  # two sequences
    assert_same(values_and_gradients("torch", tensors), whole)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_in_parts_is_the_whole(form: str) -> None:
    v, delta, rates, b, c, h = operands(form, 50)
    state, outputs = h, []
    for part in (slice(0, 0), slice(0, 1), slice(1, 33), slice(33, 50)):
        out, state = selective_scan(v[:, part], delta[:, part], rates, b[:, part], c[:, part], state)
        outputs.append(out)
    whole = selective_scan(v, delta, rates, b, c, h)
    for ours, theirs in zip((torch.cat(outputs, 1), state), whole, strict=True):
        torch.testing.assert_close(ours, theirs)
        leaves = (v, delta, rates, b, c, h)
        gradients = (
            torch.autograd.grad(x.sum(), leaves, retain_graph=True, materialize_grads=True) for x in (ours, theirs)
        )
        for left, right in zip(*gradients, strict=True):
            torch.testing.assert_close(left, right)


@pytest.mark.parametrize("form", FORMS)
def test_strides_do_not_matter(form: str) -> None:
    dense = operands(form, 20)
    strided = [torch.stack([x, x], -1).detach()[..., 0] for x in dense]
    strided[0] = dense[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
    copies = [x.clone() for x in strided]
    assert_same(values_and_gradients("torch", strided), values_and_gradients("torch", dense))
    assert selective_scan(*strided)[0].is_contiguous()
    assert all(torch.equal(x, copy) for x, copy in zip(strided, copies, strict=True))


@pytest.mark.parametrize("wanted", range(6), ids=NAMES)
def test_each_operand_may_be_the_only_one_that_needs_a_gradient(wanted: int) -> None:
    tensors = operands("heads", 6)
    leaves = [x.detach().requires_grad_(index == wanted) for index, x in enumerate(tensors)]
    (ours,) = torch.autograd.grad(selective_scan(*leaves)[0].sum(), leaves[wanted])
    (expected,) = torch.autograd.grad(selective_scan(*tensors, backend="reference")[0].sum(), tensors[wanted])
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_inputs_have_a_float32_state(form: str) -> None:
    tensors = operands(form, 150, dtype=torch.bfloat16)
    half = values_and_gradients("torch", tensors)
    single = values_and_gradients("torch", [tensor.float() for tensor in tensors])
    assert [tensor.dtype for tensor in half] == [torch.bfloat16, torch.float32, *[torch.bfloat16] * 6]
    assert torch.equal(half[0], single[0].bfloat16())  # only the result is rounded
    assert torch.equal(half[1], single[1])
    for ours, theirs in zip(half[2:], single[2:], strict=True):  # gradients start from a rounded weight
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = values_and_gradients("torch", [tensors[0], *(tensor.float() for tensor in tensors[1:])])
    assert torch.equal(mixed[0], half[0])
    assert [tensor.dtype for tensor in mixed[2:]] == [torch.bfloat16, *[torch.float32] * 5]
    for ours, theirs in zip(mixed[2:], single[2:], strict=True):
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("form", FORMS)
def test_single_precision_is_accurate(form: str) -> None:
    tensors = operands(form, 300, states=16)
    double = values_and_gradients("torch", tensors)
    single = values_and_gradients("torch", [tensor.float() for tensor in tensors])
    for ours, theirs in zip(single, double, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_strong_decay_gives_what_the_loop_gives(form: str) -> None:
    v, delta, rates, b, c, h = operands(form, 70, dtype=torch.float32)
    rates = rates.detach() * torch.logspace(-2, 4, 4).reshape(-1, *[1] * (rates.ndim - 1))
    tensors = [v, delta, rates, b, c, h]
    assert_same(
        values_and_gradients("torch", tensors), values_and_gradients("reference", tensors), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_second_derivative_is_refused(form: str) -> None:
    tensors = operands(form, 5)
    with pytest.raises(RuntimeError, match="selective_scan has no second derivative"):
        torch.autograd.grad(selective_scan(*tensors)[0].sum(), tensors[0], create_graph=True)


@pytest.mark.parametrize("form", FORMS)
def test_compiles_without_a_graph_break(form: str) -> None:
    def block(*tensors: Tensor) -> Tensor:
        outputs, final = selective_scan(*tensors)
        return outputs.tanh().sum() + final.square().sum()

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (5, 20):
        tensors = operands(form, length)
        eager, traced = block(*tensors), compiled(*tensors)
        torch.testing.assert_close(traced, eager)
        for ours, theirs in zip(*(torch.autograd.grad(x, tensors) for x in (traced, eager)), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # from the check itself
@pytest.mark.parametrize("form", FORMS)
def test_operators_are_registered_rightly(form: str) -> None:
    *tensors, initial = operands(form, 5)
    vectors = [x.detach().reshape(2, 5, -1, 3).requires_grad_() for x in tensors[3:]]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.fprnn.selective_scan.default, (*tensors[:3], *vectors, initial, "auto", True), test_utils=checks
    )


def peak_memory() -> int:
    """The process's largest resident set since :func:`forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's account of memory")
@pytest.mark.parametrize("form", FORMS)
def test_states_never_exist_for_all_tokens_at_once(form: str) -> None:
    sizes = {"batch": 2, "heads": 256, "width": 1, "states": 64} if form == "channels" else {"heads": 4, "width": 64}
    tensors = operands(form, 4096, **{"states": 64, "dtype": torch.float32, **sizes})
    states = 4 * tensors[0].numel() * 64  # 537 MB for all tokens, beside which what a first call loads is little
    before = forget_peak()
    sum(result.sum() for result in selective_scan(*tensors)).backward()
    assert peak_memory() - before < states / 4
    before = forget_peak()
    kept = torch.ones(states // 4)
    assert peak_memory() - before > 0.9 * 4 * kept.numel()  # what is measured would have been seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.zeros(2, 5)}, r"inputs of shape \(2, 5\) must be \(batch, time, channels\)"),
        ({"inputs": torch.zeros(2, 5, 4, dtype=torch.int64)}, "inputs must be floating point"),
        ({"delta": torch.zeros(2, 5, 3)}, r"delta of shape \(2, 5, 3\) does not fit inputs: want \(2, 5, 4\)"),
        ({"delta": torch.zeros(2, 5, 4, device="meta")}, "delta is on meta but inputs are on cpu"),
        ({"rates": torch.zeros(3)}, r"rates of shape \(3,\) must be \(channels, N\) or \(heads,\) for 4 channels"),
        ({"rates": torch.zeros(4, 2)}, r"rates of shape \(4, 2\) does not fit inputs: want \(4, 3\)"),
        ({"b": torch.zeros(2, 3)}, r"b of shape \(2, 3\) must be"),
        ({"b": torch.zeros(2, 5, 2, 3)}, "has 2 groups: they must divide the heads, or be 1 without"),
        ({"c": torch.zeros(2, 5, 4)}, r"c of shape \(2, 5, 4\) does not fit"),
        ({"c": torch.zeros(2, 5, 3, dtype=torch.float64)}, "float64 does not mix"),
        ({"initial": torch.zeros(2, 3, 4)}, r"initial of shape \(2, 3, 4\) does not fit inputs: want \(2, 4, 3\)"),
        ({"backend": "cuda"}, "backend='cuda' is unknown: choose one of auto, reference, torch, triton"),
        ({"backend": "triton"}, "backend='triton' needs triton and CUDA tensors"),
        ({"backend": "triton", "rates": torch.zeros(4)}, "has no kernel for rates of heads"),
    ],
)
def test_mistakes_are_named_in_one_line(changes: dict[str, object], message: str) -> None:
    ones = {"inputs": torch.ones(2, 5, 4), "delta": torch.ones(2, 5, 4), "rates": -torch.ones(4, 3)}
    arguments = {**ones, "b": torch.ones(2, 5, 3), "c": torch.ones(2, 5, 3), **changes}
    with pytest.raises(ValueError, match=message) as error:
        selective_scan(**arguments)
    assert "\n" not in str(error.value)


@needs_triton
def test_kernels_in_the_interpreter() -> None:
    run_program("selective_triton_checks.py", TRITON_INTERPRET="1")


@needs_triton
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    run_program("selective_triton_compiles.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_the_device() -> None:
    import selective_triton_checks

    selective_triton_checks.check_all("cuda")
    selective_triton_checks.check_layouts("cuda")
