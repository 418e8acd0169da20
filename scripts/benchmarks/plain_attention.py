"""Attention as a straightforward implementation writes it: what the benchmarks compare with."""
import math
import sys
import types
from pathlib import Path

import torch

from networks.unet import NUM_HEADS, AttentionBlock


def attention_that_stores_its_matrix(self, x):
    """The plain form of AttentionBlock.forward."""
    B, C, H, W = x.shape
    q, k, v = self.qkv(self.norm(x)).reshape(B, 3, NUM_HEADS, C // NUM_HEADS, H * W).transpose(-1, -2).unbind(1)
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(C // NUM_HEADS), dim=-1)
    return x + self.proj((weights @ v).transpose(-1, -2).reshape(B, C, H, W))


def store_attention_matrices(model: torch.nn.Module) -> torch.nn.Module:
    """Give every attention block of a model that form; returns the model."""
    for module in model.modules():
        if isinstance(module, AttentionBlock):
            module.forward = types.MethodType(attention_that_stores_its_matrix, module)
    return model
