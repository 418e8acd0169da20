"""What training a flow minimises: the mean squared error of the velocity x_0 - eps on straight paths.

Every random draw of a batch depends on the run's seed and the step alone and is made for the whole global batch, of
which a process uses its share; so one process or eight, straight through or resumed, see the same numbers.
"""
from dataclasses import dataclass

import numpy as np
import torch

from engine import devices, seeds
from engine.denoiser import Guided
from engine.errors import InputError
from engine.sampling import from_uint8, sample, to_device, to_uint8
from engine.seeds import seeded_generator
from engine.task import Task, Update
from flow.model import FAMILY, class_labels, denoiser_of, draw_times
from networks.dit import DiT
from scheduler import LinearFlow, noise_added, training_target

FLOW = LinearFlow()
NUM_TENTHS = 10
VALIDATION_BATCH = 50
VALIDATION_SEED = 0                     # not the run's own, so that runs can be compared
PREVIEW_COLUMNS, PREVIEW_ROWS = 8, 10
GUIDANCE_OF_PREVIEW = 4.0


@dataclass
class Batch:
    """A noised batch."""
    x_0: torch.Tensor               # [B, C, S, S], images in [-1, 1] or scaled latents
    eps: torch.Tensor               # [B, C, S, S]
    t: torch.Tensor                 # float32 [B], 0 noise ... 1 image
    labels: torch.Tensor            # int64 [B], the null class where the label was dropped


class Pixels:
    """Clean images from uint8 [N, C, S, S], mirrored or not."""

    def __init__(self, images: torch.Tensor, device):
        self.images, self.device = images, device

    def __call__(self, indices: torch.Tensor, flipped: torch.Tensor, _noise) -> torch.Tensor:
        """[B, C, S, S] in [-1, 1]. indices: int64 [B], flipped: bool [B], both on the CPU."""
        x_0 = from_uint8(to_device(self.images[to_device(indices, self.images.device)], self.device))
        return torch.where(to_device(flipped, self.device)[:, None, None, None], x_0.flip(3), x_0)


class PosteriorSamples:
    """Scaled latents from the moments that `Latents.encoded` keeps, with fresh posterior noise."""

    def __init__(self, moments: np.ndarray, device):
        self.moments, self.device = moments, device

    def __call__(self, indices: torch.Tensor, flipped: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[B, C, s, s]. indices: int64 [B], flipped: bool [B], both on the CPU; noise: standard normal [B, C, s, s]."""
        mirrored = flipped.long().clamp(max=self.moments.shape[1] - 1).numpy()
        moments = to_device(torch.from_numpy(self.moments[indices.numpy(), mirrored]), self.device).float()
        return moments[:, 0] + moments[:, 1] * noise


class FlowTask(Task):
    """A DiT, its images or latents, and the loss.

    clean: Pixels or PosteriorSamples. labels: int64 [N] on the CPU. held_out: (clean, labels) of at most --val_images,
    or None. images: uint8, what the residual output is fitted to. facts: what the checkpoint says beside the sizes.
    """

    command = "python -m flow.train"
    averaged = ("model",)

    def __init__(self, args, network: DiT, clean, labels: torch.Tensor, content_hash: str, device, *, images=None,
                 held_out=None, latents=None, facts=None):
        super().__init__(args)
        self.networks = {"model": network}
        self.clean, self.labels, self.images = clean, labels, images
        self.num_images, self.content_hash, self.device = len(labels), content_hash, device
        self.shape = (network.channels, network.image_size, network.image_size)
        self.held_out, self.latents, self.facts = held_out, latents, dict(facts or {})
        self.steps_per_epoch = self.num_images // args.batch_size
        self.order_of = (-1, None)

    @property
    def has_validation(self) -> bool:
        """Whether there are held-out images."""
        return self.held_out is not None

    def optimizer(self, name: str, parameters) -> torch.optim.Optimizer:
        """Adam with betas 0.9 and 0.99, no weight decay."""
        return torch.optim.Adam(parameters, lr=self.args.learning_rate, betas=(0.9, 0.99), fused=True)

    def begin(self) -> None:
        """Fit what the residual output stands on."""
        if self.images is not None:
            self.networks["model"].fit(self.images)

    def indices(self, step: int) -> torch.Tensor:
        """Which images a step sees, over all processes: int64 [batch_size]. Every epoch is a fresh permutation."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.order_of[0] != epoch:
            generator = seeded_generator(self.args.seed, seeds.EPOCH_ORDER, epoch)
            self.order_of = (epoch, torch.randperm(self.num_images, generator=generator))
        return self.order_of[1][place * self.args.batch_size:(place + 1) * self.args.batch_size]

    def times(self, generator: torch.Generator) -> torch.Tensor:
        """The flow times of a step: float32 [batch_size] on the CPU."""
        args = self.args
        return draw_times(args.time_distribution, args.batch_size, generator, args.time_mean, args.time_deviation)

    def batch(self, step: int, part: slice) -> Batch:
        """The share `part` of the step's global batch."""
        args, count = self.args, self.args.batch_size
        generator = seeded_generator(args.seed, seeds.TRAIN_BATCH, step)
        t = self.times(generator)
        flipped = torch.rand(count, generator=generator) < 0.5 * args.flip
        dropped = torch.rand(count, generator=generator) < args.label_dropout
        noise = seeded_generator(args.seed, seeds.TRAIN_NOISE, step, device=self.device)
        eps = torch.randn(count, *self.shape, generator=noise, device=self.device)[part]
        of_posterior = None
        if self.latents is not None:
            of_posterior = torch.randn(count, *self.shape, generator=noise, device=self.device)[part]
        indices = self.indices(step)[part]
        labels = torch.where(dropped[part], self.networks["model"].num_classes, self.labels[indices])
        return Batch(self.clean(indices, flipped[part], of_posterior), eps, to_device(t[part], self.device),
                     to_device(labels, self.device))

    def errors(self, network, batch: Batch) -> torch.Tensor:
        """Mean squared error of the velocity per image: float32 [B]."""
        a, s = FLOW.levels(batch.t)
        x_t = noise_added(batch.x_0, batch.eps, a, s)
        with devices.autocast(x_t.device, self.args.precision):
            v = network(x_t, batch.t, batch.labels)
        return (v.float() - training_target("velocity", batch.x_0, batch.eps, a, s)).square().mean((1, 2, 3))

    def loss(self, networks, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean over the batch."""
        return {"loss": self.errors(networks["model"], batch).mean()}

    def updates(self, step: int):
        """One."""
        return [Update("model", self.loss)]

    @torch.no_grad()
    def validate(self, networks) -> dict:
        """Held-out error, and its mean over each tenth of t. Image k has its own noise and a time in tenth k mod 10."""
        clean, labels = self.held_out
        errors, times = [], []
        for start in range(0, len(labels), VALIDATION_BATCH):
            draws = []
            for k in range(start, min(start + VALIDATION_BATCH, len(labels))):
                generator = seeded_generator(VALIDATION_SEED, seeds.VALIDATION, k)
                t = (k % NUM_TENTHS + torch.rand((), generator=generator)) / NUM_TENTHS
                draws.append((t, *torch.randn(2, *self.shape, generator=generator)))
            t, eps, of_posterior = (torch.stack(values) for values in zip(*draws))
            indices = torch.arange(start, start + len(t))
            x_0 = clean(indices, torch.zeros(len(t), dtype=torch.bool), of_posterior.to(self.device))
            batch = Batch(x_0, eps.to(self.device), t.to(self.device), labels[indices].to(self.device))
            errors.append(self.errors(networks["model"], batch).double().cpu())
            times.append(t)
        errors, tenths = torch.cat(errors), (torch.cat(times) * NUM_TENTHS).long().clamp(max=NUM_TENTHS - 1)
        return {"loss": errors.mean().item(),
                "tenths": [errors[tenths == k].mean().item() for k in range(NUM_TENTHS)]}

    def validation_text(self, result: dict) -> str:
        """The error, and that of each tenth of t."""
        return f"loss {result['loss']:.5f}; by tenth of t " + " ".join(f"{value:.3f}" for value in result["tenths"])

    def validation_detail(self, result: dict) -> str:
        """Nothing more."""
        return ""

    @torch.inference_mode()
    def preview(self, networks) -> torch.Tensor:
        """A row for each of at most ten classes: uint8 [rows * 8, C, S, S]."""
        network = self.networks["model"]
        denoiser = denoiser_of(network)
        denoiser.network = networks["model"]
        rows = min(network.num_classes, PREVIEW_ROWS)
        labels = class_labels(range(rows), rows, self.device).repeat_interleave(PREVIEW_COLUMNS)
        scale = GUIDANCE_OF_PREVIEW if self.args.label_dropout else 1.0
        x = sample(Guided(denoiser, scale), FLOW.uniform_path(32), self.args.seed, range(len(labels)), labels=labels,
                   clip=False, precision=self.args.precision, device=self.device).xs[0]
        return to_uint8(x if self.latents is None else self.latents.decode(x))

    def content(self) -> dict:
        """The family, the sizes, names of classes, and which autoencoder's latents they are."""
        return {"family": FAMILY, "config": dict(self.networks["model"].config), **self.facts}

    def check_content(self, path, state: dict) -> None:
        """Raises InputError unless a state is of this family and these sizes."""
        if state.get("family") != FAMILY:
            found = state.get("family") or state.get("model_type")
            raise InputError(f"--name: {path} is a state of {found}, expected one of {FAMILY}; choose another --name")
        for key, value in self.networks["model"].config.items():
            if state["config"].get(key) != value:
                raise InputError(f"--{key}: found {value}, but {path} was trained with {state['config'].get(key)}; give "
                                 "the same options to --resume, or another --name")

    def describe_batch(self, step: int) -> str:
        """The times of a step's batch, drawn again from the seed."""
        t = self.times(seeded_generator(self.args.seed, seeds.TRAIN_BATCH, step))
        return f"t {[round(value, 3) for value in t.tolist()]}"
