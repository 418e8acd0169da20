"""Ten short trainings and fifteen samplings with pinned numbers: code that was only rearranged leaves them alone.

On the kind of processor that the pins were made on (`machine`), losses, weights and images are compared bit for bit.
Elsewhere losses and summaries are compared up to rounding. The ids of the tests say which: "bits" or "rounding".
The pins lie in tests/reference/pins.json; `PINS=write python -m pytest tests/test_pins.py` makes them anew.
"""
import csv
import fcntl
import hashlib
import json
import os
import platform
import re
import signal
import sys

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

# All of the repository's functions that are called stand here and in the four functions below.
import train_baseline
import train_lift
from lift.checkpoints import build_model
from conftest import REFERENCE, ROOT, in_two_processes, with_reference_weights
from lift.paths import Lead, lead_path
from lift.sampling import generate, uniform_diagonal

SCRIPTS = {"baseline": train_baseline, "lift": train_lift}
NAMES = {"baseline": "baseline", "lift": "lift_dual_timestep"}


def command_of(model_type, folder, *options):
    """The command line of a short training into a folder, whose neighbour `cache` holds the images."""
    return [str(ROOT / f"train_{model_type}.py"), "--dataset", "synthetic:48",
            "--cache_dir", str(folder.parent / "cache"), "--checkpoint_dir", str(folder / "checkpoints"),
            "--output_dir", str(folder / "results"), "--no_tensorboard", "--log_every", "1",
            "--device", "cpu", "--precision", "float32", "--num_threads", "1", "--hidden_dims", "8", "16",
            "--batch_size", "8", "--max_steps", "8", "--learning_rate", "1e-3", "--ema_decay", "0.4", *options]


def train(model_type, folder, *options):
    """Train in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command_of(model_type, folder, *options))
        SCRIPTS[model_type].main()


def build(model_type, parametrization="eps", native_32=False):
    """A tiny model with weights that depend on their names alone."""
    model = with_reference_weights(build_model(model_type, [8, 16], parametrization, native_32))
    if parametrization == "residual":
        for name, value in model.named_parameters():        # smaller outputs, or nearly all pixels would be clipped
            if name.startswith(("final_conv.2", "final_conv_32.2")):
                value.data.mul_(0.3)
        model.linear_denoiser.fit((smooth_images(40, 64) * 127.5 + 127.5).to(torch.uint8))
    return model


def sample(model, path, **options):
    """([x_64] or [x_64, x_32], number of network calls) of two images."""
    samples = generate(model, path, 11, [0, 3], **options)
    return [x for x in (samples.x_64, samples.x_32) if x is not None], samples.num_model_calls


# --- what is pinned ---

TRAININGS = {
    "baseline eps": ("baseline", "--flip"),
    "baseline v": ("baseline", "--parametrization", "v", "--loss_target", "v", "--lr_schedule", "constant"),
    "baseline residual": ("baseline", "--parametrization", "residual", "--grad_accum", "2"),
    "lift eps": ("lift",),
    "lift v": ("lift", "--parametrization", "v", "--loss_target", "v", "--loss_weight_32", "0.5"),
    "lift residual": ("lift", "--parametrization", "residual", "--timesteps", "diagonal"),
    "lift native_32 residual": ("lift", "--native_32", "--parametrization", "residual", "--seed", "1"),
    "lift band": ("lift", "--timesteps", "band", "--warmup_steps", "3"),
    "lift two processes": ("lift", "--grad_accum", "2"),
    "lift stopped and resumed": ("lift",)}

STOP_AFTER = 3                                              # optimizer steps, of the run that is resumed

DIAGONAL = uniform_diagonal(5)
LEAD = lead_path(6, Lead(None, 2.0))
STANDING_STILL = np.array([[999, 999], [999, 700], [600, 700], [600, 100], [200, 0], [0, 0]])
EARLY_64 = np.array([[999, 999], [600, 800], [200, 600], [0, 300], [0, 100], [0, 0]])
CLEAN_32 = np.array([[999, 0], [700, 0], [400, 0], [100, 0], [0, 0]])

SAMPLINGS = {                                               # arguments of `build`, path, options of `sample`
    "baseline eps": (("baseline",), DIAGONAL, {}),
    "baseline v multistep": (("baseline", "v"), DIAGONAL, {"solver": "multistep"}),
    "baseline residual": (("baseline", "residual"), DIAGONAL, {}),
    "lift eps": (("lift",), DIAGONAL, {}),
    "lift v multistep, lead": (("lift", "v"), LEAD, {"solver": "multistep"}),
    "lift residual, standing still": (("lift", "residual"), STANDING_STILL, {}),
    "lift native_32 residual multistep, early 64": (("lift", "residual", True), EARLY_64, {"solver": "multistep"}),
    "lift eps multistep from_64, standing still": (("lift",), STANDING_STILL,
                                                   {"solver": "multistep", "x32_mode": "from_64"}),
    "lift v reconciled, lead": (("lift", "v"), LEAD, {"x32_mode": "reconciled"}),
    "lift native_32 v multistep reconciled, early 64": (("lift", "v", True), EARLY_64,
                                                        {"solver": "multistep", "x32_mode": "reconciled"}),
    "lift eps random": (("lift",), DIAGONAL, {"x32_mode": "random"}),
    "lift v multistep fixed, lead": (("lift", "v"), LEAD, {"solver": "multistep", "x32_mode": "fixed"}),
    "lift v, clean 32": (("lift", "v"), CLEAN_32, {"x_32_start": "smooth"}),
    "lift v eta 0.5, standing still": (("lift", "v"), STANDING_STILL, {"eta": 0.5}),
    "lift residual eta 1 random, lead": (("lift", "residual"), LEAD, {"eta": 1.0, "x32_mode": "random"})}


# --- comparing ---

PINS_FILE = REFERENCE / "pins.json"
WRITE = os.environ.get("PINS") == "write"
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve")
# Relative to the largest of the numbers compared. On the processor that made the pins, SSE4.1 and AVX2 code differ from
# AVX512 code by up to 1e-6, and by 1.5e-4 in the small difference of average and weights; another AVX2 processor by
# 1.3e-5.
ROUNDING, ROUNDING_OF_DIFFERENCE = 5e-5, 1e-3
# Of pixels in [-1, 1] where eta is above 0, on every machine: the formula of the variance may be written in other ways.
ROUNDING_OF_PIXELS = 1e-5


def machine() -> dict:
    """What rounding depends on: the processor, the instructions that are used of it, and torch."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read().partition("\n\n")[0]
        cpu = dict(re.findall(r"^(.*?)\s*: (.*)$", first, re.M))
    except OSError:
        cpu = {}
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {"machine": platform.machine(), "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            **{key: cpu.get(key) for key in ("vendor_id", "cpu family", "model")},
            "flags": " ".join(flag for flag in FLAGS if flag in flags),
            "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA")}


PINS = json.loads(PINS_FILE.read_text()) if PINS_FILE.exists() else {"machine": None}
COMPARED = "written" if WRITE else "bits" if PINS["machine"] == machine() else "rounding"


def check(kind, name, record) -> None:
    """Compare a record with the pinned one, or pin it."""
    record = json.loads(json.dumps(record))
    if WRITE:
        pin(kind, name, record)
        return
    assert name in PINS.get(kind, {}), f"{name}: not in {PINS_FILE.name}; PINS=write makes it"
    pinned = PINS[kind][name]
    assert record.keys() == pinned.keys()
    for key, expected in pinned.items():
        found = record[key]
        if key != "pixels" and (COMPARED == "bits" or key == "num_model_calls"):
            assert found == expected, f"{kind}, {name}, {key}: compared bit for bit"
        elif not key.startswith("hash"):
            assert np.shape(found) == np.shape(expected), key
            error, largest = np.abs(np.subtract(found, expected)).max(), np.abs(expected).max()
            bound = {"pixels": ROUNDING_OF_PIXELS, "summary_ema_less_raw": ROUNDING_OF_DIFFERENCE * largest}
            assert error <= bound.get(key, ROUNDING * largest), f"{kind}, {name}, {key}: compared up to rounding"


def pin(kind, name, record) -> None:
    """Write one record into the file of pins, in which other processes write as well."""
    with open(PINS_FILE, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        pins = json.loads(file.read() or "{}")
        if pins.get("machine") != machine():                # another machine's are worth nothing beside this one's
            pins = {"machine": machine()}
        for group, cases in (("trainings", TRAININGS), ("samplings", SAMPLINGS)):
            known = {**pins.get(group, {}), **({name: record} if group == kind else {})}
            pins[group] = {case: known[case] for case in cases if case in known}
        file.truncate(0)
        one_line_a_list = re.sub(r"\n +(?=[-\d\]])", " ", json.dumps(pins, indent=1))
        file.write(one_line_a_list + "\n")


def hash_of(tensors: dict) -> str:
    """SHA-256 over names, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def summary_of(tensors: dict) -> list[float]:
    """Four numbers from the mean and the root mean square of every convolution's weights, or of the images of a size.

    Of the vectors some are noise: a norm over single channels removes a bias, whose gradient is then rounding, and Adam
    turns that into steps of full size.
    """
    values = [tensors[name].double() for name in sorted(tensors) if tensors[name].ndim == 4]
    means, sizes = torch.tensor([[x.mean(), x.square().mean().sqrt()] for x in values], dtype=torch.float64).T
    angles = torch.arange(len(values), dtype=torch.float64)
    return [(angles.cos() * sizes).sum().item(), (angles.sin() * sizes).sum().item(),
            (angles.cos() * means).sum().item(), (angles.sin() * means).sum().item()]


def smooth_images(count, size) -> torch.Tensor:
    """[count, 3, size, size] in [-1, 1], of four by four patches that run into each other."""
    patches = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return torch.nn.functional.interpolate(patches, size=(size, size), mode="bilinear")


# --- trainings ---

def record_of(model_type, folder) -> dict:
    """What a training is pinned by: its log's losses, and its last weights, raw and averaged."""
    with open(folder / f"results/{NAMES[model_type]}_training.csv") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in ("loss", "loss_64", "loss_32") if rows[0][column]]
    record = {column: [float(row[column]) for row in rows] for column in columns}
    [path] = (folder / "checkpoints").glob("*_2ep.pth")
    content = torch.load(path, weights_only=True)
    raw, ema = content["model_state"], content["ema_state"]["shadow"]
    return record | {"hash_raw": hash_of(raw), "hash_ema": hash_of(ema), "summary_raw": summary_of(raw),
                     "summary_ema_less_raw": summary_of({name: ema[name] - raw[name] for name in ema})}


@pytest.fixture(scope="module")
def folder_for(tmp_path_factory):
    """folder_for(name): a training's folder, beside those of the others."""
    folder = tmp_path_factory.mktemp("pins")
    return lambda name: folder / name.replace(" ", "_")


def train_in_two_processes(model_type, folder, *options):
    in_two_processes(train, model_type, folder, *options)


def train_stopped_and_resumed(model_type, folder, *options):
    num_steps = 0

    def stop_once(*_):
        nonlocal num_steps
        num_steps += 1
        if num_steps == STOP_AFTER:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop_once)
    try:
        with pytest.raises(SystemExit) as stop:
            train(model_type, folder, *options)
    finally:
        hook.remove()
    assert stop.value.code == 128 + signal.SIGTERM and not list((folder / "checkpoints").glob("*ep.pth"))
    train(model_type, folder, *options, "--resume")
    train(model_type, folder.with_name("straight"), *options)
    assert record_of(model_type, folder) == record_of(model_type, folder.with_name("straight"))


@pytest.mark.parametrize("name", TRAININGS, ids=lambda name: f"{name}, {COMPARED}")
def test_training(name, folder_for):
    model_type, *options = TRAININGS[name]
    ways = {"lift two processes": train_in_two_processes, "lift stopped and resumed": train_stopped_and_resumed}
    ways.get(name, train)(model_type, folder_for(name), *options)
    record = record_of(model_type, folder_for(name))
    assert len(record["loss"]) == 8 and record["hash_raw"] != record["hash_ema"]
    check("trainings", name, record)


# --- samplings ---

@pytest.mark.parametrize("name", SAMPLINGS, ids=lambda name: f"{name}, {COMPARED}")
def test_sampling(name):
    arguments, path, options = SAMPLINGS[name]
    if "x_32_start" in options:
        options = {**options, "x_32_start": smooth_images(2, 32)}
    model, calls = build(*arguments), []
    model.register_forward_hook(lambda *_: calls.append(1))
    images, num_model_calls = sample(model, path, **options)
    assert num_model_calls == len(calls) == len(path) - 1
    record = {"num_model_calls": num_model_calls}
    if options.get("eta"):
        record["pixels"] = torch.cat([x[:, :, 14:17, 14:17].flatten() for x in images]).tolist()
    else:
        named = {str(x.shape[-1]): x for x in images}
        record |= {"hash": hash_of(named), "summary": summary_of(named)}
    assert all((x.abs() < 1).float().mean() > 0.1 for x in images)      # where all is clipped, differences are hidden
    check("samplings", name, record)
