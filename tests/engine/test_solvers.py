"""Noise processes, conversions and solvers, against closed forms: a Gaussian whose flow is known on every process."""
import math

import pytest
import torch

from engine.denoiser import Denoiser, Guided, NetworkDenoiser
from engine.errors import InputError
from engine.sampling import denoise_along, sample
from scheduler import (CosineSteps, LinearFlow, Sigma, clean_image, noise_added, noise_in, step, training_target)

PROCESSES = {"cosine": CosineSteps(), "linear": LinearFlow(), "sigma": Sigma(0.002, 80.0)}
MEAN, DEVIATION = 0.3, 0.6


class Gaussian(Denoiser):
    """The exact denoiser of pixels that are N(MEAN, DEVIATION^2), on any process: E[x_0 | x_t]."""

    def __init__(self, *processes):
        self.processes, self.shapes = list(processes), [(1, 2, 2)] * len(processes)

    def clean(self, xs, ts, labels=None):
        self.num_evaluations += len(xs[0])
        result = []
        for process, x, t in zip(self.processes, xs, ts):
            a, s = (level[:, None, None, None] for level in process.levels(t, x.dtype))
            gain = a * DEVIATION**2 / (a**2 * DEVIATION**2 + s**2)
            result.append(MEAN + gain * (x - a * MEAN))
        return result


def between(process, num_steps: int, start: float, end: float) -> torch.Tensor:
    """Times from `start` to `end`, evenly spaced in u = a / (a + s), then one step to the clean image."""
    u = torch.linspace(start, end, num_steps + 1, dtype=torch.float64)
    return torch.cat([process.t_at(2 * torch.logit(u)), torch.tensor([process.clean], dtype=torch.float64)])


def flow_of_gaussian(process, x, t, t_end):
    """The probability flow keeps (x - a m) / sqrt(a^2 d^2 + s^2) as it is: x at t -> x at t_end."""
    (a, s), (a_end, s_end) = (process.levels(time, torch.float64) for time in (t, t_end))
    spread, spread_end = ((level**2 * DEVIATION**2 + noise**2).sqrt() for level, noise in ((a, s), (a_end, s_end)))
    return a_end * MEAN + spread_end / spread * (x - a * MEAN)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver, order", [("ddim", 1), ("heun", 2), ("midpoint", 3), ("multistep", 2)])
def test_order_of_convergence(name, solver, order):
    """Halving the steps divides the error at the end of the even part by 2 to the order; read there by on_step.

    midpoint is a method of order two. On a Gaussian it is of order three: the root of a quadratic in u, which the
    solution is there, is what makes the leading term of its error vanish.
    """
    process = PROCESSES[name]
    errors = []
    for num_steps in (40, 80, 160):
        path = between(process, num_steps, 0.1, 0.6)
        noise = torch.linspace(-2, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
        x = process.levels(path[0], torch.float64)[1] * noise
        states = {}
        denoise_along(Gaussian(process), path, [x], solver=solver, clip=False,
                      on_step=lambda k, _, xs: states.__setitem__(k, xs[0].clone()))
        errors.append((states[num_steps] - flow_of_gaussian(process, x, path[0], path[num_steps])).abs().max().item())
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert all(order - 0.25 < found < order + 0.35 for found in orders), (orders, errors)


class TwoGaussians(Gaussian):
    """The exact denoiser of pixels that are N(m, d^2) or N(-m, d^2), each in half of the cases: the posterior odds of
    the first are exp(2 a m x / (a^2 d^2 + s^2))."""

    mean, deviation = 0.6, 0.3

    def clean(self, xs, ts, labels=None):
        result = []
        for process, x, t in zip(self.processes, xs, ts):
            a, s = (level[:, None, None, None] for level in process.levels(t, x.dtype))
            variance = a**2 * self.deviation**2 + s**2
            mean = self.mean * torch.tanh(a * self.mean * x / variance)
            result.append(mean + a * self.deviation**2 / variance * (x - a * mean))
        return result


@pytest.mark.parametrize("name", PROCESSES)
def test_midpoint_is_of_order_two_where_nothing_vanishes(name):
    """On a mixture of two Gaussians. Between three numbers of steps, each twice the last one, the end moves by a fourth
    of what it moved before."""
    process, ends = PROCESSES[name], []
    for num_steps in (20, 40, 80):
        path, states = between(process, num_steps, 0.1, 0.6), {}
        noise = torch.linspace(-2, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
        x = process.levels(path[0], torch.float64)[1] * noise
        denoise_along(TwoGaussians(process), path, [x], solver="midpoint", clip=False,
                      on_step=lambda k, _, xs: states.__setitem__(k, xs[0].clone()))
        ends.append(states[num_steps])
    moved, moved_less = ((a - b).abs().max().item() for a, b in zip(ends, ends[1:]))
    assert math.log2(moved / moved_less) == pytest.approx(2, abs=0.1)


def test_ddim_is_euler_on_the_linear_path():
    flow, x = LinearFlow(), torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = flow.uniform_path(17)
    found = denoise_along(Gaussian(flow), path, [x], clip=False).xs[0]
    for t, t_next in zip(path, path[1:]):
        x_0 = Gaussian(flow).clean([x], [t.expand(3)])[0]
        velocity = (x_0 - x) / (1 - t)
        x = x + (t_next - t) * velocity
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver, calls", [("ddim", 6), ("multistep", 6), ("renoise", 6), ("heun", 12),
                                           ("midpoint", 12)])
@pytest.mark.parametrize("name", PROCESSES)
def test_calls_are_counted_and_images_do_not_depend_on_the_batch(name, solver, calls):
    process = PROCESSES[name]
    whole = sample(Gaussian(process), process.uniform_path(6), 5, range(4), solver=solver)
    assert whole.num_model_calls == calls and whole.xs[0].shape == (4, 1, 2, 2) and whole.xs[0].isfinite().all()
    alone = sample(Gaussian(process), process.uniform_path(6), 5, [2], solver=solver)
    torch.testing.assert_close(alone.xs[0][0], whole.xs[0][2], rtol=1e-6, atol=1e-6)


def test_heun_is_never_asked_about_the_clean_image():
    asked = []

    class Watched(Gaussian):
        def clean(self, xs, ts, labels=None):
            asked.append(float(ts[0][0]))
            return super().clean(xs, ts, labels)

    sample(Watched(LinearFlow()), LinearFlow().uniform_path(5), 0, [0], solver="heun")
    assert asked[0] == 0 and max(asked) < 1 and len(asked) == 10
    assert asked[-1] == pytest.approx(0.9)                              # the last step's middle


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", ["ddim", "heun", "midpoint", "multistep"])
def test_samples_have_the_law_of_the_data(name, solver):
    process = PROCESSES[name]
    xs = sample(Gaussian(process), process.uniform_path(200), 1, range(1500), solver=solver, clip=False).xs[0]
    assert xs.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert xs.std().item() == pytest.approx(DEVIATION, abs=0.03)


def test_renoise_gives_the_posterior_of_one_step():
    """One step from pure noise gives the mean, for noise at the start says nothing of the image."""
    x = sample(Gaussian(LinearFlow()), LinearFlow().uniform_path(1), 0, [0], solver="renoise").xs[0]
    torch.testing.assert_close(x, torch.full_like(x, MEAN))


@pytest.mark.parametrize("kind", ["eps", "x_0", "v", "velocity"])
@pytest.mark.parametrize("name", PROCESSES)
def test_clean_image_inverts_training_target(name, kind):
    process, generator = PROCESSES[name], torch.Generator().manual_seed(1)
    x_0, eps = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=generator)
    a, s = process.levels(process.t_at(torch.linspace(-4, 5, 5, dtype=torch.float64)), torch.float64)
    x = noise_added(x_0, eps, a, s)
    torch.testing.assert_close(clean_image(kind, training_target(kind, x_0, eps, a, s), x, a, s), x_0)
    torch.testing.assert_close(noise_in(x, x_0, a, s), eps)


def test_a_velocity_needs_no_level_of_the_image():
    """At the pure noise of the linear path a = 0: a velocity still means a clean image, x + v."""
    x, v = torch.randn(2, 1, 1, 2, 2)
    assert torch.equal(clean_image("velocity", v, x, torch.zeros(()), torch.ones(())), x + v)


@pytest.mark.parametrize("name", PROCESSES)
def test_time_and_log_snr_invert_each_other(name):
    process = PROCESSES[name]
    log_snr = torch.linspace(-5, 8, 31, dtype=torch.float64)
    torch.testing.assert_close(process.log_snr(process.t_at(log_snr)), log_snr)
    a, s = process.levels(process.t_at(log_snr), torch.float64)
    torch.testing.assert_close((a**2 / s**2).log(), log_snr)


def test_whole_and_fractional_timesteps_have_the_same_levels():
    cosine, t = CosineSteps(), torch.arange(-1, 1000)
    for whole, fractional in zip(cosine.levels(t), cosine.levels(t.double())):
        assert torch.equal(whole, fractional)


def test_ancestral_step_of_every_process_has_the_posterior_variance():
    """Var[x_next | x, x_0] of jointly normal x and x_next, whose noise is shared: s'^2 - (a s'^2 / (a' s))^2 in VP
    form."""
    for process, times in ((CosineSteps(), (600, 500)), (LinearFlow(), (0.3, 0.5)), (Sigma(), (4.0, 2.0))):
        t = torch.tensor(times)
        a, s = process.levels(t, torch.float64)
        noise = torch.ones(1, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        added = step(zero, zero, a[0], s[0], a[1], s[1], 1.0, noise)
        ratio = a[0] / a[1]
        of_process = s[0] ** 2 - ratio**2 * s[1] ** 2  # variance that the forward process adds on its way back up
        torch.testing.assert_close(added**2, (s[1] ** 2 * of_process / s[0] ** 2)[None])


# --- guidance ---

class Labelled(torch.nn.Module):
    """Puts out its label, everywhere; null class 3."""

    def forward(self, x, t, labels):
        self.rows = len(x)
        return labels.double()[:, None, None, None].expand_as(x).to(x.dtype)


def test_guidance_in_one_batch_and_counted():
    network = Labelled()
    denoiser = NetworkDenoiser(network, LinearFlow(), "x_0", (1, 2, 2), num_classes=3)
    x, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    [guided] = Guided(denoiser, 4.0).clean([x], [torch.zeros(2)], labels)
    assert network.rows == 4 and guided[:, 0, 0, 0].tolist() == [3 + 4 * (0 - 3), 3 + 4 * (1 - 3)]
    path = LinearFlow().uniform_path(8)
    assert sample(Guided(denoiser, 4.0), path, 0, [0, 1], labels=labels).num_model_calls == 16
    assert sample(Guided(denoiser, 1.0), path, 0, [0, 1], labels=labels).num_model_calls == 8
    assert sample(Guided(denoiser, 0.0), path, 0, [0, 1], labels=labels).num_model_calls == 8
    inside = Guided(denoiser, 4.0, (-1.0, 1.0))                 # t = 3/8, 4/8 and 5/8: log SNR -1.02, 0, 1.02
    assert sample(inside, path, 0, [0, 1], labels=labels).num_model_calls == 9
    plain = denoiser.clean([x], [torch.zeros(2)], labels)[0]
    without, within = (Guided(denoiser, 0.0, (-1.0, 1.0)).clean([x], [torch.full((2,), t)], labels)[0]
                       for t in (0.25, 0.5))
    assert torch.equal(without, plain) and (within == 3).all()  # outside the interval it is the class, within it none
    assert torch.equal(Guided(denoiser, 1.0).clean([x], [torch.zeros(2)], labels)[0], plain)


# --- two scales, wrong paths ---

def test_a_scale_that_stands_still_is_left_alone():
    path = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [1.0, 1.0]], dtype=torch.float64)
    for solver in ("ddim", "heun", "midpoint", "multistep", "renoise"):
        seen = []
        sample(Gaussian(LinearFlow(), LinearFlow()), path, 3, [0], solver=solver,
               on_step=lambda k, _, xs: seen.append([x.clone() for x in xs]))
        assert torch.equal(seen[1][1], seen[0][1]) and torch.equal(seen[2][0], seen[1][0]), solver
        assert torch.equal(seen[3][1], seen[2][1]) and not torch.equal(seen[1][0], seen[0][0]), solver


@pytest.mark.parametrize("path, message", [([0.0, 0.5], "never turn round"), ([0.0, 0.7, 0.5, 1.0], "never turn round"),
                                           ([0.0, 0.5, 0.5, 1.0], "stands still"), ([1.0], "expected \\[N")])
def test_wrong_paths(path, message):
    with pytest.raises(InputError, match=message):
        sample(Gaussian(LinearFlow()), torch.tensor(path), 0, [0])


def test_wrong_solvers():
    with pytest.raises(InputError, match="--solver: found 'rk4'"):
        sample(Gaussian(LinearFlow()), LinearFlow().uniform_path(2), 0, [0], solver="rk4")
    with pytest.raises(InputError, match="--eta: found 0.5 with --solver heun"):
        sample(Gaussian(LinearFlow()), LinearFlow().uniform_path(2), 0, [0], solver="heun", eta=0.5)
