"""Channel mixers: the structured matrices ``Q_t`` that a fixed-point layer applies once per iteration."""

from fprnn.mixers.base import Gain, Mixer, MixerContext
from fprnn.mixers.composed import AlternatingMixer, ConstantMixer, IdentityMixer, orthogonal
from fprnn.mixers.householder import (
    HouseholderMixer,
    LowRankMixer,
    ReflectionMixer,
    Reflections,
    diagonal_low_rank,
    householder_product,
)
from fprnn.mixers.kronecker import (
    DenseMixer,
    KroneckerFactors,
    KroneckerMixer,
    MonarchMixer,
    dense,
    kronecker,
    monarch,
)
from fprnn.mixers.scaling import (
    ColumnScaling,
    FrobeniusScaling,
    MatrixScaling,
    RowScaling,
    SpectralScaling,
)

__all__ = [
    "AlternatingMixer",
    "ColumnScaling",
    "ConstantMixer",
    "DenseMixer",
    "FrobeniusScaling",
    "Gain",
    "HouseholderMixer",
    "IdentityMixer",
    "KroneckerFactors",
    "KroneckerMixer",
    "LowRankMixer",
    "MatrixScaling",
    "Mixer",
    "MixerContext",
    "MonarchMixer",
    "ReflectionMixer",
    "Reflections",
    "RowScaling",
    "SpectralScaling",
    "dense",
    "diagonal_low_rank",
    "householder_product",
    "kronecker",
    "monarch",
    "orthogonal",
]
