"""S1's figures: error maps with their paths, blocks of the Jacobian, errors beside the baseline's, and all figures of a
heatmap file."""
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from engine.files import named_file
from evaluation.figures import figure, plain, plain_log_axis, style_of_curve
from lift import path_summary, paths
from lift.labels import style_of_path


def path_evolution(columns: list[dict]):
    """Paths over their error maps, epoch by epoch: the 64 error above, the total below, one colour scale per row.

    columns: dicts with `title`, `timesteps` [n] falling, `error_64` and `error_total` [n, n] indexed
    [i of t_64, j of t_32], `paths_64` and `paths_total`: path type -> its points in grid cells, float [N + 1, 2].
    Returns a Figure.
    """
    fig, axes = figure(1.4 + 1.5 * max(3, len(columns)), 4.3, nrows=2, ncols=len(columns), squeeze=False)
    handles = {}
    for row, (key, paths_key, name) in enumerate((("error_64", "paths_64", "64 error"),
                                                  ("error_total", "paths_total", "total error"))):
        maps = [np.log10(np.maximum(np.asarray(column[key], float), 1e-300)) for column in columns]
        finite = np.concatenate([m[np.isfinite(m) & (m > -299)] for m in maps] + [np.zeros(0)])
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        for ax, column, log_error in zip(axes[row], columns, maps):
            image = ax.imshow(log_error, cmap=MAP_COLORS, vmin=low, vmax=high, aspect="equal", interpolation="nearest")
            for path_type, points in column[paths_key].items():
                style = style_of_path(path_type)
                ax.plot(points[:, 1], points[:, 0], color="black", linewidth=2.6)
                line, = ax.plot(points[:, 1], points[:, 0], "-o", color=style["color"], markersize=3.6, linewidth=1.6,
                                markeredgecolor="black", markeredgewidth=0.5)
                handles.setdefault(style["label"], line)
            grid_ticks(ax, column["timesteps"], 3)
            if row == 0:
                ax.set_title(plain(column["title"]), fontsize=10)
                ax.tick_params(labelbottom=False)
            else:
                ax.set_xlabel("t_32")
        for ax in axes[row, 1:]:
            ax.tick_params(labelleft=False)
        axes[row, 0].set_ylabel(f"{name}\nt_64")
        fig.colorbar(image, ax=list(axes[row]), label="log10 error", shrink=0.85, aspect=12)
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=max(1, len(handles)), frameon=False)
    return fig


def model_error_curves(t, baseline, curves: dict, linear=None):
    """Error of LIFT at 64 beside the baseline's: both above, their ratio below.

    t: [n] timesteps; baseline: [n] its mean squared error; curves: label -> dict of arrays [n]: `mse`, `ratio`,
    `ratio_standard_error`. Bands are two standard errors. linear: [n], of a linear denoiser, or None.
    """
    fig, (above, below) = figure(6.5, 5.4, nrows=2, sharex=True)
    above.plot(t, baseline, color="#000000", linewidth=1.8, label="baseline")
    if linear is not None:
        above.plot(t, linear, color="0.55", linewidth=1.2, label="linear denoiser")
        below.plot(t, linear / baseline, color="0.55", linewidth=1.2)
    for k, (label, curve) in enumerate(curves.items()):
        style = style_of_curve(k)
        above.plot(t, curve["mse"], **style, label=label)
        below.plot(t, curve["ratio"], **style, label=label)
        spread = 2 * np.asarray(curve["ratio_standard_error"])
        below.fill_between(t, curve["ratio"] - spread, curve["ratio"] + spread, color=style["color"], alpha=0.2,
                           linewidth=0)
    label_error_and_ratio(above, below, "LIFT / baseline")
    return fig


def label_error_and_ratio(above, below, ratio: str) -> None:
    """Axes, grid and legend of two panels whose curves are drawn: errors at 64 by t_64, and a ratio beside 1."""
    below.axhline(1, color="#000000", linewidth=1)
    above.set(yscale="log", ylabel="noise error at 64×64")
    below.set(xlabel="t_64", ylabel=ratio)
    plain_log_axis(above.yaxis)
    for ax in (above, below):
        ax.grid(True, color="0.9", linewidth=0.6)
    above.legend(frameon=False, fontsize=9)


def exposure_curves(ways: dict):
    """Exposure bias of several models and paths: the error at 64 on images (full) and on own samples (dashed) above,
    the norm of the predicted noise on what a sampler met, over that on its own samples noised, below.

    ways: label -> rows of `exposure.rows_by_step`. Bands are two standard errors.
    """
    fig, (above, below) = figure(6.5, 5.4, nrows=2, sharex=True)
    for k, (label, rows) in enumerate(ways.items()):
        t, ratio, error = (np.array([row[name] for row in rows])
                           for name in ("t_64", "met_over_own", "met_over_own_standard_error"))
        color = "#000000" if k == 0 else style_of_curve(k - 1)["color"]
        above.plot(t, [row["error_true"] for row in rows], color=color, label=label)
        above.plot(t, [row["error_own"] for row in rows], color=color, linestyle="--")
        below.plot(t, ratio, color=color)
        below.fill_between(t, ratio - 2 * error, ratio + 2 * error, color=color, alpha=0.2, linewidth=0)
    label_error_and_ratio(above, below, "predicted noise,\nmet / own samples")
    return fig


MAP_COLORS = "viridis"


def grid_ticks(ax, timesteps, count: int = 6) -> None:
    """Axes in timesteps for a map of equal cells: t_32 across, t_64 down, the noisiest corner at the upper left."""
    last = len(timesteps) - 1
    if last <= 9 and count > 4:
        count = last + 1                        # a small grid: every cell has a tick
    cells = np.unique(np.rint(np.linspace(0, last, count)).astype(int))
    names = [str(int(timesteps[cell])) for cell in cells]
    ax.set_xticks(cells, names, fontsize=9)
    ax.set_yticks(cells, names, fontsize=9)
    ax.tick_params(length=2.5)


def log_map(fig, ax, values, timesteps, label: str, cmap: str = MAP_COLORS, limits=None):
    """A map [n, n] as equal cells, log10 colour. limits: log10 range, None for the map's own. Returns the image."""
    logs = np.log10(np.maximum(np.asarray(values, dtype=np.float64), np.finfo(np.float64).tiny))
    low, high = limits or (logs.min(), logs.max())
    image = ax.imshow(logs, cmap=cmap, vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest", aspect="equal")
    grid_ticks(ax, timesteps)
    bar = fig.colorbar(image, ax=ax, label=label, shrink=0.82, aspect=22, pad=0.02)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.tick_params(labelsize=9)
    return image


def error_maps(timesteps, error_64, error_total, paths_64: dict, paths_total: dict, title: str = ""):
    """The 64 error and the total error with paths over them.

    timesteps: [n], falling. error_64, error_total: [n, n], [i of t_64, j of t_32]. paths_64, paths_total: path type ->
    {"path": points [N + 1, 2] in grid cells, "identity": the same or None (drawn dashed), "band": two lines [S, 2] in
    grid cells or None}. Returns a Figure.
    """
    fig, axes = figure(10, 5.3, ncols=2)
    handles, notes = {}, {}
    panels = (error_64, paths_64, "64 error"), (error_total, paths_total, "total error")
    for ax, (values, drawn, name) in zip(axes, panels):
        log_map(fig, ax, values, timesteps, f"log10 {name}")
        for path_type, parts in drawn.items():
            style = style_of_path(path_type)
            if parts["band"] is not None:
                low, high = parts["band"]
                outer = np.concatenate([low, high[::-1]])
                # Outlined, since a band that is thinner than a line would vanish on the map.
                ax.fill(outer[:, 1], outer[:, 0], facecolor=style["color"], edgecolor=style["color"], alpha=0.4,
                        linewidth=4, joinstyle="round", zorder=2)
                notes["band"] = "band: 90% of the paths over resampled images"
        for rank, (path_type, parts) in enumerate(drawn.items()):
            style = style_of_path(path_type)
            points = parts["path"]
            # Solid below dashed: an identity path may lie exactly on the diagonal.
            ax.plot(points[:, 1], points[:, 0], color=style["color"], linewidth=2.2, zorder=3 + 0.1 * rank,
                    path_effects=[Stroke(linewidth=3.6, foreground="black"), Normal()], clip_on=False)
            ax.plot(points[:, 1], points[:, 0], linestyle="none", marker="o", markersize=5, color=style["color"],
                    markeredgecolor="black", markeredgewidth=0.6, zorder=5 + 0.1 * rank, clip_on=False)
            handles[style["label"]] = Line2D([], [], color=style["color"], linewidth=2.2, marker="o", markersize=5,
                                             markeredgecolor="black", markeredgewidth=0.6,
                                             path_effects=[Stroke(linewidth=3.6, foreground="black"), Normal()])
            if parts["identity"] is not None:
                points = parts["identity"]
                ax.plot(points[:, 1], points[:, 0], color="black", linewidth=3.2, zorder=4 + 0.1 * rank)
                ax.plot(points[:, 1], points[:, 0], color=style["color"], linewidth=2, linestyle=(0, (2.5, 1.8)),
                        zorder=4.05 + 0.1 * rank)
                notes["dashed"] = "dashed: the same optimiser on an identity Jacobian"
        ax.set_title(name, fontsize=12)
        ax.set_xlabel("t_32", fontsize=11)
        ax.set_ylabel("t_64", fontsize=11)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=max(1, min(6, len(handles))),
               fontsize=11, frameon=False, handlelength=2.4, columnspacing=1.6)
    lines = [line for line in (title, "; ".join(notes.values())) if line]
    if lines:
        fig.suptitle(plain("\n".join(lines)), fontsize=10.5)
    return fig


def jacobian_blocks(timesteps, blocks: dict, title: str = ""):
    """The four blocks, a row per output scale, and beside them how much of it comes from the other scale.

    blocks: `64<-64`, `32<-64`, `64<-32`, `32<-32` -> [n, n], squared norms. Returns a Figure.
    """
    fig, axes = figure(11, 6.6, nrows=2, ncols=3)
    for row, (own, cross) in zip(axes, (("64<-64", "64<-32"), ("32<-32", "32<-64"))):
        values = {name: np.asarray(blocks[name], dtype=np.float64) for name in (own, cross)}
        for ax, name in zip(row, (own, cross)):
            log_map(fig, ax, values[name], timesteps, "log10")
            output_scale, input_scale = name.split("<-")
            ax.set_title(f"{output_scale} ← {input_scale}", fontsize=11)
        tiny = np.finfo(np.float64).tiny
        share = np.maximum(values[cross], tiny) / np.maximum(values[own], tiny)
        logs = np.log10(share)
        if logs.min() < 0 < logs.max():
            # Diverging around equal parts: blue where the scale's own input rules, red where the other one does.
            reach = np.abs(logs).max()
            log_map(fig, row[2], share, timesteps, "log10 ratio", cmap="RdBu_r", limits=(-reach, reach))
        else:
            log_map(fig, row[2], share, timesteps, "log10 ratio", cmap="cividis")
        row[2].set_title(f"ratio ({cross.replace('<-', ' ← ')}) / ({own.replace('<-', ' ← ')})", fontsize=11)
    for ax in axes.flat:
        grid_ticks(ax, timesteps, 4)
    for ax in axes[-1]:
        ax.set_xlabel("t_32", fontsize=10)
    for ax in axes[:, 0]:
        ax.set_ylabel("t_64", fontsize=10)
    if title:
        fig.suptitle(plain(title), fontsize=11)
    return fig


def step_error_bars(errors: dict, ylabel: str = "error of the step", title: str = ""):
    """Error per step along each path, a panel per path, the 64 part below and the 32 part on it.

    errors: path type -> float [N, 2], (64, 32). Returns a Figure.
    """
    columns = min(2, len(errors))
    rows = -(-len(errors) // columns)
    fig, axes = figure(10 if columns > 1 else 6, 0.7 + 2.2 * rows, nrows=rows, ncols=columns, squeeze=False,
                       sharey=True)
    for ax in axes.flat:
        ax.set_axis_off()
    for k, (ax, (path_type, values)) in enumerate(zip(axes.flat, errors.items())):
        ax.set_axis_on()
        style, values = style_of_path(path_type), np.asarray(values, dtype=np.float64)
        steps = np.arange(1, len(values) + 1)
        ax.bar(steps, values[:, 0], width=0.78, color="#0072B2", label="64 error")
        ax.bar(steps, values[:, 1], width=0.78, bottom=values[:, 0], color="#E69F00", label="32 error")
        ax.set_title(f"{style['label']}: sum {values.sum():.4g}, of it 64: {values[:, 0].sum():.4g}", fontsize=10,
                     loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.tick_params(labelsize=9, labelleft=k % columns == 0)
        ax.grid(True, axis="y", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        if k >= len(errors) - columns:
            ax.set_xlabel("step", fontsize=10)
        if k % columns == 0:
            ax.set_ylabel(ylabel, fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    if title:
        fig.suptitle(plain(title), fontsize=11)
    return fig


def outputs_of(path) -> dict:
    """The figures' files beside a heatmap file: kind -> path."""
    path = named_file(path)
    return {"maps": path.with_suffix(".png"), "blocks": path.with_name(f"{path.stem}_blocks.png"),
            "steps": path.with_name(f"{path.stem}_steps.png")}


def draw(heatmap: dict, rows: list[dict], step_size: str, max_jump: int, num_resamples: int, title: str = "") -> dict:
    """The figures by kind: maps (with paths), blocks (of the Jacobian), steps (error per step along each path).

    rows: from `path_summary.summarize_paths`. A path that reads the 64 error is drawn on it, all others on the total,
    the diagonal on both; its band holds 90 % of the paths found from images drawn with replacement.
    """
    timesteps, drawn = heatmap["timesteps"].numpy(), {"64": {}, "total": {}}
    for row in rows:
        points = path_summary.grid_position(row["timesteps"], timesteps)
        parts = {"path": points, "identity": None, "band": None}
        if row["identity_timesteps"] is not None:
            parts["identity"] = path_summary.grid_position(row["identity_timesteps"], timesteps)
        if row["identity_timesteps"] is not None and num_resamples:
            resampled = path_summary.bootstrap(heatmap, row["path"], len(points) - 1, step_size=step_size,
                                            max_jump=max_jump, num_resamples=num_resamples,
                                            seed=heatmap["options"]["seed"])
            parts["band"] = paths.path_band(path_summary.grid_position(resampled, timesteps))
        for panel in ("64", "total"):
            if row["path"] == "diagonal" or (panel == "64") == row["path"].endswith("64"):
                drawn[panel][row["path"]] = parts
    error_64, error_32 = heatmap["error_64"].numpy(), heatmap["error_32"].numpy()
    prediction = heatmap["options"]["prediction"]
    return {
        "maps": error_maps(timesteps, error_64, error_64 + error_32, drawn["64"],
                                 drawn["total"], title),
        "blocks": jacobian_blocks(timesteps, heatmap["blocks"][prediction],
                                        f"Squared Jacobian norms of the {prediction} prediction, output ← input"),
        "steps": step_error_bars({row["path"]: path_summary.step_errors(heatmap, row["timesteps"], step_size)
                                        for row in rows}, title=f"Error per step, step size {step_size}"),
    }


def title_of(heatmap: dict) -> str:
    """One line that says what a heatmap is of."""
    options = heatmap["options"]
    return (f"{heatmap['checkpoint']} ({heatmap['weights']}), {options['prediction']} prediction, "
            f"chain rule {options['chain_rule']}, {options['normalization'].replace('_', ' ')}")


def table(rows: list[dict]) -> str:
    """The paths as a table: cost, the identity path's cost on the same map, the distance between them, and the kind."""
    lines = [("path", "cost", "identity path", "distance (cells)", "32 leads", "kind")]
    for row in rows:
        lines.append((row["path"], f"{row['cost']:.5g}",
                      *("-" if row[key] is None else f"{row[key]:.{digits}}"
                        for key, digits in (("identity_cost", "5g"), ("distance", "2f"))),
                      f"{row['share_32_leads']:.0%}", row["kind"]))
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) if k in (0, 5) else cell.rjust(width)
                               for k, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def record(rows: list[dict]) -> list[dict]:
    """The rows of `summarize_paths` as plain types for a run record."""
    return [{key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()} for row in rows]
