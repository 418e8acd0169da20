#!/usr/bin/env python3
"""An iteration of distillation against one of the published structure: iterations per second, ratio, memory.

The published structure: float32, the critic's denoising, its logits of generated and of real images in passes of their
own, the gradient clipped and the weights moved parameter by parameter, `.item()` in every update. Both distil the same
teacher on the same images, with five updates of the critic for one of the student, in alternation, each in a process
of its own; ours is the iteration of `python -m distill.train`, as it is and with --shared_critic_pass, whose ratio is
the one claimed. The last line is JSON.
"""
import contextlib
import copy
import json
import statistics

import torch
from tqdm import tqdm

from baseline_model import BaselineModel
from distill import losses, options
from distill.few_steps import level_range
from distill.task import DistillationTask, critic_of
from engine import devices
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.denoiser import NetworkDenoiser
from engine.distributed import Group
from engine.loop import Loop
from engine.sampling import from_uint8
from scheduler import CosineSteps, clean_image, noise_added
from scripts.benchmarks.own_process import OwnProcess
from scripts.benchmarks.train_step import Side

RATIO = 5                                               # updates of the critic for one of the student
TARGET, MEMORY_TARGET = 1.3, 1.0
START = 399                                             # where one step of a noise prediction is called
NUM_LEVELS = 1000


def teacher_of(hidden_dims) -> BaselineModel:
    """A baseline at random weights: an iteration takes as long with any others."""
    torch.manual_seed(0)
    return BaselineModel(hidden_dims)


def random_images() -> torch.Tensor:
    """64 images of noise."""
    return torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class PublishedStep(Side):
    """The thing to beat: one iteration is five updates of the critic, one of them after the student's."""

    def __init__(self, hidden_dims, batch_size: int, device, num_threads: int):
        torch.set_num_threads(num_threads)
        self.device, self.batch_size, self.process = device, batch_size, CosineSteps()
        self.teacher = teacher_of(hidden_dims).to(device).requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True)
        self.model = critic_of(self.teacher, 64, 1, head=True).to(device).requires_grad_(True)
        self.optimizers = {network: torch.optim.AdamW(network.parameters(), lr=2e-6, weight_decay=0.01, foreach=False)
                           for network in (self.student, self.model)}
        self.images = from_uint8(random_images()).to(device)

    def noised(self, x, first: int = 0, last: int = NUM_LEVELS - 1):
        """x at levels drawn uniformly, its noise and its levels."""
        t = torch.randint(first, last + 1, (len(x),), device=self.device)
        noise = torch.randn_like(x)
        return noise_added(x, noise, *self.process.levels(t)), noise, t

    def generated(self) -> torch.Tensor:
        """The student's images of fresh noise."""
        x_t = torch.randn(self.batch_size, 3, 64, 64, device=self.device)
        t = torch.full((self.batch_size,), START, device=self.device)
        return clean_image("eps", self.student(x_t, t), x_t, *self.process.levels(t))

    def logits(self, x):
        """The head's, of x noised anew; the critic runs up to its bottleneck."""
        x_t, _, t = self.noised(x)
        return self.model(x_t, t, output=False)[1]

    def minimise(self, network, loss) -> float:
        self.optimizers[network].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0, foreach=False)
        self.optimizers[network].step()
        return loss.item()

    def student_update(self) -> torch.Tensor:
        self.model.requires_grad_(False)
        x = self.generated()
        with torch.no_grad():
            x_t, _, t = self.noised(x, *level_range())
            fake, real = (clean_image("eps", output, x_t, *self.process.levels(t))
                          for output in (self.model(x_t, t, logits=False)[0], self.teacher(x_t, t)))
            gradient = losses.matching_gradient(x, fake, real)
        loss = losses.matching_loss(x, gradient) + 3e-3 * losses.gan_student_loss(self.logits(x))
        self.minimise(self.student, loss)
        self.model.requires_grad_(True)
        return x.detach()

    def critic_update(self, x) -> None:
        x_t, noise, t = self.noised(x)
        loss = losses.denoising_loss(self.model(x_t, t, logits=False)[0], noise)
        chosen = torch.randint(len(self.images), (self.batch_size,), device=self.device)
        loss = loss + 1e-2 * losses.gan_critic_loss(self.logits(x), self.logits(self.images[chosen]))
        self.minimise(self.model, loss)

    def step(self) -> None:
        for update in range(RATIO):
            if update == 0:
                x = self.student_update()
            else:
                with torch.no_grad():
                    x = self.generated()
            self.critic_update(x)


class OurStep(Side):
    """The same number of updates by the trainer of `python -m distill.train`."""

    def __init__(self, hidden_dims, batch_size: int, device, num_threads: int, precision: str, *more: str):
        devices.configure(device, num_threads, tf32=True)
        args = options.parse(["--teacher", "none", "--batch_size", str(batch_size), "--dfake_gen_update_ratio",
                              str(RATIO), "--cls_on_clean_image", "--gen_cls_loss", "--precision", precision, *more])
        teacher = NetworkDenoiser(teacher_of(hidden_dims).to(device), CosineSteps(), "eps", (3, 64, 64))
        task = DistillationTask(teacher, random_images().to(device), None, args, device=device)
        self.trainer = Loop(task, args, Group(0, 1), device)
        self.device, self.model = device, task.networks["critic"]

    def step(self) -> None:
        for _ in range(RATIO):
            self.trainer.run_step()
        self.trainer.pending.clear()                    # what a log line would fetch


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--hidden_dims", type=whole_number(8), nargs="+", default=None,
                        help="of the teacher; left out: 32 64 128 256 on a CPU, 64 128 256 512 on a GPU")
    parser.add_argument("--batch_size", type=whole_number(1), default=None, help="images; 4 on a CPU, 64 on a GPU")
    parser.add_argument("--rounds", type=whole_number(1), default=None, help="alternations; 5 on a CPU, 10 on a GPU")
    add_device_options(parser, precision="float32")
    args = parser.parse_args()
    device = start_device(args, tf32=True)
    on_gpu = device.type == "cuda"
    rounds, batch_size = args.rounds or (10 if on_gpu else 5), args.batch_size or (64 if on_gpu else 4)
    hidden_dims = args.hidden_dims or [(64 if on_gpu else 32) * factor for factor in (1, 2, 4, 8)]
    shared = (hidden_dims, batch_size, device, torch.get_num_threads())
    builds = {"published": (PublishedStep, *shared), "ours": (OurStep, *shared, args.precision),
              "shared_pass": (OurStep, *shared, args.precision, "--shared_critic_pass")}
    seconds = {name: [] for name in builds}
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(OwnProcess(*build)) for name, build in builds.items()}
        for side in sides.values():
            side.call("warm_up")
        for _ in tqdm(range(rounds), unit="round", desc="distill_step"):
            for name, side in sides.items():
                seconds[name].append(side.call("seconds_per_step", 1) / RATIO)
        peak_memory = {name: side.call("peak_megabytes") for name, side in sides.items()}

    def ratio(name: str) -> float:
        """Median over the rounds of the published time over another's."""
        return statistics.median(published / ours for published, ours in zip(seconds["published"], seconds[name]))

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
