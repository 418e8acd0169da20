"""Every formula of the MNIST family against the reference numbers, and the identities between them."""
import numpy as np
import pytest
import torch

from conftest import REFERENCE
from engine.denoiser import Denoiser, Guided
from engine.denoising_task import logit_normal
from engine.drawing import strip_points
from engine.errors import InputError
from engine.sampling import denoise_along
from mnist.models import BETA_MAX, Model, build_denoiser, to_network_time
from networks.vae import VAE
from scheduler import CosineSteps, LinearFlow, clean_image, noise_added, noise_in, step, training_target

DIFFUSION, FLOW = CosineSteps(beta_max=BETA_MAX), LinearFlow()
OF_FLOAT32 = {"rtol": 2e-4, "atol": 2e-6}           # the reference's own schedule is float32
EXACT = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture(scope="module")
def ref():
    with np.load(REFERENCE / "mnist.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def levels(t):
    return DIFFUSION.levels(torch.as_tensor(int(t)), torch.float64)


def assert_close_to_float32(found, expected):
    """Within 2e-4 of the largest value."""
    torch.testing.assert_close(found.float().squeeze(), expected.squeeze(), rtol=2e-4,
                               atol=2e-4 * float(expected.abs().max()))


def test_schedule(ref):
    assert int(ref["num_timesteps"]) == DIFFUSION.num_timesteps
    abar = DIFFUSION.alphas_cumprod
    torch.testing.assert_close(abar, ref["alphas_cumprod"], **EXACT)
    torch.testing.assert_close(abar.float(), ref["alphas_cumprod_f32"], rtol=3e-4, atol=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    torch.testing.assert_close(1 - abar / before, ref["betas"], rtol=1e-12, atol=0)


def test_ancestral_step_is_the_posterior(ref):
    """The step is linear in x, x_0 and noise: each alone gives its factor (Ho et al. 2020, eq. 7)."""
    zero, one = torch.zeros(1000, dtype=torch.float64), torch.ones(1000, dtype=torch.float64)
    t = torch.arange(1000)
    between = (*DIFFUSION.levels(t, torch.float64), *DIFFUSION.levels(t - 1, torch.float64))
    for name, inputs in (("posterior_mean_xt", (one, zero, zero)), ("posterior_mean_x0", (zero, one, zero)),
                         ("posterior_variance", (zero, zero, one))):
        x, x_0, noise = inputs
        found = step(x, x_0, *between, eta=1.0, noise=noise)
        expected = ref[name].sqrt() if name == "posterior_variance" else ref[name]
        torch.testing.assert_close(found, expected, **EXACT)


def test_forward_noising(ref):
    a, s = DIFFUSION.levels(ref["q_t"])
    torch.testing.assert_close(noise_added(ref["q_x0"], ref["q_noise"], a, s), ref["q_xt"], **OF_FLOAT32)


@pytest.mark.parametrize("clip", [0, 1])
def test_ddpm_steps(ref, clip):
    for t, expected in zip(ref["ddpm_t"], ref[f"ddpm_next_clip{clip}"]):
        x, eps = ref["step_x"].double(), ref["step_eps"].double()
        a, s = levels(t)
        x_0 = clean_image("eps", eps, x, a, s)
        x_0 = x_0.clamp(-1, 1) if clip else x_0
        found = step(x, x_0, a, s, *levels(t - 1), eta=1.0, noise=ref["step_z"].double())
        assert_close_to_float32(found, expected)


def test_ddim_steps(ref):
    """Not clipped; clipped with the noise derived again; clipped with the noise kept, which the engine never does."""
    x, eps, z = (ref[name].double() for name in ("step_x", "step_eps", "step_z"))
    for e, eta in enumerate(ref["ddim_etas"].tolist()):
        for k, (t, t_next) in enumerate(ref["ddim_pairs"].tolist()):
            (a, s), (a_next, s_next) = levels(t), levels(t_next)
            x_0 = clean_image("eps", eps, x, a, s)
            plain = step(x, x_0, a, s, a_next, s_next, eta, z)
            assert_close_to_float32(plain, ref["ddim_next_clip0"][e, k])
            clipped = step(x, x_0.clamp(-1, 1), a, s, a_next, s_next, eta, z)
            torch.testing.assert_close(clipped.squeeze(), ref["ddim_next_clip1_eps_rederived"][e, k].squeeze(),
                                       **EXACT)
            kept = plain + a_next * (x_0.clamp(-1, 1) - x_0)
            torch.testing.assert_close(kept.float().squeeze(), ref["ddim_next_clip1_eps_kept"][e, k].squeeze(),
                                       rtol=2e-4, atol=2e-4)


class TwoAnswers(Denoiser):
    """Gives one image with the class and another without."""
    shapes, processes, num_classes = [(1, 4, 4)], [FLOW], 10

    def __init__(self, conditional, unconditional):
        self.conditional, self.unconditional = conditional, unconditional

    def clean(self, xs, ts, labels=None):
        if labels is None:
            return [self.unconditional]
        both = torch.cat([self.conditional, self.unconditional])
        return [both[:len(xs[0])] if len(xs[0]) < len(both) else both]


def test_guidance(ref):
    conditional, unconditional = ref["cfg_conditional"], ref["cfg_unconditional"]
    denoiser, labels = TwoAnswers(conditional, unconditional), torch.tensor([3, 4])
    x, t = torch.zeros_like(conditional), torch.zeros(2)
    for w, expected in zip(ref["cfg_w"].tolist(), ref["cfg_out"]):
        [found] = Guided(denoiser, w).clean([x], [t], labels)
        torch.testing.assert_close(found, expected, **OF_FLOAT32)
    assert torch.equal(Guided(denoiser, 1).clean([x], [t], labels)[0], conditional)
    assert torch.equal(Guided(denoiser, 0).clean([x], [t], labels)[0], unconditional)


def test_flow(ref):
    """Times run the other way in the reference, and so does the velocity."""
    t = 1 - ref["rf_t"]
    x_0, eps = ref["q_x0"], ref["q_noise"]
    torch.testing.assert_close(noise_added(x_0, eps, *FLOW.levels(t)), ref["rf_xt"], **OF_FLOAT32)
    velocity = -training_target("velocity", x_0, eps, *FLOW.levels(t))
    torch.testing.assert_close(velocity, ref["rf_velocity"], **OF_FLOAT32)
    torch.testing.assert_close(to_network_time(1 - ref["rf_t"].double()), ref["rf_model_time"], **EXACT)
    a, s = FLOW.levels(t)
    torch.testing.assert_close(noise_in(ref["rf_xt"], x_0, a, s)[s > 0], eps[s > 0], rtol=1e-3, atol=1e-3)


class Normal(Denoiser):
    """The exact denoiser of data N(mean, std^2) in one dimension, on straight paths."""
    shapes, processes = [(1,)], [FLOW]

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def clean(self, xs, ts, labels=None):
        a, s = (level[:, None] for level in FLOW.levels(ts[0], torch.float64))
        gain = a * self.std**2 / (a**2 * self.std**2 + s**2)
        return [self.mean + gain * (xs[0] - a * self.mean)]


@pytest.mark.parametrize("solver, order", [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_solvers(ref, solver, order):
    """To the last digit. The engine's Heun ends in a midpoint step, since nothing is asked of a network at a clean
    image; the reference's last step, whose velocity there is x itself, is made here."""
    denoiser, start = Normal(float(ref["ode_mean"]), float(ref["ode_std"])), ref["ode_start"][:, None]
    errors = []
    for num_steps, expected in zip(ref["ode_steps"].tolist(), ref[f"ode_{solver}"]):
        path, states = FLOW.uniform_path(num_steps), []
        found = denoise_along(denoiser, path, [start], solver="ddim" if solver == "euler" else solver, clip=False,
                              on_step=lambda k, times, xs: states.append(xs[0].clone())).xs[0]
        errors.append(float((found[:, 0] - ref["ode_exact"]).abs().max()))
        if solver == "heun":
            before, length = states[-2], 1 / num_steps
            velocity = (denoiser.clean([before], [path[-2].expand(len(before))])[0] - before) / length
            found = before + length / 2 * (velocity + before + length * velocity)
        torch.testing.assert_close(found[:, 0], expected, rtol=1e-12, atol=1e-12)
    steps = ref["ode_steps"].tolist()
    fall = errors[steps.index(10)] / errors[steps.index(50)]
    assert fall > 0.9 * 5**order and (solver == "midpoint" or fall < 1.2 * 5**order)


def test_logit_normal_times(ref):
    for (mean, deviation), expected, density, share in zip(ref["ln_mean_std"].tolist(), ref["ln_t"], ref["ln_density"],
                                                           ref["ln_share_03_07"].tolist()):
        torch.testing.assert_close(logit_normal(ref["ln_normal"], mean, deviation), expected, **EXACT)
        t, normal = ref["ln_grid"], torch.distributions.Normal(torch.tensor(mean).double(), deviation)
        found = normal.log_prob(torch.logit(t)).exp() / (t * (1 - t))
        torch.testing.assert_close(found, density, **EXACT)
        drawn = logit_normal(torch.randn(200_000, generator=torch.Generator().manual_seed(0)), mean, deviation)
        assert float(((drawn > 0.3) & (drawn < 0.7)).float().mean()) == pytest.approx(share, abs=0.005)


def test_paths_and_strips(ref):
    """A strip shows every tenth of the way, at the reference's timesteps."""
    settings = {"shape": (1, 8, 8), "base_channels": 8, "channel_multipliers": (1,), "attention_levels": ()}
    model = Model(build_denoiser("ddpm", "eps", settings), None, 8, "")
    ddim, ddpm = model.path(50), model.path(1000)
    assert ddim.tolist() == [*range(980, -1, -20), -1] and ddpm.tolist() == list(range(999, -2, -1))
    of_50, of_1000, of_ddim = strip_points(50), strip_points(1000), strip_points(50, from_clean=True)
    assert ddpm[of_1000].tolist() == [*ref["strip_ddpm"].tolist(), -1]
    assert [49 - k for k in of_50[:-1]] == ref["strip_rf_50"].tolist()
    assert ddim[of_ddim].tolist() == [*ref["strip_ddim_50"].tolist(), -1]
    shown = [model.drawing(path).strip(0, [0])[0] for path in (model.path(50), model.path(20))]
    assert shown == [of_ddim, [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20]]
    assert Model(build_denoiser("ddpm", "v", settings), None, 8, "").path(50)[0] == 999


@pytest.mark.parametrize("kind, first", [("eps", 998), ("v", 999)])
def test_a_noise_prediction_of_latents_leaves_out_the_step_that_multiplies_its_error(kind, first):
    """A step from t multiplies an error of the predicted noise by nearly a(t - 1) / a(t)."""
    settings = {"shape": (2, 4, 4), "base_channels": 8, "channel_multipliers": (1,), "attention_levels": ()}
    model = Model(build_denoiser("ddpm", kind, settings), VAE([1, 32, 32], 8, (1, 1, 1), 2), 28, "")
    path = model.path(1000 if kind == "v" else 999)
    assert path.tolist() == list(range(first, -2, -1)) and model.path(50)[0] == (980 if kind == "eps" else 999)
    a = model.denoiser.processes[0].levels(torch.tensor([999, 998, 997]), torch.float64)[0]
    assert a[1] / a[0] > 90 and a[2] / a[1] < 2.1
    assert model.drawing(path).strip(0, [0])[0][:2] == strip_points(len(path) - 1)[:2]
    if kind == "eps":
        with pytest.raises(InputError, match=r"--sampling_steps: found 1000, expected 1\.\.\.999"):
            model.path(1000)


def test_ddim_starts_where_an_image_begins_to_show_and_never_stands_still():
    """Every number of steps: from 50 on, those that divide 1000 keep their stride, as documented; others start at
    980."""
    settings = {"shape": (1, 8, 8), "base_channels": 8, "channel_multipliers": (1,), "attention_levels": ()}
    model = Model(build_denoiser("ddpm", "eps", settings), None, 8, "")
    for num_steps in range(1, 1001):
        path = model.path(num_steps)
        steps = path[:-1] - path[1:]
        assert len(path) == num_steps + 1 and path[-1] == -1 and (num_steps == 1 or path[-2] == 0) and steps.min() >= 1
        if num_steps >= 50 and 1000 % num_steps == 0:
            assert path[:-1].tolist() == [*range(1000 - 1000 // num_steps, -1, -1000 // num_steps)]
        else:
            assert path[0] == max(980, num_steps - 1)
            assert num_steps == 1 or steps[:-1].max() - steps[:-1].min() <= 1


def test_ddim_with_eta_one_is_the_ancestral_step():
    x, x_0, z = torch.randn(3, 2, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (999, 500, 20, 1):
        abar, before = DIFFUSION.alphas_cumprod[t], DIFFUSION.alphas_cumprod[t - 1]
        beta = 1 - abar / before
        mean = before.sqrt() * beta / (1 - abar) * x_0 + (1 - beta).sqrt() * (1 - before) / (1 - abar) * x
        expected = mean + (beta * (1 - before) / (1 - abar)).sqrt() * z
        torch.testing.assert_close(step(x, x_0, *levels(t), *levels(t - 1), eta=1.0, noise=z), expected, rtol=1e-12,
                                   atol=1e-12)
