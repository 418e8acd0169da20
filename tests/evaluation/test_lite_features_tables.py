"""The tables of the benchmark of EfficientNet-Lite0's distances, from a file and as published."""
import json
import statistics

import pytest

from conftest import ROOT
from engine.errors import InputError
from evaluation import benchmark_tables, known_changes
from lift import marked_tables
from scripts.benchmarks import lite_features as lite_features_benchmark
from test_eval_scripts import fails, run

PUBLISHED = ROOT / "results/published/evaluation"


def row(change, num_images, draw, frechet, kernel):
    return {"side": 96, "num_images": num_images, "change": change, "draw": draw, "fd_lite0": frechet,
            "kd_lite0": kernel, "kd_standard_error": 0.002, "precision": 0.75, "recall": 0.5, "animal": 0.9,
            "vehicle": 0.01}


def write(folder, rows):
    (folder / "lite_features.json").write_text(json.dumps({
        "dataset": "photos", "num_reference": 25, "device": "cpu", "images_per_second": {"96": 61.2}, "rows": rows}))


def texts(table):
    return [[cell.text for cell in line] for line in table.rows]


def test_tables_have_means_spreads_and_distances_in_deviations(tmp_path):
    assert benchmark_tables.lite_features_tables(tmp_path) == []
    write(tmp_path, [row("none", 100, 0, 300.0, 0.001), row("none", 100, 1, 310.0, -0.001),
                     row("blur", 100, 0, 400.0, 0.010), row("blur", 100, 1, 410.0, 0.012),
                     row("none", 500, 0, 150.0, 0.0), row("once", 100, 0, 500.0, 0.1)])
    frechet, kernel, apart, shares = benchmark_tables.lite_features_tables(tmp_path)
    assert frechet.header == ["change", "100 at 96", "500 at 96"] and "61 images/s to 96" in frechet.note
    assert texts(frechet) == [["none: the floor", "305.0 ± 7.1", "150.0"], ["blur", "405.0 ± 7.1", "–"],
                              ["once", "500.0", "–"]]
    assert texts(kernel) == [["none: the floor", "0.000 ± 0.002", "0.000 ± 0.002"], ["blur", "0.011 ± 0.002", "–"],
                             ["once", "0.100 ± 0.002", "–"]]
    assert texts(apart) == [["blur", "14.1", "7.8"], ["once", "–", "–"]]       # 100 / sqrt(50), 0.011 / sqrt(2e-6)
    assert shares.title == "Shares of 500 images at 96" and texts(shares)[0] == ["none: the floor", "0.750", "0.500",
                                                                               "0.900", "0.010"]


def test_a_foreign_file_is_one_line(tmp_path):
    (tmp_path / "lite_features.json").write_text("{}")
    with pytest.raises(InputError, match="lite_features.json: is not what scripts/benchmarks/lite_features.py writes"):
        benchmark_tables.lite_features_tables(tmp_path)


def test_the_text_has_the_published_numbers():
    text = (ROOT / "evaluation/README.md").read_text()
    assert "<!-- table:lite_features -->" in text and (PUBLISHED / "lite_features.json").exists()
    assert marked_tables.with_tables(text, [], PUBLISHED, "evaluation/README.md") == text


def test_what_the_text_concludes_is_what_was_measured():
    found = json.loads((PUBLISHED / "lite_features.json").read_text())
    rows = found["rows"]

    def mean(change, num_images, name, side=96):
        return statistics.fmean(entry[name] for entry in rows if (entry["change"], entry["num_images"], entry["side"])
                                == (change, num_images, side))
    numbers = (1000, 5000, 10_000)
    order = ("none", "noise of 5 grey levels", "noise of 20 grey levels", "16 patches shuffled")
    for name in ("fd_lite0", "kd_lite0"):
        for num_images in numbers:                                  # both put damage in order at every number of images
            assert sorted(order, key=lambda change: mean(change, num_images, name)) == list(order)
    floors = [mean("none", num_images, "fd_lite0") for num_images in numbers]
    assert floors[0] > 2 * floors[1] > 2 * floors[2]                # the floor of one is bias,
    for num_images in numbers:                                      # that of the other nothing
        assert abs(mean("none", num_images, "kd_lite0")) < 3 * mean("none", num_images, "kd_standard_error")
    for change in order[1:]:                                        # which is the same whatever the number of images
        values = [mean(change, num_images, "kd_lite0") for num_images in numbers]
        assert max(values) - min(values) < 3 * mean(change, 1000, "kd_standard_error")
    twice, noise = "half of the images, twice", "noise of 5 grey levels"
    for num_images in numbers[1:]:                                  # repeated images: one sees them, the other does not
        assert mean(twice, num_images, "fd_lite0") > 1.15 * mean("none", num_images, "fd_lite0")
        assert abs(mean(twice, num_images, "kd_lite0")) < 3 * mean(twice, num_images, "kd_standard_error")
    assert mean(twice, 10_000, "fd_lite0") == pytest.approx(mean("none", 5000, "fd_lite0"), rel=0.01)

    def apart(name, side=96, change=noise):
        draws = [[entry[name] for entry in rows if (entry["change"], entry["num_images"], entry["side"])
                  == (change, 1000, side)] for change in (change, "none")]
        deviation = statistics.fmean(map(statistics.stdev, draws))
        return (statistics.fmean(draws[0]) - statistics.fmean(draws[1])) / deviation
    assert apart("fd_lite0") > apart("kd_lite0") > 5                # the smallest change is told apart better by one
    assert apart("fd_lite0", 128) < apart("fd_lite0") and apart("kd_lite0", 128) > apart("kd_lite0")
    changes = {entry["change"] for entry in rows} - {"none"}
    clearer_at_128 = {name: {change for change in changes if apart(name, 128, change) > apart(name, 96, change)}
                      for name in ("fd_lite0", "kd_lite0")}
    assert clearer_at_128 == {"fd_lite0": {order[2], "100 images, again and again"}, "kd_lite0": {noise, order[2]}}
    assert found["images_per_second"]["96"] > 1.5 * found["images_per_second"]["128"]
    blur, noisy = "half the side and back", "noise of 20 grey levels"
    for num_images in numbers:
        assert mean(blur, num_images, "fd_lite0") < mean(noisy, num_images, "fd_lite0")
        assert mean(blur, num_images, "kd_lite0") > mean(noisy, num_images, "kd_lite0")
    of_normal_law = [mean("normal law of the pixels", 10_000, name) for name in ("precision", "recall")]
    assert of_normal_law[0] > mean("none", 10_000, "precision") and of_normal_law[1] < 0.001
    assert mean("none", 10_000, "animal") < 0.9


def test_the_benchmark_writes_what_the_tables_read_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fewer = {name: known_changes.CHANGED[name] for name in ("none", "noise of 20 grey levels")}
    monkeypatch.setattr(known_changes, "CHANGED", fewer)
    monkeypatch.setattr(known_changes, "REPEATED", {"two images": lambda num_images: 2})
    text = tmp_path / "text.md"
    text.write_text("<!-- table:lite_features -->\n<!-- end:lite_features -->\n")
    arguments = ["--dataset", "synthetic:220", "--sides", 32, "--num_images", 100, "--num_reference", 120, "--device",
                 "cpu", "--num_threads", 1, "--output", "lite_features.json", "--readme", text]
    assert run(monkeypatch, lite_features_benchmark, *arguments) == 0
    written = (tmp_path / "lite_features.json").read_bytes()
    rows = json.loads(written)["rows"]
    assert [entry["change"] for entry in rows] == [*fewer, "two images"]
    scores = {entry["change"]: entry["fd_lite0"] for entry in rows}
    assert scores["none"] < scores["noise of 20 grey levels"] and scores["none"] < scores["two images"]
    assert text.read_text().count("| two images |") == 3
    monkeypatch.setattr(known_changes, "scores", lambda *_: pytest.fail("measured again"))
    assert run(monkeypatch, lite_features_benchmark, *arguments) == 0
    assert (tmp_path / "lite_features.json").read_bytes() == written
    assert "made with num_reference 120, found 110" in fails(
        monkeypatch, capsys, lite_features_benchmark, *arguments, "--num_reference", 110)
    assert "--sides: found 100, expected a multiple of 32" in fails(
        monkeypatch, capsys, lite_features_benchmark, *arguments, "--sides", 100)
