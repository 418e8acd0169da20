"""One image in two orthogonal parts, each with a noise level of its own.

The coarse part P x is the 2x2 mean, put back on its four pixels; the fine part is the rest, (1 - P) x. P is an
orthogonal projection, so white noise e falls into two independent parts too, and

    x_t = P (a_32 x_0 + s_32 e) + (1 - P) (a_64 x_0 + s_64 e)

is one image with two noise levels. Nothing is in it twice, and at equal levels it is a x_0 + s e. The numbers 64 and 32
name the fine and the coarse part, as they name the two scales elsewhere.

For the sampler the coarse part has orthonormal coordinates, twice the 2x2 mean, so its noise is standard normal. The
fine part keeps the image's shape; `joined` ignores any coarse part within it. So standard normal noise of both shapes
is noise of the parts, and every solver works as with two scales.
"""
import torch
import torch.nn.functional as F

from engine.denoiser import OutputDenoiser
from engine.errors import InputError
from scheduler import NoiseProcess, per_image


def coarse_part(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal coordinates of P x, twice the 2x2 mean: [B, C, S, S] -> [B, C, S / 2, S / 2]."""
    return 2 * F.avg_pool2d(x, 2)


def from_coarse(coarse: torch.Tensor) -> torch.Tensor:
    """The image P x with those coordinates: [B, C, S / 2, S / 2] -> [B, C, S, S]."""
    return F.interpolate(coarse, scale_factor=2, mode="nearest") / 2


def split(x: torch.Tensor) -> list[torch.Tensor]:
    """[(1 - P) x, coordinates of P x]: [B, C, S, S] and [B, C, S / 2, S / 2]. Their squares add up to those of x."""
    coarse = coarse_part(x)
    return [x - from_coarse(coarse), coarse]


def joined(fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """The image of two parts, inverse of `split`; what `fine` holds of a coarse part is left out: [B, C, S, S]."""
    return fine + from_coarse(coarse - coarse_part(fine))


def clipped_parts(fine: torch.Tensor, coarse: torch.Tensor) -> list[torch.Tensor]:
    """The parts of their image with every pixel in [-1, 1]: it is the image that is clipped, not its parts."""
    return split(joined(fine, coarse).clamp(-1, 1))


def weighted(x: torch.Tensor, weight_64, weight_32) -> torch.Tensor:
    """weight_64 (1 - P) x + weight_32 P x; at equal weights weight_64 x to the bit.

    x: [B, C, S, S]; weights: scalar tensors or [B].
    """
    weight_64, weight_32 = per_image(weight_64, x), per_image(weight_32, x)
    return weight_64 * x + (weight_32 - weight_64) * from_coarse(coarse_part(x))


def check_side(side: int, option: str) -> None:
    """Raises InputError for an image that has no 2x2 means."""
    if side % 2:
        raise InputError(f"{option}: found {side} with --bands, expected an even side, for 2x2 means")


class BandDenoiser(OutputDenoiser):
    """A network of one image with two times, as a denoiser of two scales: the fine part, and the coarse one.

    `output(network, x, ts, labels)` is what the network puts out of the joined image, [B, C, S, S].
    """

    def __init__(self, network, kind: str, shape, process: NoiseProcess, num_classes: int | None = None):
        channels, side, _ = shape
        self.network, self.kind, self.num_classes = network, kind, num_classes
        self.shapes = [(channels, side, side), (channels, side // 2, side // 2)]
        self.processes = [process, process]

    def output(self, network, x: torch.Tensor, ts, labels=None) -> torch.Tensor:
        """Of x [B, C, S, S] at times ts, [B] per part."""
        raise NotImplementedError

    def outputs(self, network, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `OutputDenoiser`: the two parts of what the network puts out."""
        return split(self.output(network, joined(*xs), ts, labels))

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        fine, coarse = super().clean(xs, ts, labels)
        return [split(fine)[0], coarse]

    def image(self, xs) -> torch.Tensor:
        """As in `Denoiser`: the two parts together."""
        return joined(*xs)

    def clipped(self, x_0s) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        return clipped_parts(*x_0s)
