"""What a set of images is scored with: names of metrics, networks they need, the real images' side, the scores."""
import os
import sys
import time
from pathlib import Path

import torch

from evaluation import fid
from evaluation import image_detail
from evaluation import lite_features
from evaluation import sliced_wasserstein
from engine import distributed
from engine.command_line import write_run_record
from engine.errors import InputError
from evaluation.options import FEATURE_METRICS, GROUPS, WITHOUT_INCEPTION, pyramid_levels, rows_of
from evaluation.results_table import FEW_IMAGES

OF_ALL_IMAGES = {"swd", "detail"}                       # metrics that are computed from all images at once


def choose_metrics(args) -> tuple[list[str], Path | None]:
    """The metrics and the file of Inception weights, None where none is needed. Says what was chosen and why.

    Raises InputError where files that a metric needs are not there.
    """
    of_inception, of_lite0 = FEATURE_METRICS.values()
    if set(args.metrics or ()) & {*of_lite0, GROUPS}:
        lite_features.find_weights()
    if args.metrics is not None and not set(args.metrics) & set(of_inception):
        if args.inception:
            raise InputError(f"--inception: found {args.inception}, which has no effect on {', '.join(args.metrics)}; "
                             f"leave it out, or ask for one of {', '.join(of_inception)}")
        return args.metrics, None
    try:
        return args.metrics or ["fid"], fid.find_weights(args.inception)
    except fid.WeightsMissing as error:
        if args.metrics is not None:
            raise
        print(f"no FID: {error}", flush=True)
    metrics = list(WITHOUT_INCEPTION)
    try:
        lite_features.find_weights()
    except lite_features.PackagesMissing as error:
        print(error, flush=True)
        metrics = [metric for metric in metrics if metric not in of_lite0]
    print(f"scoring with {', '.join(metrics)}, which need no Inception weights", flush=True)
    return metrics, None


def check_groups(metrics: list[str], label_names: list[str] | None, classes_of_models: dict) -> None:
    """Raises InputError where groups are asked for of real images whose classes have none, or of a model of other
    classes. label_names: of the real images' classes, [] for none, None where they are not known yet.
    classes_of_models: file -> number of classes, or None."""
    if GROUPS not in metrics or label_names is None:
        return
    count = len(lite_features.groups_of_names(label_names))
    for file, num_classes in classes_of_models.items():
        if num_classes != count:
            raise InputError(f"--metrics groups: found {file} with {num_classes or 'no'} classes, expected the "
                             f"{count} of the real images; leave the metric out")


def warn_of_few(metrics: list[str], counts: dict[str, int]) -> None:
    """Print a warning for every Fréchet distance that will be biased. counts: kind of images -> how many there are."""
    for metric in FEW_IMAGES:
        for what, count in counts.items() if metric in metrics else ():
            if warning := fid.warning_for_few(count, what, metric):
                print(warning, flush=True)


def say_what_becomes_of(metrics: list[str], shape) -> None:
    """Say what the metrics make of images [C, S, S] that are not RGB of 64 pixels."""
    channels, side, _ = shape
    if (channels, side) == (3, 64):
        return
    grey = ", grey as three equal channels" if channels == 1 else ""
    made = {f"features of images resized to {fid.SIDE}x{fid.SIDE}{grey}": FEATURE_METRICS["inception"],
            f"features of images resized to {lite_features.SIDE}x{lite_features.SIDE}{grey}": FEATURE_METRICS["lite0"],
            f"levels of {', '.join(map(str, pyramid_levels(side)))} pixels": OF_ALL_IMAGES}
    notes = [f"{what} ({', '.join(asked)})" for what, names in made.items()
             if (asked := [metric for metric in metrics if metric in names])]
    print(f"images of {side}x{side}, {'grey' if channels == 1 else 'RGB'}: {'; '.join(notes)}", flush=True)


class Networks:
    """The networks that the metrics look through, on one device, by the names of FEATURE_METRICS."""

    def __init__(self, metrics: list[str], weights_file, device):
        self.extractors = {"inception": fid.load_inception(weights_file, device)} if weights_file else {}
        if set(metrics) & {*FEATURE_METRICS["lite0"], GROUPS}:
            self.extractors["lite0"] = lite_features.load(device)

    def settings(self) -> dict[str, str]:
        """What each network's features depend on, for records."""
        return {name: extractor.settings for name, extractor in self.extractors.items()}


def users_of(network: str, metrics: list[str]) -> tuple[bool, bool]:
    """Of a network's features: whether some metric needs their statistics, and whether one needs them themselves."""
    frechet, *others = FEATURE_METRICS[network]
    return frechet in metrics, bool(set(others) & set(metrics))


class References:
    """What the metrics need of the real images, kept on disk by the images' content."""

    def __init__(self, metrics: list[str], image_set, networks: Networks, cache_dir, device):
        self.features, self.statistics, self.profile = {}, {}, None         # the first two by network
        for name, extractor in networks.extractors.items():
            needs_statistics, needs_features = users_of(name, metrics)
            if needs_features:
                self.features[name] = fid.reference_features(image_set, extractor, cache_dir)
            if needs_statistics:
                self.statistics[name] = fid.reference_statistics(image_set, extractor, cache_dir,
                                                                 from_features=needs_features)
        self.groups = lite_features.groups_of_names(image_set.label_names) if GROUPS in metrics else None   # by class
        if "swd" in metrics:
            self.profile = sliced_wasserstein.reference_profile(image_set, cache_dir, device=device)


class Scorer:
    """Takes images as they come. On a GPU it works in a stream of its own, while the next batch is made."""

    def __init__(self, metrics: list[str], networks: Networks, device: torch.device):
        self.metrics, self.networks, self.device = metrics, networks, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.statistics = {name: fid.FeatureStatistics(extractor.num_features, device)
                           for name, extractor in networks.extractors.items() if users_of(name, metrics)[0]}
        self.features = {name: [] for name in networks.extractors
                         if users_of(name, metrics)[1] or name == "lite0" and GROUPS in metrics}
        self.images, self.indices = [], []

    def take(self, indices: list[int], images: torch.Tensor) -> None:
        """images: uint8 [B, C, S, S] on the device, still being computed there."""
        self.indices += indices
        if OF_ALL_IMAGES & set(self.metrics):
            self.images.append(images)
        if not self.statistics and not self.features:
            return
        if self.stream is None:
            self.take_features(images)
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.take_features(images)
        images.record_stream(self.stream)

    def take_features(self, images: torch.Tensor) -> None:
        """Adds the features of images, uint8 [n, C, H, W] on this device, by every network that a metric asks for."""
        for name in self.statistics | self.features:
            for features in fid.features_of(images, self.networks.extractors[name]):
                if name in self.statistics:
                    self.statistics[name].add(features)
                if name in self.features:
                    self.features[name].append(features)

    def scores(self, num_images: int, references: References, group) -> dict[str, tuple[float, float | None]]:
        """metric row -> (value, standard error or None), over all processes; only the main one's is used."""
        count = int(group.sum(torch.tensor(float(len(self.indices)), device=self.device)))
        if count != num_images:
            raise ValueError(f"took in {count} images, expected {num_images}")
        if self.stream:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

        def of_all_processes(parts):
            return distributed.gather(torch.cat(parts), self.indices, num_images, group)
        features = {name: of_all_processes(parts) for name, parts in self.features.items()}
        images = of_all_processes(self.images) if self.images else None
        for statistics in self.statistics.values():
            statistics.sum_over(group)
        if not group.is_main:
            return {}
        values = {}
        for name in self.networks.extractors:
            frechet, kernel, precision_recall = FEATURE_METRICS[name]
            if frechet in self.metrics:
                values[frechet] = fid.fid(self.statistics[name], references.statistics[name]), None
            if kernel in self.metrics:
                values[kernel] = fid.kid(features[name], references.features[name])
            if precision_recall in self.metrics:
                shares = fid.precision_recall(features[name], references.features[name])
                values |= {row: (share, None) for row, share in zip(rows_of(precision_recall), shares)}
        if GROUPS in self.metrics:              # classes take turns by an image's number
            guesses = self.networks.extractors["lite0"].first_guesses(features["lite0"])
            wanted = [references.groups[k % len(references.groups)] for k in range(num_images)]
            share = lite_features.share_in_group(guesses, wanted)
            values[GROUPS] = share, (share * (1 - share) / num_images)**0.5
        if "swd" in self.metrics:
            profile = sliced_wasserstein.profile(images, device=self.device)
            values |= {name: (value, None) for name, value in
                       sliced_wasserstein.distance(profile, references.profile).items()}
        if "detail" in self.metrics:
            values |= image_detail.statistics_of(images)
        return values


def result_rows(key: dict, scores: dict, revision: str, costs: dict | None = None) -> list[dict]:
    """Rows for the table of results, one per score of `Scorer`. key: the identifying columns but the metric.

    revision: of the code that measured them; it is asked for when a run begins, since files may change meanwhile.
    costs: of an image, by `results_table.COST_COLUMNS`.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return [{**key, "metric": metric, "value": value, "standard_error": standard_error, "git_revision": revision,
             "finished": now, **(costs or {})} for metric, (value, standard_error) in scores.items()]


def print_row(row: dict, note: str) -> None:
    """One line per value."""
    error = "" if row["standard_error"] is None else f" +- {row['standard_error']:.4f}"
    print(f"{note:>8}: {row['checkpoint']} {row['weights']} {row['path']} seed {row['seed']}, "
          f"{row['num_images']} images, {row['num_model_calls']} calls: {row['metric']} {row['value']:.4f}{error}",
          flush=True)


def unfinished(metrics: list[str], finished_rows: list[dict], force: bool, say: bool = True,
               side: int = 64) -> list[str]:
    """The metrics that are still to be measured. side: of the images, in pixels. say: print the finished rows."""
    finished = {row["metric"]: row for row in finished_rows}
    wanted = [metric for metric in metrics if force or not all(name in finished for name in rows_of(metric, side))]
    for metric in metrics:
        for name in rows_of(metric, side) if say and metric not in wanted else ():
            print_row(finished[name], "finished")
    return wanted


def write_evaluation_record(args, device, num_added: int, metrics: list[str], reference_hash: str, networks) -> None:
    """What a script that added rows did, in `runs` beside the table."""
    name = f"{Path(sys.argv[0]).stem}_{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}_{os.getpid()}.json"
    write_run_record(args.results.parent / "runs" / name, args, device, rows_added=num_added, metrics=metrics,
                     reference_hash=reference_hash, features=networks.settings())
