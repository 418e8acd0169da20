"""What a score costs: the points of a figure of score against calls, arithmetic and seconds of an image.

A point is a model, a way of sampling it and a number of calls, with the mean over the seeds of its trainings. Two
kinds of file have what it takes: the table of results (`evaluation.results_table`), of rows with costs, and
`dual_digits.json`.
"""
import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from engine.files import expecting
from evaluation import results_table
from evaluation.tables import by_protocol, solver_of_row

COSTS = {"calls": "network calls per image", "gflop": "GFLOP per image", "seconds_per_image": "seconds per image"}
SEED = re.compile(r"_seed\d+(?=_|\.|$)")


@dataclass(frozen=True)
class Point:
    """Means over the seeds. model, way, group: of the line that it is on, the group has panels of its own. values:
    every seed's score, lower is better. costs: by COSTS, the seconds their median."""
    model: str
    way: str
    group: str
    values: tuple[float, ...]
    costs: dict[str, float]

    @property
    def value(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, 0 for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def points_of_rows(rows: list[dict]) -> list[Point]:
    """Rows of single seeds to points. rows: model, way, group, value and the COSTS; alike in the first three and in
    calls are the seeds of a point. In the order of first appearance, then of calls."""
    places = {}
    for row in rows:
        places.setdefault((row["model"], row["way"], row["group"]), {}).setdefault(row["calls"], []).append(row)
    points = []
    for (model, way, group), by_calls in places.items():
        for calls, own in sorted(by_calls.items()):
            middle = {name: statistics.median(row[name] for row in own) for name in COSTS}
            points.append(Point(model, way, group, tuple(row["value"] for row in own), middle | {"calls": calls}))
    return points


def rows_of_digits(found: dict, metric: str) -> list[dict]:
    """Of `dual_digits.json`: groups with and without correction, ways with and without a lead of the coarse scale. The
    group with correction is left out where none was chosen for any row of it."""
    is_any_corrected = any(row["corrected"] and (row["eps_scale"] != 1 or row["told_log_snr"]) for row in found["rows"])
    return [{**{name: row[name] for name in COSTS}, "model": row["cell"], "value": row[metric],
             "way": "equal times" if row["shift"] == 1 else "coarse ahead",
             "group": "exposure bias corrected" if row["corrected"] else "as it is"}
            for row in found["rows"] if is_any_corrected or not row["corrected"]]


def rows_of_table(rows: list[dict], metric: str) -> list[dict]:
    """Of the table of results: the rows that have costs. A model is a checkpoint's name without its seed, a group is a
    protocol (`evaluation.tables.by_protocol`), a way is path, step size, solver and mode of the 32 branch."""
    with_costs = [row for row in rows if all(name in row for name in results_table.COST_COLUMNS)]
    return [{"model": SEED.sub("", row["checkpoint"]).removesuffix(".pth"), "group": protocol,
             "way": ", ".join(filter(None, (row["path"], row["step_size"], solver_of_row(row),
                                            row["x32_mode"].replace("joint", "")))),
             "calls": row["num_model_calls"], "value": row["value"],
             **{name: row[name] for name in results_table.COST_COLUMNS}}
            for protocol, own in by_protocol(with_costs, metric).items() for row in own]


def read_points(path, metric: str) -> list[Point]:
    """The points in a file, .json or .csv. Raises InputError for one that has none of that metric with costs."""
    path = Path(path)
    if path.suffix == ".csv":
        rows = rows_of_table(results_table.read(path), metric)
    else:
        with expecting(path, "measurement of the digit models"):
            rows = rows_of_digits(json.loads(path.read_text(encoding="utf-8")), metric)
    if not rows:
        raise InputError(f"{path}: has no row of {metric} with {' and '.join(results_table.COST_COLUMNS)}, expected "
                         "some; rows of earlier versions have no costs: measure them again with --force, or name "
                         "another --metric")
    return points_of_rows(rows)


def front(points: list[Point], cost: str) -> list[Point]:
    """Those that none is better than at the same cost or less, cheapest first."""
    kept = []
    for point in sorted(points, key=lambda point: (point.costs[cost], point.value)):
        if not kept or point.value < kept[-1].value:
            kept.append(point)
    return kept
