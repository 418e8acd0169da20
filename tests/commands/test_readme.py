"""The README's own commands, as a stranger would run them: in a fresh checkout, in their order."""
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks_of(heading: str) -> list[str]:
    """The bash blocks below a heading of the README, up to the next heading."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.M | re.S).group(1)
    return re.findall(r"```bash\n(.*?)```", section, re.S)


@pytest.fixture
def checkout(tmp_path):
    """The files that git knows, and no others, in an empty folder."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True,
                           check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if name.endswith((".py", ".sh", ".toml", ".md", ".txt")) and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_commands_of_first_trainings_run_as_they_stand(checkout):
    """In their order, in one shell; quickstart.sh and test.sh above them are too long for that."""
    blocks = [*blocks_of("The first training"), *blocks_of("Your own images")]
    assert len(blocks) == 2 and set(re.findall(r"^## (.*)", README, re.M)) > {"Two commands", "Your own images"}
    environment = {**os.environ, "VENV": "none", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
                   "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["bash", "-e", "-c", "".join(blocks)], cwd=checkout, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in ("checkpoints/baseline_1ep.pth", "checkpoints/lift_dual_timestep_1ep.pth", "results/baseline_run.json",
                 "checkpoints/mine_1ep.pth"):
        assert (checkout / path).is_file(), path
    assert len(list(checkout.glob("generated/**/*.png"))) == 4


def test_the_only_commands_of_the_readme_are_those_that_are_tested():
    assert len(re.findall(r"```bash\n", README)) == 1 + 2
    [two] = blocks_of("Two commands")
    assert re.findall(r"^(\S+)", two, re.M) == ["./scripts/quickstart.sh", "./scripts/test.sh"]


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
