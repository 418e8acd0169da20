#!/usr/bin/env python3
"""An iteration of distillation against one of the published structure: iterations per second, ratio, memory.

The published structure works in float32. The critic's denoising, its logits of generated images and its logits of real
images are passes of their own. The gradient is clipped and the weights are moved parameter by parameter, and every
update calls `.item()`. Both sides distil the same teacher on the same images, with five updates of the critic for one
of the student, in alternation, each in a process of its own. Ours is the iteration of `python -m distill.train`, as it
is and with --shared_critic_pass; the claimed ratio is that of the latter. The last line is JSON.
"""
import json
import statistics

from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number

RATIO = 5                                               # updates of the critic for one of the student
TARGET, MEMORY_TARGET = 1.3, 1.0


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--hidden_dims", type=whole_number(8), nargs="+", default=None,
                        help="of the teacher; left out: 16 32 64 128 on a CPU, 64 128 256 512 on a GPU")
    parser.add_argument("--batch_size", type=whole_number(1), default=None, help="images; 4 on a CPU, 64 on a GPU")
    parser.add_argument("--rounds", type=whole_number(1), default=None, help="alternations; 3 on a CPU, 10 on a GPU")
    add_device_options(parser, precision="float32")
    args = parser.parse_args()
    import torch
    from engine import devices
    from scripts.benchmarks.distill_sides import OurStep, PublishedStep
    from scripts.benchmarks.own_process import median_ratio, opened, seconds_in_turn, warmed_up
    device = start_device(args, tf32=True)
    on_gpu = device.type == "cuda"
    rounds, batch_size = args.rounds or (10 if on_gpu else 3), args.batch_size or (64 if on_gpu else 4)
    hidden_dims = args.hidden_dims or [(64 if on_gpu else 16) * factor for factor in (1, 2, 4, 8)]
    shared = (hidden_dims, batch_size, device, torch.get_num_threads())
    builds = {"published": (PublishedStep, *shared), "ours": (OurStep, *shared, args.precision),
              "shared_pass": (OurStep, *shared, args.precision, "--shared_critic_pass")}
    with opened(builds) as sides:
        of_cycles = seconds_in_turn(warmed_up(sides), rounds, "distill_step", "seconds_per_step", 1)
        peak_memory = {name: side.call("peak_megabytes") for name, side in sides.items()}

    seconds = {name: [cycle / RATIO for cycle in cycles] for name, cycles in of_cycles.items()}

    def ratio(name: str) -> float:
        return median_ratio(seconds["published"], seconds[name])

    memory_ratio = peak_memory["shared_pass"] / peak_memory["published"]
    for name in builds:
        print(f"{name:>11}: {statistics.median(seconds[name]):.3f} s an iteration, peak memory "
              f"{peak_memory[name]:.0f} MB")
    print(json.dumps({
        "benchmark": "distill_step", "ratio": round(ratio("shared_pass"), 3), "target": TARGET,
        "ratio_own_passes": round(ratio("ours"), 3), "memory_ratio": round(memory_ratio, 3),
        "memory_target": MEMORY_TARGET, "ok": ratio("shared_pass") >= TARGET and memory_ratio <= MEMORY_TARGET,
        "seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "peak_megabytes": {name: round(value, 1) for name, value in peak_memory.items()},
        "device": devices.describe(device), "precision": args.precision, "batch_size": batch_size,
        "hidden_dims": hidden_dims, "update_ratio": RATIO, "rounds": rounds}))


if __name__ == "__main__":
    run_script(main)
