"""A black margin around images, for networks that halve their sides: 28 pixels become 32."""
import torch
import torch.nn.functional as F

EDGE_MULTIPLE = 8                       # of the padded side, which can then be halved three times


def padded_side(side: int) -> int:
    """The side with its margin."""
    return side + -side % EDGE_MULTIPLE


def padded(images: torch.Tensor) -> torch.Tensor:
    """The images with a black margin, so that their sides are multiples of 8: [N, C, 28, 28] -> [N, C, 32, 32].

    images: uint8, or float with black at -1.
    """
    height, width = (padded_side(side) - side for side in images.shape[2:])
    black = 0 if images.dtype == torch.uint8 else -1.0
    return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2), value=black)


def cropped(images: torch.Tensor, size: int) -> torch.Tensor:
    """The inner size x size pixels, [..., S, S] -> [..., size, size]: inverse of `padded`."""
    top = (images.shape[-1] - size) // 2
    return images[..., top:top + size, top:top + size]
