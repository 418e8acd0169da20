"""Images of the Gaussian with the mean and covariance of a set of images: what can be drawn without any network.

They have the second moments of the set, up to the clipping to grey levels, and no other structure. A model that scores
no better has learned second moments only, as far as the metric can tell.
"""
import math

import torch

from engine.chunks import in_chunks
from engine.errors import InputError
from engine.sampling import from_uint8, to_uint8
from engine.seeds import NORMAL_LAW, seeded_generator

IMAGES_PER_CHUNK = 500


def draw(images, num_images: int, seed: int) -> torch.Tensor:
    """Images of the Gaussian: uint8 [num_images, C, H, W]. Up to rounding, image k depends on the set, the seed and k
    alone.

    images: uint8 [N, C, H, W]. With standard normal w_n, mean + sum_n w_n (x_n - mean) / sqrt(N - 1) has exactly
    their mean and covariance, until it is clipped. Raises InputError for fewer than two images.
    """
    if len(images) < 2:
        raise InputError(f"--reference_split: found {len(images)} image, expected at least 2, which have a covariance")
    parts = [draw_numbers(images, range(start, min(start + IMAGES_PER_CHUNK, num_images)), seed)
             for start in range(0, num_images, IMAGES_PER_CHUNK)]
    return torch.cat(parts)


def draw_numbers(images, numbers: range, seed: int) -> torch.Tensor:
    """The images of `draw` with those numbers: uint8 [len(numbers), C, S, S]."""
    weights = torch.stack([torch.randn(len(images), generator=seeded_generator(seed, NORMAL_LAW, k)) for k in numbers])
    weights -= weights.mean(dim=1, keepdim=True)            # so that x_n may stand in the sum in place of x_n - mean
    weights = weights / (len(images) - 1)**0.5 + 1 / len(images)
    drawn, start = torch.zeros(len(numbers), math.prod(images.shape[1:])), 0
    for chunk in in_chunks(images, IMAGES_PER_CHUNK):
        drawn += weights[:, start:start + len(chunk)] @ from_uint8(chunk).flatten(1)
        start += len(chunk)
    return to_uint8(drawn.unflatten(1, tuple(images.shape[1:])))
