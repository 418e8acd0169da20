"""The sides of the benchmark of the flow family's training step, and of its guided sampling."""
import numpy as np
import torch

from data import ImageSet
from engine import devices
from engine.denoiser import Guided
from engine.distributed import Group
from engine.sampling import sample
from flow.model import denoiser_of
from flow.train import parse_args
from flow.training import loop_of
from networks import attention
from networks.dit import DiT
from scheduler import LinearFlow
from scripts.benchmarks.plain_attention import plain_dit
from scripts.benchmarks.training_sides import Side, seconds_per_step

NUM_CLASSES = 10


def random_images(image_size: int, channels: int) -> ImageSet:
    """256 images of noise with labels; a step takes as long as on any others."""
    images = np.random.RandomState(0).randint(0, 256, (256, channels, image_size, image_size), dtype=np.uint8)
    return ImageSet(images, np.arange(256) % NUM_CLASSES, "noise", "train", "")


class PlainStep(Side):
    """The thing to beat."""

    def __init__(self, sizes: dict, batch_size: int, device, num_threads: int):
        torch.manual_seed(0)
        torch.set_num_threads(num_threads)
        self.device, self.batch_size = device, batch_size
        self.model = plain_dit(DiT(**sizes)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0,
                                           foreach=False)
        self.start_average()
        self.images = random_images(sizes["image_size"], sizes["channels"])

    def step(self) -> float:
        chosen = np.random.randint(len(self.images), size=self.batch_size)
        x_0 = torch.from_numpy(self.images.images[chosen] / 127.5 - 1).float().to(self.device)
        labels = torch.from_numpy(self.images.labels[chosen]).to(self.device)
        labels = torch.where(torch.rand(self.batch_size, device=self.device) < 0.1, NUM_CLASSES, labels)
        t, eps = torch.randn(self.batch_size, device=self.device).sigmoid(), torch.randn_like(x_0)
        share = t.reshape(-1, 1, 1, 1)
        loss = ((self.model(share * x_0 + (1 - share) * eps, t, labels) - (x_0 - eps)) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=False)
        self.optimizer.step()
        self.move_average(0.9999)
        return loss.item()


class OurStep(Side):
    """The step that `python -m flow.train` takes, taken by its own loop."""

    def __init__(self, sizes: dict, batch_size: int, device, num_threads: int, precision: str, compile_model: bool):
        devices.configure(device, num_threads, tf32=True)
        flags = [word for name in ("hidden_size", "depth", "num_heads", "patch_size", "mlp_ratio", "image_size")
                 for word in (f"--{name}", str(sizes[name]))]
        args = parse_args(["--dataset", "noise", "--batch_size", str(batch_size), "--precision", precision, *flags]
                          + ["--compile"] * compile_model)
        self.loop = loop_of(args, random_images(sizes["image_size"], sizes["channels"]), Group(0, 1), device)
        self.device, self.model = device, self.loop.task.networks["model"]

    def step(self) -> None:
        self.loop.run_step()
        self.loop.pending.clear()                           # what a log line would fetch, every fiftieth step


class FusedAttentionStep(OurStep):
    """Our step, but for attention: always by the fused kernel."""

    def __init__(self, *args):
        attention.MOST_STORED_TOKENS = 0                    # in this process alone
        super().__init__(*args)


class TwoCalls(Guided):
    """Guidance by one call for the labels and one for the null class."""

    def clean(self, xs, ts, labels=None):
        [conditional] = self.denoiser.clean(xs, ts, labels)
        [unconditional] = self.denoiser.clean(xs, ts)
        return [unconditional + self.scale * (conditional - unconditional)]


class Sampling(Side):
    """Euler steps with guidance 4; both ways in one process, since only the batch differs."""

    def __init__(self, sizes: dict, batch_size: int, device, num_threads: int, precision: str):
        devices.configure(device, num_threads, tf32=True)
        self.device, self.batch_size, self.precision = device, batch_size, precision
        self.denoiser = denoiser_of(DiT(**sizes).to(device).eval())
        self.labels = torch.arange(batch_size, device=device) % NUM_CLASSES

    def seconds(self, kind, num_steps: int) -> float:
        path = LinearFlow().uniform_path(num_steps)[:, None]
        draw = lambda: sample(kind(self.denoiser, 4.0), path, 0, range(self.batch_size), labels=self.labels, clip=False,
                              precision=self.precision)
        return seconds_per_step(draw, 1, self.device) / num_steps

    def one_batch(self, num_steps: int) -> float:
        return self.seconds(Guided, num_steps)

    def two_calls(self, num_steps: int) -> float:
        return self.seconds(TwoCalls, num_steps)
