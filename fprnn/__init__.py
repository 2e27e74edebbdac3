"""Fixed-Point RNNs: a dense linear RNN computed as the fixed point of a parallelisable diagonal one (NeurIPS 2025).

"Fixed-Point RNNs: Interpolating from Diagonal to Dense", Movahedi, Sarnthein, Muca Cirone, Orvieto, arXiv 2503.10799.

.. code-block:: text

    symbol         meaning                                            name in the code
    B, T, d        sequences, tokens, channels of the layer           batch, length, d_inner
    D              channels of the residual stream                    d_model
    u, x_t         the layer's input, and its projection              u, x
    h_t            hidden state; of FP-Mamba the output y_t           hidden (after the norm), state (before it)
    lambda_t       decay of the diagonal RNN                          decay
    1 - lambda_t   input gate of the diagonal RNN                     gate
    b_t x_t        what is mixed in                                   drive; of FP-Mamba x
    Q_t            channel mixer                                      Mixer, and its parameters q
    beta           scale of I - Q_t: 1 in the paper, 2 in its code    beta
    alpha_i, u_i   strength and direction of a reflection             strengths (times beta / |a|^2), directions a
    r              reflections                                        rank
    H_t            matrix state of FP-Mamba, d x N                    RecurrentState.state, d_state
    Delta_t, A     step sizes and rates of FP-Mamba                   delta, rates
    B_t, C_t       write and read vectors of FP-Mamba                 b, c
    l, l_max, l*   iterations: a number, the cap, what is needed      iteration, max_iterations, statistics.iterations
    J              derivative of the map in the state                 Gain (of one token), step in the gradients

    equation                                            file:function
    linear recurrence of the diagonal RNN, sec. 3       fprnn/ops/linear_scan/reference.py:linear_scan
    fixed-point map, eq. 5                              fprnn/layers/equation.py:FPRNNEquation.state (with gate = 1)
    channel mixing, then sequence mixing, eq. 6         fprnn/layers/equation.py:FPRNNEquation.state
    one iteration of FP-RNN, eq. 8                      fprnn/layers/equation.py:FPRNNEquation.state
    the same with a norm in the loop                    fprnn/layers/equation.py:FPRNNEquation.step
    Householder product, sec. 3.3                       fprnn/mixers/householder.py:householder_product
    diagonal plus low rank, sec. 3.3                    fprnn/mixers/low_rank.py:diagonal_low_rank
    Kronecker product, sec. 3.3                         fprnn/mixers/kronecker.py:kronecker
    scaled mixers, app. C.3                             fprnn/mixers/scaling.py:SpectralScaling
    fixed-point iteration, readable, sec. 3.4           fprnn/solvers/reference.py:picard
    fixed-point iteration, fast, sec. 3.4               fprnn/solvers/picard.py:PicardSolver
    stopping rule, sec. 3.4 and app. D.3                fprnn/solvers/base.py:relative_change
    random caps on the iterations, sec. 4.5             fprnn/iteration_caps.py:GammaIterations
    one-step gradient, sec. 3.5                         fprnn/solvers/gradients.py:OneStepGradient
    truncated gradient, app. B.3                        fprnn/solvers/gradients.py:TruncatedGradient
    implicit gradient, v = g + J^T v                    fprnn/solvers/gradients.py:ImplicitGradient
    dense limit, app. B.2                               fprnn/layers/dense.py:dense_transition
    selective scan of Mamba, sec. 4.2                   fprnn/ops/selective_scan/reference.py:selective_scan
    sequence mixing of FP-Mamba, eq. 13                 fprnn/layers/matrix_state.py:MambaEquation.advance
    one iteration of FP-Mamba, eq. 14                   fprnn/layers/matrix_state.py:MambaEquation.step
    projections of FP-Mamba-2, app. E.2                 fprnn/layers/fpmamba2.py:FPMamba2.project
    sequence accuracy, app. D                           fprnn/metrics.py:sequence_hits
    exact solve of one token, not in the paper          fprnn/solvers/newton.py:solve_token
    exact solve in closed form, not in the paper        fprnn/solvers/reflections.py:solve_reflections

An argument that a class does not explain is explained in its base class. The names below are imported when they are
first used, so that ``import fprnn`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from dinopl.core.lazy import lazy_names

if TYPE_CHECKING:
    from fprnn.model import SequenceModel
    from fprnn.module import SequenceModeling
    from fprnn.tasks import SequenceDataModule

__all__ = ["SequenceDataModule", "SequenceModel", "SequenceModeling"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"fprnn.model": ["SequenceModel"], "fprnn.module": ["SequenceModeling"], "fprnn.tasks": ["SequenceDataModule"]},
)
