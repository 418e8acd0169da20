"""Pictures made of small images, and of points."""
import numpy as np
import torch
from PIL import Image

from evaluation import figures

GAP = 1                 # white pixels between images


def grid(images: torch.Tensor, columns: int, enlarge: int = 2) -> Image.Image:
    """uint8 [N, C, H, W], row by row, as one RGB picture, every pixel `enlarge` times as large."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    height, width = images.shape[2] + GAP, images.shape[3] + GAP
    rows = -(-len(images) // columns)
    canvas = torch.full((3, rows * height - GAP, columns * width - GAP), 255, dtype=torch.uint8)
    for k, image in enumerate(images):
        y, x = k // columns * height, k % columns * width
        canvas[:, y:y + image.shape[1], x:x + image.shape[2]] = image
    return Image.fromarray(canvas.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2).permute(1, 2, 0).numpy())


def class_rows(images: torch.Tensor, num_classes: int, per_class: int, enlarge: int = 1) -> Image.Image:
    """A picture with a row per class. images: uint8 [N, C, H, W], whose classes take turns."""
    per_class = min(per_class, len(images) // num_classes)
    shown = images[:num_classes * per_class].unflatten(0, (per_class, num_classes)).transpose(0, 1).flatten(0, 1)
    return grid(shown, per_class, enlarge)


def principal_components(points: torch.Tensor, count: int = 2) -> np.ndarray:
    """The coordinates along which points [N, D] vary most: float [N, count]. The largest entry of a direction is
    positive."""
    _, _, directions = torch.linalg.svd(points.double() - points.double().mean(0), full_matrices=False)
    directions = directions[:count]
    largest = directions.abs().argmax(1, keepdim=True)
    return (points.double() @ (directions * directions.gather(1, largest).sign()).T).numpy()


def scatter(panels: list[tuple]):
    """A matplotlib Figure with a panel per (title, points [N, 2], labels [N] or None) or (..., behind [M, 2]): points
    in the colour of their class with its number at its middle, others grey behind them."""
    fig, axes = figures.figure(4.2 * len(panels) + 0.4, 4.2, ncols=len(panels), squeeze=False)
    for ax, (title, points, labels, *behind) in zip(axes[0], panels):
        for others in behind:
            ax.plot(*others.T, ".", color="0.75", markersize=3, markeredgewidth=0, zorder=0)
        labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
        ax.scatter(*points.T, c=labels, cmap="tab10", vmin=0, vmax=9, s=5, linewidths=0)
        for label in np.unique(labels):
            ax.text(*np.median(points[labels == label], 0), str(label), fontsize=13, weight="bold", ha="center",
                    va="center", bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "0.6", "alpha": 0.85})
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
    return fig
