"""A Diffusion Transformer of two scales: an image and its half-size copy, each with a flow time of its own.

The tokens of both scales go through the blocks together. Attention sees them all; norms, shifts and gates follow the
time of a token's own scale. With equal patches the coarse scale adds a quarter to the tokens. Sampling may then walk
any path through the plane of the two times, as LIFT does with a UNet.
"""
import torch
import torch.nn as nn

from engine.denoiser import OutputDenoiser
from engine.errors import InputError
from networks.affine_velocity import AffineVelocity
from networks.dit import (TIME_SCALE, Block, ClassEmbedding, FinalLayer, Modulation, PatchEmbedding, TimeEmbedding,
                          check_sizes, initialize, position_embedding, unpatchify, velocity_of)
from scheduler import LinearFlow


class ScaleModulation(nn.ModuleList):
    """A modulation per scale, spread over the tokens of its scale: the conditions to `count` tensors [B, T, D]."""

    def __init__(self, width: int, count: int, num_tokens: list[int]):
        super().__init__(Modulation(width, count) for _ in num_tokens)
        self.num_tokens = num_tokens

    def forward(self, conditions: list[torch.Tensor]) -> list[torch.Tensor]:
        """conditions: [B, D] per scale."""
        of_scales = [modulation(condition) for modulation, condition in zip(self, conditions)]
        return [torch.cat([part.expand(-1, tokens, -1) for part, tokens in zip(parts, self.num_tokens)], dim=1)
                for parts in zip(*of_scales)]


class DualDiT(nn.Module):
    """A class-conditional velocity field of an image at two sizes.

    image_sizes: the fine side, then half of it; both multiples of patch_size. The other arguments are those of
    `networks.dit.DiT`. Blocks and embeddings of time and class are shared; patch embedding, modulations and last layer
    are a scale's own. Raises InputError where sizes do not divide.
    """

    def __init__(self, image_sizes, channels: int, patch_size: int, hidden_size: int, depth: int, num_heads: int,
                 mlp_ratio: float, num_classes: int, *, qk_norm: bool = False, time_scale: float = TIME_SCALE,
                 output: str = "velocity"):
        super().__init__()
        fine, coarse = image_sizes
        if fine != 2 * coarse:
            raise InputError(f"--scales: found {fine} {coarse}, expected a side and half of it, as in 64 32")
        check_sizes([fine, coarse], patch_size, hidden_size, num_heads, mlp_ratio, output)
        self.config = dict(image_sizes=[fine, coarse], channels=channels, patch_size=patch_size,
                           hidden_size=hidden_size, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio,
                           num_classes=num_classes, qk_norm=qk_norm, time_scale=time_scale, output=output)
        self.image_sizes, self.channels, self.patch_size = [fine, coarse], channels, patch_size
        self.hidden_size, self.num_classes, self.output = hidden_size, num_classes, output
        sides = [size // patch_size for size in self.image_sizes]
        self.num_tokens = [side**2 for side in sides]
        self.x_embedders = nn.ModuleList(PatchEmbedding(channels, patch_size, hidden_size) for _ in sides)
        self.t_embedder = TimeEmbedding(hidden_size, time_scale)
        self.y_embedder = ClassEmbedding(num_classes, hidden_size)
        places = [position_embedding(side, hidden_size, spacing=spacing) for side, spacing in zip(sides, (1, 2))]
        self.register_buffer("pos_embed", torch.cat(places), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, int(hidden_size * mlp_ratio), qk_norm)
                                    for _ in range(depth))
        for block in self.blocks:
            block.adaLN_modulation = ScaleModulation(hidden_size, 6, self.num_tokens)
        self.final_layers = nn.ModuleList(FinalLayer(hidden_size, patch_size**2 * channels) for _ in sides)
        self.affines = nn.ModuleList(AffineVelocity(size, channels) for size in self.image_sizes
                                     if output == "residual")
        initialize(self)

    def blocks_to_shard(self) -> list[nn.Module]:
        """What FSDP2 gathers one after the other."""
        return list(self.blocks)

    def fit(self, images_by_scale) -> None:
        """Fit the affine velocities of a residual output to images, uint8 [N, C, S, S] per scale, each to its own scale
        alone; other outputs need nothing."""
        for affine, images in zip(self.affines, images_by_scale):
            affine.fit(images)

    def forward(self, xs, ts, labels: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The velocity per scale. xs: [B, C, S, S] per scale; ts: [B] per scale, 0 noise ... 1 image, free of each
        other; labels: int [B], 0...K, or None for the null class K."""
        if labels is None:
            labels = torch.full((len(xs[0]),), self.num_classes, device=xs[0].device)
        x = torch.cat([embed(x_t) for embed, x_t in zip(self.x_embedders, xs)], dim=1) + self.pos_embed    # [B, T, D]
        of_class = self.y_embedder(labels)                                                 # [B, D]
        conditions = [self.t_embedder(t) + of_class for t in ts]
        for block in self.blocks:
            x = block(x, conditions)
        velocities = []
        for s, tokens in enumerate(x.split(self.num_tokens, dim=1)):
            output = unpatchify(self.final_layers[s](tokens, conditions[s]), self.patch_size, self.channels)
            affine = self.affines[s] if self.output == "residual" else None
            velocities.append(velocity_of(self.output, output.to(xs[s].dtype), xs[s], ts[s], affine))
        return velocities


class DualFlowDenoiser(OutputDenoiser):
    """A DualDiT for the sampler, and for everything else that asks a Denoiser for clean images at two scales."""

    kind = "velocity"

    def __init__(self, network: DualDiT):
        self.network, self.num_classes = network, network.num_classes
        self.shapes = [(network.channels, size, size) for size in network.image_sizes]
        self.processes = [LinearFlow() for _ in self.shapes]

    def outputs(self, network, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `OutputDenoiser`."""
        return network(xs, ts, labels)
