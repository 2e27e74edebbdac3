"""Sequence layers that fixed-point RNNs are compared with, all from ``(B, T, D)`` to ``(B, T, D)``.

Each has ``forward(x)`` and, for streaming, ``initial_state(batch)``, ``advance(x, state) -> (y, state)`` for several
tokens and ``step(x_t, state) -> (y_t, state)`` for one.
"""

from fprnn.baselines.delta_product import DeltaProductLayer, delta_product_chunked, delta_product_recurrent
from fprnn.baselines.lstm import LSTMLayer

__all__ = ["DeltaProductLayer", "LSTMLayer", "delta_product_chunked", "delta_product_recurrent"]
