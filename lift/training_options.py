"""The options of S1's trainings."""
from baseline_model import DEFAULT_HIDDEN_DIMS
from data import add_data_options
from engine import options
from engine.command_line import refuse_without_effect, whole_number
from engine.errors import InputError
from lift.checkpoints import DEFAULT_NAMES
from lift.objective import LOSS_TARGETS, TimestepRule
from networks.unet import PARAMETRIZATIONS


def add_training_options(parser, model_type: str) -> None:
    """The options that both training scripts share."""
    add_data_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--split", default="train", help="images to train on")
    data.add_argument("--val_split", default="validation", help="held-out images, for --val_every")
    data.add_argument("--val_images", type=whole_number(1), default=500, help="how many held-out images to use")
    data.add_argument("--flip", action="store_true", help="mirror half of the images at random")
    group = parser.add_argument_group("model")
    group.add_argument("--hidden_dims", type=whole_number(1, 8192), nargs="+", default=list(DEFAULT_HIDDEN_DIMS),
                       metavar="CHANNELS", help="channels per level, multiples of 8")
    group.add_argument("--parametrization", choices=PARAMETRIZATIONS, default="eps",
                       help="what the network puts out: the noise eps, v = sqrt(abar) eps - sqrt(1 - abar) x_0, or the "
                            "residual that a linear denoiser fitted to the images leaves")
    group.add_argument("--loss_target", choices=LOSS_TARGETS, default="eps",
                       help="whose squared error the loss is; v's is the noise's over abar, so that noisy images "
                            "weigh more")
    options.add_training_options(parser, DEFAULT_NAMES[model_type])
    if model_type == "baseline":
        parser.set_defaults(loss_scales="64", loss_weight_32=0.0)


def parse_training_options(parser, argv=None):
    """The command line of a training script. Raises InputError for options about a validation that is not asked for."""
    args = parser.parse_args(argv)
    if not args.val_every:
        refuse_without_effect(parser, args, ["val_split", "val_images"], "without --val_every")
    return args


def timestep_rule(args) -> TimestepRule:
    """The rule that LIFT's options name; for the baseline only t_64 is used."""
    if not hasattr(args, "timesteps"):
        return TimestepRule()
    low, high = args.band_lead
    if low > high:
        raise InputError(f"--band_lead: found {low:g} {high:g}, expected the smaller number first")
    if args.band_noise_share + args.band_independent_share > 1:
        raise InputError(f"--band_noise_share and --band_independent_share: found {args.band_noise_share:g} and "
                         f"{args.band_independent_share:g}, expected a sum of at most 1")
    return TimestepRule(args.timesteps, low, high, args.band_noise_share, args.band_independent_share)
