"""How a model draws images: denoiser, path, solver, classes, and the way to pictures. Only the images' numbers are
open."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from engine.denoiser import Denoiser
from engine.sampling import Samples, classes_in_turn, sample, to_device, to_uint8
from scheduler import DiscreteSteps

BATCH_SIZE = 250                # of images that are drawn at once where nothing else is asked for


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
        """The classes of images: int64 [B] on the CPU."""
        if self.classes is None:
            return None
        return torch.tensor(self.classes)[classes_in_turn(indices, len(self.classes))]

    @torch.inference_mode()
    def __call__(self, seed: int, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(uint8 images [B, C, H, W] on the device, how many of them are not finite [], network calls per image)."""
        samples = self.samples(seed, indices)
        x = self.decode(self.denoiser.image(samples.xs))
        return self.finish(to_uint8(x)), (~x.flatten(1).isfinite().all(1)).sum(), samples.num_model_calls

    def samples(self, seed: int, indices: Sequence[int], on_step=None) -> Samples:
        """What the sampler ends with; on_step: as in `engine.sampling.sample`."""
        labels = self.labels(indices)
        return sample(self.denoiser, self.path, seed, indices, device=self.device, on_step=on_step,
                      labels=None if labels is None else to_device(labels, self.device), **self.how)

    def images(self, seed: int, indices: Sequence[int], batch_size: int = BATCH_SIZE) -> torch.Tensor:
        """The images alone, `batch_size` at a time: uint8 [n, C, H, W] on the CPU."""
        return torch.cat([self(seed, indices[start:start + batch_size])[0].cpu()
                          for start in range(0, len(indices), batch_size)])

    def labelled(self, seed: int, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images and their classes, as `images` and `labels` give them."""
        return self.images(seed, indices), self.labels(indices)

    def strip(self, seed: int, indices: Sequence[int]) -> tuple[list[int], torch.Tensor]:
        """Images on their way: the steps before which they are shown (`strip_points`), and the images, uint8 [points,
        n, C, H, W] on the CPU, the last of which are the result. Where timesteps are left out, as by DDIM, tenths are
        counted from the end."""
        path = torch.as_tensor(self.path)
        is_ddim = isinstance(self.denoiser.processes[0], DiscreteSteps) and bool((path.diff(dim=0).abs() > 1).any())
        shown, points = strip_points(len(path) - 1, from_clean=is_ddim), []

        @torch.inference_mode()
        def note(step, times, xs):
            if step in shown:
                points.append(self.finish(to_uint8(self.decode(self.denoiser.image(xs)))).cpu())

        self.samples(seed, indices, note)
        return shown, torch.stack(points)


def strip_points(num_steps: int, from_clean: bool = False) -> list[int]:
    """The steps before which a denoising strip shows the image: the first, every tenth of the way and the last, and
    the number num_steps for the result. from_clean: tenths are counted from the last step back, as in strips of DDIM,
    which so show timesteps 980, 900, 800 ... 0 of 50 steps."""
    stride = max(num_steps // 10, 1)
    tenths = range(num_steps - 1, 0, -stride) if from_clean else range(0, num_steps - 1, stride)
    return [*sorted({0, *tenths, num_steps - 1}), num_steps]


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
