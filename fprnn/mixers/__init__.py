"""Channel mixers: the structured matrices ``Q_t`` that a fixed-point layer applies once per iteration.

A file each: ``householder``, ``low_rank``, ``kronecker``, ``monarch``, ``dense``, and ``composed`` of others; the
identity is in ``base``, with what all share.
"""

from fprnn.mixers.base import Gain, IdentityMixer, Mixer, MixerContext
from fprnn.mixers.composed import AlternatingMixer, ConstantMixer, orthogonal
from fprnn.mixers.dense import DenseMixer, dense
from fprnn.mixers.householder import HouseholderMixer, ReflectionMixer, householder_product
from fprnn.mixers.kronecker import KroneckerMixer, kronecker
from fprnn.mixers.low_rank import LowRankMixer, diagonal_low_rank
from fprnn.mixers.monarch import MonarchMixer, monarch
from fprnn.mixers.scaling import (
    ColumnScaling,
    FrobeniusScaling,
    MatrixScaling,
    RowPowerScaling,
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
    "KroneckerMixer",
    "LowRankMixer",
    "MatrixScaling",
    "Mixer",
    "MixerContext",
    "MonarchMixer",
    "ReflectionMixer",
    "RowPowerScaling",
    "RowScaling",
    "SpectralScaling",
    "dense",
    "diagonal_low_rank",
    "householder_product",
    "kronecker",
    "monarch",
    "orthogonal",
]
