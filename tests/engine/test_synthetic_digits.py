"""Drawn digits: a function of their number alone, inside their box, and different from each other."""
import hashlib

import numpy as np
import pytest

from engine import synthetic_digits as digits


def test_an_image_depends_on_its_number_alone():
    together = digits.draw_images(range(40))
    assert together.shape == (40, 1, 28, 28) and together.dtype == np.uint8
    for index in (39, 7, 23):
        assert np.array_equal(digits.draw(index), together[index])
    assert len({hashlib.sha256(image.tobytes()).digest() for image in digits.draw_images(range(500))}) == 500
    assert digits.draw(10**9 + 3).any()                                     # validation images have large numbers


def test_ink_is_white_fits_its_box_and_lies_in_the_middle():
    images = digits.draw_images(range(500))[:, 0].astype(float) / 255
    assert (images.max((1, 2)) > 0.85).all()
    border = images.copy()
    border[:, 1:-1, 1:-1] = 0
    assert (border.max((1, 2)) > 0.7).mean() < 0.01         # cut off; of MNIST's test digits, 0.009 are
    mass = images.sum((1, 2))
    for axis in (1, 2):
        centre = (images.sum(3 - axis) * np.arange(28)).sum(1) / mass
        assert abs(centre.mean() - 13.5) < 0.2 and centre.std() < 0.7
    rows = (images > 0.1).any(2).sum(1)
    assert rows.max() <= 23 and rows.mean() > 15
    assert 0.08 < images.mean() < 0.17                                      # MNIST: 0.13


def test_the_labels_say_which_digit():
    labels = digits.labels_of([0, 13, 29])
    assert labels.tolist() == [0, 3, 9] and labels.dtype == np.int64
    images, labels = digits.draw_images(range(2000)).reshape(2000, -1).astype(float), digits.labels_of(range(2000))
    means = np.stack([images[:1500][labels[:1500] == label].mean(0) for label in range(10)])
    nearest = ((images[1500:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == labels[1500:]).mean() > 0.7


@pytest.mark.parametrize("label", range(10))
def test_every_way_of_writing_is_drawn_and_its_curve_goes_through_its_points(label):
    for number, (strokes, _) in enumerate(digits.WAYS[label]):
        points, same, to_start, to_end = digits.way_as_arrays(label, number)
        assert np.allclose(to_start.sum(1), 1) and np.allclose(to_end.sum(1), 1)
        drawn = np.concatenate([to_start @ points, to_end @ points])
        assert np.abs(drawn[:, None] - points).sum(2).min(0).max() < 1e-12
        assert (points[same] == points).all()
