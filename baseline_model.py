"""The single-scale opponent: one image, one timestep."""
import torch

from networks.presets import DEFAULT_HIDDEN_DIMS
from networks.unet import UNet


class BaselineModel(UNet):
    """Predicts the noise in a 64x64 image. 58,274,627 parameters at the default hidden dims."""

    model_type = "baseline"

    def __init__(self, hidden_dims=DEFAULT_HIDDEN_DIMS, parametrization: str = "eps"):
        super().__init__(in_channels=3, out_channels=3, hidden_dims=hidden_dims, parametrization=parametrization)

    def forward(self, x_64: torch.Tensor, t_64: torch.Tensor) -> torch.Tensor:
        """x_64: [B, 3, 64, 64] noised image; t_64: [B] timesteps 0...999 -> eps_64: [B, 3, 64, 64]."""
        output, _ = self.run_backbone(x_64, self.time_mlp(t_64))
        return self.to_noises([output], [x_64], [t_64])[0]
