"""Which device and which arithmetic a run uses."""
import contextlib
import ctypes
import os
import platform

import torch

from engine.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """`cpu`, a GPU's number (`0`, `1`) or `cuda:1`; None is the first GPU, else the CPU.

    Raises InputError for a device that is not there.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda:0" if num_gpus else "cpu")
    text = f"cuda:{name}" if name.isdecimal() else "cuda:0" if name == "cuda" else name
    if text == "cpu":
        return torch.device("cpu")
    if not text.startswith("cuda:") or not text[5:].isdecimal():
        raise InputError(f"--device: found {name!r}, expected cpu, a GPU's number such as 0, or cuda:1")
    if int(text[5:]) >= num_gpus:
        there = f"GPUs 0 to {num_gpus - 1} are there" if num_gpus else "no GPU is there; use --device cpu"
        raise InputError(f"--device: found {name!r}, but {there}")
    return torch.device(text)


def describe(device: torch.device) -> str:
    """The device in words, for records and the first line of a run."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({processor_name()}, {torch.get_num_threads()} threads)"


def processor_name() -> str:
    """The CPU's name as Linux gives it, else the kind of machine."""
    return from_cpuinfo("model name") or platform.processor() or platform.machine()


def from_cpuinfo(*keys: str) -> str:
    """Linux's entry for the first CPU under the first of these keys that is listed; "" where none is."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(keys)), "")
    except OSError:
        return ""


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native there (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = from_cpuinfo("flags", "Features").split()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` becomes bf16 where the device has it, else float32; the others stay."""
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "float32"
    return name


def autocast(device: torch.device, precision: str):
    """Context in which convolutions and matrix products run in that precision; parameters stay float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def exact_float32():
    """Context, or decorator, in which a GPU computes float32 in full: no TF32, which rounds factors to 10 bits.

    Use it for values that are compared between machines, and for small differences of large numbers.
    """
    matmul, allow_tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = allow_tf32


@contextlib.contextmanager
def naming_compiler_errors():
    """Turns a failure of torch.compile, such as a missing C++ compiler, into an InputError."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).split()).partition(" Set TORCHDYNAMO")[0][:200]
        raise InputError(f"--compile: the model could not be compiled ({reason}); leave --compile out, or make the "
                         "compiler usable") from error


def configure(device: torch.device, num_threads: int, tf32: bool = False) -> None:
    """Set the number of CPU threads and, on a GPU, whether float32 work may use TF32.

    num_threads 0: as many as the process may use, divided by the number of torchrun's processes on this machine. Two
    processes with two threads each on two cores run many times slower than one after the other.
    """
    fair_share = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(num_threads or fair_share)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks instead of giving them back to the system; elsewhere, do nothing.

    A step frees and asks for the same hundreds of megabytes. If they are given back, every page faults again.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    set_option(-4, 0)                   # M_MMAP_MAX: no block in a mapping of its own
    set_option(-1, -1)                  # M_TRIM_THRESHOLD: the heap never shrinks


def training_memory_format(device: torch.device) -> torch.memory_format:
    """The layout in which a training step is fastest; convolutions follow the layout of their weights.

    On a CPU the backward pass of GroupNorm takes about ten times as long in channels-last. Inference is faster in
    channels-last everywhere.
    """
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last
