#!/usr/bin/env python3
"""bf16 against float32 training of a small model: the loss curves must agree within noise over 2,000 steps.

Noise is what another seed changes. So the difference between the precisions, averaged over the last quarter of the run,
is compared with that between two seeds in float32. Writes results/precision.png; the last line is JSON.
"""
import json
import statistics
import tempfile
from pathlib import Path

from scripts.benchmarks.training_runs import SMALL, log_of, train

from engine.command_line import Parser, run_script, whole_number
from engine.files import save_png


def last_quarter(log: list[dict]) -> float:
    """Mean loss over the last quarter of a run."""
    return statistics.fmean(row["loss"] for row in log[-len(log) // 4:])


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--max_steps", type=whole_number(8), default=2000, help="length of the runs")
    parser.add_argument("--dataset", default="synthetic:1000", help="what to train on")
    parser.add_argument("--hidden_dims", nargs="+", default=["8", "16", "32"], help="channels per level")
    parser.add_argument("--output", type=Path, default=Path("results/precision.png"), help="figure")
    args = parser.parse_args()
    from evaluation import figures
    runs = {"float32": ("float32", 0), "bf16": ("bf16", 0), "float32, another seed": ("float32", 1)}
    logs = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (label, (precision, seed)) in enumerate(runs.items()):
            folder = Path(temporary) / str(number)
            train(folder, "--dataset", args.dataset, "--hidden_dims", *args.hidden_dims, "--max_steps", args.max_steps,
                  "--epochs", args.max_steps, "--learning_rate", "1e-3", "--log_every", 20, "--precision", precision,
                  "--seed", seed, "--save_every", args.max_steps, base=SMALL)
            logs[label] = log_of(folder)
            print(f"{label}: mean loss of the last quarter {last_quarter(logs[label]):.5f}", flush=True)
    ends = [last_quarter(log) for log in logs.values()]
    precision_gap, seed_gap = abs(ends[1] - ends[0]), abs(ends[2] - ends[0])
    save_png(args.output, figures.loss_curves(logs))
    print(json.dumps({"benchmark": "precision", "ratio": precision_gap / seed_gap, "target": 1.0,
                      "ok": precision_gap <= seed_gap, "precision_gap": precision_gap, "seed_gap": seed_gap,
                      "last_quarter_losses": dict(zip(logs, ends)), "max_steps": args.max_steps}))


if __name__ == "__main__":
    run_script(main)
