"""A flow that is killed, some of the times in the middle of a save, and resumed ends as one that was not; in pixels and
in latents. Two processes agree with one."""
import sys

import pytest
import torch

from conftest import in_two_processes, killed_and_resumed, run_in_turn
from engine.files import load_torch
from engine.run_files import list_checkpoints, list_states
from flow import train
from scripts.benchmarks.training_runs import SMALL_FLOW
from test_latents import save_tiny_vae


def check(verdict: dict, num_kills: int) -> None:
    assert verdict["ok"] and verdict["num_different_tensors"] == 0 and verdict["num_tensors"] > 20
    assert verdict["num_kills"] == num_kills and verdict["num_half_written"] >= 1


def test_four_kills_in_pixels(tmp_path):
    options = ["--family", "flow", "--kills", 4, "--max_steps", 60, "--longest", 0.3, "--seed", 4]
    check(killed_and_resumed(tmp_path, *options), 4)


@pytest.mark.slow
@pytest.mark.parametrize("in_latents", [False, True])
def test_twenty_kills(tmp_path, in_latents):
    options = ["--family", "flow", "--kills", 20]
    if in_latents:
        save_tiny_vae(tmp_path / "vae")
        options += ["--vae", tmp_path / "vae", "--max_steps", 400, "--longest", 2.0]
    else:                                               # so fast that 400 steps are over after a few kills
        options += ["--max_steps", 1600, "--longest", 0.6]
    check(killed_and_resumed(tmp_path, *options), 20)


def run_flow(folder, words) -> str:
    """Train in this process, or in each of two; -> the folder."""
    sys.argv = ["flow.train", *words, "--checkpoint_dir", f"{folder}/checkpoints", "--output_dir", f"{folder}/results"]
    train.main()
    return str(folder)


WAYS = {"one scale": (), "two scales": ("--scales", "16", "8", "--grad_accum", "2")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the folders of runs, "one NAME" and "two NAME" by the number of processes and the name in `WAYS`;
    one start makes all those of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*SMALL_FLOW, "--cache_dir", str(folder / "cache"), "--max_steps", "6", "--epochs", "1",
             "--learning_rate", "1e-3", "--log_every", "1"]
    calls = {number: [(run_flow, folder / f"{number} {name}", [*words, *more]) for name, more in WAYS.items()]
             for number in ("one", "two")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        for call, *given in calls["one"]:
            call(*given)
    in_two_processes(run_in_turn, calls["two"])
    return folder


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_agree_with_one(runs, name):
    one, two = (load_torch(list_states(runs / f"{number} {name}" / "checkpoints", "flow")[-1])
                for number in ("one", "two"))
    assert len(one["log"]) == 6
    for row, other in zip(one["log"], two["log"]):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-6)
        empty, others = ([key for key, value in each.items() if value == ""] for each in (row, other))
        assert empty == others
    for key, value in one["model_state"].items():
        assert torch.allclose(two["model_state"][key], value, rtol=0, atol=1e-6), key
    assert len(list_checkpoints(runs / f"two {name}" / "checkpoints", "flow")) == 1
