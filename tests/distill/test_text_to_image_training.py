"""Distillation of tiny text-to-image models end to end: resumed, adapted, saved for diffusers, in two processes."""
import functools
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import in_two_processes
from distill import evaluate_prompts, memory, options, save_pipeline
from distill.prompt_images import batches_of, draw_missing
from distill.train import make_task
from engine import distributed, run_files
from engine.distributed import Group
from engine.errors import InputError
from engine.loop import Loop, train
from engine.sampling import StepNoise, start_noise
from engine.sharding import full_model
from tiny_text_to_image import large, texts, tiny_clip, tiny_models       # noqa: F401

GAN = ("--cls_on_clean_image", "--gen_cls_loss")
FOUR_STEPS = ("--denoising", "--num_denoising_step", "4", "--backward_simulation")
PROMPTS = ["a red house", "two cats on a mat", "the sea"]


def words(model, texts, folder, *more, name="student", steps=4):
    uses = "--cls_on_clean_image" in more or "--denoising" in more and "--backward_simulation" not in more
    return ["--model_id", str(model), "--prompts", str(texts / "prompts.txt"),
            *["--dataset", str(texts / "images")] * uses, "--batch_size", "2", "--max_steps", str(steps),
            "--dfake_gen_update_ratio", "2", "--warmup_step", "2", "--generator_lr", "1e-3", "--guidance_lr", "1e-3",
            "--real_guidance_scale", "2", "--num_threads", "1", "--device", "cpu", "--no_tensorboard", "--log_every",
            "1", "--sample_every", "0", "--name", name, "--cache_dir", str(folder / "cache"), "--checkpoint_dir",
            str(folder / "checkpoints"), "--output_dir", str(folder / "results"), *more]


def distil(*given, **named):
    train(make_task, options.parse(words(*given, **named)))


def checkpoint(folder, name="student"):
    return torch.load(run_files.list_checkpoints(folder / "checkpoints", name)[-1], weights_only=True)


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def go_back(folder, name, step):
    """Remove what a run wrote after a step, as if it had been killed there."""
    for path in run_files.list_states(folder / "checkpoints", name):
        if f"{step:08d}" not in path.name:
            run_files.remove(path)
    run_files.list_checkpoints(folder / "checkpoints", name)[-1].unlink()
    (folder / "results" / f"{name}_run.json").unlink()


@pytest.mark.parametrize("model, more", [
    ("sd", (*GAN, "--gradient_checkpointing")), ("v", ("--denoising", "--num_denoising_step", "2")),
    ("sdxl", (*FOUR_STEPS, *GAN, "--sdxl", "--sharded_state")),
    ("sdxl", (*FOUR_STEPS, *GAN, "--lora", "--lora_rank", "4", "--shared_critic_pass"))])
def test_a_resumed_run_ends_bit_for_bit_like_a_straight_one(tiny_models, texts, tmp_path, capsys, model, more):
    where = tiny_models / model, texts, tmp_path
    distil(*where, *more, "--state_every", "3")
    said = capsys.readouterr().out
    assert "a device holds" in said and "critic updates for one of the student" in said
    assert ("frozen UNet of all three" in said) == ("--lora" in more)
    straight = checkpoint(tmp_path)
    go_back(tmp_path, "student", 3)
    distil(*where, *more, "--state_every", "3", "--resume")
    resumed = checkpoint(tmp_path)
    assert largest_difference(straight["model_state"], resumed["model_state"]) == 0
    assert largest_difference(straight["ema_state"]["shadow"], resumed["ema_state"]["shadow"]) == 0
    assert straight["family"] == "text_to_image" and straight["is_sdxl"] == (model == "sdxl")
    assert all("lora_" in key for key in straight["model_state"]) == ("--lora" in more)
    log = (tmp_path / "results" / "student_training.csv").read_text()
    assert "critic.denoising" in log and ("generator.gan" in log) == ("--gen_cls_loss" in more)


STUDENTS = {"one": ("sdxl", ()), "four": ("sd", FOUR_STEPS),
            "adapted": ("sdxl", (*FOUR_STEPS, "--lora", "--lora_rank", "4"))}


@pytest.fixture(scope="module")
def student_of(tiny_models, texts, tmp_path_factory):
    """Name of `STUDENTS` -> its checkpoint: trained once, long enough that it is not its teacher."""
    @functools.cache
    def made(name):
        folder, (model, more) = tmp_path_factory.mktemp(name), STUDENTS[name]
        distil(tiny_models / model, texts, folder, "--tiny_vae", str(tiny_models / "tiny_vae"), *more,
               "--sample_every", "1", name=name)
        assert (folder / "results" / f"{name}_preview.png").stat().st_size > 0
        return run_files.list_checkpoints(folder / "checkpoints", name)[-1]
    return made


class InTurn:
    """torch.randn-like noise for diffusers, out of a list."""

    def __init__(self, noises):
        self.noises = iter(noises)

    def __call__(self, shape, **options):
        return next(self.noises)


@pytest.mark.parametrize("name, called", [("one", [399]), ("four", [999, 749, 499, 249]),
                                          ("adapted", [999, 749, 499, 249])])
def test_a_saved_student_is_sampled_alike_by_diffusers(student_of, tmp_path, monkeypatch, name, called):
    """DiffusionPipeline.from_pretrained of the folder, LCMScheduler: our sampler's latents to 1e-4."""
    import diffusers
    from diffusers.schedulers import scheduling_lcm
    from distill.text_to_image import TextSampler, load_student
    path = student_of(name)
    monkeypatch.setattr(sys, "argv", ["save", "--checkpoint", str(path), "--output_dir", str(tmp_path / "saved")])
    save_pipeline.main()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, diffusers.LCMScheduler)
    model, few_steps, _ = load_student(path)
    assert [place[0] for place in few_steps["called_at"]] == called
    expected = TextSampler(model, few_steps).latents(PROMPTS, 5, range(3)).xs[0]
    [start], fresh = start_noise([model.shape], 5, range(3)), StepNoise(5, range(3))
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", InTurn([fresh(start) for _ in called[1:]]))
    call = json.loads((tmp_path / "saved" / "few_steps.json").read_text())["call"]
    found = pipeline(PROMPTS, latents=start, output_type="latent", height=16, width=16, **call).images
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    teacher = diffusers.DiffusionPipeline.from_pretrained(model.folder).unet.state_dict()
    assert largest_difference(pipeline.unet.state_dict(), teacher) > 1e-4
    with pytest.raises(InputError, match="exists already"):
        save_pipeline.main()
    content = torch.load(path, weights_only=True)
    torch.save({**content, "few_steps": {**content["few_steps"], "called_at": [[399], [749]]}}, tmp_path / "rises.pth")
    monkeypatch.setattr(sys, "argv", ["save", "--checkpoint", str(tmp_path / "rises.pth"), "--output_dir",
                                      str(tmp_path / "other")])
    monkeypatch.setattr("distill.text_to_image.load_student", lambda *_, **__: pytest.fail("a teacher was loaded"))
    with pytest.raises(InputError, match=r"called at \[399, 749\], which LCMScheduler does not do"):
        save_pipeline.main()


@pytest.mark.parametrize("more, message", [
    (["--metrics", "swd"], "--metrics: found swd, which has no effect without --dataset"),
    (["--reference_split", "test"], "--reference_split: found test, which has no effect without --dataset"),
    (["--inception", "w.pth"], "--inception: found w.pth, which has no effect without --dataset"),
    (["--text_column", "text"], "--text_column: found text, which has no effect for .*prompts.txt"),
    (["--num_images", "5"], "--num_images: found 5, expected at most 4, the number of prompts in .*prompts.txt")])
def test_what_has_no_effect_on_images_for_prompts_is_one_line(texts, tmp_path, monkeypatch, more, message):
    with pytest.raises(InputError, match=message) as error:
        evaluate(monkeypatch, "--model_id", "model", "--prompts", texts / "prompts.txt", "--output_dir",
                 tmp_path / "images", *more)
    assert "\n" not in str(error.value) and not (tmp_path / "images").exists()


def evaluate(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--device", "cpu", "--num_threads", "1", "--precision", "float32",
                                      *map(str, given)])
    evaluate_prompts.main()


def test_images_for_prompts_are_drawn_once_scored_and_never_mixed(student_of, texts, tiny_clip, tmp_path, monkeypatch,
                                                                  capsys):
    path = student_of("four")
    common = ("--prompts", texts / "prompts.txt", "--output_dir", tmp_path / "images", "--batch_size", "2")
    evaluate(monkeypatch, "--checkpoint", path, *common)
    said = capsys.readouterr().out
    assert "4 images drawn, 0 were there" in said and "no CLIP score: --clip: openai/clip-vit-large-patch14" in said
    before = {file.name: file.read_bytes() for file in (tmp_path / "images").glob("*.png")}
    assert sorted(before) == [f"{index:05d}.png" for index in range(4)]
    for index in (1, 2):
        (tmp_path / "images" / f"{index:05d}.png").unlink()
    evaluate(monkeypatch, "--checkpoint", path, *common, "--dataset", texts / "images", "--metrics", "swd",
             "--cache_dir", tmp_path / "cache", "--clip", tiny_clip)
    said = capsys.readouterr().out
    assert "2 images drawn, 2 were there" in said
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "images").glob("*.png")}
    scores = json.loads((tmp_path / "images" / "scores.json").read_text())["scores"]
    assert scores["swd"]["value"] > 0 and -100 <= scores["clip_score"]["value"] <= 100
    assert scores["clip_score"]["standard_error"] > 0
    with pytest.raises(InputError, match="its images have seed 42, expected 43"):
        evaluate(monkeypatch, "--checkpoint", path, *common, "--seed", "43")
    with pytest.raises(InputError, match="has no effect with --checkpoint"):
        evaluate(monkeypatch, "--checkpoint", path, *common, "--num_steps", "4")


def test_a_teacher_draws_as_its_pipeline_does(tiny_models):
    """DDIM with guidance, at the same four times."""
    import diffusers
    from distill.text_to_image import TextSampler, TextToImage
    model = TextToImage(tiny_models / "sdxl")
    sampler = TextSampler(model, None, num_steps=4, guidance_scale=3.0)
    assert sampler.path.tolist() == [999, 749, 500, 250, -1]
    sampler.path = torch.tensor([999, 749, 499, 249, -1])
    expected = sampler.latents(PROMPTS, 5, range(3)).xs[0]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny_models / "sdxl")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=True,
                                                             timestep_spacing="trailing")
    [start] = start_noise([model.shape], 5, range(3))
    found = pipeline(PROMPTS, latents=start, output_type="latent", height=16, width=16, num_inference_steps=4,
                     guidance_scale=3.0).images
    assert pipeline.scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("more, message", [
    (("--lora", "--gradient_checkpointing"), "--lora"),
    (("--teacher", "a.pth"), "found both"), (("--lora_rank", "3"), "without --lora"),
    (("--text_column", "text"), "--text_column: found text, .*no effect for .*prompts.txt, .*without real images"),
    (("--dataset", "photos"), "--dataset: found photos, which has no effect"),
    (("--val_every", "1"), "--val_every"), (("--coupling", "free"), "with --model_id"),
    (("--resolution", "9"), "multiple of 2"), (("--sdxl",), "one text encoder")])
def test_what_cannot_be_is_one_line(tiny_models, texts, tmp_path, more, message):
    with pytest.raises(InputError, match=message) as error:
        distil(tiny_models / "sd", texts, tmp_path, *more)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("checkpoints/*.pth"))


def test_real_images_of_a_text_to_image_teacher_must_be_named(tiny_models, texts, tmp_path):
    given = words(tiny_models / "sd", texts, tmp_path, *GAN)
    given[given.index("--dataset"):given.index("--dataset") + 2] = []
    with pytest.raises(InputError, match="--dataset: left out with --model_id, expected real images with captions"):
        train(make_task, options.parse(given))


@pytest.mark.parametrize("model, more", [
    ("sd", GAN), ("sd", (*GAN, "--use_fp16")), ("sdxl", (*GAN, "--lora", "--lora_rank", "4")),
    ("sdxl", (*GAN, "--lora", "--lora_rank", "4", "--use_fp16"))],
    ids=["whole", "whole-bf16", "adapters", "adapters-bf16"])
def test_a_device_holds_the_bytes_that_were_estimated(tiny_models, texts, tmp_path, model, more):
    """After both updates of a step: weights, gradients, moments and average of every network, by their tensors.

    What is trained is float32 whatever the arithmetic, and in bf16 the teacher is halved.
    """
    args = options.parse(words(tiny_models / model, texts, tmp_path, *more))
    device = torch.device("cpu")
    loop = Loop(make_task(args, device, Group(0, 1)), args, Group(0, 1), device)
    kept = {}
    loop.optimizers["critic"].register_step_post_hook(
        lambda *_: kept.update(gradients=[p.grad for p in loop.plain["critic"].parameters()]))
    loop.optimizers["generator"].register_step_post_hook(
        lambda *_: kept.update(student=[p.grad for p in loop.plain["generator"].parameters()]))
    loop.run_step()

    def size(tensors) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def trained(name, gradients) -> int:
        moments = [value for state in loop.optimizers[name].state.values()
                   for key, value in state.items() if key != "step"]
        return size(loop.plain[name].parameters()) + size(gradients) + size(moments)

    network, text_to_image = loop.task.frozen["teacher"], loop.task.model
    base = network.shared[0] if "--lora" in more else network
    frozen = [size(base.parameters())]
    if "--lora" in more:
        blocks = {id(p) for block in base.blocks_to_shard() for p in block.parameters()}
        adapter = [p for name, p in base.named_parameters() if ".lora_" in name]     # it stays as it began
        weights = [[p for name, p in base.named_parameters() if ".lora_" not in name and (id(p) in blocks) == is_inside]
                   for is_inside in (True, False)]
        frozen = [*map(size, weights), size(adapter), size(network.parameters())]
    by_name = {}
    for part in memory.estimate(tiny_models / model, args, 1)["in training"]:
        name = part.name.partition(":")[0]
        by_name[name] = by_name.get(name, 0) + part.bytes
    found = [trained("generator", kept["student"]) + size(loop.averages["generator"].shadow.values()),
             trained("critic", kept["gradients"]), *frozen,
             size(p for _, encoder in text_to_image.texts.pairs for p in encoder.parameters()),
             size(text_to_image.latents.vae.parameters())]
    assert found == list(by_name.values())
    moving = [p for trained_one in loop.plain.values() for p in trained_one.parameters()]
    assert {p.dtype for p in [*moving, *loop.averages["generator"].shadow.values()]} == {torch.float32}
    matrices = {p.dtype for name, p in base.named_parameters() if p.ndim > 1 and ".lora_" not in name}
    assert matrices == {torch.bfloat16 if "--use_fp16" in more else torch.float32}


def in_bf16_spread(model, texts, folder, *more):
    """In a process of a group: a step of both updates with FSDP2 in bf16, the pictures, and a step of the critic; the
    student's largest move, and the bytes of frozen networks that are held over those that were estimated. A group of
    one is told to be of two, since one process alone spreads nothing."""
    import torch.distributed as dist
    args = options.parse(words(model, texts, folder, *GAN, *more, "--fsdp", "--use_fp16"))
    device, group = torch.device("cpu"), Group(dist.get_rank(), 2)
    loop = Loop(make_task(args, device, group), args, group, device)
    before = {name: value.clone() for name, value in full_model(loop.plain["generator"]).items()}
    loop.run_step()
    moved = full_model(loop.plain["generator"])
    loop.write_pictures()                   # with the averaged weights, which are then put back
    assert largest_difference(moved, full_model(loop.plain["generator"])) == 0
    loop.run_step()
    assert all(value.isfinite() for row in loop.pending for value in row.values())
    assert (folder / "results" / "student_preview.png").is_file() or not group.is_main
    teacher = loop.task.frozen["teacher"]
    frozen = (*loop.task.frozen.values(), *getattr(teacher, "shared", ()))
    held = sum(getattr(p, "_local_tensor", p).nbytes for network in frozen for p in network.parameters())
    expected = sum(part.bytes for part in memory.estimate(model, args, 2)["in training"]
                   if part.name not in ("student", "critic", "autoencoder"))
    return largest_difference(before, moved), held / expected


@pytest.mark.parametrize("more", [(), ("--lora", "--lora_rank", "4")], ids=["whole", "adapters"])
def test_spread_networks_take_a_step_in_bf16(tiny_models, texts, tmp_path, more):
    """As the recipes of eight machines do; in a group of one process."""
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        moved, _ = in_bf16_spread(tiny_models / "sdxl", texts, tmp_path, *more)
    finally:
        dist.destroy_process_group()
    assert 0 < moved < 1.1e-3               # AdamW's first step is at most the rate


def two_in_bf16(*given):
    """In each of two processes."""
    distributed.join(torch.device("cpu"))
    return in_bf16_spread(*given)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--lora", "--lora_rank", "4")], ids=["whole", "adapters"])
def test_two_processes_take_a_step_in_bf16(tiny_models, texts, tmp_path, more):
    (one, held), (other, held_by_other) = in_two_processes(two_in_bf16, tiny_models / "sdxl", texts, tmp_path, *more)
    assert one == other and 0 < one < 1.1e-3
    # Rows of a weight are dealt out whole, and the first process has one more of an odd number.
    assert held + held_by_other == pytest.approx(2, abs=0.01) and held == pytest.approx(1, abs=0.05)


def test_a_model_too_large_is_refused_before_it_is_loaded(tiny_models, texts, tmp_path, monkeypatch):
    from distill import text_to_image_task
    monkeypatch.setattr(memory, "device_bytes", lambda device: 10_000)
    monkeypatch.setattr(text_to_image_task, "TextToImage", None)
    with pytest.raises(InputError, match="GB in training, before activations"):
        distil(tiny_models / "sd", texts, tmp_path)


# --- two processes ----------------------------------------------------------------------------------------------------



TEN = (*FOUR_STEPS, *GAN, "--sharded_state", "--generator_lr", "1e-4", "--guidance_lr", "1e-4")


def on_two(model, texts, folder, more):
    """In each of two processes, with FSDP2: ten steps; the first five; and on from one process's fifth to the tenth.
    All in one group: a second one in the same process could meet the addresses that the first one left in the store."""
    leave, distributed.leave = distributed.leave, lambda: None
    distil(model, texts, folder, *TEN, *more, "--fsdp", "--sample_every", "1", name="two", steps=10)
    distil(model, texts, folder, *TEN, *more, "--fsdp", name="two_then_one", steps=5)
    distil(model, texts, folder, *TEN, *more, "--fsdp", "--resume", name="one_then_two", steps=10)
    leave()


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--lora", "--lora_rank", "4")], ids=["whole", "adapters"])
def test_ten_steps_of_spread_networks_equal_whole_ones_and_states_go_on_at_either(tiny_models, texts, tmp_path, more):
    where = tiny_models / "sdxl", texts, tmp_path
    distil(*where, *TEN, *more, "--sample_every", "1", name="straight", steps=10)
    distil(*where, *TEN, *more, name="one_then_two", steps=5)
    in_two_processes(on_two, *where, more)
    distil(*where, *TEN, *more, "--resume", name="two_then_one", steps=10)
    straight = checkpoint(tmp_path, "straight")
    for name in ("two", "two_then_one", "one_then_two"):
        other = checkpoint(tmp_path, name)
        assert other["step"] == 10
        assert largest_difference(straight["model_state"], other["model_state"]) < 1e-4
        assert largest_difference(straight["ema_state"]["shadow"], other["ema_state"]["shadow"]) < 1e-4
    assert all("lora_" in name for name in straight["model_state"]) == ("--lora" in more)
    folder = run_files.tensors_folder(run_files.state_path(tmp_path / "checkpoints", "two", 10))
    assert len(list(folder.glob("__*_0.distcp"))) == 2               # each process wrote its part
    pictures = [np.asarray(Image.open(tmp_path / "results" / f"{name}_preview.png"), int)
                for name in ("straight", "two")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


class Painter:
    """In a sampler's place: image k is grey k. Notes which were asked for."""

    def __init__(self):
        self.asked = []

    def images(self, prompts, seed, indices):
        self.asked.append((list(prompts), list(indices)))
        return torch.stack([torch.full((3, 4, 4), index, dtype=torch.uint8) for index in indices])


def test_prompts_are_divided_over_processes_and_only_missing_images_are_drawn(tmp_path):
    """Seven prompts over three processes, one of which is killed after a batch and started again."""
    prompts, args = list("abcdefg"), SimpleNamespace(output_dir=tmp_path, batch_size=2, seed=0)
    painters, groups = [Painter() for _ in range(4)], [Group(rank, 3) for rank in range(3)]
    assert [draw_missing(painters[rank], prompts, args, groups[rank]) for rank in range(3)] == [3, 2, 2]
    assert painters[0].asked == [(["a", "d"], [0, 3]), (["g"], [6])]
    assert painters[1].asked == [(["b", "e"], [1, 4])] and painters[2].asked == [(["c", "f"], [2, 5])]
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    assert sorted(kept) == [f"{index:05d}.png" for index in range(7)]
    (tmp_path / "00006.png").unlink()
    assert [draw_missing(painters[3], prompts, args, group) for group in groups] == [1, 0, 0]
    assert painters[3].asked == [(["g"], [6])]
    assert all((tmp_path / name).stat().st_mtime_ns == at for name, at in kept.items() if name != "00006.png")
    seen = [batch for group in groups for batch in batches_of(args, prompts, group)]
    assert [(indices, texts) for indices, _, texts in seen] == [
        ([0, 3], ["a", "d"]), ([6], ["g"]), ([1, 4], ["b", "e"]), ([2, 5], ["c", "f"])]
    assert all((images == torch.tensor(indices).view(-1, 1, 1, 1)).all() for indices, images, _ in seen)


def evaluate_in_a_process(given):
    """In each of two processes."""
    sys.argv = ["evaluate", "--device", "cpu", "--num_threads", "1", "--precision", "float32", *given]
    evaluate_prompts.main()


@pytest.mark.slow
def test_two_processes_draw_and_score_as_one_does(student_of, texts, tiny_clip, tmp_path, monkeypatch):
    """Each its share of the prompts, one of which was there; images to the bit, distance and CLIP score to rounding."""
    def call(folder):
        return ("--checkpoint", str(student_of("four")), "--prompts", str(texts / "prompts.txt"), "--batch_size", "2",
                "--dataset", str(texts / "images"), "--metrics", "swd", "--cache_dir", str(tmp_path / "cache"),
                "--clip", str(tiny_clip), "--output_dir", str(tmp_path / folder))
    evaluate(monkeypatch, *call("one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    removed = [tmp_path / "two" / f"{name}" for name in ("00000.png", "00001.png", "00003.png", "scores.json")]
    for path in removed:
        path.unlink()
    before = (tmp_path / "two" / "00002.png").stat().st_mtime_ns
    in_two_processes(evaluate_in_a_process, call("two"))
    assert all(path.is_file() for path in removed) and (tmp_path / "two" / "00002.png").stat().st_mtime_ns == before
    images = [{path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.png")} for folder in ("one", "two")]
    assert len(images[0]) == 4 and images[0] == images[1]
    one, two = (json.loads((tmp_path / folder / "scores.json").read_text())["scores"] for folder in ("one", "two"))
    assert one.keys() == two.keys() == {"swd", "swd_16", "clip_score"}
    for name, score in one.items():
        assert two[name]["value"] == pytest.approx(score["value"], rel=1e-6)
        errors = score["standard_error"], two[name]["standard_error"]
        assert errors == (None, None) or errors[1] == pytest.approx(errors[0], rel=1e-4)
    assert one["clip_score"]["standard_error"] is not None


def test_a_damaged_folder_of_tensors_is_passed_over_or_refused(tiny_models, texts, tmp_path, capsys):
    where = tiny_models / "sd", texts, tmp_path
    distil(*where, "--state_every", "1", "--sharded_state", steps=2)
    first, last = run_files.list_states(tmp_path / "checkpoints", "student")
    damaged = next(run_files.tensors_folder(last).glob("*.distcp"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run_files.list_checkpoints(tmp_path / "checkpoints", "student")[-1].unlink()
    (tmp_path / "results" / "student_run.json").unlink()
    distil(*where, "--state_every", "1", "--sharded_state", "--resume", steps=2)
    assert "passing over a damaged training state" in capsys.readouterr().out
    assert checkpoint(tmp_path)["step"] == 2
