"""The names of S1's paths and usual runs in tables and figures, and the colour of each path."""
from evaluation.tables import Names
from lift.options import DEFAULT_NAMES, LEAD_NAMES


# Okabe and Ito's palette: readers with any colour vision can tell the colours apart, in print by their lightness.
PATH_COLORS = {"baseline": "#000000", "diagonal": "#E69F00", "dp_64": "#56B4E9", "dp_total": "#CC79A7",
               "dp_step": "#009E73", "dp_directional": "#0072B2", "dp_diagonal": "#D55E00", "lead": "#F0E442"}
# In the order of a table's columns.
PATH_LABELS = {"uniform": "baseline", "dp": "baseline DP", "baseline": "baseline",
               "diagonal": "diagonal", "dp_64": "DP-64", "dp_total": "DP-Total",
               "identity_64": "DP-64, identity", "identity_total": "DP-Total, identity", "dp_step": "DP-step",
               "dp_directional": "DP-directional", "dp_diagonal": "DP-diagonal", "lead": "lead",
               **{name: name.replace("_", " ") for name in LEAD_NAMES}}
NAMES = Names(PATH_LABELS, DEFAULT_NAMES)
OTHER_PATH_COLORS = {"unconstrained_64": "#A6761D", "unconstrained_total": "#4D4D4D", "greedy_64": "#FFFFFF",
                     "greedy_total": "#B0B0B0", "identity_64": "#F0027F", "identity_total": "#BEAED4",
                     "lead_1": "#FEE0D2", "lead_2": "#FC9272", "lead_3": "#DE2D26", "lead_5": "#67000D"}


def path_color(path_type: str) -> str | None:
    """A path's colour in every figure; None for a path without a colour of its own."""
    return PATH_COLORS.get("baseline" if path_type == "uniform" else path_type)


def style_of_path(path_type: str) -> dict:
    """Colour and label of a path over a map."""
    color = PATH_COLORS.get(path_type) or OTHER_PATH_COLORS.get(path_type, "#FFFFFF")
    return {"color": color, "label": PATH_LABELS.get(path_type, path_type.replace("_", " "))}
