"""Training of the VAE: reconstruction and divergence of one network."""
import torch

from engine import devices, seeds
from engine.denoising_task import ImageTask, encoded
from engine.experiment import PREVIEW_COLUMNS, note_experiment
from engine.sampling import from_uint8, to_device
from engine.seeds import seeded_generator
from evaluation.small_images import principal_components, scatter
from mnist.models import FAMILY, images_of
from mnist.tasks import WithLossCurves, form_of_images, training_images
from networks.vae import VAE, latent_scale, vae_loss

SCALE_IMAGES = 1000     # images that the latents' scale is measured on, on a CPU, where 60,000 would take minutes


class VAETask(WithLossCurves, ImageTask):
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
        """What `mnist.models.load_vae` reads. The scale of the latents is measured whenever a file is written."""
        vae = self.vae
        with torch.no_grad():
            vae.scale.fill_(1.0)
            vae.scale.fill_(latent_scale(encoded(self.images[::self.scale_stride], vae.encode, self.device)))
        return {"family": FAMILY, "model": "vae", "name": self.args.name, "settings": vae.settings,
                "image_size": self.args.image_size}


def vae_task(args, device, group) -> VAETask:
    """The task of train_vae. What cannot be is refused before the data set is decoded."""
    shape = form_of_images(args)
    torch.manual_seed(args.seed)
    vae = VAE(shape, args.base_channels, args.channel_multipliers, args.latent_channels, args.patch_size)
    image_set, images = training_images(args)
    note_experiment(args, group)
    return VAETask(vae, images, image_set, args, device)
