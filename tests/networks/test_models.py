"""Both models compute the function of the published ones, and say no to dimensions that cannot work."""
import pytest
import torch
import torch.nn.functional as F

from baseline_model import DEFAULT_HIDDEN_DIMS, BaselineModel
from conftest import with_reference_weights
from engine.errors import InputError
from model import LIFTDualTimestepModel
from networks.scales import downsample_to_32
from scheduler import cosine_alphas_cumprod

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


def test_arithmetic_of_a_forward_pass(monkeypatch):
    """The figure that the fraction of the machine's peak is of; a layer more or less would change it."""
    from scripts.benchmarks.training_sides import gflop_of_forward
    assert gflop_of_forward(DEFAULT_HIDDEN_DIMS) == pytest.approx(16.45, abs=0.005)


@pytest.mark.parametrize("model_type", MODELS)
def test_v_is_what_the_last_layer_puts_out(model_type):
    """The noise that a v model returns is sqrt(abar) v + sqrt(1 - abar) x_t, with v what the same weights return as
    noise; in full precision even where the network runs in bfloat16."""
    torch.manual_seed(0)
    as_noise, as_v = (MODELS[model_type][0]([8, 16], parametrization) for parametrization in ("eps", "v"))
    as_v.load_state_dict(as_noise.state_dict())
    noised = [torch.randn(3, 3, 64, 64), torch.randn(3, 3, 32, 32)][:1 + (model_type == "lift")]
    times = [torch.tensor([0, 700, 999]), torch.tensor([999, 30, 0])][:len(noised)]
    with torch.no_grad():
        outputs, found = as_noise(*noised, *times), as_v(*noised, *times)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low_precision = as_v(*noised, *times)
    if model_type == "baseline":
        outputs, found, low_precision = [outputs], [found], [low_precision]
    abar = cosine_alphas_cumprod()
    for v, eps, rough, x, t in zip(outputs, found, low_precision, noised, times):
        a = abar[t][:, None, None, None]
        torch.testing.assert_close(eps.double(), a.sqrt() * v + (1 - a).sqrt() * x, rtol=1e-5, atol=1e-5)
        assert rough.dtype == torch.float32
        noisy = t == 999                            # nothing but the input there, which must not be rounded
        assert (rough - eps)[noisy].abs().max() < 0.01 * v[noisy].abs().max()


@pytest.mark.parametrize("dims", [[8], [8, 16], [8, 16, 128]])
def test_a_native_32_scale_joins_at_its_own_level(dims):
    """With nothing of x_32 let in, the 64 output is the baseline's of the same weights and time embedding; what is let
    in changes it; and the 32 output does not pass the 64x64 decoder level."""
    torch.manual_seed(0)
    lift, baseline = LIFTDualTimestepModel(dims, native_32=True), BaselineModel(dims)
    baseline.load_state_dict({name: lift.state_dict()[name] for name in baseline.state_dict()})
    x_64, x_32 = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32)
    t_64, t_32 = torch.tensor([700, 3]), torch.tensor([20, 900])
    with torch.no_grad():
        with_32, eps_32 = lift(x_64, x_32, t_64, t_32)
        assert eps_32.shape == x_32.shape and (with_32 - lift(x_64, -x_32, t_64, t_32)[0]).norm() > 1e-3
        lift.decoder_blocks[-1][-1].conv2.weight.zero_()
        changed_64, same_32 = lift(x_64, x_32, t_64, t_32)
        assert torch.equal(same_32, eps_32) and not torch.equal(changed_64, with_32)
        lift.init_conv_32.weight.zero_()
        lift.init_conv_32.bias.zero_()
        baseline.load_state_dict({name: lift.state_dict()[name] for name in baseline.state_dict()})
        time_embedding = lift.time_combine(torch.cat([lift.time_mlp(t_64), lift.time_mlp(t_32)], dim=1))
        torch.testing.assert_close(lift(x_64, x_32, t_64, t_32)[0], baseline.run_backbone(x_64, time_embedding)[0])


def test_a_native_32_scale_costs_two_thousand_parameters():
    with torch.device("meta"):
        model = LIFTDualTimestepModel(native_32=True)
    at_64 = 2 * 3 * 64 * 9 + 3                                  # in and out, of the three channels that are no more
    at_32 = 3 * 64 * 9 + 64 + 2 * 128 + 128 * 3 * 9 + 3         # in; norm and convolution out
    assert sum(p.numel() for p in model.parameters()) == 58_475_206 - at_64 + at_32 == 58_477_254


def test_parametrizations_that_are_none():
    with pytest.raises(InputError, match="--parametrization: found 'x0', expected eps, v, residual"):
        BaselineModel([8, 16], "x0")


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
