#!/usr/bin/env python3
"""Fréchet distance at 2048 dimensions: fid.frechet_distance against pytorch_fid's calculate_frechet_distance.

Both get the same means and covariances, in alternation, with the same number of threads. The last line is JSON: ratio
(their time over ours, medians), target, ok, and how far the two values are apart.
"""
import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fid                                                                              # noqa: E402
from command_line import Parser, run_script, whole_number                                # noqa: E402

TARGET = 3.0


def made_up_features(num_images: int, num_features: int, seed: int) -> np.ndarray:
    """Positive features with a falling spectrum, as Inception's are: float64 [N, D]."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((num_features, num_features)) * np.geomspace(1, 0.01, num_features)[:, None]
    return np.abs(random.standard_normal((num_images, num_features)) @ mixing * 0.02 + 0.3 + 0.02 * seed)


def main():
    parser = Parser(__doc__)
    parser.add_argument("--num_features", type=whole_number(2), default=2048, help="dimensions")
    parser.add_argument("--num_images", type=whole_number(2), default=5000, help="images behind each covariance")
    parser.add_argument("--repeats", type=whole_number(1), default=3, help="measurements of each")
    parser.add_argument("--num_threads", type=whole_number(1), default=1, help="CPU threads of ours; for theirs set "
                        "OMP_NUM_THREADS as well")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from pytorch_fid.fid_score import calculate_frechet_distance

    gaussians = []
    for seed in (0, 1):
        features = made_up_features(args.num_images, args.num_features, seed)
        gaussians += [features.mean(0), np.cov(features, rowvar=False)]
    seconds, values = {"theirs": [], "ours": []}, {}
    for _ in range(args.repeats):
        for name, distance in (("theirs", calculate_frechet_distance), ("ours", fid.frechet_distance)):
            start = time.perf_counter()
            values[name] = float(distance(*gaussians))
            seconds[name].append(time.perf_counter() - start)
            print(f"{name:>7}: {seconds[name][-1]:8.2f} s, distance {values[name]:.9f}", flush=True)
    ratio = statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"])
    difference = abs(values["ours"] - values["theirs"]) / abs(values["theirs"])
    print(json.dumps({"ratio": round(ratio, 2), "target": TARGET, "ok": ratio >= TARGET and difference < 1e-6,
                      "relative_difference": difference, "num_features": args.num_features,
                      "num_threads": args.num_threads}))


if __name__ == "__main__":
    run_script(main)
