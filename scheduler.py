"""Noise processes, what a network may put out, and the sampling step: every formula of diffusion lives here.

A process makes a noised image x_t = a x_0 + s eps of a clean image x_0 and standard normal noise eps. The pair (a, s)
is the *levels* of time t; SNR = a^2 / s^2, and log SNR is its natural logarithm. Each process has a time of its own:
CosineSteps counts timesteps 999 ... 0, LinearFlow goes from 0 (noise) to 1 (image), and the time of Sigma is the noise
level itself. Networks put out one of four kinds, from which the clean image follows (`clean_image`):

    eps       the noise                              x_0        the clean image
    v         a eps - s x_0                          velocity   x_0 - eps
"""
import math

import torch

NUM_TIMESTEPS = 1000
COSINE_OFFSET = 0.008
BETA_MIN, BETA_MAX = 1e-4, 0.02
CLEAN = -1                      # the timestep of a clean image: abar = 1
KINDS = {"eps": (0, 1), "x_0": (1, 0), "velocity": (1, -1)}     # p, q of p x_0 + q eps; v's depend on the level


def cosine_alphas_cumprod(num_timesteps: int = NUM_TIMESTEPS, beta_max: float = BETA_MAX) -> torch.Tensor:
    """The cosine schedule (Nichol and Dhariwal 2021, eq. 17) turned into betas, clipped, and multiplied up again.

    beta_max: where betas are clipped. Returns abar, float64 [num_timesteps]. With LIFT's beta_max of 0.02 abar falls
    from 0.9999 to 0.0031948; with the MNIST family's 0.9999 it falls to 2.4e-10.
    """
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    f = torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(BETA_MIN, beta_max)
    return torch.cumprod(1 - betas, dim=0)


class NoiseProcess:
    """What the engine asks of a process. `noisiest` and `clean` are the two ends of its time.

    `extrapolates` says what the multistep solver carries on from step to step. It is the clean image over log SNR, or,
    where log SNR is infinite at the start, the velocity over time. `clips_pixels` says whether a sampler clips
    predicted clean images of pixels to [-1, 1]. A noise prediction needs it, since it divides by a small a; a velocity
    does not.
    """

    noisiest: float
    clean: float
    extrapolates = "clean image"
    clips_pixels = False

    def levels(self, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """a and s at times t (any shape, any device) -> two tensors of that shape and device."""
        raise NotImplementedError

    def log_snr(self, t: torch.Tensor) -> torch.Tensor:
        """log SNR at times t -> float64, same shape and device; infinite at a clean image."""
        raise NotImplementedError

    def t_at(self, log_snr: torch.Tensor) -> torch.Tensor:
        """The time with that log SNR -> float64, same shape and device. Inverse of `log_snr`."""
        raise NotImplementedError

    def leading_t(self, t: torch.Tensor, lead) -> torch.Tensor:
        """The times ahead of t by `lead` in log SNR -> float64, shape and device of t. lead: a number, or a tensor of
        that shape; below 0 the times are behind."""
        return self.t_at(self.log_snr(t) + lead)

    def at_share(self, share):
        """The time, number or tensor, at a share of the way from `noisiest` to `clean`."""
        return self.noisiest + share * (self.clean - self.noisiest)

    def even_path(self, num_steps: int, start: float | None = None) -> torch.Tensor:
        """Evenly spaced times, fractions of timesteps too, from `start`, or left out `noisiest`, to `clean`: float64
        [num_steps + 1]. The times for N steps are among those for 2 N."""
        return torch.linspace(self.noisiest if start is None else start, self.clean, num_steps + 1, dtype=torch.float64)

    def uniform_path(self, num_steps: int) -> torch.Tensor:
        """Times of a sampling in so many steps, from `noisiest` to `clean`: [num_steps + 1]; here the even ones."""
        return self.even_path(num_steps)

    def start_scale(self, t: float) -> float:
        """The factor that makes standard normal noise a start at time t, where hardly any image is left."""
        return 1.0


class DiscreteSteps(NoiseProcess):
    """A variance-preserving process in whole timesteps: a^2 = abar (alphas_cumprod), s^2 = 1 - abar.

    alphas_cumprod: float64 [T], falling. Timesteps run from 0 (nearly clean) to T - 1 (noisiest); CLEAN (-1) stands for
    abar = 1 exactly. Fractions of a timestep are interpolated linearly in log SNR.
    """

    clean = float(CLEAN)

    def __init__(self, alphas_cumprod: torch.Tensor):
        self.num_timesteps = len(alphas_cumprod)
        self.noisiest = float(self.num_timesteps - 1)
        self.alphas_cumprod = alphas_cumprod                                           # float64 [T]
        self.log_snrs = torch.logit(self.alphas_cumprod)                               # float64 [T], falling
        with_clean = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        self._log_snrs = {}
        self._tables = {(torch.device("cpu"), torch.float64): with_clean}

    def alpha_cumprod(self, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """abar at integer timesteps t (any shape, -1...999, any device) -> same shape and device, `dtype`."""
        key = (t.device, dtype)
        if key not in self._tables:
            self._tables[key] = self._tables[torch.device("cpu"), torch.float64].to(t.device, dtype)
        return self._tables[key].take(t.long() + 1)         # an index of no dimension would be fetched from a GPU

    def levels(self, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """a and s at timesteps t, of t's shape; CLEAN and whole timesteps of an integer type by table, fractions
        interpolated."""
        if t.is_floating_point():
            abar = torch.where(t < 0, 1.0, self.alpha_cumprod_at(t)).to(dtype)
        else:
            abar = self.alpha_cumprod(t, dtype)
        return abar.sqrt(), (1 - abar).sqrt()

    def log_snr(self, t: torch.Tensor) -> torch.Tensor:
        """log SNR at timesteps t, infinite at CLEAN; the rest as in `log_snr_at`."""
        return torch.where(t < 0, math.inf, self.log_snr_at(t))

    def uniform_path(self, num_steps: int) -> torch.Tensor:
        """Whole timesteps, evenly spaced from 999 towards 0, the last one CLEAN: int64 [num_steps + 1]."""
        t = torch.linspace(self.noisiest, 0, num_steps + 1, dtype=torch.float64).round().long()
        t[-1] = CLEAN
        return t

    def strided_path(self, num_steps: int, start: int | None = None) -> torch.Tensor:
        """Whole timesteps of DDIM, evenly spaced down to 0 itself, then CLEAN: int64 [num_steps + 1].

        start: the first, left out the noisiest. It is taken where few steps are. More steps start nearer to noise: with
        every k-th timestep, at T - k, where T = k num_steps; at num_steps - 1 where `start` has too few timesteps below
        it.
        """
        first = self.noisiest
        if start is not None:
            stride, rest = divmod(self.num_timesteps, num_steps)
            first = max(start, num_steps - 1, 0 if rest else self.num_timesteps - stride)
        t = torch.linspace(first, 0, num_steps, dtype=torch.float64).round().long()
        return torch.cat([t, torch.tensor([CLEAN])])

    def log_snrs_on(self, device) -> torch.Tensor:
        """`log_snrs` on a device, which is copied there once."""
        if device not in self._log_snrs:
            self._log_snrs[device] = self.log_snrs.to(device)
        return self._log_snrs[device]

    def log_snr_at(self, t: torch.Tensor) -> torch.Tensor:
        """log SNR at timesteps t (any shape and device, 0...999, fractions are interpolated linearly) -> float64, same
        shape and device, differentiable in t."""
        table = self.log_snrs_on(t.device)
        t = t.double().clamp(0, self.num_timesteps - 1)
        below = t.detach().floor().long().clamp(max=self.num_timesteps - 2)
        return torch.lerp(table[below], table[below + 1], t - below)

    def alpha_cumprod_at(self, t: torch.Tensor) -> torch.Tensor:
        """abar at timesteps t, fractions too; the rest as in `log_snr_at`."""
        return self.log_snr_at(t).sigmoid()

    def t_to_log_snr(self, t: torch.Tensor) -> torch.Tensor:
        """log SNR at timesteps t (any shape, 0...999, fractions are interpolated linearly) -> float64 on the CPU."""
        return self.log_snr_at(torch.as_tensor(t, device="cpu"))

    def t_at(self, log_snr: torch.Tensor) -> torch.Tensor:
        """The fractional timestep with that log SNR; beyond either end, the end -> float64, same shape and device.

        Inverse of `log_snr_at`: log SNR falls strictly with t, so the interpolation can be turned round.
        """
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        rising = self.log_snrs_on(log_snr.device).flip(0)
        log_snr = log_snr.clamp(rising[0], rising[-1])
        above = torch.searchsorted(rising, log_snr.contiguous()).clamp(1, self.num_timesteps - 1)
        share = (log_snr - rising[above - 1]) / (rising[above] - rising[above - 1])
        return self.num_timesteps - 1 - (above - 1 + share)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """SNR at timesteps t -> float64 on the CPU."""
        return self.t_to_log_snr(t).exp()

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t of integer timesteps t. x_0, noise: [B, C, H, W]; t: [B]."""
        return noised(x_0, noise, self.alpha_cumprod(t, x_0.dtype))

    def leading_t(self, t: torch.Tensor, lead) -> torch.Tensor:
        """As in `NoiseProcess`, to the nearest whole timestep from 0 to the noisiest: int64 on the CPU."""
        return super().leading_t(torch.as_tensor(t, device="cpu"), lead).round().long()


class CosineSteps(DiscreteSteps):
    """The cosine schedule in 1000 timesteps (`cosine_alphas_cumprod`)."""

    noisiest = float(NUM_TIMESTEPS - 1)
    clips_pixels = True

    def __init__(self, num_timesteps: int = NUM_TIMESTEPS, beta_max: float = BETA_MAX):
        super().__init__(cosine_alphas_cumprod(num_timesteps, beta_max))


def per_image(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Shape a scalar or [B] tensor so that it multiplies a batch x: [B, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 1)) if values.ndim else values


class LinearFlow(NoiseProcess):
    """Straight lines from noise to image: a = t, s = 1 - t (Lipman et al. 2023; Liu et al. 2023). t = 0 is noise."""

    noisiest, clean = 0.0, 1.0
    extrapolates = "velocity"

    def levels(self, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """a = t and s = 1 - t."""
        return t.to(dtype), (1 - t.double()).to(dtype)

    def log_snr(self, t: torch.Tensor) -> torch.Tensor:
        """2 log(t / (1 - t))."""
        return 2 * torch.logit(t.double())

    def t_at(self, log_snr: torch.Tensor) -> torch.Tensor:
        """Inverse of `log_snr`."""
        return (torch.as_tensor(log_snr, dtype=torch.float64) / 2).sigmoid()


class Sigma(NoiseProcess):
    """Noise added to the image as it is: a = 1, s = t = sigma (Karras et al. 2022). sigma = 0 is the image."""

    clean = 0.0

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.noisiest = sigma_max

    def levels(self, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """a = 1 and s = t."""
        return torch.ones_like(t, dtype=dtype), t.to(dtype)

    def log_snr(self, t: torch.Tensor) -> torch.Tensor:
        """-2 log sigma."""
        return -2 * t.double().log()

    def t_at(self, log_snr: torch.Tensor) -> torch.Tensor:
        """Inverse of `log_snr`."""
        return (-torch.as_tensor(log_snr, dtype=torch.float64) / 2).exp()

    def karras_sigmas(self, num_levels: int) -> torch.Tensor:
        """Levels that are even in sigma^(1/rho), smallest first (Karras et al. 2022, eq. 5): float64 [num_levels]."""
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64) ** (1 / self.rho)
        return (ends[0] + torch.linspace(0, 1, num_levels, dtype=torch.float64) * (ends[1] - ends[0])) ** self.rho

    def uniform_path(self, num_steps: int) -> torch.Tensor:
        """The Karras levels from sigma_max down, then 0: float64 [num_steps + 1]."""
        falling = self.karras_sigmas(num_steps).flip(0) if num_steps > 1 else torch.tensor([self.sigma_max]).double()
        return torch.cat([falling, torch.zeros(1, dtype=torch.float64)])

    def start_scale(self, t: float) -> float:
        """sigma itself: noise of unit variance is multiplied with it."""
        return float(t)


def fused_log_snrs(log_snr: torch.Tensor, lead: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The log SNR of a noised image and of its noised 2x2 mean, which together tell as much of the clean mean as the
    image alone does at `log_snr`.

    log_snr, lead: any shapes that broadcast; the mean's log SNR is `lead` above the image's. The mean of four pixels
    has four times a pixel's SNR, and the SNR of independent views adds up: 4 SNR + e^lead SNR = 4 e^log_snr.
    """
    fine = log_snr - torch.log1p(lead.exp() / 4)
    return fine, fine + lead


# --- what networks put out ------------------------------------------------------------------------------------------

def factors(kind: str, a, s) -> tuple:
    """p and q of an output p x_0 + q eps of that kind, at levels a and s."""
    return (-s, a) if kind == "v" else KINDS[kind]


def training_target(kind: str, x_0: torch.Tensor, eps: torch.Tensor, a, s) -> torch.Tensor:
    """What a network of that kind should put out. x_0, eps: [B, ...]; a, s: scalar tensors or [B]."""
    p, q = factors(kind, per_image(a, x_0), per_image(s, x_0))
    return p * x_0 + q * eps


def clean_image(kind: str, output: torch.Tensor, x: torch.Tensor, a, s) -> torch.Tensor:
    """The clean image that an output of that kind means: (q x - s output) / (a q - s p), or the output itself.

    x, output: [B, ...]; a, s: scalar tensors or [B]. The two equations x = a x_0 + s eps and output = p x_0 + q eps are
    solved for x_0. Where a = 0 a noise prediction says nothing of the image, while a velocity does.
    """
    if kind == "x_0":
        return output
    a, s = per_image(a, x), per_image(s, x)
    if kind == "eps":
        return (x - s * output) / a
    p, q = factors(kind, a, s)
    return (q * x - s * output) / (a * q - s * p)


def noise_in(x: torch.Tensor, x_0: torch.Tensor, a, s) -> torch.Tensor:
    """The noise that a clean image implies: (x - a x_0) / s. x, x_0: [B, ...]; a, s: scalar tensors or [B]."""
    return (x - per_image(a, x) * x_0) / per_image(s, x)


def noise_added(x_0: torch.Tensor, eps: torch.Tensor, a, s) -> torch.Tensor:
    """x_t = a x_0 + s eps. x_0, eps: [B, ...]; a, s: scalar tensors or [B]."""
    return per_image(a, x_0) * x_0 + per_image(s, x_0) * eps


def step(x: torch.Tensor, x_0: torch.Tensor, a, s, a_next, s_next, eta: float = 0.0, noise=None) -> torch.Tensor:
    """Move x from levels (a, s) to (a_next, s_next), given the clean image (Song et al. 2021, DDIM, eq. 12 and 16).

    x, x_0, noise: [B, ...]; levels: scalar tensors or [B]; eta: 0 deterministic ... 1 ancestral. For eta = 0 the step
    is Euler's: in time for LinearFlow, in sigma for Sigma. For eta = 1 the added variance is that of the posterior
    given x_0, s_next^2 / s^2 (s^2 - (a s_next / a_next)^2), whatever the process.
    """
    eps = noise_in(x, x_0, a, s)
    a, s, a_next, s_next = (per_image(level, x) for level in (a, s, a_next, s_next))
    if eta == 0:
        return a_next * x_0 + s_next * eps
    variance = eta**2 * (s_next / s) ** 2 * (s**2 - (a * s_next / a_next) ** 2)
    return a_next * x_0 + (s_next**2 - variance).clamp(min=0).sqrt() * eps + variance.clamp(min=0).sqrt() * noise


def extrapolate(value, previous, step: float, step_previous: float):
    """A value carried on to the middle of the coming step, from its last two (Adams-Bashforth of order two).

    value, previous: [B, ...], the last and the one before. step, step_previous: lengths of the coming step and of the
    one before it. With clean images over log SNR this is DPM-Solver++(2M) (Lu et al. 2022, eq. 17). Where a length is
    zero or infinite, as in the first step or in a step to the clean image, the value is returned as it is.
    """
    if not (0 < step < math.inf and 0 < step_previous < math.inf):
        return value
    return value + step / (2 * step_previous) * (value - previous)


# --- the same in alphas_cumprod, for processes with a^2 + s^2 = 1 -----------------------------------------------------

def levels_of(abar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a = sqrt(abar) and s = sqrt(1 - abar) of a variance-preserving process, of abar's shape."""
    return abar.sqrt(), (1 - abar).sqrt()


def noised(x_0: torch.Tensor, noise: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise. x_0, noise: [B, C, H, W]; abar: scalar tensor or [B]."""
    return noise_added(x_0, noise, *levels_of(abar))


def predict_x_0(x_t: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor, clip: bool = True) -> torch.Tensor:
    """The clean image that a noise prediction implies, clipped to [-1, 1] if asked. x_t, eps: [B, C, H, W]."""
    x_0 = clean_image("eps", eps, x_t, *levels_of(abar))
    return x_0.clamp(-1, 1) if clip else x_0


def predict_eps(x_t: torch.Tensor, x_0: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """Noise that clean images imply. x_t, x_0: [B, C, H, W]; abar: scalar tensor or [B]. Inverse of `predict_x_0`."""
    return noise_in(x_t, x_0, *levels_of(abar))


def eps_from_v(x_t: torch.Tensor, v: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noise that v = sqrt(abar) eps - sqrt(1 - abar) x_0 implies: sqrt(abar) v + sqrt(1 - abar) x_t (Salimans and
    Ho 2022, section 4).

    x_t, v: [B, C, H, W]; abar: scalar tensor or [B]. An error d of v is an error sqrt(abar) d of the noise and sqrt(1 -
    abar) d of the clean image. An error d of the noise is one of d / sqrt(SNR) of the clean image, which grows without
    bound towards the noisy end.
    """
    a, s = (per_image(level, x_t) for level in levels_of(abar))
    return a * v + s * x_t


def step_from_x_0(x_t, x_0, abar, abar_next, eta: float = 0.0, noise=None):
    """`step` from abar to abar_next, given the clean image."""
    return step(x_t, x_0, *levels_of(abar), *levels_of(abar_next), eta, noise)


def ddim_step(x_t, eps, abar, abar_next, clip: bool = True, eta: float = 0.0, noise=None):
    """One DDIM step from a noise prediction: x_0 is predicted and clipped, and eps derived again from it.

    Shapes as in `step`; returns [B, C, H, W]. No network is called.
    """
    return step_from_x_0(x_t, predict_x_0(x_t, eps, abar, clip), abar, abar_next, eta, noise)
