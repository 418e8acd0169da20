"""Errors of the noise prediction on held-out images, of LIFT and beside the baseline's, with standard errors."""
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from engine.chunks import in_chunks
from engine import devices
from engine import seeds
from data import columns_in, load_images, num_in_common
from engine.errors import InputError
from lift.coupling import check_can_disagree, has_bands, views
from networks.bands import split
from engine.sampling import from_uint8
from networks.scales import reconcile
from scheduler import CLEAN, NUM_TIMESTEPS, CosineSteps, predict_eps, predict_x_0
from engine.seeds import seeded_generator

PAIRED_NOISE = 1        # last key of the noise drawn here, apart from objective.validation_batch


def mean_and_standard_error(values) -> tuple[float, float]:
    """Mean of float [n] and its standard error, sample standard deviation / sqrt(n); nan for a single value."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)         # an infinite PSNR has no spread: nan
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def ratio_and_standard_error(numerators, denominators) -> tuple[float, float]:
    """Ratio of the means of paired float [n] values, and its standard error to first order (delta method):
    sd(a - r b) / (sqrt(n) mean(b)); nan for a single pair."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    ratio = a.mean() / b.mean()
    return float(ratio), mean_and_standard_error(a - ratio * b)[1] / float(b.mean())


# --- errors of the noise prediction ---------------------------------------------------------------------------------

def paired_noise(seed: int, indices, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """noise_64 [B, 3, 64, 64] and noise_32 [B, 3, 32, 32] of held-out images. The noise of image k depends on seed and
    k alone, so every timestep and every model sees the same noise."""
    draws = []
    for k in indices:
        generator = seeded_generator(seed, seeds.VALIDATION, k, PAIRED_NOISE)
        draws.append((torch.randn(3, 64, 64, generator=generator), torch.randn(3, 32, 32, generator=generator)))
    noise_64, noise_32 = (torch.stack(noise).to(device) for noise in zip(*draws))
    return noise_64, noise_32


def reconciled_noise(noised, eps, timesteps, schedule: CosineSteps):
    """Noise predictions [eps_64, eps_32] after their clean images were made to agree (`scheduler.reconcile`).

    noised, eps: per scale [B, 3, H, W]; timesteps: per scale an int, of which CLEAN counts as 0.
    """
    abar = [schedule.alpha_cumprod(torch.tensor(max(t, 0), device=x.device)) for t, x in zip(timesteps, noised)]
    x_0 = reconcile(*(predict_x_0(*of_scale, clip=False) for of_scale in zip(noised, eps, abar)), *abar)
    return [predict_eps(*of_scale) for of_scale in zip(noised, x_0, abar)]


def noise_and_prediction(model, x_0_64, noises, timesteps, schedule: CosineSteps, precision: str = "float32",
                         reconciled: bool = False) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The noise in noised images, and what a model predicts of it: per scale [B, 3, H, W] each.

    model: anything callable like BaselineModel (one noise, one timestep) or LIFTDualTimestepModel (two of each).
    x_0_64: [B, 3, 64, 64] in [-1, 1]; noises: per scale [B, 3, H, W]; timesteps: per scale an int. With CLEAN, a scale
    is the clean image, without noise; the network is told 0 for it. reconciled: LIFT's predictions are made to agree
    first. Raises InputError for reconciled predictions of two bands.
    """
    if reconciled:
        check_can_disagree(model, "--reconciled: found")
    clean = views(model, x_0_64)[:len(noises)]
    noises = split(noises[0]) if has_bands(model) else noises
    t = [torch.full((len(x_0_64),), timestep, device=x_0_64.device) for timestep in timesteps]
    noised = [schedule.add_noise(x_0, noise, t_s) for x_0, noise, t_s in zip(clean, noises, t)]
    noised[0] = noised[0].contiguous(memory_format=torch.channels_last)
    with devices.autocast(x_0_64.device, precision):
        predictions = model(*noised, *(t_s.clamp(min=0) for t_s in t))
    predictions = predictions if len(noises) > 1 else [predictions]
    if reconciled and len(noises) > 1:
        predictions = reconciled_noise(noised, [eps.float() for eps in predictions], timesteps, schedule)
    targets = [noise * (timestep != CLEAN) for noise, timestep in zip(noises, timesteps)]
    return targets, [eps.float() for eps in predictions]


def mean_squares(noises, predictions) -> torch.Tensor:
    """Squared error per image, averaged over pixels: float64 [number of scales, B] on the CPU. noises, predictions: of
    `noise_and_prediction`."""
    return torch.stack([(eps - noise).double().square().mean((1, 2, 3))
                        for noise, eps in zip(noises, predictions)]).cpu()


def squared_errors(*args, **options) -> torch.Tensor:
    """Squared error of the noise prediction per image, averaged over pixels: float64 [number of scales, B] on the CPU.
    The arguments are those of `noise_and_prediction`."""
    return mean_squares(*noise_and_prediction(*args, **options))


def at_64(model, squares) -> torch.Tensor:
    """Mean squares [B] per scale -> those of the 64 scale; of bands, of the whole image, a quarter of whose numbers the
    coarse one has."""
    return squares[0] + squares[1] / 4 if has_bands(model) else squares[0]


@dataclass
class Case:
    """An input to LIFT: its name, the two timesteps (CLEAN for a clean image), and the scales that were trained."""
    name: str
    t_64: int
    t_32: int

    def is_scored(self, scale: str) -> bool:
        """Whether the output at `scale` ("64" or "32") answers a question that training posed."""
        return (self.t_64 if scale == "64" else self.t_32) != CLEAN


def noise_cases(t: int) -> list[Case]:
    """Both scales noisy at t; 64 noisy beside a clean 32; 32 noisy beside a clean 64."""
    return [Case("both noisy", t, t), Case("clean 32, noisy 64", t, CLEAN), Case("clean 64, noisy 32", CLEAN, t)]


def batches(images: np.ndarray, batch_size: int, device):
    """(indices, images in [-1, 1] [B, 3, 64, 64]) over uint8 [N, 3, 64, 64]."""
    starts = range(0, len(images), batch_size)
    for start, part in zip(starts, in_chunks(images, batch_size)):
        yield range(start, start + len(part)), from_uint8(part.to(device))


@torch.inference_mode()
def errors_by_case(model, images, cases: list[Case], seed: int, batch_size: int, device, precision: str = "float32",
                   progress=lambda steps: None, reconciled: bool = False) -> np.ndarray:
    """LIFT's errors for every case, on the same images and noise: float64 [cases, 2 scales, N].

    images: uint8 [N, 3, 64, 64]. reconciled: as in `squared_errors`. progress(number of images x cases done) is called
    after every batch.
    """
    schedule = CosineSteps()
    parts = []
    for indices, x_0_64 in batches(images, batch_size, device):
        noises = paired_noise(seed, indices, device)
        parts.append(torch.stack([squared_errors(model, x_0_64, noises, (case.t_64, case.t_32), schedule, precision,
                                                 reconciled) for case in cases]))
        progress(len(indices) * len(cases))
    return torch.cat(parts, dim=2).numpy()


def comparison_curves(timesteps, leads, schedule: CosineSteps) -> dict[str, np.ndarray]:
    """t_32 beside each t_64 when LIFT is compared with the baseline: label -> int64 [n].

    With t_32 = 999 LIFT has the baseline's task. On the diagonal and ahead of it LIFT also sees the 32 scale.
    """
    timesteps = np.asarray(timesteps)
    curves = {"32 pure noise": np.full_like(timesteps, NUM_TIMESTEPS - 1), "diagonal": timesteps.copy()}
    for lead in leads:
        curves[f"32 leads by {lead:g}"] = schedule.leading_t(torch.from_numpy(timesteps), lead).numpy()
    return curves


@torch.inference_mode()
def errors_beside_baseline(lift, baseline, images, timesteps, curves: dict, seed: int, batch_size: int, device,
                           precision: str = "float32", progress=lambda steps: None, reconciled: bool = False):
    """Errors at 64 of both models at the same timesteps, on the same images and noise; of bands, of the whole image.

    timesteps: int [n] of t_64; curves: label -> int [n] of t_32; reconciled: as in `squared_errors`. Returns the
    baseline's errors float64 [n, N] and label -> LIFT's float64 [n, N].
    """
    schedule = CosineSteps()
    of_baseline, of_lift = [], {label: [] for label in curves}
    for indices, x_0_64 in batches(images, batch_size, device):
        noises = paired_noise(seed, indices, device)
        single = [squared_errors(baseline, x_0_64, noises[:1], (int(t),), schedule, precision)[0] for t in timesteps]
        of_baseline.append(torch.stack(single))
        for label, t_32 in curves.items():
            both = [squared_errors(lift, x_0_64, noises, (int(t), int(s)), schedule, precision, reconciled)
                    for t, s in zip(timesteps, t_32)]
            of_lift[label].append(torch.stack([at_64(lift, errors) for errors in both]))
        progress(len(indices) * len(timesteps) * (1 + len(curves)))
    return (torch.cat(of_baseline, dim=1).numpy(),
            {label: torch.cat(parts, dim=1).numpy() for label, parts in of_lift.items()})


def linear_denoiser_of(model):
    """The linear denoiser of a baseline that puts out its residual, called as the baseline is; None for others."""
    if model.parametrization != "residual":
        return None

    def noise(x_64, t_64):
        abar = model.schedule.alpha_cumprod_at(t_64)
        return model.linear_denoiser.noises([torch.zeros_like(x_64)], [x_64], [abar])[0]
    return noise


# --- what is said of the images --------------------------------------------------------------------------------------

def note_on_training_images(options: dict, images: np.ndarray, cache_dir) -> str | None:
    """A line if a checkpoint was trained on some of the images, or if this cannot be told; else None.

    options: of its training; empty for a checkpoint of the earlier implementation. images: uint8 [N, 3, 64, 64].
    """
    try:
        trained_on = load_images(options["dataset"], options["split"], cache_dir, **columns_in(options)).images
    except (InputError, KeyError):
        return "note: the training images are not at hand, so whether these are held out is not known"
    seen = num_in_common(trained_on, images)
    return f"WARNING: {seen} of the {len(images)} images were trained on, so they are not held out" if seen else None


def check_enough(num_images: int, asked: int, dataset: str, split: str) -> None:
    """Raises InputError where a split has fewer images than asked for."""
    if num_images < asked:
        raise InputError(f"--num_images: found {asked}, but {dataset}, split {split}, has {num_images}; ask for fewer "
                         "or choose another --split")
