"""The losses, clean images, levels and chains are those of the published code: every entry of dmd2.npz."""
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from conftest import REFERENCE
from distill import losses
from distill.critic import Critic, gan_head
from distill.few_steps import level_range, simulated_input, student_times
from engine.denoiser import Denoiser, Guided
from scheduler import Sigma, clean_image, noise_added, training_target


@pytest.fixture(scope="module")
def dmd2() -> dict:
    with np.load(REFERENCE / "dmd2.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


class TinyNetwork(nn.Module):
    """The reference's networks: tanh(W x + b + u level + V condition), and features tanh(P x + q level) (head)."""

    def __init__(self, arrays, name):
        super().__init__()
        for key in "WbuVPq":
            self.register_parameter(key, nn.Parameter(arrays[f"net_{name}_{key}"].clone()))
        self.features = nn.Identity()

    def forward(self, x, level, condition):
        self.features(torch.tanh(torch.einsum("pc,bchw->bphw", self.P, x) +
                                 (self.q * level[:, None])[:, :, None, None]))
        offset = self.b + self.u * level[:, None] + condition @ self.V.T
        return torch.tanh(torch.einsum("dc,bchw->bdhw", self.W, x) + offset[:, :, None, None])


class Edm(nn.Module):
    """EDM's preconditioning around a tiny network, written from the reference page."""

    def __init__(self, arrays, name):
        super().__init__()
        self.model = TinyNetwork(arrays, name)

    def forward(self, x, sigma, labels):
        s = sigma[:, None, None, None]
        total = s**2 + 0.25
        return 0.25 / total * x + 0.5 * s / total.sqrt() * self.model(x / total.sqrt(), sigma.log() / 4, labels)


def critic_of(arrays, network, bottleneck):
    """A critic with the reference's head."""
    critic = Critic(network, bottleneck, channels=32, size=8)
    critic.head = gan_head(32, 8, num_groups=4)
    critic.head.load_state_dict({key.removeprefix("head_").replace("_", "."): value.float()
                                 for key, value in arrays.items() if key.startswith("head_")})
    return critic


class Form:
    """The two forms of the reference under one interface: levels, clean images of a network, the critic."""

    def __init__(self, arrays, prefix):
        self.arrays, self.prefix, self.is_edm = arrays, prefix, prefix == "edm"
        if self.is_edm:
            self.networks = {name: Edm(arrays, f"edm_{name}") for name in ("real", "fake")}
            self.sigmas = Sigma().karras_sigmas(1000).float()
            self.x, self.real_x = arrays["edm_in_x"], arrays["edm_in_real_x"]
            self.condition, self.real_condition = arrays["edm_in_labels"], arrays["edm_in_real_labels"]
            self.critic = critic_of(arrays, self.networks["fake"], "model.features")
        else:
            self.networks = {name: TinyNetwork(arrays, name) for name in ("real", "fake", "gen")}
            self.x, self.real_x = arrays["in_x"], arrays["in_real_x"]
            self.condition, self.real_condition = (arrays[key].mean(1) for key in ("in_text", "in_real_text"))
            self.uncond = arrays["in_uncond"].mean(1)
            self.critic = critic_of(arrays, self.networks["fake"], "features")

    def levels(self, t):
        if self.is_edm:
            return Sigma().levels(self.sigmas[t])
        abar = self.arrays["sd_alphas_cumprod"][t]
        return abar.sqrt(), (1 - abar).sqrt()

    def network_time(self, t):
        return self.sigmas[t] if self.is_edm else t / 1000

    def clean(self, name, x_t, t, condition):
        output = self.networks[name](x_t, self.network_time(t), condition)
        return clean_image("x_0" if self.is_edm else "eps", output, x_t, *self.levels(t))

    def noised(self, x, noise, t):
        return noise_added(x, noise, *self.levels(t))

    def logits(self, x, noise, t, condition):
        return self.critic(self.noised(x, noise, t), self.network_time(t), condition)[1]


class Teacher(Denoiser):
    """The reference's teacher: label 0 stands for each image's own text, label 1 for each image's empty text."""

    num_classes = 1

    def __init__(self, form):
        self.form, self.shapes, self.processes = form, [tuple(form.x.shape[1:])], [None]

    def clean(self, xs, ts, labels=None):
        own, empty = (texts.repeat(len(xs[0]) // len(texts), 1) for texts in (self.form.condition, self.form.uncond))
        return [self.form.clean("real", xs[0], ts[0], torch.where(labels[:, None] == 0, own, empty))]


@pytest.fixture(params=["sd", "edm"])
def form(request, dmd2):
    return Form(dmd2, request.param)


@pytest.mark.parametrize("prefix, case, scale", [("sd", "sd_dm_cfg1", 1), ("sd", "sd_dm_cfg1.75", 1.75),
                                                 ("sd", "sd_dm_cfg8", 8), ("edm", "edm_dm", 1)])
def test_distribution_matching(dmd2, prefix, case, scale):
    form = Form(dmd2, prefix)
    t, x = dmd2[f"{case}_t"], form.x.clone().requires_grad_()
    with torch.no_grad():
        x_t = form.noised(x, dmd2[f"{case}_noise"], t)
        real, fake = (form.clean(name, x_t, t, form.condition) for name in ("real", "fake"))
        if scale > 1:
            real = Guided(Teacher(form), scale).clean([x_t], [t], torch.zeros(3, dtype=torch.long))[0]
    gradient = losses.matching_gradient(x, fake, real)
    loss = losses.matching_loss(x, gradient)
    loss.backward()
    for key, found in (("x_t", x_t), ("x0_real", real), ("x0_fake", fake), ("grad", gradient), ("loss", loss),
                       ("dloss_dx", x.grad)):
        close(found, dmd2[f"{case}_{key}"], 1e-4 if key.startswith("x0") else 1e-5)
    close(x.grad * x.numel(), gradient)


def test_critics_denoising_loss(form, dmd2):
    case = f"{form.prefix}_fake"
    t, noise = dmd2[f"{case}_t"], dmd2[f"{case}_noise"]
    x_t = form.noised(form.x, noise, t)
    output, _ = form.critic(x_t, form.network_time(t), form.condition)
    kind = "x_0" if form.is_edm else "eps"
    weight = losses.edm_weight(form.sigmas[t], 0.5) if form.is_edm else None
    loss = losses.denoising_loss(output, training_target(kind, form.x, noise, *form.levels(t)), weight)
    close(loss, dmd2[f"{case}_loss"])
    close(clean_image(kind, output, x_t, *form.levels(t)), dmd2[f"{case}_x0"], 1e-4)
    if not form.is_edm:
        loss.backward()
        close(form.networks["fake"].W.grad, dmd2["sd_fake_dloss_dW"])


def test_gan_losses_and_where_their_gradients_go(form, dmd2):
    case = f"{form.prefix}_gan"
    x = form.x.clone().requires_grad_()
    loss = losses.gan_student_loss(form.logits(x, dmd2[f"{case}_gen_noise"], dmd2[f"{case}_gen_t"], form.condition))
    loss.backward()
    close(loss, dmd2[f"{case}_gen_loss"])
    close(x.grad, dmd2[f"{case}_gen_dloss_dx"])
    form.critic.zero_grad()
    fake, real = (form.logits(images, dmd2[f"{case}_disc_noise_{name}"], dmd2[f"{case}_disc_t_{name}"], condition)
                  for name, images, condition in (("fake", form.x, form.condition),
                                                  ("real", form.real_x, form.real_condition)))
    loss = losses.gan_critic_loss(fake, real)
    close(loss, dmd2[f"{case}_disc_loss"])
    if not form.is_edm:
        close(fake.sigmoid(), dmd2["sd_gan_disc_fake"])
        close(real.sigmoid(), dmd2["sd_gan_disc_real"])
        loss.backward()
        close(form.networks["fake"].P.grad, dmd2["sd_gan_disc_dloss_dP"])


def test_head_on_clean_images(dmd2):
    form = Form(dmd2, "sd")
    logits = form.critic(form.x, torch.zeros(3), form.condition)[1]
    close(logits[:, None], dmd2["sd_gan_clean_logits"])


def test_karras_levels_and_preconditioning(dmd2):
    close(Sigma().karras_sigmas(1000), dmd2["karras_1000"])
    close(Sigma(0.01, 50, 5).karras_sigmas(64), dmd2["karras_64_0.01_50_rho5"])
    close(Form(dmd2, "edm").sigmas[dmd2["edm_dm_t"]], dmd2["edm_dm_sigma"])
    found = Form(dmd2, "edm").networks["real"](2 * dmd2["edm_in_x"], dmd2["edm_precond_sigma"], dmd2["edm_in_labels"])
    close(found, dmd2["edm_precond_x0"])


def test_clean_images_of_every_kind_of_output(dmd2):
    abar = dmd2["sd_alphas_cumprod"][dmd2["x0_t"]]
    x_t, output, t = dmd2["x0_in"], dmd2["x0_eps"], dmd2["flow_t"]
    for kind in ("eps", "v"):
        close(clean_image(kind, output, x_t, abar.sqrt(), (1 - abar).sqrt()), dmd2[f"x0_from_{kind}"], 1e-4)
    close(clean_image("velocity", output, x_t, t, 1 - t), dmd2["x0_from_flow_noise_at_0"])
    close(clean_image("velocity", -output, x_t, 1 - t, t), dmd2["x0_from_flow_noise_at_1"])


def test_student_times_are_the_published_ones_but_for_their_number(dmd2):
    for num_steps in (1, 2, 3, 4, 6, 8):
        assert student_times(num_steps) == dmd2[f"step_list_{num_steps}"].tolist()[:num_steps]
    assert student_times(1, first=399) == [399]
    assert student_times(4, first=399) == [399, 749, 499, 249]


@pytest.mark.parametrize("num_steps, num_scales", [(2, 1), (4, 1), (4, 2)])
def test_backward_simulation(dmd2, num_steps, num_scales):
    """Every scale has a chain of its own; here all are alike."""
    form = Form(dmd2, "sd")
    times = student_times(num_steps)
    inputs, outputs = [], []

    def student(x_t, k):
        t = torch.full((3,), times[k])
        inputs.append(x_t)
        outputs.append(form.clean("gen", x_t, t, form.condition))
        return outputs[-1]

    levels = [form.levels(torch.tensor(t)) for t in times]
    for num_calls in range(num_steps):
        found, *others = simulated_input(
            lambda xs, k: [student(xs[0], k)] * num_scales, [dmd2["sim_start"]] * num_scales,
            [[noise] * num_scales for noise in dmd2["sim_renoise"]], [dmd2["sim_noise"]] * num_scales,
            [[level] * num_scales for level in levels], num_calls)
        assert len(others) == num_scales - 1 and all(torch.equal(found, other) for other in others)
        assert times[num_calls] == dmd2[f"sim_{num_steps}step_stop{num_calls}_t"][0]
        close(found, dmd2[f"sim_{num_steps}step_stop{num_calls}_x_t"], 1e-4)
        assert not found.requires_grad
    for k in range(num_steps - 1):                       # the last chain above makes all calls but the last
        close(outputs[k - num_steps + 1], dmd2[f"chain_{num_steps}step_{k}_x0"], 1e-4)
        if k:
            close(inputs[k - num_steps + 1], dmd2[f"chain_{num_steps}step_{k}_x_t"], 1e-4)
    last = num_steps - 1
    x_t = noise_added(outputs[-1], dmd2["sim_renoise"][last - 1], *levels[last])
    close(x_t, dmd2[f"chain_{num_steps}step_{last}_x_t"], 1e-4)
    close(student(x_t, last), dmd2[f"chain_{num_steps}step_{last}_x0"], 1e-4)


def test_levels_of_distribution_matching(dmd2):
    first, last = level_range()
    assert [first, last + 1] == dmd2["range_sd_t"].tolist()
    assert level_range(next_time=499) == (500, 980)
    assert level_range(next_time=5) == (20, 980)
    assert level_range(next_time=990) == (980, 980)


def test_a_new_critic_is_its_teacher_and_then_learns_the_step(dmd2):
    """The step's embedding starts at zero; moved, it changes outputs and only those of images with a step."""
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.bottleneck, self.last = nn.Linear(1, 6), nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x, t):
            h = self.bottleneck(x)
            return self.last(h + F.pad(self.time(t[:, None]), (0, 2))[:, :, None, None])

    torch.manual_seed(0)
    network, x, t = Network(), torch.randn(3, 2, 7, 7), torch.rand(3)
    plain = network(x, t)
    critic = Critic(network, "bottleneck", 8, 7, "time", 6, num_student_steps=4)
    steps = torch.tensor([0, 1, 3])
    output, logit = critic(x, t, student_step=steps)
    assert torch.equal(output, plain) and logit.shape == (3,)
    nn.init.normal_(critic.step_embedding.weight)
    changed = critic(x, t, student_step=steps)[0]
    assert (changed - plain).abs().flatten(1).amax(1).min() > 1e-3
    assert torch.equal(critic(x, t)[0], plain)


@pytest.mark.parametrize("channels, size", [(32, 2), (32, 7), (768, 8), (64, 16), (144, 4), (18, 4)])
def test_the_head_tells_images_apart(channels, size):
    """With one channel in a group the last norm would see a single value and every logit would be the same. Groups
    divide the channels, of which 32 need be no divisor."""
    torch.manual_seed(0)
    logits = gan_head(channels, size)(torch.randn(6, channels, size, size))
    assert logits.shape == (6, 1, 1, 1) and logits.std() > 1e-3
