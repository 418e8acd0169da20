"""Pictures made of small images."""
import torch
from PIL import Image

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


def strip_points(num_steps: int) -> list[int]:
    """Before which steps a denoising strip shows the image: every tenth of the way, the last one, and, as number
    num_steps, what comes out."""
    return [*range(0, num_steps - 1, max(num_steps // 10, 1)), num_steps - 1, num_steps]
