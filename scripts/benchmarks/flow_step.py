#!/usr/bin/env python3
"""Training step of the flow family against a plain DiT step: images per second, ratio, share of the product peak.

The plain step is what a straightforward implementation does: float32, attention that stores its matrix, every norm and
modulation an operation of its own, an AdamW that is not fused, a moving average parameter by parameter, `.item()` in
every step. Both train the same DiT on the same images, in alternation, each in a process of its own. Ours is the step
of `python -m flow.train`; with --compile a further process trains it compiled, and its ratio is the one claimed. In
bf16 on a CPU another one trains with the fused attention kernel, which ours leaves aside there. With --sampling guided
sampling is timed too: both halves in one batch against a loop of two calls. The last line is JSON.
"""
import json
import statistics

from engine.command_line import (Parser, add_device_options, real_number, refuse_without_effect, run_script,
                                 start_device, whole_number)
from networks.presets import PRESETS

# (device, precision, compiled) -> least ratio; the eager CPU step is at two thirds of the product peak already.
TARGETS = {("cpu", "float32", True): 1.05, ("cpu", "float32", False): 0.98, ("cpu", "bf16", True): 2.0,
           ("cpu", "bf16", False): 2.0, ("cuda", "bf16", True): 3.0}
PEAK_TARGETS = {("cpu", "float32"): 0.6, ("cuda", "bf16"): 0.4}        # the latter of --latents alone
LATENTS = {"preset": "big", "image_size": 32, "channels": 4}
SAMPLING_TARGET = 1.5                                       # on a GPU


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default=None, help="instead of hidden 384, depth 6, patch 4")
    parser.add_argument("--image_size", type=whole_number(1), default=32, help="side of images or latents")
    parser.add_argument("--channels", type=whole_number(1), default=3, help="3 pixels, 4 latents")
    parser.add_argument("--patch_size", type=whole_number(1), default=None, help="left out: the preset's, or 4")
    parser.add_argument("--batch_size", type=whole_number(1), default=32, help="images per step")
    parser.add_argument("--rounds", type=whole_number(1), default=None, help="alternations; 5 on a CPU, 10 on a GPU")
    parser.add_argument("--steps", type=whole_number(1), default=None, help="steps a turn; 2 on a CPU, 20 on a GPU")
    parser.add_argument("--latents", action="store_true",
                        help="preset big on latents of 4 channels and 32 cells a side, compiled")
    parser.add_argument("--compile", action="store_true", help="a third side, whose ratio is claimed: ours compiled")
    parser.add_argument("--sampling", action="store_true", help="time guided sampling too")
    parser.add_argument("--peak_gflops", type=real_number(0, open_below=True), default=None,
                        help="the device's product peak; left out: measured")
    add_device_options(parser)
    args = parser.parse_args()
    if args.latents:
        refuse_without_effect(parser, args, [*LATENTS, "patch_size"], "with --latents")
        vars(args).update(LATENTS, compile=True)
    import torch
    from engine import devices
    from flow.model import gflop_of_forward
    from scripts.benchmarks.flow_sides import NUM_CLASSES, FusedAttentionStep, OurStep, PlainStep, Sampling
    from scripts.benchmarks.own_process import OwnProcess, median_ratio, opened, seconds_in_turn, warmed_up
    from scripts.benchmarks.training_sides import product_peak_gflops
    device = start_device(args, tf32=True)
    on_gpu = device.type == "cuda"
    rounds, steps = args.rounds or (10 if on_gpu else 5), args.steps or (20 if on_gpu else 2)
    sizes = PRESETS[args.preset] if args.preset else dict(hidden_size=384, depth=6, num_heads=6, mlp_ratio=4,
                                                          patch_size=4)
    sizes = sizes | dict(image_size=args.image_size, channels=args.channels, num_classes=NUM_CLASSES)
    sizes |= {"patch_size": args.patch_size} if args.patch_size else {}

    shared = (sizes, args.batch_size, device, torch.get_num_threads())
    builds = {"plain": (PlainStep, *shared)}
    if args.precision == "bf16" and not on_gpu:
        builds["fused_attention"] = (FusedAttentionStep, *shared, args.precision, False)
    builds["ours"] = (OurStep, *shared, args.precision, False)
    if args.compile:
        builds["compiled"] = (OurStep, *shared, args.precision, True)
    claimed = list(builds)[-1]
    sampling = {"one_batch": [], "two_calls": []}
    with opened(builds) as sides:
        seconds = seconds_in_turn(warmed_up(sides), rounds, "flow_step", "seconds_per_step", steps)
        peak_memory = {name: side.call("peak_megabytes") for name, side in sides.items()}
    if args.sampling:
        with OwnProcess(Sampling, *shared, args.precision) as side:
            for way in sampling:
                side.call(way, 2)
            for _ in range(rounds):
                for way in sampling:
                    sampling[way].append(side.call(way, steps))

    rate = {name: args.batch_size / statistics.median(values) for name, values in seconds.items()}
    peak = args.peak_gflops or product_peak_gflops(device, args.precision)
    used = 3 * gflop_of_forward(sizes) * rate[claimed]      # a training step does three times the forward pass
    target = TARGETS.get((device.type, args.precision, args.compile))
    if on_gpu and target is None and not args.sampling:
        print("no target: on a GPU the targets are those of bf16, compiled, and of --sampling", flush=True)
    peak_target = PEAK_TARGETS.get((device.type, args.precision)) if args.latents or not on_gpu else None
    claimed_ratio = median_ratio(seconds["plain"], seconds[claimed])
    sampling_ratio = median_ratio(sampling["two_calls"], sampling["one_batch"]) if args.sampling else None
    for name in builds:
        print(f"{name:>15}: {rate[name]:8.2f} images/s, peak memory {peak_memory[name]:.0f} MB")
    print(json.dumps({
        "benchmark": "flow_step", "ratio": round(claimed_ratio, 3), "target": target,
        "ratio_uncompiled": round(median_ratio(seconds["plain"], seconds["ours"]), 3),
        "fraction_of_peak": round(used / peak, 3), "peak_target": peak_target,
        "sampling_ratio": sampling_ratio and round(sampling_ratio, 3),
        "sampling_target": SAMPLING_TARGET if on_gpu and args.sampling else None,
        "ok": ((target is None or claimed_ratio >= target) and (peak_target is None or used / peak >= peak_target)
               and not (on_gpu and args.sampling and sampling_ratio < SAMPLING_TARGET)),
        "images_per_second": {name: round(value, 3) for name, value in rate.items()},
        "peak_megabytes": {name: round(value, 1) for name, value in peak_memory.items()},
        "gflop_per_image": round(3 * gflop_of_forward(sizes), 3), "gflops_used": round(used, 1),
        "gflops_peak": round(peak, 1), "device": devices.describe(device), "precision": args.precision,
        "batch_size": args.batch_size, "sizes": sizes, "compile": args.compile, "rounds": rounds}))


if __name__ == "__main__":
    run_script(main)
