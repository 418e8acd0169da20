"""The noise process, conversions between timestep and signal-to-noise ratio, and the sampling steps.

Every formula of the forward and the reverse process lives here and nowhere else. Notation: abar is alphas_cumprod,
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, SNR = abar / (1 - abar), and log SNR is its natural logarithm.
"""
import math

import torch
import torch.nn.functional as F

from networks.scales import downsample_to_32

NUM_TIMESTEPS = 1000
COSINE_OFFSET = 0.008
BETA_MIN, BETA_MAX = 1e-4, 0.02
CLEAN = -1                      # the timestep of a clean image: abar = 1


def cosine_alphas_cumprod(num_timesteps: int = NUM_TIMESTEPS) -> torch.Tensor:
    """The cosine schedule (Nichol and Dhariwal 2021, eq. 17) turned into betas, clipped, and multiplied up again.

    Returns float64 [num_timesteps], falling from 0.9999 to 0.0031948.
    """
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    f = torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(BETA_MIN, BETA_MAX)
    return torch.cumprod(1 - betas, dim=0)


class NoiseSchedule:
    """alphas_cumprod by timestep, on any device, with conversions to log SNR and back.

    Timesteps run from 0 (nearly clean) to 999 (noisiest); CLEAN (-1) stands for abar = 1 exactly.
    """

    def __init__(self, num_timesteps: int = NUM_TIMESTEPS):
        self.num_timesteps = num_timesteps
        self.alphas_cumprod = cosine_alphas_cumprod(num_timesteps)                     # float64 [T]
        self.log_snrs = torch.logit(self.alphas_cumprod)                               # float64 [T], falling
        with_clean = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        self._log_snrs = {}
        self._tables = {(torch.device("cpu"), torch.float64): with_clean}

    def alpha_cumprod(self, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """abar at integer timesteps t (any shape, -1...999, any device) -> same shape and device, `dtype`."""
        key = (t.device, dtype)
        if key not in self._tables:
            self._tables[key] = self._tables[torch.device("cpu"), torch.float64].to(t.device, dtype)
        return self._tables[key][t.long() + 1]

    def log_snr_at(self, t: torch.Tensor) -> torch.Tensor:
        """log SNR at timesteps t (any shape and device, 0...999, fractions are interpolated linearly) -> float64, same
        shape and device, differentiable in t."""
        if t.device not in self._log_snrs:
            self._log_snrs[t.device] = self.log_snrs.to(t.device)
        table = self._log_snrs[t.device]
        t = t.double().clamp(0, self.num_timesteps - 1)
        below = t.detach().floor().long().clamp(max=self.num_timesteps - 2)
        return torch.lerp(table[below], table[below + 1], t - below)

    def alpha_cumprod_at(self, t: torch.Tensor) -> torch.Tensor:
        """abar at timesteps t, fractions too; the rest as in `log_snr_at`."""
        return self.log_snr_at(t).sigmoid()

    def t_to_log_snr(self, t: torch.Tensor) -> torch.Tensor:
        """log SNR at timesteps t (any shape, 0...999, fractions are interpolated linearly) -> float64 on the CPU."""
        return self.log_snr_at(torch.as_tensor(t, device="cpu"))

    def log_snr_to_t(self, log_snr: torch.Tensor) -> torch.Tensor:
        """The fractional timestep with that log SNR; beyond either end, the end -> float64 on the CPU.

        Inverse of `t_to_log_snr`: log SNR falls strictly with t, so the interpolation can be turned round.
        """
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64, device="cpu")
        rising = self.log_snrs.flip(0)
        log_snr = log_snr.clamp(rising[0], rising[-1])
        above = torch.searchsorted(rising, log_snr.contiguous()).clamp(1, self.num_timesteps - 1)
        share = (log_snr - rising[above - 1]) / (rising[above] - rising[above - 1])
        return self.num_timesteps - 1 - (above - 1 + share)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """SNR at timesteps t -> float64 on the CPU."""
        return self.t_to_log_snr(t).exp()

    def snr_to_t(self, snr: torch.Tensor) -> torch.Tensor:
        """The fractional timestep with that SNR -> float64 on the CPU."""
        return self.log_snr_to_t(torch.as_tensor(snr, dtype=torch.float64).log())

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t of integer timesteps t. x_0, noise: [B, C, H, W]; t: [B]."""
        return noised(x_0, noise, self.alpha_cumprod(t, x_0.dtype))

    def leading_t(self, t: torch.Tensor, lead) -> torch.Tensor:
        """The timestep ahead of t by `lead` in log SNR, to the nearest, ending at 0 and 999: int64 on the CPU.

        t: timesteps of any shape; lead: a number or a tensor of that shape.
        """
        return self.log_snr_to_t(self.t_to_log_snr(t) + lead).round().long()


def per_image(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Shape a scalar or [B] tensor so that it multiplies a batch x: [B, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 1)) if values.ndim else values


def noised(x_0: torch.Tensor, noise: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise. x_0, noise: [B, C, H, W]; abar: scalar tensor or [B]."""
    abar = per_image(abar, x_0)
    return abar.sqrt() * x_0 + (1 - abar).sqrt() * noise


def predict_x_0(x_t: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor, clip: bool = True) -> torch.Tensor:
    """The clean image that a noise prediction implies: (x_t - sqrt(1 - abar) eps) / sqrt(abar), clipped to [-1, 1].

    x_t, eps: [B, C, H, W]; abar: scalar tensor or [B].
    """
    abar = per_image(abar, x_t)
    x_0 = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    return x_0.clamp(-1, 1) if clip else x_0


def predict_eps(x_t: torch.Tensor, x_0: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noise that a clean image implies: (x_t - sqrt(abar) x_0) / sqrt(1 - abar). Inverse of `predict_x_0`."""
    abar = per_image(abar, x_t)
    return (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()


def eps_from_v(x_t: torch.Tensor, v: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noise that v = sqrt(abar) eps - sqrt(1 - abar) x_0 implies: sqrt(abar) v + sqrt(1 - abar) x_t (Salimans and
    Ho 2022, section 4). v wrong by d means noise wrong by sqrt(abar) d and a clean image wrong by sqrt(1 - abar) d,
    where noise wrong by d means a clean image wrong by d / sqrt(SNR), without bound at the noisy end.

    x_t, v: [B, C, H, W]; abar: scalar tensor or [B].
    """
    abar = per_image(abar, x_t)
    return abar.sqrt() * v + (1 - abar).sqrt() * x_t


def reconcile(x_0_64: torch.Tensor, x_0_32: torch.Tensor, abar_64: torch.Tensor, abar_32: torch.Tensor):
    """Make two predictions of one clean image agree on its coarse part, the 2x2 mean; returns both.

    x_0_64: [B, C, 64, 64]; x_0_32: [B, C, 32, 32]; abar: scalar tensors, of the noised images they come from. Their
    coarse part becomes the mean weighted by precision, 4 SNR_64 to SNR_32: what noisy views of one image say together
    where nothing else is known of it (four pixels of the 64 scale are one of the 32 scale). Predictions that agree
    already, such as an exact network's, stay as they are.
    """
    precision_64, precision_32 = 4 * abar_64 / (1 - abar_64), abar_32 / (1 - abar_32)
    coarse_64 = downsample_to_32(x_0_64)
    coarse = coarse_64 + precision_32 / (precision_64 + precision_32) * (x_0_32 - coarse_64)
    correction = F.interpolate(coarse - coarse_64, scale_factor=2, mode="nearest")      # whose 2x2 mean it is itself
    return x_0_64 + correction, coarse


def step_from_x_0(x_t, x_0, abar, abar_next, eta: float = 0.0, noise=None):
    """Move x_t from abar to abar_next, given the clean image (Song et al. 2021, DDIM, eq. 12 and 16).

    x_t, x_0, noise: [B, C, H, W]; abar, abar_next: scalar tensors or [B]; eta: 0 deterministic ... 1 ancestral.
    With eta = 0 and z = x / sqrt(abar), sigma = 1 / sqrt(SNR) this is z' = r z + (1 - r) x_0, r = sigma' / sigma.
    """
    eps = predict_eps(x_t, x_0, abar)
    abar, abar_next = per_image(abar, x_t), per_image(abar_next, x_t)
    if eta == 0:
        return abar_next.sqrt() * x_0 + (1 - abar_next).sqrt() * eps
    variance = eta**2 * (1 - abar_next) / (1 - abar) * (1 - abar / abar_next)
    return abar_next.sqrt() * x_0 + (1 - abar_next - variance).clamp(min=0).sqrt() * eps + variance.sqrt() * noise


def ddim_step(x_t, eps, abar, abar_next, clip: bool = True, eta: float = 0.0, noise=None):
    """One DDIM step from a noise prediction: x_0 is predicted and clipped, and eps derived again from it.

    Shapes as in `step_from_x_0`. Costs no network call; returns [B, C, H, W].
    """
    return step_from_x_0(x_t, predict_x_0(x_t, eps, abar, clip), abar, abar_next, eta, noise)


def extrapolate_x_0(x_0, x_0_previous, step: float, step_previous: float):
    """x_0 prediction at the middle of the coming step, from the last two (Lu et al. 2022, DPM-Solver++(2M), eq. 17).

    step and step_previous: lengths of the coming and of the last step in log SNR (summed over the scales). Where
    either is not finite and positive (a step to the clean image, the first step) the prediction is used as it is.
    """
    if not (0 < step < math.inf and 0 < step_previous < math.inf):
        return x_0
    return x_0 + step / (2 * step_previous) * (x_0 - x_0_previous)
