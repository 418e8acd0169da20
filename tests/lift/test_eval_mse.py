"""Errors of the noise prediction: predictors whose error is known, paired noise, ratios, and the command."""
import csv
import json
import math

import numpy as np
import pytest
import torch

from lift import checkpoints
from lift import eval_mse
from lift import measurements
from engine import synthetic_faces
from conftest import write_tiny_checkpoints
from data import load_images
from engine.errors import InputError
from engine.files import save_torch
from networks.scales import downsample_to_32
from scheduler import CLEAN, CosineSteps

SCHEDULE = CosineSteps()


@pytest.fixture(scope="module")
def images():
    """uint8 [6, 3, 64, 64]."""
    return np.random.RandomState(0).randint(0, 256, (6, 3, 64, 64)).astype(np.uint8)


@pytest.fixture
def batch(images):
    (_, x_0_64), = measurements.batches(images, 10, "cpu")
    return x_0_64, measurements.paired_noise(42, range(len(images)))


def predict_nothing(x_64, x_32, t_64, t_32):
    return torch.zeros_like(x_64), torch.zeros_like(x_32)


def predict_the_input(x_64, x_32, t_64, t_32):
    return x_64, x_32


def mean_square(x):
    return x.double().square().mean((1, 2, 3))


def test_predicting_nothing_costs_the_mean_square_of_the_noise(batch):
    x_0_64, noises = batch
    errors = measurements.squared_errors(predict_nothing, x_0_64, noises, (500, 100), SCHEDULE)
    torch.testing.assert_close(errors, torch.stack([mean_square(noise) for noise in noises]))


def test_predicting_the_noise_costs_nothing(batch):
    x_0_64, noises = batch
    errors = measurements.squared_errors(lambda *_: noises, x_0_64, noises, (500, 100), SCHEDULE)
    assert errors.tolist() == [[0.0] * 6] * 2


def test_reconciled_predictions_that_agree_stay_exact(batch):
    x_0_64, noises = batch
    errors = measurements.squared_errors(lambda *_: noises, x_0_64, noises, (500, 100), SCHEDULE, reconciled=True)
    assert errors.max() < 1e-6


def test_an_exact_32_prediction_mends_the_coarse_part_of_the_64_prediction(batch):
    """A 64 prediction of no noise is wrong by the noise; of that, the 32 scale's share of the 2x2 mean goes."""
    x_0_64, noises = batch
    errors = measurements.squared_errors(lambda *_: (torch.zeros_like(noises[0]), noises[1]), x_0_64, noises,
                                         (500, 300),
                                         SCHEDULE, reconciled=True)
    snr_64, snr_32 = SCHEDULE.snr(torch.tensor([500, 300])).double()
    coarse = downsample_to_32(noises[0]).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(errors[0], mean_square(noises[0] - snr_32 / (4 * snr_64 + snr_32) * coarse),
                               rtol=1e-4, atol=1e-5)
    own = measurements.squared_errors(predict_nothing, x_0_64, noises, (500, 300), SCHEDULE)
    assert (errors[0] < own[0]).all() and (errors[1] > 0).all()


def test_predicting_the_input_of_a_grey_image(batch):
    _, noises = batch
    t = 300
    errors = measurements.squared_errors(predict_the_input, torch.zeros(6, 3, 64, 64), noises, (t, t), SCHEDULE)
    factor = (1 - math.sqrt(1 - SCHEDULE.alphas_cumprod[t])) ** 2           # x_t = sqrt(1 - abar) noise
    torch.testing.assert_close(errors, factor * torch.stack([mean_square(noise) for noise in noises]), rtol=1e-5,
                               atol=0)


def test_a_clean_scale_is_clean_told_0_and_held_against_no_noise(batch):
    x_0_64, noises = batch
    seen = {}

    def model(x_64, x_32, t_64, t_32):
        seen.update(x_32=x_32, t_64=t_64, t_32=t_32)
        return x_64, x_32

    errors = measurements.squared_errors(model, x_0_64, noises, (500, CLEAN), SCHEDULE)
    x_0_32 = downsample_to_32(x_0_64)
    torch.testing.assert_close(seen["x_32"], x_0_32, rtol=0, atol=0)
    assert seen["t_64"].tolist() == [500] * 6 and seen["t_32"].tolist() == [0] * 6
    torch.testing.assert_close(errors[1], mean_square(x_0_32))              # the output itself, not a difference


def test_the_baseline_has_one_scale(batch):
    x_0_64, noises = batch
    errors = measurements.squared_errors(lambda x, t: torch.zeros_like(x), x_0_64, noises[:1], (7,), SCHEDULE)
    torch.testing.assert_close(errors, mean_square(noises[0])[None])


def test_cases_score_the_noisy_scales_alone():
    scored = {case.name: [scale for scale in ("64", "32") if case.is_scored(scale)]
              for case in measurements.noise_cases(0)}                      # also at t = 0, which is not clean
    assert scored == {"both noisy": ["64", "32"], "clean 32, noisy 64": ["64"], "clean 64, noisy 32": ["32"]}


def test_noise_depends_on_seed_and_image_alone(images):
    whole = measurements.paired_noise(1, range(6))[0]
    assert torch.equal(whole[4:5], measurements.paired_noise(1, [4])[0])
    assert not torch.equal(whole[4], whole[5])
    assert not torch.equal(whole, measurements.paired_noise(2, range(6))[0])


def test_batch_size_changes_nothing(images):
    cases = measurements.noise_cases(500)
    errors = [measurements.errors_by_case(predict_the_input, images, cases, 42, size, "cpu") for size in (6, 4, 1)]
    assert errors[0].shape == (3, 2, 6)
    for other in errors[1:]:
        np.testing.assert_allclose(other, errors[0], rtol=1e-6)
    assert not np.allclose(measurements.errors_by_case(predict_nothing, images, cases, 43, 6, "cpu")[0, 0],
                           measurements.errors_by_case(predict_nothing, images, cases, 42, 6, "cpu")[0, 0])


def test_mean_and_standard_error():
    mean, standard_error = measurements.mean_and_standard_error([1.0, 3.0, 5.0, 7.0])
    assert mean == 4 and standard_error == pytest.approx(math.sqrt(20 / 3 / 4))
    assert math.isnan(measurements.mean_and_standard_error([1.0])[1])


def test_ratio_and_standard_error():
    assert measurements.ratio_and_standard_error([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, 0.0)    # exact proportion
    ratio, standard_error = measurements.ratio_and_standard_error([1.0, 3.0], [1.0, 1.0])
    assert ratio == 2 and standard_error == pytest.approx(1)
    random = np.random.RandomState(0)
    b = 1 + 0.2 * random.rand(400)
    a = 0.9 * b + 0.05 * random.randn(400)
    picks = random.randint(0, 400, (4000, 400))                             # against the bootstrap
    expected = (a[picks].mean(1) / b[picks].mean(1)).std()
    assert measurements.ratio_and_standard_error(a, b)[1] == pytest.approx(expected, rel=0.05)


def test_leading_timesteps():
    t_64 = torch.arange(1000)
    assert (SCHEDULE.leading_t(t_64, 0.0) == t_64).all()
    t_32 = SCHEDULE.leading_t(t_64, math.log(4)).numpy()
    gain = (SCHEDULE.t_to_log_snr(t_32) - SCHEDULE.t_to_log_snr(t_64)).numpy()
    inside = t_32 > 0
    log_snrs = SCHEDULE.log_snrs.numpy()
    half_steps = np.maximum(log_snrs[t_32[inside] - 1] - log_snrs[t_32[inside]],
                            log_snrs[t_32[inside]] - log_snrs[np.minimum(t_32[inside] + 1, 999)]) / 2
    assert inside.sum() > 900 and (np.abs(gain[inside] - math.log(4)) <= half_steps + 1e-12).all()
    assert t_32[0] == 0 and (np.diff(t_32) >= 0).all()


def test_comparison_with_a_baseline_that_does_the_same(images):
    timesteps = np.array([0, 500, 999])
    curves = measurements.comparison_curves(timesteps, [2.0], SCHEDULE)
    assert list(curves) == ["32 pure noise", "diagonal", "32 leads by 2"]
    assert (curves["32 pure noise"] == 999).all() and (curves["diagonal"] == timesteps).all()

    def lift(x_64, x_32, t_64, t_32):
        return 0.5 * x_64, x_32

    of_baseline, of_lift = measurements.errors_beside_baseline(lift, lambda x_64, t_64: 0.5 * x_64, images, timesteps,
                                                               curves, 42, 4, "cpu")
    assert of_baseline.shape == (3, 6)
    for errors in of_lift.values():
        np.testing.assert_allclose(errors, of_baseline, rtol=1e-6)          # same images, same noise
    assert len(set(np.round(of_baseline.mean(1), 6))) == 3                  # and each at its own timestep


# --- the command ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of tiny random models."""
    return write_tiny_checkpoints(tmp_path_factory.mktemp("eval_mse"))


def run(folder, output, *more):
    eval_mse.main(["--checkpoint", str(folder / "lift_dual_timestep_1ep.pth"), "--dataset", "synthetic:40",
                   "--num_images", "5", "--batch_size", "3", "--cache_dir", str(folder / "cache"), "--device", "cpu",
                   "--num_threads", "1", "--output", str(output), *more])


def test_command_writes_table_figure_and_record(folder, tmp_path):
    run(folder, tmp_path / "mse")
    with open(tmp_path / "mse.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["scale"], row["scored"]) for row in rows] == [
        ("both noisy", "64", "yes"), ("both noisy", "32", "yes"), ("clean 32, noisy 64", "64", "yes"),
        ("clean 32, noisy 64", "32", "no"), ("clean 64, noisy 32", "64", "no"), ("clean 64, noisy 32", "32", "yes")]
    assert all(math.isfinite(float(row["mse"])) and float(row["standard_error"]) >= 0 for row in rows)
    record = json.loads((tmp_path / "mse.json").read_text())
    assert record["options"]["t"] == 500 and record["seed"] == 42 and len(record["rows"]) == 6
    assert (tmp_path / "mse.png").read_bytes().startswith(b"\x89PNG")
    run(folder, tmp_path / "again")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "mse.csv").read_bytes()     # seeds are fixed


def test_command_compares_with_a_baseline(folder, tmp_path):
    run(folder, tmp_path / "error", "--compare_baseline", str(folder / "baseline_1ep.pth"), "--num_timesteps", "3",
        "--leads", "1.39")
    with open(tmp_path / "error.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["t_64"]) for row in rows] == [0, 500, 999] * 3
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["mse_lift"]) / float(row["mse_baseline"]))
    assert (tmp_path / "error.png").exists() and "mse_linear" not in rows[0]


def test_beside_a_baseline_of_residuals_its_linear_denoiser_is_measured(folder, tmp_path):
    model = checkpoints.build_model("baseline", [8, 8, 8], "residual")
    model.linear_denoiser.fit(torch.from_numpy(synthetic_faces.draw_images(range(20))))
    save_torch(tmp_path / "nothing_1ep.pth", {"model_state": model.state_dict(), "hidden_dims": [8, 8, 8],
                                              "parametrization": "residual"})
    run(folder, tmp_path / "error", "--compare_baseline", str(tmp_path / "nothing_1ep.pth"), "--num_timesteps", "3",
        "--leads", "1.39", "--weights", "raw")
    with open(tmp_path / "error.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["t_64"]) for row in rows] == [0, 500, 999] * 3
    for row in rows:                                        # a network that puts out nothing
        assert float(row["mse_linear"]) == pytest.approx(float(row["mse_baseline"]), rel=1e-4) and \
            float(row["mse_linear"]) > 0


@pytest.mark.parametrize("more, words", [
    (["--num_images", "50"], "--num_images: found 50"),
    (["--checkpoint", "BASELINE"], "is a baseline checkpoint"),
    (["--compare_baseline", "LIFT"], "is a lift checkpoint"),
    (["--leads", "2"], "--leads: found 2, which has no effect without --compare_baseline"),
    (["--compare_baseline", "BASELINE", "--t", "400"], "--t: found 400, which has no effect with --compare_baseline"),
    (["--split", "nowhere"], "nowhere")])
def test_wrong_input_leaves_no_output(more, words, folder, tmp_path):
    names = {"BASELINE": str(folder / "baseline_1ep.pth"), "LIFT": str(folder / "lift_dual_timestep_1ep.pth")}
    with pytest.raises(InputError) as caught:
        run(folder, tmp_path / "mse", *(names.get(word, word) for word in more))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_timestep_beyond_the_last_is_a_wrong_option(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(folder, tmp_path / "mse", "--t", "1000")
    assert "--t: found '1000', expected a whole number of at least 0 and at most 999" in capsys.readouterr().err


def test_images_that_were_trained_on_are_said(folder, tmp_path, capsys):
    run(folder, tmp_path / "mse")
    assert "note: the training images are not at hand" in capsys.readouterr().out     # an earlier checkpoint says none
    options = {"dataset": "synthetic:40", "split": "train"}
    for split, expected in (("train[-6:]", "WARNING: 6 of the 6 images were trained on"), ("validation", None)):
        found = measurements.note_on_training_images(options, load_images("synthetic:40", split, tmp_path).images,
                                                     tmp_path)
        assert found == expected or found.startswith(expected)


def test_earlier_output_is_kept_unless_told_otherwise(folder, tmp_path):
    (tmp_path / "mse.json").write_text("earlier")
    with pytest.raises(InputError, match="--overwrite"):
        run(folder, tmp_path / "mse")
    assert [path.name for path in tmp_path.iterdir()] == ["mse.json"]
    run(folder, tmp_path / "mse", "--overwrite")
    assert (tmp_path / "mse.json").read_text() != "earlier"
