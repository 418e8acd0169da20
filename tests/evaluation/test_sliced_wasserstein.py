"""The sliced Wasserstein distance against closed forms, and what it should and should not see."""
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from evaluation import sliced_wasserstein as sw
from engine.errors import InputError
from evaluation.options import rows_of

FEW = {"patches_per_image": 32, "num_projections": 128}


def textures(count, seed, detail=1.0):
    """uint8 images [count, 3, 64, 64]: smooth clouds of some 8 pixels and fine grain, mostly clear of 0 and 255."""
    random = np.random.default_rng(seed)
    coarse = 12 * scipy.ndimage.gaussian_filter(random.standard_normal((count, 3, 64, 64)), (0, 0, 4, 4))
    fine = detail * random.standard_normal((count, 3, 64, 64)) ** 3 / 4
    return np.clip(128 + 25 * coarse + 12 * fine, 0, 255).astype(np.uint8)


# One dimension

def test_wasserstein_of_a_shift_is_the_shift():
    values = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    shifted = sw.quantiles(values + torch.tensor([[0.5], [-2.0], [0.0]]))
    assert sw.wasserstein_1d(sw.quantiles(values), shifted) == pytest.approx([0.5, 2.0, 0.0], abs=1e-6)


def test_wasserstein_of_a_scaling_is_the_mean_magnitude():
    values = torch.randn(1, 4096, generator=torch.Generator().manual_seed(1))
    scaled = sw.wasserstein_1d(sw.quantiles(values), sw.quantiles(3 * values))
    assert float(scaled) == pytest.approx(2 * float(values.abs().mean()), rel=1e-6)


def test_wasserstein_of_two_normal_laws():
    """Same mean, deviations 1 and 2: the quantile functions differ by |z|, so W1 = E|z| = sqrt(2 / pi)."""
    ranks = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    z = torch.special.ndtri(ranks)[None]
    assert float(sw.wasserstein_1d(sw.quantiles(z), sw.quantiles(2 * z))) == pytest.approx(np.sqrt(2 / np.pi), rel=1e-3)


@pytest.mark.parametrize("sizes", [(4096, 4096), (70_001, 9_137), (500, 777), (1, 3)])
def test_wasserstein_of_unequal_counts_agrees_with_scipy(sizes):
    random = np.random.default_rng(2)
    a, b = random.standard_normal(sizes[0]), random.laplace(0.3, 1.2, sizes[1])
    ours = sw.wasserstein_1d(*(sw.quantiles(torch.from_numpy(v)[None]) for v in (a, b)))
    assert float(ours) == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=1e-12 if sizes[0] == 4096 else 3e-3)


# Projections

def test_shifted_descriptors_are_as_far_apart_as_the_shift_projects():
    descriptors = torch.randn(3000, 147, generator=torch.Generator().manual_seed(3))
    shift = torch.zeros(147)
    shift[5] = 2.0
    a, b = (sw.projected_quantiles(d, 64) for d in (descriptors, descriptors + shift))
    expected = (shift @ sw.random_directions(64, 147)).abs()
    assert torch.allclose(sw.wasserstein_1d(a, b).float(), expected, atol=1e-5)


def test_directions_are_unit_vectors_without_preference():
    directions = sw.random_directions(4000, 10).double()
    assert torch.allclose(directions.norm(dim=0), torch.ones(4000, dtype=torch.float64))
    assert torch.allclose(directions @ directions.T / 4000, torch.eye(10, dtype=torch.float64) / 10, atol=0.01)


def test_chunks_do_not_change_the_quantiles(monkeypatch):
    descriptors = torch.randn(500, 147)
    whole = sw.projected_quantiles(descriptors, 32)
    monkeypatch.setattr(sw, "VALUES_PER_CHUNK", 1700)
    assert torch.allclose(sw.projected_quantiles(descriptors, 32), whole, atol=1e-5)


# Pyramid and patches

def test_smoothing_agrees_with_scipy():
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    line = sw.BINOMIAL.double().numpy()
    expected = scipy.ndimage.convolve(x.numpy(), (line[:, None] * line)[None, None], mode="mirror")
    assert np.allclose(sw.smooth(x), expected, atol=1e-12)


def test_pyramid_adds_up_to_the_image():
    x = torch.rand(2, 3, 64, 64)
    levels = sw.laplacian_pyramid(x)
    assert [tuple(level.shape[2:]) for level in levels] == [(64, 64), (32, 32), (16, 16)]
    restored = levels[2]
    for level in levels[1::-1]:
        restored = level + sw.pyramid_up(restored, level.shape[2])
    assert torch.allclose(restored, x, atol=1e-5)


def test_a_constant_image_is_only_in_the_lowest_level():
    levels = sw.laplacian_pyramid(torch.full((1, 3, 64, 64), 0.7))
    assert levels[0].abs().max() < 1e-6 and levels[1].abs().max() < 1e-6
    assert torch.allclose(levels[2], torch.tensor(0.7))


def test_patches_are_what_lies_there():
    level = torch.randn(3, 3, 16, 16)
    corners = torch.tensor([[[0, 0], [9, 9]], [[3, 5], [5, 3]], [[9, 0], [0, 9]]])
    patches = sw.extract_patches(level, corners)
    for image in range(3):
        for p, (y, x) in enumerate(corners[image].tolist()):
            assert torch.equal(patches[2 * image + p], level[image, :, y:y + 7, x:x + 7])


def test_patches_are_normalised_per_channel_of_the_set():
    patches = torch.randn(500, 3, 7, 7) * torch.tensor([1.0, 5.0, 0.0])[:, None, None] + 3
    normal = sw.normalise_channels(patches.clone())
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.square().mean((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4)


# Images

def test_equal_sets_are_zero_apart():
    images = textures(40, 0)
    assert set(sw.sliced_wasserstein(images, images.copy(), **FEW).values()) == {0.0}


def test_values_are_symmetric_named_per_level_and_averaged():
    a, b = textures(40, 0), textures(60, 1, detail=2.0)
    values = sw.sliced_wasserstein(a, b, **FEW)
    assert list(values) == ["swd", "swd_64", "swd_32", "swd_16"]
    assert values["swd"] == pytest.approx(np.mean([values["swd_64"], values["swd_32"], values["swd_16"]]))
    assert sw.sliced_wasserstein(b, a, **FEW) == values
    assert sw.sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b), **FEW) == values


def test_blur_is_seen_at_the_fine_level():
    images = textures(60, 0)
    blurred = scipy.ndimage.gaussian_filter(images.astype(float), (0, 0, 0.7, 0.7)).astype(np.uint8)
    values = sw.sliced_wasserstein(images, blurred, **FEW)          # the same images: no noise floor
    assert values["swd_64"] > 3 * values["swd_32"] > 0 and values["swd_64"] > 8 * values["swd_16"]


def test_coarse_change_is_seen_at_the_coarse_level():
    images = textures(60, 0)
    wave = 20 * np.sin(np.arange(64) / 32 * 2 * np.pi)
    waved = np.clip(images.astype(float) + wave, 0, 255).astype(np.uint8)
    values = sw.sliced_wasserstein(images, waved, **FEW)
    assert values["swd_16"] > 2 * values["swd_32"] and values["swd_16"] > 8 * values["swd_64"] > 0


def test_a_change_of_contrast_at_all_levels_is_not_seen():
    """As in the paper, each set is normalised by itself."""
    images = textures(60, 0) // 2 * 2
    faint = 64 + images // 2                                        # exact, since all values are even
    assert sw.sliced_wasserstein(images, faint, **FEW)["swd"] < 0.01


def test_noise_floor_falls_with_the_number_of_images():
    floors = [sw.sliced_wasserstein(textures(n, 0), textures(n, 1), **FEW)["swd_16"] for n in (10, 40, 160)]
    # a mean of absolute differences of independent sets: it falls as 1 / sqrt(N), so by 2 from one to the next
    assert floors[0] > 1.5 * floors[1] > 2.25 * floors[2] > 0


def test_chunking_images_changes_nothing(monkeypatch):
    images = textures(20, 0)
    whole = sw.profile(images, **FEW)
    monkeypatch.setattr(sw, "IMAGES_PER_CHUNK", 7)
    parts = sw.profile(images, **FEW)
    assert all(torch.allclose(whole[size], parts[size], atol=1e-5) for size in (64, 32, 16))


@pytest.mark.parametrize("channels, side, levels", [(1, 28, [28, 14]), (3, 32, [32, 16]), (3, 45, [45, 23]),
                                                    (3, 128, [128, 64, 32, 16]), (1, 7, [7])])
def test_images_of_any_size_and_grey_ones(channels, side, levels):
    a, b = (np.random.default_rng(seed).integers(0, 256, (6, channels, side, side), np.uint8) for seed in (0, 1))
    assert [level.shape[2] for level in sw.laplacian_pyramid(torch.from_numpy(a).float())] == levels
    values = sw.sliced_wasserstein(a, b, **FEW)
    assert list(values) == list(rows_of("swd", side)) == ["swd", *(f"swd_{level}" for level in levels)]
    assert values["swd"] > 0 and set(sw.sliced_wasserstein(a, a, **FEW).values()) == {0.0}


def test_a_pyramid_of_odd_sides_adds_up():
    x = torch.rand(2, 1, 45, 45)
    fine, coarse = sw.laplacian_pyramid(x)
    assert torch.allclose(fine + sw.pyramid_up(coarse, 45), x, atol=1e-5)


def test_two_sizes_are_not_compared():
    a, b = (sw.profile(np.zeros((2, 3, side, side), np.uint8), **FEW) for side in (32, 64))
    with pytest.raises(InputError, match="expected images of one size"):
        sw.distance(a, b)


@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (4, 1, 6, 6), (4, 3, 32, 31), (3, 64, 64)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(InputError, match="expected"):
        sw.profile(np.zeros(shape, np.uint8))


def test_whole_images_that_are_brighter_are_apart_by_the_mean_projection():
    """A shift by d of every value moves a projection by d |sum of a unit vector|, in the mean sqrt(2 / pi) d."""
    images = torch.randint(0, 150, (50, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = sw.distance_of_images(images, images + 51)
    assert found == pytest.approx((2 / np.pi)**0.5 * 51 / 127.5, rel=0.08)
    assert sw.distance_of_images(images, images.flip(0)) == 0
    assert sw.distance_of_images(images[:30], images + 51) == pytest.approx(found, rel=0.2)     # of other numbers
