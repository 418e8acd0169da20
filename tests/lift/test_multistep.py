"""The second-order solver: against diffusers' DPM-Solver++(2M) on a single scale, and what it does on two."""
import numpy as np
import pytest
import torch
from conftest import with_reference_weights

from lift import exact_mixture
from lift import paths
from baseline_model import BaselineModel
from engine.sampling import start_noise
from lift.coupling import NOISIEST_SHAPES
from lift.sampling import check_timesteps, denoise_scales, uniform_diagonal
from scheduler import CosineSteps, extrapolate


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs diffusers, a test-only dependency")


def solve_with_diffusers(diffusers, model, timesteps: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++(2M), midpoint, on our noise schedule and timesteps [N + 1], its last step to the clean image."""
    abar = CosineSteps().alphas_cumprod
    betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas.tolist(), algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
        lower_order_final=True, final_sigmas_type="zero", prediction_type="epsilon")
    scheduler.set_timesteps(timesteps=timesteps[:-1].tolist())
    assert len(scheduler.timesteps) == len(timesteps) - 1
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(len(x))), t, x).prev_sample
    return x


def schedules():
    rho = paths.rho_schedule(18, 5.0)
    return {"uniform, 18 steps": uniform_diagonal(18)[:, 0], "uniform, 7 steps": uniform_diagonal(7)[:, 0],
            "rho, 18 steps": rho, "2 steps": np.array([999, 400, 0]),
            "uneven": np.array([999, 990, 600, 590, 100, 3, 0])}


@pytest.mark.parametrize("name", schedules())
def test_same_samples_as_diffusers(diffusers, name):
    """An exact denoiser, without clipping."""
    timesteps = schedules()[name]
    mixture = exact_mixture.random_mixture(1)
    denoiser = exact_mixture.MixtureDenoiser(mixture, single_scale=True)
    x = exact_mixture.start_states(mixture, 8, 0)[0]
    ours = exact_mixture.sample_along(denoiser, np.stack([timesteps] * 2, axis=1), [x], "multistep").x_64
    theirs = solve_with_diffusers(diffusers, denoiser, timesteps, x)
    assert (ours - theirs).abs().max() < 1e-4
    ddim = exact_mixture.sample_along(denoiser, np.stack([timesteps] * 2, axis=1), [x], "ddim").x_64
    assert len(timesteps) == 3 or (ours - ddim).abs().max() > 1e-2     # so the comparison can tell the two apart


def test_same_samples_as_diffusers_with_a_network(diffusers):
    model = with_reference_weights(BaselineModel([8, 16]))
    x, _ = start_noise(NOISIEST_SHAPES, 0, range(2))
    path = np.stack([schedules()["rho, 18 steps"]] * 2, axis=1)
    ours = denoise_scales(model, path, [x], solver="multistep", clip=False).x_64
    with torch.no_grad():
        theirs = solve_with_diffusers(diffusers, model, path[:, 0], x)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max().clamp(min=1)


def test_extrapolation():
    last, previous = torch.tensor([3.0]), torch.tensor([1.0])
    assert extrapolate(last, previous, 2.0, 4.0).item() == 3 + 2 / 8 * 2
    for step, step_previous in ((np.inf, 1.0), (1.0, np.inf), (1.0, 0.0)):
        assert extrapolate(last, previous, step, step_previous) is last


def test_a_scale_that_stands_still_is_left_untouched():
    mixture = exact_mixture.random_mixture(1)
    path = check_timesteps(np.array([[999, 999], [999, 600], [700, 600], [400, 300], [400, 0], [0, 0]]))
    seen = []
    denoise_scales(exact_mixture.MixtureDenoiser(mixture), path, exact_mixture.start_states(mixture, 3, 0),
                  solver="multistep", clip=False, on_step=lambda *now: seen.append(now))
    for before, after, stays in ((0, 1, 3), (1, 2, 4), (3, 4, 3)):        # index 3 is x_64, 4 is x_32
        assert torch.equal(seen[before][stays], seen[after][stays])
        assert not torch.equal(seen[before][7 - stays], seen[after][7 - stays])


def test_second_order_on_two_scales():
    """Halving the steps divides the distance to the exact flow by about 4, by 2 for DDIM, off the diagonal too."""
    mixture = exact_mixture.random_mixture(2)
    denoiser, starts = exact_mixture.MixtureDenoiser(mixture), exact_mixture.start_states(mixture, 64, 0)
    schedule = CosineSteps()
    log_snr = np.linspace(*paths.log_snr_of(np.array([950, 100])), 129)
    fine = np.stack([schedule.t_at(torch.from_numpy(log_snr + lead)).round().long().numpy()
                     for lead in (0, 1.5)], axis=1)

    def before_the_end(stride, solver):
        # The last step, to the clean image, is first-order and the same for all: compare before it.
        seen = []
        denoise_scales(denoiser, np.vstack([fine[::stride], [0, 0]]), starts, solver=solver, clip=False,
                      on_step=lambda *now: seen.append(now[3]))
        return seen[-2]

    exact = before_the_end(1, "multistep")
    ratios = {}
    for solver in ("ddim", "multistep"):
        errors = [(before_the_end(stride, solver) - exact).square().mean().sqrt().item() for stride in (8, 4)]
        ratios[solver] = errors[0] / errors[1]
    assert 1.7 < ratios["ddim"] < 2.5 and 3.0 < ratios["multistep"] < 6.0
