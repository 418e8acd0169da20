"""Scores of images that no network made: which are drawn, what rows they get, at any size."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from evaluation import fid, lite_features, noise_floor, normal_law, results_table, scoring
from evaluation.options import METRICS
from test_eval_scripts import fails, run

ARGUMENTS = ["--dataset", "synthetic:24", "--device", "cpu", "--num_threads", 1]


def noise_images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)


def test_drawn_images_and_the_others_are_the_split():
    image_set = data.ImageSet(noise_images(9, 3), None, "d", "train", "hash")
    drawn, others = noise_floor.draw(image_set, 4, seed=1)
    again, _ = noise_floor.draw(image_set, 4, seed=1)
    other_draw, other_others = noise_floor.draw(image_set, 4, seed=2)
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other_draw)
    assert len(drawn) == 4 and len(others) == 5 and others.content_hash != other_others.content_hash != "hash"
    together = {image.tobytes() for image in (*drawn, *others.images)}
    assert together == {image.tobytes() for image in image_set.images}


def test_rows_of_real_images_and_of_the_normal_law(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*ARGUMENTS, "--num_images", 12, "--seeds", 2, "--metrics", "fd_lite0", "kd_lite0"]
    assert run(monkeypatch, noise_floor, *arguments) == 0
    rows = results_table.read("results/fid_results.csv")
    assert [(r["model_type"], r["num_images"], r["seed"], r["metric"]) for r in rows] == [
        ("real", 12, 2, "fd_lite0"), ("real", 12, 2, "kd_lite0")]
    images, lite = data.load_images("synthetic:24").images, lite_features.load()

    def features(of):
        return torch.cat(list(fid.features_of(of, lite)))

    chosen = np.random.default_rng(2).permutation(24)
    drawn, others = (features(images[np.sort(part)]) for part in (chosen[:12], chosen[12:]))
    expected = fid.fid(*(fid.FeatureStatistics(lite.num_features).add(f) for f in (drawn, others)))
    assert rows[0]["value"] == pytest.approx(expected, rel=1e-4)
    assert (rows[1]["value"], rows[1]["standard_error"]) == pytest.approx(fid.kid(drawn, others), rel=1e-3, abs=1e-6)
    assert "WARNING: fd_lite0 with 12 drawn images, fewer than 1280" in capsys.readouterr().out
    before = Path("results/fid_results.csv").read_bytes()
    assert run(monkeypatch, noise_floor, *arguments) == 0
    assert Path("results/fid_results.csv").read_bytes() == before and "0 rows added" in capsys.readouterr().out
    [record] = Path("results/runs").glob("*noise_floor_*.json")
    assert json.loads(record.read_text())["features"] == {"lite0": lite.settings}

    normal = [*ARGUMENTS, "--seeds", 1, "--metrics", "kd_lite0", "--images", "normal", "--num_images", 13, "--results",
              "normal.csv"]
    assert run(monkeypatch, noise_floor, *normal) == 0
    [row] = results_table.read("normal.csv")
    assert (row["model_type"], row["checkpoint"], row["num_images"]) == ("normal", "normal law", 13)
    assert row["value"] == pytest.approx(fid.kid(features(normal_law.draw(images, 13, 1)), features(images))[0],
                                         rel=1e-3)
    assert "--num_images: found 13, expected at most 12" in fails(monkeypatch, capsys, noise_floor, *ARGUMENTS,
                                                                 "--metrics", "swd", "--num_images", 13)


def test_small_grey_images_are_scored_and_what_becomes_of_them_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*ARGUMENTS, "--dataset", "digits:24", "--image_size", 28, "--channels", 1, "--num_images", 10,
                 "--seeds",
                 1, "--metrics", "kd_lite0", "precision_recall_lite0", "swd", "detail"]
    assert run(monkeypatch, noise_floor, *arguments) == 0
    assert [row["metric"] for row in results_table.read("results/fid_results.csv")] == [
        "kd_lite0", "precision_lite0", "recall_lite0", "swd", "swd_28", "swd_14", "kurtosis_28", "contrast_28"]
    said = capsys.readouterr().out
    assert ("images of 28x28, grey: features of images resized to 96x96, grey as three equal channels (kd_lite0, "
            "precision_recall_lite0); levels of 28, 14 pixels (swd, detail)") in said
    assert run(monkeypatch, noise_floor, *arguments) == 0 and "0 rows added" in capsys.readouterr().out


def test_rgb_of_64_pixels_needs_no_word(capsys):
    scoring.say_what_becomes_of(list(METRICS), (3, 64, 64))
    assert capsys.readouterr().out == ""


def test_without_the_packages_the_distance_is_left_out_or_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def missing():
        raise lite_features.PackagesMissing("fd_lite0: found no package of that name")

    def no_weights(file):
        raise fid.WeightsMissing("no weights")
    monkeypatch.setattr(lite_features, "find_weights", missing)
    monkeypatch.setattr(fid, "find_weights", no_weights)
    assert run(monkeypatch, noise_floor, *ARGUMENTS, "--num_images", 6, "--seeds", 1) == 0
    said = capsys.readouterr().out
    assert "found no package of that name" in said and "scoring with swd, which need no Inception weights" in said
    rows = results_table.read("results/fid_results.csv")
    assert {row["metric"] for row in rows} == {"swd", "swd_64", "swd_32", "swd_16"}
    assert "found no package" in fails(monkeypatch, capsys, noise_floor, *ARGUMENTS, "--metrics", "kd_lite0")
