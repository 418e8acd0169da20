#!/usr/bin/env python3
"""Generate images with checkpoints along paths and score them, all in memory; add the values to the table of results.

One row per checkpoint, weights, path, steps, seed, number of images, real images and metric. A finished row is skipped
and printed; --force measures it again and replaces just that row. Several of these may run at once, and torchrun
divides one generation over processes.
"""
import time
from pathlib import Path

import data
from engine import run_files
from evaluation import results_table
from evaluation.options import METRICS, add_metric_options
from engine.command_line import (Parser, add_device_options, git_revision, refuse_without_effect, run_script, seed_number,
                          start_device, whole_number)
from engine.errors import InputError
from engine.files import check_can_be_written, printable
from lift.options import DEFAULT_NAMES, DEFAULT_PATHS, PATH_NAMES, add_generation_options


def parse_options():
    parser = Parser(__doc__)
    group = parser.add_argument_group("what is evaluated")
    group.add_argument("--model_type", choices=list(DEFAULT_NAMES), default="lift", help="kind of the checkpoints")
    group.add_argument("--epochs", type=whole_number(0), nargs="+", action="each_once", default=None, metavar="EPOCH",
                       help="epochs of --name; left out with --checkpoints too: all there are in --checkpoint_dir")
    group.add_argument("--checkpoints", nargs="+", action="each_once", default=None, metavar="FILE",
                       help="checkpoint files")
    group.add_argument("--name", default=None, help="name of the checkpoints; left out: the default of --model_type")
    group.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), metavar="FOLDER",
                       help="their folder")
    group.add_argument("--paths", nargs="+", action="each_once", default=None, metavar="PATH",
                       help=f"LIFT: {', '.join(PATH_NAMES['lift'])}; baseline: uniform, dp, lead; left out: "
                            "diagonal dp_64 dp_total, or uniform")
    group.add_argument("--seeds", type=seed_number, nargs="+", action="each_once", default=[42], metavar="SEED",
                       help="a row for each")
    group.add_argument("--num_images", type=whole_number(2, 10**9), default=1000, metavar="IMAGES",
                       help="images per row")
    add_generation_options(parser)
    add_metric_options(parser, "real images to compare with: a split, or part of one such as train[:5000]")
    data.add_data_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--results", type=Path, default=Path("results/fid_results.csv"), metavar="CSV",
                       help="table of results that rows are added to")
    group.add_argument("--force", action="store_true", help="measure finished rows again and replace them")
    add_device_options(parser)
    args = parser.parse_args()
    if args.checkpoints:
        refuse_without_effect(parser, args, ["name", "checkpoint_dir"], "beside --checkpoints")
    return args


def find_checkpoints(args) -> list[Path]:
    """The checkpoint files asked for. Raises InputError where there are none."""
    if args.checkpoints and args.epochs:
        raise InputError("--epochs: found together with --checkpoints, expected one of the two")
    if args.checkpoints:
        return [Path(file) for file in args.checkpoints]
    name = args.name or DEFAULT_NAMES[args.model_type]
    if args.epochs:
        return [run_files.checkpoint_path(args.checkpoint_dir, name, epoch) for epoch in args.epochs]
    found = run_files.list_checkpoints(args.checkpoint_dir, name)
    if not found:
        raise InputError(f"--checkpoint_dir: found no {name}_*ep.pth in {args.checkpoint_dir}; train first, or give "
                         "--checkpoints")
    return found


def key_for(args, loaded, path_type: str, path, seed: int, image_set: data.ImageSet) -> dict:
    """The identifying columns of a row, all but the metric."""
    from lift import generation
    return {"checkpoint": printable(loaded.path.name), "checkpoint_hash": loaded.fingerprint, "model_type": loaded.model_type,
            "epochs": loaded.epochs, "weights": loaded.weights, "path": path_type,
            "path_hash": generation.path_hash(path),
            "step_size": args.step_size if generation.reads_step_size(path_type) else "",
            "solver": generation.solver_name(args), "x32_mode": args.x32, "precision": args.precision,
            "num_steps": args.num_steps, "num_model_calls": len(path) - 1, "seed": seed, "num_images": args.num_images,
            "dataset": image_set.dataset, "split": args.reference_split, "reference_hash": image_set.content_hash}


def say_what_differs(rows: list[dict], key: dict) -> None:
    """Name the earlier row that is this measurement but for one thing, so that nobody takes the two for one."""
    about = {"checkpoint_hash": "this checkpoint has changed since",
             "reference_hash": "it compares with other real images of the same name",
             "path_hash": "its path was another one",
             "num_images": f"it has another number of images than the {key['num_images']} asked for"}
    follows = {"checkpoint_hash": {"epochs", "path_hash"}}
    for column, reason in about.items():
        same = {c: v for c, v in key.items() if c != column and c not in follows.get(column, ())}
        for row in results_table.find(rows, same):
            if row[column] != key[column]:
                print(f"earlier row kept, new row added: {row['metric']} {row['value']:.4f} for {row['checkpoint']}, "
                      f"{row['path']}, {row['finished']}: {reason} ({column} {row[column]}, now {key[column]})",
                      flush=True)
                break


def generate_and_score(args, network, path, key: dict, scorer, references, group) -> dict:
    """The scores of one row's images, as `scoring.Scorer.scores` gives them; key: of that row.

    Raises InputError if an image is not finite or the network was called another number of times than the row says.
    """
    import torch
    from lift import generation
    what = f"{key['checkpoint'].removesuffix('.pth')} {key['path']} seed {key['seed']}"
    num_broken = 0
    for indices, images, broken, num_model_calls in generation.generate_uint8(
            network, path, key["seed"], args.num_images, args, group, what):
        if num_model_calls != key["num_model_calls"]:
            raise InputError(f"{what}: {num_model_calls} network calls were counted, expected "
                             f"{key['num_model_calls']}; no row was added, for it would be wrong")
        scorer.take(indices, images)
        num_broken = num_broken + broken
    num_broken = int(group.sum(torch.as_tensor(num_broken, device=scorer.device)))
    generation.check_finite(num_broken, args.num_images, what)
    return scorer.scores(args.num_images, references, group)


def find_paths(args, files: list[Path], say: bool) -> dict:
    """(checkpoint file, path type) -> timesteps. Raises InputError for a checkpoint or a path that is wrong."""
    from lift import checkpoints, generation
    found = {}
    for file in files:
        loaded = checkpoints.load_model(file, args.model_type, args.weights)
        for path_type in args.paths:
            found[file, path_type] = generation.find_path(loaded, path_type, args, say=say)
    return found


def load_reference(args, metrics: list[str], group) -> data.ImageSet:
    """The real images, decoded by the main process; the others find them in the cache."""
    from evaluation import scoring
    if not group.is_main:
        group.wait()
    image_set = data.load_images(args.dataset, args.reference_split, args.cache_dir)
    if group.is_main:
        group.wait()
        print(f"reference: {len(image_set)} images of {args.dataset}, {args.reference_split} "
              f"({image_set.content_hash}); metrics: {', '.join(metrics)}", flush=True)
        scoring.say_what_becomes_of(metrics, image_set.images.shape[1:])
        scoring.warn_of_few(metrics, {"generated": args.num_images, "real": len(image_set)})
    return image_set


def unfinished_metrics(args, metrics: list[str], key: dict, rows: list[dict], group, device) -> list[str]:
    """The metrics that the row lacks, the same in all processes: another program may have added rows between two
    processes' reading, and the main one's decides."""
    import torch
    from evaluation import scoring
    wanted = scoring.unfinished(metrics, results_table.find(rows, key), args.force, say=group.is_main)
    marks = torch.tensor([float(group.is_main and metric in wanted) for metric in metrics], device=device)
    return [metric for metric, mark in zip(metrics, group.sum(marks).tolist()) if mark]


def add_rows(args, key: dict, scores: dict, revision: str, seconds: float) -> int:
    """Add a row per score to the table and print them; returns how many were new."""
    from evaluation import scoring
    new = scoring.result_rows(key, scores, revision)
    for row in new:
        scoring.print_row(row, "new")
    num_added = results_table.add(args.results, new, replace=args.force)
    print(f"          {args.num_images / seconds:.2f} images/s generated and scored", flush=True)
    return num_added


def main():
    args = parse_options()
    from engine import distributed
    from evaluation import scoring
    from lift import checkpoints, generation
    args.device = distributed.local_gpu(args.device)
    device = start_device(args)
    group = distributed.join(device)
    args.paths = args.paths or DEFAULT_PATHS[args.model_type]
    generation.check_options(args, args.model_type)
    if args.num_images < group.size:
        raise InputError(f"--num_images: found {args.num_images}, expected at least one for each of the {group.size} "
                         "processes")
    check_can_be_written(args.results)
    files = find_checkpoints(args)
    metrics, weights_file = scoring.choose_metrics(args)
    group.check_same([metric in metrics for metric in METRICS],
                     "--metrics: the processes do not all have Inception weights at hand; give --metrics, or "
                     "--inception with a file that all machines see")
    rows = results_table.read(args.results, warn=group.is_main)         # what is wrong with it is said before any work
    paths = find_paths(args, files, say=group.is_main)
    image_set = load_reference(args, metrics, group)
    networks = references = None
    revision, num_added, num_skipped = git_revision(), 0, 0

    for file in files:
        loaded = checkpoints.load_model(file, args.model_type, args.weights, device)
        network = None                              # not compiled for rows that are all finished
        for path_type, seed in ((path_type, seed) for path_type in args.paths for seed in args.seeds):
            path = paths[file, path_type]
            key = key_for(args, loaded, path_type, path, seed, image_set)
            if group.size == 1:
                rows = results_table.read(args.results, warn=False)     # another process may have added to it
            wanted = unfinished_metrics(args, metrics, key, rows, group, device)
            if not wanted:
                num_skipped += 1
                continue
            if group.is_main:
                say_what_differs(rows, key)
            if references is None:      # all processes ask, one computes, and the lock lets the others wait
                networks = scoring.Networks(metrics, weights_file, device)
                references = scoring.References(metrics, image_set, networks, args.cache_dir, device)
            if network is None:
                network = generation.network_of(loaded, args, say=group.is_main)
            start = time.time()
            scores = generate_and_score(args, network, path, key, scoring.Scorer(wanted, networks, device), references,
                                        group)
            if group.is_main:
                num_added += add_rows(args, key, scores, revision, time.time() - start)

    if group.is_main:
        print(f"{args.results}: {num_added} rows added, {num_skipped} jobs were finished already")
        if num_added:
            scoring.write_evaluation_record(args, device, num_added, metrics, image_set.content_hash, networks)
    distributed.leave()


if __name__ == "__main__":
    run_script(main)
