"""The diagonal linear recurrence ``h_t = coeffs_t * h_{t-1} + inputs_t``, with a hand-written gradient.

"Fixed-Point RNNs: Interpolating from Diagonal to Dense" (Movahedi et al., NeurIPS 2025), section 3: the sequence mixer
of every layer. The gradient is the same recurrence run the other way (Martin and Cundy, "Parallelizing Linear Recurrent
Neural Nets Over Sequence Length", ICLR 2018). Different from the released kernels: any shape, length and dimension, an
initial state, float32 state under half-precision inputs, and the gradient of log-coefficients uses each token's own
coefficient (theirs uses the next token's).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fprnn.ops.kernels import state_dtype, triton_kernels
from fprnn.ops.linear_scan import reference, torch_backend

Backend = Literal["auto", "reference", "torch", "triton"]


def linear_scan(
    inputs: Tensor,
    coeffs: Tensor,
    initial: Tensor | None = None,
    *,
    dim: int = 1,
    reverse: bool = False,
    backend: Backend = "auto",
    log_coeffs: bool = False,
) -> Tensor:
    """Every state of a diagonal linear recurrence.

    Computes ``h_t = coeffs_t * h_{t-1} + inputs_t`` along ``dim``, elementwise in all other dimensions. The state is
    float32, or float64 where an operand is; so under autocast too. Differentiable to any order with respect to inputs,
    coefficients and initial state; ``torch.func`` transforms are refused. ``torch.compile`` sees one operator.

    The ``torch`` backend may take a product of several coefficients for zero once it falls below the square root of the
    smallest normal number of the state's dtype (1e-19 in float32).

    What is promised of every backend: ``h_t`` differs from exact arithmetic by at most ``2 t eps`` times what the same
    recurrence gives for the absolute values of inputs, coefficients and initial state, beside the rounding of operands
    and result. With coefficients up to 1, as all layers have them, that is a few units of the last digit. With larger
    ones it grows as their products do, and where terms cancel, no digit may be left, in a loop as in blocks: backends
    may then differ by as much as the states themselves.

    Args:
        inputs: ``(..., T, ...)``, floating point, any strides; ``T`` may be 0.
        coeffs: the inputs' shape, or a shape that broadcasts to it, such as one value for each head, or one for all
            tokens. Its dtype may differ from the inputs', but float64 does not mix with others.
        initial: the state before the first token, or with ``reverse`` after the last: the inputs' shape without
            ``dim``, or a shape that broadcasts to it. None is zero.
        dim: the dimension of time.
        reverse: run from the last token to the first: ``h_t = coeffs_t * h_{t+1} + inputs_t``.
        backend: ``reference`` is a loop for reading and testing, ``torch`` is fast on the CPU and runs everywhere,
            ``triton`` needs CUDA; ``auto`` is ``triton`` where it can run, else ``torch``.
        log_coeffs: ``coeffs`` holds logarithms.

    Returns:
        The states in the inputs' shape and dtype, contiguous.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, ``dim`` is out of range, or the backend is unknown or
            cannot run.

    Example:
        >>> linear_scan(torch.ones(1, 4), torch.tensor(0.5)).tolist()
        [[1.0, 1.5, 1.75, 1.875]]
    """
    if not inputs.is_floating_point():
        raise ValueError(f"inputs must be floating point, got {inputs.dtype}: convert them with inputs.float()")
    if not -inputs.ndim <= dim < inputs.ndim:
        raise ValueError(
            f"dim={dim} is out of range: inputs of shape {tuple(inputs.shape)} have {inputs.ndim} dimensions"
        )
    dim = dim % inputs.ndim
    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r} is unknown: choose one of {', '.join(get_args(Backend))}")
    _check_operand("coeffs", coeffs, inputs, inputs.shape)
    if log_coeffs:
        coeffs = coeffs.to(state_dtype(coeffs)).exp()
    coeffs = _expanded(coeffs, inputs.shape)
    if initial is not None:
        state_shape = inputs.shape[:dim] + inputs.shape[dim + 1 :]
        _check_operand("initial", initial, inputs, state_shape)
        initial = _expanded(initial, state_shape)
    if backend == "reference":
        return reference.linear_scan(inputs, coeffs, initial, dim, reverse)
    return _scan(inputs, coeffs, initial, dim, reverse, backend)


def _check_operand(name: str, tensor: Tensor, inputs: Tensor, shape: torch.Size) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}: convert with {name}.float()")
    if (tensor.dtype == torch.float64) != (inputs.dtype == torch.float64):
        raise ValueError(f"{name} is {tensor.dtype} but inputs are {inputs.dtype}: float64 does not mix, convert one")
    if tensor.device != inputs.device:
        raise ValueError(f"{name} is on {tensor.device} but inputs are on {inputs.device}: move one")
    missing = len(shape) - tensor.ndim
    if missing < 0 or any(have not in (1, want) for have, want in zip(tensor.shape, shape[missing:], strict=True)):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not broadcast to {tuple(shape)}")


def _expanded(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor if tensor.shape == shape else tensor.expand(shape)


def _kernels(backend: str, inputs: Tensor) -> Any:
    """The backend's module, whose ``forward`` and ``backward`` ``torch_backend`` documents."""
    return triton_kernels("linear_scan.triton_backend", backend, inputs) or torch_backend


def _forward(inputs: Tensor, coeffs: Tensor, initial: Tensor | None, dim: int, reverse: bool, backend: str) -> Tensor:
    return _kernels(backend, inputs).forward(inputs, coeffs, initial, dim, reverse)


def _backward(
    grad: Tensor, coeffs: Tensor, outputs: Tensor, initial: Tensor | None, dim: int, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return _kernels(backend, grad).backward(grad, coeffs, outputs, initial, dim, reverse)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, coeffs, initial, *ctx.options = inputs
    ctx.save_for_backward(coeffs, initial, output)


def _gradients(ctx: Any, grad: Tensor, fused: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor | None, ...]:
    """``d_inputs_t = grad_t + coeffs_{t+1} d_inputs_{t+1}``, ``d_coeffs_t = h_{t-1} d_inputs_t``."""
    coeffs, initial, outputs = ctx.saved_tensors
    dim, reverse, backend = ctx.options
    if not grad.shape[dim]:
        return grad, torch.zeros_like(coeffs), None if initial is None else torch.zeros_like(initial), None, None, None
    d_coeffs = None
    if ctx.needs_input_grad[1] and not torch.is_grad_enabled():
        d_inputs, d_coeffs = fused(grad, coeffs, outputs, initial, dim, reverse, backend)
    else:  # a gradient of the gradient is asked for, or the coefficients need none: compose the parts
        d_inputs = _input_gradient(grad, coeffs, dim, reverse, backend)
        if ctx.needs_input_grad[1]:
            # the state that each token's coefficient multiplies, in the state's precision
            states = outputs.to(state_dtype(outputs)).narrow(dim, int(reverse), outputs.shape[dim] - 1)
            start = (torch.zeros_like(outputs.select(dim, 0)) if initial is None else initial).to(states.dtype)
            ordered = [states, start.unsqueeze(dim)] if reverse else [start.unsqueeze(dim), states]
            d_coeffs = (d_inputs * torch.cat(ordered, dim)).to(coeffs.dtype)
    d_initial = None
    if initial is not None:
        first = -1 if reverse else 0
        d_initial = (coeffs.select(dim, first) * d_inputs.select(dim, first)).to(initial.dtype)
    return d_inputs, d_coeffs, d_initial, None, None, None


def _input_gradient(grad: Tensor, coeffs: Tensor, dim: int, reverse: bool, backend: str) -> Tensor:
    """The scan the other way, starting with the last token's gradient; itself differentiable."""
    rest = grad.shape[dim] - 1
    last = grad.narrow(dim, 0 if reverse else rest, 1)
    sooner, later = int(reverse), int(not reverse)
    body = grad.narrow(dim, sooner, rest), coeffs.narrow(dim, later, rest), last.squeeze(dim)
    scanned = _scan(*body, dim, not reverse, backend)
    return torch.cat([last, scanned] if reverse else [scanned, last], dim)


# torch.compile takes an operator as one node and never looks into a backend. Outside of it an autograd.Function does
# the same at less cost for each call. Both share _forward, _save, _gradients and _backward.


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grads[0], _backward)


_scan_operator = torch.library.custom_op("fprnn::linear_scan", _forward, mutates_args=())
_gradient_operator = torch.library.custom_op("fprnn::linear_scan_backward", _backward, mutates_args=())
_scan_operator.register_fake(lambda inputs, *_: inputs.new_empty(inputs.shape))
_gradient_operator.register_fake(lambda grad, coeffs, *_: (grad.new_empty(grad.shape), coeffs.new_empty(coeffs.shape)))
_scan_operator.register_autograd(lambda ctx, grad: _gradients(ctx, grad, _gradient_operator), setup_context=_save)


def _scan(inputs: Tensor, coeffs: Tensor, initial: Tensor | None, dim: int, reverse: bool, backend: str) -> Tensor:
    run = _scan_operator if torch.compiler.is_compiling() else _Scan.apply
    return run(inputs, coeffs, initial, dim, reverse, backend)
