"""What training a flow minimises: the mean squared error of the velocity x_0 - eps on straight paths.

The batch and its draws are the engine's (`engine.denoising_task`). A flow adds its distribution of t, its optimizer,
errors by tenth of t, and previews with a row per class.
"""
import numpy as np
import torch
import torch.nn.functional as F

from engine import seeds
from engine.chunks import in_chunks
from engine.denoiser import Guided
from engine.denoising_task import Batch, CleanImages, DenoisingTask, draw_times
from engine.drawing import Drawing
from engine.image_folder import image_grid
from engine.options import lead_range
from engine.pairs import clock_times, draw_leads
from engine.seeds import seeded_generator
from evaluation.loss_curves import WithLossCurves
from flow.grids import find_path
from flow.latents import Latents, decoder_of
from flow.model import FAMILY, can_be_guided, denoiser_of
from flow.options import LEAD, LEADING, guidance_scale_of
from networks.bands import BandDenoiser, split
from networks.scales import downsample_to_32
from scheduler import fused_log_snrs

NUM_TENTHS = 10
VALIDATION_BATCH = 50
PREVIEW_COLUMNS, PREVIEW_ROWS, PREVIEW_STEPS = 8, 10, 32


class FlowTask(WithLossCurves, DenoisingTask):
    """A DiT, or a UNet in its place, of one scale, two scales or two bands; its images or latents, and the loss.

    images: CleanImages. labels: int64 [N] on the CPU. fitted_to: uint8 [N, C, S, S], what the residual output is fitted
    to, else None. held_out: (CleanImages, labels) for validation, or None. facts: what the checkpoint says beside the
    sizes.
    """

    command = "python -m flow.train"
    older_options = {f"{kind}_lead": list(LEAD) for kind in LEADING}

    def __init__(self, args, network, images: CleanImages, labels: torch.Tensor, content_hash: str, device, *,
                 fitted_to=None, held_out=None, latents: Latents | None = None, facts=None):
        super().__init__(denoiser_of(network), images, labels, content_hash, args, device)
        self.fitted_to, self.held_out, self.latents, self.facts = fitted_to, held_out, latents, dict(facts or {})
        self.frozen_hashes = {} if latents is None else {"vae": latents.fingerprint}
        self.scale_columns = [f"loss_{shape[-1]}" for shape in self.denoiser.shapes] * (len(self.denoiser.shapes) > 1)
        self.has_bands = isinstance(self.denoiser, BandDenoiser)
        self.curves = ("loss", *self.scale_columns)
        self.columns = (*self.curves, *(f"error_tenth_{k}" for k in range(NUM_TENTHS)))

    @property
    def has_validation(self) -> bool:
        """Whether there are held-out images."""
        return self.held_out is not None

    def optimizer(self, name: str, parameters) -> torch.optim.Optimizer:
        """Adam with betas 0.9 and 0.99, no weight decay."""
        return torch.optim.Adam(parameters, lr=self.args.learning_rate, betas=(0.9, 0.99), fused=True)

    def begin(self) -> None:
        """Fit the affine velocity of a residual output."""
        if self.fitted_to is not None:
            images = self.fitted_to
            has_one = len(self.denoiser.shapes) == 1 or self.has_bands
            self.networks["model"].fit(images if has_one else [images, half_size(images)])

    def times(self, generator: torch.Generator) -> list[torch.Tensor]:
        """As in `DenoisingTask`; --timesteps says how the times of two scales, or bands, belong together."""
        ts, pairing = super().times(generator), self.args.timesteps
        if len(ts) == 1 or pairing == "independent":
            return ts
        if pairing == "diagonal":
            return [ts[0], ts[0].clone()]
        leads = draw_leads(*lead_range(self.args, pairing), len(ts[0]), generator)
        process = self.denoiser.processes[0]                    # both scales have the same
        if pairing == "fused":
            return [process.t_at(log_snr).float() for log_snr in fused_log_snrs(process.log_snr(ts[0]), leads)]

        def leading(t, leads):
            return process.leading_t(t, leads).float()
        return [ts[0], leading(ts[0], leads)] if pairing == "near" else clock_times(*ts, leads, leading)

    def shares(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Flow times: float32 [count]."""
        args = self.args
        return draw_times(args.time_distribution, count, generator, args.time_mean, args.time_deviation)

    def pyramid(self, x_0: torch.Tensor) -> list[torch.Tensor]:
        """The second scale is the 2x2 mean of the first; or the two are orthogonal parts of one image."""
        if self.has_bands:
            return split(x_0)
        return [x_0] if len(self.denoiser.shapes) == 1 else [x_0, downsample_to_32(x_0)]

    def noises(self, normal) -> list[torch.Tensor]:
        """As in `DenoisingTask`. For bands, one noise of the image's size is split into its two parts."""
        return split(normal(self.denoiser.shapes[0])) if self.has_bands else super().noises(normal)

    def total(self, means):
        """The loss, of the mean squared error per scale: their mean. Of bands, the mean over the image's pixels, a
        quarter as many of which the coarse part has."""
        return means[0] + means[1] / 4 if self.has_bands else sum(means) / len(means)

    def losses(self, networks, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean over the batch. Then, for each tenth of the first scale's t, the share of the images in it and their
        part of the first scale's mean; `logged` makes their error of the two."""
        squares = self.squared_errors(networks["model"], batch)
        means = [values.mean() for values in squares]
        of_images, place = squares[0].detach().mean((1, 2, 3)), tenth_of(batch.ts[0])
        tenths = torch.zeros(2, NUM_TENTHS, device=place.device)
        tenths.index_add_(1, place, torch.stack([of_images, torch.ones_like(of_images)]) / len(place))
        return {"loss": self.total(means), **dict(zip(self.scale_columns, means)),
                **{f"part_{k}": value for k, value in enumerate(tenths[0].unbind())},
                **{f"share_{k}": value for k, value in enumerate(tenths[1].unbind())}}

    def logged(self, means: dict[str, float]) -> dict[str, float]:
        """The error of each tenth of t that was visited since the last line."""
        return means | {f"error_tenth_{k}": means[f"part_{k}"] / means[f"share_{k}"] for k in range(NUM_TENTHS)
                        if means.get(f"share_{k}")}

    def validate(self, networks) -> dict:
        """Held-out error, per scale, and its mean over each tenth of t of the first scale."""
        errors, t = self.held_out_errors(networks)
        place = tenth_of(t)
        return {"loss": self.total(errors.mean(1)).item(), **dict(zip(self.scale_columns, errors.mean(1).tolist())),
                **{f"error_tenth_{k}": errors[0, place == k].mean().item() for k in range(NUM_TENTHS)
                   if (place == k).any()}}

    @torch.no_grad()
    def held_out_errors(self, networks, distribution: str = "tenths", num_draws: int = 1):
        """Squared error of every held-out image, float64 [scales, N * num_draws], and the times of the first scale, [N
        * num_draws]; noises and times never change. distribution: see `validation_draws`."""
        clean, labels = self.held_out
        errors, times = [], []
        for draw_numbers in torch.arange(len(labels) * num_draws).split(VALIDATION_BATCH):
            indices = draw_numbers % len(labels)
            draws = [self.validation_draws(int(k), distribution) for k in draw_numbers]
            ts, noises, of_posterior = zip(*draws)
            x_0 = clean(indices, None, torch.stack(of_posterior).to(self.device))
            batch = Batch(self.pyramid(x_0), [torch.stack(values).to(self.device) for values in zip(*noises)],
                          [torch.stack(values).to(self.device) for values in zip(*ts)], labels[indices].to(self.device))
            squares = self.squared_errors(networks["model"], batch)
            errors.append(torch.stack([values.mean((1, 2, 3)).double().cpu() for values in squares]))
            times.append(batch.ts[0].cpu())
        return torch.cat(errors, 1), torch.cat(times)

    def validation_draws(self, k: int, distribution: str) -> tuple[list, list, torch.Tensor]:
        """Times and noises per scale of draw k, and the noise of its posterior sample. distribution: of the first
        scale's time; tenths: in tenth k mod 10, else one that training knows, with mean 0 and deviation 1. A second
        scale's time is uniform. A second band's time is the first one's, so that the loss compares with one scale's."""
        generator = seeded_generator(seeds.VALIDATION_SEED, seeds.VALIDATION, k)
        if distribution == "tenths":
            ts = [(k % NUM_TENTHS + torch.rand((), generator=generator)) / NUM_TENTHS]
        else:
            ts = [draw_times(distribution, 1, generator)[0]]
        first, *others = self.denoiser.shapes
        noise, of_posterior = torch.randn(2, *first, generator=generator)
        if self.has_bands:
            return [ts[0], ts[0]], [part[0] for part in split(noise[None])], of_posterior
        noises = [noise]
        for shape in others:
            ts.append(torch.rand((), generator=generator))
            noises.append(torch.randn(*shape, generator=generator))
        return ts, noises, of_posterior

    def validation_text(self, result: dict) -> str:
        """The error, and the error in each tenth of t."""
        tenths = (result.get(f"error_tenth_{k}") for k in range(NUM_TENTHS))
        return f"loss {result['loss']:.5f}; by tenth of t " + " ".join("-" if value is None else f"{value:.3f}"
                                                                     for value in tenths)

    def preview(self, networks) -> torch.Tensor:
        """A row for each of at most ten classes: uint8 [rows * 8, C, S, S]."""
        rows = min(self.denoiser.num_classes, PREVIEW_ROWS)
        scale = guidance_scale_of(None, can_be_guided(self.denoiser.num_classes, vars(self.args)))
        denoiser = Guided(self.denoiser.with_network(networks["model"]), scale)
        draw = Drawing(denoiser, find_path(denoiser, "uniform", PREVIEW_STEPS, "ddim"), range(rows),
                       decoder_of(self.latents), device=self.device,
                       how={"clip": False, "precision": self.args.precision})
        return draw(self.args.seed, [column * rows + row for row in range(rows)
                                     for column in range(PREVIEW_COLUMNS)])[0]

    def pictures(self, networks, step: int, epoch: float) -> dict:
        """The preview as {name}_preview.png in the output folder."""
        return {self.args.output_dir / f"{self.args.name}_preview.png":
                image_grid(self.preview(networks), PREVIEW_COLUMNS)}

    def content(self) -> dict:
        """The family, the sizes, names of classes, and which autoencoder's latents they are."""
        return {"family": FAMILY, "config": dict(self.networks["model"].config), **self.facts}


def tenth_of(t: torch.Tensor) -> torch.Tensor:
    """The tenth of [0, 1] that a time lies in: int64 [B], 0...9."""
    return (t * NUM_TENTHS).long().clamp(0, NUM_TENTHS - 1)


def half_size(images) -> np.ndarray:
    """The 2x2 means of uint8 images [N, C, S, S], rounded to uint8 [N, C, S / 2, S / 2]."""
    return np.concatenate([F.avg_pool2d(chunk.float(), 2).round().to(torch.uint8).numpy()
                           for chunk in in_chunks(images, 1000)])
