"""Shared ground of the tests: modules importable from the repository root, one thread, the reference weights."""
import functools
import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

# Torch is loaded where it is used: the process that hands tests to two workers loads this file too, and waits for it.
from engine.command_line import run_script
from lift.options import DEFAULT_NAMES

os.environ["HF_HUB_OFFLINE"] = "1"      # read when the hub's client is loaded; else it goes on asking for half a minute

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(__file__).resolve().parent / "reference"

# Sizes of EDM's published network of ImageNet at 64 pixels.
IMAGENET_64 = {"resolution": 64, "base_channels": 192, "mult": (1, 2, 3, 4), "num_blocks": 3,
               "attention_at": (32, 16, 8), "num_classes": 1000}

# Names in a module of tests that forks from the server below, or that loads diffusers or gradio: seconds each, for a
# worker.
FORKING = {"forks", "in_two_processes", "command_in_a_fork", "killed_and_resumed"}
LOADING = {"tiny_models", "save_tiny_vae", "save_autoencoder", "diffusers", "shelf_folder"}


@pytest.hookimpl(trylast=True)                          # once the slow ones are out
def pytest_collection_modifyitems(items):
    """Of two workers, who begin with a half each, the first starts the server and the other loads what is large; what
    they then take from each other is the end of a half. Where there is no GPU, the tests marked gpu are skipped."""
    import torch
    forking, loading, others = [], [], []
    for item in items:
        names = vars(item.module).keys()
        (others if names.isdisjoint(FORKING | LOADING) else loading if names.isdisjoint(FORKING) else forking).append(
            item)
    in_first_half = max(len(items) // 2 - len(forking), 0)
    items[:] = [*forking, *others[:in_first_half], *loading, *others[in_first_half:]]
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What the imports make stays: the collector of cycles need not look at a million objects again and again. What
    tests make and leave behind is little, so it looks seldom."""
    gc.disable()
    try:
        result = yield
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
    finally:
        gc.enable()
    return result


def reference_value(name: str, shape) -> np.ndarray:
    """One entry of the reference weights: drawn from the CRC of its name, scaled by what kind of entry it is."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name or name.startswith("final_conv.0"):
        return 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
    return 0.02 * r if name.endswith("bias") else r / np.sqrt(np.prod(shape[1:]))


def with_reference_weights(model):
    """Fill a model with the weights that the golden outputs were made with; eval mode."""
    import torch
    weights = {name: torch.from_numpy(reference_value(name, tuple(value.shape)).astype(np.float32))
               for name, value in model.named_parameters()}
    model.load_state_dict({**model.state_dict(), **weights})
    return model.eval()


def write_tiny_checkpoints(folder: Path, epochs: int = 1, hidden_dims=(8, 8, 8)) -> Path:
    """A baseline and a LIFT checkpoint of tiny random models, as after so many epochs, in `folder`."""
    import torch
    from engine import files, run_files
    from lift import checkpoints
    torch.manual_seed(0)
    for model_type, name in DEFAULT_NAMES.items():
        state = checkpoints.build_model(model_type, hidden_dims).state_dict()
        files.save_torch(run_files.checkpoint_path(folder, name, epochs), {
            "model_state": state, "ema_state": {"shadow": state, "decay": 0.9}, "hidden_dims": list(hidden_dims),
            "model_type": model_type, "epochs": epochs, "step": 1, "losses": [], "options": {}})
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread_and_no_loss_curves():
    """Drawing one takes longer than a tiny run; tests marked `draws` have them."""
    import torch
    from engine import loop
    torch.set_num_threads(1)
    loop.Loop.draws_curves = False


@pytest.fixture(scope="session", autouse=True)
def faces_drawn_once():
    """A face depends on its index alone (test_synthetic.py draws each anew) and takes as long as a training's step;
    hundreds of tests start from the same ones."""
    from engine import synthetic_faces
    draw = synthetic_faces.draw

    @functools.cache
    @functools.wraps(draw)
    def kept(index: int) -> np.ndarray:
        image = draw(index)
        image.flags.writeable = False
        return image
    synthetic_faces.draw = kept


@pytest.fixture(autouse=True)
def with_loss_curves(request, monkeypatch):
    """What the mark `draws` asks for."""
    if request.node.get_closest_marker("draws"):
        monkeypatch.setattr("engine.loop.Loop.draws_curves", True)


@pytest.fixture(scope="session")
def golden() -> dict:
    """The golden arrays by name."""
    with np.load(REFERENCE / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def reference_shapes():
    """model type -> {parameter name: shape} at the default hidden dims."""
    return {model_type: json.loads((REFERENCE / f"state_dict_{model_type}.json").read_text())
            for model_type in ("baseline", "lift")}


def blank_v_model(model_type: str):
    """Puts out v = 0: noise sqrt(1 - abar) x_t, clean image sqrt(abar) x_t."""
    import torch
    from lift import checkpoints
    model = checkpoints.build_model(model_type, [8, 16], "v").eval()
    torch.nn.init.zeros_(model.final_conv[-1].weight)
    torch.nn.init.zeros_(model.final_conv[-1].bias)
    return model


def find_browser() -> str:
    """Chromium's program; the test is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    pytest.skip("no chromium on this machine (Debian: apt-get install chromium): the page was not opened in a browser")


def wait_until(condition) -> None:
    """Return once `condition()` is true; fails after three minutes."""
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "waited for three minutes in vain"
        time.sleep(0.02)


def forks():
    """For processes that train: they are forked from a server that has everything loaded already, and draw no loss
    curves. The process of the tests itself cannot be forked for that, since its own backward passes may have started
    threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    with pytest.MonkeyPatch.context() as patch:         # a server that is started elsewhere would find no module
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        forkserver.ensure_running()
    return context


def say_into(*streams) -> None:
    """From now on this process writes its standard output, and its standard error, into these files."""
    for descriptor, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def run_as_command(main, words, streams, prepare) -> None:
    """What `command_in_a_fork` does there."""
    say_into(*streams)
    sys.argv = [str(word) for word in words]
    if prepare is not None:
        prepare()
    run_script(main)


def command_in_a_fork(main, words, folder, prepare=None) -> subprocess.CompletedProcess:
    """A command's main, called with these words in a process of `forks`; what it says passes through files in `folder`.

    prepare: a function that is called there first.
    """
    streams = [folder / "stdout.txt", folder / "stderr.txt"]
    for path in streams:
        path.unlink(missing_ok=True)
    child = forks().Process(target=run_as_command, args=(main, words, streams, prepare))
    child.start()
    child.join()
    return subprocess.CompletedProcess(words, child.exitcode, *(path.read_text() for path in streams))


def killed_and_resumed(folder, *options, prepare=None) -> dict:
    """The verdict of the benchmark that kills trainings: {"ok", "num_kills", ...}; prepare: of `command_in_a_fork`."""
    from scripts.benchmarks import resume_after_kills
    done = command_in_a_fork(resume_after_kills.main, ["resume_after_kills", *options], folder, prepare)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def in_two_processes(function, *arguments, start_method: str = "forkserver") -> list:
    """What a function of a module returns in each of two processes, started as by torchrun, but by `forks`.

    start_method: "fork" in a process that itself comes from `forks`.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    if start_method == "forkserver":
        forks()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                          run_id="tests", max_restarts=0, monitor_interval=0.1, start_method=start_method)
    returned = elastic_launch(config, function)(*arguments)
    for number, handler in handlers.items():                # the launcher leaves its own behind
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    return [returned[rank] for rank in sorted(returned)]


def run_in_turn(runs) -> list:
    """What one of two processes does: runs [(function, *arguments)] one after the other, and what each returned. All in
    one group: a second one in the same process could meet the addresses that the first one left in the store."""
    from engine import distributed
    leave, distributed.leave = distributed.leave, lambda: None
    found = [function(*arguments) for function, *arguments in runs]
    leave()
    return found
