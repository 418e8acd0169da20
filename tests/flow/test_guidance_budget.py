"""Guidance on a budget: its control stands at equal calls, and its table is that of the published rows."""
import json
import statistics

import pytest

from conftest import ROOT
from scripts.benchmarks import guidance_budget


def row(way, steps, calls, seed, fd):
    return {"way": way, "num_steps": steps, "seed": seed, "num_model_calls": calls, "gflop": 0.1 * calls,
            "seconds_per_image": 0.01 * calls, "accuracy": 0.5, "fd_digits": fd, "diversity": 0.25}


def test_the_control_is_constant_guidance_at_as_many_calls():
    rows = [row("constant", 5, 10, 0, 3.0), row("reused within 4", 7, 9, 0, 2.5), row("constant", 4, 8, 0, 4.0),
            row("constant", 4, 8, 1, 5.0), row("reused within 4", 20, 24, 0, 1.0)]
    groups = guidance_budget.by_way(rows)
    assert list(groups) == [("constant", 4), ("constant", 5), ("reused within 4", 7), ("reused within 4", 20)]
    assert guidance_budget.of_constant_at(groups, 9, "fd_digits") == pytest.approx((4.5 + 3) / 2)
    assert guidance_budget.of_constant_at(groups, 8, "fd_digits") == 4.5
    assert guidance_budget.of_constant_at(groups, 24, "fd_digits") is None
    lines = guidance_budget.markdown_table({"rows": rows}).split("\n")[2:]
    assert lines[0] == "| constant | 4 | 8 | 0.500 ± 0.000 | 4.50 ± 0.71 | 0.250 ± 0.000 | – |"
    assert lines[2] == "| reused within 4 | 7 | 9 | 0.500 | 2.50 | 0.250 | 3.75 |" and lines[3].endswith("| – |")
    figure = guidance_budget.figure_of({"settings": {"guidance_scale": 2.0}, "rows": rows})
    line = next(line for line in figure.axes[0].lines if list(line.get_xdata()) == [8, 10])
    assert list(line.get_ydata()) == [4.5, 3.0]


def test_the_readme_has_the_published_table_and_says_what_it_shows():
    results = json.loads((ROOT / "results/published/flow/guidance_budget.json").read_text(encoding="utf-8"))
    assert guidance_budget.markdown_table(results) in (ROOT / "flow/README.md").read_text(encoding="utf-8")
    groups = guidance_budget.by_way(results["rows"])
    for (way, _), rows in groups.items():
        control = guidance_budget.of_constant_at(groups, rows[0]["num_model_calls"], "fd_digits")
        ahead = None if control is None else control - statistics.mean(row["fd_digits"] for row in rows)
        if way.startswith("between") and ahead is not None:
            assert ahead > 0.1
        if way.startswith("reused") and ahead is not None:
            assert ahead < 0.03
