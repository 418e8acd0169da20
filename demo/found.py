"""What the demo can show: checkpoints in folders, each with its family, and the error maps that belong to them."""
from dataclasses import dataclass
from pathlib import Path

import families
from demo.options import FAMILIES
from engine.errors import InputError
from lift.checkpoints import LoadedModel
from lift.heatmap_file import check_heatmap_matches, load_heatmap

TEXT_TO_IMAGE = "text_to_image"
INDEX = "model_index.json"              # what makes a folder a model in diffusers' layout


@dataclass(frozen=True)
class Found:
    """A checkpoint on disk, or a folder in diffusers' layout. family: of `demo.options.FAMILIES`; a student of few
    steps is `distilled`, but for one of text to image. base: the family that loads it."""
    path: Path
    family: str
    base: str


def look_at(path) -> Found:
    """The checkpoint at `path`. Raises InputError for a file that is missing or no model of a known family."""
    path = Path(path)
    if (path / INDEX).is_file():
        return Found(path, TEXT_TO_IMAGE, TEXT_TO_IMAGE)
    if not path.is_file():
        raise InputError(f"--checkpoint: {path} is no file, expected a checkpoint, or a folder with {INDEX}")
    base, is_student = families.kind_of(path, (*families.FAMILIES, TEXT_TO_IMAGE))
    family = "distilled" if is_student and base != TEXT_TO_IMAGE else base
    if family not in FAMILIES:
        raise InputError(f"{path}: is a model of {family} that is no student, expected one of {', '.join(FAMILIES)}")
    return Found(path, family, base)


def find_checkpoints(folders) -> tuple[list[Found], list[str]]:
    """All checkpoints below the folders, in the order of their paths, and a line for each file that is none.

    Training states (.state.pth) are not looked at: each has its checkpoint beside it.
    """
    found, passed_over = [], []
    files = {file.resolve(): file for folder in folders for file in Path(folder).rglob("*.pth")}
    files |= {file.resolve(): file.parent for folder in folders for file in Path(folder).rglob(INDEX)}
    for file in sorted(files.values()):
        if file.name.endswith(".state.pth"):
            continue
        try:
            found.append(look_at(file))
        except InputError as error:
            passed_over.append(str(error))
    return found, passed_over


def heatmap_files(folders) -> tuple[tuple[Path, int], ...]:
    """The files below the folders that are named as error maps are, each with the time of its last change."""
    files = {file.resolve(): file for folder in folders for file in Path(folder).rglob("heatmap_*.pth")}
    return tuple((file, file.stat().st_mtime_ns) for file in sorted(files.values()))


def find_heatmap(loaded: LoadedModel, files) -> tuple[Path | None, dict | None]:
    """The error map with most points of this very checkpoint and weights, and its file; (None, None) if there is none.

    files: of `heatmap_files`. Maps of other checkpoints, schedules and damaged files are none.
    """
    best = None, None
    for file, _ in files:
        try:
            heatmap = load_heatmap(file)
            check_heatmap_matches(file, heatmap, loaded)
        except InputError:
            continue
        if best[1] is None or len(heatmap["timesteps"]) > len(best[1]["timesteps"]):
            best = file, heatmap
    return best
