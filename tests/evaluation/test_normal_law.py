"""Images of the normal law: their moments, and that each depends on its number alone."""
import numpy as np
import pytest
import torch

from evaluation import normal_law
from engine.errors import InputError


def few_images() -> np.ndarray:
    """Six images of little contrast, so that no draw is clipped."""
    return np.random.default_rng(0).integers(100, 156, (6, 3, 64, 64)).astype(np.uint8)


def test_mean_and_covariance_are_those_of_the_images():
    images = few_images()
    drawn = normal_law.draw(images, 1200, seed=1).double().flatten(1)
    flat = torch.from_numpy(images).double().flatten(1)
    rounding = 1 / 12
    standard_error = (flat.var(0) / 1200).sqrt()
    assert ((drawn.mean(0) - flat.mean(0)).abs() < 5 * standard_error + 0.05).all()
    for a, b in ((0, 0), (5, 5), (0, 5), (17, 4000)):
        expected = torch.cov(flat[:, [a, b]].T) if a != b else flat[:, a].var()
        found = torch.cov(drawn[:, [a, b]].T) if a != b else drawn[:, a].var() - rounding
        scale = (flat[:, a].var() * flat[:, b].var()).sqrt()
        assert ((found - expected).abs() < 6 * scale * (2 / 1200)**0.5).all()


def test_their_variance_over_all_pixels_tells_the_right_divisor():
    """Six images have five degrees of freedom: the total variance of 1,200 draws is known to about two per cent."""
    flat = torch.from_numpy(few_images()).double().flatten(1)
    drawn = normal_law.draw(few_images(), 1200, seed=6).double().flatten(1)
    total = (drawn.var(0) - 1 / 12).sum()
    assert abs(total / flat.var(0).sum() - 1) < 0.07


def test_one_image_has_no_covariance():
    with pytest.raises(InputError, match="found 1 image, expected at least 2"):
        normal_law.draw(few_images()[:1], 3, seed=0)


def test_they_lie_in_the_span_of_the_images():
    images = few_images()
    flat = torch.from_numpy(images).double().flatten(1)
    directions = torch.linalg.qr((flat - flat.mean(0)).T)[0][:, :5]
    differences = normal_law.draw(images, 20, seed=2).double().flatten(1) - flat.mean(0)
    beside = differences - differences @ directions @ directions.T
    assert beside.square().mean() < 1.2 / 12                    # rounding to grey levels alone


def test_grey_images_of_another_size_have_their_law_too():
    images = few_images()[:, :1, :28, :28]
    drawn = normal_law.draw(images, 400, seed=4)
    assert drawn.shape == (400, 1, 28, 28) and drawn.dtype == torch.uint8
    assert (drawn.double().mean() - torch.from_numpy(images).double().mean()).abs() < 1


def test_an_image_depends_on_seed_and_number_alone(monkeypatch):
    many = normal_law.draw(few_images(), 5, seed=3)
    monkeypatch.setattr(normal_law, "IMAGES_PER_CHUNK", 2)
    again = normal_law.draw(few_images(), 3, seed=3)
    assert ((many[:3].int() - again.int()).abs() <= 1).all()    # sums of another length may round otherwise
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(many, normal_law.draw(few_images(), 5, seed=4))
