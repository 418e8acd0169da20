"""Training, resuming, generating and the family's messages, on few drawn digits and tiny networks."""
import json
import os
import re
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT, command_in_a_fork, in_two_processes
from data import NATIVE_FORMS, load_images, native_form
from engine import experiment, run_files
from engine.denoising_task import encoded
from engine.errors import InputError
from engine.files import load_torch, save_torch
from mnist import generate, train_ddpm, train_latent_rf, train_rf, train_vae, training
from mnist import train_conditioned_latent_diffusion as train_conditioned
from mnist.models import load_model, load_vae
from networks.margin import cropped, padded
from networks.vae import VAE
from scripts.benchmarks.resume_after_kills import die_while_writing
from tiny_digits import TINY, UNET, newest, place, trained      # noqa: F401  fixtures

def test_padding_and_cropping():
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert padded(images).shape == (2, 1, 32, 32) and padded(images)[:, :, :2].eq(0).all()
    assert torch.equal(cropped(padded(images), 28), images)
    assert torch.equal(padded(images[..., :24, :24]), images[..., :24, :24])


def train_flow() -> None:
    """`mnist.train_rf` as `place` calls it."""
    training.run("", "model", "flow")


def die_in_epoch_two() -> None:
    """In a process of its own: SIGKILL once the second training state has been written by half."""
    save, count = run_files.save_torch, []

    def save_or_die(path, content):
        count.append(path)
        if len(count) == 2:
            die_while_writing(1)
        save(path, content)

    run_files.save_torch = save_or_die


@pytest.mark.draws
def test_a_resumed_experiment_ends_as_a_straight_one(place):
    """Although it was killed while it wrote the state of its second epoch."""
    words = [*TINY, *UNET, "--conditioning", "concat", "--save_every", "1", "--cache_dir", place.folder / "cache"]
    [straight] = place(train_rf, *words)
    expected = load_torch(newest(straight))
    killed = place.folder / "killed"
    done = command_in_a_fork(train_flow, ["train_rf", *words, "--experiments", killed], place.folder, die_in_epoch_two)
    [folder] = killed.glob("*")
    assert done.returncode == -signal.SIGKILL and len(list(folder.glob("checkpoints/*.state.pth"))) == 1
    [half] = folder.glob("checkpoints/*.state.pth.tmp*")
    assert 0 < half.stat().st_size < next(folder.glob("checkpoints/*.state.pth")).stat().st_size
    place(train_rf, "--resume", folder)
    found = load_torch(newest(folder))
    for part in (lambda c: c["model_state"], lambda c: c["ema_state"]["shadow"]):
        assert part(expected).keys() == part(found).keys()
        assert all(torch.equal(part(expected)[name], part(found)[name]) for name in part(expected))
    assert (folder / "model_training.csv").is_file() and (folder / "model_loss.png").is_file()
    assert not list(folder.rglob("*.tmp*"))


@pytest.mark.parametrize("module, words, how", [
    (train_ddpm, [], ["--sampling_steps", "3", "--eta", "0.5"]),
    (train_rf, ["--conditioning", "cross_attention"], ["--sampler", "midpoint", "--sampling_steps", "2",
                                                       "--guidance_scale", "2", "--class_label", "7"]),
])
def test_pixels_end_to_end(place, module, words, how, tmp_path):
    [folder] = place(module, *TINY, *UNET, *words, "--epochs", "1", "--sample_every", "1")
    for kind in ("epoch_samples", "final_samples", "denoising_steps"):
        assert list(folder.glob(f"{kind}/*.png")), kind
    place(generate, "--checkpoint", newest(folder, 1), "--num_samples", "3", "--strips", "1", "--num_threads", "1",
          "--output_dir", tmp_path / "out", "--pdf", *how)
    for name in ("grid.png", "grid.pdf", "run.json", "sample_0000/strip.png", "sample_0000/steps/0000.png"):
        assert (tmp_path / "out" / name).is_file(), name
    again = (generate, "--checkpoint", newest(folder, 1), "--num_samples", "2", "--strips", "2", "--num_threads", "1",
             "--output_dir", tmp_path / "out", *how)
    with pytest.raises(InputError, match="holds 1 PNG files already; add --overwrite"):
        place(*again)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:             # what fails at its last file changes nothing
        patch.setattr(generate, "write_run_record", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            place(*again, "--overwrite")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert not (tmp_path / ".out.tmp").exists()
    place(*again, "--overwrite")
    assert sorted(path.name for path in (tmp_path / "out").glob("sample_*")) == ["sample_0000", "sample_0001"]


@pytest.mark.parametrize("option, value", [("--output_dir", "here"), ("--checkpoint_dir", "here"),
                                           ("--val_every", "1")])
def test_what_an_experiment_leaves_without_effect_is_refused(place, option, value):
    with pytest.raises(InputError, match=f"{option}: found {value}, which has no effect on an experiment"):
        place(train_rf, *TINY, *UNET, option, value)


def test_latents_end_to_end(place, tmp_path):
    [folder] = place(train_vae, *TINY, "--epochs", "1", "--channel_multipliers", "1", "1", "--patch_size", "2",
                     "--sample_every", "1")
    vae = newest(folder, 1)
    assert load_torch(vae)["model_state"]["scale"] not in (0, 1)
    loaded, images = load_vae(vae), load_images("digits:32", "train", tmp_path / "cache", size=28, channels=1).images
    latents = encoded(padded(torch.from_numpy(images)), loaded.encode, torch.device("cpu"))
    assert abs(float(latents.std()) - 1) < 1e-5         # of the averaged weights, which are loaded
    assert list(folder.glob("latent_space/*.png"))
    place(generate, "--checkpoint", vae, "--num_samples", "3", "--strips", "1", "--output_dir", tmp_path / "noise")
    assert (tmp_path / "noise/grid.png").is_file()
    with pytest.raises(InputError, match="is a VAE, which knows no class"):
        place(generate, "--checkpoint", vae, "--class_label", "3", "--output_dir", tmp_path / "other")
    with pytest.raises(InputError, match="--sampler: found heun, which has no effect on a VAE; leave it out"):
        place(generate, "--checkpoint", vae, "--sampler", "heun", "--output_dir", tmp_path / "other")
    for module in (train_latent_rf, train_conditioned):
        name = module.__name__.partition(".")[2]
        folders = place(module, *TINY, "--attention_levels", "0", "1", "--vae_checkpoint", vae, "--epochs", "1",
                        "--name", name)
        [latest] = [folder for folder in folders if folder.name.endswith(f"-{name}")]
        model = load_model(newest(latest, 1))
        draw = model.drawing(model.path(2), None if module is train_latent_rf else [1, 2], 3.0)
        images = draw.images(0, range(2))
        assert images.shape == (2, 1, 28, 28) and images.dtype == torch.uint8 and model.denoiser.shapes == [(2, 4, 4)]
    with pytest.raises(InputError, match="--checkpoint: .* holds vae, expected a denoiser"):
        load_model(vae)
    assert place(train_conditioned, "--resume", latest) == folders          # the VAE is not named again
    with pytest.raises(InputError, match="--vae_checkpoint: left out, expected a VAE"):
        place(train_latent_rf, *TINY, "--name", "c")
    with pytest.raises(InputError, match="--vae_checkpoint: .* holds denoiser, expected a vae"):
        place(train_latent_rf, *TINY, "--vae_checkpoint", newest(latest, 1), "--name", "b")


def test_colour_images_by_their_data_set_alone(place, tmp_path):
    """32x32 in colour, in folders of classes: no size and no channels are given."""
    random = np.random.default_rng(0)
    for k in range(16):
        path = tmp_path / "photos" / ("cat", "dog")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    assert native_form(str(tmp_path / "photos")) == (32, 3) == NATIVE_FORMS["cifar10"]
    [folder] = place(train_rf, *TINY, *UNET, "--dataset", tmp_path / "photos", "--conditioning", "concat", "--epochs",
                     "1")
    model = load_model(newest(folder, 1))
    images = model.drawing(model.path(2), model.classes, 2.0).images(0, range(2))
    assert images.shape == (2, 3, 32, 32) and model.denoiser.num_classes == 2
    [same] = place(train_rf, "--resume", folder)
    assert json.loads((same / "config.json").read_text())["options"]["image_size"] == 32


def test_native_forms(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    assert native_form("digits:32") == (28, 1) and native_form("synthetic:32") == (64, 3)
    assert native_form(str(tmp_path)) == (20, 1)


def idx_folder(tmp_path, num_bytes: int):
    """MNIST's files with ten digits, the images cut off behind so many bytes."""
    folder = tmp_path / "raw"
    folder.mkdir()
    head = np.array([2051, 10, 28, 28], ">i4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes((head + bytes(10 * 784))[:num_bytes])
    (folder / "train-labels-idx1-ubyte").write_bytes(np.array([2049, 10], ">i4").tobytes() + bytes(range(10)))
    return folder


@pytest.mark.parametrize("make, message", [
    (lambda path: idx_folder(path, 5000), "train-images-idx3-ubyte"),
    (lambda path: path / "empty", "empty: .*(no|holds|empty)")])
def test_data_that_are_none(place, tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message) as error:
        place(train_rf, *TINY, *UNET, "--dataset", make(tmp_path))
    assert "\n" not in str(error.value) and not list((tmp_path / "experiments").glob("*"))


def test_a_vae_of_another_latent_shape(trained, place, tmp_path):
    folder, models = trained
    content = load_torch(models["vae"])
    content["settings"] |= {"latent_channels": 3}
    content["model_state"] = VAE(**content["settings"]).state_dict()
    content["ema_state"] = {"shadow": {}}
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"is not the VAE .*latents \[3, 4, 4\]\W+expected \[2, 4, 4\]"):
        place(generate, "--checkpoint", models["latent"], "--vae_checkpoint", tmp_path / "other.pth")
    with pytest.raises(InputError, match="--vae_checkpoint: .* is of images"):
        place(train_latent_rf, *TINY, "--image_size", "16", "--vae_checkpoint", models["vae"])


def test_the_hint_after_a_stop_names_the_folder(place, monkeypatch, capsys):
    from engine.loop import Loop
    run_step = Loop.run_step
    monkeypatch.setattr(Loop, "run_step", lambda self: (run_step(self), signal_self())[0])
    with pytest.raises(SystemExit):
        place(train_rf, *TINY, *UNET)
    error = capsys.readouterr().err
    [folder] = re.findall(r"go on with: python .*--resume (\S+)", error)
    monkeypatch.setattr(Loop, "run_step", run_step)
    [same] = place(train_rf, "--resume", folder)
    assert newest(same).is_file()


def signal_self():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "scripts").glob("*-*.sh")))
def test_documented_shell_names(name):
    """Three lines, and a verb that is there."""
    lines = (ROOT / "scripts" / name).read_text().splitlines()
    verb = re.search(r"-m mnist\.(\w+)", lines[-1])[1]
    assert len(lines) == 3 and (ROOT / "mnist" / f"{verb}.py").is_file()
    kind, _, model = name.removesuffix(".sh").partition("-")
    assert verb == "generate" if kind == "generate" else verb == f"{kind}_{model.replace('-', '_')}"


def run_rf(folder, words) -> str:
    """Train in each of two processes whose clocks tell different seconds; -> the folder that each worked in."""
    os.chdir(folder)
    sys.argv = ["mnist/train_rf.py", *words]
    experiment.time.strftime = lambda *_: f"second_{os.environ['RANK']}"
    found = []
    share = experiment.share_folder
    experiment.share_folder = lambda args, group: (share(args, group), found.append(str(args.checkpoint_dir)))
    training.run("", "rf", "flow")
    return found[0]


def test_two_processes_share_the_folder_of_the_first(tmp_path):
    """Although each would have named one of its own."""
    words = [*TINY, *UNET, "--device", "cpu", "--epochs", "1", "--max_steps", "2", "--cache_dir",
             str(tmp_path / "cache")]
    assert in_two_processes(run_rf, tmp_path, words) == ["experiments/second_0-rf/checkpoints"] * 2
    assert [folder.name for folder in (tmp_path / "experiments").iterdir()] == ["second_0-rf"]
    assert (tmp_path / "experiments/second_0-rf/config.json").is_file()


@pytest.mark.parametrize("module, words, message", [
    (train_rf, ["--base_channels", "12"], "--base_channels: found 12"),
    (train_rf, ["--attention_levels", "5"], "--attention_levels: found 5"),
    (train_conditioned, ["--vae_checkpoint", "{none}"], "holds no model of mnist, expected a vae"),
    (train_conditioned, ["--vae_checkpoint", "{vae}"], r"is of images \[3, 32, 32\], the data set's are \[1, 32, 32\]"),
    (train_vae, ["--base_channels", "12"], "--base_channels: found 12"),
    (train_vae, ["--channel_multipliers", "1", "1", "1", "1", "1", "1"], "--channel_multipliers: found 6 levels"),
])
def test_what_cannot_be_trained_is_refused_before_decoding(module, words, message, place, tmp_path, monkeypatch):
    monkeypatch.setattr("mnist.tasks.load_images", lambda *_, **__: pytest.fail("the data set was decoded"))
    vae = VAE((3, 32, 32), 8, (1, 1), patch_size=2)
    save_torch(tmp_path / "vae.pth", {"family": "mnist", "model": "vae", "settings": vae.settings,
                                      "model_state": vae.state_dict(), "ema_state": {"shadow": {}}})
    save_torch(tmp_path / "none.pth", {"model_state": {}})
    words = [word.format(vae=tmp_path / "vae.pth", none=tmp_path / "none.pth") for word in words]
    with pytest.raises(InputError, match=message):
        place(module, "--dataset", "digits:32", *words)
    assert not list((tmp_path / "experiments").glob("*"))


@pytest.mark.parametrize("words, epochs, max_steps", [([], 100, 600), (["--epochs", "5"], 5, None),
                                                      (["--epochs", "100"], 100, None),
                                                      (["--max_steps", "7", "--epochs", "2"], 2, 7)])
def test_fast_is_short_unless_a_length_is_given(words, epochs, max_steps, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train_into_folder", lambda make_task, args: seen.append(args))
    monkeypatch.setattr(sys, "argv", ["train_rf", "--dataset", "digits", "--fast", *words])
    training.run("", "rf", "flow")
    assert (seen[0].epochs, seen[0].max_steps, seen[0].preset, seen[0].batch_size) == (epochs, max_steps, "fast", 32)


@pytest.mark.parametrize("words, output", [([], "eps"), (["--fast"], "v"), (["--fast", "--output", "eps"], "eps")])
def test_a_fast_ddpm_puts_out_v(words, output, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train_into_folder", lambda make_task, args: seen.append(args))
    monkeypatch.setattr(sys, "argv", ["train_ddpm", "--dataset", "digits", *words])
    training.run("", "ddpm", "ddpm")
    assert seen[0].output == output


def test_what_cannot_be_is_said_in_one_line(place, tmp_path):
    with pytest.raises(InputError, match="--resume: .* is no experiment folder"):
        place(train_rf, "--resume", tmp_path)
    [plain] = place(train_rf, *TINY, *UNET, "--epochs", "1")
    with pytest.raises(InputError, match="--class_label: .* is a model without classes"):
        place(generate, "--checkpoint", newest(plain, 1), "--class_label", "3")
    with pytest.raises(InputError, match="--guidance_scale: .* is a model without classes"):
        place(generate, "--checkpoint", newest(plain, 1), "--guidance_scale", "3")
    with pytest.raises(InputError, match="--mode: found ddpm, but .* is a flow"):
        place(generate, "--checkpoint", newest(plain, 1), "--mode", "ddpm")
    with pytest.raises(InputError, match="--eta: found 0.5 with --sampler heun, expected --sampler euler"):
        place(generate, "--checkpoint", newest(plain, 1), "--eta", "0.5", "--sampler", "heun")
    undropped = place(train_rf, *TINY, *UNET, "--epochs", "1", "--conditioning", "concat", "--label_dropout", "0",
                      "--name", "undropped")[-1]
    with pytest.raises(InputError, match="--guidance_scale: found 3, .* without dropped labels"):
        place(generate, "--checkpoint", newest(undropped, 1), "--guidance_scale", "3")
    with pytest.raises(InputError, match="--class_label: found 10, expected 0...9"):
        place(generate, "--checkpoint", newest(undropped, 1), "--class_label", "10")
