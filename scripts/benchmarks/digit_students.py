#!/usr/bin/env python3
"""Students of digits beside their teacher: accuracy, fd_digits and diversity of each, at every number of calls.

A student is sampled in its few steps; a teacher by Euler's steps with guidance, each of which calls the network twice.
Teachers and students of two scales are judged by their finer images. Images are balanced over the classes. Every row is
written to {output}.json as soon as it is there, and a later call goes on. {output}.png shows ten digits of each row,
from the same noise; of several seeds of training the first.
"""
import re
import statistics
import time
from pathlib import Path

from data import add_data_options
from distill.generate import student_of
from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number)
from engine.errors import InputError
from engine.files import load_torch, save_png, write_json
from scripts.benchmarks.earlier_results import earlier_results

NUM_SHOWN, CELL = 10, 60         # digits of a row in the picture; pixels that a digit has room in
TEACHER = "teacher"
DIGITS_OF = {"accuracy": 3, "fd_digits": 2, "diversity": 3}     # of the scores in the table


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    add_data_options(parser)
    parser.add_argument("--teacher", type=Path, required=True, nargs="+", metavar="FILE",
                        help="of digits, with classes: a checkpoint of the mnist family, or of flow.train")
    parser.add_argument("--students", type=Path, nargs="*", default=[], metavar="FILE", help="of distill.train")
    parser.add_argument("--teacher_steps", type=whole_number(1, 1000), nargs="+", default=[1, 2, 4, 10, 20],
                        metavar="STEPS", action="each_once", help="Euler's steps of the teacher, a row each")
    parser.add_argument("--guidance_scale", type=real_number(0), default=2.0, help="of the teacher")
    parser.add_argument("--num_samples", type=whole_number(10), default=1000, help="images of a row")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the images")
    parser.add_argument("--output", default="results/distill_digits", help="JSON and picture, without ending")
    add_device_options(parser)
    parser.set_defaults(dataset="mnist")
    return parser.parse_args(argv)


def digit_model(file, option: str, device):
    """What a checkpoint holds. Raises InputError, naming `option`, for one that draws no digits of classes."""
    import families
    loaded = families.load(file, device=device, option=option)
    if loaded.image_shape != (1, 28, 28) or loaded.denoiser.num_classes is None:
        raise InputError(f"{option}: {file} draws images {list(loaded.image_shape)} of "
                         f"{loaded.denoiser.num_classes or 'no'} classes, expected digits [1, 28, 28] with classes")
    return loaded


def rows_to_measure(args, device):
    """(name and settings of a row, `engine.drawing.Drawing`, loaded) of every row. Raises InputError."""
    from engine.denoiser import Guided
    for file in args.teacher:
        teacher = digit_model(file, "--teacher", device)
        guided = Guided(teacher.denoiser, args.guidance_scale)
        name = TEACHER if len(args.teacher) == 1 else f"{TEACHER} {Path(file).name}"
        for steps in args.teacher_steps:
            yield ({"model": name, "num_steps": steps, "checkpoint_hash": teacher.fingerprint,
                    "guidance_scale": args.guidance_scale},
                   teacher.drawing(guided, teacher.own_path(steps), device, precision=args.precision), teacher)
    for file in args.students:
        loaded = digit_model(file, "--students", device)
        student, path = student_of(loaded)
        options = load_torch(file, "checkpoint")["options"]
        yield ({"model": re.sub(r"_seed\d+$", "", options["name"]), "num_steps": len(path) - 1,
                "checkpoint_hash": loaded.fingerprint, "guidance_scale": options["real_guidance_scale"],
                "seed_of_training": options["seed"], "iterations": options["max_steps"]},
               loaded.drawing(student, path, device, "renoise", precision=args.precision), loaded)


def label_of(row: dict) -> str:
    """What stands beside a row of the picture."""
    name = re.sub(r"(_seed\d+)?_\d+ep\.pth$|_\d+_calls$", "", row["model"]).replace("_", " ")
    return f"{name}, {row['num_steps']} step{'s' if row['num_steps'] > 1 else ''}"


def measured(known: list[dict], row: dict) -> dict | None:
    """The finished row of these settings, if there is one."""
    return next((other for other in known if all(other.get(key) == value for key, value in row.items())), None)


def markdown_table(results: dict) -> str:
    """A line for each run and number of steps, in the order of measuring; of several trainings the mean, and each."""
    lines = ["| model | parameters | steps | calls | accuracy | fd_digits, % | diversity |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    groups = {}
    for row in results["rows"]:
        groups.setdefault((row["model"], row["num_steps"]), []).append(row)
    for (model, steps), rows in groups.items():
        cells = []
        for name, digits in DIGITS_OF.items():
            values = [row[name] for row in rows]
            one = f"{statistics.mean(values):.{digits}f}"
            cells.append(one if len(values) == 1 else f"{one} ({', '.join(f'{value:.{digits}f}' for value in values)})")
        lines.append(f"| {model} | {rows[0]['num_parameters']:,} | {steps} | {rows[0]['num_model_calls']} | "
                     f"{' | '.join(cells)} |")
    real = results["real digits"]
    cells = (f"{real[name]:.{digits}f}" for name, digits in DIGITS_OF.items())
    lines.append(f"| real digits | – | – | – | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    args = parse_args()
    from distill.candidates import num_calls
    from evaluation.digit_scores import judge_of
    from evaluation.figures import image_rows
    device = start_device(args)
    judge, train_set, test_set = judge_of(args.dataset, args.cache_dir)
    path = Path(f"{args.output}.json")
    settings = {"num_samples": args.num_samples, "seed": args.seed, "reference_hash": test_set.content_hash}
    results = {"settings": settings, "real digits": judge.noise_floor(train_set, args.num_samples, 1)[0], "rows": []}
    if earlier := earlier_results(path, {"settings": settings}):
        results["rows"] = earlier["rows"]
    shown = {}
    for row, draw, loaded in rows_to_measure(args, device):
        found, images = measured(results["rows"], row), None
        if found is None:
            start = time.perf_counter()
            images, labels = draw.labelled(args.seed, range(args.num_samples))
            found = {**row, "num_model_calls": num_calls(draw),
                     "num_parameters": sum(p.numel() for p in loaded.network.parameters()),
                     **judge.scores(images, labels), "seconds": time.perf_counter() - start}
            results["rows"].append(found)
            write_json(path, results)
        if (label := label_of(row)) not in shown:
            shown[label] = draw.images(args.seed, range(NUM_SHOWN)) if images is None else images[:NUM_SHOWN]
        print(f"{found['model']} {found['num_steps']} steps: "
              + ", ".join(f"{name} {found[name]:.4f}" for name in DIGITS_OF), flush=True)
    save_png(f"{args.output}.png", image_rows(shown, cell=CELL))
    print("\n" + markdown_table(results))


if __name__ == "__main__":
    run_script(main)
