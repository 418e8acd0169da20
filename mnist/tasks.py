"""Tasks of the engine's loop for this family, from their options: denoisers, and the VAE."""
from dataclasses import replace

import numpy as np
import torch

from data import columns_in, load_images, native_form
from engine import devices, seeds
from engine.denoising_task import DenoisingTask, ImageTask, encoded
from engine.drawing import Drawing
from engine.errors import InputError
from engine.experiment import PREVIEW_COLUMNS, InExperiment, note_experiment
from engine.files import sha256_of_file
from engine.image_folder import ENLARGED, image_grid
from engine.options import check_fills_a_batch
from engine.run_files import weights_in
from engine.sampling import from_uint8, to_device
from engine.seeds import seeded_generator
from evaluation.loss_curves import WithLossCurves
from evaluation.small_images import principal_components, scatter
from mnist.models import FAMILY, Model, build_denoiser, images_of, load_vae
from networks.conditional_unet import check_settings
from networks.margin import padded, padded_side
from networks.presets import CONDITIONAL_UNETS
from networks.vae import VAE, latent_scale, vae_loss

PREVIEW_GUIDANCE = 2.0
SCALE_IMAGES = 1000     # images that the latents' scale is measured on, on a CPU, where 60,000 would take minutes


def form_of_images(args) -> list[int]:
    """[C, S, S] of the padded images. Sizes left out become the data's own, which its first image tells."""
    if None in (args.image_size, args.channels):
        size, channels = native_form(args.dataset, args.split, **columns_in(vars(args)))
        args.image_size, args.channels = args.image_size or size, args.channels or channels
    side = padded_side(args.image_size)
    return [args.channels, side, side]


def training_images(args):
    """ImageSet of the training split, and its images padded: uint8 [N, C, S, S]. Raises InputError, before they are
    decoded, for too few of them, and for missing labels that --conditioning needs."""
    def check(facts):
        check_fills_a_batch(args, facts.count)
        if facts.has_labels is False and getattr(args, "conditioning", "none") != "none":
            raise InputError(f"--conditioning: found {args.conditioning}, but {args.dataset} {args.split} has no "
                             "labels; expected none")

    images = load_images(args.dataset, args.split, cache_dir=args.cache_dir, size=args.image_size,
                         channels=args.channels, check=check, **columns_in(vars(args)))
    return images, padded(torch.from_numpy(np.array(images.images)))


class DigitTask(WithLossCurves, InExperiment, DenoisingTask):
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


class VAETask(WithLossCurves, InExperiment, ImageTask):
    """One VAE, one update. images: uint8 [N, C, S, S]."""

    columns = ("loss", "reconstruction", "kl")
    loss_labels = {"loss": "loss", "kl": "divergence, nats"}

    def __init__(self, vae: VAE, images: torch.Tensor, image_set, args, device):
        super().__init__(vae, to_device(images, device), image_set.content_hash, args, device)
        self.vae, self.labels = vae, image_set.labels
        self.scale_stride = 1 if device.type == "cuda" else -(-len(images) // SCALE_IMAGES)
        if self.scale_stride > 1:
            print(f"the latents' scale: measured on every {self.scale_stride}th image, on a GPU on all", flush=True)

    def batch(self, step: int, part: slice):
        """Images, and the noise of their posterior samples."""
        generator = seeded_generator(self.args.seed, seeds.TRAIN_NOISE, step, device=self.device)
        eps = torch.randn(self.args.batch_size, *self.vae.latent_shape, generator=generator, device=self.device)[part]
        return self.clean_images(self.indices(step)[part]), eps

    def losses(self, networks, batch) -> dict[str, torch.Tensor]:
        """Reconstruction, divergence and their weighted sum: scalars, by name."""
        x, eps = batch
        with devices.autocast(self.device, self.args.precision):
            reconstruction, mean, log_variance = networks["model"](x, eps)
        return vae_loss(x, reconstruction, mean, log_variance, self.args.kl_weight)

    @torch.no_grad()
    def preview(self, networks) -> torch.Tensor:
        """A row of training images, and a row of their reconstructions: uint8 [n, C, S, S] on the CPU."""
        x = from_uint8(to_device(self.images[:PREVIEW_COLUMNS], self.device))
        reconstruction = networks["model"](x, x.new_zeros(len(x), *self.vae.latent_shape))[0]
        return images_of(torch.cat([x, reconstruction]), None, self.args.image_size).cpu()

    @torch.no_grad()
    def more_pictures(self, networks) -> dict:
        """Where images lie in the latent, by class."""
        x = from_uint8(to_device(self.images[:SCALE_IMAGES], self.device))
        means = networks["model"](x, x.new_zeros(len(x), *self.vae.latent_shape))[1].cpu()
        labels = None if self.labels is None else self.labels[:SCALE_IMAGES]
        return {"latent_space": scatter([("means of the latents, first two principal components",
                                          principal_components(means.flatten(1)), labels)])}

    def content(self) -> dict:
        """What `mnist.models.load_vae` reads."""
        return {"family": FAMILY, "model": "vae", "name": self.args.name, "settings": self.vae.settings,
                "image_size": self.args.image_size}

    @torch.no_grad()
    def completed(self, content: dict) -> dict:
        """With the scale of the latents that the averaged weights, which `load_vae` takes, make."""
        vae = VAE(**content["settings"]).to(self.device)
        vae.load_state_dict({**weights_in(content), "scale": torch.ones(())})
        scale = latent_scale(encoded(self.images[::self.scale_stride], vae.encode, self.device))
        return {**content, "model_state": {**content["model_state"], "scale": torch.tensor(scale)}}


def vae_task(args, device, group) -> VAETask:
    """The task of train_vae. What cannot be is refused before the data set is decoded."""
    shape = form_of_images(args)
    torch.manual_seed(args.seed)
    vae = VAE(shape, args.base_channels, args.channel_multipliers, args.latent_channels, args.patch_size)
    image_set, images = training_images(args)
    note_experiment(args, group)
    return VAETask(vae, images, image_set, args, device)
