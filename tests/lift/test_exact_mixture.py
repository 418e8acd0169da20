"""The test bed: its denoiser against conditioning done another way, its distances, and one law for every path."""
import numpy as np
import pytest
import torch

from lift import exact_mixture
from lift import paths
from lift.sampling import uniform_diagonal


@pytest.fixture(scope="module")
def mixture():
    return exact_mixture.random_mixture(0)


def views(mixture, num_images, snr_64, snr_32, seed=0):
    """True images and both noised views: x, z_64, z_32 as [num_images, .]."""
    generator = torch.Generator().manual_seed(seed)
    x = mixture.sample(num_images, generator).flatten(1)
    noise = torch.randn(num_images, 64, generator=generator, dtype=torch.float64)
    noise_32 = torch.randn(num_images, 16, generator=generator, dtype=torch.float64)
    return x, x + noise / snr_64**0.5, x @ mixture.downsample.T + noise_32 / snr_32**0.5


def tensor(value):
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("snr_64,snr_32", [(0.01, 0.3), (1.0, 1.0), (30.0, 0.02), (0.5, 1000.0)])
def test_denoiser_against_conditioning_of_the_joint_gaussian(mixture, snr_64, snr_32):
    _, z_64, z_32 = views(mixture, 5, snr_64, snr_32)
    H = torch.cat([torch.eye(64, dtype=torch.float64), mixture.downsample])                 # y = H x + noise: [80, 64]
    noise = torch.diag(torch.cat([torch.full((64,), 1 / snr_64), torch.full((16,), 1 / snr_32)]).double())
    y, log_weights, means = torch.cat([z_64, z_32], dim=1), [], []
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances):
        marginal = torch.distributions.MultivariateNormal(H @ mean, H @ covariance @ H.T + noise)
        log_weights.append(weight.log() + marginal.log_prob(y))
        gain = covariance @ H.T @ torch.linalg.inv(marginal.covariance_matrix)
        means.append(mean + (y - H @ mean) @ gain.T)
    expected = (torch.softmax(torch.stack(log_weights), 0)[..., None] * torch.stack(means)).sum(0)
    found = mixture.denoise(z_64[None], z_32[None], tensor(snr_64), tensor(snr_32))[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_jacobians_are_posterior_covariances(mixture):
    snr_64, snr_32 = tensor(2.0), tensor(5.0)
    _, z_64, z_32 = views(mixture, 1, 2.0, 5.0)
    by_64, by_32 = torch.autograd.functional.jacobian(
        lambda a, b: mixture.denoise(a[None], b[None], snr_64, snr_32)[0, 0], (z_64, z_32))
    covariance = mixture.posterior_covariance(z_64[None], z_32[None], snr_64, snr_32)[0, 0]
    torch.testing.assert_close(by_64[:, 0], 2.0 * covariance, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(by_32[:, 0], 5.0 * covariance @ mixture.downsample.T, rtol=1e-8, atol=1e-10)


def test_precision_of_the_coarse_part_adds_up():
    """For white images of variance c, a coarse pixel has posterior precision 4 / c + 4 SNR_64 + SNR_32."""
    white = exact_mixture.GaussianMixture(torch.ones(1), torch.zeros(1, 64), 0.3 * torch.eye(64)[None])
    covariance = white.factorise(tensor(2.0), tensor(7.0))[0][0, 0]
    coarse = white.downsample @ covariance @ white.downsample.T
    expected = torch.eye(16, dtype=torch.float64) / (4 / 0.3 + 4 * 2.0 + 7.0)
    torch.testing.assert_close(coarse, expected, atol=1e-7, rtol=0)


def test_own_scale_jacobians(mixture):
    """Closed form against the Jacobians of the denoiser as it is called."""
    denoiser = exact_mixture.MixtureDenoiser(mixture)
    t_64, t_32 = torch.tensor([400]), torch.tensor([250])
    generator = torch.Generator().manual_seed(1)
    x_64 = torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64)
    x_32 = torch.randn(1, 1, 4, 4, generator=generator, dtype=torch.float64)
    log_snr = denoiser.schedule.t_to_log_snr(torch.tensor([[400, 250]]))
    maps = exact_mixture.own_scale_jacobians(mixture, x_64, x_32, log_snr)
    for s, name in enumerate(("eps_64", "eps_32")):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: denoiser(*((x, x_32) if s == 0 else (x_64, x)), t_64, t_32)[s], (x_64, x_32)[s])
        size = (64, 16)[s]
        assert maps[name].item() == pytest.approx(jacobian.square().sum().item() / size, rel=1e-8)
    abar = log_snr.sigmoid()[0]
    jacobian = torch.autograd.functional.jacobian(lambda x: denoiser.clean_prediction(x, x_32, t_64, t_32), x_64)
    assert maps["x0_64"].item() == pytest.approx(jacobian.square().sum().item() / 64, rel=1e-8) and abar[0] < 1


def test_call_signatures(mixture):
    """Images with timesteps of their own, together or one by one; one scale is two with a second view of no value."""
    both, single = (exact_mixture.MixtureDenoiser(mixture, single_scale) for single_scale in (False, True))
    generator = torch.Generator().manual_seed(2)
    x_64 = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    x_32 = torch.randn(6, 1, 4, 4, generator=generator, dtype=torch.float64)
    for t in ([100, 100, 500, 500, 10, 10], [100, 500, 500, 500, 10, 999], [7, 7, 7, 7, 7, 7.5]):
        t_64, t_32 = torch.tensor(t), torch.tensor(t[::-1])
        together = both(x_64, x_32, t_64, t_32)
        for k in range(6):
            alone = both(x_64[k:k + 1], x_32[k:k + 1], t_64[k:k + 1], t_32[k:k + 1])
            for found, expected in zip(together, alone):
                torch.testing.assert_close(found[k:k + 1], expected, rtol=1e-9, atol=1e-9)
    z_64 = torch.randn(1, 3, 64, generator=generator, dtype=torch.float64)
    z_32 = torch.randn(1, 3, 16, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mixture.denoise(z_64, z_32, tensor(1.0), tensor(1e-13)),
                               mixture.denoise(z_64, None, tensor(1.0), tensor(0.0)), rtol=0, atol=1e-9)
    assert single(x_64, torch.tensor([300] * 6)).shape == x_64.shape


def test_moments(mixture):
    x = mixture.sample(20000, torch.Generator().manual_seed(3)).flatten(1)
    assert (x.mean(0) - mixture.mean).abs().max() < 5 * mixture.covariance.diagonal().max().sqrt() / 20000**0.5
    assert (torch.cov(x.T) - mixture.covariance).abs().max() < 0.02
    assert mixture.covariance.diagonal().mean().item() == pytest.approx(0.4**2, rel=1e-9)
    white = mixture.whitening @ mixture.covariance @ mixture.whitening
    torch.testing.assert_close(white, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-8)


def test_noise_floor_falls_and_scaling_is_seen(mixture):
    floors = [exact_mixture.noise_floor(mixture, n, 5, repeats=2) for n in (500, 8000)]
    assert floors[1] < floors[0] / 3
    x = mixture.sample(8000, torch.Generator().manual_seed(6))
    # Samples 10% too wide: 0.1 standard deviations of 0.4 raw, 0.1 whitened.
    assert exact_mixture.distance_to_truth(1.1 * x, mixture) == pytest.approx(0.04, rel=0.15)
    assert exact_mixture.distance_to_truth(1.1 * x, mixture, True) == pytest.approx(0.1, rel=0.25)


def l_shaped(num_steps: int, first: int) -> np.ndarray:
    """One scale all the way, then the other: [N + 1, 2]. first: 0 for the 64 scale."""
    half = paths.rho_schedule(num_steps // 2, 7.0)
    path = np.stack([np.concatenate([half, np.zeros(num_steps // 2, dtype=np.int64)]),
                     np.concatenate([np.full(num_steps // 2, 999), half])], axis=1)
    return path[:, ::-1] if first == 1 else path


def test_every_path_gives_the_same_law_as_steps_grow(mixture):
    """With an exact denoiser each scale's flow carries the joint law along exactly, whatever the order of the moves."""
    num_images = 2000
    starts = exact_mixture.start_states(mixture, num_images, 11, exact=True)
    generator = torch.Generator().manual_seed(8)
    floors = np.array([[exact_mixture.distance_to_truth(mixture.sample(num_images, generator), mixture, whitened)
                        for whitened in (False, True)] for _ in range(8)])
    denoiser = exact_mixture.MixtureDenoiser(mixture)
    routes = {"diagonal": lambda n: paths.lead_path(n, paths.Lead(7.0, 0.0, 0.0)),
              "32 leads": lambda n: paths.lead_path(n, paths.Lead(7.0, 3.0, 0.2)),
              "64 leads": lambda n: paths.lead_path(n, paths.Lead(7.0, -3.0, 0.2)),
              "32 first": lambda n: l_shaped(n, 1), "64 first": lambda n: l_shaped(n, 0)}
    images = {}
    for name, route in routes.items():
        coarse, fine = (exact_mixture.sample_along(denoiser, route(n), starts, "multistep").x_64 for n in (6, 40))
        raw, whitened = (exact_mixture.distance_to_truth(fine, mixture, w) for w in (False, True))
        assert raw < 1.1 * floors[:, 0].max() and whitened < 1.02 * floors[:, 1].max(), name
        assert exact_mixture.distance_to_truth(coarse, mixture, True) > 1.02 * floors[:, 1].max(), name
        images[name] = fine
    # One law, but from one noise not one image: the paths are different maps.
    assert (images["32 leads"] - images["64 leads"]).square().mean().sqrt() > 0.05


def test_ddim_converges_more_slowly_than_multistep(mixture):
    starts = exact_mixture.start_states(mixture, 2000, 9)
    denoiser = exact_mixture.MixtureDenoiser(mixture)
    path = paths.rho_schedule(18, 7.0)
    path = np.stack([path, path], axis=1)
    ddim, multistep = (exact_mixture.distance_to_truth(exact_mixture.sample_along(denoiser, path, starts, solver).x_64,
                                                       mixture) for solver in ("ddim", "multistep"))
    assert multistep < 0.7 * ddim
    few, many = (exact_mixture.distance_to_truth(exact_mixture.sample_along(
        denoiser, uniform_diagonal(n), starts).x_64, mixture) for n in (5, 20))
    assert many < few
