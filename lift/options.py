"""The options that S1's commands share, and their choices."""
from pathlib import Path

from data import add_data_options, add_val_options
from engine import options
from engine.command_line import real_number, refuse_without_effect, whole_number
from engine.options import WEIGHTS
from networks.presets import DEFAULT_HIDDEN_DIMS, PARAMETRIZATIONS

DEFAULT_NAMES = {"baseline": "baseline", "lift": "lift_dual_timestep"}      # of runs, by the kind of model
TIMESTEP_KINDS = ("independent", "diagonal", "band", "fused", "clock")
LOSS_SCALES = ("both", "64")
LOSS_TARGETS = ("eps", "v")
SOLVERS = ("ddim", "multistep")         # one call a step
X32_MODES = ("joint", "from_64", "reconciled", "random", "fixed")
LEAD_SIZES = (1, 2, 3, 5)               # in log SNR, of the paths that are the diagonal with a lead
LEAD_NAMES = tuple(f"lead_{size}" for size in LEAD_SIZES)
PATH_TYPES = ("diagonal", "dp_64", "dp_total", "dp_directional", "dp_step", "dp_diagonal", "lead",
              *LEAD_NAMES, "unconstrained_64", "unconstrained_total", "greedy_64", "greedy_total", "identity_64",
              "identity_total")
PATH_NAMES = {"baseline": ("uniform", "dp", "lead"), "lift": PATH_TYPES}
DEFAULT_PATHS = {"baseline": ["uniform"], "lift": ["diagonal", "dp_64", "dp_total"]}
STEP_SIZES = ("index", "logsnr")
GRID_SPACES = ("timestep", "logsnr")
CHAIN_RULES = ("localization", "none", "eps_ode", "x0_ode")
NORMALIZATIONS = ("per_pixel", "both_sides")
PREDICTIONS = ("eps", "x0")


def add_training_options(parser, model_type: str) -> None:
    """The options that both training scripts share."""
    add_data_options(parser, columns=True)
    data = parser.add_argument_group("data")
    data.add_argument("--split", default="train", help="images to train on")
    add_val_options(data, "validation")
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
    """The command line of a training script. Raises InputError for options of a validation without --val_every."""
    args = parser.parse_args(argv)
    if not args.val_every:
        refuse_without_effect(parser, args, ["val_split", "val_images"], "without --val_every")
    return args


def add_checkpoint_option(group, help: str, several: bool = False) -> None:
    """Adds --checkpoint FILE, or, if there may be `several`, --checkpoints FILE... Earlier versions had options that
    named a checkpoint by its parts; these answer with the new spelling."""
    if several:
        group.add_argument("--checkpoints", "--checkpoint", nargs="+", action="each_once", required=True,
                           metavar="FILE",
                           help=help)
    else:
        group.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=help)
    for option in ("--epochs", "--name", "--checkpoint_dir"):
        group.add_argument(option, action="gone", const="the file itself, such as "
                           f"--checkpoint checkpoints/{DEFAULT_NAMES['lift']}_100ep.pth")


def add_generation_options(parser, solvers=SOLVERS) -> None:
    """Adds the options of generating images: --weights, --num_steps, --solver, --heatmap and so on. solvers: the
    choices of --solver."""
    group = parser.add_argument_group("generation")
    group.add_argument("--weights", choices=WEIGHTS, default="ema", help="averaged or raw weights")
    group.add_argument("--num_steps", type=whole_number(1), default=18, metavar="STEPS", help="network calls per image")
    group.add_argument("--solver", choices=solvers, default="ddim",
                       help="ddim: first order; others: second; heun, midpoint: two network calls a step")
    group.add_argument("--eta", type=real_number(0, 1), default=0.0,
                       help="noise added at each step: 0 deterministic, 1 ancestral (ddim only)")
    group.add_argument("--x32", choices=X32_MODES, default="joint",
                       help="joint: each scale by its own prediction; from_64: the 32 scale by the 2x2 mean of the 64 "
                       "prediction; reconciled: both by predictions that agree; random, fixed: the 32 branch drawn "
                       "anew at every step, or held at its start")
    group.add_argument("--batch_size", type=whole_number(1), default=64, metavar="IMAGES",
                       help="images generated at once; does not change them")
    group.add_argument("--compile", action="store_true",
                       help="torch.compile the model: minutes at the start, for many images on a GPU")
    group = parser.add_argument_group("correction and guidance")
    options.add_correction_options(group)
    group.add_argument("--guide", type=Path, default=None, metavar="FILE",
                       help="an earlier checkpoint of the same run, which images are guided away from; a second call "
                            "in every step where that acts")
    group.add_argument("--guide_noisy_32", action="store_true",
                       help="LIFT is guided by itself with pure noise as x_32; a second call likewise")
    group.add_argument("--guide_scale", type=real_number(0, 1000), default=2.0, metavar="SCALE",
                       help="of either: 1 is no guidance, 0 the guide alone")
    group.add_argument("--guide_interval", type=real_number(-20, 20), nargs=2, default=None, metavar=("LOW", "HIGH"),
                       help="log SNR of the 64 scale between which guidance acts; left out: always")
    group = parser.add_argument_group("path")
    group.add_argument("--heatmap", type=Path, default=None, metavar="FILE",
                       help="error map for the dp paths; left out: the one of this checkpoint in --heatmap_dir")
    group.add_argument("--heatmap_dir", type=Path, default=Path("results"), metavar="FOLDER", help="where heatmaps lie")
    group.add_argument("--grid", type=whole_number(2, 1000), default=30, metavar="POINTS", help="points of the heatmap")
    group.add_argument("--allow_mismatch", action="store_true", help="take another checkpoint's heatmap")
    group.add_argument("--step_size", choices=STEP_SIZES, default="index",
                       help="what the error maps are weighted with along a path")
    group.add_argument("--max_jump", type=whole_number(1, 99), default=5, metavar="CELLS",
                       help="how far one step may go in each direction")


AUTOGUIDANCE = ["guide", "guide_noisy_32", "guide_scale", "guide_interval"]


def refuse_unguided(refuse, args) -> None:
    """Raises InputError for options of guidance without --guide or --guide_noisy_32. refuse(options, where):
    `refuse_without_effect` of the command line."""
    if not (args.guide or args.guide_noisy_32):
        refuse(["guide_scale", "guide_interval"], "without --guide or --guide_noisy_32")


def add_path_options(parser) -> None:
    """Adds --paths, --num_steps, --max_jump, --step_size and --num_resamples."""
    group = parser.add_argument_group("paths")
    group.add_argument("--paths", nargs="+", action="each_once", choices=PATH_TYPES,
                       default=DEFAULT_PATHS["lift"], metavar="PATH",
                       help=f"paths to find and draw, of {', '.join(PATH_TYPES)}")
    group.add_argument("--num_steps", type=whole_number(1), default=18, metavar="STEPS", help="steps of every path")
    group.add_argument("--max_jump", type=whole_number(1, 99), default=5, metavar="CELLS",
                       help="most cells a step moves in each direction")
    group.add_argument("--step_size", choices=STEP_SIZES, default="index",
                       help="length of a step: distance in grid indices, or each scale's own change in log SNR")
    group.add_argument("--num_resamples", type=whole_number(0), default=100, metavar="TIMES",
                       help="bootstrap resamples of the images for the band around a path; 0: no band")
