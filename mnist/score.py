#!/usr/bin/env python3
"""Score generated digits: accuracy, Fréchet distance of a classifier's features, diversity, per guidance scale.

For a VAE, its reconstructions of the test digits are scored. Without a checkpoint, several draws of real digits are
scored, and test digits with known damages, each of which must move a score.
"""
from engine.command_line import real_number, run_script, start_device, whole_number, write_run_record
from engine.files import load_torch, refuse_existing, write_csv, written_together
from mnist.options import (HOW, add_sampling_options, digit_vae, drawing_of, judge_for, looking_parser,
                           refuse_sampling, scored_model)

OF_DENOISERS = ("vae_checkpoint", *HOW, "guidance_scales")      # options that nothing else is scored with


def parse_args(argv=None):
    """The command line."""
    parser = looking_parser(__doc__, "results/mnist_scores.csv")
    add_sampling_options(parser, required=False)
    parser.add_argument("--guidance_scales", type=real_number(0, 100), nargs="+", default=None, metavar="W",
                        action="each_once", help="one row each; left out: 1 and 2, of a model that cannot be guided 1")
    parser.add_argument("--num_samples", type=whole_number(20), default=1000)        # two of each class, to damage
    return parser.parse_args(argv)


def rows_of_model(args, judge, model) -> list[dict]:
    """A row per guidance scale."""
    rows, numbers = [], range(args.num_samples)
    for w in args.guidance_scales:
        draw, before = drawing_of(args, model, w), model.denoiser.num_evaluations
        scores = judge.scores(*draw.labelled(args.seed, numbers))
        rows.append({"what": model.name, "guidance_scale": w, "num_steps": len(draw.path) - 1,
                     "calls": (model.denoiser.num_evaluations - before) // len(numbers), **scores})
    return rows


def rows_of_test_digits(args, judge, vae, test_set) -> list[dict]:
    """The row of a VAE's reconstructions; without one, a row per damage."""
    from evaluation.digit_scores import balanced_part
    from mnist.models import reconstructed
    images, labels = balanced_part(test_set, args.num_samples)
    if vae is None:
        return [{"what": name, **scores} for name, scores in judge.scores_of_damages(images, labels).items()]
    return [{"what": "reconstructions", "num_steps": 1, "calls": 1,
             **judge.scores(reconstructed(vae, images), labels)}]


def main():
    args = parse_args()
    from evaluation import digit_scores
    from mnist.models import kind_of
    if args.checkpoint is None:
        refuse_sampling(args, OF_DENOISERS, "without --checkpoint")
    refuse_existing(args.output, args.overwrite)
    device = start_device(args)
    vae = model = None
    if args.checkpoint and kind_of(load_torch(args.checkpoint, "checkpoint")) == "vae":
        refuse_sampling(args, OF_DENOISERS, "on a VAE")
        vae = digit_vae(args.checkpoint, device)
    elif args.checkpoint:
        model, args.guidance_scales = scored_model(args, args.checkpoint, device, args.guidance_scales)
    judge, train_set, test_set = judge_for(args)
    more = {"classifier_accuracy": judge.test_accuracy}
    if not args.checkpoint and not args.dataset.startswith(digit_scores.DRAWN):
        more["drawn_accuracy"] = digit_scores.accuracy_of_drawn(test_set, args.cache_dir)
    rows = rows_of_model(args, judge, model) if model else rows_of_test_digits(args, judge, vae, test_set)
    rows += [{"what": f"real digits, draw {draw + 1}", **scores} for draw, scores in
             enumerate(judge.noise_floor(train_set, args.num_samples, 1 if args.checkpoint else 5))]
    columns = ["what", "guidance_scale", "num_steps", "calls", *digit_scores.SCORES]
    rows = [{key: round(row[key], 4) if key in digit_scores.SCORES else row.get(key, "") for key in columns}
            for row in rows]
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    with written_together(args.overwrite):
        write_csv(args.output, rows, columns)
        write_run_record(args.output.with_suffix(".json"), args, device, rows=rows, **more)


if __name__ == "__main__":
    run_script(main)
