"""The two-scale bed: its teacher is exact, the task trains on it, and a short distillation comes closer to the
truth."""
import json

import pytest
import torch

from conftest import ROOT
from distill import known_scales
from distill.known_scales import ExactTeacher, ScaleNetwork, distil
from lift.exact_mixture import narrowest_variance
from networks.scales import downsample_to_32
from scripts.benchmarks.distill_scales import ROWS, TWO, markdown_table


@pytest.mark.parametrize("num_scales", [1, 2])
def test_the_teacher_is_the_posterior_mean(num_scales):
    """Among all functions of the noised images it has the least squared error, and its error has mean zero given them:
    so E[(x - clean) . clean] = 0, and where one view is nearly clean it is that view."""
    teacher, generator = ExactTeacher(num_scales, 0), torch.Generator().manual_seed(0)
    x = teacher.mixture.sample(4000, generator).float()
    x_0s, ts = [x, downsample_to_32(x)][:num_scales], [torch.full((len(x),), t) for t in (600, 300)[:num_scales]]
    xs = [a * x_0 + s * torch.randn(x_0.shape, generator=generator)
          for x_0, (a, s) in zip(x_0s, (level.levels(t[0]) for level, t in zip(teacher.processes, ts)))]
    clean = teacher.clean(xs, ts)
    assert len(clean) == num_scales and torch.equal(clean[-1],
                                                    downsample_to_32(clean[0]) if num_scales == 2 else clean[0])
    error = x - clean[0]
    assert abs(float((error * clean[0]).mean())) < 0.01 * float(x.square().mean())
    assert float(error.square().mean()) < 0.9 * float(x.square().mean())
    nearly = teacher.clean(x_0s, [torch.zeros(len(x), dtype=torch.long)] * num_scales)[0]
    assert float((nearly - x).abs().max()) < 0.02


def test_the_network_puts_out_an_image_per_scale_and_is_told_every_time():
    torch.manual_seed(0)
    network, t = ScaleNetwork(2), torch.tensor([10, 500, 999])
    x, small = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 2, 2)
    out = network(x, small, t, t)
    assert [tuple(part.shape) for part in out] == [(3, 1, 4, 4), (3, 1, 2, 2)]
    for changed in (network(x, small, t + 100, t), network(x, small, t, t + 100)):
        assert (changed[0] - out[0]).abs().amax((1, 2, 3)).min() > 1e-4


def test_a_short_distillation_comes_closer(monkeypatch):
    monkeypatch.setattr(known_scales, "NUM_SCORED", 1000)
    before, after = (distil(1, 0, iterations, ("--dfake_gen_update_ratio", "2"), denoiser_iterations=150)
                     for iterations in (1, 120))
    assert after["raw"] < 0.8 * before["raw"] and "disagreement" not in after


def test_two_steps_with_the_small_scale_ahead_are_trained_and_drawn(monkeypatch):
    monkeypatch.setattr(known_scales, "NUM_SCORED", 100)
    found = distil(2, 0, 3, (*TWO, "--student_t_32", "999", "249", "--coupling", "free"), denoiser_iterations=2)
    assert found["disagreement"] > 1e-3 and 0 < found["ema"] < 10


def test_the_readme_has_the_published_table():
    results = json.loads((ROOT / "results/published/distill/distill_scales.json").read_text(encoding="utf-8"))
    assert set(results["rows"]) == set(ROWS) and {len(runs) for runs in results["rows"].values()} == {3}
    assert markdown_table(results) in (ROOT / "distill/README.md").read_text(encoding="utf-8")


def test_a_lost_direction_is_seen():
    """Of true samples every direction has its variance; without a coarse one, the smallest share is that of nothing."""
    mixture = ExactTeacher(1, 0).mixture
    x = mixture.sample(20_000, torch.Generator().manual_seed(0))
    assert 0.9 < narrowest_variance(x, mixture) < 1
    assert narrowest_variance(x - x.mean((1, 2, 3), keepdim=True), mixture) < 1e-3
    assert narrowest_variance(0.5 * x, mixture) == pytest.approx(0.25 * narrowest_variance(x, mixture))


def test_the_table_shows_means_and_spreads():
    rows = {"one step, single": {"0": {"raw": 0.2, "ema": 0.1, "narrowest": 0.5},
                                 "1": {"raw": 0.2, "ema": 0.3, "narrowest": 0.5}},
            "one step, free": {"0": {"raw": 0.2, "ema": 0.1, "narrowest": 0.5, "disagreement": 0.05}},
            "one step at 399, tied": {"0": {"raw": 0.2, "ema": 0.1, "narrowest": 0.5, "disagreement": 0.0}}}
    assert set(rows) < set(ROWS)
    assert markdown_table({"rows": rows}).split("\n")[2:] == [
        "| one step, single | 0.200 ± 0.141 | 0.200 ± 0.000 | 0.500 ± 0.000 | – | 0.051 |",
        "| one step, free | 0.100 | 0.200 | 0.500 | 0.050 | 0.103 |",
        "| one step at 399, tied | 0.100 | 0.200 | 0.500 | 0.000 | – |"]
