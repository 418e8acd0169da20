"""Guidance whose difference is used again: exact where it does not turn, counted, and of its batch alone."""
import pytest
import torch

from engine.denoiser import Denoiser, Guided, numbers_of
from engine.sampling import denoise_along
from scheduler import CosineSteps, LinearFlow, per_image

START = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))


class Shifted(Denoiser):
    """Of its classes' clean images, class 0 is where no class is, class 1 is away by a velocity of `turn`(time)."""

    num_classes = 2

    def __init__(self, process, turn=lambda number: 1.0):
        self.processes, self.shapes, self.turn, self.asked = [process], [(1, 2, 2)], turn, []

    def clean(self, xs, ts, labels=None):
        [x], [t] = xs, ts
        self.num_evaluations += len(x)
        self.asked.append((numbers_of(ts)[0], len(x)))
        a, s = (per_image(level, x) for level in self.processes[0].levels(t, x.dtype))
        away = 0 if labels is None else per_image((labels == 1).to(x.dtype), x)
        return [0.5 * x + away * self.turn(numbers_of(ts)[0]) * s / (a + s)]


def drawn(denoiser, num_steps=10, labels=(0, 1, 1, 0), start=START, solver="ddim"):
    return denoise_along(denoiser, denoiser.processes[0].uniform_path(num_steps), [start], labels=torch.tensor(labels),
                         clip=False, solver=solver)


@pytest.mark.parametrize("process", [LinearFlow(), CosineSteps()])
@pytest.mark.parametrize("solver", ["ddim", "multistep", "midpoint", "heun"])
def test_a_difference_that_does_not_turn_is_the_same_used_again(process, solver):
    plain = drawn(Guided(Shifted(process), 3.0), solver=solver)
    again = drawn(Guided(Shifted(process), 3.0, reuse=1000.0), solver=solver)
    assert torch.allclose(again.xs[0], plain.xs[0], atol=1e-5)
    assert not torch.allclose(plain.xs[0][1], drawn(Guided(Shifted(process), 1.0), solver=solver).xs[0][1], atol=0.1)
    num_halves = drawn(Guided(Shifted(process), 1.0), solver=solver).num_model_calls
    assert plain.num_model_calls == 2 * num_halves
    # A flow starts at a log SNR of minus infinity, from where any rise is too long; a diffusion does not.
    assert again.num_model_calls == num_halves + (2 if isinstance(process, LinearFlow) else 1)


def test_it_is_measured_anew_when_log_snr_has_risen():
    flow, reuse = LinearFlow(), 1.0
    shifted = Shifted(flow, turn=lambda t: 1.0 + t)
    found = drawn(Guided(shifted, 3.0, reuse=reuse), num_steps=20)
    measured = [t for t, num in shifted.asked if num == 2 * len(START)]
    expected, last = [], -torch.inf
    for t in flow.uniform_path(20)[:-1]:
        log_snr = float(flow.log_snr(t))
        if t == 0 or log_snr - last > reuse:
            expected.append(float(t))
            last = log_snr
    assert measured == expected and 2 < len(measured) < 20
    assert found.num_model_calls == 20 + len(measured)
    exact, rough = (drawn(Guided(Shifted(flow, lambda t: 1.0 + t), 3.0, reuse=r), 20).xs[0] for r in (0.0, 1000.0))
    assert 0 < (found.xs[0] - exact).abs().max() < 0.5 * (rough - exact).abs().max()


def test_a_difference_is_of_its_batch_alone():
    """The second batch has other labels, and starts where the difference of the first would still hold."""
    guided, first = Guided(Shifted(CosineSteps()), 3.0, reuse=1000.0), (1, 1, 1, 1)
    drawn(guided, labels=first)
    assert torch.equal(drawn(guided, labels=(0, 1, 0, 1)).xs[0],
                       drawn(Guided(Shifted(CosineSteps()), 3.0, reuse=1000.0), labels=(0, 1, 0, 1)).xs[0])


def test_it_is_kept_through_steps_without_guidance_and_by_guidance_of_another():
    flow = LinearFlow()
    interval = tuple(float(flow.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (0.3, 0.7))
    guided = Guided(Shifted(flow), 3.0, interval, 1000.0).around(Shifted(flow))
    assert drawn(guided).num_model_calls == 10 + 1
    assert torch.allclose(drawn(guided).xs[0], drawn(Guided(Shifted(flow), 3.0, interval)).xs[0], atol=1e-5)
