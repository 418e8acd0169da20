"""lift.compute_schedule and lift.search_lead: what they write is what generation then follows."""
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from lift import checkpoints
from lift import compute_schedule
from lift import generation
from lift import path_costs
from lift import dynamic_program, paths
from lift import search_lead
from conftest import write_tiny_checkpoints
from engine.errors import InputError
from engine.files import load_torch, save_torch

GRID, NUM_STEPS = 8, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny checkpoints, and the baseline's schedule."""
    folder = write_tiny_checkpoints(tmp_path_factory.mktemp("schedules"))
    compute_schedule.main(options(folder, "--edge_images", "2"))
    return folder


def options(folder, *more):
    return ["--checkpoint", str(folder / "baseline_1ep.pth"), "--dataset", "synthetic:40", "--cache_dir",
            str(folder / "cache"), "--grid", str(GRID), "--num_steps", str(NUM_STEPS), "--output_dir", str(folder),
            "--device", "cpu", "--num_threads", "1", "--precision", "float32", *more]


def generation_args(folder, **more):
    return SimpleNamespace(**{"heatmap": None, "heatmap_dir": folder, "grid": GRID, "num_steps": NUM_STEPS,
                              "allow_mismatch": False, "step_size": "index", "max_jump": 5, **more})


def test_the_schedule_is_the_cheapest_and_generation_follows_it(folder):
    file = load_torch(folder / f"heatmap_{GRID}_baseline_1ep.pth")
    loaded = checkpoints.load_model(folder / "baseline_1ep.pth")
    path = generation.find_path(loaded, "dp", generation_args(folder))
    assert path.shape == (NUM_STEPS + 1, 2) and path[0].tolist() == [999, 999] and path[-1].tolist() == [0, 0]
    assert json.loads((folder / f"heatmap_{GRID}_baseline_1ep.json").read_text())["schedule"] == path[:, 0].tolist()
    costs = np.asarray(file["edge_costs"]["step_doubling"])
    cells = np.searchsorted(-np.asarray(file["timesteps"]), -path[:, 0])
    _, cheapest = dynamic_program.cheapest_schedule(costs, NUM_STEPS)
    assert costs[cells[:-1], np.diff(cells)].sum() == pytest.approx(cheapest, rel=1e-12)


def test_the_schedule_of_a_renamed_checkpoint_is_found(folder, tmp_path):
    renamed = tmp_path / "mine.pth"                     # whose name says no epoch: the file's own content does
    shutil.copy(folder / "baseline_1ep.pth", renamed)
    compute_schedule.main(options(folder, "--edge_images", "1", "--checkpoint", str(renamed), "--output_dir",
                                  str(tmp_path)))
    path = generation.find_path(checkpoints.load_model(renamed), "dp", generation_args(tmp_path))
    assert path.shape == (NUM_STEPS + 1, 2)


def test_the_same_command_twice_is_refused_and_another_checkpoint_too(folder, tmp_path):
    with pytest.raises(InputError, match="exists already; add --overwrite"):
        compute_schedule.main(options(folder))
    other = write_tiny_checkpoints(tmp_path)
    content = load_torch(other / "baseline_1ep.pth")
    content["ema_state"]["shadow"]["init_conv.bias"] += 1
    content["model_state"]["init_conv.bias"] += 1
    save_torch(other / "baseline_1ep.pth", content)
    with pytest.raises(InputError, match="--allow_mismatch"):
        generation.find_path(checkpoints.load_model(other / "baseline_1ep.pth"), "dp", generation_args(folder))
    with pytest.raises(InputError, match="is a lift checkpoint, expected a baseline checkpoint"):
        compute_schedule.main(options(folder, "--checkpoint", str(folder / "lift_dual_timestep_1ep.pth")))


def test_the_winner_of_the_search_is_the_lead_path(folder, monkeypatch, capsys):
    candidates = [paths.Lead(2.0, 0.0, 0.0), paths.Lead(7.0, 0.0, 0.0), paths.Lead(20.0, 0.0, 0.0)]
    monkeypatch.setattr(path_costs, "lead_candidates", lambda num_scales: candidates)
    search_lead.main(options(folder, "--edge_images", "1", "--num_images", "4", "--num_finalists", "2"))
    record = json.loads((folder / "lead_baseline_1ep_5steps.json").read_text())
    rows = record["candidates"]
    assert len(rows) == 3 and rows[0]["sample_metric"] <= rows[1]["sample_metric"]
    assert rows[2]["sample_metric"] is None and rows[2]["step_doubling"] >= max(r["step_doubling"] for r in rows[:2])
    loaded = checkpoints.load_model(folder / "baseline_1ep.pth")
    path = generation.find_path(loaded, "lead", generation_args(folder))
    assert path.tolist() == rows[0]["path"] == paths.lead_path(NUM_STEPS, paths.Lead(**record["winner"])).tolist()
    assert "its search" not in capsys.readouterr().out
    args = generation_args(folder)
    args.num_steps = NUM_STEPS + 2
    assert len(generation.find_path(loaded, "lead", args)) == NUM_STEPS + 3
    assert f"its search was for {NUM_STEPS} steps, here it is used with {NUM_STEPS + 2}" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds a winner of an earlier search"):
        search_lead.main(options(folder))


def test_a_lead_outlives_the_file_made_anew_but_not_another_checkpoint(folder, tmp_path, capsys):
    file = tmp_path / f"heatmap_{GRID}_baseline_1ep.pth"
    loaded = checkpoints.load_model(folder / "baseline_1ep.pth")
    anew = ["--edge_images", "1", "--output_dir", str(tmp_path), "--overwrite"]
    lead = {"rho": 3.0, "lead": 0.0, "onset": 0.0}
    compute_schedule.main(options(folder, *anew))
    path = generation.find_path(loaded, "lead", generation_args(folder, heatmap=file))
    assert path.tolist() == paths.lead_path(NUM_STEPS).tolist()
    assert "no winner of a search was found" in capsys.readouterr().out
    save_torch(file, {**load_torch(file), "lead": lead})
    compute_schedule.main(options(folder, *anew))
    path = generation.find_path(loaded, "lead", generation_args(folder, heatmap=file))
    assert path.tolist() == paths.lead_path(NUM_STEPS, paths.Lead(**lead)).tolist()
    assert "no winner" not in capsys.readouterr().out
    save_torch(file, {**load_torch(file), "checkpoint_fingerprint": "another"})
    compute_schedule.main(options(folder, *anew))
    assert "lead" not in load_torch(file)
    file.write_bytes(b"damaged")
    compute_schedule.main(options(folder, *anew))
    assert load_torch(file)["checkpoint_fingerprint"] == loaded.fingerprint
