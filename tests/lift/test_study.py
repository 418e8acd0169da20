"""Tables of the study from made-up rows: what stands where, over which seeds, and what is left out."""
import json
import math

import pytest

import train_baseline
import train_lift
from lift import marked_tables
from lift.study_runs import RUNS, command_of, opponent_of
from lift import study_tables
from engine.errors import InputError
from conftest import ROOT
from evaluation import results_table
from evaluation.results_table import COLUMNS
from test_tables import row, texts


def run(name, training_seed=0, **changes) -> dict:
    """A row of a training run of the study, on the diagonal unless told otherwise."""
    is_baseline = name == "baseline"
    known = {"checkpoint": f"{name}_seed{training_seed}_3ep.pth", "checkpoint_hash": f"{name}{training_seed}",
             "metric": "fd_tiny",
             "model_type": "baseline" if is_baseline else "lift", "path": "uniform" if is_baseline else "diagonal",
             "path_hash": "p", "step_size": ""}
    return row(**{**known, **changes})


def real(metric, value, seed, **changes) -> dict:
    return row(checkpoint="real images", model_type="real", path="real", metric=metric, value=value, seed=seed,
               epochs=0, num_steps=0, num_model_calls=0, weights="", precision="", solver="", x32_mode="",
               step_size="", **changes)


def test_rows_have_the_columns_of_the_table():
    assert set(run("baseline")) == set(COLUMNS)


def test_which_rows_are_of_the_study():
    assert study_tables.run_of(run("lift_loss64", 3)) == ("lift_loss64", 3)
    assert study_tables.run_of(run("baseline", 12)) == ("baseline", 12)
    plain, of_real = row(), real("swd", 1.0, 42)
    assert study_tables.run_of(plain) is None and study_tables.run_of(of_real) is None
    of_user = row(checkpoint="lift_dual_timestep_seed1_20ep.pth")
    assert study_tables.others([plain, of_real, of_user, run("lift_band")]) == [plain, of_user]


@pytest.mark.parametrize("name", RUNS)
def test_every_training_of_the_study_is_a_command_and_has_an_opponent(name):
    script, *options = command_of(name).split()
    module = {"train_baseline.py": train_baseline, "train_lift.py": train_lift}[script]
    args = module.parse_args([*options, "--dataset", "synthetic:8"])
    if opponent_of(name) != name:
        beside = train_baseline.parse_args(command_of(opponent_of(name)).split()[1:])
        assert (args.parametrization, args.loss_target) == (beside.parametrization, beside.loss_target)
    assert len({run.label for run in RUNS.values()}) == len(RUNS)


def test_detail_is_shown_beside_real_images_and_has_no_best():
    rows = [run(name, metric=metric, value=value) for name, value in (("baseline", 4.0), ("lift_band", 3.0))
            for metric in ("kurtosis_64", "contrast_64")] + [real("kurtosis_64", 6.0, 42)]
    [table] = study_tables.tables_named("study_detail", rows, "nowhere")
    assert table.header == ["model; predictions", "kurtosis, level 64", "contrast, level 64"]
    assert texts(table) == [["baseline", "4.000", "4.000"], ["LIFT, band; each scale's own", "3.000", "3.000"]]
    assert not any(cell.best for line in table.rows for cell in line)
    assert "Real images in place of generated ones score kurtosis, level 64 6.000." in table.note
    assert "better" not in table.note and "best" not in table.note


def test_captions_name_the_run():
    assert study_tables.caption_of("heatmap_30_lift_band_seed1_3ep") == \
        "Error map and paths: LIFT, band; seed 1; 3 epochs; 30 points."
    assert study_tables.caption_of("samples_lift_native_v_eps_seed0_3ep_reconciled") == (
        "Samples from the same start noises: LIFT, 32 at its own level, v, loss of the noise; seed 0; 3 epochs; "
        "predictions reconciled.")
    for other in ("heatmap_30_lift_band_seed1_3ep_blocks", "samples_lift_unknown_seed0_3ep", "report"):
        assert study_tables.caption_of(other) is None


def gate_rows(**changes):
    return [run(name, num_steps=steps, value=value + 10 / steps, **changes)
            for name, value in (("baseline", 20.0), ("lift_independent", 30.0)) for steps in (250, 18, 50)]


def test_gate_has_models_down_and_steps_across():
    [table] = study_tables.tables_named("study_gate", gate_rows(), "nowhere")
    assert table.header == ["model", "fd_tiny, 18 steps", "fd_tiny, 50 steps", "fd_tiny, 250 steps"]
    assert texts(table) == [["baseline", "20.56", "20.20", "20.04"],
                            ["LIFT, independent timesteps", "30.56", "30.20", "30.04"]]
    assert [cell.best for cell in table.rows[0]] == [False, True, True, True]       # best of the column
    assert "Noise floor not measured" in table.note


def test_fid_of_few_images_is_said_in_the_note():
    for num_images, metric, is_said in ((2047, "fid", True), (2048, "fid", False), (2047, "swd", False)):
        [table] = study_tables.tables_named("study_gate", gate_rows(metric=metric, num_images=num_images), "nowhere")
        assert ("FID of fewer than 2,048 images is biased upwards" in table.note) == is_said


def test_gate_needs_more_steps_than_the_paths_have():
    assert study_tables.tables_named("study_gate", [r for r in gate_rows() if r["num_steps"] == 18], "nowhere") == []


def test_noise_floor_of_the_same_number_of_images_only():
    floors = [real("fd_tiny", 1.9, 42), real("fd_tiny", 2.1, 43), real("fd_tiny", 9.9, 42, num_images=7)]
    [table] = study_tables.tables_named("study_gate", gate_rows() + floors, "nowhere")
    assert "fd_tiny 2.000 ± 0.141." in table.note and "9.9" not in table.note
    normal = {**real("fd_tiny", 8.0, 42), "model_type": "normal", "checkpoint": "normal law", "path": "normal"}
    [table] = study_tables.tables_named("study_gate", gate_rows() + floors + [normal], "nowhere")
    assert table.note.endswith("fd_tiny 2.000 ± 0.141. Images of the normal law with their mean and covariance in "
                               "place of generated ones score fd_tiny 8.000.")
    [floor] = study_tables.tables_named("study_floor", [normal] + floors, "nowhere")
    what = list(study_tables.WITHOUT_NETWORK.values())
    assert texts(floor) == [[what[0], "7", "9.900"], [what[0], "1,000", "2.000 ± 0.141"], [what[1], "1,000", "8.000"]]
    assert study_tables.others(floors + [normal]) == []


def test_spread_is_over_seeds_of_training():
    rows = [run("baseline", 0, value=1.0), run("baseline", 1, value=3.0),
            run("lift_band", 0, value=4.0, seed=42), run("lift_band", 0, value=6.0, seed=43),
            run("lift_band", 1, value=7.0, seed=42), run("lift_band", 1, value=7.0, seed=43),
            run("lift_band", 0, value=9.0, path="dp_total", step_size="index", path_hash="q")]
    [table] = study_tables.tables_named("study_training", rows, "nowhere")
    assert table.header == ["model", "fd_tiny, evenly spaced", "fd_tiny, DP-Total"]
    assert texts(table) == [["baseline", "2.000 ± 1.414", "–"], ["LIFT, band", "6.000 ± 1.414", "9.000"]]
    assert "over the seeds of training" in table.note


def test_levels_of_plain_and_of_reconciled_predictions():
    levels = [{"metric": f"swd_{level}", "value": float(level), "num_steps": 18} for level in (16, 64)]
    rows = [run(name, **changes, **level) for level in levels for name, changes in (
        ("baseline", {}), ("lift_band", {}), ("lift_band", {"x32_mode": "random"}),
        ("lift_band", {"path": "lead_3", "path_hash": "q", "x32_mode": "reconciled"}),
        ("lift_band", {"path": "lead_3", "path_hash": "q", "x32_mode": "reconciled", "solver": "multistep"}))]
    [table] = study_tables.tables_named("study_levels", rows + [real("swd_64", 3.0, 42), real("swd", 2.0, 42)],
                                        "nowhere")
    assert table.header == ["model; predictions", "SWD, level 64", "SWD, level 16"]
    assert texts(table) == [["baseline", "64.00", "16.00"], ["LIFT, band; each scale's own", "64.00", "16.00"],
                            ["LIFT, band; reconciled, lead 3", "64.00", "16.00"]]
    assert "Real images in place of generated ones score SWD, level 64 3.000." in table.note
    assert study_tables.tables_named("study_levels", rows[:3], "nowhere") == []


def test_of_two_versions_of_a_checkpoint_the_latest_counts():
    later = run("baseline", num_steps=18, value=1.0, checkpoint_hash="another", finished="2027-01-01T00:00:00Z")
    earlier = {**later, "value": 2.0, "finished": "2025-01-01T00:00:00Z"}
    assert texts(study_tables.tables_named("study_gate", gate_rows() + [later], "nowhere")[0])[0][1] == "1.000"
    assert texts(study_tables.tables_named("study_gate", gate_rows() + [earlier], "nowhere")[0])[0][1] == "20.56"


def test_a_seed_that_recurs_is_refused():
    with pytest.raises(InputError, match="a seed occurs twice"):
        study_tables.tables_named("study_gate", gate_rows() + [run("baseline", num_steps=18, split="train")], "nowhere")


def test_other_epochs_are_another_table():
    tables = study_tables.tables_named("study_gate", gate_rows() + gate_rows(epochs=90), "nowhere")
    assert [table.note.partition(" epochs")[0] for table in tables] == ["Lower is better. 20", "Lower is better. 90"]


def test_a_single_seed_has_no_spread_beside_several():
    rows = [run("baseline", 0, value=1.0), run("baseline", 1, value=3.0),
            run("lift_band", value=4.0, seed=42), run("lift_band", value=6.0, seed=43),
            run("lift_band", value=6.0, path="dp_64")]
    [table] = study_tables.tables_named("study_training", rows, "nowhere")
    assert texts(table)[1][1] == "5.000"
    assert not any(cell.best for line in table.rows for cell in line)       # one seed against two: no contest


def test_steps_in_order_where_cells_are_missing():
    rows = [run("baseline", num_steps=50), run("lift_band", num_steps=18), run("lift_band", num_steps=50)]
    [table] = study_tables.tables_named("study_gate", rows, "nowhere")
    assert table.header[1:] == ["fd_tiny, 18 steps", "fd_tiny, 50 steps"] and texts(table)[0][1] == "–"


@pytest.mark.parametrize("name, content", [("model_error_lift_band_seed0_3ep.csv", "curve,t_64\nd,0\n"),
                                           ("model_error_lift_band_seed0_3ep.csv", "curve,ratio\nd,\n"),
                                           ("heatmap_30_lift_band_seed0_3ep.json", "{"),
                                           ("heatmap_30_lift_band_seed0_3ep.json", "[]")])
def test_a_damaged_file_is_named(name, content, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).write_text(content)
    with pytest.raises(InputError, match=name):
        for table in study_tables.NAMES:
            study_tables.tables_named(table, [], tmp_path)


def test_paths_tell_solver_and_step_size_apart():
    rows = [run("lift_independent", path="dp_total", step_size="logsnr", value=5.0),
            run("lift_independent", path="dp_total", step_size="index", value=6.0),
            run("lift_independent", solver="multistep", value=3.0), run("baseline", path="dp", value=4.0),
            run("lift_independent", path="lead", value=2.0), run("baseline", path="lead", value=1.0),
            run("lift_independent", x32_mode="fixed", value=0.0), run("lift_band", value=0.0)]
    [table] = study_tables.tables_named("study_paths", rows, "nowhere")
    assert texts(table) == [["baseline DP", "4.000"], ["baseline lead", "1.000"], ["DP-Total, index", "6.000"],
                            ["DP-Total, logsnr", "5.000"], ["lead", "2.000"], ["diagonal, multistep", "3.000"]]


def test_a_column_of_paths_keeps_to_the_seeds_that_all_its_cells_have():
    rows = [run("baseline", 0, value=1.0), run("baseline", 1, value=3.0),
            run("lift_independent", 0, path="dp_step", value=2.0),
            *(run(name, seed, num_steps=36, path=path, value=value + seed) for seed in (0, 1)
              for name, path, value in (("baseline", "uniform", 1.0), ("lift_independent", "dp_step", 5.0)))]
    [table] = study_tables.tables_named("study_paths", rows, "nowhere")
    assert table.header[1:] == ["fd_tiny, 18 steps", "fd_tiny, 36 steps"]
    assert texts(table) == [["baseline", "1.000", "1.500 ± 0.707"], ["DP-step", "2.000", "5.500 ± 0.707"]]
    [table] = study_tables.tables_named("study_paths", [r for r in rows if r["num_steps"] == 18], "nowhere")
    assert [line[1] for line in texts(table)] == ["1.000", "2.000"] and "so no spread" in table.note


def test_branch():
    rows = [run("lift_independent", value=1.0), run("lift_independent", x32_mode="random", value=2.0),
            run("lift_independent", x32_mode="fixed", value=3.0), run("lift_loss64", value=4.0),
            run("lift_independent", x32_mode="from_64", value=0.0)]
    [table] = study_tables.tables_named("study_branch", rows, "nowhere")
    assert table.header == ["LIFT", "fd_tiny"]
    assert {line[0]: line[1] for line in texts(table)} == {
        "as it is": "1.000", "32 branch drawn anew at every step": "2.000", "32 branch held fixed": "3.000",
        "loss on 64 only, joint": "4.000"}


def test_predictions():
    rows = [run("baseline", value=2.0), run("lift_independent", value=5.0),
            run("lift_independent", x32_mode="reconciled", value=4.0),
            run("lift_independent", x32_mode="reconciled", path="lead_2", value=3.0),
            run("lift_independent", x32_mode="random", value=0.0)]
    assert study_tables.tables_named("study_predictions", rows[:2], "nowhere") == []
    [table] = study_tables.tables_named("study_predictions", rows, "nowhere")
    assert table.header == ["model; predictions", "fd_tiny, evenly spaced", "fd_tiny, lead 2"]
    name = "LIFT, independent timesteps"
    assert texts(table) == [["baseline", "2.000", "–"], [f"{name}; each scale's own", "5.000", "–"],
                            [f"{name}; reconciled", "4.000", "3.000"]]


def test_identity_distances_come_from_the_records(tmp_path):
    (tmp_path / "study").mkdir()
    record = {"options": {"step_size": "index"}, "paths": [
        {"path": "diagonal", "distance": None},
        {"path": "dp_64", "distance": 0.891, "share_32_leads": 0.25, "kind": "32 at noise"}]}
    (tmp_path / "study" / "heatmap_30_lift_band_seed1_3ep.json").write_text(json.dumps(record))
    (tmp_path / "study" / "logsnr_30_lift_independent_seed0_3ep_plot.json").write_text(
        json.dumps({**record, "options": {"step_size": "logsnr"}}))
    (tmp_path / "study" / "lead_lift_band_seed1_3ep_18steps.json").write_text("{")
    [table] = study_tables.tables_named("study_identity", [], tmp_path)
    assert texts(table) == [["LIFT, independent timesteps", "0", "3", "30", "DP-64", "logsnr", "0.89", "25%",
                             "32 at noise"],
                            ["LIFT, band", "1", "3", "30", "DP-64", "index", "0.89", "25%", "32 at noise"]]


def test_model_error_is_the_mean_over_timesteps(tmp_path):
    (tmp_path / "study").mkdir()
    lines = ("32 pure noise,0,1.5,0.02", "32 pure noise,999,2.5,0.04", "diagonal,0,0.5,0.0", "diagonal,999,1.0,0.01")
    (tmp_path / "study" / "model_error_lift_band_seed0_3ep.csv").write_text(
        "dataset,split,num_images,baseline,curve,t_64,ratio,ratio_standard_error\n"
        + "".join(f"d,validation,8,b.pth,{line}\n" for line in lines))
    [table] = study_tables.tables_named("study_model_error", [], tmp_path)
    assert table.header == ["model", "predictions", "seed", "epochs", "beside", "32 pure noise", "diagonal"]
    assert texts(table) == [["LIFT, band", "own", "0", "3", "b.pth", "2.000 ± 0.030", "0.750 ± 0.005"]]
    file = tmp_path / "study" / "model_error_lift_band_seed0_3ep.csv"
    file.with_stem(file.stem + "_reconciled").write_text(file.read_text())
    [table] = study_tables.tables_named("study_model_error", [], tmp_path)
    assert [line[:2] for line in texts(table)] == [["LIFT, band", "own"], ["LIFT, band", "reconciled"]]


def test_constants_stand_beside_plain_sampling():
    """Seeds of training share a cell, although each is guided by an earlier checkpoint of its own."""
    names = ("baseline_residual", "lift_bands_residual")
    rows = [run(name, seed, solver=solver, num_steps=steps, num_model_calls=18, value=value + seed,
                path="uniform" if name == names[0] else "lead_2", model_type=name.split("_")[0],
                path_hash=f"{steps}") for seed in (0, 1) for name in names
            for solver, steps, value in (("ddim", 18, 5.0), ("ddim_eps0.97", 18, 4.0),
                                         (f"ddim_guide2_25ep_{seed}123456789abcdef_from-2to2", 13, 3.0))]
    rows += [run("lift_bands_residual", path="dp_64"), run("lift_bands_residual", solver="multistep"), run("lift_band")]
    [table] = study_tables.tables_named("study_constants", rows, "nowhere")
    assert table.header == ["model, path, constants", "fd_tiny, 18 calls"]
    assert sorted(texts(table)) == sorted(
        [f"{label}{constants}", f"{value + 0.5:.3f} ± 0.707"]
        for label in ("baseline, residual", "two bands, clock, residual, lead 2")
        for constants, value in (("", 5.0), (", ddim_eps0.97", 4.0), (", ddim_guide2_25ep_from-2to2", 3.0)))
    assert study_tables.tables_named("study_constants", [r for r in rows if r["solver"] == "ddim"], "nowhere") == []


def test_losses_down_and_samplers_across():
    rows = [run("baseline_residual", value=1.0, path="uniform", model_type="baseline")]
    rows += [run(name, path=path, x32_mode=mode, path_hash=path, value=value)
             for name, first in (("lift_native_diagonal_residual", 2.0), ("lift_native_near_residual", 5.0))
             for path, mode, value in (("diagonal", "joint", first), ("lead_2", "joint", first + 1),
                                       ("diagonal", "random", first + 2), ("lead_2", "reconciled", 0.0))]
    [table] = study_tables.tables_named("study_swap", rows + [run("lift_band", path="lead_2")], "nowhere")
    assert table.header == ["trained", "fd_tiny, both at one time", "fd_tiny, 32 drawn anew", "fd_tiny, lead 2"]
    assert texts(table) == [
        ["baseline, residual", "1.000", "–", "–"],
        ["LIFT, 32 at its own level, leads 0 to 2 alone, residual", "5.000", "7.000", "6.000"],
        ["LIFT, 32 at its own level, diagonal timesteps, residual", "2.000", "4.000", "3.000"]]


def test_exposure_has_a_line_per_model_and_path(tmp_path):
    """The baseline's once, whatever is measured beside it; means over the steps."""
    (tmp_path / "study").mkdir()
    names = ("error_true", "error_own", "met_over_own", "met_over_true")
    header = ",".join(["dataset,split,num_images,num_steps,sampling_seed,baseline,model,path,t_64", *names,
                       *(f"{name}_standard_error" for name in names)]) + "\n"
    for name in ("lift_band", "lift_diagonal"):
        (tmp_path / "study" / f"exposure_{name}_seed0_3ep.csv").write_text(header + "".join(
            f"d,validation,8,18,42,baseline_seed0_3ep.pth,{model},{path},{t},{t / 1000},0.5,{1 + t / 1000},1.5,"
            "0,0,0.01,0\n"
            for model, path in (("baseline", "uniform"), ("lift", "diagonal"), ("lift", "lead_2")) for t in (100, 300)))
    [table] = study_tables.tables_named("study_exposure", [], tmp_path)
    ways = [("baseline", "baseline"), *((name, path) for name in ("LIFT, band", "LIFT, diagonal timesteps")
                                        for path in ("diagonal", "lead 2"))]
    assert texts(table) == [[name, "0", "3", path, "0.2000 ± 0.0000", "0.5000 ± 0.0000", "1.2000 ± 0.0100",
                             "1.5000 ± 0.0000"] for name, path in ways]
    assert "own samples (18 steps, sampling seed 42)" in table.note
    text = (tmp_path / "study" / "exposure_lift_band_seed0_3ep.csv").read_text()
    for old, new in ((",18,42,", ",9,42,"), (",18,42,", ",18,43,")):
        (tmp_path / "study" / "exposure_lift_diagonal_seed0_3ep.csv").write_text(text.replace(old, new))
        with pytest.raises(InputError, match="exposure_lift_diagonal_seed0_3ep.csv: found .*sampling seed 4"):
            study_tables.tables_named("study_exposure", [], tmp_path)
    (tmp_path / "study" / "exposure_lift_diagonal_seed0_3ep.csv").write_text(text)
    (tmp_path / "study" / "exposure_lift_band_seed1_3ep.csv").write_text("model,path\nlift,diagonal\n")
    with pytest.raises(InputError, match="exposure_lift_band_seed1_3ep.csv"):
        study_tables.tables_named("study_exposure", [], tmp_path)


def test_clean_error_follows_from_the_noise_error(tmp_path):
    (tmp_path / "study").mkdir()
    lines = ("32 pure noise,999,1.0,1.0", "diagonal,0,1.0,1.0", "diagonal,700,0.02,0.03", "diagonal,999,0.01,0.02")
    file = tmp_path / "study" / "model_error_lift_independent_v_seed0_3ep.csv"
    header = "num_images,dataset,split,weights,baseline,curve,t_64,mse_lift,mse_baseline\n"

    def write(baseline="baseline_v_seed0_3ep.pth", num_images=8, to=file):
        to.write_text(header + "".join(f"{num_images},d,validation,ema,{baseline},{line}\n" for line in lines))

    write()
    write(to=file.with_stem(file.stem + "_reconciled"))
    [table] = study_tables.tables_named("study_clean_error", [], tmp_path)
    assert table.header == ["model", "seed", "epochs", "t = 999", "t = 700"]
    abar = study_tables.SCHEDULE.alphas_cumprod
    factors = [((1 - abar[t]) / abar[t]).item() for t in (999, 700)]
    assert texts(table) == [
        ["baseline, v, loss of v", "0", "3",
         *(f"{error * factor:.3f}" for error, factor in zip((0.02, 0.03), factors))],
        ["LIFT, independent, v, loss of v", "0", "3",
         *(f"{error * factor:.3f}" for error, factor in zip((0.01, 0.02), factors))]]
    assert table.note.startswith("8 images (d, split validation), weights: ema.")
    file.write_text("".join(f"{line}{',mse_linear' if k == 0 else ',0.04'}\n"
                            for k, line in enumerate(file.read_text().splitlines())))
    [table] = study_tables.tables_named("study_clean_error", [], tmp_path)
    assert texts(table)[0] == ["linear denoiser, no network", "–", "–",
                               *(f"{0.04 * factor:.3f}" for factor in factors)]
    assert len(texts(table)) == 3
    write("mine_3ep.pth")                               # a baseline that is no run of the study has no row
    assert [line[0] for line in texts(study_tables.tables_named("study_clean_error", [], tmp_path)[0])] == [
        "LIFT, independent, v, loss of v"]
    write(num_images=9, to=file.with_name("model_error_lift_independent_seed0_3ep.csv"))
    with pytest.raises(InputError, match="_v_seed0_3ep.csv: found 8 images .*, expected 9 images"):
        study_tables.tables_named("study_clean_error", [], tmp_path)
    file.write_text("curve,t_64\ndiagonal,999\n")
    with pytest.raises(InputError, match="_v_seed0_3ep.csv: its content is not what a table of lift.eval_mse"):
        study_tables.tables_named("study_clean_error", [], tmp_path)


def test_validation_has_the_first_the_middle_and_the_last_epoch(tmp_path):
    folder = tmp_path / "study/training_5ep"
    folder.mkdir(parents=True)
    for name, loss_32 in (("baseline_seed1", lambda epoch: ""), ("lift_band_seed0", lambda epoch: epoch / 100)):
        lines = [f"{epoch * 10},{float(epoch)},{weights},{epoch / 10 + share},{loss_32(epoch)}"
                 for epoch in range(1, 6) for weights, share in (("raw", 0.05), ("ema", 0.0))]
        (folder / f"{name}_validation.csv").write_text("\n".join(["step,epoch,weights,loss_64,loss_32", *lines]) + "\n")
    (folder / "other_seed0_validation.csv").write_text("not of the study\n")
    [table] = study_tables.tables_named("study_validation", [], tmp_path)
    assert table.header == ["model", "seed", *(f"{scale}, epoch {epoch}" for scale in (64, 32) for epoch in (1, 3, 5))]
    assert texts(table) == [["baseline", "1", "0.1000", "0.3000", "0.5000", "–", "–", "–"],
                            ["LIFT, band", "0", "0.1000", "0.3000", "0.5000", "0.0100", "0.0300", "0.0500"]]
    longer = tmp_path / "study/training_10ep"
    longer.mkdir()
    as_trained_today = "step,epoch,weights,loss_64\n90,9.0,ema,0.3\n"
    (longer / "baseline_seed0_validation.csv").write_text(as_trained_today)
    (tmp_path / "study/training_of_mine").mkdir()
    assert [found.title for found in study_tables.tables_named("study_validation", [], tmp_path)] == [
        f"Loss on held-out images during {epochs} epochs of training" for epochs in (5, 10)]
    (folder / "lift_band_seed0_validation.csv").write_text("step,epoch\n1,2\n")
    with pytest.raises(InputError, match="lift_band_seed0_validation.csv: its content is not what a table of a "
                                         "training's validation holds"):
        study_tables.tables_named("study_validation", [], tmp_path)


def test_no_results_no_tables(tmp_path):
    for name in study_tables.NAMES:
        assert study_tables.tables_named(name, [], tmp_path) == []


def test_markers_of_the_study_and_of_the_rest_share_no_rows(tmp_path):
    text = "<!-- table:study_gate -->\n<!-- end:study_gate -->\n<!-- table:fd_tiny -->\n<!-- end:fd_tiny -->\n"
    filled = marked_tables.with_tables(text, gate_rows(), tmp_path, "README.md")
    assert "20.56" in filled and filled.count("_No results yet._") == 1


def test_a_marker_chooses_among_the_models_rows_and_keeps_the_noise_floor(tmp_path):
    shared = {"model_type": "real", "checkpoint": "", "epochs": 0, "path": "", "solver": "", "num_steps": 0}
    rows = gate_rows() + [row | {"epochs": row["epochs"] + 7} for row in gate_rows()]
    rows += [gate_rows()[0] | shared | {"value": 0.125}]
    name = f"study_gate epochs={gate_rows()[0]['epochs']}"
    filled = marked_tables.with_tables(f"<!-- table:{name} -->\n<!-- end:{name} -->\n", rows, tmp_path, "README.md")
    assert filled.count("| model |") == 1 and "score fd_tiny 0.125" in filled
    plain = "<!-- table:study_gate -->\n<!-- end:study_gate -->\n"
    everything = marked_tables.with_tables(plain, rows, tmp_path, "README.md")
    assert everything.count("| model |") == 2


def test_what_question_15_says_is_what_its_rows_say():
    """Every score in its text is one of the rows; levels, leads and rules are those that the rows show."""
    folder = ROOT / "results/published/lift"
    text = " ".join((folder / "study.md").read_text(encoding="utf-8").split())
    text = text[text.index("## 15."):]
    text, again = text[text.index("**Found"):text.index("<!-- table:study_swap")].split("**Found again")
    scores = {(seed, name, row["path"], row["x32_mode"], row["metric"]): row["value"]
              for row in results_table.read(folder / "fid_results.csv") for name in study_tables.SWAPPED
              for seed in (0, 1) if row["checkpoint"] == f"{name}_seed{seed}_6ep.pth"
              and row["precision"] == "float32" and row["num_steps"] == 18}

    def of(name, path="diagonal", mode="joint", seed=0):
        return tuple(scores[seed, name, path, mode, metric] for metric in ("fd_lite0", "swd"))

    baseline, independent = of("baseline_residual", "uniform"), of("lift_native_residual")
    ahead = of("lift_native_residual", "lead_2", "reconciled")
    fused = [of("lift_native_fused_residual", path) for path in ("diagonal", "lead_1", "lead_2")]
    bands = [of("lift_bands_residual", path) for path in ("diagonal", "lead_1", "lead_2")]
    for distance in (baseline[0], independent[0], *(pair[0] for pair in (*fused, *bands))):
        assert f"{distance:.0f}" in text
    for distance in (independent[1], ahead[1], *(pair[1] for pair in (*fused, *bands))):
        assert f"{distance:.1f}" in text
    assert abs(bands[0][0] - baseline[0]) < 45 and 36 < bands[0][1] < 42               # as expected
    assert abs(fused[1][0] - baseline[0]) < 30 and fused[1][1] < baseline[1]           # the rule for a second seed
    assert ahead[1] == min(pair[1] for pair in (baseline, independent, ahead, *fused, *bands))
    assert max(fused[2][1], ahead[1]) < baseline[1] and bands[0][0] < bands[1][0] < bands[2][0]

    second = [of("baseline_residual", "uniform", seed=1), of("lift_bands_residual", seed=1),
              of("lift_native_fused_residual", "lead_1", seed=1)]
    for distance, swd in second:
        assert f"{distance:.0f}" in again and f"{swd:.1f}" in again
    (other, other_swd), *two_times = second
    assert f"within {math.ceil(abs(other - baseline[0]))} of the first" in again
    assert f"{baseline[1] - other_swd:.1f} below the first" in again
    assert "{:.0f} and {:.0f} ahead".format(*(other - distance for distance, _ in two_times)) in again
    assert "{:.1f} and {:.1f} behind".format(*(swd - other_swd for _, swd in two_times)) in again
    means = [(one + another) / 2 for one, another in zip((baseline[0], bands[0][0], fused[1][0]),
                                                         (other, *(distance for distance, _ in two_times)))]
    assert f"ahead of the baseline by {means[0] - means[1]:.0f}, fused leads by {means[0] - means[2]:.0f}" in again
    assert max(bands[0][0], two_times[0][0]) < min(baseline[0], other) < max(fused[1][0], two_times[1][0])
    assert f"behind by {of('lift_bands_residual', 'lead_2', seed=1)[0] - other:.0f}, as expected" in again
