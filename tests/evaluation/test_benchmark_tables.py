"""Tables of benchmarks from their last lines, and the one benchmark that reads a record."""
import json
import subprocess
import sys

import pytest

from conftest import ROOT
from evaluation import benchmark_tables
from engine.errors import InputError

STEP = {"hidden_dims": [64, 128, 256, 512],
        "ratio": 4.0, "target": 2.5, "ok": True, "compile": False, "precision": "bf16", "device": "cpu (a, 2 threads)",
        "images_per_second": {"plain": 2.0, "ours": 8.0}, "gflop_per_image": 49.35, "gflops_used": 394.8,
        "gflops_peak": 3000.0, "fraction_of_peak": 0.132, "convolution_gflops": {"float32": 300.0, "bf16": 2900.0}}


def keep(folder, name, found):
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks" / f"{name}.json").write_text(json.dumps(found))


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_benchmarks_come_from_their_last_lines(tmp_path):
    keep(tmp_path, "frechet", {"ratio": 12.345, "target": 3.0, "ok": True, "device": "cpu"})
    keep(tmp_path, "precision", {"ratio": 1.5, "target": 1.0, "ok": False})
    [table] = benchmark_tables.benchmarks_tables(tmp_path)
    assert [row[1:5] for row in texts(table)] == [
        ["`benchmarks/frechet.py`", "12.3", "≥ 3", "yes"], ["`benchmarks/precision.py`", "1.5", "≤ 1", "no"]]
    keep(tmp_path, "frechet", {"target": 3.0})
    with pytest.raises(InputError, match="frechet.json: is no benchmark's last line"):
        benchmark_tables.benchmarks_tables(tmp_path)


def test_a_name_ends_with_the_option_that_it_was_run_with(tmp_path):
    for name in ("flow_step", "flow_step_bf16", "flow_step_bf16_compile", "flow_step_latents", "sampling_compile"):
        keep(tmp_path, name, {"ratio": 1.0, "target": 1.0, "ok": True})
    [table] = benchmark_tables.benchmarks_tables(tmp_path)
    assert [row[1] for row in texts(table)] == ["`benchmarks/sampling.py --compile`", "`benchmarks/flow_step.py`",
                                                "`benchmarks/flow_step.py --precision bf16`",
                                                "`benchmarks/flow_step.py --precision bf16 --compile`",
                                                "`benchmarks/flow_step.py --latents`"]


def test_speed_before_and_after_the_move(tmp_path):
    assert benchmark_tables.house_speed_tables(tmp_path) == []
    found = json.loads((ROOT / "results/published/lift/house_speed.json").read_text(encoding="utf-8"))
    (tmp_path / "house_speed.json").write_text(json.dumps(found))
    [table] = benchmark_tables.house_speed_tables(tmp_path)
    assert [row[0] for row in texts(table)] == ["training step", "sampling", "error map"]
    for (_, before, now, ratio, _), row in zip(table.rows, found["rows"].values()):
        assert (before.value, now.value, ratio.value) == (row["seconds"]["before"], row["seconds"]["after"],
                                                          row["speed_after_over_before"])
    (tmp_path / "house_speed.json").write_text('{"rows": {}}')
    with pytest.raises(InputError, match="house_speed.json: is not what scripts/benchmarks/house_speed.py writes"):
        benchmark_tables.house_speed_tables(tmp_path)


def test_how_long_a_stranger_waits(tmp_path):
    assert benchmark_tables.first_contact_tables(tmp_path) == []
    found = {"seconds": {"before": {"a.py --help": 4.126}, "after": {"a.py --help": 0.5}},
             "scripts": {"before": {"chain": None, "tests": 540.2}, "after": {"chain": 9.0, "tests": 299.6}},
             "rounds": 5, "processor": "a", "cores": 2}
    (tmp_path / "first_contact.json").write_text(json.dumps(found))
    [table] = benchmark_tables.first_contact_tables(tmp_path)
    assert texts(table) == [["`a.py --help`", "4.13", "0.50"], ["the chain, once", "failed", "9"],
                            ["the tests, once", "540", "300"]]
    (tmp_path / "first_contact.json").write_text("{}")
    with pytest.raises(InputError, match="first_contact.json: is not what scripts/benchmarks/first_contact.py writes"):
        benchmark_tables.first_contact_tables(tmp_path)


def test_the_front_page_says_how_long_the_quickstart_took():
    found = json.loads((ROOT / "results/published/lift/first_contact.json").read_text(encoding="utf-8"))
    minutes = found["scripts"]["after"]["quickstart"] / 60
    assert (f"The first took {minutes:.0f} minutes on {found['cores']} cores of an "
            f"{found['processor']}") in (ROOT / "README.md").read_text(encoding="utf-8")


def test_those_of_a_gpu_have_a_table_of_their_own(tmp_path):
    assert benchmark_tables.benchmarks_tables(tmp_path) == benchmark_tables.arithmetic_tables(tmp_path) == []
    keep(tmp_path, "train_step", STEP)
    keep(tmp_path / "gpu", "training_time", {"ratio": 5.5, "target": 6.0, "ok": True, "device": "cuda:0 (a card)"})
    here, on_gpu = benchmark_tables.benchmarks_tables(tmp_path)
    assert [here.title, on_gpu.title] == ["Benchmarks", "Benchmarks on a GPU"]
    assert texts(on_gpu)[0][2:] == ["5.5", "≤ 6", "yes", "device cuda:0 (a card)"]


def test_arithmetic_is_that_of_the_side_that_is_claimed(tmp_path):
    keep(tmp_path, "train_step", STEP)
    keep(tmp_path, "train_step_compile", {**STEP, "compile": True, "precision": "float32",
                                          "images_per_second": {"plain": 2.0, "ours": 8.0, "compiled": 9.0}})
    [table] = benchmark_tables.arithmetic_tables(tmp_path)
    assert texts(table) == [
        ["as it is", "cpu (a, 2 threads)", "bf16", "8.00", "49.35", "395", "3000", "0.132", "2900"],
        ["compiled", "cpu (a, 2 threads)", "float32", "9.00", "49.35", "395", "3000", "0.132", "300"]]
    keep(tmp_path, "train_step", {**STEP, "hidden_dims": [16, 32, 64, 128]})
    [of_compiled] = benchmark_tables.arithmetic_tables(tmp_path)
    assert texts(of_compiled) == texts(table)[1:]                   # the table is of the default size
    keep(tmp_path, "train_step", {**STEP, "convolution_gflops": None})
    with pytest.raises(InputError, match="train_step.json: is no benchmark's last line"):
        benchmark_tables.arithmetic_tables(tmp_path)


@pytest.mark.parametrize("changes, last", [
    ({}, {"ratio": 5.83, "target": 6.0, "ok": True, "images_per_second": 4500.0}),
    ({"seconds": 32.0}, {"ratio": 11.66, "ok": False}),
    ({"is_finished": False}, "expected LIFT with [64, 128, 256, 512], finished"),
    ({"step": "many"}, "is no training's record")])
def test_training_time_scales_a_run_to_a_hundred_epochs(tmp_path, changes, last):
    """1,125 steps of 64 images in 16 s are 4,500 images/s; 100 epochs of 15,803 images are 24,600 such steps."""
    record = tmp_path / "lift_run.json"
    record.write_text(json.dumps({
        "is_finished": True, "step": 1125, "seconds": 16.0, "device": "cuda:0 (a card)",
        "options": {"hidden_dims": [64, 128, 256, 512], "timesteps": "independent", "batch_size": 64, "compile": True,
                    "precision": "bf16"}} | changes))
    done = subprocess.run([sys.executable, "-m", "scripts.benchmarks.training_time", str(record)], capture_output=True,
                          text=True)
    if isinstance(last, str):
        assert done.returncode == 2 and last in done.stderr and len(done.stderr.splitlines()) == 1
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]).items() >= last.items()
