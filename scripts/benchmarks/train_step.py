#!/usr/bin/env python3
"""Training step of this repository against a plain one: images per second, ratio, and memory.

The plain step is what a straightforward implementation does: float32, default memory layout, softmax attention that
stores its matrix, a moving average parameter by parameter, `.item()` in every step, and images decoded one by one from
PNG bytes. Both train LIFT on the same images, in alternation, each in a process of its own: the plain step under the
settings that PyTorch and the C library come with, ours under those of `devices.configure`. With --compile a third
process trains with the compiled model, and its ratio is the one claimed. On a GPU and at default size it is also
claimed that 100 epochs of 15,803 images take less than six minutes, compiled, as `scripts/gpu_run.sh` trains.

Most of the plain step's loss comes from its handicaps. --handicaps takes them away one after the other, a side each, up
to the best step that plain PyTorch gives; with --compile the last one is compiled too. The claimed ratio, at least 1,
is then the one to the fastest of these sides. The last line is JSON.
"""
import json
import statistics

from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from networks.presets import DEFAULT_HIDDEN_DIMS

NUM_EPOCHS, NUM_IMAGES, MINUTES_TARGET = 100, 15_803, 6.0
DEFAULT_DIMS = list(DEFAULT_HIDDEN_DIMS)
TARGETS = {"cpu": (2.5, 0.5), "cuda": (6.0, 0.5)}


def minutes_of_training(images_per_second: float) -> float:
    """Time of the 100 epochs that a full-size run has, at that rate."""
    return NUM_EPOCHS * (NUM_IMAGES // 64) * 64 / images_per_second / 60


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--hidden_dims", type=whole_number(8), nargs="+", default=DEFAULT_DIMS)
    parser.add_argument("--batch_size", type=whole_number(1), default=None, help="16 on a CPU, 64 on a GPU")
    parser.add_argument("--rounds", type=whole_number(1), default=None, help="alternations; 3 on a CPU, 10 on a GPU")
    parser.add_argument("--steps", type=whole_number(1), default=None, help="steps a turn; 1 on a CPU, 20 on a GPU")
    parser.add_argument("--compile", action="store_true", help="a third side, whose ratio is claimed: this "
                        "repository's step with its model compiled by torch.compile (on a CPU: by a C++ compiler)")
    parser.add_argument("--handicaps", action="store_true", help="a side for each handicap of the plain step that is "
                                                                 "taken away, on top of those before it; the ratio "
                                                                 "claimed is the one to the fastest of them")
    add_device_options(parser)
    args = parser.parse_args()
    import torch
    from engine import devices, synthetic_faces
    from scripts.benchmarks.own_process import median_ratio, opened, seconds_in_turn, warmed_up
    from scripts.benchmarks.training_sides import (HANDICAPS, OurStep, PlainStep, convolution_gflops, gflop_of_forward,
                                                   product_peak_gflops)
    device = start_device(args, tf32=True)
    on_gpu = device.type == "cuda"
    batch_size = args.batch_size or (64 if on_gpu else 16)
    rounds, steps = args.rounds or (10 if on_gpu else 3), args.steps or (20 if on_gpu else 1)

    shared = (args.hidden_dims, synthetic_faces.draw_images(range(256)), batch_size, device, torch.get_num_threads())
    builds = {"plain": (PlainStep, *shared), "ours": (OurStep, *shared, args.precision, False)}
    if args.compile:
        builds["compiled"] = (OurStep, *shared, args.precision, True)
    claimed = list(builds)[-1]
    # float32 is a handicap only where our own step runs in bf16, and eager only where it is compiled.
    is_one = {"float32": args.precision == "bf16", "eager": args.compile}
    removable = [name for name in HANDICAPS if is_one.get(name, True)] if args.handicaps else []
    plain_sides = {"plain": "nothing"} | {f"without {name}": name for name in removable}
    for number, name in enumerate(removable, 1):
        builds[f"without {name}"] = (PlainStep, *shared, removable[:number])
    with opened(builds) as sides:
        seconds = seconds_in_turn(warmed_up(sides), rounds, "train_step", "seconds_per_step", steps)
        peak_memory = {name: side.call("peak_megabytes") for name, side in sides.items()}
        memory = {name: side.call("activation_megabytes") for name, side in sides.items()}     # holds more than a step

    def ratio(slower: str, faster: str) -> float:
        return median_ratio(seconds[slower], seconds[faster])

    rate = {name: batch_size / statistics.median(values) for name, values in seconds.items()}
    peak = product_peak_gflops(device, args.precision)
    fastest = min(plain_sides, key=lambda name: statistics.median(seconds[name]))
    target, memory_target = TARGETS[device.type]
    if args.handicaps:
        target, memory_target = 1.0, None       # the memory is claimed beside the plain step alone
    memory_ratio = memory[claimed] / memory["plain"]
    is_default_size = args.hidden_dims == DEFAULT_DIMS
    minutes = minutes_of_training(rate[claimed]) if is_default_size and on_gpu else None
    minutes_target = MINUTES_TARGET if minutes and args.compile else None
    needed = 3 * gflop_of_forward(args.hidden_dims)     # a training step does three times the forward pass
    used = needed * rate[claimed]
    for name in builds:
        print(f"{name:>27}: {rate[name]:8.2f} images/s, peak memory {peak_memory[name]:.0f} MB, kept for backward "
              f"{memory[name]:.0f} MB")
    if minutes:
        print(f"{NUM_EPOCHS} epochs of {NUM_IMAGES:,} images at {claimed}'s rate: {minutes:.1f} minutes"
              + f", target {minutes_target:g}" * bool(minutes_target))
    print(json.dumps({
        "benchmark": "train_step", "ratio": round(ratio(fastest, claimed), 3), "target": target,
        "handicaps": [{"removed": removed, "images_per_second": round(rate[name], 3),
                       "ratio": round(ratio(name, claimed), 3)} for name, removed in plain_sides.items()],
        "ratio_uncompiled": round(ratio("plain", "ours"), 3) if args.compile else None,
        "compiled_over_uncompiled": round(ratio("ours", "compiled"), 3) if args.compile else None,
        "memory_ratio": round(memory_ratio, 3), "memory_target": memory_target,
        "minutes_100_epochs": minutes and round(minutes, 2), "minutes_target": minutes_target,
        "ok": (ratio(fastest, claimed) >= target and (memory_target is None or memory_ratio <= memory_target)
               and (minutes_target is None or minutes < minutes_target)),
        "images_per_second": {name: round(value, 3) for name, value in rate.items()},
        "activation_megabytes": {name: round(value, 1) for name, value in memory.items()},
        "peak_megabytes": {name: round(value, 1) for name, value in peak_memory.items()},
        "gflop_per_image": round(needed, 2),
        "gflops_used": round(used, 1), "gflops_peak": round(peak, 1),
        "fraction_of_peak": round(used / peak, 3),
        "convolution_gflops": {name: round(convolution_gflops(device, dtype), 1)
                               for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))},
        "device": devices.describe(device),
        "precision": args.precision, "batch_size": batch_size, "hidden_dims": args.hidden_dims,
        "compile": args.compile, "rounds": rounds}))


if __name__ == "__main__":
    run_script(main)
