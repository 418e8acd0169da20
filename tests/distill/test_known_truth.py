"""The test bed's exact teacher, its distance, and a short distillation that must come closer to the truth."""
import json
import math

import torch

from conftest import ROOT
from distill.known_truth import (DEVIATION, CircleOfGaussians, Distillation, Settings, exact_ddim, sliced_wasserstein_1)
from scheduler import CosineSteps
from scripts.benchmarks.distill_truth import markdown_table

SHORT = {"iterations": 150, "batch": 128, "seeds": 2}


def test_the_exact_teacher_is_the_posterior_mean():
    """Against numerical integration of x_0 over a fine grid."""
    truth, (a, s) = CircleOfGaussians(), (torch.tensor(0.6), torch.tensor(0.8))
    x_t = torch.tensor([[0.3, -0.2], [0.5, 0.4]])
    line = torch.linspace(-1.6, 1.6, 641, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    squared = (grid[:, None] - truth.centers).square().sum(2)
    density = (truth.probabilities * torch.exp(-squared / (2 * DEVIATION**2))).sum(1)
    for point, found in zip(x_t, truth.clean(x_t, a, s)):
        weight = density * torch.exp(-(point - a * grid).square().sum(1) / (2 * s**2))
        expected = (weight[:, None] * grid).sum(0) / weight.sum()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_sliced_distance_of_a_shift():
    """A shift by d moves a projection by d |cos|, whose mean is 2 d / pi."""
    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    assert abs(sliced_wasserstein_1(points, points + torch.tensor([0.3, 0.0])) - 0.3 * 2 / math.pi) < 1e-3


def test_more_calls_of_the_exact_teacher_come_closer():
    truth, generator = CircleOfGaussians(), torch.Generator().manual_seed(0)
    few, many = (sliced_wasserstein_1(exact_ddim(truth, calls, 10_000, generator), truth.draw((10_000,), generator))
                 for calls in (4, 50))
    assert 0.1 < few < 0.14 and many < 0.025


def test_distillation_comes_closer_and_does_not_depend_on_anything_but_its_seed(monkeypatch):
    monkeypatch.setattr("distill.known_truth.DENOISER_ITERATIONS", 300)
    first, second = (Distillation(Settings(update_ratio=2, gan_weight=1e-2, **SHORT)).run(every=150) for _ in range(2))
    assert first == second
    for before, after in zip(first[0]["distances"], first[-1]["distances"]):
        assert after < 0.8 * before


def test_every_image_of_a_chain_counts_in_training(monkeypatch):
    """What backward simulation feeds to a step is what generation feeds to it: mean and spread agree."""
    monkeypatch.setattr("distill.known_truth.DENOISER_ITERATIONS", 100)
    run = Distillation(Settings(num_steps=3, critic_step=True, level_schedule=True, batch=4000, seeds=1, iterations=0))
    drawn = run.draw(4000, torch.Generator().manual_seed(5))
    for k in range(3):
        points = run.generated(run.input_of(k), k).detach()
        assert (points.mean(0) - drawn[k, 0].mean(0)).abs().max() < 0.05
        assert (points.std(0) - drawn[k, 0].std(0)).abs().max() < 0.05
    a, s = CosineSteps().levels(torch.tensor(run.times))
    assert torch.equal(run.renoised_to[2][0], a[2]) and torch.equal(run.renoised_to[1][1], s[1])


def test_the_text_shows_the_measured_table():
    results = json.loads((ROOT / "results/published/distill/distill_truth.json").read_text())
    assert len(results["rows"]) == 20
    assert markdown_table(results) in (ROOT / "distill/README.md").read_text(encoding="utf-8")
