"""Channel mixers: each apply against its matrix, what is proven of ``I - Q``, one token's solve, sizes, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fprnn.mixers import (
    AlternatingMixer,
    ColumnScaling,
    ConstantMixer,
    DenseMixer,
    FrobeniusScaling,
    Gain,
    HouseholderMixer,
    IdentityMixer,
    KroneckerMixer,
    LowRankMixer,
    Mixer,
    MonarchMixer,
    RowPowerScaling,
    RowScaling,
    SpectralScaling,
    diagonal_low_rank,
    householder_product,
    kronecker,
    monarch,
    orthogonal,
)

D = 12
MIXERS = {
    "householder-1": lambda d: HouseholderMixer(d),
    "householder-3": lambda d: HouseholderMixer(d, 3, beta=2.0),
    "symmetric": lambda d: HouseholderMixer(d, 2, dependence="symmetric"),
    "input": lambda d: HouseholderMixer(d, 2, dependence="input"),
    "factored": lambda d: HouseholderMixer(d, 2, projection_rank=3),
    "full-strengths": lambda d: HouseholderMixer(d, 2, projection_rank=3, full_strengths=True),
    "low-rank": lambda d: LowRankMixer(d, 3),
    "kronecker": KroneckerMixer,
    "kronecker-rows": lambda d: KroneckerMixer(d, beta=2.0, scaling=RowScaling()),
    "monarch": lambda d: MonarchMixer(d, 3, scaling=ColumnScaling()),
    "monarch-strengths": lambda d: MonarchMixer(d, 3, strength_per_block=True),
    "kronecker-power": lambda d: KroneckerMixer(d, scaling=RowPowerScaling()),
    "dense": DenseMixer,
    "alternating": lambda d: AlternatingMixer(d, 3),
    "constant": lambda d: ConstantMixer(d, beta=0.5),
    "identity": IdentityMixer,
}


def draw(name: str, spread: float = 1.0, lead: tuple[int, ...] = (3, 5), seed: int = 0) -> tuple[Mixer, object]:
    """A mixer in float64 and its parameters for a random input and state."""
    torch.manual_seed(seed)
    mixer = MIXERS[name](D).double()
    x, state = spread * torch.randn(2, *lead, D, dtype=torch.float64)
    return mixer, mixer.condition(mixer.prepare(x), state)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def distance(mixer: Mixer, parameters: object) -> Tensor:
    """``|I - Q|_2``."""
    return torch.linalg.matrix_norm(torch.eye(D, dtype=torch.float64) - mixer.dense(parameters), 2)


@pytest.mark.parametrize("name", MIXERS)
def test_mix_is_the_product_with_the_matrix(name: str) -> None:
    mixer, parameters = draw(name, spread=3.0)
    delta = torch.randn(3, 5, D, dtype=torch.float64)
    torch.testing.assert_close(mixer.mix(parameters, delta), times(mixer.dense(parameters), delta))


@pytest.mark.parametrize("name", MIXERS)
def test_transposed_parameters_give_the_transposed_matrix(name: str) -> None:
    mixer, parameters = draw(name)
    torch.testing.assert_close(mixer.dense(mixer.transpose(parameters)), mixer.dense(parameters).mT)


@pytest.mark.parametrize("normed", [False, True], ids=["gate", "norm"])
@pytest.mark.parametrize("name", MIXERS)
def test_resolve_solves_one_tokens_system(name: str, normed: bool) -> None:
    mixer, parameters = draw(name)
    gate, normalized, scale = torch.rand(3, 3, 5, D, dtype=torch.float64)
    gain = Gain(gate, normalized, scale) if normed else Gain(gate)
    for g in (gain, gain.transpose()):
        excess = torch.randn(3, 5, D, dtype=torch.float64)
        delta = mixer.resolve(parameters, g, excess)
        torch.testing.assert_close(delta, excess + g(delta - mixer.mix(parameters, delta)))


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_gain_is_the_derivative_of_the_norm_times_the_gate(kind: type[nn.LayerNorm | nn.RMSNorm]) -> None:
    from fprnn.solvers.newton import norm_gain

    norm = kind(D, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    gate, state, vector = torch.randn(3, D, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(norm, state) * gate
    gain = norm_gain(norm, gate, state)
    torch.testing.assert_close(gain(vector), jacobian @ vector)
    torch.testing.assert_close(gain.transpose()(vector), jacobian.mT @ vector)


def test_richardson_falls_back_on_a_factorised_matrix_where_it_diverges() -> None:
    mixer = KroneckerMixer(4, beta=40.0).double()
    x, state, gate, excess = torch.rand(4, 1, 4, dtype=torch.float64)
    parameters = mixer.condition(mixer.prepare(x), state)
    delta = mixer.resolve(parameters, Gain(gate), excess)
    torch.testing.assert_close(delta, excess + gate * (delta - mixer.mix(parameters, delta)))


def test_a_singular_system_gives_values_that_are_not_finite() -> None:
    mixer = HouseholderMixer(2, 2).double()
    eye = torch.eye(2, dtype=torch.float64)
    parameters = (eye.unsqueeze(0), torch.ones(1, 2, dtype=torch.float64))  # Q = 0
    ones = torch.ones(1, 2, dtype=torch.float64)
    delta = mixer.resolve(parameters, Gain(ones), ones)
    assert not delta.isfinite().any()


def test_householder_factors_act_in_turn_the_first_one_first() -> None:
    u = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    delta = torch.tensor([1.0, 2.0])
    by_hand = delta.clone()
    for direction, strength in zip(u, (0.5, 0.25), strict=True):
        by_hand = by_hand - strength * direction * (direction @ by_hand)
    parameters = (u, torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(householder_product(*parameters, delta), by_hand)
    together = delta - 0.5 * u[0] * (u[0] @ delta) - 0.25 * u[1] * (u[1] @ delta)
    torch.testing.assert_close(diagonal_low_rank(*parameters, delta), together)


def test_directions_are_normalised_and_strengths_are_beta_alpha() -> None:
    mixer, parameters = draw("householder-3")
    squares = parameters[0].square().sum(-1)
    raw = mixer.prepare(torch.zeros(1, D, dtype=torch.float64)).projected
    assert raw.abs().max() == 0  # the bias starts at 0, so alpha starts around 1/2
    alpha = parameters[1] * squares / mixer.beta
    assert ((alpha > 0) & (alpha < 1)).all()
    zero = mixer.activate(torch.zeros(1, mixer.projection.outputs, dtype=torch.float64))
    assert zero[1].isfinite().all()
    assert zero[0].abs().max() == 0


def test_kronecker_is_the_row_major_product_of_the_specification() -> None:
    left, right, delta = torch.randn(3, 3), torch.randn(4, 4), torch.randn(12)
    expected = delta - (left.T @ delta.reshape(3, 4) @ right.T).reshape(-1)
    torch.testing.assert_close(kronecker(left, right, delta), expected)
    torch.testing.assert_close(delta - torch.kron(left.T.contiguous(), right) @ delta, expected)


def test_monarch_is_block_diagonal() -> None:
    blocks, delta = torch.randn(3, 2, 2), torch.randn(6)
    torch.testing.assert_close(monarch(blocks, delta), delta - torch.block_diag(*blocks) @ delta)


def test_a_constant_mixer_is_a_rotation_for_every_token() -> None:
    mixer = ConstantMixer(6).double()
    matrix = mixer.condition(mixer.prepare(torch.randn(2, 6, dtype=torch.float64)), torch.zeros(2, 6))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(matrix, orthogonal(mixer.generator))
    angle = torch.linalg.eigvals(matrix).angle().abs().max()
    torch.testing.assert_close(torch.linalg.matrix_norm(torch.eye(6) - matrix, 2), 2 * torch.sin(angle / 2))
    assert angle < torch.pi / 3


@given(st.integers(0, 1000), st.floats(0.1, 20))
@settings(max_examples=15, deadline=None)
def test_proven_norms_hold(seed: int, spread: float) -> None:
    mixer, p = draw("householder-1", spread, seed=seed)
    alpha = p[1] * p[0].square().sum(-1)
    torch.testing.assert_close(distance(mixer, p), alpha.squeeze(-1))  # one reflection: exactly beta alpha
    mixer, p = draw("householder-3", spread, seed=seed)
    alpha = p[1] * p[0].square().sum(-1)  # with beta = 2
    assert (distance(mixer, p) <= (1 + alpha).prod(-1) - 1 + 1e-12).all()
    assert (torch.linalg.matrix_norm(mixer.dense(p), 2) <= 1 + 1e-12).all()
    mixer, p = draw("low-rank", spread, seed=seed)
    alpha = p[1] * p[0].square().sum(-1)
    assert (distance(mixer, p) <= alpha.sum(-1) + 1e-12).all()
    for name, bound in (("kronecker-rows", 2 * D**0.5), ("monarch", 3**0.5), ("dense", 1.0 + 1e-6)):
        assert (distance(*draw(name, spread, seed=seed)) <= bound + 1e-12).all()


@given(st.integers(0, 1000), st.floats(0.1, 20), st.sampled_from([1.0, 2.0]))
@settings(max_examples=15, deadline=None)
def test_scaled_mixers_stay_within_beta(seed: int, spread: float, beta: float) -> None:
    torch.manual_seed(seed)
    x, state = spread * torch.randn(2, 6, D, dtype=torch.float64)
    proven = (
        KroneckerMixer(D, beta, FrobeniusScaling()),
        MonarchMixer(D, 4, beta, FrobeniusScaling()),
        DenseMixer(D, beta, FrobeniusScaling()),
    )
    # Its two factors' norms are at most m1^(1/2p) and m2^(1/2p), with m1 m2 = D.
    estimated = KroneckerMixer(D, beta, SpectralScaling(3))
    for mixer, error in [(m, 1.0) for m in proven] + [(estimated, D ** (1 / 16))]:
        mixer = mixer.double()
        assert (distance(mixer, mixer.condition(mixer.prepare(x), state)) <= beta * error + 1e-12).all(), type(mixer)


def test_the_product_of_reflections_exceeds_one_at_beta_one() -> None:
    """Section 3.3's caveat: for r >= 2 the paper's contraction condition is not guaranteed."""
    u = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    mixer = HouseholderMixer(2, 2).double()
    q = mixer.dense((u, torch.tensor([0.95, 0.95], dtype=torch.float64)))
    assert torch.linalg.matrix_norm(torch.eye(2) - q, 2) > 1


@pytest.mark.parametrize(("scaling", "exact"), [(SpectralScaling(10), 1e-3), (FrobeniusScaling(), None)])
def test_scalings_bound_the_spectral_norm(scaling: object, exact: float | None) -> None:
    factor = torch.randn(7, 5, 5, dtype=torch.float64)
    norms = torch.linalg.matrix_norm(scaling(factor @ factor.mT), 2)
    assert (norms <= 1 + (exact or 0) + 1e-12).all()
    if exact:
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=exact, rtol=0)
    assert scaling(torch.zeros(1, 5, 5)).isfinite().all()


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_error_of_the_spectral_scaling_is_bounded(seed: int, size: int, squarings: int) -> None:
    torch.manual_seed(seed)
    factor = torch.randn(20, size, size, dtype=torch.float64).triu() ** 3
    norms = torch.linalg.matrix_norm(SpectralScaling(squarings)(factor @ factor.mT), 2)
    assert (norms >= 1 - 1e-9).all()
    assert (norms <= size ** (0.5 / 2**squarings) + 1e-9).all()


def test_the_spectral_scaling_finds_what_the_largest_diagonal_entry_hides() -> None:
    """The leading eigenvector, (0, 1, 1), is orthogonal to the column with the largest diagonal entry."""
    matrix = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.9, 1.0], [0.0, 1.0, 1.9]])
    torch.testing.assert_close(SpectralScaling()(matrix), matrix / 2.9)


def test_row_and_column_scalings_are_the_released_codes() -> None:
    matrix = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    torch.testing.assert_close(RowScaling()(matrix), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(ColumnScaling()(matrix), matrix / 20**0.5)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_the_released_codes_floors(eps: float) -> None:
    """A row's norm is floored, a column's added to; row by row and in plain loops."""
    matrices = torch.randn(4, 3, 3, dtype=torch.float64)
    for matrix, ours in zip(matrices, RowScaling(eps)(matrices), strict=True):
        for row, our_row in zip(matrix, ours, strict=True):
            torch.testing.assert_close(our_row, row / max(sum(x**2 for x in row.tolist()) ** 0.5, eps))
    for matrix, ours in zip(matrices, ColumnScaling(eps)(matrices), strict=True):
        largest = max(sum(x**2 for x in column.tolist()) ** 0.5 for column in matrix.T)
        torch.testing.assert_close(ours, matrix / (largest + eps))


def test_the_released_fp_rnns_kronecker_factor() -> None:
    """16 steps in plain loops, two vectors in turn, on rows of length 1: the estimate is ``u^T M v``."""
    factor = torch.randn(5, 4, 4, dtype=torch.float64).triu()
    for matrix, ours in zip(factor @ factor.mT, RowPowerScaling(16, 1e-5)(factor @ factor.mT), strict=True):
        rows = torch.stack([row / row.norm() for row in matrix])
        v = torch.full((4,), 0.3, dtype=torch.float64)  # of any length: the first step normalises it
        for _ in range(8):
            u = rows @ v / (rows @ v).norm()
            v = rows @ u / (rows @ u).norm()
        torch.testing.assert_close(ours, rows / (u @ rows @ v + 1e-5))


def test_strengths_are_the_tokens_or_each_blocks_own() -> None:
    for own in (False, True):
        mixer = MonarchMixer(6, 2, beta=2.0, scaling=FrobeniusScaling(), strength_per_block=own).double()
        raw = torch.randn(5, mixer.projection.outputs, dtype=torch.float64)
        assert raw.shape[1] == 3 * 3 + (3 if own else 1)
        for token, blocks in zip(raw, mixer.activate(raw), strict=True):
            for j, block in enumerate(blocks):
                a, b, c = nn.functional.silu(token[3 * j : 3 * j + 3])
                lower = torch.stack([torch.stack([a, b]), torch.stack([0 * c, c])])
                matrix = lower @ lower.T
                expected = 2 * torch.sigmoid(token[9 + (j if own else 0)]) * matrix / matrix.norm()
                torch.testing.assert_close(block, expected)


@pytest.mark.parametrize("make", [HouseholderMixer, KroneckerMixer, MonarchMixer])
def test_strengths_may_keep_a_full_map_beside_factored_directions(make: type[Mixer]) -> None:
    mixer = make(12, projection_rank=2, full_strengths=True)
    biased = len(mixer.projection.bias)
    weight = mixer.projection.weight()
    assert torch.linalg.matrix_rank(weight[:-biased]) == 2
    torch.testing.assert_close(weight[-biased:], mixer.projection.direction[2].detach())  # at the start
    assert weight.shape == make(12).projection.weight().shape
    with pytest.raises(ValueError, match="full_strengths=True: everything is full without a projection_rank"):
        make(12, full_strengths=True)


def size(mixer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in mixer.parameters())


@pytest.mark.parametrize(
    ("mixer", "total", "d_model", "state", "layers", "vocabulary", "conv"),
    [
        (lambda d: HouseholderMixer(d, 1), 4_912_162, 512, 16, 1, 72, False),
        (lambda d: HouseholderMixer(d, 2), 7_012_388, 512, 16, 1, 72, False),
        (lambda d: HouseholderMixer(d, 4), 11_212_840, 512, 16, 1, 72, False),
        (KroneckerMixer, 5_106_880, 512, 16, 1, 72, False),
        (lambda d: HouseholderMixer(d, 4), 1_438_672, 128, 16, 2, 12, True),
        (KroneckerMixer, 695_904, 128, 16, 2, 12, True),
        (lambda d: HouseholderMixer(d, 1, dependence="symmetric"), 15_329_346, 1024, 32, 1, 32, True),
    ],
)
def test_sizes_are_those_of_the_papers_models(
    mixer: object, total: int, d_model: int, state: int, layers: int, vocabulary: int, conv: bool
) -> None:
    """The mixer's share in the counts of an FP-Mamba, all else being counted from its shapes."""
    d, rank = 2 * d_model, -(-d_model // 16)
    block = d_model * 2 * d + d * (rank + 2 * state) + rank * d + d + d * state + d  # in, x, dt, A, D
    block += 2 * state * (d + 1) + 2 * d + d * (d + 1) + d * d_model + d_model  # bc on y, loop norm, z on y, out, norm
    block += 5 * d if conv else 0
    assert layers * (block + size(mixer(d))) + d_model * (vocabulary + 1) == total


def test_projection_starts_as_pytorchs_default_and_its_bias_at_zero() -> None:
    torch.manual_seed(0)
    projection = HouseholderMixer(8).projection
    torch.manual_seed(0)
    expected = nn.Linear(16, 9, bias=False).weight
    torch.testing.assert_close(projection.weight(), expected)
    assert projection.bias.shape == (1,)
    assert not projection.bias.any()


@pytest.mark.parametrize("dependence", ["concatenate", "symmetric", "input"])
def test_parameters_come_from_x_and_the_state_as_asked(dependence: str) -> None:
    mixer = HouseholderMixer(6, 2, dependence=dependence).double()
    x, s = torch.randn(2, 4, 6, dtype=torch.float64)
    p = {"concatenate": torch.cat([x, s], -1), "symmetric": x + s, "input": x}[dependence]
    raw = p @ mixer.projection.weight().T
    torch.testing.assert_close(mixer.prepare(x).project(s), raw)
    assert mixer.hidden_dependent == (dependence != "input")
    assert mixer.selective
    torch.testing.assert_close(mixer(x, s, x), mixer.mix(mixer.activate(raw), x))


@pytest.mark.parametrize("name", MIXERS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    mixer = MIXERS[name](D)
    x, s, delta = torch.randn(3, 2, 5, D)
    if not list(mixer.parameters()):
        assert torch.equal(mixer(x, s, delta), delta)
        return
    mixer(x, s, delta).square().sum().backward()
    for parameter_name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_half_precision_parameters_are_promoted() -> None:
    mixer = KroneckerMixer(4).bfloat16()
    context = mixer.prepare(torch.randn(2, 4, dtype=torch.bfloat16))
    assert context.projected.dtype == torch.float32
    assert mixer.condition(context, torch.zeros(2, 4))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KroneckerMixer(13), "d_inner=13: is prime"),
        (lambda: KroneckerMixer(0), "d_inner=0: must be at least 1"),
        (lambda: HouseholderMixer(8, beta=float("nan")), "beta=nan: must be positive and finite"),
        (lambda: MonarchMixer(10, 4), "block=4: does not divide d_inner=10"),
        (lambda: HouseholderMixer(8, 0), "rank=0 must be at least 1"),
        (lambda: AlternatingMixer(8, 0), "rank=0 must be at least 1"),
        (lambda: HouseholderMixer(8, beta=-1), "beta=-1: must be positive"),
        (lambda: HouseholderMixer(8, dependence="both"), "dependence=both: unknown"),
        (lambda: HouseholderMixer(8, projection_rank=-1), "projection_rank=-1: must be at least 1"),
        (lambda: HouseholderMixer(0), "d_inner=0: must be at least 1"),
        (lambda: SpectralScaling(0), "squarings=0: must be from 1 to 10"),
        (lambda: RowScaling(0.0), "eps=0.0: must be positive and finite"),
        (lambda: RowPowerScaling(0), "steps=0: must be from 1 to 1000"),
        (lambda: ColumnScaling(-1.0), "eps=-1.0: must be at least 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
