"""The study's table: means of seeds, calls without guidance, what was not run."""
from evaluation import results_table
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
