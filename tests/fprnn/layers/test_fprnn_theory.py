"""What is proven of the iteration and of its limit (specification, sections 3.2 to 3.4), on random draws."""

import torch
from torch import Tensor

from fprnn.layers import dense_transition
from fprnn.ops import linear_scan

DRAWS, LENGTH, WIDTH = 150, 8, 3


def mixers(count: int, length: int, norm: float | str, generator: torch.Generator) -> Tensor:
    """``I - Q``, ``(count, length, d, d)``, scaled so that the largest norm over time is 1."""
    matrix = torch.randn(count, length, WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    largest = torch.linalg.matrix_norm(matrix, norm).amax(1)
    return matrix / largest[:, None, None, None]


def iteration_matrix(decay: Tensor, mixer: Tensor) -> Tensor:
    """``h -> scan(lambda, (1 - lambda) (I - Q) h)`` as a matrix on whole sequences, ``(count, T d, T d)``."""
    basis = torch.eye(LENGTH * WIDTH, dtype=torch.float64).reshape(1, -1, LENGTH, WIDTH)
    mixed = (mixer.unsqueeze(1) @ basis.unsqueeze(-1)).squeeze(-1)
    decay = decay.unsqueeze(1).expand_as(mixed)
    return linear_scan((1 - decay) * mixed, decay, dim=2).flatten(2).mT


def decays(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64).expand(DRAWS, LENGTH, WIDTH)


def test_constant_in_time_contracts_in_the_2_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    mixer = mixers(DRAWS, 1, 2, generator).expand(-1, LENGTH, -1, -1)
    matrix = iteration_matrix(decays(DRAWS, 1, WIDTH, generator=generator), mixer)
    norms = torch.linalg.matrix_norm(matrix, 2)
    assert norms.max() <= 1 + 1e-12
    assert norms.max() > 0.9  # the bound is nearly met


def test_equal_across_channels_contracts_in_the_largest_2_norm_over_time() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = iteration_matrix(decays(DRAWS, LENGTH, 1, generator=generator), mixers(DRAWS, LENGTH, 2, generator))
    h = torch.randn(DRAWS, 200, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    h = h / h.norm(dim=-1).amax(-1)[..., None, None]
    image = (h.flatten(2) @ matrix.mT).unflatten(2, (LENGTH, WIDTH))
    assert image.norm(dim=-1).max() <= 1 + 1e-12


def test_time_varying_and_diagonal_contracts_in_the_largest_row_sum() -> None:
    generator = torch.Generator().manual_seed(2)
    mixer = mixers(DRAWS, LENGTH, torch.inf, generator)
    matrix = iteration_matrix(decays(DRAWS, LENGTH, WIDTH, generator=generator), mixer)
    sums = torch.linalg.matrix_norm(matrix, torch.inf)
    assert sums.max() <= 1 + 1e-12


def test_time_varying_and_diagonal_need_not_contract_in_the_2_norm() -> None:
    generator = torch.Generator().manual_seed(3)
    mixer = mixers(DRAWS, LENGTH, 2, generator)
    matrix = iteration_matrix(decays(DRAWS, LENGTH, WIDTH, generator=generator) ** 3, mixer)
    assert torch.linalg.matrix_norm(matrix, 2).max() > 1


def test_the_spectral_radius_is_that_of_one_token() -> None:
    """The iteration's matrix is block triangular in time, so it converges in the end if each block does."""
    generator = torch.Generator().manual_seed(4)
    decay, mixer = decays(DRAWS, LENGTH, WIDTH, generator=generator), mixers(DRAWS, LENGTH, 2, generator)
    blocks = torch.linalg.eigvals((1 - decay).unsqueeze(-1) * mixer).abs().amax((1, 2))
    whole = torch.linalg.eigvals(iteration_matrix(decay, mixer)).abs().amax(1)
    torch.testing.assert_close(whole, blocks, rtol=1e-3, atol=1e-3)


def test_every_eigenvalue_of_the_limit_lies_in_a_disc() -> None:
    """``|mu - 1/2| < 1/2`` under the contraction condition: without the hidden state, no state can be tracked."""
    generator = torch.Generator().manual_seed(5)
    decay = torch.rand(10_000, 6, generator=generator, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    matrix = torch.randn(10_000, 6, 6, generator=generator, dtype=torch.float64)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)[:, None, None]
    transition, _ = dense_transition(decay, 1 - decay, torch.eye(6, dtype=torch.float64) - 0.999 * matrix)
    mu = torch.linalg.eigvals(transition)
    assert (mu - 0.5).abs().max() <= 0.5 + 1e-9
    assert mu.real.min() > 0
    assert (mu.abs() - torch.cos(mu.angle())).max() <= 1e-9


def test_the_limit_has_the_papers_closed_form() -> None:
    generator = torch.Generator().manual_seed(6)
    decay = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    q = torch.eye(4, dtype=torch.float64) - 0.1 * torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)
    eye, inverse = torch.eye(4, dtype=torch.float64), torch.diag_embed(1 / decay)
    transition, input_map = dense_transition(decay, 1 - decay, q)
    torch.testing.assert_close(transition, torch.linalg.inv(eye + (inverse - eye) @ q))
    torch.testing.assert_close(
        input_map, torch.linalg.inv(eye - torch.diag_embed(1 - decay) @ (eye - q)) @ (q - torch.diag_embed(decay) @ q)
    )
    diagonal, _ = dense_transition(decay, 1 - decay, eye.expand(5, 4, 4))
    torch.testing.assert_close(diagonal, torch.diag_embed(decay))
    unnormalised, _ = dense_transition(decay, torch.ones_like(decay), q)
    torch.testing.assert_close(unnormalised, torch.linalg.inv(q) @ torch.diag_embed(decay))
