"""DeltaProduct: a linear RNN whose transition is a product of Householder-like reflections, several a token.

Siems et al., "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products" (NeurIPS 2025); one
reflection a token is DeltaNet (Schlag et al., ICML 2021; chunks after Yang et al., NeurIPS 2024), and reflections with
negative eigenvalues are those of Grazzi et al. (ICLR 2025). What differs from the public kernels: plain torch, no short
convolution and no forget gate, which is the setting that "Fixed-Point RNNs" compares with on word problems.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinopl.core.precision import at_least_float32
from fprnn.baselines.streamed import StreamedLayer, head_width
from fprnn.solvers.newton import normalized


def delta_product_recurrent(
    queries: Tensor, keys: Tensor, values: Tensor, betas: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written, one reflection after the other: the reference, and the way to stream.

    Reflection j of token t does ``S <- S - beta k (k^T S) + beta k v^T``; then token t reads ``o_t = S^T q_t``.

    Args:
        queries: ``(B, T, H, K)``.
        keys: ``(B, T, n, H, K)``, of unit length for the reflections to be bounded by 1.
        values: ``(B, T, n, H, V)``.
        betas: ``(B, T, n, H)``; the reflection's eigenvalue along the key is ``1 - beta``.
        initial: state before the first token ``(B, H, K, V)``; by default 0.

    Returns:
        Outputs ``(B, T, H, V)`` and the state after the last token ``(B, H, K, V)``.
    """
    state = _start(keys, values, initial)
    outputs = []
    for t in range(queries.shape[1]):
        for j in range(keys.shape[2]):
            key, value, beta = keys[:, t, j], values[:, t, j], betas[:, t, j, :, None]
            recalled = torch.einsum("bhk,bhkv->bhv", key, state)
            state = state + torch.einsum("bhk,bhv->bhkv", key, beta * (value - recalled))
        outputs.append(torch.einsum("bhk,bhkv->bhv", queries[:, t], state))
    empty = values.new_empty(values.shape[0], 0, *values.shape[3:])
    return (torch.stack(outputs, dim=1) if outputs else empty), state


def delta_product_chunked(
    queries: Tensor, keys: Tensor, values: Tensor, betas: Tensor, initial: Tensor | None = None, chunk_size: int = 16
) -> tuple[Tensor, Tensor]:
    """The same as ``delta_product_recurrent``, a chunk of tokens at a time.

    Within a chunk of m reflections with keys ``K (m, k)`` that starts at state S, the recurrence writes the rows of
    ``U = (I + strictly_lower(diag(beta) K K^T))^-1 diag(beta) (V - K S)`` along the keys: ``S <- S + K^T U``, and token
    t reads ``q_t^T S`` and the rows of U up to its own last reflection. The inverse does not depend on S, so all chunks
    share one triangular solve.

    ``chunk_size`` is in tokens; the result does not depend on it but for rounding.
    """
    state, (length, reflections) = _start(keys, values, initial), keys.shape[1:3]
    if length == 0:
        return values.new_empty(values.shape[0], 0, *values.shape[3:]), state
    chunk_size = min(chunk_size, length)
    q = _chunks(queries, chunk_size)
    k, v, beta = (_chunks(x.flatten(1, 2), chunk_size * reflections) for x in (keys, values, betas[..., None]))
    scaled = beta * k
    # The solve takes the diagonal to be 1 and does not look above it.
    solved = torch.linalg.solve_triangular(
        scaled @ k.mT, torch.cat([beta * v, scaled], dim=-1), upper=False, unitriangular=True
    )
    free, bound = solved.split([v.shape[-1], k.shape[-1]], dim=-1)  # U = free - bound S
    # A token reads its own reflections and all before.
    seen = torch.ones(chunk_size, chunk_size, dtype=q.dtype, device=q.device).tril()
    reads = (q @ k.mT) * seen.repeat_interleave(reflections, dim=1)
    outputs = []
    for chunk in range(q.shape[0]):
        writes = free[chunk] - bound[chunk] @ state
        outputs.append(q[chunk] @ state + reads[chunk] @ writes)
        state = state + k[chunk].mT @ writes
    return torch.cat(outputs, dim=2).transpose(1, 2)[:, :length], state


def _start(keys: Tensor, values: Tensor, initial: Tensor | None) -> Tensor:
    """The state before the first token, ``(B, H, K, V)``."""
    batch, _, _, heads, width = keys.shape
    return values.new_zeros(batch, heads, width, values.shape[-1]) if initial is None else initial


def _chunks(x: Tensor, size: int) -> Tensor:
    """Cuts ``(B, T, H, F)`` into ``(chunks, B, H, size, F)``; missing tokens are 0, which write and read nothing."""
    padded = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    batch, length, *features = padded.shape
    return padded.reshape(batch, length // size, size, *features).permute(1, 0, 3, 2, 4)


class DeltaProductLayer(StreamedLayer[Tensor]):
    """DeltaProduct from ``(B, T, D)`` to ``(B, T, D)``, in several heads.

    Queries, keys and values are ``silu`` of linear maps, queries and keys of unit length; a head's output is normalised
    (RMS) before heads are mixed. The state is kept in float32 or better.

    Args:
        d_model: number of channels D.
        num_heads: heads, each with a state of its own.
        head_dim: width of a head's keys and values; by default D / num_heads.
        num_householder: reflections a token. 1 is DeltaNet; n reach products of n reflections, such as rotations at 2.
        negative_eigenvalues: let beta reach 2, so that a reflection's eigenvalue ``1 - beta`` reaches -1; without it
            there is neither parity nor rotation.
        chunk_size: tokens computed at a time; None runs the recurrence token by token.

    Raises:
        ValueError: if an option is below 1, or the heads do not divide D and ``head_dim`` is not given.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        head_dim: int | None = None,
        num_householder: int = 2,
        negative_eigenvalues: bool = True,
        chunk_size: int | None = 16,
    ) -> None:
        super().__init__()
        width = head_width(d_model, num_heads, head_dim, num_householder=num_householder, chunk_size=chunk_size)
        self.num_heads, self.num_householder, self.head_dim = num_heads, num_householder, width
        self.beta_scale = 2.0 if negative_eigenvalues else 1.0
        self.chunk_size = chunk_size
        self.query_proj = nn.Linear(d_model, num_heads * width, bias=False)
        self.key_proj = nn.Linear(d_model, num_householder * num_heads * width, bias=False)
        self.value_proj = nn.Linear(d_model, num_householder * num_heads * width, bias=False)
        self.beta_proj = nn.Linear(d_model, num_householder * num_heads, bias=False)
        self.head_norm = nn.RMSNorm(width, eps=1e-5)
        self.out_proj = nn.Linear(num_heads * width, d_model, bias=False)

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""
        return self._run(x, state, self.chunk_size)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Runs over one token, ``(B, D)``, by the recurrence: its output ``(B, D)`` and the next state."""
        y, state = self._run(x_t[:, None], state, None)
        return y[:, 0], state

    def initial_state(self, batch: int) -> Tensor:
        """The zero state of ``batch`` sequences, ``(B, heads, head_dim, head_dim)``."""
        return at_least_float32(self.key_proj.weight).new_zeros(batch, self.num_heads, self.head_dim, self.head_dim)

    def _run(self, x: Tensor, state: Tensor, chunk_size: int | None) -> tuple[Tensor, Tensor]:
        parts = (F.silu(self.query_proj(x)), F.silu(self.key_proj(x)), F.silu(self.value_proj(x)), self.beta_proj(x))
        with torch.autocast(x.device.type, enabled=False):
            q, k, v, b = self.per_head(*(part.to(state.dtype) for part in parts))
            if chunk_size is None:
                y, state = delta_product_recurrent(q, k, v, b, state)
            else:
                y, state = delta_product_chunked(q, k, v, b, state, chunk_size)
            y = normalized(self.head_norm, y).flatten(-2).to(parts[0].dtype)
        return self.out_proj(y), state

    def per_head(self, query: Tensor, key: Tensor, value: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        """Arguments of the recurrence from projections ``(B, T, .)``: unit queries and keys, values, and beta."""
        sizes = (*query.shape[:2], self.num_householder, self.num_heads, self.head_dim)
        q, k = query.reshape(*sizes[:2], *sizes[3:]), key.reshape(sizes)
        b = self.beta_scale * beta.sigmoid().reshape(sizes[:-1])
        return F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6), value.reshape(sizes), b


class DeltaNetLayer(DeltaProductLayer):
    """DeltaNet from ``(B, T, D)`` to ``(B, T, D)``, in several heads: ``S <- S - beta k (k^T S) + beta k v^T``.

    DeltaProduct with one reflection. "Linear Transformers Are Secretly Fast Weight Programmers" (Schlag et al., ICML
    2021), equation 24, with keys of unit length as in "Parallelizing Linear Transformers with the Delta Rule over
    Sequence Length" (Yang et al., NeurIPS 2024); negative eigenvalues are "Unlocking State-Tracking in Linear RNNs
    Through Negative Eigenvalues" (Grazzi et al., ICLR 2025). Different from the public kernels: no short convolution.

    Args:
        negative_eigenvalues: let beta reach 2 instead of 1, so that what a key held may change its sign, as parity
            needs.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        head_dim: int | None = None,
        negative_eigenvalues: bool = False,
        chunk_size: int | None = 16,
    ) -> None:
        super().__init__(d_model, num_heads, head_dim, 1, negative_eigenvalues, chunk_size)
