"""Training states of which every process writes its part: any number of processes goes on from them."""
import pickle
import shutil

import pytest
import torch

from conftest import in_two_processes, run_in_turn
from engine import run_files, sharded_state
from engine.errors import InputError
from engine.files import load_torch
from test_loop import AlternatingTask, ROUNDING, arguments, losses_of, run, run_quietly

SHARDED = ("--sharded_state",)


def checkpoint_of(folder) -> dict:
    return load_torch(run_files.list_checkpoints(folder / "checkpoints", "mine")[-1])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run in one process that keeps its states in one file each."""
    folder = tmp_path_factory.mktemp("straight")
    run(folder)
    return folder


def assert_equal(one, other, **tolerance):
    for key in ("model_state", "ema_state"):
        a, b = (content[key] if key == "model_state" else content[key]["shadow"] for content in (one, other))
        torch.testing.assert_close(a, b, **tolerance or {"atol": 0, "rtol": 0})


def test_one_process_resumes_bit_for_bit(straight, tmp_path):
    run(tmp_path, *SHARDED, stop_after=5)
    state = run_files.list_states(tmp_path / "checkpoints", "mine")[-1]
    assert "model_state" not in load_torch(state) and run_files.tensors_folder(state).is_dir()
    orphan = run_files.tensors_folder(run_files.state_path(tmp_path / "checkpoints", "mine", 7))
    orphan.mkdir()                              # as a kill leaves it that comes before the state's file
    run(tmp_path, "--resume", *SHARDED)
    assert not orphan.exists()
    assert_equal(checkpoint_of(tmp_path), checkpoint_of(straight))
    assert losses_of(tmp_path) == losses_of(straight)
    kept = run_files.list_states(tmp_path / "checkpoints", "mine")
    assert {run_files.tensors_folder(path) for path in kept} == set((tmp_path / "checkpoints").glob("*.tensors"))


def test_either_kind_of_state_resumes_the_other(straight, tmp_path):
    for before, after in ((SHARDED, ()), ((), SHARDED)):
        folder = tmp_path / f"{len(before)}"
        run(folder, *before, stop_after=6)
        run(folder, "--resume", *after)
        assert_equal(checkpoint_of(folder), checkpoint_of(straight))


def test_two_processes_and_one_go_on_from_each_other(straight, tmp_path):
    two_first, one_first, more = tmp_path / "two then one", tmp_path / "one then two", ("--fsdp", *SHARDED)
    run(one_first, *SHARDED, stop_after=5)
    in_two_processes(run_in_turn, [(run_quietly, two_first, 5, *more),
                                   (run_quietly, one_first, None, "--resume", *more)])
    parts = next((two_first / "checkpoints").glob("*.tensors")).glob("*.distcp")
    assert len(list(parts)) == 2                                    # each wrote its own
    run(two_first, "--resume", *SHARDED)
    for folder in (two_first, one_first):
        assert losses_of(folder) == pytest.approx(losses_of(straight), **ROUNDING), folder
        assert_equal(checkpoint_of(folder), checkpoint_of(straight), atol=1e-4, rtol=1e-4)


def test_a_state_cut_short_is_passed_over(straight, tmp_path, capsys):
    run(tmp_path, *SHARDED, "--state_every", "4", stop_after=9)
    last = run_files.list_states(tmp_path / "checkpoints", "mine")[-1]
    part = next(run_files.tensors_folder(last).glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1])
    run(tmp_path, "--resume", *SHARDED)
    said = capsys.readouterr().out
    assert "passing over a damaged training state" in said and "at step 8 of" in said
    assert_equal(checkpoint_of(tmp_path), checkpoint_of(straight))


class Calls:
    def __reduce__(self):
        return print, ("called",)


def test_nothing_in_a_table_of_contents_is_called(tmp_path, capsys):
    task = AlternatingTask(arguments(tmp_path))
    optimizers = {name: torch.optim.AdamW(network.parameters()) for name, network in task.networks.items()}
    folder = tmp_path / "x.state.tensors"
    sizes = sharded_state.save(folder, task.networks, {}, optimizers)
    assert ".metadata" in sizes and all(size > 0 for size in sizes.values())
    sharded_state.load(folder, task.networks, {}, optimizers)
    contents = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(pickle.dumps(Calls()))
    with pytest.raises(InputError, match="names builtins.print"):
        sharded_state.load(folder, task.networks, {}, optimizers)
    assert "called" not in capsys.readouterr().out
    (folder / ".metadata").write_bytes(contents)
    with pytest.raises(InputError, match="6 tensors are in it or in this training alone, first critic"):
        sharded_state.load(folder, {"generator": task.networks["generator"]}, {}, {})
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="missing, damaged or foreign"):
        sharded_state.load(folder, task.networks, {}, optimizers)
