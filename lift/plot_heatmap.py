"""Draw a heatmap file again: other paths, numbers of steps, step sizes or weights of the map."""
from pathlib import Path

from engine.command_line import Parser, run_script, write_run_record
from engine.errors import InputError
from engine.files import refuse_existing, save_png, written_together
from lift.options import CHAIN_RULES, NORMALIZATIONS, PREDICTIONS, add_path_options


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("heatmap", type=Path, metavar="HEATMAP", help="a file written by compute_heatmap_30.py")
    add_path_options(parser)
    group = parser.add_argument_group("error map")
    group.add_argument("--chain_rule", choices=CHAIN_RULES, default=None,
                       help="factor by SNR; left out: as in the file")
    group.add_argument("--normalization", choices=NORMALIZATIONS, default=None,
                       help="left out: as in the file")
    group.add_argument("--prediction", choices=PREDICTIONS, default=None, help="left out: as in the file")
    parser.add_argument("--output", type=Path, default=None, metavar="FILE",
                        help="name of the map's PNG, the other figures beside it; left out: beside the heatmap")
    parser.add_argument("--overwrite", action="store_true", help="replace figures that exist")
    args = parser.parse_args(argv)
    if args.output and args.output.suffix != ".png":
        raise InputError(f"--output: found {args.output}, expected a name that ends in .png")
    return args


def main(argv=None):
    args = parse_args(argv)
    from lift import error_map, figures, heatmap_file, path_summary
    from lift.dynamic_program import check_num_steps
    figures_at = figures.outputs_of(args.output or args.heatmap)
    record_at = figures_at["maps"].with_name(f"{figures_at['maps'].stem}_plot.json")
    for path in (*figures_at.values(), record_at):
        refuse_existing(path, args.overwrite)
    heatmap = heatmap_file.load_heatmap(args.heatmap)
    heatmap = error_map.reweighted(heatmap, args.chain_rule, args.normalization, args.prediction)
    check_num_steps(args.num_steps, (len(heatmap["timesteps"]) - 1,) * 2, (args.max_jump,) * 2)
    rows = path_summary.summarize_paths(heatmap, args.paths, args.num_steps, args.step_size, args.max_jump)
    drawn = figures.draw(heatmap, rows, args.step_size, args.max_jump, args.num_resamples,
                         figures.title_of(heatmap))
    with written_together(args.overwrite):
        for kind, path in figures_at.items():
            save_png(path, drawn[kind])
        write_run_record(record_at, args, paths=figures.record(rows))
    print(figures.table(rows))
    print("wrote " + ", ".join(map(str, figures_at.values())))


if __name__ == "__main__":
    run_script(main)
