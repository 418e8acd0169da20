#!/usr/bin/env python3
"""Training step of this repository against a plain one: images per second, ratio, and memory.

The plain step is what a straightforward implementation does: float32, default memory layout, softmax attention that
stores its matrix, a moving average parameter by parameter, `.item()` in every step, and images decoded one by one
from PNG bytes. Both train LIFT on the same images, in alternation, each in a process of its own: the plain step under
the settings that PyTorch and the C library come with, ours under those of `devices.configure`. With --compile a third
process trains with the compiled model, and its ratio is the one claimed. On a GPU and at default size it is also claimed
that 100 epochs of 15,803 images take less than six minutes, compiled, as `scripts/gpu_run.sh` trains. The last line is
JSON.
"""
import contextlib
import io
import json
import resource
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from scripts.benchmarks.own_process import OwnProcess
from PIL import Image
from scripts.benchmarks.plain_attention import store_attention_matrices
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from lift import checkpoints
from engine import devices
from engine import synthetic_faces
import train_lift
from baseline_model import DEFAULT_HIDDEN_DIMS
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from data import ImageSet
from engine.distributed import Group
from model import LIFTDualTimestepModel
from networks.scales import downsample_to_32
from scheduler import NUM_TIMESTEPS, CosineSteps
from engine.loop import GRADIENT_NORM_MAX, Loop
from lift.tasks import ScaleTask

NUM_EPOCHS, NUM_IMAGES, MINUTES_TARGET = 100, 15_803, 6.0
DEFAULT_DIMS = list(DEFAULT_HIDDEN_DIMS)
TARGETS = {"cpu": (2.5, 0.5), "cuda": (6.0, 0.5)}
# Products whose rate is tried for the machine's best, (m, k, n): large squares, and tall ones that fit a CPU's cache.
PRODUCT_SHAPES = {"cpu": [(2048, 2048, 2048), (4096, 1024, 1024), (16384, 512, 512), (16384, 256, 256)],
                  "cuda": [(4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 8192)]}


class Side:
    """What both steps are asked for; each has `device`, `model` and `step`."""

    def seconds_per_step(self, num_steps: int) -> float:
        return seconds_per_step(self.step, num_steps, self.device)

    def activation_megabytes(self) -> float:
        """Memory that a step's forward pass keeps for backward, without the parameters, each storage counted once."""
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)   # held, so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.step()
        return sum(size for size, _ in kept.values()) / 1e6

    def warm_up(self) -> None:
        """A step that allocates, autotunes and compiles, and counts neither for the time nor for a GPU's peak."""
        self.seconds_per_step(1)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_megabytes(self) -> float:
        """The most memory in use so far: of tensors on a GPU since `warm_up`, of the whole process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class PlainStep(Side):
    """The thing to beat."""

    def __init__(self, hidden_dims, images, batch_size, device, num_threads):
        torch.manual_seed(0)
        torch.set_num_threads(num_threads)
        self.device, self.batch_size = device, batch_size
        self.schedule = CosineSteps()
        self.model = checkpoints.build_model("lift", hidden_dims).to(device)
        store_attention_matrices(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, foreach=False)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.files = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
            self.files.append(buffer.getvalue())

    def forward(self):
        chosen = np.random.randint(len(self.files), size=self.batch_size)
        decoded = [np.asarray(Image.open(io.BytesIO(self.files[k])).convert("RGB")) for k in chosen]
        x_0 = torch.stack([torch.from_numpy(image.transpose(2, 0, 1) / 127.5 - 1).float() for image in decoded])
        x_0_64 = x_0.to(self.device)
        x_0_32 = downsample_to_32(x_0_64)
        t_64, t_32 = torch.randint(NUM_TIMESTEPS, (2, self.batch_size), device=self.device)
        noise_64, noise_32 = torch.randn_like(x_0_64), torch.randn_like(x_0_32)
        eps_64, eps_32 = self.model(self.schedule.add_noise(x_0_64, noise_64, t_64),
                                    self.schedule.add_noise(x_0_32, noise_32, t_32), t_64, t_32)
        return ((eps_64 - noise_64) ** 2).mean() + ((eps_32 - noise_32) ** 2).mean()

    def step(self):
        loss = self.forward()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].mul_(0.9999).add_(parameter, alpha=1 - 0.9999)
        return loss.item()


class OurStep(Side):
    """The step that `train_lift.py` takes, taken by its own trainer."""

    def __init__(self, hidden_dims, images, batch_size, device, num_threads, precision, compile_model):
        devices.configure(device, num_threads, tf32=True)
        args = train_lift.parse_args(["--hidden_dims", *map(str, hidden_dims), "--batch_size", str(batch_size),
                                      "--precision", precision] + ["--compile"] * compile_model)
        task = ScaleTask("lift", args, ImageSet(images, None, "synthetic", "train", ""), None, device)
        self.trainer = Loop(task, args, Group(0, 1), device)
        self.device, self.model = device, task.networks["model"]

    def step(self):
        self.trainer.run_step()
        self.trainer.pending.clear()                        # what a log line would fetch, every fiftieth step


def seconds_per_step(step, num_steps: int, device) -> float:
    """Mean wall time of `num_steps` steps."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / num_steps


def product_peak_gflops(device, precision: str) -> float:
    """Matrix-product rate of the machine at that precision: the best of ten tries of each of PRODUCT_SHAPES."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates = []
    for m, k, n in PRODUCT_SHAPES[device.type]:
        a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
        rates.append(2 * m * k * n / min(seconds_per_step(lambda: a @ b, 5, device) for _ in range(10)) / 1e9)
    return max(rates)


def convolution_gflops(device, dtype: torch.dtype) -> float:
    """Rate of a 3x3 convolution from the middle of the network, 128 channels at 32x32: the best of several."""
    x = torch.randn(16, 128, 32, 32, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = min(seconds_per_step(lambda: F.conv2d(x, weight, padding=1), 5, device) for _ in range(5))
    return 2 * x.numel() * 128 * 9 / seconds / 1e9


def gflop_of_forward(hidden_dims) -> float:
    """Arithmetic of LIFT's forward pass per image: 10^9 multiplications and additions in convolutions and products."""
    # Fake tensors have shapes and no values: nothing is computed.
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        t = torch.zeros(1, dtype=torch.int64)
        LIFTDualTimestepModel(hidden_dims)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32), t, t)
    return counted.get_total_flops() / 1e9


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
    add_device_options(parser)
    args = parser.parse_args()
    device = start_device(args, tf32=True)
    on_gpu = device.type == "cuda"
    batch_size = args.batch_size or (64 if on_gpu else 16)
    rounds, steps = args.rounds or (10 if on_gpu else 3), args.steps or (20 if on_gpu else 1)

    shared = (args.hidden_dims, synthetic_faces.draw_images(range(256)), batch_size, device, torch.get_num_threads())
    builds = {"plain": (PlainStep, *shared), "ours": (OurStep, *shared, args.precision, False)}
    if args.compile:
        builds["compiled"] = (OurStep, *shared, args.precision, True)
    claimed = list(builds)[-1]
    seconds = {name: [] for name in builds}
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(OwnProcess(*build)) for name, build in builds.items()}
        for side in sides.values():
            side.call("warm_up")
        for _ in tqdm(range(rounds), unit="round", desc="train_step"):
            for name, side in sides.items():
                seconds[name].append(side.call("seconds_per_step", steps))
        peak_memory = {name: side.call("peak_megabytes") for name, side in sides.items()}
        memory = {name: side.call("activation_megabytes") for name, side in sides.items()}     # holds more than a step

    def ratio(slower: str, faster: str) -> float:
        """Median over the rounds of one side's time over another's."""
        return statistics.median(s / f for s, f in zip(seconds[slower], seconds[faster]))

    rate = {name: batch_size / statistics.median(values) for name, values in seconds.items()}
    peak = product_peak_gflops(device, args.precision)
    target, memory_target = TARGETS[device.type]
    memory_ratio = memory[claimed] / memory["plain"]
    is_default_size = args.hidden_dims == DEFAULT_DIMS
    minutes = minutes_of_training(rate[claimed]) if is_default_size and on_gpu else None
    minutes_target = MINUTES_TARGET if minutes and args.compile else None
    needed = 3 * gflop_of_forward(args.hidden_dims)     # a training step does three times the forward pass
    used = needed * rate[claimed]
    for name in builds:
        print(f"{name:>8}: {rate[name]:8.2f} images/s, peak memory {peak_memory[name]:.0f} MB, kept for backward "
              f"{memory[name]:.0f} MB")
    if minutes:
        print(f"{NUM_EPOCHS} epochs of {NUM_IMAGES:,} images at {claimed}'s rate: {minutes:.1f} minutes"
              + f", target {minutes_target:g}" * bool(minutes_target))
    print(json.dumps({
        "benchmark": "train_step", "ratio": round(ratio("plain", claimed), 3), "target": target,
        "ratio_uncompiled": round(ratio("plain", "ours"), 3) if args.compile else None,
        "compiled_over_uncompiled": round(ratio("ours", "compiled"), 3) if args.compile else None,
        "memory_ratio": round(memory_ratio, 3), "memory_target": memory_target,
        "minutes_100_epochs": minutes and round(minutes, 2), "minutes_target": minutes_target,
        "ok": (ratio("plain", claimed) >= target and memory_ratio <= memory_target
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
