#!/usr/bin/env python3
"""What EfficientNet-Lite0's distances make of known changes of photographs, by size of input and number of images.

The split is shuffled once. The last --num_reference images are the reference; the candidates are the others, of which
each change gets the first, the second, ... --num_images. No image is in both. Features are kept in the cache, rows are
written to --output as they come: a call goes on where an earlier one was stopped.
"""
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

import data
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.devices import describe
from engine.errors import InputError
from engine.files import check_can_be_written, expecting, write_json
from evaluation import fid, image_changes, lite_features, normal_law
from lift.report_parts import update_readme

# Changes that make other images, and those that only repeat some.
CHANGED = {"none": lambda images: images,
           "noise of 5 grey levels": lambda images: image_changes.with_noise(images, 5),
           "noise of 20 grey levels": lambda images: image_changes.with_noise(images, 20),
           "half the side and back": image_changes.blurred,
           "16 patches shuffled": image_changes.with_shuffled_patches,
           "normal law of the pixels": lambda images: normal_law.draw(images, len(images), 0)}
REPEATED = {"half of the images, twice": lambda num_images: num_images // 2,
            "100 images, again and again": lambda num_images: 100}
NUM_TIMED = 200


def options():
    """The command line."""
    parser = Parser(__doc__)
    data.add_data_options(parser)
    parser.add_argument("--sides", type=whole_number(32, 224), nargs="+", action="each_once", default=[96, 128],
                        metavar="PIXELS", help="sides that images are resized to, multiples of 32")
    parser.add_argument("--num_images", type=whole_number(100), nargs="+", action="each_once",
                        default=[1000, 5000, 10_000], metavar="IMAGES", help="candidates of a score")
    parser.add_argument("--num_reference", type=whole_number(2), default=2500, metavar="IMAGES", help="real images")
    parser.add_argument("--draws", type=whole_number(1), default=5, help="at most so many scores of different images")
    parser.add_argument("--output", type=Path, default=Path("results/lite_features.json"), metavar="FILE")
    parser.add_argument("--readme", type=Path, default=None, metavar="FILE", help="text whose tables are written anew")
    add_device_options(parser, precision=None)
    args = parser.parse_args()
    if odd := [side for side in args.sides if side % 32]:
        raise InputError(f"--sides: found {odd[0]}, expected a multiple of 32")
    return args


def shuffled(image_set: data.ImageSet, num_reference: int) -> tuple[data.ImageSet, data.ImageSet]:
    """(candidates, reference), each known by a content hash of its own."""
    order = np.random.default_rng(0).permutation(len(image_set))
    return tuple(dataclasses.replace(image_set, images=image_set.images[part], labels=None,
                                     content_hash=f"{image_set.content_hash}-{name}-{num_reference}")
                 for name, part in (("candidates", order[:-num_reference]), ("reference", order[-num_reference:])))


def changed(candidates: data.ImageSet, change: str, num_images: int) -> data.ImageSet:
    """The first candidates after a change."""
    images = CHANGED[change](torch.from_numpy(candidates.images[:num_images]))
    name = change.replace(" ", "_")
    return dataclasses.replace(candidates, images=images,
                               content_hash=f"{candidates.content_hash}-{num_images}-{name}")


def images_per_second(lite: lite_features.Lite0, images) -> float:
    """How many images' features a second."""
    lite.features(torch.from_numpy(images[:50]))
    start = time.perf_counter()
    for _ in fid.features_of(images[:NUM_TIMED], lite):
        pass
    return NUM_TIMED / (time.perf_counter() - start)


def scores(features: torch.Tensor, reference: torch.Tensor, statistics: fid.FeatureStatistics,
           lite: lite_features.Lite0) -> dict[str, float]:
    """A row's values."""
    distance = fid.fid(fid.FeatureStatistics(lite.num_features).add(features), statistics)
    kernel, error = fid.kid(features, reference)
    precision, recall = fid.precision_recall(features, reference)
    return {"fd_lite0": distance, "kd_lite0": kernel, "kd_standard_error": error, "precision": precision,
            "recall": recall, **lite_features.class_shares(lite.first_guesses(features))}


def main():
    args = options()
    device = start_device(args)
    check_can_be_written(args.output)
    image_set = data.load_images(args.dataset, "train", args.cache_dir)
    num_candidates = len(image_set) - args.num_reference
    if num_candidates < max(args.num_images):
        raise InputError(f"--num_images: found {max(args.num_images)}, expected at most {num_candidates}, the "
                         f"{len(image_set)} images of {args.dataset} without the {args.num_reference} of the reference")
    protocol = {"dataset": str(args.dataset), "content_hash": image_set.content_hash,
                "num_reference": args.num_reference, "weights": lite_features.WEIGHTS_SHA256}
    found = {**protocol, "device": describe(device), "images_per_second": {}, "rows": []}
    if args.output.exists():
        with expecting(args.output, "JSON file of an earlier call", "choose another --output"):
            earlier = json.loads(args.output.read_text())
            if {key: earlier[key] for key in protocol} != protocol:
                raise InputError(f"{args.output}: is of other images or of another reference; choose another --output")
            found |= earlier
    candidates, reference_set = shuffled(image_set, args.num_reference)
    done = {(row["side"], row["num_images"], row["change"], row["draw"]) for row in found["rows"]}

    for side in args.sides:
        lite = lite_features.load(device, side)
        if str(side) not in found["images_per_second"]:
            found["images_per_second"][str(side)] = images_per_second(lite, candidates.images)
        reference = fid.reference_features(reference_set, lite, args.cache_dir)
        statistics = fid.FeatureStatistics(lite.num_features).add(reference)
        of_change = {}                                      # change -> features of as many candidates as there are
        for change in (*CHANGED, *REPEATED):
            for num_images in args.num_images:
                for draw in range(min(args.draws, max(args.num_images) // num_images)):
                    if (side, num_images, change, draw) in done:
                        continue
                    source = change if change in CHANGED else "none"
                    if source not in of_change:
                        of_change[source] = fid.reference_features(
                            changed(candidates, source, max(args.num_images)), lite, args.cache_dir)
                    features = of_change[source][draw * num_images:(draw + 1) * num_images]
                    if change in REPEATED:
                        features = features[image_changes.places_repeated(num_images, REPEATED[change](num_images))]
                    row = {"side": side, "num_images": num_images, "change": change, "draw": draw,
                           **scores(features, reference, statistics, lite)}
                    found["rows"].append(row)
                    write_json(args.output, found)
                    print(", ".join(f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"
                                    for key, value in row.items()), flush=True)
    if args.readme:
        update_readme(args.readme, [], args.output.parent)


if __name__ == "__main__":
    run_script(main)
