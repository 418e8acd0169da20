"""Tasks of the engine's loop for this family, and the pictures that they write into an experiment folder."""
import sys
from pathlib import Path

import numpy as np
import torch

from data import load_images, native_form
from engine.command_line import command_words, plain_options
from engine.denoising_task import DenoisingTask
from engine.errors import InputError
from engine.files import sha256_of_file, write_json
from evaluation import figures
from mnist.models import EDGE_MULTIPLE, FAMILY, Model, build_denoiser, load_vae, padded
from mnist.options import PRESETS
from networks.conditional_unet import check_settings
from evaluation.small_images import grid

PREVIEW_COLUMNS = 10
PREVIEW_GUIDANCE = 2.0
FOLDERS = ("checkpoints", "epoch_samples", "final_samples", "denoising_steps")


def note_experiment(args, group) -> None:
    """Make the folders of an experiment and its config.json, and print where they are; the main process does."""
    if not group.is_main:
        return
    for name in FOLDERS:
        (args.output_dir / name).mkdir(parents=True, exist_ok=True)
    if not args.resume:
        options = {key: value for key, value in plain_options(args).items()
                   if key not in ("resume", "checkpoint_dir", "output_dir")}
        write_json(args.output_dir / "config.json", {"verb": Path(sys.argv[0]).stem, "options": options})
    print(f"experiment folder: {args.output_dir}", flush=True)


def form_of_images(args) -> list[int]:
    """[C, S, S] of the padded images. Sizes left out become the data's own, which its first image tells."""
    if None in (args.image_size, args.channels):
        size, channels = native_form(args.dataset, args.split)
        args.image_size, args.channels = args.image_size or size, args.channels or channels
    side = args.image_size + -args.image_size % EDGE_MULTIPLE
    return [args.channels, side, side]


def training_images(args):
    """ImageSet of the training split, and its images padded: uint8 [N, C, S, S]."""
    images = load_images(args.dataset, args.split, cache_dir=args.cache_dir, size=args.image_size,
                         channels=args.channels)
    return images, padded(torch.from_numpy(np.array(images.images)))


class Pictures:
    """The pictures that a task of this family writes besides the loop's own files."""

    def pictures(self, networks, step: int, epoch: float) -> dict:
        """A grid of samples into epoch_samples, the last one into final_samples too; `more_pictures` beside them."""
        pictures = {"epoch_samples": grid(self.preview(networks), PREVIEW_COLUMNS), **self.more_pictures(networks)}
        if step == self.num_steps:
            pictures["final_samples"] = pictures["epoch_samples"]
        return {self.args.output_dir / folder / f"epoch_{epoch:g}.png": picture for folder, picture in pictures.items()}

    def more_pictures(self, networks) -> dict:
        """Pictures that only this model has: folder -> picture."""
        return {}

    def resume_words(self) -> list[str]:
        """The verb and the folder, which holds all other options."""
        words = command_words()
        return [*words[:1 + (words[0] == "-m")], "--resume", str(self.args.output_dir)]

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
            self.frozen_hashes = {"vae": facts["vae_hash"]}

    def content(self) -> dict:
        """What `mnist.models.load_model` reads."""
        return {"family": FAMILY, **self.facts}

    def drawn(self, networks, draw, count: int):
        """draw(path, seed, indices, labels, w, options) of `count` images with the classes in order."""
        labels = None if self.labels is None else torch.arange(count) % self.denoiser.num_classes
        network, self.denoiser.network = self.denoiser.network, _Called(networks["model"], self.denoiser.network)
        try:
            is_flow = self.args.process == "flow"
            how = {"solver": "midpoint" if is_flow else "ddim", "precision": self.args.precision}
            return draw(self.model.path(10 if is_flow else 50), self.args.seed, range(count), labels, PREVIEW_GUIDANCE,
                        **how)
        finally:
            self.denoiser.network = network

    def preview(self, networks) -> torch.Tensor:
        """Two rows of generated images, the classes in order: uint8 [n, C, S, S]."""
        return self.drawn(networks, self.model.images, 2 * PREVIEW_COLUMNS)

    def more_pictures(self, networks) -> dict:
        """How five of them come out of the noise."""
        _, strip = self.drawn(networks, self.model.strip, 5)
        return {"denoising_steps": grid(strip.transpose(0, 1).flatten(0, 1), len(strip))}


class _Called:
    """A function in a network's place."""

    def __init__(self, function, network):
        self.function, self.network = function, network

    def __call__(self, *inputs):
        return self.function(*inputs)

    def parameters(self):
        return self.network.parameters()


def denoiser_task(args, device, group) -> DigitTask:
    """The task of every verb but train_vae. What cannot be is refused before the data set is decoded."""
    shape, vae = form_of_images(args), None
    if getattr(args, "vae_checkpoint", None) is not None:
        vae = load_vae(args.vae_checkpoint).to(device)
        if vae.settings["shape"] != shape:
            raise InputError(f"--vae_checkpoint: {args.vae_checkpoint} is of images {vae.settings['shape']}, the data "
                             f"set's are {shape}; give --image_size and --channels as for the VAE")
    settings = {"shape": shape if vae is None else list(vae.latent_shape), **PRESETS[args.preset]}
    settings |= {key: getattr(args, key) for key in PRESETS[args.preset] if getattr(args, key) is not None}
    settings |= {"conditioning": args.conditioning, "num_classes": 0}
    check_settings(**settings | {"num_classes": 1})         # how many there are, only the data tell
    image_set, images = training_images(args)
    if args.conditioning != "none":
        if image_set.labels is None:
            raise InputError(f"--conditioning: found {args.conditioning}, but {args.dataset} {args.split} has no "
                             "labels; expected none")
        settings["num_classes"] = int(image_set.labels.max()) + 1
    torch.manual_seed(args.seed)
    denoiser = build_denoiser(args.process, args.output, settings)
    facts = {"model": "denoiser", "name": args.name, "process": args.process, "kind": args.output,
             "settings": denoiser.network.settings, "image_size": args.image_size, "channels": args.channels,
             "vae_checkpoint": vae and str(args.vae_checkpoint),
             "vae_hash": vae and sha256_of_file(args.vae_checkpoint)}
    note_experiment(args, group)
    return DigitTask(Model(denoiser, vae, args.image_size, args.name), images, image_set.labels, image_set, args,
                     device, facts)
