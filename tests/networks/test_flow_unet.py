"""The UNet of the flow family: the same function at equal times, the same arithmetic in all its forms."""
import pytest
import torch

from engine.errors import InputError
from engine.sampling import sample
from flow.model import build_network, denoiser_of, gflop_of_forward
from networks.flow_unet import FlowUNet, check_unet

SIZES = dict(channels=1, patch_size=2, hidden_size=16, depth=1, num_classes=3)
LABELS = torch.arange(3)


def drawn(**where) -> FlowUNet:
    """With the same random weights for every form that has them: each is drawn from a seed of its own name."""
    network = build_network({"network": "unet", **SIZES, **where})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            generator = torch.Generator().manual_seed(len(name) * 1000 + sum(map(ord, name)))
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + ("norm" in name))
    return network.eval()


@torch.no_grad()
def test_bands_at_equal_times_are_one_image():
    one, bands = drawn(image_size=8), drawn(image_size=8, bands=True)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.0, 0.3, 1.0])
    velocity = one(x, t, LABELS)
    assert velocity.shape == x.shape and torch.equal(bands(x, [t, t], LABELS), velocity)
    assert not torch.allclose(bands(x, [t, t * 0.5], LABELS)[1:], velocity[1:], atol=1e-4)
    assert torch.equal(one(x, t), one(x, t, torch.full((3,), 3))) and not torch.equal(one(x, t), velocity)


def test_two_sizes_see_each_other_and_both_times():
    network = drawn(image_sizes=[8, 4])
    xs = [torch.randn(3, 1, side, side, requires_grad=True) for side in (8, 4)]
    ts = [torch.rand(3, requires_grad=True) for _ in xs]
    for velocity, x in zip(network(xs, ts, LABELS), xs):
        assert velocity.shape == x.shape
        gradients = torch.autograd.grad(velocity.square().sum(), [*xs, *ts], retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_all_forms_cost_the_same_within_a_twentieth():
    costs = [gflop_of_forward({"network": "unet", **SIZES, "hidden_size": 48, **where})
             for where in ({"image_size": 28}, {"image_sizes": [28, 14]}, {"image_size": 28, "bands": True})]
    assert costs[0] == pytest.approx(costs[2], rel=0.01) and costs[0] < costs[1] < 1.05 * costs[0]


@pytest.mark.parametrize("where", [{"image_size": 8}, {"image_sizes": [8, 4]}, {"image_size": 8, "bands": True}])
def test_it_is_sampled_along_a_path_of_its_times(where):
    denoiser = denoiser_of(drawn(**where))
    path = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None].repeat(1, len(denoiser.shapes))
    path[1:-1, 1:] += 0.2                                       # the coarse one ahead, where there is one
    samples = sample(denoiser, path, 0, range(3), labels=LABELS, clip=False)
    image = denoiser.image(samples.xs)
    assert image.shape == (3, 1, 8, 8) and image.isfinite().all() and samples.num_model_calls == 3


def test_what_does_not_divide_is_told():
    for message, arguments in {"--patch_size: found 3 with --scales": ([12, 6], 3, 16),
                               "--patch_size: found 2 with --network unet": ([30], 2, 16),
                               "--hidden_size: found 12": ([8], 2, 12)}.items():
        with pytest.raises(InputError, match=message):
            check_unet(*arguments)
    with pytest.raises(InputError, match="--image_size: found 9 with --bands"):
        check_unet([9], 1, 16, bands=True)
