"""S1's models as denoisers, denoisers of two scales as S1's models, and wrappers that change what the 32 branch does.

The sampler of the engine knows none of this.
"""
from dataclasses import dataclass

import torch
from torch import nn

from engine.denoiser import Autoguided, Corrected, Denoiser, OutputDenoiser, Times, Wrapped, acts_at, changed_times
from engine.errors import InputError
from networks.bands import BandDenoiser, split
from networks.scales import downsample_to_32, reconcile
from scheduler import CLEAN, CosineSteps, NoiseProcess, noise_in, per_image

NOISIEST_SHAPES = [(3, 64, 64), (3, 32, 32)]


class TimestepDenoiser(OutputDenoiser):
    """A baseline or LIFT model: called with the noised images, then their timesteps; returns the noise per scale.

    For a scale that has arrived at the clean image, the model is told timestep 0, the cleanest of its training.
    """

    kind = "eps"

    def __init__(self, model, num_scales: int, shapes=None):
        self.network, self.process = model, CosineSteps()
        self.processes = [self.process] * num_scales
        self.shapes = list(shapes or NOISIEST_SHAPES[:num_scales])

    def outputs(self, network, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `OutputDenoiser`. Where the host knows the time, it decides whether the 64 level is left out."""
        told = {}
        if getattr(network, "skip_64_at_noise", False) and isinstance(ts, Times):
            told["at_noise"] = ts.numbers[0] >= self.process.noisiest
        noises = network(*xs, *ts, **told)
        return noises if len(xs) == 2 else [noises]

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`; in the precision of xs."""
        return super().clean(xs, changed_times(ts, lambda s, t: t.clamp(min=0)))


class BandTimestepDenoiser(TimestepDenoiser, BandDenoiser):
    """A model of two bands, called as LIFT is."""


def has_bands(model) -> bool:
    """Whether what is called as LIFT is takes the two bands of one image, not an image at two sizes."""
    return getattr(model, "has_bands", False)


def check_can_disagree(model, asked: str) -> None:
    """Raises InputError for a model whose predictions cannot be made to agree, or its 32 branch held. asked: by which
    option, and what was found."""
    if has_bands(model):
        raise InputError(f"{asked} for a model of two bands, whose parts cannot disagree; leave it out")


def views(model, x_0_64: torch.Tensor) -> list[torch.Tensor]:
    """What a model that is called as LIFT is sees of images [B, 3, 64, 64]: [B, 3, 64, 64] and [B, 3, 32, 32]."""
    return split(x_0_64) if has_bands(model) else [x_0_64, downsample_to_32(x_0_64)]


def timestep_denoiser(model, num_scales: int, shapes=None) -> TimestepDenoiser:
    """S1's denoiser of a model that is called with timesteps."""
    return (BandTimestepDenoiser if has_bands(model) else TimestepDenoiser)(model, num_scales, shapes)


class TimestepModel(nn.Module):
    """Any denoiser of two scales, called as LIFTDualTimestepModel is. So error maps and edge costs can be measured on
    it.

    Up to a factor, a noised image sqrt(abar) x_0 + sqrt(1 - abar) eps is one of the denoiser's own process, at the time
    with the same log SNR. A denoiser with classes is asked for its null class.
    """

    model_type = "lift"

    def __init__(self, denoiser: OutputDenoiser):
        super().__init__()
        self.network, self.denoiser, self.schedule = denoiser.network, denoiser, CosineSteps()
        self.has_bands = isinstance(denoiser, BandDenoiser)

    def forward(self, x_64, x_32, t_64, t_32) -> list[torch.Tensor]:
        """The noise per scale. x_64, x_32: [B, C, S, S]; t_64, t_32: timesteps [B], also fractions."""
        if self.has_bands:
            x_64 = split(x_64)[0]
        xs, ts, levels = [], [], []
        for x, t, process in zip((x_64, x_32), (t_64, t_32), self.denoiser.processes):
            own_t = process.t_at(self.schedule.log_snr_at(t))
            a, s = (level.to(x.dtype) for level in self.schedule.levels(t, torch.float64))
            own_a, own_s = process.levels(own_t, x.dtype)
            xs.append(x * per_image((own_a + own_s) / (a + s), x))
            ts.append(own_t.to(x.dtype))
            levels.append((a, s))
        x_0s = self.denoiser.clean(xs, ts)
        return [noise_in(x, x_0, a, s) for x, x_0, (a, s) in zip((x_64, x_32), x_0s, levels)]


def times_of_timesteps(path, processes: list[NoiseProcess]) -> torch.Tensor:
    """A path of S1's timesteps as one in the times of other processes, at the same log SNR: float64 [N + 1, scales].

    path: int64 [N + 1, 2]. The noisiest timestep becomes a process's noisiest time, and timestep 0, where the sampler
    arrives at the clean image, its clean one.
    """
    schedule, path = CosineSteps(), torch.as_tensor(path)
    columns = []
    for s, process in enumerate(processes):
        t = path[:, s]
        own = process.t_at(schedule.log_snr_at(t))
        own = torch.where(t == schedule.noisiest, process.noisiest, own)
        columns.append(torch.where((t == 0) | (t == CLEAN), process.clean, own))
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class Guidance:
    """Guidance by a weaker prediction (`engine.denoiser.Autoguided`), two calls a step where it acts.

    model: the weaker model, or None for the same one that sees pure noise as x_32 (`NoisyCoarse`). scale, interval: as
    in `Autoguided`, the interval in log SNR of the 64 scale.
    """

    scale: float
    interval: tuple[float, float] | None = None
    model: nn.Module | None = None

    def num_calls(self, path) -> int:
        """Network calls of the weaker prediction along a path of timesteps [N + 1, 2] (t_64, t_32)."""
        return 0 if self.scale == 1 else sum(acts_at(self.interval, CosineSteps(), CLEAN if t_64 == 0 else int(t_64))
                                             for t_64 in path[:-1, 0])


def denoiser_of(model, shapes, eps_scale: float = 1.0, told_log_snr: float = 0.0, guidance: Guidance | None = None,
                step_noise=None) -> Denoiser:
    """A baseline or LIFT model as a denoiser, with what is done to its predictions (`Corrected`, `Autoguided`).

    shapes: [C, H, W] per scale. step_noise(x): noise like x, for a guidance by pure noise.
    """
    def corrected(network) -> Denoiser:
        denoiser = timestep_denoiser(network, len(shapes), shapes)
        return Corrected.where_asked(denoiser, eps_scale, told_log_snr)

    denoiser = corrected(model)
    if guidance is None:
        return denoiser
    weak = NoisyCoarse(corrected(model), step_noise) if guidance.model is None else corrected(guidance.model)
    return Autoguided(denoiser, weak, guidance.scale, guidance.interval)


class NoisyCoarse(Wrapped):
    """A denoiser of two scales that sees pure noise at the coarser one, at the noisiest time and drawn anew in every
    call. It predicts the finer scale alone; for the coarser one it returns None."""

    def __init__(self, denoiser: Denoiser, step_noise):
        super().__init__(denoiser)
        self.step_noise = step_noise

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor | None]:
        """As in `Denoiser`; xs[1] and ts[1] are not read."""
        ts = changed_times(ts, lambda s, t: torch.full_like(t, self.processes[1].noisiest) if s == 1 else t)
        return [self.denoiser.clean([xs[0], self.step_noise(xs[1])], ts, labels)[0], None]


class Coupled(Wrapped):
    """A denoiser of two scales whose predictions of the clean image are made to agree.

    mode: from_64, where the 32 prediction becomes the 2x2 mean of the 64 prediction, or reconciled, where `reconcile`
    changes both. An exact network's predictions agree already. clip: whether predictions are clipped to [-1, 1] before.
    """

    def __init__(self, denoiser: Denoiser, mode: str, clip: bool):
        super().__init__(denoiser)
        self.mode, self.clip = mode, clip

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        x_0_64, x_0_32 = (x_0.clamp(-1, 1) if self.clip else x_0 for x_0 in self.denoiser.clean(xs, ts, labels))
        if self.mode == "from_64":
            return [x_0_64, downsample_to_32(x_0_64)]
        abars = (process.alpha_cumprod(t[0].clamp(min=0), x.dtype) for process, t, x in zip(self.processes, ts, xs))
        return list(reconcile(x_0_64, x_0_32, *abars))


class HeldBranch(Wrapped):
    """The 32-branch experiment. At 32 the model sees its start in every call (fixed), or noise that is drawn anew in
    every call but the first (random). The sampler leaves the 32 scale as it is."""

    def __init__(self, denoiser: Denoiser, mode: str, x_32: torch.Tensor, step_noise):
        super().__init__(denoiser)
        self.held = frozenset({1})
        self.mode, self.step_noise = mode, step_noise
        self.x_32, self.is_first = x_32, True

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`; xs[1] is not read."""
        if self.mode == "random" and not self.is_first:
            self.x_32 = self.step_noise(self.x_32)
        self.is_first = False
        return self.denoiser.clean([xs[0], self.x_32], ts, labels)
