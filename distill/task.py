"""Few-step distillation of a teacher of one scale, as a task of the engine (Yin et al. 2024, DMD2)."""
import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from distill import losses
from distill.critic import Critic
from distill.few_steps import level_range, simulated_input, student_times, times_of_places
from engine.denoiser import Guided, NetworkDenoiser
from engine.errors import InputError
from engine.sampling import from_uint8
from engine.seeds import TRAIN_BATCH, TRAIN_NOISE, seeded_generator
from engine.task import Task, Update
from networks.adm import EDMNetwork
from networks.unet import UNet
from scheduler import Sigma, clean_image, noise_added, training_target

NUM_LEVELS = 1000


def check_options(args, teacher: NetworkDenoiser, has_images: bool) -> None:
    """Raises InputError for a flag without the one it needs, and for numbers that cannot be."""
    def needs(flag: str, is_given, needed: str, has_needed) -> None:
        if is_given and not has_needed:
            raise InputError(f"{flag}: found without {needed}, which it needs; add {needed} or leave {flag} out")

    needs("--backward_simulation", args.backward_simulation, "--denoising", args.denoising)
    needs("--gen_cls_loss", args.gen_cls_loss, "--cls_on_clean_image", args.cls_on_clean_image)
    needs("--gan_alone", args.gan_alone, "--gen_cls_loss", args.gen_cls_loss)
    needs("--cls_on_clean_image", args.cls_on_clean_image, "real images", has_images)
    if args.num_denoising_step > 1 and not args.denoising:
        raise InputError(f"--num_denoising_step: found {args.num_denoising_step} without --denoising, which it needs")
    if not 1 <= args.num_denoising_step <= NUM_LEVELS // 2:
        raise InputError(f"--num_denoising_step: found {args.num_denoising_step}, expected 1...{NUM_LEVELS // 2}")
    if not 0 <= args.min_step_percent < args.max_step_percent <= 1:
        raise InputError(f"--min_step_percent: found {args.min_step_percent} and --max_step_percent "
                         f"{args.max_step_percent}, expected 0 <= min < max <= 1")
    if args.real_guidance_scale > 1 and teacher.num_classes is None:
        raise InputError(f"--real_guidance_scale: found {args.real_guidance_scale} for a teacher without classes, "
                         "expected 1; choose a teacher that was trained with labels")
    if not 1 <= args.diffusion_gan_max_timestep <= NUM_LEVELS:
        raise InputError(f"--diffusion_gan_max_timestep: found {args.diffusion_gan_max_timestep}, expected "
                         f"1...{NUM_LEVELS}")


def critic_of(network: nn.Module, size: int, num_student_steps: int, head: bool) -> Critic:
    """A critic that starts as a copy of `network`. size: pixels a side of its images.

    Raises InputError for a kind of network whose bottleneck is not known here.
    """
    network = copy.deepcopy(network)
    if isinstance(network, EDMNetwork):
        model = network.model
        return Critic(network, f"model.enc.{list(model.enc)[-1]}", model.bottleneck_channels, model.bottleneck_size,
                      "model.map_layer1", model.map_layer1.out_features, num_student_steps, head)
    if isinstance(network, UNet):
        dims = network.hidden_dims
        return Critic(network, f"bottleneck.{len(network.bottleneck) - 1}", dims[-1], size >> len(dims),
                      "time_mlp", network.time_mlp[-1].out_features, num_student_steps, head)
    raise InputError(f"--teacher: found a {type(network).__name__}, expected a UNet or EDM's network")


@dataclass
class DistillationBatch:
    """A step's draws: everything random that its losses need. k: the student's step; noises by use; places by use."""
    k: int
    labels: torch.Tensor | None
    real: torch.Tensor | None                           # [B, C, S, S] in [-1, 1]
    real_labels: torch.Tensor | None
    noise: dict[str, torch.Tensor] = field(default_factory=dict)
    places: dict[str, torch.Tensor] = field(default_factory=dict)
    generated: torch.Tensor | None = None               # left by the student's turn for the critic's


class DistillationTask(Task):
    """Networks "generator" and "critic", teacher frozen; every few steps the student first, the critic at every one.

    teacher: a NetworkDenoiser. images: uint8 [N, C, S, S] and labels int64 [N] or None, or None without real images.
    """

    averaged = ("generator",)
    command = "python -m distill.train"

    def __init__(self, teacher: NetworkDenoiser, images, labels, args):
        super().__init__(args)
        check_options(args, teacher, images is not None)
        self.teacher, self.images, self.image_labels = teacher, images, labels
        self.process, self.kind, self.shape = teacher.process, teacher.kind, teacher.shapes[0]
        teacher.network.eval().requires_grad_(False)
        num_steps = args.num_denoising_step
        self.frozen = {"teacher": teacher.network}
        self.networks = {
            "generator": copy.deepcopy(teacher.network).requires_grad_(True),
            "critic": critic_of(teacher.network, self.shape[-1], num_steps if args.critic_step else 1,
                                args.cls_on_clean_image).requires_grad_(True)}
        self.times = times_of_places(self.process)
        self.student_places = student_times(num_steps)
        first = args.conditioning_timestep
        if first is None:
            first = 399 if self.kind == "eps" and not isinstance(self.process, Sigma) else NUM_LEVELS - 1
        self.called_at = student_times(num_steps, first=first)
        self.student_levels = [self.levels(torch.tensor(place)) for place in self.student_places]
        self.start_scale = self.process.start_scale(float(self.times[-1]))

    # --- levels and networks ----------------------------------------------------------------------------------------

    def levels(self, places: torch.Tensor):
        """a and s at places among the levels (any shape)."""
        return self.process.levels(self.times.to(places.device)[places])

    def outputs(self, network, x, places, labels=None, **more):
        """What a network puts out for noised images x at places [B]; `more` goes to a critic."""
        t = self.teacher.network_time(self.times.to(x.device)[places])
        if self.teacher.num_classes is None:
            return network(x, t, **more)
        if labels is None:
            labels = torch.full((len(x),), self.teacher.num_classes, device=x.device)
        return network(x, t, labels, **more)

    def as_clean(self, output, x, places) -> torch.Tensor:
        """The clean images that an output means."""
        return clean_image(self.kind, output.float(), x, *self.levels(places))

    def teacher_clean(self, x, places, labels) -> torch.Tensor:
        """The teacher's clean images, guided above a scale of 1."""
        t = self.times.to(x.device)[places]
        scale = self.args.real_guidance_scale
        denoiser = Guided(self.teacher, scale) if scale > 1 else self.teacher
        return denoiser.clean([x], [t], labels)[0]

    def generated(self, network, x, k: int, labels) -> torch.Tensor:
        """The student's step k: noised images -> clean ones."""
        places = torch.full((len(x),), self.called_at[k], device=x.device)
        return self.as_clean(self.outputs(network, x, places, labels), x, places)

    def student_input(self, network, batch: DistillationBatch) -> torch.Tensor:
        """What the step to be trained starts from."""
        k, noise = batch.k, batch.noise["start"]
        if k == 0:
            return self.start_scale * noise
        if not self.args.backward_simulation:
            return noise_added(batch.real, noise, *self.student_levels[k])
        renoise = [batch.noise[f"renoise_{number}"] for number in range(k - 1)]
        return simulated_input(lambda x, step: self.generated(network, x, step, batch.labels),
                               self.start_scale * batch.noise["chain"], renoise, noise, self.student_levels, k)

    def told_step(self, batch: DistillationBatch, x) -> torch.Tensor | None:
        """What the critic is told of the student's step."""
        return torch.full((len(x),), batch.k, device=x.device) if self.args.critic_step else None

    # --- what the engine asks for -----------------------------------------------------------------------------------

    def optimizer(self, name: str, parameters):
        """AdamW of the page: betas 0.9 and 0.999, decay 0.01."""
        return torch.optim.AdamW(parameters, lr=self.rate_of(name), betas=(0.9, 0.999), weight_decay=0.01)

    def rate_of(self, name: str) -> float:
        """The full rate of a network."""
        return self.args.generator_lr if name == "generator" else self.args.guidance_lr

    def learning_rate(self, name: str, step: int, num_steps: int, num_updates: int) -> float:
        """Linear warm-up over `--warmup_step` updates of this network, then constant."""
        warmup = self.args.warmup_step
        return self.rate_of(name) * (min(1.0, (num_updates + 1) / warmup) if warmup else 1.0)

    def batch(self, step: int, part: slice) -> DistillationBatch:
        """The draws of a step, made for the whole global batch and then cut, so that processes share k and nothing
        else depends on their number."""
        args, size = self.args, self.args.batch_size
        generator = seeded_generator(args.seed, TRAIN_NOISE, step)
        k = int(torch.randint(args.num_denoising_step, (), generator=generator))

        def normal():
            return torch.randn(size, *self.shape, generator=generator)[part]

        def places(first: int, last: int):
            return torch.randint(first, last + 1, (size,), generator=generator)[part]

        noise = {name: normal() for name in ("start", "chain", "matching", "critic", "student_gan", "fake", "real")}
        noise |= {f"renoise_{number}": normal() for number in range(k - 1)}
        is_last = k == args.num_denoising_step - 1
        next_place = None if is_last or not args.level_schedule else self.student_places[k + 1]
        of_matching = level_range(NUM_LEVELS, args.min_step_percent, args.max_step_percent, next_place)
        chosen = {"matching": places(*of_matching),
                  "critic": places(0, NUM_LEVELS - 1)}
        chosen |= {name: places(0, args.diffusion_gan_max_timestep - 1) for name in ("student_gan", "fake", "real")}
        labels = real = real_labels = None
        if self.teacher.num_classes is not None:
            labels = torch.randint(self.teacher.num_classes, (size,), generator=generator)[part]
        if self.images is not None:
            picks = torch.randint(len(self.images), (size,), generator=seeded_generator(args.seed, TRAIN_BATCH, step))
            real = from_uint8(self.images[picks[part]])
            if self.image_labels is not None:
                real_labels = self.image_labels[picks[part]]
            if k and not args.backward_simulation and labels is not None:
                labels = real_labels
        return DistillationBatch(k, labels, real, real_labels, noise, chosen)

    def updates(self, step: int) -> list[Update]:
        """[student, critic] at every `--dfake_gen_update_ratio`-th step, else [critic]."""
        critic = Update("critic", self.critic_loss)
        is_students_turn = step % self.args.dfake_gen_update_ratio == 0
        return [Update("generator", self.generator_loss), critic] if is_students_turn else [critic]

    def generator_loss(self, networks, batch: DistillationBatch) -> dict:
        """Distribution matching and GAN loss of the student; leaves its images in the batch for the critic."""
        args, student, critic = self.args, networks["generator"], networks["critic"]
        x = self.generated(student, self.student_input(student, batch), batch.k, batch.labels)
        batch.generated = x.detach()
        result = {}
        if not args.gan_alone:
            places, noise = batch.places["matching"], batch.noise["matching"]
            with torch.no_grad():
                x_t = noise_added(x.detach(), noise, *self.levels(places))
                output, _ = self.outputs(critic, x_t, places, batch.labels, student_step=self.told_step(batch, x))
                fake = self.as_clean(output, x_t, places)
                gradient = losses.matching_gradient(x, fake, self.teacher_clean(x_t, places, batch.labels))
            result["matching"] = losses.matching_loss(x, gradient)
        if args.gen_cls_loss:
            result["gan"] = losses.gan_student_loss(self.logits(critic, x, "student_gan", batch, batch.labels))
        total = sum(args.gen_cls_loss_weight * value if name == "gan" else value for name, value in result.items())
        return {"loss": total, **result}

    def critic_loss(self, networks, batch: DistillationBatch) -> dict:
        """Denoising and GAN loss of the critic on the student's images."""
        if batch.generated is None:
            with torch.no_grad():
                start = self.student_input(networks["generator"], batch)
                batch.generated = self.generated(networks["generator"], start, batch.k, batch.labels)
        x, places, noise = batch.generated, batch.places["critic"], batch.noise["critic"]
        a, s = self.levels(places)
        output, _ = self.outputs(networks["critic"], noise_added(x, noise, a, s), places, batch.labels,
                                 student_step=self.told_step(batch, x))
        weight = losses.edm_weight(s, self.teacher.network.sigma_data) if isinstance(self.process, Sigma) else None
        result = {"denoising": losses.denoising_loss(output, training_target(self.kind, x, noise, a, s), weight)}
        total = result["denoising"]
        if self.args.cls_on_clean_image:
            result["gan"] = losses.gan_critic_loss(
                self.logits(networks["critic"], x, "fake", batch, batch.labels),
                self.logits(networks["critic"], batch.real, "real", batch, batch.real_labels))
            total = total + self.args.guidance_cls_loss_weight * result["gan"]
        return {"loss": total, **result}

    def logits(self, critic, x, use: str, batch: DistillationBatch, labels) -> torch.Tensor:
        """The head's logits of images, noised at their own levels, or as they are without `--diffusion_gan`."""
        if self.args.diffusion_gan:
            places = batch.places[use]
            x = noise_added(x, batch.noise[use], *self.levels(places))
        else:
            places = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.outputs(critic, x, places, labels, student_step=self.told_step(batch, x))[1]
