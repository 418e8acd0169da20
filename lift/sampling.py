"""S1's paths and generation: integer timesteps of both scales, N network calls for a path of N steps.

A path is an integer array [N + 1, 2] of (t_64, t_32), from (999, 999) to (0, 0), never increasing. Arriving at
timestep 0 means arriving at the clean image, so the last step always ends there. For the baseline only the t_64 column
is used.
"""
from dataclasses import dataclass

import numpy as np
import torch

from engine import sampling
from engine.errors import InputError
from engine.sampling import StepNoise, start_noise, to_device, to_uint8
from lift.coupling import NOISIEST_SHAPES, Coupled, Guidance, HeldBranch, check_can_disagree, denoiser_of, has_bands
from networks.bands import joined
from networks.scales import downsample_to_32
from scheduler import CLEAN, NUM_TIMESTEPS, CosineSteps, predict_x_0


@dataclass
class ScaleSamples:
    """What `generate` returns."""
    x_64: torch.Tensor              # [B, 3, 64, 64] in [-1, 1]
    x_32: torch.Tensor | None       # [B, 3, 32, 32]; None for the baseline; of bands the 2x2 mean of x_64
    num_model_calls: int


def check_timesteps(path) -> np.ndarray:
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


@torch.inference_mode()
def generate(model, path, seed: int, indices, *, x32_mode: str = "joint", x_32_start: torch.Tensor | None = None,
             **options) -> ScaleSamples:
    """Denoise images `indices` of `seed` along `path`. A step is one network call, a guided step is two.

    model: BaselineModel or LIFTDualTimestepModel on its device, in eval mode. path: [N + 1, 2] timesteps. x32_mode:
    joint moves each scale by its own prediction; the others are in `lift.coupling`. x_32_start: [B, 3, 32, 32], in
    place of noise; a path that keeps t_32 at 0 holds it as a clean image. options: those of `denoise_scales`.
    """
    device = next(model.parameters()).device
    starts = start_noise(NOISIEST_SHAPES, seed, indices, device)[:1 + (model.model_type == "lift")]
    if x_32_start is not None and len(starts) == 2:
        starts[1] = (2 if has_bands(model) else 1) * to_device(x_32_start, device)       # a coarse part: twice the mean
    return denoise_scales(model, path, starts, x32_mode=x32_mode, step_noise=StepNoise(seed, indices), **options)


@torch.inference_mode()
def denoise_scales(model, path, starts, *, x32_mode: str = "joint", solver: str = "ddim", eta: float = 0.0,
                  clip: bool = True, step_noise=None, on_step=None, eps_scale: float = 1.0, told_log_snr: float = 0.0,
                  guidance: Guidance | None = None, **options) -> ScaleSamples:
    """The loop of `generate` for start noise of any size: [x_64, x_32], or [x_64] for a single-scale model.

    on_step(step, t_64, t_32, x_64, x_32) is called before every step and once at the end with step = N. eps_scale and
    told_log_snr: as in `engine.denoiser.Corrected`. The rest as in `engine.sampling.denoise_along`.
    """
    path = check_timesteps(path)
    sampling.check_solver(solver, eta)
    denoiser = denoiser_of(model, [tuple(start.shape[1:]) for start in starts], eps_scale, told_log_snr, guidance,
                           step_noise)
    if x32_mode != "joint":
        check_can_disagree(model, f"--x32: found {x32_mode}")
    if len(starts) == 2 and x32_mode in ("from_64", "reconciled"):
        denoiser = Coupled(denoiser, x32_mode, clip)
    elif len(starts) == 2 and x32_mode in ("random", "fixed"):
        denoiser = HeldBranch(denoiser, x32_mode, starts[1], step_noise)

    def x_32_of(xs):
        if has_bands(model):
            return downsample_to_32(denoiser.image(xs))
        return denoiser.x_32 if denoiser.held else xs[1]

    def say(step, _, xs):
        on_step(step, int(path[step, 0]), int(path[step, 1]), denoiser.image(xs),
                *([x_32_of(xs)] if len(xs) == 2 else []))

    arrivals = np.where(path == 0, CLEAN, path)[:, :len(starts)]
    samples = sampling.denoise_along(denoiser, torch.from_numpy(arrivals), starts, solver=solver, eta=eta, clip=clip,
                                     step_noise=step_noise, on_step=say if on_step else None, **options)
    return ScaleSamples(denoiser.image(samples.xs), x_32_of(samples.xs) if len(starts) == 2 else None,
                   samples.num_model_calls)


def denoising_steps(model, path, seed: int, index: int, **options) -> dict[str, list]:
    """What both scales hold at every point of a path, and the clean image predicted there.

    Returns label -> list of N + 1 uint8 [3, H, W]; predictions have None at the last point, where nothing is left to
    predict. For the baseline, the 64 scale alone.
    """
    schedule = CosineSteps()
    scales = ("64", "32") if model.model_type == "lift" else ("64",)
    states, predictions = ({scale: [] for scale in scales} for _ in range(2))

    def keep_states(step, t_64, t_32, *x):
        for scale, x_s in zip(scales, x):
            states[scale].append(to_uint8(x_s)[0].cpu().numpy())

    def keep_predictions(module, inputs, output):
        x, t = inputs[:len(scales)], inputs[len(scales):]
        x_0s = [predict_x_0(x_s.float(), eps.float(), schedule.alpha_cumprod(t_s), clip=False)
                for x_s, t_s, eps in zip(x, t, output if len(scales) > 1 else [output])]
        if has_bands(module):
            x_0s = [joined(*x_0s), x_0s[1] / 2]
        for scale, x_0 in zip(scales, x_0s):
            predictions[scale].append(to_uint8(x_0)[0].cpu().numpy())

    hook = model.register_forward_hook(keep_predictions)
    try:
        generate(model, path, seed, [index], on_step=keep_states, **options)
    finally:
        hook.remove()
    rows = {}
    for scale in scales:
        rows[f"x_{scale}"] = states[scale]
        rows[f"x_0 at {scale}"] = predictions[scale] + [None]
    return rows
