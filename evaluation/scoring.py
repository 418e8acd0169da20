"""What a set of images is scored with: names of metrics, networks they need, the real images' side, the scores."""
import json
import os
import sys
import time
from pathlib import Path

import torch

from evaluation import fid
from evaluation import image_detail
from evaluation import sliced_wasserstein
from evaluation import tiny_classifier
from engine import distributed
from engine.command_line import write_run_record
from engine.errors import InputError
from engine.files import expecting, locked, write_json
from evaluation.options import INCEPTION_METRICS, METRIC_ROWS

OF_ALL_IMAGES = {"swd", "fd_tiny", "detail"}            # metrics that are computed from all images at once


def choose_metrics(args) -> tuple[list[str], Path | None]:
    """The metrics and the file of Inception weights, None where none is needed. Says what was chosen and why.

    Raises InputError where files that a metric needs are not there.
    """
    if "fd_tiny" in (args.metrics or ()):
        tiny_classifier.find_files(args.fd_tiny)
    if args.metrics is not None and not set(args.metrics) & set(INCEPTION_METRICS):
        if args.inception:
            raise InputError(f"--inception: found {args.inception}, which has no effect on {', '.join(args.metrics)}; "
                             f"leave it out, or ask for one of {', '.join(INCEPTION_METRICS)}")
        return args.metrics, None
    try:
        weights_file = fid.find_weights(args.inception)
    except fid.WeightsMissing as error:
        if args.metrics is not None:
            raise
        print(f"no FID: {error}\nscoring with the sliced Wasserstein distance (swd), which needs no weights",
              flush=True)
        return ["swd"], None
    return args.metrics or ["fid"], weights_file


def warn_of_few(metrics: list[str], counts: dict[str, int]) -> None:
    """Say loudly where FID will be biased. counts: what the images are -> how many there are."""
    for what, count in counts.items():
        if "fid" in metrics and (warning := fid.warning_for_few(count, what)):
            print(warning, flush=True)


def claim_classifier(results, networks: "Networks") -> None:
    """Keep one table of results to one classifier behind fd_tiny: its hash is written beside the table.

    Raises InputError if the rows that are there were made with another.
    """
    if networks.tiny is None:
        return
    record = Path(results).with_name(f"{Path(results).stem}_fd_tiny.json")
    with locked(record):
        with expecting(record, "record of the classifier behind fd_tiny", "delete it if the rows are of this one"):
            found = json.loads(record.read_text())["files_hash"] if record.exists() else networks.tiny.files_hash
        if found != networks.tiny.files_hash:
            raise InputError(f"--fd_tiny: its files have hash {networks.tiny.files_hash}, but the fd_tiny rows of "
                             f"{results} come from {found} ({record}); give those files, or another --results")
        if not record.exists():
            write_json(record, {"files_hash": found})


class Networks:
    """The networks that the metrics look through, on one device: None where no metric needs one."""

    def __init__(self, metrics: list[str], weights_file, fd_tiny_folder, device):
        self.inception = fid.load_inception(weights_file, device) if weights_file else None
        self.tiny = tiny_classifier.load(fd_tiny_folder, device) if "fd_tiny" in metrics else None


class References:
    """What each metric knows of the real images; kept on disk, by the images' content."""

    def __init__(self, metrics: list[str], image_set, networks: Networks, cache_dir, device):
        self.features = self.statistics = self.profile = self.tiny_statistics = None
        if "kid" in metrics or "precision_recall" in metrics:
            self.features = fid.reference_features(image_set, networks.inception, cache_dir)
        if "fid" in metrics:
            self.statistics = fid.reference_statistics(image_set, networks.inception, cache_dir,
                                                       from_features=self.features is not None)
        if "swd" in metrics:
            self.profile = sliced_wasserstein.reference_profile(image_set, cache_dir, device=device)
        if "fd_tiny" in metrics:
            self.tiny_statistics = tiny_classifier.reference_statistics(image_set, networks.tiny, cache_dir)


class Scorer:
    """Takes images in as they come. On a GPU it works in a stream of its own, while the next batch is made."""

    def __init__(self, metrics: list[str], networks: Networks, device: torch.device):
        self.metrics, self.networks, self.device = metrics, networks, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.statistics = fid.FeatureStatistics(device=device) if "fid" in metrics else None
        self.features, self.images, self.indices = [], [], []

    def take(self, indices: list[int], images: torch.Tensor) -> None:
        """images: uint8 [B, 3, 64, 64] on the device, still being computed there."""
        self.indices += indices
        if OF_ALL_IMAGES & set(self.metrics):
            self.images.append(images)
        if not set(self.metrics) & set(INCEPTION_METRICS):
            return
        if self.stream is None:
            self.take_features(images)
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.take_features(images)
        images.record_stream(self.stream)

    def take_features(self, images: torch.Tensor) -> None:
        for features in fid.features_of(images, self.networks.inception):
            if self.statistics:
                self.statistics.add(features)
            if "kid" in self.metrics or "precision_recall" in self.metrics:
                self.features.append(features)

    def scores(self, num_images: int, references: References, group) -> dict[str, tuple[float, float | None]]:
        """metric row -> (value, standard error or None), over all processes; only the main one's is used."""
        count = int(group.sum(torch.tensor(float(len(self.indices)), device=self.device)))
        if count != num_images:
            raise ValueError(f"took in {count} images, expected {num_images}")
        if self.stream:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        features, images = (distributed.gather(torch.cat(parts), self.indices, num_images, group) if parts else None
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
        if "fd_tiny" in self.metrics:
            statistics = self.networks.tiny.statistics(images)
            if warning := fid.warning_for_few(num_images, "scored", "fd_tiny", len(statistics.sum)):
                print(warning, flush=True)
            values["fd_tiny"] = tiny_classifier.distance(statistics, references.tiny_statistics), None
        if "detail" in self.metrics:
            values |= image_detail.statistics_of(images)
        return values


def result_rows(key: dict, scores: dict, revision: str) -> list[dict]:
    """Rows for the table of results: `key` (its identifying columns but the metric) with every score of `Scorer`.

    revision: of the code that measured them, so taken when the run began.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return [{**key, "metric": metric, "value": value, "standard_error": standard_error, "git_revision": revision,
             "finished": now} for metric, (value, standard_error) in scores.items()]


def print_row(row: dict, note: str) -> None:
    """One line per value."""
    error = "" if row["standard_error"] is None else f" +- {row['standard_error']:.4f}"
    print(f"{note:>8}: {row['checkpoint']} {row['weights']} {row['path']} seed {row['seed']}, "
          f"{row['num_images']} images, {row['num_model_calls']} calls: {row['metric']} {row['value']:.4f}{error}",
          flush=True)


def unfinished(metrics: list[str], finished_rows: list[dict], force: bool, say: bool = True) -> list[str]:
    """The metrics that are still to be measured; the finished rows of the others are printed, if `say`."""
    finished = {row["metric"]: row for row in finished_rows}
    wanted = [metric for metric in metrics if force or not all(name in finished for name in METRIC_ROWS[metric])]
    for metric in metrics:
        for name in METRIC_ROWS[metric] if say and metric not in wanted else ():
            print_row(finished[name], "finished")
    return wanted


def write_evaluation_record(args, device, num_added: int, metrics: list[str], reference_hash: str, networks) -> None:
    """What a script that added rows did, in `runs` beside the table."""
    name = f"{Path(sys.argv[0]).stem}_{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}_{os.getpid()}.json"
    write_run_record(args.results.parent / "runs" / name, args, device, rows_added=num_added, metrics=metrics,
                     reference_hash=reference_hash, fd_tiny_hash=networks.tiny.files_hash if networks.tiny else None)
