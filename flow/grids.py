"""Grids: the times at which a flow is sampled, from 0 (noise) to 1 (image), at one scale or at two."""
import numpy as np
import torch

from engine.denoiser import Denoiser, Wrapped
from engine.drawing import Drawing
from engine.errors import InputError
from flow.options import ORDERS
from scheduler import LinearFlow

NUM_FINE_STEPS = 64                     # of the walk on which `optimised_grid` measures the flow
NUM_GRID_IMAGES, GRID_SEED = 32, 0      # of that walk: a grid belongs to a model, not to the images drawn with it
LEAST_DENSITY = 0.05                    # of the mean: no step is longer than twenty even ones


def shifted(t: torch.Tensor, shift: float) -> torch.Tensor:
    """s t / (1 + (s - 1) t), which adds 2 log s to log SNR; of even times, s < 1 spends more steps on noise (Esser et
    al. 2024, eq. 23, with time reversed)."""
    return torch.where(t == 1, t, shift * t / (1 + (shift - 1) * t))        # rounding would miss the end


class VelocityRecorder(Wrapped):
    """Passes a denoiser's clean images on and keeps their velocities: `velocities` has a tensor [B, D] per call, with
    the numbers of all scales in a row."""

    def __init__(self, denoiser: Denoiser):
        super().__init__(denoiser)
        self.velocities = []

    def clean(self, xs, ts, labels=None):
        """As in `Denoiser`."""
        x_0s = self.denoiser.clean(xs, ts, labels)
        levels = (process.levels(t, x.dtype)[1] for process, t, x in zip(self.processes, ts, xs))
        self.velocities.append(torch.cat([((x_0 - x) / s.reshape(-1, 1, 1, 1)).flatten(1)
                                          for x_0, x, s in zip(x_0s, xs, levels)], dim=1))
        return x_0s


def step_density(velocities: torch.Tensor, order: int) -> torch.Tensor:
    """The density of steps that suits a method of order k: ||d^k v / dt^k||^(1 / (k + 1)) in each step of an even walk.

    velocities: [M, B, ...] at t = m / M. A step of length h errs by h^(k + 1) ||d^k v / dt^k||, so of all grids of so
    many steps the one of that density has the least sum of errors. Returns float64 [M], mean about 1, for the parts
    from m / M to (m + 1) / M. A difference of order k tells of the middle of the k + 1 places that it is made of; parts
    before the first such middle, and behind the last, are given its value.
    """
    num_parts, derivative = len(velocities), velocities.double()
    for _ in range(order):
        derivative = derivative.diff(dim=0) * num_parts
    found = derivative.flatten(1).square().mean(1).sqrt() ** (1 / (order + 1))                  # [M - order]
    middles = torch.arange(num_parts - order) + order / 2                                       # in parts
    density = interpolated(torch.arange(num_parts) + 0.5, middles, found.cpu())
    if density.sum() == 0:
        return torch.ones_like(density)                                 # a straight flow: any grid is exact
    return (density / density.mean()).clamp(min=LEAST_DENSITY)


def interpolated(places: torch.Tensor, known_at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values at places, linear between those known at rising places, constant beyond: float64 [number of places]."""
    return torch.from_numpy(np.interp(places.double().numpy(), known_at.double().numpy(), values.double().numpy()))


def grid_of_density(density: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Times between which each step holds an equal part of the density: float64 [num_steps + 1], 0 ... 1.

    density: [M], constant on M even parts of [0, 1].
    """
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), density.double().cpu().cumsum(0)])
    wanted = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)[1:-1] * mass[-1]
    part = torch.searchsorted(mass, wanted, right=True).clamp(1, len(density)) - 1
    inner = (part + (wanted - mass[part]) / (mass[part + 1] - mass[part])) / len(density)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return torch.cat([ends[:1], inner, ends[1:]])


def optimised_grid(denoiser: Denoiser, num_steps: int, solver: str, *, classes=None, num_images: int = NUM_GRID_IMAGES,
                   precision: str = "float32", device="cpu") -> torch.Tensor:
    """The grid that suits a trained flow, measured on the velocities of a few images along a fine walk of 64 calls
    each.

    denoiser: with the guidance that will be used; of two scales, both move together. classes: which take turns, or
    None. Returns float64 [num_steps + 1].
    """
    recorder = VelocityRecorder(denoiser)
    walk = LinearFlow().uniform_path(NUM_FINE_STEPS)
    draw = Drawing(recorder, torch.stack([walk] * len(denoiser.processes), dim=1), classes, device=device,
                   how={"clip": False, "precision": precision})
    draw(GRID_SEED, range(num_images))
    return grid_of_density(step_density(torch.stack(recorder.velocities), ORDERS[solver]), num_steps)


def find_path(denoiser: Denoiser, grid: str, num_steps: int, solver: str, *, shift: float = 1.0,
              coarse_shift: float = 1.0, **options) -> torch.Tensor:
    """The times of the steps at every scale: float64 [num_steps + 1, scales].

    grid: of GRIDS. coarse_shift: how the times of a second scale, or band, are shifted from those of the first: above 1
    it leads, by 2 log(coarse_shift) in log SNR. options: those of `optimised_grid`.
    """
    times = (optimised_grid(denoiser, num_steps, solver, **options) if grid == "optimised" else
             shifted(LinearFlow().uniform_path(num_steps), shift))
    return torch.stack([times, shifted(times, coarse_shift)][:len(denoiser.processes)], dim=1)


def check_grid(grid: str, shift: float, solver: str) -> None:
    """Raises InputError for a grid that does not go with the solver, or a shift without its grid."""
    if grid == "optimised" and solver not in ORDERS:
        raise InputError(f"--grid: found optimised with --solver {solver}, expected one of {', '.join(ORDERS)}")
    if grid != "shift" and shift != 1:
        raise InputError(f"--shift: found {shift:g}, which has no effect without --grid shift; leave it out")
