"""The recipes are command lines that distill.train takes, with the published numbers in them."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import without_slash

from conftest import ROOT
from distill import options
from flow import train as flow_train

NOTES = """#!/usr/bin/env bash
# Notes what it was started with. What it is asked of options beforehand is left to $ANSWERS, where that is given.
if [ "$1" = -c ]; then exec ${ANSWERS:-true} "$@"; fi
printf "%s\\n" "$@" ";" >> "$NOTES"
"""


@pytest.fixture
def commands(tmp_path):
    """Run a script with a Python that only takes notes: commands(name, *arguments, **environment) -> lists of words."""
    python, notes = tmp_path / "python", tmp_path / "notes"
    python.write_text(NOTES)
    python.chmod(0o755)

    def start(name, *arguments, **environment):
        done = subprocess.run([ROOT / "scripts/distill" / name, *map(str, arguments)], capture_output=True, text=True,
                              env={**os.environ, "VENV": "none", "PYTHON": str(python), "NOTES": str(notes),
                                   **environment})
        words = notes.read_text().split("\n;\n")[:-1] if notes.exists() else []
        return done, [command.split("\n") for command in words]
    return start


def parsed(command):
    """What distill.train makes of a noted command."""
    return options.parse(command[command.index("distill.train") + 1:])


def test_the_published_recipe_and_its_resumed_stage(commands, tmp_path):
    done, [first] = commands("imagenet.sh", "weights.pth", tmp_path, "--resume", PROCESSES="3")
    assert done.returncode == 0, done.stderr
    assert first[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]
    args = parsed(first)
    assert (args.generator_lr, args.guidance_lr, args.dfake_gen_update_ratio, args.batch_size) == (2e-6, 2e-6, 5, 280)
    assert args.cls_on_clean_image and args.gen_cls_loss and args.diffusion_gan and args.resume
    assert (args.gen_cls_loss_weight, args.guidance_cls_loss_weight) == (3e-3, 1e-2)
    assert args.diffusion_gan_max_timestep == 1000
    assert (args.real_guidance_scale, args.ema_decay, args.precision, args.max_grad_norm) == (1, 0, "bf16", 10)
    assert args.dataset == without_slash(str(tmp_path)) and args.num_denoising_step == 1 and args.ckpt_only_path is None
    done, [_, second] = commands("imagenet_resumed.sh", "weights.pth", tmp_path, "first.state.pth")
    resumed = parsed(second)
    differing = {key for key, value in vars(args).items() if getattr(resumed, key) != value}
    assert differing == {"generator_lr", "guidance_lr", "ckpt_only_path", "name", "resume"}
    assert resumed.generator_lr == resumed.guidance_lr == 5e-7 and resumed.ckpt_only_path.name == "first.state.pth"


@pytest.mark.parametrize("words, is_used", [("", False), ("--val_every 0 --val_every=3", True)])
def test_a_recipe_names_a_data_set_just_where_a_distillation_uses_one(words, is_used):
    """The options are asked, which refuse a data set without effect, and others as the distillation would."""
    def found(*words):
        return subprocess.run(["bash", "-c", 'arguments=""; source scripts/distill/common.sh; '
                               'find_real_images digits:30 "$@" && printf "%s\\n" "${real_images[@]}"', "recipe",
                               *words], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, "PYTHON": sys.executable})
    given = ["--teacher", "teacher.pth", *words.split()]
    done = found(*given)
    assert (done.returncode, done.stdout.split()) == (0, ["--dataset", "digits:30"] * is_used), done.stderr
    options.parse([*given, *done.stdout.split()])
    if not words:
        done = found(*given, "--gan")
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
        assert "unrecognized arguments: --gan (see python -m distill.train --help)" in done.stderr


def test_students_of_digits_are_trained_and_scored(commands, tmp_path):
    done, found = commands("mnist.sh", "teacher.pth", tmp_path, "--batch_size", "8", STEPS="1 4", SEEDS="0 3",
                           ITERATIONS="7", GUIDANCE="3")
    assert done.returncode == 0, done.stderr
    *trainings, scores = found
    made = [parsed(command) for command in trainings]
    assert [(args.num_denoising_step, args.seed) for args in made] == [(1, 0), (1, 3), (4, 0), (4, 3)]
    assert all((args.max_steps, args.batch_size, args.real_guidance_scale) == (7, 8, 3) for args in made)
    assert len({args.name for args in made}) == 4
    assert scores[:2] == ["-m", "scripts.benchmarks.digit_students"]
    assert scores[scores.index("--guidance_scale") + 1] == "3"
    assert "training 4 of 4 took" in done.stdout and {args.val_every for args in made} == {1}
    _, [*plain, _] = commands("mnist.sh", "teacher.pth", "digits:30", STEPS="4", SEEDS="0", GAN="", VALIDATION="",
                              ANSWERS=sys.executable)
    assert [options.uses_images(parsed(command)) for command in plain[5:]] == [False]


@pytest.mark.parametrize("named, expected", [("mnist", "mnist"), ("digits:30", "digits:30"), ("./mnist", "mnist")])
def test_a_data_set_is_a_path_where_it_has_a_slash(commands, tmp_path, monkeypatch, named, expected):
    """The repository has a folder named mnist, which is no data set."""
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    _, [training, _] = commands("mnist.sh", "teacher.pth", named, STEPS="1", SEEDS="0")
    _, [*_, again] = commands("two_scales.sh", "a.pth", "b.pth", named, STEPS="1", SEEDS="0", SCORING="none")
    for found in (training, again):
        assert found[found.index("--dataset") + 1] == (str(tmp_path / expected) if "/" in named else expected)


def test_a_student_that_is_there_takes_no_time(commands, tmp_path):
    """The minutes of the others are reckoned at the pace of those that were trained."""
    place = ROOT / "checkpoints" / "there_1_calls_seed0_1ep.pth"
    place.touch()
    try:
        done, found = commands("mnist.sh", "teacher.pth", "mnist", STEPS="1", SEEDS="0 1 2", NAME="there")
    finally:
        place.unlink()
    assert done.returncode == 0, done.stderr
    assert len(found) == 3 and "training 1 of 2 took" in done.stdout and "training 2 of 2 took" in done.stdout


def test_the_ablation_leaves_out_one_part_at_a_time(commands, tmp_path):
    done, found = commands("ablation.sh", "teacher.pth", tmp_path, SEEDS="0", ITERATIONS="7")
    assert done.returncode == 0, done.stderr
    assert "training 5 of 5 took" in done.stdout and "for the 4 others" in done.stdout
    made = {args.name: args for args in map(parsed, found[::2])}
    assert {command[command.index("--output") + 1] for command in found[1::2]} == {"results/distill_ablation"}
    full = made.pop("full_4_calls_seed0")
    assert full.cls_on_clean_image and full.backward_simulation and full.critic_step and full.level_schedule
    differing = {name: {key for key, value in vars(args).items() if key != "name" and getattr(full, key) != value}
                 for name, args in made.items()}
    assert differing == {"one_time_scale_4_calls_seed0": {"dfake_gen_update_ratio"},
                         "no_gan_4_calls_seed0": {"cls_on_clean_image", "gen_cls_loss", "gen_cls_loss_weight",
                                                  "shared_critic_pass"},
                         "no_simulation_4_calls_seed0": {"backward_simulation"},
                         "published_critic_4_calls_seed0": {"critic_step", "level_schedule"}}


def test_single_and_dual_scale_students_have_equal_trainings(commands, tmp_path):
    done, found = commands("two_scales.sh", "baseline.pth", "lift.pth", "synthetic:16", SEEDS="5",
                           SCORING="--metrics swd", RESULTS="table.csv")
    assert done.returncode == 0, done.stderr
    made = {args.name: args for args in map(parsed, found[:8])}
    assert [command[command.index("--checkpoint") + 1].rpartition("/")[2] for command in found[8:]] == [
        *(f"{name}_*ep.pth" for name in made), "baseline.pth", "lift.pth"]
    for command in found[8:]:
        assert command[:5] == ["eval_fid_batch.py", "--dataset", "synthetic:16", "--results", "table.csv"]
        assert command[5:7] == ["--metrics", "swd"]
        assert ("--num_steps" in command) == command[8].endswith(("baseline.pth", "lift.pth"))
    assert [command[-4:] for command in found[-2:]] == [["--paths", "uniform", "--num_steps", "18"],
                                                        ["--paths", "diagonal", "--num_steps", "18"]]
    assert len(made) == 8 and made["ahead_4_calls_seed5"].student_t_32 == [999, 499, 249, 99]
    for steps in (1, 2, 4):
        single, tied = (made[f"{kind}_{steps}_calls_seed5"] for kind in ("single", "tied"))
        assert {key for key, value in vars(single).items() if getattr(tied, key) != value} == {"name", "teacher"}


def test_digits_of_one_scale_and_two_are_distilled_and_scored_alike(commands, tmp_path):
    """Teachers that are there are not trained; else both have equal sizes and steps."""
    done, found = commands("digit_scales.sh", tmp_path, SINGLE="single.pth", DUAL="dual.pth", SEEDS="0 1", STEPS="1 2",
                           ITERATIONS="9", OUTPUT="out")
    assert done.returncode == 0, done.stderr
    *trainings, scores = found
    made = {args.name: args for args in map(parsed, trainings)}
    assert list(made)[:5] == [f"digit_{name}_calls_seed0"
                              for name in ("single_1", "tied_1", "single_2", "tied_2", "ahead_2")]
    assert len(made) == 10 and {args.max_steps for args in made.values()} == {9}
    assert "training 10 of 10 took" in done.stdout and "for the 9 others" in done.stdout
    for steps in (1, 2):
        single, tied = (made[f"digit_{kind}_{steps}_calls_seed1"] for kind in ("single", "tied"))
        assert {key for key, value in vars(single).items() if getattr(tied, key) != value} == {"name", "teacher"}
    assert scores[1] == "scripts.benchmarks.digit_students" and scores[scores.index("--output") + 1] == "out"
    students = scores[scores.index("--students") + 1:scores.index("--dataset")]
    assert len(students) == 10 and [Path(name).name for name in scores[3:5]] == ["single.pth", "dual.pth"]

    done, [*_, single] = commands("digit_scales.sh", tmp_path, TEACHER_STEPS="7")
    assert done.returncode == 1 and "digit_scales_single: no checkpoint after its training" in done.stderr
    args = flow_train.parse_args(single[2:])
    assert (args.image_size, args.channels, args.max_steps, args.flip) == (28, 1, 7, False)


@pytest.mark.parametrize("name, given", [("imagenet.sh", 1), ("digit_scales.sh", 0), ("imagenet_resumed.sh", 2),
                                         ("mnist.sh", 1), ("two_scales.sh", 2), ("ablation.sh", 1)])
def test_a_missing_argument_is_one_line(commands, name, given):
    """An option is no argument."""
    done, found = commands(name, *["x"] * given, "--seed", "1")
    assert done.returncode == 2 and not found
    assert done.stderr.count("\n") == 1 and f"{name}: found {given} arguments" in done.stderr


@pytest.mark.parametrize("script, expected", [
    ("sdxl_8node.sh", {"batch_size": 128, "num_denoising_step": 4, "backward_simulation": True, "generator_lr": 5e-7,
                       "guidance_lr": 5e-7, "real_guidance_scale": 8, "gen_cls_loss_weight": 5e-3, "sdxl": True,
                       "dfake_gen_update_ratio": 5, "fsdp": True, "lora": False, "conditioning_timestep": 999}),
    ("sdxl_1step_8node.sh", {"batch_size": 128, "num_denoising_step": 1, "denoising": False, "generator_lr": 5e-7,
                             "real_guidance_scale": 8, "sdxl": True, "fsdp": True, "conditioning_timestep": 399}),
    ("sdxl_lora_8node.sh", {"batch_size": 128, "num_denoising_step": 4, "generator_lr": 5e-5, "lora": True,
                            "fsdp": False, "gradient_checkpointing": False, "conditioning_timestep": 999}),
    ("sd15_8node.sh", {"batch_size": 2048, "num_denoising_step": 1, "generator_lr": 1e-5, "guidance_lr": 1e-5,
                       "real_guidance_scale": 1.75, "gen_cls_loss_weight": 1e-3, "dfake_gen_update_ratio": 10,
                       "resolution": 512, "sdxl": False, "conditioning_timestep": 999})])
def test_the_published_recipes_of_text_to_image(commands, tmp_path, script, expected):
    (tmp_path / "prompts.txt").write_text("a house\n")
    done, [command] = commands(script, "some/model", tmp_path / "prompts.txt", tmp_path, "--max_steps", "7",
                               MAIN="first", PROCESSES="4", ANSWERS=sys.executable)
    assert done.returncode == 0, done.stderr
    assert command[:6] == ["-m", "torch.distributed.run", "--nnodes", "8", "--nproc_per_node", "4"]
    assert "first:29500" in command
    args = parsed(command)
    assert {key: getattr(args, key) for key in expected} == expected
    assert (args.model_id, args.prompts, args.dataset) == (
        "some/model", tmp_path / "prompts.txt", without_slash(str(tmp_path)))
    assert (args.max_grad_norm, args.ema_decay, args.precision, args.guidance_cls_loss_weight) == (10, 0, "bf16", 1e-2)
    assert args.gen_cls_loss and args.diffusion_gan and args.resume and args.max_steps == 7
    assert not args.critic_step and not args.level_schedule and args.batch_size % 64 == 0
    refused, _ = commands(script, "some/model")
    assert refused.returncode == 2 and "expected MODEL PROMPTS IMAGES" in refused.stderr
