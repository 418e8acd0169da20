#!/usr/bin/env python3
"""What a stranger waits for, in two checkouts: --help, a wrong option, and the commands' import, in alternation.

Every command is started anew each time, as from a shell, and the wall time is taken. The claim is that each answers
in less than a second here. --scripts also takes the time of the quickstart and of the tests, once in each checkout,
whose environment is made before. On another machine, or beside other work, all of it is slower. The last line is JSON.

  git worktree add --detach ../before 6768f0e
  (cd ../before && ./scripts/setup.sh)
  taskset -c 0,1 python -m scripts.benchmarks.first_contact --before ../before --scripts
"""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from engine.command_line import Parser, run_script, whole_number
from engine.errors import InputError

COMMANDS = ("train_baseline.py", "train_lift.py", "compute_heatmap_30.py", "generate_with_path_30.py",
            "eval_fid_batch.py")
ASKED = {"--help": 0, "--no_such_option": 2, "imported": 0}     # what is asked, and the status that answers it
SCRIPTS = {"quickstart": "./scripts/quickstart.sh", "tests": "./scripts/test.sh"}
MOST_SECONDS = 1.0


def words_of(command: str, asked: str) -> list[str]:
    """What is started: the command with an option, or an interpreter that only imports it."""
    how = ["-c", f"import {Path(command).stem}"] if asked == "imported" else [command, asked]
    return [sys.executable, *how]


def seconds_of(words, folder: Path, status: int) -> float:
    """Wall time of a command that is to end with that status. Raises InputError for any other."""
    start = time.perf_counter()
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != status:
        raise InputError(f"{folder}: {' '.join(words)} ended with status {done.returncode}, expected {status}: "
                         f"{done.stderr[-500:]}")
    return seconds


def main():
    parser = Parser(__doc__)
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the checkout to compare with")
    parser.add_argument("--rounds", type=whole_number(1), default=5, help="alternations")
    parser.add_argument("--scripts", action="store_true",
                        help="quickstart and tests of both checkouts too, minutes each")
    args = parser.parse_args()
    if missing := [command for command in COMMANDS if not (args.before / command).is_file()]:
        raise InputError(f"--before: found {args.before}, which has no {missing[0]}; expected a checkout of this "
                         "repository, such as `git worktree add --detach ../before 6768f0e` makes")
    from engine import devices
    sides = {"before": args.before, "after": Path(".")}
    seconds = {side: {f"{command} {asked}": [] for command in COMMANDS for asked in ASKED} for side in sides}
    for number in range(args.rounds + 1):               # the first round fills the disk's cache and does not count
        for command in COMMANDS:
            for asked, status in ASKED.items():
                for side, folder in list(sides.items())[::1 if number % 2 else -1]:
                    taken = seconds_of(words_of(command, asked), folder, status)
                    if number:
                        seconds[side][f"{command} {asked}"].append(taken)
    median = {side: {name: round(statistics.median(values), 3) for name, values in of_side.items()}
              for side, of_side in seconds.items()}
    for name in median["after"]:
        print(f"{name:>45}: {median['before'][name]:.2f} s before, {median['after'][name]:.2f} s now", flush=True)
    scripts = {side: {} for side in sides}
    for name, script in SCRIPTS.items() if args.scripts else ():
        for side, folder in sides.items():
            try:
                scripts[side][name] = round(seconds_of([script], folder, 0), 1)
                print(f"{script}, {side}: {scripts[side][name]:.0f} s", flush=True)
            except InputError as error:         # the others are still worth their minutes
                scripts[side][name] = None
                print(f"WARNING: {error}", file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "first_contact", "target": MOST_SECONDS, "slowest": max(median["after"].values()),
                      "ok": max(median["after"].values()) < MOST_SECONDS, "seconds": median, "scripts": scripts,
                      "rounds": args.rounds, "processor": devices.processor_name(),
                      "cores": len(os.sched_getaffinity(0))}))


if __name__ == "__main__":
    run_script(main)
