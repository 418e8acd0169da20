"""compute_heatmap_30.py and lift.plot_heatmap as commands: outputs, reproduction, and wrong inputs in one line."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import compute_heatmap_30
from lift import error_map, heatmap_file
from engine import files
from lift import paths
from lift import plot_heatmap
from lift.options import PATH_TYPES
from lift import figures
from baseline_model import BaselineModel
from engine.command_line import run_script
from conftest import command_in_a_fork, with_reference_weights
from model import LIFTDualTimestepModel

GRID_OPTIONS = ["--grid", "5", "--num_steps", "5", "--max_jump", "3"]


def save_checkpoint(path: Path, model) -> None:
    files.save_torch(path, {"model_state": model.state_dict(), "hidden_dims": model.hidden_dims, "losses": [1.0],
                            "epochs": 2, "ema_state": {"shadow": dict(model.state_dict()), "decay": 0.99}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a LIFT and a baseline checkpoint; the data cache goes there too."""
    folder = tmp_path_factory.mktemp("heatmaps")
    save_checkpoint(folder / "lift_dual_timestep_2ep.pth", with_reference_weights(LIFTDualTimestepModel((8, 8))))
    save_checkpoint(folder / "baseline_2ep.pth", with_reference_weights(BaselineModel((8, 8))))
    return folder


def options(folder, *more):
    return ["--checkpoint", str(folder / "lift_dual_timestep_2ep.pth"), "--dataset", "synthetic:8", "--cache_dir",
            str(folder / "cache"), *GRID_OPTIONS, "--K", "1", "--batch_size", "2", "--target_error", "0",
            "--num_resamples", "3", "--num_threads", "1", "--device", "cpu", "--precision", "float32",
            "--output_dir", str(folder / "out"), *more]


@pytest.fixture(scope="module")
def computed(folder):
    compute_heatmap_30.main(options(folder, "--edge_costs", "directional", "--edge_images", "1",
                                    "--paths", "diagonal", "dp_64", "dp_total", "dp_directional"))
    return folder / "out" / "heatmap_5_2ep.pth"


@pytest.fixture
def without_pictures(monkeypatch):
    """For maps whose numbers are looked at alone: three pictures take longer than a tiny map."""
    monkeypatch.setattr(figures, "draw", lambda *_: dict.fromkeys(figures.outputs_of(Path("a.pth"))))
    monkeypatch.setattr(compute_heatmap_30, "save_png", lambda *_: None)


def test_outputs(computed):
    heatmap = heatmap_file.load_heatmap(computed, expect_grid=5)
    assert heatmap["timesteps"].tolist() == paths.timestep_grid(5).tolist()
    assert heatmap["edge_costs"]["directional"].shape == (5, 5, 4, 4)
    assert (heatmap["num_primals"], heatmap["num_tangents"]) == (50, 100)
    assert heatmap["checkpoint"] == "lift_dual_timestep_2ep.pth" and heatmap["weights"] == "ema"
    record = json.loads(computed.with_suffix(".json").read_text())
    assert record["seed"] == 42 and record["num_primals"] == 50
    assert record["checkpoint_fingerprint"] == heatmap["checkpoint_fingerprint"]
    rows = {row["path"]: row for row in record["paths"]}
    assert rows["dp_64"]["cost"] <= rows["dp_64"]["identity_cost"]
    assert rows["dp_directional"]["identity_cost"] is None
    for row in rows.values():
        assert row["timesteps"][0] == [999, 999] and row["timesteps"][-1] == [0, 0] and len(row["timesteps"]) == 6
    for suffix in ("", "_blocks", "_steps"):
        assert computed.with_name(f"heatmap_5_2ep{suffix}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(computed.parent.glob("*.tmp*"))


def test_same_seed_gives_the_same_map_and_another_another(folder, computed, without_pictures):
    compute_heatmap_30.main(options(folder, "--output_dir", str(folder / "again")))
    compute_heatmap_30.main(options(folder, "--output_dir", str(folder / "other"), "--seed", "1"))
    first, again, other = (heatmap_file.load_heatmap(path) for path in (
        computed, folder / "again/heatmap_5_2ep.pth", folder / "other/heatmap_5_2ep.pth"))
    assert torch.equal(first["frobenius"], again["frobenius"])
    assert not torch.equal(first["frobenius"], other["frobenius"])


def test_log_snr_grid_starts_at_999_and_ends_at_0(folder, without_pictures):
    compute_heatmap_30.main(options(folder, "--grid_space", "logsnr", "--output_dir", str(folder / "logsnr"),
                                    "--weights", "raw"))
    path = folder / "logsnr/heatmap_5_2ep_raw.pth"
    assert heatmap_file.load_heatmap(path)["timesteps"].tolist() == [943, 802, 495, 187, 54]
    for row in json.loads(path.with_suffix(".json").read_text())["paths"]:
        assert row["timesteps"][0] == [999, 999] and row["timesteps"][-1] == [0, 0]


def test_redrawn_with_other_options(folder, computed, capsys):
    output = folder / "redrawn.png"
    plot_heatmap.main([str(computed), "--output", str(output), "--paths", "diagonal", "greedy_64", "dp_directional",
                       "--num_steps", "4", "--max_jump", "3", "--step_size", "logsnr", "--chain_rule", "none",
                       "--prediction", "x0", "--normalization", "both_sides", "--num_resamples", "0"])
    assert output.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "greedy_64" in printed and "dp_directional" in printed
    record = json.loads((folder / "redrawn_plot.json").read_text())
    assert len(record["paths"][0]["timesteps"]) == 5


def failure(main, arguments, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda: main([str(argument) for argument in arguments]))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in message
    return errors[0]


@pytest.mark.parametrize("more, message", [
    (("--checkpoint", "missing_3ep.pth"), "missing_3ep.pth: no such checkpoint"),
    (("--checkpoint", "{folder}/baseline_2ep.pth"), "is a baseline checkpoint, expected a lift checkpoint"),
    (("--epochs", "7"), "--epochs: found 7, an option that is gone; expected the file itself"),
    (("--num_steps", "30"), "--num_steps: found 30"),
    (("--num_steps", "1"), "--num_steps: found 1"),
    (("--grid", "1"), "--grid: found '1'"),
    (("--grid", "5000"), "--grid: found '5000'"),
    (("--K", "0"), "--K: found '0'"),
    (("--batch_size", "-3"), "--batch_size: found '-3'"),
    (("--batch_size", "500"), "--batch_size: found 500"),
    (("--split", "nowhere"), "nowhere"),
    (("--dataset", "./no_such_folder"), "no_such_folder"),
    (("--device", "cuda:17"), "cuda:17"),
    (("--target_error", "nan"), "--target_error: found 'nan'"),
    (("--paths", "dp_step"), "needs --edge_costs step_doubling"),
    (("--paths", "zigzag"), "zigzag"),
    (("--chain_rule", "cubic"), "cubic"),
])
def test_wrong_input_of_compute(folder, more, message, capsys):
    more = [text.format(folder=folder) for text in more]
    arguments = options(folder, "--output_dir", str(folder / "wrong"), *more)
    assert message in failure(compute_heatmap_30.main, arguments, capsys)
    assert not (folder / "wrong").exists()


def test_existing_output_needs_overwrite(folder, computed, capsys):
    before = computed.read_bytes()
    assert "--overwrite" in failure(compute_heatmap_30.main, options(folder), capsys)
    assert "--overwrite" in failure(plot_heatmap.main, [computed, *GRID_OPTIONS[2:]], capsys)
    assert "expected a name that ends in .png" in failure(plot_heatmap.main, [computed, "--output", "a.pdf"], capsys)
    assert computed.read_bytes() == before


def test_not_finite_cells_are_named_and_nothing_is_written(folder, monkeypatch, capsys):
    """A model whose prediction overflows at one corner of the map."""
    exact = error_map.squared_norms

    def overflows(model, draws, which, t_64, t_32, *rest):
        norms = exact(model, draws, which, t_64, t_32, *rest)
        norms[:, :, (t_64 == 999) & (t_32 == 0)] = torch.inf
        return norms

    monkeypatch.setattr(error_map, "squared_norms", overflows)
    arguments = options(folder, "--output_dir", str(folder / "broken"))
    assert "(t_64, t_32) = (999, 0)" in failure(compute_heatmap_30.main, arguments, capsys)
    assert not (folder / "broken").exists()


@pytest.mark.parametrize("content, message", [
    (b"", "damaged"), (b"not a heatmap at all", "expected a heatmap"), (None, "no such heatmap"),
])
def test_wrong_heatmap_file(tmp_path, content, message, capsys):
    path = tmp_path / "map.pth"
    if content is not None:
        path.write_bytes(content)
    assert message in failure(plot_heatmap.main, [path], capsys)


def test_paths_that_the_heatmap_cannot_give(computed, tmp_path, capsys):
    for more, message in ((["--paths", "dp_step"], "step_doubling"), (["--num_steps", "100"], "--num_steps: found 100"),
                          (["--paths", "dp_directional", "--max_jump", "4"], "--max_jump: found 4")):
        arguments = [computed, "--output", tmp_path / "a.png", *GRID_OPTIONS[2:], *more]
        assert message in failure(plot_heatmap.main, arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_checkpoint_given_as_heatmap(folder, capsys):
    assert "has no" in failure(plot_heatmap.main, [folder / "lift_dual_timestep_2ep.pth"], capsys)


def test_as_commands(folder, computed, tmp_path):
    """A process each: one line on the standard error and status 2, no traceback."""
    for main, words in ((compute_heatmap_30.main, options(folder, "--checkpoint", folder / "baseline_2ep.pth",
                                                          "--output_dir", folder / "wrong")),
                        (plot_heatmap.main, [folder / "baseline_2ep.pth"])):
        done = command_in_a_fork(main, ["command", *words], tmp_path)
        assert done.returncode == 2
        assert [line for line in done.stderr.splitlines() if line.strip()] == [done.stderr.strip()]
        assert done.stderr.startswith("error: ")


def test_figures_draw_any_number_of_paths():
    """Layout functions accept one path, many, and a map that is constant."""
    timesteps = paths.timestep_grid(6)
    points = np.stack([np.arange(6.0), np.arange(6.0)], 1)
    parts = {"path": points, "identity": None, "band": None}
    for count in (1, 8):
        drawn = {path_type: parts for path_type in PATH_TYPES[:count]}
        fig = figures.error_maps(timesteps, np.ones((6, 6)), np.ones((6, 6)), drawn, {})
        assert len(fig.axes) == 4
        bars = figures.step_error_bars({path_type: np.ones((5, 2)) for path_type in drawn})
        assert sum(ax.axison for ax in bars.axes) == count
    blocks = figures.jacobian_blocks(timesteps, dict.fromkeys(error_map.BLOCKS, np.zeros((6, 6))))
    assert len(blocks.axes) == 12


def test_a_map_made_anew_keeps_its_lead(folder, computed, tmp_path, without_pictures):
    options_here = options(folder, "--output_dir", str(tmp_path), "--overwrite")
    files.save_torch(tmp_path / computed.name, {**heatmap_file.load_heatmap(computed), "lead": {"rho": 3.0},
                                                  "lead_num_steps": 9})
    compute_heatmap_30.main(options_here)
    heatmap = heatmap_file.load_heatmap(tmp_path / computed.name)
    assert heatmap["lead"] == {"rho": 3.0} and heatmap["lead_num_steps"] == 9
    assert "directional" not in heatmap["edge_costs"]
