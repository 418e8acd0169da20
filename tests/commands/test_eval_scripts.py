"""generate_with_path_30.py and eval_fid_batch.py: what they write, what they skip, and what they refuse."""
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import eval_fid_batch
from evaluation import fid
import generate_with_path_30
from lift import generation, heatmap_file
from evaluation import image_detail
from lift import paths
from evaluation import results_table
from evaluation.options import FEATURE_METRICS, METRICS, rows_of
from engine.sampling import to_uint8
from lift import sampling
from lift.checkpoints import build_model, load_model
from engine.command_line import run_script
from conftest import wait_until
from engine.errors import InputError
from engine.files import save_torch

COMMON = ["--device", "cpu", "--num_threads", "1", "--precision", "float32", "--num_steps", "3"]
EVAL = [*COMMON, "--num_images", "5", "--dataset", "synthetic:12", "--batch_size", "4"]


LIFT = ["--checkpoint", "checkpoints/lift_dual_timestep_3ep.pth"]
BASELINE = ["--checkpoint", "checkpoints/baseline_3ep.pth"]


def write_checkpoint(path, model_type, seed=0, epochs=3, hidden_dims=(8, 16)):
    torch.manual_seed(seed)
    model = build_model(model_type, hidden_dims)
    state = model.state_dict()
    save_torch(path, {"model_state": {name: value + 0.01 for name, value in state.items()},
                      "ema_state": {"shadow": state, "decay": 0.9}, "hidden_dims": list(hidden_dims), "epochs": epochs,
                      "model_type": model_type, "step": 1, "losses": [], "options": {}})
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a checkpoint of each type."""
    folder = tmp_path_factory.mktemp("written")
    write_checkpoint(folder / "lift_dual_timestep_3ep.pth", "lift")
    write_checkpoint(folder / "baseline_3ep.pth", "baseline")
    return folder


@pytest.fixture
def work(written, tmp_path, monkeypatch):
    """An empty folder to work in, with a copy of both checkpoints."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(written, tmp_path / "checkpoints")
    return tmp_path


class TinyInception(torch.nn.Module):
    """One convolution in Inception's place, of which one image takes a quarter of a second."""

    num_features = 24

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, self.num_features, 8, 8)

    def forward(self, x):
        return [self.convolution(x).relu().mean((2, 3), keepdim=True)]


@pytest.fixture
def tiny_inception(monkeypatch):
    """Let it pass for pytorch-fid's network."""
    monkeypatch.setattr(fid, "find_weights", lambda file=None: Path("tiny.pth"))
    monkeypatch.setattr(fid, "load_inception", lambda path, device="cpu": fid.Inception(
        TinyInception().to(device), "tiny", TinyInception.num_features))


def run(monkeypatch, script, *arguments):
    """Run a script's main here -> its exit status."""
    monkeypatch.setattr(sys, "argv", [script.__name__ + ".py", *map(str, arguments)])
    try:
        run_script(script.main)
    except SystemExit as stop:
        return stop.code
    return 0


def fails(monkeypatch, capsys, script, *arguments):
    """Run a script that must fail in one line -> that line."""
    capsys.readouterr()
    assert run(monkeypatch, script, *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def process_of_two(rank, port, script, arguments):
    """What torchrun would start: a process that finds its place in the environment."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    sys.argv = [script.__name__ + ".py", *map(str, arguments)]
    run_script(script.main)


def run_divided(script, *arguments):
    """Run a script in two processes that share the work, as under torchrun (forked, to save their imports)."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process_of_two, args=(rank, port, script, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def table():
    return results_table.read("results/fid_results.csv")


# Generating

def test_images_grid_and_record(work, monkeypatch, capsys):
    assert run(monkeypatch, generate_with_path_30, *COMMON, *LIFT, "--num_images", 5, "--batch_size", 2) == 0
    label = "lift_dual_timestep_3ep_diagonal_3steps_seed42"
    folder = work / "generated" / label
    assert sorted(p.name for p in folder.glob("*.png")) == [f"{k:05d}.png" for k in range(5)]
    loaded = load_model("checkpoints/lift_dual_timestep_3ep.pth")
    images = to_uint8(sampling.generate(loaded.model, sampling.uniform_diagonal(3), 42, range(5)).x_64)
    for k in range(5):
        written = np.asarray(Image.open(folder / f"{k:05d}.png")).transpose(2, 0, 1)
        assert np.abs(written.astype(int) - images[k].numpy().astype(int)).max() <= 1      # another batch size
    grid = np.asarray(Image.open(f"results/samples_{label}.png")).transpose(2, 0, 1)
    first = np.asarray(Image.open(folder / "00000.png")).transpose(2, 0, 1)
    assert np.array_equal(grid[:, 2:66, 2:66], first)
    record = json.loads((folder / "run.json").read_text())
    assert record["num_model_calls"] == 3 and record["images_per_second"] > 0 and record["seed"] == 42
    assert record["timesteps"] == [[999, 999], [666, 666], [333, 333], [0, 0]]
    assert "3 network calls" in capsys.readouterr().out


def test_existing_images_are_refused_or_replaced(work, monkeypatch, capsys):
    arguments = [*COMMON, *LIFT, "--num_images", 3]
    assert run(monkeypatch, generate_with_path_30, *arguments, "--output_dir", "out", "--grid_png", "a.png") == 0
    before = {p.name: p.read_bytes() for p in (work / "out").iterdir()}
    message = fails(monkeypatch, capsys, generate_with_path_30, *arguments, "--output_dir", "out",
                    "--grid_png", "b.png")
    assert "out: holds 3 PNG files" in message and "--overwrite" in message and not (work / "b.png").exists()
    assert {p.name: p.read_bytes() for p in (work / "out").iterdir()} == before
    assert run(monkeypatch, generate_with_path_30, *COMMON, *LIFT, "--num_images", 2, "--output_dir", "out",
               "--grid_png", "a.png", "--overwrite") == 0
    assert len(list((work / "out").glob("*.png"))) == 2


def test_a_run_that_is_stopped_leaves_the_earlier_images(work, monkeypatch, capsys):
    arguments = [*COMMON, *LIFT, "--num_images", 4, "--batch_size", 2, "--output_dir", "out",
                 "--grid_png", "a.png"]
    assert run(monkeypatch, generate_with_path_30, *arguments) == 0
    before = {p.name: p.read_bytes() for p in (work / "out").iterdir()}
    original = generation.generate_uint8

    def stopped_after_one_batch(*more, **options):
        yield next(original(*more, **options))
        raise InputError("stopped")
    monkeypatch.setattr(generation, "generate_uint8", stopped_after_one_batch)
    assert "stopped" in fails(monkeypatch, capsys, generate_with_path_30, *arguments, "--overwrite", "--seed", 1)
    assert {p.name: p.read_bytes() for p in (work / "out").iterdir()} == before
    assert not [p for p in work.iterdir() if ".tmp" in p.name]


@pytest.mark.parametrize("full", ["a.png", "a.json"])
def test_a_grid_that_does_not_fit_on_the_disk_leaves_the_earlier_images_too(work, monkeypatch, capsys, full):
    arguments = [*COMMON, *LIFT, "--num_images", 2, "--output_dir", "out", "--grid_png", "grids/a.png"]
    assert run(monkeypatch, generate_with_path_30, *arguments) == 0
    before = {p: p.read_bytes() for p in work.rglob("*") if p.is_file()}

    def sync(descriptor):
        if f"/grids/{full}" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", sync)
    message = fails(monkeypatch, capsys, generate_with_path_30, *arguments, "--overwrite", "--seed", 1)
    assert f"{full}: could not be written (No space left on device); what was there" in message
    assert {p: p.read_bytes() for p in work.rglob("*") if p.is_file()} == before


def generate_slowly(arguments):
    """A process that generates and takes a second for every batch."""
    original = generation.generate_uint8

    def one_batch_a_second(*more, **options):
        for batch in original(*more, **options):
            yield batch
            time.sleep(1)
    generation.generate_uint8 = one_batch_a_second
    sys.argv = ["generate_with_path_30.py", *map(str, arguments)]
    run_script(generate_with_path_30.main)


def test_two_runs_into_one_folder_and_a_run_that_is_killed(work, monkeypatch, capsys):
    arguments = [*COMMON, *LIFT, "--num_images", 60, "--batch_size", 1, "--output_dir", "out", "--grid_png",
                 "a.png"]
    slow = multiprocessing.get_context("fork").Process(target=generate_slowly, args=(arguments,))
    slow.start()
    wait_until(lambda: list(work.glob(".out.tmp/*.png")))
    message = fails(monkeypatch, capsys, generate_with_path_30, *arguments)
    assert "another process is generating into out" in message and list(work.glob(".out.tmp/*.png"))
    os.kill(slow.pid, signal.SIGKILL)
    slow.join(20)
    assert (work / ".out.tmp").exists() and not (work / "out").exists()
    assert run(monkeypatch, generate_with_path_30, *arguments, "--num_images", 2) == 0
    assert len(list((work / "out").glob("*.png"))) == 2 and not (work / ".out.tmp").exists()


@pytest.mark.parametrize("grid", ["grid.json", "file/grid.png", "out", "beside.png"])
def test_a_grid_that_cannot_be_written_is_refused_before_any_work(work, monkeypatch, capsys, grid):
    (work / "file").write_text("")
    (work / "beside.json").write_text("another's")      # where the grid's record would go
    monkeypatch.setattr(generation, "generate", lambda *_, **__: pytest.fail("work was done"))
    message = fails(monkeypatch, capsys, generate_with_path_30, *COMMON, *LIFT, "--output_dir", "out",
                    "--grid_png", grid)
    assert ("beside.json: exists already" if grid == "beside.png" else "grid") in message
    assert not (work / "out").exists()


def test_weights_x32_solver_and_seed_make_other_images(work, monkeypatch):
    variants = {"plain": [], "raw": ["--weights", "raw"], "seed": ["--seed", 1], "fixed": ["--x32", "fixed"],
                "random": ["--x32", "random"], "multistep": ["--solver", "multistep"], "eta": ["--eta", 1]}
    images = {}
    for name, options in variants.items():
        assert run(monkeypatch, generate_with_path_30, *COMMON, *LIFT, "--num_images", 1, "--output_dir", name,
                   "--grid_png", f"{name}.png", *options) == 0
        images[name] = (work / name / "00000.png").read_bytes()
    assert len(set(images.values())) == len(variants)


def test_two_processes_give_the_same_images(work, monkeypatch):
    arguments = [*COMMON, *LIFT, "--num_images", "5", "--batch_size", 1]
    assert run(monkeypatch, generate_with_path_30, *arguments, "--output_dir", "alone", "--grid_png", "alone.png") == 0
    run_divided(generate_with_path_30, *arguments, "--output_dir", "together", "--grid_png", "together.png")
    for name in [f"alone/{k:05d}.png" for k in range(5)] + ["alone.png"]:
        assert (work / name).read_bytes() == (work / name.replace("alone", "together")).read_bytes()


def test_compiled_once_for_full_and_broken_batches_and_all_checkpoints(work, monkeypatch, capsys):
    write_checkpoint(work / "checkpoints" / "lift_dual_timestep_4ep.pth", "lift", seed=1)
    from torch._dynamo.testing import CompileCounter    # as long to load as torch
    counter = CompileCounter()                          # counts what is compiled, and runs it as it was
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    arguments = [*EVAL, *LIFT, "checkpoints/lift_dual_timestep_4ep.pth", "--paths", "diagonal", "lead_2", "--metrics",
                 "swd", "--num_images", 3, "--batch_size", 2]
    assert run(monkeypatch, eval_fid_batch, *arguments) == 0
    assert counter.frame_count == 0
    assert run(monkeypatch, eval_fid_batch, *arguments, "--compile", "--results", "compiled.csv") == 0
    assert counter.frame_count == 1                     # batches of 2 images and of 1
    capsys.readouterr()
    assert run(monkeypatch, eval_fid_batch, *arguments, "--compile", "--results", "compiled.csv") == 0
    assert "compiling" not in capsys.readouterr().out   # all rows are finished
    plain, compiled = table(), results_table.read("compiled.csv")
    assert len(plain) == len(compiled) == 16
    for one, other in zip(plain, compiled):
        assert one["metric"] == other["metric"] and one["path"] == other["path"]
        assert other["value"] == pytest.approx(one["value"], rel=0.01)                  # a batch of another size


def test_what_cannot_be_compiled_is_one_line(work, monkeypatch, capsys):
    def broken(graph, inputs):
        raise OSError("no C++ compiler here")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    small = write_checkpoint(work / "small_1ep.pth", "lift", epochs=1, hidden_dims=[8])
    message = fails(monkeypatch, capsys, generate_with_path_30, *COMMON, "--checkpoint", small, "--num_images", 2,
                    "--compile", "--output_dir", "out")
    assert "--compile: the model could not be compiled" in message and "no C++ compiler here" in message
    assert not (work / "out").exists()


# Paths from heatmaps

def fake_heatmap(loaded, **changes):
    """The entries of a heatmap that a path is read from."""
    size = 12
    timesteps = torch.from_numpy(paths.timestep_grid(size))
    errors = torch.rand(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    return {"timesteps": timesteps, "error_64": errors[0], "error_32": errors[1], "checkpoint": loaded.path.name,
            "checkpoint_fingerprint": loaded.fingerprint, "weights": loaded.weights, "edge_costs": {}, **changes}


@pytest.fixture
def any_heatmap(monkeypatch):
    """Let load_heatmap take a file that holds only what paths need."""
    monkeypatch.setattr(generation.heatmap_file, "load_heatmap",
                        lambda path, grid=None: torch.load(path, weights_only=True))


def test_heatmap_of_this_checkpoint_is_found_and_another_refused(work, monkeypatch, capsys, any_heatmap):
    loaded = load_model("checkpoints/lift_dual_timestep_3ep.pth")
    save_torch(heatmap_file.heatmap_path("results", 30, "lift_dual_timestep", 3, "ema"), fake_heatmap(loaded))
    arguments = [*COMMON, *LIFT, "--num_images", 1, "--path", "dp_64"]
    assert run(monkeypatch, generate_with_path_30, *arguments) == 0
    found = json.loads((work / "results/samples_lift_dual_timestep_3ep_dp_64_3steps_seed42.json").read_text())
    expected = paths.path_from_heatmap(fake_heatmap(loaded), "dp_64", 3)
    assert found["timesteps"] == expected.tolist() and found["path_hash"] == generation.path_hash(expected)
    save_torch("other.pth", fake_heatmap(loaded, checkpoint_fingerprint="0" * 16))
    message = fails(monkeypatch, capsys, generate_with_path_30, *arguments, "--heatmap", "other.pth", "--overwrite")
    assert "other.pth: was computed from lift_dual_timestep_3ep.pth" in message and "--allow_mismatch" in message
    assert run(monkeypatch, generate_with_path_30, *arguments, "--heatmap", "other.pth", "--overwrite",
               "--allow_mismatch") == 0
    args = SimpleNamespace(heatmap=Path("other.pth"), allow_mismatch=True)
    assert generation.path_name(loaded, "dp_64", args) == "dp_64 (map of lift_dual_timestep_3ep 00000000)"
    assert generation.path_name(loaded, "lead_2", args) == "lead_2"         # found on no map
    save_torch("own.pth", fake_heatmap(loaded))
    assert generation.path_name(loaded, "dp_64",
                                SimpleNamespace(heatmap=Path("own.pth"), allow_mismatch=True)) == "dp_64"


def test_the_control_of_a_path_is_sampled_and_scored(work, monkeypatch, any_heatmap):
    loaded = load_model("checkpoints/lift_dual_timestep_3ep.pth")
    options = {"chain_rule": "localization", "normalization": "both_sides"}
    save_torch("map.pth", fake_heatmap(loaded, options=options))
    given = [*LIFT, "--heatmap", "map.pth", "--grid", 12]
    assert run(monkeypatch, generate_with_path_30, *COMMON, *given, "--num_images", 1, "--path", "identity_64",
               "--output_dir", "out", "--grid_png", "a.png") == 0
    record = json.loads((work / "out" / "run.json").read_text())
    expected = paths.path_from_heatmap(fake_heatmap(loaded, options=options), "identity_64", 3)
    assert record["timesteps"] == expected.tolist()
    assert run(monkeypatch, eval_fid_batch, *EVAL, *given, "--paths", "dp_64", "identity_64", "--metrics", "swd") == 0
    rows = [row for row in table() if row["metric"] == "swd"]
    assert [(row["path"], row["step_size"]) for row in rows] == [("dp_64", "index"), ("identity_64", "index")]
    assert rows[1]["path_hash"] == generation.path_hash(expected) != rows[0]["path_hash"]


def test_baseline_takes_an_optimised_schedule(work, monkeypatch):
    loaded = load_model("checkpoints/baseline_3ep.pth")
    costs = torch.rand(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    end = torch.arange(12)[:, None] + torch.arange(6)
    costs[(end > 11) | (end == torch.arange(12)[:, None])] = torch.inf
    save_torch("schedule.pth", fake_heatmap(loaded, edge_costs={"step_doubling": costs}))
    assert run(monkeypatch, generate_with_path_30, *COMMON, "--checkpoint", loaded.path, "--path", "dp", "--heatmap",
               "schedule.pth", "--grid", 12, "--num_images", 1, "--output_dir", "out", "--grid_png", "a.png") == 0
    found = np.array(json.loads((work / "out" / "run.json").read_text())["timesteps"])
    expected = paths.schedule_path(costs.numpy(), paths.timestep_grid(12), 3)
    assert np.array_equal(found, expected) and (found[:, 0] == found[:, 1]).all()


# Evaluating

def test_rows_are_added_skipped_and_replaced(work, monkeypatch, capsys):
    arguments = [*EVAL, *LIFT, "--paths", "diagonal", "--metrics", "swd"]
    assert run(monkeypatch, eval_fid_batch, *arguments, "--seeds", 1, 2) == 0
    rows = table()
    assert [(row["metric"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (1, 2) for name in ("swd", "swd_64", "swd_32", "swd_16")]
    assert {row["num_model_calls"] for row in rows} == {3} and {row["precision"] for row in rows} == {"float32"}
    before = (work / "results/fid_results.csv").read_bytes()
    monkeypatch.setattr(generation, "generate", lambda *_, **__: pytest.fail("generated again"))
    capsys.readouterr()
    assert run(monkeypatch, eval_fid_batch, *arguments, "--seeds", 2, 1) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished: lift_dual_timestep_3ep.pth") == 8 and f"swd {rows[0]['value']:.4f}" in printed
    assert (work / "results/fid_results.csv").read_bytes() == before
    monkeypatch.undo()
    monkeypatch.chdir(work)
    results_table.add("results/fid_results.csv", [{**rows[0], "value": 0.0}, {**rows[4], "value": 0.0}], replace=True)
    assert run(monkeypatch, eval_fid_batch, *arguments, "--seeds", 2, "--force") == 0
    values = {(row["metric"], row["seed"]): row["value"] for row in table()}
    assert values[("swd", 1)] == 0.0 and values[("swd", 2)] == pytest.approx(rows[4]["value"])
    assert len(values) == 8


def test_value_is_that_of_the_images_themselves(work, monkeypatch):
    import data
    from evaluation import sliced_wasserstein
    assert run(monkeypatch, eval_fid_batch, *EVAL, *BASELINE, "--metrics", "swd") == 0
    loaded = load_model("checkpoints/baseline_3ep.pth")
    images = to_uint8(sampling.generate(loaded.model, sampling.uniform_diagonal(3), 42, range(5)).x_64)
    expected = sliced_wasserstein.sliced_wasserstein(images, np.array(data.load_images("synthetic:12").images))
    assert {row["metric"]: row["value"] for row in table()} == {name: pytest.approx(value, rel=1e-2)
                                                                for name, value in expected.items()}


def test_all_metrics_from_one_generation(work, monkeypatch, capsys, tiny_inception):
    calls = []
    original = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: calls.append(1) or original(*a, **k))
    arguments = [*EVAL, *BASELINE, "--dataset", "synthetic:8", "--batch_size", 3]
    assert run(monkeypatch, eval_fid_batch, *arguments, "--metrics", *METRICS) == 0
    assert len(calls) == 2                                          # 5 images in batches of 3
    rows = {row["metric"]: row for row in table()}
    assert set(rows) == set(results_table.METRICS) - {"fd_tiny", "groups"}        # history; of classes asked for
    assert all(rows[name]["value"] > 0 for name in ("fid", "fd_lite0"))
    assert all(rows[name]["standard_error"] > 0 for name in ("kid", "kd_lite0"))
    assert all(0 <= rows[name]["value"] <= 1 for name in ("precision", "recall", "precision_lite0", "recall_lite0"))
    said = capsys.readouterr().out
    assert "WARNING: FID with 5 generated images, fewer than 2048" in said
    assert "WARNING: fd_lite0 with 5 generated images, fewer than 1280" in said
    # by default FID where its weights are at hand: there it is, from another way through the statistics
    assert run(monkeypatch, eval_fid_batch, *arguments, "--seeds", 42, "--force", "--cache_dir", "other_cache") == 0
    again = {row["metric"]: row for row in table()}["fid"]["value"]
    assert again == pytest.approx(rows["fid"]["value"], rel=1e-6)


def test_a_number_of_calls_that_does_not_fit_is_no_row(work, monkeypatch, capsys):
    original = generation.generate

    def one_call_more(*arguments, **options):
        return dataclasses.replace(original(*arguments, **options), num_model_calls=4)
    monkeypatch.setattr(generation, "generate", one_call_more)
    assert "4 network calls were counted, expected 3" in fails(
        monkeypatch, capsys, eval_fid_batch, *EVAL, *BASELINE, "--metrics", "swd")
    assert not Path("results/fid_results.csv").exists()


def without_weights(monkeypatch, folder):
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(fid, "WEIGHTS_URL", "http://localhost:9/" + fid.WEIGHTS_NAME)


def test_without_inception_weights_nothing_is_called_fid(work, monkeypatch, capsys):
    without_weights(monkeypatch, work / "home")
    assert run(monkeypatch, eval_fid_batch, *EVAL, *BASELINE) == 0
    printed = capsys.readouterr().out
    assert fid.WEIGHTS_NAME in printed and str(work / "home" / "hub" / "checkpoints") in printed
    assert "scoring with fd_lite0, kd_lite0, swd" in printed
    assert {row["metric"] for row in table()} == {"fd_lite0", "kd_lite0", "swd", "swd_64", "swd_32", "swd_16"}
    assert fid.WEIGHTS_NAME in fails(monkeypatch, capsys, eval_fid_batch, *EVAL, *BASELINE,
                                     "--metrics",
                                     "fid")


def test_a_changed_checkpoint_and_other_real_images_are_told(work, monkeypatch, capsys):
    arguments = [*EVAL, *BASELINE, "--metrics", "swd"]
    assert run(monkeypatch, eval_fid_batch, *arguments) == 0
    capsys.readouterr()
    write_checkpoint(work / "checkpoints" / "baseline_3ep.pth", "baseline", seed=1)
    assert run(monkeypatch, eval_fid_batch, *arguments) == 0
    assert "this checkpoint has changed since" in capsys.readouterr().out
    assert len(table()) == 8                                        # the earlier rows are still there
    assert run(monkeypatch, eval_fid_batch, *arguments[:-2], "--metrics", "swd", "--num_images", 6) == 0
    assert "another number of images than the 6 asked for" in capsys.readouterr().out
    fingerprint = load_model("checkpoints/baseline_3ep.pth").fingerprint
    for row in table():
        row["reference_hash"], row["checkpoint_hash"] = "f" * 16, fingerprint
        results_table.add("altered.csv", [{**row, "num_images": 5}])
    assert run(monkeypatch, eval_fid_batch, *arguments, "--results", "altered.csv") == 0
    assert "other real images of the same name" in capsys.readouterr().out


def test_a_kill_between_two_rows_loses_neither(work, monkeypatch):
    arguments = [*EVAL, *BASELINE, "--metrics", "swd", "--seeds", 1, 2, 3]
    original, jobs = generation.generate, []

    def dies_in_the_third(model, path, seed, *rest, **options):
        if seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(model, path, seed, *rest, **options)

    def noted(model, path, seed, *rest, **options):
        jobs.append(seed)
        return original(model, path, seed, *rest, **options)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(generation, "generate", dies_in_the_third)
            run(monkeypatch, eval_fid_batch, *arguments)
        finally:
            os._exit(0)                                     # never back into the tests
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert {row["seed"] for row in table()} == {1, 2}
    monkeypatch.setattr(generation, "generate", noted)
    assert run(monkeypatch, eval_fid_batch, *arguments) == 0
    assert [row["seed"] for row in table()] == [1] * 4 + [2] * 4 + [3] * 4 and set(jobs) == {3}


def test_two_processes_give_the_same_rows(work, monkeypatch, tiny_inception):
    arguments = [*EVAL, *BASELINE, "--model_type", "baseline", "--metrics", "swd",
                 "fid", "kid", *FEATURE_METRICS["lite0"], "--dataset", "synthetic:8", "--num_images", 4, "--batch_size",
                 1]
    assert run(monkeypatch, eval_fid_batch, *arguments) == 0
    run_divided(eval_fid_batch, *arguments, "--results", "two.csv")
    divided = results_table.read("two.csv")
    assert [(row["metric"], row["value"]) for row in divided] == [
        (row["metric"], pytest.approx(row["value"], rel=1e-6)) for row in table()]
    assert {row["metric"] for row in divided} == {"fid", "kid", "fd_lite0", "kd_lite0", "precision_lite0",
                                                 "recall_lite0", "swd", "swd_64", "swd_32", "swd_16"}
    [record] = (work / "runs").glob("eval_fid_batch_*.json")        # one, from the main process
    assert json.loads(record.read_text())["options"]["checkpoints"] == ["checkpoints/baseline_3ep.pth"]


def test_detail_of_the_generated_images(work, monkeypatch):
    assert run(monkeypatch, eval_fid_batch, *EVAL, *LIFT, "--paths", "diagonal", "--metrics", "detail") == 0
    images = to_uint8(sampling.generate(load_model("checkpoints/lift_dual_timestep_3ep.pth").model,
                                                 sampling.uniform_diagonal(3), 42, range(5)).x_64)
    expected = image_detail.statistics_of(images)
    assert {row["metric"] for row in table()} == set(expected) == set(rows_of("detail"))
    for row in table():
        assert (row["value"], row["standard_error"]) == pytest.approx(expected[row["metric"]], rel=0.01)


# Wrong input

@pytest.mark.parametrize("script, arguments, expected", [
    (generate_with_path_30, ["--checkpoint", "none.pth"], "none.pth: no such checkpoint"),
    (generate_with_path_30, [*LIFT, "--path", "uniform"], "expected one of diagonal"),
    (generate_with_path_30, [*LIFT, "--path", "dp_64"], "heatmap_30_3ep.pth: no such heatmap"),
    (generate_with_path_30, [], "the following arguments are required: --checkpoint"),
    (generate_with_path_30, ["--epochs", "3"],
     "--epochs: found 3, an option that is gone; expected the file itself, such as --checkpoint "
     "checkpoints/lift_dual_timestep_100ep.pth"),
    (eval_fid_batch, [*LIFT, "--name", "other"], "--name: found other, an option that is gone"),
    (eval_fid_batch, ["--model_type", "lift", "--epochs", "3", "4"], "--epochs: found 3 4, an option that is gone"),
    (eval_fid_batch, ["--model_type", "baseline"], "the following arguments are required: --checkpoints"),
    (eval_fid_batch, [*LIFT, "--paths", "dp_64", "--grid", "31", "--heatmap_dir", "maps"],
     "--grid 31 --output_dir maps"),
    (generate_with_path_30, [*LIFT, "--path", "nonsense"], "invalid choice"),
    (generate_with_path_30, [*LIFT, "--num_images", "0"], "--num_images"),
    (generate_with_path_30, [*LIFT, "--num_images", "9" * 23], "--num_images"),
    (generate_with_path_30, [*LIFT, "--output_dir", "."], "--output_dir: found ., expected a folder with a"),
    (generate_with_path_30, [*LIFT, "--path", "dp_step"], "--edge_costs step_doubling, or give one with"),
    (generate_with_path_30, [*LIFT, "--num_steps", "1000"], "--num_steps"),
    (generate_with_path_30, [*LIFT, "--eta", "0.5", "--solver", "multistep"], "--eta"),
    (generate_with_path_30, [*LIFT, "--device", "cuda:99"], "--device"),
    (eval_fid_batch, ["--model_type", "lift", "--checkpoints", "checkpoints/baseline_3ep.pth"],
     "is a baseline checkpoint"),
    (eval_fid_batch, [*BASELINE, "--paths", "dp_64"], "expected one of uniform, dp"),
    (eval_fid_batch, [*BASELINE, "--x32", "random"], "--x32: found random for a baseline"),
    (generate_with_path_30, ["--checkpoint", "checkpoints/baseline_3ep.pth", "--x32", "random"],
     "--x32: found random for a baseline"),
    (eval_fid_batch, [*LIFT, "--metrics", "swd", "--inception", "a.pth"],
     "--inception: found a.pth, which has no effect"),
    (eval_fid_batch, [*LIFT, "--paths", "dp_64"], "no such heatmap"),
    (eval_fid_batch, ["--checkpoint", "lift_9ep.pth"], "lift_9ep.pth: no such checkpoint"),
    (eval_fid_batch, [*LIFT, "--paths", "diagonal", "--reference_split", "nonsense"], "nonsense"),
    (eval_fid_batch, [*LIFT, "--paths", "diagonal", "--num_images", "1"], "--num_images"),
    (eval_fid_batch, [*LIFT, "--metrics", "swd", "swd"],
     "--metrics: found swd more than once, expected each value once"),
    (eval_fid_batch, ["--checkpoints", "a.pth", "a.pth"], "--checkpoint: found a.pth more than once"),
    (eval_fid_batch, [*LIFT, "--paths", "diagonal", "--metrics", "fid", "--inception", "none.pth"],
     "--inception: found no file"),
])
def test_wrong_input_is_one_line_and_leaves_nothing(work, monkeypatch, capsys, script, arguments, expected):
    common = EVAL + ["--metrics", "swd"] if script is eval_fid_batch else COMMON
    assert expected in fails(monkeypatch, capsys, script, *common, *arguments)
    assert not (work / "generated").exists() and not (work / "results").exists()


def test_foreign_table_is_refused_before_any_work(work, monkeypatch, capsys):
    (work / "mine.csv").write_text("a,b\n")
    monkeypatch.setattr(generation, "generate", lambda *_, **__: pytest.fail("work was done"))
    assert "mine.csv: line 1" in fails(monkeypatch, capsys, eval_fid_batch, *EVAL, *LIFT, "--paths", "diagonal",
                                       "--metrics",
                                       "swd", "--results", "mine.csv")


def test_images_that_are_not_finite_are_no_result(work, monkeypatch, capsys):
    original = generation.generate

    def broken(*arguments, **options):
        samples = original(*arguments, **options)
        samples.x_64 = torch.where(torch.arange(len(samples.x_64))[:, None, None, None] == 0, torch.nan, samples.x_64)
        return samples
    monkeypatch.setattr(generation, "generate", broken)
    message = fails(monkeypatch, capsys, eval_fid_batch, *EVAL, *LIFT, "--paths", "diagonal", "--metrics", "swd")
    assert "2 of 5 generated images are not finite" in message and not (work / "results/fid_results.csv").exists()


@pytest.mark.parametrize("script", [generate_with_path_30, eval_fid_batch])
def test_help_shows_defaults_as_they_are_written(monkeypatch, capsys, script):
    assert run(monkeypatch, script, "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(default: 18)" in printed and "(default: joint)" in printed and "(default: index)" in printed
    for python in ("None", "False", "True", "[", "PosixPath", ")"):     # the last: an empty string
        assert f"(default: {python}" not in printed


# Correction of exposure bias, and guidance

def test_a_row_names_its_correction_and_guidance_and_counts_both_calls(work, monkeypatch):
    """Three steps, of which the first lies below log SNR -3."""
    guide = write_checkpoint("checkpoints/baseline_2ep.pth", "baseline", 1, epochs=2)
    arguments = [*EVAL, "--checkpoints", "checkpoints/baseline_3ep.pth", "--metrics", "swd"]
    assert run(monkeypatch, eval_fid_batch, *arguments, "--eps_scale", 0.98, "--told_log_snr", 0.1) == 0
    assert run(monkeypatch, eval_fid_batch, *arguments, "--guide", guide, "--guide_interval", -3, 20) == 0
    found = {(row["solver"], row["num_model_calls"]) for row in table()}
    assert found == {("ddim_eps0.98_told0.1", 3), (f"ddim_guide2_2ep_{load_model(guide).fingerprint}_from-3to20", 5)}


@pytest.mark.parametrize("options, message", [
    (["--guide_scale", 3], "--guide_scale: found 3, which has no effect without --guide or --guide_noisy_32"),
    (["--guide_noisy_32"], "--guide_noisy_32: found for a baseline, without a 32 branch"),
    (["--guide", "checkpoints/baseline_3ep.pth"], "expected an earlier checkpoint of the same run"),
    (["--guide", "checkpoints/lift_dual_timestep_3ep.pth"], "is a lift checkpoint, expected a baseline checkpoint"),
    (["--guide", "checkpoints/baseline_2ep.pth", "--guide_interval", 2, 1], "--guide_interval: found 2 1")])
def test_guidance_that_does_not_fit_is_refused(work, monkeypatch, capsys, options, message):
    write_checkpoint("checkpoints/baseline_2ep.pth", "baseline", 1, epochs=2)
    for script, more in ((eval_fid_batch, [*EVAL, "--metrics", "swd"]), (generate_with_path_30, COMMON)):
        assert message in fails(monkeypatch, capsys, script, *more, "--checkpoint", "checkpoints/baseline_3ep.pth",
                                *options)
