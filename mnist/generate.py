#!/usr/bin/env python3
"""Generate digits from any denoiser checkpoint of this family: a grid, and per image a folder with its denoising strip."""
from pathlib import Path

import torch

from engine.command_line import (Parser, add_device_options, real_number, refuse_without_effect, run_script, seed_number,
                                 start_device, whole_number, write_run_record)
from engine.errors import InputError
from engine.files import refuse_existing, save_png
from engine.sampling import check_solver
from mnist.grids import grid
from mnist.models import load_model
from scheduler import CosineSteps

SOLVERS = {"euler": "ddim", "midpoint": "midpoint", "heun": "heun", "multistep": "multistep"}
STRIP_POINTS = 11                       # start, every tenth of the way, end


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a checkpoint of a train_... verb but train_vae")
    parser.add_argument("--vae_checkpoint", default=None, metavar="FILE", help="its VAE, if that has moved")
    parser.add_argument("--mode", choices=("ddpm", "ddim"), default="ddim", help="of a diffusion model: ddpm 1000 steps")
    parser.add_argument("--sampler", choices=tuple(SOLVERS), default="euler",
                        help="euler: one call a step, of a diffusion model DDIM; multistep: one call; midpoint, heun: two")
    parser.add_argument("--sampling_steps", type=whole_number(1, 1000), default=50, metavar="STEPS")
    parser.add_argument("--eta", type=real_number(0, 1), default=0.0, help="noise of DDIM: 0 none, 1 as DDPM")
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
    args = parser.parse_args(argv)
    if args.mode == "ddpm":
        refuse_without_effect(parser, args, ["sampler", "sampling_steps", "eta"], "with --mode ddpm")
    check_solver(SOLVERS[args.sampler], args.eta)
    return args


def labels_for(args, model) -> torch.Tensor | None:
    """The class of every image asked for. Raises InputError for a class that the model does not know."""
    num_classes = model.denoiser.num_classes
    if num_classes is None:
        if args.class_label is not None or args.guidance_scale != 1:
            option = "--class_label" if args.class_label is not None else "--guidance_scale"
            raise InputError(f"{option}: {args.checkpoint} is a model without classes; train one with --conditioning, or "
                             "leave the option out")
        return None
    if args.class_label is None:
        return torch.arange(args.num_samples) % num_classes
    if args.class_label >= num_classes:
        raise InputError(f"--class_label: found {args.class_label}, expected 0...{num_classes - 1}")
    return torch.full((args.num_samples,), args.class_label)


def save_picture(args, name: str, picture) -> None:
    """As PNG, and as PDF if asked for."""
    save_png(args.output_dir / f"{name}.png", picture)
    if args.pdf:
        picture.save(args.output_dir / f"{name}.pdf")


def main():
    args = parse_args()
    refuse_existing(args.output_dir / "grid.png", args.overwrite)
    device = start_device(args)
    model = load_model(args.checkpoint, device, args.vae_checkpoint)
    labels = labels_for(args, model)
    if args.guidance_scale not in (0, 1) and labels is not None and not model.dropped_labels:
        raise InputError(f"--guidance_scale: {args.checkpoint} was trained with --label_dropout 0, so that it knows no "
                         "prediction without a class; expected 1")
    is_diffusion = isinstance(model.denoiser.processes[0], CosineSteps)
    if args.mode == "ddpm" and not is_diffusion:
        raise InputError(f"--mode: found ddpm, but {args.checkpoint} is a flow; leave the option out")
    path = model.path(args.sampling_steps, args.mode)
    how = {"solver": SOLVERS[args.sampler], "eta": 1.0 if args.mode == "ddpm" else args.eta, "precision": args.precision}
    images = model.images(path, args.seed, range(args.num_samples), labels, args.guidance_scale, **how)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    save_picture(args, "grid", grid(images, args.nrow))
    count = min(args.strips, args.num_samples)
    if count:
        shown = set(torch.linspace(0, len(path) - 1, STRIP_POINTS).round().long().tolist())
        points = []
        model.images(path, args.seed, range(count), None if labels is None else labels[:count], args.guidance_scale,
                     on_step=lambda k, times, xs: points.append(model.decode(xs[0]).cpu()) if k in shown else None, **how)
        for k in range(count):
            folder = f"sample_{k:04d}"
            (args.output_dir / folder / "steps").mkdir(parents=True, exist_ok=True)
            strip = torch.stack([point[k] for point in points])
            save_picture(args, f"{folder}/image", grid(images[k:k + 1], 1))
            save_picture(args, f"{folder}/strip", grid(strip, len(strip)))
            for place, step in enumerate(sorted(shown)):
                save_picture(args, f"{folder}/steps/{step:04d}", grid(strip[place:place + 1], 1))
    write_run_record(args.output_dir / "run.json", args, device, num_steps=len(path) - 1)
    print(f"{args.num_samples} images, {len(path) - 1} steps: {args.output_dir / 'grid.png'}")


if __name__ == "__main__":
    run_script(main)
