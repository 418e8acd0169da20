"""The test bed's exact teacher, its distance, and a short distillation that must come closer to the truth."""
import dataclasses
import json
import math
import statistics

import pytest
import torch

from conftest import ROOT
from distill.known_truth import (DEVIATION, CircleOfGaussians, Distillation, PointNetwork, Settings, exact_ddim,
                                 sliced_wasserstein_1, trained_denoiser)
from scheduler import CosineSteps
from scripts.benchmarks.distill_truth import (CURVES, FORMER, ROWS, SHOWN, draw_figure, half_way_table, markdown_table,
                                              mixture_table, order_table, write_tables)

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
    """Nor on whether another run has trained the start of both networks already."""
    monkeypatch.setattr("distill.known_truth.NUM_SCORED", 2000)
    settings = Settings(update_ratio=2, gan_weight=1e-2, denoiser_iterations=200, **{**SHORT, "iterations": 100})
    first, second = (Distillation(settings).run(every=100) for _ in range(2))
    assert first == second and trained_denoiser.cache_info().hits
    for before, after in zip(first[0]["distances"], first[-1]["distances"]):
        assert after < 0.8 * before


@pytest.mark.parametrize("time_everywhere", [False, True])
def test_the_network_knows_points_time_and_step(time_everywhere):
    """Of each seed on its own; the step's embedding starts at zero."""
    torch.manual_seed(0)
    network, t = PointNetwork(2, 3, time_everywhere), torch.tensor([10, 500] * 2)
    x = torch.randn(4, 2)
    output, logits = network(x, t, 1)
    assert output.shape == (4, 2) and logits.shape == (4,)
    assert torch.equal(output, network(x, t)[0])
    with torch.no_grad():
        network.step_embedding[0, 1] = 1
    told, told_logits = network(x, t, 1)
    assert (told - output)[:2].abs().min() > 1e-4 and torch.equal(told[2:], output[2:])
    assert (told_logits - logits)[:2].abs().min() > 1e-4 and torch.equal(network(x, t, 2)[0], output)
    for changed in (network(x + 0.1, t)[0], network(x, t + 100)[0]):
        assert (changed - output).abs().amax(1).min() > 1e-4


def test_every_image_of_a_chain_counts_in_training():
    """What backward simulation feeds to a step is what generation feeds to it: mean and spread agree."""
    run = Distillation(Settings(num_steps=3, critic_step=True, level_schedule=True, batch=4000, seeds=1, iterations=0,
                                denoiser_iterations=100))
    drawn = run.draw(4000, torch.Generator().manual_seed(5))
    for k in range(3):
        points = run.generated(run.input_of(k), k).detach()
        assert (points.mean(0) - drawn[k, 0].mean(0)).abs().max() < 0.05
        assert (points.std(0) - drawn[k, 0].std(0)).abs().max() < 0.05
    a, s = CosineSteps().levels(torch.tensor(run.times))
    assert torch.equal(run.renoised_to[2][0], a[2]) and torch.equal(run.renoised_to[1][1], s[1])


def test_the_text_shows_the_measured_tables(tmp_path):
    """Written again, nothing changes; a row whose settings are not today's is called so."""
    results = json.loads((ROOT / "results/published/distill/distill_truth.json").read_text(encoding="utf-8"))
    assert set(results["rows"]) <= set(ROWS) and len(results["rows"]) >= 20
    text = (ROOT / "distill/README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("| ratio 5 |", "| gone |"), encoding="utf-8")
    write_tables(tmp_path / "README.md", results)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
    for name, row in results["rows"].items():
        is_today = row["settings"] == dataclasses.asdict(Settings(**ROWS[name][0]))
        assert (f"| {name} | " if is_today else f"| {name}{FORMER} | ") in markdown_table(results)


def test_half_of_the_iterations_and_the_mixture_have_tables_of_their_own():
    """Of a run without a point at its half, the nearest; of one step there is no mixture."""
    history = [{"iteration": number, "distances": [0.1 * number, 0.1 * number]} for number in (0, 4, 7, 10)]
    rows = {"ratio 1": {"settings": {"iterations": 9}, "history": history, "distances": [0.01, 0.03]},
            "ratio 5": {"settings": {"iterations": 20}, "history": history, "distances": [0.01, 0.03]},
            "4 steps, both": {"distances": [0.01, 0.03], "distances_of_mixture": [0.2, 0.4]}}
    assert half_way_table({"rows": rows}).split("\n")[2:] == [
        "| ratio 1 | 0.400 ± 0.000 | 0.17–0.35 | 0.020 ± 0.014 |",
        "| ratio 5 | 1.000 ± 0.000 | 0.04–0.08 | 0.020 ± 0.014 |"]
    assert mixture_table({"rows": rows}).split("\n")[2:] == ["| 4 steps, both | 0.020 ± 0.014 | 0.300 ± 0.141 | – |"]


def test_what_the_text_says_of_half_the_iterations_and_of_mixtures_is_so():
    rows = json.loads((ROOT / "results/published/distill/distill_truth.json").read_text(encoding="utf-8"))["rows"]

    def mean(name, of="distances"):
        return statistics.mean(rows[name][of] if of in rows[name] else
                               next(point["distances"] for point in rows[name]["history"] if point["iteration"] == of))

    for more in ("", ", GAN"):
        assert mean(f"ratio 1{more}", 1500) > 3 * mean(f"ratio 5{more}", 1500)
        assert abs(mean(f"ratio 1{more}") - mean(f"ratio 5{more}")) < 0.01
    gains = {name: mean(name) - mean(name, "distances_of_mixture") for name in rows if name.startswith("4 steps")}
    assert gains.pop("4 steps, published critic") > 0.005 and max(gains.values()) < 0
    assert all(gains[f"4 steps, {name}"] < -0.02 for name in ("level schedule alone", "both"))


def test_the_order_is_judged_by_means_and_spreads():
    def row(*distances, reference=None):
        return {"distances": distances, "reference": reference}
    rows = {"ratio 5": row(0.1, 0.12, reference=(0.1, 0.01)), "ratio 5, GAN": row(0.2, 0.22, reference=(0.1, 0.01)),
            "ratio 1": row(0.3, 0.31), "ratio 10": row(0.09, 0.15)}
    table = order_table({"rows": rows, "references": {"floor": [0.01, 0.03]}}).split("\n")
    assert table[2:-2] == ["| ratio 5, GAN | ratio 5 | farther |", "| ratio 5 | ratio 1 | closer |",
                           "| ratio 5 | ratio 10 | level within the spread of the seeds |"]
    assert table[-1] == ("Two draws of the truth are 0.0200 apart. Within 3 deviations of their reference: 1 of 2 "
                         "rows; not so: ratio 5, GAN.")


def test_the_figure_draws_rows_that_there_are_and_leaves_out_what_is_not_measured():
    assert {*SHOWN, *(name for names in CURVES.values() for name in names)} <= set(ROWS)
    row = {"points": [[0.0, 0.5]], "settings": {"iterations": 4},
           "history": [{"iteration": 0, "distances": [0.5]}, {"iteration": 4, "distances": [0.1, 0.3]}]}
    *panels, last = draw_figure({"ratio 5": row}).axes[-3:]
    assert [[list(line.get_ydata()) for line in panel.lines] for panel in panels] == [[[0.5, 0.2]]] * 2
    assert not last.lines
