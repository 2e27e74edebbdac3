import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dinopl.core.random import seeded
from dinopl.core.types import ImageShape
from dinopl.data import OrderSampler
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.network import draw_network
from dinopl.encoders import (
    VGG11,
    VGG13,
    VGG16,
    VGG19,
    GroupedNorm,
    MiniVGG,
    Pixels,
    ResNet18,
    ResNet20,
    ResNet34,
    ResNet50,
    ResNet56,
    UniformConvNet,
    UniformMLP,
    ViTBase,
    ViTMedium,
    ViTSmall,
    ViTTiny,
    embedding_size,
    evaluation,
)
from dinopl.encoders.common import check_smallest_batch

RGB32 = ImageShape(3, 32, 32)
GRAY8 = ImageShape(1, 8, 8)
NORMS = {
    "batch": nn.BatchNorm2d,
    "instance": partial(GroupedNorm, group_size=1),
    "group of 8": GroupedNorm,
    "layer": partial(GroupedNorm, group_size="all"),
    "none": None,
}
SHARED = {"patch_size": 16, "shared_block": True}
VGG_WEIGHTS, VGG_CHANNELS = 9_220_480, 64 + 128 + 2 * 256 + 4 * 512  # of VGG11: what a norm adds to is its channels


def build(factory, *args, seed=0, **kwargs):
    with seeded(seed):
        return factory(*args, **kwargs)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("factory", "parameters", "size"),
    [
        # the thirteen of the paper's table 5
        (VGG11, 9_220_480, 512),
        (VGG13, 9_404_992, 512),
        (VGG16, 14_714_688, 512),
        (VGG19, 20_024_384, 512),
        (ResNet20, 271_824, 64),
        (ResNet56, 855_120, 64),
        (ResNet18, 11_168_832, 512),
        (ResNet34, 21_276_992, 512),
        (ResNet50, 23_500_352, 2048),
        (partial(ViTTiny, **SHARED), 594_048, 192),
        (partial(ViTSmall, **SHARED), 2_072_832, 384),
        (partial(ViTMedium, **SHARED), 3_550_208, 512),
        (partial(ViTBase, **SHARED), 7_684_608, 768),
        # patches of 8 pixels: one block for all layers, and twelve blocks
        (partial(ViTTiny, shared_block=True), 485_760, 192),
        (partial(ViTSmall, shared_block=True), 1_856_256, 384),
        (partial(ViTMedium, shared_block=True), 3_261_440, 512),
        (partial(ViTBase, shared_block=True), 7_251_456, 768),
        (ViTTiny, 5_379_264, 192),
        (ViTSmall, 21_375_360, 384),
        (ViTMedium, 37_937_664, 512),
        (ViTBase, 85_218_048, 768),
        # weight and bias of a norm for each channel
        *(
            (partial(VGG11, norm=norm), VGG_WEIGHTS + 2 * VGG_CHANNELS * (norm is not None), 512)
            for norm in NORMS.values()
        ),
        (partial(ResNet18, norm=nn.Identity), 11_168_832 - 2 * 4800, 512),
        (partial(ResNet18, norm=GroupedNorm), 11_168_832, 512),
        (partial(UniformConvNet, width=16, depth=5), 448 + 4 * 2_320, 64),
        (partial(UniformMLP, width=512, depth=2), 3073 * 512 + 513 * 512, 512),
        (Pixels, 0, 3072),
    ],
)
def test_parameter_counts(factory, parameters, size):
    with torch.device("meta"):
        encoder = factory(RGB32)
    assert count(encoder) == parameters
    assert encoder.embed_dim == size


def test_parameter_count_of_a_small_network():
    assert count(MiniVGG(GRAY8)) == 71_792


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


def tiny_resnet(shape, **kwargs):
    from dinopl.encoders.resnet import ResidualNetwork

    return ResidualNetwork(shape, (1, 2), width=8, **kwargs)


def deep_resnet(shape, **kwargs):
    from dinopl.encoders.resnet import ResidualNetwork, ThreeConvBlock

    return ResidualNetwork(shape, (1, 1), width=8, block=ThreeConvBlock, **kwargs)


@pytest.mark.parametrize(
    "factory",
    [
        *(MiniVGG, tiny_resnet, deep_resnet, UniformConvNet, UniformMLP, partial(ViTTiny, **SHARED), ResNet20),
        *(partial(MiniVGG, norm=norm) for norm in NORMS.values() if norm),
        *(partial(tiny_resnet, norm=norm) for norm in NORMS.values()),
    ],
)
def test_drawn_from_the_seed_alone(factory):
    def draw(seed, noise):
        torch.manual_seed(noise)
        return draw_network(factory, nn.Identity, RGB32, seed).encoder.state_dict()

    first, second, third = draw(3, noise=1), draw(3, noise=2), draw(4, noise=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # every weight, and every bias that is not 0 in all draws
    constant = {name for name, value in first.items() if (value == value.flatten()[0]).all()}
    assert all(name in constant or not torch.equal(first[name], third[name]) for name in first)
    assert constant <= {
        name for name in first if name.endswith(("bias", "mean", "var", "tracked")) or first[name].ndim < 2
    }


@pytest.mark.parametrize("factory", [MiniVGG, tiny_resnet, deep_resnet, UniformConvNet])
@pytest.mark.parametrize("norm", list(NORMS))
def test_every_norm_goes_with_every_convolutional_encoder(factory, norm):
    module = build(factory, RGB32, norm=NORMS[norm])
    images = torch.randn(4, *RGB32)
    module(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    with torch.no_grad():
        alone, together = module(images[:1]), module(images)[:1]
    assert torch.allclose(alone, together, atol=1e-4, rtol=1e-4) == (norm != "batch")


@pytest.mark.parametrize("size", [1, 2, 8, "all"])
def test_grouped_norm_equals_its_formula(size):
    layer = GroupedNorm(16, size).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 16, 5, 4, dtype=torch.float64)
    groups = x.numpy().reshape(3, 16 // (16 if size == "all" else size), -1)
    expected = (groups - groups.mean(2, keepdims=True)) / (groups.var(2, keepdims=True) + 1e-5) ** 0.5
    expected = torch.as_tensor(expected).view_as(x) * layer.weight.view(16, 1, 1) + layer.bias.view(16, 1, 1)
    torch.testing.assert_close(layer(x), expected)


def test_a_shared_block_is_twelve_equal_blocks():
    one = build(ViTTiny, RGB32, 16, shared_block=True)
    twelve = build(ViTTiny, RGB32, 16)
    block = one.encoder.layers.encoder_layer_0.state_dict()
    shared = {name: value for name, value in one.state_dict().items() if "encoder_layer_" not in name}
    copies = {f"encoder.layers.encoder_layer_{i}.{name}": value for i in range(12) for name, value in block.items()}
    twelve.load_state_dict(shared | copies)
    images = torch.randn(2, *RGB32)
    torch.testing.assert_close(one(images), twelve(images))


def test_a_transformer_computes_the_same_in_every_mode():
    module = build(ViTTiny, ImageShape(3, 8, 8), 4)
    images = torch.randn(3, 3, 8, 8)
    trained = module.train()(images)
    with torch.no_grad():
        assert torch.equal(module.eval()(images), trained)  # else a squared error would not stay exactly 0


def test_initial_values_of_a_transformer():
    module = build(ViTSmall, RGB32, 8)
    for name, parameter in module.named_parameters():
        if ".ln" in name and name.endswith("weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            std = 192**-0.5 if "conv_proj" in name else 0.02
            tolerance = 5 / math.sqrt(2 * parameter.numel())  # five standard errors of a standard deviation
            assert parameter.std().item() == pytest.approx(std, rel=tolerance)


@pytest.mark.parametrize(
    ("factory", "shape", "size"),
    [
        (VGG11, RGB32, 512),
        (VGG11, ImageShape(1, 64, 96), 512 * 2 * 3),
        (ResNet18, RGB32, 512),
        (ResNet18, ImageShape(1, 5, 7), 512),
        (MiniVGG, ImageShape(1, 8, 8), 64),
        (MiniVGG, ImageShape(3, 28, 17), 64 * 3 * 2),
        (partial(ViTTiny, patch_size=4), ImageShape(1, 8, 12), 192),
        (partial(UniformConvNet, depth=5), RGB32, 128),
        (UniformConvNet, ImageShape(1, 7, 5), 128),
        (partial(UniformMLP, norm=nn.BatchNorm1d), ImageShape(1, 3, 5), 512),
        (Pixels, ImageShape(2, 3, 5), 30),
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


@pytest.mark.parametrize(("factory", "config"), [(VGG11, "A"), (VGG13, "B"), (VGG16, "D"), (VGG19, "E")])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
def test_vgg_equals_torchvision(factory, config, norm):
    from torchvision.models.vgg import cfgs, make_layers  # the whole networks have classifiers of 120 million weights

    theirs, ours = make_layers(cfgs[config], batch_norm=norm is not None), build(factory, RGB32, norm=norm)
    ours.features.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x).flatten(1))


@pytest.mark.parametrize(
    ("factory", "name", "small_image", "training"),
    [
        *((ResNet18, "resnet18", small_image, training) for small_image in (True, False) for training in (True, False)),
        (ResNet34, "resnet34", True, False),
        (ResNet50, "resnet50", True, False),
        (ResNet50, "resnet50", False, True),
    ],
)
def test_resnet_equals_torchvision(factory, name, small_image, training):
    from torchvision import models

    theirs = models.get_model(name)
    theirs.fc = nn.Identity()
    if small_image:
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    ours = build(factory, RGB32, small_image=small_image)
    ours.load_state_dict(theirs.state_dict())
    ours.train(training)
    theirs.train(training)
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("factory", "dim", "heads"), [(ViTTiny, 192, 3), (ViTSmall, 384, 6)])
def test_vit_equals_torchvision(factory, dim, heads):
    from torchvision.models import VisionTransformer

    theirs = VisionTransformer(32, 8, num_layers=12, num_heads=heads, hidden_dim=dim, mlp_dim=4 * dim)
    theirs.heads = nn.Identity()
    for parameter in theirs.parameters():  # some start at 0 there
        nn.init.normal_(parameter, std=0.1)
    ours = build(factory, RGB32, 8)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_resnet_for_cifar_is_as_the_paper_describes():
    module = ResNet20(RGB32).eval()
    assert [len(module.get_submodule(f"layer{stage}")) for stage in (1, 2, 3)] == [3, 3, 3]
    with torch.no_grad():
        assert module.feature_map(torch.zeros(1, *RGB32)).shape == (1, 64, 8, 8)


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
        (lambda: MiniVGG(ImageShape(1, 7, 8)), "image_size=7: MiniVGG halves .* 7 x 8; set 8 or more"),
        (lambda: VGG11(ImageShape(3, 32, 31)), "image_size=31: VGG11 halves .* 32 x 31; set 32 or more, or use Mini"),
        (lambda: MiniVGG(RGB32, widths=(16, 0)), r"widths=\[16, 0\]: must"),
        (lambda: MiniVGG(RGB32, convs_per_stage=0), "convs_per_stage=0: must"),
        (lambda: MiniVGG(RGB32, widths=(12,), norm=GroupedNorm), "group_size=8: must divide the 12 channels"),
        (lambda: GroupedNorm(8, 0), "group_size=0: must"),
        (lambda: ViTTiny(RGB32, 5), "patch_size=5: must divide the image's 32 x 32"),
        # ReLU(32) is ReLU(inplace=True)
        *(
            (partial(factory, RGB32, norm=nn.ReLU), "norm=ReLU: is no normalisation layer; give torch.nn.BatchNorm")
            for factory in (MiniVGG, ResNet20, UniformConvNet, UniformMLP)
        ),
        (lambda: ProjectionHead(4, norm=nn.ReLU), "norm=ReLU: is no normalisation layer; give torch.nn.BatchNorm1d"),
        (lambda: MiniVGG(RGB32, norm=nn.Linear), "norm=Linear: cannot be made .*; give torch.nn.BatchNorm2d"),
        (lambda: UniformConvNet(GRAY8, depth=5), "depth=5: halves the image 4 times.* 8 x 8"),
        (lambda: UniformConvNet(RGB32, width=0), "width=0: must"),
        (lambda: UniformMLP(RGB32, depth=0), "depth=0: must"),
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


class Deep(nn.Module):
    """Ends in a BatchNorm over one pixel per image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("changed", "network", "refused"),
    [
        ({}, Deep(), True),
        ({"limit_train_batches": 2}, Deep(), False),  # of 3 batches: the last one never comes
        ({"max_steps": 2}, Deep(), False),
        ({"max_steps": 2, "accumulate_grad_batches": 2}, Deep(), True),
        ({}, nn.BatchNorm2d(1), False),  # of one image it has 64 pixels
        ({}, nn.Flatten(), False),
        ({"samples": 10}, Deep(), False),
    ],
)
def test_a_batch_of_one_is_refused_where_batch_norm_cannot_use_it(
    changed: dict[str, int], network: nn.Module, refused: bool
) -> None:
    """As torch itself refuses it in the step."""
    sampler = OrderSampler(changed.pop("samples", 9), 4)
    data = SimpleNamespace(batch_size=4, train_sampler=lambda: sampler)
    options = {"limit_train_batches": 1.0, "max_steps": -1, "accumulate_grad_batches": 1} | changed
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="batch_size=4: leaves one sample") if refused else nullcontext():
        check_smallest_batch(network, (1, 8, 8), SimpleNamespace(datamodule=data, **options))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    if refused:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            network(torch.zeros(1, 1, 8, 8))
