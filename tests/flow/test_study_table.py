"""The study's table: means of seeds, calls without guidance, what was not run."""
import re

import pytest

from conftest import ROOT
from evaluation import results_table
from flow import study_table, train
from flow.model import gflop_of_forward
from flow.options import check_scales
from flow.study_table import table


def row(output, seed, solver, guidance, calls, value):
    key = dict.fromkeys(results_table.KEY_COLUMNS, "")
    return key | {"checkpoint": f"{output}_patch4_seed{seed}_3ep.pth", "path": "uniform", "metric": "swd",
                  "solver": f"{solver}_guidance{guidance}", "num_model_calls": calls, "value": value}


def test_cells_are_means_over_seeds():
    rows = [row("residual", 0, "ddim", 1, 10, 2.0), row("residual", 1, "ddim", 1, 10, 3.0),
            row("residual", 0, "midpoint", 4, 20, 7.0), row("velocity", 0, "midpoint", 1, 10, 5.0),
            row("velocity", 0, "midpoint", 1, 10, 5.0) | {"metric": "fid"},
            row("velocity", 0, "ddim", 1, 10, 99.0) | {"checkpoint": "lift_dual_timestep_3ep.pth"}]
    assert table(rows, "swd") == [
        "**swd** (lower is better)", "", "| output, patch, guidance | Euler 10 | midpoint 10 |", "|---|---|---|",
        "| residual, 4, 1 | 2.50 ± 0.50 | not run |", "| residual, 4, 4 | not run | 7.00 |",
        "| velocity, 4, 1 | not run | 5.00 |", ""]
    assert table(rows, "fd_lite0") == []


def test_shares_are_told_to_three_digits_and_what_was_expected_stands_first(tmp_path, monkeypatch):
    rows = [row("unet", 0, "ddim", 1, 10, 0.8125) | {"metric": "groups"}]
    monkeypatch.setattr(results_table, "read", lambda path: rows)
    monkeypatch.setattr("sys.argv", ["study_table", "--output", str(tmp_path / "study.md")])
    study_table.main()
    expected, _, title, *_, line = (tmp_path / "study.md").read_text().splitlines()
    assert expected == study_table.EXPECTED and title == "**groups** (higher is better)"
    assert line == "| unet, 4, 1 | 0.812 |"


def test_the_studys_models_cost_the_same_within_a_twentieth():
    """The transformer of patch 4, the UNet and two scales, with the sizes that the script has."""
    script = (ROOT / "scripts/flow_study.sh").read_text()

    def gflop(name, *more):
        words = re.search(rf'{name}="\$\{{{name}:-(.+?)\}}"', script)[1].split()
        args = train.parse_args(["--dataset", "cifar10", *words, *more])
        check_scales(args, 32)
        sides = {"image_sizes": args.scales} if args.scales else {"image_size": 32}
        sizes = {key: getattr(args, key) for key in ("hidden_size", "depth", "patch_size")}
        sizes |= {"network": "unet"} if args.network == "unet" else {"num_heads": 4, "mlp_ratio": 4}
        return gflop_of_forward({**sides, **sizes, "channels": 3, "num_classes": 10})

    one = gflop("SIZES", "--patch_size", "4")
    assert gflop("UNET") == pytest.approx(one, rel=0.05) and gflop("DUAL") == pytest.approx(one, rel=0.05)
