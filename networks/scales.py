"""The two sizes of an image: how 64x64 becomes 32x32 and back."""
import torch
import torch.nn.functional as F


def downsample_to_32(x_64: torch.Tensor) -> torch.Tensor:
    """Bilinear half-size: [B, C, 64, 64] -> [B, C, 32, 32]. At exactly half the size this is the 2x2 mean."""
    return F.avg_pool2d(x_64, 2)


def upsample_to_64(x_32: torch.Tensor) -> torch.Tensor:
    """Bilinear double size: [B, C, 32, 32] -> [B, C, 64, 64]."""
    return F.interpolate(x_32, scale_factor=2, mode="bilinear", align_corners=False)
