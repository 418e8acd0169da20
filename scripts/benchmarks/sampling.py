#!/usr/bin/env python3
"""Generation, from noise to what Inception is fed: sampling.generate against a plain loop.

The plain loop: float32, default memory layout, attention that stores its matrix, start noise and steps the same, every
image written as a PNG file and read back. Ours: the precision chosen, channels-last, fused attention, uint8 images that
stay on the device. Measured in alternation, each in a process of its own: the plain loop under the settings that
PyTorch and the C library come with, ours under those of `devices.configure`. With --compile a third process generates
with the compiled model, and its ratio is the one claimed. The last line is JSON: ratio (our images per second over
theirs, medians), target, ok.
"""
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scripts.benchmarks.own_process import OwnProcess
from PIL import Image
from scripts.benchmarks.plain_attention import store_attention_matrices

from lift import checkpoints
from engine import devices
from baseline_model import DEFAULT_HIDDEN_DIMS
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.errors import InputError
from engine.sampling import start_noise, to_uint8
from lift.coupling import NOISIEST_SHAPES
from lift.sampling import generate, uniform_diagonal
from scheduler import CLEAN, CosineSteps, ddim_step
from networks.unet import compiled

TARGETS = {"cpu": 3.0, "cuda": 5.0}
MOST_GREY_LEVELS = 1.0                  # mean difference of the images; more, and it is not the same work


def random_model(model_type: str, hidden_dims: list[int], seed: int):
    """A model whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    return checkpoints.build_model(model_type, hidden_dims).eval()


@torch.no_grad()
def plain_images(model, path, seed: int, indices, folder: Path, device) -> torch.Tensor:
    """The same images as `generate`, by way of PNG files -> what Inception is fed, float32 [B, 3, 64, 64]."""
    schedule = CosineSteps()
    xs = [x.to(device) for x in start_noise(NOISIEST_SHAPES, seed, indices)][:1 + (model.model_type == "lift")]
    for step in range(len(path) - 1):
        ts = [torch.full((len(indices),), int(path[step, s]), device=device) for s in range(len(xs))]
        predictions = model(*xs, *ts)
        for s, eps in enumerate(predictions if len(xs) == 2 else [predictions]):
            if path[step, s] != path[step + 1, s]:
                arrival = int(path[step + 1, s]) or CLEAN
                xs[s] = ddim_step(xs[s], eps, schedule.alpha_cumprod(ts[s]),
                                  schedule.alpha_cumprod(torch.full_like(ts[s], arrival)))
    for index, image in zip(indices, to_uint8(xs[0]).permute(0, 2, 3, 1).cpu().numpy()):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    read_back = [np.asarray(Image.open(folder / f"{index:05d}.png").convert("RGB")) for index in indices]
    return torch.from_numpy(np.stack(read_back)).permute(0, 3, 1, 2).to(device).float() / 255


class Side:
    """What both loops are asked for; each has `device` and `images`."""

    def images_per_second(self, batches) -> float:
        """Rate at which the batches of image numbers are made; keeps what was made."""
        start = time.perf_counter()
        self.made = [self.images(indices) for indices in batches]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return sum(map(len, batches)) / (time.perf_counter() - start)

    def last_images(self) -> np.ndarray:
        """What the last measurement made: float32 [N, 3, 64, 64] in 0...1."""
        return torch.cat(self.made).cpu().numpy()


class PlainLoop(Side):
    """The thing to beat."""

    def __init__(self, model_type, hidden_dims, path, seed, device, num_threads):
        torch.set_num_threads(num_threads)
        self.device, self.path, self.seed = device, path, seed
        self.model = store_attention_matrices(random_model(model_type, hidden_dims, seed)).to(device)
        self.folder = tempfile.TemporaryDirectory()

    def images(self, indices) -> torch.Tensor:
        return plain_images(self.model, self.path, self.seed, indices, Path(self.folder.name), self.device)


class OurLoop(Side):
    """Generation as `generation.generate_uint8` does it."""

    def __init__(self, model_type, hidden_dims, path, seed, device, num_threads, precision, compile_model):
        devices.configure(device, num_threads)
        self.device, self.path, self.seed, self.precision = device, path, seed, precision
        model = random_model(model_type, hidden_dims, seed).to(device, memory_format=torch.channels_last)
        self.model = compiled(model) if compile_model else model

    def images(self, indices) -> torch.Tensor:
        made = generate(self.model, self.path, self.seed, indices, precision=self.precision)
        return to_uint8(made.x_64).float() / 255


def main():
    parser = Parser(__doc__)
    parser.add_argument("--model_type", choices=list(checkpoints.MODELS), default="lift", help="which model")
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
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(OwnProcess(*build)) for name, build in builds.items()}
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
