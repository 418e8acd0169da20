"""Costs of paths against the distances that they lead to, on mixtures of Gaussians: correlations, and found paths."""
import numpy as np
import torch
from scipy.stats import spearmanr

from lift import dynamic_program, error_map, exact_mixture, path_costs, paths
from lift.error_map import identity_heatmap
from lift.sampling import uniform_diagonal
from scheduler import NUM_TIMESTEPS, CosineSteps

ALL_TIMESTEPS = np.arange(NUM_TIMESTEPS - 1, -1, -1)
LAST_TIMESTEP = 34              # of paths with a common end: the 30-point grid's last point before the clean image
NORMS = ("raw", "whitened")
DOCUMENTED = "documented: DP-Total, index"
ORDER = [DOCUMENTED, "loss map", "directional, no cross terms", "directional"]


def random_path(random, num_steps: int, common_end: bool) -> np.ndarray:
    """A random monotone path, int64 [N + 1, 2]: both scales' steps in log SNR are drawn from a Dirichlet law (2, 2...).

    common_end: the last step goes from LAST_TIMESTEP to the clean image on every path, both scales together.
    """
    schedule = CosineSteps()
    first, last, end = paths.log_snr_of(np.array([NUM_TIMESTEPS - 1, LAST_TIMESTEP, 0]))
    while True:
        shares = random.dirichlet(np.full(num_steps - common_end, 2.0), 2).T
        log_snr = first + np.vstack([[0, 0], shares.cumsum(0)]) * ((last if common_end else end) - first)
        path = schedule.t_at(torch.from_numpy(log_snr)).round().long().numpy()
        path = np.vstack([path, [0, 0]]) if common_end else path
        path[0], path[-1] = NUM_TIMESTEPS - 1, 0
        if (path[:-1] > 0).all() and (np.diff(path, axis=0).sum(1) < 0).all():
            return path


def distances(samples, mixture) -> list[float]:
    """Raw and whitened distance to the true law."""
    return [exact_mixture.distance_to_truth(samples, mixture, whitened) for whitened in (False, True)]


def maps_at(mixture, at, cells: np.ndarray, timesteps) -> dict:
    """Chain-rule-weighted errors at cells [E, 2], per pixel: eps_64, eps_32, x0_64, x0_32, float64 [E] each."""
    factor = error_map.chain_rule_factor(timesteps, "localization")
    found = []
    for rows in at.blocks(cells):
        log_snr = torch.from_numpy(at.log_snr[cells[rows]])
        maps = exact_mixture.own_scale_jacobians(mixture, *at.noised(cells[rows]), log_snr)
        found.append((rows, maps))
    order = np.concatenate([rows for rows, _ in found])
    return {name: np.concatenate([maps[name].numpy() for _, maps in found])[np.argsort(order)]
            * factor[cells[:, int(name.endswith("32"))]] for name in found[0][1]}


def correlate(mixture, args, common_end: bool, random) -> tuple[list[dict], dict]:
    """Rank correlations of every cost with both distances over random paths, and what they were measured on."""
    routes = [random_path(random, args.path_steps, common_end) for _ in range(args.num_paths)]
    starts_noise = exact_mixture.start_states(mixture, args.path_samples, args.seed + 1)
    denoiser = exact_mixture.MixtureDenoiser(mixture)
    errors = np.array([distances(exact_mixture.sample_along(denoiser, route, starts_noise).x_64, mixture)
                       for route in routes])                                                        # [P, 2]
    images = mixture.sample(args.num_images, torch.Generator().manual_seed(args.seed + 2))

    def whiten(x):
        return mixture.to_images(x.flatten(1) @ mixture.whitening)

    at, at_whitened = (path_costs.Measurement(denoiser, images, ALL_TIMESTEPS, seed=args.seed, clip=False,
                                              batch_size=2048, transform=transform) for transform in (None, whiten))
    cells = NUM_TIMESTEPS - 1 - np.array(routes)                                                    # [P, N + 1, 2]
    flat = cells.reshape(-1, 2)
    maps = {name: value.reshape(cells.shape[:2]) for name, value in maps_at(mixture, at, flat, ALL_TIMESTEPS).items()}
    losses = path_costs.squared_errors(at, flat).reshape(cells.shape)
    log_snr = at.log_snr[cells]
    starts, ends = cells[:, :-1].reshape(-1, 2), cells[:, 1:].reshape(-1, 2)
    index_steps = np.hypot(*np.moveaxis(np.diff(cells, axis=1), -1, 0)) * 29 / (NUM_TIMESTEPS - 1)  # of a 30-point grid
    log_snr_steps = np.diff(log_snr, axis=1)

    def trapezoid(error, steps):
        return path_costs.trapezoid_costs(error[:, :-1], error[:, 1:], steps)

    costs = {
        DOCUMENTED: trapezoid(maps["eps_64"] + maps["eps_32"], index_steps),
        "DP-Total, index, both sides": trapezoid(maps["eps_64"] + 4 * maps["eps_32"], index_steps),
        "DP-Total, logsnr": trapezoid(maps["eps_64"], log_snr_steps[..., 0])
        + trapezoid(maps["eps_32"], log_snr_steps[..., 1]),
        "DP-64, index": trapezoid(maps["eps_64"], index_steps),
        "DP-Total, index, x_0 Jacobians": trapezoid(maps["x0_64"] + maps["x0_32"], index_steps),
        "loss map": path_costs.loss_map_costs(losses[:, :-1].reshape(-1, 2), log_snr[:, :-1].reshape(-1, 2),
                                              log_snr[:, 1:].reshape(-1, 2)),
        "directional, no cross terms": path_costs.directional_costs(at, starts, ends, cross_terms=False),
        "directional": path_costs.directional_costs(at, starts, ends),
        "directional, Jacobians of the start": path_costs.directional_costs(at, starts, ends, propagate="start"),
        "directional, no Jacobians": path_costs.directional_costs(at, starts, ends, propagate="none"),
        "directional, whitened norm": path_costs.directional_costs(at_whitened, starts, ends),
        "step doubling": path_costs.step_doubling_costs(at, starts, ends),
        "step doubling, whitened norm": path_costs.step_doubling_costs(at_whitened, starts, ends)}
    rows = []
    for name, cost in costs.items():
        total = cost.reshape(len(routes), -1).sum(1)
        rows.append({"cost": name, **{norm: float(spearmanr(total, errors[:, k]).statistic)
                                      for k, norm in enumerate(NORMS)}})
    return rows, {"distance_min": errors.min(0).tolist(), "distance_max": errors.max(0).tolist()}


def named_paths(mixture, args) -> list[tuple]:
    """(name, path [N + 1, 2], solver, whether on the single scale) for the table."""
    timesteps, steps, jump = paths.timestep_grid(args.grid), args.num_steps, args.max_jump
    images = mixture.sample(args.num_grid_images, torch.Generator().manual_seed(args.seed + 2))
    both, single = (exact_mixture.MixtureDenoiser(mixture, single_scale) for single_scale in (False, True))
    at, at_single = (path_costs.Measurement(denoiser, images, timesteps, seed=args.seed, clip=False, batch_size=2048)
                     for denoiser in (both, single))
    cells = np.argwhere(np.ones((args.grid, args.grid)))
    maps = {name: value.reshape(args.grid, -1) for name, value in maps_at(mixture, at, cells, timesteps).items()}
    losses = path_costs.squared_errors(at, cells).reshape(args.grid, args.grid, 2)
    plan = path_costs.plan_edges(timesteps, jump, steps)
    plan_single = path_costs.plan_edges(timesteps, jump, steps, num_scales=1)
    factor = error_map.chain_rule_factor(timesteps, "localization")

    def heatmap(prediction="eps", weight_32=1.0, edge_costs=None):
        return {"timesteps": timesteps, "error_64": maps[f"{prediction}_64"],
                "error_32": weight_32 * maps[f"{prediction}_32"], "edge_costs": edge_costs or {}}

    def find(content, path_type, step_size="index"):
        return paths.path_from_heatmap(content, path_type, steps, step_size=step_size, max_jump=jump)

    step_doubling = plan.fill(path_costs.step_doubling_costs(at, plan.starts, plan.ends))
    directional, by_start, by_none = (
        plan.fill(path_costs.directional_costs(at, plan.starts, plan.ends, propagate=kind))
        for kind in path_costs.PROPAGATIONS)
    loss_map = path_costs.loss_map_edge_costs(losses[..., 0], losses[..., 1], timesteps, jump)
    single_costs = plan_single.fill(path_costs.step_doubling_costs(at_single, plan_single.starts, plan_single.ends))
    diagonal = uniform_diagonal(steps)
    dp_diagonal = find(heatmap(edge_costs={"step_doubling": step_doubling}), "dp_diagonal")
    dp_step = find(heatmap(edge_costs={"step_doubling": step_doubling}), "dp_step")
    lead, lead_rows = path_costs.search_lead(both, images, steps, clip=False, batch_size=2048)
    return [
        ("DP-Total, index, both sides", find(heatmap(weight_32=4.0), "dp_total"), "ddim", False),
        ("identity, index, both sides", find(identity_heatmap(timesteps, factor, 4 * factor), "dp_total"), "ddim",
         False),
        ("DP-Total, index", find(heatmap(), "dp_total"), "ddim", False),
        ("identity, index", find(identity_heatmap(timesteps, factor), "dp_total"), "ddim", False),
        ("DP-Total, logsnr", find(heatmap(), "dp_total", "logsnr"), "ddim", False),
        ("DP-64, index", find(heatmap(), "dp_64"), "ddim", False),
        ("DP-64, logsnr", find(heatmap(), "dp_64", "logsnr"), "ddim", False),
        ("DP-Total, index, x_0 Jacobians", find(heatmap("x0"), "dp_total"), "ddim", False),
        ("loss map", paths.cells_to_timesteps(dynamic_program.cheapest_path(loss_map, steps)[0], timesteps), "ddim",
         False),
        ("single scale, uniform", diagonal, "ddim", True),
        ("diagonal, uniform", diagonal, "ddim", False),
        ("dp_directional", find(heatmap(edge_costs={"directional": directional}), "dp_directional"), "ddim", False),
        ("dp_directional, Jacobians of the start",
         find(heatmap(edge_costs={"directional": by_start}), "dp_directional"), "ddim", False),
        ("dp_directional, no Jacobians",
         find(heatmap(edge_costs={"directional": by_none}), "dp_directional"), "ddim", False),
        ("dp_step", dp_step, "ddim", False),
        ("dp_diagonal", dp_diagonal, "ddim", False),
        ("dp_diagonal's times, single scale", dp_diagonal, "ddim", True),
        ("single scale, dp", paths.schedule_path(single_costs, timesteps, steps), "ddim", True),
        (f"lead (rho {lead.rho:g}, lead {lead.lead:g}, onset {lead.onset:g})", lead_rows[0]["path"], "ddim", False),
        ("multistep, DP-Total, index", find(heatmap(), "dp_total"), "multistep", False),
        ("multistep, diagonal, uniform", diagonal, "multistep", False),
        ("multistep, dp_step", dp_step, "multistep", False),
        ("multistep, dp_diagonal", dp_diagonal, "multistep", False),
        ("multistep, single scale, dp", paths.schedule_path(single_costs, timesteps, steps), "multistep", True)]


def tabulate(mixture, args, index: int) -> list[dict]:
    """The table of named paths: distances and what kind of path each is."""
    starts = exact_mixture.start_states(mixture, args.num_samples, args.seed + 3)
    rows = []
    for name, path, solver, single_scale in named_paths(mixture, args):
        denoiser = exact_mixture.MixtureDenoiser(mixture, single_scale)
        samples = exact_mixture.sample_along(denoiser, path, starts, solver).x_64
        about = paths.describe_path(path)
        rows.append({"mixture": index, "path": name.split(" (")[0], "parameters": name.partition(" (")[2].rstrip(")"),
                     "solver": solver, "num_steps": len(path) - 1,
                     **dict(zip(NORMS, distances(samples, mixture))),
                     "share_32_leads": round(about["share_32_leads"], 3), "mean_lead": round(about["mean_lead"], 2),
                     "num_steps_32_noise": about["num_steps_32_noise"],
                     "num_steps_after_64_clean": about["num_steps_after_64_clean"],
                     "kind": "single scale" if single_scale else about["kind"],
                     "timesteps_64": " ".join(map(str, path[:, 0])), "timesteps_32": " ".join(map(str, path[:, 1]))})
    floor = [exact_mixture.noise_floor(mixture, args.num_samples, args.seed + 4, whitened=w) for w in (False, True)]
    rows.append({key: "" for key in rows[0]} | {"mixture": index, "path": "true samples (noise floor)",
                                                "raw": floor[0], "whitened": floor[1]})
    return rows


def check_claims(correlations: list[dict], table: list[dict], num_mixtures: int) -> dict:
    """Which of the claims hold, mixture by mixture."""
    def value(mixture, path, norm):
        return next(row[norm] for row in table if row["mixture"] == mixture and row["path"] == path)

    def mean_rank(law, cost, norm):
        return float(np.mean([row[norm] for row in correlations if row["law"] == law and row["cost"] == cost]))

    everywhere = range(num_mixtures)
    claims = {}
    for law in dict.fromkeys(row["law"] for row in correlations):
        for norm in NORMS:
            means = [mean_rank(law, cost, norm) for cost in ORDER]
            claims[f"order of costs, {law}, {norm}"] = {"means": [round(mean, 2) for mean in means],
                                                        "ok": bool((np.diff(means) > 0).all())}
    better = [all(value(k, "dp_step", norm) < value(k, other, norm) for norm in NORMS
                  for other in ("DP-Total, index", "DP-Total, index, both sides", "diagonal, uniform"))
              for k in everywhere]
    claims["dp_step better than DP-Total and the uniform diagonal, both distances"] = {
        "mixtures": better, "ok": sum(better) >= 0.8 * num_mixtures}
    for path in ("diagonal, uniform", "dp_diagonal"):
        ratios = [value(k, f"multistep, {path}", "raw") / value(k, path, "raw") for k in everywhere]
        claims[f"multistep halves the raw distance on {path}"] = {
            "ratios": [round(ratio, 3) for ratio in ratios], "ok": max(ratios) <= 0.5}
    return claims
