"""A test bed of two scales whose law is known: 4x4 images and their 2x2 means, the exact teacher, and the task itself.

Five Gaussians, as in `lift.exact_mixture`. Student and critic are networks of three layers of 64 that start from a
trained denoiser; what trains them is `distill.task` by the engine's loop, so that what holds here holds for that code.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from distill import options
from distill.few_steps import noised_to
from distill.known_truth import FREQUENCIES, RATE, WIDTH, cosine_share, sines_of_times
from distill.student import StudentDenoiser, path_of
from distill.task import DistillationTask
from engine.denoiser import Denoiser, OutputDenoiser
from engine.distributed import Group
from engine.loop import Loop
from engine.sampling import sample
from lift.exact_mixture import distance_to_truth, narrowest_variance, random_mixture
from networks.scales import downsample_to_32
from scheduler import NUM_TIMESTEPS, CosineSteps, training_target

SIDE, NUM_COMPONENTS = 4, 5
NUM_SCORED = 10_000
DENOISER_ITERATIONS = 3000


class ScaleNetwork(nn.Module):
    """v of images [B, 1, 4, 4] and, with two scales, of their means [B, 1, 2, 2]: three layers, each told the times."""

    def __init__(self, num_scales: int):
        super().__init__()
        self.sizes = [SIDE >> scale for scale in range(num_scales)]
        pixels = sum(size**2 for size in self.sizes)
        self.time = nn.Linear(num_scales * (1 + 2 * FREQUENCIES), WIDTH)
        self.inner = nn.ModuleList(nn.Linear(inputs, WIDTH) for inputs in (pixels, WIDTH, WIDTH))
        self.of_time = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in self.inner)
        self.features, self.last = nn.Identity(), nn.Linear(WIDTH, pixels)

    def critic_parts(self) -> dict:
        """Where a critic's head looks and where it is told the step."""
        return {"bottleneck": "features", "channels": WIDTH, "size": 1, "time_embedding": "time",
                "embedding_width": WIDTH}

    def forward(self, *inputs):
        """An image per scale, then timesteps [B] per scale -> v per scale, a tensor where there is one."""
        xs, ts = inputs[:len(self.sizes)], inputs[len(self.sizes):]
        u = torch.stack([t.float() / NUM_TIMESTEPS for t in ts], dim=1)                     # [B, scales]
        embedding = F.silu(self.time(sines_of_times(u)))
        h = torch.cat([x.flatten(1) for x in xs], dim=1)
        for layer, of_time in zip(self.inner, self.of_time):
            h = F.silu(layer(h) + of_time(embedding))
        outputs = self.last(self.features(h[:, :, None, None]).flatten(1))
        outputs = outputs.split([size**2 for size in self.sizes], dim=1)
        outputs = [output.reshape(-1, 1, size, size) for output, size in zip(outputs, self.sizes)]
        return outputs if len(outputs) > 1 else outputs[0]


class ExactTeacher(OutputDenoiser):
    """The posterior mean of the mixture given the noised images; `network` is what students start from."""

    kind = "v"

    def __init__(self, num_scales: int, seed: int):
        torch.manual_seed(seed)
        self.mixture, self.network = random_mixture(0, NUM_COMPONENTS, size=SIDE), ScaleNetwork(num_scales)
        self.shapes = [(1, size, size) for size in self.network.sizes]
        self.process = CosineSteps()
        self.processes = [self.process] * num_scales

    def outputs(self, network, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `OutputDenoiser`."""
        found = network(*xs, *ts)
        return found if len(xs) > 1 else [found]

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        self.num_evaluations += len(xs[0])
        snr = [self.process.log_snr_at(t).exp() for t in ts]                                # [B] each, float64
        views = [(x.flatten(1).double() / self.process.levels(t, torch.float64)[0][:, None])[:, None]
                 for x, t in zip(xs, ts)]
        second = views[1] if len(views) > 1 else None
        x_0 = self.mixture.denoise(views[0], second, snr[0], snr[1] if len(snr) > 1 else torch.zeros_like(snr[0]))
        x_0 = self.mixture.to_images(x_0[:, 0]).float()
        return [x_0, downsample_to_32(x_0)][:len(xs)]

    def train_network(self, seed: int, iterations: int, batch: int = 256) -> None:
        """The start of student and critic: a denoiser, each scale at a time of its own."""
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE)
        for iteration in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = RATE * cosine_share(iteration, iterations)
            x_0 = self.mixture.sample(batch, generator).float()
            x_0s = [x_0, downsample_to_32(x_0)][:len(self.shapes)]
            ts = [torch.randint(NUM_TIMESTEPS, (batch,), generator=generator) for _ in x_0s]
            noises = [torch.randn(x.shape, generator=generator) for x in x_0s]
            levels = [self.process.levels(t) for t in ts]
            xs = noised_to(levels, x_0s, noises)
            outputs = self.outputs(self.network, xs, ts)
            loss = sum((output - training_target("v", x, noise, *level)).square().mean()
                       for output, x, noise, level in zip(outputs, x_0s, noises, levels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class KnownScaleTask(DistillationTask):
    """Distillation of the exact teacher; rates fall along a cosine."""

    def learning_rate(self, name: str, step: int, num_steps: int, num_updates: int) -> float:
        """From full to 5 % over the run."""
        return self.rate_of(name) * cosine_share(step, num_steps)


def distil(num_scales: int, seed: int, iterations: int, given=(),
           denoiser_iterations: int = DENOISER_ITERATIONS) -> dict:
    """Train a student and measure it: the whitened distance of its images to the truth, raw and averaged weights; of
    averaged weights also `narrowest`, the smallest share of the true variance in any direction, and how far its two
    scales disagree (root of the mean square). given: options of `distill.train`."""
    teacher = ExactTeacher(num_scales, seed)
    teacher.train_network(seed, denoiser_iterations)
    args = options.parse(["--teacher", "none", "--batch_size", "256", "--generator_lr", str(RATE), "--guidance_lr",
                          str(RATE), "--warmup_step", "0", "--max_steps", str(iterations), "--seed", str(seed), *given])
    task = KnownScaleTask(teacher, None, None, args)
    loop = Loop(task, args, Group(0, 1), torch.device("cpu"))
    for _ in range(iterations):
        loop.run_step()
        loop.pending.clear()
    found = {}
    for weights in ("raw", "ema"):
        with loop.networks_with(weights) as networks:
            x_0s = drawn(task, networks["generator"])
        found[weights] = distance_to_truth(x_0s[0], teacher.mixture, whitened=True)
    found["narrowest"] = narrowest_variance(x_0s[0], teacher.mixture)
    if num_scales == 2:
        found["disagreement"] = float((downsample_to_32(x_0s[0]) - x_0s[1]).square().mean().sqrt())
    return found


class NetworkOf(Denoiser):
    """A network of the task in the teacher's place, whose own clean images are exact."""

    def __init__(self, task: DistillationTask, network):
        self.task, self.network, self.shapes, self.processes = task, network, task.shapes, task.processes

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`; a place among the levels is a timestep here."""
        places = torch.stack([t.long() for t in ts], dim=1)
        return self.task.as_clean(self.task.outputs(self.network, xs, places), xs, places)


def drawn(task: DistillationTask, network) -> list[torch.Tensor]:
    """A student's images [NUM_SCORED, C, S, S], per scale."""
    student = StudentDenoiser(NetworkOf(task, network), task.few_steps, task.times)
    return sample(student, path_of(task.few_steps, task.times, task.processes), task.args.seed, range(NUM_SCORED),
                  solver="renoise", clip=False).xs


def references(seed: int = 0) -> dict:
    """The distance of as many true images, and of the exact single-scale teacher's by DDIM in 18 and 50 calls."""
    teacher, generator = ExactTeacher(1, seed), torch.Generator().manual_seed(seed)
    found = {"floor": distance_to_truth(teacher.mixture.sample(NUM_SCORED, generator), teacher.mixture, whitened=True)}
    for calls in (18, 50):
        x = sample(teacher, teacher.process.uniform_path(calls), seed, range(NUM_SCORED), clip=False).xs[0]
        found[f"exact teacher, {calls} calls"] = distance_to_truth(x, teacher.mixture, whitened=True)
    return found
