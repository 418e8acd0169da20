"""Tangents carried through the network against torch.func.jvp."""
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine import synthetic_faces
from lift import jvp
from conftest import with_reference_weights
from model import LIFTDualTimestepModel


def reference_tangents(function, primals, directions):
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.vmap(lambda *d: torch.func.jvp(function, primals, d)[1])(*directions)


@pytest.mark.parametrize("hidden_dims, options", [
    ((8, 16), {}), ((8, 16, 128), {}), ((8, 16), {"parametrization": "v"}), ((8, 16), {"native_32": True}),
    ((8, 16), {"parametrization": "residual"})])
def test_network_agrees_with_forward_mode(hidden_dims, options):
    """Both scales move; the second case has attention in the levels as well as in the bottleneck."""
    torch.manual_seed(0)
    model = with_reference_weights(LIFTDualTimestepModel(hidden_dims, **options)).requires_grad_(False)
    if model.parametrization == "residual":
        model.linear_denoiser.fit(torch.from_numpy(synthetic_faces.draw_images(range(20))))
    t_64, t_32 = torch.tensor([700, 3]), torch.tensor([20, 900])
    primals = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32)
    directions = torch.randn(3, 2, 3, 64, 64), torch.randn(3, 2, 3, 32, 32)

    def network(x_64, x_32):
        return model(x_64, x_32, t_64, t_32)

    with torch.no_grad():
        outputs, found = jvp.propagate(network, primals, directions)
        expected = reference_tangents(network, primals, directions)
        for output, plain, tangent, reference in zip(outputs, network(*primals), found, expected):
            assert torch.allclose(output, plain, atol=1e-5)
            assert (tangent - reference).norm() < 1e-5 * reference.norm()


@pytest.mark.parametrize("function", [
    lambda x: F.group_norm(x, 4, torch.linspace(0.5, 2, 8, dtype=x.dtype), torch.ones(8, dtype=x.dtype), 1e-3),
    lambda x: F.group_norm(x, 2),
    lambda x: F.silu(F.silu(x)),
    lambda x: F.silu(F.group_norm(x, 2)) * x + 3,
    lambda x: F.scaled_dot_product_attention(x, x.flip(-1), x * 2),
    lambda x: 1 - x / x.square().mean((1, 2, 3), keepdim=True),
    lambda x: (x[:, :3] ** 2).exp().sum(1) - torch.tanh(x.flatten(1)).sum(),
    lambda x: -x.reshape(len(x), 2, 4, -1).unbind(1)[1].softmax(-1),
    lambda x: torch.cat([x.chunk(2, dim=1)[0], torch.ones(2, 1, 4, 4, dtype=x.dtype)], dim=1) - 2,
    lambda x: torch.zeros(3, 2, 8, 4, 4, dtype=x.dtype) + x,
    lambda x: F.conv2d(x, torch.ones(2, 8, 3, 3, dtype=x.dtype), bias=torch.ones(2, dtype=x.dtype), padding=1),
])
def test_operations_agree_with_forward_mode(function):
    """Rules and the general case, in double precision."""
    torch.manual_seed(0)
    x, directions = torch.randn(2, 8, 4, 4, dtype=torch.float64), torch.randn(3, 2, 8, 4, 4, dtype=torch.float64)
    output, found = jvp.propagate(function, (x,), (directions,))
    expected = reference_tangents(function, (x,), (directions,))
    assert torch.allclose(output, function(x), atol=1e-12)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-11)


def test_input_that_stands_still():
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    outputs, found = jvp.propagate(lambda a, b: (a * b, b + 1), (x, y), (torch.ones(1, 2, 3), None))
    assert torch.equal(found[0][0], y)
    assert found[1] is None and torch.equal(outputs[1], y + 1)
