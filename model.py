"""LIFT: one UNet that denoises an image at 64x64 and its half-size copy at 32x32, each with a timestep of its own."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from baseline_model import DEFAULT_HIDDEN_DIMS
from unet import UNet


def downsample_to_32(x_64: torch.Tensor) -> torch.Tensor:
    """Bilinear half-size: [B, C, 64, 64] -> [B, C, 32, 32]. At exactly half the size this is the 2x2 mean."""
    return F.avg_pool2d(x_64, 2)


def upsample_to_64(x_32: torch.Tensor) -> torch.Tensor:
    """Bilinear double size: [B, C, 32, 32] -> [B, C, 64, 64]."""
    return F.interpolate(x_32, scale_factor=2, mode="bilinear", align_corners=False)


class LIFTDualTimestepModel(UNet):
    """Predicts the noise at both scales. 58,475,206 parameters at the default hidden dims."""

    model_type = "lift"

    def __init__(self, hidden_dims=DEFAULT_HIDDEN_DIMS):
        super().__init__(in_channels=6, out_channels=6, hidden_dims=hidden_dims)
        time_width = 4 * self.hidden_dims[0]
        self.time_combine = nn.Sequential(nn.Linear(2 * time_width, time_width), nn.SiLU(),
                                          nn.Linear(time_width, time_width))

    def forward(self, x_64: torch.Tensor, x_32: torch.Tensor, t_64: torch.Tensor, t_32: torch.Tensor):
        """Noise at both scales.

        x_64: [B, 3, 64, 64] and x_32: [B, 3, 32, 32], noised images; t_64, t_32: [B], timesteps 0...999, free of
        each other. Returns eps_64 [B, 3, 64, 64] and eps_32 [B, 3, 32, 32].
        """
        both_times = torch.cat([self.time_mlp(t_64), self.time_mlp(t_32)], dim=1)      # [B, 2 * time_width]
        x = torch.cat([x_64, upsample_to_64(x_32)], dim=1)                              # [B, 6, 64, 64]
        eps = self.run_backbone(x, self.time_combine(both_times))                       # [B, 6, 64, 64]
        eps_64, eps_32_large = eps.chunk(2, dim=1)
        return eps_64, downsample_to_32(eps_32_large)
