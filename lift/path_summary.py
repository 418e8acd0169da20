"""A path beside an error map: its cost on the map, the path that an identity Jacobian would give, and how far the path
moves when the map's images are drawn anew."""
import math

import numpy as np

from lift import dynamic_program, paths
from lift.error_map import identity_map, maps_per_image


def grid_position(path: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """Points of a path in grid indices, fractions between grid points: float64 [N + 1, 2].

    path: [N + 1, 2] of timesteps; timesteps: [n], falling. The grid's ends stand for 999 and 0.
    """
    ends = paths.cells_to_timesteps(np.arange(len(timesteps)), timesteps)
    return np.interp(-np.asarray(path, dtype=np.float64), -ends.astype(np.float64), np.arange(len(ends)))


def map_at(error: np.ndarray, position: np.ndarray) -> np.ndarray:
    """A map [n, n] at fractional grid positions [..., 2], bilinear: float64 [...]."""
    low = np.clip(np.floor(position).astype(np.int64), 0, len(error) - 2)
    i, j = low[..., 0], low[..., 1]
    u, v = (position - low)[..., 0], (position - low)[..., 1]
    return ((1 - u) * (1 - v) * error[i, j] + u * (1 - v) * error[i + 1, j] + (1 - u) * v * error[i, j + 1]
            + u * v * error[i + 1, j + 1])


def step_errors(heatmap: dict, path: np.ndarray, step_size: str = "index") -> np.ndarray:
    """Each step's trapezoid on the 64 and on the 32 map: float64 [N, 2]. Also for points between grid points.

    On grid points, the sum of the first column is the cost that DP-64 minimises and the sum of all is DP-Total's.
    path: [N + 1, 2] of timesteps.
    """
    timesteps = np.asarray(heatmap["timesteps"])
    position = grid_position(path, timesteps)
    middle = []
    for key in ("error_64", "error_32"):
        error = map_at(np.asarray(heatmap[key], dtype=np.float64), position)
        middle.append((error[1:] + error[:-1]) / 2)
    if step_size == "logsnr":
        log_snr = paths.grid_log_snr(timesteps)
        lengths = np.abs(np.diff(np.interp(position, np.arange(len(log_snr)), log_snr), axis=0))
    else:
        lengths = np.linalg.norm(np.diff(position, axis=0), axis=1, keepdims=True)
    return np.stack(middle, axis=1) * lengths


def path_cost(heatmap: dict, path: np.ndarray, path_type: str, step_size: str = "index", max_jump: int = 5) -> float:
    """What a path [N + 1, 2] costs by the measure that its type minimises; the diagonal by DP-Total's.

    Edge costs are known on the grid alone and for jumps up to max_jump: nan for a path that leaves it.
    """
    if path_type not in paths.EDGE_COST_NAMES:
        errors = step_errors(heatmap, path, step_size)
        return float(errors[:, 0].sum() if path_type.endswith("64") else errors.sum())
    cells = grid_position(path, np.asarray(heatmap["timesteps"]))
    steps = np.diff(np.rint(cells), axis=0)
    if not np.allclose(cells, np.rint(cells)) or steps.max() > max_jump:
        return math.nan
    costs = paths.edge_costs_of(heatmap, path_type, step_size, max_jump)
    return float(dynamic_program.path_edge_costs(costs, np.rint(cells).astype(np.int64)).sum())


def summarize_paths(heatmap: dict, path_types, num_steps: int, step_size: str = "index",
                    max_jump: int = 5) -> list[dict]:
    """A row per path: its timesteps, its cost, the identity path's cost on the same map, and how far apart they are.

    The identity path is what the same optimiser finds on the map of an identity Jacobian; the distance is
    `paths.path_distance` in grid cells. Paths that read no error map, and controls, have no identity path: None.
    """
    identity, timesteps, rows = identity_map(heatmap), np.asarray(heatmap["timesteps"]), []
    for path_type in path_types:
        path = paths.path_from_heatmap(heatmap, path_type, num_steps, step_size=step_size, max_jump=max_jump)
        row = {"path": path_type, "timesteps": path, "cost": path_cost(heatmap, path, path_type, step_size, max_jump),
               "identity_timesteps": None, "identity_cost": None, "distance": None, **paths.describe_path(path)}
        if path_type.endswith(("_64", "_total")) and path_type not in paths.CONTROLS:
            other = paths.path_from_heatmap(identity, path_type, num_steps, step_size=step_size, max_jump=max_jump)
            row.update(identity_timesteps=other,
                       identity_cost=path_cost(heatmap, other, path_type, step_size, max_jump),
                       distance=paths.path_distance(grid_position(path, timesteps), grid_position(other, timesteps)))
        rows.append(row)
    return rows


def bootstrap(heatmap: dict, path_type: str, num_steps: int, *, step_size: str = "index", max_jump: int = 5,
              num_resamples: int = 100, seed: int = 0) -> np.ndarray:
    """The path found anew on maps of images drawn with replacement: timesteps int64 [num_resamples, N + 1, 2]."""
    options = heatmap["options"]
    maps = maps_per_image(heatmap["frobenius"].numpy(), heatmap["timesteps"].numpy(), options["chain_rule"],
                          options["normalization"], options["prediction"])

    def find(mean):
        return paths.path_from_heatmap({**heatmap, "error_64": mean[0], "error_32": mean[1]}, path_type, num_steps,
                                       step_size=step_size, max_jump=max_jump)

    return paths.bootstrap_paths(np.moveaxis(maps, -1, 0), find, num_resamples, seed)
