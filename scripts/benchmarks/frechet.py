#!/usr/bin/env python3
"""Fréchet distance at 2048 dimensions: fid.frechet_distance against pytorch_fid's calculate_frechet_distance.

Both get the same means and covariances, in alternation, each in a process of its own whose numerical libraries were
loaded with so many threads. The last line is JSON: ratio (their time over ours, medians), target, ok, and how far the
two values are apart.
"""
import json
import os
import statistics
import time
import warnings

import numpy as np

from engine.command_line import Parser, run_script, whole_number
from scripts.benchmarks.own_process import opened

TARGET = 3.0


def made_up_features(num_images: int, num_features: int, seed: int) -> np.ndarray:
    """Positive features with a falling spectrum, as Inception's are: float64 [N, D]."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((num_features, num_features)) * np.geomspace(1, 0.01, num_features)[:, None]
    return np.abs(random.standard_normal((num_images, num_features)) @ mixing * 0.02 + 0.3 + 0.02 * seed)


class Side:
    """One implementation, and the two normal laws that it measures the distance of."""

    def __init__(self, name: str, num_images: int, num_features: int, num_threads: int):
        import torch
        torch.set_num_threads(num_threads)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if name == "ours":
            from evaluation import fid
            self.distance = fid.frechet_distance
        else:
            from pytorch_fid.fid_score import calculate_frechet_distance
            self.distance = calculate_frechet_distance
        self.gaussians = []
        for seed in (0, 1):
            features = made_up_features(num_images, num_features, seed)
            self.gaussians += [features.mean(0), np.cov(features, rowvar=False)]

    def measure(self) -> tuple[float, float]:
        """Seconds, and the distance."""
        start = time.perf_counter()
        value = float(self.distance(*self.gaussians))
        return time.perf_counter() - start, value


def main():
    parser = Parser(__doc__)
    parser.add_argument("--num_features", type=whole_number(2), default=2048, help="dimensions")
    parser.add_argument("--num_images", type=whole_number(2), default=5000, help="images behind each covariance")
    parser.add_argument("--repeats", type=whole_number(1), default=3, help="measurements of each")
    parser.add_argument("--num_threads", type=whole_number(1), default=1, help="CPU threads of each side")
    args = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):      # read by the processes below, when they load it
        os.environ[f"{library}_NUM_THREADS"] = str(args.num_threads)
    seconds, values = {"theirs": [], "ours": []}, {}
    builds = {name: (Side, name, args.num_images, args.num_features, args.num_threads) for name in seconds}
    with opened(builds) as sides:
        for _ in range(args.repeats):
            for name, side in sides.items():
                duration, values[name] = side.call("measure")
                seconds[name].append(duration)
                print(f"{name:>7}: {duration:8.2f} s, distance {values[name]:.9f}", flush=True)
    ratio = statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"])
    difference = abs(values["ours"] - values["theirs"]) / abs(values["theirs"])
    print(json.dumps({"ratio": round(ratio, 2), "target": TARGET, "ok": ratio >= TARGET and difference < 1e-6,
                      "relative_difference": difference, "num_features": args.num_features,
                      "num_threads": args.num_threads}))


if __name__ == "__main__":
    run_script(main)
