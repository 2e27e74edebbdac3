"""Mamba's block beside its formulas, written as loops over single numbers; its initial values; its size."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fprnn.baselines import MambaLayer
from fprnn.layers import weight_decay_groups


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def naive(layer: MambaLayer, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The block for one sequence ``(T, D)``, a number at a time."""
    w = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    channels, states = w["A_log"].shape
    width, rank = w["conv.weight"].shape[1], w["step_size.weight"].shape[1]
    both = u @ w["in_proj.weight"].T
    out, memory = [], np.zeros((channels, states))
    for t in range(len(u)):
        x, y = np.zeros(channels), np.zeros(channels)
        for i in range(channels):
            total = w["conv.bias"][i]
            for k in range(width):
                if t - k >= 0:
                    total += w["conv.weight"][i, width - 1 - k] * both[t - k, i]
            x[i] = silu(total)
        selected = w["x_proj.weight"] @ x
        rho, b, c = selected[:rank], selected[rank : rank + states], selected[rank + states :]
        for i in range(channels):
            delta = math.log1p(math.exp(w["step_size.weight"][i] @ rho + w["step_size.bias"][i]))
            for n in range(states):
                decay = math.exp(-delta * math.exp(w["A_log"][i, n]))
                memory[i, n] = decay * memory[i, n] + delta * x[i] * b[n]
                y[i] += memory[i, n] * c[n]
            y[i] = (y[i] + w["D_skip"][i] * x[i]) * silu(both[t, channels + i])
        out.append(w["out_proj.weight"] @ y)
    return np.array(out)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("options", [{}, {"d_inner": 5, "conv_width": 1, "step_rank": 3}, {"conv_width": 12}])
def test_the_block_is_its_formulas(dtype: torch.dtype, tolerance: float, options: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = MambaLayer(4, d_state=3, **options)
    with torch.no_grad():  # long steps, so that the decay matters within nine tokens
        layer.step_size.bias += 3
        layer.D_skip += torch.randn_like(layer.D_skip)
    u = torch.randn(2, 9, 4, dtype=torch.float64)
    expected = np.stack([naive(layer, sequence) for sequence in u.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(layer.to(dtype)(u.to(dtype)).double().numpy(), expected, atol=tolerance, rtol=0)


def test_initial_values_are_the_papers() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(64)
    torch.testing.assert_close(layer.A_log.exp().detach(), torch.arange(1.0, 17).expand(128, 16))
    steps = torch.nn.functional.softplus(layer.step_size.bias.detach())
    assert 0.999e-3 < float(steps.min()) < 2e-3
    assert 0.05 < float(steps.max()) < 0.1001
    assert abs(float(steps.log().mean()) - math.log(1e-2)) < 0.35  # log-uniform: three standard errors
    bound = 4**-0.5
    assert 0.9 * bound < float(layer.step_size.weight.detach().abs().max()) <= bound
    assert torch.equal(layer.D_skip, torch.ones(128))


def test_parameters_are_those_of_the_released_block() -> None:
    """d = 2 D, R = D / 16, N = 16, W = 4: 2 D d, (W + 1) d, d (R + 2 N), (R + 1) d, N d + d, d D."""
    count = sum(p.numel() for p in MambaLayer(768).parameters())
    assert count == 768 * 3072 + 5 * 1536 + 1536 * 80 + 49 * 1536 + 17 * 1536 + 1536 * 768


def test_rates_and_skip_connection_do_not_decay() -> None:
    layer = MambaLayer(8)
    stays = {id(p) for p in weight_decay_groups(layer, 0.1)[1]["params"]}
    names = {name for name, p in layer.named_parameters() if id(p) in stays}
    assert names == {"A_log", "D_skip", "conv.bias", "step_size.bias"}


@pytest.mark.parametrize("option", ["d_state", "d_inner", "step_rank", "conv_width"])
def test_a_size_below_one_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}(=0: must be at least 1|: 0 is too small; use 1 or more)"):
        MambaLayer(8, **{option: 0})
