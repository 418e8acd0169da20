"""The best velocity that is affine in the noised image, and a network's output on top of it.

Assume that the cosine coefficients of an image's principal colours are independent and normal, with mean m and variance
sigma^2 each. Then the velocity v = x_0 - eps, given x_t = t x_0 + (1 - t) eps, is normal too, coefficient by
coefficient:

    mean m + (t sigma^2 - (1 - t)) / q * (c - t m),    variance sigma^2 / q,    q = t^2 sigma^2 + (1 - t)^2

where c is the coefficient of x_t (the conditional mean of jointly normal variables). If a network puts out the rest in
units of that deviation, its target has a variance near 1 at every frequency and every time. So this is the
preconditioning of Karras et al. (2022, equation 7) for flow matching, with a deviation of its own for each frequency.
The affine part carries the noise, which has full rank in every token; the network's tokens need not. With a time for
each of two bands the coefficients that the 2x2 mean mixes are estimated together (`networks.linear_denoiser`).
"""
import torch

from engine.chunks import in_chunks
from engine.sampling import from_uint8
from networks.bands import weighted
from networks.linear_denoiser import (IMAGES_PER_CHUNK, ROUNDING_VARIANCE, CosineTransform, estimate_of_parts,
                                      principal_colors)

LEAST_NOISE_OF_BANDS = 1e-3             # the share of noise below which a band counts as having so much


class AffineVelocity(CosineTransform):
    """Mean and deviation of the velocity given x_t, in the basis of cosines and principal colours; float64 inside.

    Buffers: `colors` [C, C], a principal colour per row; `mean`, `variance` [C, S, S] of the clean images' coefficients
    [colour, vertical frequency, horizontal frequency]. Before `fit` they are those of white noise of variance 1.
    """

    def __init__(self, image_size: int, channels: int = 3):
        super().__init__((image_size,), channels)
        self.register_buffer("mean", torch.zeros(channels, image_size, image_size))
        self.register_buffer("variance", torch.ones(channels, image_size, image_size))

    @torch.no_grad()
    def fit(self, images) -> None:
        """Take colours and moments from images: uint8 [N, C, S, S] in memory or memory-mapped."""
        self.colors.copy_(principal_colors(images))
        total, squares = 0.0, 0.0
        for chunk in in_chunks(images, IMAGES_PER_CHUNK):
            coefficients = self.coefficients(from_uint8(chunk.to(self.colors.device)))
            total, squares = total + coefficients.sum(0), squares + coefficients.square().sum(0)
        mean = total / len(images)
        self.mean.copy_(mean)
        self.variance.copy_((squares / len(images) - mean**2).clamp(min=ROUNDING_VARIANCE))

    def velocity(self, rest: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity that `rest` means; zeros mean the affine velocity itself.

        rest, x_t: [B, C, S, S]; t: [B], 0 noise ... 1 image -> [B, C, S, S], dtype of x_t.
        """
        t, mean, variance = t.double().reshape(-1, 1, 1, 1), self.mean.double(), self.variance.double()
        q = t**2 * variance + (1 - t)**2
        best = mean + (t * variance - (1 - t)) / q * (self.coefficients(x_t) - t * mean)
        return self.image(best + (variance / q).sqrt() * self.coefficients(rest)).to(x_t.dtype)

    def velocity_of_bands(self, rest: torch.Tensor, x_t: torch.Tensor, t_64: torch.Tensor, t_32: torch.Tensor):
        """As `velocity`, of an image whose fine part is at t_64 and its coarse one at t_32: (x^_0 - x_t) / (1 - t) in
        each part, with the best affine x^_0 plus `rest` in units of its deviation. At equal times it is `velocity`."""
        ts = [t.double().clamp(max=1 - LEAST_NOISE_OF_BANDS).reshape(-1, 1, 1, 1) for t in (t_64, t_32)]
        best, deviation = estimate_of_parts(self.coefficients(x_t), self.mean.double(), 1 / self.variance.double(),
                                            [t / (1 - t)**2 for t in ts], [(t / (1 - t))**2 for t in ts])
        x_0 = self.image(best + deviation * self.coefficients(rest))
        return weighted(x_0 - x_t, *((1 / (1 - t)).flatten() for t in ts)).to(x_t.dtype)
