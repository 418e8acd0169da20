"""Score against cost: which points there are, which none beats, the figure and the table made of them."""
import json
from types import SimpleNamespace

import pytest

from engine.errors import InputError
from evaluation import digit_tables, figures, pareto, results_table
from scripts import draw_pareto, dual_digits
from tests.evaluation.test_results_table import row


def digit_row(cell, seed, calls, fd, corrected=False, shift=1.0, **changes) -> dict:
    return {"cell": cell, "seed": seed, "calls": calls, "shift": shift, "corrected": corrected, "eps_scale": 1.0,
            "told_log_snr": 0.0, "gflop": calls / 10, "seconds_per_image": calls / 1000, "accuracy": 0.9,
            "fd_digits": fd, "diversity": 1.0, **changes}


ROWS = [digit_row("baseline", seed, calls, 10 / calls + seed / 10) for seed in (0, 1) for calls in (6, 18)]
ROWS += [digit_row("two bands, clock", seed, calls, 10 / calls + gain + seed / 10, corrected=corrected, shift=1.65,
                   eps_scale=0.985 if corrected else 1.0, accuracy=0.95)
         for seed in (0, 1) for calls, gain in ((6, -0.5), (18, 0.5)) for corrected in (False, True)]
ROWS += [digit_row("baseline", seed, calls, 10 / calls + seed / 10, corrected=True)
         for seed in (0, 1) for calls in (6, 18)]
FOUND = {"rows": ROWS, "summary": dual_digits.summary(ROWS), "expected": "Nothing.",
         "options": {"steps": 10, "num_samples": 20, "dataset": "mnist", "choice_samples": 20}}


def test_points_are_means_over_seeds():
    points = pareto.points_of_rows(pareto.rows_of_digits(FOUND, "fd_digits"))
    assert len(points) == 8 and {point.group for point in points} == {"as it is", "exposure bias corrected"}
    first = points[0]
    assert (first.model, first.way, first.costs) == ("baseline", "equal times", {"calls": 6, "gflop": 0.6,
                                                                                 "seconds_per_image": 0.006})
    assert first.value == pytest.approx(10 / 6 + 0.05) and first.deviation == pytest.approx(0.1 / 2**0.5)


def test_seeds_guided_by_their_own_earlier_checkpoints_are_one_point():
    costs = {"gflop": 5.0, "seconds_per_image": 0.1, "metric": "swd"}
    rows = [row(checkpoint=f"lift_seed{seed}_3ep.pth", value=float(seed), num_model_calls=18, path="diagonal",
                solver=f"ddim_guide2_1ep_{seed}123456789abcdef_from-3to1", **costs) for seed in (4, 6)]
    [point] = pareto.points_of_rows(pareto.rows_of_table(rows, "swd"))
    assert (point.way, point.values) == ("diagonal, ddim_guide2_1ep_from-3to1", (4.0, 6.0))


def test_front_is_what_no_point_beats():
    points = [pareto.Point("m", "w", "g", (value,), {"calls": cost}) for cost, value in
              [(3, 5.0), (1, 9.0), (2, 4.0), (2, 6.0), (5, 4.0), (4, 1.0), (1, 9.5)]]
    expected = [p for p in points if not any(
        (q.costs["calls"], q.value) != (p.costs["calls"], p.value) and q.costs["calls"] <= p.costs["calls"]
        and q.value <= p.value for q in points)]
    assert pareto.front(points, "calls") == sorted(expected, key=lambda point: point.costs["calls"])


def test_figures_of_both_kinds_of_file(tmp_path, capsys):
    path = tmp_path / "dual_digits.json"
    path.write_text(json.dumps(FOUND))
    draw_pareto.main([str(path)])
    assert (tmp_path / "dual_digits_pareto.png").read_bytes()[:4] == b"\x89PNG"
    said = capsys.readouterr().out
    assert "best for 6 network calls per image: fd_digits 1.217, two bands, clock, coarse ahead" in said
    with pytest.raises(InputError, match="dual_digits_pareto.png: exists already"):
        draw_pareto.main([str(path)])
    costs = {"gflop": 5.0, "seconds_per_image": 0.1}
    table = tmp_path / "table.csv"
    results_table.add(table, [row(checkpoint=f"lift_seed{seed}_3ep.pth", num_model_calls=calls, metric="swd",
                                  value=calls + seed, seed=7, **costs) for seed in (0, 1) for calls in (9, 18)])
    results_table.add(table, [row(checkpoint="old_3ep.pth", metric="swd")])
    points = pareto.read_points(table, "swd")
    assert [(point.model, point.way, point.values) for point in points] == [
        ("lift_3ep", "uniform, ddim", (9.0, 10.0)), ("lift_3ep", "uniform, ddim", (18.0, 19.0))]
    fig = figures.score_by_cost(points, "swd")
    assert [ax.get_xlabel() for ax in fig.axes] == list(pareto.COSTS.values())
    with pytest.raises(InputError, match="table.csv: has no row of fid with gflop and seconds_per_image"):
        pareto.read_points(table, "fid")


def test_points_join_no_two_protocols_and_the_latest_training_counts(capsys):
    """Three rows of fd_lite0 that became one point of three seeds: of other numbers of images, and of other weights."""
    costs = {"gflop": 5.0, "seconds_per_image": 0.1, "metric": "fd_lite0"}
    rows = [row(checkpoint="a_seed0_3ep.pth", value=340.0, num_images=1000, **costs),
            row(checkpoint="a_seed1_3ep.pth", value=360.0, num_images=1000, **costs),
            row(checkpoint="a_seed0_3ep.pth", value=140.0, num_images=5000, **costs),
            row(checkpoint="a_seed0_3ep.pth", value=330.0, num_images=1000, path="dp", step_size="logsnr", **costs),
            row(checkpoint="a_seed0_3ep.pth", value=320.0, num_images=1000, path="dp", path_hash="old",
                step_size="logsnr", finished="2024-02-01", **costs),
            row(checkpoint="a_seed0_3ep.pth", value=310.0, num_images=1000, path="dp", step_size="index", **costs),
            row(checkpoint="a_seed0_3ep.pth", value=500.0, num_images=1000, checkpoint_hash="earlier",
                finished="2024-01-01", **costs)]
    rows = [one | {"seed": 42} for one in rows]
    points = pareto.points_of_rows(pareto.rows_of_table(rows, "fd_lite0"))
    about = "EMA weights, float32, against a folder, with a comma, split train[:5] (12e4567890123456)"
    assert [(point.way, point.group, point.values) for point in points] == [
        ("uniform, ddim", f"1,000 images of seed 42, {about}", (340.0, 360.0)),
        ("dp, logsnr, ddim", f"1,000 images of seed 42, {about}", (330.0,)),
        ("dp, index, ddim", f"1,000 images of seed 42, {about}", (310.0,)),
        ("uniform, ddim", f"5,000 images of seed 42, {about}", (140.0,))]
    said = capsys.readouterr().out
    assert "fd_lite0: rows left out: 2" in said and "fd_lite0: 5 rows of 2 protocols" in said


def test_the_table_of_digits():
    table = digit_tables.dual_digits_table(FOUND)
    texts = {(line[0].text, line[2].text): [cell.text for cell in line] for line in table.rows}
    plain, corrected = texts["two bands, clock", "no"], texts["two bands, clock", "yes"]
    assert plain[1] == "ahead" and plain[3:5] == ["1.22 ± 0.07", "1.11 ± 0.07"]
    assert plain[8:10] == ["ahead at 6; behind at 18", "ahead at 6, 18"]    # the second: accuracy, higher is better
    assert texts["baseline", "no"][8:10] == ["–", "–"]
    assert corrected[10] == "noise × 0.985; noise × 0.985" and plain[10] == "–"
    assert "Expected: Nothing." in table.note and "2 seeds" in table.note


def test_constants_come_from_what_was_tried():
    choices = [{"cell": "baseline", "calls": 6, "shift": 1.0, "eps_scale": scale, "told_log_snr": told, "fd_digits": fd}
               for scale, told, fd in ((1.0, 0.0, 3.0), (0.97, 0.0, 2.0), (1.0, 0.2, 2.5))]
    choices.append(choices[0] | {"calls": 9, "fd_digits": 0.1})
    assert dual_digits.chosen(choices, "baseline", 6, 1.0) == (0.97, 0.0)
    assert dual_digits.CHOICE_SEED not in range(1000) and dual_digits.CHOICE_NOISE != dual_digits.REPORTED_NOISE
    assert dual_digits.PLAIN in dual_digits.CORRECTIONS


def test_a_networks_arithmetic_is_counted_once(monkeypatch, tmp_path):
    """And every row says what its calls cost."""
    from flow import model
    network = model.build_network({"network": "unet", "image_size": 8, "channels": 1, "patch_size": 2,
                                   "num_classes": 10, "hidden_size": 8, "depth": 1}).eval()
    of_call, counted = model.gflop_of_forward(network.config), []

    def count(config):
        counted.append(config)
        return of_call
    monkeypatch.setattr(model, "load_checkpoint", lambda path: SimpleNamespace(network=network,
                                                                               denoiser=model.denoiser_of(network)))
    monkeypatch.setattr(model, "gflop_of_forward", count)
    monkeypatch.setattr(dual_digits, "train", lambda args, cell, seed: tmp_path)
    monkeypatch.setattr(dual_digits, "CALLS", (1, 2))
    judge = SimpleNamespace(scores=lambda images, labels: {"fd_digits": float(images.float().mean())})
    args = SimpleNamespace(choice_samples=20, num_samples=20)
    choices = dual_digits.tried(args, dual_digits.BASELINE, judge)
    rows = choices + dual_digits.measured(args, dual_digits.BASELINE, 0, judge, choices)
    assert len(rows) == 2 * len(dual_digits.CORRECTIONS) + 4 and len(counted) == 2
    assert of_call > 0 and all(row["gflop"] == row["calls"] * of_call for row in rows)


def test_cells_are_trainable():
    """Every cell's options are ones that flow.train takes, and differ from the baseline's in the two times alone."""
    import shlex
    from flow.train import parse_args
    for cell, words in dual_digits.CELLS.items():
        args = parse_args([*shlex.split(dual_digits.SIZES), *shlex.split(words)])
        assert args.image_size == 28 and args.bands == cell.startswith("two bands")
        assert (args.scales == [28, 14]) == cell.startswith("two scales")


def test_what_no_correction_helps_is_shown_once():
    """Where no correction was the best choice for any line, the figure has one row of panels and the table no twins."""
    rows = [{**row, "eps_scale": 1.0, "told_log_snr": 0.0} for row in ROWS]
    assert {row["group"] for row in pareto.rows_of_digits({"rows": rows}, "fd_digits")} == {"as it is"}
    found = {**FOUND, "rows": rows, "summary": dual_digits.summary(rows)}
    table, before = digit_tables.dual_digits_table(found), digit_tables.dual_digits_table(FOUND)
    assert {row[2].text for row in table.rows} == {"no"} and "For 2 lines no correction was best" in table.note
    assert {row[2].text for row in before.rows} == {"yes", "no"} and "For 1 lines" in before.note
