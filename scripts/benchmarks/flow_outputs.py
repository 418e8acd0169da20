#!/usr/bin/env python3
"""What the outputs of a flow network are worth in pixels: held-out velocity error after equal training.

The same small DiT is trained with each output and each seed by `python -m flow.train`. Then the averaged weights are
measured on held-out images, at logit-normal and at uniform times. A finished training is not repeated, a stopped one
goes on. Every run's numbers are in the JSON file as soon as they are known.
"""
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from engine import run_files
from engine.command_line import (ROOT, Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from flow.train import parse_args
from networks.presets import OUTPUTS

# Stated before measuring: held-out error at logit-normal times that an output may have at most.
EXPECTED = {"residual": 0.215, "velocity": 0.235}
NUM_DRAWS = 4                           # of time and noise for each held-out image


def words_of(args, output: str, seed: int) -> list[str]:
    """The options of one training."""
    folder = args.runs / f"{output}_patch{args.patch_size}_seed{seed}"
    return ["--dataset", args.dataset, "--cache_dir", args.cache_dir, "--val_split", args.val_split, "--val_every",
            "1000",
            "--val_images", "1000000", "--image_size", "32", "--hidden_size", str(args.hidden_size), "--depth",
            str(args.depth), "--num_heads", str(args.num_heads), "--mlp_ratio", "4", "--patch_size",
            str(args.patch_size),
            "--batch_size", "64", "--max_steps", str(args.steps), "--epochs", "1000", "--learning_rate",
            str(args.learning_rate), "--output", output, "--seed", str(seed), "--name", "flow", "--checkpoint_dir",
            str(folder), "--output_dir", str(folder), "--sample_every", "0", "--no_tensorboard", "--state_every", "100",
            "--precision", args.precision, "--num_threads", str(args.num_threads), *(["--device", args.device] if
                                                                                    args.device else [])]


def train(words: list[str]) -> Path:
    """The checkpoint of a training, which is started or continued unless it is finished. Raises InputError if it
    fails."""
    folder = Path(words[words.index("--checkpoint_dir") + 1])
    if not run_files.list_checkpoints(folder, "flow"):
        command = [sys.executable, "-m", "flow.train", *words, "--resume"]
        print(shlex.join(command), flush=True)
        if subprocess.run(command, cwd=ROOT).returncode:
            raise InputError(f"{folder}: the training did not end; mend what it says above and start this again")
    return run_files.list_checkpoints(folder, "flow")[-1]


def measured(words: list[str], checkpoint: Path | None, device) -> dict:
    """Held-out error of the averaged weights: mean and standard error by distribution of t. Without a checkpoint, of a
    network that was never trained: with the residual output, of the best affine velocity."""
    from engine.distributed import Group
    from flow.model import load_checkpoint
    from flow.training import make_task
    task = make_task(parse_args(words), device, Group(0, 1))
    if checkpoint is None:
        task.begin()
    networks = {"model": load_checkpoint(checkpoint, "ema", device).network} if checkpoint else task.networks
    found = {}
    for distribution in ("logit_normal", "uniform"):
        errors = task.held_out_errors(networks, distribution, NUM_DRAWS)[0][0].tolist()
        found[distribution] = round(statistics.fmean(errors), 5)
        found[f"{distribution}_standard_error"] = round(statistics.stdev(errors) / len(errors)**0.5, 5)
    return found | {"num_held_out": len(task.held_out[1])}


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="../shared/data/animals64", help="with a held-out split")
    parser.add_argument("--val_split", default="validation", help="held-out images")
    parser.add_argument("--cache_dir", default="cache", metavar="FOLDER", help="where decoded images are kept")
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=["residual", "velocity"], action="each_once")
    parser.add_argument("--seeds", nargs="+", type=seed_number, default=[0, 1], action="each_once")
    parser.add_argument("--hidden_size", type=whole_number(4), default=96)
    parser.add_argument("--depth", type=whole_number(1), default=3)
    parser.add_argument("--num_heads", type=whole_number(1), default=3)
    parser.add_argument("--patch_size", type=whole_number(1), default=4)
    parser.add_argument("--steps", type=whole_number(1), default=1500, help="of 64 images")
    parser.add_argument("--learning_rate", type=real_number(0, open_below=True), default=1e-3)
    parser.add_argument("--runs", type=Path, default=Path("checkpoints/flow_outputs"), metavar="FOLDER")
    parser.add_argument("--output_json", type=Path, default=Path("results/flow/flow_outputs.json"), metavar="FILE")
    add_device_options(parser, precision="float32")
    args = parser.parse_args()
    device = start_device(args)
    runs = {"best affine velocity, no network": measured(words_of(args, "residual", 0), None, device)}
    for seed in args.seeds:
        for output in args.outputs:
            words = words_of(args, output, seed)
            runs[f"{output} seed {seed}"] = measured(words, train(words), device)
            means = {name: round(statistics.fmean(run["logit_normal"] for key, run in runs.items()
                                                  if key.startswith(name)), 5)
                     for name in args.outputs if any(key.startswith(name) for key in runs)}
            write_run_record(args.output_json, args, device, runs=runs, mean_logit_normal=means,
                             expected_at_most=EXPECTED)
            print(f"{output} seed {seed}: {json.dumps(runs[f'{output} seed {seed}'])}", flush=True)
    print(json.dumps({"benchmark": "flow_outputs", "mean_logit_normal": means, "expected_at_most": EXPECTED,
                      "ok": all(means[name] <= EXPECTED[name] for name in means if name in EXPECTED)}))


if __name__ == "__main__":
    run_script(main)
