"""Scaled dot-product attention, by the fastest way to the same numbers."""
import torch
import torch.nn.functional as F

MOST_STORED_TOKENS = 1024       # up to here the matrix of a training step is stored where that is faster


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1).

    q: [B, heads, T, d]; k, v: [B, heads, tokens, d] -> [B, heads, T, d]. The T x tokens matrix is not stored, but for
    training in bfloat16 on a CPU with few tokens: there the backward pass of the fused kernel takes several times as
    long as products of the stored matrix.
    """
    if (torch.is_grad_enabled() and q.device.type == "cpu" and v.dtype == torch.bfloat16
            and max(q.shape[-2], k.shape[-2]) <= MOST_STORED_TOKENS):
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)
