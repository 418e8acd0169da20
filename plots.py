"""Every figure the project makes. Functions take arrays and return a matplotlib Figure; scripts save it."""
import itertools

import matplotlib
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")

FIGURE_DPI = 150
# Okabe and Ito's palette: told apart by readers with any colour vision, and by lightness in print.
PATH_COLORS = {"baseline": "#000000", "diagonal": "#E69F00", "dp_64": "#56B4E9", "dp_total": "#CC79A7",
               "dp_step": "#009E73", "dp_directional": "#0072B2", "dp_diagonal": "#D55E00", "lead": "#F0E442"}
PATH_LABELS = {"baseline": "baseline", "diagonal": "diagonal", "dp_64": "DP-64", "dp_total": "DP-Total",
               "dp_step": "DP-step", "dp_directional": "DP-directional", "dp_diagonal": "DP-diagonal", "lead": "lead"}


def figure(width: float, height: float, **subplots):
    """A figure and its axes, width and height in inches, at the project's resolution.

    Made without pyplot, which would keep every figure of a long run in memory.
    """
    fig = Figure(figsize=(width, height), dpi=FIGURE_DPI, layout="constrained")
    return fig, fig.subplots(**subplots)


# --- training -------------------------------------------------------------------------------------------------------

CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")


def smoothed(values, window: int):
    """Moving average of float [n] over `window` neighbours, centred, narrower at both ends: float [n]."""
    values = np.asarray(values, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    half = window // 2
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def loss_curves(logs: dict[str, list[dict]]):
    """Training loss per scale against the step: every logged value as a point, and a moving average as a line.

    logs: run name -> rows of its training CSV (columns step, loss, loss_64, loss_32; numbers or their text; an empty
    or missing cell is left out). One panel per scale that any run logged. Returns a Figure.
    """
    def column(rows, key):
        cells = [(row.get("step"), row.get(key)) for row in rows]
        values = np.array([(float(s), float(v)) for s, v in cells if s not in (None, "") and v not in (None, "")])
        return values[np.isfinite(values).all(1)].T if values.size else np.zeros((2, 0))

    scales = {"64×64": {name: column(rows, "loss_64") for name, rows in logs.items()},
              "32×32": {name: column(rows, "loss_32") for name, rows in logs.items()}}
    scales = {scale: curves for scale, curves in scales.items() if any(curve.size for curve in curves.values())}
    fig, axes = figure(max(6.0, 4.5 * len(scales)), 3.6, ncols=max(1, len(scales)), squeeze=False)
    for ax, (scale, curves) in zip(axes[0], scales.items()):
        for color, (name, (steps, losses)) in zip(itertools.cycle(CURVE_COLORS), curves.items()):
            if len(steps):
                ax.plot(steps, losses, ".", color=color, alpha=0.25, markersize=3, markeredgewidth=0)
                ax.plot(steps, smoothed(losses, max(1, len(losses) // 20)), color=color, linewidth=1.6, label=name)
        ax.set(yscale="log", xlabel="optimizer step", ylabel="mean squared noise error", title=f"{scale} scale")
        ax.grid(True, which="both", color="0.9", linewidth=0.6)
        ax.legend(frameon=False)
    return fig
