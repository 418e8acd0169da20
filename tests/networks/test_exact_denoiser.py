"""The exact denoiser against a loop over its images, and what it does when it is sampled from."""
import math

import pytest
import torch

from engine.sampling import from_uint8, sample, to_uint8
from networks.exact_denoiser import ExactDenoiser, nearest_images
from scheduler import CosineSteps, LinearFlow

IMAGES = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def expected(x, a, s, images):
    """By the definition, image by image."""
    points = [from_uint8(image).double() for image in images]
    logs = [-float((x - a * point).square().sum()) / (2 * s**2) for point in points]
    shares = [math.exp(log - max(logs)) for log in logs]
    return sum(share * point for share, point in zip(shares, points)) / sum(shares)


@pytest.mark.parametrize("process, times", [(LinearFlow(), [0.0, 0.3, 0.7, 0.95]),
                                            (CosineSteps(beta_max=0.9999), [999, 700, 300, 5])])
def test_against_a_loop_over_all_images(process, times):
    denoiser = ExactDenoiser(IMAGES, process, LABELS, torch.float64)
    x, t = torch.randn(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor(times)
    wanted = torch.tensor([0, 2, 1, 3])                             # 3: no class
    levels = list(zip(*process.levels(t, torch.float64)))
    for labels in (None, wanted):
        [found] = denoiser.clean([x], [t], labels)
        for k, (a, s) in enumerate(levels):
            own = IMAGES if labels is None or wanted[k] == 3 else IMAGES[LABELS == wanted[k]]
            torch.testing.assert_close(found[k], expected(x[k], float(a), float(s), own), rtol=1e-9, atol=1e-9)
    [float32] = ExactDenoiser(IMAGES, process, LABELS).clean([x.float()], [t], wanted)
    torch.testing.assert_close(float32, found.float(), rtol=1e-4, atol=1e-4)


def test_its_samples_are_the_training_images():
    process = LinearFlow()
    denoiser = ExactDenoiser(IMAGES, process, LABELS)
    labels = torch.arange(30) % 3
    drawn = to_uint8(sample(denoiser, process.uniform_path(60), 0, range(30), labels=labels, solver="midpoint").xs[0])
    distances, _ = nearest_images(drawn, IMAGES)
    assert float(distances.max()) < 0.02
    for label in range(3):
        assert float(nearest_images(drawn[labels == label], IMAGES[LABELS == label])[0].max()) < 0.02
    assert denoiser.num_evaluations == 30 * 120


def test_nearest_images():
    shifted = (IMAGES.int() + 3).clamp(0, 255).to(torch.uint8)
    distances, places = nearest_images(shifted, IMAGES, 2)
    brute = (shifted.float()[:, None] / 127.5 - IMAGES.float()[None] / 127.5).flatten(2).square().mean(2).sqrt().sort(1)
    torch.testing.assert_close(distances, brute.values[:, :2], rtol=1e-3, atol=1e-4)
    assert torch.equal(places, brute.indices[:, :2])
