#!/usr/bin/env python3
"""Generate images with checkpoints of any family and score them, all in memory; add the values to the table of results.

One row per checkpoint, weights, path, solver with its guidance, steps, seed, number of images, real images and metric.
A finished row is skipped and printed; --force measures it again and replaces just that row. Several of these may run at
once, and torchrun divides one generation over processes.
"""
import functools
import sys
import time
from pathlib import Path

import data
from evaluation import results_table
from evaluation.options import METRICS, add_metric_options
from engine.command_line import (Parser, add_device_options, git_revision, refuse_without_effect, run_script,
                                 seed_number, start_device, whole_number)
from engine.errors import InputError
from engine.files import check_can_be_written
from engine.options import SOLVERS as ALL_SOLVERS
from flow.options import GRIDS, add_shift_and_guidance_options, refuse_older_names
from lift.options import DEFAULT_NAMES, PATH_NAMES, add_checkpoint_option, add_generation_options


def parse_options():
    refuse_older_names(sys.argv[1:], load_dir="checkpoint")
    parser = Parser(__doc__)
    group = parser.add_argument_group("what is evaluated")
    add_checkpoint_option(group, "checkpoints of any family, students among them: checkpoints/*_100ep.pth",
                          several=True)
    group.add_argument("--model_type", choices=list(DEFAULT_NAMES), default=None,
                       help="what the checkpoints must be; left out: each is taken for what it is")
    group.add_argument("--paths", nargs="+", action="each_once", default=None, metavar="PATH",
                       help=f"LIFT: {', '.join(PATH_NAMES['lift'])}; baseline: uniform, dp, lead; flows: "
                            f"{', '.join(GRIDS)}; left out: diagonal dp_64 dp_total, or uniform, or a student's own")
    group.add_argument("--seeds", type=seed_number, nargs="+", action="each_once", default=[42], metavar="SEED",
                       help="a row for each")
    group.add_argument("--num_images", type=whole_number(2, 10**9), default=1000, metavar="IMAGES",
                       help="images per row")
    add_generation_options(parser, [solver for solver in ALL_SOLVERS if solver != "renoise"])
    group = parser.add_argument_group("flows and digit models")
    add_shift_and_guidance_options(group, scale=1.0)
    group.add_argument("--vae", default=None, metavar="FOLDER",
                       help="the autoencoder of a model of latents; left out: the one it was trained with")
    add_metric_options(parser, "real images to compare with: a split, or part of one such as train[:5000]",
                       with_groups=True)
    data.add_data_options(parser, columns=True, left_out="what the models were trained on; for those of S1 "
                                                         f"{data.DEFAULT_DATASET}")
    group = parser.add_argument_group("output")
    group.add_argument("--results", type=Path, default=Path("results/fid_results.csv"), metavar="CSV",
                       help="table of results that rows are added to")
    group.add_argument("--force", action="store_true", help="measure finished rows again and replace them")
    add_device_options(parser)
    args = parser.parse_args()
    return args, functools.partial(refuse_without_effect, parser, args)


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


def generate_and_score(args, candidates, key: dict, scorer, references, group) -> tuple[dict, float]:
    """The scores of one row's images, as `scoring.Scorer.scores` gives them, and the seconds that this process took to
    generate an image; key: of that row.

    Raises InputError if an image is not finite or the network was called another number of times than the row says.
    """
    import torch
    from lift import generation
    what = f"{key['checkpoint'].removesuffix('.pth')} {key['path']} seed {key['seed']}"
    num_broken, num_drawn, seconds = 0, 0, 0.0
    start = time.perf_counter()
    for indices, images, broken, num_model_calls in candidates.batches(key["path"], key["seed"], group, what):
        if num_model_calls != key["num_model_calls"]:
            raise InputError(f"{what}: {num_model_calls} network calls were counted, expected "
                             f"{key['num_model_calls']}; no row was added, for it would be wrong")
        if scorer.device.type == "cuda":
            torch.cuda.current_stream(scorer.device).synchronize()          # of scoring nothing is waited for
        seconds, num_drawn = seconds + time.perf_counter() - start, num_drawn + len(indices)
        scorer.take(indices, images)
        num_broken = num_broken + broken
        start = time.perf_counter()
    num_broken = int(group.sum(torch.as_tensor(num_broken, device=scorer.device)))
    generation.check_finite(num_broken, args.num_images, what)
    return scorer.scores(args.num_images, references, group), seconds / max(num_drawn, 1)


def is_of_s1(file) -> bool:
    """Whether a checkpoint is a baseline or LIFT model, and no student of one. Raises InputError if it is none at
    all."""
    from flow.model import content_of
    content = content_of(file)
    return isinstance(content, dict) and not content.get("few_steps") and content.get("family", "lift") == "lift" \
        and "model_state" in content


def candidates_of(args, refuse, file, device, say: bool):
    """What is scored of a checkpoint of any family. Raises InputError for what does not fit."""
    from distill import candidates as others
    from lift import candidates
    kind = candidates if args.model_type is not None or is_of_s1(file) else others
    return kind.Candidates(args, refuse, file, device, say)


def check(args, refuse, files, say: bool) -> tuple[int, list[dict], dict]:
    """The side of the models' images, the options of each one's training where its data are those to compare with, and
    the number of its classes by file. Raises InputError for what does not fit, before any work; one model at a time is
    in memory."""
    shapes, options, classes = {}, [], {}
    for file in files:
        candidates = candidates_of(args, refuse, file, "cpu", say)
        shapes[candidates.image_shape[-1]] = file
        options.append(candidates.options if candidates.knows_its_data else {"dataset": data.DEFAULT_DATASET})
        classes[file] = getattr(candidates, "num_classes", None)
    if len(shapes) > 1:
        found = ", ".join(f"{file} of {side} pixels" for side, file in shapes.items())
        raise InputError(f"--checkpoints: found {found}; expected images of one size, for they are compared with the "
                         "same real ones")
    return next(iter(shapes)), options, classes


def choose_dataset(args, options: list[dict], say: bool) -> dict:
    """--dataset, where it was left out, becomes what the models were trained on, or S1's default. Returns the columns
    of its table: those asked for, or those of the training. Raises InputError where the models do not agree, or do not
    say what they were trained on."""
    trained_on = {found.get("dataset") for found in options}
    if args.dataset is None:
        if None in trained_on:
            raise InputError("--dataset: left out, but a checkpoint does not say what it was trained on; name the real "
                             "images to compare with")
        if len(trained_on) > 1:
            raise InputError(f"--dataset: left out, but the models were trained on {', '.join(sorted(trained_on))}; "
                             "name the real images to compare with")
        args.dataset = trained_on.pop()
        if say:
            print(f"--dataset: left out, so {args.dataset}", flush=True)
    of_first = options[0] if options[0].get("dataset") == args.dataset else {}
    return {name: asked or of_first.get(name) for name, asked in data.columns_in(vars(args)).items()}


def load_reference(args, metrics: list[str], size: int, columns: dict, classes: dict, group) -> data.ImageSet:
    """The real images, decoded by the main process; the others find them in the cache. classes: of the models, for
    `check_groups`, which comes before."""
    from evaluation import scoring
    if not group.is_main:
        group.wait()
    image_set = data.load_images(args.dataset, args.reference_split, args.cache_dir, size, **columns,
                                 check=lambda facts: scoring.check_groups(metrics, facts.label_names, classes))
    if group.is_main:
        group.wait()
        print(f"reference: {len(image_set)} images of {args.dataset}, {args.reference_split} "
              f"({image_set.content_hash}); metrics: {', '.join(metrics)}", flush=True)
        scoring.say_what_becomes_of(metrics, image_set.images.shape[1:])
        scoring.warn_of_few(metrics, {"generated": args.num_images, "real": len(image_set)})
    return image_set


def unfinished_metrics(args, metrics: list[str], key: dict, rows: list[dict], side: int, group, device) -> list[str]:
    """The metrics that the row lacks, the same in all processes: another program may have added rows between two
    processes' reading, and the main one's decides."""
    import torch
    from evaluation import scoring
    wanted = scoring.unfinished(metrics, results_table.find(rows, key), args.force, say=group.is_main, side=side)
    marks = torch.tensor([float(group.is_main and metric in wanted) for metric in metrics], device=device)
    return [metric for metric, mark in zip(metrics, group.sum(marks).tolist()) if mark]


def add_rows(args, key: dict, scores: dict, revision: str, seconds: float, costs: dict) -> int:
    """Add a row per score to the table and print them; returns how many were new."""
    from evaluation import scoring
    new = scoring.result_rows(key, scores, revision, costs)
    for row in new:
        scoring.print_row(row, "new")
    num_added = results_table.add(args.results, new, replace=args.force)
    print(f"          {args.num_images / seconds:.2f} images/s generated and scored", flush=True)
    return num_added


def main():
    args, refuse = parse_options()
    from engine import distributed
    from evaluation import scoring
    args.device = distributed.local_gpu(args.device)
    device = start_device(args)
    group = distributed.join(device)
    if args.num_images < group.size:
        raise InputError(f"--num_images: found {args.num_images}, expected at least one for each of the {group.size} "
                         "processes")
    check_can_be_written(args.results)
    files = [Path(file) for file in args.checkpoints]
    metrics, weights_file = scoring.choose_metrics(args)
    group.check_same([metric in metrics for metric in METRICS],
                     "--metrics: the processes do not all have Inception weights at hand; give --metrics, or "
                     "--inception with a file that all machines see")
    rows = results_table.read(args.results, warn=group.is_main)         # what is wrong with it is said before any work
    side, options, classes = check(args, refuse, files, group.is_main)
    columns = choose_dataset(args, options, group.is_main)
    image_set = load_reference(args, metrics, side, columns, classes, group)
    networks = references = None
    revision, num_added, num_skipped = git_revision(), 0, 0

    for file in files:
        candidates = candidates_of(args, refuse, file, device, say=False)
        for name, seed in ((name, seed) for name in candidates.paths for seed in args.seeds):
            key = {**candidates.key(name), "seed": seed, "num_images": args.num_images, "dataset": image_set.dataset,
                   "split": args.reference_split, "reference_hash": image_set.content_hash}
            if group.size == 1:
                rows = results_table.read(args.results, warn=False)     # another process may have added to it
            wanted = unfinished_metrics(args, metrics, key, rows, side, group, device)
            if not wanted:
                num_skipped += 1
                continue
            if group.is_main:
                say_what_differs(rows, key)
            if references is None:      # all processes ask, one computes, and the lock lets the others wait
                networks = scoring.Networks(metrics, weights_file, device)
                references = scoring.References(metrics, image_set, networks, args.cache_dir, device)
            start = time.time()
            scores, seconds_per_image = generate_and_score(args, candidates, key,
                                                           scoring.Scorer(wanted, networks, device), references, group)
            if group.is_main:
                seconds = time.time() - start
                costs = {"gflop": candidates.gflop(name, device),
                         "seconds_per_image": seconds_per_image}
                num_added += add_rows(args, key, scores, revision, seconds, costs)

    if group.is_main:
        print(f"{args.results}: {num_added} rows added, {num_skipped} jobs were finished already")
        if num_added:
            scoring.write_evaluation_record(args, device, num_added, metrics, image_set.content_hash, networks)
    distributed.leave()


if __name__ == "__main__":
    run_script(main)
