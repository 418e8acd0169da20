"""The numbers in the family's text are those of the files they come from."""
import json

import pytest

from conftest import ROOT
from engine.errors import InputError
from mnist import tables


def test_the_text_agrees_with_the_files():
    text = (ROOT / tables.TEXT).read_text(encoding="utf-8")
    assert tables.text_with_tables(text, ROOT / tables.FOLDER) == text
    assert all(f"<!-- table:{name} -->" in text for name in tables.TABLES)


def test_what_was_not_run_is_said(tmp_path):
    scores = {"accuracy": 0.9123, "fd_digits": 2.5, "diversity": 1.1}
    measured = {"model": "flow", "seed": 0, "sampling": "euler", "expected": {"accuracy": 0.91}, "calls": 20,
                "training_steps": 2000, "training_seconds": 600, **scores}
    missing = {"model": "vae", "seed": 1, "sampling": "reconstructions", "expected": {"accuracy": 0.97}}
    found = {"num_samples": 1000, "real digits": scores, "rows": [measured, missing]}
    (tmp_path / "quality.json").write_text(json.dumps(found))
    [table] = tables.tables_named("quality", tmp_path)
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts[0] == ["flow", "0", "euler", "20", "2000", "10", "0.912", "2.5", "1.1", "accuracy 0.91"]
    assert texts[1][6:9] == ["not run"] * 3 and texts[2][0] == "real digits"
    assert tables.tables_named("damages", tmp_path) == []


def test_what_is_no_table(tmp_path):
    with pytest.raises(InputError, match="table:other: found 'other', expected one of quality, damages"):
        tables.text_with_tables("<!-- table:other -->\n<!-- end:other -->\n", tmp_path)
    (tmp_path / "damages.json").write_text("{}")
    with pytest.raises(InputError, match="damages.json: its content is not what a measurement of the digit models"):
        tables.tables_named("damages", tmp_path)
