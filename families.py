"""Any checkpoint of this repository as a denoiser, whichever family trained it.

A checkpoint names its `family`; a checkpoint without a name is of S1, baseline or LIFT. A new family adds a line to
FAMILIES: the function that makes a `Loaded` of a checkpoint's content.
"""
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from engine.denoiser import Denoiser, NetworkDenoiser, refuse_student
from engine.denoising_task import encoded
from engine.drawing import Drawing
from engine.errors import InputError
from engine.files import expecting, load_torch
from engine.run_files import weights_in
from engine.sampling import to_uint8
from engine.seeds import seeded_generator
from flow import model as flow
from flow.drawing import latents_of
from lift import checkpoints
from lift.coupling import TimestepModel, timestep_denoiser
from lift.objective import draw_timesteps, timestep_rule
from mnist import models as mnist
from networks import adm, dit, margin
from scheduler import CosineSteps, Sigma


@dataclass
class Loaded:
    """A checkpoint ready to be used.

    network: in eval mode, without gradient, on the device asked for. kind: what it puts out (`scheduler.clean_image`).
    content: what builds the network, as a checkpoint holds it. draw_times(num, generator): timesteps int64 [num,
    scales], drawn as in training; None for one scale. loss_over_a_squared: whether the training divided the squared
    error by a^2. is_steep: whether the network divides by a at the noisiest level, where a student of one step then
    cannot start. is_guidable: whether it predicts with a class and without. image_shape: of the data's images, [C, S,
    S]. padded, cropped: for a network that wants a margin. encode, decode: between images in [-1, 1] and latents; None
    for a model of pixels.
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
    is_guidable: bool = False
    options: dict = field(default_factory=dict)
    image_shape: tuple[int, int, int] | None = None     # None: the network's own
    padded: Callable | None = None      # from the data's images to the network's: uint8 [N, C, S, S]
    cropped: Callable | None = None     # and back
    encode: Callable | None = None
    decode: Callable | None = None
    path_of: Callable | None = None     # from a number of steps to times, where they are not the process's even ones
    epochs: int = 0                     # of the training

    def __post_init__(self):
        self.image_shape = tuple(self.image_shape or self.denoiser.shapes[0])

    @property
    def clips(self) -> bool:
        """Whether its predicted clean images are clipped while it is sampled: pixels, where the process says so."""
        return self.decode is None and self.denoiser.processes[0].clips_pixels

    def own_path(self, num_steps: int) -> torch.Tensor:
        """The times at which the model's family samples in so many steps: [num_steps + 1, scales]."""
        if self.path_of is not None:
            return self.path_of(num_steps)[:, None]
        return torch.stack([process.uniform_path(num_steps) for process in self.denoiser.processes], dim=1)

    def path_beside(self, path: torch.Tensor) -> torch.Tensor:
        """What a teacher walks beside a student's path, in as many steps: the path itself, or its own where its family
        has one (a noise prediction of digits knows nothing of the image at 999, and starts at 980)."""
        return path if self.path_of is None else self.own_path(len(path) - 1)

    def inputs_of(self, images: torch.Tensor, device) -> torch.Tensor:
        """The network's form of the data's images, uint8 [N, C, S, S]: the images themselves, padded ones, or
        latents."""
        images = images if self.padded is None else self.padded(images)
        return images.to(device) if self.encode is None else encoded(images, self.encode, device)

    def images_of(self, x: torch.Tensor) -> torch.Tensor:
        """The images of a sampler's x [B, *denoiser.shapes[0]]: uint8 [B, *image_shape]."""
        images = to_uint8(x if self.decode is None else self.decode(x.float()))
        return images if self.cropped is None else self.cropped(images)

    def drawing(self, denoiser: Denoiser, path: torch.Tensor, device, solver: str = "ddim", **how) -> Drawing:
        """How images of all classes in turn are drawn. denoiser: its own, a guided or corrected one, or a student by
        the solver renoise; how: as in `engine.sampling.sample`."""
        num_classes = self.denoiser.num_classes
        classes = None if num_classes is None else range(num_classes)
        return Drawing(denoiser, path, classes, self.decode or nn.Identity(), self.cropped or nn.Identity(), device,
                       {"solver": solver, "clip": solver != "renoise" and self.clips, **how})


def load_lift(content: dict, path, weights: str, fingerprint: str, device, vae=None) -> Loaded:
    """S1: a baseline of one scale, or LIFT with two."""
    missing = [key for key in ("model_state", "hidden_dims") if key not in content]
    if missing:
        raise InputError(f"{path}: has no {missing[0]} in it, expected a checkpoint of this repository")
    found = checkpoints.model_of(content, fingerprint, path, None, weights, device)
    model, schedule, options = found.model, CosineSteps(), content.get("options") or {}
    build = {"family": "lift", "model_type": found.model_type, "hidden_dims": list(model.hidden_dims),
             "parametrization": model.parametrization,
             **({"skip_64_at_noise": True} if getattr(model, "skip_64_at_noise", False) else {})}
    facts = {"content": build, "path": Path(path), "weights": weights, "fingerprint": fingerprint, "options": options,
             "few_steps": content.get("few_steps"), "loss_over_a_squared": options.get("loss_target", "eps") == "v",
             "is_steep": model.parametrization == "eps"}
    if found.model_type == "baseline":
        denoiser = NetworkDenoiser(model, schedule, "eps", (3, 64, 64))
        return Loaded("lift", model, denoiser, "eps", **facts)
    rule = timestep_rule(SimpleNamespace(**options))

    def draw_times(num: int, generator: torch.Generator) -> torch.Tensor:
        return torch.stack(draw_timesteps(rule, num, generator, schedule), dim=1)

    return Loaded("lift", model, timestep_denoiser(model, 2), "eps", draw_times=draw_times, **facts)


def load_flow(content: dict, path, weights: str, fingerprint: str, device, vae=None) -> Loaded:
    """A flow in pixels, or in the latents of an autoencoder. vae: its folder, where that has moved."""
    found = flow.load_checkpoint(path, weights, device)
    build = {"family": "flow", "config": found.network.config}
    build |= {key: content[key] for key in ("config", "label_names") if key in content}
    facts = {"few_steps": found.few_steps, "options": found.options, "is_guidable": found.is_guidable}
    if (latents := latents_of(found, vae, device)) is not None:
        build |= {"vae": str(vae or found.vae), "vae_fingerprint": latents.fingerprint}
        noise = seeded_generator(0, device=device)

        def encode(x: torch.Tensor) -> torch.Tensor:
            mean, deviation = latents.moments(x)
            return mean + deviation * torch.randn(mean.shape, generator=noise, device=mean.device)

        side = latents.factor * found.denoiser.shapes[0][-1]
        facts |= {"encode": encode, "decode": latents.decode, "image_shape": (3, side, side)}
    return Loaded("flow", found.network, found.denoiser, "velocity", build, Path(path), weights, fingerprint, **facts)


MNIST_CONTENT = ("family", "model", "name", "process", "kind", "settings", "image_size", "channels", "vae_checkpoint",
                 "vae_hash")


def load_mnist(content: dict, path, weights: str, fingerprint: str, device, vae=None) -> Loaded:
    """A model of digits, in pixels or in the latents of a VAE. vae: its checkpoint, where that has moved."""
    if content.get("model") == "vae":
        raise InputError(f"{path}: is an autoencoder, expected a denoiser; give it as --vae of a model of its latents")
    model = mnist.model_of(content, path, device, vae, weights, "--vae")
    build = {key: content[key] for key in MNIST_CONTENT if key in content}
    if model.vae is not None and vae is not None:
        build["vae_checkpoint"] = str(vae)
    size, latent = model.image_size, {}
    if model.vae is not None:
        latent = {"encode": torch.no_grad()(model.vae.encode), "decode": torch.no_grad()(model.vae.decode)}
    return Loaded("mnist", model.denoiser.network, model.denoiser, model.denoiser.kind, build, Path(path), weights,
                  fingerprint, few_steps=content.get("few_steps"), is_steep=model.denoiser.kind == "eps",
                  is_guidable=model.is_guidable, options=content.get("options") or {},
                  image_shape=(content["channels"], size, size), padded=margin.padded,
                  cropped=lambda images: margin.cropped(images, size), path_of=model.path,
                  **latent)


def load_edm(content: dict, path, weights: str, fingerprint: str, device, vae=None) -> Loaded:
    """EDM's network from its plain state dict, or a student of it. A network with classes always needs one."""
    is_student = "few_steps" in content
    state = weights_in(content, weights) if is_student else content
    config = content["config"] if is_student else adm.config_of(state, path)
    network = adm.EDMNetwork(**config)
    adm.load_state(network, state, path)
    network.requires_grad_(False).eval().to(device)
    shape = (config["channels"], config["resolution"], config["resolution"])
    denoiser = NetworkDenoiser(network, Sigma(), "x_0", shape, config["num_classes"] or None)
    return Loaded("edm", network, denoiser, "x_0", {"family": "edm", "config": config}, Path(path), weights,
                  fingerprint, few_steps=content["few_steps"] if is_student else None,
                  options=is_student and content.get("options") or {})


FAMILIES = {"lift": load_lift, "flow": load_flow, "mnist": load_mnist, "edm": load_edm}


def family_of(content: dict) -> str:
    """The family that a checkpoint names. Without a name, the weights' names tell it."""
    if dit.is_published(content):
        return "flow"
    return content.get("family", "edm" if adm.FIRST_WEIGHT in content else "lift")


def kind_of(path, known=tuple(FAMILIES)) -> tuple[str, bool]:
    """The family of the checkpoint at `path`, and whether it is a student of few steps. Its weights are not read.

    known: families that are welcome. Raises InputError for other families, for an autoencoder, and for a foreign file.
    """
    content = load_torch(path, "checkpoint", lazily=True)
    if not isinstance(content, dict) or not {"model_state", adm.FIRST_WEIGHT} & set(content):
        raise InputError(f"{path}: has no model_state in it, expected a checkpoint of this repository")
    family = family_of(content)
    if family not in known or content.get("model") == "vae":
        found = "an autoencoder" if family in known else f"of family {str(family)[:40]!r}"
        raise InputError(f"{path}: is {found}, expected a model of {', '.join(known)}")
    return family, bool(content.get("few_steps"))


def load(path, weights: str = "ema", device="cpu", option: str = "--checkpoint", vae=None) -> Loaded:
    """The checkpoint at `path`. weights: ema (averaged) or raw. option: the option that messages name. vae: the
    autoencoder of a model of latents, if it has moved since the training.

    Raises InputError for a file that is missing, damaged or holds pickled objects, and for an unknown family.
    """
    digest = hashlib.sha256()
    content = flow.content_of(path, digest)
    fingerprint = digest.hexdigest()
    if not isinstance(content, dict):
        raise InputError(f"{option}: {path} holds a {type(content).__name__}, expected a checkpoint of this repository")
    family = family_of(content)
    if family not in FAMILIES:
        raise InputError(f"{option}: {path} is of family {str(family)[:40]!r}, expected one of {', '.join(FAMILIES)}")
    with expecting(path, "checkpoint"):
        loaded = FAMILIES[family](content, path, weights, fingerprint[:16], device, vae)
        loaded.epochs = int(content.get("epochs") or 0)
    if vae is not None and loaded.decode is None:
        raise InputError(f"--vae: found {vae}, but {path} is a model of pixels; leave it out")
    return loaded


def load_two_scales(path, weights: str = "ema", device="cpu") -> checkpoints.LoadedModel:
    """A model of two scales of any family, called as LIFT is, so that error maps and path costs can be measured.

    Raises InputError as `load` does, for a model of other scales than 64 and 32 pixels, and for a student.
    """
    loaded = load(path, weights, device)
    refuse_student(loaded.few_steps, path)
    if loaded.family == "lift":
        return checkpoints.load_model(path, "lift", weights, device)
    sides = [shape[-1] for shape in loaded.denoiser.shapes]
    if sides != [64, 32] or loaded.decode is not None:
        found = " and ".join(map(str, sides))
        raise InputError(f"{path}: is a model of {found} pixels or cells, expected one of 64 and 32 pixels")
    return as_lift(loaded)


def as_lift(loaded: Loaded) -> checkpoints.LoadedModel:
    """A loaded model of two scales, or bands, called as LIFT is."""
    return checkpoints.LoadedModel(TimestepModel(loaded.denoiser), "lift", loaded.weights, loaded.path,
                                   loaded.fingerprint, loaded.epochs, loaded.options)
