"""A linear denoiser of images at both scales, close to the best linear one, and the deviation of its error.

It assumes that the cosine coefficients of an image's three principal colours are independent. In photographs they
nearly are (Ahmed, Natarajan and Rao 1974), so the coefficients' means and variances suffice. The best linear estimate
of a coefficient is the mean of the prior and of every noised view, weighted by precision. The variance of its error is
one over the sum of the precisions (Wiener 1949). With two scales, the coefficients of the same frequency are combined.
The 2x2 mean also folds higher frequencies into a coefficient of the 32 scale; this part counts as noise.

A network may put out what this denoiser leaves, in units of its error's deviation (`noises`); zeros mean the denoiser
itself. With one scale, and for images whose coefficients all have mean 0 and variance 1, such an output is v up to the
sign. So this is the preconditioning of Karras et al. (2022, equation 7), with a deviation of its own for each
frequency.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from networks.scales import downsample_to_32
from engine.chunks import in_chunks
from engine.sampling import from_uint8
from scheduler import predict_eps

SIZES = (64, 32)
ROUNDING_VARIANCE = (2 / 255)**2 / 12                   # of a grey level: no coefficient is known better than that
IMAGES_PER_CHUNK = 500


def cosine_matrix(size: int) -> torch.Tensor:
    """The orthonormal cosine transform of type II: float64 [frequency, place]."""
    frequency, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    cosines = torch.cos(math.pi * frequency * (place + 0.5) / size) * math.sqrt(2 / size)
    cosines[0] /= math.sqrt(2)
    return cosines


def gain_of_coarse() -> torch.Tensor:
    """The factor from a coefficient of the 64 scale to the same coefficient of its 2x2 mean: [32, 32].

    In each direction, the mean of two neighbours multiplies a cosine of frequency k by cos(pi k / 128), and half as
    many places divide its coefficient by sqrt(2).
    """
    one = torch.cos(math.pi * torch.arange(32, dtype=torch.float64) / 128) / math.sqrt(2)
    return one[:, None] * one


def fold_of_means(size: int = 64) -> torch.Tensor:
    """The orthonormal 2-mean in one direction, sqrt(2) times it, from cosine coefficients to cosine coefficients:
    float64 [size / 2, size].

    It leaves cos(pi k / (2 size)) of frequency k and -sin of the same angle of size - k, which looks like k at half as
    many places.
    """
    places = torch.arange(size // 2)
    pairs = torch.zeros(size // 2, size, dtype=torch.float64)
    pairs[places, 2 * places] = pairs[places, 2 * places + 1] = math.sqrt(0.5)
    return cosine_matrix(size // 2) @ pairs @ cosine_matrix(size).T


def estimate_of_parts(coefficients: torch.Tensor, mean: torch.Tensor, precision: torch.Tensor, amplitudes, snrs):
    """(coefficients, deviation) of the clean image: float64 [B, C, S, S], from one whose two orthogonal parts have
    noise levels of their own (`networks.bands`).

    coefficients: of the noised image, float64 [B, C, S, S]; mean, precision: of the clean one's, [C, S, S]; amplitudes,
    snrs: a / s^2 and a^2 / s^2 of the fine part's levels and of the coarse one's, float64 [B, 1, 1, 1].

    Each coefficient of the coarse part is one of four of the image, that of the frequency itself and those of the
    three that the 2x2 mean folds down to it. So the precision of the image is diagonal but for a rank of one in each
    such four, U (SNR_32 - SNR_64) U^T, which is inverted in closed form (Sherman and Morrison 1950).
    """
    fold = fold_of_means(coefficients.shape[-1]).to(coefficients.device)                    # U^T in one direction

    def folded(values, matrix):
        return F.linear(F.linear(values, matrix).transpose(2, 3), matrix).transpose(2, 3)

    weighted = mean * precision + amplitudes[0] * coefficients + folded(
        (amplitudes[1] - amplitudes[0]) * folded(coefficients, fold), fold.T)
    diagonal = precision + snrs[0]
    gain = snrs[1] - snrs[0]
    gain = gain / (1 + gain * folded(1 / diagonal, fold.square()))                          # [B, C, S / 2, S / 2]
    estimate = weighted / diagonal - folded(gain * folded(weighted / diagonal, fold), fold.T) / diagonal
    variance = 1 / diagonal - folded(gain, fold.square().T) / diagonal.square()
    return estimate, variance.sqrt()


def principal_colors(images) -> torch.Tensor:
    """Eigenvectors of the covariance of the pixels' colours, least variance first: float64 [C, C], one in each row.

    images: uint8 [N, C, S, S].
    """
    total, products, count = 0.0, 0.0, 0
    for chunk in in_chunks(images, IMAGES_PER_CHUNK):
        pixels = from_uint8(chunk).double().transpose(0, 1).flatten(1)      # [C, B * S * S]
        total, products, count = total + pixels.sum(1), products + pixels @ pixels.T, count + pixels.shape[1]
    mean = total / count
    return torch.linalg.eigh((products / count - mean[:, None] * mean).cpu())[1].T


class CosineTransform(nn.Module):
    """The orthonormal cosine transform of an image's principal colours, and back; float64, also under autocast.

    Buffer `colors` [channels, channels]: a principal colour per row, the identity before it is fitted.
    """

    def __init__(self, sizes: tuple[int, ...], channels: int = 3):
        super().__init__()
        self.register_buffer("colors", torch.eye(channels))
        for size in sizes:
            self.register_buffer(f"cosines_{size}", cosine_matrix(size), persistent=False)

    def transformed(self, x: torch.Tensor, cosines: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
        """x [B, C, S, S] with its colours mixed by `colors` [C, C] and both directions by `cosines` [S, S]: float64."""
        x = F.linear(F.conv2d(x.to(torch.float64), colors.double()[:, :, None, None]), cosines)
        return F.linear(x.transpose(2, 3), cosines).transpose(2, 3)

    def coefficients(self, x: torch.Tensor) -> torch.Tensor:
        """The cosine coefficients of an image's principal colours: [B, C, S, S] -> float64, same shape."""
        return self.transformed(x, getattr(self, f"cosines_{x.shape[-1]}"), self.colors)

    def image(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Coefficients [B, C, S, S] -> images of that shape: inverse of `coefficients`."""
        return self.transformed(coefficients, getattr(self, f"cosines_{coefficients.shape[-1]}").T, self.colors.T)


class LinearDenoiser(CosineTransform):
    """Estimates of the clean images from one noised image or two, in float64, also under autocast.

    Buffers, of images in [-1, 1]: `colors` [3, 3] has a principal colour per row. `mean_64`, `variance_64` [3, 64, 64]
    and `mean_32`, `variance_32` [3, 32, 32] belong to the coefficients [colour, vertical frequency, horizontal
    frequency]. `slope` and `rest_variance` [3, 32, 32] belong to the regression of a coefficient at 32 on the same one
    at 64. Before `fit` all of them describe white noise at 64.
    """

    def __init__(self):
        super().__init__(SIZES)
        for size in SIZES:
            self.register_buffer(f"mean_{size}", torch.zeros(3, size, size))
            self.register_buffer(f"variance_{size}", torch.full((3, size, size), (size / 64)**2))
        gain = gain_of_coarse().expand(3, 32, 32)
        self.register_buffer("slope", gain.float())
        self.register_buffer("rest_variance", (self.variance_32 - gain**2).float())

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Take colours and moments from images: uint8 [N, 3, 64, 64], on any device."""
        device = self.colors.device
        self.colors.copy_(principal_colors(images))
        sums = {name: 0.0 for name in ("64", "32", "64 64", "32 32", "64 32")}
        for chunk in in_chunks(images, IMAGES_PER_CHUNK):
            x_64 = from_uint8(chunk.to(device)).double()
            fine, coarse = self.coefficients(x_64), self.coefficients(downsample_to_32(x_64))
            for name, values in (("64", fine), ("32", coarse), ("64 64", fine.square()), ("32 32", coarse.square()),
                                 ("64 32", fine[:, :, :32, :32] * coarse)):
                sums[name] = sums[name] + values.sum(0)
        mean = {name: total / len(images) for name, total in sums.items()}
        variance = {size: (mean[f"{size} {size}"] - mean[size]**2).clamp(min=ROUNDING_VARIANCE)
                    for size in ("64", "32")}
        covariance = mean["64 32"] - mean["64"][:, :32, :32] * mean["32"]
        self.slope.copy_(covariance / variance["64"][:, :32, :32])
        self.rest_variance.copy_((variance["32"] - covariance * self.slope).clamp(min=0))
        for size in ("64", "32"):
            getattr(self, f"mean_{size}").copy_(mean[size])
            getattr(self, f"variance_{size}").copy_(variance[size])

    def prior(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, precision) of the coefficients at that size: float64 [3, size, size]."""
        return getattr(self, f"mean_{size}").double(), 1 / getattr(self, f"variance_{size}").double()

    def estimate(self, size: int, views) -> tuple[torch.Tensor, torch.Tensor]:
        """(coefficients, precision): float64 [B, 3, size, size], from noised views of the same image.

        views: (z, amplitude, variance): z = amplitude times the coefficients plus noise of that variance, each of a
        shape that fits [B, 3, size, size].
        """
        mean, precision = self.prior(size)
        weighted = mean * precision
        for z, amplitude, variance in views:
            weighted = z * (amplitude / variance) + weighted
            precision = precision + amplitude**2 / variance
        return weighted / precision, precision

    def coarse_view(self, x_32: torch.Tensor, abar_32: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x_32 as a noised view of the 32 x 32 lowest frequencies of the 64 scale's coefficients.

        The part of its coefficients that these do not explain counts as noise, of known mean and variance. Returns the
        view, its amplitude and its noise's variance, each padded to 64 x 64 frequencies.
        """
        amplitude = abar_32.sqrt() * self.slope.double()
        z = self.coefficients(x_32) - abar_32.sqrt() * self.mean_32.double() + amplitude * self.mean_64[:, :32, :32]
        variance = 1 - abar_32 + abar_32 * self.rest_variance
        return F.pad(z, (0, 32, 0, 32)), F.pad(amplitude, (0, 32, 0, 32)), F.pad(variance, (0, 32, 0, 32), value=1.0)

    def estimates(self, xs, abars) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(coefficients of the clean image, their precision) per scale: float64 [B, 3, S, S] each.

        xs: x_64, or x_64 and x_32; abars: float64 [B] for each. With two, each is a view of the other's clean image
        too: the 2x2 mean of x_64 is a view of x_0_32 with a quarter of the noise's variance.
        """
        x_64, abar_64 = xs[0], abars[0][:, None, None, None]
        of_64 = [(self.coefficients(x_64), abar_64.sqrt(), 1 - abar_64)]
        if len(xs) == 1:
            return [self.estimate(64, of_64)]
        x_32, abar_32 = xs[1], abars[1][:, None, None, None]
        of_64.append(self.coarse_view(x_32, abar_32))
        of_32 = [(self.coefficients(x_32), abar_32.sqrt(), 1 - abar_32),
                 (self.coefficients(downsample_to_32(x_64)), abar_64.sqrt(), (1 - abar_64) / 4)]
        return [self.estimate(64, of_64), self.estimate(32, of_32)]

    def estimate_of_bands(self, x: torch.Tensor, abar_64: torch.Tensor, abar_32: torch.Tensor):
        """`estimate_of_parts` of a noised image x [B, 3, 64, 64]. abars: float64 [B]."""
        amplitudes = [(abar.sqrt() / (1 - abar))[:, None, None, None] for abar in (abar_64, abar_32)]
        snrs = [(abar / (1 - abar))[:, None, None, None] for abar in (abar_64, abar_32)]
        return estimate_of_parts(self.coefficients(x), *self.prior(64), amplitudes, snrs)

    def clean_of_bands(self, output: torch.Tensor, x: torch.Tensor, abar_64, abar_32) -> torch.Tensor:
        """The clean image that a network's output means, float64: the linear estimate plus output times deviation,
        coefficient by coefficient. The rest as in `estimate_of_bands`."""
        estimate, deviation = self.estimate_of_bands(x, abar_64, abar_32)
        return self.image(estimate + self.coefficients(output) * deviation)

    def noises(self, outputs, xs, abars) -> list[torch.Tensor]:
        """The noise per scale that a network's outputs mean, float64: the clean image is the linear estimate plus
        output times deviation, coefficient by coefficient.

        outputs, xs: [B, 3, S, S] per scale, 64 first; abars: float64 [B] per scale.
        """
        noises = []
        for output, x, abar, (estimate, precision) in zip(outputs, xs, abars, self.estimates(xs, abars)):
            noises.append(predict_eps(x, self.image(estimate + self.coefficients(output) / precision.sqrt()), abar))
        return noises
