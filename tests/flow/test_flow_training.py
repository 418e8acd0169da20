"""Training of the flow family: its options, its batches, and that an interrupted run is the run it would have been."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data import Facts, ImageSet
from engine.denoiser import check_guidance, dropped_labels
from engine.distributed import Group
from engine.errors import InputError
from engine.files import load_torch
from engine.loop import Loop, train
from flow import generate, training
from flow.drawing import drawing_of
from flow.model import load_checkpoint
from flow.options import LEADING, OLDER_NAMES, PRESET_FLAGS
from flow.train import parse_args
from flow.training import flow_task
from networks.bands import joined
from networks.presets import PRESETS

ALONE = Group(0, 1)
NUM_CLASSES = 4
CPU = torch.device("cpu")


def image_set(count: int = 40, labels=True, size: int = 8) -> ImageSet:
    """Images of one grey each with a little noise, the first pixel their number, sorted by class."""
    rng = np.random.RandomState(0)
    images = (rng.randint(0, 240, (count, 1, 1, 1)) + rng.randint(0, 16, (count, 3, size, size))).astype(np.uint8)
    images[:, 0, 0, 0] = images[:, 0, 0, -1] = np.arange(count)
    numbers = np.arange(count) * NUM_CLASSES // count if labels else None
    return ImageSet(images, numbers, "drawn", "train", f"hash{count}", label_names=list("abcd") if labels else None)


def options(tmp_path, *words):
    return parse_args(["--dataset", "drawn", "--hidden_size", "16", "--depth", "1", "--num_heads", "2", "--mlp_ratio",
                       "2", "--patch_size", "4", "--batch_size", "8", "--image_size", "8", "--name", "tiny",
                       "--checkpoint_dir", str(tmp_path), "--output_dir", str(tmp_path), "--no_tensorboard",
                       "--precision", "float32", "--log_every", "1", "--sample_every", "0", *map(str, words)])


# --- options ----------------------------------------------------------------------------------------------------------

OTHER = {"hidden_size": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 1.5, "patch_size": 16}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("flag", PRESET_FLAGS)
def test_a_flag_beats_its_preset(preset, flag):
    args = parse_args(["--preset", preset, f"--{flag}", str(OTHER[flag])])
    assert {name: getattr(args, name) for name in PRESET_FLAGS} == PRESETS[preset] | {flag: OTHER[flag]}


def test_the_documented_command_is_dit_b_at_patch_8(tmp_path):
    args = parse_args("--dataset cifar10 --batch_size 128 --preset big --patch_size 8".split())
    assert (args.dataset, args.batch_size, args.patch_size, args.hidden_size) == ("cifar10", 128, 8, 768)
    with torch.device("meta"):
        from networks.dit import DiT
        network = DiT(args.image_size, 3, args.patch_size, args.hidden_size, args.depth, args.num_heads, args.mlp_ratio,
                      10)
    assert sum(p.numel() for p in network.parameters()) == 129_813_696


@pytest.mark.parametrize("older", OLDER_NAMES)
def test_older_spellings_are_told_their_new_name(older):
    for words in ([f"--{older}", "1"], [f"--{older}=1"]):
        for parse, others in ((parse_args, {}), (generate.parse_args, {"load_dir": "checkpoint"})):
            with pytest.raises(InputError, match=f"--{older}: is called --{(OLDER_NAMES | others)[older]} here"):
                parse(words)


def test_the_new_names_exist():
    known = set()
    for parse, needed in ((parse_args, []), (generate.parse_args, ["--checkpoint", "x"])):
        known |= set(vars(parse(needed)))
    assert set(OLDER_NAMES.values()) <= known


def test_bad_options_are_told(tmp_path, monkeypatch):
    for words, message in [(["--output", "residual", "--vae", "x"], "--output: found residual with --vae"),
                           (["--time_distribution", "uniform", "--time_mean", "1"], "--time_mean: found 1"),
                           (["--val_images", "3"], "--val_images: found 3"),
                           (["--scales", "8", "4", "--fused_lead", "0", "1"],
                            "--fused_lead: found 0 1, which has no effect without --timesteps fused"),
                           (["--bands", "--timesteps", "clock", "--clock_lead", "2", "1"],
                            "--clock_lead: found 2 1, expected the smaller number first"),
                           (["--scales", "64", "16"], "--scales: found 64 16, expected a side and half of it"),
                           (["--scales", "64", "32", "--image_size", "48"],
                            "--image_size: found 48 with --scales 64 32"),
                           (["--vae", "x", "--channels", "1"], "--channels: found 1 with --vae")]:
        with pytest.raises(InputError, match=message):
            parse_args(words)
    monkeypatch.setattr(training, "load_images", lambda *_, **__: pytest.fail("data were read"))
    for words, message in [(["--preset", "big", "--patch_size", "5"],
                            "found 5, expected a divisor of the image side 32"),
                           (["--preset", "debug", "--image_size", "28"],
                            "found 8, expected a divisor of the image side 28"),
                           (["--scales", "8", "4", "--preset", "debug"],
                            "found 8, expected a divisor of the coarse side 4")]:
        with pytest.raises(InputError, match=f"--patch_size: {message}"):
            training.make_task(parse_args(words), CPU, ALONE)
    outside = image_set()
    outside.labels = np.where(outside.labels == 3, 7, outside.labels)
    with pytest.raises(InputError, match=r"--dataset: found label 7 in 10 of 40 images, expected 0\.\.\.3"):
        flow_task(options(tmp_path), outside, None, CPU)
    with pytest.raises(InputError, match=r"--val_split: test: found label 7 in 10 of 40 images, expected 0\.\.\.3"):
        flow_task(options(tmp_path, "--val_every", 1, "--val_split", "test"), image_set(), outside, CPU)
    with pytest.raises(InputError, match="--dataset: drawn: its split train has no labels.*--unconditional"):
        flow_task(options(tmp_path), image_set(labels=False), None, CPU)
    monkeypatch.setattr(training, "load_images", lambda dataset, split, *, check, **_: check(
        Facts(40, split == "train", [])) or (image_set() if split == "train" else pytest.fail("images were decoded")))
    with pytest.raises(InputError, match="its split test has no labels.*--unconditional"):
        training.make_task(options(tmp_path, "--val_every", 1), CPU, ALONE)
    check_guidance(1.0, False, "x.pth")
    with pytest.raises(InputError, match="--guidance_scale: found 4, but x.pth was trained without dropped labels"):
        check_guidance(4.0, dropped_labels({"label_dropout": 0.0}), "x.pth")
    check_guidance(4.0, dropped_labels({"label_dropout": 0.1}), "x.pth")
    assert not dropped_labels({})


# --- batches ----------------------------------------------------------------------------------------------------------

def test_an_epoch_is_a_fresh_permutation_of_a_sorted_set(tmp_path):
    task = flow_task(options(tmp_path, "--batch_size", 10), image_set(), None, CPU)
    epochs = [torch.cat([task.indices(4 * epoch + step) for step in range(4)]) for epoch in range(2)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(40))
    assert not torch.equal(*epochs) and len(task.labels[epochs[0][:10]].unique()) >= 3


def test_at_least_100_of_200_sorted_classes_are_among_the_first_256_images(tmp_path):
    images = ImageSet(np.zeros((20_000, 3, 8, 8), np.uint8), np.arange(20_000) // 100, "sorted", "train", "")
    images.label_names = [str(k) for k in range(200)]
    task = flow_task(options(tmp_path, "--batch_size", 256), images, None, CPU)
    assert len(task.labels[task.indices(0)].unique()) >= 100


def test_parts_of_a_batch_are_the_batch(tmp_path):
    """So two processes, or two accumulated parts, see what one process sees."""
    task = flow_task(options(tmp_path), image_set(), None, CPU)
    whole, parts = task.batch(3, slice(0, 8)), [task.batch(3, slice(0, 4)), task.batch(3, slice(4, 8))]
    for key in ("x_0s", "noises", "ts"):
        assert torch.equal(getattr(whole, key)[0], torch.cat([getattr(part, key)[0] for part in parts]))
    assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))


def test_images_are_mirrored_and_labels_dropped_at_their_rates(tmp_path):
    task = flow_task(options(tmp_path, "--label_dropout", 0.25), image_set(), None, CPU)
    batches = [task.batch(step, slice(0, 8)) for step in range(300)]
    dropped = torch.cat([batch.labels for batch in batches]) == NUM_CLASSES
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    originals = {image.tobytes() for image in image_set().images}
    seen = [((x + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() in originals
            for batch in batches[:100] for x in batch.x_0s[0]]
    assert np.mean(seen) == pytest.approx(0.5, abs=0.06)
    task = flow_task(options(tmp_path, "--no-flip", "--label_dropout", 0), image_set(), None, CPU)
    batch = task.batch(0, slice(0, 8))
    assert torch.equal(batch.labels, task.labels[task.indices(0)])
    assert torch.equal(((batch.x_0s[0] + 1) * 127.5).round().to(torch.uint8),
                       torch.from_numpy(image_set().images)[task.indices(0)])


def test_loss_is_the_squared_error_of_the_velocity(tmp_path):
    task = flow_task(options(tmp_path), image_set(), None, CPU)
    batch = task.batch(0, slice(0, 8))
    loss = task.losses({"model": lambda x, t, labels: torch.zeros_like(x)}, batch)["loss"]
    assert loss.item() == pytest.approx((batch.x_0s[0] - batch.noises[0]).square().mean().item(), rel=1e-6)

    def exact(x, t, labels):
        assert torch.equal(labels, batch.labels) and torch.equal(t, batch.ts[0])
        return batch.x_0s[0] - batch.noises[0]
    assert task.losses({"model": exact}, batch)["loss"].item() == 0


def test_validation_is_fixed_and_told_by_tenth_of_t(tmp_path):
    held_out = image_set(30)
    task = flow_task(options(tmp_path, "--val_every", 1, "--val_images", 25), image_set(), held_out, CPU)
    asked = []

    def network(x, t, labels):
        asked.append(t)
        return t.reshape(-1, 1, 1, 1) * torch.ones_like(x)
    result = task.validate({"model": network})
    assert result == task.validate({"model": network})
    t = asked[0]
    assert len(t) == 25 and torch.equal((t * 10).long(), torch.arange(25) % 10)
    tenths = [result[f"error_tenth_{k}"] for k in range(10)]
    assert result["loss"] == pytest.approx(np.average(tenths, weights=[3] * 5 + [2] * 5))
    few = flow_task(options(tmp_path, "--val_every", 1, "--val_images", 3), image_set(), held_out, CPU)
    assert [key for key in few.validate({"model": network})] == ["loss", *(f"error_tenth_{k}" for k in range(3))]
    assert "- -" in few.validation_text(few.validate({"model": network}))


def test_the_log_tells_the_error_of_each_tenth_of_t(tmp_path):
    """Against the errors of every image, sorted by hand; a tenth that was not visited has an empty cell."""
    loop = loop_for(tmp_path, "--log_every", 6)
    errors = {k: [] for k in range(10)}
    for step in range(6):
        batch = loop.task.batch(step, slice(0, 8))
        with torch.no_grad():
            squares = loop.task.squared_errors(loop.task.networks["model"], batch)[0].mean((1, 2, 3))
        for t, error in zip(batch.ts[0].tolist(), squares.tolist()):
            errors[int(t * 10)].append(error)
        loop.run_step()
    loop.collect_losses()
    [row] = loop.log
    assert set(loop.log_columns) == set(row) and row["loss"] == pytest.approx(np.mean(sum(errors.values(), [])),
                                                                              rel=1e-5)
    for k, values in errors.items():
        assert row[f"error_tenth_{k}"] == (pytest.approx(np.mean(values), rel=1e-5) if values else "")
    assert sum(bool(values) for values in errors.values()) < 10         # 48 logit-normal times leave the ends out


def test_a_preview_has_a_row_per_class(tmp_path):
    from PIL import Image
    loop = loop_for(tmp_path)
    loop.write_pictures()
    picture = np.asarray(Image.open(tmp_path / "tiny_preview.png"))
    assert picture.shape == (NUM_CLASSES * 10 + 2, 8 * 10 + 2, 3)
    shown = loop.task.preview({"model": loop.task.networks["model"]})       # averaged weights are the first ones still
    assert np.array_equal(picture[2:10, 12:20], shown[1].permute(1, 2, 0)) and (picture[10:12] == 255).all()


def test_two_scales_have_a_time_and_a_noise_each(tmp_path):
    task = flow_task(options(tmp_path, "--scales", 8, 4), image_set(), None, CPU)
    batch = task.batch(0, slice(0, 8))
    assert torch.equal(batch.x_0s[1], torch.nn.functional.avg_pool2d(batch.x_0s[0], 2))
    assert not torch.equal(*batch.ts) and [tuple(eps.shape) for eps in batch.noises] == [(8, 3, 8, 8), (8, 3, 4, 4)]
    zero = {"model": lambda xs, ts, labels: [torch.zeros_like(x) for x in xs]}
    losses = task.losses(zero, batch)
    expected = [(x_0 - eps).square().mean().item() for x_0, eps in zip(batch.x_0s, batch.noises)]
    assert [losses["loss_8"].item(), losses["loss_4"].item()] == pytest.approx(expected)
    assert losses["loss"].item() == pytest.approx(np.mean(expected))
    held_out = flow_task(options(tmp_path, "--scales", 8, 4, "--val_every", 1), image_set(), image_set(30), CPU)
    result = held_out.validate(zero)
    assert result["loss"] == pytest.approx((result["loss_8"] + result["loss_4"]) / 2)
    assert held_out.preview(held_out.networks).shape == (NUM_CLASSES * 8, 3, 8, 8)


def test_times_of_two_scales_belong_together_as_asked(tmp_path):
    """Free, equal, or apart by a lead so that both views say of the 2x2 mean what one would say."""
    def times(kind):
        return flow_task(options(tmp_path, "--scales", 8, 4, "--batch_size", 500, "--timesteps", kind), image_set(600),
                         None, CPU).times(torch.Generator().manual_seed(0))
    fine, coarse = times("independent")
    assert abs(float(torch.corrcoef(torch.stack([fine, coarse]))[0, 1])) < 0.15
    assert torch.equal(*times("diagonal")) and torch.equal(times("diagonal")[0], fine)
    alone, (fine, coarse) = fine, times("fused")
    snr = [(2 * torch.logit(t.double())).exp() for t in (alone, fine, coarse)]
    torch.testing.assert_close(4 * snr[1] + snr[2], 4 * snr[0], rtol=1e-3, atol=1e-6)
    lead = (snr[2] / snr[1]).log()
    assert float(lead.min()) > -1e-3 and 1.9 < float(lead.max()) < 2.001 and abs(float(lead.mean()) - 1) < 0.1
    with pytest.raises(InputError, match="--timesteps: found fused, which has no effect without --scales or --bands"):
        options(tmp_path, "--timesteps", "fused")
    uniform, (fine, coarse) = times("independent"), times("near")
    assert torch.equal(fine, uniform[0])
    lead = 2 * (torch.logit(coarse.double()) - torch.logit(fine.double()))
    assert float(lead.min()) > -1e-3 and 1.9 < float(lead.max()) < 2.001 and abs(float(lead.mean()) - 1) < 0.1
    fine, coarse = times("clock")
    assert torch.equal(fine[::2], uniform[0][::2]) and torch.equal(coarse[1::2], uniform[1][1::2])
    assert torch.allclose(2 * (torch.logit(coarse.double()) - torch.logit(fine.double())), lead, atol=1e-3)


@pytest.mark.parametrize("kind", LEADING)
def test_the_coarse_scale_leads_by_what_is_asked(tmp_path, kind):
    """As told, of a uniform level where that is asked; without a word by what runs before the option had."""
    def times(*words):
        task = flow_task(options(tmp_path, "--scales", 8, 4, "--batch_size", 500, "--timesteps", kind, *words),
                         image_set(600), None, CPU)
        return task.times(torch.Generator().manual_seed(0)), task
    (fine, coarse), _ = times(f"--{kind}_lead", "-1", "-0.5", "--time_distribution", "uniform")
    lead = 2 * (torch.logit(coarse.double()) - torch.logit(fine.double()))
    middle = (fine > 0.05) & (fine < 0.95)
    assert -1.01 < float(lead[middle].min()) < -0.98 and -0.52 < float(lead[middle].max()) < -0.49
    snr = [(2 * torch.logit(t.double())).exp() for t in (fine, coarse)]
    drawn = {"near": fine, "clock": torch.cat([fine[::2], coarse[1::2]]),
             "fused": ((snr[0] + snr[1] / 4).log() / 2).sigmoid()}[kind]
    assert abs(float(drawn.mean()) - 0.5) < 0.05 and abs(float(drawn.std()) - 1 / 12**0.5) < 0.03
    found, task = times()
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (torch.randn(500, generator=generator).sigmoid() for _ in range(2))
    lead = 2.0 * torch.rand(500, generator=generator, dtype=torch.float64)
    log_snrs = [2 * torch.logit(t.double()) for t in (fine, coarse)]
    if kind == "fused":
        first = log_snrs[0] - torch.log1p(lead.exp() / 4)
        expected = [(level / 2).sigmoid().float() for level in (first, first + lead)]
    else:
        ahead, behind = ((level / 2).sigmoid().float() for level in (log_snrs[0] + lead, log_snrs[1] - lead))
        is_near = torch.arange(500) % 2 < (2 if kind == "near" else 1)
        expected = [torch.where(is_near, fine, behind), torch.where(is_near, ahead, coarse)]
    assert all(torch.equal(*pair) for pair in zip(found, expected))
    assert task.older_options[f"{kind}_lead"] == vars(task.args)[f"{kind}_lead"]


def test_two_bands_are_one_image(tmp_path):
    """The images and noise of one scale with the same seed; at equal times its loss too, and in validation."""
    def task(*words):
        return flow_task(options(tmp_path, "--no-flip", "--val_every", 1, *words), image_set(), image_set(30), CPU)
    single, double = task(), task("--bands", "--timesteps", "diagonal")
    one, parts = (t.batch(0, slice(0, 8)) for t in (single, double))
    for whole, halves in ((one.x_0s, parts.x_0s), (one.noises, parts.noises)):
        assert torch.allclose(joined(*halves), whole[0], atol=1e-6)
    assert all(torch.equal(t, one.ts[0]) for t in parts.ts)

    def output(x, ts, labels):
        return (2 * x).sin()
    for found in (t.losses({"model": output}, batch) for t, batch in ((single, one), (double, parts))):
        assert found["loss"].item() == pytest.approx(single.losses({"model": output}, one)["loss"].item(), rel=1e-6)
    results = [t.validate({"model": output}) for t in (single, double)]
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)
    assert results[1]["loss"] == pytest.approx(results[1]["loss_8"] + results[1]["loss_4"] / 4)
    assert double.preview(double.networks).shape == (NUM_CLASSES * 8, 3, 8, 8)
    for words in (["--timesteps", "fused"], ["--scales", 8, 4]):
        with pytest.raises(InputError, match=f"--bands: found with {words[0]}"):
            options(tmp_path, "--bands", *words)
    with pytest.raises(InputError, match="--image_size: found 9 with --bands, expected an even side"):
        training.make_task(options(tmp_path, "--bands", "--image_size", 9, "--patch_size", 3), CPU, ALONE)


# --- whole runs -------------------------------------------------------------------------------------------------------

def loop_for(tmp_path, *words) -> Loop:
    args = options(tmp_path, "--max_steps", 12, *words)
    loop = Loop(flow_task(args, image_set(), None, CPU), args, ALONE, CPU)
    loop.started = 0.0
    return loop


def weights(loop) -> list[torch.Tensor]:
    return [*loop.task.networks["model"].state_dict().values(), *loop.averages["model"].shadow.values()]


@pytest.mark.parametrize("words", [(), ("--output", "residual"), ("--output", "clean", "--qk_norm", "--grad_accum", 2),
                                   ("--scales", 8, 4), ("--scales", 8, 4, "--output", "residual"),
                                   ("--bands", "--timesteps", "clock", "--output", "residual")])
def test_an_interrupted_run_is_the_run(tmp_path, words):
    straight = loop_for(tmp_path, *words)
    straight.task.begin()
    for _ in range(12):
        straight.run_step()
    first = loop_for(tmp_path, *words)
    first.task.begin()
    for _ in range(5):
        first.run_step()
    first.collect_losses()
    path = tmp_path / "state.pth"
    torch.save(first.state(), path)
    second = loop_for(tmp_path, *words)                         # does not begin: all it knows is in the state
    second.load(path, torch.load(path, weights_only=True))
    for _ in range(7):
        second.run_step()
    assert all(torch.equal(one, other) for one, other in zip(weights(straight), weights(second)))
    with pytest.raises(InputError, match="--hidden_size"):
        other = loop_for(tmp_path, *words, "--hidden_size", 32)
        other.load(path, torch.load(path, weights_only=True))


def test_training_lowers_the_loss_and_generates(tmp_path, monkeypatch, capsys):
    loop = loop_for(tmp_path, "--max_steps", 60, "--epochs", 20, "--learning_rate", 1e-2)
    for _ in range(60):
        loop.run_step()
    losses = [row["loss"].item() for row in loop.pending]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    loop.collect_losses()
    loop.save_checkpoint()
    path = next(Path(tmp_path).glob("tiny_*ep.pth"))
    loaded = load_checkpoint(path)
    assert loaded.label_names == list("abcd") and loaded.network.config == loop.task.networks["model"].config
    shadow = loop.averages["model"].shadow
    assert all(torch.equal(shadow[name], value) for name, value in loaded.network.named_parameters())

    def run(*words):
        monkeypatch.setattr(sys, "argv", [
            "generate.py", "--checkpoint", str(path), "--device", "cpu", "--precision", "float32", "--num_steps", "3",
            "--grid_png", str(tmp_path / "grid.png"), "--output_dir", str(tmp_path / "out"), *map(str, words)])
        generate.main()
    run("--num_images", 6)
    from PIL import Image
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    assert Image.open(tmp_path / "grid.png").size == (8 * 10 + 2, 4 * 10 + 2)       # a row for each of four classes
    first = (tmp_path / "out/00005.png").read_bytes()
    run("--num_images", 7, "--batch_size", 2, "--overwrite")
    assert (tmp_path / "out/00005.png").read_bytes() == first
    assert "6 network calls per image" in capsys.readouterr().out
    run("--labels", "c", 1, "--grid", "optimised", "--solver", "midpoint", "--overwrite")
    torch.save(load_torch(path) | {"few_steps": {"times": [[0.0]]}}, tmp_path / "student.pth")
    for words, message in [(("--labels", 4, "--overwrite"), "--labels: found 4"),
                           (("--checkpoint", tmp_path / "student.pth", "--overwrite"), "student.pth is a student"),
                           (("--vae", "x", "--overwrite"), "--vae: found x, but"),
                           (("--num_images", 1), "grid.png: exists already")]:
        with pytest.raises(InputError, match=message):
            run(*words)


@pytest.mark.parametrize("words, labels, calls", [(["--unconditional"], False, 3), (["--label_dropout", 0], True, 3),
                                                  ([], True, 6)])
def test_a_model_is_guided_where_it_can_be(tmp_path, words, labels, calls):
    """Left out, --guidance_scale is 4 for classes that were dropped in training, and 1 for all else."""
    task = flow_task(options(tmp_path, *words), image_set(labels=labels), None, CPU)
    network, path = task.networks["model"], tmp_path / "tiny.pth"
    torch.save(task.content() | {"model_state": network.state_dict(), "ema_state": {"shadow": network.state_dict()},
                                 "epochs": 1, "options": {"label_dropout": task.args.label_dropout}}, path)

    def drawn(*more):
        args = generate.parse_args(["--checkpoint", str(path), "--num_steps", "3", "--precision", "float32", *more])
        return drawing_of(load_checkpoint(path), args, CPU)(0, range(2))[2]
    assert drawn() == calls and drawn("--guidance_scale", "1") == 3
    if calls == 3:
        with pytest.raises(InputError, match="--guidance_scale: found 2, .* without dropped labels .* without class"):
            drawn("--guidance_scale", "2")
    for scale in ["1"] + [None] * (calls == 3):
        with pytest.raises(InputError, match="--guidance_interval: found 0 1, which has no effect with --guidance_sc"):
            drawn("--guidance_interval", "0", "1", *(["--guidance_scale", scale] if scale else []))


@pytest.mark.draws
def test_a_run_warns_of_a_narrow_network_and_draws_its_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "load_images", lambda *_, **__: image_set())
    train(training.make_task, options(tmp_path, "--max_steps", 2, "--device", "cpu", "--num_threads", 1))
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert "a token has 48 numbers" in line and f"stays above {1 - 16 / 48:.2f} for ever" in line
    assert (tmp_path / "tiny_loss.png").is_file()
    task = flow_task(options(tmp_path, "--scales", 8, 4), image_set(), None, CPU)
    figure = task.loss_figure({"tiny": [{"step": 1} | dict.fromkeys(task.columns, 0.5)]})
    assert [ax.get_title() for ax in figure.axes] == ["loss", "loss_8", "loss_4"]


def test_checkpoints_of_other_families_are_refused(tmp_path):
    torch.save({"model_type": "lift", "model_state": {}}, tmp_path / "lift.pth")
    with pytest.raises(InputError, match="is a checkpoint of lift, expected one of the flow family"):
        load_checkpoint(tmp_path / "lift.pth")
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("words", [(), ("--scales", "8", "4", "--timesteps", "fused"), ("--bands",)])
def test_a_unet_takes_the_place_of_the_transformer(tmp_path, words):
    args = parse_args(["--network", "unet", "--dataset", "drawn", "--hidden_size", "16", "--batch_size", "8",
                       "--image_size", "8", "--name", "tiny", "--checkpoint_dir", str(tmp_path), "--output_dir",
                       str(tmp_path), "--no_tensorboard", "--precision", "float32", "--learning_rate", "2e-3",
                       "--max_steps", "40", *words])
    loop = Loop(flow_task(args, image_set(), None, CPU), args, ALONE, CPU)
    for _ in range(40):
        loop.run_step()
    losses = [row["loss"].item() for row in loop.pending]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    loop.started = 0.0
    loop.collect_losses()
    loop.save_checkpoint()
    loaded = load_checkpoint(next(tmp_path.glob("tiny_*ep.pth")), "raw")
    assert loaded.network.config == loop.task.networks["model"].config
    assert all(torch.equal(found, trained) for found, trained in
               zip(loaded.network.state_dict().values(), loop.task.networks["model"].state_dict().values()))
    with pytest.raises(InputError, match="--mlp_ratio: found 2, which has no effect with --network unet"):
        parse_args(["--network", "unet", "--mlp_ratio", "2", *words])
