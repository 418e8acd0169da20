"""The error map against closed forms: exact Jacobians, linear-Gaussian denoisers, identity, and its own statistics."""
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lift import error_map, heatmap_file, path_summary
from lift import dynamic_program, paths
from lift.options import NORMALIZATIONS, PREDICTIONS, STEP_SIZES
from conftest import blank_v_model, with_reference_weights
from engine.errors import InputError
from engine.files import save_torch
from model import LIFTDualTimestepModel
from networks.scales import downsample_to_32
from scheduler import CosineSteps, per_image

SCHEDULE = CosineSteps()
INPUT_PIXELS = {"64<-64": 4096, "32<-64": 4096, "64<-32": 1024, "32<-32": 1024}


class Denoiser(torch.nn.Module):
    """Called as LIFT is; has one parameter, so that its device can be found."""
    model_type = "lift"

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))


class Identity(Denoiser):
    """Noise prediction whose Jacobian is the identity at both scales."""

    def forward(self, x_64, x_32, t_64, t_32):
        return x_64 + 0.5, x_32 - 0.5


class BlockGaussian(Denoiser):
    """Exact denoiser of images that are constant on 2x2 blocks, each block's value normal with variance c.

    With z = x / sqrt(abar), a block is seen five times: four pixels of z_64, one of z_32. Its posterior mean is
    (SNR_64 sum(z_64) + SNR_32 z_32) / L, L = 1/c + 4 SNR_64 + SNR_32.
    """
    c = 0.25

    def forward(self, x_64, x_32, t_64, t_32):
        abar_64, abar_32 = (per_image(SCHEDULE.alpha_cumprod(t), x_64) for t in (t_64, t_32))
        snr_64, snr_32 = abar_64 / (1 - abar_64), abar_32 / (1 - abar_32)
        precision = 1 / self.c + 4 * snr_64 + snr_32
        seen = F.avg_pool2d(x_64, 2) * (4 * snr_64 / abar_64.sqrt()) + x_32 * (snr_32 / abar_32.sqrt())
        mean = seen / precision
        mean_64 = F.interpolate(mean, scale_factor=2, mode="nearest")
        return ((x_64 - abar_64.sqrt() * mean_64) / (1 - abar_64).sqrt(),
                (x_32 - abar_32.sqrt() * mean) / (1 - abar_32).sqrt())

    @classmethod
    def exact(cls, t_64: int, t_32: int) -> dict:
        """Squared Frobenius norms of the Jacobian blocks: {prediction: {block: value}}, from 3 x 32 x 32 blocks."""
        a_64, a_32 = (float(SCHEDULE.alphas_cumprod[t]) for t in (t_64, t_32))
        snr_64, snr_32 = a_64 / (1 - a_64), a_32 / (1 - a_32)
        precision = 1 / cls.c + 4 * snr_64 + snr_32
        by_64, by_32 = snr_64 / precision / a_64**0.5, snr_32 / precision / a_32**0.5     # d mean / d x per pixel
        blocks = 3 * 32 * 32
        x0 = {"64<-64": 16 * by_64**2, "32<-64": 4 * by_64**2, "64<-32": 4 * by_32**2, "32<-32": by_32**2}
        share_64, share_32 = a_64**0.5 * by_64, a_32**0.5 * by_32
        eps = {"64<-64": (4 * (1 - share_64)**2 + 12 * share_64**2) / (1 - a_64),
               "32<-64": a_32 / (1 - a_32) * 4 * by_64**2,
               "64<-32": a_64 / (1 - a_64) * 4 * by_32**2,
               "32<-32": (1 - share_32)**2 / (1 - a_32)}
        return {"eps": {k: v * blocks for k, v in eps.items()}, "x0": {k: v * blocks for k, v in x0.items()}}


@pytest.mark.parametrize("precision, timesteps", [("float32", [999, 500, 0]), ("bf16", [500, 0])])
def test_jacobians_of_a_v_model(precision, timesteps):
    """Both scales' own blocks in closed form, 3 (1 - abar) and 3 abar, in float32 and with the network in bf16, which
    is slow on processors that do not know it."""
    heatmap = error_map.estimate(blank_v_model("lift"), some_images(2), timesteps, K=1, batch_size=2, chain_rule="none",
                                 precision=precision)
    abar, n = SCHEDULE.alphas_cumprod[timesteps], len(timesteps)
    for block, values in (("64<-64", abar[:, None].expand(n, n)), ("32<-32", abar[None].expand(n, n))):
        torch.testing.assert_close(heatmap["blocks"]["eps"][block], 3 * (1 - values), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(heatmap["blocks"]["x0"][block], 3 * values, rtol=1e-3, atol=1e-6)
    for block in ("64<-32", "32<-64"):
        assert not heatmap["blocks"]["eps"][block].any() and not heatmap["blocks"]["x0"][block].any()


def test_chunks_shrink_until_memory_holds_them(monkeypatch):
    plain = error_map.estimate(small_model(), some_images(3), [999, 0], K=1, batch_size=3)
    whole, sizes = error_map.squared_norms, []

    def with_little_memory(model, draws, which, *rest, holds=2):
        sizes.append(len(which))
        if len(which) > holds:
            raise torch.cuda.OutOfMemoryError
        return whole(model, draws, which, *rest)

    monkeypatch.setattr(error_map, "squared_norms", with_little_memory)
    found = error_map.estimate(small_model(), some_images(3), [999, 0], K=1, batch_size=3, chunk_size=20)
    assert sizes[:4] == [10, 5, 2, 2] and set(sizes[2:]) == {2} and found["num_primals"] == 12
    torch.testing.assert_close(found["error_64"], plain["error_64"], rtol=1e-5, atol=0)
    monkeypatch.setattr(error_map, "squared_norms", functools.partial(with_little_memory, holds=0))
    with pytest.raises(InputError, match="its memory does not hold one image"):
        error_map.estimate(small_model(), some_images(3), [999, 0], K=1, batch_size=3, chunk_size=20)


def some_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)


def small_model() -> LIFTDualTimestepModel:
    return with_reference_weights(LIFTDualTimestepModel((8, 8)))


def test_exact_jacobian_is_inside_the_interval(golden):
    """All four blocks at both reference cells; hidden dims 8, 16, one image, squared norms by the full Jacobian."""
    model = with_reference_weights(LIFTDualTimestepModel(golden["jac_dims"].tolist()))
    num_probes = 24
    for cell, exact in zip(golden["jac_cells"], golden["jac_frobenius_sq"]):
        squares = []
        for batch in range(3):
            draws = error_map.Draws(some_images(num_probes // 3), range(num_probes // 3), 1, 100 + batch, "cpu")
            draws.x_0_64 = torch.from_numpy(golden["jac_x64"]).expand(num_probes // 3, -1, -1, -1)
            draws.x_0_32 = downsample_to_32(draws.x_0_64)
            draws.noise_64 = torch.from_numpy(golden["jac_noise64"]).expand_as(draws.x_0_64)
            draws.noise_32 = torch.from_numpy(golden["jac_noise32"]).expand_as(draws.x_0_32)
            t_64, t_32 = (torch.full((num_probes // 3,), int(t)) for t in cell)
            which = torch.arange(num_probes // 3)
            squares.append(error_map.squared_norms(model, draws, which, t_64, t_32, SCHEDULE)[0])
        squares = torch.cat(squares, dim=1).numpy()                                          # [4, probes]
        standard_error = squares.std(1, ddof=1) / num_probes**0.5
        deviation = (squares.mean(1) - exact) / standard_error
        assert (np.abs(deviation) < 4).all(), deviation
        assert (standard_error < 0.05 * exact).all()


@pytest.mark.parametrize("chain_rule", error_map.CHAIN_RULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_linear_gaussian_denoiser_agrees_with_the_formula(chain_rule, prediction):
    timesteps = np.array([999, 700, 400, 100])
    heatmap = error_map.estimate(BlockGaussian(), some_images(4), timesteps, K=2, batch_size=4, chain_rule=chain_rule,
                                 prediction=prediction)
    formula = {"localization": lambda snr: 1 / (snr * (1 + snr)), "none": lambda snr: 1.0,
               "eps_ode": lambda snr: snr / (4 * (1 + snr)**2), "x0_ode": lambda snr: 1 / (4 * (1 + snr)**2)}
    formula = formula[chain_rule]
    for i, t_64 in enumerate(timesteps):
        for j, t_32 in enumerate(timesteps):
            exact = BlockGaussian.exact(t_64, t_32)
            for name in PREDICTIONS:
                for block in error_map.BLOCKS:
                    expected = exact[name][block] / INPUT_PIXELS[block]
                    assert float(heatmap["blocks"][name][block][i, j]) == pytest.approx(expected, rel=0.03, abs=1e-9)
            snr_64, snr_32 = (float(SCHEDULE.snr(torch.tensor(t))) for t in (t_64, t_32))
            error_64 = formula(snr_64) * exact[prediction]["64<-64"] / 4096
            error_32 = formula(snr_32) * exact[prediction]["32<-32"] / 1024
            assert float(heatmap["error_64"][i, j]) == pytest.approx(error_64, rel=0.03)
            assert float(heatmap["error_32"][i, j]) == pytest.approx(error_32, rel=0.03)


def test_identity_jacobian_scores_3_at_both_scales():
    timesteps = paths.timestep_grid(3)
    heatmap = error_map.estimate(Identity(), some_images(2), timesteps, K=1, batch_size=2, chain_rule="none")
    for key in ("error_64", "error_32"):
        assert torch.allclose(heatmap[key], torch.full((3, 3), 3.0, dtype=torch.float64))
    for block in ("32<-64", "64<-32"):
        assert not heatmap["blocks"]["eps"][block].any()
    both_sides = error_map.reweighted(heatmap, normalization="both_sides")
    assert torch.allclose(both_sides["error_32"] / both_sides["error_64"], torch.tensor(4.0, dtype=torch.float64))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_identity_map_is_the_map_of_an_identity_jacobian(normalization):
    """What the paths are compared with equals what the estimator finds."""
    heatmap = error_map.estimate(Identity(), some_images(2), paths.timestep_grid(4), K=1, batch_size=2,
                                 normalization=normalization)
    expected = error_map.identity_map(heatmap)
    for key in ("error_64", "error_32"):
        assert np.allclose(heatmap[key], expected[key], rtol=1e-6)
    row, = path_summary.summarize_paths(heatmap, ["dp_total"], 4, max_jump=2)
    assert row["distance"] == 0 and row["cost"] == pytest.approx(row["identity_cost"])
    control, = path_summary.summarize_paths(heatmap, ["identity_total"], 4, max_jump=2)
    assert control["timesteps"].tolist() == row["identity_timesteps"].tolist() and control["distance"] is None
    assert control["cost"] == pytest.approx(row["identity_cost"])


def test_common_random_numbers():
    """A cell alone, with other batches and chunks, is that cell of the full grid; and images keep their draws."""
    images, timesteps = some_images(6), np.array([900, 500, 100])
    full = error_map.estimate(small_model(), images, timesteps, K=2, batch_size=4, chunk_size=64)
    alone = error_map.estimate(small_model(), images, timesteps, K=2, batch_size=4, cells=[(1, 2)], chunk_size=4)
    assert torch.allclose(full["frobenius"][:, :, 1, 2], alone["frobenius"][:, :, 1, 2], rtol=1e-4)
    assert alone["error_64"].isfinite().sum() == 1
    in_rounds = error_map.estimate(small_model(), images, timesteps, K=2, batch_size=2, max_images=4, target_error=1e-9,
                                   cells=[(1, 2)])
    assert torch.allclose(in_rounds["frobenius"][:, :, 1, 2], alone["frobenius"][:, :, 1, 2], rtol=1e-4)
    other = error_map.estimate(small_model(), images, timesteps, K=2, batch_size=4, cells=[(1, 2)], seed=43)
    assert not torch.allclose(other["frobenius"][:, :, 1, 2], alone["frobenius"][:, :, 1, 2], rtol=1e-4)


def test_x_0_blocks_follow_from_the_network_that_predicts_x_0():
    """The algebra against a plain Jacobian-vector product of the unclipped x_0 prediction."""
    draws = error_map.Draws(some_images(1), range(1), 1, 3, "cpu")
    model, t_64, t_32 = small_model(), torch.tensor([600]), torch.tensor([200])
    abars = [per_image(SCHEDULE.alpha_cumprod(t), draws.x_0_64) for t in (t_64, t_32)]
    states = [SCHEDULE.add_noise(x, e, t) for x, e, t in ((draws.x_0_64, draws.noise_64, t_64),
                                                         (draws.x_0_32, draws.noise_32, t_32))]

    def predict(*x):
        return tuple((value - (1 - abar).sqrt() * eps) / abar.sqrt()
                     for value, eps, abar in zip(x, model(*x, t_64, t_32), abars))

    found = error_map.squared_norms(model, draws, torch.tensor([0]), t_64, t_32, SCHEDULE)[1, :, 0]
    probes = draws.probes_64[0].float(), draws.probes_32[0].float()
    expected = []
    for moving in (0, 1):
        directions = tuple(p if s == moving else torch.zeros_like(p) for s, p in enumerate(probes))
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected += [float(value.square().sum()) for value in torch.func.jvp(predict, tuple(states), directions)[1]]
    assert np.allclose(found, expected, rtol=1e-4)


class PerImageGain(Denoiser):
    """Jacobian g times the identity, g = 1 + 20 times the mean of the noised image: images differ, probes do not."""

    def forward(self, x_64, x_32, t_64, t_32):
        gain = 1 + 20 * x_64.primal.mean((1, 2, 3), keepdim=True)
        return x_64 * gain, x_32 * gain


def test_target_error_stops_when_it_is_met():
    images, timesteps = some_images(40), np.array([900, 400])
    options = {"K": 1, "batch_size": 4, "max_images": 40, "seed": 5}
    target = error_map.estimate(PerImageGain(), images, timesteps, target_error=0.05, **options)
    for scale in ("64", "32"):
        reached = target[f"standard_error_{scale}"] <= 0.05 * target[f"error_{scale}"]
        assert (reached | (target["num_images"] == 40)).all()
    assert target["num_images"].min() < 40
    assert target["num_primals"] == int(target["num_images"].sum())
    assert target["num_tangents"] == 2 * target["num_primals"]
    single = error_map.estimate(PerImageGain(), images, timesteps, **options)
    assert (single["num_images"] == 4).all()
    never = error_map.estimate(PerImageGain(), images, timesteps, **{**options, "max_images": 8}, target_error=1e-6)
    assert (never["num_images"] == 8).all() and never["num_cells_above_target"] == 4


def test_standard_error_is_calibrated():
    """Over seeds, deviations from the long-run mean in units of the standard error have a spread near 1."""
    images, timesteps = some_images(4000, 1), np.array([700])
    estimates, errors = [], []
    for seed in range(60):
        heatmap = error_map.estimate(PerImageGain(), images, timesteps, K=1, batch_size=12, seed=seed)
        estimates.append(float(heatmap["error_64"][0, 0]))
        errors.append(float(heatmap["standard_error_64"][0, 0]))
    spread = np.std(estimates, ddof=1) / np.sqrt(np.mean(np.square(errors)))
    assert 0.75 < spread < 1.3          # the 60 estimates fix a standard deviation to about 9 %


@pytest.mark.parametrize("parametrization", ["eps", "v", "residual"])
def test_bf16_is_close_to_float32(parametrization):
    """A residual network's linear denoiser stays in float64."""
    images = some_images(2)
    model = with_reference_weights(LIFTDualTimestepModel((8, 8), parametrization=parametrization, native_32=True))
    if parametrization == "residual":
        model.linear_denoiser.fit(images)
    bias = error_map.precision_bias(model, images, paths.timestep_grid(3), prediction="eps", seed=1, num_images=1)
    assert 0 < bias < 0.02


class BrokenSomewhere(Identity):
    def forward(self, x_64, x_32, t_64, t_32):
        bad = torch.where((t_64 == 400) & (t_32 == 900), torch.nan, 1.0)[:, None, None, None]
        return x_64 * bad, x_32


def test_cells_that_are_not_finite_are_named():
    with pytest.raises(InputError, match=r"\(400, 900\)"):
        error_map.estimate(BrokenSomewhere(), some_images(2), np.array([900, 400]), K=1, batch_size=2)


# Files

@pytest.fixture
def heatmap():
    result = error_map.estimate(BlockGaussian(), some_images(4), paths.timestep_grid(5), K=1, batch_size=4)
    return {"format_version": heatmap_file.FORMAT_VERSION, **result, "checkpoint": "lift_dual_timestep_2ep.pth",
            "checkpoint_fingerprint": "ab" * 8, "weights": "ema",
            "epochs": 2}


def test_file_round_trip(heatmap, tmp_path):
    save_torch(tmp_path / "map.pth", heatmap)
    loaded = heatmap_file.load_heatmap(tmp_path / "map.pth", expect_grid=5)
    assert torch.equal(loaded["error_64"], heatmap["error_64"])
    assert loaded["options"] == heatmap["options"]
    again = error_map.reweighted(loaded)
    assert torch.equal(again["error_32"], heatmap["error_32"])
    assert np.array_equal(paths.path_from_heatmap(loaded, "dp_total", 5, max_jump=3),
                          paths.path_from_heatmap(heatmap, "dp_total", 5, max_jump=3))


def broken(heatmap, change):
    heatmap = dict(heatmap)
    change(heatmap)
    return heatmap


@pytest.mark.parametrize("change, message", [
    (lambda h: h.pop("blocks"), "no blocks"),
    (lambda h: h.update(format_version=99), "format 99"),
    (lambda h: h.update(timesteps=torch.tensor([0, 1, 2, 3, 4])), "timesteps"),
    (lambda h: h.update(error_32=torch.zeros(4, 4)), r"error_32 is \[4, 4\], expected \[5, 5\]"),
    (lambda h: h.update(error_64=h["error_64"].clone().index_put((torch.tensor(1), torch.tensor(2)),
                                                               torch.tensor(torch.inf, dtype=torch.float64))),
     r"error_64: not finite at 1 cells, \(t_64, t_32\) = \(749, 499\)"),
    (lambda h: h.update(edge_costs={"step_doubling": torch.zeros(2, 2, 3, 3)}), "step_doubling"),
    (lambda h: h.update(frobenius="text"), "frobenius"),
])
def test_damaged_files_are_refused(heatmap, tmp_path, change, message):
    save_torch(tmp_path / "map.pth", broken(heatmap, change))
    with pytest.raises(InputError, match=message):
        heatmap_file.load_heatmap(tmp_path / "map.pth")


def test_foreign_truncated_and_pickled_files_are_refused(heatmap, tmp_path):
    path = tmp_path / "map.pth"
    save_torch(path, heatmap)
    with pytest.raises(InputError, match="5x5 cells, expected 30x30"):
        heatmap_file.load_heatmap(path, expect_grid=30)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="truncated"):
        heatmap_file.load_heatmap(path)
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (ran.touch, ())
    torch.save({**heatmap, "options": Payload()}, path)
    with pytest.raises(InputError, match="pickled object"):
        heatmap_file.load_heatmap(path)
    assert not ran.exists()
    with pytest.raises(InputError, match="no such heatmap"):
        heatmap_file.load_heatmap(tmp_path / "missing.pth")


def test_heatmap_belongs_to_its_checkpoint(heatmap, tmp_path):
    class Loaded:
        fingerprint, weights, path = "ab" * 8, "ema", tmp_path / "a_2ep.pth"
    heatmap_file.check_heatmap_matches("map.pth", heatmap, Loaded)
    for change in ({"fingerprint": "cd" * 8}, {"weights": "raw"}):
        other = type("Other", (Loaded,), change)
        with pytest.raises(InputError, match="map.pth: was computed from .*allow_mismatch"):
            heatmap_file.check_heatmap_matches("map.pth", heatmap, other)
        heatmap_file.check_heatmap_matches("map.pth", heatmap, other, allow_mismatch=True)


def test_file_names():
    assert str(heatmap_file.heatmap_path("a", 30, "lift_dual_timestep", 100, "ema")) == "a/heatmap_30_100ep.pth"
    assert heatmap_file.heatmap_path("r", 15, "lift_dual_timestep", 2, "raw").name == "heatmap_15_2ep_raw.pth"
    assert heatmap_file.heatmap_path("r", 30, "diagonal_lift", 2, "ema").name == "heatmap_30_diagonal_lift_2ep.pth"


# Costs along paths

def test_a_grid_even_in_log_snr_counts_its_end_steps_whole():
    """Its ends stand for 999 and 0: with an error of 1 everywhere a path costs the log SNR between those."""
    timesteps = paths.timestep_grid(30, "logsnr")
    heatmap = {"timesteps": timesteps, "error_64": np.ones((30, 30)), "error_32": np.ones((30, 30))}
    path = paths.path_from_heatmap(heatmap, "dp_total", 18, step_size="logsnr")
    whole = np.diff(paths.log_snr_of(np.array([999, 0]))).item()
    assert path_summary.step_errors(heatmap, path, "logsnr").sum(0) == pytest.approx([whole, whole])
    assert path_summary.path_cost(heatmap, path, "dp_total", "logsnr") == pytest.approx(2 * whole)


def test_step_errors_sum_to_what_the_dynamic_program_minimised():
    random = np.random.default_rng(0)
    n = 12
    heatmap = {"timesteps": paths.timestep_grid(n), "error_64": random.random((n, n)),
               "error_32": random.random((n, n))}
    for path_type in ("dp_64", "dp_total"):
        for step_size in STEP_SIZES:
            cells, cost = dynamic_program.cheapest_path(paths.edge_costs_of(heatmap, path_type, step_size, 4), 7)
            path = paths.cells_to_timesteps(cells, heatmap["timesteps"])
            assert np.allclose(path_summary.grid_position(path, heatmap["timesteps"]), cells)
            assert path_summary.path_cost(heatmap, path, path_type, step_size) == pytest.approx(cost, rel=1e-12)


def test_bootstrap_of_equal_images_has_no_spread(heatmap):
    heatmap["frobenius"] = heatmap["frobenius"][..., :1].expand(-1, -1, -1, -1, 4).clone()
    resampled = path_summary.bootstrap(heatmap, "dp_64", 5, max_jump=3, num_resamples=5)
    assert (resampled == resampled[0]).all()
