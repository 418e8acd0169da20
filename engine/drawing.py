"""How a model draws images: denoiser, path, solver, classes, and the way to pictures. Only the images' numbers are
open."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from engine.denoiser import Denoiser
from engine.sampling import classes_in_turn, sample, to_uint8


@dataclass
class Drawing:
    """Image k of a seed is the same for any batch size and any number of processes.

    path: [N + 1, scales]. classes: numbers of the classes, which take turns: image k is of class classes[k modulo their
    count]; None for a model without classes. decode: from `denoiser.image` of the sampler's result, [B, C, H, W], to
    images in [-1, 1]. finish: from these images as uint8 to the images asked for. how: options of
    `engine.sampling.sample` (solver, eta, clip, precision).
    """
    denoiser: Denoiser
    path: torch.Tensor
    classes: Sequence[int] | None = None
    decode: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Identity()
    finish: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Identity()
    device: torch.device | str = "cpu"
    how: dict = field(default_factory=dict)

    def labels(self, indices: Sequence[int]) -> torch.Tensor | None:
        """The classes of images: int64 [B]."""
        if self.classes is None:
            return None
        return torch.tensor(self.classes, device=self.device)[classes_in_turn(indices, len(self.classes), self.device)]

    @torch.inference_mode()
    def __call__(self, seed: int, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(uint8 images [B, C, H, W] on the device, how many of them are not finite [], network calls per image)."""
        samples = sample(self.denoiser, self.path, seed, indices, labels=self.labels(indices), device=self.device,
                         **self.how)
        x = self.decode(self.denoiser.image(samples.xs))
        return self.finish(to_uint8(x)), (~x.flatten(1).isfinite().all(1)).sum(), samples.num_model_calls


def in_batches(draw: Callable, num_images: int, batch_size: int, group=None, progress: str | None = None) -> Iterator:
    """This process's share of images 0...num_images - 1: yields (indices, what draw(indices) returns) batch by batch.

    Process r of a distributed.Group takes images r, r + size, ... progress: a name for the bar of the main process.
    """
    mine = range(group.rank, num_images, group.size) if group else range(num_images)
    is_main = group is None or group.is_main
    with tqdm(total=len(mine), desc=progress, unit="image", disable=progress is None or not is_main) as bar:
        for start in range(0, len(mine), batch_size):
            indices = list(mine[start:start + batch_size])
            yield indices, draw(indices)
            bar.update(len(indices))
