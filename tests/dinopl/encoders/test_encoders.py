import math

import pytest
import torch
from torch import nn

from dinopl.core.random import seeded
from dinopl.core.types import ImageShape
from dinopl.encoders import VGG11, MiniVGG, ResNet18, embedding_size, evaluation

RGB32 = ImageShape(3, 32, 32)


def build(factory, *args, seed=0, **kwargs):
    with seeded(seed):
        return factory(*args, **kwargs)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("factory", "shape", "parameters"),
    [
        (VGG11, RGB32, 9_220_480),
        (ResNet18, RGB32, 11_168_832),
        (MiniVGG, ImageShape(1, 8, 8), 71_792),
    ],
)
def test_parameter_counts(factory, shape, parameters):
    assert count(factory(shape)) == parameters


@pytest.mark.parametrize(("factory", "norm"), [(VGG11, 67.0), (ResNet18, 111.7)])
def test_initial_norm(factory, norm):
    # E|W|^2 of a convolution is 2 * in_channels under Kaiming fan_out; each BatchNorm weight adds 1
    squares = sum(p.detach().double().square().sum() for p in build(factory, RGB32).parameters())
    assert math.sqrt(squares) == pytest.approx(norm, rel=0.01)


@pytest.mark.parametrize("factory", [VGG11, ResNet18, MiniVGG])
def test_initial_values(factory):
    module = build(factory, RGB32)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            count = layer.weight.numel()
            tolerance = 5 / math.sqrt(2 * count)  # five standard errors of a standard deviation
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance)
            assert layer.bias is None or not layer.bias.any()
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


@pytest.mark.parametrize("factory", [VGG11, ResNet18, MiniVGG])
def test_drawn_from_the_seed_alone(factory):
    first, second, third = (build(factory, RGB32, seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(
    ("factory", "shape", "size"),
    [
        (VGG11, RGB32, 512),
        (VGG11, ImageShape(1, 64, 96), 512 * 2 * 3),
        (ResNet18, RGB32, 512),
        (ResNet18, ImageShape(1, 5, 7), 512),
        (MiniVGG, ImageShape(1, 8, 8), 64),
        (MiniVGG, ImageShape(3, 28, 17), 64 * 3 * 2),
    ],
)
def test_embedding_size_is_that_of_the_output(factory, shape, size):
    module = build(factory, shape).eval()
    assert module.embed_dim == embedding_size(module, shape) == size
    with torch.no_grad():
        assert module(torch.zeros(2, *shape)).shape == (2, size)


def test_mini_vgg_options():
    assert MiniVGG(ImageShape(1, 28, 28), widths=(16, 32, 64, 64)).embed_dim == 64
    module = MiniVGG(ImageShape(2, 4, 4), widths=(5,), convs_per_stage=3)
    assert [type(layer).__name__ for layer in module.features] == ["Conv2d", "ReLU"] * 3 + ["MaxPool2d"]
    assert MiniVGG(ImageShape(2, 4, 4), widths=())(torch.ones(1, 2, 4, 4)).shape == (1, 32)


def test_vgg11_equals_torchvision():
    from torchvision.models.vgg import cfgs, make_layers  # the whole vgg11 has a classifier of 120 million weights

    ours, theirs = build(VGG11, RGB32), make_layers(cfgs["A"])
    theirs.load_state_dict(ours.features.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x).flatten(1))


@pytest.mark.parametrize("small_image", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_resnet18_equals_torchvision(small_image, training):
    from torchvision.models import resnet18

    theirs = resnet18()
    theirs.fc = nn.Identity()
    if small_image:
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    ours = build(ResNet18, RGB32, small_image=small_image)
    theirs.load_state_dict(ours.state_dict())
    ours.train(training)
    theirs.train(training)
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_small_image_stem():
    module = ResNet18(RGB32).eval()
    assert module.conv1.kernel_size == (3, 3)
    assert module.conv1.stride == (1, 1)
    with torch.no_grad():
        assert module.feature_map(torch.zeros(1, *RGB32)).shape == (1, 512, 4, 4)
        assert ResNet18(RGB32, small_image=False).eval().feature_map(torch.zeros(1, *RGB32)).shape == (1, 512, 1, 1)


def test_gradients_reach_every_parameter():
    module = build(ResNet18, RGB32)
    module(torch.randn(2, *RGB32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: MiniVGG(ImageShape(1, 7, 8)), "MiniVGG halves .* 7 x 8; set image_size to 8"),
        (lambda: VGG11(ImageShape(3, 32, 31)), "VGG11 halves .* 32 x 31; set image_size to 32"),
        (lambda: MiniVGG(RGB32, widths=(16, 0)), r"widths=\[16, 0\]: must"),
        (lambda: MiniVGG(RGB32, convs_per_stage=0), "convs_per_stage=0: must"),
    ],
)
def test_bad_options_are_named_in_one_line(make, option):
    with pytest.raises(ValueError, match=option) as caught:
        make()
    assert "\n" not in str(caught.value)


class Spy(nn.Module):
    """An encoder of somebody else: without embed_dim, with dropout and BatchNorm, one part deliberately frozen."""

    def __init__(self, flatten=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.flatten = nn.Flatten() if flatten else nn.Identity()
        self.layers[1].eval()

    def forward(self, x):
        assert not self.layers[2].training
        return self.flatten(self.layers(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embedding_size_of_any_module(dtype):
    spy = Spy().to(dtype)
    before = {name: value.clone() for name, value in spy.state_dict().items()}
    state = torch.get_rng_state()
    assert embedding_size(spy, ImageShape(1, 5, 6)) == 3 * 3 * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in spy.state_dict().items())
    assert [layer.training for layer in spy.layers] == [True, False, True]
    assert embedding_size(nn.Flatten(), ImageShape(2, 3, 4)) == 24


def test_embedding_size_refuses_feature_maps():
    with pytest.raises(ValueError, match=r"Spy returns \(1, 3, 3, 4\)"):
        embedding_size(Spy(flatten=False), ImageShape(1, 5, 6))


def test_evaluation_restores_every_flag():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.Linear(3, 3)))
    module[1].eval()
    module[1][1].train()
    flags = [part.training for part in module.modules()]
    with evaluation(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == flags
    with pytest.raises(RuntimeError), evaluation(module):
        raise RuntimeError
    assert [part.training for part in module.modules()] == flags
