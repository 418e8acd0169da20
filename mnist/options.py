"""The options that the sampling verbs share, and their meaning for a model."""
from engine.command_line import real_number, whole_number
from engine.errors import InputError

SOLVERS = {"euler": "ddim", "midpoint": "midpoint", "heun": "heun", "multistep": "multistep"}

# Sizes of the UNet. fast: a model that draws digits after a few minutes on a CPU; latent: for latents of 4x4.
PRESETS = {
    "documented": {"base_channels": 32, "channel_multipliers": [1, 2, 3, 3], "layers_per_block": 1,
                   "attention_levels": [3], "patch_size": 1},
    "fast": {"base_channels": 48, "channel_multipliers": [1, 2], "layers_per_block": 1, "attention_levels": [1],
             "patch_size": 2},
    "latent": {"base_channels": 64, "channel_multipliers": [1, 2], "layers_per_block": 1, "attention_levels": [0, 1],
               "patch_size": 1},
}


def add_sampling_options(parser, how: bool = True, required: bool = True) -> None:
    """Which model, and `how` it is sampled. required: whether there must be one."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--checkpoint", required=required, metavar="FILE", help="of a train_... verb")
    group.add_argument("--vae_checkpoint", default=None, metavar="FILE", help="its VAE, if that has moved")
    if not how:
        return
    group.add_argument("--mode", choices=("ddpm", "ddim"), default="ddim",
                       help="of a diffusion model; ddpm: 1000 steps, in latents 999, since a noise prediction at "
                            "timestep 999 says nothing of the image")
    group.add_argument("--sampler", choices=tuple(SOLVERS), default="euler",
                       help="euler: one call a step, of a diffusion model DDIM; multistep: one; midpoint, heun: two")
    group.add_argument("--sampling_steps", type=whole_number(1, 1000), default=50, metavar="STEPS")
    group.add_argument("--eta", type=real_number(0, 1), default=0.0, help="noise of DDIM: 0 none, 1 as DDPM")


def sampling_of(args, model) -> tuple:
    """The path, and solver and eta for `Model.images`. Raises InputError for options that do not fit the model."""
    from engine.sampling import check_solver
    from scheduler import CosineSteps
    check_solver(SOLVERS[args.sampler], args.eta)
    process = model.denoiser.processes[0]
    if args.mode == "ddpm":
        if not isinstance(process, CosineSteps):
            raise InputError(f"--mode: found ddpm, but {args.checkpoint} is a flow; leave the option out")
        if args.sampler != "euler":
            raise InputError(f"--sampler: found {args.sampler} with --mode ddpm, expected it left out")
        return model.path(model.num_timesteps, "ddpm"), {"solver": "ddim", "eta": 1.0}
    return model.path(args.sampling_steps), {"solver": SOLVERS[args.sampler], "eta": args.eta}


def class_labels(args, model, count: int, guidance_scale: float, class_label: int | None = None):
    """The class of every image, int64 [count]: class_label, or all classes in turn. None for a model without classes.

    Raises InputError for a class that the model does not know, and for guidance of a model that was always told a
    class.
    """
    import torch
    num_classes = model.denoiser.num_classes
    if num_classes is None:
        if class_label is not None or guidance_scale != 1:
            option = "--class_label" if class_label is not None else "guidance"
            raise InputError(f"{option}: {args.checkpoint} is a model without classes; train one with --conditioning, "
                             "or leave the option out")
        return None
    if class_label is not None and class_label >= num_classes:
        raise InputError(f"--class_label: found {class_label}, expected 0...{num_classes - 1}")
    if guidance_scale != 1 and not model.dropped_labels:
        raise InputError(f"guidance: found scale {guidance_scale:g}, but {args.checkpoint} was trained with "
                         "--label_dropout 0 and knows no prediction without a class; expected 1")
    return torch.arange(count) % num_classes if class_label is None else torch.full((count,), class_label)


def check_scored(args, model, guidance_scales) -> None:
    """Raises InputError where a model draws no grey digits of 28 pixels, which the scores are of, or where it does not
    know one of the scales or the way of sampling."""
    if (model.image_size, model.channels) != (28, 1):
        raise InputError(f"--checkpoint: {args.checkpoint} draws images of {model.image_size} pixels in "
                         f"{model.channels} channels, expected grey digits of 28")
    for scale in guidance_scales:
        class_labels(args, model, 1, scale)
    if "sampler" in vars(args):
        sampling_of(args, model)


def load_sets(args) -> tuple:
    """ImageSets of the training digits and of the test digits, grey and 28 pixels a side."""
    from data import load_images
    return tuple(load_images(args.dataset, split, cache_dir=args.cache_dir, size=28, channels=1)
                 for split in ("train", "test"))


def judge_of(args) -> tuple:
    """The Judge of --dataset's digits, and the two sets."""
    from evaluation.digit_scores import load_judge
    sets = load_sets(args)
    return load_judge(*sets, args.cache_dir), sets
