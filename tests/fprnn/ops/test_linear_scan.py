"""linear_scan against a closed form, against the naive loop, and as a citizen of torch (autocast, compile, layouts)."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fprnn.ops import linear_scan

BACKENDS = ["reference", "torch"]


def operands(shape: tuple[int, ...], dim: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Inputs, coefficients of both signs, and an initial state, all requiring gradients."""
    generator = torch.Generator().manual_seed(seed)
    state_shape = shape[:dim] + shape[dim + 1 :]
    inputs, initial = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, state_shape))
    coeffs = 1.9 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.9
    return [tensor.to(dtype).requires_grad_() for tensor in (inputs, coeffs, initial)]


def closed_form(inputs: np.ndarray, coeffs: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """``h_t = sum_k (prod_{k<i<=t} c_i) x_k + (prod_{i<=t} c_i) h_0``, time first."""
    length = len(inputs)
    return np.stack(
        [
            sum((np.prod(coeffs[k + 1 : t + 1], 0) * inputs[k] for k in range(t + 1)), 0 * initial)
            + np.prod(coeffs[: t + 1], 0) * initial
            for t in range(length)
        ]
    )


def values_and_gradients(backend: str, tensors: list[Tensor], **options: object) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = linear_scan(*leaves, backend=backend, **options)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=torch.float64).reshape(outputs.shape).to(outputs.dtype)
    gradients = torch.autograd.grad(outputs, leaves, weights, materialize_grads=True)
    return [outputs.detach(), *gradients]


def assert_same(left: list[Tensor], right: list[Tensor], **tolerance: float) -> None:
    for ours, theirs in zip(left, right, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 7, 90])
def test_equals_the_closed_form(backend: str, reverse: bool, length: int) -> None:
    tensors = operands((2, length, 3))
    x, c, h = (tensor.detach().numpy() for tensor in tensors)
    x, c = x.swapaxes(0, 1), c.swapaxes(0, 1)
    expected = closed_form(x[::-1], c[::-1], h)[::-1] if reverse else closed_form(x, c, h)
    outputs = linear_scan(*tensors, reverse=reverse, backend=backend)
    np.testing.assert_allclose(outputs.detach().numpy().swapaxes(0, 1), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_gradients_of_first_and_second_order(reverse: bool, length: int) -> None:
    def scan(*tensors: Tensor) -> Tensor:
        return linear_scan(*tensors, reverse=reverse, backend="torch")

    tensors = operands((2, length, 2))
    assert torch.autograd.gradcheck(scan, tensors)
    assert torch.autograd.gradgradcheck(scan, tensors)
    assert torch.autograd.gradgradcheck(lambda x, c: scan(x, c), tensors[:2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.5, 1.2), (-1.3, 1.3)])
def test_the_error_is_what_the_docstring_promises(backend: str, reverse: bool, low: float, high: float) -> None:
    """In float32, where coefficients above 1 magnify every rounding; float64 is exact beside it."""
    tensors = operands((3, 300, 8), dtype=torch.float32)
    tensors[1] = torch.empty(3, 300, 8).uniform_(low, high)
    wide = [tensor.detach().double() for tensor in tensors]
    exact = linear_scan(*wide, reverse=reverse, backend="reference")
    size = linear_scan(*(tensor.abs() for tensor in wide), reverse=reverse, backend="reference")
    steps = torch.arange(1, 301)[:, None]
    error = (linear_scan(*tensors, reverse=reverse, backend=backend).detach() - exact).abs()
    # A product that is taken for zero weighs less than 1e-19.
    bound = 2 * torch.finfo(torch.float32).eps * (steps.flip(0) if reverse else steps) * size + 1e-18
    assert (error <= bound).all()


def test_where_terms_cancel_and_coefficients_exceed_one_the_bound_is_all_that_holds() -> None:
    """``1 = 1.1 * 1 - 0.1``, but the float32 numbers nearest to 1.1 and -0.1 give 43.4 after 200 tokens.

    So a loop's 1.0 is no better an answer than another order's 26: both are off by more than that, within the bound.
    """
    x, c, h = torch.full((1, 200, 1), -0.1), torch.full((1, 200, 1), 1.1), torch.ones(1, 1)
    last, (x_exact, c_exact) = Fraction(1), (Fraction(tensor[0, 0, 0].item()) for tensor in (x, c))
    for _ in range(200):
        last = c_exact * last + x_exact
    size = linear_scan(x.double().abs(), c.double(), h.double())[0, -1].item()
    bound = 2 * torch.finfo(torch.float32).eps * 200 * size
    assert float(last) == pytest.approx(43.447, abs=1e-3)
    for backend in BACKENDS:
        assert abs(linear_scan(x, c, h, backend=backend)[0, -1].item() - float(last)) < bound
    states = [linear_scan(x.double(), c.double(), h.double(), backend=backend)[0, -1].item() for backend in BACKENDS]
    assert states == pytest.approx([float(last)] * 2, rel=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradient_through_blocks(reverse: bool) -> None:
    tensors = operands((1, 70, 3))
    assert torch.autograd.gradcheck(lambda *t: linear_scan(*t, reverse=reverse), tensors, fast_mode=True)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 3), min_size=0, max_size=3),
    length=st.one_of(st.integers(0, 9), st.integers(60, 140)),
    width=st.sampled_from([1, 5, 40]),
    data=st.data(),
)
def test_torch_backend_equals_reference(shape: list[int], length: int, width: int, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, len(shape)))
    size = (*shape[:dim], length, *shape[dim:], width)
    options = {"dim": data.draw(st.sampled_from([dim, dim - len(size)])), "reverse": data.draw(st.booleans())}
    tensors = operands(size, dim, seed=length)[: data.draw(st.integers(2, 3))]
    assert_same(
        values_and_gradients("torch", tensors, **options), values_and_gradients("reference", tensors, **options)
    )


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("length", [6, 100])
def test_strides_do_not_matter(order: tuple[int, int, int], length: int) -> None:
    dense = operands((4, length, 36))
    strided = [dense[0].permute(order).contiguous().permute(np.argsort(order).tolist()), dense[1], dense[2]]
    strided[1] = torch.cat([dense[1], dense[1]], -1).detach()[..., ::2]
    dense[1] = strided[1].contiguous()
    before = strided[0].clone()
    assert_same(values_and_gradients("torch", strided), values_and_gradients("torch", dense))
    assert linear_scan(*strided).is_contiguous()
    assert torch.equal(strided[0], before)


@pytest.mark.parametrize("length", [5, 100])
@pytest.mark.parametrize(
    ("coeffs_shape", "initial_shape"), [((2, 1, 3, 1), (3, 4)), ((1,), ()), ((), (4,)), ((3, 1), (1, 3, 4))]
)
def test_coefficients_and_initial_state_broadcast(
    length: int, coeffs_shape: tuple[int, ...], initial_shape: tuple[int, ...]
) -> None:
    inputs = operands((2, length, 3, 4))[0]
    coeffs, initial = (torch.rand(shape, dtype=torch.float64) for shape in (coeffs_shape, initial_shape))
    expected = linear_scan(inputs, coeffs.expand(inputs.shape), initial.expand(2, 3, 4), backend="reference")
    small = values_and_gradients("torch", [inputs, coeffs, initial])
    torch.testing.assert_close(small[0], expected.detach())
    full = values_and_gradients("reference", [inputs, coeffs.expand(inputs.shape), initial.expand(2, 3, 4)])
    torch.testing.assert_close(small[2], full[2].sum_to_size(coeffs_shape))
    torch.testing.assert_close(small[3], full[3].sum_to_size(initial_shape))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_each_operand_may_be_the_only_one_that_needs_a_gradient(wanted: int) -> None:
    tensors = operands((2, 6, 3))
    expected = values_and_gradients("reference", tensors)[1 + wanted]
    leaves = [tensor.detach().requires_grad_(index == wanted) for index, tensor in enumerate(tensors)]
    outputs = linear_scan(*leaves, backend="torch")
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=torch.float64).reshape(outputs.shape)
    (gradient,) = torch.autograd.grad(outputs, leaves[wanted], weights)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_log_coefficients_take_the_gradient_of_their_own_token(backend: str, reverse: bool) -> None:
    inputs, coeffs, initial = operands((2, 6, 3))
    coeffs = coeffs.detach().abs() + 0.05
    plain = values_and_gradients(backend, [inputs, coeffs, initial], reverse=reverse)
    logs = values_and_gradients(backend, [inputs, coeffs.log(), initial], reverse=reverse, log_coeffs=True)
    plain[2] = coeffs * plain[2]
    assert_same(logs, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [16, 200])
def test_half_precision_inputs_have_a_float32_state(dtype: torch.dtype, length: int) -> None:
    tensors = operands((3, length, 40), dtype=dtype)
    half = values_and_gradients("torch", tensors)
    single = values_and_gradients("torch", [tensor.float() for tensor in tensors])
    assert [tensor.dtype for tensor in half] == [dtype] * 4
    assert torch.equal(half[0], single[0].to(dtype))  # only the result is rounded
    precision = 2 * torch.finfo(dtype).eps  # gradients start from a rounded weight and a rounded output
    assert_same([tensor.float() for tensor in half], single, rtol=precision, atol=8 * precision)


def test_float64_stays_float64_and_float32_is_accurate() -> None:
    tensors = operands((2, 300, 40))
    double = values_and_gradients("torch", tensors)
    assert {tensor.dtype for tensor in double} == {torch.float64}
    single = values_and_gradients("torch", [tensor.float() for tensor in tensors])
    assert_same([tensor.double() for tensor in single], double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [7, 300, 2000])
def test_float32_is_exact_to_rounding(backend: str, reverse: bool, length: int) -> None:
    """Values and gradients against the loop in float64, in units of the largest entry."""
    tensors = [tensor.float() for tensor in operands((2, length, 40))]
    single = values_and_gradients(backend, tensors, reverse=reverse)
    double = values_and_gradients("reference", [tensor.double() for tensor in tensors], reverse=reverse)
    for ours, exact in zip(single, double, strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_autocast_changes_nothing_but_the_dtype_of_what_comes_in() -> None:
    inputs, coeffs, initial = operands((3, 80, 40), dtype=torch.float32)
    layer = torch.nn.Linear(40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = layer(inputs)
        outputs = linear_scan(tokens, coeffs, initial)
        gradient = torch.autograd.grad(outputs.float().square().sum(), coeffs)[0]
    plain = linear_scan(tokens.detach(), coeffs, initial)
    assert tokens.dtype == outputs.dtype == torch.bfloat16
    assert torch.equal(outputs, plain)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.autograd.grad(plain.float().square().sum(), coeffs)[0])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("log_coeffs", [False, True])
def test_compiles_without_a_graph_break(dynamic: bool, log_coeffs: bool) -> None:
    def block(*tensors: Tensor) -> Tensor:
        return linear_scan(*tensors, reverse=True, log_coeffs=log_coeffs).tanh()

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for length in (5, 6):
        tensors = operands((2, length, 3))
        eager, traced = block(*tensors), compiled(*tensors)
        torch.testing.assert_close(traced, eager)
        assert_same(list(torch.autograd.grad(traced.sum(), tensors)), list(torch.autograd.grad(eager.sum(), tensors)))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # from the check itself
def test_operators_are_registered_rightly() -> None:
    inputs, coeffs, initial = operands((2, 5, 3))
    torch.library.opcheck(torch.ops.fprnn.linear_scan.default, (inputs, coeffs, initial, 1, True, "torch"))
    plain = [tensor.detach() for tensor in (inputs, coeffs, inputs, initial)]
    torch.library.opcheck(torch.ops.fprnn.linear_scan_backward.default, (*plain, 1, False, "torch"))


@pytest.mark.parametrize("reverse", [False, True])
def test_overflowing_products_do_not_leak_into_finite_states(reverse: bool) -> None:
    inputs, coeffs = torch.zeros(1, 256, 3), torch.full((1, 256, 3), 100.0)
    inputs[0, 0 if reverse else -1] = 1  # every product of a block overflows, and meets a zero state
    outputs = linear_scan(inputs, coeffs, reverse=reverse, backend="torch")
    assert torch.equal(outputs, inputs)


def test_tiny_coefficients_give_what_the_loop_gives() -> None:
    inputs = torch.randn(2, 256, 40)
    coeffs = torch.logspace(-12, 0, 40).expand(2, 256, 40)
    torch.testing.assert_close(linear_scan(inputs, coeffs), linear_scan(inputs, coeffs, backend="reference"))


def test_not_a_number_spreads_as_in_the_loop() -> None:
    inputs, coeffs, _ = (tensor.detach() for tensor in operands((1, 256, 3)))
    coeffs[0, 100, 1] = torch.nan
    outputs = linear_scan(inputs, coeffs, backend="torch")
    assert torch.equal(outputs.isnan(), linear_scan(inputs, coeffs, backend="reference").isnan())
    assert outputs.isnan().sum() == 156


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.zeros(2, 5, 3, dtype=torch.int64)}, "inputs must be floating point"),
        ({"coeffs": torch.zeros(2, 5, 3, dtype=torch.complex64)}, "coeffs must be floating point"),
        ({"coeffs": torch.zeros(2, 4, 3)}, r"coeffs of shape \(2, 4, 3\) does not broadcast to \(2, 5, 3\)"),
        ({"coeffs": torch.zeros(1, 2, 5, 3)}, "does not broadcast"),
        ({"coeffs": torch.zeros(2, 5, 3, dtype=torch.float64)}, "float64 does not mix"),
        ({"coeffs": torch.zeros(2, 5, 3, device="meta")}, "coeffs is on meta but inputs are on cpu"),
        ({"initial": torch.zeros(2, 5)}, r"initial of shape \(2, 5\) does not broadcast to \(2, 3\)"),
        ({"initial": torch.zeros(2, 3, dtype=torch.float64)}, "initial is torch.float64"),
        ({"dim": 3}, "dim=3 is out of range"),
        ({"dim": -4}, "dim=-4 is out of range"),
        ({"inputs": torch.tensor(1.0), "dim": 0}, "dim=0 is out of range"),
        ({"backend": "cuda"}, "backend='cuda' is unknown: choose one of auto, reference, torch, triton"),
        ({"backend": "triton"}, "backend='triton' needs triton and CUDA tensors"),
    ],
)
def test_mistakes_are_named_in_one_line(changes: dict[str, object], message: str) -> None:
    arguments = {"inputs": torch.zeros(2, 5, 3), "coeffs": torch.zeros(2, 5, 3), **changes}
    with pytest.raises(ValueError, match=message) as error:
        linear_scan(**arguments)
    assert "\n" not in str(error.value)
