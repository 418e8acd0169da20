"""Options are read before anything heavy is imported: --help and a wrong option are answered at once."""
import json
import subprocess
import sys

from conftest import ROOT

HEAVY = ("torch", "torchvision", "matplotlib", "skimage", "scipy", "datasets", "pytorch_fid", "tensorboard",
         "diffusers")

# Runs every command twice in one process, which is fast since they share what they import.
ASK = """
import contextlib, io, json, runpy, sys
heavy, commands = json.loads(sys.argv[1])
answers = {}
for command in commands:
    for option in ("--help", "--no_such_option"):
        out, err, status = io.StringIO(), io.StringIO(), None
        sys.argv = [command, option]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
        loaded = [name for name in heavy if name in sys.modules]
        answers[f"{command} {option}"] = [status, out.getvalue(), err.getvalue(), loaded]
print(json.dumps(answers))
"""


def commands() -> list[str]:
    """Every module that can be started, by its dotted name."""
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and (folder / "__init__.py").is_file()]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files
                  if 'if __name__ == "__main__"' in path.read_text())


def test_every_command_answers_help_and_a_wrong_option_without_heavy_imports():
    names = commands()
    assert len(names) > 30 and {"train_lift", "flow.train", "mnist.score",
                                "scripts.benchmarks.train_step"} <= set(names)
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps([HEAVY, names])], cwd=ROOT, capture_output=True,
                          text=True, check=True)
    answers = json.loads(done.stdout)
    assert len(answers) == 2 * len(names)
    assert {command: loaded for command, (*_, loaded) in answers.items() if loaded} == {}
    for command, (status, out, err, _) in answers.items():
        typed = f"python -m {command.split()[0].removesuffix('.__main__')}"
        if command.endswith("--help"):
            assert (status, err) == (0, "") and out.startswith(f"usage: {typed} "), command
            assert "default: results/published" not in " ".join(out.split()), command       # only what is asked for
        else:
            assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, command
            assert err.endswith(f"(see {typed} --help)\n"), command


def test_no_script_writes_where_published_results_lie_unless_told():
    """Comments may say how to publish."""
    for path in ROOT.glob("scripts/**/*.sh"):
        code = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in code if "results/published" in line or "--readme lift" in line], path
