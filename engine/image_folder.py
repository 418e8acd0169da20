"""Folders of generated images that appear when all of their images are there, and a grid of images as one picture."""
import contextlib
import re
import shutil
from pathlib import Path

from engine.command_line import write_run_record
from engine.errors import InputError
from engine.files import check_can_be_written, refuse_existing, save_png, scratch_folder, written_together

MARGIN = 2                              # white pixels around every image of a picture
ENLARGED = 2                            # of small images: pixels of a picture that one of theirs becomes, a side


def image_grid(images, columns: int, enlarge: int = 1, margin: int = MARGIN):
    """Images, uint8 [N, C, S, S], row by row, as one RGB picture of PIL with white between and around; C is 1 or 3.

    enlarge: pixels that each pixel becomes, a side. margin: white pixels around every image.
    """
    import torch
    import torch.nn.functional as F
    from PIL import Image
    images = images.cpu().expand(-1, 3, -1, -1).repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    missing = images.new_full((-len(images) % columns, *images.shape[1:]), 255)
    padded = F.pad(torch.cat([images, missing]), (0, margin, 0, margin), value=255).unflatten(0, (-1, columns))
    picture = padded.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)                        # [3, height, width]
    return Image.fromarray(F.pad(picture, (margin, 0, margin, 0), value=255).permute(1, 2, 0).contiguous().numpy())


def save_picture(path: Path, picture, pdf: bool = False) -> None:
    """A picture of PIL as PNG, and as PDF if asked for. path: without ending; its folder is made."""
    save_png(path.with_name(f"{path.name}.png"), picture)
    if pdf:
        picture.save(path.with_name(f"{path.name}.pdf"))


def save_samples(folder: Path, images, columns: int, shown, strips, enlarge: int = 1, pdf: bool = False) -> None:
    """A grid of images, and of the first ones folders sample_0000 ... with image, denoising strip and single steps.

    images: uint8 [N, C, S, S]. strips: of the first n, uint8 [points, n, C, S, S]; shown: the points' steps. enlarge:
    as in `image_grid`. pdf: every picture as PDF too.
    """
    save_picture(folder / "grid", image_grid(images, columns, enlarge), pdf)
    for k in range(strips.shape[1]):
        sample = folder / f"sample_{k:04d}"
        save_picture(sample / "image", image_grid(images[k:k + 1], 1, enlarge, margin=0), pdf)
        save_picture(sample / "strip", image_grid(strips[:, k], len(strips), enlarge), pdf)
        for step, image in zip(shown, strips[:, k]):
            save_picture(sample / f"steps/{step:04d}", image_grid(image[None], 1, enlarge, margin=0), pdf)


def refuse_images(folder: Path, overwrite: bool) -> list[Path]:
    """The PNG files in `folder`. Raises InputError if there are any, unless `overwrite`."""
    old = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if old and not overwrite:
        raise InputError(f"{folder}: holds {len(old)} PNG files already; add --overwrite to replace them, or choose "
                         "another --output_dir")
    return old


def choose_outputs(args, label: str) -> None:
    """--output_dir and --grid_png, where they were left out, become generated/LABEL and results/samples_LABEL.png.

    Raises InputError, before any work, if images or grid cannot go there. Reasons: a folder or file name that names
    nothing, an earlier output without --overwrite, a place that is read-only.
    """
    args.output_dir = args.output_dir or Path("generated") / label
    args.grid_png = args.grid_png or Path("results") / f"samples_{label}.png"
    check_named(args.output_dir)
    if args.grid_png.suffix != ".png":
        raise InputError(f"--grid_png: found {args.grid_png}, expected a name that ends in .png")
    for file in (args.grid_png, args.grid_png.with_suffix(".json")):
        refuse_existing(file, args.overwrite)
    refuse_images(args.output_dir, args.overwrite)
    check_can_be_written(args.output_dir / "run.json")


def check_named(folder: Path) -> None:
    """Raises InputError for a folder without a name, beside which no scratch folder can lie."""
    if folder.name in ("", ".."):
        raise InputError(f"--output_dir: found {folder}, expected a folder with a name of its own")


def scratch_beside(folder: Path) -> Path:
    """Where the images of `folder` are written before they are moved there."""
    return folder.with_name(f".{folder.name}.tmp")


def held_scratch(folder: Path):
    """A context in which this process alone fills `scratch_beside(folder)`. Raises InputError if another does."""
    return scratch_folder(scratch_beside(folder), f"--output_dir: another process is generating into {folder}; wait "
                          "for it, or choose another folder")


@contextlib.contextmanager
def shared_scratch(args, group):
    """A scratch folder beside --output_dir, which all processes of `group` write images into. The main process makes it
    and removes it; `publish_with_grid` moves the images."""
    with held_scratch(args.output_dir) if group.is_main else contextlib.nullcontext():
        group.wait()                            # the others write into the folder once it is there
        yield scratch_beside(args.output_dir)


def publish_with_grid(args, made: Path, grid, device, num_model_calls: int, seconds: float, **results) -> None:
    """Move the images in `made` to --output_dir and write `grid`, a picture of PIL, to --grid_png: both or neither.

    Each has the record of the run beside it. seconds: how long generating took. results: further entries of the record.
    """
    rate = args.num_images / seconds
    results = {"num_model_calls": num_model_calls, "images_per_second": rate, **results}
    write_run_record(made / "run.json", args, device, **results)
    with written_together(args.overwrite):
        save_png(args.grid_png, grid)
        write_run_record(args.grid_png.with_suffix(".json"), args, device, **results)
        publish(made, args.output_dir, args.overwrite)      # once the grid is sure to be there too
    print(f"{args.num_images} images in {args.output_dir}, grid in {args.grid_png}: {num_model_calls} network calls "
          f"per image, {rate:.2f} images/s")


@contextlib.contextmanager
def filled_whole(folder: Path, overwrite: bool):
    """A scratch folder to write images into. Its content appears in `folder` at the block's end.

    If anything goes wrong before, nothing appears and earlier images stay. Raises InputError as `refuse_images` does,
    before the block and at its end, and if another process fills the same folder.
    """
    check_named(folder)
    refuse_images(folder, overwrite)
    check_can_be_written(folder / "run.json")
    with held_scratch(folder) as made:
        yield made
        publish(made, folder, overwrite)


def publish(made: Path, folder: Path, overwrite: bool) -> None:
    """Move the content of `made` into `folder`; it replaces the numbered images and sample folders there. Raises
    InputError as `refuse_images` does."""
    refuse_images(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if re.fullmatch(r"\d{5,}\.png", path.name):
            path.unlink()
        elif re.fullmatch(r"sample_\d{4,}", path.name) and path.is_dir():
            shutil.rmtree(path)
    for path in sorted(made.iterdir()):
        path.replace(folder / path.name)
