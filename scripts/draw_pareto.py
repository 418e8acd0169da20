#!/usr/bin/env python3
"""Draw a score against calls, arithmetic and seconds of an image: a line per model and way of sampling.

Reads what scripts.dual_digits wrote, or a table that eval_fid_batch.py wrote.
"""
from pathlib import Path

from engine.command_line import Parser, run_script
from engine.errors import InputError
from engine.files import check_can_be_written, refuse_existing, save_png, written_together

LABELS = {"fd_digits": "fd_digits (%)", "swd": "sliced Wasserstein distance"}


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("results", type=Path, metavar="FILE", help="dual_digits.json, or a CSV of results")
    parser.add_argument("--metric", default="fd_digits", help="lower is better: fd_digits, fid, fd_lite0, swd ...")
    parser.add_argument("--output", type=Path, default=None, metavar="PNG",
                        help="left out: beside FILE, its name with _pareto behind it")
    parser.add_argument("--overwrite", action="store_true", help="replace a figure that exists")
    args = parser.parse_args(argv)
    output = args.output or args.results.with_name(f"{args.results.stem}_pareto.png")
    if output.suffix != ".png":
        raise InputError(f"--output: found {output}, expected a name that ends in .png")
    refuse_existing(output, args.overwrite)
    check_can_be_written(output)
    from evaluation import figures, pareto
    points = pareto.read_points(args.results, args.metric)
    with written_together(args.overwrite):
        save_png(output, figures.score_by_cost(points, LABELS.get(args.metric, args.metric)))
    for cost, label in pareto.COSTS.items():
        for point in pareto.front(points, cost):
            print(f"best for {point.costs[cost]:.4g} {label}: {args.metric} {point.value:.4g}, {point.model}, "
                  f"{point.way}, {point.group}")
    print(f"wrote {output}")


if __name__ == "__main__":
    run_script(main)
