#!/usr/bin/env python3
"""Constants of sampling for a baseline or LIFT, chosen on noise and images that no reported score has, then reported.

Every correction of exposure bias and guidance of WAYS is tried at equal network calls, path by path: with the first
checkpoint, from the noise of --choice_seed, against --choice_split. The way that scores best by --choose_by is scored
beside the plain one, for every checkpoint, with --seeds against --reference_split. A baseline has the same choice, but
for the guidance that needs a second scale. Finished rows are not measured again. Writes --output: what was tried, and
what was chosen.
"""
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from data import ImageSet, add_data_options, columns_in, load_images, num_in_common
from engine.command_line import (Parser, add_device_options, run_script, seed_number, start_device, whole_number,
                                 write_run_record)
from engine.errors import InputError
from engine.files import check_can_be_written, refuse_existing, written_together
from eval_fid_batch import choose_dataset
from evaluation import results_table
from evaluation.options import METRICS, WITHOUT_INCEPTION, rows_of
from evaluation.tables import HIGHER_IS_BETTER

# Metrics of one row whose smallest value is the best one.
CHOOSING = tuple(metric for metric in METRICS if metric in rows_of(metric) and metric not in HIGHER_IS_BETTER)


@dataclass(frozen=True)
class Way:
    """Constants of sampling, options of eval_fid_batch.py. guided_by: earlier, the earlier checkpoint of the same run;
    noisy_32, the model itself with pure noise as x_32; or nothing."""
    eps_scale: float = 1.0
    told_log_snr: float = 0.0
    guided_by: str = ""
    guide_scale: float = 2.0
    guide_interval: tuple[float, float] | None = None

    def options(self, guide) -> SimpleNamespace:
        """The options by name; guide: file of the earlier checkpoint."""
        return SimpleNamespace(solver="ddim", eta=0.0, eps_scale=self.eps_scale, told_log_snr=self.told_log_snr,
                               guide=guide if self.guided_by == "earlier" else None,
                               guide_noisy_32=self.guided_by == "noisy_32", guide_scale=self.guide_scale,
                               guide_interval=self.guide_interval)

    def words(self, guide) -> list[str]:
        """The same on a command line."""
        words = ["--eps_scale", str(self.eps_scale), "--told_log_snr", str(self.told_log_snr)]
        if self.guided_by:
            words += ["--guide", str(guide)] if self.guided_by == "earlier" else ["--guide_noisy_32"]
            words += ["--guide_scale", str(self.guide_scale)]
            words += ["--guide_interval", *map(str, self.guide_interval)] if self.guide_interval else []
        return words


PLAIN = Way()
MIDDLE = (-3.0, 1.0)                    # log SNR of a guide's interval; of a number of steps it makes 6, 9 and 18 calls
WAYS = (PLAIN, Way(eps_scale=0.97), Way(eps_scale=0.985), Way(told_log_snr=0.1), Way(told_log_snr=0.2),
        *(Way(guided_by=guide, guide_scale=scale, guide_interval=interval) for guide in ("earlier", "noisy_32")
          for scale, interval in ((1.5, None), (2.0, None), (2.0, MIDDLE))))


def ways_for(model_type: str, has_guides: bool) -> list[Way]:
    """Those of WAYS that a model has: a baseline no second scale, a run without earlier checkpoints no guide."""
    has = {"": True, "earlier": has_guides, "noisy_32": model_type == "lift"}
    return [way for way in WAYS if has[way.guided_by]]


def steps_of(way: Way, path: str, calls: int) -> int | None:
    """The number of steps along a path that is so many network calls, None where no number is: a guided step is two."""
    from lift.generation import num_calls
    from lift.paths import path_without_map
    return next((steps for steps in range(calls, 0, -1)
                 if num_calls(path_without_map(path, steps), way.options(way.guided_by)) == calls), None)


def row_of_way(args, loaded, way: Way, guide, path: str, steps: int, *, seeds, split: str, real: ImageSet,
               num_images: int, metrics, table) -> dict:
    """The row of one way, of the first seed and metric; all are measured and added to `table` unless they are there.

    loaded, guide: `LoadedModel` of the checkpoint and of the earlier one, or None; real: the images of `split`. The
    rest: options of eval_fid_batch.py. Raises InputError where that fails, or where several rows answer.
    """
    from lift.generation import solver_name
    words = [sys.executable, "eval_fid_batch.py", "--checkpoints", str(loaded.path), "--paths", path, "--num_steps",
             str(steps), *way.words(guide and guide.path), "--dataset", args.dataset, "--cache_dir",
             str(args.cache_dir), "--reference_split", split, "--seeds", *map(str, seeds), "--num_images",
             str(num_images), "--metrics", *metrics, "--results", str(table), "--precision", args.precision,
             "--num_threads", str(args.num_threads), *(["--device", args.device] if args.device else [])]
    for name, column in columns_in(vars(args)).items():
        words += [f"--{name}", column] if column else []
    if code := subprocess.run(words).returncode:
        raise InputError(f"eval_fid_batch.py: ended with status {code}; mend what it said and run this again")
    key = {"checkpoint_hash": loaded.fingerprint, "path": path, "num_steps": steps, "weights": "ema",
           "x32_mode": "joint", "precision": args.precision, "dataset": real.dataset, "split": split,
           "reference_hash": real.content_hash, "seed": seeds[0], "num_images": num_images,
           "metric": rows_of(metrics[0])[0], "solver": solver_name(way.options(guide and guide.path), guide)}
    rows = results_table.find(results_table.read(table, warn=False), key)
    if len(rows) != 1:
        raise InputError(f"{table}: has {len(rows)} rows of {loaded.path.name}, {key['path']}, {key['solver']}, "
                         f"{key['dataset']}, expected the one that eval_fid_batch.py has measured; name another table")
    return rows[0]


def load_apart(args) -> list[ImageSet]:
    """The images to choose by, and those of reported scores. Raises InputError where the choice would be made on noise
    or images that are reported."""
    if args.choice_seed in args.seeds:
        raise InputError(f"--choice_seed: found {args.choice_seed}, one of --seeds; expected another, so that no "
                         "constant is chosen on what is reported")
    splits = [args.choice_split, args.reference_split]
    chosen_on, reported = sets = [load_images(args.dataset, split, args.cache_dir, beside=splits,
                                              **columns_in(vars(args))) for split in splits]
    common = num_in_common(reported.images, chosen_on.images)
    if common > len(chosen_on) / 100:               # a data set may hold an image twice
        raise InputError(f"--choice_split: {common} of its {len(chosen_on)} images are in --reference_split "
                         f"{args.reference_split} too; expected others, as train[:500] beside train[500:]")
    return sets


def load_seeds(args) -> tuple[list, list]:
    """The checkpoints, and beside each its earlier one or None. Raises InputError for what does not belong together."""
    from lift import checkpoints
    if args.guides and len(args.guides) != len(args.checkpoints):
        raise InputError(f"--guides: found {len(args.guides)} for {len(args.checkpoints)} --checkpoints, expected an "
                         "earlier one for each")
    loaded = [checkpoints.load_model(file) for file in args.checkpoints]
    if len(types := {model.model_type for model in loaded}) > 1:
        raise InputError(f"--checkpoints: found {' and '.join(sorted(types))}, expected seeds of one training")
    return loaded, [checkpoints.load_model(file) for file in args.guides] or [None] * len(loaded)


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, metavar="FILE", action="each_once",
                        help="of one training, a seed each; constants are chosen with the first")
    parser.add_argument("--guides", type=Path, nargs="+", default=[], metavar="FILE", action="each_once",
                        help="an earlier checkpoint of each, in the same order; left out: no guidance by one")
    parser.add_argument("--paths", nargs="+", default=None, action="each_once", metavar="PATH",
                        help="that need no error map; left out: uniform, or diagonal")
    parser.add_argument("--calls", type=whole_number(1), nargs="+", default=[9, 18], action="each_once",
                        help="network calls per image")
    parser.add_argument("--choice_seed", type=seed_number, default=1042, metavar="SEED", help="of noise to choose on")
    parser.add_argument("--choice_split", default="validation", metavar="SPLIT", help="real images to choose by")
    parser.add_argument("--choice_images", type=whole_number(2), default=1000, metavar="IMAGES",
                        help="generated for every way that is tried")
    parser.add_argument("--choose_by", default="kd_lite0", choices=CHOOSING,
                        help="lower is better in all; a kernel distance is unbiased, however few the images")
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=[42], action="each_once",
                        help="of the noise of reported scores")
    parser.add_argument("--reference_split", default="train", metavar="SPLIT", help="real images of reported scores")
    parser.add_argument("--num_images", type=whole_number(2), default=5000, metavar="IMAGES",
                        help="generated for every reported row")
    parser.add_argument("--metrics", nargs="+", default=list(WITHOUT_INCEPTION), choices=METRICS, action="each_once",
                        help="of the reported scores")
    parser.add_argument("--results", type=Path, default=Path("results/fid_results.csv"), metavar="CSV",
                        help="table that reported rows are added to")
    parser.add_argument("--choices", type=Path, default=Path("results/choices.csv"), metavar="CSV",
                        help="table of what is tried")
    parser.add_argument("--output", type=Path, default=Path("results/constants.json"), metavar="JSON",
                        help="record of what was tried and chosen")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier --output")
    add_data_options(parser, columns=True, left_out="what the checkpoints were trained on")
    add_device_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from lift.paths import WITHOUT_MAP
    refuse_existing(args.output, args.overwrite)
    for table in (args.results, args.choices):
        check_can_be_written(table)
    loaded, guides = load_seeds(args)
    model_type = loaded[0].model_type
    names = args.paths or ["uniform" if model_type == "baseline" else "diagonal"]
    fitting = WITHOUT_MAP[:1] if model_type == "baseline" else WITHOUT_MAP[1:]
    if wrong := [name for name in names if name not in fitting]:
        raise InputError(f"--paths: found {wrong[0]} for a {model_type} model, expected some of {', '.join(fitting)}")
    for name, column in choose_dataset(args, [model.options for model in loaded], say=True).items():
        setattr(args, name, column)
    chosen_on, reported = load_apart(args)
    device = start_device(args)
    choice = {"seeds": [args.choice_seed], "split": args.choice_split, "real": chosen_on,
              "num_images": args.choice_images, "metrics": [args.choose_by], "table": args.choices}
    report = {"seeds": args.seeds, "split": args.reference_split, "real": reported, "num_images": args.num_images,
              "metrics": args.metrics, "table": args.results}
    tried, chosen = [], []
    for path in names:
        for calls in args.calls:
            found = []
            for way in ways_for(model_type, bool(args.guides)):
                if steps := steps_of(way, path, calls):
                    row = row_of_way(args, loaded[0], way, guides[0], path, steps, **choice)
                    found.append((row["value"], way, steps))
                    tried.append({"path": path, "calls": calls, "num_steps": steps, **vars(way), "value": row["value"]})
            value, best, steps = min(found, key=lambda entry: entry[0])
            chosen.append({"path": path, "calls": calls, "num_steps": steps, **vars(best), "value": value})
            for model, guide in zip(loaded, guides):
                for way, num_steps in dict.fromkeys([(PLAIN, calls), (best, steps)]):
                    row_of_way(args, model, way, guide, path, num_steps, **report)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with written_together(args.overwrite):
        write_run_record(args.output, args, device, tried=tried, chosen=chosen)
    for row in chosen:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_script(main)
