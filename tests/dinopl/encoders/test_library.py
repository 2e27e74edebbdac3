"""Networks of torchvision and timm as encoders: the network's own features, one line for what does not fit."""

import re
import sys

import pytest
import torch
from torch import nn

from dinopl.core.random import seeded
from dinopl.core.types import ImageShape
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.network import draw_network
from dinopl.encoders import TimmEncoder, TorchvisionEncoder, embedding_size

RGB32 = ImageShape(3, 32, 32)
GRAY32 = ImageShape(1, 32, 32)


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("resnet18", None, 512),
        ("squeezenet1_1", None, 512),
        ("shufflenet_v2_x0_5", None, 1024),
        ("mobilenet_v3_small", None, 1024),
        ("vit_b_16", {"image_size": 32}, 768),
    ],
)
def test_torchvision_encoders_give_what_goes_into_the_classifier(name, arguments, size):
    from torchvision.models import get_model

    with torch.device("meta" if name == "vit_b_16" else "cpu"):
        encoder = TorchvisionEncoder(RGB32, name, arguments=arguments).eval()
        whole = get_model(name, **(arguments or {})).eval()
    assert encoder.embed_dim == embedding_size(encoder, RGB32) == size
    missing, unexpected = whole.load_state_dict(encoder.network.state_dict(), strict=False)
    layer = whole.get_submodule(missing[0].rpartition(".")[0])
    assert not unexpected
    assert {path.rpartition(".")[0] for path in missing} == {missing[0].rpartition(".")[0]}
    if name == "vit_b_16":
        return
    entered = []
    layer.register_forward_hook(lambda module, inputs, output: entered.append(inputs[0]))
    images = torch.randn(2, *RGB32)
    with torch.no_grad():
        embedding, _ = encoder(images), whole(images)
    features = entered[0] if entered[0].ndim == 2 else entered[0].relu().mean((2, 3))  # a convolution's: then pools
    torch.testing.assert_close(embedding, features)


def test_every_torchvision_classifier_has_a_last_layer_to_remove():
    from torchvision import models

    for name in ("densenet121", "efficientnet_b0", "googlenet", "convnext_tiny", "swin_t"):
        with torch.device("meta"):
            arguments = {"init_weights": False} if name == "googlenet" else None
            encoder = TorchvisionEncoder(ImageShape(3, 64, 64), name, arguments=arguments)
            whole = models.get_model(name, **(arguments or {}))
        linear = [layer for layer in whole.modules() if isinstance(layer, nn.Linear)]
        assert encoder.embed_dim == linear[-1].in_features


def test_googlenet_returns_vectors_while_it_is_trained():
    encoder = TorchvisionEncoder(RGB32, "googlenet", arguments={"init_weights": False}).train()
    assert encoder(torch.randn(2, *RGB32)).shape == (2, 1024)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (RGB32, {"name": "resnet19"}, "name=resnet19: Unknown model resnet19; did you mean 'resnet18'?"),
        (RGB32, {"name": "fcn_resnet50"}, "name=fcn_resnet50: Unknown model fcn_resnet50; did you mean 'resnet50'?"),
        (
            RGB32,
            {"weights": "IMAGENET"},
            "name=resnet18: .*IMAGENET.*; correct name, weights or arguments of TorchvisionEnc",
        ),
        (RGB32, {"arguments": {"depth": 3}}, "name=resnet18: .*depth.*; correct"),
        (ImageShape(3, 8, 8), {"name": "vgg11"}, "name=vgg11: .* too small; correct"),
        (GRAY32, {}, r"rgb=False: TorchvisionEncoder takes images of 3 channels, not \[1, 32, 32\]"),
    ],
)
def test_what_torchvision_does_not_have_is_said_in_one_line(shape, options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as caught, torch.device("meta"):
        TorchvisionEncoder(shape, **options)
    assert "\n" not in str(caught.value)


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self):
        return pytest.importorskip("timm", reason="timm is not installed: pip install 'dinopl[timm]'")

    @pytest.mark.parametrize(
        ("name", "shape", "arguments", "size"),
        [
            ("test_resnet", GRAY32, None, 96),
            ("test_vit", RGB32, {"img_size": 32, "patch_size": 8}, 64),
            ("mobilenetv3_small_050", GRAY32, None, 1024),
        ],
    )
    def test_encoders_give_the_features_of_the_network(self, timm, name, shape, arguments, size):
        encoder = TimmEncoder(shape, name, arguments=arguments).eval()
        whole = timm.create_model(name, num_classes=7, in_chans=shape.channels, **(arguments or {})).eval()
        whole.load_state_dict(encoder.network.state_dict(), strict=False)
        images = torch.randn(2, *shape)
        with torch.no_grad():
            expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
            torch.testing.assert_close(encoder(images), expected)
        assert encoder.embed_dim == size

    def test_a_network_is_drawn_from_its_seed_alone(self):
        def draw(seed, noise):
            torch.manual_seed(noise)
            head = lambda width: ProjectionHead(width, (8,), 4, 16)  # noqa: E731
            return draw_network(lambda shape: TimmEncoder(shape, "test_resnet"), head, GRAY32, seed).state_dict()

        first, second, third = draw(3, 1), draw(3, 2), draw(4, 1)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["encoder.network.conv1.0.weight"], third["encoder.network.conv1.0.weight"])

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("resnet19", None, "name=resnet19: Unknown model (resnet19); did you mean 'resnet18'?"),
            ("test_resnet.nobody_in1k", None, "name=test_resnet.nobody_in1k: Invalid pretrained tag"),
            (
                "test_resnet",
                {"img_size": 3},
                "unexpected keyword argument 'img_size'; correct name, weights or arguments",
            ),
            ("deit_tiny_patch16_224", None, "name=deit_tiny_patch16_224: Input height (32) doesn't match model (224)"),
        ],
    )
    def test_what_timm_does_not_have_is_said_in_one_line(self, name, arguments, message):
        with seeded(0), pytest.raises(ValueError, match=re.escape(message)) as caught:
            TimmEncoder(GRAY32, name, arguments=arguments)
        assert "\n" not in str(caught.value)


def test_timm_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"name=resnet18: TimmEncoder needs timm; `pip install timm`"):
        TimmEncoder(RGB32, "resnet18")
