"""LIFT: one UNet that denoises an image at 64x64 and its half-size copy at 32x32, each with a timestep of its own."""
import torch
import torch.nn as nn

from networks.presets import DEFAULT_HIDDEN_DIMS
from networks.scales import downsample_to_32, upsample_to_64
from networks.unet import UNet


class LIFTDualTimestepModel(UNet):
    """Predicts the noise at both scales. 58,475,206 parameters at the default hidden dims.

    native_32: whether the 32 scale enters and leaves the network at its 32x32 level. Otherwise, as published, it is
    upsampled, passes the 64x64 level beside the other scale, and is downsampled.
    """

    model_type = "lift"

    def __init__(self, hidden_dims=DEFAULT_HIDDEN_DIMS, parametrization: str = "eps", native_32: bool = False):
        at_64 = 3 if native_32 else 6
        super().__init__(in_channels=at_64, out_channels=at_64, hidden_dims=hidden_dims,
                         parametrization=parametrization)
        self.native_32 = native_32
        first = self.hidden_dims[0]
        time_width = 4 * first
        self.time_combine = nn.Sequential(nn.Linear(2 * time_width, time_width), nn.SiLU(),
                                          nn.Linear(time_width, time_width))
        if native_32:
            self.init_conv_32 = nn.Conv2d(3, first, 3, padding=1)
            self.final_conv_32 = self.output_layers(self.channels_at_32, 3)

    def forward(self, x_64: torch.Tensor, x_32: torch.Tensor, t_64: torch.Tensor, t_32: torch.Tensor):
        """Noise at both scales.

        x_64: [B, 3, 64, 64] and x_32: [B, 3, 32, 32], noised images; t_64, t_32: [B], timesteps 0...999, free of
        each other. Returns eps_64 [B, 3, 64, 64] and eps_32 [B, 3, 32, 32].
        """
        both_times = torch.cat([self.time_mlp(t_64), self.time_mlp(t_32)], dim=1)      # [B, 2 * time_width]
        time_embedding = self.time_combine(both_times)
        if self.native_32:
            output_64, features_32 = self.run_backbone(x_64, time_embedding, self.init_conv_32(x_32))
            output_32 = self.final_conv_32(features_32)                                 # [B, 3, 32, 32]
        else:
            output, _ = self.run_backbone(torch.cat([x_64, upsample_to_64(x_32)], dim=1), time_embedding)
            output_64, output_32_large = output.chunk(2, dim=1)                         # each [B, 3, 64, 64]
            output_32 = downsample_to_32(output_32_large)
        return tuple(self.to_noises([output_64, output_32], [x_64, x_32], [t_64, t_32]))
