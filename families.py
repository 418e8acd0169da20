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
from lift.coupling import TimestepDenoiser, TimestepModel
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
    decode: Callable | None = None      # from the latents that the network knows to images in [-1, 1]
    is_guidable: bool = False           # whether it was trained without a class too
    path_of: Callable | None = None     # from a number of steps to times, where they are not the process's even ones
    epochs: int = 0                     # of the training

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of the data's images, [C, S, S]."""
        channels, *sides = self.denoiser.shapes[0]
        return (channels, self.size, self.size) if self.size else (channels, *sides)


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
                  few_steps=content.get("few_steps"), options=found.options,
                  is_guidable=found.options.get("label_dropout", 0) > 0)


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
                  cropped=lambda images: mnist.cropped(images, size), is_guidable=model.dropped_labels,
                  path_of=model.path)


FAMILIES = {"lift": load_lift, "flow": load_flow, "mnist": load_mnist}


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
        loaded = FAMILIES[family](content, path, weights, digest.hexdigest()[:16], device)
        loaded.epochs = int(content.get("epochs") or 0)
    return loaded


def load_two_scales(path, weights: str = "ema", device="cpu") -> checkpoints.LoadedModel:
    """A model of two scales of any family, called as LIFT is, so that error maps and path costs can be had of it.

    Raises InputError as `load` does, and for a model of other scales than 64 and 32 pixels.
    """
    loaded = load(path, weights, device)
    if loaded.family == "lift":
        return checkpoints.load_model(path, "lift", weights, device)
    sides = [shape[-1] for shape in loaded.denoiser.shapes]
    if sides != [64, 32] or loaded.decode is not None:
        raise InputError(f"{path}: is a model of {' and '.join(map(str, sides))} pixels or cells, expected one of 64 and 32 "
                         "pixels")
    return as_lift(loaded)


def as_lift(loaded: Loaded) -> checkpoints.LoadedModel:
    """A loaded model of two scales, called as LIFT is."""
    return checkpoints.LoadedModel(TimestepModel(loaded.denoiser), "lift", loaded.weights, loaded.path,
                                   loaded.fingerprint, loaded.epochs, loaded.options)
