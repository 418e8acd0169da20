"""Exposure bias: closed forms of a linear denoiser, whose every input on the way is normal, and the command."""
import csv
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from conftest import write_tiny_checkpoints
from engine.errors import InputError
from engine.sampling import from_uint8, start_noise
from lift import checkpoints, eval_mse, exposure, measurements
from lift.coupling import NOISIEST_SHAPES
from lift.paths import lead_path, FIXED_LEADS
from lift.sampling import uniform_diagonal
from networks.bands import coarse_part, split
from scheduler import CosineSteps

SCHEDULE = CosineSteps()
VARIANCE = 0.04                                         # of the images' pixels


class Linear(nn.Module):
    """Predicts `factor` times the noise that a normal law of independent pixels implies; exact for factor 1."""

    def __init__(self, model_type: str = "baseline", factor: float = 1.0, has_bands: bool = False):
        super().__init__()
        self.model_type, self.factor, self.has_bands = model_type, factor, has_bands
        self.unused = nn.Parameter(torch.zeros(1))

    def of_scale(self, x, t, variance):
        a, s = (level.reshape(-1, 1, 1, 1) for level in SCHEDULE.levels(t))
        return self.factor * s * x / (a**2 * variance + s**2)

    def forward(self, *inputs):
        if len(inputs) == 2:
            return self.of_scale(*inputs, VARIANCE)
        x_64, x_32, t_64, t_32 = inputs
        fine = self.of_scale(x_64, t_64, VARIANCE)
        coarse = self.of_scale(x_32, t_32, VARIANCE if self.has_bands else VARIANCE / 4)
        return [split(fine)[0] if self.has_bands else fine, coarse]


@pytest.fixture(scope="module")
def images():
    """uint8 [4, 3, 64, 64], independent normal pixels."""
    pixels = np.random.RandomState(0).normal(0, math.sqrt(VARIANCE), (4, 3, 64, 64))
    return ((pixels + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def measured(model, images, path, **options):
    found = exposure.errors_and_norms(model, images, path, 1, 42, 3, "cpu", **options)
    assert all(values.shape == (len(path) - 1, len(images)) for values in found.values())
    return {name: values.mean(1) for name, values in found.items()}


@pytest.mark.parametrize("model_type, has_bands", [("baseline", False), ("lift", False), ("lift", True)])
def test_an_exact_network_with_fine_steps_meets_what_it_was_trained_on(model_type, has_bands, images):
    path = uniform_diagonal(250)
    found = measured(Linear(model_type, has_bands=has_bands), images, path)
    for above in ("met", "own"):
        np.testing.assert_allclose(found[f"norm_{above}"], found["norm_true"], rtol=0.02)
    abar = SCHEDULE.alphas_cumprod[torch.from_numpy(path[:-1, 0])].numpy()
    total = abar * VARIANCE + 1 - abar
    np.testing.assert_allclose(found["error_true"], abar * VARIANCE / total, rtol=0.04)     # that of the best guess
    np.testing.assert_allclose(found["norm_true"], np.sqrt((1 - abar) / total), rtol=0.02)
    np.testing.assert_allclose(found["error_own"], found["error_true"], rtol=0.05)


def test_a_network_that_takes_away_too_little_noise_meets_too_noisy_images(images):
    """Every step multiplies the image with a number, so all three norms are known; images are not what differs."""
    factor, path = 0.96, uniform_diagonal(30)
    found = measured(Linear(factor=factor), images, path)
    abar = np.append(SCHEDULE.alphas_cumprod[torch.from_numpy(path[:-1, 0])].numpy(), 1.0)
    a, s = np.sqrt(abar), np.sqrt(1 - abar)
    gain = factor * s / (a**2 * VARIANCE + s**2)                            # predicted noise over the image
    steps = a[1:] * (1 - s[:-1] * gain[:-1]) / a[:-1] + s[1:] * gain[:-1]
    met = np.cumprod(np.append(1.0, steps))                                 # deviation of the image, before every step
    own = np.sqrt(a**2 * met[-1]**2 + s**2)
    np.testing.assert_allclose(found["norm_met"], (gain * met)[:-1], rtol=0.02)
    np.testing.assert_allclose(found["norm_own"], (gain * own)[:-1], rtol=0.02)
    np.testing.assert_allclose(found["norm_true"], (gain * np.sqrt(a**2 * VARIANCE + s**2))[:-1], rtol=0.02)
    assert (found["norm_met"] / found["norm_own"]).max() > 1.03


def test_what_was_met_is_what_the_sampler_asked_of_the_network(images):
    """Before the first step it is noise; a lead's norm is the 64 scale's; agreeing predictions are other ones."""
    path = lead_path(6, FIXED_LEADS["lead_2"])
    model = Linear("lift", factor=0.9)
    plain = measured(model, images, path)
    noises = start_noise(NOISIEST_SHAPES, 1, range(4))
    t = torch.full((4,), 999)
    first = model(*noises, t, t)[0].square().mean((1, 2, 3)).sqrt().mean()
    assert plain["norm_met"][0] == pytest.approx(float(first), rel=1e-5)
    agreeing = measured(model, images, path, reconciled=True)
    assert abs(agreeing["norm_met"] - plain["norm_met"]).max() > 1e-3


def test_a_band_that_has_arrived_counts_no_noise(images):
    """At t_32 = 0 of a path the coarse band is clean, so the norm is the fine band's alone."""
    path = np.array([[999, 999], [600, 300], [400, 0], [0, 0]])
    model = Linear("lift", has_bands=True)
    found = measured(model, images, path)
    x_0, noise = from_uint8(torch.from_numpy(images)), measurements.paired_noise(42, range(4))[0]
    t = torch.full((4,), 400)
    fine = split(SCHEDULE.add_noise(x_0, noise, t))[0]
    predicted = model(fine, coarse_part(x_0), t, torch.zeros(4, dtype=torch.int64))[0]
    assert found["norm_true"][2] == pytest.approx(float(predicted.square().mean((1, 2, 3)).sqrt().mean()), rel=1e-5)


def test_rows_have_ratios_with_errors(images):
    path = uniform_diagonal(5)
    found = exposure.errors_and_norms(Linear(factor=0.9), images, path, 1, 42, 4, "cpu")
    rows = exposure.rows_by_step(found, path)
    assert [row["t_64"] for row in rows] == path[:-1, 0].tolist()
    for k, row in enumerate(rows):
        assert row["met_over_own"] == pytest.approx(found["norm_met"][k].mean() / found["norm_own"][k].mean())
        assert row["met_over_true"] == pytest.approx(row["met_over_own"] * row["own_over_true"])
        assert 0 < row["met_over_own_standard_error"] < 0.02


# --- the command ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of tiny random models."""
    return write_tiny_checkpoints(tmp_path_factory.mktemp("exposure"))


def run(folder, output, *more):
    eval_mse.main(["--checkpoint", str(folder / "lift_dual_timestep_1ep.pth"), "--compare_baseline",
                   str(folder / "baseline_1ep.pth"), "--inputs", "self", "--dataset", "synthetic:40", "--num_images",
                   "3", "--batch_size", "2", "--cache_dir", str(folder / "cache"), "--device", "cpu", "--num_threads",
                   "1", "--num_steps", "3", "--output", str(output), *more])


def test_command_writes_a_row_per_model_path_and_timestep(folder, tmp_path):
    run(folder, tmp_path / "exposure", "--paths", "diagonal", "lead_3")
    with open(tmp_path / "exposure.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["path"], int(row["t_64"])) for row in rows] == [
        (model, path, t) for model, path in (("baseline", "uniform"), ("lift", "diagonal"), ("lift", "lead_3"))
        for t in (999, 666, 333)]
    assert {(row["num_steps"], row["sampling_seed"]) for row in rows} == {("3", "42")}
    record = json.loads((tmp_path / "exposure.json").read_text())
    assert record["options"]["num_steps"] == 3 and record["options"]["sampling_seed"] == 42 and len(record["rows"]) == 9
    assert (tmp_path / "exposure.png").read_bytes().startswith(b"\x89PNG")
    # The errors on images are those of the comparison by timestep, image by image and noise by noise.
    models = [checkpoints.load_model(folder / name, kind, "ema", "cpu").model
              for name, kind in (("baseline_1ep.pth", "baseline"), ("lift_dual_timestep_1ep.pth", "lift"))]
    from data import load_images
    images = load_images("synthetic:40", "validation", folder / "cache").images[:3]
    t = np.array([999, 666, 333])
    of_baseline, of_lift = measurements.errors_beside_baseline(models[1], models[0], images, t, {"diagonal": t}, 42, 3,
                                                               "cpu")
    expected = [*of_baseline.mean(1), *of_lift["diagonal"].mean(1)]
    assert [float(row["error_true"]) for row in rows[:6]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("more, words", [
    (["--num_timesteps", "3"], "--num_timesteps: found 3, which has no effect with --inputs self"),
    (["--inputs", "true"], "--num_steps: found 3, which has no effect without --inputs self")])
def test_options_without_effect_are_told(more, words, folder, tmp_path):
    with pytest.raises(InputError, match=words):
        run(folder, tmp_path / "exposure", *more)
    assert not list(tmp_path.iterdir())


def test_own_inputs_need_a_baseline(folder):
    with pytest.raises(InputError, match="--inputs: found self, which has no effect without --compare_baseline"):
        eval_mse.main(["--checkpoint", str(folder / "lift_dual_timestep_1ep.pth"), "--inputs", "self"])
