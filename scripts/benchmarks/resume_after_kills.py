#!/usr/bin/env python3
"""Kill a training run with SIGKILL again and again, resume it each time, and compare with a run never stopped.

Every other kill comes at a random moment. The kills between come while a file is being written, with half of it on
disk. The claim is that the final weights are the same, bit for bit. A flow can be trained in the latents of an
autoencoder too. The last line is JSON.
"""
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import train_lift
from engine.command_line import Parser, real_number, run_script, whole_number
from engine.errors import InputError
from flow import train as train_flow
from scripts.benchmarks.training_runs import PROGRAMS, final_weights, train_command

MAINS = {"lift": train_lift.main, "flow": train_flow.main}
SYNCS_UP_TO = 13        # a kill during writing hits one of the first so many files that a run writes


def die_while_writing(nth_file: int) -> None:
    """From now on in this process: when the nth file has been written but not renamed, halve it and die."""
    real_sync, seen = os.fsync, [0]

    def sync_or_die(descriptor):
        seen[0] += 1
        if seen[0] == nth_file:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real_sync(descriptor)

    os.fsync = sync_or_die


def run_forked(main, command: list[str], nth_file: int | None) -> int:
    """Start a training's main in a fork of this process, silent; returns the child's process number."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        if nth_file is not None:
            die_while_writing(nth_file)
        sys.argv = command
        status = 1
        try:
            main()
            status = 0
        finally:                                        # whatever happens, the child never goes on as its parent would
            os._exit(status)
    return child


def run_to_its_end(folder: Path, main, command: list[str]) -> None:
    """A training in a fork, left alone. Raises InputError if it fails."""
    _, status = os.waitpid(run_forked(main, command, None), 0)
    if status:
        raise InputError(f"{folder}: training failed with status {os.waitstatus_to_exitcode(status)}")


def kill_and_resume(folder: Path, main, command: list[str], num_kills: int, longest: float,
                    seed: int) -> tuple[int, int]:
    """Start and kill a run until `num_kills` kills have hit or the run has reached its end. Returns how many kills hit,
    and how many of them left a half-written file. Raises InputError if a run fails by itself."""
    choices, kills, half_written = random.Random(seed), 0, 0
    while kills < num_kills:
        at_random_moment = kills % 2 == 0
        child = run_forked(main, command, None if at_random_moment else choices.randrange(1, SYNCS_UP_TO + 1))
        if at_random_moment:
            time.sleep(choices.uniform(0.05, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            half_written += any((folder / "checkpoints").glob(f"*.tmp{child}"))     # not an earlier process's
        elif os.WEXITSTATUS(status) == 0:
            break
        else:
            raise InputError(f"{folder}: a resumed run failed with status {os.WEXITSTATUS(status)}")
    return kills, half_written


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--family", choices=tuple(PROGRAMS), default="lift", help="whose training")
    parser.add_argument("--vae", type=Path, default=None, metavar="FOLDER", help="train a flow in its latents")
    parser.add_argument("--kills", type=whole_number(1), default=40, help="how many")
    parser.add_argument("--max_steps", type=whole_number(2), default=200, help="length of the run")
    parser.add_argument("--longest", type=real_number(0.1), default=3.0, help="most seconds before a random kill")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="decides the moments")
    args = parser.parse_args()
    import torch
    # Before the forks, which then need not; the first optimizer of a process loads torch._dynamo.
    for name in ("torch._dynamo", "engine.loop", "lift.tasks" if args.family == "lift" else "flow.training"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    if args.vae is not None and args.family != "flow":
        raise InputError(f"--vae: found {args.vae} with --family {args.family}, expected --family flow")
    if args.vae is not None:
        import diffusers                            # noqa: F401  once, and not in every fork, where it takes seconds
    with tempfile.TemporaryDirectory() as temporary:
        straight, killed = Path(temporary) / "straight", Path(temporary) / "killed"
        options = ("--max_steps", args.max_steps, "--epochs", args.max_steps, "--save_every", 1, "--state_every", 2)
        options += () if args.vae is None else ("--vae", args.vae.absolute())
        main_of_family = MAINS[args.family]

        def words(folder, *more):
            return [args.family,
                    *train_command(folder, *options, *more, family=args.family)[len(PROGRAMS[args.family]):]]

        run_to_its_end(straight, main_of_family, words(straight))
        kills, half_written = kill_and_resume(killed, main_of_family, words(killed, "--resume"), args.kills,
                                              args.longest, args.seed)
        run_to_its_end(killed, main_of_family, words(killed, "--resume"))
        expected, found = final_weights(straight, args.family), final_weights(killed, args.family)
        different = [name for name in expected if not torch.equal(expected[name], found[name])]
        leftovers = len(list((killed / "checkpoints").glob("*.tmp*")))
    print(f"survived {kills} kills, {half_written} of which left a half-written file")
    print(json.dumps({"benchmark": "resume_after_kills", "ratio": 1 - len(different) / len(expected), "target": 1.0,
                      "ok": not different and not leftovers and kills > 0, "num_kills": kills,
                      "num_half_written": half_written, "num_tensors": len(expected),
                      "num_different_tensors": len(different), "max_steps": args.max_steps, "seed": args.seed}))


if __name__ == "__main__":
    run_script(main)
