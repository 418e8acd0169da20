"""The results as HTML. Pictures are data in the page itself, so nothing is written to a disk."""
import base64
import html
import io

import numpy as np
import torch
from PIL import Image

from demo.generation import Result, Walk

LARGE_FROM = 150                # pixels a side from which an image is shown large
MAP_PIXELS = 250                # side of the picture of an error map


def png_data(image: np.ndarray) -> str:
    """uint8 [H, W, 3] or [H, W] as a data address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_html(image: torch.Tensor, words: str) -> str:
    """uint8 [C, H, W] as a picture whose pixels stay sharp. words: the text in its place for readers who cannot see
    it."""
    array = image.permute(1, 2, 0).squeeze(-1).numpy()
    return (f'<img src="{png_data(array)}" alt="{html.escape(words)}" width="{image.shape[-1]}" '
            f'height="{image.shape[-2]}">')


def walk_html(walk: Walk) -> str:
    """The images of a walk by scale, its calls and time, and its strip, both scales under each other."""
    parts = [f'<section class="walk"><h3>{html.escape(walk.label)}</h3><p class="facts">{walk.num_model_calls} network '
             f'calls per image · {walk.seconds:.2f} s for {len(next(iter(walk.images.values())))} images</p>']
    for size, images in walk.images.items():
        tiles = "".join(image_html(image, f"image {k}, {size}") for k, image in enumerate(images))
        kind = "tiles large" if images.shape[-1] > LARGE_FROM else "tiles"
        parts.append(f'<figure><figcaption>{size}</figcaption><div class="{kind}">{tiles}</div></figure>')
    frames = []
    for f, caption in enumerate(walk.captions):
        pictures = "".join(image_html(strip[f], f"image 0 at {caption}, {size}") for size, strip in walk.strip.items())
        frames.append(f"<figure>{pictures}<figcaption>{html.escape(caption)}</figcaption></figure>")
    parts.append('<p class="facts">Image 0 on its way, with its times</p><div class="strip" tabindex="0" role="group" '
                 f'aria-label="denoising of image 0">{"".join(frames)}</div></section>')
    return "".join(parts)


def result_html(result: Result) -> str:
    """All walks of a result, and its notes."""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
    return "".join(map(walk_html, result.walks)) + (f'<ul class="notes">{notes}</ul>' if notes else "")


def progress_html(done: int, total: int, what: str = "") -> str:
    """A bar; one without end until the number of steps is known."""
    value = f' value="{done}" max="{total}"' if total else ""
    words = html.escape(what or f"step {done} of {total}")
    return f'<div class="state" role="status"><progress{value} aria-label="progress"></progress> {words}</div>'


def line_html(words: str, is_error: bool = False) -> str:
    """One line: what went wrong, or what happened."""
    kind, role = ("error", "alert") if is_error else ("state", "status")
    return f'<div class="{kind}" role="{role}">{html.escape(words)}</div>'


def log_error(heatmap: dict) -> np.ndarray:
    """log10 of the error of both scales together, float64 [n, n] by t_64 and t_32."""
    return np.log10(np.maximum(np.asarray(heatmap["error_64"]) + np.asarray(heatmap["error_32"]), 1e-300))


def map_picture(heatmap: dict | None) -> str:
    """`log_error` over the plane as a data address, "" where there is no map.

    Rows are t_64, columns t_32, both from 999 to 0, evenly in timesteps; each place has the colour of its nearest cell.
    """
    if heatmap is None:
        return ""
    import matplotlib
    from lift.figures import MAP_COLORS
    error = log_error(heatmap)
    places = np.linspace(999, 0, MAP_PIXELS)
    nearest = np.abs(places[:, None] - np.asarray(heatmap["timesteps"])).argmin(1)
    shade = (error[np.ix_(nearest, nearest)] - error.min()) / max(error.max() - error.min(), 1e-12)
    return png_data(matplotlib.colormaps[MAP_COLORS](shade, bytes=True)[..., :3].copy())


def map_legend(heatmap: dict | None) -> str:
    """What the plane's colours mean."""
    if heatmap is None:
        return ("No error map of this checkpoint was found; compute_heatmap_30.py makes one. A path can be drawn all "
                "the same.")
    error, n = log_error(heatmap), len(heatmap["timesteps"])
    low, high = 10**error.min(), 10**error.max()
    return (f"Colour: error of both scales, from {low:.1g} (dark) to {high:.1g} (bright), at {n}×{n} points. "
            "Draw a path with mouse or finger.")
