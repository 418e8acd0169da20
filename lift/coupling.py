"""S1's models as denoisers, and what its 32 branch can be made to do while the sampler knows nothing of it."""
import torch

from engine.denoiser import Denoiser
from networks.scales import downsample_to_32, reconcile
from scheduler import CosineSteps, predict_x_0

NOISIEST_SHAPES = [(3, 64, 64), (3, 32, 32)]


class TimestepDenoiser(Denoiser):
    """A baseline or LIFT model: called with the noised images, then their timesteps; returns the noise per scale.

    A scale that has arrived at the clean image is shown to the model as timestep 0, the cleanest it was trained on.
    """

    def __init__(self, model, num_scales: int, shapes=None):
        self.model, self.process = model, CosineSteps()
        self.processes = [self.process] * num_scales
        self.shapes = list(shapes or NOISIEST_SHAPES[:num_scales])

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`; in the precision of xs."""
        self.num_evaluations += len(xs[0])
        ts = [t.clamp(min=0) for t in ts]
        noises = self.model(*xs, *ts)
        noises = noises if len(xs) == 2 else [noises]
        return [predict_x_0(x, eps.to(x.dtype), self.process.alpha_cumprod(t, x.dtype), clip=False)
                for x, eps, t in zip(xs, noises, ts)]


class Coupled(Denoiser):
    """A denoiser of two scales whose predictions of the clean image are made to agree.

    from_64: the 32 prediction becomes the 2x2 mean of the 64 prediction. reconciled: both become what `reconcile` makes
    of them. An exact network's predictions agree already. clip: whether predictions are clipped to [-1, 1] before.
    """

    def __init__(self, denoiser: TimestepDenoiser, mode: str, clip: bool):
        self.denoiser, self.mode, self.clip = denoiser, mode, clip
        self.shapes, self.processes = denoiser.shapes, denoiser.processes

    @property
    def num_evaluations(self) -> int:
        """Those of the denoiser inside."""
        return self.denoiser.num_evaluations

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        x_0_64, x_0_32 = (x_0.clamp(-1, 1) if self.clip else x_0 for x_0 in self.denoiser.clean(xs, ts, labels))
        if self.mode == "from_64":
            return [x_0_64, downsample_to_32(x_0_64)]
        abars = (process.alpha_cumprod(t[0].clamp(min=0), x.dtype) for process, t, x in zip(self.processes, ts, xs))
        return list(reconcile(x_0_64, x_0_32, *abars))


class HeldBranch(Denoiser):
    """The 32-branch experiment: what the model sees at 32 is its start throughout (fixed), or noise drawn anew in every
    call but the first (random). The sampler leaves that scale as it is."""

    held = frozenset({1})

    def __init__(self, denoiser: TimestepDenoiser, mode: str, x_32: torch.Tensor, step_noise):
        self.denoiser, self.mode, self.step_noise = denoiser, mode, step_noise
        self.shapes, self.processes = denoiser.shapes, denoiser.processes
        self.x_32, self.is_first = x_32, True

    @property
    def num_evaluations(self) -> int:
        """Those of the denoiser inside."""
        return self.denoiser.num_evaluations

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`; xs[1] is not looked at."""
        if self.mode == "random" and not self.is_first:
            self.x_32 = self.step_noise(self.x_32)
        self.is_first = False
        return self.denoiser.clean([xs[0], self.x_32], ts, labels)
