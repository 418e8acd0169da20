#!/usr/bin/env python3
"""Optimise the baseline's own schedule: step-doubling costs of its edges, and the cheapest path of exactly N steps.

A fair opponent of an optimised path has an optimised schedule too. The file goes where the baseline's `--path dp`
looks for it.
"""
from pathlib import Path

from engine.command_line import (Parser, add_device_options, run_script, seed_number, start_device, whole_number,
                                 write_run_record)
from data import add_data_options, columns_in, load_images
from engine.files import refuse_existing, save_torch, written_together
from engine.options import WEIGHTS


def parse_args(argv=None):
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a baseline checkpoint")
    parser.add_argument("--weights", choices=WEIGHTS, default="ema", help="which of its weights")
    add_data_options(parser, columns=True)
    parser.add_argument("--split", default="train", help="images that costs are measured on")
    parser.add_argument("--edge_images", type=whole_number(1), default=32, metavar="IMAGES", help="how many of them")
    parser.add_argument("--grid", type=whole_number(2, 1000), default=30, metavar="POINTS", help="points of the grid")
    parser.add_argument("--num_steps", type=whole_number(1), default=18, metavar="STEPS", help="steps to be served")
    parser.add_argument("--max_jump", type=whole_number(1, 99), default=5, metavar="CELLS", help="longest step")
    parser.add_argument("--seed", type=seed_number, default=42, help="of the noise")
    parser.add_argument("--output_dir", type=Path, default=Path("results"), metavar="FOLDER", help="where it goes")
    parser.add_argument("--overwrite", action="store_true", help="replace a schedule that exists")
    add_device_options(parser, precision="float32")      # differences between costs are small
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    import torch
    from lift import checkpoints, heatmap_file, path_costs, paths
    from lift.generation import name_of
    timesteps = paths.timestep_grid(args.grid)
    device = start_device(args)
    loaded = checkpoints.load_model(args.checkpoint, "baseline", args.weights, device)
    output = heatmap_file.heatmap_path(args.output_dir, args.grid, name_of(args.checkpoint), loaded.epochs,
                                       args.weights)
    refuse_existing(output, args.overwrite)
    image_set = load_images(args.dataset, args.split, args.cache_dir, **columns_in(vars(args)))
    costs = path_costs.step_doubling_edge_costs(
        loaded.model, image_set.images, timesteps, num_steps=args.num_steps, max_jump=args.max_jump,
        max_images=args.edge_images, seed=args.seed, precision=args.precision, progress=True)
    path = paths.schedule_path(costs, timesteps, args.num_steps)

    options = {"grid": args.grid, "num_steps": args.num_steps, "max_jump": args.max_jump, "seed": args.seed,
               "edge_images": args.edge_images, "precision": args.precision}
    heatmap = {"timesteps": torch.from_numpy(timesteps),
               "edge_costs": {"step_doubling": torch.from_numpy(costs)}, "options": options}
    with written_together(args.overwrite):
        save_torch(output, heatmap_file.keep_lead(heatmap_file.add_origin(heatmap, loaded, image_set), output))
        write_run_record(output.with_suffix(".json"), args, device, content_hash=image_set.content_hash,
                         checkpoint_fingerprint=loaded.fingerprint, schedule=path[:, 0].tolist())
    print(f"{args.num_steps} steps: {' '.join(map(str, path[:, 0]))}")
    print(f"wrote {output}, {output.with_suffix('.json')}")


if __name__ == "__main__":
    run_script(main)
