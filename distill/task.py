"""Few-step distillation of a teacher of one scale or two, as a task of the engine (Yin et al. 2024, DMD2)."""
import copy
import hashlib
from dataclasses import dataclass, field

import torch
from torch import nn

from distill import losses
from distill.critic import Critic
from distill.few_steps import level_range, noised_to, simulated_input, student_times, times_of_places
from distill.options import NUM_LEVELS, check_flags
from distill.student import StudentDenoiser, coupled, few_steps_of, path_of
from engine import devices
from engine.chunks import in_chunks
from engine.denoiser import Denoiser, Guided, OutputDenoiser, check_guidance
from engine.denoising_task import check_labels
from engine.errors import InputError
from engine.files import expecting, load_torch
from engine.image_files import content_hash_of
from engine.image_folder import image_grid
from engine.sampling import as_floats, sample, to_device, to_uint8
from engine.seeds import TRAIN_BATCH, TRAIN_NOISE, seeded_generator
from engine.task import Task, Update
from evaluation.loss_curves import WithLossCurves
from evaluation.sliced_wasserstein import distance_of_images
from networks.adm import EDMNetwork
from networks.bands import BandDenoiser
from networks.dit import DiT
from networks.dual_dit import DualDiT
from networks.flow_unet import FlowUNet
from networks.scales import downsample_to_32
from networks.unet import UNet
from scheduler import Sigma, clean_image, training_target

STEEP_START = 399                       # where one step of a noise prediction is called: it would divide by a
NUM_SHOWN = 8
VALIDATION_BATCH = 100


def check_distillation(args, teacher: Denoiser, has_images: bool, is_guidable: bool = True) -> None:
    """`check_flags`, and the checks that need the teacher and the images. Raises InputError."""
    check_flags(args)
    if isinstance(teacher, BandDenoiser):
        raise InputError("--teacher: found a model of two bands, expected one of one scale, or of an image at two "
                         "sizes")
    if getattr(teacher.network, "skip_64_at_noise", False):
        raise InputError(f"--teacher: found {args.teacher}, trained with --skip_64_at_noise, whose calls at the "
                         "noisiest timestep leave out the 64 level; expected one trained without --skip_64_at_noise")
    if args.cls_on_clean_image and not has_images:
        raise InputError("--cls_on_clean_image: found without real images, which it needs; give --dataset")
    of_two_scales = {"student_t_32": None, "coupling": "tied", "loss_weight_32": 1}
    for option, usual in of_two_scales.items() if len(teacher.processes) == 1 else ():
        if getattr(args, option) != usual:
            raise InputError(f"--{option}: found for a teacher of one scale, expected one of two; leave it out")
    if args.real_guidance_scale > 1 and teacher.num_classes is None:
        raise InputError(f"--real_guidance_scale: found {args.real_guidance_scale} for a teacher without classes, "
                         "expected 1; choose a teacher that was trained with labels")
    check_guidance(args.real_guidance_scale, is_guidable, args.teacher, "--real_guidance_scale")


def check_has_labels(args, teacher: Denoiser, has_labels: bool | None) -> None:
    """Raises InputError if the teacher has classes and the real images have none. None: not known yet."""
    if teacher.num_classes is not None and has_labels is False:
        raise InputError(f"--dataset: {args.dataset}: its split {args.split} has no labels, expected those of the "
                         f"teacher's {teacher.num_classes} classes")


def check_real_labels(args, teacher: Denoiser, labels) -> None:
    """Raises InputError if the teacher has classes and the real images have none, or other ones."""
    check_has_labels(args, teacher, labels is not None)
    if teacher.num_classes is not None:
        check_labels(labels, teacher.num_classes, f"--dataset: {args.dataset}: for the teacher's classes")


def critic_of(network: nn.Module, size: int, num_student_steps: int, head: bool) -> Critic:
    """A critic that starts as a copy of `network`. size: pixels a side of its images.

    Raises InputError for a kind of network whose bottleneck is not known here.
    """
    network = copy.deepcopy(network)
    if hasattr(network, "critic_parts"):                # it says itself where its encoder ends
        return Critic(network, **network.critic_parts(), num_student_steps=num_student_steps, head=head)
    if isinstance(network, EDMNetwork):
        model = network.model
        return Critic(network, f"model.enc.{list(model.enc)[-1]}", model.bottleneck_channels, model.bottleneck_size,
                      "model.map_layer1", model.map_layer1.out_features, num_student_steps, head)
    if isinstance(network, (UNet, FlowUNet)):
        unet, prefix = (network.unet, "unet.") if isinstance(network, FlowUNet) else (network, "")
        return Critic(network, f"{prefix}bottleneck.{len(unet.bottleneck) - 1}", unet.hidden_dims[-1],
                      network.bottleneck_size(size),
                      prefix + ("time_combine" if hasattr(unet, "time_combine") else "time_mlp"),
                      unet.time_mlp[-1].out_features, num_student_steps, head)
    if isinstance(network, DiT):
        return Critic(network, f"blocks.{len(network.blocks) // 2}", network.hidden_size, size // network.patch_size,
                      "t_embedder", network.hidden_size, num_student_steps, head)
    if isinstance(network, DualDiT):
        return Critic(network, f"blocks.{len(network.blocks) // 2}", network.hidden_size, size // network.patch_size,
                      "t_embedder", network.hidden_size, num_student_steps, head, num_tokens=network.num_tokens[0])
    raise InputError(f"--teacher: found a {type(network).__name__}, expected a UNet, a DiT or EDM's network")


def of_second_scale(network: nn.Module) -> list[nn.Module]:
    """The layers that only the second scale's output goes through."""
    if isinstance(network, DualDiT):
        return [network.final_layers[1]]
    return [network.final_conv_32] if getattr(network, "native_32", False) else []


@dataclass
class DistillationBatch:
    """A step's draws: everything random that its losses need.

    k: the student's step; images and noises are lists with a tensor per scale, places are [B, scales].
    """
    k: int
    labels: torch.Tensor | None
    real: list[torch.Tensor] | None                     # [B, C, S, S] each, in [-1, 1]
    real_labels: torch.Tensor | None
    noise: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    places: dict[str, torch.Tensor] = field(default_factory=dict)
    generated: list[torch.Tensor] | None = None         # left by the student's turn for the critic's


class DistillationTask(WithLossCurves, Task):
    """The networks "generator" and "critic" with a frozen teacher. The critic is updated at every step, and the student
    before it at every few.

    teacher: an OutputDenoiser of one scale or two. images: uint8 [N, C, S, S] or latents float32, and
    labels int64 [N] or None, or None without real images. loaded: the `families.Loaded` the teacher comes from, None
    for a bare denoiser. held_out: uint8 [M, C, S, S] that distances are measured to, or None.
    """

    averaged = ("generator",)
    command = "python -m distill.train"
    rate_options = "--generator_lr or --guidance_lr"

    def __init__(self, teacher: OutputDenoiser, images, labels, args, loaded=None, content_hash: str = "none",
                 device="cpu", held_out=None):
        super().__init__(args)
        check_distillation(args, teacher, images is not None, loaded is None or loaded.is_guidable)
        self.teacher, self.images, self.image_labels, self.loaded = teacher, images, labels, loaded
        self.held_out, self.distance_of_teacher = held_out, None
        self.device, self.content_hash = torch.device(device), content_hash
        self.num_images = args.epoch_steps * args.batch_size
        self.processes, self.shapes = teacher.processes, teacher.shapes
        self.kind = loaded.kind if loaded else teacher.kind
        self.num_scales, self.num_classes = len(self.processes), teacher.num_classes
        if labels is not None and self.num_classes is not None:
            self.labels_hash = content_hash_of(labels.numpy())
        network = teacher.network
        self.frozen = {"teacher": network.eval().requires_grad_(False)}
        self.frozen_hashes = {"teacher": loaded.fingerprint} if loaded else {}
        torch.manual_seed(args.seed)                    # the head's first weights: the same in every process
        self.networks = {
            "generator": copy.deepcopy(network).requires_grad_(True),
            "critic": critic_of(network, self.shapes[0][-1], args.num_denoising_step if args.critic_step else 1,
                                args.cls_on_clean_image).requires_grad_(True)}
        if self.num_scales == 2 and args.coupling == "tied":
            for layer in of_second_scale(self.networks["generator"]):
                layer.requires_grad_(False)             # what it puts out is not used
        self.times = [times_of_places(process).to(self.device) for process in self.processes]
        self.few_steps = self.choose_steps()
        self.starts = [process.start_scale(float(times[-1])) for process, times in zip(self.processes, self.times)]
        self.student_levels = [self.levels(torch.tensor([place], device=self.device))
                               for place in self.few_steps["places"]]
        losses_of = {"generator": ["matching"] * (not args.gan_alone) + ["gan"] * args.gen_cls_loss,
                     "critic": ["denoising"] + ["gan"] * args.cls_on_clean_image}
        self.columns = tuple(f"{name}.{key}" for name, keys in losses_of.items()
                             for key in ["loss", *keys])
        self.loss_labels = {column: "loss" for column in self.columns if not column.endswith(".denoising")}
        if args.ckpt_only_path is not None:
            self.start_from(args.ckpt_only_path)

    def start_from(self, path) -> None:
        """Student and critic from the weights in a training state, with new optimizers. Raises InputError."""
        digest = hashlib.sha256()
        state = load_torch(path, "training state", digest)
        with expecting(path, "training state of a distillation", "give the .state.pth of one with the same options"):
            for key, word in (("places", "at"), ("called_at", "called at"), ("coupling", "of the coupling")):
                found, expected = state["few_steps"][key], self.few_steps[key]
                if found != expected:
                    raise InputError(f"--ckpt_only_path: {path} is of a student {word} {found}, expected {expected}; "
                                     "give the options of its training")
            self.networks["generator"].load_state_dict(state["model_state"])
            self.networks["critic"].load_state_dict(state["others"]["critic"]["model_state"])
        self.frozen_hashes = {**self.frozen_hashes, "start": digest.hexdigest()[:16]}

    def choose_steps(self) -> dict:
        """The student's places and where it is called, per step and scale."""
        args = self.args
        first = args.conditioning_timestep
        if first is None:
            is_steep = self.loaded.is_steep if self.loaded else (
                self.kind == "eps" and not isinstance(self.processes[0], Sigma))
            first = STEEP_START if is_steep else NUM_LEVELS - 1
        columns = [student_times(args.num_denoising_step)] * self.num_scales
        if args.student_t_32 is not None:
            columns[1] = args.student_t_32
        places = [list(place) for place in zip(*columns)]
        return few_steps_of(places, [[first] * self.num_scales, *places[1:]], args.coupling)

    # --- levels and networks ----------------------------------------------------------------------------------------

    def levels(self, places: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(a, s), [B] each, per scale at places [B, scales]."""
        return [process.levels(times[places[:, scale]])
                for scale, (process, times) in enumerate(zip(self.processes, self.times))]

    def noised(self, xs, noises, places) -> list[torch.Tensor]:
        """Images per scale, noised to places [B, scales]."""
        return noised_to(self.levels(places), xs, noises)

    def outputs(self, network, xs, places, labels=None, **more):
        """What a network puts out for noised images xs: a tensor per scale, None of a critic asked for logits alone.
        more: for a critic (`Critic.forward`), whose logits come beside it."""
        ts = [times[places[:, scale]] for scale, times in enumerate(self.times)]
        logits = []

        def called(*inputs):
            found = network(*inputs, **more)
            if more:
                logits.append(found[1])
            return found[0] if more else found

        with devices.autocast(xs[0].device, self.args.precision):
            per_scale = self.teacher.outputs(called, xs, ts, labels)
        return (per_scale, logits[0]) if more else per_scale

    def as_clean(self, outputs, xs, places) -> list[torch.Tensor]:
        """The clean images that a network's outputs for xs mean, per scale, in float32. places: int64 [B, scales]."""
        return [clean_image(self.kind, output.float(), x, *levels)
                for output, x, levels in zip(outputs, xs, self.levels(places))]

    def teacher_clean(self, xs, places, labels) -> list[torch.Tensor]:
        """The teacher's clean images of xs, per scale, guided above a scale of 1; in the precision of the critic's."""
        ts = [times[places[:, scale]] for scale, times in enumerate(self.times)]
        with devices.autocast(xs[0].device, self.args.precision):
            return self.guided_teacher().clean(xs, ts, labels)

    def guided_teacher(self) -> Denoiser:
        """The teacher, guided above a scale of 1."""
        return Guided(self.teacher, self.args.real_guidance_scale)

    def generated(self, network, xs, k: int, labels) -> list[torch.Tensor]:
        """The student's step k: noised images [B, C, S, S] per scale -> clean ones, one at both sizes where tied."""
        places = torch.tensor([self.few_steps["called_at"][k]], device=xs[0].device).expand(len(xs[0]), -1)
        return coupled(self.as_clean(self.outputs(network, xs, places, labels), xs, places), self.args.coupling)

    def student_input(self, network, batch: DistillationBatch) -> list[torch.Tensor]:
        """The noised images, per scale, that the step `batch.k` is trained on."""
        k, noise = batch.k, batch.noise
        if k and not self.args.backward_simulation:
            return noised_to(self.student_levels[k], batch.real, noise["start"])
        begun = [scale * eps for scale, eps in zip(self.starts, noise["chain" if k else "start"])]
        return simulated_input(lambda xs, step: self.generated(network, xs, step, batch.labels), begun,
                               [noise[f"renoise_{step}"] for step in range(k - 1)], noise["start"] if k else begun,
                               self.student_levels, k)

    def told_step(self, batch: DistillationBatch, xs) -> torch.Tensor | None:
        """What the critic is told of the student's step: int64 [B], or None without `--critic_step`."""
        return torch.full((len(xs[0]),), batch.k, device=xs[0].device) if self.args.critic_step else None

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

    def draw_places(self, size: int, generator, first, last: int) -> torch.Tensor:
        """Places [size, scales], per scale from first to last, both included: uniform, or as the teacher drew its
        timesteps, shrunk to that range. first: a place per scale."""
        first = torch.tensor(first)
        if self.loaded is not None and self.loaded.draw_times is not None:
            drawn = self.loaded.draw_times(size, generator)                             # 0...999
            return first + drawn * (last + 1 - first) // NUM_LEVELS
        return torch.stack([torch.randint(int(low), last + 1, (size,), generator=generator) for low in first], dim=1)

    def batch(self, step: int, part: slice) -> DistillationBatch:
        """The draws of a step, made for the whole global batch and then cut, so that processes share k and nothing
        else depends on their number."""
        args, size, device = self.args, self.args.batch_size, self.device
        generator = seeded_generator(args.seed, TRAIN_NOISE, step)
        on_device = seeded_generator(args.seed, TRAIN_NOISE, step, 1, device=device)
        k = int(torch.randint(args.num_denoising_step, (), generator=generator))

        def normal():
            return [torch.randn(size, *shape, generator=on_device, device=device)[part] for shape in self.shapes]

        def places(first, last: int):
            return to_device(self.draw_places(size, generator, first, last)[part], device)

        uses = ["start"] + ["chain"] * (k > 0) + ["matching", "critic"]
        uses += ["student_gan", "fake", "real"] * args.cls_on_clean_image
        noise = {name: normal() for name in uses} | {f"renoise_{number}": normal() for number in range(k - 1)}
        ranges = [level_range(args.min_step_percent, args.max_step_percent, place) for place in self.next_places(k)]
        lowest = [0] * self.num_scales
        chosen = {"matching": places([first for first, _ in ranges], ranges[0][1]),
                  "critic": places(lowest, NUM_LEVELS - 1)}
        if args.cls_on_clean_image:
            chosen |= {name: places(lowest, args.diffusion_gan_max_timestep - 1)
                       for name in ("student_gan", "fake", "real")}
        labels = real = real_labels = None
        if self.num_classes is not None:
            labels = self.told(torch.randint(self.num_classes, (size,), generator=generator)[part])
        if self.images is not None:
            picks = torch.randint(len(self.images), (size,), generator=seeded_generator(args.seed, TRAIN_BATCH, step))
            real = self.pyramid(self.real_images(step, picks, part))
            if self.image_labels is not None:
                real_labels = self.told(self.image_labels[picks[part]])
            if k and not args.backward_simulation and labels is not None:
                labels = real_labels
        return DistillationBatch(k, labels, real, real_labels, noise, chosen)

    def told(self, labels: torch.Tensor) -> torch.Tensor:
        """What networks are told of labels, int64 [B] on the CPU: themselves, on the device."""
        return to_device(labels, self.device)

    def real_images(self, step: int, picks: torch.Tensor, part: slice) -> torch.Tensor:
        """The share `part` of the real images that a step picked, int64 [batch_size]: floats on the device."""
        return as_floats(to_device(self.images[picks[part].to(self.images.device)], self.device))

    def next_places(self, k: int) -> list[int | None]:
        """The student's next place per scale, where the level schedule asks for levels above it; None elsewhere."""
        is_last = k == self.args.num_denoising_step - 1
        return [None] * self.num_scales if is_last or not self.args.level_schedule else self.few_steps["places"][k + 1]

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Images [B, C, S, S] at every scale: as they are, then their 2x2 means."""
        return [x] if self.num_scales == 1 else [x, downsample_to_32(x)]

    def updates(self, step: int) -> list[Update]:
        """[student, critic] at every `--dfake_gen_update_ratio`-th step, else [critic]."""
        critic = Update("critic", self.critic_loss)
        is_students_turn = step % self.args.dfake_gen_update_ratio == 0
        return [Update("generator", self.generator_loss), critic] if is_students_turn else [critic]

    def over_scales(self, values) -> torch.Tensor:
        """The first scale's loss, and the second's times `--loss_weight_32`."""
        return values[0] if len(values) == 1 else values[0] + self.args.loss_weight_32 * values[1]

    def generator_loss(self, networks, batch: DistillationBatch) -> dict:
        """Distribution matching and GAN loss of the student; leaves its images in the batch for the critic."""
        args, student, critic = self.args, networks["generator"], networks["critic"]
        xs = self.generated(student, self.student_input(student, batch), batch.k, batch.labels)
        batch.generated = [x.detach() for x in xs]
        result = {}
        if not args.gan_alone:
            places = batch.places["matching"]
            with torch.no_grad():
                noised = self.noised(batch.generated, batch.noise["matching"], places)
                outputs, _ = self.outputs(critic, noised, places, batch.labels, logits=False,
                                          student_step=self.told_step(batch, xs))
                gradients = [losses.matching_gradient(x, fake, real) for x, fake, real in zip(
                    xs, self.as_clean(outputs, noised, places), self.teacher_clean(noised, places, batch.labels))]
            result["matching"] = self.over_scales([losses.matching_loss(x, gradient)
                                                   for x, gradient in zip(xs, gradients)])
        if args.gen_cls_loss:
            result["gan"] = losses.gan_student_loss(self.logits(critic, xs, "student_gan", batch, batch.labels))
        total = sum(args.gen_cls_loss_weight * value if name == "gan" else value for name, value in result.items())
        return {"loss": total, **result}

    def critic_loss(self, networks, batch: DistillationBatch) -> dict:
        """Denoising and GAN loss of the critic on the student's images."""
        critic = networks["critic"]
        if batch.generated is None:
            with torch.no_grad():
                start = self.student_input(networks["generator"], batch)
                batch.generated = self.generated(networks["generator"], start, batch.k, batch.labels)
        xs, places, noises = batch.generated, batch.places["critic"], batch.noise["critic"]
        outputs, fake_logits = self.outputs(critic, self.noised(xs, noises, places), places, batch.labels,
                                            student_step=self.told_step(batch, xs), logits=self.args.shared_critic_pass)
        targets = [training_target(self.kind, x, noise, *levels)
                   for x, noise, levels in zip(xs, noises, self.levels(places))]
        result = {"denoising": self.over_scales([
            losses.denoising_loss(output, target, self.loss_weight(levels))
            for output, target, levels in zip(outputs, targets, self.levels(places))])}
        total = result["denoising"]
        if self.args.cls_on_clean_image:
            if not self.args.shared_critic_pass:
                fake_logits = self.logits(critic, xs, "fake", batch, batch.labels)
            result["gan"] = losses.gan_critic_loss(
                fake_logits, self.logits(critic, batch.real, "real", batch, batch.real_labels))
            total = total + self.args.guidance_cls_loss_weight * result["gan"]
        return {"loss": total, **result}

    def loss_weight(self, levels) -> torch.Tensor | None:
        """[B]: what the teacher's training weighed the squared error with; None for 1."""
        a, s = levels
        if isinstance(self.processes[0], Sigma):
            return losses.edm_weight(s, self.frozen["teacher"].sigma_data)
        return a**-2 if self.loaded is not None and self.loaded.loss_over_a_squared else None

    def logits(self, critic, xs, use: str, batch: DistillationBatch, labels) -> torch.Tensor:
        """The head's logits [B] of images, noised at their own levels, or as they are without `--diffusion_gan`."""
        if self.args.diffusion_gan:
            places = batch.places[use]
            xs = self.noised(xs, batch.noise[use], places)
        else:
            places = torch.zeros(len(xs[0]), self.num_scales, dtype=torch.long, device=xs[0].device)
        return self.outputs(critic, xs, places, labels, student_step=self.told_step(batch, xs), output=False)[1]

    # --- what is kept and shown ---------------------------------------------------------------------------------------

    def content(self) -> dict:
        """A checkpoint of the teacher's family that names the student's few steps."""
        return {**(self.loaded.content if self.loaded else {"family": "distill"}), "few_steps": self.few_steps}

    @property
    def has_validation(self) -> bool:
        """Whether there are images that distances can be measured to."""
        return self.held_out is not None

    def drawn(self, denoiser: Denoiser, numbers, solver: str) -> torch.Tensor:
        """Images of those numbers by a denoiser along the student's path: uint8 [B, C, S, S] of the data's size."""
        times = [t.cpu() for t in self.times]
        path = path_of(self.few_steps, times, self.processes)
        if solver != "renoise" and self.loaded is not None:
            path = self.loaded.path_beside(path)
        labels = None
        if self.num_classes is not None:
            labels = self.told(torch.tensor([number % self.num_classes for number in numbers]))
        clips = self.processes[0].clips_pixels if self.loaded is None else self.loaded.clips
        x = sample(denoiser, path, self.args.seed, numbers, labels=labels, solver=solver, device=self.device,
                   clip=clips and solver != "renoise", precision=self.args.precision).xs[0]
        return to_uint8(x) if self.loaded is None else self.loaded.images_of(x)

    def student_of(self, network) -> StudentDenoiser:
        """A student's network as the sampler sees it."""
        return StudentDenoiser(self.teacher.with_network(network), self.few_steps, [t.cpu() for t in self.times])

    def preview(self, networks) -> torch.Tensor:
        """Students' images above, the teacher's in as many steps below: uint8 [2 n, C, S, S]."""
        shown = range(NUM_SHOWN)
        return torch.cat([self.drawn(self.student_of(networks["generator"]), shown, "renoise"),
                          self.drawn(self.guided_teacher(), shown, "ddim")])

    def validate(self, networks) -> dict:
        """Distances to held-out images: of the student, and of its teacher in as many steps."""
        def distance(denoiser, solver: str) -> float:
            numbers = torch.arange(len(self.held_out))
            parts = [self.drawn(denoiser, part.tolist(), solver) for part in in_chunks(numbers, VALIDATION_BATCH)]
            return distance_of_images(torch.cat(parts), self.held_out)

        if self.distance_of_teacher is None:            # it never moves
            self.distance_of_teacher = distance(self.guided_teacher(), "ddim")
        return {"distance_of_student": distance(self.student_of(networks["generator"]), "renoise"),
                "distance_of_teacher": self.distance_of_teacher}

    def pictures(self, networks, step: int, epoch: float) -> dict:
        """The preview as {name}_preview.png in the output folder."""
        return {self.args.output_dir / f"{self.args.name}_preview.png": image_grid(self.preview(networks), NUM_SHOWN)}

    def describe_batch(self, step: int) -> str:
        """The student's step and the levels of a step, drawn again from the seed."""
        batch = self.batch(step, slice(None))
        return f"student step {batch.k}, places {batch.places['matching'].flatten().tolist()}"
