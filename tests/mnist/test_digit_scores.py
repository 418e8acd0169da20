"""Drawn digits and the judge: fixed by the index, told apart, and every damage moves a score."""
import numpy as np
import pytest
import torch

import data
from engine import synthetic_digits
from engine.errors import InputError
from mnist.digit_scores import balanced_choice, distances_within, load_judge

COUNT = 800


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [data.load_images(f"digits:{8 * COUNT}", split, cache_dir=cache, size=28, channels=1)
            for split in ("train", "test")]


@pytest.fixture(scope="module")
def judge(sets, tmp_path_factory):
    train = data.ImageSet(sets[0].images[:4000], sets[0].labels[:4000], "digits", "train", "part of it")
    return load_judge(train, sets[1], tmp_path_factory.mktemp("judge"))


def test_a_digit_depends_on_its_index_alone(sets):
    assert np.array_equal(synthetic_digits.draw_images([3, 12])[1], synthetic_digits.draw(12))
    assert np.array_equal(sets[0].images[5], synthetic_digits.draw(5)) and sets[0].labels[15] == 5
    assert sets[0].images.shape == (8 * COUNT, 1, 28, 28) and len(sets[1]) == COUNT
    assert len({image.tobytes() for image in sets[1].images}) == COUNT
    ink = sets[1].images[:, 0] > 0
    assert not ink[:, 0].any() and 0.08 < ink.mean() < 0.35


def test_other_sizes_and_colours(tmp_path):
    colour = data.load_images("digits:8", cache_dir=tmp_path, size=16, channels=3)
    assert colour.images.shape == (8, 3, 16, 16) and np.array_equal(colour.images[:, 0], colour.images[:, 2])
    with pytest.raises(InputError, match="found 'digits:7', expected digits or digits:COUNT"):
        data.load_images("digits:7", cache_dir=tmp_path)


def test_real_digits_score_well(judge, sets):
    assert judge.test_accuracy > 0.97
    scores = judge.scores(sets[1].images, sets[1].labels)
    assert scores["accuracy"] == pytest.approx(judge.test_accuracy)
    assert scores["fd_digits"] == pytest.approx(0, abs=1e-3) and scores["diversity"] == pytest.approx(1, abs=1e-6)


def damaged(images, labels, kind):
    """Images [N, 1, 28, 28] with a known fault."""
    x = torch.from_numpy(np.array(images)).float()
    if kind == "noise":
        x = x + 60 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    if kind == "blur":
        x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    if kind == "shift":
        x = x.roll(3, 3)
    if kind == "mirror":
        x = x.flip(3)
    if kind == "class":
        x[labels == 4] = x[np.flatnonzero(labels == 3)[:1]]
    if kind == "repeated":
        chosen = np.concatenate([np.flatnonzero(labels == digit)[:2] for digit in range(10)])
        x = x[chosen].repeat(len(x) // 20, 1, 1, 1)
        labels = np.tile(labels[chosen], len(labels) // 20)
    return x.clamp(0, 255).to(torch.uint8), labels


@pytest.mark.parametrize("kind", ["noise", "blur", "shift", "mirror", "class", "repeated"])
def test_every_damage_moves_a_score(judge, sets, kind):
    chosen = balanced_choice(sets[0].labels, COUNT)
    images, labels = sets[0].images[chosen], sets[0].labels[chosen]
    floor = judge.scores(images, labels)
    scores = judge.scores(*damaged(images, labels, kind))
    assert scores["fd_digits"] > 2 * floor["fd_digits"] + 1
    if kind in ("mirror", "class"):
        assert scores["accuracy"] < floor["accuracy"] - 0.05
    if kind == "repeated":
        assert scores["diversity"] < 0.8 * floor["diversity"]


def test_distances_within_classes_by_hand():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    assert distances_within(features, torch.tensor([0, 0, 1]), 2).tolist() == [5.0, 0.0]
