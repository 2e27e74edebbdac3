"""Sequence layers that fixed-point RNNs are compared with, all from ``(B, T, D)`` to ``(B, T, D)``.

Each but ``ForeignLayer`` has ``forward(x)`` and, for streaming, ``initial_state(batch)``, ``advance(x, state) ->
(y, state)`` for several tokens and ``step(x_t, state) -> (y_t, state)`` for one. ``CausalTransformer`` is no layer but
a whole network without a head.
"""

from fprnn.baselines.delta_product import (
    DeltaNetLayer,
    DeltaProductLayer,
    delta_product_chunked,
    delta_product_recurrent,
)
from fprnn.baselines.mamba import MambaLayer, MambaState
from fprnn.baselines.mlstm import MatrixMemory, MLSTMLayer, mlstm_chunked, mlstm_recurrent
from fprnn.baselines.positions import ALiBi, HardALiBi, NoPE, Positions, RoPE
from fprnn.baselines.slstm import ScalarMemory, SLSTMLayer, slstm_recurrent
from fprnn.baselines.streamed import ForeignLayer, LSTMLayer
from fprnn.baselines.transformer import AttentionCache, CausalTransformer, TransformerLayer, causal_attention

__all__ = [
    "ALiBi",
    "AttentionCache",
    "CausalTransformer",
    "DeltaNetLayer",
    "DeltaProductLayer",
    "ForeignLayer",
    "HardALiBi",
    "LSTMLayer",
    "MLSTMLayer",
    "MambaLayer",
    "MambaState",
    "MatrixMemory",
    "NoPE",
    "Positions",
    "RoPE",
    "SLSTMLayer",
    "ScalarMemory",
    "TransformerLayer",
    "causal_attention",
    "delta_product_chunked",
    "delta_product_recurrent",
    "mlstm_chunked",
    "mlstm_recurrent",
    "slstm_recurrent",
]
