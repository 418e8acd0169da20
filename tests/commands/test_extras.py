"""A package of an extra that is missing: every command that needs it says so in one line."""
import contextlib
import importlib
import sys

import pytest

from distill.student import few_steps_of
from engine.errors import InputError
from engine.files import save_torch

LARGE = ("diffusers", "transformers", "peft")
COMMANDS = [("distill.train", LARGE, "--model_id model --prompts prompts.txt"),
            ("distill.evaluate_prompts", LARGE, "--model_id model --prompts prompts.txt --output_dir images"),
            ("distill.evaluate_prompts", LARGE, "--checkpoint student.pth --prompts prompts.txt --output_dir images"),
            ("distill.save_pipeline", LARGE, "--checkpoint student.pth --output_dir folder"),
            ("flow.train", ("diffusers",), "--vae folder"), ("demo.__main__", ("gradio",), "")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with prompts, a model in diffusers' layout and a student, as far as they are read."""
    (tmp_path / "prompts.txt").write_text("a house\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model_index.json").write_text("{}")
    save_torch(tmp_path / "student.pth", {"family": "text_to_image", "model_id": "model", "resolution": 16,
                                          "model_state": {}, "few_steps": few_steps_of([[999]], [[999]], "free")})
    monkeypatch.chdir(tmp_path)
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):         # set by the demo, and for this test alone
        monkeypatch.setenv(name, "1")
    return tmp_path


def told_without(package, monkeypatch, work) -> str:
    """What is said where a package cannot be imported. diffusers notes at its first import, for the whole process,
    which others are there: so all are imported before one is hidden."""
    for name in LARGE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as error:
        work()
    return str(error.value)


@pytest.mark.parametrize("command, package, words", [
    (command, package, words) for command, packages, words in COMMANDS for package in packages])
def test_a_command_names_the_extra_that_is_missing(folder, monkeypatch, command, package, words):
    main = importlib.import_module(command).main
    monkeypatch.setattr(sys, "argv", [command, *words.split()])
    before = sorted(path.name for path in folder.rglob("*.p*"))
    said = told_without(package, monkeypatch, main)
    extra = "large" if package in LARGE else "demo"
    assert f"needs the package {package}, which is not installed" in said and f"pip install '.[{extra}]'" in said
    assert "\n" not in said and sorted(path.name for path in folder.rglob("*.p*")) == before


def test_the_page_says_so_of_a_text_to_image_model(folder, monkeypatch):
    from demo.found import look_at
    from demo.generation import open_checkpoint
    for path in (folder / "model", folder / "student.pth"):
        said = told_without("transformers", monkeypatch, lambda: open_checkpoint(look_at(path), "ema", "cpu"))
        assert "needs the package transformers" in said and "pip install '.[large]'" in said
