"""Shared ground of the tests: modules importable from the repository root, one thread, the reference weights."""
import json
import multiprocessing
import shutil
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from engine import files, loop, run_files
from lift import checkpoints
from lift.options import DEFAULT_NAMES

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(__file__).resolve().parent / "reference"

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Where there is no GPU, the tests marked gpu are skipped."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def reference_value(name: str, shape) -> np.ndarray:
    """One entry of the reference weights: drawn from the CRC of its name, scaled by what kind of entry it is."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name or name.startswith("final_conv.0"):
        return 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
    return 0.02 * r if name.endswith("bias") else r / np.sqrt(np.prod(shape[1:]))


def with_reference_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Fill a model with the weights that the golden outputs were made with; eval mode."""
    weights = {name: torch.from_numpy(reference_value(name, tuple(value.shape)).astype(np.float32))
               for name, value in model.named_parameters()}
    model.load_state_dict({**model.state_dict(), **weights})
    return model.eval()


def write_tiny_checkpoints(folder: Path) -> Path:
    """A baseline and a LIFT checkpoint of tiny random models, as after one epoch, in `folder`."""
    torch.manual_seed(0)
    for model_type, name in DEFAULT_NAMES.items():
        state = checkpoints.build_model(model_type, [8, 8, 8]).state_dict()
        files.save_torch(run_files.checkpoint_path(folder, name, 1), {
            "model_state": state, "ema_state": {"shadow": state, "decay": 0.9}, "hidden_dims": [8, 8, 8],
            "model_type": model_type, "epochs": 1, "step": 1, "losses": [], "options": {}})
    return folder


@pytest.fixture(scope="session", autouse=True)
def without_loss_curves():
    """Drawing one takes longer than a tiny run; tests marked `draws` have them."""
    loop.Loop.draws_curves = False


@pytest.fixture(autouse=True)
def with_loss_curves(request, monkeypatch):
    """What the mark `draws` asks for."""
    if request.node.get_closest_marker("draws"):
        monkeypatch.setattr(loop.Loop, "draws_curves", True)


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


def blank_v_model(model_type: str) -> torch.nn.Module:
    """Puts out v = 0: noise sqrt(1 - abar) x_t, clean image sqrt(abar) x_t."""
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
    """Return once `condition()` is true; fails after a minute."""
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "waited for three minutes in vain"
        time.sleep(0.02)


def forks():
    """For processes that train: they are forked from a server that has torch loaded already. The process of the tests
    itself cannot be forked for that, since its own backward passes may have started threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "train_lift", "engine.loop", "lift.tasks", "distill.task", "families"])
    return context


def in_two_processes(function, *arguments) -> list:
    """What a function of a module returns in each of two processes, started as by torchrun, but by `forks`."""
    forks()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                          run_id="tests", max_restarts=0, monitor_interval=0.1, start_method="forkserver")
    returned = elastic_launch(config, function)(*arguments)
    for number, handler in handlers.items():                # the launcher leaves its own behind
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    return [returned[rank] for rank in sorted(returned)]
