"""The critic: a copy of the teacher that denoises the student's images, with a GAN head where its encoder ends."""
import torch
import torch.nn as nn

from networks.adm import CHANNELS_PER_GROUP, MAX_GROUPS

HEAD_SIZE = 4                                           # pixels a side before the last convolution


def gan_head(channels: int, size: int, num_groups: int | None = None) -> nn.Sequential:
    """Convolutions from features [B, channels, size, size] to a logit [B, 1, 1, 1].

    4x4 convolutions of stride 2 halve the size to less than eight pixels a side. A convolution without padding takes
    the rest. Each is followed by GroupNorm and SiLU. A 1x1 convolution is the last layer. num_groups: where left out,
    the largest divisor of the channels up to min(32, channels / 4). With one channel in a group the last norm would see
    one value and put out a constant.
    """
    most = max(1, min(MAX_GROUPS, channels // CHANNELS_PER_GROUP))
    num_groups = num_groups or next(number for number in range(most, 0, -1) if channels % number == 0)
    layers = []
    while size >= 2 * HEAD_SIZE:
        layers += [nn.Conv2d(channels, channels, 4, stride=2, padding=1), nn.GroupNorm(num_groups, channels), nn.SiLU()]
        size //= 2
    layers += [nn.Conv2d(channels, channels, size), nn.GroupNorm(num_groups, channels), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def feature_map(features: torch.Tensor) -> torch.Tensor:
    """Features as a map: [B, C, H, W] itself; a square of tokens [B, N, C] -> [B, C, sqrt(N), sqrt(N)]."""
    if features.ndim == 4:
        return features
    B, N, C = features.shape
    side = int(N**0.5)
    return features.transpose(1, 2).reshape(B, C, side, side)


class _EncoderDone(Exception):
    """Raised when the head has its features, to skip the rest of the network."""


class Critic(nn.Module):
    """network(x, t, ...) with a logit beside its output, and with knowledge of the student's step.

    network: a copy of the teacher; bottleneck: the name of its module whose output the head reads ([B, C, H, W], or the
    tokens [B, N, C] of a transformer's middle block); channels, size: of that output as a map; time_embedding: the name
    of the module whose output [B, E] the step's embedding is added to; embedding_width: E; num_student_steps: more than
    one for a critic that knows the step. head: False for one without GAN. num_tokens: how many of the tokens the head
    reads, the first ones; all where left out.
    """

    def __init__(self, network: nn.Module, bottleneck: str, channels: int, size: int, time_embedding: str | None = None,
                 embedding_width: int = 0, num_student_steps: int = 1, head: bool = True,
                 num_tokens: int | None = None):
        super().__init__()
        self.network, self.num_tokens = network, num_tokens
        self.head = gan_head(channels, size) if head else None
        self.step_embedding = nn.Embedding(num_student_steps, embedding_width) if num_student_steps > 1 else None
        if self.step_embedding is not None:
            nn.init.zeros_(self.step_embedding.weight)          # at first the critic is the teacher
            network.get_submodule(time_embedding).register_forward_hook(self._add_step)
        if head:
            network.get_submodule(bottleneck).register_forward_hook(self._keep_features)
        self._bottleneck, self._student_step, self._features = bottleneck, None, None
        self._stops = self._is_called = False       # a shared network is called by others too

    def blocks_to_shard(self) -> list[nn.Module]:
        """What FSDP2 gathers one after the other: the network's own, but for the one that the head reads. A pass that
        ends there would leave it gathered."""
        if not hasattr(self.network, "blocks_to_shard"):
            return []
        read = self.network.get_submodule(self._bottleneck)
        return [block for block in self.network.blocks_to_shard()
                if all(module is not read for module in block.modules())]

    def _add_step(self, module, inputs, output):
        if self._student_step is None or not self._is_called:
            return output
        return output + self.step_embedding(self._student_step).to(output.dtype)

    def _keep_features(self, module, inputs, output):
        if not self._is_called:
            return
        self._features = output if self.num_tokens is None else output[:, :self.num_tokens]
        if self._stops:
            raise _EncoderDone

    def forward(self, *inputs, student_step: torch.Tensor | None = None, output: bool = True, logits: bool = True):
        """(output, logits): the network's own output, and logits [B]; None for what `output` or `logits` leaves out,
        and for the logits of a critic without a head.

        inputs: the network's own: x, t and conditions, or LIFT's images and timesteps. student_step: int64 [B], the
        step k whose images x are; None where it is not told. Without `output` the network's decoder is skipped.
        """
        self._student_step = student_step if self.step_embedding is not None else None
        self._stops, self._is_called, found = not output, True, None
        try:
            found = self.network(*inputs)
        except _EncoderDone:
            pass
        finally:
            self._is_called = False
        features, self._features, self._stops = self._features, None, False
        # A mean of one value each, since FSDP2 wants no view of its outputs.
        return found, self.head(feature_map(features)).mean((1, 2, 3)) if logits and self.head is not None else None
