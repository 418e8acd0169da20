#!/usr/bin/env python3
"""What EfficientNet-Lite0's distances make of known changes of photographs, by size of input and number of images.

The split is shuffled once. The last --num_reference images are the reference; the candidates are the others, of which
each change gets the first, the second, ... --num_images. No image is in both. Features are kept in the cache, rows are
written to --output as they come: a call goes on where an earlier one was stopped.
"""
import json
from pathlib import Path

import data
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.errors import InputError
from engine.files import check_can_be_written, expecting, write_json


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


def main():
    args = options()
    from engine.devices import describe
    from evaluation import fid, image_changes, lite_features
    from lift.report_parts import update_readme
    from scripts.benchmarks.known_changes import CHANGED, REPEATED, changed, images_per_second, scores, shuffled
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
            earlier = json.loads(args.output.read_text(encoding="utf-8"))
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
