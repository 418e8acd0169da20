"""The contrast of fine detail, and its kurtosis, which tells structure from even texture.

Both are measured on the band-pass levels (64 and 32 pixels of an image of 64) of the Laplacian pyramid that the sliced
Wasserstein distance uses. A margin of 4 pixels is left out: mirrored borders put a kink there, and of a smooth image it
would be most of the detail. A field of Gaussian noise, whatever its colours and however smooth, has kurtosis 3 in each
level, or a little less where few of its pixels are independent; so does what a linear denoiser makes of noise.
Photographs have more: flat regions, and edges between them (Field 1987; Ruderman 1994). The distances see both kinds of
detail mixed with much else, and the sliced Wasserstein distance sees no contrast.

Neither has a better direction: compare generated images with real ones.
"""
import torch

from engine.chunks import in_chunks
from engine import devices
from engine.errors import InputError
from evaluation.options import pyramid_levels, rows_of
from evaluation.sliced_wasserstein import laplacian_pyramid

MARGIN = 4                                              # pixels of a level, as far as two filters of 5 reach
IMAGES_PER_CHUNK = 256


def moments(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(kurtosis [B, C], standard deviation [B, C]) over the pixels of each channel: level [B, C, S, S].

    Kurtosis is the fourth central moment over the square of the second; NaN for a constant channel.
    """
    values = level.double().flatten(2)
    deviations = values - values.mean(dim=2, keepdim=True)
    variance = deviations.square().mean(dim=2)
    fourth = deviations.square().square().mean(dim=2)
    return torch.where(variance > 0, fourth / variance.square(), torch.nan), variance.sqrt()


@torch.no_grad()
@devices.exact_float32()
def statistics_of(images) -> dict[str, tuple[float, float | None]]:
    """kurtosis_SIDE and contrast_SIDE of each level -> (mean over the images, its standard error or None for one
    image).

    images: uint8 [N, C, S, S], array or tensor. Each image counts with the mean over its channels; contrast is in grey
    levels of 255. A channel without detail has no kurtosis; the mean leaves it out. Raises InputError if no
    channel has detail, or if the images are so small that they have a single level.
    """
    rows = rows_of("detail", images.shape[2])
    if not rows:
        raise InputError(f"detail: found images of shape {list(images.shape)}, expected a side of at least 27 pixels, "
                         "which has a level above the last")
    of_images = {name: [] for name in rows}
    for chunk in in_chunks(images, IMAGES_PER_CHUNK):
        for size, level in zip(pyramid_levels(images.shape[2])[:-1], laplacian_pyramid(chunk.float())):
            of_channels, deviation = moments(level[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN])
            of_images[f"kurtosis_{size}"].append(of_channels.nanmean(dim=1).cpu())
            of_images[f"contrast_{size}"].append(deviation.mean(dim=1).cpu())
    return {name: mean_and_error(torch.cat(parts), name) for name, parts in of_images.items()}


def mean_and_error(values: torch.Tensor, name: str) -> tuple[float, float | None]:
    """Mean and standard error of those of [N] that are numbers. Raises InputError for none."""
    values = values[~values.isnan()]
    if len(values) == 0:
        raise InputError(f"{name}: found no image with any detail, expected images that are not all of one colour")
    return float(values.mean()), float(values.std() / len(values)**0.5) if len(values) > 1 else None
