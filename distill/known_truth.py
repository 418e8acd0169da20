"""A test bed for few-step distillation: points in the plane whose law and exact teacher are known in closed form.

Eight Gaussians on a circle; the teacher is their exact posterior mean, so that every difference between the student's
law and the true one is the method's own. Several seeds run as one network of batched matrices.
"""
import copy
import functools
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from distill import losses
from distill.few_steps import level_range, simulated_input, student_times
from distill.options import NUM_LEVELS
from scheduler import CosineSteps, clean_image, noise_added, step, training_target

RADIUS, DEVIATION = 0.8, 0.08
WEIGHTS = (1, 2, 3, 4, 1, 2, 3, 4)
WIDTH = 64
FREQUENCIES = 8                                         # of the time features
RATE, LOWEST_SHARE = 1e-3, 0.05                         # the highest rate, and the share of it that a run ends with


def sines_of_times(u: torch.Tensor) -> torch.Tensor:
    """Numbers that tell a network its times. u: [..., n], times in [0, 1] -> [..., n (1 + 2 FREQUENCIES)]."""
    angles = u[..., None] * (math.pi / 2) * torch.arange(1, FREQUENCIES + 1)
    return torch.cat([u, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)


def cosine_share(number: int, total: int) -> float:
    """Of the highest rate at step `number` of `total`: a cosine from 1 to 5 %."""
    return LOWEST_SHARE + (1 - LOWEST_SHARE) * 0.5 * (1 + math.cos(math.pi * min(number / total, 1)))


class CircleOfGaussians:
    """The law of the points, noised or not: `weights` on eight centres."""

    def __init__(self, weights=WEIGHTS):
        angles = torch.arange(8) * (2 * math.pi / 8)
        self.centers = RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)        # [8, 2]
        self.probabilities = torch.tensor(weights, dtype=torch.float32) / sum(weights)

    def draw(self, shape, generator) -> torch.Tensor:
        """Points [*shape, 2]."""
        which = torch.multinomial(self.probabilities, math.prod(shape), replacement=True, generator=generator)
        return self.centers[which].reshape(*shape, 2) + DEVIATION * torch.randn(*shape, 2, generator=generator)

    def clean(self, x_t: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The mean of x_0 given x_t = a x_0 + s eps. x_t: [N, 2]; a, s: [N] or scalar tensors."""
        a, s = a.reshape(-1, 1), s.reshape(-1, 1)
        variance = a**2 * DEVIATION**2 + s**2                                           # of x_t around a centre
        rest = x_t[:, None] - a[..., None] * self.centers                               # [N, 8, 2]
        share = torch.softmax(self.probabilities.log() - rest.square().sum(2) / (2 * variance), dim=1)
        means = self.centers + (a * DEVIATION**2 / variance)[..., None] * rest
        return (share[..., None] * means).sum(1)


class BatchedLinear(nn.Module):
    """A linear layer per seed: [S, B, in] -> [S, B, out]."""

    def __init__(self, seeds: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(seeds, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(seeds, 1, outputs).uniform_(-bound, bound))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


class PointNetwork(nn.Module):
    """Three hidden layers of 64 for [S, B, 2] points, with a GAN head on the last of them.

    time_everywhere: an embedding of the time is added in every layer; otherwise time features stand beside the point at
    the input, and nowhere else. head_layers: 1 or 2, of the head.
    """

    def __init__(self, seeds: int, num_steps: int = 1, time_everywhere: bool = False, head_layers: int = 2):
        super().__init__()
        features = 1 + 2 * FREQUENCIES
        self.seeds, self.time_everywhere = seeds, time_everywhere
        first = 2 if time_everywhere else 2 + features
        self.inner = nn.ModuleList(BatchedLinear(seeds, inputs, WIDTH) for inputs in (first, WIDTH, WIDTH))
        if time_everywhere:
            self.time = BatchedLinear(seeds, features, WIDTH)
            self.of_time = nn.ModuleList(BatchedLinear(seeds, WIDTH, WIDTH) for _ in self.inner)
        self.last = BatchedLinear(seeds, WIDTH, 2)
        self.head = nn.ModuleList(BatchedLinear(seeds, WIDTH, outputs) for outputs in [WIDTH] * (head_layers - 1) + [1])
        self.step_embedding = nn.Parameter(torch.zeros(seeds, num_steps, WIDTH))

    def forward(self, x: torch.Tensor, t: torch.Tensor, student_step: int | None = None):
        """x: [S B, 2]; t: [S B] places among the levels -> output [S B, 2], logits [S B]."""
        features = sines_of_times((t.float() / NUM_LEVELS).reshape(self.seeds, -1, 1))   # [S, B, 17]
        told = 0.0 if student_step is None else self.step_embedding[:, student_step:student_step + 1]
        h = x.reshape(self.seeds, -1, 2)
        if self.time_everywhere:
            embedding = F.silu(self.time(features) + told)                              # [S, B, 64]
            for layer, of_time in zip(self.inner, self.of_time):
                h = F.silu(layer(h) + of_time(embedding))
        else:
            first, *others = self.inner
            h = F.silu(first(torch.cat([h, features], dim=2)) + told)
            for layer in others:
                h = F.silu(layer(h))
        logits = h
        for number, layer in enumerate(self.head):
            logits = layer(F.silu(logits) if number else logits)
        return self.last(h).reshape(-1, 2), logits.reshape(-1)


@dataclass(frozen=True)
class Settings:
    """One row of the table: what is distilled how. Rates fall along a cosine to 5 %."""
    kind: str = "v"                                     # what the networks put out
    num_steps: int = 1
    update_ratio: int = 5                               # critic updates per student update
    gan_weight: float = 0.0
    gan_alone: bool = False
    critic_step: bool = False
    level_schedule: bool = False
    backward_simulation: bool = True
    conditioning_timestep: int = 999
    random_start: bool = False
    student_rate: float = RATE
    critic_rate: float = RATE
    iterations: int = 3000
    equal_weights: bool = False                         # a flawed teacher: it takes all centres for equally likely
    denoiser_iterations: int = 10_000                   # of what student and critic start from
    time_everywhere: bool = False                       # of the networks (`PointNetwork`)
    head_layers: int = 2
    batch: int = 256
    seeds: int = 3


GAN_CRITIC_WEIGHT = 1e-2


def cosine_rates(optimizer, iterations: int):
    """The rate of every optimizer step, from full to 5 %."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: cosine_share(n, iterations))


def minimise(optimizer, rates, loss: torch.Tensor, seeds: int) -> None:
    """One optimizer step; the loss is a mean over seeds, each seed's own gradient is that of its own mean."""
    optimizer.zero_grad()
    (loss * seeds).backward()
    optimizer.step()
    rates.step()


@functools.lru_cache(maxsize=8)                         # many rows of a table start alike
def trained_denoiser(seed: int, kind: str, equal_weights: bool, iterations: int, batch: int, seeds: int,
                     time_everywhere: bool, head_layers: int) -> dict:
    """The start of student and critic, weights by name: a denoiser of the teacher's law (`Settings` names the rest)."""
    torch.manual_seed(seed)
    law, process = CircleOfGaussians((1,) * 8 if equal_weights else WEIGHTS), CosineSteps()
    generator = torch.Generator().manual_seed(seed)
    network = PointNetwork(seeds, 1, time_everywhere, head_layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    rates = cosine_rates(optimizer, iterations)
    for _ in range(iterations):
        x_0 = law.draw((seeds * batch,), generator)
        t = torch.randint(NUM_LEVELS, (len(x_0),), generator=generator)
        eps, (a, s) = torch.randn(x_0.shape, generator=generator), process.levels(t)
        output, _ = network(noise_added(x_0, eps, a, s), t)
        minimise(optimizer, rates, losses.denoising_loss(output, training_target(kind, x_0, eps, a, s)), seeds)
    return network.state_dict()


class Distillation:
    """A run of the test bed: student, critic, both optimizers, one generator of random numbers."""

    def __init__(self, settings: Settings, seed: int = 0):
        self.settings, self.levels, self.truth = settings, CosineSteps().levels, CircleOfGaussians()
        self.teacher = CircleOfGaussians((1,) * 8) if settings.equal_weights else self.truth
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        how = {"time_everywhere": settings.time_everywhere, "head_layers": settings.head_layers}
        self.critic = PointNetwork(settings.seeds, settings.num_steps, **how)
        if not settings.random_start:
            start = trained_denoiser(seed, settings.kind, settings.equal_weights, settings.denoiser_iterations,
                                     settings.batch, settings.seeds, **how)
            self.critic.load_state_dict({**start, "step_embedding": self.critic.step_embedding.detach()})
        self.student = copy.deepcopy(self.critic)
        times = student_times(settings.num_steps)
        self.called_at = student_times(settings.num_steps, first=settings.conditioning_timestep)
        self.renoised_to = [self.levels(torch.tensor(t)) for t in times]
        self.times = times

    @property
    def num_points(self) -> int:
        """Points in a batch, of all seeds together."""
        return self.settings.seeds * self.settings.batch

    def normal(self, num_points: int | None = None) -> torch.Tensor:
        """Standard normal points [num_points, 2]."""
        return torch.randn(num_points or self.num_points, 2, generator=self.generator)

    def places(self, first: int = 0, last: int = NUM_LEVELS - 1) -> torch.Tensor:
        """Uniform places [N] among the levels, both ends included."""
        return torch.randint(first, last + 1, (self.num_points,), generator=self.generator)

    def denoising_loss(self, x, k):
        """The critic's loss on points x, of the student's step k or of no step."""
        t, eps = self.places(), self.normal(len(x))
        a, s = self.levels(t)
        output, _ = self.critic(noise_added(x, eps, a, s), t, k)
        return losses.denoising_loss(output, training_target(self.settings.kind, x, eps, a, s))

    def critic_clean(self, x_t, t, k) -> torch.Tensor:
        """The clean points that the critic predicts from x_t at time t: the shape of x_t. k: what it is told."""
        return clean_image(self.settings.kind, self.critic(x_t, t, k)[0], x_t, *self.levels(t))

    def logits(self, x, k):
        """The head's logits of points x, noised at levels drawn here."""
        t = self.places()
        return self.critic(noise_added(x, self.normal(len(x)), *self.levels(t)), t, k)[1]

    def generated(self, x_t, k: int) -> torch.Tensor:
        """The student's step k: x_t [N, 2] -> clean points [N, 2]. It is called at its conditioning timestep."""
        t = torch.full((len(x_t),), self.called_at[k])
        return clean_image(self.settings.kind, self.student(x_t, t)[0], x_t, *self.levels(t))

    def input_of(self, k: int) -> torch.Tensor:
        """Where step k starts in training: pure noise, the student's own chain or a noised true point, a point each."""
        noise = self.normal()
        if k and not self.settings.backward_simulation:
            return noise_added(self.truth.draw((self.num_points,), self.generator), noise, *self.renoised_to[k])
        renoises = [[self.normal()] for _ in range(k - 1)]
        levels = [[level] for level in self.renoised_to]
        return simulated_input(lambda xs, step: [self.generated(xs[0], step)], [self.normal()], renoises, [noise],
                               levels, k)[0]

    def student_loss(self, x, k, told) -> torch.Tensor:
        """Scalar: distribution matching and GAN loss of step k's generated points x. told: what the critic knows."""
        settings, loss = self.settings, 0.0
        if not settings.gan_alone:
            is_last = k == settings.num_steps - 1
            next_time = None if is_last or not settings.level_schedule else self.times[k + 1]
            t = self.places(*level_range(next_time=next_time))
            with torch.no_grad():
                a, s = self.levels(t)
                x_t = noise_added(x, self.normal(), a, s)
                gradient = losses.matching_gradient(x, self.critic_clean(x_t, t, told), self.teacher.clean(x_t, a, s))
            loss = loss + losses.matching_loss(x, gradient)
        if settings.gan_weight:
            loss = loss + settings.gan_weight * losses.gan_student_loss(self.logits(x, told))
        return loss

    def critic_loss(self, x, told) -> torch.Tensor:
        """Scalar: denoising and GAN loss of the critic on generated points x. told: as in `student_loss`."""
        loss = self.denoising_loss(x, told)
        if self.settings.gan_weight:
            real = self.truth.draw((self.num_points,), self.generator)
            loss = loss + GAN_CRITIC_WEIGHT * losses.gan_critic_loss(self.logits(x, told), self.logits(real, told))
        return loss

    def run(self, every: int = 0) -> list[dict]:
        """All iterations; distances every so many of them and at the end: [{"iteration", "distances" (per seed)}]."""
        settings, history = self.settings, []
        of_student = torch.optim.AdamW(self.student.parameters(), lr=settings.student_rate)
        of_critic = torch.optim.AdamW(self.critic.parameters(), lr=settings.critic_rate)
        student_rates = cosine_rates(of_student, settings.iterations // settings.update_ratio)
        critic_rates = cosine_rates(of_critic, settings.iterations)
        for iteration in range(settings.iterations):
            if every and iteration % every == 0:
                history.append({"iteration": iteration, "distances": self.distances()})
            k = int(torch.randint(settings.num_steps, (), generator=self.generator))
            told = k if settings.critic_step else None
            x_t = self.input_of(k)
            if iteration % settings.update_ratio == 0:
                x = self.generated(x_t, k)
                minimise(of_student, student_rates, self.student_loss(x, k, told), settings.seeds)
                x = x.detach()
            else:
                with torch.no_grad():
                    x = self.generated(x_t, k)
            minimise(of_critic, critic_rates, self.critic_loss(x, told), settings.seeds)
        history.append({"iteration": settings.iterations, "distances": self.distances()})
        return history

    @torch.no_grad()
    def draw(self, num_points: int, generator) -> torch.Tensor:
        """Points of every step of the student's chain: [N steps, S, num_points, 2], the last step's are its samples."""
        seeds, drawn = self.settings.seeds, []
        x_t = torch.randn(seeds * num_points, 2, generator=generator)
        for k in range(self.settings.num_steps):
            if k:
                x_t = noise_added(drawn[-1], torch.randn(x_t.shape, generator=generator), *self.renoised_to[k])
            drawn.append(self.generated(x_t, k))
        return torch.stack(drawn).reshape(self.settings.num_steps, seeds, num_points, 2)

    def distances(self, of_mixture: bool = False) -> list[float]:
        """Sliced Wasserstein distance to the truth per seed; of_mixture: of the points of all steps together."""
        generator = torch.Generator().manual_seed(1)
        drawn = self.draw(NUM_SCORED, generator)
        points = drawn.transpose(0, 1).flatten(1, 2)[:, torch.randperm(NUM_SCORED * len(drawn), generator=generator)]
        points = points[:, :NUM_SCORED] if of_mixture else drawn[-1]
        return [sliced_wasserstein_1(p, self.truth.draw((NUM_SCORED,), generator)) for p in points]


NUM_SCORED = 10_000
NUM_DIRECTIONS = 64


def sliced_wasserstein_1(points: torch.Tensor, others: torch.Tensor) -> float:
    """The mean over 64 even directions of the Wasserstein-1 distance of the projections. Both [N, 2]."""
    angles = torch.arange(NUM_DIRECTIONS) * (math.pi / NUM_DIRECTIONS)
    directions = torch.stack([angles.cos(), angles.sin()])                              # [2, directions]
    first, second = (torch.sort(p @ directions, dim=0).values for p in (points, others))
    return float((first - second).abs().mean())


def exact_ddim(truth: CircleOfGaussians, num_calls: int, num_points: int, generator) -> torch.Tensor:
    """Points by DDIM with the exact teacher: [num_points, 2]."""
    process = CosineSteps()
    levels = [process.levels(t) for t in process.uniform_path(num_calls)]
    x = torch.randn(num_points, 2, generator=generator)
    for here, there in zip(levels, levels[1:]):
        x = step(x, truth.clean(x, *here), *here, *there)
    return x
