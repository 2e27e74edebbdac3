"""DeltaNet: a linear RNN that overwrites what it had stored under a key, by one reflection a token.

"Linear Transformers Are Secretly Fast Weight Programmers" (Schlag et al., ICML 2021), equation 24, with keys of unit
length as in "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (Yang et al., NeurIPS 2024);
negative eigenvalues are "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues" (Grazzi et al., ICLR
2025). It is DeltaProduct with one reflection, in the same two forms, and differs from the public kernels in the same
way: no short convolution.
"""

from fprnn.baselines.delta_product import DeltaProductLayer


class DeltaNetLayer(DeltaProductLayer):
    """DeltaNet from ``(B, T, D)`` to ``(B, T, D)``, in several heads: ``S <- S - beta k (k^T S) + beta k v^T``.

    Args:
        d_model: number of channels D.
        num_heads: heads, each with a state of its own.
        head_dim: width of a head's keys and values; null is D / num_heads.
        negative_eigenvalues: let beta reach 2 instead of 1, so that what a key held may change its sign, as parity
            needs.
        chunk_size: tokens computed at a time; null runs the recurrence token by token.

    Raises:
        ValueError: if an option is below 1, or the heads do not divide D and ``head_dim`` is not given.
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
