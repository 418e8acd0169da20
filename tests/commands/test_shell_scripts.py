"""What the scripts of a box with two GPUs start there, seen by a Python that only takes notes."""
import os
import subprocess
import sys

import pytest

from conftest import ROOT, wait_until
from distill import options

NOTES = """#!/usr/bin/env bash
# Says that there are two GPUs, notes what it was started with, waits to be stopped where $WAITS names one of its
# arguments, and fails where $FAILS does.
if [ "$1" = -c ]; then echo 2; exit; fi
trap 'echo "stopped: $1" >> "$NOTES"; exit 143' TERM
echo "$*" >> "$NOTES"
if [ -n "${TOGETHER:-}" ]; then         # ends only once so many are running
    for ((k = 0; k < 300; k++)); do [ "$(wc -l < "$NOTES")" -ge "$TOGETHER" ] && break; sleep 0.1; done
    [ "$(wc -l < "$NOTES")" -ge "$TOGETHER" ] || exit 9
fi
if [ -n "${WAITS:-}" ] && [[ "$*" == *"$WAITS"* ]]; then
    for ((k = 0; k < 300; k++)); do sleep 0.1; done
fi
[[ -z "${FAILS:-}" || "$*" != *"$FAILS"* ]] || { echo "no luck"; exit 3; }
"""


@pytest.fixture
def box(tmp_path):
    """Run a script on a box with two GPUs: box(name, *arguments, **environment) -> (what ended, lines of notes).

    stop_at: SIGTERM to the script once it has started a command with that word in it.
    """
    python, notes = tmp_path / "python", tmp_path / "notes"
    python.write_text(NOTES)
    python.chmod(0o755)

    def start(name, *arguments, stop_at=None, **environment):
        notes.write_text("")
        known = {key: value for key, value in os.environ.items() if key != "DEVICE"}
        process = subprocess.Popen([str(ROOT / "scripts" / name), *arguments], text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE,
                                   env={**known, "VENV": "none", "PYTHON": str(python), "NOTES": str(notes),
                                        "LOGS": str(tmp_path / "logs"), "WAITS": stop_at or "", **environment})
        if stop_at:
            wait_until(lambda: stop_at in notes.read_text())
            process.terminate()
        out, err = process.communicate(timeout=60)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        return done, sorted(notes.read_text().splitlines())
    return start


TAKING_WORDS = {"quickstart": [], "flow_quickstart": [], "mnist_quickstart": [], "flow_study": [], "tiny_chain": [],
                "small_study": ["baseline"], "study": ["train", "maps"], "gpu_run": ["data"], "bench": ["train_step"],
                "setup": []}
DISTILLING = [f"distill/{path.stem}" for path in sorted((ROOT / "scripts/distill").glob("*.sh"))
              if path.name != "common.sh"]


@pytest.mark.parametrize("name", [*TAKING_WORDS, "train", "eval_all", *DISTILLING])
def test_words_are_looked_at_before_an_environment_is_made(name, tmp_path):
    """Help is the head comment. VENV names an environment that is missing, and a PYTHON that could not make it."""
    settings = {**os.environ, "VENV": str(tmp_path / "venv"), "PYTHON": "false", "OUTPUT": str(tmp_path / "study")}
    script = ROOT / "scripts" / f"{name}.sh"
    for help_word in ("--help", "-h"):
        done = subprocess.run([script, help_word], capture_output=True, text=True, env=settings)
        first, *others = script.read_text().splitlines()[1:]
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(first.removeprefix("# ") + "\n")
        assert len(done.stdout.splitlines()) == 1 + next(k for k, line in enumerate(others) if line[:1] != "#")
    if name in TAKING_WORDS:
        known = TAKING_WORDS[name]
        done = subprocess.run([script, *known, "anything"], capture_output=True, text=True, env=settings)
        assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"{name}.sh: found anything, expected {'some of: ' if known else 'no words'}")
    assert not any(tmp_path.iterdir())


def test_train_trains_both_models_at_once_on_a_gpu_each(box):
    done, notes = box("train.sh", "--epochs", "2", TOGETHER="2", LIFT_OPTIONS="--native_32")
    assert done.returncode == 0, done.stderr
    assert notes == ["train_baseline.py --device 0 --epochs 2", "train_lift.py --device 1 --epochs 2 --native_32"]


@pytest.mark.parametrize("failing, other", [("train_baseline.py", "train_lift.py"),
                                            ("train_lift.py", "train_baseline.py")])
def test_train_reports_a_failure_and_lets_the_other_end(box, tmp_path, failing, other):
    done, notes = box("train.sh", TOGETHER="2", FAILS=failing)
    assert done.returncode == 3 and len(notes) == 2
    assert f"train.sh: {failing}" in done.stderr and "failed with status 3" in done.stderr and other not in done.stderr
    log = (tmp_path / "logs/train_baseline.log").read_text()
    assert ("no luck" in log) == (failing == "train_baseline.py")


def test_train_keeps_both_on_the_device_that_is_named(box):
    done, notes = box("train.sh", DEVICE="1")
    assert done.returncode == 0 and notes == ["train_baseline.py --device 1", "train_lift.py --device 1"]


def test_train_stopped_ends_its_training_and_starts_no_other(box):
    done, notes = box("train.sh", stop_at="train_baseline.py", DEVICE="cpu")
    assert done.returncode == 143 and notes == ["stopped: train_baseline.py", "train_baseline.py --device cpu"]
    assert "train.sh: train_baseline.py failed with status 143" in done.stderr


CHECKED = [     # script and words, settings, what they are answered
    ("train", {"LIFT_OPTIONS": "--anything"}, "unrecognized arguments: --anything (see python train_lift.py --help)"),
    ("quickstart", {"GRID": "8"}, "--num_steps: found 18, but a grid of 8 points with --max_jump 5 allows 2 to 14"),
    ("quickstart", {"METRICS": "beauty"}, "--metrics: invalid choice: 'beauty'"),
    ("flow_quickstart", {"GUIDANCE": "1 x"}, "--guidance_scale: found 'x', expected a number"),
    ("mnist_quickstart", {"NUM_SAMPLES": "3"}, "--num_samples: found '3', expected a whole number of at least 20"),
    ("flow_study", {"GUIDANCE": "1 abc"}, "--guidance_scale: found 'abc', expected a number"),
    ("flow_study", {"NUM_THREADS": "-1"}, "--num_threads: found '-1', expected a whole number of at least 0"),
    ("small_study", {"NUM_IMAGES": "1"}, "--num_images: found '1', expected a whole number of at least 2"),
    ("study train maps", {"K": "0"}, "--K: found '0', expected a whole number of at least 1"),
    ("study train", {"DATASET": "./nothing"}, "--dataset: ./nothing: found no such folder"),
    ("eval_all --num_images 1", {"CHECKPOINTS": "baseline.pth"}, "--num_images: found '1', expected a whole number"),
    ("gpu_run lift flow", {"FLOW_SAMPLING": "--batch_size x"}, "--batch_size: found 'x', expected a whole number"),
    ("gpu_run lift chain", {"SEEDS": "42 one"}, "--seeds: found 'one', expected a whole number"),
    ("gpu_run lift distill", {"DISTILL_OPTIONS": "--gan"}, "unrecognized arguments: --gan"),
    ("distill/mnist t.pth ./none", {"STEPS": "1"}, f"--dataset: {ROOT}/none: found no such folder"),
    ("distill/ablation t.pth digits:30 --gen_cls_loss_weight 0.1", {}, "--gen_cls_loss_weight: found 0.1, which has no "
     "effect without --gen_cls_loss"),
    ("distill/two_scales a.pth b.pth digits:30", {"TEACHER_STEPS": "x"}, "--num_steps: found 'x', expected a whole"),
    ("distill/digit_scales digits:30 --gan", {}, "unrecognized arguments: --gan (see python -m distill.train --help)"),
    ("distill/digit_scales digits:30", {"NUM_SAMPLES": "3"}, "--num_samples: found '3', expected a whole number")]
COUNTED = [     # settings that the script itself looks at
    ("mnist_quickstart", "VAE_STEPS", "0", "0, expected whole numbers of at least 1"),
    ("flow_study", "CALLS", "10 x", "x, expected whole numbers of at least 1"),
    ("flow_study", "SEEDS", " ", "nothing, expected whole numbers of at least 0"),
    ("small_study", "EPOCHS", "ten", "ten, expected whole numbers of at least 1"),
    ("study", "EPOCHS", "x", "x, expected whole numbers of at least 1"),
    ("distill/mnist t.pth digits:30", "STEPS", "1 x", "x, expected whole numbers of at least 1"),
    ("distill/ablation t.pth digits:30", "STEPS", "1", "1, expected whole numbers of at least 2"),
    ("distill/two_scales a.pth b.pth digits:30", "STEPS", "3", "3, expected some of: 1 2 4")]


@pytest.mark.parametrize("words, settings, refusal", [
    *((words, settings, f"error: {refusal}") for words, settings, refusal in CHECKED),
    *((words, {name: value}, f"{words.split()[0].rpartition('/')[2]}.sh: {name}: found {refusal}")
      for words, name, value, refusal in COUNTED),
    ("gpu_run lift study", {"STUDY_SETTINGS": "STEPS=0"}, "study.sh: STEPS: found 0, expected whole numbers of at")])
def test_what_a_later_command_would_refuse_is_refused_before_any_training(box, tmp_path, words, settings, refusal):
    know_python(tmp_path)
    name, *words = words.split()
    places = {"OUTPUT": tmp_path / "study", "CHECKPOINTS": tmp_path / "c", "EXPERIMENTS": tmp_path / "e"}
    usual = {"DEVICE": "cpu", "DEVICES": "cpu", "DATASET": "synthetic:64"} | {k: str(v) for k, v in places.items()}
    done, notes = box(f"{name}.sh", *words, **usual | settings)
    assert (done.returncode, done.stdout, notes) == (2, "", []) and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(refusal) and {file.name for file in tmp_path.iterdir()} == {"python", "notes"}


def test_a_script_that_is_to_check_alone_ends_there(box, tmp_path):
    know_python(tmp_path)
    done, notes = box("gpu_run.sh", "lift", "chain", "flow", "mnist", DEVICE="cpu", OUTPUT=str(tmp_path / "out"),
                      CHECKPOINTS=str(tmp_path / "c"), DATASET="synthetic:64", CHECK_ONLY="1")
    assert (done.returncode, done.stdout, done.stderr, notes) == (0, "", "", []) and not (tmp_path / "out").exists()


FILES = "c/baseline_1ep.pth c/lift_dual_timestep_1ep.pth c/lift_dual_timestep_2ep.pth"


def test_eval_all_gives_every_file_to_one_gpu(box):
    done, notes = box("eval_all.sh", "--num_images", "8", CHECKPOINTS=FILES, LIFT_PATHS="diagonal dp_64", TOGETHER="2")
    lift = "eval_fid_batch.py --model_type lift --checkpoints c/lift_dual_timestep_{}ep.pth --paths diagonal dp_64 " \
           "--device {} --num_images 8"
    assert done.returncode == 0, done.stderr
    assert notes == ["eval_fid_batch.py --model_type baseline --checkpoints c/baseline_1ep.pth --paths uniform "
                     "--device 0 --num_images 8", lift.format(1, 1), lift.format(2, 0)]


def test_eval_all_goes_on_after_a_failure_and_ends_with_its_status(box, tmp_path):
    done, notes = box("eval_all.sh", CHECKPOINTS=FILES, FAILS="baseline_1ep")
    assert done.returncode == 3 and len(notes) == 3
    assert f"device 0 failed with status 3, see {tmp_path}/logs/eval_0.log" in done.stderr
    assert "c/baseline_1ep.pth failed with status 3" in (tmp_path / "logs/eval_0.log").read_text()


def test_eval_all_on_one_device_and_without_checkpoints(box):
    done, notes = box("eval_all.sh", CHECKPOINTS=FILES, DEVICE="cpu")
    assert done.returncode == 0 and len(notes) == 3 and all("--device cpu" in line for line in notes)
    done, notes = box("eval_all.sh", CHECKPOINTS=" ")
    assert done.returncode == 2 and "found no checkpoints" in done.stderr and not notes


def test_gpu_run_goes_through_its_phases_at_default_size(box, tmp_path):
    output = tmp_path / "gpu"
    done, notes = box("gpu_run.sh", "data", "tests", "chain", OUTPUT=str(output), CHECKPOINTS=str(tmp_path / "c"),
                      DATASET="synthetic:15803")
    assert done.returncode == 0, done.stderr
    assert "-m pytest -m gpu -n 0" in notes and (output / "machine.txt").read_text() == "2\n"
    [train] = [note for note in notes if note.startswith("train_lift.py --device 1 --dataset synthetic:15803")]
    assert "--hidden_dims 64 128 256 512 --epochs 100 --batch_size 64 --learning_rate 1e-4" in train
    assert "--compile" in train.split() and f"--output_dir {output}" in train
    assert sum(note.startswith("eval_fid_batch.py") for note in notes) == 2


def test_gpu_run_trains_lift_alone_with_the_options_that_it_has_in_the_chain(box, tmp_path):
    settings = {"OUTPUT": str(tmp_path / "gpu"), "CHECKPOINTS": str(tmp_path / "c"), "DATASET": "synthetic:15803"}
    (alone,), (in_chain,) = ([note.removeprefix("train_lift.py").replace(" --device 1", "").split(" --")
                              for note in box("gpu_run.sh", phase, **settings)[1] if note.startswith("train_lift.py")]
                             for phase in ("lift", "chain"))
    assert sorted(alone) == sorted(in_chain)


def test_gpu_run_distils_with_real_images_where_a_student_uses_them(box, tmp_path):
    """Each command line is one that distill.train takes."""
    know_python(tmp_path)
    done, notes = box("gpu_run.sh", "distill", OUTPUT=str(tmp_path / "gpu"), CHECKPOINTS=str(tmp_path / "c"),
                      DATASET="synthetic:64")
    assert done.returncode == 0, done.stderr
    with_gan, two_steps = (options.parse(note.split()[2:]) for note in notes if note.startswith("-m distill.train"))
    assert (with_gan.cls_on_clean_image, with_gan.dataset) == (True, "synthetic:64")
    assert two_steps.backward_simulation and not options.uses_images(two_steps)


@pytest.mark.parametrize("word, earlier", [("train_lift.py", []), ("compute_heatmap_30.py", ["train_lift.py"])])
def test_quickstart_stopped_leaves_nothing_behind_and_starts_nothing_more(box, tmp_path, word, earlier):
    done, notes = box("quickstart.sh", stop_at=word, OUTPUT=str(tmp_path / "quick"), CHECKPOINTS=str(tmp_path / "c"))
    assert done.returncode == 143 and f"stopped: {word}" in notes
    started = {note.split()[0] for note in notes if not note.startswith("stopped")}
    # The two trainings run side by side, so that LIFT's may be stopped before the baseline's has begun.
    assert started - {"train_baseline.py"} == {*earlier, word}


def test_gpu_run_ends_with_a_failure_where_a_phase_fails_or_is_none(box, tmp_path):
    done, notes = box("gpu_run.sh", "tests", OUTPUT=str(tmp_path / "gpu"), FAILS="pytest")
    assert done.returncode == 1 and notes == ["-m pytest -m gpu -n 0"]
    done, notes = box("gpu_run.sh", "everything")
    assert done.returncode == 2 and "found everything, expected some of: data tests" in done.stderr and not notes


def test_flows_quickstart_trains_and_draws_a_row_per_class_at_each_guidance(box, tmp_path):
    checkpoints = tmp_path / "flow"
    checkpoints.mkdir()
    names = {"CHECKPOINTS": str(checkpoints), "OUTPUT": str(tmp_path / "out"), "GUIDANCE": "1 4", "STEPS": "20"}
    done, notes = box("flow_quickstart.sh", **names)
    assert done.returncode != 0 and len(notes) == 1         # a training that left no checkpoint behind
    assert notes[0].startswith("-m flow.train --dataset digits:5000 --image_size 28 --channels 1 --no-flip --max_steps "
                               "20")
    assert "--output residual" in notes[0] and notes[0].endswith("--resume")
    (checkpoints / "flow_1ep.pth").touch()
    done, notes = box("flow_quickstart.sh", **names)        # a finished training is not started again
    assert done.returncode == 0 and [note.split("--guidance_scale ")[1].split()[0] for note in notes] == ["1", "4"]
    assert all(note.startswith(f"-m flow.generate --checkpoint {checkpoints}/flow_1ep.pth") for note in notes)


def test_flows_study_counts_calls_and_passes_over_what_is_trained(box, tmp_path):
    (tmp_path / "residual_patch4_seed0_3ep.pth").touch()
    done, notes = box("flow_study.sh", CHECKPOINTS=str(tmp_path), OUTPUT=str(tmp_path / "out"), OUTPUTS="residual",
                      PATCHES="4", SEEDS="0", CALLS="10", GUIDANCE="2", SOLVERS="ddim midpoint", NUM_THREADS="1",
                      PRECISION="float32", OTHERS="")
    assert done.returncode == 0, done.stderr
    picture, table, *evaluations = notes
    assert picture.startswith("-m flow.generate") and f"{tmp_path}/out/samples_residual_patch4_seed0.png" in picture
    assert "--metrics fd_lite0 kd_lite0 swd groups" in evaluations[0]
    assert table.startswith("-m flow.study_table") and len(evaluations) == 2
    assert ["--solver ddim --num_steps 10 --guidance_scale 2" in evaluations[0],
            "--solver midpoint --num_steps 5 --guidance_scale 2" in evaluations[1]] == [True, True]
    assert all(note.startswith("eval_fid_batch.py --dataset cifar10 --checkpoints")
               and note.endswith("--num_threads 1 --precision float32") for note in evaluations)
    done, notes = box("flow_study.sh", CHECKPOINTS=str(tmp_path), OUTPUT=str(tmp_path / "out"), OUTPUTS=" ",
                      PATCHES=" ", SEEDS="1", OTHERS="unet")         # it left no checkpoint behind
    assert done.returncode != 0 and len(notes) == 1
    assert "--name unet_patch1_seed1 --seed 1 --network unet --patch_size 1" in notes[0]
    done, notes = box("flow_study.sh", OUTPUTS=" ", OTHERS="triple", OUTPUT=str(tmp_path / "out"))
    assert done.returncode == 2 and "OTHERS: found triple, expected some of: unet dual" in done.stderr and not notes


def know_python(tmp_path):
    """Let the Python that takes notes answer `-c` as a true one does, GPUs aside: study.sh asks it for the runs that
    there are, and `check` of environment.sh what a command says of its words."""
    (tmp_path / "python").write_text(NOTES.replace(
        "echo 2; exit", f'[[ "$2" = *torch* ]] && echo 2 || exec {sys.executable} "$@"; exit'))


def test_the_study_chooses_constants_for_all_models_and_samples_each_in_the_others_way(box, tmp_path):
    know_python(tmp_path)
    models = ("baseline_residual", "lift_native_diagonal_residual", "lift_bands_residual")
    settings = {"COMPARED": " ".join(models), "ABLATIONS": "", "SEEDS": "0 1", "EPOCHS": "8", "DEVICES": "cpu",
                "CHECKPOINTS": str(tmp_path), "OUTPUT": str(tmp_path / "study"), "VAL_SPLIT": "train[:500]",
                "DATASET": "synthetic:64"}
    done, notes = box("study.sh", "train", **settings)
    assert done.returncode == 0 and len(notes) == 6 and all("--save_epochs 2 8 " in note for note in notes)
    for model in models:
        for seed in (0, 1):
            (tmp_path / f"{model}_seed{seed}_8ep.pth").touch()
            if model != "lift_bands_residual" or seed == 0:         # with a guide missing there is no guidance
                (tmp_path / f"{model}_seed{seed}_2ep.pth").touch()
    done, notes = box("study.sh", "constants", **settings)
    assert done.returncode == 0, done.stderr
    baseline, bands = notes if "baseline" in notes[0] else notes[::-1]      # of the diagonal no constants are asked
    files = {model: " ".join(f"{tmp_path}/{model}_seed{seed}_{{}}ep.pth" for seed in (0, 1)) for model in models}
    assert baseline.startswith("-m scripts.choose_constants ") and " --paths uniform " in baseline
    assert f"--checkpoints {files[models[0]].format(8, 8)} --guides {files[models[0]].format(2, 2)} --calls 9 18" \
        in baseline
    assert f"--checkpoints {files[models[2]].format(8, 8)} --calls 9 18 --paths diagonal lead_2" in bands
    for note in (baseline, bands):
        assert "--choice_split train[:500] " in note and "--reference_split train[500:] " in note
    (tmp_path / "study" / f"constants_{models[0]}_8ep.json").touch()        # finished: made after both checkpoints
    assert box("study.sh", "constants", **settings)[1] == [bands]
    os.utime(tmp_path / f"{models[0]}_seed1_8ep.pth", (2e9, 2e9))
    assert len(box("study.sh", "constants", **settings)[1]) == 2
    for split in ("train[-500:]", "train[100:200]", "train"):
        done, notes = box("study.sh", "train", "constants", **settings | {"VAL_SPLIT": split})
        assert done.returncode == 2 and f"VAL_SPLIT: found {split}, expected train[:N]" in done.stderr and not notes
    done, notes = box("study.sh", "swap", SEEDS="0", **{k: v for k, v in settings.items() if k != "SEEDS"})
    assert done.returncode == 0, done.stderr
    ways = sorted((note.split("_seed0")[0].split("/")[-1], note.split("--paths ")[1].split(" --num_steps")[0],
                   "--x32 random" in note) for note in notes)
    baseline, diagonal, bands = models
    assert ways == [(baseline, "uniform", False), (bands, "diagonal lead_2", False), (diagonal, "diagonal", True),
                    (diagonal, "diagonal lead_2", False)]


def test_the_study_asks_no_two_bands_to_agree(box, tmp_path):
    know_python(tmp_path)
    models = ("baseline_residual", "lift_native_residual", "lift_bands_residual")
    for model in models:
        (tmp_path / f"{model}_seed0_3ep.pth").touch()
    done, notes = box("study.sh", "predictions", "detail", "samples", "error", COMPARED=" ".join(models), ABLATIONS="",
                      SEEDS="0", EPOCHS="3", DEVICES="cpu", CHECKPOINTS=str(tmp_path), OUTPUT=str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    agreeing = [note for note in notes if "reconciled" in note]
    for command in ("eval_fid_batch.py", "generate_with_path_30.py", "-m lift.eval_mse"):
        assert any(command in note and "lift_native_residual" in note for note in agreeing)
    assert not any("lift_bands" in note for note in agreeing)
    of_bands = [note.split(" --")[0] for note in notes if "lift_bands" in note]
    assert of_bands == ["-m lift.eval_mse", "-m lift.eval_mse", "eval_fid_batch.py", "generate_with_path_30.py"]
    own_inputs = [note.split("exposure_")[1].split()[0] for note in notes if "--inputs self" in note]
    assert sorted(own_inputs) == ["lift_bands_residual_seed0_3ep", "lift_native_residual_seed0_3ep"]


def test_the_quickstart_of_digits_trains_four_models_and_writes_the_tour(box, tmp_path):
    """What is trained is passed over, what was begun goes on, and the latent model gets the VAE."""
    experiments = tmp_path / "experiments"
    names = {"EXPERIMENTS": str(experiments), "OUTPUT": str(tmp_path / "out"), "STEPS": "30"}
    done, [note] = box("mnist_quickstart.sh", FAILS="train_rf", **names)
    assert done.returncode == 3 and note.startswith("-m mnist.train_rf --dataset digits:5000 --fast --name flow")
    assert "--max_steps 30" in note and "--resume" not in note
    for name in ("flow", "vae", "latent"):
        folder = experiments / f"20261129_000000-{name}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / f"{name}_1ep.pth").touch()
    (experiments / "20261129_000000-ddpm").mkdir()
    done, notes = box("mnist_quickstart.sh", FAILS="train_ddpm", **names)
    assert done.returncode == 3 and len(notes) == 1
    assert notes[0].endswith(f"--resume {experiments}/20261129_000000-ddpm")
    (experiments / "20261129_000000-ddpm/checkpoints").mkdir()
    (experiments / "20261129_000000-ddpm/checkpoints/ddpm_2ep.pth").touch()
    (experiments / "20261129_000000-latent/checkpoints/latent_1ep.pth").unlink()
    done, [train] = box("mnist_quickstart.sh", FAILS="train_conditioned", **names)
    assert train.startswith("-m mnist.train_conditioned_latent_diffusion") and "--max_steps 750" in train
    assert f"--vae_checkpoint {experiments}/20261129_000000-vae/checkpoints/vae_1ep.pth" in train
    (experiments / "20261129_000000-latent/checkpoints/latent_1ep.pth").touch()
    done, [generate, tour] = box("mnist_quickstart.sh", **names)
    assert done.returncode == 0 and generate.startswith("-m mnist.generate --checkpoint") and "_2ep.pth" not in generate
    assert f"--ddpm {experiments}/20261129_000000-ddpm/checkpoints/ddpm_2ep.pth" in tour
    assert f"--output {tmp_path}/out/tour.html" in tour and "tour.html" in done.stdout
