#!/usr/bin/env python3
"""Generate digits from any model of this family: a grid, and per image a folder with its denoising strip.

A VAE decodes standard normal latents.
"""
from pathlib import Path

from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import load_torch, save_png
from engine.image_folder import filled_whole
from mnist.options import add_sampling_options, class_labels, sampling_of


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    add_sampling_options(parser)
    parser.add_argument("--class_label", type=whole_number(0), default=None, help="left out: all classes in turn")
    parser.add_argument("--guidance_scale", type=real_number(0, 100), default=1.0, metavar="W",
                        help="0: no class, 1: the class, above: guided")
    parser.add_argument("--num_samples", type=whole_number(1), default=40)
    parser.add_argument("--nrow", type=whole_number(1), default=10, help="images in a row of the grid")
    parser.add_argument("--strips", type=whole_number(0), default=4, help="samples that get a folder of their own")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--pdf", action="store_true", help="every picture as PDF too")
    parser.add_argument("--output_dir", type=Path, default=Path("results/mnist_samples"))
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output_dir")
    add_device_options(parser)
    return parser.parse_args(argv)


def save_picture(path: Path, picture, pdf: bool) -> None:
    """As PNG, and as PDF if asked for. path: without ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path.with_name(f"{path.name}.png"), picture)
    if pdf:
        picture.save(path.with_name(f"{path.name}.pdf"))


def save_samples(args, made: Path, images, shown, strips) -> None:
    """The grid, and of the first samples a folder each, into `made`. strips: uint8 [points, samples, C, S, S]."""
    from evaluation.small_images import grid
    save_picture(made / "grid", grid(images, args.nrow), args.pdf)
    for k in range(strips.shape[1]):
        folder = made / f"sample_{k:04d}"
        save_picture(folder / "image", grid(images[k:k + 1], 1), args.pdf)
        save_picture(folder / "strip", grid(strips[:, k], len(strips)), args.pdf)
        for step, image in zip(shown, strips[:, k]):
            save_picture(folder / f"steps/{step:04d}", grid(image[None], 1), args.pdf)


def make_samples(args, made: Path, device) -> int:
    """Grid, folders of samples and record into the folder `made`: the number of steps. Raises InputError."""
    from mnist.models import decoded_noise, kind_of, load_model
    count = min(args.strips, args.num_samples)
    if kind_of(load_torch(args.checkpoint, "checkpoint")) == "vae":
        if args.class_label is not None or args.guidance_scale != 1:
            raise InputError(f"--checkpoint: {args.checkpoint} is a VAE, which knows no class; leave --class_label and "
                             "--guidance_scale out")
        images = decoded_noise(args.checkpoint, args.seed, range(args.num_samples), device)
        num_steps, shown, strips = 1, [1], images[None, :count]
    else:
        model = load_model(args.checkpoint, device, args.vae_checkpoint)
        labels = class_labels(args, model, args.num_samples, args.guidance_scale, args.class_label)
        path, how = sampling_of(args, model)
        how["precision"], num_steps = args.precision, len(path) - 1
        images = model.images(path, args.seed, range(args.num_samples), labels, args.guidance_scale, **how)
        shown, strips = model.strip(path, args.seed, range(count), None if labels is None else labels[:count],
                                    args.guidance_scale, **how) if count else ([], images[None, :0])
    save_samples(args, made, images, shown, strips)
    write_run_record(made / "run.json", args, device, num_steps=num_steps)
    return num_steps


def main():
    args = parse_args()
    device = start_device(args)
    with filled_whole(args.output_dir, args.overwrite) as made:
        num_steps = make_samples(args, made, device)
    print(f"{args.num_samples} images, {num_steps} steps: {args.output_dir / 'grid.png'}")


if __name__ == "__main__":
    run_script(main)
