"""A folder of numbered PNG files, which appears when all of its images are there; and many images as one picture."""
import re
from pathlib import Path

from engine.errors import InputError

MARGIN = 2                              # white pixels around every image of a picture


def image_grid(images, columns: int):
    """Images, uint8 [N, C, S, S], row by row, as one RGB picture of PIL with white between and around; C is 1 or 3."""
    import torch
    import torch.nn.functional as F
    from PIL import Image
    images = images.cpu().expand(-1, 3, -1, -1)
    missing = images.new_full((-len(images) % columns, *images.shape[1:]), 255)
    padded = F.pad(torch.cat([images, missing]), (0, MARGIN, 0, MARGIN), value=255).unflatten(0, (-1, columns))
    picture = padded.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)                        # [3, height, width]
    return Image.fromarray(F.pad(picture, (MARGIN, 0, MARGIN, 0), value=255).permute(1, 2, 0).contiguous().numpy())


def refuse_images(folder: Path, overwrite: bool) -> list[Path]:
    """The PNG files in `folder`. Raises InputError if there are any, unless `overwrite`."""
    old = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if old and not overwrite:
        raise InputError(f"{folder}: holds {len(old)} PNG files already; add --overwrite to replace them, or choose "
                         "another --output_dir")
    return old


def publish(made: Path, folder: Path, overwrite: bool) -> None:
    """Move all files of `made` into `folder`, in place of the numbered images there. Raises InputError as above."""
    for path in refuse_images(folder, overwrite):
        if re.fullmatch(r"\d{5,}\.png", path.name):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir()):
        path.replace(folder / path.name)
