"""The two sizes of an image: from 64x64 to 32x32 and back, and how two predictions of one image are made to agree."""
import torch
import torch.nn.functional as F


def downsample_to_32(x_64: torch.Tensor) -> torch.Tensor:
    """Bilinear half-size: [B, C, 64, 64] -> [B, C, 32, 32]. At exactly half the size this is the 2x2 mean."""
    return F.avg_pool2d(x_64, 2)


def upsample_to_64(x_32: torch.Tensor) -> torch.Tensor:
    """Bilinear double size: [B, C, 32, 32] -> [B, C, 64, 64]."""
    return F.interpolate(x_32, scale_factor=2, mode="bilinear", align_corners=False)


def reconcile(x_0_64: torch.Tensor, x_0_32: torch.Tensor, abar_64: torch.Tensor, abar_32: torch.Tensor):
    """Make two predictions of one clean image agree on its coarse part, the 2x2 mean; returns both.

    x_0_64: [B, C, 64, 64]; x_0_32: [B, C, 32, 32]; abar_64, abar_32: scalar tensors, of the noised images that were
    predicted from. The common coarse part is the mean of both, weighted by precision, 4 SNR_64 to SNR_32, since four
    pixels of the 64 scale are one of the 32 scale. This is what two noisy views of an image say together if nothing
    else is known of it. Predictions that agree already, such as an exact network's, stay as they are.
    """
    precision_64, precision_32 = 4 * abar_64 / (1 - abar_64), abar_32 / (1 - abar_32)
    coarse_64 = downsample_to_32(x_0_64)
    coarse = coarse_64 + precision_32 / (precision_64 + precision_32) * (x_0_32 - coarse_64)
    correction = F.interpolate(coarse - coarse_64, scale_factor=2, mode="nearest")      # whose 2x2 mean it is itself
    return x_0_64 + correction, coarse
