#!/usr/bin/env python3
"""Find out why a model with classes draws the wrong ones, or none: ways of sampling side by side, and measurements.

It ends with a sentence that says what looks wrong.
"""
from engine.command_line import real_number, run_script, start_device, whole_number, write_run_record
from engine.files import outputs_beside, save_png, written_together
from mnist.options import add_sampling_options, classes_asked, judge_for, looking_parser, scored_model


def parse_args(argv=None):
    """The command line."""
    parser = looking_parser(__doc__, "results/mnist_debug", "PREFIX")
    add_sampling_options(parser, how=False)
    parser.add_argument("--guidance_scale", type=real_number(0, 100), default=3.0, metavar="W")
    parser.add_argument("--num_samples", type=whole_number(10), default=20, help="per way of sampling")
    parser.set_defaults(device="cpu")
    return parser.parse_args(argv)


def ways_of(model, w: float) -> dict:
    """Ways of sampling: name -> (path, guidance scale, options). A deterministic and a random sampler, of a flow two
    solvers, each conditional and guided."""
    if model.denoiser.kind == "velocity":
        ways = {"Euler 50": (model.path(50), {"solver": "ddim"}),
                "midpoint 10": (model.path(10), {"solver": "midpoint"})}
    else:
        ways = {"DDIM 50": (model.path(50), {"solver": "ddim"}),
                f"DDPM {model.num_timesteps}": (model.path(model.num_timesteps), {"eta": 1.0})}
    return {f"{name}, w = {scale:g}": (path, scale, how) for name, (path, how) in ways.items() for scale in (1.0, w)}


def main():
    args = parse_args()
    import torch
    from evaluation import class_conditioning
    from evaluation.small_images import class_rows, picture_columns
    outputs = outputs_beside(args.output, args.overwrite, ("png", "json"))
    device = start_device(args)
    model, _ = scored_model(args, args.checkpoint, device, [args.guidance_scale], with_classes=True)
    classes, numbers = classes_asked(args, model, args.guidance_scale), range(args.num_samples)
    judge, train_set, _ = judge_for(args)
    accuracies, columns = {}, []
    for way, (path, w, how) in ways_of(model, args.guidance_scale).items():
        draw = model.drawing(path, classes, w, precision=args.precision, **how)
        images, labels = draw.labelled(args.seed, numbers)
        accuracies[way] = judge.scores(images, labels)["accuracy"]
        columns.append((f"{way}\n{accuracies[way]:.0%} right", class_rows(images, model.denoiser.num_classes, 2)))
    distances = class_conditioning.code_distances(model.denoiser.network.class_codes)
    effects = class_conditioning.class_effects(model.denoiser, model.path(50), args.seed)
    gradients = class_conditioning.gradient_norms(model.denoiser, model.encode(torch.tensor(train_set.images[:100])),
                                                  torch.tensor(train_set.labels[:100]), args.seed)
    print("\n".join(class_conditioning.measured_lines(distances, effects, gradients)))
    wrong = class_conditioning.findings(distances, effects, gradients, accuracies)
    verdict = "; ".join(wrong) or "nothing looks wrong"
    with written_together(args.overwrite):
        save_png(outputs["png"], picture_columns(columns, width=1.7))
        write_run_record(outputs["json"], args, device, accuracies=accuracies, effects=effects, gradients=gradients,
                         code_distances=distances.tolist(), verdict=verdict)
    print(f"{outputs['png']}; {verdict}.")


if __name__ == "__main__":
    run_script(main)
