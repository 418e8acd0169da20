"""Tables of S1's other measurements: errors by scale, super-resolution, costs of paths."""
import statistics
from pathlib import Path

from engine.errors import InputError
from evaluation.benchmark_tables import of_file
from evaluation.tables import Cell, Table, grouped, mark_best, read_csv


def number_cell(row: dict, value: str, standard_error: str, digits: int) -> Cell:
    """`value ± standard error` of a CSV row; empty where the row has no value."""
    if row[value] == "":
        return Cell("–")
    mean = float(row[value])
    text = f"{mean:.{digits}f}"
    return Cell(text + (f" ± {float(row[standard_error]):.{digits}f}" if row[standard_error] else ""), mean)


def mse_table(rows: list[dict]) -> Table:
    """The table of lift.eval_mse: a line per case. The clean scale's untrained output has columns of its own."""
    first = rows[0]
    table = Table("mse", "Error of the noise prediction",
                  f"Mean squared error per scale at t = {first['t']}, mean ± standard error over "
                  f"{first['num_images']} images ({first['dataset']}, split {first['split']}, "
                  f"{first['weights']} weights of {first['checkpoint']}). The output at a clean scale is untrained and "
                  "is no part of the score: its mean square stands apart.",
                  ["input", "t_64", "t_32", "64×64", "32×32", "clean scale's output"])
    for case, members in grouped(rows, lambda row: row["case"]).items():
        scored = {row["scale"]: number_cell(row, "mse", "standard_error", 4) for row in members
                  if row["scored"] == "yes"}
        apart = [number_cell(row, "mse", "standard_error", 4) for row in members if row["scored"] == "no"]
        table.rows.append([Cell(case), *(Cell(members[0][t], float(members[0][t])) for t in ("t_64", "t_32")),
                           scored.get("64", Cell("–")), scored.get("32", Cell("–")), *(apart or [Cell("–")])])
    return table


def super_resolution_table(rows: list[dict]) -> Table:
    """The table of lift.super_resolve: a line per method."""
    first = rows[0]
    table = Table("super_resolution", "Super-resolution from 32×32 to 64×64 without retraining",
                  f"Mean ± standard error over {first['num_images']} images ({first['dataset']}, split "
                  f"{first['split']}), {first['num_steps']} steps, {first['weights']} weights of "
                  f"{first['checkpoint']}; higher is better. Consistency: PSNR between the result's own half-size copy "
                  "and the image given.", ["method", "PSNR (dB)", "SSIM", "consistency (dB)"])
    for row in rows:
        table.rows.append([Cell(row["method"]), number_cell(row, "psnr", "psnr_standard_error", 2),
                           number_cell(row, "ssim", "ssim_standard_error", 4),
                           number_cell(row, "consistency", "consistency_standard_error", 2)])
    for column in (1, 2, 3):
        mark_best([row[column] for row in table.rows], higher=True)
    return table


SIDE_TABLES = {"mse": mse_table, "super_resolution": super_resolution_table}


@of_file("path_costs.json", "scripts/benchmarks/path_costs.py")
def path_cost_tables(found: dict) -> list[Table]:
    """The tables of scripts/benchmarks/path_costs.py: how well costs predict the error, and the error of the named
    paths."""
    num_mixtures = found["options"]["num_mixtures"]
    over = f"Mean over {num_mixtures} random mixtures, in brackets the least and the greatest."
    num_paths, path_steps, num_steps = (found["options"][key] for key in ("num_paths", "path_steps", "num_steps"))
    correlations = Table("path_costs", "Rank correlation of a cost with the error of "
                         f"{num_paths} random {path_steps}-step paths", over, ["cost", "raw", "whitened"])
    for cost, rows in grouped(found["correlations"], lambda row: row["cost"]).items():
        correlations.rows.append([Cell(cost), *(range_cell([row[norm] for row in rows], 2)
                                                for norm in ("raw", "whitened"))])
    distances = Table("path_costs", f"Distance of the samples to the true law, {num_steps} steps",
                      over, ["path", "raw", "whitened", "what it does"])
    for name, rows in grouped(found["paths"], lambda row: row["path"]).items():
        kinds = ", ".join(dict.fromkeys(row["kind"] for row in rows if row["kind"]))
        distances.rows.append([Cell(name), *(range_cell([row[norm] for row in rows], 4)
                                             for norm in ("raw", "whitened")), Cell(kinds or "–")])
    return [correlations, distances]


def range_cell(values: list[float], digits: int) -> Cell:
    """`mean [least, greatest]`."""
    mean = statistics.fmean(values)
    return Cell(f"{mean:.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]", mean)


def side_table(folder, name: str) -> Table | None:
    """The table of `{folder}/{name}.csv`; None where the file is missing or has no rows."""
    path = Path(folder) / f"{name}.csv"
    rows = read_csv(path) if path.exists() else []
    try:
        return SIDE_TABLES[name](rows) if rows else None
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no column or no number where expected ({error}); make it again") from error
