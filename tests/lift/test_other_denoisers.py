"""Error map and step doubling on a denoiser of two scales that is none of S1's: a dual-scale DiT on straight paths."""
import numpy as np
import pytest
import torch

from engine.sampling import sample
from lift import error_map, path_costs, paths
from lift.coupling import TimestepModel, times_of_timesteps
from networks.dual_dit import DualDiT, DualFlowDenoiser
from scheduler import CosineSteps, LinearFlow, noise_added, noised

SCHEDULE = CosineSteps()


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    network = DualDiT((64, 32), 3, 16, 16, 1, 2, 1, 4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return DualFlowDenoiser(network.requires_grad_(False).eval())


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (2, 3, 64, 64), dtype=np.uint8)


def test_the_noise_is_that_of_the_denoisers_clean_image(denoiser):
    """The same x_0 and eps, noised by both processes at one log SNR, mean the same."""
    generator = torch.Generator().manual_seed(1)
    x_0s, noises = ([torch.randn(2, 3, side, side, generator=generator) for side in (64, 32)] for _ in range(2))
    timesteps = [torch.tensor([999, 400]), torch.tensor([0, 700])]
    own_ts = [LinearFlow().t_at(SCHEDULE.log_snr_at(t)) for t in timesteps]
    flow_xs = [noise_added(x, eps, *LinearFlow().levels(t)) for x, eps, t in zip(x_0s, noises, own_ts)]
    expected = denoiser.clean(flow_xs, [t.float() for t in own_ts])
    abars = [SCHEDULE.alpha_cumprod(t) for t in timesteps]
    xs = [noised(x, eps, abar) for x, eps, abar in zip(x_0s, noises, abars)]
    for x, abar, eps, x_0 in zip(xs, abars, TimestepModel(denoiser)(*xs, *timesteps), expected):
        assert torch.allclose(noised(x_0, eps, abar), x, atol=1e-4)


def test_error_map_is_the_jacobians(denoiser, images):
    """A cell's squared norms against products with torch.func.jvp, probe by probe."""
    model = TimestepModel(denoiser)
    timesteps = np.array([999, 500, 0])
    heatmap = error_map.estimate(model, images, timesteps, K=1, batch_size=2, seed=3)
    assert heatmap["error_64"].isfinite().all() and heatmap["error_32"].isfinite().all()
    draws = error_map.Draws(images, range(2), 1, 3, "cpu")
    t_64, t_32 = torch.tensor([500, 500]), torch.tensor([0, 0])
    x_64 = SCHEDULE.add_noise(draws.x_0_64, draws.noise_64, t_64)
    x_32 = SCHEDULE.add_noise(draws.x_0_32, draws.noise_32, t_32)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, tangents = torch.func.jvp(lambda a, b: tuple(model(a, b, t_64, t_32)), (x_64, x_32),
                                     (draws.probes_64[0].float(), torch.zeros_like(x_32)))
    for block, tangent in zip(("64<-64", "32<-64"), tangents):
        found = heatmap["frobenius"][0, error_map.BLOCKS.index(block), 1, 2]
        assert torch.allclose(found, tangent.square().flatten(1).sum(1), rtol=1e-3)


def test_step_doubling_and_a_path_that_is_sampled(denoiser, images):
    """Edge costs of the plane give a path, which the flow's own sampler walks in its own times."""
    timesteps = paths.timestep_grid(4, "timestep")
    costs = path_costs.step_doubling_edge_costs(TimestepModel(denoiser), images, timesteps, num_steps=3, max_jump=2,
                                                max_images=2, seed=0)
    path = paths.path_from_heatmap({"timesteps": timesteps, "edge_costs": {"step_doubling": costs}}, "dp_step", 3,
                                   max_jump=2)
    own = times_of_timesteps(path, denoiser.processes)
    assert own.shape == (4, 2) and own[0].tolist() == [0, 0] and own[-1].tolist() == [1, 1]
    middle = torch.as_tensor(path)[1]
    assert torch.allclose(LinearFlow().log_snr(own[1]), SCHEDULE.log_snr_at(middle), atol=1e-9)
    samples = sample(denoiser, own, 0, [0, 1], labels=torch.tensor([0, 3]), clip=False)
    assert samples.num_model_calls == 3 and samples.xs[0].isfinite().all()
