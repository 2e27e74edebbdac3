"""The LSTM layer against the cell written out in numpy."""

import os

import numpy as np
import pytest
import torch

from fprnn.baselines import LSTMLayer


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_hand(layer: LSTMLayer, x: torch.Tensor) -> np.ndarray:
    """The LSTM's equations, gates in torch's order: input, forget, cell, output."""
    weights = {name: value.detach().numpy() for name, value in layer.lstm.named_parameters()}
    hidden = cell = np.zeros((len(x), layer.lstm.hidden_size))
    outputs = []
    for token in x.numpy().swapaxes(0, 1):
        gates = token @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        enter, forget, new, leave = np.split(gates, 4, axis=1)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        hidden = sigmoid(leave) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def test_forward_is_the_lstm() -> None:
    layer, x = LSTMLayer(6).double(), torch.randn(3, 7, 6, dtype=torch.float64)
    np.testing.assert_allclose(layer(x).detach().numpy(), by_hand(layer, x), atol=1e-12)


def test_another_state_size_is_projected_back() -> None:
    layer, x = LSTMLayer(6, hidden_size=10).double(), torch.randn(3, 7, 6, dtype=torch.float64)
    expected = by_hand(layer, x) @ layer.out_proj.weight.detach().numpy().T
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("hidden_size", [None, 9])
@pytest.mark.parametrize("length", [0, 1, 11])
def test_steps_equal_forward(length: int, hidden_size: int | None) -> None:
    layer, x = LSTMLayer(6, hidden_size), torch.randn(3, length, 6)
    state, outputs = layer.initial_state(3), [torch.empty(3, 0, 6)]
    for t in range(length):
        y, state = layer.step(x[:, t], state)
        outputs.append(y[:, None])
    torch.testing.assert_close(torch.cat(outputs, dim=1), layer(x))


def test_an_empty_batch() -> None:
    assert LSTMLayer(6)(torch.zeros(0, 5, 6)).shape == (0, 5, 6)


def test_every_parameter_gets_a_gradient() -> None:
    layer = LSTMLayer(6, hidden_size=9)
    layer(torch.randn(2, 5, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ, reason="torch asks the processor, not oneDNN, whether there is a bfloat16 LSTM"
)
def test_bfloat16() -> None:
    layer, x = LSTMLayer(6), torch.randn(2, 9, 6)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
        y, state = layer.step(x[:, 0], layer.initial_state(2))
        y, state = layer.step(x[:, 1], state)
    assert mixed.dtype == y.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, atol=0.03, rtol=0.03)
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), exact, atol=0.03, rtol=0.03)


def test_a_state_without_size_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size: 0 is too small; use 1 or more"):
        LSTMLayer(6, hidden_size=0)
