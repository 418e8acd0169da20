"""The ADM UNet (Dhariwal and Nichol 2021) with EDM's preconditioning (Karras et al. 2022, table 1).

Attribute names follow the published ImageNet-64 checkpoint, so that its weights load once stored as a plain state dict.
"""
import math
import re

import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import InputError
from networks.attention import attend

CHANNELS_PER_HEAD = 64
CHANNELS_PER_GROUP = 4
MAX_GROUPS = 32


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of min(32, channels / 4) groups."""
    return nn.GroupNorm(min(MAX_GROUPS, channels // CHANNELS_PER_GROUP), channels, eps=1e-5)


def add_resample_filter(module: nn.Module, resample: str | None) -> None:
    """The published state dict stores the 2x2 mean as a buffer; here the buffer only keeps the names equal."""
    if resample:
        module.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))


def resampled(x: torch.Tensor, resample: str | None) -> torch.Tensor:
    """[B, C, H, W] -> half the size by the 2x2 mean ("down"), double the size by repeating ("up"), or x itself."""
    if resample == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest") if resample == "up" else x


class Skip(nn.Module):
    """The way around a block: resampled like the block, through a 1x1 convolution where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, resample: str | None):
        super().__init__()
        self.resample = resample
        self.changes_channels = in_channels != out_channels
        if self.changes_channels:
            convolution = nn.Conv2d(in_channels, out_channels, 1)
            self.weight, self.bias = convolution.weight, convolution.bias
        add_resample_filter(self, resample)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W']."""
        x = resampled(x, self.resample)
        return F.conv2d(x, self.weight, self.bias) if self.changes_channels else x


class ADMBlock(nn.Module):
    """Two convolutions, the embedding as scale and shift between them, and self-attention where asked for."""

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int, resample: str | None = None,
                 attention: bool = False):
        super().__init__()
        self.resample = resample
        self.num_heads = out_channels // CHANNELS_PER_HEAD if attention else 0
        self.norm0 = group_norm(in_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        add_resample_filter(self.conv0, resample)
        self.affine = nn.Linear(embedding_width, 2 * out_channels)
        self.norm1 = group_norm(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = Skip(in_channels, out_channels, resample) if resample or in_channels != out_channels else None
        if self.num_heads:
            self.norm2 = group_norm(out_channels)
            self.qkv = nn.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv2d(out_channels, out_channels, 1)
            nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x: [B, C_in, H, W]; embedding: [B, E] -> [B, C_out, H', W']."""
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)         # [B, C_out, 1, 1] each
        h = self.conv0(resampled(F.silu(self.norm0(x)), self.resample))                 # [B, C_out, H', W']
        h = self.conv1(F.silu(self.norm1(h) * (1 + scale) + shift))
        h = h + (x if self.skip is None else self.skip(x))
        return h + self.attention(h) if self.num_heads else h

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """What the pixels tell each other: [B, C, H, W] -> [B, C, H, W]."""
        B, C, H, W = x.shape
        # The published weights order the channels head, channel, then q, k, v innermost.
        qkv = self.qkv(self.norm2(x)).reshape(B, self.num_heads, C // self.num_heads, 3, H * W)
        q, k, v = qkv.permute(3, 0, 1, 4, 2).unbind(0)                                  # [B, heads, HW, C / heads]
        h = attend(q, k, v)
        return self.proj(h.transpose(2, 3).reshape(B, C, H, W))


class ADMUNet(nn.Module):
    """The UNet itself. `map_layer1` is the last layer of the noise's embedding; the last module of `enc` puts out the
    bottleneck."""

    def __init__(self, resolution: int, base_channels: int, mult, num_blocks: int, attention_at, num_classes: int = 0,
                 channels: int = 3):
        super().__init__()
        width = 4 * base_channels
        self.base_channels = base_channels
        self.map_layer0 = nn.Linear(base_channels, width)
        self.map_layer1 = nn.Linear(width, width)
        self.map_label = nn.Linear(num_classes, width, bias=False) if num_classes else None
        sizes = [resolution >> level for level in range(len(mult))]

        self.enc = nn.ModuleDict({f"{resolution}x{resolution}_conv": nn.Conv2d(channels, base_channels, 3, padding=1)})
        current, skips = base_channels, [base_channels]
        for level, (size, factor) in enumerate(zip(sizes, mult)):
            if level:
                self.enc[f"{size}x{size}_down"] = ADMBlock(current, current, width, "down")
                skips.append(current)
            for number in range(num_blocks):
                block = ADMBlock(current, base_channels * factor, width, attention=size in attention_at)
                self.enc[f"{size}x{size}_block{number}"] = block
                current = base_channels * factor
                skips.append(current)
        self.bottleneck_channels, self.bottleneck_size = current, sizes[-1]

        self.dec = nn.ModuleDict()
        for level in reversed(range(len(mult))):
            size, out_channels = sizes[level], base_channels * mult[level]
            if level == len(mult) - 1:
                self.dec[f"{size}x{size}_in0"] = ADMBlock(current, current, width, attention=True)
                self.dec[f"{size}x{size}_in1"] = ADMBlock(current, current, width)
            else:
                self.dec[f"{size}x{size}_up"] = ADMBlock(current, current, width, "up")
            for number in range(num_blocks + 1):
                block = ADMBlock(current + skips.pop(), out_channels, width, attention=size in attention_at)
                self.dec[f"{size}x{size}_block{number}"] = block
                current = out_channels
        self.out_norm = group_norm(current)
        self.out_conv = nn.Conv2d(current, channels, 3, padding=1)
        nn.init.zeros_(self.out_conv.weight)

    def embedding(self, noise_level: torch.Tensor, one_hot: torch.Tensor | None) -> torch.Tensor:
        """noise_level: [B], c_noise; one_hot: [B, num_classes] -> [B, 4 base_channels]."""
        half = self.base_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=noise_level.device) / half
        angles = noise_level.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)
        features = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.map_layer0.weight.dtype)
        features = self.map_layer1(F.silu(self.map_layer0(features)))
        if self.map_label is not None:
            features = features + self.map_label(one_hot.to(features.dtype))
        return F.silu(features)

    def encode(self, x: torch.Tensor, embedding: torch.Tensor) -> list[torch.Tensor]:
        """All outputs of the encoder, the bottleneck last. x: [B, C, S, S]."""
        skips = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, ADMBlock) else block(x)
            skips.append(x)
        return skips

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, one_hot: torch.Tensor | None) -> torch.Tensor:
        """x: [B, C, S, S]; noise_level: [B]; one_hot: [B, num_classes] -> [B, C, S, S]."""
        embedding = self.embedding(noise_level, one_hot)
        skips = self.encode(x, embedding)
        x = skips[-1]
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, embedding)
        return self.out_conv(F.silu(self.out_norm(x)))


class EDMNetwork(nn.Module):
    """The ADM UNet in EDM's preconditioning: it puts out the clean image x_0 of x = x_0 + sigma eps.

    resolution: side in pixels. mult: a factor of base_channels per level. num_blocks: per level. attention_at:
    resolutions with attention. num_classes: 0 for none. sigma_data: deviation of the images. Raises InputError for
    sizes that do not divide.
    """

    def __init__(self, resolution: int, base_channels: int, mult, num_blocks: int, attention_at, num_classes: int = 0,
                 channels: int = 3, sigma_data: float = 0.5):
        super().__init__()
        if resolution % 2 ** (len(mult) - 1) or base_channels % 8:
            raise InputError(f"ADM: found resolution {resolution}, {len(mult)} levels, {base_channels} channels; "
                             f"expected a resolution that is a multiple of {2 ** (len(mult) - 1)}, and channels that "
                             "are a multiple of 8")
        self.sigma_data, self.num_classes = sigma_data, num_classes
        self.model = ADMUNet(resolution, base_channels, mult, num_blocks, attention_at, num_classes, channels)

    def one_hot(self, labels: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
        """Labels as [B, num_classes]. labels: class numbers [B], where `num_classes` is no class; or one-hot; or
        None."""
        if not self.num_classes:
            return None
        if labels is None:
            return x.new_zeros(len(x), self.num_classes)
        if labels.ndim == 1:
            return F.one_hot(labels, self.num_classes + 1)[:, :-1].to(x.dtype)
        return labels

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The clean image (equation 7). x: [B, C, S, S]; sigma: [B] -> [B, C, S, S] float32."""
        sigma_b = sigma.float()[:, None, None, None]
        total = (sigma_b.square() + self.sigma_data**2).sqrt()
        output = self.model(x / total, sigma.float().log() / 4, self.one_hot(labels, x))
        return self.sigma_data**2 / total.square() * x.float() + sigma_b * self.sigma_data / total * output.float()


FIRST_WEIGHT = "model.map_layer0.weight"


def config_of(state: dict, path) -> dict:
    """The arguments of `EDMNetwork` that fit a state dict, read off its names and shapes. Raises InputError."""
    name = next((name for name in state if name.endswith("_conv.weight")), "")
    found = re.fullmatch(r"model\.enc\.(\d+)x\d+_conv\.weight", name)
    if not found:
        raise InputError(f"{path}: has no model.enc.*_conv.weight in it, expected the state dict of EDM's ADM network")
    resolution, first = int(found[1]), state[found[0]]
    blocks = [re.fullmatch(r"model\.enc\.(\d+)x\d+_block(\d+)\.conv0\.weight", name) for name in state]
    widths = {int(block[1]): len(state[block[0]]) for block in blocks if block}             # size -> channels
    num_blocks = 1 + max((int(block[2]) for block in blocks if block), default=0)
    with_attention = [re.match(r"model\.enc\.(\d+)x\d+_block\d+\.qkv", name) for name in state]
    attention = {int(match[1]) for match in with_attention if match}
    labels = state.get("model.map_label.weight")
    return {"resolution": resolution, "base_channels": len(first), "channels": first.shape[1],
            "num_blocks": num_blocks, "mult": [widths[size] // len(first) for size in sorted(widths, reverse=True)],
            "attention_at": sorted(attention, reverse=True), "num_classes": 0 if labels is None else labels.shape[1]}


def load_state(network: nn.Module, state, path) -> None:
    """Fill a network. Raises InputError that names the file if names or shapes differ."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()} if isinstance(state, dict) and all(
        isinstance(value, torch.Tensor) for value in state.values()) else {}
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise InputError(f"{path}: {len(differing)} entries differ from the network's, first {name}: found "
                         f"{found.get(name, 'none')}, expected {expected.get(name, 'none')}; choose its own file")
    network.load_state_dict(state)
