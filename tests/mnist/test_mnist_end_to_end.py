"""Training, resuming, generating and the family's messages, on few drawn digits and tiny networks."""
import sys

import pytest
import torch

from engine.errors import InputError
from engine.files import load_torch
from mnist import generate, train_ddpm, train_latent_rf, train_rf, train_vae, training
from mnist import train_conditioned_latent_diffusion as train_conditioned
from mnist.models import cropped, load_model, padded

TINY = ["--dataset", "digits:32", "--batch_size", "8", "--epochs", "2", "--log_every", "2", "--num_threads", "1",
        "--sample_every", "0", "--precision", "float32", "--base_channels", "8", "--channel_multipliers", "1", "2"]
UNET = ["--attention_levels", "1", "--patch_size", "1"]
VERBS = {"ddpm": (train_ddpm, "ddpm", False), "rf": (train_rf, "flow", False),
         "conditioned": (train_conditioned, "ddpm", True), "latent_rf": (train_latent_rf, "flow", True)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, where a verb can be called with words."""
    monkeypatch.chdir(tmp_path)

    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, words)])
        if module in (train_vae, generate):
            module.main()
        else:
            _, process, latent = next(verb for verb in VERBS.values() if verb[0] is module)
            training.run(module.__doc__, "model", process, latent,
                         "cross_attention" if module is train_conditioned else "none")
        return sorted((tmp_path / "experiments").glob("*"))
    return call


def newest(folder, epoch=2):
    return next(folder.glob(f"checkpoints/*_{epoch}ep.pth"))


def test_padding_and_cropping():
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert padded(images).shape == (2, 1, 32, 32) and padded(images)[:, :, :2].eq(0).all()
    assert torch.equal(cropped(padded(images), 28), images)
    assert torch.equal(padded(images[..., :24, :24]), images[..., :24, :24])


def test_a_resumed_experiment_ends_as_a_straight_one(place):
    words = [*TINY, *UNET, "--conditioning", "concat", "--save_every", "1"]
    [straight] = place(train_rf, *words)
    states = sorted((straight / "checkpoints").glob("*.state.pth"))
    expected = load_torch(newest(straight))
    states[-1].unlink()
    newest(straight).unlink()
    (straight / "model_run.json").unlink()
    [again] = place(train_rf, "--resume", straight)
    found = load_torch(newest(again))
    for part in (lambda c: c["model_state"], lambda c: c["ema_state"]["shadow"]):
        assert part(expected).keys() == part(found).keys()
        assert all(torch.equal(part(expected)[name], part(found)[name]) for name in part(expected))
    assert (again / "model_training.csv").is_file() and (again / "model_loss.png").is_file()


@pytest.mark.parametrize("module, words, how", [
    (train_ddpm, [], ["--sampling_steps", "3", "--eta", "0.5"]),
    (train_rf, ["--conditioning", "cross_attention"], ["--sampler", "midpoint", "--sampling_steps", "2",
                                                       "--guidance_scale", "2", "--class_label", "7"]),
])
def test_pixels_end_to_end(place, module, words, how, tmp_path):
    [folder] = place(module, *TINY, *UNET, *words, "--epochs", "1", "--sample_every", "1")
    assert list(folder.glob("epoch_samples/*.png")) and list(folder.glob("final_samples/*.png"))
    place(generate, "--checkpoint", newest(folder, 1), "--num_samples", "3", "--strips", "1", "--num_threads", "1",
          "--output_dir", tmp_path / "out", "--pdf", *how)
    for name in ("grid.png", "grid.pdf", "run.json", "sample_0000/strip.png", "sample_0000/steps/0000.png"):
        assert (tmp_path / "out" / name).is_file(), name


def test_latents_end_to_end(place, tmp_path):
    [folder] = place(train_vae, *TINY, "--epochs", "1", "--channel_multipliers", "1", "1", "1")
    vae = newest(folder, 1)
    assert load_torch(vae)["model_state"]["scale"] not in (0, 1)
    for module in (train_latent_rf, train_conditioned):
        name = module.__name__.partition(".")[2]
        folders = place(module, *TINY, "--attention_levels", "0", "1", "--vae_checkpoint", vae, "--epochs", "1",
                        "--name", name)
        [latest] = [folder for folder in folders if folder.name.endswith(f"-{name}")]
        model = load_model(newest(latest, 1))
        labels = None if module is train_latent_rf else torch.tensor([1, 2])
        images = model.images(model.path(2), 0, range(2), labels, 3.0)
        assert images.shape == (2, 1, 28, 28) and images.dtype == torch.uint8 and model.denoiser.shapes == [(2, 4, 4)]
    with pytest.raises(InputError, match="--checkpoint: .* holds vae, expected a denoiser"):
        load_model(vae)
    with pytest.raises(InputError, match="--vae_checkpoint: .* holds denoiser, expected a vae"):
        place(train_latent_rf, *TINY, "--vae_checkpoint", newest(latest, 1), "--name", "b")


def test_what_cannot_be_is_said_in_one_line(place, tmp_path):
    with pytest.raises(InputError, match="--resume: .* is no experiment folder"):
        place(train_rf, "--resume", tmp_path)
    [plain] = place(train_rf, *TINY, *UNET, "--epochs", "1")
    with pytest.raises(InputError, match="--class_label: .* is a model without classes"):
        place(generate, "--checkpoint", newest(plain, 1), "--class_label", "3")
    with pytest.raises(InputError, match="--mode: found ddpm, but .* is a flow"):
        place(generate, "--checkpoint", newest(plain, 1), "--mode", "ddpm")
    undropped = place(train_rf, *TINY, *UNET, "--epochs", "1", "--conditioning", "concat", "--label_dropout", "0",
                      "--name", "undropped")[-1]
    with pytest.raises(InputError, match="guidance: found scale 3, .* --label_dropout 0"):
        place(generate, "--checkpoint", newest(undropped, 1), "--guidance_scale", "3")
    with pytest.raises(InputError, match="--class_label: found 10, expected 0...9"):
        place(generate, "--checkpoint", newest(undropped, 1), "--class_label", "10")
