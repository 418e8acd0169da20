"""The digit classifier and its scores, on drawn digits: real ones at the noise floor, each damage moves a score."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine import synthetic_digits
from engine.errors import InputError
from evaluation import digit_scores


def drawn(start: int, count: int):
    indices = range(start, start + count)
    return SimpleNamespace(images=synthetic_digits.draw_images(indices), labels=synthetic_digits.labels_of(indices),
                           dataset="digits", split="train", content_hash=f"digits_{start}_{count}")


@pytest.fixture(scope="module")
def sets():
    return drawn(0, 2500), drawn(10**9, 1000), drawn(10**6, 600)


@pytest.fixture(scope="module")
def judge(sets, tmp_path_factory):
    return digit_scores.load_judge(*sets[:2], tmp_path_factory.mktemp("cache"))


def test_the_classifier_is_deterministic_and_good(sets, judge):
    assert judge.test_accuracy > 0.97
    once, again = (digit_scores.train_classifier(sets[0].images[:256], sets[0].labels[:256]) for _ in range(2))
    for first, second in zip(once.state_dict().values(), again.state_dict().values()):
        assert torch.equal(first, second)
    assert sum(p.numel() for p in once.parameters()) == 60_986


def test_a_second_judge_comes_from_the_cache(sets, tmp_path, monkeypatch):
    small = drawn(0, 300), sets[1]
    first = digit_scores.load_judge(*small, tmp_path).scores(sets[2].images, sets[2].labels)
    monkeypatch.setattr(digit_scores, "train_classifier", None)
    assert digit_scores.load_judge(*small, tmp_path).scores(sets[2].images, sets[2].labels) == first


def test_scores_against_their_definitions(sets, judge):
    test = sets[1]
    scores = judge.scores(test.images, test.labels)
    assert scores["accuracy"] == pytest.approx(judge.test_accuracy)
    assert scores["fd_digits"] == pytest.approx(0, abs=1e-6) and scores["diversity"] == pytest.approx(1)
    _, features = digit_scores.judgements(judge.network, test.images)
    sevens = features[torch.from_numpy(test.labels) == 7].double()
    pairs = [float((a - b).norm()) for i, a in enumerate(sevens) for b in sevens[:i]]
    assert float(judge.distances[7]) == pytest.approx(np.mean(pairs))


def test_each_damage_moves_the_distance_and_another_score(sets, judge):
    fresh = sets[2]
    floor = judge.noise_floor(sets[0], len(fresh.images), 3)
    worst = max(scores["fd_digits"] for scores in floor)
    clean = judge.scores(fresh.images, fresh.labels)
    assert clean["fd_digits"] < 2 * worst and abs(clean["diversity"] - 1) < 0.05 and clean["accuracy"] > 0.96
    for name, images in digit_scores.damages(fresh.images, fresh.labels).items():
        scores = judge.scores(images, fresh.labels)
        assert scores["fd_digits"] > 3 * worst, name
        assert scores["accuracy"] < 0.95 or abs(scores["diversity"] - 1) > 0.05, name


def test_without_classes_only_sure_digits_count(sets, judge):
    grey = np.full((50, 1, 28, 28), 90, np.uint8)
    assert judge.scores(sets[2].images)["accuracy"] > 0.7
    mixed = np.concatenate([sets[2].images[:50], grey])
    assert judge.scores(mixed)["accuracy"] <= judge.scores(sets[2].images[:50])["accuracy"]


def test_bad_input(sets, judge):
    with pytest.raises(InputError, match="28"):
        judge.scores(np.zeros((4, 3, 28, 28), np.uint8))
    with pytest.raises(InputError, match="without labels"):
        digit_scores.load_judge(SimpleNamespace(**{**vars(sets[0]), "labels": None}), sets[1])
