"""Every figure the project makes. Functions take arrays and return a matplotlib Figure; scripts save it."""
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lift.paths import FIXED_LEADS

matplotlib.use("Agg")

FIGURE_DPI = 150
# Okabe and Ito's palette: told apart by readers with any colour vision, and by lightness in print.
PATH_COLORS = {"baseline": "#000000", "diagonal": "#E69F00", "dp_64": "#56B4E9", "dp_total": "#CC79A7",
               "dp_step": "#009E73", "dp_directional": "#0072B2", "dp_diagonal": "#D55E00", "lead": "#F0E442"}
PATH_LABELS = {"baseline": "baseline", "diagonal": "diagonal", "dp_64": "DP-64", "dp_total": "DP-Total",
               "dp_step": "DP-step", "dp_directional": "DP-directional", "dp_diagonal": "DP-diagonal", "lead": "lead",
               **{name: name.replace("_", " ") for name in FIXED_LEADS}}


def plain(text: str) -> str:
    """Text that Matplotlib shows as it stands: a dollar sign, in a folder's name say, is none of mathematics."""
    return text.replace("$", r"\$")


def figure(width: float, height: float, **subplots):
    """A figure and its axes, width and height in inches, at the project's resolution.

    Made without pyplot, which would keep every figure of a long run in memory.
    """
    fig = Figure(figsize=(width, height), dpi=FIGURE_DPI, layout="constrained")
    return fig, fig.subplots(**subplots)


# --- training -------------------------------------------------------------------------------------------------------

CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
LINE_STYLES = ("-", "--", ":", "-.")


def style_of_curve(number: int) -> dict:
    """Colour and line of one curve of many: dashes show where it lies over another; black is left to the baseline."""
    return {"color": CURVE_COLORS[number % len(CURVE_COLORS)], "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
            "linewidth": 1.8}


def smoothed(values, window: int):
    """Moving average of float [n] over `window` neighbours, centred, narrower at both ends: float [n]."""
    values = np.asarray(values, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    half = window // 2
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


SCALE_PANELS = {"loss_64": "64×64 scale", "loss_32": "32×32 scale"}


def loss_curves(logs: dict[str, list[dict]], panels: dict[str, str] = SCALE_PANELS):
    """Training losses against the step: every logged value as a point, and a moving average as a line.

    logs: run name -> rows of its training CSV (numbers or their text; an empty or missing cell is left out). panels:
    column -> title; there is one panel for each column that any run logged. Returns a Figure.
    """
    def column(rows, key):
        cells = [(row.get("step"), row.get(key)) for row in rows]
        values = np.array([(float(s), float(v)) for s, v in cells if s not in (None, "") and v not in (None, "")])
        return values[np.isfinite(values).all(1)].T if values.size else np.zeros((2, 0))

    scales = {title: {name: column(rows, key) for name, rows in logs.items()} for key, title in panels.items()}
    scales = {scale: curves for scale, curves in scales.items() if any(curve.size for curve in curves.values())}
    fig, axes = figure(max(6.0, 4.5 * len(scales)), 3.6, ncols=max(1, len(scales)), squeeze=False)
    for ax, (scale, curves) in zip(axes[0], scales.items()):
        for k, (name, (steps, losses)) in enumerate(curves.items()):
            style = style_of_curve(k)
            if len(steps):
                ax.plot(steps, losses, ".", color=style["color"], alpha=0.25, markersize=3, markeredgewidth=0)
                ax.plot(steps, smoothed(losses, max(1, len(losses) // 20)), **style, label=name,
                        marker="o" if len(steps) < 20 else None, markersize=3)      # one point draws no line
        ax.set(yscale="log", xlabel="optimizer step", ylabel="loss: mean squared error", title=scale)
        plain_log_axis(ax.yaxis)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.grid(True, which="both", color="0.9", linewidth=0.6)
        ax.legend(frameon=False)
    return fig


# --- results --------------------------------------------------------------------------------------------------------

LINE_MARKERS = ("o", "s", "^", "D", "v", "P")


def plain_log_axis(axis) -> None:
    """Numbers such as 0.05 and 200 in place of powers of ten on a logarithmic axis; call it when all is drawn."""
    low, high = axis.get_view_interval()
    is_short = high < 8 * low                   # of 1, 2, 5, 10 and so on there would be one or two
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]) if is_short else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def metric_by_epoch(panels: list[dict], metric_label: str):
    """A metric against the epoch: a line per way of sampling, the spread over seeds as a band.

    panels: dicts with `title` and `series`, a list of dicts (label, path, epochs [n], means [n], deviations [n], nan
    where a single seed gives none). Returns a Figure.
    """
    fig, axes = figure(6.5, 0.4 + 3.6 * len(panels), nrows=len(panels), squeeze=False)
    for ax, panel in zip(axes[:, 0], panels):
        seen = {}
        all_epochs = sorted({epoch for series in panel["series"] for epoch in series["epochs"]})
        for k, series in enumerate(panel["series"]):
            color = PATH_COLORS.get("baseline" if series["path"] == "uniform" else series["path"])
            color = color or CURVE_COLORS[k % len(CURVE_COLORS)]
            style = LINE_STYLES[seen.get(color, 0) % len(LINE_STYLES)]
            seen[color] = seen.get(color, 0) + 1
            epochs, means, deviations = (np.asarray(series[key], float) for key in ("epochs", "means", "deviations"))
            deviations = np.nan_to_num(deviations)
            if len(all_epochs) == 1:                            # no line to draw: side by side, by name
                ax.errorbar([k], means, deviations, fmt=LINE_MARKERS[k % len(LINE_MARKERS)], color=color, capsize=5)
                continue
            ax.plot(epochs, means, style, color=color, marker=LINE_MARKERS[k % len(LINE_MARKERS)], markersize=5,
                    linewidth=1.8, label=plain(series["label"]))
            if len(epochs) == 1:
                ax.errorbar(epochs, means, deviations, color=color, capsize=4)
            else:
                ax.fill_between(epochs, means - deviations, means + deviations, color=color, alpha=0.2, linewidth=0)
        if len(all_epochs) == 1:
            ax.set_xticks(range(len(panel["series"])), [series["label"].replace(", ", ",\n")
                                                        for series in panel["series"]])
            ax.margins(x=0.1)
            ax.set_xlabel(f"epoch {all_epochs[0]}")
        else:
            ax.set_xticks(all_epochs if len(all_epochs) <= 12 else all_epochs[::-(-len(all_epochs) // 12)])
            ax.set_xlabel("epoch")
            ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        ax.set_ylabel(metric_label)
        ax.set_title(plain(panel["title"]), fontsize=9, loc="left")
        ax.grid(True, color="0.9", linewidth=0.6)
    return fig


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


CELL = 128              # pixels that an image of 64x64 or 32x32 is enlarged to in a picture of many
CELL_GAP = 6
LABEL_WIDTH, LABEL_HEIGHT, LINE_HEIGHT = 150, 34, 24


def picture(width: int, height: int, images: list, texts: list):
    """Images and words at places counted in pixels. Returns a Figure of width x height pixels.

    images: (x, y, uint8 [3, H, W]), enlarged to CELL by repeating pixels. texts: (x, y, words, ha, va, font size).
    """
    canvas = np.full((height, width, 3), 255, np.uint8)
    for x, y, image in images:
        image = np.moveaxis(np.asarray(image), 0, -1)
        canvas[y:y + CELL, x:x + CELL] = image.repeat(CELL // image.shape[0], 0).repeat(CELL // image.shape[1], 1)
    fig = Figure(figsize=(width / FIGURE_DPI, height / FIGURE_DPI), dpi=FIGURE_DPI)
    ax = fig.add_axes([0, 0, 1, 1])
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    for x, y, words, ha, va, size in texts:
        ax.text(x - 0.5, y - 0.5, words, ha=ha, va=va, fontsize=size, linespacing=1.05)
    return fig


def image_rows(rows: dict, column_labels=()):
    """Images side by side: a row per label, a column per image. rows: label -> uint8 [n, 3, H, W], same n."""
    step = CELL + CELL_GAP
    num_columns = max(len(images) for images in rows.values())
    top = LABEL_HEIGHT if len(column_labels) else 0
    images = [(LABEL_WIDTH + step * c, top + step * r, image)
              for r, row in enumerate(rows.values()) for c, image in enumerate(row)]
    texts = [(LABEL_WIDTH - 10, top + step * r + CELL / 2, label.replace(", ", ",\n"), "right", "center", 10)
             for r, label in enumerate(rows)]
    texts += [(LABEL_WIDTH + step * c + CELL / 2, LABEL_HEIGHT / 2, label, "center", "center", 9)
              for c, label in enumerate(column_labels)]
    return picture(LABEL_WIDTH + step * num_columns, top + step * len(rows), images, texts)


def denoising_strip(path, rows: dict, title: str = "", columns_per_band: int = 10):
    """What both scales hold at every point of a path, wrapped into bands of at most `columns_per_band` points.

    path: int [N + 1, 2]; rows: label -> list of N + 1 images, uint8 [3, H, W], or None where there is none.
    """
    step = CELL + CELL_GAP
    num_bands = -(-len(path) // columns_per_band)
    per_band = -(-len(path) // num_bands)
    top = LABEL_HEIGHT if title else 0
    head = 2 * LINE_HEIGHT + 8                                  # two lines of timesteps above each band
    band_height = head + step * len(rows) + CELL_GAP
    images, texts = [], [(8, top / 2, title, "left", "center", 10)] if title else []
    for band in range(num_bands):
        y = top + band * band_height + head
        texts.append((LABEL_WIDTH - 10, y - 4, "t_64\nt_32", "right", "bottom", 9))
        texts += [(LABEL_WIDTH - 10, y + step * r + CELL / 2, label, "right", "center", 9)
                  for r, label in enumerate(rows)]
        for column, point in enumerate(range(band * per_band, min((band + 1) * per_band, len(path)))):
            x = LABEL_WIDTH + step * column
            texts.append((x + CELL / 2, y - 4, f"{path[point][0]}\n{path[point][1]}", "center", "bottom", 9))
            images += [(x, y + step * r, row[point]) for r, row in enumerate(rows.values()) if row[point] is not None]
    return picture(LABEL_WIDTH + step * per_band, top + band_height * num_bands, images, texts)


def error_bars(groups: dict, ylabel: str, title: str = ""):
    """Bars with their standard errors. groups: group -> {bar label: (value, standard error)}; a colour per label."""
    labels = list(dict.fromkeys(label for bars in groups.values() for label in bars))
    fig, ax = figure(6.5, 3.4)
    for k, label in enumerate(labels):
        at = [(x, *bars[label]) for x, bars in enumerate(groups.values()) if label in bars]
        shift = (k - (len(labels) - 1) / 2) * 0.8 / len(labels)
        x, values, errors = (np.array(column, float) for column in zip(*at))
        bars = ax.bar(x + shift, values, 0.8 / len(labels) * 0.92, yerr=errors, capsize=3, label=label,
                      color=CURVE_COLORS[k % len(CURVE_COLORS)])
        ax.bar_label(bars, [f"{value:.4f}" for value in values], fontsize=8, padding=2)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set(ylabel=ylabel, title=plain(title))
    ax.margins(y=0.15)
    ax.grid(True, axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
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
    below.axhline(1, color="#000000", linewidth=1)
    above.set(yscale="log", ylabel="noise error at 64×64")
    below.set(xlabel="t_64", ylabel="LIFT / baseline")
    plain_log_axis(above.yaxis)
    for ax in (above, below):
        ax.grid(True, color="0.9", linewidth=0.6)
    above.legend(frameon=False, fontsize=9)
    return fig


# --- error maps -----------------------------------------------------------------------------------------------------

OTHER_PATH_COLORS = {"unconstrained_64": "#A6761D", "unconstrained_total": "#4D4D4D", "greedy_64": "#FFFFFF",
                     "greedy_total": "#B0B0B0", "lead_1": "#FEE0D2", "lead_2": "#FC9272", "lead_3": "#DE2D26",
                     "lead_5": "#67000D"}
MAP_COLORS = "viridis"


def style_of_path(path_type: str) -> dict:
    """Colour and label of a path."""
    color = PATH_COLORS.get(path_type) or OTHER_PATH_COLORS.get(path_type, "#FFFFFF")
    return {"color": color, "label": PATH_LABELS.get(path_type, path_type.replace("_", " "))}


def grid_ticks(ax, timesteps, count: int = 6) -> None:
    """Axes in timesteps for a map of equal cells: t_32 across, t_64 down, the noisiest corner at the upper left."""
    last = len(timesteps) - 1
    if last <= 9 and count > 4:
        count = last + 1                        # a small grid: every cell, rather than some of them unevenly
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
