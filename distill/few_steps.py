"""The few levels of a student's calls, the chain of its steps in training, and the levels that its losses draw."""
import torch

from distill.options import NUM_LEVELS
from scheduler import DiscreteSteps, NoiseProcess, Sigma, noise_added


def student_times(num_steps: int, first: int | None = None) -> list[int]:
    """The places of a student's steps among the levels, noisiest first: 999 - k (1000 // N), k = 0 ... N - 1.

    first: another place for the first call (the conditioning timestep). The input of this call stays pure noise.
    """
    times = [NUM_LEVELS - 1 - k * (NUM_LEVELS // num_steps) for k in range(num_steps)]
    return times if first is None else [first, *times[1:]]


def noised_to(levels, xs, noises) -> list[torch.Tensor]:
    """Images per scale, noised to a level each: (a, s) per scale."""
    return [noise_added(x, noise, *level) for x, noise, level in zip(xs, noises, levels, strict=True)]


def simulated_input(student, starts, renoises, noises, levels, num_calls: int) -> list[torch.Tensor]:
    """The noised images, per scale, that step `num_calls` of the student starts from, by its own chain (DMD2, section
    4.5), with a tensor [B, ...] per scale in every list.

    student(xs, k) -> clean images of step k, called without gradient. starts: what the chain begins with; noises: the
    noise of the step to be trained; renoises: a list like it per step between. levels: per step, (a, s) per scale.
    num_calls = 0 gives `noises` themselves: step 0 always starts from pure noise.
    """
    if num_calls == 0:
        return noises
    xs = starts
    with torch.no_grad():
        for k in range(num_calls):
            xs = noised_to(levels[k + 1], student(xs, k), noises if k + 1 == num_calls else renoises[k])
    return xs


def level_range(min_share: float = 0.02, max_share: float = 0.98, next_time: int | None = None) -> tuple[int, int]:
    """First and last place that distribution matching draws from, both included.

    next_time: the student's next level. The next step noises its input again, which hides everything below that level.
    So with a level schedule only places above it count. If none is left, both ends are the last place.
    """
    first, last = (min(int(share * NUM_LEVELS), NUM_LEVELS - 1) for share in (min_share, max_share))
    return (first if next_time is None else min(max(first, next_time + 1), last)), last


def times_of_places(process: NoiseProcess) -> torch.Tensor:
    """The process's own time at every place, cleanest first: [NUM_LEVELS]. DiscreteSteps has whole timesteps."""
    if isinstance(process, DiscreteSteps):
        return torch.arange(NUM_LEVELS)
    if isinstance(process, Sigma):
        return process.karras_sigmas(NUM_LEVELS)
    return process.uniform_path(NUM_LEVELS)[:-1].flip(0)
