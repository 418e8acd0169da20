"""Distillation end to end: tiny teachers of one scale and two, resumed, on two processes, generated from, refused."""
import csv
import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import families
from baseline_model import BaselineModel
from conftest import forks, in_two_processes
from distill import generate, options
from distill.task import DistillationTask, critic_of
from distill.train import make_task
from engine.distributed import Group
from engine.errors import InputError
from engine.files import save_torch
from engine.loop import Loop, train
from engine.run_files import epoch_of
from lift import checkpoints
from mnist import models as mnist_models
from model import LIFTBandModel, LIFTDualTimestepModel
from networks.adm import EDMNetwork
from networks.dit import DiT
from networks.dual_dit import DualDiT
from networks.flow_unet import FlowUNet
from scripts.benchmarks.resume_after_kills import die_while_writing
from test_families import write_latent_model

GAN = ("--cls_on_clean_image", "--gen_cls_loss")
TWO_STEPS = ("--denoising", "--num_denoising_step", "2", "--backward_simulation")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Checkpoints of an eps baseline, a v baseline and two LIFT models, at random weights.

    The wide one has two channels in a group: with one, GroupNorm takes away all that a bias before it does, and Adam
    would make steps of the rounding error that its gradient is.
    """
    folder, paths = tmp_path_factory.mktemp("teachers"), {}
    for name, kind, parametrization, dims in (
            ("baseline", BaselineModel, "eps", [8, 16]), ("v", BaselineModel, "v", [8, 16]),
            ("lift", LIFTDualTimestepModel, "eps", [8, 16]), ("wide_lift", LIFTDualTimestepModel, "eps", [16, 16])):
        torch.manual_seed(0)
        model = kind(dims, parametrization)
        state = model.state_dict()
        paths[name] = folder / f"{name}_1ep.pth"
        save_torch(paths[name], {"model_state": state, "hidden_dims": dims, "parametrization": parametrization,
                                 "ema_state": {"shadow": state, "decay": 0.9}, "epochs": 1,
                                 "options": {"timesteps": "independent", "band_lead": [0.0, 5.0],
                                             "band_noise_share": 0.15, "band_independent_share": 0.15}})
    return paths


def words(teacher, folder, *more, name="student", steps=4):
    uses = "--val_every" in more or "--cls_on_clean_image" in more or (
        "--denoising" in more and "--backward_simulation" not in more)
    return ["--teacher", str(teacher), *["--dataset", "synthetic:16"] * uses, "--batch_size", "2", "--max_steps",
            str(steps), "--dfake_gen_update_ratio", "2", "--warmup_step", "2", "--generator_lr", "1e-4",
            "--guidance_lr", "1e-4", "--num_threads", "1", "--device", "cpu", "--no_tensorboard", "--log_every", "1",
            "--sample_every", "0", "--cache_dir", str(folder / "cache"), "--checkpoint_dir",
            str(folder / "checkpoints"), "--output_dir", str(folder / "results"), "--name", name, *more]


def distil(*given, **named):
    train(make_task, options.parse(words(*given, **named)))


def final_state(folder, name="student", steps=4):
    return torch.load(folder / "checkpoints" / f"{name}_step{steps:08d}.state.pth", weights_only=True)


def largest_difference(one, other) -> float:
    """Between the tensors of two nested dictionaries of equal keys."""
    if isinstance(one, torch.Tensor):
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        return max((largest_difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    return 0.0


TRAINED = ("model_state", "ema_state", "optimizer_state", "others")


@pytest.mark.parametrize("teacher, more", [
    ("baseline", GAN), ("lift", (*TWO_STEPS, "--student_t_32", "999", "249", *GAN, "--shared_critic_pass")),
    ("lift", (*TWO_STEPS, "--coupling", "free"))])
def test_a_resumed_run_ends_bit_for_bit_like_a_straight_one(teachers, tmp_path, teacher, more):
    run = teachers[teacher], tmp_path, *more, "--state_every", "3"
    distil(*run)
    straight = final_state(tmp_path)
    (tmp_path / "checkpoints" / "student_step00000004.state.pth").unlink()
    next((tmp_path / "checkpoints").glob("student_*ep.pth")).unlink()
    (tmp_path / "results" / "student_run.json").unlink()
    distil(*run, "--resume")
    resumed = final_state(tmp_path)
    for key in TRAINED:
        assert largest_difference(straight[key], resumed[key]) == 0
    assert straight["num_updates"] == resumed["num_updates"] == {"generator": 2, "critic": 4}
    teacher_weights = families.load(teachers[teacher]).network.state_dict()
    assert largest_difference(dict(straight["model_state"]), dict(teacher_weights)) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [(), ("--fsdp",)])
def test_two_processes_equal_one_and_either_goes_on_where_the_other_stopped(teachers, tmp_path, sharding):
    more = (*TWO_STEPS, *GAN)
    distil(teachers["wide_lift"], tmp_path, *more, name="one", steps=10)

    def with_two(name, steps, *resume):
        return in_two_processes(train_in_a_process, words(teachers["wide_lift"], tmp_path, *more, *sharding, *resume,
                                                          name=name, steps=steps))

    with_two("two", 10)
    with_two("two_then_one", 5)
    distil(teachers["wide_lift"], tmp_path, *more, "--resume", name="two_then_one", steps=10)
    distil(teachers["wide_lift"], tmp_path, *more, name="one_then_two", steps=5)
    with_two("one_then_two", 10, "--resume")
    one = final_state(tmp_path, "one", 10)
    for name in ("two", "two_then_one", "one_then_two"):
        other = final_state(tmp_path, name, 10)
        assert other["num_updates"] == {"generator": 5, "critic": 10}
        for key in ("model_state", "ema_state"):
            assert largest_difference(one[key], other[key]) < 1e-4
        assert largest_difference(one["others"]["critic"]["model_state"],
                                  other["others"]["critic"]["model_state"]) < 1e-4


def train_in_a_process(given):
    train(make_task, options.parse(given))


def train_until_killed(given, kill, notes):
    """Train in this process, which dies right after an update or while a file is being written.

    kill: ("update", n), after the nth update of this process, or ("file", n). What died is noted: the step, and whose
    update it was.
    """
    kind, number = kill
    if kind == "file":
        die_while_writing(number)
    original, done = Loop.run_update, [0]

    def run_update(loop, update, batches, keep):
        row = original(loop, update, batches, keep)
        done[0] += 1
        if kind == "update" and done[0] == number:
            with open(notes, "a") as file:
                file.write(f"{loop.step} {update.trains}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    Loop.run_update = run_update
    train_in_a_process(given)


@pytest.mark.parametrize("num_kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_between_the_updates_of_a_step_and_elsewhere_a_run_ends_as_a_straight_one(teachers, tmp_path, num_kills):
    """A step whose student has moved and whose critic has not was never saved, and is done again."""
    more, steps, notes = (*GAN, "--state_every", "1"), max(6, num_kills), tmp_path / "notes"
    distil(teachers["baseline"], tmp_path, *more, name="straight", steps=steps)
    killed = words(teachers["baseline"], tmp_path, *more, "--resume", name="killed", steps=steps)
    # Student and critic, critic alone, and so on: the first and the fourth update are a student's.
    kills = [(("update", 1), ("file", 1), ("update", 4))[k % 3] for k in range(num_kills)]
    for kill in kills:
        child = forks().Process(target=train_until_killed, args=(killed, kill, notes))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, kill
    train_in_a_process(killed)
    died_after = [line.split()[1] for line in notes.read_text().splitlines()]
    assert died_after == ["generator"] * sum(kind == "update" for kind, _ in kills)
    straight, resumed = final_state(tmp_path, "straight", steps), final_state(tmp_path, "killed", steps)
    for key in (*TRAINED, "interval_mean", "epoch_mean"):
        assert largest_difference(straight[key], resumed[key]) == 0
    for key in ("num_updates", "step", "losses"):
        assert straight[key] == resumed[key]
    assert straight["num_updates"] == {"generator": steps // 2, "critic": steps}


def test_a_student_is_generated_from_and_distilled_again(teachers, tmp_path, monkeypatch):
    distil(teachers["lift"], tmp_path, *TWO_STEPS)
    student = next((tmp_path / "checkpoints").glob("student_*ep.pth"))
    loaded = families.load(student)
    assert loaded.few_steps == {"places": [[999, 999], [499, 499]], "called_at": [[399, 399], [499, 499]],
                                "coupling": "tied"}
    for batch_size in ("3", "2"):
        monkeypatch.setattr(sys, "argv", ["generate", "--checkpoint", str(student), "--teacher", str(teachers["lift"]),
                                          "--num_images", "3", "--batch_size", batch_size, "--device", "cpu",
                                          "--num_threads", "1", "--precision", "float32", "--output_dir",
                                          str(tmp_path / batch_size)])
        generate.main()
    record = json.loads((tmp_path / "3" / "run.json").read_text())
    results = record.get("results", record)
    assert results["num_model_calls"] == 2 and results["timesteps"] == [[999, 999], [499, 499], [-1, -1]]
    assert len(list((tmp_path / "3").glob("0*.png"))) == 3 and (tmp_path / "3" / "grid.png").is_file()
    bands = LIFTBandModel([8, 16])
    save_torch(tmp_path / "bands.pth", {"model_state": bands.state_dict(), "hidden_dims": [8, 16]})
    for teacher, message in ((teachers["baseline"], "images or latents of 3x64x64, expected 3x64x64 and 3x32x32 as"),
                             (tmp_path / "bands.pth", f"bands.pth has scales as bands, expected sizes as {student}")):
        with pytest.raises(InputError, match=message):
            generate.guided_teacher(SimpleNamespace(teacher=teacher, guidance_scale=1, weights="raw", vae=None), "cpu",
                                    loaded)
    for load in (checkpoints.load_model, families.load_two_scales):     # of generate_with_path_30 and of error maps
        with pytest.raises(InputError, match="is a student whose few steps are its own; draw its images with"):
            load(student)
    distil(student, tmp_path, name="again", steps=2)
    assert families.load(next((tmp_path / "checkpoints").glob("again_*ep.pth"))).few_steps["places"] == [[999, 999]]


def test_distances_are_to_the_split_that_a_data_set_has(teachers, tmp_path):
    """The drawn faces have no split called test."""
    distil(teachers["v"], tmp_path, "--val_every", "1", "--val_images", "2", steps=1)
    options_of = families.load(tmp_path / "checkpoints/student_1ep.pth").options
    assert (options_of["dataset"], options_of["val_split"]) == ("synthetic:16", "validation")
    with open(tmp_path / "results/student_validation.csv", newline="") as file:
        assert all(float(row["distance_of_student"]) > 0 for row in csv.DictReader(file))


@pytest.mark.parametrize("broken", ["generator", "critic"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_written(teachers, tmp_path, monkeypatch,
                                                                                broken):
    """From the third step on; the state of the second stays the last."""
    original = getattr(DistillationTask, f"{broken}_loss")
    calls = [0]

    def loss(task, networks, batch):
        calls[0] += 1
        found = original(task, networks, batch)
        weight = next(p for p in networks[broken].parameters() if p.requires_grad)
        return found if calls[0] <= {"generator": 1, "critic": 2}[broken] else {
            **found, "loss": found["loss"] + (weight.sum() * 0).sqrt()}

    monkeypatch.setattr(DistillationTask, f"{broken}_loss", loss)
    with pytest.raises(InputError, match=f"step 3: the gradient's norm of {broken} is nan.*a lower --generator_lr or"):
        distil(teachers["v"], tmp_path, "--state_every", "1")
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pth"))
    assert kept == ["student_step00000001.state.pth", "student_step00000002.state.pth"]


def test_where_one_step_starts_follows_the_teachers_output(teachers, tmp_path):
    for name, expected in (("baseline", 399), ("v", 999), ("lift", 399)):
        args = options.parse(words(teachers[name], tmp_path))
        args.precision = "float32"
        task = make_task(args, torch.device("cpu"), Group(1, 2))
        assert set(task.few_steps["called_at"][0]) == {expected}


@pytest.mark.parametrize("trained_on", [{"dataset": "photos", "image_column": "picture", "label_column": None}, {}])
def test_without_real_images_a_students_record_names_its_teachers(teachers, tmp_path, trained_on):
    """So its scores compare with the same images; where the teacher names none, they ask for them."""
    content = torch.load(teachers["v"], weights_only=True)
    save_torch(tmp_path / "teacher.pth", content | {"options": content["options"] | trained_on})
    args = options.parse(words(tmp_path / "teacher.pth", tmp_path))
    make_task(args, torch.device("cpu"), Group(1, 2))
    assert (args.dataset, args.image_column, args.label_column) == tuple(trained_on.values() or [None] * 3)


def test_real_images_are_the_teachers_where_no_option_names_others(teachers, tmp_path, capsys):
    content = torch.load(teachers["v"], weights_only=True)
    save_torch(tmp_path / "teacher.pth", content | {"options": content["options"] | {"dataset": "synthetic:16"}})

    def task_of(teacher):
        given = words(teacher, tmp_path, *GAN)
        given[given.index("--dataset"):given.index("--dataset") + 2] = []
        return make_task(options.parse(given), torch.device("cpu"), Group(0, 1))
    assert len(task_of(tmp_path / "teacher.pth").images) == 16
    assert "--dataset: left out, so synthetic:16\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="--dataset: left out, but .*v_1ep.pth does not say what it was trained on"):
        task_of(teachers["v"])


@pytest.mark.parametrize("more, message", [
    (("--backward_simulation",), "--denoising"), (("--gen_cls_loss",), "--cls_on_clean_image"),
    (("--learning_rate", "1e-3"), "--generator_lr"), (("--real_guidance_scale", "2"), "without classes"),
    (("--student_t_32", "999"), "one scale"), (("--coupling", "free"), "--coupling: .*one scale"),
    (("--loss_weight_32", "2"), "--loss_weight_32: .*one scale"),
    (("--denoising",), "--denoising: found without --num_denoising_step above 1"),
    (("--use_fp16", "--precision", "float32"), "found float32, which has no effect beside --use_fp16"),
    ((*TWO_STEPS, "--student_t_32", "999", "999"), "falling"),
    (("--critic_step",), "student of one step"), (("--no_level_schedule",), "student of one step"),
    (("--guidance_cls_loss_weight", "1"), "without --cls_on_clean_image"),
    (("--no_diffusion_gan",), "without --cls_on_clean_image"),
    ((*GAN, "--no_diffusion_gan", "--diffusion_gan_max_timestep", "9"), "with --no_diffusion_gan"),
    (("--gen_cls_loss_weight", "1"), "without --gen_cls_loss"), (("--val_images", "9"), "without --val_every"),
    (("--dataset", "synthetic:16"), "^--dataset: found synthetic:16, which has no effect without --val_every or"),
    ((*TWO_STEPS, "--label_column", "kind"), "--label_column: found kind, which has no effect without --val_every or"),
    (("--val_every", "1", "--split", "test"), "--split: found test, which has no effect without --cls_on_clean_image"),
    ((*GAN, "--gan_alone", "--max_step_percent", "0.5"), "--max_step_percent: found 0.5, .*no effect with --gan_alone"),
    ((*GAN, *TWO_STEPS, "--gan_alone", "--level_schedule"), "--level_schedule: found True, .*effect with --gan_alone"),
    (("--vae", "vae.pth"), "model of pixels"), (("--ckpt_only_path", "missing.pth"), "no such training state"),
    (("--denoising", "--num_denoising_step", "600"), "expected 1...500")])
def test_a_flag_that_cannot_be_is_one_line(teachers, tmp_path, more, message):
    with pytest.raises(InputError, match=message) as error:
        distil(teachers["baseline"], tmp_path, *more)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("checkpoints/*.pth"))


class Pickled:
    """A class of this test, which a pickle would name."""


@pytest.mark.parametrize("more, message", [
    (("--real_guidance_scale", "2"), "teacher without classes, expected 1"),
    ((*GAN, "--dataset", "./nowhere"), "nowhere"), (("--student_t_32", "999"), "teacher of one scale"),
    (("--denoising", "--num_denoising_step", "501"), "expected 1...500"), (("--teacher", "PICKLE"), "pickled object")])
def test_what_cannot_be_is_refused_before_anything_is_on_a_device(teachers, tmp_path, monkeypatch, more, message):
    """The device asked for is one that takes no data at all; not even the teacher is put there."""
    torch.save({"model_state": Pickled()}, tmp_path / "pickle.pth")
    more = [str(tmp_path / "pickle.pth") if word == "PICKLE" else word for word in more]
    original, places = families.load, []

    def load(path, weights, device, *given):
        places.append(str(device))
        return original(path, weights, device, *given)

    monkeypatch.setattr(families, "load", load)
    with pytest.raises(InputError, match=message) as error:
        make_task(options.parse(words(teachers["baseline"], tmp_path, *more)), torch.device("meta"), Group(0, 1))
    assert "\n" not in str(error.value) and set(places) <= {"cpu"}


@pytest.mark.parametrize("ending", ["fails", pytest.param("killed", marks=pytest.mark.slow)])
def test_images_that_do_not_come_to_their_end_leave_the_folder_as_it_was(teachers, tmp_path, monkeypatch, ending):
    """The grid comes last: where it fails, or where the process dies, no image is there; a later call is whole."""
    distil(teachers["v"], tmp_path, steps=1)
    student, out = next((tmp_path / "checkpoints").glob("student_*ep.pth")), tmp_path / "out"
    out.mkdir()
    for name in ("00000.png", "00007.png"):
        (out / name).write_bytes(b"earlier")
    call = ["generate", "--checkpoint", str(student), "--num_images", "2", "--device", "cpu", "--num_threads", "1",
            "--precision", "float32", "--output_dir", str(out), "--overwrite"]
    monkeypatch.setattr(sys, "argv", call)
    with monkeypatch.context() as patch:
        if ending == "fails":
            patch.setattr("distill.generate.image_grid", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                generate.main()
            assert not (tmp_path / ".out.tmp").exists()
        else:
            child = forks().Process(target=generate_until_killed, args=(call,))
            child.start()
            child.join()
            assert child.exitcode == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in out.iterdir()}
    assert left == dict.fromkeys(("00000.png", "00007.png"), b"earlier")
    generate.main()
    assert {path.name for path in out.iterdir()} == {"00000.png", "00001.png", "grid.png", "run.json"}
    assert not (tmp_path / ".out.tmp").exists()


def generate_until_killed(call):
    """Generate in this process, which dies where the grid would be made."""
    sys.argv = call
    generate.image_grid = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    generate.main()


def test_a_checkpoint_that_is_no_student_is_not_generated_from(teachers):
    with pytest.raises(InputError, match="names no few steps"):
        generate.student_of(families.load(teachers["baseline"]))


def write_flow_teacher(path):
    """A DiT with ten classes on 16x16 grey images, at random weights."""
    config = dict(image_size=16, channels=1, patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=1,
                  num_classes=10)
    network = DiT(**config)
    torch.nn.init.normal_(network.final_layer.linear.weight, std=0.1)
    write_flow(path, network)


def write_flow(path, network):
    """A checkpoint of the flow family."""
    state = network.state_dict()
    save_torch(path, {"family": "flow", "config": dict(network.config), "model_state": state,
                      "ema_state": {"shadow": state, "decay": 0.9}, "epochs": 1, "options": {"label_dropout": 0.1}})


def write_dual_flow_teacher(path, sides=(16, 8), patch_size=2):
    """A DiT of two scales with ten classes, at random weights."""
    network = DualDiT([*sides], channels=1, patch_size=patch_size, hidden_size=32, depth=2, num_heads=2, mlp_ratio=1,
                      num_classes=10)
    for layer in network.final_layers:
        torch.nn.init.normal_(layer.linear.weight, std=0.1)
    write_flow(path, network)


def write_dual_unet_teacher(path):
    """A UNet of two scales with ten classes, at random weights."""
    write_flow(path, FlowUNet(image_sizes=[32, 16], channels=1, patch_size=2, hidden_size=8, depth=1, num_classes=10))


def write_mnist_teacher(path, process="flow", kind="velocity"):
    """A model of digits with classes, a rectified flow where nothing is said, at random weights."""
    settings = dict(shape=[1, 32, 32], base_channels=8, channel_multipliers=[1, 2], layers_per_block=1,
                    attention_levels=[1], patch_size=2, conditioning="cross_attention", num_classes=10)
    state = mnist_models.build_denoiser(process, kind, settings).network.state_dict()
    save_torch(path, {"family": "mnist", "model": "denoiser", "name": "rf", "process": process, "kind": kind,
                      "settings": settings, "image_size": 28, "channels": 1, "vae_checkpoint": None, "vae_hash": None,
                      "model_state": state, "ema_state": {"shadow": state, "decay": 0.9}, "epochs": 1,
                      "options": {"label_dropout": 0.1}})


def write_latent_teacher(path):
    """A rectified flow of digits in a VAE's latents."""
    write_latent_model(path.parent)[0].rename(path)


def write_edm_teacher(path):
    """EDM's network with three classes as a plain state dict, at random weights."""
    network = EDMNetwork(16, 16, (1, 2), 1, (), 10)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    save_torch(path, network.state_dict())


GUIDED = ("--real_guidance_scale", "2")
STARTS = ("--student_t_32", "999", "249")
LOOKS = ("--sample_every", "1", "--val_every", "1", "--val_images", "5")


@pytest.mark.parametrize("write, side, more, looks", [
    (write_flow_teacher, 16, GUIDED, ()), (write_dual_flow_teacher, 16, (*GUIDED, *STARTS), LOOKS),
    (write_dual_unet_teacher, 32, (*GUIDED, *STARTS), ()),
    (write_mnist_teacher, 28, GUIDED, LOOKS), (write_latent_teacher, 28, GUIDED, LOOKS),
    (write_edm_teacher, 16, (), LOOKS)])
def test_teachers_with_classes_are_distilled_resumed_and_generated_from(tmp_path, monkeypatch, write, side, more,
                                                                        looks):
    torch.manual_seed(0)
    teacher = tmp_path / "teacher_1ep.pth"
    write(teacher)
    how = (*TWO_STEPS, *GAN, "--dataset", "digits:16", "--epoch_steps", "2", *more)
    distil(teacher, tmp_path, *how, *looks)
    straight = final_state(tmp_path)
    before = families.load(teacher).network.state_dict()
    assert 1e-6 < largest_difference(dict(straight["model_state"]), dict(before)) < 0.1
    if looks:
        with open(tmp_path / "results/student_validation.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["step"], row["weights"]) for row in rows] == [(step, weights) for step in "24"
                                                                   for weights in ("raw", "ema")]
        assert all(0 < float(row["distance_of_student"]) < 2 for row in rows)
        assert len({row["distance_of_teacher"] for row in rows}) == 1
        with Image.open(tmp_path / "results/student_preview.png") as image:
            assert image.size == (8 * (side + 2) + 2, 2 * (side + 2) + 2)
    distil(teacher, tmp_path, *how, name="again", steps=2)          # without looking, which changes nothing
    state = tmp_path / "checkpoints" / "again_step00000002.state.pth"
    content = torch.load(state, weights_only=True)
    content["num_steps"] = 4
    save_torch(state, content)
    distil(teacher, tmp_path, *how, "--resume", name="again")
    again = final_state(tmp_path, "again")
    assert largest_difference(straight["model_state"], again["model_state"]) == 0
    student = max((tmp_path / "checkpoints").glob("student_*ep.pth"), key=epoch_of)
    monkeypatch.setattr(sys, "argv", ["generate", "--checkpoint", str(student), "--num_images", "3", "--device", "cpu",
                                      "--num_threads", "1", "--precision", "float32", "--output_dir",
                                      str(tmp_path / "images")])
    generate.main()
    record = json.loads((tmp_path / "images/run.json").read_text())
    assert record["num_model_calls"] == 2
    with Image.open(tmp_path / "images/00000.png") as image:
        assert image.size == (side, side)
    distil(student, tmp_path, name="of_student", steps=1)
    assert families.load(tmp_path / "checkpoints/of_student_1ep.pth").options["dataset"] == "digits:16"
    scales = len(families.load(teacher).denoiser.shapes)
    assert families.load(tmp_path / "checkpoints/of_student_1ep.pth").few_steps["places"] == [[999] * scales]


@pytest.mark.parametrize("write, channels", [(write_flow_teacher, 32), (write_dual_flow_teacher, 32),
                                             (write_dual_unet_teacher, 16), (write_mnist_teacher, 16)])
def test_a_critics_head_reads_the_whole_bottleneck(tmp_path, write, channels):
    """One logit an image, of a map of 8x8: 16 pixels in patches of 2, or 32 halved once after patches of 2."""
    write(tmp_path / "teacher_1ep.pth")
    loaded = families.load(tmp_path / "teacher_1ep.pth")
    size = loaded.denoiser.shapes[0][-1]
    critic = critic_of(loaded.network, size, 2, head=True)
    xs, ts = [torch.randn(3, *shape) for shape in loaded.denoiser.shapes], [torch.full((3,), 0.5)] * 2
    inputs = (xs, ts) if len(xs) == 2 else (xs[0], ts[0])
    _, logits = critic(*inputs, torch.tensor([0, 1, 2]), student_step=torch.zeros(3, dtype=torch.long))
    assert logits.shape == (3,)
    first = critic.head[0]
    assert (first.in_channels, first.stride) == (channels, (2, 2)) and critic.head[3].kernel_size == (4, 4)


def test_a_distillation_starts_from_the_networks_of_another(teachers, tmp_path):
    """The published resumed stage: lower rates, new optimizers, the state's own student and critic."""
    distil(teachers["v"], tmp_path, *GAN, steps=2)
    first = tmp_path / "checkpoints/student_step00000002.state.pth"
    start = ("--ckpt_only_path", str(first))
    args = options.parse(words(teachers["v"], tmp_path, *GAN, *start))
    args.precision = "float32"
    task, state = make_task(args, torch.device("cpu"), Group(1, 2)), torch.load(first, weights_only=True)
    assert largest_difference(dict(state["model_state"]), task.networks["generator"].state_dict()) == 0
    assert largest_difference(dict(state["others"]["critic"]["model_state"]), task.networks["critic"].state_dict()) == 0
    distil(teachers["v"], tmp_path, *GAN, *start, name="resumed", steps=2)
    assert final_state(tmp_path, "resumed", 2)["num_updates"] == {"generator": 1, "critic": 2}
    with pytest.raises(InputError, match=r"--ckpt_only_path: .*student at \[\[999\]\], expected \[\[999\], \[499\]\]"):
        distil(teachers["v"], tmp_path, *GAN, *TWO_STEPS, *start, name="other")
    with pytest.raises(InputError, match=r"student called at \[\[999\]\], expected \[\[399\]\]"):
        distil(teachers["v"], tmp_path, *GAN, *start, "--conditioning_timestep", "399", name="other")
    with pytest.raises(InputError, match="expected a training state|not what a training state"):
        distil(teachers["v"], tmp_path, *GAN, "--ckpt_only_path", str(teachers["v"]), name="other")
