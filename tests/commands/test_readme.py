"""The README's own commands, as a stranger would run them: in a fresh checkout, in their order."""
import functools
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from string import Template

import pytest

from conftest import ROOT, command_in_a_fork
from engine.errors import InputError

TEXTS_OF_ROOMS = ("flow", "mnist", "distill", "lift", "evaluation", "demo")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks_of(heading: str) -> list[str]:
    """The bash blocks below a heading of the README, up to the next heading."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.M | re.S).group(1)
    return re.findall(r"```bash\n(.*?)```", section, re.S)


@pytest.fixture
def checkout(tmp_path):
    """The files that git knows, and no others, in an empty folder; without pictures, which no command reads."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True,
                           check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if not name.endswith(".png") and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def run_first_trainings(python, folder, **environment) -> None:
    """The blocks of the first trainings in one shell; quickstart.sh and test.sh above them are too long for that."""
    blocks = [*blocks_of("The first training"), *blocks_of("Your own images")]
    assert len(blocks) == 2 and set(re.findall(r"^## (.*)", README, re.M)) > {"Two commands", "Your own images"}
    done = subprocess.run(["bash", "-e", "-c", "".join(blocks)], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "VENV": "none", "PYTHON": str(python), **environment})
    assert done.returncode == 0, done.stderr[-2000:]


def check_first_trainings(folder) -> None:
    """What they leave behind."""
    for path in ("checkpoints/baseline_1ep.pth", "checkpoints/lift_dual_timestep_1ep.pth", "results/baseline_run.json",
                 "checkpoints/mine_1ep.pth"):
        assert (folder / path).is_file(), path
    assert len(list(folder.glob("generated/**/*.png"))) == 4


@pytest.mark.slow                       # four starts of Python with torch take ten times as long as what they do
def test_the_commands_of_first_trainings_run_as_they_stand(checkout):
    run_first_trainings(sys.executable, checkout, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    check_first_trainings(checkout)


def test_the_first_trainings_do_what_they_say(tmp_path):
    """A Python that takes notes stands for the real one; its notes run in forks, on one thread, in an empty folder."""
    python, notes, folder = tmp_path / "python", tmp_path / "notes", tmp_path / "work"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" ";" >> "$NOTES"\n')
    python.chmod(0o755)
    folder.mkdir()
    run_first_trainings(python, ROOT, NOTES=str(notes))
    commands = [command.split("\n") for command in notes.read_text().split("\n;\n")[:-1]]
    assert [command[0] for command in commands] == ["train_baseline.py", "train_lift.py", "generate_with_path_30.py",
                                                    "train_lift.py"]
    for command in commands:
        done = command_in_a_fork(importlib.import_module(command[0].removesuffix(".py")).main,
                                 [*command, "--num_threads", "1"], tmp_path,
                                 functools.partial(os.chdir, folder))
        assert done.returncode == 0, done.stderr[-2000:]
    check_first_trainings(folder)


def test_the_only_commands_of_the_readme_are_those_that_are_tested():
    assert len(re.findall(r"```bash\n", README)) == 1 + 2
    [two] = blocks_of("Two commands")
    assert re.findall(r"^(\S+)", two, re.M) == ["./scripts/quickstart.sh", "./scripts/test.sh"]


def python_commands_of(text: str) -> list[list[str]]:
    """The words behind `python`, or behind `torchrun` and its options, of every command in a text's bash blocks."""
    values, commands = {}, []
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(Template(line).safe_substitute(values), comments=True)
            if len(words) == 1 and "=" in words[0]:
                values |= [words[0].split("=", 1)]
            elif words[:1] == ["torchrun"]:
                first = next(k for k, word in enumerate(words) if word.endswith(".py") or word == "-m")
                commands.append(words[first:])
            elif words[:1] == ["python"]:
                commands.append(words[1:])
    return commands


def parse_only(words: list[str], monkeypatch) -> None:
    """Give a command's words to its parser. A verb of digits parses inside its run, which ends before the training."""
    name, *rest = words[1:] if words[0] == "-m" else [words[0].removesuffix(".py"), *words[1:]]
    monkeypatch.setattr(sys, "argv", [name, *rest])
    module = importlib.import_module("demo.__main__" if name == "demo" else name)
    for parse in ("parse_args", "parse_options", "parse"):
        if hasattr(module, parse):
            getattr(module, parse)()
            return
    monkeypatch.setattr("mnist.training.train_into_folder", lambda make_task, args: None)
    runpy.run_path(module.__file__, run_name="__main__")


@pytest.mark.parametrize("room", TEXTS_OF_ROOMS)
def test_every_command_of_a_rooms_text_is_one_that_its_parser_takes(room, monkeypatch, tmp_path):
    commands = python_commands_of((ROOT / room / "README.md").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    for words in commands:
        try:
            parse_only(words, monkeypatch)
        except (InputError, SystemExit) as error:
            pytest.fail(f"{room}/README.md: {shlex.join(words)}: {error}")
    assert commands or room == "evaluation"


def test_a_command_that_its_parser_refuses_is_found(monkeypatch):
    [words] = python_commands_of("```bash\nfile=a.pth   # of any run\ntorchrun --nproc_per_node=2 -m flow.train \\\n"
                                 "    --val_split $file  # refused\n./scripts/test.sh\n```\n")
    assert words == ["-m", "flow.train", "--val_split", "a.pth"]
    with pytest.raises(InputError, match="--val_split: found a.pth, which has no effect without --val_every"):
        parse_only(words, monkeypatch)


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.encode()) <= 10_000
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    assert len(targets) >= 5
    for target in targets:
        assert (ROOT / target).exists(), target


def test_every_published_picture_is_shown_by_a_text():
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("results/published/*/*.md")]
    shown = {(text.parent / link).resolve() for text in texts
             for link in re.findall(r"[\w./-]+\.png", text.read_text())}
    pictures = {path.resolve() for path in ROOT.glob("results/published/**/*.png")}
    assert len(pictures) > 10 and pictures <= shown
