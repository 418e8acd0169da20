#!/usr/bin/env python3
"""Few-step distillation where the truth is known: distances of students of eight Gaussians, row by row.

Every row trains its seeds in one batched network and is written to {output}.json as soon as it is done; a call with the
same iterations goes on where an earlier one stopped, and measures rows anew whose settings have changed. {output}.png
shows samples beside the truth, and distances over iterations; --readme takes the tables.
"""
import dataclasses
import json
import statistics
import time
from pathlib import Path

from engine.command_line import Parser, run_script, whole_number
from engine.files import write_json, written_whole
from scripts.benchmarks.distill_scales import spread
from scripts.benchmarks.earlier_results import results_of_rows

FOUR_STEPS = {"num_steps": 4}
# name -> settings, and a figure of the row to compare with, of an earlier implementation (mean, deviation over seeds);
# None for rows that show what a choice of this bed decides
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
    "v at 399, a start of 3000 iterations": ({"conditioning_timestep": 399, "denoiser_iterations": 3000}, None),
    "GAN alone, a head of one layer": ({"gan_weight": 1e-2, "gan_alone": True, "head_layers": 1}, None),
    "random start, time in every layer": ({"random_start": True, "time_everywhere": True}, None),
    "v at 399, time in every layer": ({"conditioning_timestep": 399, "time_everywhere": True}, None),
}
# The first of a pair was expected to come closer to the truth than the second.
ORDER = (("ratio 5, GAN", "ratio 5"), ("ratio 5", "ratio 1"), ("ratio 1, GAN", "ratio 1"), ("ratio 5", "ratio 10"),
         ("ratio 5, GAN", "GAN alone"), ("ratio 5", "random start"), ("v at 399", "ratio 5"),
         ("eps at 399", "eps at 999"), ("eps at 399, GAN", "eps at 399"),
         ("eps at 999, student rate 5e-5", "eps at 999"), ("equal teacher, GAN 1", "equal teacher"),
         ("4 steps, critic knows", "4 steps, published critic"),
         ("4 steps, critic knows", "4 steps, level schedule alone"), ("4 steps, both", "4 steps, critic knows"),
         ("4 steps, critic knows, longer", "4 steps, critic knows"))
# Rows whose distance half-way tells how steadily they train, and the range that it was expected in, or None.
HALF_WAY = {"ratio 1": (0.17, 0.35), "ratio 1, GAN": None, "ratio 5": (0.04, 0.08), "ratio 5, GAN": None,
            "ratio 10": None}
MIXTURES = {"4 steps, published critic": (0.037, 0.002)}    # of a student's steps together: a figure to compare with
NUM_DEVIATIONS = 3                                      # that a row may be away from its reference
# Trials of single choices, made before the networks were what they are now.
TRIALS = Path(__file__).resolve().parents[2] / "results/published/distill/distill_truth_trials.json"
FORMER = " (former networks)"                           # of a row that was measured with other settings than today's
SHOWN = ("ratio 5", "ratio 1", "eps at 399", "4 steps, published critic", "4 steps, both")
CURVES = {                              # panels of the figure: title -> rows, few enough to be told apart
    "one step: updates, GAN": ("ratio 5", "ratio 5, GAN", "ratio 1", "ratio 1, GAN", "ratio 10", "GAN alone"),
    "one step: output, start": ("ratio 5", "v at 399", "eps at 999", "eps at 399", "eps at 399, GAN", "random start"),
    "four steps": ("4 steps, published critic", "4 steps, level schedule alone", "4 steps, critic knows",
                   "4 steps, both", "4 steps, critic knows, no simulation", "4 steps, critic knows, longer")}
NUM_SHOWN = 1000
NUM_CURVE_POINTS = 12


def settings_of(name: str, iterations: int):
    """A row's settings. iterations: of a row of ordinary length."""
    from distill.known_truth import Settings
    settings = Settings(**ROWS[name][0])
    return dataclasses.replace(settings, iterations=iterations * settings.iterations // Settings().iterations)


def is_of_today(name: str, row: dict, results: dict) -> bool:
    """Whether a row was measured with the settings that it has now."""
    return row.get("settings") == dataclasses.asdict(settings_of(name, results["iterations"]))


def measure(name: str, settings) -> dict:
    """Train one row and score it."""
    import torch
    from distill.known_truth import Distillation
    reference = ROWS[name][1]
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


def markdown_table(results: dict) -> str:
    """The rows as a table, each beside the figure to compare with, and how many of its deviations lie between."""
    lines = ["| row | sliced Wasserstein-1 | reference | deviations apart |", "| --- | ---: | ---: | ---: |"]
    for name, row in results["rows"].items():
        former = "" if is_of_today(name, row, results) else FORMER
        reference = apart = "–"
        if row["reference"] is not None:
            mean, deviation = row["reference"]
            reference = f"{mean:.3f} ± {deviation:.3f}" if deviation else f"{mean:.3f}"
            if deviation:
                apart = f"{(statistics.mean(row['distances']) - mean) / deviation:+.1f}"
        lines.append(f"| {name}{former} | {spread(row['distances'])} | {reference} | {apart} |")
    return "\n".join(lines)


def half_way_table(results: dict) -> str:
    """How far rows are from the truth after half of their iterations, beside their end."""
    lines = ["| row | half-way | expected there | at the end |", "| --- | ---: | ---: | ---: |"]
    for name, expected in HALF_WAY.items():
        if name in results["rows"]:
            row = results["rows"][name]
            end = row["settings"]["iterations"]
            half = min(row["history"], key=lambda point: abs(2 * point["iteration"] - end))["distances"]
            within = "–" if expected is None else "{:.2f}–{:.2f}".format(*expected)
            lines.append(f"| {name} | {spread(half)} | {within} | {spread(row['distances'])} |")
    return "\n".join(lines)


def mixture_table(results: dict) -> str:
    """Students of several steps: the last step's points, and those of all steps together, each against the truth."""
    lines = ["| row | last step | mixture of its steps | reference of the mixture |", "| --- | ---: | ---: | ---: |"]
    for name, row in results["rows"].items():
        if "distances_of_mixture" in row:
            reference = "{:.3f} ± {:.3f}".format(*MIXTURES[name]) if name in MIXTURES else "–"
            lines.append(f"| {name} | {spread(row['distances'])} | "
                         f"{spread(row['distances_of_mixture'])} | {reference} |")
    return "\n".join(lines)


def order_table(results: dict) -> str:
    """Which of the expected orders hold, and how many rows lie within NUM_DEVIATIONS deviations of their reference."""
    rows = results["rows"]
    lines = ["| expected closer to the truth | than | measured |", "| --- | --- | --- |"]
    for better, worse in ORDER:
        if better in rows and worse in rows:
            first, second = (rows[name]["distances"] for name in (better, worse))
            gap = statistics.mean(second) - statistics.mean(first)
            is_clear = abs(gap) > statistics.stdev(first) + statistics.stdev(second)
            said = ("closer" if gap > 0 else "farther") if is_clear else "level within the spread of the seeds"
            lines.append(f"| {better} | {worse} | {said} |")
    judged = {name: row for name, row in rows.items() if row["reference"] and row["reference"][1]}
    near = [name for name, row in judged.items()
            if abs(statistics.mean(row["distances"]) - row["reference"][0]) <= NUM_DEVIATIONS * row["reference"][1]]
    far = [name for name in judged if name not in near]
    floor, not_so = statistics.mean(results["references"]["floor"]), f"; not so: {', '.join(far)}" if far else ""
    return "\n".join([*lines, "", f"Two draws of the truth are {floor:.4f} apart. Within {NUM_DEVIATIONS} deviations "
                                  f"of their reference: {len(near)} of {len(judged)} rows{not_so}."])


def trials_table(trials: dict) -> str:
    """What was changed one by one, and what came of it. trials: as in TRIALS."""
    lines = ["| row | changed | sliced Wasserstein-1 | reference |", "| --- | --- | ---: | ---: |"]
    for trial in sorted(trials["rows"], key=lambda trial: list(ROWS).index(trial["row"])):
        mean, deviation = ROWS[trial["row"]][1]
        lines.append(f"| {trial['row']} | {trial['changed']} | {trial['mean']:.3f} ± {trial['deviation']:.3f} | "
                     f"{mean:.3f} ± {deviation:.3f} |")
    return "\n".join(lines)


def write_tables(path: Path, results: dict) -> None:
    """All tables into a text, between their marks. Raises InputError."""
    from evaluation.benchmark_tables import benchmarks_tables
    from evaluation.text_tables import markdown_of, with_markdown
    trials = json.loads(TRIALS.read_text(encoding="utf-8"))
    measured = benchmarks_tables(TRIALS.parent)                         # what scripts/bench.sh left there
    known = {"distill_truth": markdown_table(results), "distill_truth_order": order_table(results),
             "distill_truth_half_way": half_way_table(results), "distill_truth_mixture": mixture_table(results),
             "distill_truth_trials": trials_table(trials), "benchmarks": markdown_of(measured)}
    new = with_markdown(path.read_text(encoding="utf-8"), known, str(path), "results")
    with written_whole(path, "w") as file:
        file.write(new)


def draw_figure(rows: dict):
    """Samples of a few rows beside the truth, and the distance of the rows of CURVES over their iterations."""
    import numpy as np
    import torch
    from distill.known_truth import CircleOfGaussians
    from evaluation.figures import figure, style_of_curve
    shown = ["truth", *SHOWN]
    width = len(shown) // len(CURVES)                               # panels of samples above one of curves
    fig, axes = figure(1.75 * len(shown), 5.6, nrows=2, ncols=len(shown), height_ratios=(2, 3))
    truth = CircleOfGaussians().draw((NUM_SHOWN,), torch.Generator().manual_seed(2))
    for axis, name in zip(axes[0], shown):
        axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xticks=(), yticks=())
        axis.set_title(name.replace(", ", ",\n"), fontsize=9)
        points = truth if name == "truth" else rows[name]["points"] if name in rows else []
        axis.scatter(*np.asarray(points).reshape(-1, 2).T, s=1, color="black", rasterized=True)
    spec = axes[1, 0].get_gridspec()
    for axis in axes[1]:
        axis.remove()
    panels = [fig.add_subplot(spec[1, width * number:width * (number + 1)]) for number in range(len(CURVES))]
    for axis, (title, names) in zip(panels, CURVES.items()):
        measured = [name for name in names if name in rows]
        for number, name in enumerate(measured):
            history = rows[name]["history"]
            axis.plot([point["iteration"] / rows[name]["settings"]["iterations"] for point in history],
                      [statistics.mean(point["distances"]) for point in history], label=name.removeprefix("4 steps, "),
                      **style_of_curve(number))
        axis.set(yscale="log", title=title, xlabel="share of the iterations")
        if measured:
            axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    panels[0].set_ylabel("sliced Wasserstein-1")
    return fig


def main():
    parser = Parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", action="each_once",
                        help="rows to run, by name")
    parser.add_argument("--iterations", type=whole_number(12), default=3000,
                        help="of a row of ordinary length; a longer row keeps its ratio to it")
    parser.add_argument("--output", default="results/distill_truth", help="JSON and figure, without ending")
    parser.add_argument("--readme", type=Path, default=None, metavar="FILE", help="text to write the tables into")
    args = parser.parse_args()
    import torch
    torch.set_num_threads(1)

    path = Path(f"{args.output}.json")
    results = results_of_rows(path, {"iterations": args.iterations}, references)
    for name in args.rows:
        if not is_of_today(name, results["rows"].get(name, {}), results):
            results["rows"][name] = measure(name, settings_of(name, args.iterations))
            results["rows"] = {known: results["rows"][known] for known in ROWS if known in results["rows"]}
            write_json(path, results)
        row = results["rows"][name]
        reference = "–" if row["reference"] is None else "{:.3f} ± {:.3f}".format(*row["reference"])
        of_mixture = row.get("distances_of_mixture")
        mixture = f"   mixture {spread(of_mixture)}" if of_mixture else ""
        print(f"{name:40} {spread(row['distances'])}   reference {reference}   {row['seconds']:.0f} s"
              f"{mixture}", flush=True)
    draw_figure(results["rows"]).savefig(f"{args.output}.png")
    if args.readme is not None:
        write_tables(args.readme, results)
    print("\n" + markdown_table(results) + "\n\n" + order_table(results))


if __name__ == "__main__":
    run_script(main)
