"""Generation along a path: deterministic DDIM or a second-order multistep solver, one network call per step.

A path is an integer array [N + 1, 2] of (t_64, t_32), from (999, 999) to (0, 0), never increasing. Arriving at
timestep 0 means arriving at the clean image (abar = 1), so the last step always ends there. A scale whose timestep
does not change in a step is left exactly as it is. For the baseline only the t_64 column is used.
"""
from dataclasses import dataclass

import numpy as np
import torch

from engine import devices
from engine import seeds
from engine.errors import InputError
from networks.scales import downsample_to_32
from scheduler import CLEAN, NUM_TIMESTEPS, NoiseSchedule, extrapolate_x_0, predict_x_0, reconcile, step_from_x_0
from engine.seeds import seeded_generator

SOLVERS = ("ddim", "multistep")
X32_MODES = ("joint", "from_64", "reconciled", "random", "fixed")


@dataclass
class Samples:
    """What `generate` returns."""
    x_64: torch.Tensor              # [B, 3, 64, 64] in [-1, 1]
    x_32: torch.Tensor | None       # [B, 3, 32, 32]; None for the baseline
    num_model_calls: int


def start_noise(seed: int, indices, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """x_64 [B, 3, 64, 64] and x_32 [B, 3, 32, 32], standard normal; image k depends on the seed and k alone."""
    noises = []
    for index in indices:
        generator = seeded_generator(seed, seeds.SAMPLE_START, index)
        noises.append((torch.randn(3, 64, 64, generator=generator), torch.randn(3, 32, 32, generator=generator)))
    x_64, x_32 = (torch.stack(noise) for noise in zip(*noises))
    return to_device(x_64, device), to_device(x_32, device)


def to_device(x: torch.Tensor, device) -> torch.Tensor:
    """Copy to the device, from the CPU without waiting for work that the device has still to do."""
    is_copied_behind = torch.device(device).type == "cuda" and x.device.type == "cpu"
    return x.pin_memory().to(device, non_blocking=True) if is_copied_behind else x.to(device)


def check_path(path) -> np.ndarray:
    """The path as int64 [N + 1, 2]. Raises InputError unless it never increases, moves in every step and ends at 0."""
    path = np.asarray(path)
    if path.ndim != 2 or path.shape[1] != 2 or len(path) < 2 or not np.issubdtype(path.dtype, np.integer):
        raise InputError(f"path: found {path.dtype} {path.shape}, expected integer timesteps [N + 1, 2] with N >= 1")
    if path.max() > NUM_TIMESTEPS - 1 or path.min() < 0:
        raise InputError(f"path: found timesteps {path.min()}...{path.max()}, expected 0...{NUM_TIMESTEPS - 1}")
    steps = np.diff(path.astype(np.int64), axis=0)
    if (steps > 0).any() or (steps == 0).all(1).any():
        raise InputError("path: a step increases a timestep or stands still; expected both to fall or stay, one to "
                         "fall")
    if path[-1].any():
        raise InputError(f"path: ends at {tuple(map(int, path[-1]))}, expected (0, 0)")
    return path.astype(np.int64)


def uniform_diagonal(num_steps: int) -> np.ndarray:
    """Both timesteps equal, evenly spaced from 999 to 0: int64 [num_steps + 1, 2]. Raises InputError."""
    if not 1 <= num_steps <= NUM_TIMESTEPS - 1:
        raise InputError(f"--num_steps: found {num_steps}, expected 1...{NUM_TIMESTEPS - 1}")
    t = np.rint(np.linspace(NUM_TIMESTEPS - 1, 0, num_steps + 1)).astype(np.int64)
    return np.stack([t, t], axis=1)


class ScaleState:
    """One scale on its way: the noised image, and the last x_0 prediction for the multistep solver."""

    def __init__(self, x: torch.Tensor):
        self.x = x
        self.x_0_previous = None

    def advance(self, x_0, abar, abar_next, moves, solver, step, step_previous, eta, noise):
        """Take in a prediction of the clean image and, if the scale moves, take one step; all abar are scalar tensors.

        A scale that stands still remembers its prediction.
        """
        target = x_0
        if solver == "multistep" and self.x_0_previous is not None:
            target = extrapolate_x_0(x_0, self.x_0_previous, step, step_previous)
        self.x_0_previous = x_0
        if moves:
            self.x = step_from_x_0(self.x, target, abar, abar_next, eta, noise)


def log_snr_steps(path: np.ndarray, schedule: NoiseSchedule, num_scales: int) -> list[float]:
    """Length of every step in log SNR, summed over the scales; infinite where a scale arrives at the clean image."""
    log_snr = schedule.t_to_log_snr(torch.from_numpy(path[:, :num_scales])).numpy()
    steps = np.diff(log_snr, axis=0)
    steps[(path[1:, :num_scales] == 0) & (path[:-1, :num_scales] > 0)] = np.inf
    return steps.sum(1).tolist()


def check_solver(solver: str, eta: float) -> None:
    """Raises InputError for a solver that has no noise to add."""
    if solver != "ddim" and eta > 0:
        raise InputError(f"--eta: found {eta} with --solver {solver}, expected --solver ddim (multistep is "
                         "deterministic)")


@torch.inference_mode()
def generate(model, path, seed: int, indices, *, solver: str = "ddim", eta: float = 0.0, x32_mode: str = "joint",
             x_32_start: torch.Tensor | None = None, precision: str = "float32", on_step=None) -> Samples:
    """Denoise images `indices` of `seed` along `path`, with N network calls for a path of N steps.

    model: BaselineModel or LIFTDualTimestepModel on its device, in eval mode. path: [N + 1, 2] timesteps.
    solver: ddim or multistep (second order in the interior, first order in the first and last step).
    eta: 0 deterministic ... 1 ancestral (ddim only). x32_mode: joint, each scale by its own prediction. An exact
    network's 32 prediction is the 2x2 mean of its 64 prediction; what a trained one makes of that: from_64 (the 32
    scale follows that mean) or reconciled (both follow `scheduler.reconcile`). For the 32-branch experiment: random
    (noise drawn anew every step) or fixed (its start noise throughout).
    x_32_start: [B, 3, 32, 32] in place of noise; a path that keeps t_32 at 0 then holds it as a clean image.
    on_step(step, t_64, t_32, x_64, x_32) is called before every step and once at the end with step = N. Nothing in the
    loop waits for the device.
    """
    path = check_path(path)
    check_solver(solver, eta)
    device = next(model.parameters()).device
    is_lift = model.model_type == "lift"
    x_64, x_32 = start_noise(seed, indices, device)
    x_32 = x_32 if x_32_start is None else to_device(x_32_start, device)
    starts = [x_64, x_32][:1 + is_lift]
    step_generators = [seeded_generator(seed, seeds.SAMPLE_STEP, index) for index in indices]

    def step_noise(x):
        return to_device(torch.stack([torch.randn(x.shape[1:], generator=g) for g in step_generators]), x.device)

    return denoise_along(model, path, starts, solver=solver, eta=eta, x32_mode=x32_mode, precision=precision,
                         step_noise=step_noise, on_step=on_step)


@torch.inference_mode()
def denoise_along(model, path, starts, *, solver: str = "ddim", eta: float = 0.0, x32_mode: str = "joint",
                  precision: str = "float32", step_noise=None, on_step=None, clip: bool = True) -> Samples:
    """The loop of `generate` for start noise of any size: [x_64, x_32], or [x_64] for a single-scale model.

    model: called with the noised images, then their timesteps [B]; returns the noise per scale. starts: tensors
    [B, C, H, W] at timestep 999, whose precision and device are kept. step_noise(x): noise like x, for eta above 0 and
    the random 32 branch. clip: whether predictions are clipped to [-1, 1]. The rest as in `generate`.
    """
    path = check_path(path)
    device, dtype, is_lift = starts[0].device, starts[0].dtype, len(starts) == 2
    schedule = NoiseSchedule(NUM_TIMESTEPS)
    scales = [ScaleState(start) for start in starts]
    arrivals = np.where(path == 0, CLEAN, path)
    abar_from, abar_to = (to_device(schedule.alpha_cumprod(torch.from_numpy(t), dtype), device)     # [N + 1, 2]
                          for t in (path, arrivals))
    lengths = [0.0] + log_snr_steps(path, schedule, len(scales))
    timesteps = to_device(torch.from_numpy(path), device)[:, :, None].expand(-1, -1, len(starts[0]))
    num_model_calls = 0
    for step in range(len(path) - 1):
        if on_step:
            on_step(step, int(path[step, 0]), int(path[step, 1]), *(scale.x for scale in scales))
        if is_lift and x32_mode == "random" and step > 0:
            scales[1].x = step_noise(scales[1].x)
        inputs = [scale.x for scale in scales] + [timesteps[step, s] for s in range(len(scales))]
        with devices.autocast(device, precision):
            predictions = model(*inputs)
        num_model_calls += 1
        x_0 = [predict_x_0(scale.x, eps.to(dtype), abar_from[step, s], clip)        # in the start noise's precision
               for s, (scale, eps) in enumerate(zip(scales, predictions if is_lift else [predictions]))]
        if is_lift and x32_mode == "from_64":
            x_0[1] = downsample_to_32(x_0[0])
        elif is_lift and x32_mode == "reconciled":
            x_0 = [x.clamp(-1, 1) if clip else x for x in reconcile(*x_0, *abar_from[step])]
        for s, scale in enumerate(scales):
            moves = path[step, s] != path[step + 1, s] and (s == 0 or x32_mode not in ("random", "fixed"))
            noise = step_noise(scale.x) if eta > 0 and moves else None
            scale.advance(x_0[s], abar_from[step, s], abar_to[step + 1, s], moves, solver, lengths[step + 1],
                          lengths[step], eta, noise)
    if on_step:
        on_step(len(path) - 1, 0, 0, *(scale.x for scale in scales))
    return Samples(scales[0].x, scales[1].x if is_lift else None, num_model_calls)


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] to uint8 [same shape]: x * 127.5 + 128, clipped to 0...255 and truncated."""
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [-1, 1]: v / 127.5 - 1."""
    return images.float() / 127.5 - 1
