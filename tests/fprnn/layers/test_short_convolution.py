"""The short causal convolution against PyTorch's, and its memory."""

import pytest
import torch
import torch.nn.functional as F

from fprnn.layers import ShortConvolution, short_convolution
from fprnn.layers.convolution import last_tokens


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("length", [0, 1, 3, 9])
def test_is_a_causal_depthwise_convolution(width: int, length: int) -> None:
    torch.manual_seed(0)
    conv = ShortConvolution(5, width)
    x = torch.randn(2, length, 5)
    padded = F.pad(x.mT, (width - 1, 0))
    if length:
        expected = F.silu(F.conv1d(padded, conv.weight.unsqueeze(1), conv.bias, groups=5)).mT
        torch.testing.assert_close(conv(x), expected)
    assert conv(x).shape == x.shape


def test_goes_on_from_the_tokens_before() -> None:
    conv = ShortConvolution(3, 4).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    before = last_tokens(torch.zeros(2, 3, 3, dtype=torch.float64), x[:, :2])
    assert before.shape == (2, 3, 3)
    torch.testing.assert_close(conv(x[:, 2:], before), conv(x)[:, 2:])
    torch.testing.assert_close(last_tokens(before, x[:, 2:]), x[:, -3:])


def test_function_and_module_agree_and_widths_are_checked() -> None:
    conv = ShortConvolution(3)
    x = torch.randn(1, 5, 3)
    torch.testing.assert_close(conv(x), short_convolution(x, conv.weight, conv.bias))
    with pytest.raises(ValueError, match="conv_width=0: must be at least 1"):
        ShortConvolution(3, 0)
