#!/usr/bin/env python3
"""Generate images of a flow checkpoint: numbered PNG files, and a grid with a row for each class.

Image k is of class k modulo the number of classes, unless --labels names others. It depends on --seed and k alone: not
on --batch_size, nor on the number of processes (torchrun).
"""
import contextlib
import sys
import time
from pathlib import Path

from engine.command_line import (Parser, add_device_options, run_script, seed_number, start_device, whole_number,
                                 write_run_record)
from engine.errors import InputError
from engine.files import check_can_be_written, refuse_existing, save_png, scratch_folder, written_together
from engine.image_folder import publish, refuse_images
from flow.options import WEIGHTS, add_sampling_options, interval_in_log_snr, refuse_older_names

GRID_COLUMNS = 8                            # images of each class in the grid
GRID_ROWS = 20                              # classes in the grid, at most


def parse_args(argv=None):
    """The command line. Raises InputError for an option of the earlier implementation."""
    refuse_older_names(sys.argv[1:] if argv is None else argv)
    parser = Parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="written by python -m flow.train")
    group.add_argument("--weights", choices=WEIGHTS, default="ema", help="averaged or raw weights")
    group.add_argument("--vae", default=None, metavar="FOLDER_OR_NAME",
                       help="the autoencoder of a model of latents; left out: the one it was trained with")
    add_sampling_options(parser)
    group = parser.add_argument_group("images")
    group.add_argument("--seed", type=seed_number, default=42, help="with an image's number, decides that image")
    group.add_argument("--num_images", type=whole_number(1, 10**9), default=64, metavar="IMAGES", help="how many")
    group.add_argument("--labels", nargs="+", default=None, metavar="CLASS",
                       help="classes to take turns, by number or name; left out: all")
    group.add_argument("--batch_size", type=whole_number(1), default=64, metavar="IMAGES",
                       help="images generated at once; does not change them")
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, default=None, metavar="FOLDER",
                       help="for the PNG files; left out: generated/CHECKPOINT_SOLVER_STEPSsteps_seedSEED")
    group.add_argument("--grid_png", type=Path, default=None, metavar="FILE",
                       help="grid with a row per class; left out: results/samples_….png of the same name")
    group.add_argument("--overwrite", action="store_true", help="replace images that are there")
    add_device_options(parser)
    return parser.parse_args(argv)


def chosen_classes(labels, num_classes: int, names) -> list[int]:
    """Numbers of the classes that --labels names; all where it is left out. Raises InputError for an unknown one."""
    if labels is None:
        return list(range(num_classes))
    names = list(names or [])
    chosen = []
    for label in labels:
        number = names.index(label) if label in names else int(label) if label.isdecimal() else -1
        if not 0 <= number < num_classes:
            known = f" ({', '.join(names[:20])})" if names else ""
            raise InputError(f"--labels: found {label}, expected a class from 0 to {num_classes - 1}{known}")
        chosen.append(number)
    return chosen


def find_path(args, denoiser, classes, device):
    """The times of the steps that --grid names: float64 [num_steps + 1]."""
    from flow.grids import optimised_grid, shifted_grid
    from scheduler import LinearFlow
    if args.grid == "shift":
        return shifted_grid(args.num_steps, args.shift)
    if args.grid == "uniform":
        return LinearFlow().uniform_path(args.num_steps)
    labels = labels_of(range(32), classes, device)
    return optimised_grid(denoiser, args.num_steps, args.solver, args.seed, labels=labels, precision=args.precision,
                          device=device)


def labels_of(indices, classes, device):
    """The classes take turns: image k has number k modulo their count. int64 [B]."""
    import torch
    from flow.model import class_labels
    return torch.tensor(classes, device=device)[class_labels(indices, len(classes), device)]


def encoder_of(args, loaded, device):
    """The autoencoder that the model's latents belong to, None for a model of pixels. Raises InputError."""
    from flow.latents import Latents
    trained_with = loaded.options.get("vae")
    if trained_with is None:
        if args.vae is not None:
            raise InputError(f"--vae: found {args.vae}, but {args.checkpoint} is a model of pixels; leave it out")
        return None
    latents = Latents(args.vae or trained_with, device)
    if latents.fingerprint != loaded.vae_fingerprint:
        raise InputError(f"--vae: {args.vae or trained_with}: its weights are not those that {args.checkpoint} was "
                         "trained with; give the folder of that autoencoder")
    return latents


def grid_image(images, num_rows: int):
    """uint8 [rows * columns, 3, S, S], row by row, as one picture with a white margin of two pixels."""
    import numpy as np
    import torch.nn.functional as F
    from PIL import Image
    padded = F.pad(images.cpu(), (1, 1, 1, 1), value=255).unflatten(0, (num_rows, -1))    # [rows, columns, 3, S+2, S+2]
    picture = padded.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)                   # [height, width, 3]
    return Image.fromarray(np.pad(picture.numpy(), ((1, 1), (1, 1), (0, 0)), constant_values=255))


class Generator:
    """A loaded model, guided, with its path: image numbers to uint8 images."""

    def __init__(self, args, loaded, latents, device):
        from engine.denoiser import Guided
        from scheduler import LinearFlow
        self.args, self.latents, self.device = args, latents, device
        self.classes = chosen_classes(args.labels, loaded.network.num_classes, loaded.label_names)
        interval = interval_in_log_snr(args.guidance_interval, LinearFlow())
        self.denoiser = Guided(loaded.denoiser, args.guidance_scale, interval)
        self.path = find_path(args, self.denoiser, self.classes, device)
        self.num_model_calls = 0

    def __call__(self, indices):
        """uint8 [B, 3, S, S] of these image numbers. Raises InputError if one is not finite."""
        from engine.sampling import sample, to_uint8
        samples = sample(self.denoiser, self.path, self.args.seed, indices, solver=self.args.solver, clip=False,
                         labels=labels_of(indices, self.classes, self.device), precision=self.args.precision,
                         device=self.device)
        self.num_model_calls = samples.num_model_calls
        x = samples.xs[0] if self.latents is None else self.latents.decode(samples.xs[0])
        if not x.isfinite().all():
            raise InputError(f"{self.args.checkpoint}: a generated image is not finite; use an earlier checkpoint or "
                             "--precision float32")
        return to_uint8(x)


def main():
    args = parse_args()
    from engine import distributed
    from flow.grids import check_grid
    from flow.model import check_guidance, load_checkpoint
    from scheduler import LinearFlow
    args.device = distributed.local_gpu(args.device)
    check_grid(args.grid, args.shift, args.solver)
    interval_in_log_snr(args.guidance_interval, LinearFlow())
    device = start_device(args)
    loaded = load_checkpoint(args.checkpoint, args.weights, device)
    check_guidance(args.guidance_scale, loaded.options.get("label_dropout", 0.1), str(args.checkpoint))
    label = f"{args.checkpoint.stem}_{args.solver}_{args.num_steps}steps_seed{args.seed}"
    args.output_dir = args.output_dir or Path("generated") / label
    args.grid_png = args.grid_png or Path("results") / f"samples_{label}.png"
    if args.output_dir.name in ("", ".."):
        raise InputError(f"--output_dir: found {args.output_dir}, expected a folder with a name of its own")
    for beside in (args.grid_png, args.grid_png.with_suffix(".json")):
        refuse_existing(beside, args.overwrite)
    refuse_images(args.output_dir, args.overwrite)
    check_can_be_written(args.output_dir / "run.json")
    generator = Generator(args, loaded, encoder_of(args, loaded, device), device)

    group = distributed.join(device)
    made = args.output_dir.with_name(f".{args.output_dir.name}.tmp")        # until all images are there
    with scratch_folder(made, f"--output_dir: another process is generating into {args.output_dir}; wait for it, or "
                        "choose another folder") if group.is_main else contextlib.nullcontext():
        group.wait()                            # the others write into the folder once it is there
        make_images(args, generator, loaded, group, made, device)
    distributed.leave()


def make_images(args, generator: Generator, loaded, group, made: Path, device) -> None:
    """Generate into the folder `made`, then move the images to --output_dir and write grid and records."""
    import torch
    from PIL import Image
    from tqdm import tqdm
    start = time.perf_counter()
    mine = range(group.rank, args.num_images, group.size)
    for first in tqdm(range(0, len(mine), args.batch_size), desc="generating", unit="batch",
                      disable=not group.is_main):
        indices = list(mine[first:first + args.batch_size])
        for index, image in zip(indices, generator(indices).permute(0, 2, 3, 1).cpu().numpy()):
            save_png(made / f"{index:05d}.png", Image.fromarray(image))
    group.wait()
    if not group.is_main:
        return
    seconds = time.perf_counter() - start
    results = {"num_model_calls": generator.num_model_calls, "images_per_second": args.num_images / seconds,
               "times": generator.path.tolist(), "classes": generator.classes, "checkpoint_hash": loaded.fingerprint}
    write_run_record(made / "run.json", args, device, **results)
    rows, count = min(len(generator.classes), GRID_ROWS), len(generator.classes)
    pictures = torch.cat([generator([column * count + row for column in range(GRID_COLUMNS)]) for row in range(rows)])
    with written_together(args.overwrite):
        save_png(args.grid_png, grid_image(pictures, rows))
        write_run_record(args.grid_png.with_suffix(".json"), args, device, **results)
        publish(made, args.output_dir, args.overwrite)      # once the grid is sure to be there too
    print(f"{args.num_images} images in {args.output_dir}, grid in {args.grid_png}: {generator.num_model_calls} "
          f"network calls per image, {args.num_images / seconds:.2f} images/s")


if __name__ == "__main__":
    run_script(main)
