#!/usr/bin/env python3
"""Do two times pay? Digits at 28 and 14 pixels by one small transformer: one scale against two, in minutes.

A baseline of one scale and models of two scales, whose times are drawn independently, equal, or fused, are trained with
the same steps, batches and sizes, several seeds each, and scored at equal calls: along equal times, and with the coarse
scale ahead. Finished parts are not done again. Writes results/published/mnist/dual_digits.json.
"""
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from engine.command_line import Parser, run_script, whole_number, write_run_record
from engine.errors import InputError

CELLS = {"baseline": "--image_size 28", **{f"two scales, {kind}": f"--scales 28 14 --timesteps {kind}"
                                           for kind in ("independent", "diagonal", "fused")}}
SIZES = ("--channels 1 --patch_size 7 --hidden_size 128 --depth 4 --num_heads 4 --mlp_ratio 4 --no-flip "
         "--batch_size 64 --learning_rate 1e-3 --lr_schedule cosine --ema_decay 0.995 --sample_every 0 "
         "--no_tensorboard --num_threads 1")
CALLS, SHIFTS = (6, 9, 18), (1.0, 1.65)             # the second: the coarse scale leads by 1 in log SNR
EXPECTED = ("Equal within the spread over seeds at 18 calls; independent behind the baseline in fd_digits at equal "
            "steps, since it learns a plane of times; fused between them.")


def name_of(cell: str, seed: int) -> str:
    """Of a training."""
    return f"{cell.replace(', ', '_').replace(' ', '_')}_seed{seed}"


def train(args, cell: str, seed: int) -> Path:
    """Train to the end unless that is done; the checkpoint."""
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


def scored(args, checkpoint: Path, judge, num_scales: int) -> list[dict]:
    """A row per number of calls and shift, guidance 1: Euler's steps from the same noise."""
    import torch
    from engine.drawing import Drawing, in_batches
    from flow.grids import find_path
    from flow.model import load_checkpoint
    loaded, rows = load_checkpoint(checkpoint), []
    for calls in CALLS:
        for shift in SHIFTS[:num_scales]:
            path = find_path(loaded.denoiser, "uniform", calls, "ddim", coarse_shift=shift)
            draw = Drawing(loaded.denoiser, path, range(10), how={"clip": False})
            images = torch.cat([found[0] for _, found in in_batches(lambda k: draw(0, k), args.num_samples, 250)])
            rows.append({"calls": calls, "shift": shift,
                         **judge.scores(images, torch.arange(len(images)) % 10)})
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds of every cell, number of calls and shift."""
    from evaluation.digit_scores import SCORES
    keys = sorted({(row["cell"], row["calls"], row["shift"]) for row in rows})
    found = []
    for key in keys:
        own = [row for row in rows if (row["cell"], row["calls"], row["shift"]) == key]
        found.append({**dict(zip(("cell", "calls", "shift"), key)), "seeds": len(own),
                      **{name: statistics.mean(row[name] for row in own) for name in SCORES},
                      **{f"{name}_deviation": statistics.stdev([row[name] for row in own]) if len(own) > 1 else None
                         for name in SCORES}})
    return found


def main():
    parser = Parser(__doc__)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--cache_dir", default="cache")
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1], action="each_once")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS), action="each_once")
    parser.add_argument("--steps", type=whole_number(1), default=1500, help="of every training")
    parser.add_argument("--num_samples", type=whole_number(20), default=1000)
    parser.add_argument("--experiments", type=Path, default=Path("experiments/dual_digits"), metavar="FOLDER")
    parser.add_argument("--through", default="", metavar="WORDS", help="what every training is started through")
    parser.add_argument("--output", type=Path, default=Path("results/published/mnist/dual_digits.json"), metavar="FILE")
    args = parser.parse_args()
    from mnist.options import judge_of
    judge = judge_of(args)[0]
    rows = json.loads(args.output.read_text(encoding="utf-8"))["rows"] if args.output.is_file() else []
    for seed in args.seeds:
        for cell in args.cells:
            if any((row["cell"], row["seed"]) == (cell, seed) for row in rows):
                continue
            checkpoint = train(args, cell, seed)
            rows += [{"cell": cell, "seed": seed, **row}
                     for row in scored(args, checkpoint, judge, 1 + cell.startswith("two"))]
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_run_record(args.output, args, expected=EXPECTED, sizes=SIZES, rows=rows, summary=summary(rows))
    for row in summary(rows):
        print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in
                        row.items()))


if __name__ == "__main__":
    run_script(main)
