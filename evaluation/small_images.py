"""Pictures made of small images, and of points."""
import numpy as np
import torch
from PIL import Image

from engine.image_folder import image_grid
from evaluation import figures


def class_rows(images: torch.Tensor, num_classes: int, per_class: int) -> Image.Image:
    """A picture with a row per class. images: uint8 [N, C, H, W], whose classes take turns."""
    num_classes = min(num_classes, len(images))
    per_class = min(per_class, len(images) // num_classes)
    shown = images[:num_classes * per_class].unflatten(0, (per_class, num_classes)).transpose(0, 1).flatten(0, 1)
    return image_grid(shown, per_class)


def picture_columns(columns: list[tuple], width: float = 1.35):
    """A matplotlib Figure with tall pictures side by side, such as those of `class_rows`. columns: (title, picture), or
    (title, picture, note below it); width: of a column, inches."""
    lines = max(len(note.splitlines()) for _, _, *notes in columns for note in notes or [""])
    fig, axes = figures.figure(width * len(columns) + 0.2, 4.0 + 0.2 * lines, ncols=len(columns), squeeze=False)
    for ax, (title, picture, *notes) in zip(axes[0], columns):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("".join(notes), fontsize=8)
        ax.set(xticks=[], yticks=[])
    return fig


def principal_components(points: torch.Tensor, count: int = 2) -> np.ndarray:
    """The coordinates along which points [N, D] vary most: float [N, count]. The largest entry of a direction is
    positive."""
    _, _, directions = torch.linalg.svd(points.double() - points.double().mean(0), full_matrices=False)
    directions = directions[:count]
    largest = directions.abs().argmax(1, keepdim=True)
    return (points.double() @ (directions * directions.gather(1, largest).sign()).T).numpy()


def projection(name: str, seed: int):
    """Name and function of a projection of points [N, D] to [N, 2]. name: umap, for which the first two principal
    components stand in where umap-learn is not installed, or pca."""
    if name == "umap":
        try:
            import umap                     # takes seconds, and most verbs do without
            return name, lambda points: umap.UMAP(random_state=seed, n_jobs=1).fit_transform(points.numpy())
        except ImportError:
            print("umap-learn is not installed (pip install .[umap]): the first two principal components instead",
                  flush=True)
    return "pca", principal_components


def scatter(panels: list[tuple]):
    """A matplotlib Figure with a panel per (title, points [N, 2], labels [N] or None) or (..., behind [M, 2]): points
    in the colour of their class, others grey behind them. A class's number, in its colour too, stands above its middle,
    which it leaves free, since a class may be no larger than a letter."""
    from matplotlib import colormaps, patheffects
    fig, axes = figures.figure(4.2 * len(panels) + 0.4, 4.2, ncols=len(panels), squeeze=False)
    for ax, (title, points, labels, *behind) in zip(axes[0], panels):
        for others in behind:
            ax.plot(*others.T, ".", color="0.75", markersize=3, markeredgewidth=0, zorder=0)
        labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
        ax.scatter(*points.T, c=labels, cmap="tab10", vmin=0, vmax=9, s=5, linewidths=0)
        for label in np.unique(labels):
            ax.annotate(str(label), np.median(points[labels == label], 0), (0, 7), textcoords="offset points",
                        fontsize=14, weight="bold", ha="center", color=colormaps["tab10"](label % 10),
                        path_effects=[patheffects.withStroke(linewidth=3, foreground="white")])
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
    return fig
