"""Paths through the plane of (t_64, t_32): grids, edge costs on them, and every kind of path by name.

A path on the grid is a list of cells, int64 [N + 1, 2], from (0, 0), the noisiest, to (n - 1, n - 1). Edge costs are
float64 [n, n, J + 1, J + 1]: entry [i, j, di, dj] is the cost of one step from cell (i, j) to (i + di, j + dj),
infinite where there is no such step. A one-dimensional schedule is a list of cells [N + 1] with edge costs [n, J + 1].
"""
import math
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import InputError
from lift.options import GRID_SPACES, LEAD_NAMES, LEAD_SIZES, PATH_TYPES, STEP_SIZES
from lift import dynamic_program
from lift.error_map import identity_map, log_snr_of
from lift.sampling import uniform_diagonal
from scheduler import NUM_TIMESTEPS, CosineSteps

GRID_SNR_MIN, GRID_SNR_MAX = 0.01, 100.0
# Grids


def timestep_grid(num_points: int, grid_space: str = "timestep") -> np.ndarray:
    """The timesteps of the grid, int64 [num_points], falling, index 0 the noisiest.

    timestep: linspace(999, 0, n) truncated. logsnr: the timesteps nearest to points evenly spaced in log SNR from SNR
    0.01 to 100 (943...54). Raises InputError where the points would not all differ.
    """
    last = NUM_TIMESTEPS - 1
    if num_points >= 2 and grid_space == "timestep":
        # Exact in integers: in floating point 887.99999 would be truncated to 887 where the points are whole numbers.
        timesteps = last * np.arange(num_points - 1, -1, -1, dtype=np.int64) // (num_points - 1)
    elif num_points >= 2 and grid_space == "logsnr":
        log_snr = torch.linspace(math.log(GRID_SNR_MIN), math.log(GRID_SNR_MAX), num_points, dtype=torch.float64)
        timesteps = CosineSteps().t_at(log_snr).round().long().numpy()
    else:
        raise InputError(f"--grid: found {num_points} points with --grid_space {grid_space}, expected at least 2 "
                         f"points and one of {', '.join(GRID_SPACES)}")
    if (np.diff(timesteps) >= 0).any():
        raise InputError(f"--grid: found {num_points}, more points than distinct timesteps; choose fewer")
    return timesteps


def cells_to_timesteps(cells: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """int64 [N + 1, 2] (or [N + 1]) of timesteps for cells of a grid. The grid's ends stand for 999 and 0."""
    timesteps = np.array(timesteps, dtype=np.int64)
    timesteps[0], timesteps[-1] = NUM_TIMESTEPS - 1, 0
    return timesteps[np.asarray(cells)]


def grid_log_snr(timesteps: np.ndarray) -> np.ndarray:
    """log SNR at a grid's points, float64 [n], as paths use them: the ends are those of timesteps 999 and 0."""
    return log_snr_of(cells_to_timesteps(np.arange(len(timesteps)), timesteps))


# Edge costs of the documented paths

def check_map(error, name: str) -> np.ndarray:
    """An error map as float64 [n, n]. Raises InputError for another shape, and names cells that are not finite."""
    error = np.asarray(error, dtype=np.float64)
    if error.ndim != 2 or error.shape[0] != error.shape[1] or len(error) < 2:
        raise InputError(f"{name}: found shape {list(error.shape)}, expected a square map [n, n] with n >= 2")
    bad = np.argwhere(~np.isfinite(error))
    if len(bad):
        some = ", ".join(f"({i}, {j})" for i, j in bad[:5])
        raise InputError(f"{name}: {len(bad)} of {error.size} cells are not finite, first {some} (of t_64, t_32); "
                         "compute the map again, with float32 precision or from an earlier checkpoint")
    return error


def edge_costs_from(edge_cost, num_points: int, max_jump: int) -> np.ndarray:
    """Edge costs [n, n, J + 1, J + 1] from a rule for all edges of one kind.

    edge_cost(start, end, di, dj) -> [n - di, n - dj]; start and end are pairs of slices of the grid.
    """
    if max_jump < 1:
        raise InputError(f"--max_jump: found {max_jump}, expected at least 1")
    # Stored with the jumps first, so that all edges of one kind lie side by side; the transposed view is returned.
    costs = np.full((max_jump + 1, max_jump + 1, num_points, num_points), np.inf)
    reach = range(min(max_jump, num_points - 1) + 1)
    for di in reach:
        for dj in reach:
            if di or dj:
                start = slice(0, num_points - di), slice(0, num_points - dj)
                costs[di, dj][start] = edge_cost(start, (slice(di, None), slice(dj, None)), di, dj)
    return costs.transpose(2, 3, 0, 1)


def edge_costs_index(error, max_jump: int) -> np.ndarray:
    """(error at start + error at end) / 2 times the Euclidean distance in grid indices.

    error: [n, n], error_64 for DP-64, error_64 + error_32 for DP-Total. Returns float64 [n, n, J + 1, J + 1].
    """
    half = check_map(error, "error map") / 2

    def edge_cost(start, end, di, dj):
        return (half[start] + half[end]) * math.hypot(di, dj)

    return edge_costs_from(edge_cost, len(half), max_jump)


def edge_costs_log_snr(error_64, error_32, log_snr, max_jump: int) -> np.ndarray:
    """Scale by scale, (error at start + error at end) / 2 times the scale's own step in log SNR, summed.

    error_64, error_32: [n, n], error_32 None for DP-64; log_snr: [n]. Returns float64 [n, n, J + 1, J + 1].
    """
    half_64 = check_map(error_64, "error map of the 64 scale") / 2
    half_32 = None if error_32 is None else check_map(error_32, "error map of the 32 scale") / 2
    log_snr = np.asarray(log_snr, dtype=np.float64)

    def edge_cost(start, end, di, dj):
        cost = (half_64[start] + half_64[end]) * np.abs(log_snr[end[0]] - log_snr[start[0]])[:, None]
        if half_32 is not None:
            cost = cost + (half_32[start] + half_32[end]) * np.abs(log_snr[end[1]] - log_snr[start[1]])[None, :]
        return cost

    return edge_costs_from(edge_cost, len(half_64), max_jump)


def limit_jump(edge_costs: np.ndarray, max_jump: int) -> np.ndarray:
    """The same edge costs, their last axes cut, for a smaller max jump. Raises InputError for a larger one."""
    largest = edge_costs.shape[-1] - 1
    if not 1 <= max_jump <= largest:
        raise InputError(f"--max_jump: found {max_jump}, but these edge costs were computed for jumps of 1...{largest};"
                         " choose one of those or compute them again")
    jumps = slice(0, max_jump + 1)
    return edge_costs[..., jumps, jumps] if edge_costs.ndim == 4 else edge_costs[..., jumps]


# Without a dynamic program

def greedy_path(error) -> np.ndarray:
    """From the first cell always to the neighbour (down, right or both) of least error: cells int64 [M + 1, 2].

    error: [n, n]. Ties go to the diagonal neighbour, then to the one nearer the diagonal.
    """
    error = check_map(error, "error map")
    n = len(error)
    cells = [(0, 0)]
    while cells[-1] != (n - 1, n - 1):
        i, j = cells[-1]
        neighbours = [(i + di, j + dj) for di, dj in dynamic_program.UNIT_MOVES if max(i + di, j + dj) < n]
        cells.append(min(neighbours, key=lambda cell: (error[cell], abs(cell[0] - cell[1]))))
    return np.array(cells, dtype=np.int64)


def allocate_equal_cost(cells: np.ndarray, costs: np.ndarray, timesteps: np.ndarray, num_steps: int) -> np.ndarray:
    """`num_steps` steps of equal cost along a path of any number of points: timesteps int64 [N + 1, 2].

    cells: [M + 1, 2]; costs: [M], of its steps, not negative; timesteps: [n], the grid. Between cells the path is a
    straight line and the cost grows evenly. Every step moves: points that would coincide are pushed apart.
    """
    corners = cells_to_timesteps(cells, timesteps).astype(np.float64)                   # [M + 1, 2]
    reached = np.concatenate([[0.0], np.cumsum(costs)])
    length = np.arange(len(cells), dtype=np.float64)
    # Every pair of whole timesteps that the polyline passes, in order: each step has at most 999 of them per scale.
    fine = np.linspace(0, len(cells) - 1, (len(cells) - 1) * 2 * NUM_TIMESTEPS + 1)
    points = np.rint(np.stack([np.interp(fine, length, corners[:, s]) for s in (0, 1)], axis=1)).astype(np.int64)
    first = np.concatenate([[True], (np.diff(points, axis=0) != 0).any(1)])
    points, reached_there = points[first], np.interp(fine[first], length, reached)
    if num_steps > len(points) - 1 or num_steps < 1:
        raise InputError(f"--num_steps: found {num_steps}, expected 1...{len(points) - 1}, the distinct points of this "
                         "path")
    wanted = np.linspace(0, reached[-1], num_steps + 1)
    chosen = np.searchsorted(reached_there, wanted)
    order = np.arange(num_steps + 1)
    chosen[0], chosen[-1] = 0, len(points) - 1
    chosen = np.maximum.accumulate(chosen - order) + order
    chosen = np.minimum(chosen, len(points) - 1 - order[::-1])
    return points[chosen]


def path_through(corners, num_steps: int) -> np.ndarray:
    """`num_steps` steps of even length along the straight lines through corners: timesteps int64 [N + 1, 2].

    corners: timesteps [M, 2] of (t_64, t_32), M >= 0; the ends (999, 999) and (0, 0) are added. Length is Euclidean, in
    timesteps. Raises InputError for a corner outside 0...999 and for one at which a timestep rises again.
    """
    noise = NUM_TIMESTEPS - 1
    corners = np.asarray(corners, dtype=np.int64).reshape(-1, 2)
    if len(corners) and not 0 <= corners.min() <= corners.max() <= noise:
        raise InputError(f"path: found corners from {corners.min()} to {corners.max()}, expected timesteps 0...{noise}")
    corners = np.concatenate([[[noise, noise]], corners, [[0, 0]]])
    rising = np.flatnonzero((np.diff(corners, axis=0) > 0).any(1))
    if len(rising):
        before, after = (tuple(corners[k].tolist()) for k in (rising[0], rising[0] + 1))
        raise InputError(f"path: goes from {before} to {after}, expected timesteps (t_64, t_32) that never rise")
    moved = np.concatenate([[True], (np.diff(corners, axis=0) != 0).any(1)])
    corners = corners[moved]
    lengths = np.hypot(*np.diff(corners, axis=0).T)
    return allocate_equal_cost(noise - corners, lengths, np.arange(noise, -1, -1), num_steps)


# The lead family

@dataclass(frozen=True)
class Lead:
    """The three parameters of a lead path.

    rho: the noise levels of the 64 scale are evenly spaced in sigma^(1 / rho), sigma = SNR^(-1/2) (Karras et al. 2022,
    eq. 5). A large rho approaches even spacing in log SNR; with None the timesteps are evenly spaced, as on the
    diagonal. lead: how far, in log SNR, the 32 scale is ahead (negative: behind). onset: the share of the steps after
    which the lead is complete; until then it grows evenly.
    """
    rho: float | None = 3.0
    lead: float = 0.0
    onset: float = 0.25

    def check(self) -> "Lead":
        """Returns itself; raises InputError for a parameter outside its range."""
        rho = 1.0 if self.rho is None else self.rho
        if not (rho > 0 and math.isfinite(rho) and math.isfinite(self.lead) and 0 <= self.onset <= 1):
            raise InputError(f"lead path: found rho, lead, onset {self.rho}, {self.lead}, {self.onset}, expected rho "
                             "above 0 or None, a finite lead and an onset from 0 to 1")
        return self


FIXED_LEADS = {name: Lead(None, float(size)) for name, size in zip(LEAD_NAMES, LEAD_SIZES)}
WITHOUT_MAP = ("uniform", "diagonal", *FIXED_LEADS)     # paths that no error map is needed for; uniform: a baseline's


def path_without_map(name: str, num_steps: int) -> np.ndarray:
    """The timesteps of a path of WITHOUT_MAP: int64 [num_steps + 1, 2]. Raises InputError for a number of steps that
    there are no timesteps for."""
    return lead_path(num_steps, FIXED_LEADS[name]) if name in FIXED_LEADS else uniform_diagonal(num_steps)


def rho_log_snrs(num_steps: int, rho: float) -> np.ndarray:
    """log SNR of noise levels evenly spaced in sigma^(1 / rho), from timestep 999 to 0: float64 [num_steps + 1]."""
    first, last = log_snr_of(np.array([NUM_TIMESTEPS - 1, 0]))
    # sigma^(1/rho) = exp(-log SNR / (2 rho)); relative to the first level it cannot overflow for small rho.
    levels = np.linspace(1.0, np.exp((first - last) / (2 * rho)), num_steps + 1)
    return first - 2 * rho * np.log(np.maximum(levels, np.finfo(np.float64).tiny))


def rho_schedule(num_steps: int, rho: float) -> np.ndarray:
    """Strictly falling timesteps int64 [N + 1] from 999 to 0, evenly spaced in sigma^(1 / rho) up to rounding."""
    if not 1 <= num_steps <= NUM_TIMESTEPS - 1:
        raise InputError(f"--num_steps: found {num_steps}, expected 1...{NUM_TIMESTEPS - 1}")
    Lead(rho).check()
    t = CosineSteps().t_at(torch.from_numpy(rho_log_snrs(num_steps, rho))).round().long().numpy()
    order = np.arange(num_steps + 1)
    t = np.minimum.accumulate(t + order) - order                            # every step falls by one at least
    t = np.maximum(t, order[::-1])                                          # and the end is reached in the last step
    t[0], t[-1] = NUM_TIMESTEPS - 1, 0
    return t


def lead_path(num_steps: int, parameters: Lead = Lead()) -> np.ndarray:
    """The path of the lead family: timesteps int64 [N + 1, 2], the 64 scale on its schedule. Raises InputError."""
    parameters.check()
    t_64 = uniform_diagonal(num_steps)[:, 0] if parameters.rho is None else rho_schedule(num_steps, parameters.rho)
    progress = np.arange(num_steps + 1) / num_steps
    ramp = np.minimum(progress / parameters.onset, 1) if parameters.onset > 0 else (progress > 0).astype(np.float64)
    t_32 = CosineSteps().leading_t(torch.from_numpy(t_64), torch.from_numpy(parameters.lead * ramp)).numpy()
    t_32 = np.minimum.accumulate(t_32)
    t_32[0], t_32[-1] = NUM_TIMESTEPS - 1, 0
    return np.stack([t_64, t_32], axis=1)


# Paths by name

def entry_of(heatmap: dict | None, key: str, path_type: str):
    """heatmap[key]. Raises InputError if the heatmap or the key is missing."""
    if heatmap is None:
        raise InputError(f"path {path_type}: needs an error map; compute one with compute_heatmap_30.py and "
                         "give it with --heatmap")
    if key not in heatmap:
        raise InputError(f"path {path_type}: the heatmap holds no {key}; compute it again with "
                         "compute_heatmap_30.py")
    return heatmap[key]


def map_of(heatmap: dict | None, key: str, path_type: str) -> np.ndarray:
    """`entry_of` as float64."""
    return np.asarray(entry_of(heatmap, key, path_type), dtype=np.float64)


# Paths that tell how much of another came from the model: the same optimiser without the model's part of the map.
CONTROLS = {"identity_64": "dp_64", "identity_total": "dp_total"}
# Edge costs that a path type reads, in order of preference.
EDGE_COST_NAMES = {"dp_directional": ("directional",), "dp_step": ("step_doubling",),
                   "dp_diagonal": ("step_doubling_diagonal", "step_doubling", "directional")}


def edge_costs_of(heatmap: dict | None, path_type: str, step_size: str = "index", max_jump: int = 5) -> np.ndarray:
    """The edge costs that a path type minimises: float64 [n, n, J + 1, J + 1]. Raises InputError if there are none."""
    if path_type in EDGE_COST_NAMES:
        there = heatmap.get("edge_costs", {}) if heatmap is not None else {}
        name = next((name for name in EDGE_COST_NAMES[path_type] if name in there), None)
        if name is None:
            wanted = EDGE_COST_NAMES[path_type][0]
            found = f"edge costs {', '.join(there)}" if there else "no edge costs"
            raise InputError(f"path {path_type}: needs edge costs {wanted}, found "
                             f"{'no heatmap' if heatmap is None else f'a heatmap with {found}'}; compute them with "
                             "compute_heatmap_30.py --edge_costs")
        costs = np.asarray(there[name], dtype=np.float64)
        if np.isnan(costs).any():
            i, j = np.argwhere(np.isnan(costs))[0, :2]
            raise InputError(f"edge costs {name}: not a number at cell ({i}, {j}) (of t_64, t_32); compute them again")
        return limit_jump(costs, max_jump)
    error_64 = check_map(map_of(heatmap, "error_64", path_type), "error map of the 64 scale")
    error_32 = None
    if path_type.endswith("total"):
        error_32 = check_map(map_of(heatmap, "error_32", path_type), "error map of the 32 scale")
    if step_size == "index":
        return edge_costs_index(error_64 if error_32 is None else error_64 + error_32, max_jump)
    if step_size == "logsnr":
        log_snr = grid_log_snr(map_of(heatmap, "timesteps", path_type))
        return edge_costs_log_snr(error_64, error_32, log_snr, max_jump)
    raise InputError(f"--step_size: found {step_size!r}, expected one of {', '.join(STEP_SIZES)}")


def path_from_heatmap(heatmap: dict | None, path_type: str, num_steps: int, *, step_size: str = "index",
                      max_jump: int = 5, lead: Lead | None = None) -> np.ndarray:
    """The timesteps of a path, int64 [num_steps + 1, 2], from (999, 999) to (0, 0).

    heatmap: a dictionary with timesteps [n], error_64 and error_32 [n, n], and perhaps edge_costs {name: [n, n, J + 1,
    J + 1]} and lead {rho, lead, onset}; None serves for diagonal and leads. path_type: one of PATH_TYPES. step_size:
    index or logsnr, for the maps; edge costs have their own. For a path of CONTROLS, an identity Jacobian's map takes
    the heatmap's place. lead: for path type lead, before what the heatmap holds.
    Raises InputError when the heatmap lacks what is needed or the request is impossible.
    """
    if path_type not in PATH_TYPES:
        raise InputError(f"path: found {path_type!r}, expected one of {', '.join(PATH_TYPES)}")
    if path_type in WITHOUT_MAP:
        return path_without_map(path_type, num_steps)
    if path_type == "lead":
        stored = (heatmap or {}).get("lead")
        return lead_path(num_steps, lead or (Lead(**stored) if stored else Lead()))
    if path_type in CONTROLS:
        entry_of(heatmap, "options", path_type)
        heatmap, path_type = identity_map(heatmap), CONTROLS[path_type]
    timesteps = None if heatmap is None or "timesteps" not in heatmap else np.asarray(heatmap["timesteps"])
    edge_costs = edge_costs_of(heatmap, path_type, step_size, max_jump)
    if path_type.startswith(("unconstrained", "greedy")):
        if path_type.startswith("unconstrained"):
            cells, _ = dynamic_program.cheapest_unconstrained(edge_costs)
        else:
            total = path_type.endswith("total")
            cells = greedy_path(np.asarray(heatmap["error_64"]) + (np.asarray(heatmap["error_32"]) if total else 0))
        return allocate_equal_cost(cells, dynamic_program.path_edge_costs(edge_costs, cells), timesteps, num_steps)
    find = dynamic_program.cheapest_diagonal if path_type == "dp_diagonal" else dynamic_program.cheapest_path
    return cells_to_timesteps(find(edge_costs, num_steps)[0], map_of(heatmap, "timesteps", path_type).astype(np.int64))


def schedule_path(edge_costs: np.ndarray, timesteps: np.ndarray, num_steps: int) -> np.ndarray:
    """A single-scale model's optimised schedule as a path with both columns equal: timesteps int64 [N + 1, 2].

    edge_costs: [n, J + 1]; timesteps: [n].
    """
    cells, _ = dynamic_program.cheapest_schedule(np.asarray(edge_costs, dtype=np.float64), num_steps)
    t = cells_to_timesteps(cells, timesteps)
    return np.stack([t, t], axis=1)


# What a path does

def path_distance(path_a: np.ndarray, path_b: np.ndarray) -> float:
    """Mean over the steps of the Euclidean distance between two paths' points, in their own unit (cells, timesteps).

    path_a, path_b: [N + 1, 2]. Paths of unlike length are compared at equal shares of their steps. Among paths of one
    length this is a metric.
    """
    path_a, path_b = np.asarray(path_a, dtype=np.float64), np.asarray(path_b, dtype=np.float64)
    if len(path_a) != len(path_b):
        share = np.linspace(0, 1, max(len(path_a), len(path_b)))
        path_a, path_b = (np.stack([np.interp(share, np.linspace(0, 1, len(path)), path[:, s]) for s in (0, 1)], axis=1)
                          for path in (path_a, path_b))
    return float(np.hypot(*(path_a - path_b).T).mean())


def describe_path(path: np.ndarray) -> dict:
    """What a path does, in numbers. path: timesteps [N + 1, 2].

    num_steps and num_model_calls. num_steps_after_64_clean: steps after t_64 reached 0. share_32_leads: the share of
    the N + 1 points where t_32 < t_64. mean_lead: in log SNR, over the points between the ends. num_steps_32_noise:
    steps after the first that start with t_32 at 999. kind: diagonal; 64 first or 32 first, if one scale is finished
    before the other has left pure noise, an L-shaped path; 32 at noise, if t_32 stays at 999 for half the steps; or
    mixed.
    """
    path = np.asarray(path, dtype=np.int64)
    t_64, t_32 = path.T
    num_steps = len(path) - 1
    lead = np.diff(log_snr_of(path[1:-1]), axis=1)[:, 0] if num_steps > 1 else np.zeros(1)
    noise = NUM_TIMESTEPS - 1
    kind = "mixed"
    if (t_64 == t_32).all():
        kind = "diagonal"
    elif t_32[t_64 == 0][0] == noise:
        kind = "64 first"
    elif t_64[t_32 == 0][0] == noise:
        kind = "32 first"
    elif (t_32[:-1] == noise).sum() * 2 >= num_steps:
        kind = "32 at noise"
    elif (t_64[:-1] == noise).sum() * 2 >= num_steps:
        kind = "64 at noise"
    return {"num_steps": num_steps, "num_model_calls": num_steps,
            "num_steps_after_64_clean": int((t_64[:-1] == 0).sum()), "share_32_leads": float((t_32 < t_64).mean()),
            "mean_lead": float(lead.mean()), "num_steps_32_noise": int((t_32[1:-1] == noise).sum()), "kind": kind}


# Uncertainty

def bootstrap_paths(maps_per_image: np.ndarray, find_path, num_resamples: int = 200, seed: int = 0) -> np.ndarray:
    """The path recomputed from images drawn with replacement: int64 [num_resamples, N + 1, 2].

    maps_per_image: [M, ...], a map (or a stack of maps) per image; nan where an image was not used for a cell.
    find_path(mean map [...]) -> cells or timesteps [N + 1, 2].
    """
    maps = np.asarray(maps_per_image, dtype=np.float64)
    random = np.random.default_rng(seed)
    flat = maps.reshape(len(maps), -1)
    flat, known = np.nan_to_num(flat), np.isfinite(flat).astype(np.float64)
    overall = flat.sum(0) / known.sum(0)
    paths = []
    for _ in range(num_resamples):
        weights = random.multinomial(len(maps), np.full(len(maps), 1 / len(maps))).astype(np.float64)
        num_drawn = weights @ known
        # A cell of which no image was drawn keeps its overall mean.
        mean = np.where(num_drawn > 0, weights @ flat / np.maximum(num_drawn, 1), overall)
        paths.append(find_path(mean.reshape(maps.shape[1:])))
    return np.stack(paths)


def path_band(paths: np.ndarray, low: float = 0.05, high: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The band in which a share of the paths lies, as two lines [S, 2] in the paths' own unit, for drawing.

    paths: [R, N + 1, 2], all from one start to one end. Across the diagonal, at every value of the sum of both
    coordinates, which falls or rises strictly along a path, the quantiles of their difference are taken.
    """
    paths = np.asarray(paths, dtype=np.float64)
    sums, differences = paths.sum(2), paths[:, :, 1] - paths[:, :, 0]
    sign = 1.0 if sums[0, -1] >= sums[0, 0] else -1.0
    there = np.linspace(sums[0, 0], sums[0, -1], 201)
    lines = np.stack([np.interp(sign * there, sign * s, d) for s, d in zip(sums, differences)])
    return tuple(np.stack([(there - d) / 2, (there + d) / 2], axis=1)
                 for d in np.quantile(lines, [low, high], axis=0))
