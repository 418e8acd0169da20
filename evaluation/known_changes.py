"""Known changes of images, which a score should notice.

Each takes uint8 images [N, C, H, W] and returns as many of the same shape. Its random draws depend on the seed and on
the image's place.
"""
import dataclasses
import time

import numpy as np
import torch
import torch.nn.functional as F

from engine.errors import InputError
from engine.seeds import NOISE_CHANGE, PATCH_CHANGE, seeded_generator
from evaluation import fid, lite_features, normal_law

NUM_TIMED = 200


def as_grey_levels(x: torch.Tensor) -> torch.Tensor:
    """Any numbers, rounded and clipped to 0...255 -> uint8."""
    return x.round().clamp(0, 255).to(torch.uint8)


def with_noise(images: torch.Tensor, grey_levels: float, seed: int = 0) -> torch.Tensor:
    """White normal noise of that standard deviation added to every channel of every pixel: uint8 [N, C, H, W] -> the
    same shape and type. Image k has its own noise, from the seed and k."""
    noise = torch.stack([torch.randn(image.shape, generator=seeded_generator(seed, NOISE_CHANGE, k))
                         for k, image in enumerate(images)])
    return as_grey_levels(images.float() + grey_levels * noise)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Resized to half the side and back, bilinear with antialias: uint8 [N, C, H, W] -> the same."""
    half = F.interpolate(images.float(), scale_factor=0.5, mode="bilinear", antialias=True)
    return as_grey_levels(F.interpolate(half, size=images.shape[2:], mode="bilinear", antialias=True))


def with_shuffled_patches(images: torch.Tensor, per_side: int = 4, seed: int = 0) -> torch.Tensor:
    """Cut into per_side x per_side equal patches, which change places at random: [N, C, H, W] -> the same. Raises
    InputError where a side does not divide."""
    height, width = images.shape[2:]
    if height % per_side or width % per_side:
        raise InputError(f"shuffled patches: found images of {height}x{width}, expected a multiple of {per_side}")
    patches = images.unflatten(3, (per_side, -1)).unflatten(2, (per_side, -1))      # [N, C, P, h, P, w]
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)                       # [N, P P, C, h, w]
    moved = torch.stack([of_image[torch.randperm(per_side**2, generator=seeded_generator(seed, PATCH_CHANGE, k))]
                         for k, of_image in enumerate(patches)])
    return moved.unflatten(1, (per_side, per_side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def places_repeated(num_images: int, num_different: int) -> torch.Tensor:
    """The first `num_different` places again and again, equally often up to one: int64 [num_images]."""
    return torch.arange(num_images) % num_different


# Name -> change. First the changes that make other images; then those that repeat images: how many differ, of so many.
CHANGED = {"none": lambda images: images,
           "noise of 5 grey levels": lambda images: with_noise(images, 5),
           "noise of 20 grey levels": lambda images: with_noise(images, 20),
           "half the side and back": blurred,
           "16 patches shuffled": with_shuffled_patches,
           "normal law of the pixels": lambda images: normal_law.draw(images, len(images), 0)}
REPEATED = {"half of the images, twice": lambda num_images: num_images // 2,
            "100 images, again and again": lambda num_images: 100}


# What EfficientNet-Lite0's distances make of them

def candidates_and_reference(image_set, num_reference: int):
    """(data.ImageSet of candidates, of `num_reference` others), shuffled, each known by a content hash of its own."""
    order = np.random.default_rng(0).permutation(len(image_set))
    return tuple(dataclasses.replace(image_set, images=image_set.images[part], labels=None,
                                     content_hash=f"{image_set.content_hash}-{name}-{num_reference}")
                 for name, part in (("candidates", order[:-num_reference]), ("reference", order[-num_reference:])))


def changed(candidates, change: str, num_images: int):
    """data.ImageSet of the first candidates after one of CHANGED."""
    images = CHANGED[change](torch.from_numpy(candidates.images[:num_images]))
    return dataclasses.replace(candidates, images=images, content_hash="-".join(
        [candidates.content_hash, str(num_images), *change.split()]))


def images_per_second(lite: lite_features.Lite0, images) -> float:
    """How many images' features a second, of uint8 images [N, C, H, W]."""
    lite.features(torch.from_numpy(images[:50]))
    start = time.perf_counter()
    for _ in fid.features_of(images[:NUM_TIMED], lite):
        pass
    return len(images[:NUM_TIMED]) / (time.perf_counter() - start)


def scores(features: torch.Tensor, reference: torch.Tensor, statistics: fid.FeatureStatistics,
           lite: lite_features.Lite0) -> dict[str, float]:
    """All scores of features [N, 1280] against those of the reference [M, 1280] and their statistics."""
    distance = fid.fid(fid.FeatureStatistics(lite.num_features).add(features), statistics)
    kernel, error = fid.kid(features, reference)
    precision, recall = fid.precision_recall(features, reference)
    return {"fd_lite0": distance, "kd_lite0": kernel, "kd_standard_error": error, "precision": precision,
            "recall": recall, **lite_features.class_shares(lite.first_guesses(features))}
