"""The options that the sampling verbs share, and their meaning for a model."""
from argparse import Namespace
from pathlib import Path

from data import add_data_options, columns_in
from engine.command_line import (Parser, add_device_options, real_number, refuse_without_effect, seed_number,
                                 whole_number)
from engine.errors import InputError

SOLVERS = {"euler": "ddim", "midpoint": "midpoint", "heun": "heun", "multistep": "multistep"}
HOW = ("mode", "sampler", "sampling_steps", "eta")
USUAL = ("euler", 50)            # sampler and steps where none are given


def looking_parser(description: str, output: str, metavar: str | None = None, precision: str | None = "auto"):
    """The parser of a verb that looks at models of MNIST's digits: data, --seed, --output, --overwrite, device.

    output: the default; with metavar PREFIX the stem of a picture and a record. precision: None leaves it out.
    """
    parser, is_prefix = Parser(description), metavar == "PREFIX"
    add_data_options(parser, columns=True)
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--output", type=Path, default=Path(output), metavar=metavar,
                        help="for PREFIX.png and PREFIX.json" if is_prefix else None)
    parser.add_argument("--overwrite", action="store_true",
                        help="replace what is there" if is_prefix else "replace --output")
    add_device_options(parser, precision)
    parser.set_defaults(dataset="mnist")
    return parser


def add_sampling_options(parser, how: bool = True, required: bool = True, usual: tuple = USUAL) -> None:
    """Which model, and `how` it is sampled. required: whether there must be one; usual: as in `sampling_of`."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--checkpoint", required=required, metavar="FILE", help="of a train_... verb")
    group.add_argument("--vae_checkpoint", default=None, metavar="FILE", help="its VAE, if that has moved")
    if not how:
        return
    group.add_argument("--mode", choices=("ddpm", "ddim"), default="ddim",
                       help="of a diffusion model; ddpm: 1000 steps, in latents 999, since a noise prediction at "
                            "timestep 999 says nothing of the image")
    group.add_argument("--sampler", choices=tuple(SOLVERS), default=None,
                       help="euler: one call a step, of a diffusion model DDIM; multistep: one; midpoint, heun: two; "
                            f"left out: {usual[0]}, with --eta euler")
    group.add_argument("--sampling_steps", type=whole_number(1, 1000), default=None, metavar="STEPS",
                       help=f"left out: {usual[1]}")
    group.add_argument("--eta", type=real_number(0, 1), default=0.0, help="noise of DDIM: 0 none, 1 as DDPM")


def refuse_sampling(args, options, where: str) -> None:
    """As `refuse_without_effect`, for options of `add_sampling_options`, and others whose default is None."""
    parser = Parser("")
    add_sampling_options(parser)
    refuse_without_effect(parser, args, options, where)


def sampling_of(args, model, usual: tuple = USUAL) -> tuple:
    """The path, and solver and eta for `Model.drawing`. usual: sampler and steps where args leave them out; args get
    them, for the record. Raises InputError for options that do not fit the model, or each other."""
    from scheduler import CosineSteps
    process = model.denoiser.processes[0]
    if args.mode == "ddpm":
        if not isinstance(process, CosineSteps):
            raise InputError(f"--mode: found ddpm, but {args.checkpoint} is a flow; leave the option out")
        refuse_sampling(args, HOW[1:], "with --mode ddpm")
        return model.path(model.num_timesteps), {"solver": "ddim", "eta": 1.0}
    if args.eta > 0 and args.sampler not in (None, "euler"):
        raise InputError(f"--eta: found {args.eta:g} with --sampler {args.sampler}, expected --sampler euler (the "
                         "others are deterministic, or add all noise anew)")
    args.sampler = args.sampler or ("euler" if args.eta > 0 else usual[0])
    args.sampling_steps = args.sampling_steps or usual[1]
    return model.path(args.sampling_steps), {"solver": SOLVERS[args.sampler], "eta": args.eta}


def classes_asked(args, model, guidance_scale: float, class_label: int | None = None):
    """The classes that take turns: class_label, or all. None for a model without classes. Raises InputError for a class
    that the model does not know, and for guidance of a model that was always told a class."""
    from engine.denoiser import check_guidance
    option = "--guidance_scales" if "guidance_scales" in args else "--guidance_scale"
    if model.classes is None:
        if class_label is not None or guidance_scale != 1:
            raise InputError(f"{option if class_label is None else '--class_label'}: {args.checkpoint} is a model "
                             "without classes; train one with --conditioning, or leave the option out")
        return None
    if class_label is not None and class_label not in model.classes:
        raise InputError(f"--class_label: found {class_label}, expected 0...{model.classes[-1]}")
    check_guidance(guidance_scale, model.is_guidable, args.checkpoint, option)
    return model.classes if class_label is None else [class_label]


def drawing_of(args, model, guidance_scale: float, class_label: int | None = None, usual: tuple = USUAL):
    """How the model's images are drawn, an `engine.drawing.Drawing`. Raises InputError as `sampling_of` and
    `classes_asked` do."""
    path, how = sampling_of(args, model, usual)
    classes = classes_asked(args, model, guidance_scale, class_label)
    return model.drawing(path, classes, guidance_scale, precision=args.precision, **how)


def check_draws_digits(model, path, option: str = "--checkpoint") -> None:
    """Raises InputError, naming `option`, for a model of other images than grey ones of 28 pixels, which judges score.
    path: its checkpoint."""
    if (model.image_size, model.channels) != (28, 1):
        raise InputError(f"{option}: {path} draws images of {model.image_size} pixels in {model.channels} channels, "
                         "expected grey digits of 28")


def judge_for(args):
    """The judge of the digits of --dataset, its training digits and its test digits. Raises InputError."""
    from evaluation import digit_scores
    return digit_scores.judge_of(args.dataset, args.cache_dir, **columns_in(vars(args)))


def digit_vae(path, device, option: str = "--checkpoint"):
    """The VAE in a checkpoint. Raises InputError, naming `option`, for one of other images than digits."""
    from mnist.models import load_vae
    vae = load_vae(path, option).to(device)
    if vae.settings["shape"] != [1, 32, 32]:
        raise InputError(f"{option}: {path} is a VAE of images {vae.settings['shape']}, expected one of grey digits, "
                         "padded to [1, 32, 32]")
    return vae


def scored_model(args, checkpoint, device, guidance_scales=None, with_classes: bool = False):
    """The model in a checkpoint, and the guidance scales that it is scored at: those given, else 1 and, of a model that
    can be guided, 2.

    Raises InputError where it draws no grey digits of 28 pixels, which the scores are of, where it does not know one of
    the scales or the way of sampling, and where it has no classes though `with_classes`.
    """
    from mnist.models import load_model
    model = load_model(checkpoint, device, args.vae_checkpoint)
    if with_classes and model.denoiser.num_classes is None:
        raise InputError(f"--checkpoint: {checkpoint} is a model without classes; train one with --conditioning")
    check_draws_digits(model, checkpoint)
    guidance_scales = guidance_scales or ([1.0, 2.0] if model.is_guidable else [1.0])
    args = Namespace(**{**vars(args), "checkpoint": checkpoint})
    for scale in guidance_scales:
        classes_asked(args, model, scale)
    if "sampler" in args:
        sampling_of(args, model)
    return model, guidance_scales
