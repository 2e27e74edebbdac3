"""Channels last: another order in memory, the same values."""

import lightning.pytorch as pl
import torch
from torch import nn

from dinopl.training import ChannelsLast


class Convolutions(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_weights_and_feature_maps_have_the_channels_last() -> None:
    module = Convolutions()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images = torch.randn(2, 3, 5, 5)
    expected = module.layers[0](images)
    ChannelsLast().setup(pl.Trainer(logger=False), module, "fit")
    weight = module.layers[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    mapped = module.layers[0](images)
    assert mapped.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mapped, expected)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    module.layers[:2](images).sum().backward()
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
