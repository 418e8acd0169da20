#!/usr/bin/env python3
"""Train LIFT: an image at 64x64 and its half-size copy at 32x32, a timestep for each, the errors of both added."""
from engine.run_files import list_states
from engine.command_line import Parser, real_number, refuse_without_effect, run_script
from engine.errors import InputError
from engine.options import add_lead_options
from lift.options import LOSS_SCALES, TIMESTEP_KINDS, add_training_options, parse_training_options


def parse_args(argv=None):
    """The command line. Raises InputError for options that contradict each other."""
    parser = Parser(__doc__)
    add_training_options(parser, "lift")
    group = parser.add_argument_group("LIFT")
    group.add_argument("--timesteps", choices=TIMESTEP_KINDS, default="independent",
                       help="how t_64 and t_32 are drawn; band: the 32 scale leads in log SNR; fused: it leads, and "
                            "both scales say together of the 2x2 mean what one says at a uniform timestep; clock: it "
                            "leads, half of a batch with t_64 uniform and half with t_32 uniform")
    add_lead_options(group, band=(0.0, 5.0), fused=(0.0, 2.0), clock=(0.0, 2.0))
    group.add_argument("--band_noise_share", type=real_number(0, 1), default=0.15, metavar="SHARE",
                       help="share of images with t_32 = 999 in the band")
    group.add_argument("--band_independent_share", type=real_number(0, 1), default=0.15, metavar="SHARE",
                       help="share of images with independent timesteps in the band")
    group.add_argument("--loss_scales", choices=LOSS_SCALES, default="both", help="which scales' errors count")
    group.add_argument("--loss_weight_32", type=real_number(0), default=1.0, help="weight of the 32 scale's error")
    group.add_argument("--native_32", action="store_true",
                       help="the 32 scale enters and leaves the network at its 32x32 level, not upsampled to 64x64")
    group.add_argument("--skip_64_at_noise", type=real_number(0, 0.5), default=0.0, metavar="SHARE",
                       help="with --native_32, images at t_64 = 999 skip the 64x64 level, a quarter of the arithmetic; "
                            "this share of every batch is such images, with t_32 uniform; 0: none skip")
    group.add_argument("--bands", action="store_true",
                       help="one image in two parts, its 2x2 mean and the rest, with a timestep each, in the place of "
                            "two scales: the network has the inputs and outputs of the baseline")
    args = parse_training_options(parser, argv)
    if not (args.resume and list_states(args.checkpoint_dir, args.name)):   # else it goes on with its own options
        refuse_unused(parser, args)
    return args


def refuse_unused(parser, args) -> None:
    """Raises InputError for options that the others leave without effect, and layers that they leave untrained."""
    if args.timesteps != "band":
        refuse_without_effect(parser, args, ["band_lead", "band_noise_share", "band_independent_share"],
                              "without --timesteps band")
    for kind in ("fused", "clock"):
        if args.timesteps != kind:
            refuse_without_effect(parser, args, [f"{kind}_lead"], f"without --timesteps {kind}")
    if not args.native_32:
        refuse_without_effect(parser, args, ["skip_64_at_noise"], "without --native_32")
    if args.bands:
        refuse_without_effect(parser, args, ["native_32", "loss_scales"], "with --bands")
        if args.timesteps == "fused":
            raise InputError("--timesteps: found fused with --bands, whose parts are no two views of one image; "
                             "expected clock, band, independent or diagonal")
    if args.loss_scales == "64":
        refuse_without_effect(parser, args, ["loss_weight_32"], "with --loss_scales 64")
        if args.native_32:
            raise InputError("--native_32: found with --loss_scales 64, which leaves the layers that put the 32 scale "
                             "out untrained; leave one of the two out")


def main():
    args = parse_args()
    from engine.loop import train
    from lift.tasks import scale_task
    train(scale_task("lift"), args)


if __name__ == "__main__":
    run_script(main)
