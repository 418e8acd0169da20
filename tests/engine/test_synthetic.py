"""The procedural faces: fixed by their index alone, varied in the large and in the small, three kinds told apart."""
import numpy as np
import pytest

from engine import synthetic_faces


@pytest.fixture(scope="module", autouse=True)
def drawn_anew():
    """Not taken from those that other tests have drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_faces, "draw", synthetic_faces.draw.__wrapped__)
        yield


@pytest.fixture(scope="module")
def faces(drawn_anew) -> np.ndarray:
    """The first 150 images, float64 in [0, 1], [150, 3, 64, 64]."""
    return synthetic_faces.draw_images(range(150)) / 255


def coarse(images):
    """The 2x2 means, each put back over its four pixels: [N, C, 64, 64]."""
    return images.reshape(*images.shape[:2], 32, 2, 32, 2).mean((3, 5)).repeat(2, 2).repeat(2, 3)


def test_an_image_depends_on_its_index_alone():
    together = synthetic_faces.draw_images([7, 3, 10**9 + 5])
    assert together.dtype == np.uint8 and together.shape == (3, 3, 64, 64)
    assert np.array_equal(together[1], synthetic_faces.draw(3)) and np.array_equal(together[0], synthetic_faces.draw(7))
    assert np.array_equal(together[2], synthetic_faces.draw_images([10**9 + 5])[0])
    np.random.seed(0)                               # the global generator has no say
    assert np.array_equal(together[1], synthetic_faces.draw(3))


def test_labels_are_the_index_modulo_three():
    labels = synthetic_faces.labels_of([0, 1, 2, 3, 3000001])
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 0, 1] and len(synthetic_faces.SPECIES) == 3


def test_no_image_repeats(faces):
    flat = faces.reshape(len(faces), -1)
    difference = np.abs(flat[:, None, ::16] - flat[None, :, ::16]).mean(2) + np.eye(len(flat))
    assert difference.min() > 0.02


def test_brightness_colour_and_layout_vary(faces):
    assert faces.mean((1, 2, 3)).std() > 0.05                                       # exposure and coat
    saturation = np.ptp(faces.mean((2, 3)), axis=1)
    assert saturation.min() < 0.05 and saturation.max() > 0.15                      # grey ones and colourful ones
    assert coarse(faces).std(0).min() > 0.03                                        # every region of the picture


def test_fine_detail_is_in_every_image(faces):
    detail = (faces - coarse(faces)).std((1, 2, 3))
    assert detail.min() > 0.01 and 0.03 < detail.mean() < 0.12                      # photographs have about 0.08


def test_contrast_is_neither_flat_nor_clipped(faces):
    assert faces.std((1, 2, 3)).min() > 0.05
    assert (faces == 1).mean() < 0.05 and (faces == 0).mean() < 0.05


def test_the_three_species_can_be_told_apart(faces):
    """A linear rule on grey 16x16 images, fitted to 150 faces, names 60 others far better than chance."""
    def features(images):
        images = images.mean(1).reshape(len(images), 16, 4, 16, 4).mean((2, 4)).reshape(len(images), -1)
        return np.c_[(images - images.mean(1, keepdims=True)) / images.std(1, keepdims=True), np.ones(len(images))]
    train, test = features(faces), features(synthetic_faces.draw_images(range(5001, 5061)) / 255)
    targets = np.eye(3)[synthetic_faces.labels_of(range(len(faces)))]
    weights = np.linalg.solve(train.T @ train + 100 * np.eye(train.shape[1]), train.T @ targets)
    correct = (test @ weights).argmax(1) == synthetic_faces.labels_of(range(5001, 5061))
    assert correct.mean() > 0.5


def test_noise_is_smooth_bounded_and_periodic():
    u, v = np.meshgrid(np.linspace(0, 4, 401), np.linspace(0, 4, 401), indexing="ij")
    values = synthetic_faces.noise(np.random.default_rng(1), u, v)
    assert np.abs(values).max() <= 1 and np.abs(np.diff(values, axis=0)).max() < 0.035      # slope at most 1.5 x 2
    again = synthetic_faces.noise(np.random.default_rng(1), u + synthetic_faces.LATTICE, v - synthetic_faces.LATTICE)
    assert np.allclose(values, again, atol=1e-9)


def test_distances_vanish_on_outlines_and_are_negative_inside():
    angles = np.linspace(0, 2 * np.pi, 50)
    x, y = 0.1 + 0.5 * np.cos(angles), -0.2 + 0.3 * np.sin(angles)
    assert np.allclose(synthetic_faces.ellipse(x, y, 0.1, -0.2, 0.5, 0.3), 0, atol=1e-12)
    assert synthetic_faces.ellipse(np.array(0.1), np.array(-0.2), 0.1, -0.2, 0.5, 0.3) < 0
    turned = synthetic_faces.ellipse(np.array(0.0), np.array(0.5), 0, 0, 0.5, 0.3, np.pi / 2)
    assert turned == pytest.approx(0, abs=1e-12)
    inside = synthetic_faces.triangle(np.array([0.0, 0.0, 2.0]), np.array([0.5, 0.0, 0.5]), (-1, 0), (1, 0), (0, 1))
    assert inside[0] < 0 and inside[1] == pytest.approx(0) and inside[2] > 0
    distance = synthetic_faces.line(np.array([0.5, 0.5, 2.0]), np.array([0.0, 1.0, 0.0]), (0, 0), (1, 0), 0.2)
    assert np.allclose(distance, [-0.1, 0.9, 0.9])
