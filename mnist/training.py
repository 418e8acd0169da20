"""The options that the training verbs of this family share.

A verb is a page of defaults: `run(description, name, process, latent, ...)`.
"""
from argparse import Namespace

from data import add_data_options
from engine.command_line import Parser, real_number, refuse_without_effect, whole_number
from engine.errors import InputError
from engine.experiment import (add_experiment_options, new_folder, refuse_others, saved_options,
                               train_into_folder, work_in)
from engine.options import TIME_SAMPLINGS, add_training_options
from networks.presets import CONDITIONAL_UNETS, CONDITIONINGS

# Defaults with --fast, of which max_steps counts where no length is given.
FAST = {"pixels": {"batch_size": 32, "learning_rate": 2e-3, "max_steps": 600, "preset": "fast"},
        "vae": {"batch_size": 64, "learning_rate": 2e-3, "max_steps": 150, "base_channels": 32,
                "channel_multipliers": [1, 2], "patch_size": 2},
        "latents": {"batch_size": 64, "learning_rate": 2e-3, "max_steps": 1500}}
OUTPUTS = {"ddpm": ("eps", "v"), "flow": ("velocity",)}        # usually the first; in pixels with --fast the last


def parser_of(description: str, name: str, fast: dict) -> Parser:
    """Data, training and output options, with this family's defaults. fast: an entry of FAST."""
    parser = Parser(description)
    parser.fast = fast
    add_data_options(parser, columns=True)
    data = parser.add_argument_group("images")
    data.add_argument("--split", default="train", help="images to train on")
    data.add_argument("--image_size", type=whole_number(8, 1024), default=None, metavar="PIXELS",
                      help="side of the images; left out: as the data set has them")
    data.add_argument("--channels", type=int, choices=(1, 3), default=None, help="1: grey, 3: colour; likewise")
    add_training_options(parser, name)
    group = parser.add_argument_group("training")
    group.add_argument("--weight_decay", type=real_number(0), default=1e-4, help="of AdamW")
    group.add_argument("--fast", action="store_true",
                       help=f"a first result in minutes on a CPU: a small network, batches of {fast['batch_size']}, "
                            f"rate {fast['learning_rate']:g}, and {fast['max_steps']} steps unless --epochs or "
                            "--max_steps is given")
    add_experiment_options(parser)
    parser.set_defaults(dataset="mnist", batch_size=512, learning_rate=1e-3, ema_decay=0.995, no_tensorboard=True)
    return parser


def add_size_options(parser, **sizes):
    """Sizes that the UNet and the VAE have. sizes: their defaults. Returns the group of options."""
    group = parser.add_argument_group("network")
    group.add_argument("--base_channels", type=whole_number(8, 4096), metavar="CHANNELS")
    group.add_argument("--channel_multipliers", type=whole_number(1, 64), nargs="+", metavar="FACTOR",
                       help="channels per level, in base channels")
    group.add_argument("--patch_size", type=whole_number(1, 16), metavar="PIXELS",
                       help="the network sees patches of so many pixels as one")
    parser.set_defaults(**sizes)
    return group


def add_unet_options(parser, preset: str) -> None:
    """Sizes of the UNet. A size that is left out comes from the preset."""
    group = add_size_options(parser)
    group.add_argument("--preset", choices=tuple(CONDITIONAL_UNETS), default=preset, help="sizes where none are given")
    group.add_argument("--layers_per_block", type=whole_number(1, 16), default=None, metavar="BLOCKS")
    group.add_argument("--attention_levels", type=whole_number(0, 16), nargs="*", default=None, metavar="LEVEL",
                       help="0 is the finest")


def parse(parser, argv=None):
    """The options. With --resume they are those of the resumed experiment. The experiment folder is made or found."""
    args = parser.parse_args(argv, Namespace(epochs=None))          # so that its default is told from the same number
    folder, defaults = args.resume, {}
    if folder is not None:
        defaults = {key: value for key, value in saved_options(folder, args.experiments).items() if key in args}
    elif args.fast:
        defaults = {key: value for key, value in parser.fast.items() if key != "max_steps" or args.epochs is None}
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    refuse_others(parser, args)
    args.resume = folder is not None
    work_in(args, folder or new_folder(args.experiments, args.name))
    del args.experiments                    # the folder may be moved between two parts of a run
    return args


def run(description: str, name: str, process: str, latent: bool = False, conditioning: str = "none") -> None:
    """A training verb. process: ddpm or flow; latent: in the latents of --vae_checkpoint; conditioning: its default."""
    outputs = OUTPUTS[process]
    parser = parser_of(description, name, FAST["latents"] if latent else {**FAST["pixels"], "output": outputs[-1]})
    add_unet_options(parser, "latent" if latent else "documented")
    group = parser.add_argument_group("model")
    if latent:
        group.add_argument("--vae_checkpoint", metavar="FILE", help="a VAE that train_vae made; needed")
    group.add_argument("--conditioning", choices=CONDITIONINGS, default=conditioning,
                       help="how the network learns of the class: a learned map beside the image, or attention to a "
                            "vector")
    group.add_argument("--label_dropout", type=real_number(0, 1), default=0.1,
                       help="share of labels that become the null class, which guidance needs")
    group.add_argument("--output", choices=outputs, default=outputs[0],
                       help="what the network puts out: " + ("image - noise" if process == "flow" else "eps is the "
                            "noise; v can start at timestep 999" + ("" if latent else ", and is taken with --fast")))
    if process == "flow":
        group.add_argument("--time_sampling", choices=TIME_SAMPLINGS, default="logit_normal",
                           help="how the times of a batch are drawn")
    args = parse(parser)
    args.process = process
    if latent and args.vae_checkpoint is None:
        raise InputError("--vae_checkpoint: left out, expected a VAE; train one with python -m mnist.train_vae")
    if args.conditioning == "none":
        refuse_without_effect(parser, args, ["label_dropout"], "without --conditioning")
    from mnist.tasks import denoiser_task
    train_into_folder(denoiser_task, args)
