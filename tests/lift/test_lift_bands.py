"""S1's model of two bands: the baseline at equal timesteps, in training, sampling, error maps and checkpoints."""
import json

import numpy as np
import pytest
import torch

import data
import eval_fid_batch
import families
import generate_with_path_30
from baseline_model import BaselineModel
from engine.errors import InputError
from engine.files import save_torch
from engine.sampling import start_noise
from lift import checkpoints, error_map, eval_mse, measurements, objective, path_costs, sampling, super_resolve
from lift.coupling import TimestepModel, timestep_denoiser
from lift.options import SOLVERS
from model import LIFTBandModel, LIFTDualTimestepModel
from networks import bands
from networks.linear_denoiser import LinearDenoiser, fold_of_means
from scheduler import CosineSteps, predict_x_0
from train_lift import parse_args

SCHEDULE = CosineSteps()
DIMS = [16, 8]
OUTPUTS = ("eps", "v", "residual")


def images(count: int = 6) -> torch.Tensor:
    """Smooth random images: uint8 [count, 3, 64, 64]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, 64, mode="bilinear") * 255).to(torch.uint8)


def pair(parametrization: str) -> tuple[BaselineModel, LIFTBandModel]:
    """A baseline and a model of two bands with its weights, all drawn at random."""
    torch.manual_seed(0)
    single, double = BaselineModel(DIMS, parametrization), LIFTBandModel(DIMS, parametrization)
    if parametrization == "residual":
        double.linear_denoiser.fit(images())
        for layer in double.final_conv[-1].parameters():
            torch.nn.init.normal_(layer, std=0.1)
    state = {name: value for name, value in double.state_dict().items() if not name.startswith("lead_mlp")}
    single.load_state_dict(state)
    return tuple(model.requires_grad_(False).eval() for model in (single, double))


@pytest.mark.parametrize("parametrization", OUTPUTS)
@torch.no_grad()
def test_at_equal_timesteps_it_is_the_baseline(parametrization):
    single, double = pair(parametrization)
    x, t = torch.randn(2, 3, 64, 64), torch.tensor([800, 30])
    noise = single(x, t)
    fine, coarse = double(*bands.split(x), t, t)
    assert torch.allclose(bands.joined(fine, coarse), noise, atol=1e-4 * noise.abs().max())
    assert bands.coarse_part(fine).abs().max() < 1e-4
    other = double(bands.split(x)[0] + 1, bands.split(x)[1], t, t)      # the fine part's coarse part is not looked at
    assert torch.allclose(other[0], fine, atol=1e-3 * noise.abs().max())
    assert (double(*bands.split(x), t, t.flip(0))[0] - fine).abs().max() > 1e-4
    for solver in SOLVERS:                                              # and so from the same noise to the same image
        [start] = start_noise([(3, 64, 64)], 0, [0])
        path = sampling.uniform_diagonal(4)
        expected = sampling.denoise_scales(single, path, [start], solver=solver).x_64
        found = sampling.denoise_scales(double, path, bands.split(start), solver=solver)
        assert torch.allclose(found.x_64, expected, atol=2e-3)
        assert torch.allclose(found.x_32, torch.nn.functional.avg_pool2d(found.x_64, 2)) and found.num_model_calls == 4


def test_the_batch_and_the_loss_are_the_baselines():
    single, double = pair("eps")
    rule, part = objective.TimestepRule("diagonal"), slice(0, 4)
    one, two = (objective.training_batch(images(), torch.arange(4), rule, 0, 0, part, True, SCHEDULE,
                                         torch.device("cpu"), has_bands) for has_bands in (False, True))
    for whole, parts in ((one.x_0_64, (two.x_0_64, two.x_0_32)), (one.noise_64, (two.noise_64, two.noise_32))):
        assert torch.allclose(bands.joined(*parts), whole, atol=1e-6)
    for target in ("eps", "v"):
        [expected] = objective.errors_per_image(single, 1, one, SCHEDULE, "float32", target)
        fine, coarse = objective.errors_per_image(double, 2, two, SCHEDULE, "float32", target)
        assert torch.allclose(fine + coarse / 4, expected, rtol=1e-4)


def test_clock_timesteps():
    """Half with t_64 uniform and the 32 ahead, half with t_32 uniform and the 64 behind, never past an end."""
    rule = objective.timestep_rule(parse_args(["--bands", "--timesteps", "clock", "--clock_lead", "0.5", "1.5"]))
    t_64, t_32 = objective.draw_timesteps(rule, 4000, torch.Generator().manual_seed(0), SCHEDULE)
    for uniform in (t_64[::2], t_32[1::2]):
        assert abs(uniform.double().mean() - 499.5) < 15 and uniform.min() < 5 and uniform.max() > 994
    inside = (t_64 < 990) & (t_32 > 10)
    lead = (SCHEDULE.t_to_log_snr(t_32) - SCHEDULE.t_to_log_snr(t_64))[inside]
    assert 0.4 < lead.min() and lead.max() < 1.6 and abs(lead.mean() - 1) < 0.02
    assert (t_32 <= t_64).all()


# --- the linear denoiser of two bands --------------------------------------------------------------------------------

def test_folding_is_the_two_by_two_mean():
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    denoiser, F = LinearDenoiser(), fold_of_means()
    expected = denoiser.coefficients(bands.coarse_part(x))
    assert torch.allclose(F @ denoiser.coefficients(x) @ F.T, expected, atol=1e-10)
    assert ((F.abs() > 1e-12).sum(0) <= 1).all() and torch.allclose(F @ F.T, torch.eye(32, dtype=torch.float64))


def test_the_estimate_is_the_posterior_of_a_gaussian():
    """One frequency and its three aliases, whose precision matrix is written out and inverted; other coefficients have
    other aliases and say nothing of these."""
    denoiser = LinearDenoiser()
    denoiser.mean_64.copy_(torch.randn(3, 64, 64))
    denoiser.variance_64.copy_(torch.rand(3, 64, 64) + 0.1)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    abar_64, abar_32 = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    estimate, deviation = denoiser.estimate_of_bands(x, abar_64, abar_32)
    F, c = fold_of_means(), denoiser.coefficients(x)[0]
    for colour, row, column in ((0, 3, 5), (2, 20, 9), (1, 31, 1)):
        rows, columns = [row, 64 - row], [column, 64 - column]
        u = torch.outer(F[row, rows], F[column, columns]).flatten()
        assert torch.isclose(u.square().sum(), torch.tensor(1.0).double())
        P = torch.outer(u, u)
        at = (colour, torch.tensor(rows)[:, None], torch.tensor(columns))
        A = abar_64.sqrt() * (torch.eye(4) - P) + abar_32.sqrt() * P
        noise = (1 - abar_64) * (torch.eye(4) - P) + (1 - abar_32) * P
        prior = torch.diag(1 / denoiser.variance_64[at].double().flatten())
        covariance = torch.linalg.inv(prior + A @ torch.linalg.inv(noise) @ A)
        mean = covariance @ (prior @ denoiser.mean_64[at].double().flatten()
                             + A @ torch.linalg.inv(noise) @ c[at].flatten())
        assert torch.allclose(estimate[0][at].flatten(), mean, atol=1e-8)
        assert torch.allclose(deviation[0][at].flatten().square(), covariance.diag(), atol=1e-8)
    same, precision = denoiser.estimates([x], [abar_64])[0]
    found = denoiser.estimate_of_bands(x, abar_64, abar_64)
    assert torch.allclose(found[0], same, atol=1e-10) and torch.allclose(found[1], precision.rsqrt(), atol=1e-10)


@torch.no_grad()
def test_a_residual_model_starts_at_the_linear_denoiser():
    model = LIFTBandModel(DIMS, "residual")
    model.linear_denoiser.fit(images())
    x, t_64, t_32 = torch.randn(2, 3, 64, 64), torch.tensor([700, 400]), torch.tensor([500, 100])
    noises = model(*bands.split(x), t_64, t_32)
    abars = [SCHEDULE.alpha_cumprod(t) for t in (t_64, t_32)]
    clean = bands.joined(*(predict_x_0(part, noise, abar, clip=False)
                           for part, noise, abar in zip(bands.split(x), noises, abars)))
    abars = [SCHEDULE.alpha_cumprod_at(t) for t in (t_64, t_32)]
    estimate = model.linear_denoiser.estimate_of_bands(x.double(), *abars)[0]
    assert torch.allclose(clean.double(), model.linear_denoiser.image(estimate), atol=1e-3)


# --- maps, errors, checkpoints ---------------------------------------------------------------------------------------

class Halves(torch.nn.Module):
    """Noise predictions that are linear in the parts: the fine one times 2, the coarse one times 3."""

    model_type, has_bands = "lift", True

    def forward(self, x_64, x_32, t_64, t_32):
        return 2 * bands.split(x_64)[0], 3 * x_32


def test_error_map_of_known_jacobians():
    found = error_map.estimate(Halves(), images().numpy(), [600, 300], K=3, batch_size=2, chain_rule="none")
    blocks = found["blocks"]["eps"]
    assert blocks["64<-64"].mean().item() == pytest.approx(2**2 * 3, rel=0.02)
    assert blocks["32<-32"].mean().item() == pytest.approx(3**2 * 3, rel=0.02)
    assert blocks["64<-32"].abs().max() == 0 and blocks["32<-64"].abs().max() < 1e-6


def test_error_map_of_a_network():
    _, double = pair("residual")
    found = error_map.estimate(double, images().numpy(), [600, 300], K=1, batch_size=2)
    assert found["error_64"].isfinite().all() and (found["error_64"] > 0).all() and (found["error_32"] > 0).all()


def test_step_doubling_of_equal_timesteps_is_the_baselines():
    """And a move of either band alone costs something, also once the other one has arrived."""
    single, double = pair("v")
    x_0, timesteps = objective.from_uint8(images(1)), np.array([999, 600, 300, 0])
    of_one, of_bands = (path_costs.Measurement(model, x_0, timesteps) for model in (single, double))
    of_one.noise = [bands.joined(*of_bands.noise)]
    starts, ends = np.array([0, 1, 2, 1]), np.array([1, 2, 3, 3])
    expected = path_costs.step_doubling_costs(of_one, starts[:, None], ends[:, None])
    found = path_costs.step_doubling_costs(of_bands, np.stack([starts] * 2, 1), np.stack([ends] * 2, 1))
    assert np.allclose(found, expected, rtol=1e-3) and (expected > 0).all()
    alone = path_costs.step_doubling_costs(of_bands, np.array([[1, 1], [1, 1], [3, 1], [1, 3], [3, 3]]),
                                           np.array([[2, 1], [1, 2], [3, 3], [3, 3], [3, 3]]))
    assert (alone[:4] > 0).all() and alone[4] == 0
    plan = path_costs.plan_edges(timesteps, 2, 3)
    calls = []
    original = of_bands.model.forward
    of_bands.model.forward = lambda *inputs: (calls.append(len(inputs[0])), original(*inputs))[1]
    path_costs.step_doubling_costs(of_bands, plan.starts, plan.ends)
    assert sum(calls) == path_costs.step_doubling_num_calls(plan, 1, 2)


def test_errors_are_measured_beside_the_baseline():
    single, double = pair("v")
    of_one, of_bands = measurements.errors_beside_baseline(
        double, single, images(2).numpy(), [700, 100], {"diagonal": np.array([700, 100])}, 0, 2, torch.device("cpu"))
    assert np.allclose(of_bands["diagonal"], of_one, rtol=1e-3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a checkpoint of two bands, with random weights, and of a baseline's."""
    folder = tmp_path_factory.mktemp("bands")
    for model, name in zip(pair("v"), ("baseline_2ep.pth", "lift_bands_2ep.pth")):
        save_torch(folder / name, {"family": "lift", "model_type": model.model_type, "model_state": model.state_dict(),
                                   "hidden_dims": DIMS, "parametrization": "v", "epochs": 2, "options": {}})
    return folder / "lift_bands_2ep.pth"


SMALL = ["--weights", "raw", "--device", "cpu", "--num_threads", "1"]
FOUR = ["--dataset", "synthetic:40", "--num_images", "4", "--batch_size", "4", "--precision", "float32"]


@pytest.mark.parametrize("command, words, option", [
    (eval_mse, [*FOUR, "--reconciled"], "--reconciled: found"),
    (eval_mse, [*FOUR, "--reconciled", "--compare_baseline", "BASELINE"], "--reconciled: found"),
    (super_resolve, [*FOUR, "--x32", "joint", "reconciled"], "--x32: found reconciled"),
    (generate_with_path_30, ["--x32", "from_64"], "--x32: found from_64"),
    (eval_fid_batch, ["--x32", "random", "--metrics", "swd"], "--x32: found random")])
def test_bands_are_not_asked_to_agree_before_any_work(command, words, option, written, tmp_path, monkeypatch):
    for module in (data, eval_mse, super_resolve):
        monkeypatch.setattr(module, "load_images", lambda *_, **__: pytest.fail("images were loaded"))
    monkeypatch.setattr(sampling, "denoise_scales", lambda *_, **__: pytest.fail("images were made"))
    words = [str(written.with_name("baseline_2ep.pth")) if word == "BASELINE" else word for word in words]
    monkeypatch.setattr("sys.argv", ["command", "--checkpoint", str(written), *SMALL, *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{option} for a model of two bands, whose parts cannot disagree; leave it "):
        command.main()
    assert not list(tmp_path.iterdir())


def test_super_resolution_of_bands_holds_the_coarse_part(written, tmp_path):
    """By default it is measured as it can be, by its own predictions; and what is given is found again."""
    super_resolve.main(["--checkpoint", str(written), *SMALL, *FOUR, "--num_steps", "2", "--cache_dir",
                        str(tmp_path / "cache"), "--output", str(tmp_path / "sr")])
    record = json.loads((tmp_path / "sr.json").read_text())
    assert list(record["per_image"]) == ["bicubic", "LIFT"] and record["options"]["x32"] == ["joint"]


def test_checkpoint_of_any_family_and_what_is_refused(tmp_path):
    _, double = pair("v")
    path = tmp_path / "lift_bands_2ep.pth"
    save_torch(path, {"family": "lift", "model_type": "lift", "model_state": double.state_dict(), "hidden_dims": DIMS,
                      "parametrization": "v", "epochs": 2, "options": {}})
    loaded = checkpoints.load_model(path, "lift", "raw")
    assert isinstance(loaded.model, LIFTBandModel)
    denoiser = families.load(path, "raw").denoiser
    assert isinstance(denoiser, bands.BandDenoiser) and denoiser.shapes == [(3, 64, 64), (3, 32, 32)]
    xs, ts = bands.split(torch.randn(1, 3, 64, 64)), [torch.tensor([600]), torch.tensor([400])]
    for found, expected in zip(TimestepModel(denoiser)(*xs, *ts), loaded.model(*xs, *ts)):
        assert torch.allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="--x32: found from_64 for a model of two bands"):
        sampling.generate(loaded.model, sampling.uniform_diagonal(2), 0, [0], x32_mode="from_64")
    with pytest.raises(InputError, match="--reconciled: found for a model of two bands"):
        measurements.squared_errors(loaded.model, torch.zeros(1, 3, 64, 64), xs, (5, 5), SCHEDULE, reconciled=True)
    with pytest.raises(InputError, match="edge costs: found directional for a model of two bands"):
        path_costs.directional_edge_costs(loaded.model, images(1).numpy(), [999, 500, 0], num_steps=2, max_jump=1)
    for words, message in [(["--timesteps", "fused"], "--timesteps: found fused with --bands"),
                           (["--native_32"], "--native_32: found"),
                           (["--loss_scales", "64"], "--loss_scales: found 64")]:
        with pytest.raises(InputError, match=message):
            parse_args(["--bands", *words])
    assert timestep_denoiser(LIFTDualTimestepModel(DIMS), 2).image([1, 2]) == 1
