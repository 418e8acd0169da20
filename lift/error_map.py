"""How much error a sampling step makes at every pair (t_64, t_32): squared Jacobian norms by Hutchinson's estimator.

For Rademacher vectors r, E ||J r||^2 = ||J||_F^2. A tangent in x_64 alone gives the blocks 64<-64 and 32<-64 of the
noise prediction's Jacobian; one in x_32 alone gives 64<-32 and 32<-32 (output scale <- input scale). The prediction of
the clean image, x_0 = (x - sqrt(1 - abar) eps) / sqrt(abar) without clipping, is linear in x and eps. So its four
blocks follow from the same products, and the network does no further work.

Common random numbers: image k, its noise and its probes depend on the seed and k alone, and all cells share them. So
neighbouring cells differ by the model and not by the draw. An image, averaged over its K probes, is one sample; images
are independent, and standard errors are taken over them.
"""
import copy

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from engine import devices
from engine import seeds
from engine.errors import InputError
from engine.sampling import from_uint8
from scheduler import NUM_TIMESTEPS, CosineSteps, predict_x_0
from engine.seeds import seeded_generator
from lift.coupling import has_bands, views
from lift.jvp import propagate
from lift.options import PREDICTIONS
from networks.bands import split

BLOCKS = ("64<-64", "32<-64", "64<-32", "32<-32")       # output scale <- input scale
NUM_PIXELS = {"64": 64 * 64, "32": 32 * 32}
# The factor that turns a squared Jacobian norm into an error, as a function of the scale's own SNR. localization
# follows from z = SNR x_0 + sqrt(SNR) eps. The two ode factors follow from the probability flow, written in eps or in
# x_0.
CHAIN_RULES = {
    "localization": lambda snr: 1 / (snr * (1 + snr)),
    "none": lambda snr: np.ones_like(snr),
    "eps_ode": lambda snr: snr / (4 * (1 + snr)**2),
    "x0_ode": lambda snr: 1 / (4 * (1 + snr)**2),
}
# Tangent images in one network pass. On a CPU, more of them do not fit the caches, and every operation pages memory
# anew.
CHUNK_SIZES = {"cpu": 64, "cuda": 512}
# Weights of the maps


def log_snr_of(timesteps) -> np.ndarray:
    """log SNR at timesteps, float64, same shape."""
    return CosineSteps().t_to_log_snr(torch.from_numpy(np.asarray(timesteps))).numpy()


def chain_rule_factor(timesteps, chain_rule: str) -> np.ndarray:
    """The chain-rule factor at timesteps: float64, same shape."""
    return CHAIN_RULES[chain_rule](np.exp(log_snr_of(timesteps)))


def block_weight(block: str, normalization: str) -> float:
    """The factor of a block's ||J r||^2.

    normalization: per_pixel is 1 / (H W) of the input scale, so that an identity Jacobian scores 3, one per channel, at
    both scales. both_sides multiplies by 1 / (H W) of the output scale too, as the earlier implementation does; then
    the 32 scale counts four times as much for the same Jacobian.
    """
    output_scale, input_scale = block.split("<-")
    weight = 1 / NUM_PIXELS[input_scale]
    return weight / NUM_PIXELS[output_scale] if normalization == "both_sides" else weight


def mean_over_images(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the M images of a cell and its standard error, float64 [...] each. samples: [..., M], nan where a cell
    has no sample."""
    known = np.isfinite(samples)
    count = known.sum(-1)
    values = np.where(known, samples, 0).astype(np.float64)
    mean = np.divide(values.sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)
    squares = np.where(known, (values - mean[..., None])**2, 0).sum(-1)
    variance = np.divide(squares, count - 1, out=np.full(count.shape, np.nan), where=count > 1)
    return mean, np.sqrt(variance / np.maximum(count, 1))


def maps_per_image(frobenius, timesteps, chain_rule: str, normalization: str, prediction: str) -> np.ndarray:
    """error_64 and error_32 of every image: float64 [2, n, n, M].

    frobenius: [2, 4, n, n, M], squared norms by prediction, block, cell and image; timesteps: [n].
    """
    own = np.asarray(frobenius[PREDICTIONS.index(prediction)], dtype=np.float64)
    factor = chain_rule_factor(timesteps, chain_rule)
    return np.stack([
        own[BLOCKS.index("64<-64")] * block_weight("64<-64", normalization) * factor[:, None, None],
        own[BLOCKS.index("32<-32")] * block_weight("32<-32", normalization) * factor[None, :, None]])


def weighted_maps(frobenius, timesteps, chain_rule: str, normalization: str, prediction: str) -> dict:
    """The entries of a heatmap that depend on the weights of squared norms; arguments as in `maps_per_image`."""
    mean, standard_error = mean_over_images(
        maps_per_image(frobenius, timesteps, chain_rule, normalization, prediction))
    weights = np.array([block_weight(block, normalization) for block in BLOCKS])[:, None, None]
    blocks, block_standard_errors = {}, {}
    for values, name in zip(np.asarray(frobenius), PREDICTIONS):
        block_mean, block_error = mean_over_images(values)
        blocks[name] = dict(zip(BLOCKS, torch.from_numpy(block_mean * weights)))
        block_standard_errors[name] = dict(zip(BLOCKS, torch.from_numpy(block_error * weights)))
    return {"error_64": torch.from_numpy(mean[0]), "error_32": torch.from_numpy(mean[1]),
            "standard_error_64": torch.from_numpy(standard_error[0]),
            "standard_error_32": torch.from_numpy(standard_error[1]),
            "blocks": blocks, "block_standard_errors": block_standard_errors}


def reweighted(heatmap: dict, chain_rule=None, normalization=None, prediction=None) -> dict:
    """The same heatmap with another chain rule, normalization or prediction; None keeps its own."""
    changes = {"chain_rule": chain_rule, "normalization": normalization, "prediction": prediction}
    options = {**heatmap["options"], **{key: value for key, value in changes.items() if value is not None}}
    maps = weighted_maps(heatmap["frobenius"].numpy(), heatmap["timesteps"].numpy(), options["chain_rule"],
                         options["normalization"], options["prediction"])
    return {**heatmap, **maps, "options": options}


def identity_heatmap(timesteps, factor_64, factor_32=None) -> dict:
    """The map of identity Jacobians, as `paths.path_from_heatmap` reads it: an error map without the model's part.

    timesteps: [n]; factor_64, factor_32: [n], the chain-rule factor at each timestep times the scale's weight in the
    normalisation (factor_32 left out: the same). An identity Jacobian scores 3, one per channel.
    """
    factor_64 = np.asarray(factor_64, dtype=np.float64)
    factor_32 = factor_64 if factor_32 is None else np.asarray(factor_32, dtype=np.float64)
    n = len(factor_64)
    return {"timesteps": np.asarray(timesteps), "error_64": np.repeat(3 * factor_64[:, None], n, 1),
            "error_32": np.repeat(3 * factor_32[None, :], n, 0), "edge_costs": {}}


def identity_map(heatmap: dict) -> dict:
    """The map that an identity Jacobian of the prediction has under this heatmap's weights, for `paths`."""
    options = heatmap["options"]
    timesteps = np.asarray(heatmap["timesteps"])
    factor = chain_rule_factor(timesteps, options["chain_rule"])
    output_64, output_32 = (block_weight(f"{s}<-{s}", options["normalization"]) * NUM_PIXELS[s] for s in ("64", "32"))
    return identity_heatmap(timesteps, factor * output_64, factor * output_32)


# The estimator

class Draws:
    """Images with their noise and probes, image by image the same for every cell and every batch size."""

    def __init__(self, images: np.ndarray, numbers, num_probes: int, seed: int, device, model=None):
        """images: uint8 [N, 3, 64, 64]; numbers: which draws, 0...N - 1, in an order that the seed shuffles. model:
        whose views of the images these are; left out: LIFT's.

        Probes of a fine band keep to it, which has three numbers in four, and are longer by sqrt(4 / 3): an identity
        Jacobian scores 3 there too.
        """
        order = torch.randperm(len(images), generator=seeded_generator(seed, seeds.ERROR_MAP_IMAGES)).numpy()
        x_0 = from_uint8(torch.from_numpy(np.stack([images[order[k]] for k in numbers]))).to(device)
        self.x_0_64, self.x_0_32 = views(model, x_0)
        noises, probes = [], []
        for k in numbers:
            generator = seeded_generator(seed, seeds.ERROR_MAP_NOISE, k)
            noises.append([torch.randn(3, side, side, generator=generator) for side in (64, 32)])
            draws = [[torch.randint(0, 2, (3, side, side), generator=generator, dtype=torch.int8)
                      for side in (64, 32)]
                     for generator in (seeded_generator(seed, seeds.ERROR_MAP_PROBES, k, p) for p in range(num_probes))]
            probes.append([torch.stack(values) * 2 - 1 for values in zip(*draws)])
        self.noise_64, self.noise_32 = (torch.stack(values).to(device) for values in zip(*noises))
        self.probes_64, self.probes_32 = (torch.stack(values, 1).to(device) for values in zip(*probes))  # [K, N, ...]
        if has_bands(model):
            fine = split(self.probes_64.float().flatten(0, 1))[0].view_as(self.probes_64)
            self.probes_64 = fine * (4 / 3)**0.5


def frozen_copy(model: torch.nn.Module, precision: str) -> torch.nn.Module:
    """A copy of the model for the estimator. Its weights are contiguous, which normalisation likes best, and bf16 where
    asked."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
    if precision == "bf16":
        for parameter in model.parameters():    # not the buffers: a linear denoiser computes in float64
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


@torch.no_grad()
def squared_norms(model, draws: Draws, which: torch.Tensor, t_64: torch.Tensor, t_32: torch.Tensor, schedule,
                  precision: str = "float32") -> torch.Tensor:
    """||J r||^2, mean over the K probes: float64 [2, 4, B] by prediction, block and image.

    which: [B], numbers of images in `draws`; t_64, t_32: [B], each image's own timesteps. Costs one primal and 2 K
    tangents per image.
    """
    probes_64, probes_32 = draws.probes_64[:, which].float(), draws.probes_32[:, which].float()
    tangents_64 = torch.cat([probes_64, probes_64.new_zeros(probes_64.shape)])                  # [2K, B, 3, 64, 64]
    tangents_32 = torch.cat([probes_32.new_zeros(probes_32.shape), probes_32])                  # [2K, B, 3, 32, 32]
    x_64 = schedule.add_noise(draws.x_0_64[which], draws.noise_64[which], t_64)
    x_32 = schedule.add_noise(draws.x_0_32[which], draws.noise_32[which], t_32)
    # The fused attention kernels have no forward-mode derivative, which a fall back to torch.func.jvp would need.
    with sdpa_kernel(SDPBackend.MATH), devices.autocast(x_64.device, precision):
        _, eps_tangents = propagate(lambda a, b: model(a, b, t_64, t_32), (x_64, x_32), (tangents_64, tangents_32))
    norms = torch.zeros(2, 2, 2, len(which), dtype=torch.float64, device=x_64.device)   # prediction, input, output
    for output, (eps_tangent, tangent, t) in enumerate(zip(eps_tangents, (tangents_64, tangents_32), (t_64, t_32))):
        if eps_tangent is None:
            eps_tangent = torch.zeros_like(tangent)
        eps_tangent = eps_tangent.float()
        # Unclipped, x_0 is linear in x_t and eps, and so the same formula holds for their tangents.
        abar = schedule.alpha_cumprod(t).repeat(len(tangent))
        x_0_tangent = predict_x_0(tangent.flatten(0, 1), eps_tangent.flatten(0, 1), abar, clip=False).view_as(tangent)
        for prediction, value in enumerate((eps_tangent, x_0_tangent)):
            by_probe = value.square().flatten(2).sum(2).double().unflatten(0, (2, -1))          # [input, K, B]
            norms[prediction, :, output] = by_probe.mean(1)
    return norms.flatten(1, 2)


class CellSampler:
    """A copy of a model on its device, asked for the squared norms of cells in chunks that its memory holds."""

    def __init__(self, model, device, num_probes: int, precision: str, chunk_size: int):
        """chunk_size: tangent images in one network pass; it is halved where memory does not hold them."""
        self.model, self.device, self.precision = frozen_copy(model, precision), device, precision
        self.num_probes, self.chunk_size = num_probes, chunk_size
        self.schedule = CosineSteps(NUM_TIMESTEPS)
        self.num_primals = 0                                            # network evaluations of one image so far

    def sample(self, draws: Draws, times: np.ndarray, progress) -> np.ndarray:
        """||J r||^2 of every image at every cell: float32 [2, 4, cells, images] by prediction and block.

        times: int64 [cells, 2], t_64 and t_32. progress(images done) is called after every chunk. Raises InputError
        if memory does not hold a single image.
        """
        num_images = len(draws.x_0_64)
        # Cell by cell, so that a chunk holds few images in many cells or many images in few, as it comes.
        cell, which = np.divmod(np.arange(len(times) * num_images), num_images)
        norms = np.empty((len(PREDICTIONS), len(BLOCKS), len(cell)), dtype=np.float32)
        done = 0
        while done < len(cell):
            part = slice(done, min(done + max(self.chunk_size // (2 * self.num_probes), 1), len(cell)))
            image, t_64, t_32 = (torch.from_numpy(values).to(self.device)
                                 for values in (which[part], *times[cell[part]].T))
            try:
                found = squared_norms(self.model, draws, image, t_64, t_32, self.schedule, self.precision)
            except torch.cuda.OutOfMemoryError:
                if self.chunk_size <= 2 * self.num_probes:
                    raise InputError("--device: its memory does not hold one image; choose a smaller --K") from None
                self.chunk_size //= 2
                torch.cuda.empty_cache()
                continue
            norms[:, :, part] = found.cpu().numpy()
            progress(part.stop - done)
            self.num_primals += part.stop - done
            done = part.stop
        return norms.reshape(len(PREDICTIONS), len(BLOCKS), len(times), num_images)


def estimate(model, images: np.ndarray, timesteps, *, K: int = 4, batch_size: int = 16, max_images: int = 64,
             target_error: float = 0.0, chain_rule: str = "localization", normalization: str = "per_pixel",
             prediction: str = "eps", seed: int = 42, precision: str = "float32", cells=None, chunk_size: int = 0,
             progress: bool = False) -> dict:
    """The error map of a model on images: a heatmap file's content without its origin.

    model: anything called as LIFTDualTimestepModel is, on its device. images: uint8 [N, 3, 64, 64]. timesteps: int64
    [n], falling. K: probes per image and scale. batch_size: images per round. target_error: a cell gets further rounds,
    up to max_images, until the standard errors of its error_64 and error_32 are at most this share of them; 0: one
    round. cells: (i, j) pairs to estimate, None for all; others stay nan. chunk_size: tangent images in one network
    pass, 0 for the device's default. Raises InputError for too few images and for cells whose estimate is not finite.
    """
    timesteps = np.asarray(timesteps, dtype=np.int64)
    n = len(timesteps)
    limit = max(max_images, batch_size) if target_error > 0 else batch_size
    if len(images) < batch_size:
        raise InputError(f"--batch_size: found {batch_size}, but the data has {len(images)} images; choose at most "
                         "that, or more data")
    limit = min(limit, len(images))
    device = next(iter(model.parameters()), torch.zeros(())).device
    sampler = CellSampler(model, device, K, precision, chunk_size or CHUNK_SIZES.get(device.type, 64))
    active = np.array([(i, j) for i in range(n) for j in range(n)] if cells is None else cells, dtype=np.int64)
    wanted = active
    frobenius = np.full((len(PREDICTIONS), len(BLOCKS), n, n, limit), np.nan, dtype=np.float32)
    first = 0
    with tqdm(desc="error map", unit=" images", total=0, disable=not progress, smoothing=0.1) as bar:
        while len(active) and first < limit:
            last = min(first + batch_size, limit)
            draws = Draws(images, range(first, last), K, seed, device, model)
            bar.total += len(active) * (last - first)
            bar.refresh()
            norms = sampler.sample(draws, timesteps[active], bar.update)
            check_cells(norms, active, timesteps)
            frobenius[:, :, active[:, 0], active[:, 1], first:last] = norms
            first = last
            if target_error > 0:
                mean, error = mean_over_images(
                    maps_per_image(frobenius[..., :first], timesteps, chain_rule, normalization, prediction))
                unsure = (error > target_error * mean).any(0)
                active = active[unsure[active[:, 0], active[:, 1]]]
            else:
                active = active[:0]
    return {
        "timesteps": torch.from_numpy(timesteps),
        **weighted_maps(frobenius[..., :first], timesteps, chain_rule, normalization, prediction),
        "frobenius": torch.from_numpy(frobenius[..., :first].copy()),
        "num_images": torch.from_numpy(np.isfinite(frobenius[0, 0]).sum(-1)),
        "num_primals": sampler.num_primals,
        "num_tangents": 2 * K * sampler.num_primals,
        "num_cells_above_target": len(active) if target_error > 0 else 0,
        "num_cells": len(wanted),
        "edge_costs": {},
        "options": {"K": K, "batch_size": batch_size, "max_images": limit, "target_error": target_error, "grid": n,
                    "chain_rule": chain_rule, "normalization": normalization, "prediction": prediction, "seed": seed,
                    "precision": precision},
    }


def check_cells(values: np.ndarray, cells: np.ndarray, timesteps: np.ndarray, what: str = "error map") -> None:
    """Raises InputError that names the cells at which values [..., cells, images] are not finite."""
    finite = np.isfinite(values).all(axis=tuple(range(values.ndim - 2)) + (values.ndim - 1,))
    bad = cells[~finite]
    if len(bad):
        named = ", ".join(f"({timesteps[i]}, {timesteps[j]})" for i, j in bad[:5])
        raise InputError(f"{what}: not finite at {len(bad)} cells, (t_64, t_32) = {named}{' ...' * (len(bad) > 5)}; "
                         "expected finite values everywhere; use --precision float32 or an earlier checkpoint")


@devices.exact_float32()
def precision_bias(model, images: np.ndarray, timesteps, *, prediction: str, seed: int, num_images: int = 8) -> float:
    """Largest relative difference between bf16 and float32 of error_64 and error_32, at the map's corners and middle.

    Both have the same images, noise and probes, so only rounding differs.
    """
    last = len(timesteps) - 1
    cells = sorted({(i, j) for i in (0, last) for j in (0, last)} | {(last // 2, last // 2)})
    maps = {}
    for precision in ("float32", "bf16"):
        result = estimate(model, images, timesteps, K=1, batch_size=min(num_images, len(images)), prediction=prediction,
                          seed=seed, precision=precision, cells=cells)
        maps[precision] = np.stack([result[f"error_{s}"].numpy()[tuple(np.transpose(cells))] for s in ("64", "32")])
    return float(np.max(np.abs(maps["bf16"] / maps["float32"] - 1)))


# Heatmap files

# What a path costs on a map

