"""Generation along a path: from noise to images, by any solver, for any denoiser.

A path is [N + 1, scales] in the processes' own times, from noise to the clean image. A scale whose time does not change
in a step is left exactly as it is. Every solver works on the clean images that the denoiser predicts:

    ddim        first order, 1 call a step (Song et al. 2021); Euler's method on a linear path
    multistep   second order, 1 call a step: the quantity of `NoiseProcess.extrapolates` is carried on from the step
                before
    heun        second order, 2 calls a step; its last step is one of midpoint, since nothing is ever predicted from a
                clean image
    midpoint    second order, 2 calls a step
    renoise     1 call a step: the clean image is predicted and noised again, for students of few steps

heun and midpoint work in y = x / (a + s) over u = a / (a + s), where every process is the linear path: y moves along
x_0 - eps, and nothing is divided by a.
"""
from dataclasses import dataclass

import torch

from engine import devices, seeds
from engine.denoiser import Denoiser, Times
from engine.errors import InputError
from engine.options import SOLVERS
from engine.seeds import seeded_generator
from scheduler import extrapolate, noise_added, step


@dataclass
class Samples:
    """What `sample` returns: images [B, C, H, W] in [-1, 1] per scale, and network calls per image."""
    xs: list[torch.Tensor]
    num_model_calls: int


def to_device(x: torch.Tensor, device) -> torch.Tensor:
    """A copy on the device. From the CPU to a GPU, the copy does not wait for work that the GPU has still to do."""
    is_copied_behind = torch.device(device).type == "cuda" and x.device.type == "cpu"
    return x.pin_memory().to(device, non_blocking=True) if is_copied_behind else x.to(device)


def start_noise(shapes, seed: int, indices, device="cpu") -> list[torch.Tensor]:
    """Standard normal [B, *shape] per scale; image k depends on the seed and k alone."""
    rows = []
    for index in indices:
        generator = seeded_generator(seed, seeds.SAMPLE_START, index)
        rows.append([torch.randn(*shape, generator=generator) for shape in shapes])
    return [to_device(torch.stack(noise), device) for noise in zip(*rows)]


def classes_in_turn(indices, num_classes: int, device="cpu") -> torch.Tensor:
    """The class of each image, its number modulo the number of classes: int64 [B]."""
    return torch.tensor([index % num_classes for index in indices], dtype=torch.int64, device=device)


class StepNoise:
    """Fresh noise during sampling. Each image has a stream of its own, whatever the batch."""

    def __init__(self, seed: int, indices):
        self.generators = [seeded_generator(seed, seeds.SAMPLE_STEP, index) for index in indices]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Standard normal like x [B, C, H, W]."""
        return to_device(torch.stack([torch.randn(x.shape[1:], generator=g) for g in self.generators]), x.device)


def check_solver(solver: str, eta: float) -> None:
    """Raises InputError for an unknown solver, and for an eta above 0 with a solver other than ddim."""
    if solver not in SOLVERS:
        raise InputError(f"--solver: found {solver!r}, expected one of {', '.join(SOLVERS)}")
    if solver != "ddim" and eta > 0:
        raise InputError(f"--eta: found {eta} with --solver {solver}, expected --solver ddim (the others are "
                         "deterministic, or add all noise anew)")


def check_path(path, denoiser: Denoiser) -> torch.Tensor:
    """The path as int64 or float64 [N + 1, scales]. Raises InputError unless every scale goes from noise towards the
    clean image and ends there, and some scale moves in every step."""
    path = torch.as_tensor(path)
    path = path[:, None] if path.ndim == 1 else path
    path = path.double() if path.is_floating_point() else path.long()
    scales = len(denoiser.processes)
    if path.ndim != 2 or path.shape[1] != scales or len(path) < 2:
        raise InputError(f"path: found shape {list(path.shape)}, expected [N + 1, {scales}] with N >= 1")
    for s, process in enumerate(denoiser.processes):
        forward = 1 if process.clean > process.noisiest else -1
        if (forward * path[:, s].diff() < 0).any() or path[-1, s] != process.clean:
            raise InputError(f"path: scale {s} goes {path[:, s].tolist()[:4]} ... {path[-1, s].item():g}, expected "
                             f"times from {process.noisiest:g} to {process.clean:g} that never turn round")
    if (path.diff(dim=0) == 0).all(1).any():
        raise InputError("path: a step stands still at every scale, expected one to move")
    return path


@torch.inference_mode()
def sample(denoiser: Denoiser, path, seed: int, indices, *, labels=None, solver: str = "ddim", eta: float = 0.0,
           clip: bool = True, precision: str = "float32", on_step=None, device="cpu") -> Samples:
    """Denoise images `indices` of `seed` along `path`.

    denoiser: on `device`, its networks in eval mode. path: as in `check_path`. labels: int64 [B] or None. eta: 0
    deterministic ... 1 ancestral (ddim only). clip: whether predicted clean images are clipped to [-1, 1]. precision:
    of the network, float32 or bf16. on_step(k, times, xs) is called before step k, and once at the end with k = N.
    Nothing in the loop waits for the device. Raises InputError as `check_path` and `check_solver` do.
    """
    check_solver(solver, eta)
    path = check_path(path, denoiser)
    starts = [process.start_scale(float(path[0, s])) * noise for s, (process, noise) in
              enumerate(zip(denoiser.processes, start_noise(denoiser.shapes, seed, indices, device)))]
    return denoise_along(denoiser, path, starts, labels=labels, solver=solver, eta=eta, clip=clip, precision=precision,
                         step_noise=StepNoise(seed, indices), on_step=on_step)


@torch.inference_mode()
def denoise_along(denoiser: Denoiser, path, starts, *, labels=None, solver: str = "ddim", eta: float = 0.0,
                  clip: bool = True, precision: str = "float32", step_noise=None, on_step=None) -> Samples:
    """The loop of `sample` from given starts, [B, ...] per scale; their precision and device are kept.

    step_noise(x): noise like x, for eta above 0 and for renoise. The rest as in `sample`.
    """
    path = check_path(path, denoiser)
    walk = Walk(denoiser, path, starts, labels, clip, precision)
    evaluations = denoiser.num_evaluations
    denoiser.begin()
    for k in range(len(path) - 1):
        if on_step:
            on_step(k, path[k].tolist(), walk.xs)
        x_0s = walk.clean(walk.xs, [walk.time_at(k, s) for s in range(len(starts))])
        if solver in ("heun", "midpoint"):
            walk.two_calls(x_0s, k, solver)
        else:
            targets = walk.extrapolated(x_0s, k) if solver == "multistep" else x_0s
            for s in walk.moving(k):
                a, s_, a_next, s_next = *walk.levels_at(k, s), *walk.levels_at(k + 1, s)
                noise = step_noise(walk.xs[s]) if eta > 0 or solver == "renoise" and k < len(path) - 2 else None
                if solver == "renoise":
                    walk.xs[s] = targets[s] if noise is None else noise_added(targets[s], noise, a_next, s_next)
                else:
                    walk.xs[s] = step(walk.xs[s], targets[s], a, s_, a_next, s_next, eta, noise)
    if on_step:
        on_step(len(path) - 1, path[-1].tolist(), walk.xs)
    return Samples(walk.xs, (denoiser.num_evaluations - evaluations) // max(len(starts[0]), 1))


class Walk:
    """Where the images of a batch are on their path; all levels are made before the first step."""

    def __init__(self, denoiser: Denoiser, path: torch.Tensor, starts, labels, clip: bool, precision: str):
        self.denoiser, self.path, self.labels, self.clip, self.precision = denoiser, path, labels, clip, precision
        self.xs = list(starts)
        self.device, self.dtype = starts[0].device, starts[0].dtype
        self.times = to_device(path, self.device)                                               # [N + 1, scales]
        levels = [process.levels(path[:, s], self.dtype) for s, process in enumerate(denoiser.processes)]
        self.is_noisy = [(sigma > 0).tolist() for _, sigma in levels]       # told here, where no device is waited for
        self.levels = [tuple(to_device(level, self.device) for level in pair) for pair in levels]
        self.lengths = self.step_lengths()
        self.previous = [None] * len(starts)

    def levels_at(self, k: int, s: int):
        """a and s of scale s before step k: scalar tensors."""
        a, sigma = self.levels[s]
        return a[k], sigma[k]

    def time_at(self, k: int, s: int):
        """The time of scale s before step k: as the host knows it, and on the device."""
        return self.path[k, s], self.times[k, s]

    def moving(self, k: int) -> list[int]:
        """The scales that step k moves."""
        return [s for s in range(len(self.xs)) if self.path[k, s] != self.path[k + 1, s]
                and s not in self.denoiser.held]

    def clean(self, xs, ts) -> list[torch.Tensor]:
        """Predicted clean images of xs at times ts, one per scale, as `time_at` has them."""
        told = Times([t.expand(len(xs[0])) for _, t in ts], [number for number, _ in ts])
        with devices.autocast(self.device, self.precision):
            x_0s = self.denoiser.clean(xs, told, self.labels)
        return self.denoiser.clipped(x_0s) if self.clip else x_0s

    def step_lengths(self) -> list[float]:
        """Length of every step, 0 before the first, summed over the scales: in log SNR, or in time where the velocity
        is extrapolated. Infinite where a scale arrives at the clean image in log SNR."""
        total = torch.zeros(len(self.path) - 1, dtype=torch.float64)
        for s, process in enumerate(self.denoiser.processes):
            place = self.path[:, s].double() if process.extrapolates == "velocity" else process.log_snr(self.path[:, s])
            total += torch.where(self.path[1:, s] == self.path[:-1, s], 0.0, place.diff())
        return [0.0, *total.tolist()]

    def extrapolated(self, x_0s, k: int) -> list[torch.Tensor]:
        """The clean images that a multistep solver steps towards; a scale that stands still remembers its own."""
        targets = []
        for s, (x, x_0, process) in enumerate(zip(self.xs, x_0s, self.denoiser.processes)):
            a, sigma = self.levels_at(k, s)
            by_velocity = process.extrapolates == "velocity" and self.is_noisy[s][k]
            value = (x_0 - x) / sigma if by_velocity else x_0            # of the linear path, a + s = 1
            target = value if self.previous[s] is None else extrapolate(value, self.previous[s], self.lengths[k + 1],
                                                                        self.lengths[k])
            self.previous[s] = value
            targets.append(x + sigma * target if by_velocity else target)
        return targets

    def two_calls(self, x_0s, k: int, solver: str) -> None:
        """A step of heun or midpoint; the second call is made here. x_0s: of the first call."""
        moving = self.moving(k)
        arrives = any(self.path[k + 1, s] == self.denoiser.processes[s].clean for s in moving)
        between_xs, between_ts, between_levels = list(self.xs), [self.time_at(k, s) for s in range(len(self.xs))], {}
        for s in moving:
            if solver == "heun" and not arrives:
                between_ts[s], between_levels[s] = self.time_at(k + 1, s), self.levels_at(k + 1, s)
            else:
                between_ts[s], between_levels[s] = self.middle(k, s)
            between_xs[s] = step(self.xs[s], x_0s[s], *self.levels_at(k, s), *between_levels[s])
        between_x_0s = self.clean(between_xs, between_ts)
        for s in moving:
            here, there = self.levels_at(k, s), self.levels_at(k + 1, s)
            velocity = linear_velocity(between_xs[s], between_x_0s[s], *between_levels[s])
            if solver == "heun" and not arrives:
                velocity = (velocity + linear_velocity(self.xs[s], x_0s[s], *here)) / 2
            self.xs[s] = (self.xs[s] / sum(here) + (share(*there) - share(*here)) * velocity) * sum(there)

    def middle(self, k: int, s: int):
        """Time, as `time_at` has it, and levels half-way in u = a / (a + s), for scale s in step k."""
        process = self.denoiser.processes[s]
        a, sigma = process.levels(self.path[k:k + 2, s], torch.float64)
        u = share(a, sigma).mean()
        t = process.t_at(2 * torch.logit(u)).reshape(())
        levels = process.levels(t, torch.float64)
        return (t, to_device(t, self.device)), tuple(to_device(level.to(self.dtype), self.device) for level in levels)


def share(a, s):
    """u = a / (a + s): the time of the linear path at levels (a, s)."""
    return a / (a + s)


def linear_velocity(x, x_0, a, s) -> torch.Tensor:
    """x_0 - eps, the direction of y = x / (a + s) over u: x, x_0 [B, ...]; a, s scalar tensors."""
    return x_0 - (x - a * x_0) / s


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] to uint8 [same shape]: x * 127.5 + 128, clipped to 0...255 and truncated."""
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [-1, 1]: v / 127.5 - 1."""
    return images.float() / 127.5 - 1


def as_floats(data: torch.Tensor) -> torch.Tensor:
    """What a network is trained on: uint8 images in [-1, 1], latents as they are."""
    return from_uint8(data) if data.dtype == torch.uint8 else data
