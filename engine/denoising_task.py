"""Training of one network that denoises images: diffusion, rectified flow, latents, one scale or two.

These trainings differ in the denoiser's process and kind of output, in how times are drawn, and in where clean images
come from.
"""
from dataclasses import dataclass

import torch

from engine import devices, seeds
from engine.denoiser import OutputDenoiser
from engine.errors import InputError
from engine.image_files import content_hash_of
from engine.sampling import as_floats, from_uint8, to_device
from engine.seeds import seeded_generator
from engine.task import Networks, Task
from scheduler import CosineSteps, noise_added, training_target

UNIFORM_SHARE = 0.1                     # of `mixture`
ENCODING_BATCH = 250


def logit_normal(normal: torch.Tensor, mean: float = 0.0, deviation: float = 1.0) -> torch.Tensor:
    """Times in (0, 1) whose logits are normal: sigmoid(mean + deviation normal) (Esser et al. 2024, eq. 19). normal:
    standard normal numbers, whose shape the times have."""
    return (mean + deviation * normal).sigmoid()


def draw_times(distribution: str, count: int, generator: torch.Generator, mean: float = 0.0,
               deviation: float = 1.0) -> torch.Tensor:
    """Times in (0, 1) for training: float32 [count], on the generator's device.

    distribution: one of `engine.options.TIME_SAMPLINGS`. logit_normal hardly visits the ends; mixture draws a tenth of
    the times uniformly, so that the ends are visited too. mean, deviation: of the logits.
    """
    device = generator.device
    if distribution == "uniform":
        return torch.rand(count, generator=generator, device=device)
    normal = logit_normal(torch.randn(count, generator=generator, device=device), mean, deviation)
    if distribution == "logit_normal":
        return normal
    is_uniform = torch.rand(count, generator=generator, device=device) < UNIFORM_SHARE
    return torch.where(is_uniform, torch.rand(count, generator=generator, device=device), normal)


@dataclass
class Batch:
    """A noised batch, of images in [-1, 1] or of scaled latents: an entry per scale in every list."""
    x_0s: list[torch.Tensor]        # [B, C, H, W]
    noises: list[torch.Tensor]      # [B, C, H, W]
    ts: list[torch.Tensor]          # [B], in the process's own time
    labels: torch.Tensor | None     # int64 [B], the null class where the label was dropped


class CleanImages:
    """Clean images by number. shape: [C, H, W] of one. has_noise: whether an image is drawn anew at every call, as a
    latent is from its posterior; the call is then given the noise for it."""

    shape: tuple[int, ...]
    has_noise = False

    def __len__(self) -> int:
        raise NotImplementedError

    def __call__(self, indices: torch.Tensor, flipped=None, noise=None) -> torch.Tensor:
        """[B, C, H, W]. indices: int64 [B]; flipped: which are mirrored, bool [B], or None; both on the CPU. noise:
        standard normal [B, C, H, W] where `has_noise`."""
        raise NotImplementedError


class Pixels(CleanImages):
    """uint8 images [N, C, H, W], which become [-1, 1]; or latents, which stay as they are. Both lie on any device."""

    def __init__(self, images: torch.Tensor, device):
        self.images, self.device, self.shape = images, device, tuple(images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, indices, flipped=None, noise=None) -> torch.Tensor:
        """As in `CleanImages`."""
        x_0 = as_floats(to_device(self.images[to_device(indices, self.images.device)], self.device))
        return x_0 if flipped is None else torch.where(to_device(flipped, self.device)[:, None, None, None],
                                                       x_0.flip(3), x_0)


class ImageTask(Task):
    """One network trained by AdamW on images in a fresh order every epoch. Options: weight_decay, batch_size, seed."""

    averaged = ("model",)

    def __init__(self, network, images: torch.Tensor | CleanImages, content_hash: str, args, device):
        super().__init__(args)
        self.networks, self.device, self.content_hash = {"model": network}, device, content_hash
        self.clean_images = images if isinstance(images, CleanImages) else Pixels(images, device)
        self.num_images = len(self.clean_images)

    @property
    def images(self) -> torch.Tensor:
        """The images, or latents, of a task whose CleanImages are Pixels: as they are kept, [N, C, H, W]."""
        return self.clean_images.images

    def optimizer(self, name: str, parameters) -> torch.optim.Optimizer:
        """AdamW."""
        args = self.args
        return torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=args.weight_decay, fused=True)


class DenoisingTask(ImageTask):
    """A network, its images and the mean squared error of what it puts out.

    images: uint8 [N, C, H, W], or CleanImages of the first scale; `pyramid` makes the others. labels: int64 [N], or
    None for a network without classes. encoder: from images in [-1, 1] to latents; every image is encoded once, before
    the first step. Options used: batch_size, seed, precision, label_dropout, weight_decay, time_sampling (of continuous
    processes), and flip where the training has it.
    """

    def __init__(self, denoiser: OutputDenoiser, images, labels, content_hash: str, args, device, encoder=None):
        if not isinstance(images, CleanImages):
            images = to_device(images, device) if encoder is None else encoded(images, encoder, device)
        super().__init__(denoiser.network, images, content_hash, args, device)
        self.denoiser, self.labels = denoiser, None
        if denoiser.num_classes is not None:
            self.labels = torch.as_tensor(labels)
            check_labels(self.labels, denoiser.num_classes, "--dataset")
            self.labels_hash = content_hash_of(self.labels.numpy())
        if self.clean_images.shape != denoiser.shapes[0]:
            raise InputError(f"--dataset: found images {list(self.clean_images.shape)}, expected "
                             f"{list(denoiser.shapes[0])}")

    def times(self, generator: torch.Generator) -> list[torch.Tensor]:
        """The times of a step per scale, [batch_size] on the CPU: whole timesteps, or float32 between the process's
        ends. The times of different scales are independent."""
        return [self.times_of(process, self.args.batch_size, generator) for process in self.denoiser.processes]

    def times_of(self, process, count: int, generator: torch.Generator) -> torch.Tensor:
        """Random times [count] of one scale, in its process's unit."""
        if isinstance(process, CosineSteps):
            return torch.randint(process.num_timesteps, (count,), generator=generator)
        return process.at_share(self.shares(count, generator))

    def shares(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """How far from noise to image the times of a continuous process lie: float32 [count] in (0, 1)."""
        return draw_times(self.args.time_sampling, count, generator)

    def pyramid(self, x_0: torch.Tensor) -> list[torch.Tensor]:
        """The clean images of every scale, made from the first scale's: x_0 [B, C, H, W]."""
        return [x_0]

    def noises(self, normal) -> list[torch.Tensor]:
        """The noise of every scale; normal(shape) draws some of [C, H, W] for each image."""
        return [normal(shape) for shape in self.denoiser.shapes]

    def batch(self, step: int, part: slice) -> Batch:
        """The share `part` of the step's global batch."""
        args, count = self.args, self.args.batch_size
        generator = seeded_generator(args.seed, seeds.TRAIN_BATCH, step)
        ts = self.times(generator)
        dropped = torch.rand(count, generator=generator) < args.label_dropout
        flipped = torch.rand(count, generator=generator)[part] < 0.5 if getattr(args, "flip", False) else None
        noise = seeded_generator(args.seed, seeds.TRAIN_NOISE, step, device=self.device)

        def normal(shape):
            return torch.randn(count, *shape, generator=noise, device=self.device)[part]

        noises = self.noises(normal)
        of_posterior = normal(self.denoiser.shapes[0]) if self.clean_images.has_noise else None
        indices = self.indices(step)[part]
        labels = None
        if self.labels is not None:
            labels = to_device(torch.where(dropped[part], self.denoiser.num_classes, self.labels[indices]), self.device)
        return Batch(self.pyramid(self.clean_images(indices, flipped, of_posterior)), noises,
                     [to_device(t[part], self.device) for t in ts], labels)

    def squared_errors(self, network, batch: Batch) -> list[torch.Tensor]:
        """As `output_errors`, in the training's precision."""
        return output_errors(self.denoiser, network, batch, self.args.precision)

    def losses(self, networks: Networks, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error of the network's output; of several scales, the mean over them."""
        errors = [squares.mean() for squares in self.squared_errors(networks["model"], batch)]
        return {"loss": torch.stack(errors).mean() if len(errors) > 1 else errors[0]}

    def describe_batch(self, step: int) -> str:
        """The times of a step's batch, drawn again from the seed."""
        ts = self.times(seeded_generator(self.args.seed, seeds.TRAIN_BATCH, step))
        return ", ".join(f"t {[round(value, 3) for value in t.tolist()]}" for t in ts)


def output_errors(denoiser: OutputDenoiser, network, batch: Batch, precision: str = "float32") -> list[torch.Tensor]:
    """Squared error of what `network`, called as the denoiser's own, puts out: float32 [B, C, H, W] per scale."""
    levels = [process.levels(t) for process, t in zip(denoiser.processes, batch.ts)]
    noised = [noise_added(x_0, eps, *pair) for x_0, eps, pair in zip(batch.x_0s, batch.noises, levels)]
    with devices.autocast(batch.x_0s[0].device, precision):
        outputs = denoiser.outputs(network, noised, batch.ts, batch.labels)
    targets = (training_target(denoiser.kind, x_0, eps, *pair)
               for x_0, eps, pair in zip(batch.x_0s, batch.noises, levels))
    return [(output.float() - target).square() for output, target in zip(outputs, targets)]


def check_labels(labels: torch.Tensor, num_classes: int, option: str) -> None:
    """Raises InputError for a label, int64 [N], that a table of so many classes does not have."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise InputError(f"{option}: found label {int(wrong[0])} in {len(wrong)} of {len(labels)} images, expected "
                         f"0...{num_classes - 1}")


@torch.no_grad()
def encoded(images: torch.Tensor, encoder, device) -> torch.Tensor:
    """Latents of uint8 images, float32 [N, ...] on the device."""
    return torch.cat([encoder(from_uint8(to_device(part, device))) for part in images.split(ENCODING_BATCH)])
