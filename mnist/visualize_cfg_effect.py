#!/usr/bin/env python3
"""Show what classifier-free guidance does: rows are digits, columns guidance scales, under each column its scores.

Several checkpoints (both kinds of conditioning, say) stand side by side, drawn from the same noise.
"""
from engine.command_line import real_number, run_script, start_device, whole_number, write_run_record
from engine.errors import InputError
from engine.files import refuse_existing, save_png, written_together
from mnist.options import add_sampling_options, drawing_of, judge_for, looking_parser, scored_model

NAMES = {"accuracy": "accuracy", "fd_digits": "fd, %", "diversity": "diversity"}
USUAL = ("midpoint", 10)         # sampler and steps where none are given


def parse_args(argv=None):
    """The command line."""
    parser = looking_parser(__doc__, "results/mnist_cfg_effect.png")
    add_sampling_options(parser, usual=USUAL)
    parser.add_argument("--compare_with", nargs="*", default=[], metavar="FILE", help="more checkpoints with classes")
    parser.add_argument("--guidance_scales", type=real_number(0, 100), nargs="+", default=[0.0, 1.0, 2.0, 4.0, 8.0],
                        metavar="W", action="each_once", help="one column each")
    parser.add_argument("--per_cell", type=whole_number(1, 20), default=3, help="samples shown of a digit and scale")
    parser.add_argument("--num_samples", type=whole_number(20), default=500, help="images that the scores are of")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    if args.num_samples < 10 * args.per_cell:
        raise InputError(f"--num_samples: found {args.num_samples}, expected at least {10 * args.per_cell}, for ten "
                         f"rows of {args.per_cell} (--per_cell)")
    from evaluation.small_images import class_rows, picture_columns
    refuse_existing(args.output, args.overwrite)
    device = start_device(args)
    models = {path: scored_model(args, path, device, args.guidance_scales, with_classes=True)[0]
              for path in (args.checkpoint, *args.compare_with)}
    judge, *_ = judge_for(args)
    rows, columns = [], []
    for checkpoint, model in models.items():
        for w in args.guidance_scales:
            images, labels = drawing_of(args, model, w, usual=USUAL).labelled(args.seed, range(args.num_samples))
            scores = judge.scores(images, labels)
            rows.append({"checkpoint": str(checkpoint), "guidance_scale": w, **scores})
            name = model.denoiser.network.conditioning.replace("_", "-") if w == args.guidance_scales[0] else ""
            columns.append((f"{name}\nw = {w:g}", class_rows(images, model.denoiser.num_classes, args.per_cell),
                            "\n".join(f"{label} {scores[key]:.3g}" for key, label in NAMES.items())))
    with written_together(args.overwrite):
        save_png(args.output, picture_columns(columns, width=0.45 * args.per_cell))
        write_run_record(args.output.with_suffix(".json"), args, device, rows=rows)
    for row in rows:
        print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    print(args.output)


if __name__ == "__main__":
    run_script(main)
