"""A diagonal recurrence with a matrix state, with expansion, recurrence and contraction in one operator.

"Mamba" (Gu and Dao, 2023), section 3, and for one rate for each head "Transformers are SSMs" (Dao and Gu, ICML 2024);
the sequence mixer of FP-Mamba in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 4.2. Its states, N for
each channel, never exist for all tokens at once, neither forward nor backward. Different from the released kernels: any
length, an initial state, any device, and no skip connection or output gate, which are elementwise and stay outside.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fprnn.ops.kernels import refuse_second_derivative, state_dtype, triton_kernels
from fprnn.ops.selective_scan import channels as selective_channels
from fprnn.ops.selective_scan import heads as selective_heads
from fprnn.ops.selective_scan import reference as selective_reference

SelectiveBackend = Literal["auto", "reference", "torch", "triton"]


def selective_scan(
    inputs: Tensor,
    delta: Tensor,
    rates: Tensor,
    b: Tensor,
    c: Tensor,
    initial: Tensor | None = None,
    *,
    backend: SelectiveBackend = "auto",
) -> tuple[Tensor, Tensor]:
    """Mamba's recurrence: each channel has a state of N numbers.

    With ``H_t`` of shape ``(d, N)`` for each sequence, computes

    .. code-block:: text

        H_t = exp(delta_t rates) * H_{t-1} + (delta_t inputs_t) b_t^T
        outputs_t = H_t c_t

    The state is float32, or float64 where an operand is; so under autocast too. A second derivative is refused.
    ``torch.compile`` sees one operator. With rates for heads, the ``torch`` backend takes a product of decays for zero
    once it falls below the square root of the smallest normal number of the state's dtype (1e-19 in float32), and a
    value that is not finite may also spoil the 63 tokens before it.

    Args:
        inputs: ``(B, T, d)``, floating point, any strides; T may be 0.
        delta: step sizes, ``(B, T, d)``, or ``(B, T, heads)`` with rates for heads.
        rates: ``(d, N)``, one for each channel and state, negative for decay (Mamba); or ``(heads,)``, one for all of a
            head's ``d / heads`` neighbouring channels (Mamba-2).
        b: what each token writes, ``(B, T, N)``, or ``(B, T, G, N)`` for G groups of heads.
        c: what each token reads, in b's shape.
        initial: the state before the first token, ``(B, d, N)``; None is zero.
        backend: ``reference`` is a loop for reading and testing, ``torch`` is fast on the CPU and runs everywhere,
            ``triton`` needs CUDA and a rate for each channel; ``auto`` is ``triton`` where it can run, else ``torch``.

    Returns:
        The outputs ``(B, T, d)`` in the inputs' dtype, contiguous, and the last state ``(B, d, N)`` in the state's.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or the backend is unknown or cannot run.

    Example:
        >>> halve = torch.tensor([[0.5]]).log()
        >>> ones = torch.ones(1, 4, 1)
        >>> selective_scan(ones, ones, halve, ones, ones)[0].flatten().tolist()
        [1.0, 1.5, 1.75, 1.875]
    """
    if backend not in get_args(SelectiveBackend):
        raise ValueError(f"backend={backend!r} is unknown: choose one of {', '.join(get_args(SelectiveBackend))}")
    _check(inputs, delta=delta, rates=rates, b=b, c=c, initial=initial)
    b, c = (x.unsqueeze(2) if x.ndim == 3 else x for x in (b, c))
    dtype = state_dtype(inputs)
    if initial is None:
        initial = inputs.new_zeros(inputs.shape[0], inputs.shape[2], b.shape[3], dtype=dtype)
    operands = (inputs, delta, rates, b, c, initial.to(dtype))
    if backend == "reference":
        return selective_reference.selective_scan(*operands)
    record = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    run = _scan_operator if torch.compiler.is_compiling() else _SelectiveScan.apply
    outputs, final, _ = run(*operands, backend, record)
    return outputs, final


def _check(inputs: Tensor, **operands: Tensor | None) -> None:
    if inputs.ndim != 3:
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} must be (batch, time, channels)")
    present = {name: tensor for name, tensor in operands.items() if tensor is not None}
    for name, tensor in {"inputs": inputs, **present}.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}: convert with {name}.float()")
        if (tensor.dtype == torch.float64) != (inputs.dtype == torch.float64):
            raise ValueError(
                f"{name} is {tensor.dtype} but inputs are {inputs.dtype}: float64 does not mix, convert one"
            )
        if tensor.device != inputs.device:
            raise ValueError(f"{name} is on {tensor.device} but inputs are on {inputs.device}: move one")
    (batch, length, channels), rates, b = inputs.shape, present["rates"], present["b"]
    if rates.ndim not in (1, 2) or not len(rates) or channels % len(rates):
        raise ValueError(
            f"rates of shape {tuple(rates.shape)} must be (channels, N) or (heads,) for {channels} channels"
        )
    if b.ndim not in (3, 4):
        raise ValueError(f"b of shape {tuple(b.shape)} must be (batch, time, N) or (batch, time, groups, N)")
    groups = b.shape[2] if b.ndim == 4 else 1
    if groups != 1 and (rates.ndim == 2 or not groups or len(rates) % groups):
        raise ValueError(
            f"b of shape {tuple(b.shape)} has {groups} groups: they must divide the heads, or be 1 without"
        )
    states = b.shape[-1]
    expected = {
        "rates": (channels, states) if rates.ndim == 2 else rates.shape,
        "delta": (batch, length, len(rates)),
        "b": (batch, length, *b.shape[2:]),
        "c": b.shape,
        "initial": (batch, channels, states),
    }
    for name, tensor in present.items():
        if tuple(tensor.shape) != tuple(expected[name]):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not fit inputs: want {tuple(expected[name])}")


def _kernels(backend: str, inputs: Tensor, rates: Tensor) -> Any:
    """The backend's module: ``forward``, ``backward`` and ``CHUNK``, which ``selective_channels`` documents."""
    if rates.ndim == 2:
        return triton_kernels("selective_scan.triton_backend", backend, inputs) or selective_channels
    if backend == "triton":
        raise ValueError("backend='triton' has no kernel for rates of heads, which are matrix products: use 'auto'")
    return selective_heads


def _forward(
    inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, initial: Tensor, backend: str, record: bool
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(inputs.device.type, enabled=False):
        return _kernels(backend, inputs, rates).forward(inputs, delta, rates, b, c, initial, record)


def _backward(
    grad: Tensor,
    grad_final: Tensor,
    inputs: Tensor,
    delta: Tensor,
    rates: Tensor,
    b: Tensor,
    c: Tensor,
    saved: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = _kernels(backend, inputs, rates)
    with torch.autocast(inputs.device.type, enabled=False):
        return kernels.backward(grad, grad_final, inputs, delta, rates, b, c, saved)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *operands, initial, ctx.backend, _ = inputs
    ctx.save_for_backward(*operands, output[2])
    ctx.state_shape = initial.shape


def _gradients(ctx: Any, grad: Tensor | None, grad_final: Tensor | None, backward: Any) -> tuple[Tensor | None, ...]:
    inputs, *_, saved = ctx.saved_tensors
    grad = torch.zeros_like(inputs) if grad is None else grad
    grad_final = saved.new_zeros(ctx.state_shape) if grad_final is None else grad_final
    return (*backward(grad, grad_final, *ctx.saved_tensors, ctx.backend), None, None)


# torch.compile takes an operator as one node and never looks into a backend. Outside of it an autograd.Function does
# the same at less cost for each call. Both share _forward, _save, _gradients and _backward.


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        ctx.mark_non_differentiable(output[2])
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("selective_scan")
        return _gradients(ctx, grads[0], grads[1], _backward)


_scan_operator = torch.library.custom_op("fprnn::selective_scan", _forward, mutates_args=())
_gradient_operator = torch.library.custom_op("fprnn::selective_scan_backward", _backward, mutates_args=())
_gradient_operator.register_fake(
    lambda grad, grad_final, *operands: tuple(x.new_empty(x.shape) for x in (*operands[:5], grad_final))
)
_scan_operator.register_autograd(
    lambda ctx, grad, grad_final, _: _gradients(ctx, grad, grad_final, _gradient_operator), setup_context=_save
)


@_scan_operator.register_fake
def _(
    inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, initial: Tensor, backend: str, record: bool
) -> tuple[Tensor, Tensor, Tensor]:
    size = _kernels(backend, inputs, rates).CHUNK
    chunks = (inputs.shape[1] + size - 1) // size if record else 0
    saved = initial.new_empty(initial.shape[0], chunks, *initial.shape[1:])
    return inputs.new_empty(inputs.shape), initial.new_empty(initial.shape), saved
