"""Training of one network that denoises one image: diffusion, rectified flow, latents. They differ in the denoiser's
process and kind of output, in how times are drawn, and in the encoder."""
from dataclasses import dataclass

import torch

from engine import devices, seeds
from engine.denoiser import NetworkDenoiser
from engine.errors import InputError
from engine.sampling import as_floats, from_uint8, to_device
from engine.seeds import seeded_generator
from engine.task import Networks, Task, Update
from scheduler import CosineSteps, noise_added, training_target

ENCODING_BATCH = 250


def logit_normal(normal: torch.Tensor, mean: float = 0.0, deviation: float = 1.0) -> torch.Tensor:
    """Times in (0, 1) whose logits are normal: sigmoid(mean + deviation normal) (Esser et al. 2024, eq. 19)."""
    return (mean + deviation * normal).sigmoid()


@dataclass
class Batch:
    """A noised batch, of images in [-1, 1] or of scaled latents."""
    x_0: torch.Tensor               # [B, C, H, W]
    eps: torch.Tensor               # [B, C, H, W]
    t: torch.Tensor                 # [B], in the process's own time
    labels: torch.Tensor | None     # int64 [B], the null class where the label was dropped


class ImageTask(Task):
    """One network trained by AdamW on images in a fresh order every epoch. Options: weight_decay, batch_size, seed."""

    averaged = ("model",)

    def __init__(self, network, images: torch.Tensor, content_hash: str, args, device):
        super().__init__(args)
        self.networks, self.images, self.device = {"model": network}, images, device
        self.num_images, self.content_hash = len(images), content_hash

    def optimizer(self, name: str, parameters) -> torch.optim.Optimizer:
        """AdamW."""
        args = self.args
        return torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=args.weight_decay, fused=True)

    def clean_images(self, indices: torch.Tensor) -> torch.Tensor:
        """Those images, in [-1, 1] if they are uint8, as they are if they are latents: [B, C, H, W] on the device."""
        return as_floats(to_device(self.images[to_device(indices, self.images.device)], self.device))


class DenoisingTask(ImageTask):
    """A network, its images and the mean squared error of what it puts out.

    images: uint8 [N, C, H, W]. labels: int64 [N], or None for a network without classes. encoder: from images in
    [-1, 1] to latents [B, *denoiser.shapes[0]]; every image is encoded once, before the first step. Options used:
    batch_size,
    seed, precision, label_dropout, weight_decay, time_sampling (of continuous processes).
    """

    def __init__(self, denoiser: NetworkDenoiser, images: torch.Tensor, labels, content_hash: str, args, device,
                 encoder=None):
        images = to_device(images, device) if encoder is None else encoded(images, encoder, device)
        super().__init__(denoiser.network, images, content_hash, args, device)
        self.denoiser, self.labels = denoiser, None
        if denoiser.num_classes is not None:
            self.labels = torch.as_tensor(labels)
            if self.labels.min() < 0 or self.labels.max() >= denoiser.num_classes:
                raise InputError(f"--dataset: found label {int(self.labels.max())}, expected "
                                 f"0...{denoiser.num_classes - 1}")
        if tuple(self.images.shape[1:]) != denoiser.shapes[0]:
            raise InputError(f"--dataset: found images {list(self.images.shape[1:])}, expected "
                             f"{list(denoiser.shapes[0])}")

    def times(self, generator: torch.Generator) -> torch.Tensor:
        """The times of a step, [batch_size] on the CPU: whole timesteps, or float32 between the process's ends."""
        process, count = self.denoiser.processes[0], self.args.batch_size
        if isinstance(process, CosineSteps):
            return torch.randint(process.num_timesteps, (count,), generator=generator)
        if self.args.time_sampling == "uniform":
            share = torch.rand(count, generator=generator)
        else:
            share = logit_normal(torch.randn(count, generator=generator))
        return process.noisiest + share * (process.clean - process.noisiest)

    def batch(self, step: int, part: slice) -> Batch:
        """The share `part` of the step's global batch."""
        count = self.args.batch_size
        generator = seeded_generator(self.args.seed, seeds.TRAIN_BATCH, step)
        t = self.times(generator)
        dropped = torch.rand(count, generator=generator) < self.args.label_dropout
        noise = seeded_generator(self.args.seed, seeds.TRAIN_NOISE, step, device=self.device)
        eps = torch.randn(count, *self.denoiser.shapes[0], generator=noise, device=self.device)[part]
        indices = self.indices(step)[part]
        labels = None
        if self.labels is not None:
            labels = to_device(torch.where(dropped[part], self.denoiser.num_classes, self.labels[indices]), self.device)
        return Batch(self.clean_images(indices), eps, to_device(t[part], self.device), labels)

    def updates(self, step: int) -> list[Update]:
        """One network, one update."""
        return [Update("model", self.losses)]

    def losses(self, networks: Networks, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error of the network's output."""
        a, s = self.denoiser.processes[0].levels(batch.t)
        x_t = noise_added(batch.x_0, batch.eps, a, s)
        inputs = [x_t, self.denoiser.network_time(batch.t)] + ([] if batch.labels is None else [batch.labels])
        with devices.autocast(self.device, self.args.precision):
            output = networks["model"](*inputs)
        target = training_target(self.denoiser.kind, batch.x_0, batch.eps, a, s)
        return {"loss": (output.float() - target).square().mean()}

    def describe_batch(self, step: int) -> str:
        """The times of a step's batch, drawn again from the seed."""
        return f"t {self.times(seeded_generator(self.args.seed, seeds.TRAIN_BATCH, step)).tolist()}"


@torch.no_grad()
def encoded(images: torch.Tensor, encoder, device) -> torch.Tensor:
    """Latents of uint8 images, float32 [N, ...] on the device."""
    return torch.cat([encoder(from_uint8(to_device(part, device))) for part in images.split(ENCODING_BATCH)])
