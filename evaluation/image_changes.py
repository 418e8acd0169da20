"""Known changes of images: what a score should notice, and by how much more of one than of another.

Each takes uint8 images [N, C, H, W] and gives as many of the same kind; draws come from the seed and the image's place.
"""
import torch
import torch.nn.functional as F

from engine.errors import InputError
from engine.seeds import NOISE_CHANGE, PATCH_CHANGE, seeded_generator


def as_grey_levels(x: torch.Tensor) -> torch.Tensor:
    """Any numbers, rounded and clipped to 0...255 -> uint8."""
    return x.round().clamp(0, 255).to(torch.uint8)


def with_noise(images: torch.Tensor, grey_levels: float, seed: int = 0) -> torch.Tensor:
    """White normal noise of that standard deviation added to every channel of every pixel."""
    noise = torch.stack([torch.randn(image.shape, generator=seeded_generator(seed, NOISE_CHANGE, k))
                         for k, image in enumerate(images)])
    return as_grey_levels(images.float() + grey_levels * noise)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Resized to half the side and back, bilinear with antialias."""
    half = F.interpolate(images.float(), scale_factor=0.5, mode="bilinear", antialias=True)
    return as_grey_levels(F.interpolate(half, size=images.shape[2:], mode="bilinear", antialias=True))


def with_shuffled_patches(images: torch.Tensor, per_side: int = 4, seed: int = 0) -> torch.Tensor:
    """Cut into per_side x per_side equal patches, which change places at random. Raises InputError where a side does
    not divide."""
    height, width = images.shape[2:]
    if height % per_side or width % per_side:
        raise InputError(f"shuffled patches: found images of {height}x{width}, expected a multiple of {per_side}")
    patches = images.unflatten(3, (per_side, -1)).unflatten(2, (per_side, -1))      # [N, C, P, h, P, w]
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)                       # [N, P P, C, h, w]
    moved = torch.stack([of_image[torch.randperm(per_side**2, generator=seeded_generator(seed, PATCH_CHANGE, k))]
                         for k, of_image in enumerate(patches)])
    return moved.unflatten(1, (per_side, per_side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def places_repeated(num_images: int, num_different: int) -> torch.Tensor:
    """int64 [num_images]: the first `num_different` places again and again, each as often as any other up to one."""
    return torch.arange(num_images) % num_different
