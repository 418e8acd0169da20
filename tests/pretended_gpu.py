"""A GPU that is not there: what would run on it runs on fake tensors, which have shapes and devices and no values.

Operations on CPU tensors alone run as ever. One that mixes devices raises, as on a GPU, and so does a copy of a fake
tensor into a file. What comes back to the CPU is zeros, or True, of the right shape and kind. Backward passes cannot
run, nor forward-mode derivatives of fused operations.
"""
import contextlib
import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda:0")
MEMORY = 2**37                              # bytes
REAL_GENERATOR = torch.Generator


def made_up(tensor: torch.Tensor) -> torch.Tensor:
    """What a copy from the GPU brings: zeros, which every loss may be, or True, as of a test whether all is well."""
    return torch.full(tensor.shape, tensor.dtype == torch.bool, dtype=tensor.dtype)


class Fakes(FakeTensorMode):
    """Touches no device, whatever torch.cuda is made to say."""

    avoid_device_init = True


class PretendedGPU(TorchDispatchMode):
    """Within it, tensors on `GPU` are fake. waits: how often a program has waited for the GPU, to see a value of it."""

    waits = 0

    def __init__(self):
        super().__init__()
        self.fakes = Fakes(allow_non_fake_inputs=True)

    def faked(self, tensor: torch.Tensor) -> FakeTensor:
        """A fake of a tensor, or the fake that it is."""
        return tensor if isinstance(tensor, FakeTensor) else self.fakes.from_tensor(tensor)

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        named = named or {}
        leaves = tree_leaves((arguments, named))
        if not any(isinstance(leaf, FakeTensor) or isinstance(leaf, torch.device) and leaf.type == "cuda"
                   for leaf in leaves):
            return operation(*arguments, **named)
        if operation.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.item):
            PretendedGPU.waits += 1
            return made_up(arguments[0]).item()
        if operation.overloadpacket is torch.ops.aten.to:  # as it comes in inference mode: of a fake, nothing is tried
            arguments = tree_map_only(torch.Tensor, self.faked, arguments)
        with self.fakes:
            result = operation(*arguments, **named)
        back = [leaf for leaf in tree_leaves(result) if isinstance(leaf, FakeTensor) and leaf.device.type != "cuda"]
        PretendedGPU.waits += len(back)
        return tree_map_only(FakeTensor, lambda t: t if t.device.type == "cuda" else made_up(t), result)


class CPUGenerator(torch.Generator):
    """Stands for torch.Generator: one of the CPU, whatever device it is asked for."""

    def __new__(cls, device="cpu"):
        return REAL_GENERATOR()


class NoStream:
    """Stands for torch.cuda.Stream."""

    def __init__(self, *_):
        pass

    def wait_stream(self, other) -> None:
        """Nothing to wait for."""


@contextlib.contextmanager
def pretended_gpu(monkeypatch):
    """A block in which `GPU` can be computed on. Its generators are the CPU's."""
    monkeypatch.setattr(torch, "Generator", CPUGenerator)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    for name, value in {"_lazy_init": lambda: None, "is_available": lambda: True,
                        "mem_get_info": lambda *_: (MEMORY, MEMORY),
                        "is_bf16_supported": lambda *_, **__: True, "Stream": NoStream, "synchronize": lambda *_: None,
                        "current_stream": NoStream, "stream": lambda _: contextlib.nullcontext()}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(weakref, "getweakrefs", lambda _: [])          # those of fakes keep no module from moving
    lifts_cpu_alone = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)               # torch.tensor(..., device=GPU) comes by way of the CPU
    try:
        with PretendedGPU():
            yield GPU
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts_cpu_alone)
