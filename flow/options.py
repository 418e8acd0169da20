"""The options that training and generation share, and their names in older command lines."""
from engine.command_line import real_number, whole_number
from engine.errors import InputError
from engine.options import SOLVERS, add_correction_options
from networks.presets import NETWORKS, OUTPUTS, PRESETS, TIME_SCALE, UNET_SIZES

LEADING = ("near", "fused", "clock")        # kinds of --timesteps in which the coarse scale leads
LEAD = (0.0, 2.0)                           # the default of their ranges, in log SNR
GRIDS = ("uniform", "shift", "optimised")
ORDERS = {"ddim": 1, "heun": 2, "midpoint": 2, "multistep": 2}         # of the solvers
USUAL_GUIDANCE = 4.0
PRESET_FLAGS = ("hidden_size", "depth", "num_heads", "mlp_ratio", "patch_size")
ONLY_OF_DIT = ("preset", "num_heads", "mlp_ratio", "qk_norm", "time_scale", "output")

# Name of an option in earlier command lines -> its name here.
OLDER_NAMES = {"model.preset": "preset", "model.patch_size": "patch_size", "model.hidden_size": "hidden_size",
               "model.depth": "depth", "model.num_heads": "num_heads", "model.mlp_ratio": "mlp_ratio",
               "model.lr": "learning_rate", "lr": "learning_rate", "model.cfg_scale": "guidance_scale",
               "cfg_scale": "guidance_scale", "model.denoise_timesteps": "num_steps", "denoise_timesteps": "num_steps",
               "inference_timesteps": "num_steps", "model.class_dropout_prob": "label_dropout",
               "class_dropout_prob": "label_dropout", "dataset_name": "dataset", "save_dir": "checkpoint_dir",
               "load_dir": "checkpoint_dir", "save_interval": "save_every", "eval_interval": "val_every",
               "log_interval": "log_every", "model.use_stable_vae": "vae", "use_stable_vae": "vae"}


def refuse_older_names(arguments, **other_names: str) -> None:
    """Raises InputError for an option of the earlier implementation, with its new name; other_names: those of this
    command that differ from OLDER_NAMES."""
    known = {**OLDER_NAMES, **other_names}
    for argument in arguments:
        name = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and name in known:
            raise InputError(f"--{name}: is called --{known[name]} here; give that instead")


def add_network_options(parser) -> None:
    """--preset, a flag for each of its sizes, and what the network puts out."""
    group = parser.add_argument_group("network")
    group.add_argument("--network", choices=NETWORKS, default="dit",
                       help="dit: the transformer. unet: a UNet with --hidden_size channels at its first level, twice "
                            "as many at the second, and --depth residual blocks a level; sizes left out: "
                            + ", ".join(f"{flag} {size}" for flag, size in UNET_SIZES.items()))
    group.add_argument("--preset", choices=PRESETS, default="small", help="sizes that the flags below leave out")
    group.add_argument("--hidden_size", type=whole_number(4, 8192), default=None, help="numbers per token")
    group.add_argument("--depth", type=whole_number(1, 256), default=None, help="blocks")
    group.add_argument("--num_heads", type=whole_number(1, 256), default=None, help="attention heads per block")
    group.add_argument("--mlp_ratio", type=real_number(0, 64, open_below=True), default=None,
                       help="hidden numbers of the MLP per number of a token")
    group.add_argument("--patch_size", type=whole_number(1, 1024), default=None, help="side of the square of a token")
    group.add_argument("--qk_norm", action="store_true", help="norm queries and keys")
    group.add_argument("--time_scale", type=real_number(0, open_below=True), default=TIME_SCALE,
                       help="what flow time is multiplied with before its sines; published weights have 1")
    group.add_argument("--scales", type=whole_number(2, 4096), nargs=2, default=None, metavar=("FINE", "COARSE"),
                       help="two scales in one network, each with a time of its own: sides in pixels, as in 64 32; "
                            "left out: one")
    group.add_argument("--bands", action="store_true",
                       help="one image in two parts, its 2x2 mean and the rest, each with a time of its own: the "
                            "network has the inputs and outputs of one scale")
    group.add_argument("--output", choices=OUTPUTS, default="velocity",
                       help="what the last layer puts out: the velocity, the clean image, or what the best affine "
                            "velocity leaves")


def check_scales(args, default_size: int) -> None:
    """Two scales decide the size of the images. Raises InputError for sides that do not fit, another --image_size, and
    options that two bands exclude."""
    if args.bands:
        found = {"--scales": args.scales is not None, "--timesteps fused": args.timesteps == "fused"}
        for option, is_found in found.items():
            if is_found:
                raise InputError(f"--bands: found with {option}, expected it without")
    if args.scales is None:
        return
    fine, coarse = args.scales
    if fine != 2 * coarse:
        raise InputError(f"--scales: found {fine} {coarse}, expected a side and half of it, as in 64 32")
    if args.image_size not in (default_size, fine):
        raise InputError(f"--image_size: found {args.image_size} with --scales {fine} {coarse}, expected {fine}; leave "
                         "it out")
    args.image_size = fine


def fill_preset(args) -> None:
    """Give every size that no flag named the value of the preset; a flag beats its preset."""
    sizes = PRESETS[args.preset] if args.network == "dit" else UNET_SIZES
    for flag in PRESET_FLAGS:
        if getattr(args, flag) is None:
            setattr(args, flag, sizes.get(flag))


def add_sampling_options(parser) -> None:
    """--num_steps, --solver, the grid, guidance, and the correction of exposure bias."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--num_steps", type=whole_number(1, 100_000), default=32, help="steps from noise to image")
    group.add_argument("--solver", choices=[solver for solver in SOLVERS if solver in ORDERS], default="ddim",
                       help="ddim: Euler's steps, one call each; multistep: one call, order two; midpoint and heun: "
                            "two calls, order two")
    group.add_argument("--grid", choices=GRIDS, default="uniform",
                       help="times of the steps: even; shifted by --shift; or optimised, measured on this model")
    add_shift_and_guidance_options(group, scale=None)
    add_correction_options(group)


def add_shift_and_guidance_options(group, scale: float | None) -> None:
    """--shift, --coarse_shift, --guidance_scale (default `scale`; None: the model decides, see `guidance_scale_of`),
    --guidance_interval and --guidance_reuse."""
    left_out = "" if scale else f"; left out: {USUAL_GUIDANCE:g}, or 1 for a model that cannot be guided"
    group.add_argument("--shift", type=real_number(0, open_below=True), default=1.0,
                       help="of --grid shift; below 1: more steps near the noise")
    group.add_argument("--coarse_shift", type=real_number(0, open_below=True), default=1.0, metavar="SHIFT",
                       help="of a model of two scales or bands: above 1 the coarse one leads, by 2 log(SHIFT) in log "
                            "SNR")
    group.add_argument("--guidance_scale", type=real_number(0, 1000), default=scale,
                       help=f"classifier-free guidance; 1: the class alone, 0: no class{left_out}")
    group.add_argument("--guidance_interval", type=real_number(0, 1), nargs=2, default=None, metavar=("LOW", "HIGH"),
                       help="times between which guidance acts; left out: always")
    group.add_argument("--guidance_reuse", type=real_number(0), default=0.0, metavar="LOG_SNR",
                       help="the difference that guides is used again while log SNR rises by no more than this, and "
                            "such a step costs one call; 0: measured in every step")


def guidance_scale_of(scale: float | None, is_guidable: bool) -> float:
    """--guidance_scale, where it was left out (None) as its help says. is_guidable: of the model."""
    return (USUAL_GUIDANCE if is_guidable else 1.0) if scale is None else scale


def check_guides(args) -> None:
    """Raises InputError for options of guidance where --guidance_scale 1 guides nothing."""
    for option, value in (("guidance_interval", args.guidance_interval), ("guidance_reuse", args.guidance_reuse)):
        if value and args.guidance_scale == 1:
            found = " ".join(f"{number:g}" for number in (value if isinstance(value, list) else [value]))
            raise InputError(f"--{option}: found {found}, which has no effect with --guidance_scale 1; leave it out, "
                             "or name a scale")


def interval_in_log_snr(interval, process):
    """A guidance interval in log SNR. interval: in the process's time, from noise to image; None stays None.

    Raises InputError if its ends are in the wrong order.
    """
    if interval is None:
        return None
    import torch
    low, high = interval
    if low > high:
        raise InputError(f"--guidance_interval: found {low:g} {high:g}, expected the smaller number first")
    return tuple(process.log_snr(torch.tensor([low, high], dtype=torch.float64)).tolist())
