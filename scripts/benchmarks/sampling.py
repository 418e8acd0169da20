#!/usr/bin/env python3
"""Generation, from noise to what Inception is fed: sampling.generate against a plain loop.

The plain loop: float32, default memory layout, attention that stores its matrix, start noise and steps the same, every
image written as a PNG file and read back. Ours: the precision chosen, channels-last, fused attention, uint8 images that
stay on the device. Measured in alternation, each in a process of its own: the plain loop under the settings that
PyTorch and the C library come with, ours under those of `devices.configure`. With --compile a third process generates
with the compiled model, and its ratio is the one claimed. The last line is JSON: ratio (our images per second over
theirs, medians), target, ok.
"""
import json
import statistics

from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.errors import InputError
from lift.options import DEFAULT_NAMES
from networks.presets import DEFAULT_HIDDEN_DIMS

TARGETS = {"cpu": 3.0, "cuda": 5.0}
MOST_GREY_LEVELS = 1.0                  # mean difference of the images; more, and it is not the same work


def main():
    parser = Parser(__doc__)
    parser.add_argument("--model_type", choices=list(DEFAULT_NAMES), default="lift", help="which model")
    parser.add_argument("--hidden_dims", type=whole_number(8), nargs="+", default=list(DEFAULT_HIDDEN_DIMS),
                        help="channels per level")
    parser.add_argument("--num_images", type=whole_number(1), default=None,
                        help="per measurement; left out: 32 on a CPU, 256 on a GPU")
    parser.add_argument("--batch_size", type=whole_number(1), default=None, help="left out: 32 on a CPU, 64 on a GPU")
    parser.add_argument("--num_steps", type=whole_number(1), default=None,
                        help="network calls per image; left out: 4 on a CPU, 18 on a GPU")
    parser.add_argument("--repeats", type=whole_number(1), default=3, help="measurements of each, after a first one "
                        "that does not count")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of weights and images")
    parser.add_argument("--compile", action="store_true", help="a third side, whose ratio is claimed: the same with "
                        "its model compiled by torch.compile (on a CPU: by a C++ compiler)")
    add_device_options(parser)
    args = parser.parse_args()
    import numpy as np
    import torch
    from engine import devices
    from lift.sampling import uniform_diagonal
    from scripts.benchmarks.own_process import opened
    from scripts.benchmarks.sampling_sides import OurLoop, PlainLoop
    device = start_device(args)
    on_gpu = device.type == "cuda"
    batch_size = args.batch_size or (64 if on_gpu else 32)
    num_images = args.num_images or (256 if on_gpu else 32)
    if args.compile and num_images % batch_size:
        raise InputError(f"--num_images: found {num_images}, expected a multiple of the batch size {batch_size} with "
                         "--compile, for another size would be compiled within a measurement")
    num_steps = args.num_steps or (18 if on_gpu else 4)

    shared = (args.model_type, args.hidden_dims, uniform_diagonal(num_steps), args.seed, device,
              torch.get_num_threads())
    batches = [range(start, min(start + batch_size, num_images)) for start in range(0, num_images, batch_size)]
    builds = {"plain": (PlainLoop, *shared), "ours": (OurLoop, *shared, args.precision, False)}
    if args.compile:
        builds["compiled"] = (OurLoop, *shared, args.precision, True)
    claimed = list(builds)[-1]
    rates = {name: [] for name in builds}
    with opened(builds) as sides:
        for repeat in range(args.repeats + 1):
            for name, side in sides.items():
                rate = side.call("images_per_second", batches)
                print(f"{name:>8}: {rate:8.2f} images/s{'' if repeat else ' (warm-up)'}", flush=True)
                if repeat:
                    rates[name].append(rate)
        images = {name: side.call("last_images") for name, side in sides.items()}
    rate = {name: statistics.median(values) for name, values in rates.items()}
    ratio = rate[claimed] / rate["plain"]
    difference = float(np.abs(images[claimed] - images["plain"]).mean()) * 255
    target = TARGETS[device.type]
    print(json.dumps({"ratio": round(ratio, 2), "target": target,
                      "ratio_uncompiled": round(rate["ours"] / rate["plain"], 2) if args.compile else None,
                      "compiled_over_uncompiled": round(rate["compiled"] / rate["ours"], 3) if args.compile else None,
                      "ok": ratio >= target and difference <= MOST_GREY_LEVELS, "precision": args.precision,
                      "device": devices.describe(device), "batch_size": batch_size,
                      "num_steps": num_steps, "hidden_dims": args.hidden_dims,
                      "mean_difference_in_grey_levels": round(difference, 3),
                      "compile": args.compile,
                      **{f"{name}_images_per_second": round(value, 3) for name, value in rate.items()}}))


if __name__ == "__main__":
    run_script(main)
