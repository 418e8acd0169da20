"""Students of digits beside their teacher: every row once, calls counted, a later call measures what is missing."""
import json
from types import SimpleNamespace

import pytest
import torch

import families
from conftest import ROOT
from distill import options
from distill.candidates import num_calls
from distill.generate import guided_teacher
from distill.task import DistillationTask
from engine.errors import InputError
from engine.files import load_torch, save_torch
from scripts.benchmarks import digit_students
from test_distill_training import write_dual_flow_teacher, write_flow_teacher, write_mnist_teacher


def test_rows_are_measured_once_and_shown_together(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    write_mnist_teacher(tmp_path / "teacher_1ep.pth")
    content = load_torch(tmp_path / "teacher_1ep.pth")
    for seed in (0, 3):
        save_torch(tmp_path / f"student_seed{seed}_1ep.pth", {
            **content, "few_steps": {"places": [[999], [499]], "called_at": [[999], [499]], "coupling": "tied"},
            "options": {"name": f"student_seed{seed}", "seed": seed, "real_guidance_scale": 2.0, "max_steps": 5}})

    def call(*students, steps=("1",)):
        words = ["--teacher", tmp_path / "teacher_1ep.pth", "--students", *(tmp_path / name for name in students),
                 "--teacher_steps", *steps, "--num_samples", "20", "--dataset", "digits:64", "--num_threads", "1",
                 "--cache_dir", tmp_path / "cache", "--output", tmp_path / "out", "--device", "cpu"]
        monkeypatch.setattr("sys.argv", ["digit_students", *map(str, words)])
        digit_students.main()
        return json.loads((tmp_path / "out.json").read_text())

    first = call("student_seed0_1ep.pth")
    found = call("student_seed0_1ep.pth", "student_seed3_1ep.pth", steps=("1", "2"))
    assert found["rows"][:2] == first["rows"]
    assert [(row["model"], row["num_steps"], row["num_model_calls"]) for row in found["rows"]] == [
        ("teacher", 1, 2), ("student", 2, 2), ("teacher", 2, 4), ("student", 2, 2)]
    assert all(0 <= row["accuracy"] <= 1 and row["fd_digits"] > 0 for row in found["rows"])
    table = capsys.readouterr().out.strip().split("\n")[-6:]
    mean = sum(row["accuracy"] for row in found["rows"][1::2]) / 2
    size = found["rows"][1]["num_parameters"]
    assert size == sum(value.numel() for value in content["model_state"].values())
    assert table[3].startswith(f"| student | {size:,} | 2 | 2 | {mean:.3f} (")
    assert table[5].startswith("| real digits | – | – | – |")
    assert (tmp_path / "out.png").is_file()


def test_a_row_of_the_picture_says_whose_it_is():
    labels = [digit_students.label_of({"model": model, "num_steps": steps}) for model, steps in (
        ("teacher", 1), ("teacher two_scales_fused_seed0_2ep.pth", 10), ("digit_single_4_calls", 4))]
    assert labels == ["teacher, 1 step", "teacher two scales fused, 10 steps", "digit single, 4 steps"]


def test_students_of_two_scales_are_judged_by_their_finer_images(tmp_path, monkeypatch):
    write_dual_flow_teacher(tmp_path / "dual_1ep.pth", sides=(28, 14), patch_size=7)
    content = load_torch(tmp_path / "dual_1ep.pth")
    save_torch(tmp_path / "student_1ep.pth", {
        **content, "few_steps": {"places": [[999, 999], [499, 249]], "called_at": [[999, 999], [499, 249]],
                                 "coupling": "tied"},
        "options": {"name": "student", "seed": 0, "real_guidance_scale": 2.0, "max_steps": 5}})
    monkeypatch.setattr("sys.argv", ["digit_students", "--teacher", str(tmp_path / "dual_1ep.pth"), "--students",
                                     str(tmp_path / "student_1ep.pth"), "--teacher_steps", "2"])
    args = digit_students.parse_args()
    device = torch.device("cpu")
    for (_, draw, _), calls in zip(digit_students.rows_to_measure(args, device), (4, 2), strict=True):
        assert draw.labels(range(12)).tolist() == [*range(10), 0, 1]
        images, _, num_model_calls = draw(args.seed, range(12))
        assert images.shape == (12, 1, 28, 28) and num_model_calls == num_calls(draw) == calls


def test_a_noise_prediction_of_digits_is_walked_from_where_it_knows_something(tmp_path, monkeypatch):
    """From 980 in one step or two, beside a student too: at 999 a is 1.6e-5, and nothing of the image is left."""
    write_mnist_teacher(tmp_path / "teacher_1ep.pth", "ddpm", "eps")
    loaded = families.load(tmp_path / "teacher_1ep.pth")
    monkeypatch.setattr("sys.argv", ["digit_students", "--teacher", str(tmp_path / "teacher_1ep.pth"),
                                     "--teacher_steps", "1", "2"])
    rows = digit_students.rows_to_measure(digit_students.parse_args(), torch.device("cpu"))
    assert [draw.path[:, 0].tolist() for _, draw, _ in rows] == [[980, -1], [980, 0, -1]]
    args = options.parse(["--teacher", str(tmp_path / "teacher_1ep.pth"), "--batch_size", "2", "--num_threads", "1"])
    args.precision = "float32"
    task, walked = DistillationTask(loaded.denoiser, None, None, args, loaded), []

    def sampled(denoiser, path, *given, **named):
        walked.append(path.flatten().tolist())
        return SimpleNamespace(xs=[torch.zeros(1, 1, 32, 32)])

    monkeypatch.setattr("distill.task.sample", sampled)
    task.preview(task.networks)
    assert walked == [[999, -1], [980, -1]]
    given = SimpleNamespace(teacher=tmp_path / "teacher_1ep.pth", guidance_scale=2.0, weights="ema", vae=None)
    assert guided_teacher(given, "cpu", loaded)[1](torch.tensor([[999], [-1]])).tolist() == [[980], [-1]]


def test_a_teacher_of_other_images_is_one_line(tmp_path, monkeypatch):
    write_flow_teacher(tmp_path / "teacher_1ep.pth")
    monkeypatch.setattr("sys.argv", ["digit_students", "--teacher", str(tmp_path / "teacher_1ep.pth")])
    args = digit_students.parse_args()
    with pytest.raises(InputError, match="--teacher: .*expected digits"):
        list(digit_students.rows_to_measure(args, torch.device("cpu")))
    args.teacher, args.students = [], args.teacher
    with pytest.raises(InputError, match="--students: .*expected digits"):
        next(digit_students.rows_to_measure(args, torch.device("cpu")))


@pytest.mark.parametrize("name", ["latent_students", "digit_scales", "distill_ablation"])
def test_the_published_students_stand_in_the_text(name):
    found = json.loads((ROOT / f"results/published/distill/{name}.json").read_text(encoding="utf-8"))
    assert digit_students.markdown_table(found) in (ROOT / "distill/README.md").read_text(encoding="utf-8")
