"""Path costs: closed forms on Gaussians, finite differences, each other in the limit, and counts of model calls."""
import itertools

import numpy as np
import pytest
import torch
from conftest import with_reference_weights

from lift import exact_mixture
from lift import path_costs
from lift import dynamic_program, paths
from baseline_model import BaselineModel
from engine.errors import InputError
from model import LIFTDualTimestepModel
from lift.sampling import check_timesteps
from scheduler import NUM_TIMESTEPS, predict_x_0

ALL_TIMESTEPS = np.arange(NUM_TIMESTEPS - 1, -1, -1)
GRID = paths.timestep_grid(7)


def cells_of(*pairs):
    """Cells of the grid of all timesteps."""
    return NUM_TIMESTEPS - 1 - np.array(pairs)


class Counted:
    """A model that counts the images it is called on. Networks run on 16x16 images here: they take any size."""

    def __init__(self, model):
        self.model, self.model_type, self.num_images = model, model.model_type, 0

    def __call__(self, *inputs):
        self.num_images += len(inputs[0])
        return self.model(*inputs)

    def parameters(self):
        return self.model.parameters()


@pytest.fixture(scope="module")
def mixture():
    return exact_mixture.random_mixture(3)


@pytest.fixture(scope="module")
def at(mixture):
    return path_costs.Measurement(exact_mixture.MixtureDenoiser(mixture),
                                  mixture.sample(8, torch.Generator().manual_seed(0)), ALL_TIMESTEPS, clip=False,
                                  batch_size=512)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def lift():
    return with_reference_weights(LIFTDualTimestepModel([8, 16]))


@pytest.fixture(scope="module")
def baseline():
    return with_reference_weights(BaselineModel([8, 16]))


# Local error

def test_derivative_along_the_flow_of_a_white_gaussian():
    """x ~ N(0, c I): x^ = c z / (c + s^2), and along the flow dx^/dlambda = c s^2 z / (2 (c + s^2)^2)."""
    c = 0.3
    white = exact_mixture.GaussianMixture(torch.ones(1), torch.zeros(1, 64), c * torch.eye(64)[None])
    at = path_costs.Measurement(exact_mixture.MixtureDenoiser(white, single_scale=True),
                                white.sample(4, torch.Generator().manual_seed(0)), ALL_TIMESTEPS, clip=False)
    for t in (800, 400, 60):
        cells = cells_of([t])
        states, x_0, derivatives = path_costs.flow_derivatives(at, cells)
        variance = np.exp(-at.log_snr[cells[0, 0]])
        z = states[0] * np.sqrt(1 + variance)                           # x_t = sqrt(abar) z, abar = 1 / (1 + variance)
        torch.testing.assert_close(x_0[0], c * z / (c + variance), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(derivatives[0][0], c * variance * z / (2 * (c + variance)**2), rtol=1e-6, atol=1e-8)
        step = path_costs.directional_costs(at, cells, cells_of([t - 40]), propagate="none")[0]
        length = at.log_snr[cells_of([t - 40])[0, 0]] - at.log_snr[cells[0, 0]]
        assert step == pytest.approx(length**2 / 4 * derivatives[0][0].square().mean().sqrt().item(), rel=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
def test_derivatives_along_the_flow_by_finite_differences(at, axis):
    """Both scales' predictions, while one scale alone takes a small DDIM step."""
    cells = cells_of([500, 300], [250, 700])
    states, x_0, derivatives = path_costs.flow_derivatives(at, cells)
    log_snr, after = at.log_snr[cells], at.log_snr[cells].copy()
    after[:, axis] += 1e-4
    moved = at.predictions(at.advance(states, x_0, log_snr, after), after)
    for s in range(2):
        torch.testing.assert_close((moved[s] - x_0[s]) / 1e-4, derivatives[axis][s], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("parametrization", ["eps", "v"])
def test_derivatives_of_a_network_by_finite_differences(parametrization):
    lift = with_reference_weights(LIFTDualTimestepModel([8, 16], parametrization))
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64) - 0.5
    at = path_costs.Measurement(lift, x_0, ALL_TIMESTEPS, clip=False)
    cells = cells_of([40, 60])                  # little noise: the made-up network's predictions stay moderate
    states, predictions, derivatives = path_costs.flow_derivatives(
        path_costs.Measurement(lift, x_0.float(), ALL_TIMESTEPS, clip=False), cells)
    log_snr = at.log_snr[cells]
    for axis in range(2):
        # Backwards, to the side on which a whole timestep's slope in log SNR is taken.
        before = log_snr.copy()
        before[:, axis] -= 0.0005
        moved = at.advance([x.double() for x in states], [x.double() for x in predictions], log_snr, before)
        with torch.no_grad():
            eps = lift(*(x.float() for x in moved), *(at.times(before[:, s]).float() for s in range(2)))
        for s in range(2):
            prediction = predict_x_0(moved[s], eps[s].double(), at.abar(before[:, s]), clip=False)
            expected, found = (predictions[s].double() - prediction) / 0.0005, derivatives[axis][s].double()
            assert (found - expected).norm() < 0.03 * expected.norm()


def test_clipped_predictions_do_not_move(lift, images):
    at = path_costs.Measurement.of_images(lift, images, ALL_TIMESTEPS)
    states, x_0, derivatives = path_costs.flow_derivatives(at, cells_of([900, 900]))
    for s in range(2):
        assert x_0[s].abs().max() <= 1
        assert (derivatives[0][s][x_0[s].abs() == 1] == 0).all() and (x_0[s].abs() == 1).any()


def test_step_doubling_and_local_error_agree_for_short_steps(at):
    """Two half steps make half the local error of one: the distance tends to half the directional cost."""
    starts = cells_of([500, 300], [300, 500], [400, 400], [200, 350])
    ends = cells_of([490, 292], [292, 496], [390, 400], [200, 340])
    doubling, directional = (costs(at, starts, ends) for costs in (path_costs.step_doubling_costs,
                                                                   path_costs.directional_costs))
    # The last edge moves the 32 scale alone: only the arrival point's Jacobian carries its error to the image.
    assert (directional > 0).all()
    np.testing.assert_allclose(doubling / directional, 0.5, rtol=0.12)
    short = path_costs.step_doubling_costs(at, starts[:1], cells_of([495, 296]))
    assert doubling[0] / short[0] == pytest.approx(4, rel=0.1)          # the local error grows with the square


def test_gram_matrix_gives_every_direction(at):
    starts = cells_of([500, 300], [500, 300], [500, 300])
    ends = cells_of([400, 300], [500, 200], [350, 100])
    _, _, D = path_costs.flow_derivatives(at, starts[:1])
    steps = at.log_snr[ends] - at.log_snr[starts]
    by_hand = [at.lengths(a / 4 * (a * D[0][0] + b * D[1][0]))[0] for a, b in steps]
    np.testing.assert_allclose(path_costs.directional_costs(at, starts, ends, propagate="none"), by_hand, rtol=1e-9)
    without = path_costs.directional_costs(at, starts, ends, cross_terms=False, propagate="none")
    assert without[0] == pytest.approx(by_hand[0]) and without[1] == 0
    assert without[2] != pytest.approx(by_hand[2], rel=0.01)


def test_jacobians_of_the_start_and_of_the_arrival_agree_for_short_steps(at):
    starts = cells_of([500, 300], [300, 500], [400, 400], [200, 350])
    ends = cells_of([496, 297], [297, 498], [396, 400], [200, 346])
    for cross_terms in (True, False):
        arrival, start = (path_costs.directional_costs(at, starts, ends, cross_terms, propagate)
                          for propagate in ("arrival", "start"))
        np.testing.assert_allclose(start, arrival, rtol=0.05)
    assert start[3] == 0 and (start[:3] > 0).all()          # without cross terms the 32 scale does not reach the image


def test_clean_arrivals_and_clean_starts(at):
    """The step to the clean image is judged by the image itself; after it the 64 scale has nothing left to lose."""
    costs = path_costs.step_doubling_costs(at, cells_of([0, 300], [40, 40]), cells_of([0, 100], [0, 0]))
    assert costs[0] == 0
    states = at.noised(cells_of([40, 40]))
    log_snr = at.log_snr[cells_of([40, 40])]
    x_0 = at.predictions(states, log_snr)
    middle = (log_snr + at.log_snr[-1]) / 2
    later = at.predictions(at.advance(states, x_0, log_snr, middle), middle)
    assert costs[1] == pytest.approx(at.lengths(x_0[0] - later[0])[0], rel=1e-9)
    assert path_costs.directional_costs(at, cells_of([0, 300]), cells_of([0, 100]))[0] == 0


def test_a_norm_of_ones_own(mixture, at):
    double = path_costs.Measurement(at.model, at.clean[0], ALL_TIMESTEPS, clip=False, transform=lambda x: 2 * x)
    edge = cells_of([500, 300]), cells_of([400, 250])
    for costs in (path_costs.step_doubling_costs, path_costs.directional_costs):
        assert costs(double, *edge)[0] == pytest.approx(2 * costs(at, *edge)[0], rel=1e-9)


# Losses

def test_squared_errors_are_posterior_variances(mixture):
    """E |x - x^|^2 is the mean trace of the posterior covariance."""
    x_0 = mixture.sample(400, torch.Generator().manual_seed(1))
    at = path_costs.Measurement(exact_mixture.MixtureDenoiser(mixture), x_0, ALL_TIMESTEPS, clip=False, batch_size=4096)
    cells = cells_of([500, 400])
    snr = torch.from_numpy(np.exp(at.log_snr[cells]))
    z = [x.flatten(1)[None] / (snr[0, s] / (1 + snr[0, s])).sqrt() for s, x in enumerate(at.noised(cells))]
    covariance = mixture.posterior_covariance(*z, snr[:, 0], snr[:, 1])[0].mean(0)
    A = mixture.downsample
    expected = [covariance.trace().item(), (A @ covariance @ A.T).trace().item()]
    np.testing.assert_allclose(path_costs.squared_errors(at, cells)[0], expected, rtol=0.1)


def test_loss_map_costs():
    errors_64, errors_32 = np.random.default_rng(0).random((2, 7, 7))
    costs = path_costs.loss_map_edge_costs(errors_64, errors_32, GRID, 3)
    snr = np.exp(paths.log_snr_of(GRID))
    expected = (errors_64[2, 3] * (snr[3] - snr[2]) + errors_32[2, 3] * (snr[6] - snr[3])) / 2
    assert costs[2, 3, 1, 3] == pytest.approx(expected)
    start, end = np.array([[2, 3]]), np.array([[3, 6]])
    log_snr = paths.log_snr_of(GRID)
    errors = np.array([[errors_64[2, 3], errors_32[2, 3]]])
    assert path_costs.loss_map_costs(errors, log_snr[start], log_snr[end])[0] == pytest.approx(expected)
    assert path_costs.trapezoid_costs(np.array([1.0]), np.array([3.0]), np.array([0.5])) == 1.0


# Plans and networks

def test_plans():
    plan = path_costs.plan_edges(GRID, 3, 4)
    assert np.isfinite(plan.fill(np.ones(len(plan.starts)))).sum() == dynamic_program.usable_edges(7, 3, 4).sum()
    log_snr = paths.log_snr_of(GRID)
    band = path_costs.plan_edges(GRID, 3, 4, max_lead=2.5)
    for side in (band.starts, band.ends):
        assert (np.abs(np.diff(log_snr[side], axis=1)) <= 2.5).all()
    assert len(band.starts) < len(plan.starts)
    diagonal = path_costs.plan_edges(GRID, 3, 4, diagonal_only=True)
    assert (diagonal.starts[:, 0] == diagonal.starts[:, 1]).all() and (diagonal.ends[:, 0] == diagonal.ends[:, 1]).all()
    with pytest.raises(InputError, match="--max_lead: found 0.1, which leaves no path of 7 steps on 7 points"):
        path_costs.plan_edges(GRID, 3, 7, max_lead=0.1)     # the diagonal alone, which has 6 cells to go
    with pytest.raises(InputError, match="--num_steps"):
        path_costs.plan_edges(GRID, 3, 1)


@pytest.mark.parametrize("options", [{}, {"max_lead": 3.0}, {"diagonal_only": True}])
def test_step_doubling_of_a_network(lift, images, options, capsys):
    counted = Counted(lift)
    costs = path_costs.step_doubling_edge_costs(counted, images, GRID, num_steps=4, max_jump=2, max_images=2, **options)
    plan = path_costs.plan_edges(GRID, 2, 4, **options)
    assert counted.num_images == path_costs.step_doubling_num_calls(plan, 2)
    assert f"{counted.num_images} model calls" in capsys.readouterr().out
    assert np.array_equal(np.isfinite(costs), np.isfinite(plan.fill(np.ones(len(plan.starts)))))
    other_batch = path_costs.step_doubling_edge_costs(lift, images, GRID, num_steps=4, max_jump=2, max_images=2,
                                                      batch_size=6, **options)
    measured = np.isfinite(costs)
    np.testing.assert_allclose(costs[measured], other_batch[measured], rtol=1e-4, atol=1e-6)
    content = {"timesteps": GRID, "edge_costs": {"step_doubling": costs}}
    path_type = "dp_diagonal" if options.get("diagonal_only") else "dp_step"
    check_timesteps(paths.path_from_heatmap(content, path_type, 4, max_jump=2))


@pytest.mark.parametrize("propagate", path_costs.PROPAGATIONS)
def test_directional_of_a_network(lift, images, propagate, capsys):
    counted = Counted(lift)
    costs = path_costs.directional_edge_costs(counted, images, GRID, num_steps=4, max_jump=2, max_images=2,
                                              propagate=propagate)
    plan = path_costs.plan_edges(GRID, 2, 4)
    stated = path_costs.directional_num_calls(plan, 2, propagate)
    # A product with the Jacobian is one evaluation that costs two.
    assert counted.num_images < stated and f"{stated} model calls" in capsys.readouterr().out
    content = {"timesteps": GRID, "edge_costs": {"directional": costs}}
    check_timesteps(paths.path_from_heatmap(content, "dp_directional", 4, max_jump=2))
    assert np.array_equal(np.isfinite(costs), np.isfinite(plan.fill(np.ones(len(plan.starts)))))


def test_schedules_of_the_baseline(baseline, images):
    for costs in (path_costs.step_doubling_edge_costs(baseline, images, GRID, num_steps=4, max_jump=3, max_images=2),
                  path_costs.directional_edge_costs(baseline, images, GRID, num_steps=4, max_jump=3, max_images=2)):
        assert costs.shape == (7, 4)
        path = check_timesteps(paths.schedule_path(costs, GRID, 4))
        assert np.array_equal(path[:, 0], path[:, 1])
        best = min(sum(costs[a, b - a] for a, b in itertools.pairwise((0, *inner, 6)))
                   for inner in itertools.combinations(range(1, 6), 3) if max(np.diff((0, *inner, 6))) <= 3)
        assert dynamic_program.cheapest_schedule(costs, 4)[1] == pytest.approx(best)


def test_no_images(lift):
    with pytest.raises(InputError, match="no images"):
        path_costs.step_doubling_edge_costs(lift, np.zeros((0, 3, 64, 64), np.uint8), GRID, num_steps=4, max_jump=2)


# The lead family's search

def test_search_of_the_lead_family(mixture):
    denoiser = exact_mixture.MixtureDenoiser(mixture)
    x_0 = mixture.sample(4, torch.Generator().manual_seed(0))
    candidates = [paths.Lead(1.0), paths.Lead(4.0), paths.Lead(4.0, 1.0, 0.3), paths.Lead(20.0)]
    best, rows = path_costs.search_lead(denoiser, x_0, 6, candidates=candidates, clip=False)
    costs = [row["step_doubling"] for row in rows]
    assert costs == sorted(costs) and best == paths.Lead(*(rows[0][key] for key in ("rho", "lead", "onset")))
    judged = []
    chosen, rows = path_costs.search_lead(denoiser, x_0, 6, candidates=candidates, clip=False, num_finalists=2,
                                          sample_metric=lambda path: judged.append(path) or -len(judged))
    assert len(judged) == 2 and chosen != best and rows[0]["sample_metric"] == -2
    # The best path without a lead is always judged, however many with one are cheaper by step doubling.
    leading = [paths.Lead(4.0, lead, 0.3) for lead in (0.2, 0.4, 0.6)]
    judged.clear()
    path_costs.search_lead(denoiser, x_0, 6, candidates=[*leading, paths.Lead(0.5)], clip=False, num_finalists=2,
                           sample_metric=lambda path: judged.append(path) or len(judged))
    assert len(judged) == 2 and np.array_equal(judged[1], paths.lead_path(6, paths.Lead(0.5)))
    # The same budget for the opponent.
    assert len(path_costs.lead_candidates(1)) == len(path_costs.lead_candidates(2))
    assert all(candidate.lead == 0 for candidate in path_costs.lead_candidates(1))


def test_step_doubling_predicts_the_order_of_schedules(mixture):
    """Bad, fair and good spacings on the diagonal: the cost orders them as the distance to the truth does."""
    denoiser = exact_mixture.MixtureDenoiser(mixture)
    x_0 = mixture.sample(8, torch.Generator().manual_seed(2))
    at = path_costs.Measurement(denoiser, x_0, ALL_TIMESTEPS, clip=False)
    starts = exact_mixture.start_states(mixture, 2000, 0)
    routes = [paths.lead_path(10, paths.Lead(rho)) for rho in (0.7, 1.5, 4.0)]
    costs = [path_costs.step_doubling_of_path(at, route) for route in routes]
    errors = [exact_mixture.distance_to_truth(exact_mixture.sample_along(denoiser, route, starts).x_64, mixture)
              for route in routes]
    assert costs[0] > costs[1] > costs[2] and errors[0] > errors[1] > errors[2]
