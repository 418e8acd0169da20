"""Both models compute the function of the published ones, and say no to dimensions that cannot work."""
import pytest
import torch
import torch.nn.functional as F

from baseline_model import BaselineModel
from conftest import with_reference_weights
from errors import InputError
from model import LIFTDualTimestepModel, downsample_to_32

MODELS = {"baseline": (BaselineModel, 58_274_627), "lift": (LIFTDualTimestepModel, 58_475_206)}


@pytest.mark.parametrize("variant", ["a", "b"])
def test_outputs_equal_the_golden_ones(golden, variant):
    x_64, x_32, t_64, t_32 = (torch.from_numpy(golden[key]) for key in ("x64", "x32", "t64", "t32"))
    dims = golden[f"lift_{variant}_dims"].tolist()
    with torch.no_grad():
        eps_64, eps_32 = with_reference_weights(LIFTDualTimestepModel(dims))(x_64, x_32, t_64, t_32)
        eps = with_reference_weights(BaselineModel(dims))(x_64, t_64)
    for found, key in ((eps_64, f"lift_{variant}_eps64"), (eps_32, f"lift_{variant}_eps32"),
                       (eps, f"baseline_{variant}_eps")):
        assert (found - torch.from_numpy(golden[key])).abs().max() < 5e-5, key


@pytest.mark.parametrize("model_type", MODELS)
def test_names_shapes_and_size_are_the_published_ones(reference_shapes, model_type):
    model_class, num_parameters = MODELS[model_type]
    with torch.device("meta"):
        model = model_class()
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == reference_shapes[model_type]
    assert sum(p.numel() for p in model.parameters()) == num_parameters


def test_downsampling_is_the_2x2_mean_and_bilinear():
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    mean = x.reshape(2, 3, 32, 2, 32, 2).mean((3, 5))
    bilinear = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(downsample_to_32(x), mean)
    torch.testing.assert_close(downsample_to_32(x), bilinear)


@pytest.mark.parametrize("model_type", MODELS)
def test_layout_and_precision_change_the_result_only_by_rounding(model_type):
    torch.manual_seed(0)
    model = MODELS[model_type][0]([8, 16, 128]).eval()
    inputs = [torch.randn(2, 3, 64, 64)] + ([torch.randn(2, 3, 32, 32)] if model_type == "lift" else [])
    inputs += [torch.tensor([10, 900])] * len(inputs)
    with torch.no_grad():
        expected = model(*inputs)
        channels_last = model.to(memory_format=torch.channels_last)(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low_precision = model(*inputs)
    as_tuple = (lambda out: out) if model_type == "lift" else (lambda out: (out,))
    for a, b, c in zip(*map(as_tuple, (expected, channels_last, low_precision))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert (a - c.float()).norm() < 0.03 * a.norm()


@pytest.mark.parametrize("dims", [[], [12, 16], [0, 8], [-8], [8] * 7, [8.0]])
def test_dimensions_that_cannot_work_are_refused(dims):
    with pytest.raises(InputError, match="--hidden_dims: found .* expected"):
        LIFTDualTimestepModel(dims)
