"""Which families there are: any checkpoint of this repository as a denoiser, whoever trained it.

A checkpoint names its `family`; those without that name are S1's, baseline or LIFT. A new family adds a line to
FAMILIES: the function that makes a `Loaded` of a checkpoint's content.
"""
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from engine.denoiser import Denoiser, NetworkDenoiser
from engine.errors import InputError
from engine.files import expecting, load_torch
from flow import model as flow
from lift import checkpoints
from lift.coupling import TimestepDenoiser
from lift.objective import draw_timesteps, timestep_rule
from mnist import models as mnist
from scheduler import CosineSteps


@dataclass
class Loaded:
    """A checkpoint ready to be used.

    network: in eval mode, without gradient, on the device asked for. kind: what it puts out (`scheduler.clean_image`).
    content: what builds the network, as a checkpoint holds it. draw_times(num, generator): int64 [num, scales], how the
    training drew the timesteps of several scales together; None for one scale. loss_over_a_squared: whether the
    training divided the squared error by a^2. is_steep: whether the network divides by a at the noisiest level, so that
    a student of one step cannot start there. size, padded, cropped: of a family whose network wants a margin.
    """
    family: str
    network: nn.Module
    denoiser: Denoiser
    kind: str
    content: dict
    path: Path
    weights: str                        # ema or raw
    fingerprint: str                    # first 16 hex digits of the file's SHA-256
    few_steps: dict | None = None       # of a student: its times (`distill.student`)
    draw_times: Callable | None = None
    loss_over_a_squared: bool = False
    is_steep: bool = False
    options: dict = field(default_factory=dict)
    size: int | None = None             # of the data's images, where the network's are larger
    padded: Callable | None = None      # from these to the network's: uint8 [N, C, S, S]
    cropped: Callable | None = None     # and back


def load_lift(content: dict, path, weights: str, fingerprint: str, device) -> Loaded:
    """S1: a baseline of one scale, or LIFT with two."""
    missing = [key for key in ("model_state", "hidden_dims") if key not in content]
    if missing:
        raise InputError(f"{path}: has no {missing[0]} in it, expected a checkpoint of this repository")
    found = checkpoints.model_of(content, fingerprint, path, None, weights, device)
    model, schedule, options = found.model, CosineSteps(), content.get("options") or {}
    build = {"family": "lift", "model_type": found.model_type, "hidden_dims": list(model.hidden_dims),
             "parametrization": model.parametrization}
    facts = {"content": build, "path": Path(path), "weights": weights, "fingerprint": fingerprint, "options": options,
             "few_steps": content.get("few_steps"), "loss_over_a_squared": options.get("loss_target", "eps") == "v",
             "is_steep": model.parametrization == "eps"}
    if found.model_type == "baseline":
        denoiser = NetworkDenoiser(model, schedule, "eps", (3, 64, 64))
        return Loaded("lift", model, denoiser, "eps", **facts)
    rule = timestep_rule(SimpleNamespace(**options))

    def draw_times(num: int, generator: torch.Generator) -> torch.Tensor:
        return torch.stack(draw_timesteps(rule, num, generator, schedule), dim=1)

    return Loaded("lift", model, TimestepDenoiser(model, 2), "eps", draw_times=draw_times, **facts)


def load_flow(content: dict, path, weights: str, fingerprint: str, device) -> Loaded:
    """A DiT in pixels. Latents need their autoencoder, which is not handed on yet."""
    if content.get("vae_fingerprint"):
        raise InputError(f"{path}: is a flow in latents, expected one in pixels; generate from it with python -m "
                         "flow.generate")
    found = flow.load_checkpoint(path, weights, device)
    build = {key: content[key] for key in ("family", "config", "label_names") if key in content}
    return Loaded("flow", found.network, found.denoiser, "velocity", build, Path(path), weights, fingerprint,
                  few_steps=content.get("few_steps"), options=found.options)


def load_mnist(content: dict, path, weights: str, fingerprint: str, device) -> Loaded:
    """A model of digits in pixels. Latents need their VAE, which is not handed on yet."""
    if content.get("vae_hash"):
        raise InputError(f"{path}: is a model in latents, expected one in pixels; generate from it with python -m "
                         "mnist.generate")
    model = mnist.model_of(content, path, device, raw=weights == "raw")
    build = {key: content[key] for key in mnist.CONTENT if key in content}
    size = model.image_size
    return Loaded("mnist", model.denoiser.network, model.denoiser, model.denoiser.kind, build, Path(path), weights,
                  fingerprint, few_steps=content.get("few_steps"), is_steep=model.denoiser.kind == "eps",
                  options=content.get("options") or {}, size=size, padded=mnist.padded,
                  cropped=lambda images: mnist.cropped(images, size))


FAMILIES = {"lift": load_lift, "flow": load_flow, "mnist": load_mnist}


def kind_of(path) -> tuple[str, bool]:
    """Of the checkpoint at `path`: its family, and whether it is a student of few steps. Its weights are not read.

    Raises InputError for a file that is none of a known family, or an autoencoder's.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:              # foreign bytes can lead the unpickler to any exception at all
        raise InputError(f"{path}: is no file of tensors and plain types, expected a checkpoint") from error
    if not isinstance(content, dict) or "model_state" not in content:
        raise InputError(f"{path}: has no model_state in it, expected a checkpoint of this repository")
    family = content.get("family", "lift")
    if family not in FAMILIES or content.get("model") == "vae":
        found = "an autoencoder" if family in FAMILIES else f"of family {str(family)[:40]!r}"
        raise InputError(f"{path}: is {found}, expected a model of {', '.join(FAMILIES)}")
    return family, bool(content.get("few_steps"))


def load(path, weights: str = "ema", device="cpu", option: str = "--checkpoint") -> Loaded:
    """The checkpoint at `path`. weights: ema (averaged) or raw. option: its name in messages.

    Raises InputError for a file that is missing, damaged or holds pickled objects, and for an unknown family.
    """
    digest = hashlib.sha256()
    content = load_torch(path, "checkpoint", digest)
    if not isinstance(content, dict):
        raise InputError(f"{option}: {path} holds a {type(content).__name__}, expected a checkpoint of this repository")
    family = content.get("family", "lift")
    if family not in FAMILIES:
        raise InputError(f"{option}: {path} is of family {str(family)[:40]!r}, expected one of {', '.join(FAMILIES)}")
    with expecting(path, "checkpoint"):
        return FAMILIES[family](content, path, weights, digest.hexdigest()[:16], device)
