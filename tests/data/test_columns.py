"""--image_column and --label_column: commands that have them hand them to `load_images`, and no other advises them."""
import ast
from importlib import import_module

import pytest

import data
from conftest import ROOT, write_tiny_checkpoints
from distill.options import parse
from engine.errors import InputError

ASKED = {"image_column": "picture", "label_column": "species"}
WORDS = ["--image_column", "picture", "--label_column", "species", "--device", "cpu", "--num_threads", "1"]
# Text-to-image has no such options, and drawn digits, which a judge may be trained on, have no columns.
WITHOUT = {"distill/text_to_image_task.py", "distill/prompt_images.py", "evaluation/digit_scores.py"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoints(tmp_path_factory.mktemp("columns"))


class Asked(Exception):
    """Images were asked for."""


@pytest.mark.parametrize("command, words", [
    ("train_baseline", []), ("train_lift", []), ("flow.train", ["--patch_size", "16"]),
    ("distill.train", ["--teacher", "baseline", "--cls_on_clean_image", "--gen_cls_loss", "--dataset", "pictures"]),
    ("compute_heatmap_30", ["--checkpoint", "lift_dual_timestep"]),
    ("eval_fid_batch", ["--checkpoint", "baseline", "--metrics", "swd"]),
    ("evaluation.noise_floor", ["--metrics", "swd"]), ("lift.compute_schedule", ["--checkpoint", "baseline"]),
    ("lift.eval_mse", ["--checkpoint", "lift_dual_timestep"]),
    ("lift.super_resolve", ["--checkpoint", "lift_dual_timestep"]), ("mnist.score", []),
    ("mnist.train_vae", ["--image_size", "28", "--channels", "1"])])
def test_a_command_hands_them_on(command, words, folder, tmp_path, monkeypatch):
    def load_images(*_, **how):
        assert how.items() >= ASKED.items()
        raise Asked
    for module in (import_module(command), data, *map(import_module, (
            "lift.tasks", "flow.training", "mnist.tasks", "evaluation.digit_scores"))):
        monkeypatch.setattr(module, "load_images", load_images, raising=False)
    words = [str(folder / f"{word}_1ep.pth") if word in ("baseline", "lift_dual_timestep") else word for word in words]
    monkeypatch.setattr("sys.argv", [command, *words, *WORDS])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Asked):
        import_module(command).main()


def test_no_call_forgets_them():
    """A call for the images of --dataset, in a room whose commands have the options."""
    calls = {}
    for path in [*ROOT.glob("*.py"), *(path for room in ("evaluation", "lift", "flow", "mnist", "distill")
                                       for path in (ROOT / room).glob("*.py"))]:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and "load_images" in ast.unparse(node.func):
                calls.setdefault(name, []).append(any(word.arg is None for word in node.keywords))
    assert len(calls) >= 12
    assert {name for name, given in calls.items() if not all(given)} == WITHOUT


def test_a_text_to_image_model_takes_its_captions_column_alone(tmp_path):
    with pytest.raises(InputError, match="--image_column: found picture, which has no effect with --model_id"):
        parse(["--model_id", str(tmp_path), "--image_column", "picture"])
