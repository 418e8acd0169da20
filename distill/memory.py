"""How many bytes a device will hold, from the headers of the weights, before any of them is loaded."""
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from distill.critic import gan_head
from distill.lora import is_target
from distill.text_to_image import BLOCK, TINY_VAE_PATTERNS, TINY_VAES, kind_of, local_folder, read_json, weight_files
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


def num_of(shapes: dict[str, list[int]]) -> int:
    """Parameters in all."""
    return sum(map(math.prod, shapes.values()))


def num_kept_full(shapes: dict[str, list[int]]) -> int:
    """Of these, how many stay float32 in a network that is `halved`: norms and tables of embeddings."""
    def is_halved(name: str) -> bool:
        module = name.rpartition(".")[0]
        return len(shapes.get(f"{module}.weight", [])) > 1 and not re.search(r"(token|position)_embedding$", module)
    return sum(math.prod(shape) for name, shape in shapes.items() if not is_halved(name))


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


def frozen_parts(name: str, num_parameters: int, half: bool, num_full: int = 0, num_shards: int = 1) -> list[Part]:
    """A network that is not trained. num_full: parameters that stay float32 where the others are halved."""
    if not half:
        return [Part(name, num_parameters, PLAIN, num_shards)]
    kept = [Part(f"{name}: norms and tables", num_full, PLAIN, num_shards)] if num_full else []
    return [Part(name, num_parameters - num_full, HALF, num_shards), *kept]


def trained_parts(num_parameters: int, num_critic_more: int, *, num_processes: int, fsdp: bool,
                  average: bool) -> list[Part]:
    """Student and critic. num_parameters: of a UNet, or of an adapter; num_critic_more: of the head."""
    num_shards = num_processes if fsdp else 1
    trained = TRAINED + (BUCKETS if num_processes > 1 and not fsdp else 0)
    return [Part("student", num_parameters, trained + AVERAGE * average, num_shards),
            Part("critic", num_parameters + num_critic_more, trained, num_shards)]


def adapted_parts(shapes: dict[str, list[int]], num_adapter: int, half: bool, num_shards: int) -> list[Part]:
    """The frozen UNet that adapters are put into, of which the blocks are spread, and two adapters that add nothing:
    one lies whole in the UNet, one is the teacher's."""
    blocks = {name: shape for name, shape in shapes.items() if BLOCK.match(name)}
    rest = {name: shape for name, shape in shapes.items() if name not in blocks}
    return [*frozen_parts("frozen UNet of all three", num_of(blocks), half, num_kept_full(blocks), num_shards),
            *frozen_parts("frozen UNet, outside its blocks", num_of(rest), half, num_kept_full(rest)),
            Part("blank adapter in it", num_adapter, HALF if half else PLAIN),
            Part("blank adapter of the teacher", num_adapter, PLAIN, num_shards)]


def parts_at_start(num_unet: int, num_critic_more: int, num_adapter: int | None = None) -> list[Part]:
    """Student, critic and teacher before any is halved or spread: whole float32 copies on every device."""
    num_trained = num_unet if num_adapter is None else num_adapter
    blank = [] if num_adapter is None else [Part("blank adapters", 2 * num_adapter, PLAIN)]
    return [Part("student", num_trained, PLAIN), Part("critic", num_trained + num_critic_more, PLAIN),
            Part("teacher" if num_adapter is None else "frozen UNet of all three", num_unet, PLAIN), *blank]


def estimate(folder: Path, args, num_processes: int) -> dict[str, list[Part]]:
    """What every device will hold of a distillation, "at the start" and "in training", without activations and the
    blocks that FSDP2 has gathered for the moment. Raises InputError for what is no model."""
    config, shapes = read_json(folder / "unet" / "config.json", "the UNet's configuration"), shapes_of(folder / "unet")
    vae = read_json(folder / "vae" / "config.json", "the autoencoder's configuration")
    size = config["sample_size"] if args.resolution is None else \
        args.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
    half, num_shards = args.precision == "bf16", num_processes if args.fsdp else 1
    num_head = num_head_parameters(config, size) if args.cls_on_clean_image else 0
    num_adapter = num_adapter_parameters(shapes, args.lora_rank) if args.lora else None
    is_sdxl = kind_of(folder)
    encoders = {}
    for number, name in enumerate(("text_encoder", "text_encoder_2")[:1 + is_sdxl]):
        encoders |= {f"{number}.{key}": shape for key, shape in shapes_of(folder / name).items()}
    vae_part = Part("autoencoder", num_of(shapes_of(folder / "vae")), PLAIN)
    shown_by = vae_part
    if args.tiny_vae is not None:
        tiny = local_folder(args.tiny_vae or TINY_VAES[is_sdxl], "--tiny_vae", TINY_VAE_PATTERNS)
        shown_by = Part("tiny autoencoder", num_of(shapes_of(tiny)), PLAIN)
    training = trained_parts(num_adapter if args.lora else num_of(shapes), num_head, num_processes=num_processes,
                             fsdp=args.fsdp, average=True)
    training += adapted_parts(shapes, num_adapter, half, num_shards) if args.lora else \
        frozen_parts("teacher", num_of(shapes), half, num_kept_full(shapes), num_shards)
    training += [*frozen_parts("text encoders", num_of(encoders), half, num_kept_full(encoders), num_shards), shown_by]
    start = [*parts_at_start(num_of(shapes), num_head, num_adapter),
             *frozen_parts("text encoders", num_of(encoders), False), vae_part]
    start += [shown_by] if shown_by is not vae_part else []
    return {"in training": training, "at the start": start}


def device_bytes(device: torch.device) -> int:
    """Free memory of a device; of a CPU, this process's share of what the machine can still give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (int(found[1]) * 1024 if found else whole) // num_processes


def check_fits(moments: dict[str, list[Part]], device: torch.device, is_main: bool = True) -> None:
    """Print what a device will hold. Raises InputError where less of it is free, before any activation.

    moments: as of `estimate`. On a CPU the main process speaks for all: the others ask when it has loaded its model.
    """
    if device.type == "cpu" and not is_main:
        return
    totals = {moment: sum(part.bytes for part in parts) for moment, parts in moments.items()}
    free = device_bytes(device)
    if is_main:
        for part in next(iter(moments.values())):
            spread = f" / {part.num_shards} processes" if part.num_shards > 1 else ""
            print(f"  {part.name}: {part.num_parameters:,} parameters x {part.bytes_each} bytes{spread} = "
                  f"{part.bytes / GIGABYTE:.2f} GB", flush=True)
        held = ", ".join(f"{total / GIGABYTE:.2f} GB {moment}" for moment, total in totals.items())
        print(f"a device holds {held}, before activations and gathered blocks; {free / GIGABYTE:.1f} GB are free",
              flush=True)
    fullest = max(totals, key=totals.get)
    if totals[fullest] > free:
        advice = "add processes with --fsdp, or --lora, or --use_fp16" if fullest == "in training" else \
            "add --lora, or take devices with more memory: networks are whole before they are spread"
        raise InputError(f"--model_id: a device holds {totals[fullest] / GIGABYTE:.1f} GB {fullest}, before "
                         f"activations, but {device} has {free / GIGABYTE:.1f} GB free; {advice}")
