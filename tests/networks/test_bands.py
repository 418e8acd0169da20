"""One image in two parts with a noise level each: the projection, the exact flow of a Gaussian, the band DiT."""
import pytest
import torch

from engine.denoiser import Corrected, Guided
from engine.errors import InputError
from engine.sampling import denoise_along, sample
from flow.model import denoiser_of, gflop_of_forward
from networks import bands
from networks.affine_velocity import AffineVelocity
from networks.band_dit import BandDiT, BandFlowDenoiser
from networks.dit import DiT
from scheduler import CosineSteps, LinearFlow, Sigma, noise_added

SIZES = dict(channels=3, patch_size=2, hidden_size=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=5)


def normal(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projection(side: int) -> torch.Tensor:
    """P written out: every pixel becomes the mean of its 2x2 block. Float64 [side^2, side^2]."""
    place = torch.arange(side)
    block = (place[:, None] // 2 * side + place // 2).flatten()
    return (block[:, None] == block).double() / 4


def test_two_orthogonal_parts_of_an_image():
    P, x = projection(8), normal(5, 3, 8, 8)
    fine, coarse = bands.split(x)
    assert torch.allclose(bands.from_coarse(coarse).flatten(2), x.flatten(2) @ P, atol=1e-12)
    assert torch.allclose(fine.flatten(2), x.flatten(2) @ (torch.eye(64) - P), atol=1e-12)
    assert (fine * bands.from_coarse(coarse)).flatten(1).sum(1).abs().max() < 1e-12
    assert torch.allclose(fine.square().sum() + coarse.square().sum(), x.square().sum())
    assert torch.allclose(bands.joined(fine, coarse), x, atol=1e-12)
    other = fine + bands.from_coarse(normal(5, 3, 4, 4))                # what is coarse in the fine part means nothing
    assert torch.allclose(bands.joined(other, coarse), x, atol=1e-12)


def parts_noised(x_0: torch.Tensor, eps: torch.Tensor, levels_64, levels_32) -> torch.Tensor:
    """x_t of the formula of `bands`: [B, C, S, S]. levels: (a, s), scalar tensors or [B]."""
    return bands.weighted(x_0, levels_64[0], levels_32[0]) + bands.weighted(eps, levels_64[1], levels_32[1])


@pytest.mark.parametrize("process, t_64, t_32", [(LinearFlow(), 0.3, 0.8), (CosineSteps(), 700, 300),
                                                  (Sigma(), 2.0, 0.5)])
def test_each_part_is_noised_at_its_own_level(process, t_64, t_32):
    P, x_0, eps = projection(4), normal(6, 2, 4, 4), normal(6, 2, 4, 4, seed=1)
    (a_64, s_64), (a_32, s_32) = (process.levels(torch.tensor(t), torch.float64) for t in (t_64, t_32))
    found = parts_noised(x_0, eps, (a_64, s_64), (a_32, s_32))
    clean, noise = x_0.flatten(2), eps.flatten(2)
    expected = (a_32 * clean + s_32 * noise) @ P + (a_64 * clean + s_64 * noise) @ (torch.eye(16) - P)
    assert torch.allclose(found.flatten(2), expected, atol=1e-12)
    parts = (a * part + s * noise for part, noise, a, s in
             zip(bands.split(x_0), bands.split(eps), (a_64, a_32), (s_64, s_32)))
    assert torch.allclose(bands.joined(*parts), found, atol=1e-12)      # as the sampler and the trainer hold it
    t = torch.full((6,), t_64)
    for x, e in ((x_0, eps), (x_0.float(), eps.float())):
        levels = process.levels(t, x.dtype)
        assert torch.equal(parts_noised(x, e, levels, levels), noise_added(x, e, *levels))


# --- a Gaussian whose flow is known -----------------------------------------------------------------------------------

class GaussianBands(bands.BandDenoiser):
    """The exact denoiser of x_0 ~ N(mean, covariance) at 4x4 pixels: the conditional mean given both parts' noised
    values, which tell of each other."""

    def __init__(self, process, mean: torch.Tensor, covariance: torch.Tensor):
        super().__init__(None, "x_0", (1, 4, 4), process)
        self.mean, self.covariance, self.P = mean, covariance, projection(4)

    def output(self, network, x, ts, labels=None):
        (a_64, s_64), (a_32, s_32) = (process.levels(t[0], torch.float64) for process, t in zip(self.processes, ts))
        rest = torch.eye(16) - self.P
        A, S = a_64 * rest + a_32 * self.P, s_64 * rest + s_32 * self.P
        gain = self.covariance @ A @ torch.linalg.inv(A @ self.covariance @ A + S @ S)
        return (self.mean + (x.flatten(1) - self.mean @ A) @ gain.T).view_as(x)


def gaussian(commutes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [16] and covariance [16, 16], which falls apart into the two bands or does not."""
    mixed, P = normal(16, 16) / 3, projection(4)
    covariance = mixed @ mixed.T + 0.05 * torch.eye(16)
    if commutes:
        rest = torch.eye(16) - P
        covariance = P @ covariance @ P + rest @ covariance @ rest
    return normal(16, seed=2), covariance


def uneven(process, num_steps: int) -> torch.Tensor:
    """The coarse part far ahead, and steps in which one part stands still."""
    k = torch.arange(num_steps + 1, dtype=torch.float64)
    fine = ((5 * k - num_steps) / (4 * num_steps)).clamp(min=0) ** 1.5
    coarse = (5 * k / (4 * num_steps)).clamp(max=1) ** 0.75
    return process.noisiest + torch.stack([fine, coarse], dim=1) * (process.clean - process.noisiest)


def end_of(denoiser, path, noise: torch.Tensor, **how) -> torch.Tensor:
    """Where noise [B, 16] ends: [B, 16]."""
    starts = [denoiser.processes[0].start_scale(float(path[0, 0])) * part
              for part in bands.split(noise.view(-1, 1, 4, 4))]
    samples = denoise_along(denoiser, path, starts, clip=False, **how)
    return denoiser.image(samples.xs).flatten(1)


@pytest.mark.parametrize("solver, order", [("ddim", 1), ("multistep", 2), ("midpoint", 2), ("heun", 2)])
def test_an_uneven_path_converges_to_the_known_flow(solver, order):
    """Parts that are independent keep their rank in their own law: x_0 = mean + covariance^(1/2) noise, by any path.
    The error falls with the number of steps as the solver's order says."""
    mean, covariance = gaussian(commutes=True)
    values, vectors = torch.linalg.eigh(covariance)
    noise = normal(20, 16, seed=3)
    expected = mean + noise @ (vectors * values.sqrt()) @ vectors.T
    denoiser = GaussianBands(LinearFlow(), mean, covariance)
    errors = [(end_of(denoiser, uneven(LinearFlow(), steps), noise, solver=solver) - expected).norm() / expected.norm()
              for steps in (100, 200)]
    assert errors[1] < (0.02 if order == 1 else 2e-3)
    assert errors[0] / errors[1] > (1.8 if order == 1 else 2.5)


@pytest.mark.parametrize("solver, error", [("ddim", 0.03), ("midpoint", 2e-3)])
def test_parts_that_tell_of_each_other_have_the_right_law(solver, error):
    """Along an uneven path the ends are another function of the noise than along equal times, of the same law: the end
    is affine in the noise, and its matrix times its transpose is the covariance."""
    mean, covariance = gaussian(commutes=False)
    denoiser, path = GaussianBands(LinearFlow(), mean, covariance), uneven(LinearFlow(), 300)
    even = LinearFlow().uniform_path(300)[:, None].repeat(1, 2)
    matrices = []
    for chosen in (path, even):
        ends = end_of(denoiser, chosen, torch.cat([torch.zeros(1, 16), torch.eye(16)]).double(), solver=solver)
        assert (ends[0] - mean).norm() / mean.norm() < error
        matrix = ends[1:] - ends[0]
        assert (matrix.T @ matrix - covariance).norm() / covariance.norm() < error
        matrices.append(matrix)
    assert (matrices[0] - matrices[1]).norm() / matrices[1].norm() > 3 * error


def test_noise_of_both_shapes_is_noise_of_the_image():
    """The sampler draws and adds noise of the parts' shapes; what of the fine part's noise is coarse never shows."""
    mean, covariance = gaussian(commutes=False)
    denoiser, path = GaussianBands(LinearFlow(), mean, covariance), uneven(LinearFlow(), 40)
    for eta in (0.0, 1.0):
        ends = denoiser.image(sample(denoiser, path, 0, range(3000), clip=False, eta=eta).xs).flatten(1).double()
        assert (ends.mean(0) - mean).norm() / mean.norm() < 0.05
        assert (ends.T.cov() - covariance).norm() / covariance.norm() < 0.16         # 0.08 of it: 3000 draws


def test_the_image_is_clipped_and_not_its_parts():
    denoiser = GaussianBands(LinearFlow(), *gaussian(False))
    x = 2 * normal(3, 1, 4, 4)
    clipped = denoiser.clipped(bands.split(x))
    assert torch.allclose(denoiser.image(clipped), x.clamp(-1, 1), atol=1e-12)
    assert clipped[1].abs().max() > 1                                   # a coordinate is twice a mean
    assert torch.equal(Guided(Corrected(denoiser), 1.0).image(clipped), denoiser.image(clipped))


# --- the band DiT -----------------------------------------------------------------------------------------------------

def random_pair(**options) -> tuple[DiT, BandDiT]:
    """A DiT and a band DiT with its weights, all drawn at random."""
    torch.manual_seed(0)
    single, double = DiT(8, **SIZES, **options), BandDiT(8, **SIZES, **options)
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.normal_(std=0.2)
    single.load_state_dict({name: value for name, value in double.state_dict().items()
                            if not name.startswith("lead_embedder")})
    return single, double


def test_training_starts_from_the_weights_of_one_scale():
    models = []
    for make in (DiT, BandDiT):
        torch.manual_seed(3)
        models.append(make(8, **SIZES).state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    assert all(name.startswith("lead_embedder") for name in models[1].keys() - models[0].keys())


@pytest.mark.parametrize("output", ["velocity", "clean", "residual"])
@torch.no_grad()
def test_at_equal_times_it_is_the_model_of_one_scale(output):
    single, double = random_pair(output=output)
    x, labels = normal(4, 3, 8, 8).float(), torch.arange(4)
    t = torch.tensor([0.0, 0.4, 0.9, 0.99 if output == "residual" else 1.0])
    assert torch.allclose(double(x, [t, t], labels), single(x, t, labels), rtol=1e-6, atol=1e-6)
    assert (double(x, [t, t.flip(0)], labels) - single(x, t, labels)).abs().max() > 1e-3
    denoiser, path = BandFlowDenoiser(double), LinearFlow().uniform_path(7)
    of_one = denoise_along(denoiser_of(single), path, [x], labels=labels, clip=False).xs[0]
    found = denoise_along(denoiser, path[:, None].repeat(1, 2), bands.split(x), labels=labels, clip=False)
    assert torch.allclose(denoiser.image(found.xs), of_one, atol=1e-4 * of_one.abs().max())
    assert found.num_model_calls == 7


@torch.no_grad()
def test_clean_output_means_a_velocity_band_by_band():
    """v = (output - x_t) / (1 - t), each part by its own time."""
    _, double = random_pair(output="clean")
    x, ts = normal(2, 3, 8, 8).float(), [torch.tensor([0.2, 0.5]), torch.tensor([0.7, 0.6])]
    parts = bands.split(x)
    found = BandFlowDenoiser(double).clean(parts, ts)
    of_time = double.t_embedder(ts[0]) + (double.lead_embedder(ts[1]) - double.lead_embedder(ts[0]))
    assert torch.allclose(bands.joined(*found), double.last_layer(x, of_time, None), atol=1e-5)


def test_residual_is_what_the_best_affine_velocity_of_two_bands_leaves():
    """Zeros mean the conditional mean of a normal law, found by linear algebra on whole images; a rest of one frequency
    adds its posterior deviation over the noise. No pole where a band has arrived."""
    affine = AffineVelocity(4, 1)
    generator = torch.Generator().manual_seed(5)
    affine.mean.normal_(generator=generator)
    affine.variance.uniform_(0.1, 2.0, generator=generator)
    basis = affine.image(torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)).reshape(16, 16).T     # pixels, freq.
    mean = basis @ affine.mean.double().flatten()
    covariance = basis @ affine.variance.double().flatten().diag() @ basis.T
    t_64, t_32 = 0.3, 0.8
    a, s, over = ((torch.eye(16) - projection(4)) * fine + projection(4) * rough
                  for fine, rough in ((t_64, t_32), (1 - t_64, 1 - t_32), (1 / (1 - t_64), 1 / (1 - t_32))))
    x = torch.randn(2, 16, dtype=torch.float64, generator=generator)
    gain = covariance @ a @ torch.linalg.inv(a @ covariance @ a + s @ s)
    x_0 = mean + (x - mean @ a) @ gain.T
    posterior = covariance - gain @ a @ covariance
    ts = [torch.full((2,), t) for t in (t_64, t_32)]
    images, rest = x.reshape(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    found = affine.velocity_of_bands(rest, images, *ts)
    torch.testing.assert_close(found.reshape(2, 16), (x_0 - x) @ over, rtol=1e-5, atol=1e-5)
    of_one = torch.zeros(16, dtype=torch.float64)
    of_one[5] = 1
    added = affine.velocity_of_bands(rest + affine.image(of_one.reshape(1, 1, 4, 4)), images, *ts) - found
    deviation = (basis[:, 5] @ posterior @ basis[:, 5]).sqrt()
    torch.testing.assert_close(added[0].flatten(), deviation * basis[:, 5] @ over, rtol=1e-5, atol=1e-6)
    arrived = affine.velocity_of_bands(rest, images, ts[0], torch.ones(2))
    assert arrived.isfinite().all() and (arrived - found).abs().max() > 0.1


def test_every_weight_is_moved_and_both_times_are_seen():
    _, double = random_pair()
    x, ts, labels = normal(5, 3, 8, 8).float(), [torch.rand(5), torch.rand(5)], torch.arange(5)
    double(x, ts, labels).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in double.parameters())
    with torch.no_grad():
        before = double(x, ts, labels)
        for changed in ([1 - ts[0], ts[1]], [ts[0], 1 - ts[1]]):
            assert (double(x, changed, labels) - before).abs().max() > 1e-3


def test_arithmetic_is_one_scales_and_a_time_embedding_more():
    config = SIZES | {"image_size": 8}
    of_time = 2 * (2 * (256 * 16 + 16 * 16)) / 1e9                      # the embedding of the lead is asked twice
    assert gflop_of_forward(config | {"bands": True}) - gflop_of_forward(config) == pytest.approx(of_time, rel=1e-6)


def test_what_cannot_be_split_is_told():
    with pytest.raises(InputError, match="--image_size: found 9 with --bands, expected an even side"):
        BandDiT(9, **SIZES | {"patch_size": 3})
