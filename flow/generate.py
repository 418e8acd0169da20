#!/usr/bin/env python3
"""Generate images of a flow checkpoint: numbered PNG files, and a grid with a row for each class.

Image k is of class k modulo the number of classes, unless --labels names others. It depends on --seed and k alone: not
on --batch_size, nor on the number of processes (torchrun).
"""
import sys
import time
from pathlib import Path

from engine.command_line import Parser, add_device_options, run_script, seed_number, start_device, whole_number
from engine.errors import InputError
from engine.files import save_png
from engine.image_folder import choose_outputs, image_grid, publish_with_grid, shared_scratch
from engine.options import WEIGHTS
from flow.options import add_sampling_options, refuse_older_names

GRID_COLUMNS = 8                            # images of each class in the grid
GRID_ROWS = 20                              # classes in the grid, at most


def parse_args(argv=None):
    """The command line. Raises InputError for an option of the earlier implementation."""
    refuse_older_names(sys.argv[1:] if argv is None else argv, load_dir="checkpoint")
    parser = Parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", type=Path, required=True, metavar="FILE",
                       help="written by python -m flow.train, or published weights of DiT or SiT")
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


def main():
    args = parse_args()
    from engine import distributed
    from flow.drawing import check_sampling, drawing_of
    from flow.model import load_checkpoint
    args.device = distributed.local_gpu(args.device)
    check_sampling(args)
    device = start_device(args)
    loaded = load_checkpoint(args.checkpoint, args.weights, device)
    choose_outputs(args, f"{args.checkpoint.stem}_{args.solver}_{args.num_steps}steps_seed{args.seed}")
    draw = drawing_of(loaded, args, device)

    group = distributed.join(device)
    with shared_scratch(args, group) as made:
        make_images(args, draw, loaded, group, made, device)
    distributed.leave()


def images_of(args, draw, indices):
    """uint8 [B, C, S, S] of these image numbers, and network calls per image. Raises InputError if one is not
    finite."""
    images, num_broken, num_model_calls = draw(args.seed, indices)
    if num_broken:
        raise InputError(f"{args.checkpoint}: {int(num_broken)} of {len(images)} generated images are not finite; use "
                         "an earlier checkpoint or --precision float32")
    return images, num_model_calls


def make_images(args, draw, loaded, group, made: Path, device) -> None:
    """Generate into the folder `made`, then publish images, grid and records. draw: the model's
    `engine.drawing.Drawing`.
    """
    import torch
    from PIL import Image
    from engine.drawing import in_batches
    start = time.perf_counter()
    for indices, (images, num_model_calls) in in_batches(lambda part: images_of(args, draw, part), args.num_images,
                                                         args.batch_size, group, "generating"):
        for index, image in zip(indices, images.permute(0, 2, 3, 1).cpu().numpy()):
            save_png(made / f"{index:05d}.png", Image.fromarray(image.squeeze()))
    group.wait()
    if not group.is_main:
        return
    seconds = time.perf_counter() - start
    count = len(draw.classes)
    rows = [images_of(args, draw, [column * count + row for column in range(GRID_COLUMNS)])[0]
            for row in range(min(count, GRID_ROWS))]
    publish_with_grid(args, made, image_grid(torch.cat(rows), GRID_COLUMNS), device, num_model_calls, seconds,
                      times=draw.path.tolist(), classes=list(draw.classes), checkpoint_hash=loaded.fingerprint)


if __name__ == "__main__":
    run_script(main)
