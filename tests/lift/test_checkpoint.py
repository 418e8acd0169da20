"""Checkpoints: the earlier format, the weights inside, and everything that must be refused."""
import os

import numpy as np
import pytest
import torch

from engine import run_files
from lift import checkpoints
from engine import files
from conftest import reference_value
from engine.errors import InputError
from engine.files import check_can_be_written, load_torch, save_torch, written_together, written_whole

DIMS = [8, 16]


def earlier_checkpoint(model_type: str, with_average: bool = True) -> dict:
    """A checkpoint as the earlier implementation wrote it, with weights that tell raw from averaged."""
    model = checkpoints.build_model(model_type, DIMS)
    state = {name: torch.from_numpy(reference_value(name, tuple(value.shape)).astype(np.float32))
             for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    content = {"model_state": state, "hidden_dims": DIMS, "losses": [0.5, 0.25], "epochs": 2,
               "optimizer_state": optimizer.state_dict()}
    if with_average:
        content["ema_state"] = {"shadow": {name: value * 0.5 for name, value in state.items()}, "decay": 0.9999}
    return content


@pytest.mark.parametrize("model_type", ["baseline", "lift"])
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_earlier_format_loads_raw_and_averaged(tmp_path, model_type, weights):
    content = earlier_checkpoint(model_type)
    path = tmp_path / "anything_2ep.pth"
    torch.save(content, path)
    loaded = checkpoints.load_model(path, model_type, weights)
    factor = 0.5 if weights == "ema" else 1.0
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, content["model_state"][name] * factor), name
    assert (loaded.epochs, loaded.model_type, loaded.model.hidden_dims) == (2, model_type, DIMS)
    assert not loaded.model.training


def test_weights_asked_for_must_be_there(tmp_path):
    path = tmp_path / "baseline_2ep.pth"
    torch.save(earlier_checkpoint("baseline", with_average=False), path)
    with pytest.raises(InputError, match="no EMA weights; use --weights raw"):
        checkpoints.load_model(path, "baseline", "ema")
    with pytest.raises(InputError, match="is a baseline checkpoint, expected a lift checkpoint"):
        checkpoints.load_model(path, "lift", "raw")
    content = earlier_checkpoint("baseline")
    name, _ = content["ema_state"]["shadow"].popitem()
    torch.save(content, path)
    with pytest.raises(InputError, match=f"has no EMA weights for {name}, expected them for every parameter"):
        checkpoints.load_model(path, "baseline", "ema")
    assert checkpoints.load_model(path, "baseline", "raw").epochs == 2


def test_missing_truncated_and_foreign_files_are_told_apart(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(earlier_checkpoint("lift"), whole)
    for cut in (0, 10, 1000, whole.stat().st_size - 100):
        damaged = tmp_path / f"cut{cut}.pth"
        damaged.write_bytes(whole.read_bytes()[:cut])
        with pytest.raises(InputError, match=f"cut{cut}.pth.*(truncated|damaged)"):
            checkpoints.load_model(damaged)
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoints.load_model(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="found a folder"):
        checkpoints.load_model(tmp_path)
    foreign = tmp_path / "foreign.pth"
    torch.save({"weights": torch.zeros(3)}, foreign)
    with pytest.raises(InputError, match="no model_state and no hidden_dims"):
        checkpoints.load_model(foreign)
    for name, content in (("picture", b"\x89PNG\r\n\x1a\n" + bytes(100)), ("text", b"hello, this is text\n"),
                          ("table", b"a,b\n1,2\n"), ("random", np.random.RandomState(0).bytes(500))):
        (tmp_path / f"{name}.pth").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.pth: is truncated, damaged or foreign, expected a checkpoint"):
            checkpoints.load_model(tmp_path / f"{name}.pth")


def test_fingerprint_is_of_the_file_that_was_read_though_another_takes_its_place(tmp_path, monkeypatch):
    path, other = tmp_path / "lift_2ep.pth", tmp_path / "other.pth"
    torch.save(earlier_checkpoint("lift"), path)
    torch.save({**earlier_checkpoint("lift"), "losses": []}, other)
    fingerprint = files.sha256_of_file(path)[:16]
    read = torch.load

    def replace_and_read(*args, **options):
        os.replace(other, path)
        return read(*args, **options)

    monkeypatch.setattr(torch, "load", replace_and_read)
    assert checkpoints.load_model(path).fingerprint == fingerprint != files.sha256_of_file(path)[:16]


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(tmp_path):
    content = earlier_checkpoint("lift")
    content["hidden_dims"] = [8, 24]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="do not fit a lift model"):
        checkpoints.load_model(tmp_path / "a.pth")
    content = earlier_checkpoint("lift")
    content["ema_state"]["shadow"]["init_conv.bias"][0] = float("nan")
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(InputError, match="ema weight init_conv.bias is not finite"):
        checkpoints.load_model(tmp_path / "b.pth")


@pytest.mark.parametrize("change", [
    {"model_state": [1, 2]}, {"model_state": {1: torch.zeros(1)}}, {"hidden_dims": "many"}, {"hidden_dims": 8},
    {"ema_state": {"decay": 0.9}}, {"ema_state": [1]}, {"epochs": "two"}])
def test_foreign_content_is_named(tmp_path, change):
    path = tmp_path / "lift_2ep.pth"
    torch.save({**earlier_checkpoint("lift"), **change}, path)
    with pytest.raises(InputError, match="lift_2ep.pth: its content is not what a checkpoint holds"):
        checkpoints.load_model(path)


def test_parametrization_is_kept_and_an_unknown_one_is_named(tmp_path):
    path = tmp_path / "lift_2ep.pth"
    for content, expected in (({}, "eps"), ({"parametrization": "eps"}, "eps"), ({"parametrization": "v"}, "v")):
        torch.save({**earlier_checkpoint("lift"), **content}, path)
        assert checkpoints.load_model(path).model.parametrization == expected
    for foreign in ("x0", 3, ["v"]):
        torch.save({**earlier_checkpoint("lift"), "parametrization": foreign}, path)
        with pytest.raises(InputError, match="lift_2ep.pth: its parametrization is .*, expected eps, v, residual"):
            checkpoints.load_model(path)


def test_a_weight_changed_in_the_file_is_noticed(tmp_path):
    path = tmp_path / "lift_2ep.pth"
    content = earlier_checkpoint("lift")
    torch.save(content, path)
    weight = next(value for value in content["model_state"].values() if value.numel() > 100).numpy().tobytes()
    whole = path.read_bytes()
    at = whole.index(weight)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    with pytest.raises(InputError, match="truncated, damaged or foreign"):
        checkpoints.load_model(path)
    path.write_bytes(whole)
    assert checkpoints.load_model(path).model_type == "lift"


@pytest.mark.parametrize("output, message", [
    ("", "expected the name of a file"), ("/", "expected the name of a file"), ("folder", "is a folder"),
    ("file/x.json", "is a file, not a folder")])
def test_outputs_that_cannot_be_made_are_refused_before_any_work(tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        check_can_be_written(output)
    check_can_be_written("new/folder/x.json")
    assert not (tmp_path / "new").exists()


class Intruder:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({**earlier_checkpoint("lift"), "surprise": Intruder(trace)}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="holds a pickled object.*refused"):
        checkpoints.load_model(tmp_path / "evil.pth")
    assert not trace.exists()
    function, arguments = Intruder(trace).__reduce__()
    function(*arguments)                                        # the trap itself works: the check above can fail
    assert trace.exists()


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"earlier")
    with pytest.raises(InputError, match="could not be written"):
        with written_whole(path) as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError):
        with written_whole(path) as file:
            file.write(b"half")
            1 / 0
    assert path.read_bytes() == b"earlier" and os.listdir(tmp_path) == ["file.bin"]
    save_torch(path, {"a": torch.arange(3)})
    assert load_torch(path)["a"].tolist() == [0, 1, 2] and os.listdir(tmp_path) == ["file.bin"]


def write(path, text: str) -> None:
    with written_whole(path, "w") as file:
        file.write(text)


def test_files_written_together_are_all_there_or_none(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, "earlier")
    for failure in (OSError(28, "No space left on device"), ZeroDivisionError()):
        with pytest.raises((InputError, ZeroDivisionError)), written_together():
            write(a, "new")
            assert a.read_text() == "earlier"
            with written_whole(b, "w"):
                raise failure
        assert a.read_text() == "earlier" and os.listdir(tmp_path) == ["a"]
    with written_together():
        write(a, "first")
        write(a, "new")
        write(b, "new too")
    assert (a.read_text(), b.read_text()) == ("new", "new too") and sorted(os.listdir(tmp_path)) == ["a", "b"]
    write(a, "alone")
    assert a.read_text() == "alone"


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    save_torch(tmp_path / "a.pth", {})

    def refused(*_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(files, "open", refused, raising=False)
    with pytest.raises(InputError, match="a.pth: could not be read .Permission denied.; check its permissions"):
        load_torch(tmp_path / "a.pth")


def test_states_are_ordered_kept_to_two_and_told_from_other_names(tmp_path):
    for step in (5, 20, 100):
        run_files.save_state(tmp_path, "run", {"step": step})
    run_files.save_state(tmp_path, "run_b", {"step": 7})
    (tmp_path / "run_step00000200.state.pth.tmp99").write_bytes(b"half")
    assert [p.name for p in run_files.list_states(tmp_path, "run")] == ["run_step00000020.state.pth",
                                                                        "run_step00000100.state.pth"]
    for epoch in (100, 20):
        save_torch(run_files.checkpoint_path(tmp_path, "run", epoch), {})
    save_torch(run_files.checkpoint_path(tmp_path, "run_b", 3), {})
    assert [run_files.epoch_of(p) for p in run_files.list_checkpoints(tmp_path, "run")] == [20, 100]


def test_damaged_newest_state_is_named_and_passed_over(tmp_path, capsys):
    for step in (5, 9):
        run_files.save_state(tmp_path, "run", {"step": step})
    newest = run_files.state_path(tmp_path, "run", 9)
    newest.write_bytes(newest.read_bytes()[:50])
    path, state = run_files.newest_good_state(tmp_path, "run")
    assert state["step"] == 5 and "run_step00000009.state.pth" in capsys.readouterr().out
    path.write_bytes(b"")
    with pytest.raises(InputError, match="all 2 training states of run are damaged"):
        run_files.newest_good_state(tmp_path, "run")
    assert run_files.newest_good_state(tmp_path, "other") is None


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/sub/x.pth: could not be written"):
        save_torch(tmp_path / "file/sub/x.pth", {})
