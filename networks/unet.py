"""The UNet that both models share: residual blocks, self-attention, encoder, bottleneck and decoder.

Attribute names follow the published checkpoints of the earlier implementation, so that these load unchanged.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import InputError
from networks.attention import attend
from networks.linear_denoiser import LinearDenoiser
from networks.presets import PARAMETRIZATIONS
from scheduler import CosineSteps, eps_from_v

NUM_GROUPS = 8
NUM_HEADS = 4
ATTENTION_FROM_CHANNELS = 128


class SinusoidalTimeEmbedding(nn.Module):
    """Sines then cosines of the timestep at frequencies 10000^(-k / (half - 1)) (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t: [B], timesteps (integer or fractional) -> [B, width] float32, values in [-1, 1]."""
        half = self.width // 2
        exponents = torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1)
        frequencies = torch.exp(-math.log(10000.0) * exponents)         # [half]
        angles = t.float()[:, None] * frequencies[None, :]              # [B, half]
        return torch.cat([angles.sin(), angles.cos()], dim=1)           # [B, width]


def time_layers(width: int, last_bias: bool = True) -> nn.Sequential:
    """Sines and cosines of a timestep through two linear layers: [B] -> [B, 4 * width]. last_bias: whether the last
    layer has one; a difference of two embeddings does not know it."""
    return nn.Sequential(SinusoidalTimeEmbedding(width), nn.Linear(width, 4 * width), nn.SiLU(),
                         nn.Linear(4 * width, 4 * width, bias=last_bias))


class GroupNorm(nn.GroupNorm):
    """GroupNorm that keeps the precision of its input. It has 8 groups, or fewer if 8 do not divide the channels.

    Autocast would widen the input to float32 and store the wide copy for the backward pass. The kernels accumulate
    mean and variance in float32 whatever the input type, so a bfloat16 input loses nothing that matters.
    """

    def __init__(self, num_channels: int):
        super().__init__(math.gcd(NUM_GROUPS, num_channels), num_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C, H, W], same dtype."""
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the time embedding added in between (Ho et al. 2020, appendix B).

    time_width: None for a network without a time, such as an autoencoder.
    """

    def __init__(self, in_channels: int, out_channels: int, time_width: int | None):
        super().__init__()
        if time_width is not None:
            self.time_mlp = nn.Linear(time_width, out_channels)
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: torch.Tensor, time_features: torch.Tensor | None) -> torch.Tensor:
        """x: [B, C_in, H, W]; time_features: [B, time_width], already through SiLU -> [B, C_out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))                           # [B, C_out, H, W]
        if time_features is not None:
            h = h + self.time_mlp(time_features)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.shortcut(x)


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the pixels, added to its input; each head is a contiguous group of channels."""

    def __init__(self, channels: int, num_heads: int = NUM_HEADS):
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)         # [B, HW, 3C]
        # The fused kernels need a head's channels side by side; in channels-last they are, and nothing is copied.
        qkv = qkv.contiguous().reshape(B, H * W, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)                  # each [B, heads, HW, C / heads]
        h = attend(q, k, v)
        h = h.transpose(1, 2).reshape(B, H, W, C).permute(0, 3, 1, 2)   # [B, C, H, W]
        return x + self.proj(h)


def check_hidden_dims(hidden_dims) -> None:
    """Raises InputError unless `hidden_dims` is a non-empty list of positive multiples of 8."""
    hidden_dims = list(hidden_dims)
    if not hidden_dims:
        raise InputError("--hidden_dims: found an empty list, expected one number of channels per level")
    if len(hidden_dims) > 6:
        raise InputError(f"--hidden_dims: found {len(hidden_dims)} levels, expected at most 6: each level halves the "
                         "64x64 image and the sixth reaches 1x1")
    for channels in hidden_dims:
        if not isinstance(channels, int) or channels <= 0 or channels % NUM_GROUPS:
            raise InputError(f"--hidden_dims: found {channels}, expected positive multiples of {NUM_GROUPS} "
                             f"(GroupNorm splits the channels into {NUM_GROUPS} groups)")


@dataclass(frozen=True)
class LevelSettings:
    """How a UNet's levels are made; the defaults are LIFT's. Subclasses say where attention stands, and to what."""
    encoder_blocks: int = 2             # residual blocks of a level on the way down
    decoder_blocks: int = 2             # and on the way up
    last_level_halves: bool = True      # whether the bottleneck lies one halving below the last level

    def attention(self, level: int | None, channels: int) -> list[nn.Module]:
        """What follows the residual blocks of that level, 0 the finest; level None is the bottleneck."""
        return [AttentionBlock(channels)] if level is None or channels >= ATTENTION_FROM_CHANNELS else []


class UNet(nn.Module):
    """Encoder, bottleneck and decoder with skip connections; subclasses say what goes in and what comes out.

    parametrization: what the last layer puts out; a model's callers always get the noise that follows from it. eps: the
    noise itself. v: sqrt(abar) eps - sqrt(1 - abar) x_0. residual: what a linear denoiser, fitted to the training
    images (`linear_denoiser.fit`), leaves of x_0. blocks: how the levels are made; the default is LIFT's.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_dims, parametrization: str = "eps",
                 blocks: LevelSettings = LevelSettings()):
        check_hidden_dims(hidden_dims)
        if parametrization not in PARAMETRIZATIONS:
            raise InputError(f"--parametrization: found {parametrization!r}, expected "
                             f"{', '.join(PARAMETRIZATIONS)}")
        super().__init__()
        self.hidden_dims = list(hidden_dims)
        self.parametrization = parametrization
        self.schedule = CosineSteps()
        if parametrization == "residual":
            self.linear_denoiser = LinearDenoiser()
        first, last = self.hidden_dims[0], self.hidden_dims[-1]
        time_width = 4 * first
        self.time_mlp = time_layers(first)
        self.init_conv = nn.Conv2d(in_channels, first, 3, padding=1)

        def level(place, channels_in, channels_out, num_blocks):
            made = [ResidualBlock(channels_in if k == 0 else channels_out, channels_out, time_width)
                    for k in range(num_blocks)]
            return nn.ModuleList(made + blocks.attention(place, channels_out))

        widths = list(enumerate(zip([first] + self.hidden_dims[:-1], self.hidden_dims)))
        self.encoder_blocks = nn.ModuleList(
            level(place, c_in, c_out, blocks.encoder_blocks) for place, (c_in, c_out) in widths)
        deepest = len(widths) if blocks.last_level_halves else len(widths) - 1
        self.downsample = nn.ModuleList(
            nn.Conv2d(c, c, 4, stride=2, padding=1) if place < deepest else nn.Identity()
            for place, c in enumerate(self.hidden_dims))
        self.bottleneck = nn.ModuleList([ResidualBlock(last, last, time_width), *blocks.attention(None, last),
                                         ResidualBlock(last, last, time_width)])
        from_below = self.hidden_dims[1:] + [last]
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(c, c, 4, stride=2, padding=1) if place < deepest else nn.Identity()
            for place, c in reversed(list(enumerate(from_below))))
        self.decoder_blocks = nn.ModuleList(
            level(place, from_below[place] + c_out, c_out, blocks.decoder_blocks)
            for place, (_, c_out) in reversed(widths))
        self.final_conv = self.output_layers(first, out_channels)

    def run_backbone(self, x: torch.Tensor, time_embedding: torch.Tensor, joining_at_32: torch.Tensor | None = None,
                     tokens: torch.Tensor | None = None):
        """Encoder, bottleneck, decoder.

        x: [B, in_channels, 64, 64]. time_embedding: [B, 4 * hidden_dims[0]]. joining_at_32: [B, hidden_dims[0], 32,
        32], added where the encoder reaches 32x32, or None. tokens: [B, tokens, width] for cross-attention. Returns [B,
        out_channels, 64, 64] and the decoder's last features at 32x32, [B, channels_at_32, 32, 32].
        """
        time_features = F.silu(time_embedding)          # every residual block starts with it: computed once
        h = self.init_conv(x)                           # [B, hidden_dims[0], 64, 64]
        skip = run_blocks(self.encoder_blocks[0], h, time_features, tokens)
        h = self.downsample[0](skip)                    # half the height and width
        if joining_at_32 is not None:
            h = h + joining_at_32
        h_32 = self.run_below(h, time_features, tokens)
        h = torch.cat([self.upsample[-1](h_32), skip], dim=1)
        h = run_blocks(self.decoder_blocks[-1], h, time_features, tokens)
        return self.final_conv(h), h_32

    def run_below(self, h: torch.Tensor, time_features: torch.Tensor,
                  tokens: torch.Tensor | None = None) -> torch.Tensor:
        """All but the 64x64 level: from what the encoder brings to 32x32, [B, hidden_dims[0], 32, 32], to the decoder's
        last features there, [B, channels_at_32, 32, 32]."""
        skips = []
        for blocks, downsample in zip(self.encoder_blocks[1:], self.downsample[1:]):
            h = run_blocks(blocks, h, time_features, tokens)
            skips.append(h)
            h = downsample(h)
        h = run_blocks(self.bottleneck, h, time_features, tokens)
        for blocks, upsample in zip(self.decoder_blocks[:-1], self.upsample[:-1]):
            h = torch.cat([upsample(h), skips.pop()], dim=1)
            h = run_blocks(blocks, h, time_features, tokens)
        return h

    def blocks_to_shard(self) -> list[nn.Module]:
        """What FSDP2 gathers one after the other."""
        return [block for blocks in (*self.encoder_blocks, self.bottleneck, *self.decoder_blocks) for block in blocks]

    def bottleneck_size(self, size: int) -> int:
        """Pixels a side in the bottleneck, of images with `size` pixels a side."""
        return size >> sum(isinstance(layer, nn.Conv2d) for layer in self.downsample)

    def output_layers(self, in_channels: int, out_channels: int) -> nn.Sequential:
        """Layers from features to a prediction of the same height and width. A residual starts at zero."""
        layers = nn.Sequential(GroupNorm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        if self.parametrization == "residual":
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        return layers

    @property
    def channels_at_32(self) -> int:
        """Channels of the decoder's last features at 32x32."""
        return self.upsample[-1].in_channels

    def to_noises(self, outputs, xs, ts) -> list[torch.Tensor]:
        """The noise per scale that the last layer's outputs mean: outputs, xs [B, 3, S, S] at timesteps ts [B]."""
        if self.parametrization == "eps":
            return list(outputs)
        # In float32 under autocast too: at the noisy end the clean image is a small difference of x_t and noise.
        dtype = torch.promote_types(xs[0].dtype, torch.float32)
        abars = [self.schedule.alpha_cumprod_at(t) for t in ts]
        if self.parametrization == "residual":
            return [noise.to(dtype) for noise in self.linear_denoiser.noises(outputs, xs, abars)]
        return [eps_from_v(x.to(dtype), output.to(dtype), abar.to(dtype))
                for output, x, abar in zip(outputs, xs, abars)]


def compiled(model: UNet):
    """The model by way of torch.compile, called alike; the compiler runs at the first call, for minutes."""
    # Filled before torch.compile looks: a table that appears during the first call would have it compile twice.
    model.schedule.log_snr_at(torch.zeros(1, device=next(model.parameters()).device))
    return torch.compile(model)


def run_blocks(blocks, h: torch.Tensor, time_features: torch.Tensor | None, tokens=None) -> torch.Tensor:
    """Apply residual, attention and cross-attention blocks in turn: [B, C_in, H, W] -> [B, C_out, H, W].

    tokens: [B, tokens, width], what cross-attention looks at; None where there is none.
    """
    for block in blocks:
        if isinstance(block, ResidualBlock):
            h = block(h, time_features)
        else:
            h = block(h) if isinstance(block, AttentionBlock) else block(h, tokens)
    return h
