#!/usr/bin/env python3
"""Training step and sampling of the MNIST family's DDPM against plain ones: images per second, ratios.

The plain step is what a straightforward implementation does: a DataLoader that opens a PNG per image, float32,
attention that stores its matrix, an AdamW that is not fused, a moving average parameter by parameter, `.item()` in
every step. Both train the documented UNet on the same digits, in alternation, each in a process of its own. Sampling:
DDIM by a plain loop under no_grad against `Drawing.images`. The last line is JSON.
"""
import json
import statistics

from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from networks.presets import CONDITIONAL_UNETS

TARGETS = {"float32": 1.3, "bf16": 2.0}                 # of the training step and of a solver's call


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=tuple(CONDITIONAL_UNETS), default="documented", help="size of the network")
    parser.add_argument("--batch_size", type=whole_number(1, 512), default=64, help="images per step")
    parser.add_argument("--rounds", type=whole_number(1), default=5, help="alternations")
    parser.add_argument("--steps", type=whole_number(1), default=3, help="steps a turn")
    parser.add_argument("--sampling_steps", type=whole_number(1, 1000), default=5, help="DDIM steps a turn")
    add_device_options(parser)
    args = parser.parse_args()
    import torch
    from engine import devices
    from scripts.benchmarks.mnist_sides import OurStep, PlainStep
    from scripts.benchmarks.own_process import median_ratio, opened, seconds_in_turn, warmed_up
    device = start_device(args, tf32=True)
    shared = (args.preset, args.batch_size, device, torch.get_num_threads())
    builds = {"plain": (PlainStep, *shared), "ours": (OurStep, *shared, args.precision)}
    with opened(builds) as sides:
        warmed_up(sides)
        seconds = {what: seconds_in_turn(sides, args.rounds, what, method, count)
                   for what, method, count in (("training", "seconds_per_step", args.steps),
                                               ("sampling", "seconds_per_call", args.sampling_steps))}
    ratios = {what: median_ratio(of_sides["plain"], of_sides["ours"]) for what, of_sides in seconds.items()}
    rates = {f"{what} {name}": args.batch_size / statistics.median(values)
             for what, of_sides in seconds.items() for name, values in of_sides.items()}
    for name, rate in rates.items():
        print(f"{name:>16}: {rate:8.1f} images/s{' and call' * name.startswith('sampling')}")
    target = TARGETS[args.precision]
    print(json.dumps({"benchmark": "mnist_step", "ratio": round(ratios["training"], 3), "target": target,
                      "ok": min(ratios.values()) >= target, "sampling_ratio": round(ratios["sampling"], 3),
                      "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
                      "device": devices.describe(device), "num_threads": torch.get_num_threads(),
                      "precision": args.precision, "batch_size": args.batch_size, "preset": args.preset,
                      "rounds": args.rounds}))


if __name__ == "__main__":
    run_script(main)
