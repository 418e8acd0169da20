"""The UNet of small images: sizes, classes that matter, and settings that cannot work."""
import pytest
import torch

from engine.errors import InputError
from networks.conditional_unet import ConditionalUNet, num_heads
from networks.unet import AttentionBlock, GroupNorm

SMALL = {"base_channels": 8, "channel_multipliers": (1, 2), "attention_levels": (1,)}


def test_size_at_the_documented_settings():
    assert sum(p.numel() for p in ConditionalUNet((1, 32, 32)).parameters()) == 2_723_073


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 8), (2, 4, 4)])
@pytest.mark.parametrize("conditioning", ["none", "concat", "cross_attention"])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_any_size_and_conditioning(shape, conditioning, patch_size):
    """A label changes its own image and no other; without classes labels have no say."""
    torch.manual_seed(0)
    network = ConditionalUNet(shape, **SMALL, patch_size=patch_size, conditioning=conditioning, num_classes=3).eval()
    x, t = torch.randn(2, *shape), torch.tensor([3, 900])
    with torch.no_grad():
        first, second = network(x, t, torch.tensor([0, 3])), network(x, t, torch.tensor([0, 1]))
    assert first.shape == x.shape
    torch.testing.assert_close(first[0], second[0], rtol=1e-4, atol=1e-5)
    change = (first[1] - second[1]).abs().max()
    assert change == 0 if conditioning == "none" else change > 1e-4


def test_heads_and_groups_divide_the_channels():
    assert [num_heads(channels) for channels in (8, 64, 96, 128, 200)] == [1, 1, 2, 2, 4]
    assert GroupNorm(12).num_groups == 4 and GroupNorm(64).num_groups == 8
    x = torch.randn(1, 96, 4, 4)
    assert AttentionBlock(96, num_heads(96))(x).shape == x.shape


@pytest.mark.parametrize("settings, message", [
    ({"base_channels": 12}, "--base_channels: found 12, expected a multiple of 8"),
    ({"channel_multipliers": ()}, "--channel_multipliers: found \\[\\]"),
    ({"channel_multipliers": (1, 1, 1, 1)}, "divisible by 8, found 4x4"),
    ({"layers_per_block": 0}, "--layers_per_block: found 0"),
    ({"attention_levels": (2,)}, "--attention_levels: found 2, expected levels 0...1"),
    ({"conditioning": "concat", "num_classes": 0}, "the data set has no labels"),
    ({"conditioning": "add"}, "--conditioning: found 'add'"),
])
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(InputError, match=message):
        ConditionalUNet((2, 4, 4), **{**SMALL, **settings})
