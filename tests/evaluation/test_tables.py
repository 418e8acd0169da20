"""Tables: means and spreads in closed form, what stands in bold, what is kept apart, and README against CSV."""
import json
import math

import pytest

from evaluation import text_tables
from lift import marked_tables
from lift.labels import NAMES
from lift import report
from evaluation import results_table
from lift import side_tables
from evaluation import tables
from engine.errors import InputError


def row(**changes) -> dict:
    """A row of results, complete."""
    values = {"checkpoint": "lift_dual_timestep_20ep.pth", "checkpoint_hash": "aa", "model_type": "lift", "epochs": 20,
              "weights": "ema", "path": "diagonal", "path_hash": "p1", "step_size": "", "solver": "ddim",
              "x32_mode": "joint", "precision": "float32", "num_steps": 18, "num_model_calls": 18, "seed": 42,
              "num_images": 1000, "dataset": "some/photos", "split": "train", "reference_hash": "r1", "metric": "fid",
              "value": 50.0, "standard_error": None, "git_revision": "g", "finished": "2026-01-01T00:00:00Z"}
    return values | changes


def baseline_row(**changes) -> dict:
    return row(checkpoint="baseline_20ep.pth", checkpoint_hash="bb", model_type="baseline", path="uniform",
               path_hash="p0") | changes


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.rows]


def test_mean_and_sample_standard_deviation():
    values = {42: 2.0, 44: 9.0, 43: 4.0}
    spread = tables.spread_over_seeds([row(seed=seed, value=value) for seed, value in values.items()])
    assert spread.seeds == [42, 43, 44]
    assert spread.mean == 5
    assert spread.standard_deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))      # n - 1 below
    assert tables.format_spread("fid", spread) == "5.00 ± 3.61"


def test_a_single_seed_has_no_spread():
    spread = tables.spread_over_seeds([row(value=3.14159)])
    assert spread.standard_deviation is None
    assert tables.format_spread("fid", spread) == "3.14"


def test_a_seed_that_recurs_is_refused():
    with pytest.raises(InputError, match="twice"):
        tables.spread_over_seeds([row(value=1.0), row(value=2.0)])


@pytest.mark.parametrize("metric, value, text", [
    ("fid", 29.4567, "29.46"), ("kid", 0.0123456, "0.01235"), ("recall", 0.4567, "0.457"),
    ("swd", 0.0123456, "0.01235"), ("swd_64", 12.3456, "12.35"), ("swd_32", 12345.6, "12346"), ("swd", 0.0, "0")])
def test_digits(metric, value, text):
    assert tables.format_value(metric, value) == text


@pytest.mark.parametrize("metric, best", [("fid", [False, True, True]), ("kid", [False, True, True]),
                                          ("precision", [True, False, False]), ("recall", [True, False, False])])
def test_the_best_is_the_lowest_except_for_precision_and_recall(metric, best):
    rows = [baseline_row(metric=metric, value=0.5), row(metric=metric, value=0.25),
            row(metric=metric, path="dp_64", value=0.25)]
    table, = tables.metric_tables(rows, metric, NAMES)
    assert table.header == ["epoch", "baseline", "diagonal", "DP-64"]
    assert [cell.best for cell in table.rows[0][1:]] == best
    assert table.rows[0][0].best is False                       # the epoch is no result


def test_best_by_the_mean_not_by_a_lucky_seed():
    rows = [row(seed=1, value=10.0), row(seed=2, value=30.0), row(path="dp_64", seed=1, value=15.0),
            row(path="dp_64", seed=2, value=16.0)]
    table, = tables.metric_tables(rows, "fid", NAMES)
    assert [cell.best for cell in table.rows[0]] == [False, False, True]


def test_a_value_that_stands_alone_is_not_in_bold():
    table, = tables.metric_tables([row()], "fid", NAMES)
    assert not any(cell.best for cell in table.rows[0])


@pytest.mark.parametrize("column, other", [("num_images", 5000), ("dataset", "other/photos"), ("split", "validation"),
                                           ("reference_hash", "r2"), ("weights", "raw"), ("precision", "bf16")])
def test_another_protocol_is_another_table(column, other):
    rows = [row(value=1.0), row(value=100.0, **{column: other})]
    found = tables.metric_tables(rows, "fid", NAMES)
    assert sorted(table.rows[0][1].value for table in found) == [1.0, 100.0]
    assert all(len(table.rows) == 1 and len(table.header) == 2 for table in found)


def test_metrics_are_never_mixed():
    rows = [row(metric=metric, value=float(k)) for k, metric in enumerate(results_table.METRICS)]
    for k, metric in enumerate(results_table.METRICS):
        table, = tables.metric_tables(rows, metric, NAMES)
        assert [cell.value for cell in table.rows[0]] == [20, k]


@pytest.mark.parametrize("changes, label", [
    ({"solver": "multistep"}, "diagonal, multistep"), ({"x32_mode": "random"}, "diagonal, 32 random"),
    ({"checkpoint": "lift_band_20ep.pth"}, "diagonal, lift_band")])
def test_other_settings_are_another_column(changes, label):
    table, = tables.metric_tables([row(value=1.0), row(value=3.0, **changes)], "fid", NAMES)
    assert label in table.header
    assert sorted(cell.value for cell in table.rows[0][1:]) == [1.0, 3.0]


def test_columns_with_like_names_are_still_two():
    table, = tables.metric_tables([row(value=1.0), row(value=3.0, x32_mode="")], "fid", NAMES)
    assert len(set(table.header)) == 3
    assert sorted(cell.value for cell in table.rows[0][1:]) == [1.0, 3.0]


def test_another_number_of_steps_is_another_row():
    table, = tables.metric_tables([row(value=1.0), row(value=3.0, num_steps=9, num_model_calls=9)], "fid", NAMES)
    assert table.header == ["epoch", "steps", "calls", "diagonal"]
    assert [[cell.value for cell in line] for line in table.rows] == [[20, 9, 9, 3.0], [20, 18, 18, 1.0]]


@pytest.mark.parametrize("column, label", [("checkpoint_hash", "earlier training 1"), ("path_hash", "earlier 1")])
def test_a_changed_checkpoint_or_path_is_not_averaged_with_the_earlier_one(column, label):
    rows = [row(value=1.0), row(value=3.0, finished="2026-02-01T00:00:00Z", **{column: "changed"})]
    table, = tables.metric_tables(rows, "fid", NAMES)
    assert table.header == ["epoch", "diagonal", f"diagonal, {label}"]
    assert [cell.value for cell in table.rows[0]] == [20, 3.0, 1.0]         # the latest has the plain name
    assert "Earlier" in table.note


def trained_twice() -> list[dict]:
    """Epochs 1 to 3 of one training and epoch 3 of another of the same name, and a second path of the older one."""
    def measured(epochs, checkpoint_hash, value, finished, **more):
        return row(checkpoint=f"lift_dual_timestep_{epochs}ep.pth", epochs=epochs, checkpoint_hash=checkpoint_hash,
                   value=value, finished=finished, **more)
    return [measured(1, "a1", 150.0, "2026-11-01T10:00:00Z"), measured(2, "a2", 140.0, "2026-11-01T10:10:00Z"),
            measured(3, "a3", 130.0, "2026-11-01T10:20:00Z"),
            measured(3, "a3", 120.0, "2026-11-01T10:30:00Z", path="dp_64", path_hash="e", step_size="index"),
            measured(3, "b3", 90.0, "2026-11-02T10:00:00Z")]


def test_two_trainings_of_one_name_share_no_column():
    table, = tables.metric_tables(trained_twice(), "fid", NAMES)
    assert table.header == ["epoch", "diagonal", "diagonal, earlier training 1", "DP-64, earlier training 1"]
    assert texts(table) == [["1", "–", "150.00", "–"], ["2", "–", "140.00", "–"], ["3", "90.00", "130.00", "120.00"]]
    assert "another training, under the same name" in table.note
    assert [(row["checkpoint_hash"], row["path"]) for row in tables.of_latest_trainings(trained_twice())] == [
        ("b3", "diagonal")]


def test_a_training_measured_while_it_goes_is_one():
    again = [row(checkpoint=f"lift_dual_timestep_{epochs}ep.pth", epochs=epochs, checkpoint_hash=f"b{epochs}",
                 finished=f"2026-11-02T09:{epochs:02}:00Z") for epochs in (1, 4)]
    numbers = tables.earlier_trainings(trained_twice() + again)
    assert {key[2]: number for key, number in numbers.items()} == {"a1": 1, "a2": 1, "a3": 1, "b1": 0, "b3": 0, "b4": 0}


def test_tables_of_other_real_images_of_one_name_say_which():
    one, other = tables.metric_tables([row(), row(reference_hash="r2")], "fid", NAMES)
    assert one.title == other.title and "of hash r1" in one.note and "of hash r2" in other.note
    assert "hash" not in tables.metric_tables([row()], "fid", NAMES)[0].note


def test_epochs_in_order_and_gaps_shown():
    rows = [row(epochs=epochs, value=float(epochs), checkpoint=f"lift_dual_timestep_{epochs}ep.pth",
                checkpoint_hash=str(epochs)) for epochs in (100, 20)] + [baseline_row(value=7.0)]
    table, = tables.metric_tables(rows, "fid", NAMES)
    assert texts(table) == [["20", "7.00", "20.00"], ["100", "–", "100.00"]]


def test_the_note_says_what_was_measured():
    table, = tables.metric_tables([row(seed=seed, value=float(seed)) for seed in (1, 2, 3)], "fid", NAMES)
    assert table.title == "FID, 1,000 images"
    for words in ("Lower is better", "18 steps", "EMA weights", "some/photos", "split train", "over 3 seeds", "2,048"):
        assert words in table.note
    assert "2,048" not in tables.metric_tables([row(num_images=2048)], "fid", NAMES)[0].note


def test_markdown_can_be_read_back():
    rows = [baseline_row(value=12.0), row(value=10.5), row(path="dp_64", value=11.25)]
    lines = tables.metric_tables(rows, "fid", NAMES)[0].markdown().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [["epoch", "baseline", "diagonal", "DP-64"], ["---:"] * 4, ["20", "12.00", "**10.50**", "11.25"]]


def test_a_bar_in_a_name_does_not_break_the_table():
    table = tables.Table("x", "title", "", ["a|b"], [[tables.Cell("c|d")]])
    assert table.markdown().splitlines()[-1] == "| c\\|d |"


# --- README ---------------------------------------------------------------------------------------------------------

README = "# Head\n\n<!-- table:fid -->\nold\n<!-- end:fid -->\ntail <!-- table:no --> inline\n"


def test_tables_between_markers_and_nothing_else(tmp_path):
    rows = [row(value=10.0), baseline_row(value=12.0)]
    text = marked_tables.with_tables(README, rows, tmp_path, "README.md")
    assert text.startswith("# Head\n\n<!-- table:fid -->\n**FID, 1,000 images.**")
    assert text.endswith("\n<!-- end:fid -->\ntail <!-- table:no --> inline\n")
    assert "| 20 | 12.00 | **10.00** |" in text and "\nold\n" not in text
    assert marked_tables.with_tables(text, rows, tmp_path, "README.md") == text       # a second time changes nothing


def test_a_marker_can_choose_rows(tmp_path):
    text = "<!-- table:fid num_images=5000 weights=raw -->\n<!-- end:fid num_images=5000 weights=raw -->\n"
    rows = [row(value=1.0), row(value=2.0, num_images=5000), row(value=3.0, num_images=5000, weights="raw")]
    filled = marked_tables.with_tables(text, rows, tmp_path, "README.md")
    assert "| 20 | 3.00 |" in filled and "1.00" not in filled and "2.00" not in filled


def test_no_results_yet(tmp_path):
    assert "_No results yet._" in marked_tables.with_tables(README, [], tmp_path, "README.md", may_empty=True)
    empty = README.replace("old", text_tables.NO_RESULTS)
    assert marked_tables.with_tables(empty, [], tmp_path, "README.md") == empty


def test_a_table_is_not_emptied(tmp_path):
    with pytest.raises(InputError, match=r"README.md: fid: found tables for which .* has no results; give"):
        marked_tables.with_tables(README, [], tmp_path, "README.md")


@pytest.mark.parametrize("text, words", [
    ("<!-- table:fid -->\n", "has no end:fid"), ("<!-- end:fid -->\n", "found end:fid"),
    ("<!-- table:fid -->\n<!-- end:kid -->\n", "expected end:fid"),
    ("<!-- table:fid -->\n<!-- table:kid -->\n<!-- end:kid -->\n", "has no end:fid"),
    ("<!-- table:fed -->\n<!-- end:fed -->\n", "found 'fed'"),
    ("<!-- table:fid colour=red -->\n<!-- end:fid colour=red -->\n", "found 'colour=red'"),
    ("<!-- table:mse epochs=3 -->\n<!-- end:mse epochs=3 -->\n", "found conditions, expected mse alone")])
def test_wrong_markers(text, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        marked_tables.with_tables(text, [row()], tmp_path, "README.md")
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    """A README that agrees with a CSV of two rows."""
    results_table.add(tmp_path / "results" / "fid_results.csv", [row(value=10.0), baseline_row(value=12.0)])
    rows = results_table.read(tmp_path / "results" / "fid_results.csv")
    (tmp_path / "README.md").write_text(marked_tables.with_tables(README, rows, tmp_path, "README.md"))
    return tmp_path


def check(folder, *more):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        report.main(["--results", str(folder / "results" / "fid_results.csv"), "--readme",
                           str(folder / "README.md"), *map(str, more), "--check"])
    except SystemExit as stop:
        return stop.code
    finally:
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before     # writes nothing


def test_check_agrees(folder, capsys):
    assert check(folder) == 0
    assert "agrees" in capsys.readouterr().out


def test_check_sees_a_changed_readme(folder, capsys):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("12.00", "11.00"))
    assert check(folder) == 1
    assert "line 8" in capsys.readouterr().err


def test_check_looks_at_every_text(folder, capsys):
    other = folder / "OTHER.md"
    other.write_text((folder / "README.md").read_text())
    assert check(folder, other) == 0
    other.write_text(README)
    assert check(folder, other) == 1
    captured = capsys.readouterr()
    assert "README.md: agrees" in captured.out and "OTHER.md: its tables differ" in captured.err


def test_check_sees_a_new_result(folder):
    results_table.add(folder / "results" / "fid_results.csv", [row(value=11.0, seed=43)])
    assert check(folder) == 1


def test_check_needs_the_readme(folder):
    (folder / "README.md").unlink()
    with pytest.raises(InputError, match="--readme"):
        check(folder)


# --- other measurements ---------------------------------------------------------------------------------------------

def test_mse_table_keeps_the_untrained_output_apart(tmp_path):
    shared = "lift.pth,ema,photos,validation,8,500"
    (tmp_path / "mse.csv").write_text(
        "checkpoint,weights,dataset,split,num_images,t,case,t_64,t_32,scale,scored,mse,standard_error\n"
        f"{shared},both noisy,500,500,64,yes,0.02,0.001\n{shared},both noisy,500,500,32,yes,0.03,0.002\n"
        f'{shared},"clean 32, noisy 64",500,0,64,yes,0.015,0.001\n{shared},"clean 32, noisy 64",500,0,32,no,0.9,0.1\n')
    table = side_tables.side_table(tmp_path, "mse")
    assert texts(table) == [
        ["both noisy", "500", "500", "0.0200 ± 0.0010", "0.0300 ± 0.0020", "–"],
        ["clean 32, noisy 64", "500", "0", "0.0150 ± 0.0010", "–", "0.9000 ± 0.1000"]]


def test_super_resolution_table_marks_the_best_of_a_column(tmp_path):
    shared = "lift.pth,ema,photos,validation,8,18"
    (tmp_path / "super_resolution.csv").write_text(
        "checkpoint,weights,dataset,split,num_images,num_steps,method,psnr,psnr_standard_error,ssim,"
        f"ssim_standard_error,consistency,consistency_standard_error\n{shared},bicubic,25,1,0.8,0.01,40,1\n"
        f"{shared},LIFT,26,1,0.7,0.01,30,1\n")
    table = side_tables.side_table(tmp_path, "super_resolution")
    assert [[cell.best for cell in line] for line in table.rows] == [[False, False, True, True],
                                                                     [False, True, False, False]]


@pytest.mark.parametrize("content", ["case,t\nboth noisy\n", "case,t\nboth noisy,500\n", "case,t\n\x00\n"])
def test_a_damaged_csv_is_named(content, tmp_path):
    (tmp_path / "mse.csv").write_text(content)
    with pytest.raises(InputError, match="mse.csv"):
        side_tables.side_table(tmp_path, "mse")


def test_no_file_no_table(tmp_path):
    assert side_tables.side_table(tmp_path, "mse") is None


def test_bf16_is_set_against_float32_on_the_seeds_that_both_have():
    rows = [row(precision=precision, seed=seed, metric="swd", value=value) for precision, seed, value in (
        ("bf16", 1, 30.0), ("bf16", 2, 34.0), ("bf16", 3, 90.0), ("float32", 1, 29.0), ("float32", 2, 31.0))]
    others = [row(precision="bf16", seed=1, path="dp_64", metric="swd"),
              row(precision="float32", seed=1, num_images=50)]
    [table] = tables.bf16_tables([*rows, *others])
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["lift_dual_timestep_20ep.pth", "diagonal", "joint", "18", "1,000", "swd", "32.00 ± 2.83", "30.00 ± 1.41",
         "2.000 ± 1.414"]]
    assert tables.bf16_tables(others) == []
    assert "2.000 ± 1.414" in marked_tables.with_tables("<!-- table:bf16 -->\n<!-- end:bf16 -->\n", rows, ".", "text")


def test_path_costs_are_averaged_over_mixtures(tmp_path):
    assert side_tables.path_cost_tables(tmp_path) == []
    found = {"options": {"num_mixtures": 2, "num_paths": 60, "path_steps": 10, "num_steps": 18},
             "correlations": [{"mixture": k, "cost": "step doubling", "raw": 0.8 + 0.1 * k, "whitened": 0.5}
                              for k in (0, 1)],
             "paths": [{"mixture": k, "path": "dp_step", "raw": 0.03, "whitened": 0.1 * (k + 1), "kind": "mixed"}
                       for k in (0, 1)]}
    (tmp_path / "path_costs.json").write_text(json.dumps(found))
    correlations, distances = side_tables.path_cost_tables(tmp_path)
    assert [cell.text for cell in correlations.rows[0]] == ["step doubling", "0.85 [0.80, 0.90]", "0.50 [0.50, 0.50]"]
    assert [cell.text for cell in distances.rows[0]] == ["dp_step", "0.0300 [0.0300, 0.0300]",
                                                         "0.1500 [0.1000, 0.2000]",
                                                         "mixed"]
    (tmp_path / "path_costs.json").write_text("{}")
    with pytest.raises(InputError, match="path_costs.json: is not what"):
        side_tables.path_cost_tables(tmp_path)
