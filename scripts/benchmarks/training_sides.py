"""The two sides of the benchmark of a training step, and the machine's own rates for comparison."""
import io
import resource
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import train_lift
from data import ImageSet
from engine import devices
from engine.distributed import Group
from engine.flops import gflop_of
from engine.loop import GRADIENT_NORM_MAX, Loop
from lift import checkpoints
from lift.tasks import ScaleTask
from model import LIFTDualTimestepModel
from networks.scales import downsample_to_32
from scheduler import NUM_TIMESTEPS, CosineSteps
from scripts.benchmarks.plain_attention import store_attention_matrices

# Matrix products (m, k, n) that are tried for the machine's best rate: large squares, and tall ones that fit a CPU's
# cache.
PRODUCT_SHAPES = {"cpu": [(2048, 2048, 2048), (4096, 1024, 1024), (16384, 512, 512), (16384, 256, 256)],
                  "cuda": [(4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 8192)]}


class Side:
    """What both steps are asked for; each has `device`, `model` and `step`."""

    def seconds_per_step(self, num_steps: int) -> float:
        return seconds_per_step(self.step, num_steps, self.device)

    def start_average(self) -> None:
        """A moving average of the weights, as a plain side keeps it: one tensor after the other."""
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @torch.no_grad()
    def move_average(self, decay: float) -> None:
        for name, parameter in self.model.named_parameters():
            self.average[name].mul_(decay).add_(parameter, alpha=1 - decay)

    def activation_megabytes(self) -> float:
        """Memory that a step's forward pass keeps for backward, without the parameters, each storage counted once."""
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)   # held, so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.step()
        return sum(size for size, _ in kept.values()) / 1e6

    def warm_up(self) -> None:
        """A step that allocates, autotunes and compiles. Neither the time nor a GPU's peak counts it."""
        self.seconds_per_step(1)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_megabytes(self) -> float:
        """The most memory in use so far: of tensors on a GPU since `warm_up`, of the whole process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


# The handicaps of the plain step, in the order in which --handicaps takes them away.
HANDICAPS = ("decoding", "average by tensor", "item", "stored attention", "optimizer by tensor", "plain layout",
             "float32", "eager")


class PlainStep(Side):
    """The thing to beat. without: the HANDICAPS that are removed from it."""

    def __init__(self, hidden_dims, images, batch_size, device, num_threads, without=()):
        torch.manual_seed(0)
        torch.set_num_threads(num_threads)
        self.device, self.batch_size, self.without = device, batch_size, frozenset(without)
        self.schedule = CosineSteps()
        self.model = checkpoints.build_model("lift", hidden_dims).to(device)
        if "plain layout" in self.without:
            self.model.to(memory_format=torch.channels_last)
        if "stored attention" not in self.without:
            store_attention_matrices(self.model)
        how = {"fused": True} if "optimizer by tensor" in self.without else {"foreach": False}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, **how)
        self.start_average()
        self.called = torch.compile(self.model) if "eager" in self.without else self.model
        self.files, self.images = [], torch.from_numpy(np.array(images)).to(device)
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
            self.files.append(buffer.getvalue())

    def forward(self):
        chosen = np.random.randint(len(self.files), size=self.batch_size)
        if "decoding" in self.without:
            x_0_64 = self.images[torch.from_numpy(chosen).to(self.device)].float() / 127.5 - 1
        else:
            decoded = [np.asarray(Image.open(io.BytesIO(self.files[k])).convert("RGB")) for k in chosen]
            x_0 = torch.stack([torch.from_numpy(image.transpose(2, 0, 1) / 127.5 - 1).float() for image in decoded])
            x_0_64 = x_0.to(self.device)
        if "plain layout" in self.without:
            x_0_64 = x_0_64.contiguous(memory_format=torch.channels_last)
        x_0_32 = downsample_to_32(x_0_64)
        t_64, t_32 = torch.randint(NUM_TIMESTEPS, (2, self.batch_size), device=self.device)
        noise_64, noise_32 = torch.randn_like(x_0_64), torch.randn_like(x_0_32)
        eps_64, eps_32 = self.called(self.schedule.add_noise(x_0_64, noise_64, t_64),
                                     self.schedule.add_noise(x_0_32, noise_32, t_32), t_64, t_32)
        return ((eps_64 - noise_64) ** 2).mean() + ((eps_32 - noise_32) ** 2).mean()

    def step(self):
        with torch.autocast(self.device.type, torch.bfloat16, enabled="float32" in self.without):
            loss = self.forward()
        self.optimizer.zero_grad()
        loss.backward()
        by_tensor = "optimizer by tensor" not in self.without
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX, foreach=False if by_tensor else None)
        self.optimizer.step()
        if "average by tensor" in self.without:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.model.parameters()), 1 - 0.9999)
        else:
            self.move_average(0.9999)
        return loss.detach() if "item" in self.without else loss.item()


class OurStep(Side):
    """The step that `train_lift.py` takes, taken by its own trainer."""

    def __init__(self, hidden_dims, images, batch_size, device, num_threads, precision, compile_model):
        devices.configure(device, num_threads, tf32=True)
        args = train_lift.parse_args(["--hidden_dims", *map(str, hidden_dims), "--batch_size", str(batch_size),
                                      "--precision", precision] + ["--compile"] * compile_model)
        task = ScaleTask("lift", args, ImageSet(images, None, "synthetic", "train", ""), None, device)
        self.trainer = Loop(task, args, Group(0, 1), device)
        self.device, self.model = device, task.networks["model"]

    def step(self):
        self.trainer.run_step()
        self.trainer.pending.clear()                        # what a log line would fetch, every fiftieth step


def seconds_per_step(step, num_steps: int, device) -> float:
    """Mean wall time of `num_steps` steps."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / num_steps


def product_peak_gflops(device, precision: str) -> float:
    """Matrix-product rate of the machine at that precision: the best of ten tries of each of PRODUCT_SHAPES."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates = []
    for m, k, n in PRODUCT_SHAPES[device.type]:
        a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
        rates.append(2 * m * k * n / min(seconds_per_step(lambda: a @ b, 5, device) for _ in range(10)) / 1e9)
    return max(rates)


def convolution_gflops(device, dtype: torch.dtype) -> float:
    """Rate of a 3x3 convolution from the middle of the network, 128 channels at 32x32: the best of several."""
    x = torch.randn(16, 128, 32, 32, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = min(seconds_per_step(lambda: F.conv2d(x, weight, padding=1), 5, device) for _ in range(5))
    return 2 * x.numel() * 128 * 9 / seconds / 1e9


def gflop_of_forward(hidden_dims) -> float:
    """Arithmetic of LIFT's forward pass per image: 10^9 multiplications and additions in convolutions and products."""
    def call():
        t = torch.zeros(1, dtype=torch.int64)
        LIFTDualTimestepModel(hidden_dims)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32), t, t)
    return gflop_of(call)
