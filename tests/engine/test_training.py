"""The training loop: schedules, averages, resuming after real kills, several processes, and wrong input."""
import contextlib
import errno
import functools
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import train_baseline
import train_lift
from engine import distributed, loop, optimization, run_files
from lift import checkpoints, objective
from conftest import (ROOT, command_in_a_fork, forks, in_two_processes, killed_and_resumed, run_in_turn, say_into,
                      wait_until)
from data import load_images
from engine.errors import InputError
from engine.files import load_torch, save_torch, sha256_of_file
from lift.objective import TimestepRule
from lift.options import DEFAULT_NAMES
from lift.tasks import ScaleTask
from networks.linear_denoiser import LinearDenoiser
from scheduler import CosineSteps
from scripts.benchmarks import training_runs

SCRIPTS = {"baseline": train_baseline, "lift": train_lift}
TINY = ["--dataset", "synthetic:12", "--hidden_dims", "8", "16", "--batch_size", "2", "--device", "cpu",
        "--num_threads", "1", "--log_every", "2", "--no_tensorboard", "--precision", "float32"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One image cache for all runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tmp_path, cache, monkeypatch):
    """Train in this process: run(model_type, *options, to=folder) -> the folder."""
    def train(model_type, *options, to="run"):
        folder = tmp_path / to
        monkeypatch.setattr(sys, "argv", command_of(model_type, folder, cache, options))
        SCRIPTS[model_type].main()
        return folder
    return train


# Of two epochs; ends within the second one, and between two lines of the log.
ELEVEN_STEPS = ("--epochs", 2, "--max_steps", 11, "--save_every", 1)


def run_to_read(folder, cache, *options):
    """The folder of a finished run of LIFT, which tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command_of("lift", folder, cache, options))
        train_lift.main()
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A run of three steps."""
    return run_to_read(tmp_path_factory.mktemp("finished"), cache, "--max_steps", 3)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
    """A run of eleven steps that nothing stopped."""
    return run_to_read(tmp_path_factory.mktemp("straight"), cache, *ELEVEN_STEPS)


def command_of(model_type, folder, cache, options):
    return [f"train_{model_type}.py", *TINY, "--cache_dir", str(cache), "--checkpoint_dir", str(folder / "checkpoints"),
            "--output_dir", str(folder / "results"), *map(str, options)]


def final_weights(folder, name="lift_dual_timestep"):
    """Raw and averaged weights of the newest checkpoint."""
    content = load_torch(run_files.list_checkpoints(folder / "checkpoints", name)[-1])
    return {**{f"raw {key}": value for key, value in content["model_state"].items()},
            **{f"ema {key}": value for key, value in content["ema_state"]["shadow"].items()}}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# --- schedules and averages ---

def test_cosine_schedule_moves_every_step_and_ends_at_its_minimum():
    rates = [optimization.learning_rate_at(step, 100, 1e-4) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4) and rates[-1] == pytest.approx(1e-6, abs=1e-18)
    assert all(a > b for a, b in zip(rates, rates[1:]))
    assert rates[33] == pytest.approx(1e-6 + 9.9e-5 * 0.5 * (1 + math.cos(math.pi / 3)), rel=1e-9)


def test_warm_up_and_constant_schedule():
    rates = [optimization.learning_rate_at(step, 50, 1e-3, "constant", 9) for step in range(50)]
    assert rates[:9] == pytest.approx([1e-4 * k for k in range(1, 10)]) and set(rates[9:]) == {1e-3}
    assert optimization.learning_rate_at(49, 50, 1e-3, "cosine", 9) == pytest.approx(1e-6)


@pytest.mark.parametrize("num_steps, warmup_steps", [(50, 100), (100, 99), (2, 1), (1, 0), (1, 5), (3, 3)])
def test_a_warm_up_as_long_as_the_run_leaves_it_an_end(num_steps, warmup_steps):
    rates = [optimization.learning_rate_at(step, num_steps, 1e-3, "cosine", warmup_steps) for step in range(num_steps)]
    assert rates[-1] == pytest.approx(1e-6) and max(rates) <= 1e-3


def test_average_equals_the_plain_recursion():
    model = torch.nn.Linear(3, 2)
    average = optimization.ExponentialMovingAverage(model, 0.9)
    expected = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    for n in range(200):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update(n)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = {name: decay * expected[name] + (1 - decay) * p.detach().double()
                    for name, p in model.named_parameters()}
    for name, value in average.state_dict()["shadow"].items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)


# --- a run ---

@pytest.mark.draws
def test_a_run_leaves_what_it_should(run):
    folder = run("lift", "--epochs", 4, "--save_every", 1, "--val_every", 2, "--val_images", 5)
    epochs = run_files.list_checkpoints(folder / "checkpoints", "lift_dual_timestep")
    assert [run_files.epoch_of(p) for p in epochs] == [1, 2, 3, 4]
    assert len(run_files.list_states(folder / "checkpoints", "lift_dual_timestep")) == 2
    content = load_torch(epochs[-1])
    assert content["epochs"] == 4 and content["step"] == 24 and len(content["losses"]) == 4
    assert "optimizer_state" not in content and content["options"]["hidden_dims"] == [8, 16]
    assert any(not torch.equal(content["model_state"][n], content["ema_state"]["shadow"][n])
               for n in content["model_state"])
    assert sorted(p.name for p in (folder / "results").iterdir() if p.suffix != ".lock") == [
        "lift_dual_timestep_loss.png", "lift_dual_timestep_run.json", "lift_dual_timestep_training.csv",
        "lift_dual_timestep_validation.csv", "lift_dual_timestep_validation_bins.json"]
    lines = (folder / "results/lift_dual_timestep_training.csv").read_text().splitlines()
    assert lines[0].split(",") == ["step", "epoch", "loss", "loss_64", "loss_32", "learning_rate", "images_per_second",
                                   "seconds"] and len(lines) == 1 + 12
    assert float(lines[-1].split(",")[5]) == pytest.approx(1e-6)
    record = json.loads((folder / "results/lift_dual_timestep_run.json").read_text())
    assert record["is_finished"] is True and record["finished"].endswith("Z")
    assert record["checkpoints"] == {path.name: sha256_of_file(path)[:16]
                                     for path in (folder / "checkpoints").glob("*ep.pth")}
    assert len(record["checkpoints"]) > 1
    assert record["options"]["batch_size"] == 2 and record["versions"]["torch"]
    validations = json.loads((folder / "results/lift_dual_timestep_validation_bins.json").read_text())
    assert [(v["epoch"], v["weights"]) for v in validations] == [(2, "raw"), (2, "ema"), (4, "raw"), (4, "ema")]


def test_training_lowers_the_loss(run):
    folder = run("baseline", "--epochs", 4, "--learning_rate", "5e-3", "--flip")
    losses = load_torch(folder / "checkpoints/baseline_4ep.pth")["losses"]
    assert losses[-1] < 0.75 * losses[0]


def test_max_steps_and_save_epochs(run):
    folder = run("baseline", "--epochs", 9, "--max_steps", 15, "--save_epochs", 1, 2)
    assert [run_files.epoch_of(p)
            for p in run_files.list_checkpoints(folder / "checkpoints", "baseline")] == [1, 2, 3]
    assert load_torch(folder / "checkpoints/baseline_3ep.pth")["step"] == 15


def losses_of(folder, name="lift_dual_timestep"):
    """The loss of every log line in the newest state."""
    return [row["loss"] for row in
            load_torch(run_files.list_states(folder / "checkpoints", name)[-1])["log"]]


def test_gradient_accumulation_changes_nothing_but_rounding(run):
    """Losses are compared, not weights: Adam turns the rounding of a gradient that is zero (the keys' bias) into
    steps of full size."""
    options = ("--max_steps", 6, "--log_every", 1, "--learning_rate", "1e-3", "--batch_size", 4)
    whole = losses_of(run("lift", *options, to="whole"))
    assert losses_of(run("lift", *options, "--grad_accum", 4, to="parts")) == pytest.approx(whole, rel=1e-5)
    assert len(whole) == 6 and whole[-1] < 0.98 * whole[0]


@pytest.mark.parametrize("options", [["--timesteps", "diagonal"], ["--timesteps", "band"], ["--loss_scales", "64"],
                                     ["--timesteps", "fused"], ["--loss_weight_32", 0.5], ["--flip"],
                                     ["--seed", 1], ["--ema_decay", 0.05],
                                     ["--lr_schedule", "constant"], ["--warmup_steps", 1], ["--learning_rate", 1e-3]])
def test_every_switch_reaches_the_training(finished, run, options):
    plain, switched = final_weights(finished), final_weights(run("lift", "--max_steps", 3, *options))
    assert any(not torch.equal(plain[name], switched[name]) for name in plain)


# --- resuming ---

@contextlib.contextmanager
def stopped_after(step, number=signal.SIGTERM):
    """Within it, a training sends itself that signal in that step."""
    original = loop.Loop.run_step

    def step_and_signal(trainer):
        original(trainer)
        if trainer.step == step:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(loop.Loop, "run_step", step_and_signal)
        yield
    assert stop.value.code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal_and_resumed_equals_straight(straight, run, capsys, number):
    """SIGHUP comes from a terminal that is closed."""
    with stopped_after(5, number):
        run("lift", *ELEVEN_STEPS)
    assert f"stopped by {number.name} after step 5 of 11" in capsys.readouterr().err
    folder = run("lift", *ELEVEN_STEPS, "--resume")
    assert "at step 5 of 11" in capsys.readouterr().out
    assert_same_weights(final_weights(straight), final_weights(folder))
    logs = [(f / "results/lift_dual_timestep_training.csv").read_text() for f in (folder, straight)]
    losses = [[line.split(",")[:6] for line in log.splitlines()] for log in logs]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_run_that_was_moved_with_its_images_goes_on(tmp_path, monkeypatch, is_linked):
    """By its absolute paths, at another place than before; the old place may be a link to the new one."""
    def train(folder, *more):
        monkeypatch.setattr(sys, "argv", command_of("baseline", folder, folder / "cache", [
            "--dataset", folder / "photos", "--epochs", 2, "--log_every", 1, *more]))
        train_baseline.main()

    old, new, straight = tmp_path / "old", tmp_path / "new", tmp_path / "straight"
    for folder in (old, straight):
        (folder / "photos").mkdir(parents=True)
        for k in range(8):
            Image.fromarray(np.full((64, 64, 3), 20 * k, np.uint8)).save(folder / f"photos/{k}.png")
    train(straight)
    with stopped_after(3):
        train(old)
    shutil.move(old, new)
    if is_linked:
        old.symlink_to(new)
    train(new, "--resume")
    assert_same_weights(final_weights(straight, "baseline"), final_weights(new, "baseline"))
    assert losses_of(straight, "baseline") == losses_of(new, "baseline")


def take_two_images_a_step():
    """In the process of the benchmark that kills trainings."""
    training_runs.SMALL.extend(("--dataset", "synthetic:12", "--batch_size", "2"))


def test_killed_at_random_moments_and_while_saving_and_resumed_equals_straight(tmp_path):
    verdict = killed_and_resumed(tmp_path, "--kills", 5, "--max_steps", 24, "--longest", 0.5, "--seed", 4,
                                 prepare=take_two_images_a_step)
    assert verdict["num_kills"] >= 4 and verdict["num_half_written"] >= 1, verdict
    assert verdict["num_different_tensors"] == 0 and verdict["ok"], verdict


@pytest.mark.slow
def test_many_kills(tmp_path):
    verdict = killed_and_resumed(tmp_path, "--kills", 40, "--max_steps", 200)
    assert verdict["num_kills"] == 40 and verdict["ok"], verdict


def test_resume_with_nothing_there_starts_anew_and_finished_runs_stay_finished(run, capsys):
    folder = run("lift", "--max_steps", 3, "--resume")
    assert "nothing to resume" in capsys.readouterr().out
    before = final_weights(folder)
    run("lift", "--max_steps", 3, "--resume")
    assert "at step 3 of 3" in capsys.readouterr().out
    assert_same_weights(before, final_weights(folder))


@pytest.mark.parametrize("model_type", ["baseline", "lift"])
def test_a_run_that_predicts_v_says_so_in_its_checkpoint(run, model_type):
    plain = ("--max_steps", 3, "--log_every", 1)
    folder = run(model_type, *plain, "--parametrization", "v", "--loss_target", "v", "--val_every", 1, "--val_images",
                 5)
    name = DEFAULT_NAMES[model_type]
    [path] = run_files.list_checkpoints(folder / "checkpoints", name)
    assert checkpoints.load_model(path).model.parametrization == "v"
    for to, options in (("eps", ()), ("output", ("--parametrization", "v")), ("loss", ("--loss_target", "v"))):
        assert losses_of(folder, name) != losses_of(run(model_type, *plain, *options, to=to), name)
    with pytest.raises(InputError, match="--parametrization: found eps, but .* was trained with v"):
        run(model_type, "--max_steps", 3, "--resume")
    with pytest.raises(InputError, match="--loss_target: found eps, but .* was trained with v"):
        run(model_type, "--max_steps", 3, "--parametrization", "v", "--resume")


@pytest.mark.parametrize("model_type", ["baseline", "lift"])
def test_a_run_that_puts_out_the_residual_keeps_its_linear_denoiser(run, cache, model_type):
    """It starts far below the loss of a run that puts out noise; stopped and resumed, it ends the same."""
    options = ("--max_steps", 3, "--log_every", 1)
    name = DEFAULT_NAMES[model_type]
    folder = run(model_type, *options, "--parametrization", "residual", "--state_every", 1)
    [path] = run_files.list_checkpoints(folder / "checkpoints", name)
    expected = LinearDenoiser()
    expected.fit(torch.from_numpy(np.array(load_images("synthetic:12", "train", cache).images)))
    found = checkpoints.load_model(path).model.linear_denoiser.state_dict()
    assert found.keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(found[key], value), key
    assert losses_of(folder, name)[0] < 0.5 * losses_of(run(model_type, *options, to="eps"), name)[0]
    straight = final_weights(folder, name)
    path.unlink()
    run_files.list_states(folder / "checkpoints", name)[-1].unlink()
    run(model_type, *options, "--parametrization", "residual", "--resume")
    assert_same_weights(straight, final_weights(folder, name))


def test_a_native_32_scale_comes_back_from_its_checkpoint_and_only_with_both_losses(run):
    folder = run("lift", "--max_steps", 3, "--native_32", "--val_every", 1, "--val_images", 5)
    [path] = run_files.list_checkpoints(folder / "checkpoints", "lift_dual_timestep")
    assert checkpoints.load_model(path).model.native_32
    with pytest.raises(InputError, match="--native_32: found False, but .* was trained with True"):
        run("lift", "--max_steps", 3, "--resume")
    with pytest.raises(InputError, match="--native_32: found with --loss_scales 64"):
        run("lift", "--max_steps", 3, "--native_32", "--loss_scales", 64, to="alone")


def test_fused_timesteps_come_back_after_a_stop_and_with_their_own_leads_alone(run):
    options = ("--timesteps", "fused", "--fused_lead", 0, 1, "--max_steps", 3, "--state_every", 1)
    folder = run("lift", *options)
    straight = final_weights(folder)
    run_files.list_checkpoints(folder / "checkpoints", "lift_dual_timestep")[-1].unlink()
    run_files.list_states(folder / "checkpoints", "lift_dual_timestep")[-1].unlink()
    with pytest.raises(InputError, match=r"--fused_lead: found \[0.0, 2.0\], but .* was trained with \[0.0, 1.0\]"):
        run("lift", *options[:2], *options[5:], "--resume")
    run("lift", *options, "--resume")
    assert_same_weights(straight, final_weights(folder))


def test_existing_checkpoints_are_not_touched_unless_told(run, tmp_path):
    folder = run("lift", "--max_steps", 3)
    before = final_weights(folder)
    with pytest.raises(InputError, match="exists already; add --resume to continue, --overwrite"):
        run("lift", "--max_steps", 3, "--seed", 1)
    assert_same_weights(before, final_weights(folder))
    run("lift", "--max_steps", 2, "--seed", 1, "--overwrite")
    assert load_torch(folder / "checkpoints/lift_dual_timestep_1ep.pth")["step"] == 2


@pytest.mark.draws
def test_what_is_replaced_stays_until_there_is_a_state_of_the_new_run(run, monkeypatch):
    folder = run("baseline", "--epochs", 2, "--save_every", 1, "--val_every", 1, "--val_images", 2)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert len(files) == 9                  # two checkpoints, their states, and the five reports
    diverging = ("--overwrite", "--epochs", 2, "--learning_rate", 1e38, "--lr_schedule", "constant")
    with monkeypatch.context() as impatient, pytest.raises(InputError, match="nothing was overwritten"):
        impatient.setattr(loop, "REPORT_SECONDS", 0)
        run("baseline", *diverging)
    assert {path: path.read_bytes() for path in files} == files
    run("baseline", "--overwrite", "--max_steps", 3, "--seed", 1)
    left = {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"baseline_1ep.pth", "baseline_step00000003.state.pth", "baseline_loss.png", "baseline_run.json",
                    "baseline_training.csv"}


@pytest.mark.parametrize("saved, resumed", [("baseline", "lift"), ("lift", "baseline")])
def test_resume_refuses_the_other_model(run, saved, resumed):
    run(saved, "--max_steps", 2, "--name", "mine")
    with pytest.raises(InputError, match=f"--name: mine in .* is a {saved}, expected a {resumed}; resume it with "
                                         f"train_{saved}.py"):
        run(resumed, "--max_steps", 2, "--name", "mine", "--resume")


@pytest.mark.parametrize("options, message", [
    (["--learning_rate", 3e-4], "--learning_rate: found 0.0003, but .* was trained with 0.0001"),
    (["--hidden_dims", 8, 24], "--hidden_dims: found"), (["--batch_size", 4], "--batch_size: found 4"),
    (["--parametrization", "v"], "--parametrization: found v, but .* was trained with eps"),
    (["--native_32"], "--native_32: found True, but .* was trained with False"),
    (["--dataset", "synthetic:40"],
     "--dataset: the images in synthetic:40 are not the ones .*state.pth was trained on"),
    (["--max_steps", 9], "--epochs: found a run of 9")])
def test_resume_refuses_another_run(finished, run, options, message):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        run("lift", "--max_steps", 3, *options, "--resume", to=finished)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_the_log_of_another_run_is_not_overwritten(run, tmp_path):
    folder = run("lift", "--max_steps", 3)
    log = folder / "results/lift_dual_timestep_training.csv"
    before = log.read_bytes()
    elsewhere = ("--max_steps", 3, "--seed", 1, "--checkpoint_dir", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="_run.json: belongs to a finished run, whose log would be lost"):
        run("lift", *elsewhere)
    assert log.read_bytes() == before and not list((tmp_path / "elsewhere").glob("*.pth"))
    with pytest.raises(InputError, match="_run.json: belongs to a finished run, whose log would be lost"):
        run("lift", *elsewhere, "--resume")
    assert log.read_bytes() == before and not list((tmp_path / "elsewhere").glob("*.pth"))
    run("lift", *elsewhere, "--overwrite")
    assert log.read_bytes() != before


def test_a_resumed_run_does_not_overwrite_the_log_of_another(run):
    folder = run("lift", "--max_steps", 3)
    results = {path: path.read_bytes() for path in (folder / "results").iterdir()}
    other = run("lift", "--max_steps", 3, "--seed", 1, to="other")
    for _ in range(2):                          # finished, it would write its reports anew
        with pytest.raises(InputError, match="_run.json: belongs to a finished run, whose log would be lost"):
            run("lift", "--max_steps", 3, "--seed", 1, "--resume", "--output_dir", folder / "results", to="other")
    assert {path: path.read_bytes() for path in (folder / "results").iterdir()} == results
    run("lift", "--max_steps", 3, "--seed", 1, "--resume", "--output_dir", other / "moved", to="other")
    assert (other / "moved/lift_dual_timestep_run.json").exists()


@pytest.mark.draws
def test_the_validation_of_another_run_does_not_stay(run):
    folder = run("baseline", "--max_steps", 6, "--val_every", 1, "--val_images", 2)
    assert (folder / "results/baseline_validation.csv").exists()
    run("baseline", "--max_steps", 6, "--overwrite")
    assert sorted(p.name for p in (folder / "results").iterdir() if p.suffix != ".lock") == [
        "baseline_loss.png", "baseline_run.json", "baseline_training.csv"]


def test_held_out_images_that_are_trained_on_are_said(run, capsys):
    options = ("--max_steps", 1, "--val_every", 1, "--val_images", 5)
    run("baseline", *options, to="apart")
    assert "WARNING" not in capsys.readouterr().out
    run("baseline", *options, "--val_split", "train[-10:]")
    assert "WARNING: --val_split: 5 of the held-out images are among the training images" in capsys.readouterr().out


def events_of(folder) -> dict:
    """TensorBoard's own reading of what a run wrote: tag -> steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_events_go_on_where_a_resumed_run_does(run, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "TINY", [word for word in TINY if word != "--no_tensorboard"])
    options = ("--epochs", 1, "--state_every", 1, "--lr_schedule", "constant")
    run("lift", "--max_steps", 4, *options)
    folder = run("lift", "--max_steps", 6, *options, "--resume")
    found = events_of(folder / "results/tensorboard/lift_dual_timestep")      # of this output folder alone
    assert found["loss"] == found["loss_32"] == found["learning_rate"] == [2, 4, 6]


@pytest.mark.parametrize("method", ["add_scalar", "close"])
def test_a_full_disk_ends_the_events_and_not_the_training(run, tmp_path, monkeypatch, capsys, method):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "TINY", [word for word in TINY if word != "--no_tensorboard"])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorboard.SummaryWriter, method, full)
    folder = run("lift", "--max_steps", 4)
    assert load_torch(run_files.list_checkpoints(folder / "checkpoints", "lift_dual_timestep")[0])["step"] == 4
    assert capsys.readouterr().out.count("no TensorBoard events are written from here on (No space left") == 1


@pytest.mark.parametrize("options, message", [
    (["--name", "run[1]"], r"--name: found 'run\[1\]', expected at most 100 letters"),
    (["--name", "a" * 101], "--name: found 'aaa"),
    (["--resume", "--overwrite"], "--resume and --overwrite: found both"),
    (["--learning_rate", 1e-9], "--learning_rate: found 1e-09, expected at least 1e-06"),
    (["--ema_decay", 1], "--ema_decay: found 1"),
    (["--epochs", 3, "--save_epochs", 2, 4], "--save_epochs: found 4, expected at most 3"),
    (["--val_images", 9], "--val_images: found 9, which has no effect without --val_every"),
    (["--band_lead", 1, 2], "--band_lead: found 1 2, which has no effect without --timesteps band"),
    (["--fused_lead", 1, 2], "--fused_lead: found 1 2, which has no effect without --timesteps fused"),
    (["--timesteps", "fused", "--band_lead", 1, 2], "--band_lead: found 1 2, which has no effect"),
    (["--loss_scales", "64", "--loss_weight_32", 0.5], "--loss_weight_32: found 0.5, which has no effect")])
def test_options_without_sense_are_refused_before_any_work(run, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run("lift", "--max_steps", 1, *options)
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("change", [
    lambda state: state.pop("num_steps"), lambda state: state.pop("random_states"),
    lambda state: state.update(step="3"),
    lambda state: state.update(optimizer_state={}), lambda state: state.pop("options")])
def test_a_state_with_foreign_content_is_named(finished, run, tmp_path, change):
    folder = shutil.copytree(finished, tmp_path / "run")
    [state_file] = run_files.list_states(folder / "checkpoints", "lift_dual_timestep")
    state = load_torch(state_file)
    change(state)
    save_torch(state_file, state)
    with pytest.raises(InputError, match=r"\.state\.pth: its content is not what a training state holds"):
        run("lift", "--max_steps", 3, "--resume")


def breaking_from(step, break_it):
    """objective.errors_per_image, but that from a step on `break_it` changes the errors."""
    original, calls = objective.errors_per_image, []

    def errors_per_image(model, *arguments):
        calls.append(None)
        errors = original(model, *arguments)
        return errors if len(calls) <= step else tuple(break_it(error, model) for error in errors)
    return errors_per_image


@pytest.mark.parametrize("precision, advice", [
    ("float32", "nothing was overwritten; start again with a lower --learning_rate"),
    ("bf16", "continue from the last saved state with --resume and --precision float32, or start again")])
def test_advice_after_a_step_that_is_not_finite(precision, advice):
    """In float32 the same steps from the last state would lead to the same end."""
    args = SimpleNamespace(seed=0, batch_size=4, precision=precision)
    task = SimpleNamespace(args=args, num_scales=2, rule=TimestepRule(), schedule=CosineSteps(),
                           rate_options=ScaleTask.rate_options)
    task.describe_batch = functools.partial(ScaleTask.describe_batch, task)
    trainer = SimpleNamespace(args=args, task=task)
    loop.Loop.check_finite(trainer, 3, {"loss": 0.5, "gradient_norm": 1.0})
    with pytest.raises(InputError, match=rf"step 4: the loss is nan, .*t_64 \[\d.*t_32 \[\d.*{advice}"):
        loop.Loop.check_finite(trainer, 3, {"loss": math.nan, "gradient_norm": 1.0})


@pytest.mark.parametrize("break_it, message", [
    (lambda error, model: error * math.nan, "the loss is nan"),
    (lambda error, model: error + (next(model.parameters()).sum() * 0).sqrt(), "the gradient's norm is nan")])
def test_a_step_that_is_not_finite_stops_before_anything_is_overwritten(straight, run, monkeypatch, break_it, message):
    options = (*ELEVEN_STEPS, "--state_every", 2)
    with monkeypatch.context() as patch:
        patch.setattr(objective, "errors_per_image", breaking_from(5, break_it))     # epoch 1 ends at step 6
        with pytest.raises(InputError, match=rf"step 6: {message}, .*t_64 \[\d.*t_32 \[\d.*start again"):
            run("lift", *options)
    assert_same_weights(final_weights(straight), final_weights(run("lift", *options, "--resume")))


def test_no_file_is_written_at_or_after_a_step_that_is_not_finite(run, monkeypatch, tmp_path):
    monkeypatch.setattr(objective, "errors_per_image", breaking_from(5, lambda error, model: error * math.inf))
    with pytest.raises(InputError, match="step 6: the loss is inf"):
        run("lift", *ELEVEN_STEPS, "--state_every", 2)
    states = run_files.list_states(tmp_path / "run/checkpoints", "lift_dual_timestep")
    assert [p.name for p in states] == ["lift_dual_timestep_step00000002.state.pth",
                                        "lift_dual_timestep_step00000004.state.pth"]
    assert run_files.list_checkpoints(tmp_path / "run/checkpoints", "lift_dual_timestep") == []
    assert all(value.isfinite().all() for value in load_torch(states[-1])["model_state"].values())


def test_states_by_the_clock_and_by_steps(run, monkeypatch):
    def steps(to, *options):
        folder = run("lift", "--max_steps", 7, "--epochs", 2, "--save_every", 9, *options, to=to)
        return [int(re.search(r"_step(\d+)", p.name)[1])
                for p in run_files.list_states(folder / "checkpoints", "lift_dual_timestep")]
    assert steps("seldom") == [7]                       # the last step always
    assert steps("counted", "--state_every", 3) == [6, 7]
    monkeypatch.setattr(loop, "STATE_SECONDS", 0)   # a log line every 2 steps
    assert steps("often") == [6, 7]


def test_precision_may_change_on_resuming_and_is_printed(run, capsys):
    run("lift", "--max_steps", 3)
    run("lift", "--max_steps", 3, "--resume", "--precision", "bf16")
    assert "--precision: bf16 from here on, float32 so far" in capsys.readouterr().out


def test_one_changed_byte_in_a_state_is_found(run, capsys):
    folder = run("lift", "--max_steps", 4, "--state_every", 2)
    straight = final_weights(folder)
    newest = run_files.list_states(folder / "checkpoints", "lift_dual_timestep")[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    torch.load(newest, weights_only=True)               # torch itself does not notice
    run("lift", "--max_steps", 4, "--state_every", 2, "--resume")
    assert re.search(f"passing over a damaged training state: .*{newest.name}.*at step 2 of 4",
                     capsys.readouterr().out, re.S)
    assert_same_weights(straight, final_weights(folder))


def test_a_damaged_state_does_not_take_the_place_of_a_good_one(run, capsys):
    options = ("--max_steps", 6, "--state_every", 2)
    folder = run("lift", "--max_steps", 6, "--state_every", 3)
    straight, states = final_weights(folder), run_files.list_states(folder / "checkpoints", "lift_dual_timestep")
    states[-1].write_bytes(b"damaged")
    run("lift", *options, "--resume")
    assert [p.name[-18:] for p in run_files.list_states(folder / "checkpoints", "lift_dual_timestep")] == [
        "00000004.state.pth", "00000006.state.pth"]
    assert_same_weights(straight, final_weights(folder))
    run_files.save_state(folder / "checkpoints", "lift_dual_timestep", {"step": 5})
    assert [p.name[-18:] for p in run_files.list_states(folder / "checkpoints", "lift_dual_timestep")] == [
        "00000004.state.pth", "00000005.state.pth"]              # 6 was passed over, or 5 would not have come again


def test_moments_in_another_layout_are_laid_out_again(run, capsys):
    """As a GPU leaves them, where networks are channels-last; the fused step on a CPU reads memory in order."""
    folder = run("lift", "--max_steps", 6, "--state_every", 3, "--learning_rate", 1e-2)
    straight = final_weights(folder)
    *_, state_file, _ = run_files.list_states(folder / "checkpoints", "lift_dual_timestep")
    for path in [*run_files.list_checkpoints(folder / "checkpoints", "lift_dual_timestep"),
                 run_files.list_states(folder / "checkpoints", "lift_dual_timestep")[-1]]:
        path.unlink()
    state = load_torch(state_file)
    for moments in state["optimizer_state"]["state"].values():
        moments |= {key: value.contiguous(memory_format=torch.channels_last) for key, value in moments.items()
                    if value.ndim == 4}
    save_torch(state_file, state | {"device_type": "cuda"})
    run("lift", "--max_steps", 6, "--state_every", 3, "--learning_rate", 1e-2, "--resume")
    assert "--device: cpu from here on, cuda so far" in capsys.readouterr().out
    assert_same_weights(straight, final_weights(folder))


def test_checkpoints_without_a_state_are_not_trained_over_by_resume(run):
    folder = run("lift", "--max_steps", 2)
    before = final_weights(folder)
    for path in run_files.list_states(folder / "checkpoints", "lift_dual_timestep"):
        path.unlink()
    with pytest.raises(InputError, match="lift_dual_timestep_1ep.pth: exists, but no training state"):
        run("lift", "--max_steps", 2, "--seed", 1, "--resume")
    assert_same_weights(before, final_weights(folder))


def test_killed_after_its_last_state_a_run_gets_its_last_files_on_resuming(run):
    folder = run("lift", "--max_steps", 2)
    outputs = [folder / "checkpoints/lift_dual_timestep_1ep.pth", *(folder / "results").iterdir()]
    for path in outputs:
        path.unlink()
    run("lift", "--max_steps", 2, "--resume")
    assert all(path.exists() for path in outputs)
    assert json.loads((folder / "results/lift_dual_timestep_run.json").read_text())["is_finished"] is True


def test_a_checkpoint_older_than_the_state_is_that_of_the_run_replaced(run):
    folder = run("lift", "--max_steps", 2)
    path, mine = folder / "checkpoints/lift_dual_timestep_1ep.pth", final_weights(folder)
    save_torch(path, {**load_torch(path), "step": 99})
    os.utime(path, ns=(0, 0))
    run("lift", "--max_steps", 2, "--resume")
    assert load_torch(path)["step"] == 2
    assert_same_weights(mine, final_weights(folder))


def train_lift_with(command):
    """Train LIFT in this process."""
    sys.argv = command
    train_lift.main()


def train_until_the_first_checkpoint(command):
    """Train LIFT in this process, which is killed where its first checkpoint would be written."""
    loop.Loop.save_checkpoint = lambda trainer: os.kill(os.getpid(), signal.SIGKILL)
    train_lift_with(command)


def test_killed_between_a_state_and_its_checkpoint_a_run_gets_that_checkpoint_on_resuming(straight, run, cache,
                                                                                        tmp_path, capsys):
    """The first state of a run that saves by the clock comes with its first checkpoint."""
    command = command_of("lift", tmp_path / "run", cache, ELEVEN_STEPS)
    child = forks().Process(target=train_until_the_first_checkpoint, args=(command,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    capsys.readouterr()
    folder = run("lift", *ELEVEN_STEPS, "--resume")
    assert "step00000006.state.pth at step 6 of 11" in capsys.readouterr().out
    assert [path.name for path in run_files.list_checkpoints(folder / "checkpoints", "lift_dual_timestep")] == [
        "lift_dual_timestep_1ep.pth", "lift_dual_timestep_2ep.pth"]
    assert_same_weights(final_weights(straight), final_weights(folder))


def test_only_the_last_part_of_a_batch_averages_gradients(run, monkeypatch):
    """DistributedDataParallel decides so in its forward pass."""
    original, silent, forwards = loop.Loop.run_step, [False], []

    class Network:
        def __init__(self, model):
            self.model = model

        def __call__(self, *inputs):
            forwards.append("silent" if silent[0] else "averaged")
            return self.model(*inputs)

        @contextlib.contextmanager
        def no_sync(self):
            silent[0] = True
            yield
            silent[0] = False

    def as_one_of_two(trainer):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "group", SimpleNamespace(size=2, rank=0))
            patch.setattr(loop, "DistributedDataParallel", Network)
            patch.setitem(trainer.wrapped, "model", Network(trainer.plain["model"]))
            original(trainer)
    monkeypatch.setattr(loop.Loop, "run_step", as_one_of_two)
    run("lift", "--max_steps", 1, "--batch_size", 8, "--grad_accum", 4)
    assert forwards == ["silent"] * 3 + ["averaged"]


def test_only_leftovers_of_the_same_name_are_removed(run, tmp_path):
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    own = [folder / f"lift_dual_timestep_{end}.tmp7" for end in ("1ep.pth", "step00000002.state.pth")]
    other = folder / "lift_dual_timestep_band_1ep.pth.tmp7"
    for path in (*own, other):
        path.touch()
    run("lift", "--max_steps", 1)
    assert other.exists() and not any(path.exists() for path in own)


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu(run, monkeypatch):
    original, watched_steps = loop.Loop.run_step, []

    def watched(trainer):
        torch.cuda.set_sync_debug_mode("error" if trainer.step >= 3 else "default")
        try:
            original(trainer)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        watched_steps.append(trainer.step)
    monkeypatch.setattr(loop.Loop, "run_step", watched)
    run("lift", "--max_steps", 6, "--device", "cuda:0", "--precision", "bf16", "--flip")
    assert watched_steps == [1, 2, 3, 4, 5, 6]


def test_two_runs_of_one_name_do_not_mix(run, tmp_path):
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)

    class Options:
        checkpoint_dir, output_dir, name = folder, tmp_path / "run/results", "lift_dual_timestep"

    with run_files.name_held(Options):
        with pytest.raises(InputError, match="is being trained into .*/run/checkpoints by another process"):
            run("lift", "--max_steps", 1)
        with pytest.raises(InputError, match="is being trained into .*/run/results by another process"):
            run("lift", "--max_steps", 1, "--checkpoint_dir", tmp_path / "elsewhere")      # they share the log
    run("lift", "--max_steps", 1)


def limit_files():
    """From now on in this process no file grows beyond 200 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_full_disk_is_one_clear_line_and_leaves_the_earlier_files(run, tmp_path, cache):
    folder = run("lift", "--max_steps", 6, "--state_every", 2, "--epochs", 1)
    before = {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir()}
    command = command_of("lift", folder, cache, ("--max_steps", 12, "--lr_schedule", "constant", "--name", "other"))
    done = command_in_a_fork(train_lift.main, command, tmp_path, limit_files)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(r"/12 \[[\d:]+<[\d:]+, .*, loss [\d.]+, rate [\d.e+-]+, \d+ images/s\]", done.stderr)
    assert re.search(r"^error: .*other_step\d+\S*: could not be written \(.*\); what was there", done.stderr, re.M)
    assert {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir() if "other" not in p.name} == before
    assert not list((folder / "checkpoints").glob("other*"))


@pytest.mark.parametrize("options, message", [
    (["--hidden_dims", "12"], "--hidden_dims: found 12, expected positive multiples of 8"),
    (["--device", "7"], "--device: found '7'"), (["--device", "tpu"], "--device: found 'tpu'"),
    (["--epochs", "0"], "--epochs: found '0', expected a whole number of at least 1"),
    (["--batch_size", "-4"], "--batch_size: found '-4'"),
    (["--batch_size", "13"], "--batch_size: found 13, expected at most 12"),
    (["--grad_accum", "3"], "--batch_size: found 2, expected a multiple of 3"),
    (["--learning_rate", "nan"], "--learning_rate: found 'nan'"), (["--ema_decay", "2"], "--ema_decay: found '2'"),
    (["--timesteps", "band", "--band_lead", "5", "1"], "--band_lead: found 5 1"),
    (["--timesteps", "fused", "--fused_lead", "2", "1"], "--fused_lead: found 2 1, expected the smaller number first"),
    (["--dataset", "nowhere/nothing"], "nowhere/nothing"),
    (["--split", "night"], "night"), (["--name", "a/b"], "--name: found 'a/b'"),
    (["--checkpoint_dir", "/dev/null/x"], "--checkpoint_dir: /dev/null/x cannot")])
def test_wrong_input_is_one_line(tmp_path, cache, options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command_of("lift", tmp_path / "run", cache, ["--max_steps", "1", *options]))
    with pytest.raises((SystemExit, InputError)) as stop:
        train_lift.main()
    text = str(stop.value) if isinstance(stop.value, InputError) else capsys.readouterr().err.strip()
    assert message in text and "\n" not in text
    assert not list(tmp_path.glob("run/checkpoints/*.pth"))


# --- several processes ---

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


# Of LIFT with TINY's hidden dims: biases of eight channels whose mean the norm behind them takes away, for it has one
# group per channel. In exact arithmetic their gradient is zero.
WITHOUT_GRADIENT = re.compile(r"(encoder_blocks\.0|decoder_blocks\.1)\.[01]\.(time_mlp|conv1)\.bias$"
                              r"|decoder_blocks\.1\.[01]\.(conv2|shortcut)\.bias$")


def assert_close_weights(weights, others, start):
    """Equal up to the rounding of sums in another order: far closer to each other than to where both started from.

    Biases without a gradient are left out, for Adam turns its rounding into steps of full size.
    """
    assert weights.keys() == others.keys()
    for kind in ("raw", "ema"):
        left_out = {key for key in weights if key.startswith(kind) and WITHOUT_GRADIENT.search(key)}
        assert len(left_out) == 11

        def distance(a, b):
            return sum(float((a[key] - b[key]).double().square().sum()) for key in a
                       if key.startswith(kind) and key not in left_out) ** 0.5
        assert 0 < distance(others, start) and distance(weights, others) < 0.01 * distance(others, start), kind


def test_two_processes_equal_one_and_resume_across_their_number(run, tmp_path, cache):
    """Two processes that accumulate their gradients over two parts each take the steps of one that does not."""
    options = ("--max_steps", 8, "--log_every", 1, "--state_every", 4, "--batch_size", 4)
    one, two = run("lift", *options, to="one"), tmp_path / "two"
    losses, weights = losses_of(one), final_weights(one)
    start = final_weights(run("lift", "--max_steps", 1, "--learning_rate", 1e-12, "--lr_schedule", "constant",
                              to="start"))

    def forget_the_end(folder):
        run_files.list_states(folder / "checkpoints", "lift_dual_timestep")[-1].unlink()

    # Two processes do all eight steps, and from the fourth on those of one; then one does those of two.
    forget_the_end(one)
    in_two_processes(run_in_turn, [(train_lift_with, command_of("lift", folder, cache, (*options, *more)))
                                   for folder, more in ((two, ("--grad_accum", 2)), (one, ("--resume",)))])
    assert losses_of(two) == pytest.approx(losses, rel=1e-5) and len(losses) == 8
    assert_close_weights(final_weights(two), weights, start)
    forget_the_end(two)
    run("lift", *options, "--grad_accum", 2, "--resume", to="two")
    for folder in (one, two):
        assert losses_of(folder) == pytest.approx(losses, rel=1e-5)
        assert_close_weights(final_weights(folder), weights, start)


def test_one_gpu_named_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--device: found 0 with 2 processes"):
        distributed.local_gpu("0")
    assert distributed.local_gpu("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert distributed.local_gpu("0") == "0"


def launch_two(command, output):
    """Train LIFT in two processes that this one starts and waits for, as torchrun does."""
    say_into(output, output)
    in_two_processes(train_lift_with, command, start_method="fork")


@pytest.mark.parametrize("launcher", ["fork", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_ctrl_c_with_two_processes_saves_one_state(tmp_path, cache, launcher):
    folder, said = tmp_path / "two", tmp_path / "said.txt"
    command = command_of("lift", folder, cache, ["--max_steps", 100_000, "--epochs", 100_000])
    if launcher == "fork":
        process = forks().Process(target=launch_two, args=(command, said))
        process.start()
    else:
        process = subprocess.Popen([sys.executable, *TWO, str(ROOT / command[0]), *command[1:]], stdout=said.open("w"),
                                   stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    is_alive = process.is_alive if launcher == "fork" else (lambda: process.poll() is None)
    wait_until(lambda: not is_alive() or said.exists() and " loss " in said.read_text())    # steps have been taken
    os.kill(process.pid, signal.SIGINT)
    status = process.wait(180) if launcher == "torchrun" else (process.join(180), process.exitcode)[1]
    output = said.read_text()
    assert status and len(re.findall(r"stopped by SIG\w+ after step \d+ of", output)) == 1, output
    [state] = run_files.list_states(folder / "checkpoints", "lift_dual_timestep")
    step = load_torch(state)["step"]
    assert step >= 1 and f"after step {step} of 100000" in output


@pytest.mark.slow  # three starts; what the script does is seen in test_shell_scripts.py
def test_train_script_trains_both_and_reports_a_failure(tmp_path, cache):
    environment = {**os.environ, "VENV": "none", "PYTHON": sys.executable, "DEVICE": "cpu",
                   "LIFT_OPTIONS": "--hidden_dims 12"}
    options = [word for word in command_of("lift", tmp_path, cache, ["--max_steps", "1"])[1:]
               if word not in ("--device", "cpu")]
    done = subprocess.run([str(ROOT / "scripts/train.sh"), *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "train.sh: train_lift.py failed with status 2" in done.stderr
    assert [p.name for p in (tmp_path / "checkpoints").glob("*ep.pth")] == ["baseline_1ep.pth"]


@pytest.mark.slow                                       # so is a stop
def test_train_script_stopped_saves_the_state_and_leaves_no_training_behind(tmp_path, cache):
    environment = {**os.environ, "VENV": "none", "PYTHON": sys.executable, "DEVICE": "cpu"}
    options = [word for word in command_of("lift", tmp_path, cache, ["--max_steps", "100000", "--epochs", "100000"])[1:]
               if word not in ("--device", "cpu")]
    process = subprocess.Popen([str(ROOT / "scripts/train.sh"), *options, "--state_every", "3"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=environment)
    while process.poll() is None and not list((tmp_path / "checkpoints").glob("baseline_step*.state.pth")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = process.stdout.read()                      # ends when the last process that holds the pipe does
    assert process.wait() == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM after step" in output and "train_baseline.py failed with status 143" in output
    assert not list((tmp_path / "checkpoints").glob("lift*"))
