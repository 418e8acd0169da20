"""Estimate the error map of LIFT, or of a flow of two scales, over (t_64, t_32), find its paths, and draw both."""
from pathlib import Path

from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from data import add_data_options, columns_in, load_images
from engine.errors import InputError
from engine.files import refuse_existing, save_png, save_torch, written_together
from engine.options import WEIGHTS
from lift.options import (CHAIN_RULES, GRID_SPACES, NORMALIZATIONS, PREDICTIONS, add_checkpoint_option,
                          add_path_options)

EDGE_COSTS = ("directional", "step_doubling", "step_doubling_diagonal")


def parse_args(argv=None):
    """The command line. Raises InputError for a number of steps that the grid does not allow."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("model")
    add_checkpoint_option(group, "of LIFT, or of a flow trained with --scales 64 32")
    group.add_argument("--weights", choices=WEIGHTS, default="ema", help="which of its weights")
    add_data_options(parser, columns=True)
    parser.add_argument("--split", default="train", help="part of the data set, perhaps sliced: train[:500]")
    group = parser.add_argument_group("error map")
    group.add_argument("--grid", type=whole_number(2, 1000), default=30, metavar="POINTS",
                       help="points per axis: 15, 30, 100")
    group.add_argument("--grid_space", choices=GRID_SPACES, default="timestep",
                       help="evenly spaced timesteps 999...0, or evenly spaced log SNR from SNR 0.01 to 100 (paths "
                            "then start at 999 and end at 0 in place of the grid's ends)")
    group.add_argument("--K", type=whole_number(1), default=4, metavar="PROBES", help="probes per image and scale")
    group.add_argument("--batch_size", type=whole_number(2), default=16, metavar="IMAGES", help="images per round")
    group.add_argument("--target_error", type=real_number(0), default=0.02, metavar="SHARE",
                       help="further rounds for a cell until its relative standard error is this; 0: one round")
    group.add_argument("--max_images", type=whole_number(2), default=64, metavar="IMAGES",
                       help="most images for a cell, with --target_error")
    group.add_argument("--chain_rule", choices=CHAIN_RULES, default="localization",
                       help="factor by SNR: 1/(SNR(1+SNR)), 1, SNR/(4(1+SNR)^2) or 1/(4(1+SNR)^2)")
    group.add_argument("--normalization", choices=NORMALIZATIONS, default="per_pixel",
                       help="per_pixel: an identity Jacobian scores 3 at both scales; both_sides: weighted by the "
                            "number of pixels once more, as the earlier implementation does")
    group.add_argument("--prediction", choices=PREDICTIONS, default="eps",
                       help="whose Jacobian DP-64 and DP-Total read; both are kept")
    group.add_argument("--edge_costs", nargs="*", action="each_once", choices=EDGE_COSTS, default=[], metavar="COST",
                       help=f"also measure edge costs for other paths, of {', '.join(EDGE_COSTS)}")
    group.add_argument("--edge_images", type=whole_number(1), default=4, metavar="IMAGES",
                       help="images that edge costs over the plane are measured on")
    group.add_argument("--diagonal_edge_images", type=whole_number(1), default=32, metavar="IMAGES",
                       help="the same for edge costs on the diagonal alone, which are two hundred times cheaper")
    group.add_argument("--max_lead", type=real_number(0), default=None, metavar="LOG_SNR",
                       help="measure edge costs only between cells whose scales are at most this far apart in log SNR; "
                            "left out: all that a path can use")
    group.add_argument("--seed", type=seed_number, default=42, help="of images, noise and probes")
    add_path_options(parser)
    parser.add_argument("--output_dir", type=Path, default=Path("results"), metavar="FOLDER", help="where outputs go")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_device_options(parser)
    args = parser.parse_args(argv)
    from lift import dynamic_program
    dynamic_program.check_num_steps(args.num_steps, (args.grid - 1,) * 2, (args.max_jump,) * 2)
    return args


def choose_precision(args, was_auto: bool, loaded, images, timesteps) -> dict:
    """Keep bf16 only where rounding changes the map by well under the standard error aimed at; says what it did."""
    from lift import error_map
    if args.precision != "bf16":
        return {}
    bias = error_map.precision_bias(loaded.model, images, timesteps, prediction=args.prediction, seed=args.seed)
    allowed = (args.target_error or 0.02) / 2
    verdict = "kept"
    if bias > allowed and was_auto:
        args.precision, verdict = "float32", "float32 is used"
    elif bias > allowed:
        verdict = "kept as asked, although that is more than half the error aimed at"
    print(f"bf16 changes the map by up to {bias:.2%} (allowed {allowed:.2%}): {verdict}", flush=True)
    return {"bf16_bias": bias}


def main(argv=None):
    args = parse_args(argv)
    import families
    from lift import error_map, figures, heatmap_file, path_summary, paths
    from lift.generation import name_of
    timesteps = paths.timestep_grid(args.grid, args.grid_space)
    for path_type in args.paths:
        names = paths.EDGE_COST_NAMES.get(path_type)
        if names and not set(names) & set(args.edge_costs):
            raise InputError(f"--paths: found {path_type}, which needs --edge_costs {names[0]}; add it, or drop "
                             "the path")
    was_auto = args.precision == "auto"
    device = start_device(args)

    loaded = families.load_two_scales(args.checkpoint, args.weights, device)
    output = heatmap_file.heatmap_path(args.output_dir, args.grid, name_of(args.checkpoint), loaded.epochs,
                                       args.weights)
    figures_at = figures.outputs_of(output)
    for path in (output, output.with_suffix(".json"), *figures_at.values()):
        refuse_existing(path, args.overwrite)
    image_set = load_images(args.dataset, args.split, args.cache_dir, **columns_in(vars(args)))
    if len(image_set) < args.batch_size:
        raise InputError(f"--batch_size: found {args.batch_size}, but --split {args.split} of --dataset {args.dataset} "
                         f"has {len(image_set)} images; choose at most that, or more data")
    checks = choose_precision(args, was_auto, loaded, image_set.images, timesteps)
    heatmap = error_map.estimate(
        loaded.model, image_set.images, timesteps, K=args.K, batch_size=args.batch_size, max_images=args.max_images,
        target_error=args.target_error, chain_rule=args.chain_rule, normalization=args.normalization,
        prediction=args.prediction, seed=args.seed, precision=args.precision, progress=True)
    heatmap = heatmap_file.add_origin(heatmap, loaded, image_set)
    heatmap["options"]["grid_space"] = args.grid_space
    for name in args.edge_costs:
        heatmap["edge_costs"][name] = measure_edge_costs(name, loaded.model, image_set.images, timesteps, args)
    heatmap = heatmap_file.keep_lead(heatmap, output)
    rows = path_summary.summarize_paths(heatmap, args.paths, args.num_steps, args.step_size, args.max_jump)
    drawn = figures.draw(heatmap, rows, args.step_size, args.max_jump, args.num_resamples,
                         figures.title_of(heatmap))
    spent = {key: heatmap[key] for key in ("num_primals", "num_tangents", "num_cells_above_target")}
    relative = {s: (heatmap[f"standard_error_{s}"] / heatmap[f"error_{s}"]) for s in ("64", "32")}
    errors = {f"relative_standard_error_{s}": {"median": float(value.median()), "largest": float(value.max())}
              for s, value in relative.items()}
    with written_together(args.overwrite):
        for kind, path in figures_at.items():
            save_png(path, drawn[kind])
        save_torch(output, heatmap)
        # Last: where there is a record, there is a map.
        write_run_record(output.with_suffix(".json"), args, device, content_hash=image_set.content_hash,
                         checkpoint_fingerprint=loaded.fingerprint, **checks, **spent, **errors,
                         paths=figures.record(rows))
    print(f"network evaluations: {spent['num_primals']:,} primals and {spent['num_tangents']:,} tangents, of one image "
          "each")
    print("relative standard error: " + ", ".join(
        f"{s} median {float(value.median()):.2%}, largest {float(value.max()):.2%}" for s, value in relative.items()))
    if args.target_error > 0 and spent["num_cells_above_target"]:
        print(f"{spent['num_cells_above_target']} of {heatmap['num_cells']} cells are above --target_error "
              f"{args.target_error:g} after --max_images {heatmap['options']['max_images']} images")
    print(figures.table(rows))
    print("wrote " + ", ".join(map(str, (output, output.with_suffix(".json"), *figures_at.values()))))


def measure_edge_costs(name: str, model, images, timesteps, args):
    """Edge costs by `path_costs`: float64 [n, n, J + 1, J + 1]. Always in float32: their differences are small."""
    import torch
    from lift import error_map, path_costs
    measure = path_costs.directional_edge_costs if name == "directional" else path_costs.step_doubling_edge_costs
    diagonal_only = name.endswith("diagonal")
    # Contiguous weights: forward-mode derivatives of normalisation refuse channels-last tensors.
    model = error_map.frozen_copy(model, "float32")
    return torch.from_numpy(measure(model, images, timesteps, num_steps=args.num_steps, max_jump=args.max_jump,
                                    max_images=args.diagonal_edge_images if diagonal_only else args.edge_images,
                                    max_lead=args.max_lead, seed=args.seed, diagonal_only=diagonal_only, progress=True))


if __name__ == "__main__":
    run_script(main)
