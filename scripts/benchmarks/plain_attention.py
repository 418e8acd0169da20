"""Attention as a straightforward implementation writes it: what the benchmarks compare with."""
import math
import types

import torch
import torch.nn.functional as F

from networks import dit
from networks.unet import AttentionBlock


def attention_that_stores_its_matrix(self, x):
    """The plain form of AttentionBlock.forward."""
    B, C, H, W = x.shape
    qkv = self.qkv(self.norm(x)).reshape(B, 3, self.num_heads, C // self.num_heads, H * W)
    q, k, v = qkv.transpose(-1, -2).unbind(1)
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(C // self.num_heads), dim=-1)
    return x + self.proj((weights @ v).transpose(-1, -2).reshape(B, C, H, W))


def store_attention_matrices(model: torch.nn.Module) -> torch.nn.Module:
    """Give every attention block of a model that form; returns the model."""
    for module in model.modules():
        if isinstance(module, AttentionBlock):
            module.forward = types.MethodType(attention_that_stores_its_matrix, module)
    return model


def plain_dit(model: torch.nn.Module) -> torch.nn.Module:
    """Give a DiT the plain form of its blocks: attention that stores its matrix, and each norm, modulation and gate as
    an operation of its own; returns the model."""
    def modulated(x, shift, scale):
        return F.layer_norm(x, x.shape[-1:], eps=dit.NORM_EPS) * (1 + scale) + shift

    def attention(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D // self.num_heads), dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, D))

    def block(self, x, condition):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(condition)
        x = x + gate_1 * self.attn(modulated(x, shift_1, scale_1))
        return x + gate_2 * self.mlp(modulated(x, shift_2, scale_2))

    def final_layer(self, x, condition):
        return self.linear(modulated(x, *self.adaLN_modulation(condition)))

    forwards = {dit.Attention: attention, dit.Block: block, dit.FinalLayer: final_layer}
    for module in model.modules():
        if type(module) in forwards:
            module.forward = types.MethodType(forwards[type(module)], module)
    return model
