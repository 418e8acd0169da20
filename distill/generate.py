#!/usr/bin/env python3
"""Images of a student in its few steps: python -m distill.generate --checkpoint STUDENT.

Image k depends on --seed and k alone. With --teacher, the rows of the grid alternate: the student's images, and the
teacher's from the same noise in as many steps (DDIM).
"""
import time
from pathlib import Path

from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import save_png
from engine.image_folder import filled_whole, image_grid

GRID_COLUMNS = 8


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a student's checkpoint")
    parser.add_argument("--teacher", type=Path, default=None, metavar="FILE", help="its teacher, to be shown beside it")
    parser.add_argument("--guidance_scale", type=real_number(0), default=1.0, help="of the teacher")
    parser.add_argument("--vae", default=None, metavar="FILE_OR_FOLDER",
                        help="autoencoder of a student of latents; left out: where it lay when the teacher was trained")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or raw weights")
    parser.add_argument("--num_images", type=whole_number(1, 10**9), default=64, metavar="IMAGES", help="how many")
    parser.add_argument("--batch_size", type=whole_number(1), default=64, metavar="IMAGES", help="generated at once")
    parser.add_argument("--seed", type=seed_number, default=42, help="with an image's number, decides that image")
    parser.add_argument("--output_dir", type=Path, default=Path("generated"), metavar="FOLDER",
                        help="for NUMBER.png, grid.png and run.json")
    parser.add_argument("--overwrite", action="store_true", help="replace images that are there")
    add_device_options(parser)
    return parser.parse_args(argv)


def student_of(loaded) -> tuple:
    """A student as a denoiser, and its path. Raises InputError for a checkpoint that is not a student's."""
    from distill.few_steps import times_of_places
    from distill.student import StudentDenoiser, path_of
    if not loaded.few_steps:
        raise InputError(f"--checkpoint: {loaded.path} names no few steps, expected a student made by distill.train; "
                         "generate from it with its family's own command")
    processes = loaded.denoiser.processes
    times = [times_of_places(process) for process in processes]
    return StudentDenoiser(loaded.denoiser, loaded.few_steps, times), path_of(loaded.few_steps, times, processes)


def form_of(loaded) -> dict:
    """What a student's teacher has in common with it, in words."""
    from networks.bands import BandDenoiser
    denoiser = loaded.denoiser
    return {"images or latents of": " and ".join("x".join(map(str, shape)) for shape in denoiser.shapes),
            "scales as": "bands" if isinstance(denoiser, BandDenoiser) else "sizes",
            "noise by": " and ".join(type(process).__name__ for process in denoiser.processes),
            "classes:": denoiser.num_classes or "none"}


def guided_teacher(args, device, student):
    """The denoiser of --teacher, guided by --guidance_scale, and from a student's path to its own beside it; two None
    without. student: the `families.Loaded` that it is shown beside. Raises InputError where it cannot be."""
    if args.teacher is None:
        if args.guidance_scale != 1:
            raise InputError(f"--guidance_scale: found {args.guidance_scale:g}, which has no effect without --teacher; "
                             "leave it out")
        return None, None
    import families
    from engine.denoiser import Guided, check_guidance
    loaded = families.load(args.teacher, args.weights, device, "--teacher", args.vae)
    for (what, found), expected in zip(form_of(loaded).items(), form_of(student).values()):
        if found != expected:
            raise InputError(f"--teacher: {args.teacher} has {what} {found}, expected {expected} as {student.path} "
                             "has; give the student's own teacher")
    check_guidance(args.guidance_scale, loaded.is_guidable, args.teacher)
    return Guided(loaded.denoiser, args.guidance_scale), loaded.path_beside


def main():
    args = parse_args()
    device = start_device(args)
    with filled_whole(args.output_dir, args.overwrite) as made:
        num_model_calls, images_per_second = make_images(args, made, device)
    print(f"{args.num_images} images in {args.output_dir}: {num_model_calls} model calls per image, "
          f"{images_per_second:.2f} images/s")


def make_images(args, made: Path, device) -> tuple[int, float]:
    """Images, grid and record into the folder `made`: network calls per image, and images per second.

    Raises InputError for checkpoints of another kind, and for an image with infinite or undefined pixels.
    """
    import torch
    from PIL import Image
    import families
    loaded = families.load(args.checkpoint, args.weights, device, vae=args.vae)
    student, path = student_of(loaded)
    teacher, beside = guided_teacher(args, device, loaded)
    draw = loaded.drawing(student, path, device, "renoise", precision=args.precision)
    of_teacher = teacher and loaded.drawing(teacher, beside(path), device, precision=args.precision)
    start, rows = time.perf_counter(), []
    for first in range(0, args.num_images, args.batch_size):
        indices = list(range(first, min(first + args.batch_size, args.num_images)))
        images, num_broken, num_model_calls = draw(args.seed, indices)
        if num_broken:
            raise InputError(f"{args.checkpoint}: an image of {first}...{indices[-1]} is not finite; use an earlier "
                             "checkpoint or --precision float32")
        for index, image in zip(indices, images.permute(0, 2, 3, 1).cpu().numpy()):
            save_png(made / f"{index:05d}.png", Image.fromarray(image.squeeze()))
        shown = indices[:max(0, 2 * GRID_COLUMNS - first)]
        if shown:
            rows.append(images[:len(shown)])
            if teacher is not None:
                rows.append(of_teacher(args.seed, shown)[0])
    in_grid = torch.cat(rows)
    save_png(made / "grid.png", image_grid(in_grid, min(GRID_COLUMNS, len(in_grid))))
    images_per_second = args.num_images / (time.perf_counter() - start)
    write_run_record(made / "run.json", args, device, num_model_calls=num_model_calls,
                     timesteps=path.tolist(), checkpoint_hash=loaded.fingerprint, images_per_second=images_per_second)
    return num_model_calls, images_per_second


if __name__ == "__main__":
    run_script(main)
