"""The exact denoiser of a law that consists of the training images alone, each equally likely.

The clean image expected behind x = a x_0 + s eps is the average of the training images, weighted by
softmax_i(-|x - a x_i|^2 / (2 s^2)) (Karras et al. 2022, appendix B.3). No network has a lower squared error on the
training images. Sampling with this denoiser draws training images again.
"""
import torch

from engine.chunks import in_chunks
from engine.denoiser import Denoiser
from engine.sampling import from_uint8
from scheduler import NoiseProcess, per_image


class ExactDenoiser(Denoiser):
    """The exact denoiser of training images, uint8 [N, C, H, W] or float in [-1, 1].

    labels: int64 [N], if classes are asked for, else None. A prediction takes 2 B N C H W multiplications: half a
    second for 250 images and 60,000 digits on one core.
    """

    def __init__(self, images: torch.Tensor, process: NoiseProcess, labels=None, dtype: torch.dtype = torch.float32):
        images = from_uint8(images) if images.dtype == torch.uint8 else images
        self.points = images.flatten(1).to(dtype)                               # [N, D]
        self.half_squares = self.points.square().sum(1) / 2                     # [N]
        self.process = process
        self.labels = None if labels is None else torch.as_tensor(labels).to(images.device)
        self.shapes, self.processes = [tuple(images.shape[1:])], [process]
        self.num_classes = None if labels is None else int(self.labels.max()) + 1

    def weights(self, x: torch.Tensor, t: torch.Tensor, labels=None) -> torch.Tensor:
        """Probability of every training image behind x [B, C, H, W] at times t [B]: [B, N]. With labels, int64 [B], it
        is 0 for images of other classes; label `num_classes` stands for no class."""
        a, s = (per_image(level, self.points) for level in self.process.levels(t, self.points.dtype))
        logits = (a * (x.flatten(1).to(self.points) @ self.points.T) - a**2 * self.half_squares) / s**2
        if labels is not None:
            labels = labels.to(self.labels.device)[:, None]
            logits = logits.masked_fill((self.labels != labels) & (labels < self.num_classes), -torch.inf)
        return logits.softmax(1)

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        [x], [t] = xs, ts
        self.num_evaluations += len(x)
        return [(self.weights(x, t, labels) @ self.points).reshape(x.shape).to(x.dtype)]


def nearest_images(images, others, num_nearest: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest ones among `others` of each image: distances, float32 [N, num_nearest], rising, and places, int64.

    images, others: uint8 [N, C, H, W]. A distance is the root mean square difference of pixels in [-1, 1].
    """
    points = torch.cat([from_uint8(part).flatten(1) for part in in_chunks(others, 10_000)])
    found = [torch.cdist(from_uint8(part).flatten(1), points).topk(num_nearest, largest=False)
             for part in in_chunks(images, 250)]
    distances, places = (torch.cat(parts) for parts in zip(*found))
    return distances / points.shape[1]**0.5, places
