"""How far denoisers are from the truth: by solver and number of calls, and by the share of noise."""
from collections.abc import Callable

import torch

from engine.denoiser import Denoiser
from engine.options import CALLS_PER_STEP
from engine.sampling import classes_in_turn, denoise_along, from_uint8, start_noise
from scheduler import noise_added

REFERENCE_STEPS = 200           # of midpoint, whose end stands for the exact one


def solver_errors(denoiser: Denoiser, path_of: Callable, solvers: dict[str, str], calls, clip: bool = True,
                  seed: int = 0, num_images: int = 20, device="cpu") -> dict[str, list[float]]:
    """Each solver's error at each number of calls: name -> root mean square difference per number from the end of 200
    steps of midpoint from the same start noise. Classes take turns; there is no guidance.

    path_of: from a number of steps to the path; solvers: name -> solver; clip: as in `engine.sampling.sample`; device:
    the denoiser's.
    """
    numbers, num_classes = range(num_images), denoiser.num_classes
    starts = start_noise(denoiser.shapes, seed, numbers, device)
    labels = None if num_classes is None else classes_in_turn(numbers, num_classes, device)

    def end(solver: str, num_steps: int) -> torch.Tensor:
        return denoise_along(denoiser, path_of(num_steps), starts, labels=labels, solver=solver, clip=clip).xs[0]

    truth = end("midpoint", REFERENCE_STEPS)
    return {name: [float((end(solver, number // CALLS_PER_STEP[solver]) - truth).square().mean().sqrt())
                   for number in calls] for name, solver in solvers.items()}


@torch.inference_mode()
def errors_by_noise(denoisers: dict[str, Denoiser], images: torch.Tensor, shares, seed: int = 0) -> dict:
    """Root mean square error per pixel of the predicted clean image, without a class: name -> a number per share of the
    way from image to noise. denoisers: by name, of one process; images: uint8 [N, C, S, S], on the denoisers'
    device."""
    process, x_0 = next(iter(denoisers.values())).processes[0], from_uint8(images)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed)).to(x_0.device)
    errors = {name: [] for name in denoisers}
    for share in shares:
        t = torch.full((len(x_0),), process.at_share(1 - share), dtype=torch.float32, device=x_0.device)
        x_t = noise_added(x_0, eps, *process.levels(t))
        for name, denoiser in denoisers.items():
            [predicted] = denoiser.clean([x_t], [t])
            errors[name].append(float((predicted - x_0).square().mean().sqrt()))
    return errors
