"""The cheapest path through a grid of edge costs, in exactly so many steps, by dynamic programming.

A path is a list of cells, int64 [N + 1, 2], from (0, 0) to (n - 1, m - 1). Edge costs are float64
[n, m, J + 1, K + 1]: entry [i, j, di, dj] is the cost of one step from cell (i, j) to (i + di, j + dj), infinite where
there is no such step. A one-dimensional schedule is a list of cells [N + 1] with edge costs [n, J + 1].

Ties. Paths within 1e-12 of the least cost are tied. The one nearest the diagonal wins, then the one with the most even
steps, then the one on which the 32 scale leads. So rounding never decides.
"""
import math

import numpy as np

from engine.errors import InputError

TIE_TOLERANCE = 1e-12       # paths whose costs differ by less than this, relatively, are tied


def check_num_steps(num_steps: int, spans: tuple, jumps: tuple) -> None:
    """Raises InputError unless exactly `num_steps` steps of at most `jumps` cells each can cross `spans` cells."""
    fewest = max([1] + [math.ceil(span / jump) for span, jump in zip(spans, jumps) if span])
    most = sum(spans)
    if not fewest <= num_steps <= most:
        raise InputError(f"--num_steps: found {num_steps}, but a grid of {max(spans) + 1} points with --max_jump "
                         f"{max(jumps)} allows {fewest} to {most} steps; choose one of those, or another --max_jump or "
                         "--grid")


def cheapest_path(edge_costs: np.ndarray, num_steps: int) -> tuple[np.ndarray, float]:
    """The cheapest path of exactly `num_steps` steps, each moving, from the first cell to the last.

    edge_costs: float64 [n, m, J + 1, K + 1]. Returns cells int64 [N + 1, 2] and the cost, the sum along them.

    Ties are broken as the module says; nearest the diagonal means the least sum of |i - j|. If the diagonal is among
    the cheapest paths, it is returned. With symmetric costs, any other path costs as much as its mirror image. Raises
    InputError for an impossible number of steps and for costs that are not numbers.
    """
    n, m, J, K = (*edge_costs.shape[:2], edge_costs.shape[2] - 1, edge_costs.shape[3] - 1)
    check_num_steps(num_steps, (n - 1, m - 1), (J, K))
    costs = np.ascontiguousarray(edge_costs.transpose(2, 3, 0, 1))          # [J + 1, K + 1, n, m]
    costs = np.full(costs.shape, np.inf) if costs.size == 0 else costs
    if np.isnan(costs.min()):
        i, j = np.argwhere(np.isnan(edge_costs))[0, :2]
        raise InputError(f"edge costs: not a number at cell ({i}, {j}) (of t_64, t_32); compute them again")
    values = np.full((num_steps + 1, n, m), np.inf)         # least cost of reaching a cell in that many steps
    values[0, 0, 0] = 0
    scratch = np.empty((n, m))

    def window(step, jump, size):       # starts from which a jump stays on the way to the end, as a range
        low = max((size - 1) - (num_steps - step) * jump[1], (size - 1) - (num_steps - step - 1) * jump[1] - jump[0], 0)
        return low, min(step * jump[1], size - 1 - jump[0]) + 1

    for step in range(num_steps):
        before, after = values[step], values[step + 1]
        columns = [(dj, *window(step, (dj, K), m)) for dj in range(min(K, m - 1) + 1)]
        for di in range(min(J, n - 1) + 1):
            top, bottom = window(step, (di, J), n)
            if top >= bottom:
                continue
            for dj, left, right in columns:
                if left >= right or not (di or dj):
                    continue
                arrival = after[top + di:bottom + di, left + dj:right + dj]
                cost = scratch[:bottom - top, :right - left]
                np.add(before[top:bottom, left:right], costs[di, dj, top:bottom, left:right], out=cost)
                np.minimum(arrival, cost, out=arrival)
    if not np.isfinite(values[-1, -1, -1]):
        raise InputError(f"edge costs: no path of {num_steps} steps has a finite cost; compute them again for this "
                         "number of steps")
    cells = break_ties(costs, values)
    steps = np.diff(cells, axis=0)
    return cells, float(np.cumsum(edge_costs[cells[:-1, 0], cells[:-1, 1], steps[:, 0], steps[:, 1]])[-1])


def usable_edges(num_points: int, max_jump: int, num_steps: int, num_scales: int = 2,
                 diagonal_only: bool = False) -> np.ndarray:
    """Which edges some path of exactly `num_steps` steps uses: bool [n, n, J + 1, J + 1], or [n, J + 1] for one scale.

    diagonal_only: paths along the diagonal alone.
    """
    shape = (num_points,) * num_scales + (max_jump + 1,) * num_scales
    grid = np.indices(shape)
    cells, moves = grid[:num_scales], grid[num_scales:]
    last = num_points - 1
    if diagonal_only:
        same = (cells[0] == cells[-1]) & (moves[0] == moves[-1])
        cells, moves = cells[:1], moves[:1]
    else:
        same = True
    ends = cells + moves
    # Over a distance of d cells per scale, the possible numbers of steps are those from max(d) / J to sum(d).
    fewest = -(-cells.max(0) // max_jump) + 1 + -(-(last - ends).max(0) // max_jump)
    most = cells.sum(0) + 1 + (last - ends).sum(0)
    inside = (ends <= last).all(0) & (moves.sum(0) > 0)
    return inside & same & (fewest <= num_steps) & (num_steps <= most)


def break_ties(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The cheapest path that wins all ties (see `cheapest_path`). costs: [J + 1, K + 1, n, m]; values: [N + 1, n, m].

    First all cells on cheapest paths are collected, from the end to the start. Then a second dynamic program over these
    few cells minimises the total distance from the diagonal, and after it the sum of squared jumps, in whole numbers.
    """
    num_steps, n, m = len(values) - 1, *values.shape[1:]
    jumps_64, jumps_32 = (axis.ravel() for axis in np.indices(costs.shape[:2]))             # [O]
    tolerance = TIE_TOLERANCE / num_steps * abs(values[-1, -1, -1])
    evenness = jumps_64**2 + jumps_32**2
    diagonal_weight = num_steps * int(evenness.max()) + 1 if n == m else 0
    levels, nodes = [], np.array([n * m - 1])
    for step in range(num_steps, 0, -1):
        i, j = nodes // m, nodes % m
        start_i, start_j = i[:, None] - jumps_64, j[:, None] - jumps_32                     # [M, O]
        inside = (start_i >= 0) & (start_j >= 0) & ((jumps_64 > 0) | (jumps_32 > 0))
        starts = np.where(inside, start_i * m + start_j, 0)
        reached = values[step - 1].ravel()[starts] + costs[jumps_64, jumps_32, starts // m, starts % m]
        tied = inside & (reached <= values[step].ravel()[nodes, None] + tolerance)
        levels.append((nodes, starts, tied))
        nodes = np.unique(starts[tied])
    largest = np.iinfo(np.int64).max // 4
    distances, chosen = np.full(n * m, largest), []
    distances[0] = 0
    for nodes, starts, tied in reversed(levels):
        candidates = np.where(tied, distances[starts] + evenness, largest)
        least = candidates.min(1)
        lead = np.where(candidates == least[:, None], starts % m - starts // m, -n)
        chosen.append(dict(zip(nodes.tolist(), starts[np.arange(len(nodes)), lead.argmax(1)].tolist())))
        distances = np.full(n * m, largest)
        distances[nodes] = least + np.abs(nodes // m - nodes % m) * diagonal_weight
    path = [n * m - 1]
    for previous in reversed(chosen):
        path.append(previous[path[-1]])
    path = np.array(path[::-1], dtype=np.int64)
    return np.stack([path // m, path % m], axis=1)


def cheapest_schedule(edge_costs: np.ndarray, num_steps: int) -> tuple[np.ndarray, float]:
    """The cheapest one-dimensional schedule of exactly `num_steps` steps: cells int64 [N + 1], and its cost.

    edge_costs: float64 [n, J + 1], entry [i, d] the cost of one step from i to i + d. Ties go to the most even steps.
    """
    cells, cost = cheapest_path(edge_costs[:, None, :, None], num_steps)
    return cells[:, 0], cost


def diagonal_edge_costs(edge_costs: np.ndarray) -> np.ndarray:
    """The edges that run along the diagonal: [n, n, J + 1, J + 1] -> [n, J + 1]."""
    cells, jumps = np.arange(len(edge_costs)), np.arange(edge_costs.shape[-1])
    return edge_costs[cells[:, None], cells[:, None], jumps, jumps]


def cheapest_diagonal(edge_costs: np.ndarray, num_steps: int) -> tuple[np.ndarray, float]:
    """The cheapest path along the diagonal alone: cells int64 [N + 1, 2] with both columns equal, and its cost."""
    cells, cost = cheapest_schedule(diagonal_edge_costs(edge_costs), num_steps)
    return np.stack([cells, cells], axis=1), cost


UNIT_MOVES = ((1, 1), (0, 1), (1, 0))       # the diagonal first, then the 32 scale


def cheapest_unconstrained(edge_costs: np.ndarray) -> tuple[np.ndarray, float]:
    """The cheapest path of unit moves (down, right or both), of any number of steps: cells [M + 1, 2] and its cost.

    edge_costs: [n, n, J + 1, J + 1], of which only jumps of 0 and 1 are read. Ties go to the least total |i - j|.
    """
    n = len(edge_costs)
    moves = [(di, dj, edge_costs[:, :, di, dj].tolist()) for di, dj in UNIT_MOVES]
    best = {(0, 0): (0.0, 0, None)}                                     # cell -> cost, total |i - j|, previous cell
    for i in range(n):
        for j in range(n):
            for di, dj, costs in moves:
                start = (i - di, j - dj)
                if min(start) < 0:
                    continue
                cost = best[start][0] + costs[start[0]][start[1]]
                distance = best[start][1] + abs(i - j)
                known = best.get((i, j))
                slack = 0.0 if known is None else TIE_TOLERANCE * abs(known[0])
                if known is None or cost < known[0] - slack or (cost <= known[0] + slack and distance < known[1]):
                    best[i, j] = (cost, distance, start)
    cells, cell = [], (n - 1, n - 1)
    while cell is not None:
        cells.append(cell)
        cell = best[cell][2]
    return np.array(cells[::-1], dtype=np.int64), best[n - 1, n - 1][0]


def path_edge_costs(edge_costs: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The cost of every step of a path: float64 [N] for cells [N + 1, 2]."""
    cells = np.asarray(cells)
    steps = np.diff(cells, axis=0)
    if steps.max() >= edge_costs.shape[-1]:
        raise InputError(f"path: jumps {steps.max()} cells, but the edge costs go up to {edge_costs.shape[-1] - 1}")
    return edge_costs[cells[:-1, 0], cells[:-1, 1], steps[:, 0], steps[:, 1]]
