"""Sequence layers that fixed-point RNNs are compared with, all from ``(B, T, D)`` to ``(B, T, D)``.

Each has ``forward(x)``, ``step(x_t, state) -> (y_t, state)`` for streaming, and ``initial_state(batch)``.
"""

from fprnn.baselines.delta_product import DeltaProductLayer, delta_product_chunked, delta_product_recurrent
from fprnn.baselines.lstm import LSTMLayer

__all__ = ["DeltaProductLayer", "LSTMLayer", "delta_product_chunked", "delta_product_recurrent"]
