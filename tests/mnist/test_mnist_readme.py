"""The numbers in the family's text are those of the files they come from."""
import argparse
import json

import pytest

from conftest import ROOT
from engine.errors import InputError
from evaluation import digit_tables
from scripts import mnist_quality


def test_the_text_agrees_with_the_files():
    text = (ROOT / mnist_quality.TEXT).read_text(encoding="utf-8")
    assert mnist_quality.text_with_tables(text, ROOT / mnist_quality.FOLDER) == text
    assert all(f"<!-- table:{name} -->" in text for name in digit_tables.TABLES)


def test_figures_in_sentences_are_those_of_the_table():
    rows = {(row["model"], row["seed"], row["sampling"]): row for row in json.loads(
        (ROOT / mnist_quality.FOLDER / "quality.json").read_text(encoding="utf-8"))["rows"]}
    one, two = (rows["flow", seed, "midpoint 10, w 1"]["accuracy"] for seed in mnist_quality.SEEDS)
    text, front = ((ROOT / name).read_text(encoding="utf-8") for name in (mnist_quality.TEXT, "README.md"))
    assert f"in {one:.3f} and {two:.3f} of the cases where 0.93 was asked" in " ".join(text.split())
    found = rows["flow narrow", 0, "midpoint 10, w 2"]
    assert (f"accuracy {found['accuracy']:.3f} and a distance of {found['fd_digits']:.4g} % at guidance 2 (seed 0)"
            in front)
    assert "fifty of Euler (never behind by accuracy, by fd_digits at most 0.03)" in " ".join(text.split())
    pairs = [(rows[name, seed, "midpoint 5, w 1"], rows[name, seed, "euler 50, w 1"]) for name, seed, sampling in rows
             if sampling == "euler 50, w 1"]
    measured = [pair for pair in pairs if all("accuracy" in row for row in pair)]
    assert len(measured) >= 4
    for few, many in measured:
        assert few["accuracy"] >= many["accuracy"] and few["fd_digits"] <= many["fd_digits"] + 0.03
    assert "(at most 0.29 apart, both kinds of conditioning, both seeds)" in " ".join(text.split())
    for name in ("latent cross_attention", "latent concat"):
        for seed in mnist_quality.SEEDS:
            few, many = (rows[name, seed, way]["fd_digits"] for way in ("ddim 50, w 1", "ddpm 1000, w 1"))
            assert abs(few - many) < 0.29
    small, large = (rows[name, 1, "midpoint 10, w 1"] for name in ("flow 32", "flow"))
    assert small["fd_digits"] < min(2, large["fd_digits"])


def test_what_was_not_run_is_said(tmp_path):
    scores = {"accuracy": 0.9123, "fd_digits": 2.5, "diversity": 1.1}
    measured = {"model": "flow", "seed": 0, "sampling": "euler", "expected": {"accuracy": 0.91}, "calls": 20,
                "training_steps": 2000, "training_seconds": 600, "training_processor": "Some CPU",
                "precision": "bf16", **scores}
    missing = {"model": "vae", "seed": 1, "sampling": "reconstructions", "expected": {"accuracy": 0.97}}
    found = {"num_samples": 1000, "real digits": scores, "rows": [measured, missing]}
    (tmp_path / "quality.json").write_text(json.dumps(found))
    [table] = digit_tables.tables_named("quality", tmp_path, mnist_quality.ASKED)
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts[0] == ["flow", "0", "euler", "20", "2000", "10", "Some CPU, bf16", "0.912", "2.5", "1.1",
                        "accuracy 0.91", "–"]
    assert texts[1][-2:] == ["accuracy 0.97"] * 2                           # expected, and asked
    assert texts[1][7:10] == ["not run"] * 3 and texts[2][0] == "real digits"
    assert digit_tables.tables_named("damages", tmp_path, {}) == []


def test_the_classifier_that_scores_is_over_99_percent():
    """And the table of damages says how good it is."""
    path = ROOT / mnist_quality.FOLDER / "damages.json"
    accuracy = json.loads(path.read_text(encoding="utf-8"))["classifier_accuracy"]
    [table] = digit_tables.tables_named("damages", path.parent, {})
    assert accuracy > 0.99 and f"scores them names {accuracy:.1%} of the test digits right" in table.note


def test_what_is_no_table(tmp_path):
    with pytest.raises(InputError, match="table:other: found 'other', expected one of quality, damages"):
        mnist_quality.text_with_tables("<!-- table:other -->\n<!-- end:other -->\n", tmp_path)
    (tmp_path / "damages.json").write_text("{}")
    with pytest.raises(InputError, match="damages.json: its content is not what a measurement of the digit models"):
        digit_tables.tables_named("damages", tmp_path, {})


def test_a_collection_of_scores_leaves_the_text_alone_unless_asked(tmp_path, monkeypatch):
    """Into --output go the rows, into the text only what --text_only finds published."""
    text = tmp_path / "text.md"
    text.write_text("<!-- table:quality -->\n<!-- end:quality -->\n")
    monkeypatch.setattr(mnist_quality, "TEXT", text)
    before = text.read_text()
    monkeypatch.setattr("sys.argv", ["mnist_quality", "--no_training", "--no_scores", "--experiments", str(tmp_path),
                                     "--output", str(tmp_path / "new/quality.json")])
    mnist_quality.main()
    rows = json.loads((tmp_path / "new/quality.json").read_text())["rows"]
    assert text.read_text() == before and len(rows) > 20 and not any("accuracy" in row for row in rows)
    monkeypatch.setattr("sys.argv", ["mnist_quality", "--text_only"])
    mnist_quality.main()
    assert "Quality of short trainings" in text.read_text()


def test_rows_of_other_places_stay(tmp_path, monkeypatch):
    """A row that --experiments lacks stays in --output if it is of the commands of today, and only then."""
    published = json.loads((ROOT / mnist_quality.FOLDER / "quality.json").read_text(encoding="utf-8"))
    measured = [row for row in published["rows"] if "accuracy" in row and row["model"] in mnist_quality.RUNS]
    output = tmp_path / "quality.json"
    other = {**measured[0], "training": "mnist.train_rf --epochs 1"}
    output.write_text(json.dumps({**published, "rows": [other, *measured[1:]]}))
    monkeypatch.setattr("sys.argv", ["mnist_quality", "--no_training", "--no_scores", "--experiments",
                                     str(tmp_path / "none"), "--output", str(output)])
    mnist_quality.main()
    found = json.loads(output.read_text())
    assert [row for row in found["rows"] if "accuracy" in row] == measured[1:]
    assert found["real digits"] == published["real digits"]
    monkeypatch.setattr("sys.argv", [*mnist_quality.sys.argv, "--num_samples", "500"])
    with pytest.raises(InputError, match="--num_samples: found 500, but .*quality.json is of 1000"):
        mnist_quality.main()


@pytest.mark.parametrize("word", ["flow", "nonsense:0", "flow:7", "flow:x"])
def test_a_run_that_is_not_in_the_table_is_one_line(word, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mnist_quality", "--only", word])
    with pytest.raises(SystemExit):
        mnist_quality.main()
    assert f"--only: found {word!r}, expected RUN:SEED" in capsys.readouterr().err


def test_scores_of_another_number_of_images_are_not_taken_for_these(tmp_path, monkeypatch):
    args = argparse.Namespace(experiments=tmp_path, num_samples=500)
    path = mnist_quality.score_file(args, "vae", 0, "reconstructions").with_suffix(".json")
    path.write_text(json.dumps({"options": {"num_samples": 1000}}))
    with pytest.raises(InputError, match="--num_samples: found 500, but .*reconstructions.json is of 1000"):
        mnist_quality.score(args, "vae", 0)
