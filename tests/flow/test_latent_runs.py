"""A flow in the latents of an autoencoder from end to end: training, its cache, resuming, generation, what is
refused."""
import sys

import pytest
import torch

from engine.command_line import run_script
from engine.errors import InputError
from engine.files import load_torch
from engine.run_files import list_checkpoints, list_states
from flow import generate, latents, train
from test_latents import save_tiny_vae

WORDS = ["--dataset", "digits:24", "--image_size", "16", "--hidden_size", "16", "--depth", "1", "--num_heads", "2",
         "--mlp_ratio", "2", "--patch_size", "4", "--batch_size", "8", "--sample_every", "0", "--precision", "float32",
         "--no_tensorboard", "--device", "cpu", "--num_threads", "1", "--epochs", "2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with two autoencoders and a training of two epochs, saved in between."""
    folder = tmp_path_factory.mktemp("latent_runs")
    save_tiny_vae(folder / "vae")
    save_tiny_vae(folder / "other_vae", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(patch, train, *WORDS, "--vae", "vae", "--name", "straight")
    return folder


def run(monkeypatch, command, *words):
    """A command's main, here."""
    monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, words)])
    command.main()


@pytest.fixture
def count_encodings(monkeypatch):
    """How many images are encoded from now on, in a list."""
    encoded, original = [], latents.Latents.moments
    monkeypatch.setattr(latents.Latents, "moments", lambda self, x: (encoded.append(len(x)), original(self, x))[1])
    return encoded


def weights(name: str) -> dict:
    content = load_torch(list_checkpoints("checkpoints", name)[-1])
    return {**content["model_state"], **{f"ema {key}": value for key, value in content["ema_state"]["shadow"].items()}}


def test_a_resumed_run_is_the_run_and_encodes_nothing_again(work, monkeypatch, count_encodings, capsys):
    monkeypatch.chdir(work)
    run(monkeypatch, train, *WORDS, "--vae", "vae", "--name", "parts", "--max_steps", 2)
    assert count_encodings == []                                        # the first run's are in the cache
    run(monkeypatch, train, *WORDS, "--vae", "vae", "--name", "parts", "--resume")
    straight, parts = weights("straight"), weights("parts")
    assert straight.keys() == parts.keys() and all(torch.equal(straight[key], parts[key]) for key in straight)
    with pytest.raises(InputError, match="was trained with another vae"):
        run(monkeypatch, train, *WORDS, "--vae", "other_vae", "--name", "parts", "--resume")
    run(monkeypatch, train, *WORDS, "--vae", "vae", "--no-flip", "--name", "unflipped", "--max_steps", 1)
    assert sum(count_encodings) == 2 * 24 + 24                          # other weights, both views; one view of its own
    assert len(list(work.glob("cache/latents/*.npy"))) == 3
    state = load_torch(list_states("checkpoints", "unflipped")[-1])
    assert state["config"]["image_size"] == 8 and state["config"]["channels"] == 4


def test_images_are_decoded_and_another_autoencoder_refused(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    checkpoint = list_checkpoints("checkpoints", "straight")[-1]
    words = ["--checkpoint", checkpoint, "--num_images", 3, "--num_steps", 2, "--device", "cpu", "--precision",
             "float32"]
    run(monkeypatch, generate, *words, "--output_dir", "drawn")
    from PIL import Image
    assert len(list((work / "drawn").glob("*.png"))) == 3 and Image.open(work / "drawn/00000.png").size == (16, 16)
    with pytest.raises(InputError, match="its weights are not those that .* was trained with"):
        run(monkeypatch, generate, *words, "--output_dir", "other", "--vae", "other_vae", "--overwrite")
    (work / "vae").rename(work / "moved")
    run(monkeypatch, generate, *words, "--output_dir", "again", "--vae", "moved", "--overwrite")
    (work / "moved").rename(work / "vae")
    assert (work / "again/00002.png").read_bytes() == (work / "drawn/00002.png").read_bytes()


def test_what_does_not_fit_is_told_before_data_are_read(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    monkeypatch.setattr("flow.training.load_images", lambda *_, **__: pytest.fail("data were read"))
    for words, message in [(["--image_size", 17],
                            "--image_size: found 17, expected a multiple of 2, the factor of --vae"),
                           (["--patch_size", 3], "--patch_size: found 3, expected a divisor of the image side 8"),
                           (["--vae", "checkpoints"], "--vae: checkpoints:")]:
        monkeypatch.setattr(sys, "argv", ["flow.train", *map(str, [*WORDS, "--vae", "vae", "--name", "bad", *words])])
        with pytest.raises(SystemExit) as end:
            run_script(train.main)
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert end.value.code == 2 and message in line
