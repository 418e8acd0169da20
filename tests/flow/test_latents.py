"""Latents of an autoencoder: its scaling, the cache of moments, and what is refused."""
import json

import numpy as np
import pytest
import torch

from engine.errors import InputError
from engine.sampling import from_uint8
from flow.latents import Latents, PosteriorSamples


def save_tiny_vae(folder, seed: int = 0):
    """A random AutoencoderKL of factor 2 with 4 latent channels."""
    from diffusers import AutoencoderKL
    torch.manual_seed(seed)
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
                        sample_size=16, scaling_factor=0.5, shift_factor=0.25)
    vae.save_pretrained(folder)
    return vae


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "tiny"
    save_tiny_vae(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (5, 3, 16, 16), dtype=np.uint8)


@torch.no_grad()
def test_latents_are_shifted_and_scaled(vae_folder, images):
    latents = Latents(vae_folder)
    x = from_uint8(torch.from_numpy(images))
    posterior = latents.vae.encode(x).latent_dist
    mean, deviation = latents.moments(x)
    assert mean.shape == (5, 4, 8, 8) and latents.factor == 2 and latents.channels == 4
    assert torch.allclose(mean, (posterior.mean - 0.25) * 0.5) and torch.allclose(deviation, posterior.std * 0.5)
    assert torch.allclose(latents.decode(mean), latents.vae.decode(posterior.mean).sample, atol=1e-5)


def test_images_are_encoded_once_and_the_key_knows_images_weights_and_flips(vae_folder, images, tmp_path, monkeypatch):
    latents = Latents(vae_folder)
    first = latents.encoded(images, "aa", True, tmp_path)
    assert first.shape == (5, 2, 2, 4, 8, 8) and first.dtype == np.float16
    x = from_uint8(torch.from_numpy(images))
    for flip, view in enumerate((x, x.flip(3))):
        mean, deviation = latents.moments(view)
        assert np.allclose(first[:, flip, 0], mean.numpy(), atol=2e-3)
        assert np.allclose(first[:, flip, 1], deviation.numpy(), rtol=2e-3)
    monkeypatch.setattr(Latents, "moments", None)                       # nothing is encoded again
    assert np.array_equal(Latents(vae_folder).encoded(images, "aa", True, tmp_path), first)
    monkeypatch.undo()
    save_tiny_vae(tmp_path / "other", seed=1)
    for encoder, content_hash, flip in ((latents, "bb", True), (latents, "aa", False),
                                        (Latents(tmp_path / "other"), "aa", True)):
        encoder.encoded(images, content_hash, flip, tmp_path)
    assert len(list((tmp_path / "latents").glob("*.npy"))) == 4


def test_every_draw_has_fresh_posterior_noise(vae_folder, images, tmp_path):
    moments = Latents(vae_folder).encoded(images, "aa", True, tmp_path)
    clean = PosteriorSamples(moments, "cpu")
    indices, flipped = torch.tensor([4, 1]), torch.tensor([True, False])
    zero = clean(indices, flipped, torch.zeros(2, 4, 8, 8))
    assert torch.equal(zero, torch.from_numpy(np.stack([moments[4, 1, 0], moments[1, 0, 0]])).float())
    one = clean(indices, flipped, torch.ones(2, 4, 8, 8))
    deviations = torch.from_numpy(np.stack([moments[4, 1, 1], moments[1, 0, 1]])).float()
    assert torch.allclose(one - zero, deviations, atol=1e-6)


def test_bad_autoencoders_are_told(vae_folder, images, tmp_path):
    with pytest.raises(InputError, match="--vae: .*has no config.json"):
        Latents(tmp_path)
    save_tiny_vae(tmp_path / "unscaled")
    config = json.loads((tmp_path / "unscaled/config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "unscaled/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no scaling_factor"):
        Latents(tmp_path / "unscaled")
    with pytest.raises(InputError, match="multiple of 2"):
        Latents(vae_folder).encoded(images[:, :, :15, :15], "aa", False, tmp_path)
    latents = Latents(vae_folder)
    latents.encoded(images, "cc", False, tmp_path)
    [path] = (tmp_path / "latents").glob("*.npy")
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged cache of latents"):
        latents.encoded(images, "cc", False, tmp_path)
