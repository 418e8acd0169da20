"""How many bytes a device will hold, from the headers of the weights, before any of them is loaded."""
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from distill.critic import gan_head
from distill.lora import is_target
from distill.text_to_image import kind_of, read_json, weight_files
from engine.errors import InputError

TRAINED = 16            # bytes per parameter: weights, gradient and both moments of AdamW, float32
AVERAGE, PLAIN, HALF, BUCKETS = 4, 4, 2, 4      # moving average; float32; bfloat16; DDP's copy of the gradients
GIGABYTE = 1e9


@dataclass(frozen=True)
class Part:
    """Something a device holds: parameters, bytes for each, and over how many processes they are spread."""
    name: str
    num_parameters: int
    bytes_each: int
    num_shards: int = 1

    @property
    def bytes(self) -> float:
        """On one device."""
        return self.num_parameters * self.bytes_each / self.num_shards


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of all weights in a part of a model, from the headers of its files. Raises InputError."""
    from safetensors import SafetensorError, safe_open
    shapes = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}
        except SafetensorError as error:
            raise InputError(f"{path}: not a safetensors file ({error}); fetch it again") from error
    return shapes


def num_parameters(folder: Path) -> int:
    """Of a part of a model."""
    return sum(math.prod(shape) for shape in shapes_of(folder).values())


def num_adapter_parameters(shapes: dict[str, list[int]], rank: int) -> int:
    """Of an adapter for a UNet with weights of these shapes: rank x (inputs + outputs) per adapted module."""
    adapted = (shape for name, shape in shapes.items()
               if name.endswith(".weight") and is_target(name.removesuffix(".weight")))
    return sum(rank * (math.prod(shape[1:]) + shape[0]) for shape in adapted)


def num_head_parameters(config: dict, size: int) -> int:
    """Of the critic's GAN head. config: of the UNet; size: pixels a side of the latents."""
    channels = config["block_out_channels"]
    with torch.device("meta"):
        head = gan_head(channels[-1], size // 2 ** (len(channels) - 1))
    return sum(p.numel() for p in head.parameters())


def parts_of_training(num_unet: int, num_critic_more: int, *, half: bool, num_processes: int, fsdp: bool,
                      average: bool, num_adapter: int | None = None) -> list[Part]:
    """Student, critic and teacher. num_critic_more: of the head; num_adapter: of an adapter, None without."""
    num_shards = num_processes if fsdp else 1
    trained = TRAINED + (BUCKETS if num_processes > 1 and not fsdp else 0)
    num_trained = num_unet if num_adapter is None else num_adapter
    return [Part("student", num_trained, trained + AVERAGE * average, num_shards),
            Part("critic", num_trained + num_critic_more, trained, num_shards),
            Part("teacher" if num_adapter is None else "frozen UNet of all three", num_unet, HALF if half else PLAIN)]


def estimate(folder: Path, args, num_processes: int) -> list[Part]:
    """The parts of a distillation that every device will hold, without activations. Raises InputError for a folder that
    is no model."""
    config, shapes = read_json(folder / "unet" / "config.json", "the UNet's configuration"), shapes_of(folder / "unet")
    vae = read_json(folder / "vae" / "config.json", "the autoencoder's configuration")
    size = config["sample_size"] if args.resolution is None else \
        args.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
    half = args.precision == "bf16"
    parts = parts_of_training(
        sum(map(math.prod, shapes.values())), num_head_parameters(config, size) if args.cls_on_clean_image else 0,
        half=half, num_processes=num_processes, fsdp=args.fsdp, average=True,
        num_adapter=num_adapter_parameters(shapes, args.lora_rank) if args.lora else None)
    encoders = ("text_encoder", "text_encoder_2") if kind_of(folder) else ("text_encoder",)
    texts = sum(num_parameters(folder / encoder) for encoder in encoders)
    return [*parts, Part("text encoders", texts, HALF if half else PLAIN),
            Part("autoencoder", num_parameters(folder / "vae"), PLAIN)]


def device_bytes(device: torch.device) -> int:
    """Memory of a device; of a CPU, this process's share of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // num_processes


def check_fits(parts: list[Part], device: torch.device, say: bool = True) -> None:
    """Print what a device will hold. Raises InputError where its memory is smaller, before any activation."""
    total, available = sum(part.bytes for part in parts), device_bytes(device)
    if say:
        for part in parts:
            spread = f" / {part.num_shards} processes" if part.num_shards > 1 else ""
            print(f"  {part.name}: {part.num_parameters:,} parameters x {part.bytes_each} bytes{spread} = "
                  f"{part.bytes / GIGABYTE:.2f} GB", flush=True)
        print(f"every device holds {total / GIGABYTE:.2f} GB of its {available / GIGABYTE:.1f} GB, before activations",
              flush=True)
    if total > available:
        raise InputError(f"--model_id: training it takes {total / GIGABYTE:.1f} GB on every device before activations, "
                         f"but {device} has {available / GIGABYTE:.1f} GB; add processes with --fsdp, or --lora, or "
                         "--use_fp16")
