"""Generation along a path: number of network calls, what moves and what does not, seeds, and exact denoisers."""
import numpy as np
import pytest
import torch

from engine.denoiser import Corrected, NetworkDenoiser
from lift import exact_mixture
from lift import paths
from lift.options import PATH_TYPES
from lift.checkpoints import build_model
from conftest import blank_v_model
from engine.errors import InputError
from networks.scales import downsample_to_32
from engine.sampling import from_uint8, start_noise, to_uint8
from lift.coupling import NOISIEST_SHAPES, Guidance, denoiser_of
from lift.sampling import check_timesteps, denoise_scales, generate, uniform_diagonal
from scheduler import CosineSteps, LinearFlow, per_image

SCHEDULE = CosineSteps()
OFF_DIAGONAL = np.array([[999, 999], [999, 700], [600, 700], [600, 100], [200, 0], [0, 0]])


def tiny_model(model_type):
    torch.manual_seed(0)
    return build_model(model_type, [8, 16]).eval()


class Oracle(torch.nn.Module):
    """Predicts the exact noise for known clean images: x_0 lists [B, C, H, W] per scale."""

    def __init__(self, *x_0):
        super().__init__()
        self.model_type = "lift" if len(x_0) == 2 else "baseline"
        self.x_0 = x_0
        self.device_marker = torch.nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, *inputs):
        half = len(inputs) // 2
        self.calls.append([int(t[0]) for t in inputs[half:]])
        eps = []
        for x, t, x_0 in zip(inputs[:half], inputs[half:], self.x_0):
            abar = per_image(SCHEDULE.alpha_cumprod(t), x)
            eps.append((x - abar.sqrt() * x_0) / (1 - abar).sqrt())
        return tuple(eps) if len(eps) > 1 else eps[0]


def oracle(count=3, scales=2):
    x_64 = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 1.8 - 0.9
    return Oracle(*[x_64, downsample_to_32(x_64)][:scales])


def random_path(seed):
    random = np.random.default_rng(seed)
    while True:
        t = -np.sort(-random.integers(0, 1000, (2, 7)), axis=1)
        path = np.concatenate([[[999, 999]], t.T, [[0, 0]]])
        if (np.diff(path, axis=0) != 0).any(1).all():
            return path


# Number of calls

@pytest.mark.parametrize("path_type", PATH_TYPES)
@pytest.mark.parametrize("num_steps", [18, 9])
def test_every_path_makes_exactly_n_calls(golden, path_type, num_steps):
    random = np.random.default_rng(0)
    heatmap = {"timesteps": golden["dp_t_grid"], "error_64": golden["dp_error64"][0],
               "error_32": golden["dp_error32"][0],
               "options": {"chain_rule": "localization", "normalization": "per_pixel"},
               "edge_costs": {name: random.random((30, 30, 6, 6))
                              for names in paths.EDGE_COST_NAMES.values() for name in names}}
    path = paths.path_from_heatmap(heatmap, path_type, num_steps)
    model = oracle(1)
    samples = generate(model, path, 0, [0])
    assert len(model.calls) == samples.num_model_calls == num_steps
    assert model.calls == path[:-1].tolist() and model.calls[0] == [999, 999]


@pytest.mark.parametrize("num_steps", [1, 18, 999])
def test_baseline_makes_exactly_n_calls_from_999(num_steps):
    model = oracle(1, scales=1)
    assert generate(model, uniform_diagonal(num_steps), 0, [0]).num_model_calls == num_steps == len(model.calls)
    assert model.calls[0] == [999]


# Exact denoisers

@pytest.mark.parametrize("solver", ["ddim", "multistep"])
@pytest.mark.parametrize("path", [uniform_diagonal(1), uniform_diagonal(18), OFF_DIAGONAL,
                                  random_path(0), random_path(1)],
                         ids=["one step", "diagonal", "off diagonal", "random 0", "random 1"])
def test_exact_noise_recovers_the_clean_image(path, solver):
    """So the last step goes to abar = 1: at abar_0 = 0.9999 a hundredth of the noise would be left."""
    model = oracle()
    samples = generate(model, path, 7, range(3), solver=solver)
    assert torch.allclose(samples.x_64, model.x_0[0], atol=2e-5)
    assert torch.allclose(samples.x_32, model.x_0[1], atol=2e-5)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_exact_noise_recovers_the_clean_image_with_added_noise(eta):
    model = oracle()
    assert torch.allclose(generate(model, OFF_DIAGONAL, 7, range(3), eta=eta).x_64, model.x_0[0], atol=2e-5)


def test_the_last_step_returns_the_clipped_prediction():
    model, seen = tiny_model("lift"), []
    generated = generate(model, uniform_diagonal(4), 0, range(2), on_step=lambda *at: seen.append(at))
    step, t_64, t_32, x_64, x_32 = seen[-2]
    with torch.no_grad():
        eps_64, _ = model(x_64, x_32, torch.full((2,), t_64), torch.full((2,), t_32))
    abar = SCHEDULE.alpha_cumprod(torch.tensor(t_64))
    x_0 = ((x_64 - (1 - abar).sqrt() * eps_64) / abar.sqrt()).clamp(-1, 1)
    assert step == 3 and torch.allclose(generated.x_64, x_0, atol=1e-5)


class GaussianDenoiser(torch.nn.Module):
    """The best noise prediction where images are white noise of that variance: linear, so its flow is known."""
    model_type = "baseline"

    def __init__(self, variance):
        super().__init__()
        self.variance = variance

    def forward(self, x, t):
        abar = per_image(SCHEDULE.alpha_cumprod(t, x.dtype), x)
        return (1 - abar).sqrt() / (abar * self.variance + 1 - abar) * x


@pytest.mark.parametrize("solver, order", [("ddim", 1), ("multistep", 2)])
def test_order_of_the_solvers(solver, order):
    """Along the exact flow x grows as sqrt(abar v + 1 - abar); the error at t = 500 falls as steps^-order."""
    variance, errors = 0.05, []
    start = torch.full((1, 1, 1, 1), 0.8, dtype=torch.float64)
    abar = SCHEDULE.alphas_cumprod[[999, 500]]
    exact = 0.8 * float(((abar * variance + 1 - abar)[1] / (abar * variance + 1 - abar)[0]).sqrt())
    for num_steps in (40, 80):
        states = {}
        t = np.rint(np.linspace(999, 500, num_steps + 1)).astype(int)
        path = np.stack([[*t, 0]] * 2, axis=1)
        denoise_scales(GaussianDenoiser(variance), path, [start], solver=solver, clip=False,
                      on_step=lambda step, t_64, t_32, x: states.update({t_64: float(x)}))
        errors.append(abs(states[500] - exact))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


def test_added_noise_keeps_the_law():
    """Where every clean image is 0, x_t is white noise of variance 1 - abar_t, for eta 1 as for eta 0."""
    model = Oracle(torch.zeros(4, 3, 64, 64), torch.zeros(4, 3, 32, 32))
    for eta in (0.0, 0.6, 1.0):
        def check(step, t_64, t_32, x_64, x_32):
            for x, t in ((x_64, t_64), (x_32, t_32)):
                if step < 5 and t:
                    expected = float(1 - SCHEDULE.alphas_cumprod[t])
                    assert float(x.var()) == pytest.approx(expected, rel=0.06)
        generate(model, OFF_DIAGONAL, 1, range(4), eta=eta, on_step=check)


# What moves

@pytest.mark.parametrize("solver, eta", [("ddim", 0.0), ("ddim", 1.0), ("multistep", 0.0)])
def test_a_scale_that_does_not_move_is_left_bit_for_bit(solver, eta):
    seen = []
    generate(tiny_model("lift"), OFF_DIAGONAL, 0, range(2), solver=solver, eta=eta,
             on_step=lambda step, t_64, t_32, x_64, x_32: seen.append((x_64.clone(), x_32.clone())))
    for k, step in enumerate(np.diff(OFF_DIAGONAL, axis=0)):
        for scale in (0, 1):
            assert torch.equal(seen[k][scale], seen[k + 1][scale]) == (step[scale] == 0)


def test_a_clean_x_32_is_held():
    x_32 = torch.rand(2, 3, 32, 32) * 2 - 1
    path = np.array([[999, 0], [600, 0], [200, 0], [0, 0]])
    seen = []
    samples = generate(tiny_model("lift"), path, 0, range(2), x_32_start=x_32,
                       on_step=lambda step, t_64, t_32, x_64, x_32: seen.append(x_32.clone()))
    assert all(torch.equal(held, x_32) for held in seen) and torch.equal(samples.x_32, x_32)


def x_32_seen(mode, indices=range(2)):
    """What the network was given as x_32, call by call."""
    model, seen = tiny_model("lift"), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    generate(model, uniform_diagonal(4), 3, indices, x32_mode=mode)
    return torch.stack(seen)                                                # [calls, B, 3, 32, 32]


def test_x_32_joint_and_fixed():
    _, noise = start_noise(NOISIEST_SHAPES, 3, range(2))
    assert torch.equal(x_32_seen("fixed"), noise.expand(4, -1, -1, -1, -1))
    joint = x_32_seen("joint")
    assert torch.equal(joint[0], noise) and all(not torch.equal(joint[k], joint[k + 1]) for k in range(3))


def test_x_32_random_is_drawn_anew_per_step_and_image():
    drawn = x_32_seen("random")
    flat = drawn.flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(flat)
    assert correlation[~torch.eye(8, dtype=torch.bool)].abs().max() < 0.1
    assert float(flat.std()) == pytest.approx(1, abs=0.03)
    assert torch.equal(drawn[0], start_noise(NOISIEST_SHAPES, 3, range(2))[1])
    assert torch.equal(x_32_seen("random", [1])[:, 0], drawn[:, 1])         # image 1 alone draws the same


@pytest.mark.parametrize("mode", ["from_64", "reconciled"])
@pytest.mark.parametrize("solver", ["ddim", "multistep"])
def test_predictions_of_an_exact_network_agree_already(solver, mode):
    mixture = exact_mixture.random_mixture(0)
    starts = exact_mixture.start_states(mixture, 4, 0)
    joint, derived = (denoise_scales(exact_mixture.MixtureDenoiser(mixture), OFF_DIAGONAL, starts, solver=solver,
                                    x32_mode=mode, clip=False) for mode in ("joint", mode))
    assert torch.allclose(joint.x_64, derived.x_64, atol=1e-9) and torch.allclose(joint.x_32, derived.x_32, atol=1e-9)
    assert float(joint.x_64.std()) > 0.1


def test_from_64_takes_nothing_from_the_32_output():
    model = tiny_model("lift")
    outputs = {}
    for name in ("as it is", "32 output shifted"):
        outputs[name] = [generate(model, OFF_DIAGONAL, 0, range(2), x32_mode=mode) for mode in ("from_64", "joint")]
        hook = model.register_forward_hook(lambda _, inputs, output: (output[0], output[1] + 1))
    hook.remove()
    (derived, joint), (derived_shifted, joint_shifted) = outputs.values()
    assert torch.equal(derived.x_64, derived_shifted.x_64) and torch.equal(derived.x_32, derived_shifted.x_32)
    assert not torch.allclose(joint.x_64, joint_shifted.x_64, atol=1e-3)
    assert not torch.allclose(joint.x_64, derived.x_64, atol=1e-3)


# Correction of exposure bias, and guidance

@pytest.mark.parametrize("model_type", ["baseline", "lift"])
def test_no_correction_and_no_guidance_are_the_same_images_bit_for_bit(model_type):
    model, guide = tiny_model(model_type), oracle(2, 1 + (model_type == "lift"))
    plain = generate(model, uniform_diagonal(3), 0, range(2))
    for options in ({"eps_scale": 1.0, "told_log_snr": 0.0}, {"guidance": Guidance(1.0, model=guide)},
                    {"guidance": Guidance(3.0, (30.0, 40.0), guide)}):
        other = generate(model, uniform_diagonal(3), 0, range(2), **options)
        assert torch.equal(plain.x_64, other.x_64) and other.num_model_calls == 3
    assert not guide.calls


def test_a_scaled_noise_moves_the_clean_image_by_its_closed_form():
    """x_0' = c x_0 + (1 - c) x / a, at each scale of its own level; no call is added."""
    model, t = oracle(2), [torch.full((2,), 400), torch.full((2,), 700)]
    xs = start_noise(NOISIEST_SHAPES, 0, range(2))
    denoiser = denoiser_of(model, NOISIEST_SHAPES, eps_scale=0.9)
    for x_0, x, clean, time in zip(denoiser.clean(xs, t), xs, model.x_0, t):
        torch.testing.assert_close(x_0, 0.9 * clean + 0.1 * x / SCHEDULE.levels(time)[0][0], rtol=1e-4, atol=1e-4)
    assert denoiser.num_evaluations == 2 and len(model.calls) == 1


@pytest.mark.parametrize("told", [0.3, -0.3])
def test_the_network_is_told_another_level_and_its_noise_is_kept(told):
    """Of the best linear denoiser, whose noise at any level is known."""
    class Fractional(torch.nn.Module):
        def forward(self, x, t):
            a, s = (per_image(level, x) for level in SCHEDULE.levels(t, x.dtype))
            return s / (a**2 * 0.3 + s**2) * x

    [x], t = start_noise([(3, 8, 8)], 0, range(2)), torch.full((2,), 400)
    [found] = denoiser_of(Fractional(), [(3, 8, 8)], told_log_snr=told).clean([x], [t])
    abar = (SCHEDULE.t_to_log_snr(t[0]) - told).sigmoid()
    eps = (1 - abar).sqrt() / (abar * 0.3 + 1 - abar) * x.double()
    a, s = SCHEDULE.levels(t[0], torch.float64)
    torch.testing.assert_close(found.double(), (x.double() - s * eps) / a, rtol=1e-4, atol=1e-5)


def test_pure_noise_of_a_flow_is_not_corrected_and_later_times_are():
    flow = NetworkDenoiser(lambda x, t: torch.full_like(x, 0.5) - x, LinearFlow(), "velocity", (3, 8, 8))
    [x] = start_noise([(3, 8, 8)], 0, range(2))
    plain, corrected = (lambda t, d=d: d.clean([x], [torch.full((2,), t)])[0] for d in (flow, Corrected(flow, 0.9)))
    assert torch.equal(plain(0.0), corrected(0.0))
    torch.testing.assert_close(corrected(0.5), 0.9 * plain(0.5) + 0.1 * x / 0.5)


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("interval, num_guided", [(None, 4), ((-100.0, 0.0), 3)])
def test_autoguidance_is_the_closed_form_and_counts_both_networks(scales, interval, num_guided):
    """At the clean image's last step both predictions are known: weak + scale (strong - weak)."""
    strong, weak = oracle(2, scales), oracle(2, scales)
    weak.x_0 = tuple(x_0 * 0.9 for x_0 in strong.x_0)
    guidance, path = Guidance(1.5, interval, weak), uniform_diagonal(4)
    made = generate(strong, path, 0, range(2), guidance=guidance, clip=False)
    assert (len(strong.calls), len(weak.calls)) == (4, num_guided) and made.num_model_calls == 4 + num_guided
    assert guidance.num_calls(path) == num_guided
    expected = 1.05 if interval is None else 1.0            # the last step is outside the interval
    torch.testing.assert_close(made.x_64, expected * strong.x_0[0], rtol=1e-4, atol=1e-4)


def test_guidance_by_scale_shows_pure_noise_at_32_and_leaves_the_32_scale_alone():
    class KnowsMoreWithThe32Scale(Oracle):
        def forward(self, x_64, x_32, t_64, t_32):
            self.seen = [*getattr(self, "seen", []), x_32]
            clean, x_0 = self.x_0, self.x_0[0] * (1.0 if t_32[0] < 999 else 0.5)
            self.x_0 = (x_0, clean[1])
            try:
                return super().forward(x_64, x_32, t_64, t_32)
            finally:
                self.x_0 = clean

    model = KnowsMoreWithThe32Scale(*oracle(2).x_0)
    made = generate(model, uniform_diagonal(3), 0, range(2), guidance=Guidance(2.0), clip=False)
    assert made.num_model_calls == 6 and [t_32 for _, t_32 in model.calls] == [999, 999, 666, 999, 333, 999]
    torch.testing.assert_close(made.x_64, 1.5 * model.x_0[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.x_32, model.x_0[1], rtol=1e-4, atol=1e-4)
    noises = torch.stack(model.seen[1::2]).flatten(1)
    assert torch.corrcoef(noises)[0, 1].abs() < 0.05 and float(noises.std()) == pytest.approx(1, abs=0.05)


# Seeds

def test_start_noise_depends_on_seed_and_image_alone():
    x_64, x_32 = start_noise(NOISIEST_SHAPES, 42, [0, 1, 7])
    for position, index in enumerate([0, 1, 7]):
        alone_64, alone_32 = start_noise(NOISIEST_SHAPES, 42, [index])
        assert torch.equal(alone_64[0], x_64[position]) and torch.equal(alone_32[0], x_32[position])
    assert not torch.equal(x_64[0], x_64[1])
    assert not torch.equal(start_noise(NOISIEST_SHAPES, 43, [0])[0][0], x_64[0])
    many = start_noise(NOISIEST_SHAPES, 0, range(60))[0]
    assert float(many.mean()) == pytest.approx(0, abs=0.01) and float(many.std()) == pytest.approx(1, abs=0.01)
    # the scales are independent
    assert not torch.allclose(many[0, 0, :32, :32], start_noise(NOISIEST_SHAPES, 0, [0])[1][0, 0])


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("model_type", ["baseline", "lift"])
def test_images_do_not_depend_on_the_batch(model_type, eta):
    model = tiny_model(model_type)
    together = generate(model, OFF_DIAGONAL if model_type == "lift" else uniform_diagonal(4), 5, range(4), eta=eta).x_64
    for indices in ([0], [3, 1], [2]):
        apart = generate(model, OFF_DIAGONAL if model_type == "lift" else uniform_diagonal(4), 5, indices, eta=eta).x_64
        assert torch.allclose(apart, together[list(indices)], atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_bf16_is_close_to_float32():
    model = tiny_model("lift")
    exact, rough = (generate(model, uniform_diagonal(6), 0, range(1), precision=p).x_64 for p in ("float32", "bf16"))
    assert exact.dtype == rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().mean() < 0.02


# Paths and options

@pytest.mark.parametrize("path, found", [
    ([[999, 999], [500, 600], [500, 600], [0, 0]], "stands still"),
    ([[999, 999], [500, 600], [600, 0], [0, 0]], "increases"),
    ([[999, 999], [0, 1]], r"ends at \(0, 1\)"),
    ([[1000, 999], [0, 0]], "1000"),
    ([[999, 999], [-1, 0]], "-1"),
    ([[999.0, 999.0], [0.0, 0.0]], "float64"),
    ([[0, 0]], r"\(1, 2\)"),
    ([999, 0], r"\(2,\)"),
])
def test_wrong_paths_are_refused(path, found):
    with pytest.raises(InputError, match=found):
        check_timesteps(path)


@pytest.mark.parametrize("num_steps", [0, -3, 1000])
def test_impossible_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(InputError, match="--num_steps"):
        uniform_diagonal(num_steps)


def test_eta_needs_ddim():
    with pytest.raises(InputError, match="--eta"):
        generate(oracle(1), uniform_diagonal(2), 0, [0], solver="multistep", eta=0.5)


# Rounding

def test_uint8_is_scaled_clipped_and_truncated():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.4999, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 64, 128, 191, 255, 255]
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(to_uint8(x).numpy(), np.clip(x.numpy() * np.float32(127.5) + 128, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("model_type", ["baseline", "lift"])
def test_one_step_of_a_v_model(model_type):
    """With v = 0 the clean image is sqrt(abar) x_t, which is where a single step ends."""
    samples = generate(blank_v_model(model_type), uniform_diagonal(1), 3, range(2))
    abar = CosineSteps().alphas_cumprod[-1].float()
    found = [samples.x_64, samples.x_32][:1 + (model_type == "lift")]
    for x, start in zip(found, start_noise(NOISIEST_SHAPES, 3, range(2))):
        torch.testing.assert_close(x, (abar.sqrt() * start).clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_no_graph_is_kept_of_a_model_whose_weights_want_gradients():
    model = blank_v_model("lift")
    assert all(parameter.requires_grad for parameter in model.parameters())
    samples = generate(model, uniform_diagonal(2), 0, [0])
    assert samples.x_64.is_inference() and not samples.x_64.requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("model_type", ["baseline", "lift"])
@pytest.mark.parametrize("x32_mode, eta", [("joint", 0.0), ("reconciled", 0.5)])
def test_generation_does_not_wait_for_the_gpu(model_type, x32_mode, eta):
    model = tiny_model(model_type).cuda()

    def images():
        return generate(model, OFF_DIAGONAL, 3, range(4), x32_mode=x32_mode, eta=eta, precision="bf16").x_64

    images()                                # the first call may tune
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = images()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.isfinite().all()
