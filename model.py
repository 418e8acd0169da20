"""LIFT: one UNet that denoises an image at 64x64 and its half-size copy at 32x32, each with a timestep of its own."""
import torch
import torch.nn as nn

from baseline_model import DEFAULT_HIDDEN_DIMS
from scales import downsample_to_32, upsample_to_64
from unet import UNet


class LIFTDualTimestepModel(UNet):
    """Predicts the noise at both scales. 58,475,206 parameters at the default hidden dims."""

    model_type = "lift"

    def __init__(self, hidden_dims=DEFAULT_HIDDEN_DIMS, parametrization: str = "eps"):
        super().__init__(in_channels=6, out_channels=6, hidden_dims=hidden_dims, parametrization=parametrization)
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
        output = self.run_backbone(x, self.time_combine(both_times))                    # [B, 6, 64, 64]
        output_64, output_32_large = output.chunk(2, dim=1)
        return self.to_noise(output_64, x_64, t_64), self.to_noise(downsample_to_32(output_32_large), x_32, t_32)
