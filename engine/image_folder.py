"""A folder of numbered PNG files, which appears when all of its images are there."""
import re
from pathlib import Path

from engine.errors import InputError


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
