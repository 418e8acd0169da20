"""The table of results: what goes in comes out, nothing gets lost, and damage is named."""
import csv
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from evaluation import results_table
from conftest import ROOT
from engine.errors import InputError


def row(seed=42, metric="swd", value=1.5, **changes):
    return {"checkpoint": "baseline_3ep.pth", "checkpoint_hash": "0123456789012345", "model_type": "baseline",
            "epochs": 3, "weights": "ema", "path": "uniform", "path_hash": "000000000012", "step_size": "",
            "solver": "ddim", "x32_mode": "joint", "precision": "float32", "num_steps": 18, "num_model_calls": 18,
            "seed": seed, "num_images": 10, "dataset": "a folder, with a comma", "split": "train[:5]",
            "reference_hash": "12e4567890123456", "metric": metric, "value": value, "standard_error": None,
            "git_revision": "abc", "finished": "2025-01-01T00:00:00Z", **changes}


def test_rows_come_back_as_they_went_in(tmp_path):
    path = tmp_path / "results" / "table.csv"
    rows = [row(value=0.1 + 0.2, standard_error=1e-17), row(seed=43), row(dataset='quoted "name"')]
    assert results_table.add(path, rows[:1]) == 1
    assert results_table.add(path, rows[1:]) == 2
    assert results_table.read(path) == rows             # all-digit hashes stay text, floats keep every digit
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == [*results_table.COLUMNS, *results_table.COST_COLUMNS]
    assert [p.name for p in path.parent.iterdir() if ".tmp" in p.name] == []


def test_costs_stand_in_rows_that_have_them_and_an_earlier_table_goes_on(tmp_path):
    path, earlier = tmp_path / "table.csv", row(seed=1)
    line = results_table.format_line(earlier).removesuffix(",,")
    path.write_text(",".join(results_table.COLUMNS) + f"\n{line}\n")
    assert results_table.read(path) == [earlier]
    later = row(seed=2, gflop=16.5, seconds_per_image=0.25)
    assert results_table.add(path, [later, row(seed=1, gflop=1.0, seconds_per_image=1.0)]) == 1
    assert results_table.read(path) == [earlier, later] and path.read_text().splitlines()[1] == line
    assert path.read_text().splitlines()[0].endswith(",finished,gflop,seconds_per_image")
    with pytest.raises(InputError, match="found 'nan' in column gflop, expected a finite number"):
        results_table.add(path, [row(seed=3, gflop=float("nan"), seconds_per_image=1.0)])


def damaged_lines(path) -> list[tuple[int, str]]:
    """(line number, what is wrong with it) for every line that is no row."""
    return [(number, why) for number, _, found, why in results_table.split_lines(results_table.read_text(path))
            if found is None]


def test_absent_table_has_no_rows(tmp_path):
    assert results_table.read(tmp_path / "none.csv") == []
    assert damaged_lines(tmp_path / "none.csv") == []


def test_adding_again_keeps_the_first_and_replacing_touches_only_its_own(tmp_path):
    path = tmp_path / "table.csv"
    results_table.add(path, [row(seed=1, value=1.0), row(seed=2, value=2.0), row(seed=3, value=3.0)])
    before = path.read_bytes()
    assert results_table.add(path, [row(seed=2, value=9.0)]) == 0
    assert path.read_bytes() == before
    assert results_table.add(path, [row(seed=2, value=9.0), row(seed=4, value=4.0)], replace=True) == 2
    assert {r["seed"]: r["value"] for r in results_table.read(path)} == {1: 1.0, 2: 9.0, 3: 3.0, 4: 4.0}


def test_every_identifying_column_makes_a_row_of_its_own(tmp_path):
    path = tmp_path / "table.csv"
    variants = [row()]
    for column in results_table.KEY_COLUMNS:
        other = {"metric": "fid"}.get(column, 7 if column in results_table.WHOLE_NUMBERS else "other")
        variants.append(row(**{column: other}))
    assert results_table.add(path, variants) == len(results_table.KEY_COLUMNS) + 1
    assert results_table.add(path, [row(value=2.0, standard_error=1.0, git_revision="x", finished="y")]) == 0


def test_find(tmp_path):
    rows = [row(seed=1), row(seed=1, metric="fid"), row(seed=2)]
    assert results_table.find(rows, {"seed": 1}) == rows[:2]
    assert results_table.find(rows, {"seed": 1, "metric": "fid"}) == rows[1:2]
    assert results_table.find(rows, {"seed": 3}) == []
    with pytest.raises(KeyError):
        results_table.find(rows, {"sed": 1})


@pytest.mark.parametrize("damage, reason", [
    (b"baseline_3ep.pth,0123", "found 2 fields"),
    (b"baseline_3ep.pth,\xff\xfe,x", "found 3 fields"),
    (b"\"unclosed", "unexpected end of data"),
    (results_table.format_line(row(seed=7)).replace(",7,", ",seven,").encode(), "column seed"),
    (results_table.format_line(row(value=2.5)).replace("2.5", "nan").encode(), "column value"),
    (results_table.format_line(row()).replace(",swd,", ",fidd,").encode(), "metric 'fidd'"),
])
def test_damaged_line_is_named_and_never_lost(tmp_path, capsys, damage, reason):
    path = tmp_path / "table.csv"
    results_table.add(path, [row(seed=1), row(seed=2)])
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1], damage, *lines[2:]]))
    assert [r["seed"] for r in results_table.read(path)] == [1, 2]
    message = capsys.readouterr().err
    assert f"{path}: line 3 is damaged" in message and reason in message and message.count("\n") == 1
    [(number, why)] = damaged_lines(path)
    assert number == 3 and reason in why
    results_table.add(path, [row(seed=3), row(seed=2, value=8.0)], replace=True)
    assert path.read_bytes().split(b"\n")[2] == damage
    assert [r["seed"] for r in results_table.read(path, warn=False)] == [1, 3, 2]


def test_last_line_cut_off_does_not_swallow_the_next_row(tmp_path):
    path = tmp_path / "table.csv"
    results_table.add(path, [row(seed=1), row(seed=2)])
    path.write_bytes(path.read_bytes()[:-40])
    results_table.add(path, [row(seed=3)])
    assert [r["seed"] for r in results_table.read(path, warn=False)] == [1, 3]
    assert [number for number, _ in damaged_lines(path)] == [3]


def test_foreign_or_unreadable_files_are_refused_untouched(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("epoch,fid\n1,2\n")
    for use in (lambda: results_table.read(path), lambda: results_table.add(path, [row()])):
        with pytest.raises(InputError, match="line 1 is 'epoch,fid'"):
            use()
    assert path.read_text() == "epoch,fid\n1,2\n"
    with pytest.raises(InputError, match="found a folder"):
        results_table.read(tmp_path)


@pytest.mark.parametrize("changes", [{"value": float("nan")}, {"value": "1,5"}, {"seed": "x"}, {"metric": "fiid"},
                                     {"dataset": "two\nlines"}, {"surplus": 1}])
def test_rows_that_do_not_fit_are_refused(tmp_path, changes):
    path = tmp_path / "table.csv"
    results_table.add(path, [row(seed=1)])
    before = path.read_bytes()
    with pytest.raises(InputError):
        results_table.add(path, [row(seed=2), row(**changes)])
    assert path.read_bytes() == before


def test_full_disk_loses_no_earlier_row(tmp_path):
    path = tmp_path / "table.csv"
    results_table.add(path, [row(seed=seed) for seed in range(20)])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limits[1]))         # a file may not grow any more
    try:
        with pytest.raises(InputError, match="could not be written"):
            results_table.add(path, [row(seed=20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "table.csv.lock"]


def add_many(path, writer, count, start):
    start.wait()
    for number in range(count):
        results_table.add(path, [row(seed=1000 * writer + number)])


def test_eight_processes_lose_nothing(tmp_path):
    path = tmp_path / "table.csv"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(8)
    writers = [context.Process(target=add_many, args=(path, writer, 6, start)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    expected = sorted(1000 * writer + number for writer in range(8) for number in range(6))
    assert sorted(r["seed"] for r in results_table.read(path)) == expected
    assert damaged_lines(path) == []


WRITER = """
import itertools, sys
from evaluation import results_table
row = eval(sys.argv[2])
for seed in itertools.count():
    results_table.add(sys.argv[1], [{**row, "seed": seed, "dataset": "d" * 4000}])
    print(seed, flush=True)
"""


def test_kill_while_writing_loses_no_earlier_row_and_frees_the_lock(tmp_path):
    path = tmp_path / "table.csv"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), repr(row())], cwd=ROOT,
                               stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    last = [process.stdout.readline() for _ in range(10)][-1]
    time.sleep(0.0137)                                                         # somewhere inside a later write
    process.send_signal(signal.SIGKILL)
    last = ([last] + process.stdout.readlines())[-1]
    process.wait()
    seeds = [r["seed"] for r in results_table.read(path)]
    assert damaged_lines(path) == []
    assert seeds == list(range(len(seeds))) and int(last) + 1 <= len(seeds) <= int(last) + 2
    assert results_table.add(path, [row(seed=10**6)]) == 1                     # would hang if the lock were still held


def test_kill_between_write_and_rename_keeps_the_earlier_table(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    results_table.add(path, [row(seed=1)])
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        results_table.add(path, [row(seed=2)])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_bytes() == before
    assert results_table.add(path, [row(seed=3)]) == 1
    assert [r["seed"] for r in results_table.read(path)] == [1, 3]
