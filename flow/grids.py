"""Grids: the times at which a flow is sampled, from 0 (noise) to 1 (image)."""
import torch

from engine.denoiser import Denoiser
from engine.errors import InputError
from engine.sampling import sample
from flow.options import ORDERS
from scheduler import LinearFlow

NUM_FINE_STEPS = 64                     # of the walk on which `optimised_grid` measures the flow
LEAST_DENSITY = 0.05                    # of the mean: no step is longer than twenty even ones


def shifted_grid(num_steps: int, shift: float) -> torch.Tensor:
    """s t / (1 + (s - 1) t) of even times t: float64 [num_steps + 1]; s < 1 spends more steps on noise (Esser et al.
    2024, eq. 23, with time reversed)."""
    t = LinearFlow().uniform_path(num_steps)
    return shift * t / (1 + (shift - 1) * t)


class VelocityRecorder(Denoiser):
    """Passes a denoiser's clean images on and keeps the velocities they mean: `velocities`, one [B, C, H, W] a call."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.velocities = denoiser, []
        self.shapes, self.processes = denoiser.shapes, denoiser.processes

    @property
    def num_evaluations(self) -> int:
        """Those of the denoiser inside."""
        return self.denoiser.num_evaluations

    def clean(self, xs, ts, labels=None):
        """As in `Denoiser`."""
        [x_0] = self.denoiser.clean(xs, ts, labels)
        _, s = self.processes[0].levels(ts[0], xs[0].dtype)
        self.velocities.append((x_0 - xs[0]) / s.reshape(-1, 1, 1, 1))
        return [x_0]


def step_density(velocities: torch.Tensor, order: int) -> torch.Tensor:
    """Where a method of that order needs its steps: ||d^k v / dt^k||^(1 / (k + 1)) at each place of an even walk.

    velocities: [M, B, ...] at t = m / M. A step of length h errs by h^(k + 1) ||d^k v / dt^k||, so of all grids of so many
    steps the one of that density has the least sum of errors. Returns float64 [M - order], mean 1.
    """
    derivative = velocities.double()
    for _ in range(order):
        derivative = derivative.diff(dim=0) * len(velocities)
    density = derivative.flatten(1).square().mean(1).sqrt() ** (1 / (order + 1))
    if density.sum() == 0:
        return torch.ones_like(density)                                 # a straight flow: any grid is exact
    return (density / density.mean()).clamp(min=LEAST_DENSITY)


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


def optimised_grid(denoiser: Denoiser, num_steps: int, solver: str, seed: int, num_images: int = 32, labels=None,
                   precision: str = "float32", device="cpu") -> torch.Tensor:
    """The grid that suits a trained flow, from the velocities of a few images along a fine walk of 64 calls each.

    denoiser: with the guidance that will be used. labels: int64 [num_images] or None. Returns float64 [num_steps + 1].
    """
    recorder = VelocityRecorder(denoiser)
    sample(recorder, LinearFlow().uniform_path(NUM_FINE_STEPS), seed, range(num_images), labels=labels, clip=False,
           precision=precision, device=device)
    return grid_of_density(step_density(torch.stack(recorder.velocities), ORDERS[solver]), num_steps)


def check_grid(grid: str, shift: float, solver: str) -> None:
    """Raises InputError for a grid that the solver has no use for."""
    if grid == "optimised" and solver not in ORDERS:
        raise InputError(f"--grid: found optimised with --solver {solver}, expected one of {', '.join(ORDERS)}")
    if grid != "shift" and shift != 1:
        raise InputError(f"--shift: found {shift:g}, which has no effect without --grid shift; leave it out")
