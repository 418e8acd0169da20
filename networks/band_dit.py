"""A Diffusion Transformer of one image in two parts (`networks.bands`), each with a flow time of its own.

It is a DiT with one embedding more. Only the difference of this embedding between the two times counts, so at equal
times it is the DiT itself, weight for weight.
"""
import torch

from networks.bands import BandDenoiser, check_side, weighted
from networks.dit import LEAST_NOISE, DiT, TimeEmbedding, initialize
from scheduler import LinearFlow


class BandDiT(DiT):
    """A class-conditional velocity field of square images whose two parts have times of their own.

    image_size: even. The other arguments are those of `networks.dit.DiT`. Raises InputError.
    """

    def __init__(self, image_size: int, *args, bands: bool = True, **options):
        check_side(image_size, "--image_size")
        super().__init__(image_size, *args, **options)
        self.config["bands"] = bands
        self.lead_embedder = TimeEmbedding(self.hidden_size, self.config["time_scale"])
        initialize(self.lead_embedder)
        self.lead_embedder.mlp[-1].bias = None                  # a difference does not know it

    def forward(self, x_t: torch.Tensor, ts, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The velocity x_0 - eps. x_t: [B, C, S, S]; ts: [B] of the fine part and of the coarse one, 0 noise ... 1
        image; labels: as in `DiT` -> [B, C, S, S]."""
        t_64, t_32 = ts
        of_time = self.t_embedder(t_64) + (self.lead_embedder(t_32) - self.lead_embedder(t_64))
        output = self.last_layer(x_t, of_time, labels)
        if self.output == "velocity":
            return output
        if self.output == "residual":
            return self.affine.velocity_of_bands(output, x_t, t_64, t_32)
        return weighted(output - x_t, *(1 / (1 - t).clamp(min=LEAST_NOISE) for t in ts))


class BandFlowDenoiser(BandDenoiser):
    """A BandDiT for the sampler, and for everything else that asks a Denoiser for clean images at two scales."""

    def __init__(self, network: BandDiT):
        shape = (network.channels, network.image_size, network.image_size)
        super().__init__(network, "velocity", shape, LinearFlow(), network.num_classes)

    def output(self, network, x, ts, labels=None) -> torch.Tensor:
        """As in `BandDenoiser`."""
        return network(x, ts, labels)
