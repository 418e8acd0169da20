#!/usr/bin/env python3
"""Training by two processes against one: the loss curves must be the same within float tolerance.

Both see the same global batches; torchrun starts the two, which talk through gloo on a CPU. Writes the two curves as
results/two_processes.png; the last line is JSON.
"""
import json
import tempfile
from pathlib import Path

from scripts.benchmarks.training_runs import TWO_PROCESSES, log_of, train

from engine.command_line import Parser, real_number, run_script, whole_number
from engine.files import save_png


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--max_steps", type=whole_number(1), default=100, help="length of the runs")
    parser.add_argument("--tolerance", type=real_number(0), default=1e-3, help="largest relative difference of a loss")
    parser.add_argument("--output", type=Path, default=Path("results/two_processes.png"), help="figure")
    args = parser.parse_args()
    from evaluation import figures
    with tempfile.TemporaryDirectory() as temporary:
        options = ("--max_steps", args.max_steps, "--epochs", args.max_steps, "--learning_rate", "1e-3")
        one, two = Path(temporary) / "one", Path(temporary) / "two"
        train(one, *options)
        train(two, *options, launcher=TWO_PROCESSES)
        logs = {"one process": log_of(one), "two processes": log_of(two)}
    largest = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(*logs.values(), strict=True))
    save_png(args.output, figures.loss_curves(logs))
    print(json.dumps({"benchmark": "two_processes", "ratio": largest, "target": args.tolerance,
                      "ok": largest <= args.tolerance, "max_steps": args.max_steps,
                      "last_losses": [log[-1]["loss"] for log in logs.values()]}))


if __name__ == "__main__":
    run_script(main)
