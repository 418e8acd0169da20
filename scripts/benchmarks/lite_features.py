#!/usr/bin/env python3
"""EfficientNet-Lite0's distances of known changes of photographs, by size of input and number of images.

The split is shuffled once. The last --num_reference images are the reference; the candidates are the others, of which
each score gets the first, the second, ... --num_images. No image is in both. Features are kept in the cache, rows are
written to --output as they come: a call goes on where an earlier one was stopped.
"""
from pathlib import Path

import data
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.errors import InputError
from engine.files import check_can_be_written, write_json
from scripts.benchmarks.earlier_results import earlier_results


def parse_options():
    parser = Parser(__doc__)
    data.add_data_options(parser)
    parser.add_argument("--sides", type=whole_number(32, 224), nargs="+", action="each_once", default=[96, 128],
                        metavar="PIXELS", help="sides that images are resized to, multiples of 32")
    parser.add_argument("--num_images", type=whole_number(100), nargs="+", action="each_once",
                        default=[1000, 5000, 10_000], metavar="IMAGES", help="of a score")
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
    args = parse_options()
    from engine.devices import describe
    from evaluation import fid, known_changes, lite_features
    from lift.report_parts import update_readme
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
    found |= earlier_results(args.output, protocol) or {}
    candidates, reference_set = known_changes.candidates_and_reference(image_set, args.num_reference)
    done = {(row["side"], row["num_images"], row["change"], row["draw"]) for row in found["rows"]}

    for side in args.sides:
        lite = lite_features.load(device, side)
        if str(side) not in found["images_per_second"]:
            found["images_per_second"][str(side)] = known_changes.images_per_second(lite, candidates.images)
        reference = fid.reference_features(reference_set, lite, args.cache_dir)
        statistics = fid.FeatureStatistics(lite.num_features).add(reference)
        of_change = {}                                      # change -> features of as many candidates as are used
        for change in (*known_changes.CHANGED, *known_changes.REPEATED):
            source = change if change in known_changes.CHANGED else "none"
            for num_images, draw in ((number, draw) for number in args.num_images
                                     for draw in range(min(args.draws, max(args.num_images) // number))):
                if (side, num_images, change, draw) in done:
                    continue
                if source not in of_change:
                    of_change[source] = fid.reference_features(
                        known_changes.changed(candidates, source, max(args.num_images)), lite, args.cache_dir)
                features = of_change[source][draw * num_images:(draw + 1) * num_images]
                if change in known_changes.REPEATED:
                    num_different = known_changes.REPEATED[change](num_images)
                    features = features[known_changes.places_repeated(num_images, num_different)]
                row = {"side": side, "num_images": num_images, "change": change, "draw": draw,
                       **known_changes.scores(features, reference, statistics, lite)}
                found["rows"].append(row)
                write_json(args.output, found)
                print(", ".join(f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"
                                for key, value in row.items()), flush=True)
    if args.readme:
        update_readme(args.readme, [], args.output.parent)


if __name__ == "__main__":
    run_script(main)
