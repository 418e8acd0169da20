"""EDM's network computes the published function, has the published names, and never opens a foreign pickle."""
import json
import zlib

import numpy as np
import pytest
import torch

from conftest import IMAGENET_64, REFERENCE
from networks.adm import EDMNetwork

TINY = {"resolution": 8, "base_channels": 16, "mult": (1, 2), "num_blocks": 1, "attention_at": (), "num_classes": 3}


@pytest.fixture(scope="module")
def dmd2() -> dict:
    with np.load(REFERENCE / "dmd2.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("adm_")}


def with_reference_weights(network):
    """Weights drawn from the CRC of their names, by the rule of the reference numbers."""
    state = {}
    for name, value in network.state_dict().items():
        r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
        if "resample_filter" in name:
            r = np.full(value.shape, 0.25)
        elif "norm" in name:
            r = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
        else:
            r = 0.02 * r if name.endswith("bias") else r / np.sqrt(np.prod(value.shape[1:]))
        state[name] = torch.from_numpy(np.asarray(r, np.float32))
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("variant", ["adm_a", "adm_b"])
def test_outputs_are_the_published_ones(dmd2, variant):
    resolution, base_channels, num_blocks, num_classes = dmd2[f"{variant}_config"].tolist()
    network = with_reference_weights(EDMNetwork(resolution, base_channels, dmd2[f"{variant}_mult"].tolist(), num_blocks,
                                                dmd2[f"{variant}_attn"].tolist(), num_classes))
    kept = []
    list(network.model.enc.values())[-1].register_forward_hook(lambda *call: kept.append(call[-1]))
    with torch.no_grad():
        x_0 = network(*(dmd2[f"{variant}_{name}"] for name in ("x", "sigma", "labels")))
    torch.testing.assert_close(x_0, dmd2[f"{variant}_x0"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept[0].mean((2, 3)), dmd2[f"{variant}_bottleneck_mean"], rtol=1e-5, atol=1e-5)


def test_names_shapes_and_size_are_the_published_ones():
    with torch.device("meta"):
        network = EDMNetwork(**IMAGENET_64)
    published = json.loads((REFERENCE / "state_dict_edm_imagenet64.json").read_text())
    assert len(published) == 553
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == published
    assert sum(p.numel() for p in network.parameters()) == 295_899_267


def test_a_class_number_is_its_one_hot_label_and_the_number_behind_the_last_is_no_class():
    network = with_reference_weights(EDMNetwork(**TINY))
    x, sigma = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 4.0])
    one_hot = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = network(x, sigma, torch.tensor([1, 3]))
    torch.testing.assert_close(found, network(x, sigma, one_hot))
    torch.testing.assert_close(found[1:], network(x[1:], sigma[1:]))
    assert not torch.allclose(found[:1], network(x[:1], sigma[:1]))
