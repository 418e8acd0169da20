"""Sliced Wasserstein distance on patches of a Laplacian pyramid: a metric that needs no weights, one value per scale.

Karras et al. 2018 (Progressive growing of GANs), section 5. Each image becomes a Laplacian pyramid: 64 pixels give
levels of 64, 32 and 16, and 28 pixels give 28 and 14; the last level is the low-pass rest. 128 random 7x7 patches with
all channels are cut from every level of every image. The patches of a set are normalised, per colour channel, by their
own mean and standard deviation. The distance of two sets is the mean, over 512 random directions, of the Wasserstein-1
distance of the patches' projections, times 1000 as is customary. Since each set is normalised by itself, the metric
does not see a level's overall brightness or contrast; it sees what the patches look like.

Two sets may have different numbers of images: each projection is kept as its quantiles at 4096 evenly spaced ranks. The
distance is the mean absolute difference of the quantiles, which is the integral of |F^-1 - G^-1| by the midpoint rule.
Finite sets of one law are not 0 apart. This floor falls with the number of images, so compare equal numbers only.
"""
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from engine.chunks import in_chunks
from engine import devices
from engine.sampling import from_uint8
from evaluation import reference_cache
from engine.errors import InputError
from evaluation.options import pyramid_levels

PATCH_SIZE = 7
PATCHES_PER_IMAGE = 128
NUM_PROJECTIONS = 512
NUM_QUANTILES = 4096
SCALE = 1000.0
IMAGES_PER_CHUNK = 256
VALUES_PER_CHUNK = 2**25                # projected values held at once: 128 MiB
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def smooth(x: torch.Tensor) -> torch.Tensor:
    """5x5 binomial filter with mirrored borders: [B, C, H, W] -> same shape (Burt and Adelson 1983)."""
    kernel = BINOMIAL.to(x).expand(x.shape[1], 1, 5)
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    x = F.conv2d(x, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, :, None], groups=x.shape[1])


def pyramid_down(x: torch.Tensor) -> torch.Tensor:
    """Smooth, then every second pixel: [B, C, S, S] -> [B, C, (S + 1) // 2, (S + 1) // 2]."""
    return smooth(x)[:, :, ::2, ::2]


def pyramid_up(x: torch.Tensor, side: int) -> torch.Tensor:
    """Zeros between the pixels, then smooth, times 4: [B, C, (side + 1) // 2, same] -> [B, C, side, side]."""
    wide = x.new_zeros(*x.shape[:2], side, side)
    wide[:, :, ::2, ::2] = x
    return 4 * smooth(wide)


def laplacian_pyramid(x: torch.Tensor) -> list[torch.Tensor]:
    """x: [B, C, S, S] -> levels of the sides `pyramid_levels(S)`; summed up again with `pyramid_up` they give x."""
    levels = []
    for side in pyramid_levels(x.shape[2])[:-1]:
        smaller = pyramid_down(x)
        levels.append(x - pyramid_up(smaller, side))
        x = smaller
    return [*levels, x]


def extract_patches(level: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """level: [B, C, S, S]; corners: int64 [B, P, 2], top left (y, x) -> patches [B * P, C, 7, 7]."""
    offsets = torch.arange(PATCH_SIZE, device=level.device)
    y = corners[:, :, 0, None, None] + offsets[:, None]                                    # [B, P, 7, 1]
    x = corners[:, :, 1, None, None] + offsets[None, :]                                    # [B, P, 1, 7]
    image = torch.arange(len(level), device=level.device)[:, None, None, None]
    patches = level.permute(0, 2, 3, 1)[image, y, x]                                       # [B, P, 7, 7, C]
    return patches.flatten(0, 1).permute(0, 3, 1, 2)


def normalise_channels(patches: torch.Tensor) -> torch.Tensor:
    """[M, C, 7, 7] -> the same with mean 0 and standard deviation 1 per channel, in place; a constant channel is 0."""
    for channel in patches.unbind(1):
        channel -= channel.mean(dtype=torch.float64).float()
        deviation = channel.square().mean(dtype=torch.float64).sqrt().float()
        channel /= torch.where(deviation > 0, deviation, 1)
    return patches


def random_directions(num_projections: int, num_values: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors, uniform on the sphere: float32 [num_values, num_projections]."""
    directions = np.random.default_rng([seed, num_values]).standard_normal((num_values, num_projections))
    return torch.from_numpy((directions / np.linalg.norm(directions, axis=0)).astype(np.float32))


def quantiles(values: torch.Tensor, num_quantiles: int = NUM_QUANTILES) -> torch.Tensor:
    """The values at ranks (q + 1/2) / num_quantiles of each row's sorted values: [R, M] -> [R, num_quantiles]."""
    # numpy sorts with vector instructions, some ten times faster than torch on a CPU
    ordered = values.sort(dim=1).values if values.is_cuda else torch.from_numpy(np.sort(values.numpy(), axis=1))
    ranks = (2 * torch.arange(num_quantiles, device=values.device) + 1) * values.shape[1] // (2 * num_quantiles)
    return ordered[:, ranks]


def wasserstein_1d(quantiles_a: torch.Tensor, quantiles_b: torch.Tensor) -> torch.Tensor:
    """Wasserstein-1 distance of one-dimensional laws from quantiles at the same ranks: [R, Q], [R, Q] -> [R]."""
    return (quantiles_a - quantiles_b).abs().mean(dim=1, dtype=torch.float64)


def projected_quantiles(descriptors: torch.Tensor, num_projections: int = NUM_PROJECTIONS, seed: int = 0,
                        num_quantiles: int = NUM_QUANTILES) -> torch.Tensor:
    """Quantiles of the descriptors' projections on random directions: [M, D] -> float32 [num_projections, Q]."""
    directions = random_directions(num_projections, descriptors.shape[1], seed).to(descriptors.device)
    size = max(1, VALUES_PER_CHUNK // len(descriptors))
    return torch.cat([quantiles((descriptors @ part).T.contiguous(), num_quantiles)
                      for part in directions.split(size, dim=1)])


@torch.no_grad()
@devices.exact_float32()
def distance_of_images(images: torch.Tensor, others: torch.Tensor, num_projections: int = NUM_PROJECTIONS) -> float:
    """Sliced Wasserstein-1 distance of whole images of any size: uint8 [N, C, H, W] and [M, C, H, W].

    Values are in [-1, 1]. Images that are brighter by d are 0.8 d apart: d times the mean of |N(0, 1)|. The distance
    sees brightness, contrast and large shapes. Use it to follow a training, not to compare models.
    """
    found = [projected_quantiles(from_uint8(part).flatten(1).cpu(), num_projections) for part in (images, others)]
    return float(wasserstein_1d(*found).mean())


@torch.no_grad()
@devices.exact_float32()
def profile(images, *, patches_per_image: int = PATCHES_PER_IMAGE, num_projections: int = NUM_PROJECTIONS,
            seed: int = 0, device="cpu", progress: str | None = None) -> dict[int, torch.Tensor]:
    """What the distance needs of a set of images: level -> quantiles, float32 [num_projections, 4096].

    images: uint8 [N, C, S, S] with S at least 7, array or tensor. Patches of image k are at the same places in every
    set, so equal sets are exactly 0 apart. One level's patches are in memory at a time: N * patches_per_image * 49 C
    floats. progress: title of a progress bar. Raises InputError for other shapes.
    """
    if len(images) < 1 or images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[2] < PATCH_SIZE:
        raise InputError(f"sliced Wasserstein distance: found images of shape {list(images.shape)}, expected "
                         f"[N, C, S, S] with N >= 1 and S >= {PATCH_SIZE}")
    levels, channels = pyramid_levels(images.shape[2]), images.shape[1]
    result = {}
    starts = range(0, len(images), IMAGES_PER_CHUNK)
    with tqdm(total=len(levels) * len(starts), desc=progress, disable=progress is None) as bar:
        for depth, size in enumerate(levels):
            random = np.random.default_rng([seed, size])
            patches = torch.empty(len(images) * patches_per_image, channels, PATCH_SIZE, PATCH_SIZE, device=device)
            for start, chunk in zip(starts, in_chunks(images, IMAGES_PER_CHUNK)):
                level = laplacian_pyramid(chunk.to(device).float())[depth]
                corners = random.integers(0, size - PATCH_SIZE + 1, (len(chunk), patches_per_image, 2))
                first = start * patches_per_image
                patches[first:first + len(chunk) * patches_per_image] = extract_patches(
                    level, torch.from_numpy(corners).to(device))
                bar.update()
            descriptors = normalise_channels(patches).flatten(1)                            # [M, 49 C]
            result[size] = projected_quantiles(descriptors, num_projections, seed).cpu()
    return result


def distance(profile_a: dict[int, torch.Tensor], profile_b: dict[int, torch.Tensor]) -> dict[str, float]:
    """swd_SIDE of each level, such as 64, 32 and 16, and their mean, swd; all times 1000. Both profiles must have been
    made with the same settings. Raises InputError for images of two sizes."""
    if list(profile_a) != list(profile_b):
        raise InputError(f"sliced Wasserstein distance: found levels of {list(profile_a)} and of {list(profile_b)} "
                         "pixels, expected images of one size")
    values = {f"swd_{size}": SCALE * float(wasserstein_1d(profile_a[size], profile_b[size]).mean())
              for size in profile_a}
    return {"swd": sum(values.values()) / len(values), **values}


def sliced_wasserstein(images_a, images_b, **settings) -> dict[str, float]:
    """The distances of two sets of images, uint8 [N, C, S, S] and [M, C, S, S]; settings as in `profile`."""
    return distance(profile(images_a, **settings), profile(images_b, **settings))


def reference_profile(image_set, cache_dir, *, patches_per_image: int = PATCHES_PER_IMAGE, device="cpu"):
    """The profile of all real images, computed once. image_set: data.ImageSet."""
    settings = f"{patches_per_image} patches, {NUM_PROJECTIONS} projections, {NUM_QUANTILES} quantiles, seed 0"
    return reference_cache.load_or_compute(
        cache_dir, image_set, "swd", settings,
        lambda: profile(image_set.images, patches_per_image=patches_per_image, device=device,
                        progress="patches of the reference"))
