"""Arithmetic of a network, counted without doing it."""
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def gflop_done_by(call: Callable[[], object]) -> float:
    """As `gflop_of`, of a call that is made in earnest, on numbers that may decide what it does."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        call()
    return counted.get_total_flops() / 1e9


@torch.no_grad()
def gflop_of_evaluation(denoiser, device="cpu") -> float:
    """10^9 multiplications and additions of a denoiser's prediction for one image, half-way from noise to image."""
    xs = [torch.zeros(1, *shape, device=device) for shape in denoiser.shapes]
    ts = [process.uniform_path(2)[1:2].to(device) for process in denoiser.processes]
    return gflop_done_by(lambda: denoiser.clean(xs, [t.float() if t.is_floating_point() else t for t in ts]))


def gflop_of(call: Callable[[], object]) -> float:
    """10^9 multiplications and additions in the convolutions and matrix products of call(). The call builds a network
    and its inputs and runs it; tensors hold no numbers there, so any size is counted at once."""
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        call()
    return counted.get_total_flops() / 1e9
