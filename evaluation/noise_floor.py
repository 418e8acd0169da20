#!/usr/bin/env python3
"""Score images that no network made, to know what a score means.

real: N real images against the rest of the split, the best a perfect model could get. normal: N images of the Gaussian
with the split's mean and covariance, against the whole split, as generated images are scored. Every seed draws other
images. Half of the split is scored against its other half if N is half the split's size.
"""
import dataclasses
from pathlib import Path

import numpy as np

import data
from evaluation import results_table
from evaluation.options import add_metric_options
from engine.command_line import (Parser, add_device_options, git_revision, run_script, seed_number, start_device,
                                 whole_number)
from engine.errors import InputError
from engine.files import check_can_be_written

NAMES = {"real": "real images", "normal": "normal law"}
NO_MODEL = {"epochs": 0, "num_steps": 0, "num_model_calls": 0,
            **dict.fromkeys(("checkpoint_hash", "weights", "path_hash", "step_size", "solver", "x32_mode", "precision"),
                            "")}


def parse_options():
    parser = Parser(__doc__)
    parser.add_argument("--images", choices=list(NAMES), default="real",
                        help="real ones, or of the normal law with their mean and covariance")
    parser.add_argument("--num_images", type=whole_number(2), nargs="+", action="each_once", default=[1000],
                        metavar="IMAGES", help="how many are drawn; a row for each number and seed")
    parser.add_argument("--seeds", type=seed_number, nargs="+", action="each_once", default=[42, 43], metavar="SEED",
                        help="which are drawn; a row for each")
    add_metric_options(parser, "the split that is drawn from, or part of one such as train[:5000]")
    data.add_data_options(parser, data.SIDE, columns=True)
    parser.add_argument("--results", type=Path, default=Path("results/fid_results.csv"), metavar="CSV",
                        help="table of results that rows are added to")
    parser.add_argument("--force", action="store_true", help="measure finished rows again and replace them")
    add_device_options(parser, precision=None)
    return parser.parse_args()


def draw(image_set: data.ImageSet, num_images: int, seed: int) -> tuple[np.ndarray, data.ImageSet]:
    """(uint8 [num_images, C, S, S] drawn at random, the others). The same seed draws the same images."""
    chosen = np.zeros(len(image_set), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(image_set))[:num_images]] = True
    others = dataclasses.replace(image_set, images=image_set.images[~chosen], labels=None,
                                 content_hash=f"{image_set.content_hash}-without-{num_images}-seed{seed}")
    return image_set.images[chosen], others


def main():
    args = parse_options()
    import torch
    from engine import distributed
    from evaluation import normal_law, scoring
    device = start_device(args)
    metrics, weights_file = scoring.choose_metrics(args)
    check_can_be_written(args.results)
    results_table.read(args.results)                            # complains before any work is done
    image_set = data.load_images(args.dataset, args.reference_split, args.cache_dir, args.image_size, args.channels,
                                 **data.columns_in(vars(args)))
    for num_images in args.num_images:
        if args.images == "real" and num_images > len(image_set) // 2:
            raise InputError(f"--num_images: found {num_images}, expected at most {len(image_set) // 2}, half of the "
                             f"{len(image_set)} images in {args.dataset}, {args.reference_split}")
    scoring.say_what_becomes_of(metrics, image_set.images.shape[1:])
    scoring.warn_of_few(metrics, {"drawn": min(args.num_images)})
    networks, num_added, revision = None, 0, git_revision()
    for num_images, seed in ((number, seed) for number in args.num_images for seed in args.seeds):
        key = NO_MODEL | {"checkpoint": NAMES[args.images], "model_type": args.images, "path": args.images,
                          "seed": seed, "num_images": num_images, "dataset": image_set.dataset,
                          "split": args.reference_split, "reference_hash": image_set.content_hash}
        rows = results_table.read(args.results, warn=False)     # another process may have added to it
        wanted = scoring.unfinished(metrics, results_table.find(rows, key), args.force,
                                    side=args.image_size)
        if wanted:
            networks = networks or scoring.Networks(metrics, weights_file, device)
            if args.images == "real":
                images, others = draw(image_set, num_images, seed)
            else:
                images, others = normal_law.draw(image_set.images, num_images, seed), image_set
            scorer = scoring.Scorer(wanted, networks, device)
            scorer.take(list(range(num_images)), torch.as_tensor(images).to(device))
            references = scoring.References(wanted, others, networks, args.cache_dir, device)
            new = scoring.result_rows(key, scorer.scores(num_images, references, distributed.Group(0, 1)), revision)
            for row in new:
                scoring.print_row(row, "new")
            num_added += results_table.add(args.results, new, replace=args.force)
    print(f"{args.results}: {num_added} rows added")
    if num_added:
        scoring.write_evaluation_record(args, device, num_added, metrics, image_set.content_hash, networks)


if __name__ == "__main__":
    run_script(main)
