#!/usr/bin/env python3
"""Score generated digits: accuracy, Fréchet distance of a classifier's features, diversity, per guidance scale."""
from pathlib import Path

from data import add_data_options, load_images
from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import refuse_existing, write_csv, written_together
from mnist.options import add_sampling_options, class_labels, sampling_of


def main():
    parser = Parser(__doc__)
    add_data_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--guidance_scales", type=real_number(0, 100), nargs="+", default=[1.0, 2.0], metavar="W",
                        action="each_once", help="one row each; of a model without classes 1 alone")
    parser.add_argument("--num_samples", type=whole_number(10), default=1000)
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/mnist_scores.csv"))
    parser.add_argument("--overwrite", action="store_true", help="replace --output")
    add_device_options(parser)
    parser.set_defaults(dataset="mnist")
    args = parser.parse_args()
    from mnist.digit_scores import SCORES, load_judge
    from mnist.models import load_model
    refuse_existing(args.output, args.overwrite)
    device = start_device(args)
    model = load_model(args.checkpoint, device, args.vae_checkpoint)
    if model.image_size != 28:
        raise InputError(f"--checkpoint: {args.checkpoint} draws images of {model.image_size} pixels, expected "
                         "digits of 28")
    train_set, test_set = (load_images(args.dataset, split, cache_dir=args.cache_dir, size=28, channels=1)
                           for split in ("train", "test"))
    judge = load_judge(train_set, test_set, args.cache_dir)
    path, how = sampling_of(args, model)
    rows = []
    for w in args.guidance_scales:
        labels = class_labels(args, model, args.num_samples, w)
        images = model.images(path, args.seed, range(args.num_samples), labels, w, precision=args.precision, **how)
        rows.append({"guidance_scale": w, "num_steps": len(path) - 1,
                     **{name: round(value, 4) for name, value in judge.scores(images, labels).items()}})
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    floor = judge.noise_floor(train_set, args.num_samples, 1)[0]
    rows.append({"guidance_scale": "real digits", "num_steps": "", **{name: round(floor[name], 4) for name in SCORES}})
    print(f"as many real digits: {', '.join(f'{name} {floor[name]:.4f}' for name in SCORES)}", flush=True)
    with written_together(args.overwrite):
        write_csv(args.output, rows, ["guidance_scale", "num_steps", *SCORES])
        write_run_record(args.output.with_suffix(".json"), args, device, rows=rows)


if __name__ == "__main__":
    run_script(main)
