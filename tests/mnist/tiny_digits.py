"""Tiny trainings of the family on a few drawn digits, for several modules of tests."""
import sys

import pytest

from mnist import (debug_conditioned_generation, generate, score, tour, train_ddpm, train_latent_rf, train_rf,
                   train_vae, training, visualize_cfg_effect, visualize_distribution)
from mnist import train_conditioned_latent_diffusion as train_conditioned

TINY = ["--dataset", "digits:32", "--batch_size", "8", "--epochs", "2", "--log_every", "2", "--num_threads", "1",
        "--sample_every", "0", "--precision", "float32", "--base_channels", "8", "--channel_multipliers", "1", "2"]
UNET = ["--attention_levels", "1", "--patch_size", "1"]
LOOKING = (generate, score, tour, debug_conditioned_generation, visualize_cfg_effect, visualize_distribution)
VERBS = {"ddpm": (train_ddpm, "ddpm", False), "rf": (train_rf, "flow", False),
         "conditioned": (train_conditioned, "ddpm", True), "latent_rf": (train_latent_rf, "flow", True)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, where a verb can be called with words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnist.models.FLOW_STEPS", 2)       # of previews
    monkeypatch.setattr("mnist.models.DDIM_STEPS", 4)

    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, words)])
        if module in (train_vae, *LOOKING):
            module.main()
        else:
            _, process, latent = next(verb for verb in VERBS.values() if verb[0] is module)
            training.run(module.__doc__, "model", process, latent,
                         "cross_attention" if module is train_conditioned else "none")
        return sorted((tmp_path / "experiments").glob("*"))
    call.folder = tmp_path
    return call


def newest(folder, epoch=2):
    return next(folder.glob(f"checkpoints/*_{epoch}ep.pth"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A flow, a DDPM with classes and a VAE with a latent model, of a few steps: name -> checkpoint; and their
    folder."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def call(module, name, *words, main=None):
            patch.setattr(sys, "argv", [module.__file__, *TINY, "--epochs", "1", "--name", name, *map(str, words)])
            main() if main else training.run(module.__doc__, name,
                                             *next(v[1:] for v in VERBS.values() if v[0] is module))
            return folder / newest(next((folder / "experiments").glob(f"*-{name}")), 1)

        classes = ["--conditioning", "concat"]
        found = {"flow": call(train_rf, "flow", *UNET, *classes), "ddpm": call(train_ddpm, "ddpm", *UNET, *classes),
                 "vae": call(train_vae, "vae", "--channel_multipliers", "1", "1", "--patch_size", "2",
                             main=train_vae.main)}
        found["latent"] = call(train_conditioned, "latent", "--attention_levels", "0", "1", "--vae_checkpoint",
                               found["vae"], "--conditioning", "cross_attention")
    return folder, found
