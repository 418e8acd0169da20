"""What users do beside training that once went wrong: two commands at once, other locales, closed pipes, odd names."""
import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from engine import files
from engine.errors import InputError
from evaluation import figures
from lift import report_parts


# Two at once

def test_outputs_that_appeared_meanwhile_are_kept(tmp_path):
    with pytest.raises(InputError, match="b.json: was written by another process meanwhile and is kept"):
        with files.written_together(overwrite=False):
            for name in ("a.json", "b.json"):
                files.write_json(tmp_path / name, "mine")
            (tmp_path / "b.json").write_text("theirs")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b.json": "theirs"}
    with files.written_together(overwrite=True):
        files.write_json(tmp_path / "b.json", "mine")
    assert json.loads((tmp_path / "b.json").read_text()) == "mine"


def test_without_links_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError
    monkeypatch.setattr(os, "link", no_links)
    with files.written_together(overwrite=False):
        files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(InputError, match="by another process"), files.written_together(overwrite=False):
        files.write_json(tmp_path / "a.json", 2)
    assert json.loads((tmp_path / "a.json").read_text()) == 1


def test_every_command_that_refuses_existing_outputs_keeps_them_at_its_end_too():
    asks = {path for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
            if 'if __name__ == "__main__"' in (text := path.read_text()) and
            ("refuse_existing(" in text or "outputs_beside(" in text)}
    assert len(asks) > 8
    others = {"lift/search_lead.py"}                    # it writes into a file that is there already
    assert {path.relative_to(ROOT).as_posix() for path in asks
            if "written_together(args.overwrite)" not in path.read_text()} <= others


# Encodings and pipes

def test_texts_are_utf_8_whatever_the_locale():
    for path in [*ROOT.glob("*.py"),
                 *(p for room in ("engine", "evaluation", "lift", "flow", "mnist", "distill", "scripts")
                                       for p in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
                assert node.args or any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"


def started(code: str, **environment) -> subprocess.Popen:
    """A program of one line behind `run_script`."""
    return subprocess.Popen([sys.executable, "-c", f"from engine.command_line import run_script; run_script({code})"],
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment})


def test_what_the_terminal_cannot_show_is_escaped():
    done = started("lambda: print('1 ± 2 → caf\\udce9')", PYTHONIOENCODING="latin-1")
    out, err = done.communicate()
    assert (done.returncode, out, err) == (0, b"1 \xb1 2 \\u2192 caf\\udce9\n", b"")


def test_a_reader_that_goes_away_ends_the_work_in_one_line():
    program = started("lambda: [print(k) for k in range(10**6)]")
    assert program.stdout.readline() == b"0\n"
    program.stdout.close()
    assert program.wait(60) == 141
    assert program.stderr.read().decode().splitlines() == [
        "error: output: its reader is gone, so the work ends here; what was saved before stays"]


# Names

def test_dollar_signs_are_plain_text(tmp_path):
    series = {"label": "Ba$$in, $x", "color": None, "epochs": [1, 2], "means": [1.0, 2.0], "deviations": [0.1, 0.1]}
    fig = figures.metric_by_epoch([{"title": "1,000 images, Ba$$in, $\\frac", "series": [series]}], "FID")
    files.save_png(tmp_path / "a.png", fig)
    assert fig.axes[0].get_title(loc="left") == r"1,000 images, Ba\$\$in, \$\frac"
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_names_that_are_no_utf_8_can_be_written():
    assert files.printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9" and files.printable("café") == "café"


# Trained anew

@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with a training's record, and a map and a measurement of the checkpoint that it names."""
    files.write_json(tmp_path / "lift_dual_timestep_run.json", {"checkpoints": {"lift_dual_timestep_2ep.pth": "new"}})
    for grid, fingerprint in ((15, "old"), (30, "new")):
        files.write_json(tmp_path / f"heatmap_{grid}_2ep.json", {
            "options": {"checkpoint": "checkpoints/lift_dual_timestep_2ep.pth"}, "checkpoint_fingerprint": fingerprint})
        (tmp_path / f"heatmap_{grid}_2ep.pth").write_bytes(b"")
    files.write_csv(tmp_path / "mse.csv", [{"checkpoint": "lift_dual_timestep_2ep.pth", "checkpoint_hash": "old"}],
                    ["checkpoint", "checkpoint_hash"])
    return tmp_path


def test_what_was_measured_before_a_training_anew_is_marked(results, capsys):
    marked = {name: bool(report_parts.age_of(results / name)) for name in (
        "heatmap_15_2ep.png", "heatmap_15_2ep_blocks.png", "heatmap_30_2ep_steps.png", "mse.csv", "mse.png",
        "none.png")}
    assert marked == {"heatmap_15_2ep.png": True, "heatmap_15_2ep_blocks.png": True, "heatmap_30_2ep_steps.png": False,
                      "mse.csv": True, "mse.png": True, "none.png": False}
    assert report_parts.find_heatmaps(results, 15) == []
    assert "heatmap_15_2ep.pth is left out, its checkpoint has been trained anew since" in capsys.readouterr().out
    assert report_parts.find_heatmaps(results, 30) == [(2, results / "heatmap_30_2ep.pth")]


def test_records_of_earlier_versions_mark_nothing(results):
    files.write_json(results / "lift_dual_timestep_run.json", {"is_finished": True})
    assert report_parts.age_of(results / "heatmap_15_2ep.png") == ""
    files.write_json(results / "lift_dual_timestep_run.json", [])
    with pytest.raises(InputError, match="lift_dual_timestep_run.json"):
        report_parts.age_of(results / "heatmap_15_2ep.png")
