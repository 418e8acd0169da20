"""The autoencoder's formulas against the reference numbers, and its shapes."""
import numpy as np
import pytest
import torch

from conftest import REFERENCE
from engine.errors import InputError
from networks.vae import VAE, kl_per_image, latent_scale, mean_and_log_variance, reparametrised, vae_loss


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "mnist.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def test_posterior_sample_and_divergence(reference):
    mean, log_variance = mean_and_log_variance(reference["vae_parameters"])
    assert torch.equal(mean, reference["vae_mean"]) and torch.equal(log_variance, reference["vae_logvar"])
    torch.testing.assert_close(reparametrised(mean, log_variance, reference["vae_eps"]), reference["vae_z"],
                               rtol=2e-4, atol=1e-6)
    kl = kl_per_image(mean.double(), log_variance.double())
    torch.testing.assert_close(kl, reference["vae_kl_per_image"], rtol=1e-12, atol=0)
    torch.testing.assert_close(kl.mean(), reference["vae_kl"], rtol=1e-12, atol=0)


def test_loss(reference):
    posterior = mean_and_log_variance(reference["vae_parameters_2"])
    losses = vae_loss(reference["vae_x"], reference["vae_reconstruction"], *posterior,
                      float(reference["vae_kl_weight"]))
    found = torch.stack([losses[key] for key in ("reconstruction", "kl", "loss")]).double()
    torch.testing.assert_close(found, reference["vae_loss"], rtol=2e-4, atol=0)


def test_scale_of_latents(reference):
    scale = latent_scale(reference["latents"])
    assert scale == pytest.approx(float(reference["latent_scale"]), rel=2e-4)
    assert float((reference["latents"] * scale).std()) == pytest.approx(1, rel=1e-6)


def test_divergence_equals_torchs_own():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0, 1)).sum((1, 2, 3))
    torch.testing.assert_close(kl_per_image(mean, log_variance), expected)


@pytest.mark.parametrize("shape, latent", [((1, 32, 32), (2, 4, 4)), ((3, 32, 32), (2, 4, 4)),
                                           ((1, 40, 24), (2, 5, 3))])
def test_shapes_and_the_scale_of_latents_cancel(shape, latent):
    torch.manual_seed(0)
    vae, x = VAE(shape, base_channels=8), torch.randn(2, *shape)
    with torch.no_grad():
        plain, decoded = vae.encode(x), vae.decode(vae.encode(x))
        vae.scale.fill_(3.0)
        assert vae.latent_shape == latent and plain.shape == (2, *latent) and decoded.shape == x.shape
        torch.testing.assert_close(vae.encode(x), 3 * plain)
        torch.testing.assert_close(vae.decode(vae.encode(x)), decoded, rtol=1e-4, atol=1e-5)
        reconstruction, mean, _ = vae(x, torch.zeros(2, *latent))
        torch.testing.assert_close(mean, plain)
        torch.testing.assert_close(reconstruction, decoded, rtol=1e-4, atol=1e-5)


def test_patches_take_the_place_of_a_halving():
    x = torch.randn(2, 1, 32, 32)
    vae = VAE(x.shape[1:], base_channels=8, channel_multipliers=(1, 2), patch_size=2)
    assert vae.latent_shape == (2, 4, 4) and vae.encode(x).shape == (2, 2, 4, 4)
    assert vae.decode(vae.encode(x)).shape == x.shape and vae.encoder[0].in_channels == 4
    same = VAE(**vae.settings)
    same.load_state_dict(vae.state_dict())
    assert torch.equal(same.encode(x), vae.encode(x))
    with pytest.raises(InputError, match="2 levels with --patch_size 4, .* divisible by 16; found 8x8"):
        VAE((1, 8, 8), channel_multipliers=(1, 2), patch_size=4)


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(InputError, match="--channel_multipliers: found 3 levels .* found 28x28"):
        VAE((1, 28, 28))
