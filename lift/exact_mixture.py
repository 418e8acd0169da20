"""A test bed where the truth is known: a mixture of Gaussians on 8x8 images whose denoiser has a closed form.

An image x (D = 64 pixels, one channel) comes from component k with probability w_k and is then N(m_k, C_k). It is seen
in two noised views: z_64 = x + sigma_64 eps shows the image itself, and z_32 = A x + sigma_32 eps' its 2x2 mean (4x4),
with sigma = SNR^(-1/2) each. The names 64 and 32 are those of the large system. Given both views, component k is
Gaussian with precision P_k = C_k^-1 + SNR_64 I + SNR_32 A'A and mean x_k = P_k^-1 h_k, where h_k = C_k^-1 m_k + SNR_64
z_64 + SNR_32 A' z_32. Its weight is proportional to w_k exp(h_k' x_k / 2 - m_k' C_k^-1 m_k / 2) / sqrt(det C_k P_k).
All of it is float64.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

from evaluation.fid import frechet_distance
from networks.linear_denoiser import cosine_matrix
from lift.sampling import ScaleSamples, denoise_scales
from scheduler import NUM_TIMESTEPS, CosineSteps, predict_eps

SIZE = 8                        # pixels along a side of the large scale
PAIRS_AT_ONCE = 64              # noise-level pairs factorised in one batch, to bound memory


class GaussianMixture:
    """Weights [K], means [K, D] and covariances [K, D, D] of a mixture over images of SIZE x SIZE pixels."""

    def __init__(self, weights: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor):
        self.weights, self.means, self.covariances = (v.double() for v in (weights, means, covariances))
        self.num_pixels = means.shape[1]
        size = math.isqrt(self.num_pixels)
        pixels = torch.eye(self.num_pixels, dtype=torch.float64).reshape(-1, 1, size, size)
        self.downsample = F.avg_pool2d(pixels, 2).flatten(1).T.contiguous()            # A: [D / 4, D]
        self.coarse = self.downsample.T @ self.downsample                              # A'A: [D, D]
        self.precisions = torch.linalg.inv(self.covariances)
        self.shifts = torch.einsum("kde,ke->kd", self.precisions, self.means)          # C_k^-1 m_k
        self.constants = (self.weights.log() - torch.linalg.slogdet(self.covariances).logabsdet / 2
                          - (self.shifts * self.means).sum(1) / 2)
        self.mean = self.weights @ self.means                                          # [D]
        centred = self.means - self.mean
        self.covariance = torch.einsum("k,kde->de", self.weights, self.covariances) + torch.einsum(
            "k,kd,ke->de", self.weights, centred, centred)                              # [D, D]
        eigenvalues, basis = torch.linalg.eigh(self.covariance)
        self.whitening = basis * eigenvalues.rsqrt() @ basis.T                          # C^(-1/2)

    def to_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, D] or [B, D / 4] -> [B, 1, side, side]."""
        side = math.isqrt(pixels.shape[1])
        return pixels.reshape(-1, 1, side, side)

    def sample(self, num_images: int, generator: torch.Generator) -> torch.Tensor:
        """True images: float64 [num_images, 1, SIZE, SIZE]."""
        components = torch.multinomial(self.weights, num_images, replacement=True, generator=generator)
        normal = torch.randn(num_images, self.num_pixels, generator=generator, dtype=torch.float64)
        x = torch.empty_like(normal)
        for k, factor in enumerate(torch.linalg.cholesky(self.covariances)):
            x[components == k] = self.means[k] + normal[components == k] @ factor.T
        return self.to_images(x)

    def factorise(self, snr_64: torch.Tensor, snr_32: torch.Tensor):
        """Per pair of noise levels: posterior covariances P_k^-1 [U, K, D, D], log constants [U, K]. snr: [U]."""
        identity = torch.eye(self.num_pixels, dtype=torch.float64)
        precision = self.precisions + (snr_64[:, None, None] * identity + snr_32[:, None, None] * self.coarse)[:, None]
        factor = torch.linalg.cholesky(precision)
        log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        # Not torch.cholesky_inverse, whose forward-mode derivative is wrong (torch 2.13).
        return torch.linalg.inv(precision), self.constants - log_determinant / 2

    def posterior(self, z_64: torch.Tensor, z_32: torch.Tensor | None, snr_64: torch.Tensor, snr_32: torch.Tensor):
        """Component weights [U, G, K], means [U, G, K, D] and covariances [U, K, D, D] given both views.

        z_64: [U, G, D]; z_32: [U, G, D / 4], or None where there is no second view (snr_32 then 0); the SNRs: [U].
        """
        covariances, constants = self.factorise(snr_64, snr_32)
        evidence = snr_64[:, None, None] * z_64
        if z_32 is not None:
            evidence = evidence + snr_32[:, None, None] * (z_32 @ self.downsample)
        h = self.shifts[None, :, None, :] + evidence[:, None]                           # [U, K, G, D]
        means = h @ covariances
        log_weights = constants[:, :, None] + (h * means).sum(-1) / 2                   # [U, K, G]
        return torch.softmax(log_weights, dim=1).transpose(1, 2), means.transpose(1, 2), covariances

    def denoise(self, z_64, z_32, snr_64, snr_32) -> torch.Tensor:
        """E[x | z_64, z_32]: [U, G, D]. Arguments as in `posterior`."""
        weights, means, _ = self.posterior(z_64, z_32, snr_64, snr_32)
        return (weights[..., None] * means).sum(2)

    def posterior_covariance(self, z_64, z_32, snr_64, snr_32) -> torch.Tensor:
        """Cov[x | z_64, z_32]: [U, G, D, D]; then d E[x] / d z_64 = SNR_64 Cov and d E[x] / d z_32 = SNR_32 Cov A'."""
        weights, means, covariances = self.posterior(z_64, z_32, snr_64, snr_32)
        centred = means - (weights[..., None] * means).sum(2, keepdim=True)
        return (torch.einsum("ugk,ukde->ugde", weights, covariances)
                + torch.einsum("ugk,ugkd,ugke->ugde", weights, centred, centred))


def own_scale_jacobians(mixture: GaussianMixture, x_64, x_32, log_snr: torch.Tensor) -> dict:
    """What error maps are made of, in closed form: ||J||_F^2 / (H W) of a scale's prediction by its own noised image.

    x_64: [U * G, 1, 8, 8] and x_32: [U * G, 1, 4, 4], G images at each of U pairs; log_snr: [U, 2]. Returns eps_64,
    eps_32, x0_64, x0_32: float64 [U], averaged over images. An identity Jacobian scores 1, there being one channel.
    """
    snr, abar = log_snr.exp(), log_snr.sigmoid()
    z_64, z_32 = (x.reshape(len(snr), -1, x[0].numel()) / abar[:, s, None, None].sqrt()
                  for s, x in enumerate((x_64, x_32)))
    covariance = mixture.posterior_covariance(z_64, z_32, snr[:, 0], snr[:, 1])                 # [U, G, D, D]
    A, maps = mixture.downsample, {}
    for s, (name, block) in enumerate((("64", covariance), ("32", A @ covariance @ A.T))):
        # d x^ / d z = SNR Cov, x_t = sqrt(abar) z, and eps = (x_t - sqrt(abar) x^) / sqrt(1 - abar).
        jacobian = snr[:, s, None, None, None] * block
        identity = torch.eye(block.shape[-1], dtype=torch.float64)
        maps[f"x0_{name}"] = jacobian.square().sum((2, 3)).mean(1) / block.shape[-1] / abar[:, s]
        maps[f"eps_{name}"] = (identity - jacobian).square().sum((2, 3)).mean(1) / block.shape[-1] / (1 - abar[:, s])
    return maps


def random_mixture(seed: int, num_components: int = 6, falloff: float = 0.5, size: int = SIZE) -> GaussianMixture:
    """A mixture of images with `size` pixels a side and some traits of photographs: smooth means, spectra that fall
    with frequency, uneven contrast.

    Each component's spectrum falls as (0.5 + f^2)^-a with its own a within 0.2 of `falloff`, roughened by log-normal
    factors. At 1 it is the f^-2 of photographs, in which fine detail hardly counts in a distance of pixels; at 0.5
    coarse and fine both count. A smooth contrast field per component makes neighbouring frequencies depend on each
    other, across scales too. Pixels have a standard deviation of 0.4 about an overall mean of 0.
    """
    random = np.random.default_rng([seed, 8])
    n, cosines = np.arange(size), cosine_matrix(size).numpy()
    basis = np.einsum("ux,vy->uvxy", cosines, cosines).reshape(size**2, size**2)        # DCT, rows orthonormal
    frequency_sq = (n[:, None]**2 + n[None, :]**2).reshape(-1)
    means, covariances = [], []
    for _ in range(num_components):
        means.append((random.standard_normal(size**2) * (0.5 + frequency_sq)**-1.5) @ basis)
        exponent = random.uniform(falloff - 0.2, falloff + 0.2)
        spectrum = (0.5 + frequency_sq)**-exponent * np.exp(0.5 * random.standard_normal(size**2))
        contrast = np.exp(0.6 * (random.standard_normal(size**2) * (0.5 + frequency_sq)**-1.0) @ basis)
        factor = contrast[:, None] * basis.T * np.sqrt(spectrum)
        covariance = factor @ factor.T
        covariances.append(covariance / np.trace(covariance) * size**2)
    weights = random.dirichlet(np.full(num_components, 5.0))
    means = np.array(means) - weights @ np.array(means)
    # A third of the variance lies between the components, the rest within them.
    means *= np.sqrt(0.4**2 / 3 / (weights @ (means**2).mean(1)))
    covariances = np.array(covariances) * 0.4**2 * 2 / 3
    return GaussianMixture(*(torch.from_numpy(v) for v in (weights, means, covariances)))


class MixtureDenoiser:
    """The mixture's denoiser with the call signature of LIFTDualTimestepModel, or of BaselineModel if single_scale.

    Timesteps may be fractions; log SNR is interpolated. Images of one call that share a pair of timesteps are denoised
    together; where all groups lie side by side and are of one size, so are several pairs.
    """

    def __init__(self, mixture: GaussianMixture, single_scale: bool = False):
        self.mixture = mixture
        self.model_type = "baseline" if single_scale else "lift"
        self.schedule = CosineSteps(NUM_TIMESTEPS)

    def clean_prediction(self, x_64, x_32, t_64, t_32) -> torch.Tensor:
        """E[x] for noised images x_64 [B, 1, 8, 8] and x_32 [B, 1, 4, 4] (or None) at t [B]: float64 [B, D]."""
        t = torch.stack([t_64, t_64 if t_32 is None else t_32], dim=1).double()
        starts = torch.cat([torch.ones(1, dtype=torch.bool), (t[1:] != t[:-1]).any(1)]).nonzero()[:, 0]
        sizes = torch.diff(starts, append=torch.tensor([len(t)]))
        log_snr = self.schedule.t_to_log_snr(t[starts])                                 # [U, 2]
        snr, abar = log_snr.exp(), log_snr.sigmoid()
        views = [x.flatten(1) / abar[:, s].sqrt().repeat_interleave(sizes)[:, None]
                 for s, x in enumerate([x_64] if x_32 is None else [x_64, x_32])]
        snr_32 = snr[:, 1] if x_32 is not None else torch.zeros_like(snr[:, 1])
        x_0 = []
        if (sizes == sizes[0]).all():
            groups = [slice(u, u + PAIRS_AT_ONCE) for u in range(0, len(starts), PAIRS_AT_ONCE)]
        else:
            groups = [slice(u, u + 1) for u in range(len(starts))]
        for group in groups:
            num_pairs, size = len(sizes[group]), int(sizes[group][0])
            first = int(starts[group][0])
            part = slice(first, first + num_pairs * size)
            z = [view[part].reshape(num_pairs, size, -1) for view in views]
            x_0.append(self.mixture.denoise(z[0], z[1] if len(z) > 1 else None, snr[group, 0], snr_32[group]))
        return torch.cat([prediction.flatten(0, 1) for prediction in x_0])

    def __call__(self, *inputs):
        """(x_64, x_32, t_64, t_32) -> eps_64, eps_32; (x_64, t_64) -> eps_64 if single_scale."""
        x_64, x_32, t_64, t_32 = inputs if self.model_type == "lift" else (inputs[0], None, inputs[1], None)
        x_0 = self.clean_prediction(x_64, x_32, t_64, t_32)
        eps_64 = predict_eps(x_64, self.mixture.to_images(x_0), self.schedule.t_to_log_snr(t_64).sigmoid())
        if x_32 is None:
            return eps_64
        coarse = self.mixture.to_images(x_0 @ self.mixture.downsample.T)
        return eps_64, predict_eps(x_32, coarse, self.schedule.t_to_log_snr(t_32).sigmoid())


def start_states(mixture: GaussianMixture, num_images: int, seed: int, exact: bool = False) -> list[torch.Tensor]:
    """[x_64, x_32] at timestep 999: standard normal as in real sampling, or, if `exact`, true images with noise."""
    generator = torch.Generator().manual_seed(seed)
    side = math.isqrt(mixture.num_pixels)
    noise = [torch.randn(num_images, 1, s, s, generator=generator, dtype=torch.float64) for s in (side, side // 2)]
    if not exact:
        return noise
    x_64 = mixture.sample(num_images, generator)
    t = torch.tensor(NUM_TIMESTEPS - 1)
    return [CosineSteps().add_noise(x, eps, t) for x, eps in zip((x_64, F.avg_pool2d(x_64, 2)), noise)]


def sample_along(denoiser: MixtureDenoiser, path, starts, solver: str = "ddim") -> ScaleSamples:
    """The project's own sampler, without clipping. starts: [x_64, x_32] at timestep 999; one scale ignores x_32."""
    num_scales = 1 if denoiser.model_type == "baseline" else 2
    return denoise_scales(denoiser, path, starts[:num_scales], solver=solver, clip=False)


# Distances to the true law, per pixel: the root of the squared distance divided by D.

def distance_to_truth(samples: torch.Tensor, mixture: GaussianMixture, whitened: bool = False) -> float:
    """2-Wasserstein distance between the Gaussians with the samples' and the mixture's moments, per pixel.

    samples: [B, 1, SIZE, SIZE]. Never more than the 2-Wasserstein distance of the laws themselves (Gelbrich 1990).
    whitened: both are first multiplied by the true covariance^(-1/2), so that every direction counts alike, the fine
    detail as much as the coarse.
    """
    transform = mixture.whitening if whitened else torch.eye(mixture.num_pixels, dtype=torch.float64)
    x = samples.flatten(1).double() @ transform
    distance_sq = frechet_distance(x.mean(0), torch.cov(x.T), mixture.mean @ transform,
                                   transform @ mixture.covariance @ transform)
    return math.sqrt(max(distance_sq, 0.0) / mixture.num_pixels)


def narrowest_variance(samples: torch.Tensor, mixture: GaussianMixture) -> float:
    """The smallest variance in any direction of samples [B, 1, SIZE, SIZE], over the mixture's own in that direction.

    1 for samples of the mixture, up to the noise of their number; 0 where they have lost a direction.
    """
    return float(torch.linalg.eigvalsh(torch.cov((samples.flatten(1).double() @ mixture.whitening).T))[0])


def noise_floor(mixture: GaussianMixture, num_images: int, seed: int, repeats: int = 4, **options) -> float:
    """The same distance for true samples in place of generated ones, averaged over `repeats` sets."""
    generator = torch.Generator().manual_seed(seed)
    return float(np.mean([distance_to_truth(mixture.sample(num_images, generator), mixture, **options)
                          for _ in range(repeats)]))
