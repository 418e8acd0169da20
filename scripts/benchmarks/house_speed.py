#!/usr/bin/env python3
"""Does a change of the code cost speed? Training, sampling and error map of two checkouts, in alternation.

Both checkouts run the same commands in the same interpreter settings, each in a process that stays. The first call of
every command warms it up, the others are timed. A command is timed as a whole (build, work, files), with sizes at which
the work is most of it. The claim is that the checkout at hand is at most 3 % slower at each command. The order turns in
every round, and the ratio is the median of the rounds' ratios. With one thread processor time is compared, which other
work on the machine hardly touches. With more threads wall time is compared, since waiting threads burn processor time.
The last line is JSON.

  git worktree add --detach ../before 6768f0e
  python -m scripts.benchmarks.house_speed --before ../before
"""
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.errors import InputError

LARGEST_LOSS = 0.03
# What each checkout runs: reads [module, arguments] as JSON, answers with the seconds. What commands print goes aside.
SERVER = """
import contextlib, importlib, json, sys, time
answers = sys.stdout
for line in sys.stdin:
    module, arguments = json.loads(line)
    sys.argv = [module + ".py", *arguments]
    start = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(module).main()
    print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1]]), file=answers, flush=True)
"""


class Checkout:
    """A checkout's own process. A context manager: the process ends with it."""

    def __init__(self, folder: Path, log):
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log)

    def seconds(self, module: str, arguments) -> tuple[float, float]:
        """Wall and processor time of one command. Raises RuntimeError if the command ended the process."""
        self.process.stdin.write(json.dumps([module, [str(argument) for argument in arguments]]) + "\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"{module} in {self.folder} ended with status {self.process.wait()}")
        wall, processor = json.loads(answer)
        return wall, processor

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def commands(folder: Path, args):
    """Name -> module and arguments; every file of theirs lies in `folder`."""
    shared = ["--num_threads", args.num_threads, "--precision", args.precision]
    data = ["--dataset", f"synthetic:{args.num_images}", "--cache_dir", folder / "cache"]
    checkpoint = folder / "model_1ep.pth"
    return {
        "training step": ("train_lift", [
            *data, *shared, "--epochs", 1, "--batch_size", 16, "--hidden_dims", *args.hidden_dims, "--name", "model",
            "--checkpoint_dir", folder, "--output_dir", folder, "--no_tensorboard", "--overwrite"]),
        "sampling": ("generate_with_path_30", [
            *shared, "--checkpoint", checkpoint, "--num_images", 16, "--num_steps", 18, "--output_dir",
            folder / "images", "--grid_png",
            folder / "grid.png", "--overwrite"]),
        "error map": ("compute_heatmap_30", [
            *data, *shared, "--checkpoint", checkpoint, "--grid", 3, "--num_steps", 4, "--K", 1, "--target_error", 0,
            "--batch_size", 8,
            "--output_dir", folder, "--overwrite"]),
    }


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the checkout to compare with")
    parser.add_argument("--rounds", type=whole_number(1), default=10, help="alternations")
    parser.add_argument("--num_images", type=whole_number(16), default=64, help="images of one training")
    parser.add_argument("--hidden_dims", type=whole_number(8), nargs="+", default=[16, 32, 64, 128])
    add_device_options(parser)
    args = parser.parse_args()
    from engine import devices
    if not (args.before / "train_lift.py").is_file():
        raise InputError(f"--before: found {args.before}, which has no train_lift.py; expected a checkout of this "
                         "repository, such as `git worktree add --detach ../before 6768f0e` makes")
    device = start_device(args)
    args.num_threads = args.num_threads or 1
    compared = 1 if args.num_threads == 1 else 0
    revision = {"before": args.before, "after": Path(".")}
    revision = {side: subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, check=True, text=True,
                                     capture_output=True).stdout.strip() for side, folder in revision.items()}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = stack.enter_context(open(scratch / "log", "w"))
        sides, work = {}, {}
        for side, folder in (("before", args.before), ("after", Path("."))):
            sides[side] = stack.enter_context(Checkout(folder, log))
            (scratch / side).mkdir()
            work[side] = commands(scratch / side, args)
        seconds = {name: {side: [] for side in sides} for name in work["after"]}
        try:
            for name in seconds:
                for side in sides:
                    sides[side].seconds(*work[side][name])
            for number in tqdm(range(args.rounds), unit="round", desc="house_speed"):
                for name in seconds:
                    for side in list(sides)[::1 if number % 2 else -1]:
                        seconds[name][side].append(sides[side].seconds(*work[side][name])[compared])
        except RuntimeError as error:
            log.flush()
            sys.exit(f"{error}\n{(scratch / 'log').read_text(encoding='utf-8')[-2000:]}")
    rows = {}
    for name, by_side in seconds.items():
        ratios = [before / after for before, after in zip(by_side["before"], by_side["after"])]
        rows[name] = {"speed_after_over_before": round(statistics.median(ratios), 4),
                      "quartiles": [round(value, 4) for value in statistics.quantiles(ratios, n=4)[::2]]
                      if len(ratios) > 1 else None,
                      "seconds": {side: round(statistics.median(values), 3) for side, values in by_side.items()}}
        print(f"{name:>14}: {rows[name]['speed_after_over_before']:.3f} times the speed of before")
    print(json.dumps({"benchmark": "house_speed", "target": 1 - LARGEST_LOSS, "revisions": revision, "rows": rows,
                      "ok": all(row["speed_after_over_before"] >= 1 - LARGEST_LOSS for row in rows.values()),
                      "rounds": args.rounds, "hidden_dims": args.hidden_dims, "num_threads": args.num_threads,
                      "compared": ["wall time", "processor time"][compared],
                      "precision": args.precision, "device": devices.describe(device)}))


if __name__ == "__main__":
    run_script(main)
