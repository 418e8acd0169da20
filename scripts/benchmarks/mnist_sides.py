"""The two sides of the MNIST benchmark: a plain training and sampling of the DDPM, and this repository's."""
import io
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data import ImageSet
from engine import devices, synthetic_digits
from engine.distributed import Group
from engine.loop import GRADIENT_NORM_MAX, Loop
from mnist.models import Model, build_denoiser
from mnist.tasks import DigitTask
from networks.margin import padded
from networks.presets import CONDITIONAL_UNETS
from scripts.benchmarks.plain_attention import store_attention_matrices
from scripts.benchmarks.training_sides import Side, seconds_per_step

NUM_IMAGES = 512


def digits() -> np.ndarray:
    """Drawn digits; a step takes as long as on any others."""
    return synthetic_digits.draw_images(range(NUM_IMAGES))


def denoiser_of(preset: str):
    """The documented DDPM, or a small one."""
    torch.manual_seed(0)
    return build_denoiser("ddpm", "eps", {"shape": [1, 32, 32], **CONDITIONAL_UNETS[preset]})


class Files(Dataset):
    """Digits as PNG files in memory."""

    def __init__(self):
        self.files = []
        for image in digits():
            buffer = io.BytesIO()
            Image.fromarray(image[0]).save(buffer, format="PNG")
            self.files.append(buffer.getvalue())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, k):
        image = np.asarray(Image.open(io.BytesIO(self.files[k])).convert("L"))
        return torch.from_numpy(np.pad(image, 2)[None] / 127.5 - 1).float()


class PlainStep(Side):
    """The thing to beat."""

    def __init__(self, preset: str, batch_size: int, device, num_threads: int):
        torch.set_num_threads(num_threads)
        self.device, self.batch_size, self.denoiser = device, batch_size, denoiser_of(preset)
        self.abar = self.denoiser.processes[0].alphas_cumprod.float().to(device)
        self.model = store_attention_matrices(self.denoiser.network).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-4, foreach=False)
        self.start_average()
        self.loader = DataLoader(Files(), batch_size=batch_size, shuffle=True, drop_last=True)
        self.batches = iter(self.loader)

    def step(self) -> float:
        try:
            x_0 = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            x_0 = next(self.batches)
        x_0 = x_0.to(self.device)
        t, eps = torch.randint(1000, (len(x_0),), device=self.device), torch.randn_like(x_0)
        abar = self.abar[t].reshape(-1, 1, 1, 1)
        loss = ((self.model(abar.sqrt() * x_0 + (1 - abar).sqrt() * eps, t) - eps) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX, foreach=False)
        self.optimizer.step()
        self.move_average(0.995)
        return loss.item()

    @torch.no_grad()
    def sample(self, num_steps: int) -> None:
        """DDIM."""
        self.model.eval()
        x = torch.randn(self.batch_size, 1, 32, 32, device=self.device)
        times = list(range(980, -1, -1000 // num_steps))
        for t, t_next in zip(times, [*times[1:], None]):
            abar = self.abar[t]
            eps = self.model(x, torch.full((len(x),), t, device=self.device))
            x_0 = ((x - (1 - abar).sqrt() * eps) / abar.sqrt()).clamp(-1, 1)
            eps = (x - abar.sqrt() * x_0) / (1 - abar).sqrt()
            abar = torch.ones(()) if t_next is None else self.abar[t_next]
            x = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps

    def seconds_per_call(self, num_steps: int) -> float:
        """Of a sampling."""
        return seconds_per_step(lambda: self.sample(num_steps), 1, self.device) / num_steps


class OurStep(PlainStep):
    """The step that `python -m mnist.train_ddpm` takes, taken by the engine's loop."""

    def __init__(self, preset: str, batch_size: int, device, num_threads: int, precision: str):
        devices.configure(device, num_threads, tf32=True)
        self.device, self.batch_size, self.precision = device, batch_size, precision
        args = SimpleNamespace(batch_size=batch_size, epochs=10**6, max_steps=None, grad_accum=1, seed=0, compile=False,
                               learning_rate=1e-3, lr_schedule="cosine", warmup_steps=0, weight_decay=1e-4,
                               ema_decay=0.995, label_dropout=0.0, precision=precision, dataset="digits", split="train")
        model = Model(denoiser_of(preset), None, 28, "ddpm")
        images = digits()
        task = DigitTask(model, padded(torch.from_numpy(images)), None, ImageSet(images, None, "digits", "train", ""),
                         args, device, {})
        self.loop, self.digits, self.model = Loop(task, args, Group(0, 1), device), model, model.denoiser.network

    def step(self) -> None:
        self.loop.run_step()
        self.loop.pending.clear()                           # what a log line would fetch, every fiftieth step

    def sample(self, num_steps: int) -> None:
        self.model.eval()
        draw = self.digits.drawing(self.digits.path(num_steps), precision=self.precision)
        draw.images(0, range(self.batch_size), self.batch_size)
