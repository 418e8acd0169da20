"""The study's table: means of seeds, calls without guidance, what was not run."""
import re

import pytest

from conftest import ROOT
from engine.errors import InputError
from evaluation import results_table
from flow import study_table, train
from flow.model import gflop_of_forward
from flow.options import check_scales
from flow.study_table import tables


def row(output, training_seed, solver, guidance, calls, value, **changes):
    key = dict.fromkeys(results_table.KEY_COLUMNS, "")
    return key | {"checkpoint": f"{output}_patch4_seed{training_seed}_3ep.pth", "epochs": 3, "path": "uniform",
                  "checkpoint_hash": f"{output}{training_seed}", "solver": f"{solver}_guidance{guidance}",
                  "num_model_calls": calls, "metric": "swd", "value": value, "num_images": 1000, "seed": 42,
                  "weights": "ema", "precision": "float32", "dataset": "cifar10", "split": "test",
                  "reference_hash": "abc", "finished": "2025-01-01", **changes}


PROTOCOL = "1,000 images of seed 42, EMA weights, float32, against cifar10, split test (abc)"


def test_cells_are_means_over_seeds(capsys):
    rows = [row("residual", 0, "ddim", 1, 10, 2.0), row("residual", 1, "ddim", 1, 10, 3.0),
            row("residual", 0, "midpoint", 4, 20, 7.0), row("velocity", 0, "midpoint", 1, 10, 5.0),
            row("velocity", 0, "midpoint", 1, 10, 5.0, metric="fid"),
            row("velocity", 0, "ddim", 1, 10, 99.0, checkpoint="lift_dual_timestep_3ep.pth")]
    assert tables(rows, "swd") == [
        f"**swd** (lower is better), {PROTOCOL}", "", "| output, patch, guidance, epochs | Euler 10 | midpoint 10 |",
        "|---|---|---|", "| residual, 4, 1, 3 | 2.50 ± 0.50 | not run |", "| residual, 4, 4, 3 | not run | 7.00 |",
        "| velocity, 4, 1, 3 | not run | 5.00 |", ""]
    assert tables(rows, "fd_lite0") == []
    assert capsys.readouterr().out == ""                # nothing is left out, and nothing kept apart


@pytest.mark.parametrize("changes", [{"num_images": 5000}, {"weights": "raw"}, {"precision": "bf16"}, {"seed": 43},
                                     {"dataset": "faces"}, {"split": "train"}, {"reference_hash": "def"}])
def test_protocols_have_tables_of_their_own(changes, capsys):
    rows = [row("clean", 0, "ddim", 1, 10, 340.0), row("clean", 1, "ddim", 1, 10, 140.0, **changes)]
    lines = tables(rows, "swd")
    assert [line for line in lines if line.startswith("| clean")] == ["| clean, 4, 1, 3 | 340.00 |",
                                                                      "| clean, 4, 1, 3 | 140.00 |"]
    assert len({line for line in lines if line.startswith("**")}) == 2
    assert "swd: 2 rows of 2 protocols, which are not joined" in capsys.readouterr().out


def test_trainings_of_other_lengths_and_earlier_ones_are_not_joined(capsys):
    rows = [row("clean", 0, "ddim", 1, 10, 500.0, checkpoint_hash="earlier", finished="2024-01-01"),
            row("clean", 0, "ddim", 1, 10, 340.0), row("clean", 1, "ddim", 1, 10, 350.0),
            row("clean", 0, "ddim", 1, 10, 90.0, checkpoint="clean_patch4_seed0_52ep.pth", epochs=52)]
    assert [line for line in tables(rows, "swd") if line.startswith("| clean")] == [
        "| clean, 4, 1, 3 | 345.00 ± 5.00 |", "| clean, 4, 1, 52 | 90.00 |"]
    assert "swd: rows left out: 1, of an earlier training or path of the same name" in capsys.readouterr().out


def test_shares_are_told_to_three_digits_and_what_was_expected_stands_first(tmp_path, monkeypatch):
    rows = [row("unet", 0, "ddim", 1, 10, 0.8125) | {"metric": "groups"}]
    monkeypatch.setattr(results_table, "read", lambda path: rows)
    monkeypatch.setattr("sys.argv", ["study_table", "--output", str(tmp_path / "study.md")])
    study_table.main()
    expected, _, title, *_, line = (tmp_path / "study.md").read_text().splitlines()
    assert expected == study_table.EXPECTED and title == f"**groups** (higher is better), {PROTOCOL}"
    assert line == "| unet, 4, 1, 3 | 0.812 |"


def test_the_familys_text_takes_the_study_and_the_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setattr(results_table, "read", lambda path: [row("clean", 0, "ddim", 1, 10, 340.0)])
    text = tmp_path / "README.md"
    marks = "<!-- table:study -->\n<!-- end:study -->\n<!-- table:benchmarks -->\n<!-- end:benchmarks -->\n"
    text.write_text(marks + "kept\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/flow_step.json").write_text('{"ratio": 1.1, "target": 0.98, "ok": true}')
    monkeypatch.setattr("sys.argv", ["study_table", "--results", str(tmp_path / "rows.csv"), "--output",
                                     str(tmp_path / "study.md"), "--readme", str(text)])
    study_table.main()
    written = text.read_text()
    assert written.endswith("kept\n") and "`benchmarks/flow_step.py` | 1.1 |" in written
    assert written.split("<!-- end:study -->")[0] == f"<!-- table:study -->\n{(tmp_path / 'study.md').read_text()}"
    text.write_text("<!-- table:other -->\n<!-- end:other -->\n")
    with pytest.raises(InputError, match="table:other: found 'other', expected one of study, benchmarks"):
        study_table.main()


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
