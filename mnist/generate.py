#!/usr/bin/env python3
"""Generate digits from any model of this family: a grid, and per image a folder with its denoising strip.

A VAE decodes standard normal latents.
"""
from pathlib import Path

from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import load_torch
from engine.image_folder import ENLARGED, filled_whole, save_samples
from mnist.options import HOW, add_sampling_options, drawing_of, refuse_sampling


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


def make_samples(args, made: Path, device) -> int:
    """Grid, folders of samples and record into the folder `made`: the number of steps. Raises InputError."""
    from mnist.models import decoded_noise, kind_of, load_model
    count = min(args.strips, args.num_samples)
    if kind_of(load_torch(args.checkpoint, "checkpoint")) == "vae":
        if args.class_label is not None or args.guidance_scale != 1:
            raise InputError(f"--checkpoint: {args.checkpoint} is a VAE, which knows no class; leave --class_label and "
                             "--guidance_scale out")
        refuse_sampling(args, ("vae_checkpoint", *HOW), "on a VAE")
        images = decoded_noise(args.checkpoint, args.seed, range(args.num_samples), device)
        num_steps, shown, strips = 1, [1], images[None, :count]
    else:
        model = load_model(args.checkpoint, device, args.vae_checkpoint)
        draw = drawing_of(args, model, args.guidance_scale, args.class_label)
        images, num_steps = draw.images(args.seed, range(args.num_samples)), len(draw.path) - 1
        shown, strips = draw.strip(args.seed, range(count)) if count else ([], images[None, :0])
    save_samples(made, images, args.nrow, shown, strips, ENLARGED, args.pdf)
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
