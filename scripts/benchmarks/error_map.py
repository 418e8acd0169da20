"""Seconds for an error map at equal standard error: the plain loop over cells and probes against error_map.py.

The plain loop is the documented procedure: cell by cell, one torch.func.jvp per probe and scale, float32, a batch of
images per cell. error_map.py may divide its draws between images and probes as it likes. Both run on the same cells of
the same randomly initialised model, in alternation; seconds are scaled to equal squared standard error, cell by cell
and scale by scale. The ratio with the same images and probes on both sides is reported too.
"""
import copy
import json
import time
from pathlib import Path

from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from networks.presets import DEFAULT_HIDDEN_DIMS

MOST_DIFFERENCE = 0.1                   # of a cell, with the same draws, bf16 included; more, and it is other work


def parse_args():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--hidden_dims", type=whole_number(8), nargs="+", default=None,
                        help="channels per level; left out: 16 32 64 128 on a CPU, 64 128 256 512 on a GPU")
    parser.add_argument("--checkpoint", type=Path, default=None, metavar="FILE",
                        help="a LIFT checkpoint in place of random weights")
    parser.add_argument("--num_cells", type=whole_number(1), default=4, help="cells of the 30x30 grid, evenly picked")
    parser.add_argument("--K", type=whole_number(1), default=4, help="probes per image and scale in the plain loop")
    parser.add_argument("--batch_size", type=whole_number(2), default=16, help="images per cell in the plain loop")
    parser.add_argument("--fast_K", type=whole_number(1), default=1, help="probes per image and scale in error_map.py")
    parser.add_argument("--fast_images", type=whole_number(2), default=32, help="images per cell in error_map.py")
    parser.add_argument("--repeats", type=whole_number(1), default=3, help="alternations; the median counts")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of weights, images and probes")
    add_device_options(parser)
    parser.set_defaults(num_threads=2)
    return parser.parse_args()


def main():
    args = parse_args()
    import numpy as np
    import torch
    from engine import synthetic_faces
    from lift import error_map, paths
    from lift.checkpoints import load_model
    from lift.error_map import BLOCKS
    from model import LIFTDualTimestepModel
    from scripts.benchmarks.plain_error_map import plain_loop, squared_standard_error
    device = start_device(args, tf32=True)      # for the plain side; ours is exact in float32 and fastest in bf16
    dims = args.hidden_dims or (DEFAULT_HIDDEN_DIMS if device.type == "cuda" else [16, 32, 64, 128])
    torch.manual_seed(args.seed)
    if args.checkpoint:
        model = load_model(args.checkpoint, "lift", "ema", device).model
        dims = model.hidden_dims
    else:
        model = LIFTDualTimestepModel(dims).to(device).requires_grad_(False).eval()
    plain_model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    timesteps = paths.timestep_grid(30)
    picks = np.linspace(0, 899, args.num_cells + 2).astype(int)[1:-1]
    cells = [(int(p) // 30, (int(p) * 7) % 30) for p in picks]
    images = synthetic_faces.draw_images(range(max(args.batch_size, args.fast_images)))

    def clock(call):
        start = time.perf_counter()
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, result

    def run_plain(chosen=cells, count=args.batch_size):
        return plain_loop(plain_model, images, timesteps, chosen, args.K, count, args.seed, device)

    def run_fast(K, count, chosen=cells):
        result = error_map.estimate(model, images, timesteps, K=K, batch_size=count, seed=args.seed, cells=chosen,
                                    precision=args.precision)
        own = [BLOCKS.index("64<-64"), BLOCKS.index("32<-32")]
        i, j = np.transpose(chosen)
        return result["frobenius"].numpy()[0][own][:, i, j]

    run_plain(cells[:1], 2)                 # warm-up of both: the first derivative of a process takes seconds to set up
    run_fast(args.K, args.batch_size, cells[:1])
    rows = []
    for repeat in range(args.repeats):
        seconds_plain, plain = clock(run_plain)
        seconds_same, same = clock(lambda: run_fast(args.K, args.batch_size))
        seconds_fast, fast = clock(lambda: run_fast(args.fast_K, args.fast_images))
        # Seconds scale as 1 / SE^2: the geometric mean over cells and scales of how much more the fast side would need.
        excess = float(np.exp(np.mean(np.log(squared_standard_error(fast) / squared_standard_error(plain)))))
        rows.append({"seconds_plain": seconds_plain, "seconds_same_draws": seconds_same, "seconds_fast": seconds_fast,
                     "squared_error_fast_over_plain": excess, "ratio_same_draws": seconds_plain / seconds_same,
                     "ratio": seconds_plain / (seconds_fast * excess)})
        print(", ".join(f"{key} {value:.3g}" for key, value in rows[-1].items()), flush=True)
    difference = float(np.max(np.abs(same.mean(-1) / plain.mean(-1) - 1)))
    figures = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
    target = 15 if device.type == "cuda" else 6
    print(json.dumps({
        **figures, "target": target, "ok": figures["ratio"] >= target and difference <= MOST_DIFFERENCE,
        "largest_relative_difference": difference,
        "hidden_dims": list(dims), "precision": args.precision, "device": str(device),
        "num_threads": torch.get_num_threads(), "num_cells": len(cells), "K": args.K, "batch_size": args.batch_size,
        "fast_K": args.fast_K, "fast_images": args.fast_images}))


if __name__ == "__main__":
    run_script(main)
