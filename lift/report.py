"""Tables for the texts, figures and the HTML report, all from results/fid_results.csv and the files beside it.

Tables and figures of results need the CSV alone. Sample grids and denoising strips are generated when both checkpoints
are given.
"""
import sys
from pathlib import Path

from engine.command_line import (Parser, add_device_options, run_script, seed_number, start_device, whole_number,
                                 write_run_record)
from engine.errors import InputError
from engine.files import save_png
from engine.options import WEIGHTS
from lift.options import DEFAULT_PATHS, PATH_TYPES, SOLVERS, STEP_SIZES

TEXTS = ("lift/README.md", "results/published/lift/study.md")


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/fid_results.csv"), metavar="CSV",
                        help="the table of results; heat maps, training logs and other measurements are looked for "
                             "beside it")
    parser.add_argument("--output_dir", type=Path, default=None, metavar="FOLDER",
                        help="for figures; left out: `figures` beside the CSV")
    parser.add_argument("--html", type=Path, default=None, metavar="FILE",
                        help="the report; left out: `report.html` beside the CSV")
    parser.add_argument("--readme", type=Path, nargs="+", default=None, metavar="FILE",
                        help="texts whose tables between <!-- table:NAME --> and <!-- end:NAME --> are written anew; "
                             f"left out: none, with --check {' and '.join(TEXTS)}")
    parser.add_argument("--check", action="store_true",
                        help="only compare the texts and the CSV: exit status 1 if they differ; nothing is written")
    parser.add_argument("--title", default="LIFT: results", help="heading of the report")
    parser.add_argument("--grid", type=whole_number(2, 1000), default=30, metavar="POINTS",
                        help="points per axis of the heat maps used")
    parser.add_argument("--max_jump", type=whole_number(1, 99), default=5, metavar="CELLS",
                        help="most cells a step of a path moves on them in each direction")

    group = parser.add_argument_group("samples (drawn when both checkpoints are given)")
    group.add_argument("--baseline_checkpoint", type=Path, default=None, metavar="CHECKPOINT", help="for sample grids")
    group.add_argument("--lift_checkpoint", type=Path, default=None, metavar="CHECKPOINT",
                       help="for sample grids and denoising strips")
    group.add_argument("--weights", choices=WEIGHTS, default="ema", help="averaged or last weights")
    group.add_argument("--heatmap", type=Path, default=None, metavar="FILE",
                       help="of the LIFT checkpoint; left out: found beside the CSV by its name")
    group.add_argument("--allow_mismatch", action="store_true", help="use a heat map of another checkpoint")
    group.add_argument("--paths", nargs="+", action="each_once", choices=PATH_TYPES,
                       default=DEFAULT_PATHS["lift"], metavar="PATH",
                       help=f"LIFT's paths to show, of {', '.join(PATH_TYPES)}")
    group.add_argument("--step_size", choices=STEP_SIZES, default="index", help="of the optimised paths")
    group.add_argument("--num_steps", type=whole_number(1), default=18, help="steps of every path shown")
    group.add_argument("--solver", choices=SOLVERS, default="ddim", help="first or second order")
    group.add_argument("--seed", type=seed_number, default=42, help="of the images shown")
    group.add_argument("--num_images", type=whole_number(1), default=8, help="images per row of the sample grid")
    add_device_options(parser)
    args = parser.parse_args(argv)
    folder = args.results.parent
    args.output_dir = args.output_dir or folder / "figures"
    args.html = args.html or folder / "report.html"
    if args.html.suffix != ".html":
        raise InputError(f"--html: found {args.html}, expected a name that ends in .html")
    if (args.baseline_checkpoint is None) != (args.lift_checkpoint is None):
        missing = "--lift_checkpoint" if args.lift_checkpoint is None else "--baseline_checkpoint"
        raise InputError(f"{missing}: not given, expected both checkpoints or neither; samples are shown side by side")
    return args


def main(argv=None):
    args = parse_args(argv)
    from lift import side_tables
    from evaluation import results_table, tables
    from lift import marked_tables, report_parts, study_tables
    from lift.labels import NAMES
    folder = args.results.parent
    if not args.results.exists():
        raise InputError(f"--results: {args.results} does not exist; run eval_fid_batch.py first")
    rows = results_table.read(args.results)
    if args.check:
        checked = [report_parts.agrees(text, rows, args.results) for text in args.readme or map(Path, TEXTS)]
        sys.exit(0 if all(checked) else 1)
    for text in args.readme or []:              # what is wrong with it is said before any work
        marked_tables.with_tables(report_parts.read_text(text), rows, folder, str(text))

    drawn = {}
    for metric in results_table.metrics_of(rows):
        found = tables.metric_tables(study_tables.others(rows), metric, NAMES)
        for table in found:
            print(f"\n{table.markdown()}")
        if found:
            drawn[f"by_epoch_{metric}"] = report_parts.metric_figure(study_tables.others(rows), metric)
    for table in (table for name in study_tables.NAMES for table in study_tables.tables_named(name, rows, folder)):
        print(f"\n{table.markdown()}")
    for name in side_tables.SIDE_TABLES:
        if table := side_tables.side_table(folder, name):
            print(f"\n{table.markdown()}")
    print()

    heatmaps = report_parts.find_heatmaps(folder, args.grid)
    if heatmaps:
        drawn["path_evolution"] = report_parts.evolution_figure(heatmaps, args)
    else:
        print(f"path evolution: no heatmap_{args.grid}_*ep.pth in {folder}, left out")
    if logs := sorted(folder.glob("*_training.csv")):
        drawn["training_loss"] = report_parts.training_figure(logs)
    if args.lift_checkpoint:
        device = start_device(args)
        drawn |= report_parts.sample_figures(args, device)
        write_run_record(args.output_dir / "samples.json", args, device)
    else:
        print("samples: --baseline_checkpoint and --lift_checkpoint not given, none drawn")
    for name, fig in drawn.items():
        save_png(args.output_dir / f"{name}.png", fig)
        print(f"wrote {args.output_dir / name}.png")

    for text in args.readme or []:
        report_parts.update_readme(text, rows, folder)
    report_parts.write_report(args, rows)


if __name__ == "__main__":
    run_script(main)
