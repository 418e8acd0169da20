"""Every figure the project makes. Functions take arrays and return a matplotlib Figure; scripts save it."""
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from evaluation.pareto import COSTS, front

matplotlib.use("Agg")

FIGURE_DPI = 150


def plain(text: str) -> str:
    """Text that Matplotlib shows as it stands: a dollar sign, as in a folder's name, starts no formula."""
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
    """Colour and line of one curve of many. Dashes show where it lies over another; black is left to the baseline."""
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


def loss_curves(logs: dict[str, list[dict]], panels: dict[str, str] = SCALE_PANELS, ylabels: dict[str, str] = {}):
    """Training losses against the step: every logged value as a point, and a moving average as a line.

    logs: run name -> rows of its training CSV (numbers or their text; an empty or missing cell is left out). panels:
    column -> title; there is one panel for each column that any run logged. ylabels: title -> what the values are,
    where they are no squared error. Returns a Figure.
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
        ax.set(yscale="log", xlabel="optimizer step", ylabel=ylabels.get(scale, "loss: mean squared error"),
               title=scale)
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


def score_by_cost(points, metric_label: str):
    """A score against what an image costs: a line per model and way of sampling, a panel per kind of cost, a row of
    panels per group; grey, what no point beats at its cost.

    points: list of `evaluation.pareto.Point`. Colours tell models, dashes ways, bars the deviation over seeds. Returns
    a Figure.
    """
    groups, models, ways = (list(dict.fromkeys(getattr(point, name) for point in points))
                            for name in ("group", "model", "way"))
    colors = dict(zip(models, ("black", *CURVE_COLORS, "#56B4E9", "#F0E442", "0.5")))
    fig, axes = figure(9.0, 0.9 + 2.9 * len(groups), nrows=len(groups), ncols=len(COSTS), squeeze=False, sharey=True)
    for row, group in zip(axes, groups):
        for ax, (cost, label) in zip(row, COSTS.items()):
            own = [point for point in points if point.group == group]
            best = front(own, cost)
            ax.plot([point.costs[cost] for point in best], [point.value for point in best], color="0.85", linewidth=7,
                    drawstyle="steps-post", solid_joinstyle="round", zorder=0)
            for k, model in enumerate(models):
                for way in ways:
                    line = sorted((point for point in own if (point.model, point.way) == (model, way)),
                                  key=lambda point: point.costs[cost])
                    if line:
                        ax.errorbar([point.costs[cost] for point in line], [point.value for point in line],
                                    [point.deviation for point in line], color=colors.get(model, "0.5"),
                                    linestyle=LINE_STYLES[ways.index(way) % len(LINE_STYLES)], linewidth=1.6,
                                    marker=LINE_MARKERS[k % len(LINE_MARKERS)], markersize=4.5, elinewidth=0.8,
                                    capsize=2)
            ax.set(xscale="log", yscale="log", xlabel=label)
            ax.tick_params(labelsize=9)
            ax.grid(True, which="both", color="0.92", linewidth=0.6)
        row[0].set_ylabel(metric_label)
        row[1].set_title(plain(group), fontsize=11)
    for ax in axes.flat:
        plain_log_axis(ax.xaxis)
        plain_log_axis(ax.yaxis)
    calls = sorted({point.costs["calls"] for point in points})
    for ax in axes[:, list(COSTS).index("calls")] if len(calls) <= 6 else []:
        ax.xaxis.set_major_locator(FixedLocator(calls))
        ax.xaxis.set_minor_locator(NullLocator())
    shown = [Line2D([], [], color=colors.get(model, "0.5"), marker=LINE_MARKERS[k % len(LINE_MARKERS)], linewidth=1.8,
                    label=plain(model)) for k, model in enumerate(models)]
    shown += [Line2D([], [], color="0.3", linestyle=LINE_STYLES[k % len(LINE_STYLES)], label=plain(way))
              for k, way in enumerate(ways) if len(ways) > 1]
    shown.append(Line2D([], [], color="0.85", linewidth=7, label="best at its cost"))
    fig.legend(handles=shown, loc="outside lower center", ncols=min(4, len(shown)), frameon=False, fontsize=9)
    return fig


def metric_by_epoch(panels: list[dict], metric_label: str):
    """A metric against the epoch: a line per way of sampling, the spread over seeds as a band.

    panels: dicts with `title` and `series`, a list of dicts (label, color or None, epochs [n], means [n], deviations
    [n], nan where a single seed gives none). Returns a Figure.
    """
    fig, axes = figure(6.5, 0.4 + 3.6 * len(panels), nrows=len(panels), squeeze=False)
    for ax, panel in zip(axes[:, 0], panels):
        seen = {}
        all_epochs = sorted({epoch for series in panel["series"] for epoch in series["epochs"]})
        for k, series in enumerate(panel["series"]):
            color = series["color"] or CURVE_COLORS[k % len(CURVE_COLORS)]
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


CELL = 128              # pixels that an image of 64x64 or 32x32 is enlarged to in a picture of many; a larger one stays
CELL_GAP = 6
LABEL_WIDTH, LABEL_HEIGHT, LINE_HEIGHT = 150, 34, 24
LABEL_SIZE, LABEL_MARGIN = 10, 10       # points; pixels on both sides of a label


def repeats(side: int, cell: int = CELL) -> int:
    """How often each pixel of an image with that side is repeated in a picture of many: at least once."""
    return max(1, cell // side)


def width_of(words: str, size: float) -> int:
    """Pixels that a line of words at a font size in points takes in a picture, rounded up."""
    return int(np.ceil(TextPath((0, 0), words, size=size).get_extents().xmax * FIGURE_DPI / 72))


def picture(width: int, height: int, images: list, texts: list, cell: int = CELL):
    """Images and words at places counted in pixels. Returns a Figure of width x height pixels.

    images: (x, y, uint8 [C, H, W]), C 1 or 3, whose pixels are repeated as often as they fit into `cell`, and at least
    once. texts: (x, y, words, ha, va, font size).
    """
    canvas = np.full((height, width, 3), 255, np.uint8)
    for x, y, image in images:
        image = np.moveaxis(np.asarray(image), 0, -1)
        image = image.repeat(repeats(image.shape[0], cell), 0).repeat(repeats(image.shape[1], cell), 1)
        canvas[y:y + image.shape[0], x:x + image.shape[1]] = image
    fig = Figure(figsize=(width / FIGURE_DPI, height / FIGURE_DPI), dpi=FIGURE_DPI)
    ax = fig.add_axes([0, 0, 1, 1])
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    for x, y, words, ha, va, size in texts:
        ax.text(x - 0.5, y - 0.5, words, ha=ha, va=va, fontsize=size, linespacing=1.05)
    return fig


def image_rows(rows: dict, column_labels=(), cell: int = CELL):
    """Images side by side: a row per label, a column per image. rows: label -> uint8 [n, C, S, S], same n and S. cell:
    as in `picture`."""
    side = next(iter(rows.values())).shape[-1]
    width = repeats(side, cell) * side
    step = width + CELL_GAP
    num_columns = max(len(images) for images in rows.values())
    labels = [label.replace(", ", ",\n") for label in rows]
    widest = max(width_of(line, LABEL_SIZE) for label in labels for line in label.split("\n"))
    left = max(LABEL_WIDTH, widest + 2 * LABEL_MARGIN)
    top = LABEL_HEIGHT if len(column_labels) else 0
    images = [(left + step * c, top + step * r, image)
              for r, row in enumerate(rows.values()) for c, image in enumerate(row)]
    texts = [(left - LABEL_MARGIN, top + step * r + width / 2, label, "right", "center", LABEL_SIZE)
             for r, label in enumerate(labels)]
    texts += [(left + step * c + width / 2, LABEL_HEIGHT / 2, label, "center", "center", 9)
              for c, label in enumerate(column_labels)]
    return picture(left + step * num_columns, top + step * len(rows), images, texts, cell)


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


def curve_panels(panels: dict[str, dict], x, xlabel: str, ylabel: str, is_log_x: bool = True):
    """A Figure with a panel per title, in it a line per name. panels: title -> {name: values at x}, all above 0."""
    fig, axes = figure(4.2 * len(panels), 3.4, ncols=len(panels), squeeze=False, sharey=True)
    for ax, (title, lines) in zip(axes[0], panels.items()):
        for k, (name, values) in enumerate(lines.items()):
            ax.plot(x, values, marker="o", markersize=3, label=name, **style_of_curve(k))
        ax.set(xscale="log" if is_log_x else "linear", yscale="log", xlabel=xlabel, title=title)
        if is_log_x:
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.minorticks_off()
        plain_log_axis(ax.yaxis)
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel(ylabel)
    return fig


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


# --- error maps -----------------------------------------------------------------------------------------------------

