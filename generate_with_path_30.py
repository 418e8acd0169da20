#!/usr/bin/env python3
"""Generate images along a path and write them as PNG files, and a sample grid of the first of them.

Image k depends on --seed and k alone: not on --batch_size, nor on the number of processes (torchrun).
"""
import functools
import time
from pathlib import Path

from engine.command_line import (Parser, add_device_options, refuse_without_effect, run_script, seed_number,
                                 start_device, whole_number)
from engine.files import save_png
from engine.image_folder import choose_outputs, publish_with_grid, shared_scratch
from lift.options import DEFAULT_PATHS, PATH_NAMES, add_checkpoint_option, add_generation_options, refuse_unguided


def parse_options():
    parser = Parser(__doc__)
    group = parser.add_argument_group("model")
    add_checkpoint_option(group, "of LIFT or of the baseline")
    add_generation_options(parser)
    parser.add_argument("--path", default=None, metavar="PATH",
                        choices=sorted({name for names in PATH_NAMES.values() for name in names}),
                        help=f"LIFT: {', '.join(PATH_NAMES['lift'])}; baseline: uniform, dp, lead; left "
                             "out: diagonal or uniform")
    parser.add_argument("--seed", type=seed_number, default=42, help="with an image's number, decides that image")
    parser.add_argument("--num_images", type=whole_number(1, 10**9), default=64, metavar="IMAGES", help="how many")
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, default=None, metavar="FOLDER",
                       help="for the PNG files; left out: generated/CHECKPOINT_PATH_STEPSsteps_seedSEED")
    group.add_argument("--grid_png", type=Path, default=None, metavar="FILE",
                       help="sample grid; left out: results/samples_CHECKPOINT_PATH_STEPSsteps_seedSEED.png")
    group.add_argument("--grid_images", type=whole_number(1), default=64, metavar="IMAGES", help="images in the grid")
    group.add_argument("--overwrite", action="store_true", help="replace images that are there")
    add_device_options(parser)
    args = parser.parse_args()
    refuse_unguided(functools.partial(refuse_without_effect, parser, args), args)
    return args


def main():
    args = parse_options()
    from engine import distributed
    from lift import checkpoints, generation
    args.device = distributed.local_gpu(args.device)
    device = start_device(args)
    loaded = checkpoints.load_model(args.checkpoint, None, args.weights, device)
    args.path = args.path or DEFAULT_PATHS[loaded.model_type][0]
    generation.check_generation(args, loaded)
    guide = generation.load_guide(loaded, args, device)
    path = generation.find_path(loaded, args.path, args)
    choose_outputs(args, f"{args.checkpoint.stem}_{args.path}_{args.num_steps}steps_seed{args.seed}")

    group = distributed.join(device)
    with shared_scratch(args, group) as made:
        make_images(args, loaded, guide, path, group, made, device)
    distributed.leave()


def make_images(args, loaded, guide, path, group, made: Path, device) -> None:
    """Generate into the folder `made`, then move the images to --output_dir and write grid and records."""
    import torch
    from PIL import Image
    from torchvision.utils import make_grid
    from engine import distributed
    from lift import generation
    if group.is_main:
        print(f"{loaded.path.name} ({loaded.model_type}, {loaded.weights}), path {args.path}: "
              + " ".join(f"({t_64},{t_32})" for t_64, t_32 in path.tolist()), flush=True)

    start, num_broken, num_model_calls = time.perf_counter(), 0, len(path) - 1
    kept, kept_indices = [torch.empty(0, 3, 64, 64, dtype=torch.uint8, device=device)], []
    for indices, images, broken, num_model_calls in generation.generate_uint8(
            generation.network_of(loaded, args), path, args.seed, args.num_images, args, group, "generating",
            guide and generation.network_of(guide, args)):
        num_broken = num_broken + broken
        for index, image in zip(indices, images.permute(0, 2, 3, 1).cpu().numpy()):
            save_png(made / f"{index:05d}.png", Image.fromarray(image))
        in_grid = sum(index < args.grid_images for index in indices)
        kept.append(images[:in_grid])
        kept_indices += indices[:in_grid]
    seconds = time.perf_counter() - start

    num_broken = int(group.sum(torch.as_tensor(num_broken, device=device)))
    in_grid = distributed.gather(torch.cat(kept), kept_indices, min(args.grid_images, args.num_images), group)
    group.wait()
    if group.is_main:
        generation.check_finite(num_broken, args.num_images, f"{loaded.path}, path {args.path}")
        grid = make_grid(in_grid, nrow=8, padding=2, pad_value=255)
        publish_with_grid(args, made, Image.fromarray(grid.permute(1, 2, 0).cpu().numpy()), device, num_model_calls,
                          seconds, timesteps=path.tolist(), path_hash=generation.path_hash(path),
                          checkpoint_hash=loaded.fingerprint, solver_name=generation.solver_name(args, guide))


if __name__ == "__main__":
    run_script(main)
