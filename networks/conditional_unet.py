"""The UNet of small images of any size, grey or in colour, with or without a class: the MNIST family's network.

Its blocks and its backbone are those of `networks.unet`.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import InputError
from networks.attention import attend
from networks.presets import CONDITIONINGS
from networks.unet import NUM_GROUPS, AttentionBlock, GroupNorm, LevelSettings, UNet

TOKEN_WIDTH = 128               # of the vector that stands for a class in cross-attention
MAX_HEAD_WIDTH = 64             # channels


def num_heads(channels: int) -> int:
    """The fewest heads that divide the channels into at most 64 each."""
    return next(n for n in range(math.ceil(channels / MAX_HEAD_WIDTH), channels + 1) if channels % n == 0)


class CrossAttentionBlock(nn.Module):
    """Attention from the pixels to a few tokens, added to its input (Rombach et al. 2022, section 3.3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.num_heads = num_heads(channels)
        self.norm = GroupNorm(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Linear(TOKEN_WIDTH, 2 * channels)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W]; tokens: [B, tokens, 128] -> [B, C, H, W]."""
        B, C, H, W = x.shape
        q = self.query(self.norm(x)).reshape(B, self.num_heads, -1, H * W).transpose(2, 3)      # [B, heads, HW, width]
        k, v = self.key_value(tokens).reshape(B, -1, 2, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        h = attend(q, k.contiguous(), v.contiguous())
        return x + self.proj(h.transpose(2, 3).reshape(B, C, H, W))


@dataclass(frozen=True)
class ConditionalLevels(LevelSettings):
    """Levels with attention where it is asked for, each followed by cross-attention if a class is a token."""
    last_level_halves: bool = False
    attention_levels: tuple[int, ...] = ()
    looks_at_tokens: bool = False

    def attention(self, level: int | None, channels: int) -> list[nn.Module]:
        """As in `LevelSettings`; the bottleneck always has attention."""
        if level is not None and level not in self.attention_levels:
            return []
        return [AttentionBlock(channels, num_heads(channels))] + [CrossAttentionBlock(channels)] * self.looks_at_tokens


class ConditionalUNet(UNet):
    """A UNet called as network(x, t), or with classes as network(x, t, labels).

    shape: [C, H, W] of the images. Channels per level are base_channels times channel_multipliers. The image is halved
    between levels, so H and W must be divisible by patch_size * 2^(levels - 1). A level has layers_per_block residual
    blocks on the way down and one more on the way up. attention_levels: 0 is the finest level. patch_size: a patch of
    so many pixels a side enters as one pixel of more channels; at 2 that costs a quarter.

    conditioning: concat puts a learned map of the class beside the image, as one more channel; cross_attention makes
    each class a learned vector that the attention levels look at. Class number `num_classes` stands for no class.
    """

    def __init__(self, shape, base_channels: int = 32, channel_multipliers=(1, 2, 3, 3), layers_per_block: int = 1,
                 attention_levels=(3,), patch_size: int = 1, conditioning: str = "none", num_classes: int = 0):
        channels, height, width = shape
        check_settings(shape, base_channels, channel_multipliers, layers_per_block, attention_levels, patch_size,
                       conditioning, num_classes)
        levels = ConditionalLevels(layers_per_block, layers_per_block + 1, attention_levels=tuple(attention_levels),
                                   looks_at_tokens=conditioning == "cross_attention")
        super().__init__((channels + (conditioning == "concat")) * patch_size**2, channels * patch_size**2,
                         [base_channels * factor for factor in channel_multipliers], blocks=levels)
        self.settings = {"shape": list(shape), "base_channels": base_channels,
                         "channel_multipliers": list(channel_multipliers), "layers_per_block": layers_per_block,
                         "attention_levels": list(attention_levels), "patch_size": patch_size,
                         "conditioning": conditioning, "num_classes": num_classes}
        self.patch_size, self.conditioning, self.num_classes = patch_size, conditioning, num_classes
        if conditioning == "concat":
            self.class_maps = nn.Parameter(torch.randn(num_classes + 1, 1, height, width))
        if conditioning == "cross_attention":
            self.class_tokens = nn.Embedding(num_classes + 1, TOKEN_WIDTH)

    @property
    def class_codes(self) -> torch.Tensor:
        """What was learned of each class and, last, of no class: [num_classes + 1, D]."""
        return self.class_tokens.weight if self.conditioning == "cross_attention" else self.class_maps.flatten(1)

    def bottleneck_size(self, size: int) -> int:
        """As in `UNet`; patches are pixels here."""
        return super().bottleneck_size(size // self.patch_size)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """x: [B, C, H, W]; t: [B], 0...999; labels: int64 [B], 0...num_classes, or None -> [B, C, H, W]."""
        return self.last_layer(x, self.time_mlp(t), labels)

    def last_layer(self, x: torch.Tensor, of_time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The output. of_time: the embedding of the time, [B, 4 * base_channels]; the rest as in `forward`."""
        tokens = None
        if self.conditioning == "concat":
            x = torch.cat([x, self.class_maps[labels].to(x.dtype)], dim=1)
        if self.conditioning == "cross_attention":
            tokens = self.class_tokens(labels)[:, None]                         # [B, 1, 128]
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        output, _ = self.run_backbone(x, of_time, tokens=tokens)
        return F.pixel_shuffle(output, self.patch_size) if self.patch_size > 1 else output


def check_settings(shape, base_channels, channel_multipliers, layers_per_block, attention_levels, patch_size,
                   conditioning, num_classes) -> None:
    """Raises InputError for settings that make no network."""
    if not channel_multipliers or any(factor < 1 for factor in channel_multipliers):
        raise InputError(f"--channel_multipliers: found {list(channel_multipliers)}, expected one whole number of at "
                         "least 1 per level")
    if base_channels < 1 or base_channels % NUM_GROUPS:
        raise InputError(f"--base_channels: found {base_channels}, expected a multiple of {NUM_GROUPS}")
    if layers_per_block < 1:
        raise InputError(f"--layers_per_block: found {layers_per_block}, expected at least 1")
    wrong = [level for level in attention_levels if not 0 <= level < len(channel_multipliers)]
    if wrong:
        raise InputError(f"--attention_levels: found {wrong[0]}, expected levels 0...{len(channel_multipliers) - 1}")
    factor = patch_size * 2 ** (len(channel_multipliers) - 1)
    if any(side % factor for side in shape[1:]):
        raise InputError(f"--channel_multipliers: {len(channel_multipliers)} levels with --patch_size {patch_size} "
                         f"need sides divisible by {factor}, found {shape[1]}x{shape[2]}; give fewer levels")
    if conditioning not in CONDITIONINGS:
        raise InputError(f"--conditioning: found {conditioning!r}, expected {', '.join(CONDITIONINGS)}")
    if conditioning != "none" and num_classes < 1:
        raise InputError(f"--conditioning: found {conditioning}, but the data set has no labels; expected none")
