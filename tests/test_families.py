"""Any checkpoint as a denoiser: EDM's weights from plain files, latents of two families, what is refused."""
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file

import families
from conftest import IMAGENET_64
from engine.errors import InputError
from engine.files import save_torch
from engine.sampling import sample
from flow.latents import Latents
from mnist import models as mnist_models
from networks import margin
from networks.adm import EDMNetwork, config_of
from networks.dit import DiT, published_state
from networks.vae import VAE
from scheduler import Sigma

TINY = {"resolution": 8, "base_channels": 64, "channels": 3, "num_blocks": 2, "mult": [1, 2], "attention_at": [4],
        "num_classes": 3}


def tiny_network():
    torch.manual_seed(0)
    network = EDMNetwork(**TINY)
    for p in network.parameters():                      # the zero-initialised layers too
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    return network.eval()


@pytest.mark.parametrize("name", ["edm.pth", "edm.safetensors"])
def test_edm_weights_are_a_teacher_from_their_names_and_shapes(tmp_path, name):
    network = tiny_network()
    if name.endswith("safetensors"):
        save_file(network.state_dict(), tmp_path / name)
    else:
        save_torch(tmp_path / name, network.state_dict())
    loaded = families.load(tmp_path / name)
    assert loaded.family == "edm" and loaded.kind == "x_0" and loaded.content["config"] == TINY
    assert isinstance(loaded.denoiser.processes[0], Sigma) and loaded.image_shape == (3, 8, 8)
    assert not loaded.is_guidable and loaded.denoiser.num_classes == 3 and loaded.few_steps is None
    x, sigma, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 20.0]), torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.equal(loaded.denoiser.clean([x], [sigma], labels)[0], network(x, sigma, labels))


def test_the_published_networks_sizes_are_read_off_its_state_dict():
    with torch.device("meta"):
        state = EDMNetwork(**IMAGENET_64).state_dict()
    found = config_of(state, "edm.pth")
    assert found == {**IMAGENET_64, "mult": [1, 2, 3, 4], "attention_at": [32, 16, 8], "channels": 3}


def write_latent_model(folder):
    """A latent flow of digits with classes and its VAE, at random weights: (checkpoint, VAE's file)."""
    torch.manual_seed(0)
    vae = VAE([1, 32, 32], 8, (1, 1, 1), 2)
    vae.scale.fill_(1.7)
    save_torch(folder / "vae.pth", {"family": "mnist", "model": "vae", "settings": vae.settings,
                                    "model_state": vae.state_dict(), "ema_state": {"shadow": {}, "decay": 0.9}})
    settings = dict(shape=[2, 4, 4], base_channels=8, channel_multipliers=[1, 2], layers_per_block=1,
                    attention_levels=[1], patch_size=1, conditioning="cross_attention", num_classes=10)
    state = mnist_models.build_denoiser("flow", "velocity", settings).network.state_dict()
    save_torch(folder / "latent_1ep.pth", {
        "family": "mnist", "model": "denoiser", "name": "latent_rf", "process": "flow", "kind": "velocity",
        "settings": settings, "image_size": 28, "channels": 1, "vae_checkpoint": str(folder / "vae.pth"),
        "vae_hash": mnist_models.sha256_of_file(folder / "vae.pth"), "model_state": state,
        "ema_state": {"shadow": state, "decay": 0.9}, "epochs": 1, "options": {"label_dropout": 0.1}})
    return folder / "latent_1ep.pth", folder / "vae.pth"


def test_latents_of_the_mnist_family_go_through_its_vae(tmp_path):
    checkpoint, vae_path = write_latent_model(tmp_path)
    loaded, vae = families.load(checkpoint), mnist_models.load_vae(vae_path)
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    latents = loaded.inputs_of(images, "cpu")
    assert latents.shape == (3, 2, 4, 4) and loaded.image_shape == (1, 28, 28) and loaded.is_guidable
    x = margin.padded(images).float() / 127.5 - 1
    torch.testing.assert_close(latents, vae.encode(x), rtol=0, atol=1e-6)
    again = loaded.images_of(latents)
    assert again.shape == images.shape and again.dtype == torch.uint8
    assert torch.equal(again, margin.cropped(families.to_uint8(vae.decode(latents)), 28))
    with pytest.raises(InputError, match="^--vae: .* holds denoiser, expected a vae of this family"):
        families.load(checkpoint, vae=checkpoint)
    moved = vae_path.rename(tmp_path / "moved.pth")
    with pytest.raises(InputError, match="no such checkpoint"):
        families.load(checkpoint)
    assert families.load(checkpoint, vae=moved).content["vae_checkpoint"] == str(moved)


def save_autoencoder(folder, seed):
    """A tiny AutoencoderKL at random weights, of images half as large in 4 channels."""
    from diffusers import AutoencoderKL
    torch.manual_seed(seed)
    AutoencoderKL(in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
                  down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                  latent_channels=4, sample_size=16, scaling_factor=0.5).save_pretrained(folder)


def test_latents_of_the_flow_family_go_through_its_autoencoder(tmp_path):
    save_autoencoder(tmp_path / "vae", 0)
    latents = Latents(tmp_path / "vae")
    network = DiT(image_size=8, channels=4, patch_size=2, hidden_size=16, depth=2, num_heads=2, mlp_ratio=1,
                  num_classes=3)
    state = network.state_dict()
    save_torch(tmp_path / "flow_1ep.pth", {"family": "flow", "config": dict(network.config), "model_state": state,
                                           "ema_state": {"shadow": state, "decay": 0.9}, "epochs": 1,
                                           "vae_fingerprint": latents.fingerprint,
                                           "options": {"label_dropout": 0.1, "vae": str(tmp_path / "vae")}})
    loaded = families.load(tmp_path / "flow_1ep.pth")
    images = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    found = loaded.inputs_of(images, "cpu")
    mean, deviation = latents.moments(images.float() / 127.5 - 1)
    assert found.shape == (300, 4, 8, 8) and loaded.image_shape == (3, 16, 16)
    off = (found - mean) / deviation                    # a sample of each posterior
    assert abs(off.mean()) < 0.02 and abs(off.std() - 1) < 0.02
    assert loaded.images_of(found[:2]).shape == (2, 3, 16, 16)
    assert loaded.content["vae"] == str(tmp_path / "vae")
    save_autoencoder(tmp_path / "other", 1)
    with pytest.raises(InputError, match="--vae: .*are not those"):
        families.load(tmp_path / "flow_1ep.pth", vae=tmp_path / "other")


@pytest.mark.parametrize("process, kind, clips", [("flow", "velocity", False), ("ddpm", "eps", True)])
def test_every_reader_of_a_checkpoint_clips_alike(tmp_path, process, kind, clips):
    """Pixels of a noise prediction are clipped while they are sampled; those of a velocity are not; latents never."""
    torch.manual_seed(0)
    settings = dict(shape=[1, 8, 8], base_channels=8, channel_multipliers=[1, 2], layers_per_block=1,
                    attention_levels=[1], patch_size=2, conditioning="none", num_classes=0)
    network = mnist_models.build_denoiser(process, kind, settings).network
    torch.nn.init.normal_(network.final_conv[-1].weight, std=1.0)       # far beyond [-1, 1]
    state = network.state_dict()
    save_torch(tmp_path / "m_1ep.pth", {"family": "mnist", "model": "denoiser", "name": "m", "process": process,
                                        "kind": kind, "settings": settings, "image_size": 8, "channels": 1,
                                        "vae_checkpoint": None, "vae_hash": None, "model_state": state, "epochs": 1,
                                        "ema_state": {"shadow": state, "decay": 0.9}, "options": {}})
    loaded, model = families.load(tmp_path / "m_1ep.pth"), mnist_models.load_model(tmp_path / "m_1ep.pth")
    assert loaded.clips == model.clips == clips
    path = loaded.own_path(3)
    drawn = {how: loaded.images_of(sample(loaded.denoiser, path, 0, range(4), clip=how).xs[0]) for how in (True, False)}
    assert (drawn[True] != drawn[False]).any()
    assert torch.equal(model.drawing(path[:, 0]).images(0, range(4)), drawn[clips])
    loaded.decode = lambda x: x
    assert not loaded.clips


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    save_torch(tmp_path / "alien.pth", {"family": "alien"})
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pickle.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "junk.pth").write_text("hi\n")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"ema": {}}, protocol=4))
    save_torch(tmp_path / "other.pth", {"model.map_layer0.weight": torch.zeros(4)})
    state = tiny_network().state_dict()
    save_torch(tmp_path / "short.pth", {**state, "model.out_conv.bias": torch.zeros(7)})
    checkpoint, vae = write_latent_model(tmp_path)
    save_torch(tmp_path / "edm.pth", state)
    for name, message, more in (
            ("alien.pth", "--teacher: .*family 'alien', expected one of", {}), ("pickle.pth", "pickled object", {}),
            ("junk.pth", "damaged or foreign", {}), ("plain.pkl", "is a pickle, .*store its state dict by", {}),
            ("missing.pth", "no such", {}), ("missing.safetensors", "no such file", {}),
            ("text.safetensors", "not a safetensors file", {}), ("other.pth", "expected the state dict of EDM's", {}),
            ("short.pth", "1 entries differ", {}), ("vae.pth", "is an autoencoder", {}),
            ("edm.pth", "--vae: .*model of pixels", {"vae": vae})):
        with warnings.catch_warnings(), pytest.raises(InputError, match=message) as error:
            warnings.simplefilter("error")
            families.load(tmp_path / name, option="--teacher", **more)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [families.kind_of, published_state, families.load])
def test_files_that_are_none_are_told_by_every_reader_in_the_same_words(tmp_path, read):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "object.pth")
    (tmp_path / "junk.pth").write_text("hi\n")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"ema": {}}, protocol=4))
    (tmp_path / "folder.pth").mkdir()
    for name, message in (("object", "holds a pickled object, expected a"), ("plain", "is a pickle, expected a"),
                          ("junk", "is truncated, damaged or foreign, expected a"), ("missing", "no such "),
                          ("folder", "found a folder, expected a")):
        with pytest.raises(InputError, match=f"{name}.pth: {message}") as error:
            read(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)


def test_a_kind_is_told_without_reading_the_weights(tmp_path, monkeypatch):
    """They stay in the file, but where it has torch's older format."""
    network, read, given = tiny_network(), torch.load, []
    monkeypatch.setattr(torch, "load", lambda *words, **how: given.append(how["mmap"]) or read(*words, **how))
    for is_zip in (True, False):
        torch.save(network.state_dict(), tmp_path / "edm.pth", _use_new_zipfile_serialization=is_zip)
        assert families.kind_of(tmp_path / "edm.pth") == ("edm", False)
    assert given == [True, False]
