#!/usr/bin/env python3
"""Few-step distillation where the truth is known: distances of students of eight Gaussians, row by row.

Every row trains its seeds in one batched network and is written to {output}.json as soon as it is done; a call with the
same iterations goes on where an earlier one stopped. {output}.png shows samples beside the truth, and distances over
iterations.
"""
import dataclasses
import statistics
import time
from pathlib import Path

from engine.command_line import Parser, run_script, whole_number
from engine.files import write_json
from scripts.benchmarks.earlier_results import results_of_rows

FOUR_STEPS = {"num_steps": 4}
# name -> settings, and a figure of the row to compare with, of an earlier implementation (mean, deviation over seeds)
ROWS = {
    "ratio 5": ({}, (0.040, 0.005)),
    "ratio 5, GAN": ({"gan_weight": 1e-2}, (0.034, 0.001)),
    "ratio 1": ({"update_ratio": 1}, (0.052, 0.013)),
    "ratio 1, GAN": ({"update_ratio": 1, "gan_weight": 1e-2}, (0.046, 0.004)),
    "ratio 10": ({"update_ratio": 10}, (0.044, 0.004)),
    "GAN alone": ({"gan_weight": 1e-2, "gan_alone": True}, (0.057, 0.007)),
    "random start": ({"random_start": True}, (0.120, 0.002)),
    "eps at 999": ({"kind": "eps"}, (0.585, 0.125)),
    "eps at 399": ({"kind": "eps", "conditioning_timestep": 399}, (0.025, 0.000)),
    "eps at 399, GAN": ({"kind": "eps", "conditioning_timestep": 399, "gan_weight": 1e-2}, (0.024, 0.000)),
    "eps at 999, student rate 5e-5": ({"kind": "eps", "student_rate": 5e-5}, (0.073, 0.005)),
    "v at 399": ({"conditioning_timestep": 399}, (0.025, 0.002)),
    "equal teacher": ({"equal_weights": True}, (0.069, 0.0)),
    "equal teacher, GAN 1": ({"equal_weights": True, "gan_weight": 1.0}, (0.046, 0.0)),
    "4 steps, published critic": (FOUR_STEPS, (0.115, 0.019)),
    "4 steps, level schedule alone": ({**FOUR_STEPS, "level_schedule": True}, (0.097, 0.021)),
    "4 steps, critic knows": ({**FOUR_STEPS, "critic_step": True}, (0.037, 0.004)),
    "4 steps, both": ({**FOUR_STEPS, "critic_step": True, "level_schedule": True}, (0.030, 0.002)),
    "4 steps, critic knows, no simulation": (
        {**FOUR_STEPS, "critic_step": True, "backward_simulation": False}, (0.036, 0.001)),
    "4 steps, critic knows, longer": ({**FOUR_STEPS, "critic_step": True, "iterations": 10_000}, (0.024, 0.003)),
}
SHOWN = ("ratio 5", "ratio 5, GAN", "ratio 1", "eps at 399", "4 steps, published critic", "4 steps, both")
NUM_SHOWN = 1000
NUM_CURVE_POINTS = 12


def measure(name: str, iterations: int | None) -> dict:
    """Train one row and score it."""
    import torch
    from distill.known_truth import Distillation, Settings
    options, reference = ROWS[name]
    settings = Settings(**options)
    if iterations:
        settings = dataclasses.replace(settings, iterations=iterations * settings.iterations // Settings().iterations)
    start = time.perf_counter()
    run = Distillation(settings)
    history = run.run(every=max(settings.iterations // NUM_CURVE_POINTS, 1))
    row = {"settings": dataclasses.asdict(settings), "seconds": time.perf_counter() - start, "history": history,
           "distances": history[-1]["distances"], "reference": reference,
           "points": run.draw(NUM_SHOWN, torch.Generator().manual_seed(2))[-1, 0].tolist()}
    if settings.num_steps > 1:
        row["distances_of_mixture"] = run.distances(of_mixture=True)
    return row


def references() -> dict:
    """What the table is read against: the floor of two draws of the truth, and the exact teacher by DDIM."""
    import torch
    from distill.known_truth import NUM_SCORED, CircleOfGaussians, exact_ddim, sliced_wasserstein_1
    truth, generator = CircleOfGaussians(), torch.Generator().manual_seed(3)
    floor = [sliced_wasserstein_1(*truth.draw((2, NUM_SCORED), generator)) for _ in range(10)]
    ddim = {calls: [sliced_wasserstein_1(exact_ddim(truth, calls, NUM_SCORED, generator),
                                         truth.draw((NUM_SCORED,), generator)) for _ in range(3)]
            for calls in (4, 10, 50)}
    return {"floor": floor, "exact DDIM": ddim}


def mean_and_deviation(values) -> str:
    """A cell of the table."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def markdown_table(results: dict) -> str:
    """The rows as a table, each beside the figure to compare with."""
    lines = ["| row | sliced Wasserstein-1 | reference |", "| --- | ---: | ---: |"]
    for name, row in results["rows"].items():
        mean, deviation = row["reference"]
        reference = f"{mean:.3f} ± {deviation:.3f}" if deviation else f"{mean:.3f}"
        lines.append(f"| {name} | {mean_and_deviation(row['distances'])} | {reference} |")
    return "\n".join(lines)


def draw_figure(rows: dict):
    """Samples of a few rows beside the truth, and the distance of every row over its iterations."""
    import numpy as np
    import torch
    from distill.known_truth import CircleOfGaussians
    from evaluation.figures import figure, style_of_curve
    shown = [name for name in SHOWN if name in rows]
    fig, axes = figure(2.4 * (len(shown) + 1), 5.4, nrows=2, ncols=len(shown) + 1)
    truth = CircleOfGaussians().draw((NUM_SHOWN,), torch.Generator().manual_seed(2))
    for axis, (name, points) in zip(axes[0], [("truth", truth), *((name, rows[name]["points"]) for name in shown)]):
        axis.scatter(*np.asarray(points).T, s=1, color="black", rasterized=True)
        axis.set(title=name, xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xticks=(), yticks=())
        axis.title.set_fontsize(8)
    spec = axes[1, 0].get_gridspec()
    for axis in axes[1]:
        axis.remove()
    halves = len(axes[1]) // 2
    groups = [(spec[1, :halves], "one step", 1), (spec[1, halves:], "four steps", 4)]
    for place, title, num_steps in groups:
        axis = fig.add_subplot(place)
        of_group = [name for name, row in rows.items() if row["settings"]["num_steps"] == num_steps]
        for number, name in enumerate(of_group):
            history = rows[name]["history"]
            axis.plot([point["iteration"] / rows[name]["settings"]["iterations"] for point in history],
                      [statistics.mean(point["distances"]) for point in history], label=name.removeprefix("4 steps, "),
                      **style_of_curve(number))
        axis.set(yscale="log", title=title, xlabel="share of the iterations", ylabel="sliced Wasserstein-1")
        if of_group:
            axis.legend(fontsize=5, ncols=2)
    return fig


def main():
    parser = Parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", action="each_once",
                        help="rows to run, by name")
    parser.add_argument("--iterations", type=whole_number(12), default=3000,
                        help="of a row of ordinary length; a longer row keeps its ratio to it")
    parser.add_argument("--output", default="results/distill_truth", help="JSON and figure, without ending")
    args = parser.parse_args()
    import torch
    torch.set_num_threads(1)

    path = Path(f"{args.output}.json")
    results = results_of_rows(path, {"iterations": args.iterations}, references)
    for name in args.rows:
        if name not in results["rows"]:
            results["rows"][name] = measure(name, args.iterations)
            write_json(path, results)
        row = results["rows"][name]
        of_mixture = row.get("distances_of_mixture")
        mixture = f"   mixture {mean_and_deviation(of_mixture)}" if of_mixture else ""
        print(f"{name:40} {mean_and_deviation(row['distances'])}   reference {row['reference'][0]:.3f} ± "
              f"{row['reference'][1]:.3f}   {row['seconds']:.0f} s{mixture}", flush=True)
    draw_figure(results["rows"]).savefig(f"{args.output}.png")
    print("\n" + markdown_table(results))


if __name__ == "__main__":
    run_script(main)
