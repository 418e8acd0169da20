#!/usr/bin/env python3
"""Few-step distillation of two scales where the truth is known: distances of students, row by row.

Every run is written to {output}.json as soon as it is done; a call with the same iterations goes on where an earlier
one stopped. Distances are whitened ones to the true law, of averaged and of raw weights.
"""
import statistics
from pathlib import Path

from engine.command_line import Parser, run_script, seed_number, whole_number
from engine.files import write_json
from scripts.benchmarks.earlier_results import results_of_rows

TWO = ("--denoising", "--num_denoising_step", "2", "--backward_simulation")
PUBLISHED = (*TWO, "--no_critic_step", "--no_level_schedule")
CALLED_AT_399 = ("--conditioning_timestep", "399")
# name -> number of scales, options, and the distance of an earlier implementation's bed, whose law was another one, or
# None for rows that tell why
ROWS = {
    "one step, single": (1, (), 0.051), "one step, tied": (2, (), 0.090),
    "one step, free": (2, ("--coupling", "free"), 0.103),
    "two steps, published critic, single": (1, PUBLISHED, 0.26),
    "two steps, published critic, tied": (2, PUBLISHED, 0.30),
    "two steps, both, single": (1, TWO, 0.14), "two steps, both, tied": (2, TWO, 0.20),
    "two steps, both, tied, 32 ahead": (2, (*TWO, "--student_t_32", "999", "249"), 0.20),
    "one step at 399, single": (1, CALLED_AT_399, None), "one step at 399, tied": (2, CALLED_AT_399, None)}


def markdown_table(results: dict) -> str:
    """The rows: mean and deviation over seeds. `narrowest` is a share of the true variance."""
    lines = ["| row | averaged weights | raw weights | narrowest direction | scales disagree by | other bed |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, runs in results["rows"].items():
        cells = [spread([run[key] for run in runs.values() if key in run])
                 for key in ("ema", "raw", "narrowest", "disagreement")]
        other = ROWS[name][2]
        lines.append(f"| {name} | {' | '.join(cells)} | {'–' if other is None else f'{other:.3f}'} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and deviation; the mean alone for one, a dash for none."""
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def main():
    parser = Parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", action="each_once",
                        help="rows to run, by name")
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=[0, 1, 2], metavar="SEED", action="each_once",
                        help="a run each")
    parser.add_argument("--iterations", type=whole_number(1), default=3000, help="of a row")
    parser.add_argument("--output", default="results/distill_scales", help="JSON, without ending")
    args = parser.parse_args()
    import torch
    from distill.known_scales import distil, references
    torch.set_num_threads(1)
    path = Path(f"{args.output}.json")
    results = results_of_rows(path, {"iterations": args.iterations}, references)
    for seed in args.seeds:
        for name in args.rows:
            num_scales, given, _ = ROWS[name]
            runs = results["rows"].setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = distil(num_scales, seed, args.iterations, given)
                write_json(path, results)
            print(f"{name}, seed {seed}: {runs[str(seed)]}", flush=True)
    print(results["references"])
    print("\n" + markdown_table(results))


if __name__ == "__main__":
    run_script(main)
