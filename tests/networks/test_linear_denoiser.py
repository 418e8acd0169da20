"""The linear denoiser against a library's transform, conditional means of a normal law, and the v parametrization."""
import math

import numpy as np
import pytest
import scipy.fft
import torch

from engine import synthetic_faces
from baseline_model import BaselineModel
from networks.linear_denoiser import ROUNDING_VARIANCE, LinearDenoiser, cosine_matrix, gain_of_coarse
from model import LIFTDualTimestepModel
from engine.sampling import from_uint8
from networks.scales import downsample_to_32
from scheduler import CosineSteps, eps_from_v, predict_x_0

SCHEDULE = CosineSteps()


@pytest.fixture(scope="module")
def fitted() -> LinearDenoiser:
    """Fitted to procedural images."""
    denoiser = LinearDenoiser()
    denoiser.fit(torch.from_numpy(synthetic_faces.draw_images(range(60))))
    return denoiser


def drawn(denoiser: LinearDenoiser, count: int, generator) -> torch.Tensor:
    """Images of the normal law that the denoiser takes them to be of: float64 [count, 3, 64, 64]."""
    mean, precision = denoiser.prior(64)
    deviates = torch.randn(count, 3, 64, 64, generator=generator, dtype=torch.float64)
    return denoiser.image(mean + deviates / precision.sqrt())


def noised(x_0: torch.Tensor, abar: torch.Tensor, generator) -> torch.Tensor:
    noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    return abar.sqrt()[:, None, None, None] * x_0 + (1 - abar).sqrt()[:, None, None, None] * noise


def test_cosine_matrix_is_scipys_transform():
    x = np.random.default_rng(0).standard_normal((5, 32))
    assert np.allclose(x @ cosine_matrix(32).numpy().T, scipy.fft.dct(x, type=2, norm="ortho"), atol=1e-12)


def test_image_inverts_coefficients_and_keeps_lengths(fitted):
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = fitted.coefficients(x)
    assert torch.allclose(fitted.image(coefficients), x, atol=1e-6)         # the colours are kept in float32
    assert torch.allclose(coefficients.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)), rtol=1e-6)


def test_fit_takes_means_and_variances_of_uncorrelated_colours(fitted):
    images = from_uint8(torch.from_numpy(synthetic_faces.draw_images(range(60)))).double()
    for size, x in ((64, images), (32, downsample_to_32(images))):
        coefficients = fitted.coefficients(x)
        mean, precision = fitted.prior(size)
        assert torch.allclose(coefficients.mean(0), mean, atol=1e-5)
        expected = coefficients.var(0, correction=0).clamp(min=ROUNDING_VARIANCE)
        assert torch.allclose(1 / precision, expected, rtol=1e-4, atol=1e-7)
    mixed = torch.einsum("cd,bdxy->cbxy", fitted.colors.double(), images).flatten(1)
    correlation = torch.corrcoef(mixed)
    assert torch.allclose(correlation, torch.eye(3, dtype=torch.float64), atol=1e-5)


def test_gain_is_what_the_mean_of_four_pixels_leaves_of_one_coefficient():
    denoiser = LinearDenoiser()
    for row, column in ((0, 0), (3, 0), (5, 31), (20, 7)):
        coefficients = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
        coefficients[0, 1, row, column] = 1
        coarse = denoiser.coefficients(downsample_to_32(denoiser.image(coefficients)))
        expected = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
        expected[0, 1, row, column] = gain_of_coarse()[row, column]
        assert torch.allclose(coarse, expected, atol=1e-12)


def test_a_higher_frequency_folds_down():
    """Row frequency 59 of 64 places is -5 of 32, up to what the mean of two neighbours leaves of it."""
    denoiser = LinearDenoiser()
    coefficients = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    coefficients[0, 1, 59, 7] = 1
    coarse = denoiser.coefficients(downsample_to_32(denoiser.image(coefficients)))
    of_rows = -math.cos(math.pi * 59 / 128) / math.sqrt(2)
    assert coarse[0, 1, 5, 7].item() == pytest.approx(of_rows * math.cos(math.pi * 7 / 128) / math.sqrt(2), rel=1e-9)
    assert coarse.square().sum().item() == pytest.approx(coarse[0, 1, 5, 7].square().item(), rel=1e-9)


@pytest.mark.parametrize("t_64, t_32", [(900, 900), (900, 400), (400, 900), (999, 10)])
def test_errors_are_as_large_as_the_precisions_say(fitted, t_64, t_32):
    generator = torch.Generator().manual_seed(2)
    x_0 = drawn(fitted, 40, generator)
    abars = [SCHEDULE.alpha_cumprod_at(torch.full((40,), t)) for t in (t_64, t_32)]
    x_64, x_32 = noised(x_0, abars[0], generator), noised(downsample_to_32(x_0), abars[1], generator)
    (both_64, precision_64), (both_32, precision_32) = fitted.estimates([x_64, x_32], abars)
    (alone, precision_alone), = fitted.estimates([x_64], abars[:1])
    truth_64, truth_32 = fitted.coefficients(x_0), fitted.coefficients(downsample_to_32(x_0))

    def error(found, truth):
        return (found - truth).square().mean().item()
    assert error(alone, truth_64) == pytest.approx((1 / precision_alone).mean().item(), rel=0.05)
    assert error(both_64, truth_64) == pytest.approx((1 / precision_64).mean().item(), rel=0.05)
    # The 2x2 means of these images have not quite the variances that were fitted at 32, where all are correlated.
    assert error(both_32, truth_32) == pytest.approx((1 / precision_32).mean().item(), rel=0.1)
    assert error(both_64, truth_64) < error(alone, truth_64) * (0.8 if t_32 < t_64 else 1)


def test_fit_regresses_the_32_coefficients_on_those_at_64(fitted):
    """Against numpy's least squares; of images whose high frequencies are correlated with the low ones."""
    images = from_uint8(torch.from_numpy(synthetic_faces.draw_images(range(60)))).double()
    fine, coarse = fitted.coefficients(images), fitted.coefficients(downsample_to_32(images))
    for where in ((0, 0, 0), (2, 5, 1), (1, 30, 31)):
        slope, intercept = np.polyfit(fine[:, *where], coarse[:, *where], 1)
        rest = coarse[:, *where].numpy() - slope * fine[:, *where].numpy() - intercept
        assert fitted.slope[where].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)
        assert fitted.rest_variance[where].item() == pytest.approx((rest**2).mean(), rel=1e-3, abs=1e-6)


def test_estimate_is_the_conditional_mean_of_a_normal_law(fitted):
    """The 64 scale's coefficient of lowest frequency given the two that show it: the 2x2 system of equations."""
    abar_64, abar_32 = (torch.tensor([value], dtype=torch.float64) for value in (0.2, 0.6))
    generator = torch.Generator().manual_seed(5)
    x_0 = drawn(fitted, 1, generator)
    x_64, x_32 = noised(x_0, abar_64, generator), noised(downsample_to_32(x_0), abar_32, generator)
    found, precision = fitted.estimates([x_64, x_32], [abar_64, abar_32])[0]
    where = (0, 1, 3, 8)
    (mean_64, precision_64), (mean_32, precision_32) = fitted.prior(64), fitted.prior(32)
    mean, variance, slope = mean_64[where[1:]], 1 / precision_64[where[1:]], fitted.slope[where[1:]].double()
    gains = torch.cat([abar_64.sqrt(), abar_32.sqrt() * slope])
    rest = 1 / precision_32[where[1:]] - slope**2 * variance                # of frequencies that fold down to this one
    assert rest > 0
    covariance = gains[:, None] * gains * variance + torch.diag(torch.cat([1 - abar_64, 1 - abar_32 + abar_32 * rest]))
    weights = torch.linalg.solve(covariance, gains * variance)
    values = torch.stack([fitted.coefficients(x)[where] for x in (x_64, x_32)])
    means = torch.stack([abar_64[0].sqrt() * mean, abar_32[0].sqrt() * mean_32[where[1:]]])
    assert found[where].item() == pytest.approx((mean + weights @ (values - means)).item(), rel=1e-9)
    assert 1 / precision[where].item() == pytest.approx((variance - weights @ gains * variance).item(), rel=1e-9)


def test_white_noise_makes_it_the_v_parametrization():
    generator = torch.Generator().manual_seed(3)
    x, output = torch.randn(2, 2, 3, 64, 64, generator=generator).double()
    abar = SCHEDULE.alpha_cumprod_at(torch.tensor([700, 30]))
    noise, = LinearDenoiser().noises([output], [x], [abar])
    assert torch.allclose(noise, eps_from_v(x, -output, abar), atol=1e-10)


@pytest.mark.parametrize("low_precision", [False, True])
def test_a_new_residual_network_is_the_linear_denoiser(fitted, low_precision):
    """Also where the network runs in bfloat16, which would leave nothing of the clean image at the noisy end."""
    generator = torch.Generator().manual_seed(4)
    t_64, t_32 = torch.tensor([999, 200]), torch.tensor([500, 999])
    abars = [SCHEDULE.alpha_cumprod_at(t) for t in (t_64, t_32)]
    x_64, x_32 = torch.randn(2, 3, 64, 64, generator=generator), torch.randn(2, 3, 32, 32, generator=generator)
    for model, xs, ts in ((BaselineModel([8, 16], "residual"), [x_64], [t_64]),
                          (LIFTDualTimestepModel([8, 16], "residual", native_32=True), [x_64, x_32], [t_64, t_32])):
        model.linear_denoiser.load_state_dict(fitted.state_dict())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            noises = model(*xs, *ts)
        noises = [noises] if len(xs) == 1 else noises
        for noise, x, abar, (estimate, _) in zip(noises, xs, abars, fitted.estimates(xs, abars)):
            assert noise.dtype == torch.float32
            x_0 = predict_x_0(x.double(), noise.double(), abar, clip=False)
            assert torch.allclose(x_0, fitted.image(estimate), atol=1e-4)
