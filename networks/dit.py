"""The Diffusion Transformer (Peebles and Xie 2023) as a velocity field for flow matching.

An image becomes a sequence of patches; blocks of attention and MLP are modulated by time and class (adaLN-Zero,
section 3.2); a last layer turns every token back into its patch. Parameters are named as in the published PyTorch DiT
and SiT weights, so that `load_published` can read them.
"""
import argparse
import math
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import InputError
from engine.files import SAFETENSORS, load_safetensors, load_torch
from networks.affine_velocity import AffineVelocity
from networks.attention import attend
from networks.presets import OUTPUTS, PRESETS, TIME_SCALE

TIME_FEATURES = 256
LEAST_NOISE = 0.05              # an output that is the clean image is divided by no less than this share of noise
NORM_EPS = 1e-6
FIRST_WEIGHT = "x_embedder.proj.weight"             # by which published weights are told


def position_embedding(side: int, width: int, spacing: int = 1) -> torch.Tensor:
    """Fixed sines and cosines of each token's place, tokens row by row: float32 [side * side, width].

    Row r, column c: [sin c w, cos c w, sin r w, cos r w] with w_k = 10000^(-k / (width / 4)), k < width / 4.
    spacing: how many tokens of a finer grid one token covers in each direction; its place is the middle of these.
    """
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = (torch.arange(side, dtype=torch.float64) + 0.5) * spacing - 0.5               # 0, 1, 2 ... with spacing 1
    angles = places[:, None] * frequencies                                                # [side, width / 4]
    one = torch.cat([angles.sin(), angles.cos()], dim=1)                                  # [side, width / 2]
    columns, rows = one.repeat(side, 1), one.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()


def time_features(t: torch.Tensor, scale: float = TIME_SCALE) -> torch.Tensor:
    """Cosines, then sines, of t * scale * 10000^(-k / 128), k < 128: [B] -> float32 [B, 256].

    Angles reach 10^4, so the caller keeps this outside autocast: bfloat16 would move them by up to 20 radians.
    """
    half = TIME_FEATURES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = (t.float() * scale)[:, None] * torch.exp(-math.log(10_000.0) * exponents)    # [B, 128]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class PatchEmbedding(nn.Module):
    """Each p x p patch to one token, by a convolution of stride p."""

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] -> [B, T, D], T = (S / p)^2, row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Sinusoidal features, then linear, SiLU, linear; float32 under autocast too."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t: [B] -> [B, D]."""
        with torch.autocast(t.device.type, enabled=False):
            return self.mlp(time_features(t, self.scale))


class ClassEmbedding(nn.Module):
    """A row per class, and row `num_classes` for the null class, which stands for an unknown label."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """labels: int [B], 0...num_classes -> [B, D]."""
        return self.embedding_table(labels)


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """LN(x) (1 + scale) + shift, the norm without parameters. x: [B, T, D]; shift, scale: [B, 1, D]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


class Modulation(nn.Sequential):
    """SiLU and one linear layer: the condition [B, D] to `count` tensors [B, 1, D]."""

    def __init__(self, width: int, count: int):
        super().__init__(nn.SiLU(), nn.Linear(width, count * width))
        self.count = count

    def forward(self, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(condition)[:, None].chunk(self.count, dim=2)


class Attention(nn.Module):
    """Multi-head self-attention; with `qk_norm`, queries and keys are normed head by head (Dehghani et al. 2023)."""

    def __init__(self, width: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(width // num_heads, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads, eps=NORM_EPS) if qk_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))                         # [B, heads, T, D / heads]
        x = attend(self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    """Linear, GELU (tanh), linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """x += gate attention(LN(x) (1 + scale) + shift), then the MLP likewise (adaLN-Zero)."""

    def __init__(self, width: int, num_heads: int, mlp_hidden: int, qk_norm: bool):
        super().__init__()
        self.attn = Attention(width, num_heads, qk_norm)
        self.mlp = MLP(width, mlp_hidden)
        self.adaLN_modulation = Modulation(width, 6)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: [B, T, D]; condition: [B, D] -> [B, T, D]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(condition)
        x = torch.addcmul(x, gate_1, self.attn(modulated(x, shift_1, scale_1)))
        return torch.addcmul(x, gate_2, self.mlp(modulated(x, shift_2, scale_2)))


class FinalLayer(nn.Module):
    """LN, modulation, and the linear layer to a patch's numbers."""

    def __init__(self, width: int, numbers_per_patch: int):
        super().__init__()
        self.linear = nn.Linear(width, numbers_per_patch)
        self.adaLN_modulation = Modulation(width, 2)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: [B, T, D]; condition: [B, D] -> [B, T, p p C], in the order row, column, channel."""
        return self.linear(modulated(x, *self.adaLN_modulation(condition)))


def check_sizes(sides: list[int], patch_size: int, hidden_size: int, num_heads: int, mlp_ratio: float,
                output: str) -> None:
    """Raises InputError for sides or widths that do not divide, for an MLP without a hidden number, and for an unknown
    output. sides: of images or latents, the coarse one last."""
    if sides[-1] % patch_size:
        which = "coarse" if len(sides) > 1 else "image"
        raise InputError(f"--patch_size: found {patch_size}, expected a divisor of the {which} side {sides[-1]}")
    if hidden_size % 4 or hidden_size % num_heads:
        raise InputError(f"--hidden_size: found {hidden_size} with {num_heads} heads, expected a multiple of 4 and of "
                         "--num_heads")
    if int(hidden_size * mlp_ratio) < 1:
        raise InputError(f"--mlp_ratio: found {mlp_ratio:g} with --hidden_size {hidden_size}, expected at least "
                         f"{1 / hidden_size:.3g}, so that the MLP has a hidden number")
    if output not in OUTPUTS:
        raise InputError(f"--output: found {output!r}, expected one of {', '.join(OUTPUTS)}")


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Set the first weights. Matrices are Xavier-uniform: q, k and v as three, the patch embedding as one [D, p p C].
    Biases are 0, the class table and the time layers N(0, 0.02^2). Modulations and last layers are 0, so that every
    block starts as the identity."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Attention):
            for matrix in module.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(matrix)
        elif isinstance(module, ClassEmbedding):
            nn.init.normal_(module.embedding_table.weight, std=0.02)
        elif isinstance(module, TimeEmbedding):
            for layer in (module.mlp[0], module.mlp[2]):
                nn.init.normal_(layer.weight, std=0.02)
        elif isinstance(module, Modulation):
            nn.init.zeros_(module[1].weight)
        elif isinstance(module, FinalLayer):
            nn.init.zeros_(module.linear.weight)


def unpatchify(tokens: torch.Tensor, patch_size: int, channels: int) -> torch.Tensor:
    """[B, T, p p C], each token in the order row, column, channel -> [B, C, S, S] with S = p sqrt(T)."""
    side = math.isqrt(tokens.shape[1])
    x = tokens.reshape(-1, side, side, patch_size, patch_size, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, side * patch_size, side * patch_size)


def velocity_of(kind: str, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor,
                affine: AffineVelocity | None = None) -> torch.Tensor:
    """The velocity that a last layer's output means, by kind: [B, C, S, S].

    velocity: the output itself. clean: the output is the clean image, so (output - x_t) / max(1 - t, 0.05). residual:
    the best affine velocity, `affine`, plus the output in units of its deviation. t: [B], 0 noise ... 1 image.
    """
    if kind == "clean":
        return (output - x_t) / (1 - t).clamp(min=LEAST_NOISE).reshape(-1, 1, 1, 1)
    return affine.velocity(output, x_t, t) if kind == "residual" else output


class DiT(nn.Module):
    """A class-conditional velocity field of square images or latents.

    image_size: side in pixels or latent cells, a multiple of patch_size. hidden_size: a multiple of 4 and of num_heads.
    num_classes: K; the null class has number K. time_scale: what flow time is multiplied by before its frequencies.
    output: what the layers put out, see `velocity_of`; the module itself puts out a velocity always.
    Raises InputError where sizes do not divide.
    """

    def __init__(self, image_size: int, channels: int, patch_size: int, hidden_size: int, depth: int, num_heads: int,
                 mlp_ratio: float, num_classes: int, *, qk_norm: bool = False, time_scale: float = TIME_SCALE,
                 output: str = "velocity"):
        super().__init__()
        check_sizes([image_size], patch_size, hidden_size, num_heads, mlp_ratio, output)
        self.config = dict(image_size=image_size, channels=channels, patch_size=patch_size, hidden_size=hidden_size,
                           depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio, num_classes=num_classes,
                           qk_norm=qk_norm, time_scale=time_scale, output=output)
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.hidden_size, self.num_classes, self.output = hidden_size, num_classes, output
        self.x_embedder = PatchEmbedding(channels, patch_size, hidden_size)
        self.t_embedder = TimeEmbedding(hidden_size, time_scale)
        self.y_embedder = ClassEmbedding(num_classes, hidden_size)
        self.register_buffer("pos_embed", position_embedding(image_size // patch_size, hidden_size), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, int(hidden_size * mlp_ratio), qk_norm)
                                    for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * channels)
        self.affine = AffineVelocity(image_size, channels) if output == "residual" else None
        initialize(self)

    def fit(self, images) -> None:
        """Fit the affine velocity of a residual output to images, uint8 [N, C, S, S]; other outputs need nothing."""
        if self.affine is not None:
            self.affine.fit(images)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The velocity x_0 - eps. x_t: [B, C, S, S]; t: [B], 0 noise ... 1 image; labels: int [B], 0...K, or None for
        the null class K -> [B, C, S, S], float32 under autocast too."""
        return velocity_of(self.output, self.last_layer(x_t, self.t_embedder(t), labels), x_t, t, self.affine)

    def blocks_to_shard(self) -> list[nn.Module]:
        """What FSDP2 gathers one after the other."""
        return list(self.blocks)

    def last_layer(self, x_t: torch.Tensor, of_time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """What the last layer puts out: [B, C, S, S]. of_time: the embedding of the time, [B, D]; labels: as in
        `forward`."""
        if labels is None:
            labels = torch.full((len(x_t),), self.num_classes, device=x_t.device)
        x = self.x_embedder(x_t) + self.pos_embed                                          # [B, T, D]
        condition = of_time + self.y_embedder(labels)                                      # [B, D]
        for block in self.blocks:
            x = block(x, condition)
        return unpatchify(self.final_layer(x, condition), self.patch_size, self.channels).to(x_t.dtype)


def least_error(model) -> float:
    """A lower bound of the error of a `velocity` output, whatever its weights: 1 - D / n for tokens of n = p p C
    numbers, 0 if D >= n.

    model: a DiT, or one of two scales. A token's last layer has rank D at most, and the velocity's covariance is at
    least the noise's, the identity.
    """
    numbers = model.patch_size**2 * model.channels
    return max(0.0, 1 - model.hidden_size / numbers) if model.output == "velocity" else 0.0


def published_state(path) -> dict[str, torch.Tensor]:
    """The state dict in a published checkpoint: a plain one, or of a training run with `ema` and `model` in it.

    Such a run stores its options as an argparse.Namespace, which this one load accepts. A file that ends in
    .safetensors is a plain state dict. Raises InputError.
    """
    if Path(path).suffix == SAFETENSORS:
        return state_in(load_safetensors(path), path)
    return state_in(load_torch(path, "file of published DiT or SiT weights", accepted=[argparse.Namespace]), path)


def is_published(content) -> bool:
    """Whether that is what a file of published DiT or SiT weights holds."""
    parts = [content, content.get("ema"), content.get("model")] if isinstance(content, dict) else []
    return any(isinstance(part, dict) and FIRST_WEIGHT in part for part in parts)


def state_in(content, path) -> dict[str, torch.Tensor]:
    """The state dict in what a file holds, the averaged one of a training run. Raises InputError for one without."""
    state = content.get("ema", content.get("model", content)) if isinstance(content, dict) else {}
    if FIRST_WEIGHT not in state:
        raise InputError(f"{path}: has no {FIRST_WEIGHT}; expected published DiT or SiT weights")
    return state


def load_published(path, num_heads: int | None = None) -> DiT:
    """A DiT with published PyTorch DiT or SiT weights, its sizes taken from their shapes.

    num_heads: the shapes do not tell it; None takes that of the preset with the same hidden size. The file's
    `pos_embed` is compared with ours and dropped. Of 2 C output channels (mean and variance) the first C are taken.
    Raises InputError.
    """
    state = dict(published_state(path))
    hidden_size, channels, patch_size, _ = state["x_embedder.proj.weight"].shape
    positions = state.pop("pos_embed", None)
    if num_heads is None:
        of_presets = {preset["hidden_size"]: preset["num_heads"] for preset in PRESETS.values()}
        if hidden_size not in of_presets:
            raise InputError(f"{path}: hidden size {hidden_size} is none of the presets'; give the number of heads")
        num_heads = of_presets[hidden_size]
    try:
        side = math.isqrt(positions.shape[-2])
        model = DiT(side * patch_size, channels, patch_size, hidden_size,
                    depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
                    num_heads=num_heads, mlp_ratio=len(state["blocks.0.mlp.fc1.weight"]) / hidden_size,
                    num_classes=len(state["y_embedder.embedding_table.weight"]) - 1,
                    qk_norm="blocks.0.attn.q_norm.weight" in state, time_scale=1.0)
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            by_channel = state[name].unflatten(0, (patch_size**2, -1))                     # [p p, C or 2 C, ...]
            if by_channel.shape[1] == 2 * channels:
                state[name] = by_channel[:, :channels].flatten(0, 1)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: is no DiT in the published layout ({reason})") from error
    if not torch.allclose(positions.reshape_as(model.pos_embed).float(), model.pos_embed, atol=1e-5):
        raise InputError(f"{path}: its pos_embed is not the fixed sines and cosines of {side} x {side} tokens; "
                         "expected published DiT or SiT weights")
    return model
