#!/usr/bin/env python3
"""Do two times pay? Digits at 28 and 14 pixels by one small UNet: one scale, two scales, two bands, in minutes.

A baseline of one time and models of two, whose times are drawn in several ways, are trained with the same steps,
batches and sizes, several seeds each. All are scored at equal calls: along equal times, and with the coarse scale or
band ahead; as they are, and with exposure bias corrected. The correction's constants are chosen cell by cell on a
training of another seed, with other noise. Finished parts are not done again. Writes --output. To publish: --output
results/published/mnist/dual_digits.json, then scripts.mnist_quality --text_only for the table of mnist/README.md.
"""
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from engine.command_line import Parser, run_script, whole_number, write_run_record
from engine.errors import InputError
from engine.files import expecting

BASELINE = "baseline"
CELLS = {BASELINE: "--image_size 28",
         **{f"two scales, {kind}": f"--scales 28 14 --timesteps {kind}"
            for kind in ("independent", "diagonal", "near", "fused")},
         **{f"two bands, {kind}": f"--image_size 28 --bands --timesteps {kind}" for kind in ("clock",)}}
SIZES = ("--network unet --channels 1 --patch_size 2 --hidden_size 32 --depth 1 --no-flip "
         "--batch_size 64 --learning_rate 2e-3 --lr_schedule cosine --ema_decay 0.995 --sample_every 0 "
         "--no_tensorboard --num_threads 1")
CALLS, SHIFTS = (6, 9, 18), (1.0, 1.65)             # the second: the coarse scale leads by 1 in log SNR
PLAIN = (1.0, 0.0)                                  # eps_scale, told_log_snr: no correction
CORRECTIONS = (PLAIN, (0.97, 0.0), (0.985, 0.0), (1.0, 0.1), (1.0, 0.2))
CHOICE_SEED, CHOICE_NOISE, REPORTED_NOISE = 1000, 1, 0      # of the training, and of images, that constants come from
KEY = ("cell", "calls", "shift", "corrected")
EXPECTED = ("Equal within the spread over seeds at 18 calls; independent behind the baseline in fd_digits at equal "
            "steps, since it learns a plane of times; near and fused between them; bands level with the baseline at "
            "equal times, since there they are one task, and ahead of it by less than a deviation with a lead. The "
            "correction helps models of two scales with a lead and leaves the baseline where it is.")


def name_of(cell: str, seed: int) -> str:
    """The --name of a training."""
    return f"{cell.replace(', ', '_').replace(' ', '_')}_seed{seed}"


def train(args, cell: str, seed: int) -> Path:
    """Train to the end, unless that is done. Returns the checkpoint."""
    name = name_of(cell, seed)
    folder = args.experiments / name
    record = folder / f"{name}_run.json"
    if not (record.is_file() and json.loads(record.read_text(encoding="utf-8")).get("is_finished")):
        words = [*shlex.split(args.through), sys.executable, "-m", "flow.train", *shlex.split(SIZES),
                 *shlex.split(CELLS[cell]), "--dataset", args.dataset, "--cache_dir", args.cache_dir, "--max_steps",
                 str(args.steps), "--seed", str(seed), "--name", name, "--checkpoint_dir", str(folder), "--output_dir",
                 str(folder), "--resume"]
        print("+", shlex.join(words), flush=True)
        if code := subprocess.run(words).returncode:
            raise InputError(f"flow.train: ended with status {code}; run this again to go on")
    return max(folder.glob("*ep.pth"))


def shifts_of(cell: str) -> tuple[float, ...]:
    """How far the coarse scale is shifted ahead along the paths of a cell."""
    return SHIFTS[:1] if cell == BASELINE else SHIFTS


def denoiser_and_gflop(checkpoint: Path) -> tuple:
    """A trained network as a denoiser, and the arithmetic of one call for one image."""
    from flow.model import gflop_of_forward, load_checkpoint
    loaded = load_checkpoint(checkpoint)
    return loaded.denoiser, gflop_of_forward(loaded.network.config)


def scored(model: tuple, judge, calls: int, shift: float, correction: tuple, noise_seed: int, num_samples: int) -> dict:
    """A row without its cell: Euler's steps, guidance 1, classes in turn, one thread's seconds. model: of
    `denoiser_and_gflop`."""
    import torch
    from engine.denoiser import Corrected
    from engine.drawing import Drawing
    from flow.grids import find_path
    (plain, gflop), (eps_scale, told_log_snr) = model, correction
    denoiser = Corrected.where_asked(plain, *correction)
    draw = Drawing(denoiser, find_path(denoiser, "uniform", calls, "ddim", coarse_shift=shift), range(10),
                   how={"clip": False})
    start = time.perf_counter()
    images = draw.images(noise_seed, range(num_samples))
    seconds = (time.perf_counter() - start) / num_samples
    return {"calls": calls, "shift": shift, "eps_scale": eps_scale, "told_log_snr": told_log_snr,
            "gflop": calls * gflop, "seconds_per_image": seconds,
            **judge.scores(images, torch.arange(len(images)) % 10)}


def tried(args, cell: str, judge) -> list[dict]:
    """Every correction at every number of calls and shift, by a training that is reported nowhere else."""
    model = denoiser_and_gflop(train(args, cell, CHOICE_SEED))
    return [{"cell": cell, **scored(model, judge, calls, shift, correction, CHOICE_NOISE, args.choice_samples)}
            for calls in CALLS for shift in shifts_of(cell) for correction in CORRECTIONS]


def chosen(choices: list[dict], cell: str, calls: int, shift: float) -> tuple[float, float]:
    """(eps_scale, told_log_snr) with the least fd_digits among those tried."""
    own = [row for row in choices if (row["cell"], row["calls"], row["shift"]) == (cell, calls, shift)]
    best = min(own, key=lambda row: row["fd_digits"])
    return best["eps_scale"], best["told_log_snr"]


def measured(args, cell: str, seed: int, judge, choices: list[dict]) -> list[dict]:
    """The reported rows of a training: two, without and with the correction, per number of calls and shift."""
    model, rows = denoiser_and_gflop(train(args, cell, seed)), []
    for calls in CALLS:
        for shift in shifts_of(cell):
            plain = scored(model, judge, calls, shift, PLAIN, REPORTED_NOISE, args.num_samples)
            correction = chosen(choices, cell, calls, shift)
            corrected = plain if correction == PLAIN else scored(model, judge, calls, shift, correction,
                                                                 REPORTED_NOISE, args.num_samples)
            rows += [{"cell": cell, "seed": seed, "corrected": is_corrected, **row}
                     for is_corrected, row in ((False, plain), (True, corrected))]
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds of every cell, number of calls, shift, with and without correction."""
    from evaluation.digit_scores import SCORES
    found = []
    for key in sorted({tuple(row[name] for name in KEY) for row in rows}):
        own = [row for row in rows if tuple(row[name] for name in KEY) == key]
        found.append({**dict(zip(KEY, key)), **{name: own[0][name] for name in ("eps_scale", "told_log_snr", "gflop")},
                      "seconds_per_image": statistics.median(row["seconds_per_image"] for row in own),
                      "seeds": len(own), **{name: statistics.mean(row[name] for row in own) for name in SCORES},
                      **{f"{name}_deviation": statistics.stdev([row[name] for row in own]) if len(own) > 1 else None
                         for name in SCORES}})
    return found


def earlier(args) -> tuple[list[dict], list[dict]]:
    """(rows, choices) that an earlier run has written to --output. Raises InputError for a run with other settings."""
    if not args.output.is_file():
        return [], []
    with expecting(args.output, "measurement of the digit models"):
        found = json.loads(args.output.read_text(encoding="utf-8"))
        for name in ("dataset", "steps", "num_samples", "choice_samples"):
            if found["options"][name] != getattr(args, name):
                raise InputError(f"--{name}: found {getattr(args, name)}, but {args.output} was measured with "
                                 f"{found['options'][name]}; use that, or another --output")
        return found["rows"], found["choices"]


def main():
    parser = Parser(__doc__)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--cache_dir", default="cache")
    parser.add_argument("--seeds", type=whole_number(0, CHOICE_SEED - 1), nargs="+", default=[0, 1, 2, 3, 4],
                        action="each_once")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS), action="each_once")
    parser.add_argument("--steps", type=whole_number(1), default=1500, help="of every training")
    parser.add_argument("--num_samples", type=whole_number(20), default=1000, help="of every reported score")
    parser.add_argument("--choice_samples", type=whole_number(20), default=500, help="of every correction tried")
    parser.add_argument("--experiments", type=Path, default=Path("experiments/dual_digits"), metavar="FOLDER")
    parser.add_argument("--through", default="", metavar="WORDS", help="what every training is started through")
    parser.add_argument("--output", type=Path, default=Path("results/mnist/dual_digits.json"), metavar="FILE")
    args = parser.parse_args()
    rows, choices = earlier(args)
    import torch
    from evaluation.digit_scores import judge_of
    torch.set_num_threads(1)
    judge, *_ = judge_of(args.dataset, args.cache_dir)

    def write():
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_run_record(args.output, args, expected=EXPECTED, sizes=SIZES, choice_seed=CHOICE_SEED,
                         seeds_done=sorted({row["seed"] for row in rows}), rows=rows, choices=choices,
                         summary=summary(rows))

    for seed in args.seeds:
        for cell in args.cells:
            if not any(row["cell"] == cell for row in choices):
                choices += tried(args, cell, judge)
                write()
            if not any((row["cell"], row["seed"]) == (cell, seed) for row in rows):
                rows += measured(args, cell, seed, judge, choices)
                write()
    for row in summary(rows):
        print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in
                        row.items()))


if __name__ == "__main__":
    run_script(main)
