"""Kurtosis and contrast of the detail: closed forms, Gaussian fields, and what is undefined."""
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from evaluation import image_detail
from evaluation import results_table
from evaluation.options import rows_of
from engine.errors import InputError


def gaussian_fields(count: int, seed: int, blur: float = 0) -> np.ndarray:
    """uint8 [count, 3, 64, 64]: Gaussian noise, cut out of a larger field blurred by a Gaussian of `blur` pixels."""
    fields = np.random.default_rng(seed).standard_normal((count, 3, 128, 128))
    if blur:
        fields = gaussian_filter(fields, blur, axes=(2, 3))
        fields /= fields.std()
    return np.clip(128 + 25 * fields[:, :, 32:96, 32:96], 0, 255).round().astype(np.uint8)


def test_moments_in_closed_form():
    level = torch.zeros(2, 3, 4, 4)
    level[0, 0] = torch.tensor([1.0, -1.0]).repeat(8).reshape(4, 4)         # two equally likely values: kurtosis 1
    level[0, 1, 2, 3] = 7.0                                                 # one value in n: n - 2 + 1 / (n - 1)
    level[1] = torch.arange(16.0).reshape(4, 4)                             # uniform: (9 n^2 - 21) / (5 (n^2 - 1))
    kurtosis, deviation = image_detail.moments(level)
    assert kurtosis[0, 0] == pytest.approx(1) and kurtosis[0, 1] == pytest.approx(14 + 1 / 15)
    assert kurtosis[0, 2].isnan() and deviation[0, 2] == 0                  # constant: undefined
    assert torch.allclose(kurtosis[1], torch.tensor((9 * 256 - 21) / (5 * 255), dtype=torch.float64))
    assert deviation[0, :2].tolist() == pytest.approx([1, 7 * (15 / 256) ** 0.5])
    assert deviation[1].tolist() == pytest.approx([(255 / 12) ** 0.5] * 3)


@pytest.mark.parametrize("blur", [0, 1, 2, 4])
def test_gaussian_fields_have_kurtosis_3_whatever_their_contrast_and_smoothness(blur):
    fields = gaussian_fields(40, 0, blur)
    fields[20:] = (fields[20:].astype(float) / 2 + 64).round()              # half as much contrast in half of them
    values = image_detail.statistics_of(fields)
    assert tuple(values) == rows_of("detail")
    for size in (64, 32):
        kurtosis, error = values[f"kurtosis_{size}"]
        assert kurtosis == pytest.approx(3, abs=0.15) and 0 < error < 0.1


def test_structure_has_more_and_contrast_is_in_grey_levels():
    fields = gaussian_fields(10, 1)
    half_empty = fields.copy()
    half_empty[:, :, :, :32] = 128                                          # a mixture of 0 and noise: 3 / share
    whole, half = image_detail.statistics_of(fields), image_detail.statistics_of(half_empty)
    assert half["kurtosis_64"][0] == pytest.approx(6, abs=0.4)
    assert half["contrast_64"][0] == pytest.approx(whole["contrast_64"][0] / 2**0.5, rel=0.05)
    doubled = image_detail.statistics_of((fields.astype(float) / 2 + 64).round().astype(np.uint8))
    assert doubled["contrast_64"][0] == pytest.approx(whole["contrast_64"][0] / 2, rel=0.01)


def test_images_without_detail_are_left_out_of_the_kurtosis():
    fields = gaussian_fields(6, 2)
    alone = image_detail.statistics_of(fields)
    with_grey = image_detail.statistics_of(np.concatenate([fields, np.full((2, 3, 64, 64), 99, np.uint8)]))
    assert with_grey["kurtosis_64"] == pytest.approx(alone["kurtosis_64"])
    assert with_grey["contrast_64"][0] == pytest.approx(alone["contrast_64"][0] * 6 / 8)
    assert image_detail.statistics_of(fields[:1])["kurtosis_64"][1] is None
    with pytest.raises(InputError, match="kurtosis_64: found no image with any detail"):
        image_detail.statistics_of(np.full((2, 3, 64, 64), 99, np.uint8))


def test_the_metric_has_its_rows_in_the_table_of_results():
    assert set(rows_of("detail")) <= set(results_table.METRICS)
    assert rows_of("detail", 128) == ("kurtosis_128", "kurtosis_64", "kurtosis_32", "contrast_128", "contrast_64",
                                      "contrast_32")


def test_any_size_with_a_level_above_the_last():
    grey = gaussian_fields(6, 4)[:, :1, :28, :28]
    assert tuple(image_detail.statistics_of(grey)) == ("kurtosis_28", "contrast_28")
    with pytest.raises(InputError, match="expected a side of at least 27 pixels"):
        image_detail.statistics_of(grey[:, :, :26, :26])
