"""The numbers in the family's text are those of the file they come from."""
import csv

from conftest import ROOT


def test_the_table_is_that_of_the_scores():
    text = (ROOT / "mnist/README.md").read_text(encoding="utf-8")
    with open(ROOT / "results/published/mnist/flow_2000_steps_scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        calls = 2 * int(row["num_steps"] or 0) * (1 if row["guidance_scale"] == "1.0" else 2) or "–"
        assert (f"| {row['guidance_scale']} | {calls} | {row['accuracy']} | {row['fd_digits']} | {row['diversity']} |"
                in text)
