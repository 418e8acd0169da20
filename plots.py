"""Every figure the project makes. Functions take arrays and return a matplotlib Figure; scripts save it."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt                 # noqa: E402  the backend must be chosen first

FIGURE_DPI = 150
# Okabe and Ito's palette: told apart by readers with any colour vision, and by lightness in print.
PATH_COLORS = {"baseline": "#000000", "diagonal": "#E69F00", "dp_64": "#56B4E9", "dp_total": "#CC79A7",
               "dp_step": "#009E73", "dp_directional": "#0072B2", "dp_diagonal": "#D55E00", "lead": "#F0E442"}
PATH_LABELS = {"baseline": "baseline", "diagonal": "diagonal", "dp_64": "DP-64", "dp_total": "DP-Total",
               "dp_step": "DP-step", "dp_directional": "DP-directional", "dp_diagonal": "DP-diagonal", "lead": "lead"}


def figure(width: float, height: float, **subplots):
    """A figure and its axes, width and height in inches, at the project's resolution."""
    return plt.subplots(figsize=(width, height), dpi=FIGURE_DPI, layout="constrained", **subplots)
