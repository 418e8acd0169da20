"""The options of a training run, and which of them a resumed run must share with the run it continues."""
import re
from pathlib import Path

from lift import checkpoints
from baseline_model import DEFAULT_HIDDEN_DIMS
from engine.command_line import (add_device_options, plain_options, real_number, refuse_without_effect, seed_number,
                          whole_number)
from data import add_data_options, without_slash
from engine.errors import InputError
from lift.objective import LOSS_TARGETS, TimestepRule
from engine.optimization import LEARNING_RATE_MIN
from networks.unet import PARAMETRIZATIONS

# A resumed run must agree with the run it continues on everything that decides its numbers, but for --precision: a run
# that diverged in bf16 can only go on in float32. A change of it is printed.
DECISIVE_OPTIONS = ("dataset", "split", "hidden_dims", "batch_size", "grad_accum", "learning_rate", "lr_schedule",
                    "warmup_steps", "ema_decay", "flip", "seed", "timesteps", "loss_scales", "loss_weight_32",
                    "parametrization", "loss_target", "native_32", "band_lead", "band_noise_share",
                    "band_independent_share")


def add_training_options(parser, model_type: str) -> None:
    """The options that both training scripts share."""
    add_data_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--split", default="train", help="images to train on")
    data.add_argument("--val_split", default="validation", help="held-out images, for --val_every")
    data.add_argument("--val_images", type=whole_number(1), default=500, help="how many held-out images to use")
    data.add_argument("--flip", action="store_true", help="mirror half of the images at random")

    group = parser.add_argument_group("training")
    group.add_argument("--hidden_dims", type=whole_number(1, 8192), nargs="+", default=list(DEFAULT_HIDDEN_DIMS),
                       metavar="CHANNELS", help="channels per level, multiples of 8")
    group.add_argument("--epochs", type=whole_number(1), default=100, help="passes over the images")
    group.add_argument("--max_steps", type=whole_number(1), default=None, help="stop after so many optimizer steps")
    group.add_argument("--batch_size", type=whole_number(1), default=64, help="images per step, over all processes")
    group.add_argument("--grad_accum", type=whole_number(1), default=1, help="parts a batch is worked through in")
    group.add_argument("--learning_rate", type=real_number(0, open_below=True), default=1e-4, help="highest rate")
    group.add_argument("--lr_schedule", choices=("cosine", "constant"), default="cosine",
                       help=f"cosine falls to {LEARNING_RATE_MIN:g} at the last step")
    group.add_argument("--warmup_steps", type=whole_number(0), default=0, help="steps of linear rise at the start")
    group.add_argument("--ema_decay", type=real_number(0, 1), default=0.9999,
                       help="decay of the weights' moving average, lower in early steps")
    group.add_argument("--parametrization", choices=PARAMETRIZATIONS, default="eps",
                       help="what the network puts out: the noise eps, v = sqrt(abar) eps - sqrt(1 - abar) x_0, or the "
                            "residual that a linear denoiser fitted to the images leaves")
    group.add_argument("--loss_target", choices=LOSS_TARGETS, default="eps",
                       help="whose squared error the loss is; v's is the noise's over abar, so that noisy images "
                            "weigh more")
    group.add_argument("--seed", type=seed_number, default=0, help="decides weights, order, timesteps and noise")
    group.add_argument("--compile", action="store_true", help="torch.compile the model (minutes at the start)")

    group = parser.add_argument_group("output")
    group.add_argument("--name", default=checkpoints.DEFAULT_NAMES[model_type],
                       help="checkpoints are {name}_{E}ep.pth")
    group.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="for checkpoints")
    group.add_argument("--output_dir", type=Path, default=Path("results"), help="for log, loss curve and run record")
    group.add_argument("--save_every", type=whole_number(1), default=20, metavar="EPOCHS", help="checkpoint interval")
    group.add_argument("--save_epochs", type=whole_number(1), nargs="+", default=None, metavar="EPOCH",
                       help="checkpoint these epochs instead; the last epoch always is")
    group.add_argument("--state_every", type=whole_number(0), default=0, metavar="STEPS",
                       help="how often the full training state is saved, beside every checkpoint; 0: every ten minutes")
    group.add_argument("--val_every", type=whole_number(0), default=0, metavar="EPOCHS",
                       help="validation interval; 0: never")
    group.add_argument("--log_every", type=whole_number(1), default=50, metavar="STEPS", help="steps per log line")
    group.add_argument("--no_tensorboard", action="store_true", help="write no TensorBoard events")
    group.add_argument("--resume", action="store_true", help="continue from the newest good training state")
    group.add_argument("--overwrite", action="store_true", help="replace checkpoints of the same name")
    add_device_options(parser)
    if model_type == "baseline":
        parser.set_defaults(loss_scales="64", loss_weight_32=0.0)


def parse_training_options(parser, argv=None):
    """The command line of a training script. Raises InputError for options about a validation that is not asked for."""
    args = parser.parse_args(argv)
    if not args.val_every:
        refuse_without_effect(parser, args, ["val_split", "val_images"], "without --val_every")
    return args


def check_options(args) -> None:
    """Raises InputError for options that contradict each other or make no sense together."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", args.name):
        raise InputError(f"--name: found {args.name!r}, expected at most 100 letters, digits, dots, dashes and "
                         "underscores, for the names of files")
    if args.resume and args.overwrite:
        raise InputError("--resume and --overwrite: found both, expected one: continue what is there, or replace it")
    beyond = [epoch for epoch in args.save_epochs or [] if epoch > args.epochs]
    if beyond:
        raise InputError(f"--save_epochs: found {beyond[0]}, expected at most {args.epochs}, the number of --epochs")
    if args.lr_schedule == "cosine" and args.learning_rate < LEARNING_RATE_MIN:
        raise InputError(f"--learning_rate: found {args.learning_rate:g}, expected at least {LEARNING_RATE_MIN:g}, "
                         "where the cosine schedule ends; or add --lr_schedule constant")
    if args.ema_decay == 1:
        raise InputError("--ema_decay: found 1, which never moves from the initial weights; expected less")


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


def check_same_run(path, state: dict, args, content_hash: str, num_steps: int) -> None:
    """Raises InputError if a resumed run would not be the run that was saved."""
    parametrization = state["options"].get("parametrization", "eps")
    older = {"parametrization": parametrization, "loss_target": parametrization}    # what older states do not say
    older |= {"native_32": False} if hasattr(args, "native_32") else {}
    saved, given = {**older, **state["options"]}, plain_options(args)
    saved["dataset"] = without_slash(saved["dataset"])          # older states say what was given
    for key in DECISIVE_OPTIONS:
        if key in saved and saved[key] != given.get(key):
            raise InputError(f"--{key}: found {given.get(key)}, but {path} was trained with {saved[key]}; give the "
                             "same options to --resume, or another --name")
    if state["dataset_hash"] != content_hash:
        raise InputError(f"--dataset: the images in {args.dataset} are not the ones {path} was trained on; use the "
                         "same images, or another --name")
    if state["num_steps"] != num_steps and args.lr_schedule != "constant":
        raise InputError(f"--epochs: found a run of {num_steps} steps, but {path} belongs to one of "
                         f"{state['num_steps']}; the cosine schedule is sized for that, give the same --epochs and "
                         "--max_steps")
    if state["step"] > num_steps:
        raise InputError(f"--epochs: found a run of {num_steps} steps, but {path} is at step {state['step']} already")
