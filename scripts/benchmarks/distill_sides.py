"""The sides of the benchmark of distillation: an iteration of the published structure, and ours."""
import copy

import torch

from baseline_model import BaselineModel
from distill import losses, options
from distill.few_steps import level_range
from distill.options import NUM_LEVELS
from distill.task import DistillationTask, critic_of
from engine import devices
from engine.denoiser import NetworkDenoiser
from engine.distributed import Group
from engine.loop import Loop
from engine.sampling import from_uint8
from scheduler import CosineSteps, clean_image, noise_added
from scripts.benchmarks.distill_step import RATIO
from scripts.benchmarks.training_sides import Side

START = 399                                             # where one step of a noise prediction is called


def teacher_of(hidden_dims) -> BaselineModel:
    """A baseline at random weights: an iteration takes as long with any others."""
    torch.manual_seed(0)
    return BaselineModel(hidden_dims)


def random_images() -> torch.Tensor:
    """64 images of noise."""
    return torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class PublishedStep(Side):
    """The thing to beat: one iteration is five updates of the critic, one of them after the student's."""

    def __init__(self, hidden_dims, batch_size: int, device, num_threads: int):
        torch.set_num_threads(num_threads)
        self.device, self.batch_size, self.process = device, batch_size, CosineSteps()
        self.teacher = teacher_of(hidden_dims).to(device).requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True)
        self.model = critic_of(self.teacher, 64, 1, head=True).to(device).requires_grad_(True)
        self.optimizers = {network: torch.optim.AdamW(network.parameters(), lr=2e-6, weight_decay=0.01, foreach=False)
                           for network in (self.student, self.model)}
        self.images = from_uint8(random_images()).to(device)

    def noised(self, x, first: int = 0, last: int = NUM_LEVELS - 1):
        """x at levels drawn uniformly, its noise and its levels."""
        t = torch.randint(first, last + 1, (len(x),), device=self.device)
        noise = torch.randn_like(x)
        return noise_added(x, noise, *self.process.levels(t)), noise, t

    def generated(self) -> torch.Tensor:
        """The student's images of fresh noise."""
        x_t = torch.randn(self.batch_size, 3, 64, 64, device=self.device)
        t = torch.full((self.batch_size,), START, device=self.device)
        return clean_image("eps", self.student(x_t, t), x_t, *self.process.levels(t))

    def logits(self, x):
        """The head's, of x noised anew; the critic runs up to its bottleneck."""
        x_t, _, t = self.noised(x)
        return self.model(x_t, t, output=False)[1]

    def minimise(self, network, loss) -> float:
        self.optimizers[network].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0, foreach=False)
        self.optimizers[network].step()
        return loss.item()

    def student_update(self) -> torch.Tensor:
        self.model.requires_grad_(False)
        x = self.generated()
        with torch.no_grad():
            x_t, _, t = self.noised(x, *level_range())
            fake, real = (clean_image("eps", output, x_t, *self.process.levels(t))
                          for output in (self.model(x_t, t, logits=False)[0], self.teacher(x_t, t)))
            gradient = losses.matching_gradient(x, fake, real)
        loss = losses.matching_loss(x, gradient) + 3e-3 * losses.gan_student_loss(self.logits(x))
        self.minimise(self.student, loss)
        self.model.requires_grad_(True)
        return x.detach()

    def critic_update(self, x) -> None:
        x_t, noise, t = self.noised(x)
        loss = losses.denoising_loss(self.model(x_t, t, logits=False)[0], noise)
        chosen = torch.randint(len(self.images), (self.batch_size,), device=self.device)
        loss = loss + 1e-2 * losses.gan_critic_loss(self.logits(x), self.logits(self.images[chosen]))
        self.minimise(self.model, loss)

    def step(self) -> None:
        for update in range(RATIO):
            if update == 0:
                x = self.student_update()
            else:
                with torch.no_grad():
                    x = self.generated()
            self.critic_update(x)


class OurStep(Side):
    """The same number of updates by the trainer of `python -m distill.train`."""

    def __init__(self, hidden_dims, batch_size: int, device, num_threads: int, precision: str, *more: str):
        devices.configure(device, num_threads, tf32=True)
        args = options.parse(["--teacher", "none", "--batch_size", str(batch_size), "--dfake_gen_update_ratio",
                              str(RATIO), "--cls_on_clean_image", "--gen_cls_loss", "--precision", precision, *more])
        teacher = NetworkDenoiser(teacher_of(hidden_dims).to(device), CosineSteps(), "eps", (3, 64, 64))
        task = DistillationTask(teacher, random_images().to(device), None, args, device=device)
        self.trainer = Loop(task, args, Group(0, 1), device)
        self.device, self.model = device, task.networks["critic"]

    def step(self) -> None:
        for _ in range(RATIO):
            self.trainer.run_step()
        self.trainer.pending.clear()                    # what a log line would fetch
