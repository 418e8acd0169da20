"""Tasks of the engine's loop for this family, from their options."""
from dataclasses import replace

import numpy as np
import torch

from data import load_images, native_form
from engine.denoising_task import DenoisingTask
from engine.drawing import Drawing
from engine.errors import InputError
from engine.experiment import PREVIEW_COLUMNS, InExperiment, note_experiment
from engine.files import sha256_of_file
from engine.image_folder import ENLARGED, image_grid
from evaluation import figures
from mnist.models import FAMILY, Model, build_denoiser, load_vae
from networks.conditional_unet import check_settings
from networks.margin import padded, padded_side
from networks.presets import CONDITIONAL_UNETS

PREVIEW_GUIDANCE = 2.0


def form_of_images(args) -> list[int]:
    """[C, S, S] of the padded images. Sizes left out become the data's own, which its first image tells."""
    if None in (args.image_size, args.channels):
        size, channels = native_form(args.dataset, args.split)
        args.image_size, args.channels = args.image_size or size, args.channels or channels
    side = padded_side(args.image_size)
    return [args.channels, side, side]


def training_images(args):
    """ImageSet of the training split, and its images padded: uint8 [N, C, S, S]."""
    images = load_images(args.dataset, args.split, cache_dir=args.cache_dir, size=args.image_size,
                         channels=args.channels)
    return images, padded(torch.from_numpy(np.array(images.images)))


class WithLossCurves(InExperiment):
    """An experiment whose losses are drawn, a panel each."""

    loss_labels: dict[str, str] = {}            # of those that are no squared error

    def loss_figure(self, logs):
        """As in `Task`."""
        return figures.loss_curves(logs, {column: column for column in self.columns}, self.loss_labels)


class DigitTask(WithLossCurves, DenoisingTask):
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

    def drawing(self, networks) -> Drawing:
        """How the networks' images are drawn, with the classes in order."""
        model = replace(self.model, denoiser=self.denoiser.with_network(networks["model"]), device=self.device)
        return model.usual_drawing(PREVIEW_GUIDANCE if model.is_guidable else 1.0, precision=self.args.precision)

    def preview(self, networks) -> torch.Tensor:
        """Two rows of generated images: uint8 [n, C, S, S]."""
        return self.drawing(networks).images(self.args.seed, range(2 * PREVIEW_COLUMNS))

    def more_pictures(self, networks) -> dict:
        """How five of them come out of the noise."""
        _, strip = self.drawing(networks).strip(self.args.seed, range(5))
        return {"denoising_steps": image_grid(strip.transpose(0, 1).flatten(0, 1), len(strip), ENLARGED)}


def denoiser_task(args, device, group) -> DigitTask:
    """The task of every verb but train_vae. What cannot be is refused before the data set is decoded."""
    shape, vae = form_of_images(args), None
    if getattr(args, "vae_checkpoint", None) is not None:
        vae = load_vae(args.vae_checkpoint).to(device)
        if vae.settings["shape"] != shape:
            raise InputError(f"--vae_checkpoint: {args.vae_checkpoint} is of images {vae.settings['shape']}, the data "
                             f"set's are {shape}; give --image_size and --channels as for the VAE")
    settings = {"shape": shape if vae is None else list(vae.latent_shape), **CONDITIONAL_UNETS[args.preset]}
    settings |= {key: getattr(args, key) for key in CONDITIONAL_UNETS[args.preset] if getattr(args, key) is not None}
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
    model = Model(denoiser, vae, args.image_size, args.name, args.label_dropout > 0)
    return DigitTask(model, images, image_set.labels, image_set, args, device, facts)
