"""Sampling of the flow family on the engine: the reference's Euler samples, counted calls, grids, the exact mixture."""

import numpy as np
import pytest
import torch

from engine.denoiser import Denoiser, Guided
from engine.denoising_task import draw_times
from engine.errors import InputError
from engine.sampling import classes_in_turn, denoise_along, sample
from flow.grids import check_grid, grid_of_density, optimised_grid, shifted, step_density
from flow.model import denoiser_of, gflop_of_forward, rank_warning
from networks.dit import DiT
from scheduler import LinearFlow, noise_added, training_target
from tests.networks.test_dit import REFERENCE, ROUNDED, reference, reference_model

FLOW = LinearFlow()
SIDE = 8


@pytest.fixture
def tiny_denoiser():
    torch.manual_seed(0)
    network = DiT(8, 3, 4, 16, 2, 2, 2, 5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser_of(network.requires_grad_(False).eval())


# --- the reference ----------------------------------------------------------------------------------------------------

def test_noised_image_and_velocity_are_the_reference():
    """The original clips the t of x_t at 0.99; we do not, so only times below are compared."""
    x_0, eps, t = (torch.from_numpy(REFERENCE[key]) for key in ("flow_x1", "flow_x0", "flow_t"))
    below = t < 0.99
    assert below.sum() >= 4
    assert torch.allclose(noise_added(x_0, eps, *FLOW.levels(t))[below],
                          torch.from_numpy(REFERENCE["flow_x_t"])[below], atol=1e-6)
    assert torch.allclose(training_target("velocity", x_0, eps, *FLOW.levels(t)), torch.from_numpy(REFERENCE["flow_v"]))


def test_logit_normal_times_are_the_reference():
    t = draw_times("logit_normal", 1_000_000, torch.Generator().manual_seed(0)).double().numpy()
    assert np.allclose(np.quantile(t, REFERENCE["t_draw_quantile_levels"]), REFERENCE["t_draw_quantiles"], atol=3e-3)
    assert np.allclose([t.mean(), t.std()], REFERENCE["t_draw_mean_std"], atol=1e-3)
    shares = [(t < 0.02).mean(), (t < 0.1).mean(), (t > 0.9).mean(), (t > 0.98).mean()]
    assert np.allclose(shares, REFERENCE["t_draw_shares"], atol=1e-3)


def test_other_times():
    t = draw_times("uniform", 100_000, torch.Generator().manual_seed(0))
    assert t.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (t < 0.1).float().mean().item() == pytest.approx(0.1, abs=5e-3)
    t = draw_times("mixture", 100_000, torch.Generator().manual_seed(0))
    assert (t < 0.02).float().mean().item() == pytest.approx(0.1 * 0.02 + 0.9 * 6e-5, abs=5e-4)
    t = draw_times("logit_normal", 100_000, torch.Generator().manual_seed(0), mean=-1.0, deviation=0.5)
    assert torch.logit(t).mean().item() == pytest.approx(-1, abs=0.02)
    assert torch.logit(t).std().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("key, num_steps, scale", [("euler1", 1, 1), ("euler10", 10, 1), ("euler10_cfg4", 10, 4)])
def test_engine_walks_the_reference(name, key, num_steps, scale):
    denoiser = Guided(denoiser_of(reference_model(name).requires_grad_(False)), scale)
    labels = torch.from_numpy(REFERENCE[f"{name}_labels"]).long()
    samples = denoise_along(denoiser, FLOW.uniform_path(num_steps), [reference(name, "x")], labels=labels, clip=False)
    assert (samples.xs[0] - reference(name, key)).abs().max() < ROUNDED
    assert samples.num_model_calls == num_steps * (1 if scale == 1 else 2)


# --- calls and batches ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("solver, num_steps, calls", [("ddim", 7, 7), ("multistep", 7, 7), ("midpoint", 5, 10),
                                                      ("heun", 5, 10)])
def test_calls_are_counted_and_a_clean_image_is_never_asked_about(tiny_denoiser, solver, num_steps, calls):
    asked = []
    tiny_denoiser.network.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1].max().item()))

    def draw(scale, interval=None):
        asked.clear()
        return sample(Guided(tiny_denoiser, scale, interval), FLOW.uniform_path(num_steps), 0, range(3),
                      labels=classes_in_turn(range(3), 5), solver=solver, clip=False).num_model_calls
    assert draw(1.0) == calls == len(asked)
    assert draw(4.0) == 2 * calls and max(asked) < 1
    inside = (FLOW.log_snr(torch.tensor(0.25)).item(), FLOW.log_snr(torch.tensor(0.65)).item())
    guided = draw(4.0, inside)
    assert guided == calls + sum(0.25 <= t <= 0.65 for t in asked) and calls < guided < 2 * calls


def test_image_k_is_the_same_for_any_batch(tiny_denoiser):
    path = FLOW.uniform_path(4)

    def draw(indices):
        return sample(Guided(tiny_denoiser, 4.0), path, 3, indices, labels=classes_in_turn(indices, 5),
                      clip=False).xs[0]
    together = draw(range(5))
    assert torch.allclose(torch.cat([draw([0]), draw([1, 2]), draw([3, 4])]), together, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=0.1)


# --- grids ------------------------------------------------------------------------------------------------------------

def test_shifted_grid():
    even = FLOW.uniform_path(8)
    assert torch.allclose(shifted(even, 1.0), even)
    t = shifted(even, 0.5)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all() and (t.diff().diff() > 0).all()
    assert t[4].item() == pytest.approx(0.5 * 0.5 / (1 - 0.5 * 0.5))
    for shift in torch.arange(1, 100).double() / 7:                 # as 0.3, many round 1 to less than 1
        assert shifted(even, float(shift))[[0, -1]].tolist() == [0, 1]
    lead = FLOW.log_snr(shifted(even, 3.0))[1:-1] - FLOW.log_snr(even)[1:-1]
    assert torch.allclose(lead, torch.full((7,), 2 * np.log(3)).double())


def test_density_of_a_known_flow():
    """v = t^3 in every pixel: v' = 3 t^2, v'' = 6 t, so densities go as t for order 1 and t^(1/3) for order 2, part by
    part; the last part, behind the last difference, has the value before it."""
    t = torch.arange(64, dtype=torch.float64) / 64
    velocities = (t**3).reshape(-1, 1, 1).expand(-1, 2, 3)
    for order, power in ((1, 1.0), (2, 1 / 3)):
        density = step_density(velocities, order)
        middle = (torch.arange(64) + 0.5) / 64
        ratio = density / middle.double()**power
        assert torch.allclose(ratio[10:62], ratio[61:62], rtol=5e-3)
        assert density[63].item() == pytest.approx(density[62].item(), rel=0.01)


def test_a_steep_end_gets_its_steps_at_that_end():
    """A velocity that bends in the last twentieth alone: half of the steps lie there, and not a part before it."""
    t = torch.arange(64, dtype=torch.float64) / 64
    bent = ((t - 0.9).clamp(min=0) ** 2).reshape(-1, 1)
    for velocities, near in ((bent, 1.0), (bent.flip(0), 0.0)):
        grid = grid_of_density(step_density(velocities, 1), 20)
        assert ((grid - near).abs() <= 0.11).sum() > 10
    grid = grid_of_density(torch.ones(10), 4)
    assert torch.allclose(grid, FLOW.uniform_path(4))
    grid = grid_of_density(torch.tensor([1.0, 3.0]), 4)                 # three quarters of the steps in the second half
    assert torch.allclose(grid, torch.tensor([0, 0.5, 2 / 3, 5 / 6, 1]).double())


def test_straight_flow_keeps_the_even_grid():
    assert torch.equal(step_density(torch.ones(16, 2, 3), 2), torch.ones(16).double())


def test_optimised_grid_of_a_network(tiny_denoiser):
    grid = optimised_grid(tiny_denoiser, 6, "midpoint", num_images=2)
    assert grid.shape == (7,) and grid[0] == 0 and grid[-1] == 1 and (grid.diff() > 0).all()
    with pytest.raises(InputError, match="--grid: found optimised with --solver renoise"):
        check_grid("optimised", 1.0, "renoise")
    with pytest.raises(InputError, match="--shift: found 0.5"):
        check_grid("uniform", 0.5, "ddim")


# --- six Gaussians with a known flow ----------------------------------------------------------------------------------

class Mixture(Denoiser):
    """The exact clean image for six normal laws on 8 x 8 images, smooth as photographs are; float64.

    The variance of the independent noise in them, 0.015, decides between the solvers, for few steps err most in what
    varies least: with 0.01 Euler's 100 calls are ahead of midpoint's 10.
    """

    def __init__(self):
        self.shapes, self.processes = [(1, SIDE, SIDE)], [FLOW]
        rng = np.random.default_rng(0)
        place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
        distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
        means, covariances = [], []
        for k in range(6):
            smooth = np.exp(-distance / (1 + k))
            means.append(np.linalg.cholesky(smooth + 1e-9 * np.eye(64)) @ rng.standard_normal(64) * 0.5)
            covariances.append(0.05 * smooth + 0.015 * np.eye(64))
        self.means, self.covariances = torch.tensor(np.array(means)), torch.tensor(np.array(covariances))
        self.eigenvalues, self.vectors = torch.linalg.eigh(self.covariances)            # [6, 64], [6, 64, 64]
        self.mean = self.means.mean(0)
        centred = self.means - self.mean
        self.covariance = self.covariances.mean(0) + centred.T @ centred / 6

    def clean(self, xs, ts, labels=None):
        [x], t = xs, ts[0][0].double()
        self.num_evaluations += len(x)
        flat = x.double().flatten(1)
        parts = torch.einsum("bi,kij->bkj", flat, self.vectors) \
            - t * torch.einsum("ki,kij->kj", self.means, self.vectors)                  # [B, 6, 64]
        variances = t**2 * self.eigenvalues + (1 - t)**2
        log_density = -0.5 * (parts.square() / variances + variances.log()).sum(-1)
        means = self.means + torch.einsum("bkj,kij->bki", t * self.eigenvalues / variances * parts, self.vectors)
        x_0 = (log_density.softmax(1)[..., None] * means).sum(1)
        return [x_0.reshape(x.shape).to(x.dtype)]

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean [64] and covariance [64, 64] of images, whitened by the law's: of the law itself 0 and 1."""
        values, vectors = torch.linalg.eigh(self.covariance)
        whitened = (x.double().flatten(1) - self.mean) @ vectors / values.sqrt()
        return whitened.mean(0), torch.cov(whitened.T)


@pytest.fixture(scope="module")
def law():
    """The mixture, 1000 starts, and the moments of where the exact flow carries them."""
    mixture = Mixture()
    starts = torch.randn(1000, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = denoise_along(mixture, FLOW.uniform_path(60), [starts], solver="midpoint", clip=False).xs[0]
    return mixture, starts, mixture.moments(exact)


def distance(moments, others) -> float:
    """Between the means and covariances of two sets of images."""
    return sum((one - other).square().sum() for one, other in zip(moments, others)).sqrt().item() / 8


def distance_of(law, solver, path, calls) -> float:
    """Of where a solver carries the starts from where the exact flow does, so that few images tell; the calls are
    checked."""
    mixture, starts, exact = law
    samples = denoise_along(mixture, path, [starts], solver=solver, clip=False)
    assert samples.num_model_calls == calls
    return distance(mixture.moments(samples.xs[0]), exact)


def test_the_exact_flow_ends_in_the_law(law):
    """As near as 1000 independent images of it are: mean and covariance of n whitened ones err by (64 * 66 / n)^1/2."""
    mixture, starts, exact = law
    of_law = torch.zeros(64), torch.eye(64)
    assert distance(exact, of_law) == pytest.approx((64 * 66 / 1000)**0.5 / 8, rel=0.1)
    assert distance(mixture.moments(starts), of_law) > 1


def test_midpoint_with_ten_calls_is_no_worse_than_euler_with_a_hundred(law):
    euler = distance_of(law, "ddim", FLOW.uniform_path(100), 100)
    assert distance_of(law, "midpoint", FLOW.uniform_path(5), 10) <= euler
    assert distance_of(law, "ddim", FLOW.uniform_path(10), 10) > 5 * euler


@pytest.mark.parametrize("solver, num_steps, calls", [("midpoint", 3, 6), ("multistep", 8, 8), ("ddim", 8, 8)])
def test_optimised_grid_comes_nearer_at_equal_calls(law, solver, num_steps, calls):
    even = distance_of(law, solver, FLOW.uniform_path(num_steps), calls)
    assert distance_of(law, solver, optimised_grid(law[0], num_steps, solver), calls) < 0.95 * even


# --- what is said -----------------------------------------------------------------------------------------------------

def test_rank_bound_is_told():
    with torch.device("meta"):
        assert "0.67" in rank_warning(DiT(32, 3, 8, 64, 2, 2, 1, 10))
        assert rank_warning(DiT(32, 3, 8, 64, 2, 2, 1, 10, output="residual")) is None
        assert rank_warning(DiT(32, 3, 4, 64, 2, 2, 1, 10)) is None


def test_flops_of_one_scale_and_of_two():
    """Counted against the table of presets, and by hand: a matrix product of [T, a] and [a, b] is 2 T a b."""
    debug = dict(channels=3, patch_size=8, hidden_size=64, depth=2, num_heads=2, mlp_ratio=1, num_classes=10)
    assert gflop_of_forward(debug | {"image_size": 32}) == pytest.approx(0.003, abs=5e-4)
    small = dict(channels=4, patch_size=2, hidden_size=384, depth=12, num_heads=6, mlp_ratio=4, num_classes=1000)
    assert gflop_of_forward(small | {"image_size": 32}) == pytest.approx(12.1, abs=0.05)

    def expected(sides):
        d, n, p = 64, 2, 192                                            # width, blocks, numbers of a patch
        tokens = [(side // 8)**2 for side in sides]
        total = sum(tokens)
        per_block = 2 * total * d * (3 * d + d + d + d) + 4 * total**2 * d
        of_time, modulations = 2 * (256 * d + d * d), 2 * d * (n * 6 * d + 2 * d)
        return (n * per_block + 4 * total * p * d + len(sides) * (of_time + modulations)) / 1e9

    assert gflop_of_forward(debug | {"image_size": 32}) == pytest.approx(expected([32]), rel=1e-6)
    assert gflop_of_forward(debug | {"image_sizes": [32, 16]}) == pytest.approx(expected([32, 16]), rel=1e-6)
