#!/usr/bin/env python3
"""Find out why a model with classes draws the wrong ones, or none: ways of sampling side by side, and measurements.

It ends with a sentence that says what looks wrong.
"""
from pathlib import Path

from data import add_data_options
from engine.command_line import (Parser, add_device_options, real_number, run_script, seed_number, start_device,
                                 whole_number, write_run_record)
from engine.errors import InputError
from engine.files import outputs_beside, save_png, written_together
from mnist.options import add_sampling_options, check_scored, class_labels, judge_of


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    add_data_options(parser)
    add_sampling_options(parser, how=False)
    parser.add_argument("--guidance_scale", type=real_number(0, 100), default=3.0, metavar="W")
    parser.add_argument("--num_samples", type=whole_number(10), default=20, help="per way of sampling")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/mnist_debug"), metavar="PREFIX",
                        help="for PREFIX.png and PREFIX.json")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    add_device_options(parser)
    parser.set_defaults(dataset="mnist", device="cpu")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    import torch
    from evaluation.figures import figure
    from mnist import diagnosis
    from mnist.models import load_model, padded
    from evaluation.small_images import class_rows
    outputs = outputs_beside(args.output, args.overwrite, ("png", "json"))
    device = start_device(args)
    model = load_model(args.checkpoint, device, args.vae_checkpoint)
    if model.denoiser.num_classes is None:
        raise InputError(f"--checkpoint: {args.checkpoint} is a model without classes; train one with --conditioning")
    check_scored(args, model, [args.guidance_scale])
    labels = class_labels(args, model, args.num_samples, args.guidance_scale)
    judge, (train_set, _) = judge_of(args)
    ways, accuracies = diagnosis.ways_of(model, args.guidance_scale), {}
    fig, axes = figure(1.7 * len(ways), 3.6, ncols=len(ways))
    for ax, (way, (path, w, how)) in zip(axes, ways.items()):
        images = model.images(path, args.seed, range(len(labels)), labels, w, precision=args.precision, **how)
        accuracies[way] = judge.scores(images, labels)["accuracy"]
        ax.imshow(class_rows(images, min(model.denoiser.num_classes, len(images)), 2), interpolation="nearest")
        ax.set_title(f"{way}\n{accuracies[way]:.0%} right", fontsize=9)
        ax.set(xticks=[], yticks=[])
    distances = diagnosis.code_distances(model.denoiser.network)
    effects = diagnosis.class_effects(model.denoiser, model.path(50), args.seed)
    batch = torch.tensor(train_set.images[:100])
    gradients = diagnosis.gradient_norms(model.denoiser, diagnosis.latents_of(model, padded(batch)),
                                         torch.tensor(train_set.labels[:100]), args.seed)
    between = distances[~torch.eye(len(distances), dtype=torch.bool)]
    print(f"codes of the classes: distances {between.min():.3g} ... {between.max():.3g} lengths of a code")
    for t, effect in effects.items():
        print(f"time {t:g}: the class moves the prediction by {effect:.3g} of its size")
    for layer, norm in sorted(gradients.items(), key=lambda item: item[1]):
        print(f"gradient of {layer}: {norm:.3g} of the whole")
    wrong = diagnosis.findings(distances, effects, gradients, accuracies)
    verdict = "; ".join(wrong) if wrong else "nothing looks wrong"
    with written_together(args.overwrite):
        save_png(outputs["png"], fig)
        write_run_record(outputs["json"], args, device, accuracies=accuracies, effects=effects, gradients=gradients,
                         code_distances=distances.tolist(), verdict=verdict)
    print(f"{outputs['png']}; {verdict}.")


if __name__ == "__main__":
    run_script(main)
