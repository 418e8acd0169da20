"""Processes started by torchrun: who this one is, and the few things they do together."""
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from engine.errors import InputError


@dataclass(frozen=True)
class Group:
    """This process's rank among `size` processes; a single process is rank 0 of 1."""
    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise mean over all processes, in place."""
        return self.sum(values).div_(self.size)

    def check_same(self, marks: list[bool], message: str) -> None:
        """Raises InputError with that message, in all processes, unless their marks are the same. Called by all."""
        if self.size > 1:
            device = "cuda" if dist.get_backend() == "nccl" else "cpu"
            counts = self.sum(torch.tensor(marks, dtype=torch.float32, device=device))
            if not ((counts == 0) | (counts == self.size)).all():
                raise InputError(message)

    def main_says(self, mark: bool, device) -> bool:
        """What the main process found, the same in all processes. Called by all."""
        return self.sum(torch.tensor(float(self.is_main and mark), device=device)).item() > 0

    def main_text(self, text: str) -> str:
        """The main process's text, the same in all processes. Called by all."""
        texts = [text]
        if self.size > 1:
            dist.broadcast_object_list(texts, src=0)
        return texts[0]

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()


def is_first_process() -> bool:
    """Whether torchrun calls this process rank 0, or there is no torchrun; known before `join` and after `leave`."""
    return int(os.environ.get("RANK", "0")) == 0


def local_gpu(name: str | None) -> str | None:
    """The --device of this process: under torchrun with GPUs, the GPU of its local rank.

    Raises InputError where several processes of one machine would share a named GPU.
    """
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name not in (None, "cpu") and num_processes > 1:
        raise InputError(f"--device: found {name} with {num_processes} processes of torchrun on this machine, expected "
                         "it left out (each takes a GPU of its own; CUDA_VISIBLE_DEVICES says which there are), or cpu")
    if name is not None or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return name
    return os.environ["LOCAL_RANK"]


def join(device: torch.device) -> Group:
    """Join the process group that torchrun set up; alone without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group(0, 1)
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # The main process may have a data set to fetch and decode while the others wait for it.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_divisible(batch_size: int, group: Group, grad_accum: int) -> None:
    """Raises InputError unless the global batch splits evenly over processes and accumulation steps."""
    if batch_size % (group.size * grad_accum):
        raise InputError(f"--batch_size: found {batch_size}, expected a multiple of {group.size * grad_accum} "
                         f"({group.size} processes x --grad_accum {grad_accum})")


def gather(values: torch.Tensor, indices: list[int], num_images: int, group=None) -> torch.Tensor:
    """All processes' rows in order: values [len(indices), ...] of this process -> [num_images, ...] on every one."""
    if group is None or group.size == 1:
        return values
    whole = torch.zeros(num_images, *values.shape[1:], dtype=values.dtype, device=values.device)
    whole[torch.tensor(indices, device=values.device, dtype=torch.long)] = values
    return group.sum(whole)
