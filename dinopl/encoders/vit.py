"""Vision transformers for small images: patches as tokens, and the class token's last state as embedding.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), in the sizes of "Random Teachers are Good Teachers",
appendix C.2: normalisation before attention and MLP, learned positions, no dropout. What differs from torchvision's
``vit_b_16``: no classifier, and the initial values, which are DINO's (Caron et al., ICCV 2021): linear weights, class
token and positions from N(0, 0.02^2), biases 0, the projection of patches from N(0, 1 / fan_in). Layer names are
torchvision's, so its weights load as they are.

What differs from the published code of "Random Teachers": there one block serves as all twelve layers; here
``shared_block=True`` does that, and gives the parameter counts of the paper's table 5 (with patches of 16 pixels, while
its text says 8). Three more of its peculiarities are not reproduced: attention among the heads of one token instead of
among tokens, an activation after the second linear map of the MLP, and class token and positions from N(0, 1).
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.types import ImageShape


class SelfAttention(nn.Module):
    """Attention among all tokens, in several heads.

    The kernel is the same with and without gradient and in both modes, unlike ``nn.MultiheadAttention``'s: a student
    that equals its teacher then computes the same numbers.

    Args:
        dim: width of a token.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``(B, N, dim)`` to ``(B, N, dim)``."""
        joint = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, with an MLP four times as wide as a token.

    Args:
        dim: width of a token.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attention = SelfAttention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        # torchvision's numbers, which count its dropout
        self.mlp = nn.Sequential(
            OrderedDict({"0": nn.Linear(dim, 4 * dim), "1": nn.GELU(), "3": nn.Linear(4 * dim, dim)})
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``(B, N, dim)`` to ``(B, N, dim)``."""
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TransformerLayers(nn.Module):
    """Positions, blocks and the last normalisation.

    Args:
        tokens: number of tokens.
        dim: width of a token.
        heads: number of heads.
        depth: number of layers.
        shared_block: whether one block is all of the layers.
    """

    def __init__(self, tokens: int, dim: int, heads: int, depth: int, shared_block: bool) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, dim))
        self.passes = depth if shared_block else 1
        blocks = {f"encoder_layer_{i}": TransformerBlock(dim, heads) for i in range(1 if shared_block else depth)}
        self.layers = nn.Sequential(OrderedDict(blocks))
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``(B, N, dim)`` to ``(B, N, dim)``."""
        x = x + self.pos_embedding
        for _ in range(self.passes):
            x = self.layers(x)
        return self.ln(x)


class PatchTransformer(nn.Module):
    """A transformer on patches of an image, and the state of its class token.

    Args:
        shape: shape of one image.
        dim: width of a token.
        heads: number of heads.
        patch_size: side of a patch in pixels.
        shared_block: whether one block is all of the layers.
        depth: number of layers.

    Attributes:
        embed_dim: width of a token.

    Raises:
        ValueError: if the patches do not divide the image.
    """

    def __init__(
        self, shape: ImageShape, dim: int, heads: int, patch_size: int = 8, shared_block: bool = False, depth: int = 12
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size}: must divide the image's {height} x {width} pixels; try 4")
        self.embed_dim = dim
        self.conv_proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim))
        tokens = 1 + (height // patch_size) * (width // patch_size)
        self.encoder = TransformerLayers(tokens, dim, heads, depth, shared_block)
        for name, parameter in self.named_parameters():
            if parameter is self.conv_proj.weight:
                nn.init.normal_(parameter, std=(channels * patch_size**2) ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:  # all but the weights of the norms, which are 1
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds images ``(B, C, H, W)`` as ``(B, embed_dim)``."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1).to(patches.dtype), patches], dim=1)
        return self.encoder(tokens)[:, 0]


class ViTTiny(PatchTransformer):
    """ViT-Tiny: tokens of 192, 3 heads, 12 layers; 5,379,264 parameters for RGB images of 32 x 32 pixels.

    Args:
        shape: shape of one image.
        patch_size: side of a patch in pixels.
        shared_block: one block as all twelve layers, as in the published code; with patches of 16 pixels this gives
            the 594,048 parameters of the paper's table 5.

    Raises:
        ValueError: if the patches do not divide the image.
    """

    def __init__(self, shape: ImageShape, patch_size: int = 8, shared_block: bool = False) -> None:
        super().__init__(shape, 192, 3, patch_size, shared_block)


class ViTSmall(PatchTransformer):
    """ViT-Small: tokens of 384, 6 heads; 21,375,360 parameters, 2,072,832 in table 5; arguments as of ``ViTTiny``."""

    def __init__(self, shape: ImageShape, patch_size: int = 8, shared_block: bool = False) -> None:
        super().__init__(shape, 384, 6, patch_size, shared_block)


class ViTMedium(PatchTransformer):
    """ViT-Medium: tokens of 512, 8 heads; 37,937,664 parameters, 3,550,208 in table 5; arguments as of ``ViTTiny``."""

    def __init__(self, shape: ImageShape, patch_size: int = 8, shared_block: bool = False) -> None:
        super().__init__(shape, 512, 8, patch_size, shared_block)


class ViTBase(PatchTransformer):
    """ViT-Base: tokens of 768, 12 heads; 85,218,048 parameters, 7,684,608 in table 5; arguments as of ``ViTTiny``."""

    def __init__(self, shape: ImageShape, patch_size: int = 8, shared_block: bool = False) -> None:
        super().__init__(shape, 768, 12, patch_size, shared_block)
