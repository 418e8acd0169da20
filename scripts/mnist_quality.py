#!/usr/bin/env python3
"""Train the digit models of the quality table, score them, write the scores into one JSON.

Every training has a fixed number of steps; a stopped training goes on, a finished one stays. --through puts words
before each command, such as `--through "taskset -c 0 timeout 1200"`; a training that these words end is continued. The
expected values were written down before anything was measured. They stand in the file, beside the measured ones. Rows
that --output holds already, of the same commands, stay where --experiments has none. To publish: --output
results/published/mnist/quality.json, then --text_only for the tables of mnist/README.md.
"""
import json
import shlex
import subprocess
import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from pathlib import Path

from engine.command_line import Parser, run_script
from engine.errors import InputError
from engine.files import expecting, write_json, written_whole
from engine.run_files import epoch_of

TEXT, FOLDER = Path("mnist/README.md"), Path("results/published/mnist")     # the family's text, and what it shows
SEEDS = (0, 1)
MIDPOINT, EULER, DDIM, DDPM = ("--sampler midpoint --sampling_steps 10", "--sampler euler --sampling_steps 50",
                               "--sampling_steps 50", "--mode ddpm")
MIDPOINT_5 = "--sampler midpoint --sampling_steps 5"           # ten calls, to be held against Euler's fifty
STOPPED = (124, 143)            # what `timeout`, and a training that SIGTERM ended, say


@dataclass
class Run:
    """A training and how it is scored."""
    verb: str
    options: str
    scores: dict                            # name -> (options of mnist.score, {score: what is expected})
    needs: str = ""                         # another run, whose checkpoint is the VAE
    seeds: tuple = field(default=SEEDS)


def flow(options: str, *expected: tuple[float, float], seeds: tuple = SEEDS) -> Run:
    """A flow with classes in pixels. expected: accuracy and fd_digits of each of its rows."""
    ways = {"midpoint 10, w 1": f"{MIDPOINT} --guidance_scales 1",
            "midpoint 10, w 2": f"{MIDPOINT} --guidance_scales 2",
            "midpoint 5, w 1": f"{MIDPOINT_5} --guidance_scales 1", "euler 50, w 1": f"{EULER} --guidance_scales 1"}
    return Run("train_rf", options, {title: (how, {"accuracy": accuracy, "fd_digits": distance}) for
                                     (title, how), (accuracy, distance) in zip(ways.items(), expected, strict=True)},
               seeds=seeds)


def latent(kind: str) -> Run:
    """Latent diffusion with classes."""
    return Run("train_conditioned_latent_diffusion", f"--conditioning {kind} --epochs 3 --max_steps 2000", {
        "ddim 50, w 3": (f"{DDIM} --guidance_scales 3", {"accuracy": 0.96}),
        "ddim 50, w 1": (f"{DDIM} --guidance_scales 1", {"accuracy": 0.88, "fd_digits": 3.5}),
        "ddpm 1000, w 1": (f"{DDPM} --guidance_scales 1", {"accuracy": 0.88, "fd_digits": 3.5})}, needs="vae")


CLASSES, IN_64 = "--conditioning cross_attention", "--batch_size 64 --conditioning cross_attention"
RUNS = {
    "flow": flow(f"{IN_64} --epochs 3 --max_steps 2000", (0.91, 2.2), (0.99, 1.0), (0.90, 2.6), (0.91, 2.2)),
    # As many images in batches of 32, which --fast takes.
    "flow 32": flow(f"{CLASSES} --epochs 3 --max_steps 4000", (0.94, 1.8), (0.995, 1.0), (0.94, 1.9), (0.94, 1.8),
                    seeds=(1,)),
    # A narrower network, and as many images as two cores train it on in ten minutes.
    "flow narrow": flow(f"{CLASSES} --base_channels 32 --epochs 5 --max_steps 8000", (0.94, 1.5), (0.995, 1.2),
                        (0.94, 1.5), (0.94, 1.5)),
    # A quarter of the images of the first, in batches of 64 and of 32.
    "flow quarter 64": Run("train_rf", f"{IN_64} --epochs 3 --max_steps 500", {
        "midpoint 5, w 1": (f"{MIDPOINT_5} --guidance_scales 1", {"accuracy": 0.84, "fd_digits": 4})}, seeds=(0,)),
    "flow quarter 32": Run("train_rf", f"{CLASSES} --epochs 3 --max_steps 1000", {
        "midpoint 5, w 1": (f"{MIDPOINT_5} --guidance_scales 1", {"accuracy": 0.88, "fd_digits": 3.2})}, seeds=(0,)),
    "vae": Run("train_vae", "--epochs 1 --max_steps 800", {"reconstructions": ("", {"accuracy": 0.97})}),
    "latent cross_attention": latent("cross_attention"),
    "latent concat": latent("concat"),
    "ddpm": Run("train_ddpm", f"{CLASSES} --epochs 1 --max_steps 600", {
        "ddim 50, w 1": (f"{DDIM} --guidance_scales 1", {"accuracy": 0.60, "fd_digits": 12}),
        "ddim 50, w 2": (f"{DDIM} --guidance_scales 2", {"accuracy": 0.85, "fd_digits": 8})}),
    "ddpm of noise": Run("train_ddpm", f"--output eps {IN_64} --epochs 1 --max_steps 600", {
        "ddim 50, w 1": (f"{DDIM} --guidance_scales 1", {"accuracy": 0.80, "fd_digits": 5.0}),
        "ddim 50, w 2": (f"{DDIM} --guidance_scales 2", {"accuracy": 0.95, "fd_digits": 3.0})}, seeds=(0,)),
}
# What was asked of a model and way of sampling, by the one who ordered this family.
ASKED = {**dict.fromkeys(("flow", "flow 32", "flow narrow"), {
             "midpoint 10, w 1": "accuracy 0.93, fd_digits at most 2", "midpoint 10, w 2": "accuracy 0.98",
             "midpoint 5, w 1": "no worse than euler 50"}),
         "vae": {"reconstructions": "accuracy 0.97"},
         **dict.fromkeys(("latent cross_attention", "latent concat"), {
             "ddim 50, w 3": "accuracy 0.95", "ddim 50, w 1": "fd_digits within 0.3 of ddpm 1000"})}


def folder_of(args, name: str, seed: int) -> Path | None:
    """The experiment folder of a run and seed, or None."""
    found = sorted(args.experiments.glob(f"*-{title_of(name, seed)}"))
    return found[-1] if found else None


def title_of(name: str, seed: int) -> str:
    """The --name of a training."""
    return f"{name.replace(' ', '_')}_seed{seed}"


def record_of(folder: Path | None, name: str, seed: int) -> dict:
    """The run record of a training; {} before there is one."""
    path = folder / f"{title_of(name, seed)}_run.json" if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


def checkpoint_of(folder: Path) -> Path:
    """The last checkpoint of an experiment."""
    return max((folder / "checkpoints").glob("*ep.pth"), key=epoch_of)


def call(args, *words) -> int:
    """Run a command of this repository and return its status: success or a stop. Raises InputError for others."""
    words = [*shlex.split(args.through), sys.executable, "-m", *map(str, words)]
    print("+", shlex.join(words), flush=True)
    code = subprocess.run(words).returncode
    if code and code not in STOPPED:
        verb = words[len(shlex.split(args.through)) + 2]
        raise InputError(f"{verb}: ended with status {code}; see its message above")
    return code


def common(args) -> list[str]:
    """Words that every command here is given."""
    return ["--dataset", args.dataset, "--cache_dir", args.cache_dir, "--num_threads", "1"]


def train(args, name: str, seed: int) -> Path:
    """Train to the end, or print that it is done. Returns the experiment folder."""
    run = RUNS[name]
    while not record_of(folder := folder_of(args, name, seed), name, seed).get("is_finished"):
        if folder:
            call(args, f"mnist.{run.verb}", "--resume", folder)
            continue
        vae = ["--vae_checkpoint", checkpoint_of(train(args, run.needs, seed))] if run.needs else []
        call(args, f"mnist.{run.verb}", "--fast", *shlex.split(run.options), *vae, "--seed", seed, "--name",
             title_of(name, seed), "--experiments", args.experiments, *common(args))
    return folder


def score(args, name: str, seed: int) -> None:
    """Measure every score that is not there yet."""
    for title, (options, _) in RUNS[name].scores.items():
        output = score_file(args, name, seed, title)
        if found := score_in(output):
            if found["options"]["num_samples"] != args.num_samples:
                raise InputError(f"--num_samples: found {args.num_samples}, but {output.with_suffix('.json')} is of "
                                 f"{found['options']['num_samples']}; use that, or other --experiments")
        else:
            checkpoint = checkpoint_of(folder_of(args, name, seed))
            call(args, "mnist.score", "--checkpoint", checkpoint, *shlex.split(options), "--num_samples",
                 args.num_samples, "--output", output, "--overwrite", *common(args))


def score_file(args, name: str, seed: int, title: str) -> Path:
    """Where a score is kept."""
    return args.experiments / f"{title_of(name, seed)}-{title.replace(' ', '_').replace(',', '')}.csv"


def score_in(output: Path) -> dict | None:
    """The record beside a score, None before it is measured."""
    path = output.with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def run_and_seed(word: str) -> tuple[str, int]:
    """A word of --only. Raises argparse's error for others."""
    name, _, seed = word.rpartition(":")
    if name not in RUNS or not seed.isdecimal() or int(seed) not in RUNS[name].seeds:
        raise ArgumentTypeError(f"found {word!r}, expected RUN:SEED, such as {next(iter(RUNS))}:{SEEDS[0]}; runs: "
                                f"{', '.join(RUNS)}; seeds: {', '.join(map(str, SEEDS))}")
    return name, int(seed)


def earlier_rows(args) -> tuple[dict, dict | None]:
    """Rows of --output, by model, seed and way of sampling, and its real digits. Raises InputError where they are of
    another number of images."""
    if not args.output.is_file():
        return {}, None
    with expecting(args.output, "table of digit models"):
        found = json.loads(args.output.read_text(encoding="utf-8"))
        rows = {(row["model"], row["seed"], row["sampling"]): row for row in found["rows"]}
        num_samples, floor = found["num_samples"], found["real digits"]
    if num_samples != args.num_samples:
        raise InputError(f"--num_samples: found {args.num_samples}, but {args.output} is of {num_samples}; use that, "
                         "or another --output")
    return rows, floor


def collect(args) -> None:
    """Write all records and scores that are there into the JSON file, where rows of other places stay."""
    from engine import devices
    earlier, floor = earlier_rows(args)
    rows = []
    for name, run in RUNS.items():
        for seed in run.seeds:
            record = record_of(folder_of(args, name, seed), name, seed)
            for title, (options, expected) in run.scores.items():
                row = {"model": name, "seed": seed, "sampling": title, "expected": expected}
                commands = {"training": f"mnist.{run.verb} --fast {run.options}",
                            "scoring": f"mnist.score {options}".strip()}
                before = earlier.get((name, seed, title), {})
                if found := score_in(score_file(args, name, seed, title)):
                    measured, real = found["rows"]  # the model, and as many real digits
                    floor = floor or real
                    row |= {**commands, "training_steps": record["step"], "training_seconds": record["seconds"],
                            "precision": found["options"]["precision"], "training_processor": record["processor"],
                            **measured}
                elif before.items() >= (commands | row).items():
                    row = before
                rows.append(row)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, {"num_samples": args.num_samples, "processor": devices.processor_name(),
                             "real digits": floor, "rows": rows})
    print(f"{args.output}: {sum('accuracy' in row for row in rows)} of {len(rows)} rows measured")


def text_with_tables(text: str, folder=FOLDER) -> str:
    """The family's text with its tables written anew."""
    from evaluation import digit_tables
    from evaluation.text_tables import markdown_of, with_tables
    return with_tables(text, lambda name: markdown_of(digit_tables.tables_named(name, folder, ASKED)), str(TEXT),
                       folder, may_empty=True)


def rewrite_text() -> None:
    """The tables of the family's text, made anew of what is published."""
    text = TEXT.read_text(encoding="utf-8")
    with written_whole(TEXT, "w") as file:
        file.write(text_with_tables(text))


def main():
    parser = Parser(__doc__)
    parser.add_argument("--only", type=run_and_seed, nargs="+", default=[], metavar="RUN:SEED", action="each_once",
                        help=f"of {', '.join(RUNS)}; all if left out")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--cache_dir", default="cache")
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--experiments", type=Path, default=Path("experiments/quality"))
    parser.add_argument("--through", default="", metavar="WORDS", help="what every command is started through")
    parser.add_argument("--no_scores", action="store_true", help="train only")
    parser.add_argument("--no_training", action="store_true", help="score and collect what is trained")
    parser.add_argument("--output", type=Path, default=Path("results/mnist/quality.json"), metavar="FILE")
    parser.add_argument("--text_only", action="store_true",
                        help="write the tables of mnist/README.md from what is published, measure nothing")
    args = parser.parse_args()
    if args.text_only:
        return rewrite_text()
    for name, seed in args.only or [(name, seed) for name, run in RUNS.items() for seed in run.seeds]:
        if not args.no_training:
            train(args, name, seed)
        if not args.no_scores and record_of(folder_of(args, name, seed), name, seed).get("is_finished"):
            score(args, name, seed)
    collect(args)


if __name__ == "__main__":
    run_script(main)
