"""Every stage's way on a GPU, without one: its tensors are fake there, and an operation that mixes devices raises."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

import train_baseline
import train_lift
from data import ImageSet
from demo import generation
from demo.found import Found
from distill import candidates
from distill import generate as distill_generate
from distill import options as distill_options
from distill import train as distill_train
from distill.few_steps import times_of_places
from distill.student import StudentDenoiser, few_steps_of, path_of
from distill.text_to_image import TextSampler
from engine.denoiser import Autoguided, Corrected, Guided, NetworkDenoiser
from engine.distributed import Group
from engine.files import save_torch
from engine.loop import Loop
from engine.options import SOLVERS
from engine.sampling import from_uint8, sample, to_uint8
from evaluation import (denoiser_errors, digit_scores, fid, image_detail, lite_features, scoring,
                        sliced_wasserstein)
from evaluation.class_conditioning import class_effects, code_distances, gradient_norms
from evaluation.denoiser_errors import errors_by_noise, solver_errors
from evaluation.options import GROUPS, METRICS, rows_of
from evaluation.small_images import scatter
from flow import grids
from flow import train as flow_train
from flow import training as flow_training
from flow.model import build_network, denoiser_of
from lift import checkpoints, error_map, exposure, measurements, objective, path_costs, paths, super_resolution
from lift.coupling import Guidance
from lift.options import SOLVERS as LIFT_SOLVERS
from lift.options import X32_MODES
from lift.sampling import generate, uniform_diagonal
from lift.tasks import ScaleTask
from mnist import models as mnist_models
from mnist import tasks as mnist_tasks
from mnist import training
from networks.adm import EDMNetwork
from networks.dit import DiT
from networks.exact_denoiser import ExactDenoiser
from networks.margin import padded
from networks.vae import VAE
from pretended_gpu import GPU, PretendedGPU, pretended_gpu
from scheduler import CosineSteps, LinearFlow, Sigma
from tiny_text_to_image import large, texts, tiny_models       # noqa: F401


@pytest.fixture
def gpu(monkeypatch):
    """The pretended GPU's device, for a whole test."""
    with pretended_gpu(monkeypatch) as device:
        yield device


def pictures(size: int = 64, channels: int = 3, labels=None) -> ImageSet:
    images = np.random.RandomState(0).randint(0, 256, (8, channels, size, size), dtype=np.uint8)
    return ImageSet(images, labels, "made up", "train", "hash")


def test_what_mixes_devices_raises_and_what_does_not_stays_on_its_device(gpu):
    x = torch.ones(2, 3).to(gpu)
    assert isinstance(x, FakeTensor) and (x + torch.ones(3, device=gpu)).device == gpu
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.Linear(3, 4)(x)
    assert torch.ones(3).sum().item() == 3 and x.cpu().tolist() == [[0.0] * 3] * 2
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.nn.Linear(3, 4).to(gpu)(x).dtype == torch.bfloat16


def check_training(task, args, device, has_preview: bool = True) -> None:
    """The loop on the GPU: batches, every update's losses, validation and preview."""
    loop = Loop(task, args, Group(0, 1), device)
    assert {p.device for network in loop.plain.values() for p in network.parameters()} == {GPU}
    trained, batch = set(), task.batch(0, slice(0, args.batch_size))
    for update in task.updates(0):
        with loop.only_trained(update.trains) as networks, torch.no_grad():
            losses = update.loss(networks, batch)
        assert {loss.device for loss in losses.values()} == {GPU} and {loss.shape for loss in losses.values()} == {()}
        trained.add(update.trains)
    assert trained == set(task.networks)
    if task.has_validation:
        assert task.validate(loop.plain)
    preview = task.preview(loop.plain) if has_preview else None
    assert preview is None or preview.dtype == torch.uint8


@pytest.mark.parametrize("model_type, words", [
    ("baseline", ["--precision", "bf16"]), ("baseline", ["--parametrization", "v", "--loss_target", "v"]),
    ("lift", ["--flip", "--hidden_dims", "8", "128"]),                      # with attention
    ("lift", ["--timesteps", "band", "--native_32", "--precision", "bf16"]),
    ("lift", ["--timesteps", "fused", "--native_32", "--skip_64_at_noise", "0.25"]),
    ("lift", ["--timesteps", "clock", "--bands"]),
    ("lift", ["--timesteps", "diagonal", "--loss_scales", "64"])])
def test_training_of_one_scale_and_two(gpu, model_type, words):
    script = {"baseline": train_baseline, "lift": train_lift}[model_type]
    args = script.parse_args(["--hidden_dims", "8", "16", "--batch_size", "4", "--precision", "float32", *words])
    check_training(ScaleTask(model_type, args, pictures(), pictures(), gpu), args, gpu)


def test_training_with_a_fitted_linear_denoiser(gpu):
    """What it is fitted with runs before the first step, on the images where they lie."""
    args = train_lift.parse_args(["--hidden_dims", "8", "16", "--batch_size", "4", "--precision", "float32",
                                  "--parametrization", "residual", "--native_32"])
    task = ScaleTask("lift", args, pictures(), None, gpu)
    network = task.networks["model"].to(gpu)
    x_64, x_32 = (torch.zeros(2, 3, size, size, device=gpu) for size in (64, 32))
    t = torch.zeros(2, dtype=torch.int64, device=gpu)
    assert {eps.device for eps in network(x_64, x_32, t, t)} == {GPU}
    task.begin()


@pytest.mark.parametrize("name, process, output, more", [
    ("ddpm", "ddpm", "eps", {}), ("ddpm", "ddpm", "v", {"conditioning": "cross_attention"}),
    ("rf", "flow", "velocity", {"conditioning": "concat"}), ("latent_rf", "flow", "velocity", {"latent": True})])
def test_training_of_digits(gpu, tmp_path, monkeypatch, name, process, output, more):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist_tasks, "load_images", lambda *_, **__: pictures(28, 1, np.arange(8) % 3))
    words = ["--fast", "--batch_size", "4", "--experiments", str(tmp_path), "--precision", "float32"]
    parser = training.parser_of("", name, training.FAST["pixels"])
    training.add_unet_options(parser, "fast")
    args = training.parse(parser, [*words, "--base_channels", "8", "--channel_multipliers", "1", "2"])
    vars(args).update(process=process, output=output, time_sampling="logit_normal", label_dropout=0.1,
                      conditioning=more.get("conditioning", "none"), vae_checkpoint=None)
    if more.get("latent"):
        vae = VAE((1, 32, 32), 8, [1, 2], 2)
        args.vae_checkpoint = tmp_path / "vae_1ep.pth"
        save_torch(args.vae_checkpoint, {"family": "mnist", "model": "vae", "settings": vae.settings,
                                         "model_state": vae.state_dict(), "ema_state": {"shadow": {}}})
    check_training(mnist_tasks.denoiser_task(args, gpu, Group(0, 1)), args, gpu, has_preview=name == "rf")


def test_training_of_the_autoencoder_of_digits(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_tasks, "load_images", lambda *_, **__: pictures(28, 1))
    parser = training.parser_of("", "vae", training.FAST["vae"])
    args = training.parse(parser, ["--batch_size", "4", "--experiments", str(tmp_path), "--precision", "float32"])
    vars(args).update(base_channels=8, channel_multipliers=[1, 2], latent_channels=2, patch_size=1, kl_weight=1e-6)
    check_training(mnist_tasks.vae_task(args, gpu, Group(0, 1)), args, gpu)


@pytest.mark.parametrize("words", [
    ["--preset", "debug"], ["--preset", "debug", "--precision", "bf16", "--qk_norm", "--output", "clean"],
    ["--network", "unet", "--patch_size", "4", "--hidden_size", "8", "--depth", "1"],
    ["--preset", "debug", "--scales", "16", "8", "--timesteps", "fused", "--output", "residual"],
    ["--preset", "debug", "--bands", "--timesteps", "clock"]])
def test_training_of_a_flow(gpu, words):
    args = flow_train.parse_args(["--batch_size", "4", "--val_every", "1", "--precision", "float32", *words])
    images = pictures(16, 3, np.arange(8) % 3)
    check_training(flow_training.flow_task(args, images, images, gpu), args, gpu, has_preview=len(words) == 2)


SMALL_FLOW = {"image_size": 8, "channels": 3, "patch_size": 2, "hidden_size": 16, "depth": 1, "num_classes": 3}
SMALL_DIT = {**SMALL_FLOW, "num_heads": 2, "mlp_ratio": 1}
DIGITS = {"base_channels": 8, "channel_multipliers": [1, 2], "layers_per_block": 1, "attention_levels": [],
          "patch_size": 2, "conditioning": "concat", "num_classes": 3}


@pytest.fixture
def teacher(tmp_path):
    """teacher(kind) -> its checkpoint, at random weights. kind: a model type of S1, or a family."""
    def make(kind: str):
        about = {"epochs": 1, "options": {"label_dropout": 0.1}}
        if kind == "flow":
            network = build_network(SMALL_DIT)
            about |= {"family": "flow", "config": network.config}
        elif kind == "mnist":
            settings = {**DIGITS, "shape": [1, 32, 32]}
            network = mnist_models.build_denoiser("ddpm", "eps", settings).network
            about |= {"family": "mnist", "model": "denoiser", "name": "ddpm", "process": "ddpm", "kind": "eps",
                      "settings": settings, "image_size": 28, "channels": 1, "vae_checkpoint": None, "vae_hash": None}
        else:
            network = checkpoints.build_model(kind, [8, 16])
            about |= {"hidden_dims": [8, 16], "parametrization": "eps", "options": {}}
        save_torch(tmp_path / "teacher_1ep.pth", about | {
            "model_state": network.state_dict(), "ema_state": {"shadow": network.state_dict(), "decay": 0.9}})
        return tmp_path / "teacher_1ep.pth"
    return make


GAN = ["--cls_on_clean_image", "--gen_cls_loss", "--dfake_gen_update_ratio", "1"]
IMAGES = ["--dataset", "pictures"]          # a name that nothing looks up: the images are put in
TWO_STEPS = ["--denoising", "--num_denoising_step", "2"]


@pytest.mark.parametrize("kind, words", [
    ("baseline", [*GAN, *IMAGES]), ("baseline", [*GAN, *IMAGES, *TWO_STEPS]),
    ("lift", [*GAN, *IMAGES, *TWO_STEPS, "--backward_simulation"]), ("lift", ["--coupling", "free", "--use_fp16"]),
    ("flow", [*GAN, *IMAGES, "--real_guidance_scale", "2"]),
    ("mnist", [*GAN, *IMAGES, "--real_guidance_scale", "2"])])
def test_distillation(gpu, teacher, monkeypatch, kind, words):
    size, channels = {"flow": (8, 3), "mnist": (28, 1)}.get(kind, (64, 3))
    monkeypatch.setattr(distill_train, "load_images", lambda *_, **__: pictures(size, channels, np.arange(8) % 3))
    args = distill_options.parse(["--teacher", str(teacher(kind)), "--batch_size", "4", *words])
    # Its preview has a test of its own.
    check_training(distill_train.make_task(args, gpu, Group(0, 1)), args, gpu, has_preview=False)


def test_distillation_of_text_to_image(gpu, tiny_models, texts, tmp_path):
    """With latents of real images, which are encoded on the GPU; then texts are drawn, and decoded there."""
    words = ["--model_id", str(tiny_models / "sd"), "--prompts", str(texts / "prompts.txt"), "--dataset",
             str(texts / "images"), "--batch_size", "2", *GAN, *TWO_STEPS, "--backward_simulation", "--device", "cpu",
             "--real_guidance_scale", "2", "--cache_dir", str(tmp_path)]
    args = distill_options.parse(words)
    task = distill_train.make_task(args, gpu, Group(0, 1))
    check_training(task, args, gpu, has_preview=False)
    for few_steps in (None, task.few_steps):
        images = TextSampler(task.model, few_steps, num_steps=1, guidance_scale=2.0).images(["a", "b"], 0, [0, 1])
        assert images.shape == (2, 3, 16, 16) and images.dtype == torch.uint8


# --- sampling ---------------------------------------------------------------------------------------------------------

def denoisers() -> dict:
    """A small denoiser with classes for every noise process."""
    flow = NetworkDenoiser(DiT(8, 3, 2, 16, 1, 2, 1, 3), LinearFlow(), "velocity", (3, 8, 8), 3)
    edm = NetworkDenoiser(EDMNetwork(8, 32, (1,), 1, (8,), 3), Sigma(), "x_0", (3, 8, 8), 3)
    steps = NetworkDenoiser(DiT(8, 3, 2, 16, 1, 2, 1, 3), CosineSteps(), "v", (3, 8, 8), 3)
    return {"linear": flow, "sigma": edm, "steps": steps}


@pytest.mark.parametrize("process", ["linear", "sigma", "steps"])
def test_every_solver_guided_or_not(gpu, process):
    denoiser = denoisers()[process]
    denoiser.network.to(gpu).eval()
    path, labels = denoiser.process.uniform_path(2), torch.tensor([0, 1], device=gpu)
    waits = PretendedGPU.waits
    for solver, guided in [(SOLVERS[0], False), *((solver, True) for solver in SOLVERS)]:
        asked = Guided(denoiser, 2.0) if guided else denoiser
        samples = sample(asked, path, 0, [0, 1], labels=labels, solver=solver, device=gpu, precision="bf16")
        assert samples.xs[0].device == GPU and samples.xs[0].shape == (2, 3, 8, 8)
    noisy = sample(denoiser, path, 0, [0, 1], labels=labels, eta=1.0, device=gpu)
    assert noisy.xs[0].device == GPU
    assert PretendedGPU.waits == waits                          # no step asks the GPU for a number


@pytest.mark.parametrize("process", ["linear", "sigma", "steps"])
def test_what_depends_on_the_time_waits_for_nothing(gpu, process):
    """Guidance within an interval, a correction, a weaker denoiser, a student: all decided on the host."""
    plain, weak = denoisers()[process], denoisers()[process]
    for one in (plain, weak):
        one.network.to(gpu).eval()
    path, labels = plain.process.uniform_path(2), torch.tensor([0, 1], device=gpu)
    middle = float(plain.process.log_snr(path[1]))
    few_steps = few_steps_of([[999], [499]], [[999], [499]], "tied")
    times = [times_of_places(plain.process)]
    ways = [(Guided(plain, 2.0, (middle - 1, middle + 1)), path, "heun", 6 if process == "steps" else None),
            (Corrected(Guided(plain, 2.0, (middle, middle)), 0.9, 0.1), path, "ddim", None),
            (Autoguided(plain, weak, 2.0, (middle - 1, middle + 1)), path, "ddim", 3),
            (StudentDenoiser(plain, few_steps, times), path_of(few_steps, times, [plain.process]), "renoise", 2)]
    waits = PretendedGPU.waits
    for asked, way, solver, num_calls in ways:
        samples = sample(asked, way, 0, [0, 1], labels=labels, solver=solver, device=gpu)
        assert samples.xs[0].device == GPU and num_calls in (None, samples.num_model_calls)
    assert PretendedGPU.waits == waits


@pytest.mark.parametrize("x32_mode", X32_MODES)
def test_every_way_to_sample_two_scales(gpu, x32_mode):
    model = checkpoints.build_model("lift", [8, 16]).to(gpu).eval()
    for solver in LIFT_SOLVERS:
        waits = PretendedGPU.waits
        samples = generate(model, uniform_diagonal(2), 0, [0, 1], x32_mode=x32_mode, solver=solver)
        assert PretendedGPU.waits == waits
        assert {samples.x_64.device, samples.x_32.device} == {GPU}
    assert generate(model, uniform_diagonal(1), 0, [0, 1], x32_mode=x32_mode, eta=0.5).x_64.device == GPU


def test_bands_and_a_64_level_that_is_skipped_wait_for_nothing(gpu):
    """The host knows which calls are at noise: the level is skipped in the first two, and by a guide's call too."""
    path, skipped = [[999, 999], [999, 500], [400, 200], [0, 0]], []
    model = checkpoints.build_model("lift", [8, 16], native_32=True, skip_64_at_noise=True).to(gpu).eval()
    alone = model.at_32_alone
    model.at_32_alone = lambda *inputs: skipped.append(len(inputs[0])) or alone(*inputs)
    bands = checkpoints.build_model("lift", [8, 16], bands=True).to(gpu).eval()
    batch = objective.training_batch(torch.from_numpy(pictures().images).to(gpu), torch.arange(4),
                                     objective.TimestepRule(skipped_share=0.25), 0, 0, slice(0, 4), False,
                                     CosineSteps(), gpu)
    waits = PretendedGPU.waits
    assert generate(model, path, 0, [0, 1], guidance=Guidance(2.0)).x_32.device == GPU and skipped == [2] * 4
    with torch.no_grad():
        assert objective.errors_per_image(model, 2, batch, CosineSteps(), "float32")[0].shape == (4,)
    assert skipped[4:] == [sum(batch.at_noise)] == [1]
    assert generate(bands, path, 0, [0, 1], solver="multistep", told_log_snr=0.1).x_64.device == GPU
    assert PretendedGPU.waits == waits


@pytest.mark.parametrize("config", [
    {**SMALL_FLOW, "network": "unet"}, {**SMALL_DIT, "bands": True},
    {**{name: value for name, value in SMALL_DIT.items() if name != "image_size"}, "image_sizes": [8, 4]}])
def test_every_network_of_a_flow_on_its_optimised_grid(gpu, monkeypatch, config):
    monkeypatch.setattr(grids, "NUM_FINE_STEPS", 4)
    monkeypatch.setattr(grids, "NUM_GRID_IMAGES", 2)
    denoiser = denoiser_of(build_network(config).to(gpu).eval())
    guided = Guided(denoiser, 2.0)
    path = grids.find_path(guided, "optimised", 2, "multistep", coarse_shift=2.0, classes=[0, 1], device=gpu)
    waits = PretendedGPU.waits
    samples = sample(guided, path, 0, [0, 1], labels=torch.tensor([0, 1], device=gpu), solver="midpoint", clip=False,
                     device=gpu)
    assert PretendedGPU.waits == waits and samples.num_model_calls == 8
    assert [x.device for x in samples.xs] == [GPU] * len(denoiser.shapes)
    assert denoiser.image(samples.xs).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("process, kind, in_latents", [("ddpm", "eps", False), ("flow", "velocity", True)])
def test_images_of_digits(gpu, process, kind, in_latents):
    """Of a DDPM's own steps, and of latents, which are decoded on the GPU."""
    vae = VAE((1, 32, 32), 8, [1, 2], 2).to(gpu).eval() if in_latents else None
    shape = vae.latent_shape if in_latents else (1, 32, 32)
    denoiser = mnist_models.build_denoiser(process, kind, {**DIGITS, "patch_size": 1, "shape": list(shape)})
    denoiser.network.to(gpu).eval()
    model = mnist_models.Model(denoiser, vae, 28, "digits")
    path = model.path(2) if in_latents else model.path(model.num_timesteps)[-3:]
    draw = model.drawing(path, range(3), 2.0, **({} if in_latents else {"eta": 1.0}))
    images = draw.images(0, [0, 1, 2], batch_size=2)
    assert images.shape == (3, 1, 28, 28) and images.dtype == torch.uint8 and images.device.type == "cpu"


@pytest.mark.parametrize("kind, controls", [
    ("lift", generation.LiftControls(num_steps=2)), ("flow", generation.FlowControls(num_calls=2, guidance_scale=2)),
    ("mnist", generation.MnistControls(num_steps=1, guidance_scale=2))])
def test_what_the_page_draws(gpu, teacher, kind, controls):
    controls.num_images = 1
    opened = generation.open_checkpoint(Found(teacher(kind), kind, kind), "ema", gpu)
    [walk] = generation.draw(opened, controls, precision="bf16").walks
    size = {"lift": 64, "flow": 8, "mnist": 28}[kind]
    assert [*walk.images.values()][0].shape[-2:] == (size, size)
    assert {x.device.type for x in [*walk.images.values(), *walk.strip.values()]} == {"cpu"}


MEASUREMENTS = {
    "labels": lambda model: [scatter([("", np.zeros((4, 2)), model.usual_drawing().labels(range(4)))])],
    "solver_errors": lambda model: solver_errors(model.denoiser, model.path, {"euler": "ddim"}, (1,), num_images=2,
                                                 device=GPU)["euler"],
    "errors_by_noise": lambda model: errors_by_noise({"network": model.denoiser}, padded(digits()).to(GPU),
                                                     (0.5,))["network"],
    "class_effects": lambda model: list(class_effects(model.denoiser, model.path(2)).values()),
    "gradient_norms": lambda model: list(gradient_norms(model.denoiser, model.encode(digits()),
                                                        torch.arange(8) % 3).values()),
    "code_distances": lambda model: code_distances(model.denoiser.network.class_codes).tolist()}


def digits() -> torch.Tensor:
    return torch.from_numpy(pictures(28, 1).images)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurements_of_a_model_of_digits(gpu, monkeypatch, name):
    """Those of the tour and of the search for faults, whose labels and times must lie where the network is."""
    monkeypatch.setattr(denoiser_errors, "REFERENCE_STEPS", 2)
    monkeypatch.setattr(torch.autograd, "grad", lambda output, inputs, **_: [torch.ones_like(x) for x in inputs])
    denoiser = mnist_models.build_denoiser("flow", "velocity", {**DIGITS, "shape": [1, 32, 32]})
    denoiser.network.to(gpu).eval()
    assert MEASUREMENTS[name](mnist_models.Model(denoiser, None, 28, "digits"))


def test_sampling_of_one_scale_and_of_a_given_half_size_image(gpu):
    baseline = checkpoints.build_model("baseline", [8, 16]).to(gpu).eval()
    assert generate(baseline, uniform_diagonal(3), 0, [0, 1], precision="bf16").x_64.device == GPU
    lift = checkpoints.build_model("lift", [8, 16]).to(gpu).eval()
    large = super_resolution.super_resolve(lift, pictures(32).images[:2], 3, 0, [0, 1])
    assert large.shape == (2, 3, 64, 64) and large.dtype == np.uint8


# --- measurements -----------------------------------------------------------------------------------------------------

def test_error_map_in_both_precisions(gpu):
    model = checkpoints.build_model("lift", [8, 128]).to(gpu).eval()
    for precision in ("float32", "bf16"):
        heatmap = error_map.estimate(model, pictures().images, [999, 500], K=1, batch_size=2, precision=precision)
        assert heatmap["frobenius"].shape == (2, 4, 2, 2, 2) and heatmap["num_primals"] == 8


def test_costs_of_paths(gpu):
    model = checkpoints.build_model("lift", [8, 16]).to(gpu).eval().requires_grad_(False)
    costs = path_costs.step_doubling_edge_costs(model, pictures().images, np.array([999, 500, 0]), num_steps=2,
                                                max_jump=1,
                                                max_images=2, seed=0)
    assert costs.shape == (3, 3, 2, 2)


def test_a_schedule_of_the_baseline(gpu):
    """What lift.compute_schedule computes."""
    model = checkpoints.build_model("baseline", [8, 16]).to(gpu).eval().requires_grad_(False)
    costs = path_costs.step_doubling_edge_costs(model, pictures().images, np.array([999, 0]), num_steps=1, max_jump=1,
                                                max_images=1)
    assert costs.shape == (2, 2)


def test_a_search_for_a_lead(gpu):
    """What lift.search_lead computes."""
    model = checkpoints.build_model("lift", [8, 16]).to(gpu).eval().requires_grad_(False)
    x_0 = from_uint8(torch.from_numpy(pictures().images[:1])).to(gpu)

    def sample_metric(path):
        images = to_uint8(generate(model, path, 0, [0]).x_64)
        return sliced_wasserstein.profile(images, num_projections=4, device=gpu)[16].sum()
    _, [row] = path_costs.search_lead(model, x_0, 1, candidates=[paths.Lead()], sample_metric=sample_metric)
    assert row["path"].shape == (2, 2) and row["sample_metric"] == 0


def test_exposure_bias(gpu):
    model = checkpoints.build_model("lift", [8, 16]).to(gpu).eval()
    found = exposure.errors_and_norms(model, pictures().images[:2], uniform_diagonal(1), 0, 1, 2, gpu, "bf16",
                                      reconciled=True)
    assert {values.shape for values in found.values()} == {(1, 2)}


# What is not run so, and why.
NOT_COVERED = {
    "lift.path_costs.directional_edge_costs": "forward-mode derivatives through a whole network mix in tensors on the "
                                              "device meta; its parts are those of the error map",
    "backward passes and optimizers": "fake tensors have no backward pass",
    "demo.page": "a web page, which calls demo.generation"}


def test_what_is_not_covered_cannot_be(gpu):
    model = checkpoints.build_model("lift", [8, 16]).to(gpu).eval().requires_grad_(False)
    with pytest.raises(RuntimeError, match="meta"):
        path_costs.directional_edge_costs(model, pictures().images, np.array([999, 500]), num_steps=1, max_jump=1,
                                          max_images=1)


def test_errors_beside_the_baseline(gpu):
    lift, baseline = (checkpoints.build_model(kind, [8, 16]).to(gpu).eval() for kind in ("lift", "baseline"))
    of_baseline, of_lift = measurements.errors_beside_baseline(
        lift, baseline, pictures().images, np.array([0, 999]), {"diagonal": np.array([0, 999])}, 0, 4, gpu)
    assert of_baseline.shape == of_lift["diagonal"].shape == (2, 8)


class TinyExtractor(torch.nn.Module):
    """Stands for Inception and for EfficientNet-Lite0: one convolution."""

    def __init__(self, num_features: int):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, num_features, 32, 32)

    def extract_features(self, x):
        return self.convolution(x)

    def forward(self, x):
        return [self.convolution(x).mean((2, 3), keepdim=True)]


def test_scores_of_images_on_the_gpu(gpu):
    images = torch.from_numpy(pictures().images).to(gpu)
    profile = sliced_wasserstein.profile(images, num_projections=4, device=gpu)
    assert {quantiles.shape[0] for quantiles in profile.values()} == {4}
    assert set(image_detail.statistics_of(images)) == set(rows_of("detail"))
    for extractor in (fid.Inception(TinyExtractor(fid.NUM_FEATURES).to(gpu), "hash"),
                      lite_features.Lite0(TinyExtractor(lite_features.NUM_FEATURES).to(gpu))):
        parts = list(fid.features_of(images, extractor, batch_size=4))
        assert {part.device for part in parts} == {GPU}
        statistics = fid.FeatureStatistics(parts[0].shape[1], device=gpu)
        for part in parts:
            statistics.add(part)
        assert statistics.outer.device == GPU and statistics.mean_and_covariance()[0].device.type == "cpu"
        features = torch.cat(parts)
        assert fid.kid(features, features, num_subsets=2) and fid.precision_recall(features, features, num_neighbours=2)


def test_a_scorer_of_every_metric(gpu, monkeypatch):
    """From images that come in two batches to the scores; the reference is of other images, and was made on the CPU."""
    metrics = [*METRICS, GROUPS]
    extractors = {"inception": fid.Inception(TinyExtractor(fid.NUM_FEATURES).to(gpu), "hash"),
                  "lite0": lite_features.Lite0(TinyExtractor(lite_features.NUM_FEATURES).to(gpu))}
    extractors["lite0"].network._fc = torch.nn.Linear(lite_features.NUM_FEATURES, 1000).to(gpu)
    images = torch.from_numpy(pictures(32).images)

    def reference_of(extractor):
        return fid.FeatureStatistics(extractor.num_features).add(torch.randn(8, extractor.num_features))
    references = SimpleNamespace(
        statistics={name: reference_of(extractor) for name, extractor in extractors.items()},
        features={name: torch.randn(8, extractor.num_features) for name, extractor in extractors.items()},
        profile=sliced_wasserstein.profile(images), groups=["animal", "vehicle"])
    scorer = scoring.Scorer(metrics, SimpleNamespace(extractors=extractors), gpu)
    for part in ([0, 1, 2, 3], [4, 5, 6, 7]):
        scorer.take(part, images[part].to(gpu))
    monkeypatch.setattr(Group, "sum", lambda self, values: torch.tensor(8.0))      # how many images there are, added up
    scores = scorer.scores(8, references, Group(0, 1))
    assert set(scores) == {row for metric in METRICS for row in rows_of(metric, 32)} | {GROUPS}


def test_scores_of_digits(gpu):
    """The classifier is on the GPU, the digits and what it says of them on the CPU."""
    images, labels = pictures(28, 1).images, np.arange(8) % 2
    statistics = fid.FeatureStatistics(digit_scores.NUM_FEATURES).add(torch.randn(80, digit_scores.NUM_FEATURES))
    judge = digit_scores.Judge(digit_scores.DigitClassifier(2).to(gpu).eval(), 1.0, statistics, torch.ones(2))
    for asked in (labels, torch.from_numpy(labels).to(gpu), None):
        assert set(judge.scores(torch.from_numpy(images), asked)) == set(digit_scores.SCORES)


def test_a_student_is_drawn_beside_its_teacher_and_measured(gpu, teacher, tmp_path):
    """By eval_fid_batch.py, by distill.generate and on the page."""
    few_steps = few_steps_of([[999], [499]], [[999], [499]], "tied")
    of_teacher = teacher("baseline")
    content = torch.load(of_teacher, weights_only=True)
    student = tmp_path / "student_1ep.pth"
    save_torch(student, {**content, "few_steps": few_steps})
    args = SimpleNamespace(weights="ema", vae=None, paths=None, precision="bf16", num_images=3, batch_size=2)
    scored = candidates.Candidates(args, lambda *_: None, student, gpu, say=False)
    [name] = scored.paths
    drawn = list(scored.batches(name, 0, Group(0, 1), "student"))
    assert [images.shape[0] for _, images, _, _ in drawn] == [2, 1] and drawn[0][1].device == GPU
    assert scored.gflop(name, gpu) > 0
    asked = SimpleNamespace(teacher=of_teacher, weights="ema", vae=None, guidance_scale=1.0)
    guided, beside = distill_generate.guided_teacher(asked, gpu, scored.loaded)
    draw = scored.loaded.drawing(guided, beside(scored.drawing(name).path), gpu)
    assert draw(0, [0, 1])[0].device == GPU
    controls = generation.DistilledControls(teacher=Found(of_teacher, "lift", "lift"), teacher_steps=2, num_images=1)
    opened = generation.open_checkpoint(Found(student, "distilled", "distilled"), "ema", gpu)
    assert len(generation.draw(opened, controls, precision="bf16").walks) == 2


def test_previews_of_a_student_and_its_distances_to_held_out_images(gpu, teacher, monkeypatch):
    """It reads its times back from the GPU, which brings zeros here, so those of this one lie on the CPU."""
    monkeypatch.setattr(distill_train, "load_images", lambda *_, **__: pictures(64, 3))
    args = distill_options.parse(["--teacher", str(teacher("baseline")), "--batch_size", "4", *TWO_STEPS, *IMAGES,
                                  "--val_every", "1", "--val_images", "4"])
    task = distill_train.make_task(args, gpu, Group(0, 1))
    for network in task.networks.values():
        network.to(gpu)
    task.times = [times_of_places(process) for process in task.processes]
    assert task.preview(task.networks).shape[1:] == (3, 64, 64)
    assert task.has_validation and set(task.validate(task.networks)) == {"distance_of_student", "distance_of_teacher"}


def test_strips_and_decoded_noise_and_reconstructions_of_digits(gpu, tmp_path):
    denoiser = mnist_models.build_denoiser("flow", "velocity", {**DIGITS, "shape": [1, 32, 32]})
    denoiser.network.to(gpu).eval()
    model = mnist_models.Model(denoiser, None, 28, "digits")
    shown, strip = model.drawing(model.path(2), range(3), 1.0).strip(0, [0, 1])
    assert strip.shape == (len(shown), 2, 1, 28, 28) and strip.device.type == "cpu"
    vae = VAE((1, 32, 32), 8, [1, 2], 2)
    save_torch(tmp_path / "vae_1ep.pth", {"family": "mnist", "model": "vae", "settings": vae.settings, "image_size": 28,
                                          "model_state": vae.state_dict(), "ema_state": {"shadow": {}}})
    assert mnist_models.decoded_noise(tmp_path / "vae_1ep.pth", 0, [0, 1], gpu).shape == (2, 1, 28, 28)
    assert mnist_models.reconstructed(vae.to(gpu).eval(), digits()).shape == (8, 1, 28, 28)


def test_the_exact_denoiser_and_errors_by_case(gpu):
    points = padded(digits()).to(gpu)
    exact = ExactDenoiser(points, LinearFlow(), labels=np.arange(8) % 3)
    samples = sample(exact, LinearFlow().uniform_path(2), 0, [0, 1], labels=torch.tensor([0, 3], device=gpu),
                     device=gpu)
    assert samples.xs[0].device == GPU
    model = checkpoints.build_model("lift", [8, 16]).to(gpu).eval()
    for reconciled in (False, True):
        errors = measurements.errors_by_case(model, pictures().images[:2], measurements.noise_cases(500), 0, 2, gpu,
                                             "bf16", reconciled=reconciled)
        assert errors.shape == (3, 2, 2)
