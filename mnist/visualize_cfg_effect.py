#!/usr/bin/env python3
"""Show what classifier-free guidance does: rows are digits, columns guidance scales, under each column its scores.

Several checkpoints (both kinds of conditioning, say) stand side by side, drawn from the same noise.
"""
from pathlib import Path

from data import add_data_options
from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import refuse_existing, save_png, written_together
from mnist.options import add_sampling_options, check_scored, class_labels, judge_of, sampling_of

NAMES = {"accuracy": "accuracy", "fd_digits": "fd, %", "diversity": "diversity"}


def main():
    parser = Parser(__doc__)
    add_data_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--compare_with", nargs="*", default=[], metavar="FILE", help="more checkpoints with classes")
    parser.add_argument("--guidance_scales", type=real_number(0, 100), nargs="+", default=[0.0, 1.0, 2.0, 4.0, 8.0],
                        metavar="W", action="each_once", help="one column each")
    parser.add_argument("--per_cell", type=whole_number(1, 20), default=3, help="samples shown of a digit and scale")
    parser.add_argument("--num_samples", type=whole_number(20), default=500, help="images that the scores are of")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/mnist_cfg_effect.png"))
    parser.add_argument("--overwrite", action="store_true", help="replace --output")
    add_device_options(parser)
    parser.set_defaults(dataset="mnist", sampler="midpoint", sampling_steps=10)
    args = parser.parse_args()
    from evaluation.figures import figure
    from mnist.models import load_model
    from evaluation.small_images import class_rows
    refuse_existing(args.output, args.overwrite)
    device = start_device(args)
    checkpoints = [args.checkpoint, *args.compare_with]
    models = [load_model(path, device, args.vae_checkpoint) for path in checkpoints]
    for path, model in zip(checkpoints, models):
        if model.denoiser.num_classes is None:
            raise InputError(f"--checkpoint: {path} is a model without classes; train one with --conditioning")
        args.checkpoint = path
        check_scored(args, model, args.guidance_scales)
    judge, _ = judge_of(args)
    columns = len(models) * len(args.guidance_scales)
    fig, axes = figure(0.45 * args.per_cell * columns + 0.6, 5.6, ncols=columns, squeeze=False)
    rows = []
    for m, (path_of, model) in enumerate(zip(checkpoints, models)):
        path, how = sampling_of(args, model)
        for c, w in enumerate(args.guidance_scales):
            args.checkpoint = path_of
            labels = class_labels(args, model, max(args.num_samples, 10 * args.per_cell), w)
            images = model.images(path, args.seed, range(len(labels)), labels, w, precision=args.precision, **how)
            rows.append({"checkpoint": str(path_of), "guidance_scale": w, **judge.scores(images, labels)})
            ax = axes[0, m * len(args.guidance_scales) + c]
            ax.imshow(class_rows(images, model.denoiser.num_classes, args.per_cell), interpolation="nearest")
            name = f"{model.denoiser.network.conditioning.replace('_', '-')}\n" if c == 0 else "\n"
            ax.set_title(f"{name}w = {w:g}", fontsize=9)
            ax.set_xlabel("\n".join(f"{label} {rows[-1][key]:.3g}" for key, label in NAMES.items()), fontsize=8)
            ax.set(xticks=[], yticks=[])
    with written_together(args.overwrite):
        save_png(args.output, fig)
        write_run_record(args.output.with_suffix(".json"), args, device, rows=rows)
    for row in rows:
        print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    print(args.output)


if __name__ == "__main__":
    run_script(main)
