"""The distillation task on tiny teachers: whose weights move, what is the same at the start, what is refused."""
import copy
from types import SimpleNamespace

import pytest
import torch

from distill.task import DistillationTask, check_distillation, critic_of
from engine.denoiser import NetworkDenoiser
from engine.errors import InputError
from lift.coupling import timestep_denoiser
from model import LIFTDualTimestepModel
from networks.adm import EDMNetwork
from scheduler import Sigma

DEFAULTS = dict(batch_size=4, seed=0, generator_lr=1e-3, guidance_lr=1e-3, warmup_step=0, dfake_gen_update_ratio=3,
                cls_on_clean_image=False, gen_cls_loss=False, gen_cls_loss_weight=3e-3, guidance_cls_loss_weight=1e-2,
                diffusion_gan=True, diffusion_gan_max_timestep=1000, gan_alone=False, real_guidance_scale=1.0,
                min_step_percent=0.02, max_step_percent=0.98, denoising=False, num_denoising_step=1,
                backward_simulation=False, critic_step=False, level_schedule=False, conditioning_timestep=None,
                coupling="tied", loss_weight_32=1.0, student_t_32=None, shared_critic_pass=False, precision="float32",
                epoch_steps=5, ckpt_only_path=None, teacher=None)
GAN = {"cls_on_clean_image": True, "gen_cls_loss": True}
MULTI = {"denoising": True, "num_denoising_step": 3, "backward_simulation": True, "critic_step": True,
         "level_schedule": True}


def task_of(num_classes=3, images=True, **options) -> DistillationTask:
    torch.manual_seed(0)
    network = EDMNetwork(8, 32, (1, 2), 1, (4,), num_classes)
    for p in network.parameters():                      # the zero-initialised layers too
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    teacher = NetworkDenoiser(network, Sigma(), "x_0", (3, 8, 8), num_classes or None)
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator) if images else None
    labels = torch.arange(10) % num_classes if images and num_classes else None
    return DistillationTask(teacher, pictures, labels, SimpleNamespace(**{**DEFAULTS, **options}))


def run(task, steps, part=slice(None)):
    """The updates of some steps, as the loop makes them."""
    optimizers = {name: task.optimizer(name, network.parameters()) for name, network in task.networks.items()}
    logged = []
    for step in steps:
        batch = task.batch(step, part)
        for update in task.updates(step):
            task.networks[update.trains].zero_grad()
            for name, network in task.networks.items():
                network.requires_grad_(name == update.trains)
            result = update.loss(task.networks, batch)
            result["loss"].backward()
            optimizers[update.trains].step()
            logged.append((step, update.trains, {key: float(value.detach()) for key, value in result.items()}))
    return logged


def test_every_loss_has_a_panel_that_says_what_it_is():
    task = task_of(**GAN)
    axes = task.loss_figure({"student": [{"step": 1} | dict.fromkeys(task.columns, 0.5)]}).axes
    assert [ax.get_title() for ax in axes] == list(task.columns)
    assert [ax.get_title() for ax in axes if ax.get_ylabel() != "loss"] == ["critic.denoising"]


def test_at_the_start_nothing_pulls_the_student():
    """Critic and teacher are equal, so the gradient of distribution matching is zero."""
    task = task_of()
    result = task.generator_loss(task.networks, task.batch(0, slice(None)))
    result["loss"].backward()
    assert float(result["matching"].detach()) < 1e-10
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in task.networks["generator"].parameters())


@pytest.mark.parametrize("options", [GAN, {**GAN, **MULTI}, {**GAN, "gan_alone": True}, {"real_guidance_scale": 2.0}])
def test_both_networks_move_in_turns_and_the_teacher_never(options):
    task = task_of(**options)
    teacher = copy.deepcopy(task.teacher.network.state_dict())
    before = {name: copy.deepcopy(network.state_dict()) for name, network in task.networks.items()}
    logged = run(task, range(4))
    assert [(step, name) for step, name, _ in logged] == [(0, "generator"), (0, "critic"), (1, "critic"), (2, "critic"),
                                                          (3, "generator"), (3, "critic")]
    for name, network in task.networks.items():
        assert any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
    assert all(torch.equal(value, teacher[key]) for key, value in task.teacher.network.state_dict().items())
    assert all(torch.isfinite(torch.tensor(list(losses.values()))).all() for _, _, losses in logged)


def test_a_step_depends_on_seed_and_number_alone_and_parts_make_the_whole():
    task = task_of(**GAN, **MULTI)
    whole, halves = task.batch(5, slice(None)), [task.batch(5, slice(0, 2)), task.batch(5, slice(2, 4))]
    assert whole.k == halves[0].k == halves[1].k
    for use, noise in whole.noise.items():
        assert torch.equal(noise[0], torch.cat([half.noise[use][0] for half in halves]))
    losses = [float(task.critic_loss(task.networks, batch)["loss"].detach()) for batch in (whole, *halves)]
    assert losses[0] == pytest.approx(sum(losses[1:]) / 2, rel=1e-4)
    assert {task.batch(step, slice(None)).k for step in range(30)} == {0, 1, 2}


def test_the_student_starts_in_training_where_its_chain_leads():
    """From sigma 80, each step's clean images noised again by the batch's own draws, the last of them "start"."""
    task = task_of(**MULTI)
    batch = next(batch for batch in (task.batch(step, slice(None)) for step in range(30)) if batch.k == 2)
    student, sigmas = task.networks["generator"], task.times[0]
    [x_t] = [80 * noise for noise in batch.noise["chain"]]
    for k, use in enumerate(("renoise_0", "start")):
        [x_0] = task.generated(student, [x_t], k, batch.labels)
        x_t = x_0 + sigmas[[666, 333][k]] * batch.noise[use][0]
    [found] = task.student_input(student, batch)
    torch.testing.assert_close(found, x_t)
    assert not found.requires_grad
    first = next(batch for batch in (task.batch(step, slice(None)) for step in range(30)) if batch.k == 0)
    assert torch.equal(task.student_input(student, first)[0], 80 * first.noise["start"][0])


def test_a_level_schedule_draws_above_the_next_step():
    task = task_of(**MULTI)
    for step in range(40):
        batch = task.batch(step, slice(None))
        floor = [666, 333, 19][batch.k]
        assert batch.places["matching"].min() > floor and batch.places["matching"].max() <= 980


def test_the_last_place_is_drawn_and_none_behind_it():
    batch = task_of(min_step_percent=0.9985, max_step_percent=1.0, batch_size=50).batch(0, slice(None))
    assert set(batch.places["matching"].flatten().tolist()) == {998, 999}


@pytest.mark.parametrize("options, message", [
    ({"backward_simulation": True}, "--denoising"), ({"gen_cls_loss": True}, "--cls_on_clean_image"),
    ({"gan_alone": True}, "--gen_cls_loss"), ({"num_denoising_step": 2}, "--denoising"),
    ({"denoising": True, "num_denoising_step": 600}, "expected 1...500"),
    ({"min_step_percent": 0.9, "max_step_percent": 0.1}, "min < max"),
    ({"real_guidance_scale": 2.0, "num_classes": 0}, "without classes"),
    ({"cls_on_clean_image": True, "images": False}, "real images")])
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        task_of(**options)
    assert "\n" not in str(error.value)


def test_a_teacher_whose_noisiest_calls_leave_out_a_level_is_refused():
    teacher = timestep_denoiser(LIFTDualTimestepModel([8, 16], native_32=True, skip_64_at_noise=True), 2)
    with pytest.raises(InputError, match="expected one trained without --skip_64_at_noise"):
        check_distillation(SimpleNamespace(**DEFAULTS), teacher, True)


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="found a Linear"):
        critic_of(torch.nn.Linear(2, 2), 8, 1, True)
