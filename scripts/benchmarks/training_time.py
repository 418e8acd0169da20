#!/usr/bin/env python3
"""How long 100 epochs of 15,803 images take LIFT at default size, from the record of a training that has run.

    python -m scripts.benchmarks.training_time results/gpu/lift_dual_timestep_run.json

The seconds of a run hold all between its first step and its end, compiling, validation and checkpoints too. A run of
another length or data set is scaled by the images it saw. The last line is JSON: ratio (minutes), target, ok.
"""
import json
from pathlib import Path

from scripts.benchmarks.train_step import DEFAULT_DIMS, MINUTES_TARGET, NUM_EPOCHS, NUM_IMAGES, minutes_of_training

from engine.command_line import Parser, run_script
from engine.errors import InputError


def read_record(path: Path) -> dict:
    """What a finished training of LIFT at default size left as {name}_run.json. Raises InputError for anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_finished, options = record["is_finished"], record["options"]
        found = (options["hidden_dims"], "timesteps" in options)
        record["images_per_second"] = record["step"] * options["batch_size"] / record["seconds"]
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: is no training's record ({error}); expected the *_run.json that train_lift.py "
                         "writes") from error
    if not is_finished or found != (DEFAULT_DIMS, True):
        raise InputError(f"{path}: found hidden dims {found[0]}, {'LIFT' if found[1] else 'the baseline'}, "
                         f"{'finished' if is_finished else 'not finished'}; expected LIFT with {DEFAULT_DIMS}, "
                         "finished")
    return record


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, metavar="RUN_JSON", help="of the training")
    record = read_record(parser.parse_args().record)
    minutes = minutes_of_training(record["images_per_second"])
    print(f"{record['step']} steps in {record['seconds'] / 60:.1f} minutes; {NUM_EPOCHS} epochs of {NUM_IMAGES:,} "
          f"images at that rate: {minutes:.1f} minutes")
    print(json.dumps({"benchmark": "training_time", "ratio": round(minutes, 2), "target": MINUTES_TARGET,
                      "ok": minutes < MINUTES_TARGET, "seconds": record["seconds"], "steps": record["step"],
                      "batch_size": record["options"]["batch_size"], "compile": record["options"]["compile"],
                      "images_per_second": round(record["images_per_second"], 1), "device": record["device"],
                      "precision": record["options"]["precision"]}))


if __name__ == "__main__":
    run_script(main)
