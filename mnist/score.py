#!/usr/bin/env python3
"""Score generated digits: accuracy, Fréchet distance of a classifier's features, diversity, per guidance scale.

For a VAE, its reconstructions of the test digits are scored. Without a checkpoint, several draws of real digits are
scored, and test digits with known damages, each of which must move a score.
"""
from pathlib import Path

from data import add_data_options
from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import load_torch, refuse_existing, write_csv, written_together
from mnist.options import add_sampling_options, check_scored, class_labels, judge_of, sampling_of


DRAWN = "digits"                    # the data set of drawn digits


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    add_data_options(parser)
    add_sampling_options(parser, required=False)
    parser.add_argument("--guidance_scales", type=real_number(0, 100), nargs="+", default=None, metavar="W",
                        action="each_once", help="one row each; left out: 1 and 2, of a model that cannot be guided 1")
    parser.add_argument("--num_samples", type=whole_number(10), default=1000)
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/mnist_scores.csv"))
    parser.add_argument("--overwrite", action="store_true", help="replace --output")
    add_device_options(parser)
    parser.set_defaults(dataset="mnist")
    return parser.parse_args(argv)


def rows_of_vae(args, judge, vae, test_set) -> list[dict]:
    """One row, of the reconstructions of test digits."""
    from evaluation.digit_scores import balanced_choice
    from mnist.models import reconstructed
    chosen = balanced_choice(test_set.labels, args.num_samples)
    images = reconstructed(vae, test_set.images[chosen])
    return [{"what": "reconstructions", "num_steps": 1, "calls": 1, **judge.scores(images, test_set.labels[chosen])}]


def checked_vae(args, device):
    """The VAE. Raises InputError for one of other images than digits."""
    from mnist.models import load_vae
    vae = load_vae(args.checkpoint, "--checkpoint").to(device)
    if vae.settings["shape"] != [1, 32, 32]:
        raise InputError(f"--checkpoint: {args.checkpoint} is a VAE of images {vae.settings['shape']}, expected one of "
                         "grey digits, padded to [1, 32, 32]")
    if args.guidance_scales is not None:
        raise InputError(f"--guidance_scales: {args.checkpoint} is a VAE, which knows no class; leave the option out")
    return vae


def checked_model(args, device):
    """The model, once it is known to fit; scales left out become those it knows."""
    from mnist.models import load_model
    model = load_model(args.checkpoint, device, args.vae_checkpoint)
    if args.guidance_scales is None:
        args.guidance_scales = [1.0, 2.0] if model.is_guidable else [1.0]
    check_scored(args, model, args.guidance_scales)
    return model


def rows_of_model(args, judge, model) -> list[dict]:
    """A row per guidance scale."""
    path, how = sampling_of(args, model)
    rows = []
    for w in args.guidance_scales:
        before, labels = model.denoiser.num_evaluations, class_labels(args, model, args.num_samples, w)
        images = model.images(path, args.seed, range(args.num_samples), labels, w, precision=args.precision, **how)
        rows.append({"what": model.name, "guidance_scale": w, "num_steps": len(path) - 1,
                     "calls": (model.denoiser.num_evaluations - before) // args.num_samples,
                     **judge.scores(images, labels)})
    return rows


def rows_of_damages(args, judge, test_set) -> list[dict]:
    """A row per damage."""
    from evaluation.digit_scores import balanced_choice, damages
    chosen = balanced_choice(test_set.labels, args.num_samples)
    labels = test_set.labels[chosen]
    return [{"what": name, **judge.scores(images, labels)} for name, images in
            damages(test_set.images[chosen], labels).items()]


def accuracy_of_drawn(args, test_set) -> float:
    """The share of real test digits that a classifier names right which was trained on drawn ones alone; printed."""
    from data import load_images
    from evaluation.digit_scores import load_judge
    drawn = load_images(DRAWN, "train", cache_dir=args.cache_dir, size=28, channels=1)
    share = load_judge(drawn, test_set, args.cache_dir).test_accuracy
    print(f"a classifier of drawn digits names {share:.1%} of {len(test_set.images)} real ones right; chance is 10%",
          flush=True)
    return share


def main():
    args = parse_args()
    from evaluation.digit_scores import SCORES
    from mnist.models import kind_of
    refuse_existing(args.output, args.overwrite)
    device = start_device(args)
    is_vae = args.checkpoint and kind_of(load_torch(args.checkpoint, "checkpoint")) == "vae"
    model = args.checkpoint and (checked_vae if is_vae else checked_model)(args, device)
    judge, (train_set, test_set) = judge_of(args)
    more = {} if model or args.dataset.startswith(DRAWN) else {"drawn_accuracy": accuracy_of_drawn(args, test_set)}
    if model:
        rows = rows_of_vae(args, judge, model, test_set) if is_vae else rows_of_model(args, judge, model)
    else:
        rows = rows_of_damages(args, judge, test_set)
    rows += [{"what": f"real digits, draw {draw + 1}", **scores} for draw, scores in
             enumerate(judge.noise_floor(train_set, args.num_samples, 1 if args.checkpoint else 5))]
    columns = ["what", "guidance_scale", "num_steps", "calls", *SCORES]
    rows = [{key: round(row[key], 4) if key in SCORES else row.get(key, "") for key in columns} for row in rows]
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    with written_together(args.overwrite):
        write_csv(args.output, rows, columns)
        write_run_record(args.output.with_suffix(".json"), args, device, rows=rows, **more)


if __name__ == "__main__":
    run_script(main)
