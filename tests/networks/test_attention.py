"""Attention: both ways of computing it, and which one is taken."""
import math

import pytest
import torch
import torch.nn.functional as F

from networks import attention
from networks.attention import attend


def parts(dtype, tokens=5, others=5):
    """q [2, 3, tokens, 4], k and v [2, 3, others, 4], whose gradients are asked for."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, number, 4).to(dtype).requires_grad_() for number in (tokens, others, others)]


def output_and_gradients(q, k, v):
    """What `attend` puts out, and its gradients where the output is multiplied by 1, 2, 3, ..."""
    out = attend(q, k, v)
    weights = torch.arange(out.numel(), dtype=torch.float32).reshape(out.shape) / out.numel()
    return [out.detach().float(), *(g.float() for g in torch.autograd.grad((out.float() * weights).sum(), (q, k, v)))]


@pytest.mark.parametrize("others", [5, 1, 7])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_are_those_of_the_formula(dtype, tolerance, others):
    q, k, v = parts(dtype, others=others)
    exact = [p.detach().double().requires_grad_() for p in (q, k, v)]
    out = torch.softmax(exact[0] @ exact[1].transpose(-1, -2) / math.sqrt(4), dim=-1) @ exact[2]
    weights = torch.arange(out.numel()).double().reshape(out.shape) / out.numel()
    expected = [out.detach(), *torch.autograd.grad((out * weights).sum(), exact)]
    for found, value in zip(output_and_gradients(q, k, v), expected):
        assert (found - value).norm() <= tolerance * max(value.norm(), 1)


def fused_is_used(monkeypatch, *tensors) -> bool:
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args: calls.append(args) or args[2])
    attend(*tensors)
    return bool(calls)


def test_the_matrix_is_stored_only_where_bfloat16_is_trained_on_a_cpu_with_few_tokens(monkeypatch):
    assert not fused_is_used(monkeypatch, *parts(torch.bfloat16))
    assert fused_is_used(monkeypatch, *parts(torch.float32))
    with torch.no_grad():
        assert fused_is_used(monkeypatch, *parts(torch.bfloat16))
    monkeypatch.setattr(attention, "MOST_STORED_TOKENS", 4)
    assert fused_is_used(monkeypatch, *parts(torch.bfloat16, tokens=4, others=5))
    assert fused_is_used(monkeypatch, *parts(torch.bfloat16, tokens=5, others=4))
    assert not fused_is_used(monkeypatch, *parts(torch.bfloat16, tokens=4, others=4))
