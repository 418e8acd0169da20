"""A UNet as the velocity field of a flow: of an image, of an image at two sizes, or of two bands of one image.

It stands where `networks.dit`, `networks.dual_dit` and `networks.band_dit` stand, with blocks and backbone of
`networks.unet`. All three forms cost nearly the same: a patch of the image enters as one pixel of many channels, and a
second scale, in patches half as wide, adds its channels to that pixel. So one time is compared with two at equal
arithmetic.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import InputError
from networks.bands import check_side
from networks.conditional_unet import ConditionalUNet
from networks.presets import UNET_MULTIPLIERS
from networks.unet import NUM_GROUPS, time_layers

NOISIEST_TIME = 999.0           # what the network is told at pure noise; 0 at the image


class FlowUNet(nn.Module):
    """A class-conditional velocity field x_0 - eps.

    image_size: the side of square images. Or image_sizes: a side and half of it, for an image at two sizes. bands: two
    parts of one image (`networks.bands`) have times of their own. patch_size: the side of the square that enters as one
    pixel; even for two sizes. hidden_size: channels of the first level. The second level, of half the side, has twice
    as many, and attention. depth: residual blocks of a level on the way down; there is one more on the way up. Class
    num_classes stands for no class. Raises InputError for sizes that do not divide.

    forward(x, t, labels) for one time; forward(x, [t_64, t_32], labels) for bands; forward([x_64, x_32], [t_64, t_32],
    labels) for two sizes. Two times enter as the fine one's embedding and what another embedding says of their
    difference, so that at equal times a network of bands is the one of one time.
    """
    output = "velocity"

    def __init__(self, image_size: int | None = None, *, image_sizes=None, channels: int, patch_size: int,
                 hidden_size: int, depth: int, num_classes: int, bands: bool = False, network: str = "unet"):
        super().__init__()
        sides = list(image_sizes or [image_size])
        check_unet(sides, patch_size, hidden_size, bands)
        self.config = {"network": network, **({"image_sizes": sides} if image_sizes else {"image_size": image_size}),
                       "channels": channels, "patch_size": patch_size, "hidden_size": hidden_size, "depth": depth,
                       "num_classes": num_classes, **({"bands": True} if bands else {})}
        self.image_size, self.image_sizes, self.channels = image_size, image_sizes and sides, channels
        self.patches = [patch_size, patch_size // 2][:len(sides)]
        self.num_channels = [channels * patch**2 for patch in self.patches]     # of a pixel, per scale
        self.num_classes, self.has_two_times = num_classes, bands or len(sides) > 1
        side = sides[0] // patch_size
        self.unet = ConditionalUNet((sum(self.num_channels), side, side), hidden_size, UNET_MULTIPLIERS, depth,
                                    attention_levels=(len(UNET_MULTIPLIERS) - 1,), conditioning="cross_attention",
                                    num_classes=num_classes)
        if self.has_two_times:
            self.lead_mlp = time_layers(hidden_size, last_bias=False)

    def blocks_to_shard(self) -> list[nn.Module]:
        """What FSDP2 gathers one after the other."""
        return self.unet.blocks_to_shard()

    def bottleneck_size(self, size: int) -> int:
        """As in `networks.unet.UNet`, of the fine images."""
        return self.unet.bottleneck_size(size // self.patches[0])

    def forward(self, x, t, labels: torch.Tensor | None = None):
        """The velocity, shaped as x. t: [B] per time, 0 noise ... 1 image; labels: int64 [B], 0...K, or None for the
        null class K."""
        xs = [x] if self.image_sizes is None else x
        if labels is None:
            labels = torch.full((len(xs[0]),), self.num_classes, device=xs[0].device)
        times = [NOISIEST_TIME * (1 - time) for time in (t if self.has_two_times else [t])]
        of_time = self.unet.time_mlp(times[0])
        if self.has_two_times:
            of_time = of_time + (self.lead_mlp(times[1]) - self.lead_mlp(times[0]))
        pixels = torch.cat([F.pixel_unshuffle(of_scale, patch) for of_scale, patch in zip(xs, self.patches)], dim=1)
        output = self.unet.last_layer(pixels, of_time, labels).to(xs[0].dtype)
        outputs = [F.pixel_shuffle(part, patch)
                   for part, patch in zip(output.split(self.num_channels, dim=1), self.patches)]
        return outputs[0] if self.image_sizes is None else outputs


def check_unet(sides: list[int], patch_size: int, hidden_size: int, bands: bool = False) -> None:
    """Raises InputError for sides or widths that do not divide. sides: of images or latents, the coarse one last."""
    if hidden_size % NUM_GROUPS:
        raise InputError(f"--hidden_size: found {hidden_size} with --network unet, expected a multiple of {NUM_GROUPS}")
    if bands:
        check_side(sides[0], "--image_size")
    if len(sides) > 1 and patch_size % 2:
        raise InputError(f"--patch_size: found {patch_size} with --scales and --network unet, expected an even number: "
                         "a patch of the coarse scale is half as wide")
    factor = patch_size * 2 ** (len(UNET_MULTIPLIERS) - 1)
    if sides[0] % factor:
        raise InputError(f"--patch_size: found {patch_size} with --network unet, which halves its patches once, so the "
                         f"side must be a multiple of {factor}; found {sides[0]}")
