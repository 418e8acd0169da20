"""What the training verbs of this family share: options, experiment folders, and the tasks of the engine's loop.

A verb is a page of defaults: `run(description, name, process, latent, ...)`.
"""
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from data import add_data_options, load_images
from engine.command_line import Parser, plain_options, real_number, refuse_without_effect, whole_number
from engine.denoising_task import TIME_SAMPLINGS, DenoisingTask
from engine.errors import InputError
from engine.files import expecting, save_png, sha256_of_file, write_json
from engine.loop import train
from engine.options import add_training_options
from evaluation import figures
from mnist.grids import grid
from mnist.models import FAMILY, PRESETS, Model, build_denoiser, load_vae, padded
from networks.conditional_unet import CONDITIONINGS

FAST_BATCH, FAST_RATE = 64, 2e-3
PREVIEW_COLUMNS = 10
PREVIEW_GUIDANCE = 2.0
FOLDERS = ("checkpoints", "epoch_samples", "final_samples", "denoising_steps")


def parser_of(description: str, name: str) -> Parser:
    """Data, training and output options, with this family's defaults."""
    parser = Parser(description)
    parser.conflict_handler = "resolve"             # --resume is a folder here
    add_data_options(parser)
    data = parser.add_argument_group("images")
    data.add_argument("--split", default="train", help="images to train on")
    data.add_argument("--image_size", type=whole_number(8, 1024), default=28, metavar="PIXELS",
                      help="side of the images")
    data.add_argument("--channels", type=int, choices=(1, 3), default=1, help="1: grey, 3: colour")
    add_training_options(parser, name)
    group = parser.add_argument_group("training")
    group.add_argument("--weight_decay", type=real_number(0), default=1e-4, help="of AdamW")
    group.add_argument("--fast", action="store_true",
                       help=f"a first result in minutes on a CPU: a small network, batches of {FAST_BATCH}, "
                            f"rate {FAST_RATE:g}")
    group = parser.add_argument_group("output")
    group.add_argument("--experiments", type=Path, default=Path("experiments"), metavar="FOLDER",
                       help="where the experiment folder YYYYMMDD_HHMMSS-NAME is made")
    group.add_argument("--sample_every", type=whole_number(0), default=10, metavar="EPOCHS",
                       help="interval of the pictures in epoch_samples; 0: none")
    group.add_argument("--resume", type=Path, default=None, metavar="FOLDER",
                       help="continue the experiment in that folder, with its options")
    parser.set_defaults(dataset="mnist", batch_size=512, learning_rate=1e-3, ema_decay=0.995, no_tensorboard=True)
    return parser


def add_unet_options(parser, preset: str) -> None:
    """Sizes of the UNet; left out, they are those of a preset."""
    group = parser.add_argument_group("network")
    group.add_argument("--preset", choices=tuple(PRESETS), default=preset, help="sizes where none are given")
    group.add_argument("--base_channels", type=whole_number(8, 4096), default=None, metavar="CHANNELS")
    group.add_argument("--channel_multipliers", type=whole_number(1, 64), nargs="+", default=None, metavar="FACTOR",
                       help="channels per level, in base channels")
    group.add_argument("--layers_per_block", type=whole_number(1, 16), default=None, metavar="BLOCKS")
    group.add_argument("--attention_levels", type=whole_number(0, 16), nargs="*", default=None, metavar="LEVEL",
                       help="0 is the finest")
    group.add_argument("--patch_size", type=whole_number(1, 16), default=None, metavar="PIXELS",
                       help="the network sees patches of so many pixels as one")


def parse(parser, argv=None):
    """Options, those of the resumed experiment where there is one; the experiment folder is made or found."""
    args = parser.parse_args(argv)
    if args.resume is not None:
        record = args.resume / "config.json"
        if not record.is_file():
            raise InputError(f"--resume: {args.resume} is no experiment folder (it has no config.json); give one of "
                             f"those in {args.experiments}")
        with expecting(record, "options of an experiment"):
            saved = json.loads(record.read_text())
            if saved["verb"] != Path(sys.argv[0]).stem:
                raise InputError(f"--resume: {args.resume} is an experiment of {saved['verb']}; resume it with that")
            parser.set_defaults(**{key: value for key, value in saved["options"].items() if key in vars(args)})
        folder = args.resume
        args = parser.parse_args(argv)
        args.resume = True
    else:
        if args.fast:
            is_latent = parser.get_default("preset") == "latent"
            parser.set_defaults(batch_size=FAST_BATCH, learning_rate=FAST_RATE,
                                preset="latent" if is_latent else "fast")
            args = parser.parse_args(argv)
        folder = args.experiments / f"{time.strftime('%Y%m%d_%H%M%S')}-{args.name}"
        while folder.exists():                          # another run of that name began in this second
            folder = folder.with_name(folder.name + "-again")
    args.checkpoint_dir, args.output_dir = folder / "checkpoints", folder
    del args.experiments                    # the folder may be moved between two parts of a run
    return args


def note_experiment(args) -> None:
    """The folders of an experiment and its config.json; says how to go on."""
    for name in FOLDERS:
        (args.output_dir / name).mkdir(parents=True, exist_ok=True)
    if not args.resume:
        options = {key: value for key, value in plain_options(args).items()
                   if key not in ("resume", "checkpoint_dir", "output_dir")}
        write_json(args.output_dir / "config.json", {"verb": Path(sys.argv[0]).stem, "options": options})
    print(f"experiment folder: {args.output_dir} (after a stop, add --resume {args.output_dir})", flush=True)


def training_images(args):
    """ImageSet of the training split, and its images padded: uint8 [N, C, S, S]."""
    images = load_images(args.dataset, args.split, cache_dir=args.cache_dir, size=args.image_size,
                         channels=args.channels)
    return images, padded(torch.from_numpy(np.array(images.images)))


class Pictures:
    """What a task of this family writes besides the loop's own files."""

    def write_preview(self, networks, step: int, epoch: float) -> None:
        """A grid of samples into epoch_samples, the last one into final_samples too."""
        picture = grid(self.preview(networks), PREVIEW_COLUMNS)
        is_last = step == self.num_steps
        for folder in ("epoch_samples", "final_samples")[:1 + is_last]:
            save_png(self.args.output_dir / folder / f"epoch_{epoch:g}.png", picture)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        args = self.args
        return min(args.epochs * (self.num_images // args.batch_size), args.max_steps or sys.maxsize)

    def loss_figure(self, logs):
        """A panel per loss."""
        return figures.loss_curves(logs, {column: column for column in self.columns})


class DigitTask(Pictures, DenoisingTask):
    """A denoiser of digits, in pixels or in latents."""

    def __init__(self, model: Model, images, labels, image_set, args, device, facts: dict):
        vae = model.vae
        super().__init__(model.denoiser, images, labels, image_set.content_hash, args, device,
                         encoder=None if vae is None else vae.encode)
        self.model, self.facts = model, facts
        if vae is not None:
            self.frozen, self.frozen_hashes = {"vae": vae}, {"vae": facts["vae_hash"]}

    def content(self) -> dict:
        """What `mnist.models.load_model` reads."""
        return {"family": FAMILY, **self.facts}

    def preview(self, networks) -> torch.Tensor:
        """Two rows, the classes in order."""
        count = 2 * PREVIEW_COLUMNS
        labels = None if self.labels is None else torch.arange(count) % self.denoiser.num_classes
        network, self.denoiser.network = self.denoiser.network, _Called(networks["model"], self.denoiser.network)
        try:
            how = {} if self.args.process == "ddpm" else {"solver": "midpoint"}
            num_steps = 50 if self.args.process == "ddpm" else 10
            return self.model.images(self.model.path(num_steps), self.args.seed, range(count), labels, PREVIEW_GUIDANCE,
                                     precision=self.args.precision, **how)
        finally:
            self.denoiser.network = network


class _Called:
    """A function in a network's place."""

    def __init__(self, function, network):
        self.function, self.network = function, network

    def __call__(self, *inputs):
        return self.function(*inputs)

    def parameters(self):
        return self.network.parameters()


def denoiser_task(args, device, group) -> DigitTask:
    """The task of every verb but train_vae."""
    image_set, images = training_images(args)
    vae = None
    if getattr(args, "vae_checkpoint", None) is not None:
        vae = load_vae(args.vae_checkpoint).to(device)
        if vae.settings["shape"] != list(images.shape[1:]):
            raise InputError(f"--vae_checkpoint: {args.vae_checkpoint} is of images {vae.settings['shape']}, the data "
                             f"set's are {list(images.shape[1:])}; give --image_size and --channels as for the VAE")
    num_classes = 0
    if args.conditioning != "none":
        if image_set.labels is None:
            raise InputError(f"--conditioning: found {args.conditioning}, but {args.dataset} {args.split} has no "
                             "labels; expected none")
        num_classes = int(image_set.labels.max()) + 1
    settings = {"shape": list(images.shape[1:] if vae is None else vae.latent_shape), **PRESETS[args.preset]}
    settings |= {key: getattr(args, key) for key in PRESETS[args.preset] if getattr(args, key) is not None}
    settings |= {"conditioning": args.conditioning, "num_classes": num_classes}
    torch.manual_seed(args.seed)
    denoiser = build_denoiser(args.process, args.output, settings)
    facts = {"model": "denoiser", "name": args.name, "process": args.process, "kind": args.output,
             "settings": denoiser.network.settings, "image_size": args.image_size, "channels": args.channels,
             "vae_checkpoint": vae and str(args.vae_checkpoint),
             "vae_hash": vae and sha256_of_file(args.vae_checkpoint)}
    note_experiment(args)
    return DigitTask(Model(denoiser, vae, args.image_size, args.name), images, image_set.labels, image_set, args,
                     device, facts)


def run(description: str, name: str, process: str, latent: bool = False, conditioning: str = "none") -> None:
    """A training verb. process: ddpm or flow; latent: in the latents of --vae_checkpoint; conditioning: its default."""
    parser = parser_of(description, name)
    add_unet_options(parser, "latent" if latent else "documented")
    group = parser.add_argument_group("model")
    if latent:
        group.add_argument("--vae_checkpoint", required=True, metavar="FILE", help="a VAE that train_vae made")
    group.add_argument("--conditioning", choices=CONDITIONINGS, default=conditioning,
                       help="how the network learns of the class: a learned map beside the image, or attention to a "
                            "vector")
    group.add_argument("--label_dropout", type=real_number(0, 1), default=0.1,
                       help="share of labels that become the null class, which guidance needs")
    outputs = ("eps", "v") if process == "ddpm" else ("velocity",)
    group.add_argument("--output", choices=outputs, default=outputs[0],
                       help="what the network puts out; v can start at timestep 999" if process == "ddpm" else
                            "what the network puts out: image - noise")
    if process == "flow":
        group.add_argument("--time_sampling", choices=TIME_SAMPLINGS, default="logit_normal",
                           help="how the times of a batch are drawn")
    args = parse(parser)
    args.process = process
    if args.conditioning == "none":
        refuse_without_effect(parser, args, ["label_dropout"], "without --conditioning")
    train(denoiser_task, args)
