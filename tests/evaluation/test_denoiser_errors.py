"""Errors of denoisers of known laws."""
import pytest
import torch

from engine.denoiser import Denoiser
from engine.sampling import from_uint8
from evaluation.denoiser_errors import errors_by_noise, solver_errors
from networks.exact_denoiser import ExactDenoiser
from scheduler import LinearFlow, per_image

IMAGES = torch.randint(0, 256, (12, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class NormalLaw(Denoiser):
    """The exact denoiser of images of independent normal pixels, of standard deviation 0.5."""

    shapes, processes = [(1, 4, 4)], [LinearFlow()]

    def clean(self, xs, ts, labels=None):
        a, s = (per_image(level, xs[0]) for level in self.processes[0].levels(ts[0]))
        return [0.25 * a * xs[0] / (0.25 * a**2 + s**2)]


def test_a_solver_errs_less_with_more_calls():
    path_of, solvers = LinearFlow().uniform_path, {"euler": "ddim", "midpoint": "midpoint"}
    found = solver_errors(NormalLaw(), path_of, solvers, (4, 32, 400), num_images=6)
    assert found.keys() == solvers.keys() and all(a > b > c for a, b, c in found.values())
    assert found["midpoint"][1] < found["euler"][1] / 4 and found["midpoint"][2] == 0      # 200 steps: the reference
    assert solver_errors(NormalLaw(), path_of, solvers, (4,), seed=1, num_images=6)["euler"] != found["euler"][:1]


def test_errors_grow_with_the_noise():
    """From none at the image to, for one who always says the mean, the deviation of the images."""
    exact, mean = ExactDenoiser(IMAGES, LinearFlow()), ExactDenoiser(IMAGES, LinearFlow())
    mean.weights = lambda x, t, labels=None: torch.full((len(x), len(IMAGES)), 1 / len(IMAGES))
    found = errors_by_noise({"exact": exact, "mean": mean}, IMAGES, (0.01, 0.5, 1.0))
    deviation = float((from_uint8(IMAGES) - from_uint8(IMAGES).mean(0)).square().mean().sqrt())
    assert found["mean"] == pytest.approx([deviation] * 3)
    nothing, some, all_noise = found["exact"]
    assert nothing < 1e-4 < some < 0.9 * deviation and all_noise == pytest.approx(deviation)
