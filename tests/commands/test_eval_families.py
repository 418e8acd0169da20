"""eval_fid_batch.py on checkpoints of the families beside S1: what their rows say, and that the images are theirs."""
import shlex

import numpy as np
import pytest
import torch

import compute_heatmap_30
import eval_fid_batch
from distill import candidates
from engine.denoiser import Corrected, Guided
from engine.distributed import Group
from engine.files import load_torch, save_torch
from engine.loop import Loop
from engine.sampling import sample, to_uint8
from evaluation import results_table
from flow.grids import find_path
from flow.model import gflop_of_forward, load_checkpoint
from flow.train import parse_args
from flow.training import flow_task
from mnist.models import FAMILY, build_denoiser
from scheduler import LinearFlow
from test_eval_scripts import fails, run, tiny_inception        # noqa: F401  the last is a fixture
import data

COMMON = ["--device", "cpu", "--num_threads", "1", "--precision", "float32", "--num_images", "6", "--batch_size", "4"]
FLOW = ["--hidden_size", "16", "--depth", "1", "--num_heads", "2", "--mlp_ratio", "1", "--patch_size", "16",
        "--batch_size", "4", "--device", "cpu"]
UNET = {"base_channels": 8, "channel_multipliers": [1, 2], "layers_per_block": 1, "attention_levels": [],
        "patch_size": 2,
        "conditioning": "none", "num_classes": 0}


def write_flow(path, *words):
    """A flow of 64-pixel digits with random weights, as `python -m flow.train` writes it."""
    args = parse_args(["--dataset", "digits:12", "--image_size", "64", "--cache_dir", "cache", *FLOW, *words])
    images = data.load_images("digits:12", "train", "cache", 64, args.channels)
    loop = Loop(flow_task(args, images, None, torch.device("cpu")), args, Group(0, 1), torch.device("cpu"))
    torch.manual_seed(0)
    for parameter in loop.task.networks["model"].parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    loop.averages["model"].shadow = {name: p.detach().clone() for name, p in loop.plain["model"].named_parameters()}
    save_torch(path, loop.content() | {"epochs": 7})


def write_digits(path, process, few_steps=None):
    """A model of 28-pixel digits with random weights."""
    torch.manual_seed(0)
    denoiser = build_denoiser(process, "velocity" if process == "flow" else "eps", {**UNET, "shape": [1, 32, 32]})
    network = denoiser.network
    content = {"family": FAMILY, "model": "denoiser", "name": "digits", "process": process, "kind": denoiser.kind,
               "settings": network.settings, "image_size": 28, "channels": 1, "vae_checkpoint": None, "vae_hash": None,
               "model_state": network.state_dict(), "ema_state": {"shadow": {}}, "epochs": 3,
               "options": {"dataset": "digits:12", "label_dropout": 0.1}}
    save_torch(path, content | ({"few_steps": few_steps} if few_steps else {}))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_flow("flow.pth")
        write_flow("undropped.pth", "--label_dropout", "0")
        write_flow("dual.pth", "--scales", "64", "32")
        write_digits("ddpm.pth", "ddpm")
        save_torch("unnamed.pth", load_torch("ddpm.pth") | {"options": {}})
        write_digits("student.pth", "flow", {"places": [[999], [499]], "called_at": [[999], [499]], "coupling": "tied"})
    return folder


@pytest.fixture
def work(written, tmp_path, monkeypatch):
    """The folder to work in; the table of results is a test's own."""
    monkeypatch.chdir(written)
    return tmp_path


def rows_of(monkeypatch, work, *arguments) -> list[dict]:
    """The rows that one evaluation adds."""
    table = work / "table.csv"
    assert run(monkeypatch, eval_fid_batch, *COMMON, "--results", table, *arguments) == 0
    return results_table.read(table)


@pytest.fixture
def seen(monkeypatch):
    """The images that were scored, in order."""
    taken = []
    original = eval_fid_batch.generate_and_score

    def noted(args, found, key, scorer, references, group):
        take = scorer.take
        scorer.take = lambda indices, images: (taken.append(images), take(indices, images))[1]
        return original(args, found, key, scorer, references, group)
    monkeypatch.setattr(eval_fid_batch, "generate_and_score", noted)
    return taken


@pytest.mark.parametrize("words, message", [
    (["--cfg_scale", "4"], "--cfg_scale: is called --guidance_scale here"),
    (["--model.preset", "big"], "--model.preset: is called --preset here"),
    (["--denoise_timesteps=500"], "--denoise_timesteps: is called --num_steps here"),
    (["--dataset_name", "cifar10"], "--dataset_name: is called --dataset here"),
    (["--load_dir", "folder"], "--load_dir: is called --checkpoint here"),
    (["--metrics", "groups"], "--metrics groups: found no names of classes in the real images, expected classes"),
])
def test_older_names_and_groups_of_digits_are_answered_in_a_line(work, monkeypatch, capsys, words, message):
    assert message in fails(monkeypatch, capsys, eval_fid_batch, *COMMON, "--checkpoint", "flow.pth", *words)


def test_the_documented_command(work, monkeypatch, capsys, seen):
    """`python eval_fid_batch.py --checkpoint ... --guidance_scale 4 --num_steps 500`, with the data it was trained
    on."""
    words = shlex.split("--checkpoint flow.pth --guidance_scale 4 --num_steps 500")
    rows = rows_of(monkeypatch, work, *words, "--metrics", "swd")
    assert "--dataset: left out, so digits:12" in capsys.readouterr().out
    assert {(row["model_type"], row["path"], row["solver"], row["num_steps"], row["num_model_calls"], row["epochs"],
             row["dataset"]) for row in rows} == {("flow", "uniform", "ddim_guidance4", 500, 1000, 7, "digits:12")}
    denoiser = Guided(load_checkpoint("flow.pth").denoiser, 4.0)
    expected = sample(denoiser, LinearFlow().uniform_path(500), 42, range(6), labels=torch.arange(6), clip=False).xs[0]
    assert (torch.cat(seen).int() - to_uint8(expected).int()).abs().max() <= 1


def test_rows_are_keyed_by_all_that_decides_an_image(work, monkeypatch):
    """And a finished row is not measured again."""
    variants = {("ddim_guidance1", "uniform"): [], ("midpoint_guidance4_from0.2to0.8", "uniform"):
                ["--solver", "midpoint", "--guidance_scale", "4", "--guidance_interval", "0.2", "0.8"],
                ("ddim_guidance0", "shift"): ["--paths", "shift", "--shift", "0.5", "--guidance_scale", "0"],
                ("multistep_guidance1", "optimised"): ["--paths", "optimised", "--solver", "multistep"],
                ("ddim_guidance4_reused1000", "uniform"): ["--guidance_scale", "4", "--guidance_reuse", "1000"]}
    for words in [*variants.values(), variants[next(iter(variants))]]:
        rows = rows_of(monkeypatch, work, "--checkpoint", "flow.pth", "--num_steps", 5, "--metrics", "swd", *words)
    assert [(row["solver"], row["path"]) for row in rows if row["metric"] == "swd"] == list(variants)
    calls = {row["solver"]: row["num_model_calls"] for row in rows}
    # Midpoint asks at 0, 0.1, 0.2 ... 0.9; seven of these lie within the interval and are asked twice.
    assert calls == {"ddim_guidance1": 5, "midpoint_guidance4_from0.2to0.8": 17, "ddim_guidance0": 5,
                     "multistep_guidance1": 5, "ddim_guidance4_reused1000": 7}       # asked twice at 0 and at 0.2
    assert len({row["path_hash"] for row in rows}) == 3


def test_two_scales_digits_and_students(work, monkeypatch, tiny_inception, seen):                # noqa: F811
    rows = rows_of(monkeypatch, work, "--checkpoint", "dual.pth", "--num_steps", 4, "--coarse_shift", 2, "--metrics",
                   "swd")
    assert rows[0]["num_model_calls"] == 4 and torch.cat(seen).shape == (6, 3, 64, 64)
    seen.clear()
    rows = rows_of(monkeypatch, work, "--checkpoints", "ddpm.pth", "student.pth", "--metrics", "fid")[len(rows):]
    assert [(row["model_type"], row["path"], row["solver"], row["num_steps"]) for row in rows] == [
        ("mnist", "uniform", "ddim", 18), ("mnist_student", "few_steps", "renoise", 2)]
    assert torch.cat(seen).shape == (12, 3, 28, 28)
    assert all(torch.equal(images[:, 0], images[:, 2]) for images in seen) and np.isfinite(rows[0]["value"])


def test_a_flow_of_two_scales_walks_a_path_of_its_own_error_map(work, monkeypatch, capsys):
    grid = ["--grid", 4, "--max_jump", 2, "--num_steps", 3]
    assert run(monkeypatch, compute_heatmap_30, "--checkpoint", "dual.pth", "--dataset", "digits:12", "--K", 1, *grid,
               "--batch_size", 2, "--target_error", 0, "--num_resamples", 0, "--output_dir", work, *COMMON[:6]) == 0
    [heatmap] = work.glob("heatmap_4_dual_7ep.pth")
    rows = rows_of(monkeypatch, work, "--checkpoint", "dual.pth", "--paths", "dp_total", "uniform", "--heatmap",
                   heatmap,
                   *grid, "--metrics", "swd")
    assert [(row["path"], row["step_size"], row["num_model_calls"]) for row in rows if row["metric"] == "swd"] == [
        ("dp_total", "index", 3), ("uniform", "", 3)]
    other = torch.load(heatmap, weights_only=False) | {"checkpoint": "undropped.pth",
                                                             "checkpoint_fingerprint": "ab" * 8}
    save_torch(work / "other.pth", other)
    rows = rows_of(monkeypatch, work, "--checkpoint", "dual.pth", "--paths", "dp_total", "uniform", "lead_1",
                   "--heatmap", work / "other.pth", "--allow_mismatch", "--step_size", "logsnr", *grid, "--metrics",
                   "swd")[len(rows):]
    assert list(dict.fromkeys((row["path"], row["step_size"]) for row in rows)) == [
        ("dp_total (map of undropped abababab)", "logsnr"), ("lead_1", "")]
    assert "expected one of 64 and 32 pixels" in fails(monkeypatch, capsys, compute_heatmap_30, "--checkpoint",
                                                       "flow.pth")


@pytest.mark.parametrize("arguments, expected", [
    (["flow.pth", "--paths", "diagonal"], "--paths: found diagonal for flow.pth of family flow, expected one of "
                                          "uniform"),
    (["flow.pth", "--x32", "random"], "--x32: found random, which has no effect for flow.pth, which is no model of S1"),
    (["flow.pth", "--coarse_shift", "2"], "--coarse_shift: found 2, which has no effect for flow.pth, a model of one"),
    (["flow.pth", "--shift", "0.5"], "--shift: found 0.5, which has no effect without --paths shift"),
    (["flow.pth", "--model_type", "lift"], "flow.pth: "),
    (["undropped.pth", "--guidance_scale", "4"],
     "--guidance_scale: found 4, but undropped.pth was trained without dropped"),
    (["flow.pth", "--guidance_interval", "0.2", "0.8"], "--guidance_interval: found 0.2 0.8, which has no effect with "
                                                        "--guidance_scale 1"),
    (["flow.pth", "--guidance_reuse", "2"], "--guidance_reuse: found 2, which has no effect with --guidance_scale 1"),
    (["unnamed.pth"], "--dataset: left out, but a checkpoint does not say what it was trained on"),
    (["ddpm.pth", "--guidance_scale", "4"], "--guidance_scale: found 4, which has no effect for ddpm.pth, a model "
                                            "without"),
    (["ddpm.pth", "--guidance_interval", "0", "1"], "--guidance_interval: found 0 1, which has no effect for ddpm.pth"),
    (["student.pth", "--num_steps", "5"], "--num_steps: found 5, which has no effect for student.pth, a student"),
    (["flow.pth", "student.pth"], "--checkpoints: found flow.pth of 64 pixels, student.pth of 28 pixels; expected "
                                  "images"),
    (["none.pth"], "none.pth: no such checkpoint")])
def test_wrong_input_is_one_line_before_any_work(work, monkeypatch, capsys, arguments, expected):
    monkeypatch.setattr(candidates.Drawing, "__call__", lambda *_: pytest.fail("work was done"))
    message = fails(monkeypatch, capsys, eval_fid_batch, *COMMON, "--metrics", "swd", "--results", work / "table.csv",
                    "--checkpoints", *arguments)
    assert expected in message and not (work / "table.csv").exists()


def test_what_an_image_costs_stands_in_its_rows(work, monkeypatch):
    """GFLOP: those of a forward pass, counted without numbers, times the calls."""
    rows = rows_of(monkeypatch, work, "--checkpoints", "flow.pth", "--num_steps", 3, "--guidance_scale", 2, "--metrics",
                   "swd")
    config = torch.load("flow.pth", weights_only=True)["config"]
    assert rows[0]["num_model_calls"] == 6
    assert rows[0]["gflop"] == pytest.approx(6 * gflop_of_forward(config), rel=1e-6)
    assert 0 < rows[0]["seconds_per_image"] < 60


def test_exposure_bias_of_a_flow_is_corrected_at_no_further_call(work, monkeypatch, seen):
    """Two bands with guidance: a row names the correction, and its images are those of the corrected sampler."""
    write_flow("bands.pth", "--bands")
    words = ["--checkpoint", "bands.pth", "--num_steps", 3, "--guidance_scale", 2, "--metrics", "swd"]
    rows_of(monkeypatch, work, *words)
    plain = torch.cat(seen)
    seen.clear()
    row = rows_of(monkeypatch, work, *words, "--eps_scale", 0.9, "--told_log_snr", 0.3, "--coarse_shift", 2)[-1]
    assert (row["solver"], row["num_model_calls"]) == ("ddim_guidance2_eps0.9_told0.3", 6)
    denoiser = Corrected(Guided(load_checkpoint("bands.pth").denoiser, 2.0), 0.9, 0.3)
    path = find_path(denoiser, "uniform", 3, "ddim", coarse_shift=2.0)
    found = sample(denoiser, path, 42, range(6), labels=torch.arange(6), clip=False)
    expected = to_uint8(denoiser.image(found.xs))
    assert (torch.cat(seen).int() - expected.int()).abs().max() <= 1
    assert (torch.cat(seen).int() - plain.int()).abs().max() > 1
