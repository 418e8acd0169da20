#!/usr/bin/env python3
"""Train a flow: a Diffusion Transformer, or a UNet, that carries noise to images of a class, in pixels or latents."""
import argparse
import sys

from data import add_data_options, add_val_options
from engine.command_line import Parser, real_number, refuse_without_effect, run_script, whole_number
from engine.errors import InputError
from engine.options import PAIRINGS, TIME_SAMPLINGS, add_lead_options, add_training_options, lead_range
from flow.options import (LEAD, LEADING, ONLY_OF_DIT, add_network_options, check_scales, fill_preset,
                          refuse_older_names)

LABEL_DROPOUT = 0.1
IMAGE_SIZE = 32


def parse_args(argv=None):
    """The command line. Raises InputError for options that contradict each other, or of the earlier implementation."""
    refuse_older_names(sys.argv[1:] if argv is None else argv)
    parser = Parser(__doc__)
    add_data_options(parser, image_size=IMAGE_SIZE, columns=True)
    data = parser.add_argument_group("images")
    data.add_argument("--split", default="train", help="images to train on")
    add_val_options(data, "test")
    data.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True,
                      help="mirror half of the images at random")
    add_network_options(parser)
    group = parser.add_argument_group("flow")
    group.add_argument("--time_distribution", choices=TIME_SAMPLINGS, default="logit_normal",
                       help="how the flow times of a batch are drawn")
    group.add_argument("--time_mean", type=real_number(-10, 10), default=0.0, help="of the normal behind logit_normal")
    group.add_argument("--time_deviation", type=real_number(0, 10, open_below=True), default=1.0,
                       help="of the normal behind logit_normal")
    group.add_argument("--timesteps", choices=PAIRINGS, default="independent",
                       help="times of two scales or bands, drawn by --time_distribution (uniform ones are "
                            "--time_distribution uniform). independent; diagonal: equal; in the others the coarse one "
                            "leads. near: ahead of the fine one's drawn time; fused: both views say together of the "
                            "coarse scale what one would say at a drawn time; clock: half of a batch near, half with "
                            "the fine one behind the coarse one's drawn time")
    add_lead_options(group, **{kind: LEAD for kind in LEADING})
    group.add_argument("--label_dropout", type=real_number(0, 1), default=LABEL_DROPOUT,
                       help="share of labels that become the null class, which guidance needs")
    group.add_argument("--unconditional", action="store_true", help="one class for all images, labels or not")
    group.add_argument("--vae", default=None, metavar="FOLDER_OR_NAME",
                       help="train in the latents of this AutoencoderKL; left out: in pixels")
    add_training_options(parser, "flow")
    parser.add_argument("--sample_every", type=whole_number(0), default=10, metavar="EPOCHS",
                        help="interval of the picture {name}_preview.png, with a row per class; 0: none")
    parser.set_defaults(dataset="cifar10", batch_size=256, lr_schedule="constant")
    args = parser.parse_args(argv)
    if not args.val_every:
        refuse_without_effect(parser, args, ["val_split", "val_images"], "without --val_every")
    if args.time_distribution == "uniform":
        refuse_without_effect(parser, args, ["time_mean", "time_deviation"], "with --time_distribution uniform")
    if args.scales is None and not args.bands:
        refuse_without_effect(parser, args, ["timesteps"], "without --scales or --bands")
    for kind in LEADING:
        if args.timesteps == kind:
            lead_range(args, kind)
        else:
            refuse_without_effect(parser, args, [f"{kind}_lead"], f"without --timesteps {kind}")
    if args.vae is not None and args.output == "residual":
        raise InputError("--output: found residual with --vae, expected it without (its affine predictor is one of "
                         "pixels); use velocity or clean")
    if args.vae is not None and args.channels != 3:
        raise InputError(f"--channels: found {args.channels} with --vae, expected 3; leave it out")
    if args.network == "unet":
        refuse_without_effect(parser, args, ONLY_OF_DIT, "with --network unet")
    check_scales(args, IMAGE_SIZE)
    fill_preset(args)
    return args


def main():
    args = parse_args()
    from engine.loop import train
    from flow.training import make_task
    train(make_task, args)


if __name__ == "__main__":
    run_script(main)
