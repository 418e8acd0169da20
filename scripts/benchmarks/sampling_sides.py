"""The two sides of the benchmark of generation."""
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine import devices
from engine.sampling import start_noise, to_uint8
from lift import checkpoints
from lift.coupling import NOISIEST_SHAPES
from lift.sampling import generate
from networks.unet import compiled
from scheduler import CLEAN, CosineSteps, ddim_step
from scripts.benchmarks.plain_attention import store_attention_matrices


def random_model(model_type: str, hidden_dims: list[int], seed: int):
    """A model whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    return checkpoints.build_model(model_type, hidden_dims).eval()


@torch.no_grad()
def plain_images(model, path, seed: int, indices, folder: Path, device) -> torch.Tensor:
    """The same images as `generate`, by way of PNG files -> what Inception is fed, float32 [B, 3, 64, 64]."""
    schedule = CosineSteps()
    xs = [x.to(device) for x in start_noise(NOISIEST_SHAPES, seed, indices)][:1 + (model.model_type == "lift")]
    for step in range(len(path) - 1):
        ts = [torch.full((len(indices),), int(path[step, s]), device=device) for s in range(len(xs))]
        predictions = model(*xs, *ts)
        for s, eps in enumerate(predictions if len(xs) == 2 else [predictions]):
            if path[step, s] != path[step + 1, s]:
                arrival = int(path[step + 1, s]) or CLEAN
                xs[s] = ddim_step(xs[s], eps, schedule.alpha_cumprod(ts[s]),
                                  schedule.alpha_cumprod(torch.full_like(ts[s], arrival)))
    for index, image in zip(indices, to_uint8(xs[0]).permute(0, 2, 3, 1).cpu().numpy()):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    read_back = [np.asarray(Image.open(folder / f"{index:05d}.png").convert("RGB")) for index in indices]
    return torch.from_numpy(np.stack(read_back)).permute(0, 3, 1, 2).to(device).float() / 255


class Side:
    """What both loops are asked for; each has `device` and `images`."""

    def images_per_second(self, batches) -> float:
        """Rate at which the batches of image numbers are made; keeps what was made."""
        start = time.perf_counter()
        self.made = [self.images(indices) for indices in batches]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return sum(map(len, batches)) / (time.perf_counter() - start)

    def last_images(self) -> np.ndarray:
        """What the last measurement made: float32 [N, 3, 64, 64] in 0...1."""
        return torch.cat(self.made).cpu().numpy()


class PlainLoop(Side):
    """The thing to beat."""

    def __init__(self, model_type, hidden_dims, path, seed, device, num_threads):
        torch.set_num_threads(num_threads)
        self.device, self.path, self.seed = device, path, seed
        self.model = store_attention_matrices(random_model(model_type, hidden_dims, seed)).to(device)
        self.folder = tempfile.TemporaryDirectory()

    def images(self, indices) -> torch.Tensor:
        return plain_images(self.model, self.path, self.seed, indices, Path(self.folder.name), self.device)


class OurLoop(Side):
    """Generation as `generation.generate_uint8` does it."""

    def __init__(self, model_type, hidden_dims, path, seed, device, num_threads, precision, compile_model):
        devices.configure(device, num_threads)
        self.device, self.path, self.seed, self.precision = device, path, seed, precision
        model = random_model(model_type, hidden_dims, seed).to(device, memory_format=torch.channels_last)
        self.model = compiled(model) if compile_model else model

    def images(self, indices) -> torch.Tensor:
        made = generate(self.model, self.path, self.seed, indices, precision=self.precision)
        return to_uint8(made.x_64).float() / 255
