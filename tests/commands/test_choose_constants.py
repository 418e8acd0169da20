"""Constants of sampling: ways at equal calls, the choice on other noise and images, and what is then reported."""
import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import eval_fid_batch
from conftest import write_tiny_checkpoints
from data import load_images
from engine.errors import InputError
from engine.files import load_torch, save_torch
from evaluation import results_table
from lift.paths import path_without_map
from lift.generation import num_calls
from scripts import choose_constants
from scripts.choose_constants import CHOOSING, PLAIN, WAYS, Way, steps_of, ways_for


def test_every_way_is_as_many_network_calls():
    for path in ("uniform", "diagonal", "lead_2"):
        for calls in (8, 9, 18):
            for way in WAYS:
                if steps := steps_of(way, path, calls):
                    assert num_calls(path_without_map(path, steps), way.options("guide")) == calls
                    assert (steps == calls) == (not way.guided_by)
    assert steps_of(Way(guided_by="earlier"), "uniform", 18) == 9 and steps_of(PLAIN, "uniform", 18) == 18
    assert steps_of(Way(guided_by="earlier"), "uniform", 9) is None           # nine calls are no whole steps of two
    within = [way for way in WAYS if way.guide_interval]
    assert len(within) == 2 and all(calls / 2 < steps_of(way, path, calls) < calls for way in within
                                    for calls in (6, 9, 18) for path in ("uniform", "diagonal", "lead_2"))


def test_both_kinds_of_model_have_the_same_choice_but_for_the_second_scale():
    baseline, lift = ways_for("baseline", True), ways_for("lift", True)
    assert set(lift) == set(WAYS) and {way.guided_by for way in set(lift) - set(baseline)} == {"noisy_32"}
    assert set(baseline) - set(ways_for("baseline", False)) == {way for way in WAYS if way.guided_by == "earlier"}
    assert lift[0] == PLAIN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of each tiny model, and an earlier checkpoint of each. No network is called here; these have one level,
    for every tensor is read again and again."""
    folder = write_tiny_checkpoints(tmp_path_factory.mktemp("constants"), hidden_dims=[8])
    for name in ("baseline", "lift_dual_timestep"):
        for seed in (0, 1):
            for epochs in (1, 2):
                content = load_torch(folder / f"{name}_1ep.pth", "checkpoint") | {
                    "epochs": epochs, "options": {"seed": seed, "dataset": "synthetic:40"}}
                save_torch(folder / f"{name}_seed{seed}_{epochs}ep.pth", content)
    return folder


@pytest.fixture
def scored(monkeypatch):
    """eval_fid_batch.py as far as its rows: values[way of solver] by scorer(row), in place of generated images."""
    def start(scorer):
        commands = []

        def run(words):
            monkeypatch.setattr(sys, "argv", words[1:])
            args, refuse = eval_fid_batch.parse_options()
            commands.append(args)
            for file in args.checkpoints:
                candidates = eval_fid_batch.candidates_of(args, refuse, Path(file), "cpu", say=False)
                key = {**candidates.key(args.paths[0]), "num_images": args.num_images, "dataset": args.dataset,
                       "split": args.reference_split,
                       "reference_hash": load_images(args.dataset, args.reference_split, args.cache_dir).content_hash}
                results_table.add(args.results, [
                    key | {"seed": seed, "metric": metric, "standard_error": None, "git_revision": "", "finished": "",
                           "value": scorer(key, seed)} for seed in args.seeds for metric in args.metrics])
            return SimpleNamespace(returncode=0)
        monkeypatch.setattr(choose_constants, "subprocess", SimpleNamespace(run=run))
        return commands
    return start


def choose(folder, tmp_path, name, *more, dataset="synthetic:40"):
    choose_constants.main(["--checkpoints", *(str(folder / f"{name}_seed{seed}_2ep.pth") for seed in (0, 1)),
                           "--guides", *(str(folder / f"{name}_seed{seed}_1ep.pth") for seed in (0, 1)),
                           *(["--dataset", dataset] if dataset else []), "--choice_split", "train[:8]",
                           "--reference_split", "train[8:]", "--calls", "6", "18", "--choice_images", "10",
                           "--num_images", "20", "--metrics", "swd", "--choose_by", "swd", "--results",
                           str(tmp_path / "table.csv"), "--choices", str(tmp_path / "choices.csv"), "--output",
                           str(tmp_path / "constants.json"), "--cache_dir", str(folder / "cache"), "--device", "cpu",
                           "--num_threads", "1", *more])
    return json.loads((tmp_path / "constants.json").read_text())


@pytest.mark.parametrize("name, paths", [("baseline", ["uniform"]), ("lift_dual_timestep", ["diagonal", "lead_2"])])
def test_what_is_chosen_on_other_noise_and_images_is_reported_for_every_seed(name, paths, folder, tmp_path, scored):
    """At six calls a correction wins, at eighteen guidance; on what is reported both are worse than plain sampling."""
    def scorer(key, seed):
        is_choice = (seed, key["split"], key["num_images"]) == (7, "train[:8]", 10)
        wins = "guide1.5" in key["solver"] and "ep_" in key["solver"] if key["num_model_calls"] == 18 \
            else key["solver"].endswith("told0.2")
        return 5.0 - wins if is_choice else 5.0 + wins
    commands = scored(scorer)
    record = choose(folder, tmp_path, name, "--choice_seed", "7", "--seeds", "42", "43", "--paths", *paths)
    assert [(row["path"], row["calls"], row["told_log_snr"], row["guided_by"]) for row in record["chosen"]] == [
        found for path in paths for found in ((path, 6, 0.2, ""), (path, 18, 0.0, "earlier"))]
    assert all(row["value"] == 4 for row in record["chosen"])
    tried = results_table.read(tmp_path / "choices.csv")
    assert {row["checkpoint"] for row in tried} == {f"{name}_seed0_2ep.pth"} and len(tried) == len(record["tried"])
    assert {(row["seed"], row["split"]) for row in tried} == {(7, "train[:8]")}
    reported = results_table.read(tmp_path / "table.csv")
    assert {(row["split"], row["num_images"]) for row in reported} == {("train[8:]", 20)}
    found = {(row["checkpoint"], row["path"], row["num_model_calls"], row["seed"], row["value"]) for row in reported}
    assert found == {(f"{name}_seed{k}_2ep.pth", path, calls, seed, value) for k in (0, 1) for path in paths
                     for calls in (6, 18) for seed in (42, 43) for value in (5.0, 6.0)}
    guides = {(Path(args.checkpoints[0]).name, args.guide.name) for args in commands if args.guide}
    assert guides == {(f"{name}_seed{k}_2ep.pth", f"{name}_seed{k}_1ep.pth") for k in (0, 1)}
    with open(tmp_path / "table.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(reported)


def test_where_plain_sampling_is_best_it_is_reported_once(folder, tmp_path, scored):
    scored(lambda key, seed: 5.0 - (key["solver"] == "ddim"))
    record = choose(folder, tmp_path, "baseline")
    assert [Way(**{name: row[name] for name in vars(PLAIN)}) for row in record["chosen"]] == [PLAIN, PLAIN]
    assert {row["solver"] for row in results_table.read(tmp_path / "table.csv")} == {"ddim"}


def test_a_row_of_another_data_set_is_not_taken_and_of_two_none(folder, tmp_path, scored):
    """The tables hold the same measurements on other images, ten times better, before and behind the right ones."""
    scored(lambda key, seed: 5.0 - (key["solver"] == "ddim"))
    choose(folder, tmp_path, "baseline")
    others = []
    for row in results_table.read(tmp_path / "choices.csv"):
        others += [row | {"value": 0.1, **other} for other in (
            {"dataset": "synthetic:80"}, {"reference_hash": "r"}, {"weights": "raw"}, {"precision": "bf16"})]
    results_table.add(tmp_path / "choices.csv", others)
    with pytest.raises(InputError, match="constants.json: exists already; add --overwrite"):
        choose(folder, tmp_path, "baseline")
    assert {row["value"] for row in choose(folder, tmp_path, "baseline", "--overwrite")["chosen"]} == {4.0}
    results_table.add(tmp_path / "choices.csv", [row | {"step_size": "logsnr"} for row in
                                                 results_table.read(tmp_path / "choices.csv")])
    with pytest.raises(InputError, match="choices.csv: has 2 rows of baseline_seed0_2ep.pth"):
        choose(folder, tmp_path, "baseline", "--overwrite")


def test_the_data_are_those_of_the_training_unless_others_are_named(folder, tmp_path, scored):
    commands = scored(lambda key, seed: 1.0)
    choose(folder, tmp_path, "baseline", dataset=None)
    assert {args.dataset for args in commands} == {"synthetic:40"}


def test_it_is_chosen_by_what_is_better_the_lower(folder, tmp_path, scored, capsys):
    assert CHOOSING == ("fid", "kid", "fd_lite0", "kd_lite0", "swd")
    for option in ("--choose_by", "--metrics"):
        with pytest.raises(SystemExit):
            choose(folder, tmp_path, "baseline", option, "precision")
        assert f"{option}: " in capsys.readouterr().err


@pytest.mark.parametrize("more, message", [
    (["--choice_seed", "42"], "--choice_seed: found 42, one of --seeds"),
    (["--choice_split", "train[:20]"], r"--choice_split: 12 of its 20 images are in --reference_split train\[8:\] too"),
    (["--paths", "diagonal"], "--paths: found diagonal for a baseline model, expected some of uniform"),
    (["--guides", "x.pth"], "--guides: found 1 for 2 --checkpoints")])
def test_a_choice_on_what_is_reported_is_refused_before_any_work(more, message, folder, tmp_path, scored):
    commands = scored(lambda key, seed: 1.0)
    with pytest.raises(InputError, match=message):
        choose(folder, tmp_path, "baseline", *more)
    assert not commands and not list(tmp_path.iterdir())
