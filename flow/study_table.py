#!/usr/bin/env python3
"""The table of the flow family's study: a row per output, patch, guidance and epochs, a column per solver and calls.

It reads the rows that `scripts/flow_study.sh` adds. With several trainings that differ in their seed, a cell is their
mean and half of their range. What differs in more has a row, or a table, of its own.
"""
import re
import statistics
from collections import defaultdict
from pathlib import Path

from engine.command_line import Parser, run_script
from engine.errors import InputError
from engine.files import written_whole
from evaluation import results_table
from evaluation.benchmark_tables import benchmarks_tables
from evaluation.tables import HIGHER_IS_BETTER, by_protocol
from evaluation.text_tables import markdown_of, with_markdown

NAME = re.compile(r"(?P<output>[a-z]+)_patch(?P<patch>\d+)_seed(?P<seed>\d+)_(?P<epochs>\d+)ep\.pth")
SOLVER = re.compile(r"(?P<solver>[a-z]+)_guidance(?P<guidance>[\d.]+)")
# Written down before anything was measured, and shown above what came.
EXPECTED = ("Expected: residual ahead of velocity at both patches, and by more at patch 8, where a token has 192 "
            "numbers, which is most of the network's width or more than it; clean between them at patch 8 and level "
            "with velocity at patch 4. Midpoint and multistep with 10 calls level with Euler with 32. Guidance 2 ahead "
            "of 1 in the share of groups and in fd_lite0; 4 behind 2 in fd_lite0. The UNet ahead of the transformer at "
            "equal arithmetic, since the images are few; two scales level with one within the spread over seeds.")
SHOWN = {"ddim": "Euler", "midpoint": "midpoint", "multistep": "multistep"}


def cells_of(rows: list[dict]) -> dict:
    """(output, patch, guidance, epochs) -> (solver, calls) -> values of the trainings. Calls are those without
    guidance. rows: of one protocol."""
    cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        name, solver = NAME.fullmatch(row["checkpoint"]), SOLVER.fullmatch(row["solver"])
        guidance = float(solver["guidance"])
        calls = row["num_model_calls"] // (2 if guidance not in (0, 1) else 1)
        place = name["output"], int(name["patch"]), guidance, int(name["epochs"])
        cells[place][solver["solver"], calls].append(row["value"])
    return cells


def is_of_the_study(row: dict) -> bool:
    """Whether the study's script has made a row."""
    return bool(NAME.fullmatch(row["checkpoint"]) and SOLVER.fullmatch(row["solver"]) and row["path"] == "uniform")


def tables(rows: list[dict], metric: str) -> list[str]:
    """Markdown lines of one metric, a table per protocol; [] where no row has it. Prints what is not joined."""
    protocols = by_protocol([row for row in rows if is_of_the_study(row)], metric)
    return [line for protocol, own in protocols.items() for line in table(own, metric, protocol)]


def table(rows: list[dict], metric: str, protocol: str) -> list[str]:
    """Markdown lines of the table of one metric under one protocol."""
    cells = cells_of(rows)
    columns = sorted({column for row in cells.values() for column in row},
                     key=lambda c: (c[1], list(SHOWN).index(c[0])))
    better, digits = ("higher", 3) if metric in HIGHER_IS_BETTER else ("lower", 2)
    lines = [f"**{metric}** ({better} is better), {protocol}", "",
             "| output, patch, guidance, epochs | "
             + " | ".join(f"{SHOWN[solver]} {calls}" for solver, calls in columns) + " |",
             "|---|" + "---|" * len(columns)]
    for (output, patch, guidance, epochs), row in sorted(cells.items()):
        shown = []
        for column in columns:
            values = row.get(column, [])
            spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
            shown.append(f"{statistics.fmean(values):.{digits}f}{spread}" if values else "not run")
        lines.append(f"| {output}, {patch}, {guidance:g}, {epochs} | " + " | ".join(shown) + " |")
    return [*lines, ""]


def with_study(text: str, study: str, source: Path, results: Path) -> str:
    """The family's text with the study and the benchmarks beside the results in its marks. Raises InputError."""
    benchmarks = markdown_of(benchmarks_tables(results.parent))
    return with_markdown(text, {"study": study, "benchmarks": benchmarks}, str(source), results.parent)


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/flow_study/fid_results.csv"), metavar="CSV")
    parser.add_argument("--metrics", nargs="+", default=["fd_lite0", "swd", "groups"], action="each_once",
                        metavar="METRIC")
    parser.add_argument("--output", type=Path, default=Path("results/flow_study/study.md"), metavar="FILE")
    parser.add_argument("--readme", type=Path, default=None, metavar="FILE",
                        help="a text to write the study into, and the benchmarks beside the results")
    args = parser.parse_args()
    rows = results_table.read(args.results)
    lines = [line for metric in args.metrics for line in tables(rows, metric)]
    if not lines:
        raise InputError(f"{args.results}: has no rows of scripts/flow_study.sh with {', '.join(args.metrics)}; run "
                         "that first")
    study = "\n".join([EXPECTED, "", *lines]).rstrip()
    text = args.readme and with_study(args.readme.read_text(encoding="utf-8"), study, args.readme, args.results)
    with written_whole(args.output) as file:
        file.write(f"{study}\n".encode())
    print(f"{args.output}: {len(lines)} lines")
    if text:
        with written_whole(args.readme, "w") as file:
            file.write(text)
        print(f"{args.readme}: tables written")


if __name__ == "__main__":
    run_script(main)
