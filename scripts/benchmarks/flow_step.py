#!/usr/bin/env python3
"""Training step of the flow family against a plain DiT step: images per second, ratio, share of the product peak.

The plain step is what a straightforward implementation does: float32, attention that stores its matrix, every norm and
modulation an operation of its own, an AdamW that is not fused, a moving average parameter by parameter, `.item()` in
every step. Both train the same DiT on the same images, in alternation, each in a process of its own. Ours is the step
of `python -m flow.train`; with --compile a third process trains it compiled, and its ratio is the one claimed. With
--sampling guided sampling is timed too: both halves in one batch against a loop of two calls. The last line is JSON.
"""
import contextlib
import json
import statistics

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import ImageSet
from engine import devices
from engine.command_line import Parser, add_device_options, real_number, run_script, start_device, whole_number
from engine.denoiser import Guided
from engine.distributed import Group
from engine.sampling import sample
from flow.model import denoiser_of
from flow.train import loop_of, parse_args
from networks.dit import DiT, PRESETS
from scheduler import LinearFlow
from scripts.benchmarks.own_process import OwnProcess
from scripts.benchmarks.plain_attention import plain_dit
from scripts.benchmarks.train_step import Side, product_peak_gflops, seconds_per_step

NUM_CLASSES = 10
# (device, precision, compiled) -> least ratio; the eager CPU step is at two thirds of the product peak already.
TARGETS = {("cpu", "float32", True): 1.05, ("cpu", "float32", False): 0.98, ("cpu", "bf16", True): 2.0,
           ("cpu", "bf16", False): 2.0, ("cuda", "bf16", True): 3.0}
PEAK_TARGETS = {("cpu", "float32"): 0.6, ("cuda", "bf16"): 0.4}
SAMPLING_TARGET = 1.5                                       # on a GPU


def random_images(image_size: int, channels: int) -> ImageSet:
    """256 images of noise with labels; a step takes as long as on any others."""
    images = np.random.RandomState(0).randint(0, 256, (256, channels, image_size, image_size), dtype=np.uint8)
    return ImageSet(images, np.arange(256) % NUM_CLASSES, "noise", "train", "")


class PlainStep(Side):
    """The thing to beat."""

    def __init__(self, sizes: dict, batch_size: int, device, num_threads: int):
        torch.manual_seed(0)
        torch.set_num_threads(num_threads)
        self.device, self.batch_size = device, batch_size
        self.model = plain_dit(DiT(**sizes)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0,
                                           foreach=False)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.images = random_images(sizes["image_size"], sizes["channels"])

    def step(self) -> float:
        chosen = np.random.randint(len(self.images), size=self.batch_size)
        x_0 = torch.from_numpy(self.images.images[chosen] / 127.5 - 1).float().to(self.device)
        labels = torch.from_numpy(self.images.labels[chosen]).to(self.device)
        labels = torch.where(torch.rand(self.batch_size, device=self.device) < 0.1, NUM_CLASSES, labels)
        t, eps = torch.randn(self.batch_size, device=self.device).sigmoid(), torch.randn_like(x_0)
        share = t.reshape(-1, 1, 1, 1)
        loss = ((self.model(share * x_0 + (1 - share) * eps, t, labels) - (x_0 - eps)) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].mul_(0.9999).add_(parameter, alpha=1 - 0.9999)
        return loss.item()


class OurStep(Side):
    """The step that `python -m flow.train` takes, taken by its own loop."""

    def __init__(self, sizes: dict, batch_size: int, device, num_threads: int, precision: str, compile_model: bool):
        devices.configure(device, num_threads, tf32=True)
        flags = [word for name in ("hidden_size", "depth", "num_heads", "patch_size", "mlp_ratio", "image_size")
                 for word in (f"--{name}", str(sizes[name]))]
        args = parse_args(["--dataset", "noise", "--batch_size", str(batch_size), "--precision", precision, *flags]
                          + ["--compile"] * compile_model)
        self.loop = loop_of(args, random_images(sizes["image_size"], sizes["channels"]), Group(0, 1), device)
        self.device, self.model = device, self.loop.task.networks["model"]

    def step(self) -> None:
        self.loop.run_step()
        self.loop.pending.clear()                           # what a log line would fetch, every fiftieth step


class TwoCalls(Guided):
    """Guidance by one call for the labels and one for the null class."""

    def clean(self, xs, ts, labels=None):
        [conditional] = self.denoiser.clean(xs, ts, labels)
        [unconditional] = self.denoiser.clean(xs, ts)
        return [unconditional + self.scale * (conditional - unconditional)]


class Sampling(Side):
    """Euler steps with guidance 4; both ways in one process, since only the batch differs."""

    def __init__(self, sizes: dict, batch_size: int, device, num_threads: int, precision: str):
        devices.configure(device, num_threads, tf32=True)
        self.device, self.batch_size, self.precision = device, batch_size, precision
        self.denoiser = denoiser_of(DiT(**sizes).to(device).eval())
        self.labels = torch.arange(batch_size, device=device) % NUM_CLASSES

    def seconds(self, kind, num_steps: int) -> float:
        path = LinearFlow().uniform_path(num_steps)[:, None]
        draw = lambda: sample(kind(self.denoiser, 4.0), path, 0, range(self.batch_size), labels=self.labels, clip=False,
                              precision=self.precision)
        return seconds_per_step(draw, 1, self.device) / num_steps

    def one_batch(self, num_steps: int) -> float:
        return self.seconds(Guided, num_steps)

    def two_calls(self, num_steps: int) -> float:
        return self.seconds(TwoCalls, num_steps)


def gflop_of_forward(sizes: dict) -> float:
    """Arithmetic of a forward pass per image: 10^9 multiplications and additions in convolutions and products."""
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        x = torch.zeros(1, sizes["channels"], sizes["image_size"], sizes["image_size"])
        DiT(**sizes)(x, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    return counted.get_total_flops() / 1e9


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default=None, help="instead of hidden 384, depth 6, patch 4")
    parser.add_argument("--image_size", type=whole_number(1), default=32, help="side of images or latents")
    parser.add_argument("--channels", type=whole_number(1), default=3, help="3 pixels, 4 latents")
    parser.add_argument("--patch_size", type=whole_number(1), default=None, help="left out: the preset's, or 4")
    parser.add_argument("--batch_size", type=whole_number(1), default=32, help="images per step")
    parser.add_argument("--rounds", type=whole_number(1), default=None, help="alternations; 5 on a CPU, 10 on a GPU")
    parser.add_argument("--steps", type=whole_number(1), default=None, help="steps a turn; 2 on a CPU, 20 on a GPU")
    parser.add_argument("--compile", action="store_true", help="a third side, whose ratio is claimed: ours compiled")
    parser.add_argument("--sampling", action="store_true", help="time guided sampling too")
    parser.add_argument("--peak_gflops", type=real_number(0, open_below=True), default=None,
                        help="the device's product peak; left out: measured")
    add_device_options(parser, precision="float32")
    args = parser.parse_args()
    device = start_device(args, tf32=True)
    on_gpu = device.type == "cuda"
    rounds, steps = args.rounds or (10 if on_gpu else 5), args.steps or (20 if on_gpu else 2)
    sizes = PRESETS[args.preset] if args.preset else dict(hidden_size=384, depth=6, num_heads=6, mlp_ratio=4,
                                                          patch_size=4)
    sizes = sizes | dict(image_size=args.image_size, channels=args.channels, num_classes=NUM_CLASSES)
    sizes |= {"patch_size": args.patch_size} if args.patch_size else {}

    shared = (sizes, args.batch_size, device, torch.get_num_threads())
    builds = {"plain": (PlainStep, *shared), "ours": (OurStep, *shared, args.precision, False)}
    if args.compile:
        builds["compiled"] = (OurStep, *shared, args.precision, True)
    claimed = list(builds)[-1]
    seconds = {name: [] for name in builds}
    sampling = {"one_batch": [], "two_calls": []}
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(OwnProcess(*build)) for name, build in builds.items()}
        for side in sides.values():
            side.call("warm_up")
        for _ in tqdm(range(rounds), unit="round", desc="flow_step"):
            for name, side in sides.items():
                seconds[name].append(side.call("seconds_per_step", steps))
        peak_memory = {name: side.call("peak_megabytes") for name, side in sides.items()}
    if args.sampling:
        with OwnProcess(Sampling, *shared, args.precision) as side:
            for way in sampling:
                side.call(way, 2)
            for _ in range(rounds):
                for way in sampling:
                    sampling[way].append(side.call(way, steps))

    def ratio(slower: list, faster: list) -> float:
        """Median over the rounds of one side's time over another's."""
        return statistics.median(s / f for s, f in zip(slower, faster))

    rate = {name: args.batch_size / statistics.median(values) for name, values in seconds.items()}
    peak = args.peak_gflops or product_peak_gflops(device, args.precision)
    used = 3 * gflop_of_forward(sizes) * rate[claimed]      # a training step does three times the forward pass
    target = TARGETS.get((device.type, args.precision, args.compile))
    peak_target = PEAK_TARGETS.get((device.type, args.precision))
    claimed_ratio = ratio(seconds["plain"], seconds[claimed])
    sampling_ratio = ratio(sampling["two_calls"], sampling["one_batch"]) if args.sampling else None
    for name in builds:
        print(f"{name:>8}: {rate[name]:8.2f} images/s, peak memory {peak_memory[name]:.0f} MB")
    print(json.dumps({
        "benchmark": "flow_step", "ratio": round(claimed_ratio, 3), "target": target,
        "ratio_uncompiled": round(ratio(seconds["plain"], seconds["ours"]), 3),
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
