#!/usr/bin/env python3
"""Generate images with checkpoints along paths and score them, all in memory; add the values to the table of results.

One row per checkpoint, weights, path, steps, seed, number of images, real images and metric. A finished row is skipped
and printed; --force measures it again and replaces just that row. Several of these may run at once, and torchrun
divides one generation over processes.
"""
import os
import time
from pathlib import Path

import torch

import checkpoint
import data
import distributed
import fid
import generation
import results_table
import sliced_wasserstein
from command_line import (Parser, add_device_options, git_revision, run_script, start_device, whole_number,
                          write_run_record)
from errors import InputError

METRIC_ROWS = {"fid": ("fid",), "kid": ("kid",), "precision_recall": ("precision", "recall"),
               "swd": ("swd", "swd_64", "swd_32", "swd_16")}
WEIGHTS_NEEDED = ("fid", "kid", "precision_recall")


def parse_options():
    parser = Parser(__doc__)
    group = parser.add_argument_group("what is evaluated")
    group.add_argument("--model_type", choices=list(checkpoint.MODELS), default="lift", help="kind of the checkpoints")
    group.add_argument("--epochs", type=whole_number(0), nargs="+", default=None, metavar="EPOCH",
                       help="epochs of --name; left out with --checkpoints too: all there are in --checkpoint_dir")
    group.add_argument("--checkpoints", nargs="+", default=None, metavar="FILE", help="checkpoint files")
    group.add_argument("--name", default=None, help="name of the checkpoints; left out: the default of --model_type")
    group.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), metavar="FOLDER", help="their folder")
    group.add_argument("--paths", nargs="+", default=None, metavar="PATH",
                       help="LIFT: diagonal, dp_64, dp_total...; baseline: uniform, dp; left out: diagonal dp_64 "
                            "dp_total, or uniform")
    group.add_argument("--seeds", type=whole_number(0), nargs="+", default=[42], metavar="SEED", help="a row for each")
    group.add_argument("--num_images", type=whole_number(2), default=1000, metavar="IMAGES", help="images per row")
    generation.add_generation_options(parser)
    group = parser.add_argument_group("scores")
    group.add_argument("--metrics", nargs="+", choices=list(METRIC_ROWS), default=None,
                       help="left out: fid where Inception weights are to be had, else swd, which needs none")
    group.add_argument("--reference_split", default="train", metavar="SPLIT",
                       help="real images to compare with: a split, or part of one such as train[:5000]")
    group.add_argument("--inception", type=Path, default=None, metavar="FILE",
                       help=f"{fid.WEIGHTS_NAME}; left out: from the torch hub cache, else downloaded")
    data.add_data_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--results", type=Path, default=Path("results/fid_results.csv"), metavar="CSV",
                       help="table of results that rows are added to")
    group.add_argument("--force", action="store_true", help="measure finished rows again and replace them")
    add_device_options(parser)
    return parser.parse_args()


def find_checkpoints(args) -> list[Path]:
    """The checkpoint files asked for. Raises InputError where there are none."""
    if args.checkpoints and args.epochs:
        raise InputError("--epochs: found together with --checkpoints, expected one of the two")
    if args.checkpoints:
        return [Path(file) for file in args.checkpoints]
    name = args.name or checkpoint.DEFAULT_NAMES[args.model_type]
    if args.epochs:
        return [checkpoint.checkpoint_path(args.checkpoint_dir, name, epoch) for epoch in args.epochs]
    found = checkpoint.list_checkpoints(args.checkpoint_dir, name)
    if not found:
        raise InputError(f"--checkpoint_dir: found no {name}_*ep.pth in {args.checkpoint_dir}; train first, or give "
                         "--checkpoints")
    return found


def choose_metrics(args) -> tuple[list[str], Path | None]:
    """The metrics and the file of Inception weights, None where none is needed. Says what was chosen and why."""
    if args.metrics is not None and not set(args.metrics) & set(WEIGHTS_NEEDED):
        return args.metrics, None
    try:
        weights_file = fid.find_weights(args.inception)
    except fid.WeightsMissing as error:
        if args.metrics is not None:
            raise
        print(f"no FID: {error}\nscoring with the sliced Wasserstein distance (swd), which needs no weights", flush=True)
        return ["swd"], None
    return args.metrics or ["fid"], weights_file


class References:
    """What each metric knows of the real images; loaded or computed when first asked for."""

    def __init__(self, args, image_set: data.ImageSet, metrics: list[str], inception: fid.Inception | None, device):
        self.features = self.statistics = self.profile = None
        if "kid" in metrics or "precision_recall" in metrics:
            self.features = fid.reference_features(image_set, inception, args.cache_dir)
        if "fid" in metrics:
            self.statistics = fid.reference_statistics(image_set, inception, args.cache_dir,
                                                       from_features=self.features is not None)
        if "swd" in metrics:
            self.profile = sliced_wasserstein.reference_profile(image_set, args.cache_dir, device=device)


class Scorer:
    """Takes generated images in as they come. On a GPU it works in a stream of its own, while the next batch is made."""

    def __init__(self, metrics: list[str], inception: fid.Inception | None, device: torch.device):
        self.metrics, self.inception, self.device = metrics, inception, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.statistics = fid.FeatureStatistics(device=device) if "fid" in metrics else None
        self.features, self.images, self.indices = [], [], []

    def take(self, indices: list[int], images: torch.Tensor) -> None:
        """images: uint8 [B, 3, 64, 64] on the device, still being computed there."""
        self.indices += indices
        if "swd" in self.metrics:
            self.images.append(images)
        if self.inception is None:
            return
        if self.stream is None:
            self.take_features(images)
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.take_features(images)
        images.record_stream(self.stream)

    def take_features(self, images: torch.Tensor) -> None:
        for features in fid.features_of(images, self.inception):
            if self.statistics:
                self.statistics.add(features)
            if "kid" in self.metrics or "precision_recall" in self.metrics:
                self.features.append(features)

    def scores(self, num_images: int, references: References, group) -> dict[str, tuple[float, float | None]]:
        """metric row -> (value, standard error or None), over all processes; only the main one's is used."""
        if self.stream:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        features, images = (generation.gather(torch.cat(parts), self.indices, num_images, group) if parts else None
                            for parts in (self.features, self.images))
        values = {}
        if "fid" in self.metrics:
            self.statistics.sum_over(group)
        if not group.is_main:
            return {}
        if "fid" in self.metrics:
            values["fid"] = fid.fid(self.statistics, references.statistics), None
        if "kid" in self.metrics:
            values["kid"] = fid.kid(features, references.features)
        if "precision_recall" in self.metrics:
            precision, recall = fid.precision_recall(features, references.features)
            values |= {"precision": (precision, None), "recall": (recall, None)}
        if "swd" in self.metrics:
            profile = sliced_wasserstein.profile(images, device=self.device)
            values |= {name: (value, None) for name, value in
                       sliced_wasserstein.distance(profile, references.profile).items()}
        return values


def key_for(args, loaded, path_type: str, path, seed: int, image_set: data.ImageSet) -> dict:
    """The identifying columns of a row, all but the metric."""
    return {"checkpoint": loaded.path.name, "checkpoint_hash": loaded.fingerprint, "model_type": loaded.model_type,
            "epochs": loaded.epochs, "weights": loaded.weights, "path": path_type,
            "path_hash": generation.path_hash(path),
            "step_size": args.step_size if generation.reads_step_size(path_type) else "",
            "solver": generation.solver_name(args), "x32_mode": args.x32, "precision": args.precision,
            "num_steps": args.num_steps, "num_model_calls": len(path) - 1, "seed": seed, "num_images": args.num_images,
            "dataset": str(args.dataset), "split": args.reference_split, "reference_hash": image_set.content_hash}


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


def print_row(row: dict, note: str) -> None:
    """One line per value."""
    error = "" if row["standard_error"] is None else f" +- {row['standard_error']:.4f}"
    print(f"{note:>8}: {row['checkpoint']} {row['weights']} {row['path']} seed {row['seed']}, {row['num_images']} images, "
          f"{row['num_model_calls']} calls: {row['metric']} {row['value']:.4f}{error}", flush=True)


def main():
    args = parse_options()
    args.device = distributed.local_gpu(args.device)
    device = start_device(args)
    group = distributed.join(device)
    args.paths = args.paths or generation.DEFAULT_PATHS[args.model_type]
    files = find_checkpoints(args)
    metrics, weights_file = choose_metrics(args)
    rows = results_table.read(args.results, warn=group.is_main)         # complains before any work is done
    for file in files:                                                  # so does a checkpoint or a path
        loaded = checkpoint.load_model(file, args.model_type, args.weights)
        for path_type in args.paths:
            generation.find_path(loaded, path_type, args)

    image_set = data.load_images(args.dataset, args.reference_split, args.cache_dir)
    if group.is_main:
        print(f"reference: {len(image_set)} images of {args.dataset}, {args.reference_split} "
              f"({image_set.content_hash}); metrics: {', '.join(metrics)}", flush=True)
        for count, what in ((args.num_images, "generated"), (len(image_set), "real")):
            if "fid" in metrics and fid.warning_for_few(count, what):
                print(fid.warning_for_few(count, what), flush=True)
    inception = references = None
    revision, num_added, num_skipped = git_revision(), 0, 0

    for file in files:
        loaded = checkpoint.load_model(file, args.model_type, args.weights, device)
        for path_type, seed in ((path_type, seed) for path_type in args.paths for seed in args.seeds):
            path = generation.find_path(loaded, path_type, args)
            key = key_for(args, loaded, path_type, path, seed, image_set)
            if group.size == 1:
                rows = results_table.read(args.results, warn=False)     # another process may have added to it
            finished = {row["metric"]: row for row in results_table.find(rows, key)}
            wanted = [m for m in metrics if args.force or not all(name in finished for name in METRIC_ROWS[m])]
            if group.is_main:
                for name in (name for m in metrics if m not in wanted for name in METRIC_ROWS[m]):
                    print_row(finished[name], "finished")
            if not wanted:
                num_skipped += 1
                continue
            if group.is_main:
                say_what_differs(rows, key)

            if references is None:      # all processes ask, one computes, and the lock lets the others wait
                inception = fid.load_inception(weights_file, device) if weights_file else None
                references = References(args, image_set, metrics, inception, device)
            uses_inception = set(wanted) & set(WEIGHTS_NEEDED)
            scorer, num_broken, start = Scorer(wanted, inception if uses_inception else None, device), 0, time.time()
            for indices, images, broken, _ in generation.generate_uint8(
                    loaded.model, path, seed, args.num_images, args, group, f"{file.stem} {path_type} seed {seed}"):
                scorer.take(indices, images)
                num_broken = num_broken + broken
            num_broken = int(group.sum(torch.as_tensor(num_broken, device=device)))
            generation.check_finite(num_broken, args.num_images, f"{file}, path {path_type}, seed {seed}")
            scores = scorer.scores(args.num_images, references, group)
            if group.is_main:
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                new = [{**key, "metric": name, "value": value, "standard_error": standard_error,
                        "git_revision": revision, "finished": now} for name, (value, standard_error) in scores.items()]
                num_added += results_table.add(args.results, new, replace=args.force)
                for row in new:
                    print_row(row, "new")
                print(f"          {args.num_images / (time.time() - start):.2f} images/s generated and scored", flush=True)

    if group.is_main:
        print(f"{args.results}: {num_added} rows added, {num_skipped} jobs were finished already")
        if num_added:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            write_run_record(args.results.parent / "runs" / f"eval_fid_batch_{stamp}_{os.getpid()}.json", args,
                             device, rows_added=num_added, metrics=metrics, reference_hash=image_set.content_hash)
    distributed.leave()


if __name__ == "__main__":
    run_script(main)
