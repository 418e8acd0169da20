"""fd_tiny: statistics and distance with a stand-in classifier; and with the real one where it is at hand."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from evaluation import noise_floor
from evaluation import fid
from evaluation import normal_law
from evaluation import results_table
from evaluation import tiny_classifier
from conftest import ROOT
from engine.errors import InputError
from engine.files import save_torch
from test_eval_scripts import fails, run


def noise_images(count, seed, high=256):
    return np.random.default_rng(seed).integers(0, high, (count, 3, 64, 64), dtype=np.uint8)


def test_distance_is_that_of_the_features(tiny_folder):
    classifier = tiny_classifier.load(tiny_folder)
    a, b = noise_images(700, 0), noise_images(40, 1, 200)           # more than one batch
    of_a, of_b = classifier.statistics(a), classifier.statistics(b)
    features = [classifier.features(torch.from_numpy(images)).numpy() for images in (a, b)]
    expected = fid.frechet_distance(*(part for f in features for part in (f.mean(0), np.cov(f, rowvar=False))))
    assert tiny_classifier.distance(of_a, of_b) == pytest.approx(expected, rel=1e-6)
    assert tiny_classifier.distance(of_a, of_a) == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(not (ROOT / "../shared/tools/fd_tiny.py").exists(), reason="fd_tiny is not at hand")
def test_the_real_classifier_agrees_with_its_own_distance():
    classifier = tiny_classifier.load(ROOT / "../shared/tools")
    a, b = noise_images(60, 0), noise_images(50, 1, 200)
    expected = classifier.code.frechet(*(classifier.code.features(torch.from_numpy(images), classifier.network)
                                         for images in (a, b)))
    assert tiny_classifier.distance(classifier.statistics(a),
                                    classifier.statistics(b)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "fd_tiny.pt").unlink(), "found no .*fd_tiny.pt"),
    (lambda folder: (folder / "fd_tiny.py").write_text("def load_net(device): return 1 / 0"), "ZeroDivisionError"),
    (lambda folder: (folder / "fd_tiny.py").write_text("def"), "SyntaxError"),
    (lambda folder: save_torch(folder / "fd_tiny.pt", {"other": torch.zeros(1)}), "could not be used")])
def test_what_is_wrong_is_one_line(tiny_folder, spoil, words):
    spoil(tiny_folder)
    with pytest.raises(InputError, match=words) as error:
        tiny_classifier.load(tiny_folder)
    assert "\n" not in str(error.value)


def test_drawn_images_and_the_others_are_the_split():
    image_set = data.ImageSet(noise_images(9, 3), None, "d", "train", "hash")
    drawn, others = noise_floor.draw(image_set, 4, seed=1)
    again, _ = noise_floor.draw(image_set, 4, seed=1)
    other_draw, other_others = noise_floor.draw(image_set, 4, seed=2)
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other_draw)
    assert len(drawn) == 4 and len(others) == 5 and others.content_hash != other_others.content_hash != "hash"
    together = {image.tobytes() for image in (*drawn, *others.images)}
    assert together == {image.tobytes() for image in image_set.images}


def test_noise_floor_rows(tmp_path, tiny_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", "synthetic:24", "--num_images", 6, 12, "--seeds", 1, 2, "--metrics", "fd_tiny",
                 "--fd_tiny",
                 tiny_folder, "--device", "cpu", "--num_threads", 1]
    assert run(monkeypatch, noise_floor, *arguments) == 0
    rows = results_table.read("results/fid_results.csv")
    assert [(r["num_images"], r["seed"], r["metric"]) for r in rows] == [(n, s, "fd_tiny")
                                                                         for n in (6, 12) for s in (1, 2)]
    assert all(r["model_type"] == "real" and r["value"] > 0 for r in rows)
    images = data.load_images("synthetic:24").images
    classifier = tiny_classifier.load(tiny_folder)
    chosen = np.random.default_rng(2).permutation(24)
    expected = tiny_classifier.distance(*(classifier.statistics(images[np.sort(part)])
                                          for part in (chosen[:12], chosen[12:])))
    assert rows[3]["value"] == pytest.approx(expected, rel=1e-6)
    before = Path("results/fid_results.csv").read_bytes()
    assert "WARNING" not in capsys.readouterr().out
    assert run(monkeypatch, noise_floor, *arguments) == 0
    assert Path("results/fid_results.csv").read_bytes() == before and "0 rows added" in capsys.readouterr().out
    normal = [*arguments, "--images", "normal", "--num_images", 13, "--results", "normal.csv"]
    assert run(monkeypatch, noise_floor, *normal) == 0
    drawn = results_table.read("normal.csv")
    assert [(r["model_type"], r["checkpoint"], r["num_images"]) for r in drawn] == 2 * [("normal", "normal law", 13)]
    assert drawn[0]["value"] == pytest.approx(tiny_classifier.distance(
        classifier.statistics(normal_law.draw(images, 13, 1)), classifier.statistics(images)), rel=1e-6)
    message = fails(monkeypatch, capsys, noise_floor, *arguments, "--num_images", 13)
    assert "--num_images: found 13, expected at most 12" in message
    message = fails(monkeypatch, capsys, noise_floor, *arguments, "--fd_tiny", "nowhere")
    assert "--fd_tiny: found no nowhere/fd_tiny.py" in message
    assert run(monkeypatch, noise_floor, *arguments, "--num_images", 4, "--results", "few.csv") == 0
    assert "WARNING: fd_tiny with 4 scored images, fewer than 5" in capsys.readouterr().out
    [record] = Path("results/runs").glob("*noise_floor_*.json")
    assert json.loads(record.read_text())["fd_tiny_hash"] == classifier.files_hash
    with open(tiny_folder / "fd_tiny.py", "a") as file:                    # another classifier from now on
        file.write("\n")
    message = fails(monkeypatch, capsys, noise_floor, *arguments, "--num_images", 7)
    assert f"the fd_tiny rows of results/fid_results.csv come from {classifier.files_hash}" in message
    assert Path("results/fid_results.csv").read_bytes() == before
