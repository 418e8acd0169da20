"""Exposure bias: how unlike the inputs of training those are that a sampler shows its network.

The error on noised images (`lift.measurements`) is the error of the model, for its inputs are those of training. A
sampler meets x_t of its own making, in which nobody knows the noise, so that there is no error to measure. But if the
network is exact for the images y_0 that it makes, and the steps are fine, what it meets at t is distributed as
a y_0 + s e, and so is every statistic of it. Ning et al. (2023, section 5) take the norm of the predicted noise, for it
moves the sampler, and is larger on the way than on noised images where the way is too noisy. Here it is measured on
three inputs at equal t:

    true    a x_0 + s e     held-out images x_0, their noise e
    own     a y_0 + s e     the model's own samples y_0, the same noise; y_32 is the 2x2 mean of y_64, as in training
    met     x_t             met by the sampler on the way to y_0

    met / own    exposure bias alone, and that of coarse steps: 1 without, whatever images the model makes
    met / true   the ratio of Ning et al.; its inverse is their factor of the predicted noise, --eps_scale
    own / true   how the samples differ from the images

A model that is behind by its error on true inputs has not learned enough. One that is ahead there, and whose met / own
is farther from 1 than its opponent's, loses by exposure bias. The error on own inputs tells whether its samples are
simpler than images: below the error on true ones.
"""
import torch

from lift import measurements
from lift.sampling import generate
from scheduler import CLEAN, CosineSteps


def of_moving(predictions, timesteps) -> list[torch.Tensor]:
    """Predictions [B, C, S, S] per scale, zero for a scale that is at CLEAN, which a sampler leaves as it is."""
    return [eps * (t != CLEAN) for eps, t in zip(predictions, timesteps)]


def norm_at_64(model, predictions) -> torch.Tensor:
    """Root mean square of a noise prediction, its norm over the root of the number of pixels: float64 [B] on the CPU.

    predictions: [B, C, S, S] per scale. Of two scales the 64 one's; of two bands that of the whole image.
    """
    squares = [eps.double().square().mean((1, 2, 3)) for eps in predictions]
    return measurements.at_64(model, squares).sqrt().cpu()


def arrivals(path) -> list[tuple[int, int]]:
    """The timesteps before every step of a path [N + 1, 2], CLEAN for a scale that has arrived."""
    return [tuple(CLEAN if t == 0 else int(t) for t in point) for point in path[:-1]]


def norms_on_the_way(model, path, seed: int, indices, x32_mode: str, precision: str):
    """Draw samples `indices` of `seed` along `path`, one network call a step; x32_mode: joint or reconciled.

    Returns the samples [B, 3, 64, 64] and the norm of the noise predicted on what the sampler met, before each step:
    float64 [N, B].
    """
    schedule, timesteps, norms = CosineSteps(), arrivals(path), []

    def keep(module, inputs, output):
        now = timesteps[len(norms)]
        predictions = [eps.float() for eps in (output if len(inputs) == 4 else [output])]
        if x32_mode == "reconciled":
            predictions = measurements.reconciled_noise(inputs[:2], predictions, now, schedule)
        norms.append(norm_at_64(model, of_moving(predictions, now)))

    hook = model.register_forward_hook(keep)
    try:
        samples = generate(model, path, seed, indices, x32_mode=x32_mode, precision=precision)
    finally:
        hook.remove()
    return samples.x_64, torch.stack(norms)


@torch.inference_mode()
def errors_and_norms(model, images, path, sampling_seed: int, seed: int, batch_size: int, device,
                     precision: str = "float32", progress=lambda calls: None, reconciled: bool = False) -> dict:
    """Errors and norms at 64 along a path, on the three inputs of this module.

    images: uint8 [N, 3, 64, 64]; as many samples are drawn, from `sampling_seed`. path: timesteps int64 [steps + 1, 2].
    seed: of the noise e. reconciled: LIFT's predictions are made to agree, here and in sampling. progress(calls done)
    is called after every batch. Returns error_true, error_own, norm_true, norm_own and norm_met: float64 [steps, N].
    """
    schedule, num_scales = CosineSteps(), 1 + (model.model_type == "lift")
    x32_mode = "reconciled" if reconciled and num_scales == 2 else "joint"
    found = {name: [] for name in ("error_true", "error_own", "norm_true", "norm_own", "norm_met")}
    for indices, x_0_64 in measurements.batches(images, batch_size, device):
        samples, met = norms_on_the_way(model, path, sampling_seed, indices, x32_mode, precision)
        noises = measurements.paired_noise(seed, indices, device)[:num_scales]
        found["norm_met"].append(met)
        for kind, clean in (("true", x_0_64), ("own", samples)):
            errors, norms = [], []
            for timesteps in arrivals(path):
                noise, predicted = measurements.noise_and_prediction(model, clean, noises, timesteps[:num_scales],
                                                                     schedule, precision, x32_mode == "reconciled")
                predicted = of_moving(predicted, timesteps)
                errors.append(measurements.at_64(model, measurements.mean_squares(noise, predicted)))
                norms.append(norm_at_64(model, predicted))
            found[f"error_{kind}"].append(torch.stack(errors))
            found[f"norm_{kind}"].append(torch.stack(norms))
        progress(3 * len(indices) * (len(path) - 1))
    return {name: torch.cat(parts, dim=1).numpy() for name, parts in found.items()}


def rows_by_step(found: dict, path) -> list[dict]:
    """A row per step of the path of what `errors_and_norms` found: means over the images, with standard errors."""
    rows = []
    for k, (t_64, t_32) in enumerate(path[:-1]):
        row = {"t_64": int(t_64), "t_32": int(t_32)}
        for name, values in found.items():
            row[name], row[f"{name}_standard_error"] = measurements.mean_and_standard_error(values[k])
        for above, below in (("met", "own"), ("met", "true"), ("own", "true")):
            row[f"{above}_over_{below}"], row[f"{above}_over_{below}_standard_error"] = \
                measurements.ratio_and_standard_error(found[f"norm_{above}"][k], found[f"norm_{below}"][k])
        rows.append(row)
    return rows
