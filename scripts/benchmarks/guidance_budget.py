#!/usr/bin/env python3
"""Guidance on a budget: digits with classes that are drawn with a constant guidance, with guidance in an interval, and
with a difference that is used again.

Steps are even. A way is `constant`; `between LOW and HIGH`, in flow time; or `reused within LOG_SNR`. Its control is
`constant` at as many calls. Every row is written to {output}.json as soon as it is there, and a later call goes on;
{output}.png shows fd_digits against calls, arithmetic and time of an image.
"""
import statistics
import time
from pathlib import Path

from data import add_data_options
from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number)
from engine.errors import InputError
from engine.files import save_png, write_json
from scripts.benchmarks.digit_students import DIGITS_OF, digit_model, measured
from scripts.benchmarks.distill_scales import spread
from scripts.benchmarks.earlier_results import earlier_results


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    add_data_options(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="of digits, a flow with classes")
    parser.add_argument("--steps", type=whole_number(1, 1000), nargs="+", default=[3, 4, 5, 6, 8, 10, 14, 20],
                        metavar="STEPS", action="each_once", help="steps of every way")
    parser.add_argument("--reuse", type=real_number(0, open_below=True), nargs="+", default=[2.0, 4.0],
                        metavar="LOG_SNR", action="each_once", help="rises of log SNR within which it is used again")
    parser.add_argument("--interval", type=real_number(0, 1), nargs=2, default=[0.0, 0.5], metavar=("LOW", "HIGH"),
                        help="flow times between which it acts")
    parser.add_argument("--guidance_scale", type=real_number(0), default=2.0, help="of all ways")
    parser.add_argument("--num_samples", type=whole_number(10), default=1000, help="images of a row")
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=[0, 1, 2], metavar="SEED", action="each_once",
                        help="of the images, a row each")
    parser.add_argument("--output", default="results/guidance_budget", help="JSON and figure, without ending")
    add_device_options(parser)
    parser.set_defaults(dataset="mnist")
    return parser.parse_args(argv)


def guidances_of(args, loaded) -> dict:
    """Name of a way -> its denoiser. Raises InputError for a model that knows no flow time, or no guidance."""
    from engine.denoiser import Guided, check_guidance
    from flow.options import interval_in_log_snr
    from scheduler import LinearFlow
    [process] = loaded.denoiser.processes
    if not isinstance(process, LinearFlow):
        raise InputError(f"--checkpoint: {args.checkpoint} is no flow, expected a checkpoint of mnist.train_rf or "
                         "flow.train")
    check_guidance(args.guidance_scale, loaded.is_guidable, args.checkpoint)
    low, high = args.interval
    scale, interval = args.guidance_scale, interval_in_log_snr(args.interval, process)
    return {"constant": Guided(loaded.denoiser, scale),
            f"between {low:g} and {high:g}": Guided(loaded.denoiser, scale, interval),
            **{f"reused within {reuse:g}": Guided(loaded.denoiser, scale, reuse=reuse) for reuse in args.reuse}}


def by_way(rows: list[dict]) -> dict:
    """(way, steps) -> its rows, by way and then by steps."""
    groups = {}
    for row in rows:
        groups.setdefault((row["way"], row["num_steps"]), []).append(row)
    ways = list(dict.fromkeys(way for way, _ in groups))
    return dict(sorted(groups.items(), key=lambda group: (ways.index(group[0][0]), group[0][1])))


def of_constant_at(groups: dict, num_calls: int, score: str) -> float | None:
    """What constant guidance scores at a number of calls, between two measured ones on the straight line; None outside
    of what was measured."""
    known = sorted((rows[0]["num_model_calls"], statistics.mean(row[score] for row in rows))
                   for (way, _), rows in groups.items() if way == "constant")
    for (low, left), (high, right) in zip(known, known[1:]):
        if low <= num_calls <= high:
            return left + (right - left) * (num_calls - low) / (high - low)
    return None


def markdown_table(results: dict) -> str:
    """A line per way and number of steps: means and deviations over the seeds, and constant guidance at that cost."""
    lines = ["| guidance | steps | calls | accuracy | fd_digits, % | diversity | fd_digits, constant, equal calls |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    groups = by_way(results["rows"])
    for (way, steps), rows in groups.items():
        cells = [spread([row[name] for row in rows], digits) for name, digits in DIGITS_OF.items()]
        control = None if way == "constant" else of_constant_at(groups, rows[0]["num_model_calls"], "fd_digits")
        lines.append(f"| {way} | {steps} | {rows[0]['num_model_calls']} | {' | '.join(cells)} | "
                     f"{'–' if control is None else f'{control:.2f}'} |")
    return "\n".join(lines)


def figure_of(results: dict):
    """fd_digits against the cost of an image: a Figure."""
    from evaluation.figures import score_by_cost
    from evaluation.pareto import points_of_rows
    rows = [{**row, "model": row["way"], "way": "even steps", "value": row["fd_digits"],
             "group": f"guidance {results['settings']['guidance_scale']:g}", "calls": row["num_model_calls"]}
            for row in results["rows"]]
    return score_by_cost(points_of_rows(rows), "fd_digits, %")


def main():
    args = parse_args()
    from distill.candidates import num_calls
    from engine.flops import gflop_of_evaluation
    from evaluation.digit_scores import judge_of
    device = start_device(args)
    loaded = digit_model(args.checkpoint, "--checkpoint", device)
    ways = guidances_of(args, loaded)
    judge, _, test_set = judge_of(args.dataset, args.cache_dir)
    path = Path(f"{args.output}.json")
    settings = {"num_samples": args.num_samples, "guidance_scale": args.guidance_scale,
                "reference_hash": test_set.content_hash, "checkpoint_hash": loaded.fingerprint}
    results = earlier_results(path, {"settings": settings}) or {"settings": settings, "rows": []}
    gflop = gflop_of_evaluation(loaded.denoiser, device)
    for seed in args.seeds:
        for way, denoiser in ways.items():
            for steps in args.steps:
                row = {"way": way, "num_steps": steps, "seed": seed}
                found = measured(results["rows"], row)
                if found is None:
                    draw = loaded.drawing(denoiser, loaded.own_path(steps), device, precision=args.precision)
                    calls, start = num_calls(draw), time.perf_counter()
                    images, labels = draw.labelled(seed, range(args.num_samples))
                    seconds = time.perf_counter() - start
                    found = {**row, "num_model_calls": calls, "gflop": calls * gflop,
                             "seconds_per_image": seconds / args.num_samples, **judge.scores(images, labels)}
                    results["rows"].append(found)
                    write_json(path, results)
                print(f"{way}, {steps} steps, seed {seed}: {found['num_model_calls']} calls, "
                      + ", ".join(f"{name} {found[name]:.4f}" for name in DIGITS_OF), flush=True)
    save_png(f"{args.output}.png", figure_of(results))
    print("\n" + markdown_table(results))


if __name__ == "__main__":
    run_script(main)
