"""Paths: grids, golden costs, brute force on small grids, ties, and requests that cannot be met."""
import itertools

import numpy as np
import pytest

from lift import dynamic_program, error_map, paths
from lift.options import PATH_TYPES, STEP_SIZES
from engine.errors import InputError
from lift.sampling import check_timesteps

GRID = paths.timestep_grid(30)


def random_map(seed, n=30):
    return np.random.default_rng(seed).lognormal(0, 1, (n, n))


def all_paths(n, num_steps, max_jump):
    """Every path of exactly `num_steps` steps, as tuples of cells, by recursion."""
    jumps = [jump for jump in itertools.product(range(max_jump + 1), repeat=2) if any(jump)]

    def extend(path):
        if len(path) == num_steps + 1:
            if path[-1] == (n - 1, n - 1):
                yield path
            return
        for di, dj in jumps:
            cell = path[-1][0] + di, path[-1][1] + dj
            if max(cell) < n:
                yield from extend((*path, cell))
    return list(extend(((0, 0),)))


def heatmap(seed=0, **extra):
    return {"timesteps": GRID, "error_64": random_map(seed), "error_32": random_map(seed + 100),
            "options": {"chain_rule": "localization", "normalization": "both_sides"}, **extra}


def test_timestep_grid(golden):
    assert np.array_equal(GRID, golden["dp_t_grid"])
    assert paths.timestep_grid(100)[[0, -1]].tolist() == [999, 0]
    # Where the points are whole numbers, none may be lost to rounding.
    assert paths.timestep_grid(28).tolist() == list(range(999, -1, -37))
    assert paths.timestep_grid(30, "logsnr")[[0, -1]].tolist() == [943, 54]
    steps = np.diff(paths.log_snr_of(paths.timestep_grid(15, "logsnr")))
    assert np.ptp(steps) < 0.03 * steps.mean()
    ends = paths.cells_to_timesteps(np.array([0, 14]), paths.timestep_grid(15, "logsnr"))
    assert ends.tolist() == [999, 0]


@pytest.mark.parametrize("grid", [1, 2000])
def test_impossible_grid(grid):
    with pytest.raises(InputError, match="--grid"):
        paths.timestep_grid(grid)


def test_golden_costs(golden):
    for k in range(4):
        error_64, error_32 = golden["dp_error64"][k], golden["dp_error32"][k]
        by_index = [dynamic_program.cheapest_path(paths.edge_costs_index(error, 5), 18)[1] for error in
                    (error_64, error_64 + error_32)]
        by_log_snr = [dynamic_program.cheapest_path(paths.edge_costs_log_snr(error_64, other, golden["dp_logsnr"], 5),
                                                    18)[1]
                      for other in (None, error_32)]
        np.testing.assert_allclose(by_index, golden["dp_cost_index"][k], rtol=1e-9)
        np.testing.assert_allclose(by_log_snr, golden["dp_cost_logsnr"][k], rtol=1e-9)


@pytest.mark.parametrize("n,num_steps,max_jump", [(4, 3, 2), (5, 4, 2), (4, 6, 3), (5, 3, 4), (3, 4, 1)])
def test_brute_force(n, num_steps, max_jump):
    log_snr = np.cumsum(np.random.default_rng(n).uniform(0.1, 1, n))
    error_64, error_32 = random_map(num_steps, n), random_map(num_steps + 1, n)
    candidates = all_paths(n, num_steps, max_jump)
    for costs in (paths.edge_costs_index(error_64, max_jump),
                  paths.edge_costs_log_snr(error_64, error_32, log_snr, max_jump)):
        cells, cost = dynamic_program.cheapest_path(costs, num_steps)
        by_hand = [sum(costs[(*a, b[0] - a[0], b[1] - a[1])] for a, b in itertools.pairwise(path))
                   for path in candidates]
        assert cost == pytest.approx(min(by_hand), rel=1e-12)
        assert tuple(map(tuple, cells.tolist())) == candidates[int(np.argmin(by_hand))]


def test_edge_costs_by_hand():
    error = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    costs = paths.edge_costs_index(error, 2)
    assert costs.shape == (3, 3, 3, 3)
    assert costs[0, 1, 2, 1] == pytest.approx((2 + 9) / 2 * np.sqrt(5))
    assert costs[1, 1, 0, 0] == np.inf and costs[1, 1, 2, 0] == np.inf
    log_snr = np.array([-1.0, 0.5, 3.0])
    costs = paths.edge_costs_log_snr(error, 10 * error, log_snr, 2)
    assert costs[0, 1, 2, 1] == pytest.approx((2 + 9) / 2 * 4.0 + 10 * (2 + 9) / 2 * 2.5)


def test_jump_beyond_the_grid():
    cells, _ = dynamic_program.cheapest_path(paths.edge_costs_index(random_map(0, 4), 9), 2)
    assert len(cells) == 3 and cells[-1].tolist() == [3, 3]


def test_usable_edges_are_those_of_all_paths():
    for n, num_steps, max_jump in ((4, 3, 2), (4, 5, 3), (5, 3, 2), (3, 4, 2)):
        used = np.zeros((n, n, max_jump + 1, max_jump + 1), dtype=bool)
        for path in all_paths(n, num_steps, max_jump):
            for a, b in itertools.pairwise(path):
                used[(*a, b[0] - a[0], b[1] - a[1])] = True
        assert np.array_equal(used, dynamic_program.usable_edges(n, max_jump, num_steps))
    diagonal = dynamic_program.usable_edges(6, 3, 3, diagonal_only=True)
    single = dynamic_program.usable_edges(6, 3, 3, num_scales=1)
    assert np.array_equal(dynamic_program.diagonal_edge_costs(diagonal), single) and diagonal.sum() == single.sum()


@pytest.mark.parametrize("num_steps", [6, 18, 29, 40, 58])
def test_every_possible_number_of_steps(num_steps):
    cells, cost = dynamic_program.cheapest_path(paths.edge_costs_index(random_map(3), 5), num_steps)
    steps = np.diff(cells, axis=0)
    assert cells.shape == (num_steps + 1, 2) and cells[0].tolist() == [0, 0] and cells[-1].tolist() == [29, 29]
    assert steps.min() >= 0 and steps.max() <= 5 and (steps.sum(1) > 0).all() and np.isfinite(cost)


@pytest.mark.parametrize("num_steps", [0, 5, 59])
def test_impossible_number_of_steps(num_steps):
    with pytest.raises(InputError, match="allows 6 to 58 steps"):
        dynamic_program.cheapest_path(paths.edge_costs_index(random_map(3), 5), num_steps)


# Ties

def near_symmetric(seed, n=30):
    """A map that is symmetric up to rounding, cheapest on the diagonal."""
    i, j = np.indices((n, n))
    error = (1 + (i - j)**2) * (1 + 0.3 * np.sin(i + j))
    return error * (1 + 1e-15 * np.random.default_rng(seed).standard_normal((n, n)))


def test_symmetric_maps_give_the_diagonal():
    log_snr = paths.log_snr_of(GRID)
    for seed in range(5):
        cells, _ = dynamic_program.cheapest_path(paths.edge_costs_index(near_symmetric(seed), 5), 18)
        assert np.array_equal(cells[:, 0], cells[:, 1])
    constant = np.full((30, 30), 0.1) * (1 + 1e-15 * np.random.default_rng(0).standard_normal((30, 30)))
    # In log SNR every monotone path through a constant map costs the same.
    for costs in (paths.edge_costs_log_snr(constant, constant, log_snr, 5), paths.edge_costs_index(constant, 5)):
        cells, _ = dynamic_program.cheapest_path(costs, 18)
        assert np.array_equal(cells[:, 0], cells[:, 1])
        assert np.diff(cells[:, 0]).min() == 1 and np.diff(cells[:, 0]).max() == 2      # the most even steps


def test_mirrored_maps_give_mirrored_paths():
    for seed in range(5):
        error = random_map(seed)
        cells, cost = dynamic_program.cheapest_path(paths.edge_costs_index(error, 5), 18)
        mirrored, mirrored_cost = dynamic_program.cheapest_path(paths.edge_costs_index(error.T.copy(), 5), 18)
        assert np.array_equal(cells[:, ::-1], mirrored) and cost == pytest.approx(mirrored_cost, rel=1e-13)


def test_ties_do_not_depend_on_rounding():
    """Symmetric maps whose optimum lies beside the diagonal: always the same one of the mirrored pair."""
    for seed in range(5):
        error = random_map(seed)
        error = error + error.T
        rounding = [1 + 1e-15 * np.random.default_rng(k).standard_normal(error.shape) for k in range(4)]
        found = [dynamic_program.cheapest_path(paths.edge_costs_index(error * r, 5), 18)[0] for r in rounding]
        assert all(np.array_equal(found[0], other) for other in found[1:])


def test_tied_path_nearest_the_diagonal_by_brute_force():
    random = np.random.default_rng(5)
    for _ in range(10):
        error = random.integers(1, 3, (4, 4)).astype(float)          # few values: many ties
        costs = paths.edge_costs_log_snr(error, error, np.arange(4.0), 2)
        cells, cost = dynamic_program.cheapest_path(costs, 4)
        totals = {path: sum(costs[(*a, b[0] - a[0], b[1] - a[1])] for a, b in itertools.pairwise(path))
                  for path in all_paths(4, 4, 2)}
        tied = [path for path, total in totals.items() if total <= min(totals.values()) + 1e-9]
        assert np.abs(np.diff(cells)).sum() == min(sum(abs(i - j) for i, j in path) for path in tied)


# One dimension, unconstrained, greedy

def test_one_dimensional_schedules():
    costs = paths.edge_costs_index(random_map(1, 6), 3)
    for num_steps in (2, 3, 4):
        candidates = [(0, *inner, 5) for inner in itertools.combinations(range(1, 5), num_steps - 1)]
        candidates = [c for c in candidates if max(np.diff(c)) <= 3]
        totals = [sum(costs[a, a, b - a, b - a] for a, b in itertools.pairwise(c)) for c in candidates]
        cells, cost = dynamic_program.cheapest_diagonal(costs, num_steps)
        assert cost == pytest.approx(min(totals)) and cells[:, 0].tolist() == list(candidates[int(np.argmin(totals))])
        schedule, same_cost = dynamic_program.cheapest_schedule(dynamic_program.diagonal_edge_costs(costs), num_steps)
        assert np.array_equal(schedule, cells[:, 1]) and same_cost == cost
    path = paths.schedule_path(dynamic_program.diagonal_edge_costs(paths.edge_costs_index(random_map(2), 5)), GRID, 18)
    assert np.array_equal(check_timesteps(path)[:, 0], path[:, 1])
    with pytest.raises(InputError, match="allows 2 to 5 steps"):
        dynamic_program.cheapest_schedule(dynamic_program.diagonal_edge_costs(costs), 6)


def test_unconstrained_is_the_cheapest_of_any_number_of_unit_steps():
    costs = paths.edge_costs_index(random_map(7, 6), 1)
    best = min(dynamic_program.cheapest_path(costs, num_steps)[1] for num_steps in range(5, 11))
    cells, cost = dynamic_program.cheapest_unconstrained(costs)
    assert cost == pytest.approx(best, rel=1e-12)
    assert cost == pytest.approx(dynamic_program.path_edge_costs(costs, cells).sum(), rel=1e-12)
    cells, _ = dynamic_program.cheapest_unconstrained(paths.edge_costs_index(near_symmetric(0), 5))
    assert np.array_equal(cells[:, 0], cells[:, 1])


def test_equal_cost_allocation():
    diagonal = np.stack([np.arange(30)] * 2, axis=1)
    # Equal costs per cell: evenly spaced. All cost in one cell: nearly all points there.
    even = paths.allocate_equal_cost(diagonal, np.ones(29), np.linspace(999, 0, 30).round().astype(int), 9)
    assert np.abs(even[:, 0] - np.linspace(999, 0, 10)).max() <= 2
    lumped = paths.allocate_equal_cost(diagonal, np.where(np.arange(29) == 10, 1.0, 1e-9), GRID, 18)
    assert ((lumped[1:-1, 0] <= GRID[10]) & (lumped[1:-1, 0] >= GRID[11])).all()
    # No cost at all: every step still moves, and the path is a valid one.
    assert len(check_timesteps(paths.allocate_equal_cost(diagonal, np.zeros(29), GRID, 18))) == 19


def test_greedy_follows_the_least_neighbour():
    error = np.array([[9.0, 1, 9], [5, 4, 2], [9, 9, 0]])
    assert paths.greedy_path(error).tolist() == [[0, 0], [0, 1], [1, 2], [2, 2]]
    assert paths.greedy_path(np.ones((4, 4))).tolist() == [[k, k] for k in range(4)]


# Paths by name

@pytest.mark.parametrize("path_type", PATH_TYPES)
@pytest.mark.parametrize("step_size", STEP_SIZES)
def test_every_path_type_is_a_valid_path(path_type, step_size):
    step_doubling = paths.edge_costs_index(random_map(9), 5)
    content = heatmap(edge_costs={"directional": step_doubling, "step_doubling": step_doubling})
    path = paths.path_from_heatmap(content, path_type, 18, step_size=step_size)
    assert check_timesteps(path).shape == (19, 2) and path[0].tolist() == [999, 999]


def test_path_types_read_what_they_name():
    content = heatmap()
    log_snr = paths.log_snr_of(GRID)
    for step_size, costs in (("index", paths.edge_costs_index(content["error_64"], 5)),
                             ("logsnr", paths.edge_costs_log_snr(content["error_64"], None, log_snr, 5))):
        expected = GRID[dynamic_program.cheapest_path(costs, 18)[0]]
        assert np.array_equal(paths.path_from_heatmap(content, "dp_64", 18, step_size=step_size), expected)
    step_doubling = paths.edge_costs_index(random_map(9), 5)
    content["edge_costs"] = {"step_doubling": step_doubling}
    assert np.array_equal(paths.path_from_heatmap(content, "dp_step", 18, max_jump=4),
                          GRID[dynamic_program.cheapest_path(paths.limit_jump(step_doubling, 4), 18)[0]])
    assert np.array_equal(paths.path_from_heatmap(content, "dp_diagonal", 18),
                          GRID[dynamic_program.cheapest_diagonal(step_doubling, 18)[0]])


@pytest.mark.parametrize("path_type,content,message", [
    ("dp_64", None, "needs an error map"), ("identity_64", None, "needs an error map"),
    ("identity_total", {"timesteps": GRID}, "holds no options"), ("dp_step", None, "needs edge costs"),
    ("dp_step", {}, "no edge costs"),
    ("nonsense", None, "expected one of"), ("dp_total", {"timesteps": GRID, "error_64": np.ones((30, 30))}, "error_32"),
    ("dp_64", {"timesteps": GRID, "error_64": np.ones((30, 29))}, "square")])
def test_lacking_heatmaps(path_type, content, message):
    with pytest.raises(InputError, match=message):
        paths.path_from_heatmap(content, path_type, 18)


def test_cells_that_are_not_finite_are_named():
    content = heatmap()
    content["error_64"][3, 7] = np.nan
    with pytest.raises(InputError, match=r"\(3, 7\)"):
        paths.path_from_heatmap(content, "dp_64", 18)
    costs = paths.edge_costs_index(random_map(0), 5).copy()
    costs[4, 5, 1, 1] = np.nan
    with pytest.raises(InputError, match=r"\(4, 5\)"):
        dynamic_program.cheapest_path(costs, 18)
    with pytest.raises(InputError, match=r"\(4, 5\)"):
        paths.path_from_heatmap(heatmap(edge_costs={"step_doubling": costs}), "dp_step", 18)


def test_larger_jumps_than_were_measured():
    content = heatmap(edge_costs={"step_doubling": paths.edge_costs_index(random_map(0), 5)})
    with pytest.raises(InputError, match="jumps of 1...5"):
        paths.path_from_heatmap(content, "dp_step", 18, max_jump=6)


def test_no_finite_path():
    costs = paths.edge_costs_index(random_map(0), 5).copy()
    costs[0, 0] = np.inf
    with pytest.raises(InputError, match="no path of 18 steps"):
        dynamic_program.cheapest_path(costs, 18)


# The lead family

def test_rho_schedule():
    for rho in (0.3, 1.0, 3.0, 7.0, 200.0):
        t = paths.rho_schedule(18, rho)
        assert t[0] == 999 and t[-1] == 0 and (np.diff(t) < 0).all() and len(t) == 19
    log_snr = paths.log_snr_of(paths.rho_schedule(18, 1e6)[:-4])
    assert np.ptp(np.diff(log_snr)) < 0.1                       # even in log SNR
    sigma = np.exp(-paths.log_snr_of(paths.rho_schedule(18, 1.0)) / 2)
    assert np.ptp(np.diff(sigma[:-1])) < 0.2                    # even in sigma
    assert paths.rho_schedule(999, 3.0).tolist() == list(range(999, -1, -1))


def test_lead_path():
    plain = paths.lead_path(18, paths.Lead(3.0, 0.0, 0.5))
    assert np.array_equal(plain[:, 0], plain[:, 1])
    ahead = paths.lead_path(18, paths.Lead(3.0, 1.5, 0.25))
    assert np.array_equal(ahead[:, 0], plain[:, 0])
    lead = np.diff(paths.log_snr_of(ahead), axis=1)[:, 0]
    assert np.abs(lead[5:14] - 1.5).max() < 0.1 and abs(lead[0]) < 1e-9 and 0 < lead[2] < 1.5
    for parameters in (paths.Lead(3, -2, 0), paths.Lead(7, 20, 0.1), paths.Lead(1, 3, 1)):
        check_timesteps(paths.lead_path(18, parameters))
    stored = paths.path_from_heatmap({"lead": {"rho": 3.0, "lead": 1.5, "onset": 0.25}}, "lead", 18)
    assert np.array_equal(stored, ahead)
    on_diagonal = paths.path_from_heatmap(None, "diagonal", 18)
    assert np.array_equal(paths.lead_path(18, paths.Lead(None, 0.0)), on_diagonal)
    by_three = paths.path_from_heatmap(None, "lead_3", 18)
    assert np.array_equal(by_three[:, 0], on_diagonal[:, 0])
    assert np.abs(np.diff(paths.log_snr_of(by_three), axis=1)[5:13, 0] - 3).max() < 0.1
    with pytest.raises(InputError, match="rho, lead, onset"):
        paths.lead_path(18, paths.Lead(rho=-1))


# Identity, distance, description, bootstrap

def test_identity_path():
    snr = np.exp(paths.log_snr_of(GRID))
    content = error_map.identity_heatmap(GRID, 1 / (snr * (1 + snr)))
    assert content["error_64"][3, 8] == pytest.approx(3 / (snr[3] * (1 + snr[3])))
    assert content["error_32"][3, 8] == pytest.approx(3 / (snr[8] * (1 + snr[8])))
    path = paths.path_from_heatmap(content, "dp_total", 18)
    assert np.array_equal(path[:, 0], path[:, 1])       # the map is symmetric
    weighted = error_map.identity_heatmap(GRID, 1 / (snr * (1 + snr)), 4 / (snr * (1 + snr)))
    assert paths.describe_path(paths.path_from_heatmap(weighted, "dp_total", 18))["share_32_leads"] > 0.5


@pytest.mark.parametrize("path_type, control", [("dp_64", "identity_64"), ("dp_total", "identity_total")])
def test_controls_are_the_same_optimiser_without_the_models_part(path_type, control):
    """The same for any two maps of one grid and one weighting, whatever the maps say."""
    one, other = (paths.path_from_heatmap(heatmap(seed), control, 18) for seed in (0, 1))
    assert np.array_equal(one, other)
    assert np.array_equal(one, paths.path_from_heatmap(error_map.identity_map(heatmap()), path_type, 18))
    assert not np.array_equal(one, paths.path_from_heatmap(heatmap(), path_type, 18))
    per_pixel = heatmap(options={"chain_rule": "none", "normalization": "per_pixel"})
    assert not np.array_equal(one, paths.path_from_heatmap(per_pixel, control, 18, step_size="logsnr"))


def test_path_distance():
    a, b, c = (dynamic_program.cheapest_path(paths.edge_costs_index(random_map(k), 5), 18)[0] for k in range(3))
    assert paths.path_distance(a, a) == 0 and paths.path_distance(a, b) == paths.path_distance(b, a) > 0
    assert paths.path_distance(a, c) <= paths.path_distance(a, b) + paths.path_distance(b, c)
    shifted = np.array([[0, 0], [1, 4], [9, 9]])
    assert paths.path_distance(shifted, np.array([[0, 0], [4, 0], [9, 9]])) == pytest.approx(5 / 3)
    assert paths.path_distance(np.array([[0, 0], [2, 2]]), np.array([[0, 0], [1, 1], [2, 2]])) == 0


def test_describe_path():
    path = np.array([[999, 999], [700, 400], [300, 400], [0, 200], [0, 0]])
    about = paths.describe_path(path)
    assert about["num_steps"] == about["num_model_calls"] == 4
    assert about["num_steps_after_64_clean"] == 1 and about["share_32_leads"] == pytest.approx(1 / 5)
    assert about["kind"] == "mixed"
    assert paths.describe_path(np.array([[999, 999], [500, 999], [0, 999], [0, 0]]))["kind"] == "64 first"
    assert paths.describe_path(np.array([[999, 999], [999, 0], [400, 0], [0, 0]]))["kind"] == "32 first"
    assert paths.describe_path(np.array([[999, 999], [600, 999], [300, 900], [0, 0]]))["kind"] == "32 at noise"
    assert paths.describe_path(np.array([[999, 999], [500, 500], [0, 0]]))["kind"] == "diagonal"


def test_bootstrap_and_band():
    def find(error):
        return dynamic_program.cheapest_path(paths.edge_costs_index(error, 5), 18)[0]
    one = random_map(0)
    same = paths.bootstrap_paths(np.stack([one] * 4), find, num_resamples=5)
    assert (same == find(one)).all()                    # identical images: no uncertainty
    noisy = np.stack([one * np.random.default_rng(k).lognormal(0, 0.5, one.shape) for k in range(6)])
    noisy[0, 2, 3] = np.nan                             # a cell that one image was not used for
    found = paths.bootstrap_paths(noisy, find, num_resamples=20, seed=1)
    assert found.shape == (20, 19, 2) and len(np.unique(found, axis=0)) > 1
    assert np.array_equal(found, paths.bootstrap_paths(noisy, find, num_resamples=20, seed=1))
    low, high = paths.path_band(found, 0.0, 1.0)
    assert (high[:, 1] - high[:, 0] >= low[:, 1] - low[:, 0] - 1e-9).all()
    for band in (low, high):
        assert np.allclose(band[[0, -1]], [[0, 0], [29, 29]])
