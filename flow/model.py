"""The model of the flow family: a DiT, or a UNet in its place, as a denoiser, and what a checkpoint holds of it."""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.denoiser import NetworkDenoiser, OutputDenoiser, dropped_labels
from engine.errors import InputError
from engine.files import SAFETENSORS, expecting, load_safetensors, load_torch
from engine.flops import gflop_of
from engine.run_files import weights_in
from networks.band_dit import BandDiT, BandFlowDenoiser
from networks.dit import DiT, is_published, least_error, load_published, published_state
from networks.dual_dit import DualDiT, DualFlowDenoiser
from networks.flow_unet import FlowUNet
from scheduler import LinearFlow

FAMILY = "flow"
ANY_AUTOENCODER = "any"         # in place of a fingerprint: published weights do not tell whose latents they know
PIXEL_CHANNELS = (1, 3)
PUBLISHED_DROPOUT = 0.1         # of labels, in the trainings of DiT and SiT


def build_network(config: dict) -> DiT | DualDiT | FlowUNet:
    """The network of a checkpoint's sizes."""
    if config.get("network") == "unet":
        return FlowUNet(**config)
    if config.get("bands"):
        return BandDiT(**config)
    return DualDiT(**config) if "image_sizes" in config else DiT(**config)


def denoiser_of(network: DiT | DualDiT | FlowUNet) -> OutputDenoiser:
    """The network as a denoiser of the engine: a velocity on straight paths, with its classes."""
    config = network.config
    if "image_sizes" in config:
        return DualFlowDenoiser(network)
    if config.get("bands"):
        return BandFlowDenoiser(network)
    shape = (config["channels"], config["image_size"], config["image_size"])
    return NetworkDenoiser(network, LinearFlow(), "velocity", shape, config["num_classes"])


def gflop_of_forward(config: dict) -> float:
    """Arithmetic of a forward pass per image, of one scale or two: 10^9 multiplications and additions."""
    def call():
        network = build_network(config)
        sides, t = config.get("image_sizes"), torch.zeros(1)
        xs = [torch.zeros(1, config["channels"], side, side) for side in sides or [config["image_size"]]]
        inputs = (xs, [t, t]) if sides else (xs[0], [t, t] if config.get("bands") else t)
        network(*inputs, torch.zeros(1, dtype=torch.int64))
    return gflop_of(call)


def rank_warning(network: DiT | DualDiT | FlowUNet) -> str | None:
    """A line for a velocity output whose tokens are wider than the network; None for other networks."""
    bound = 0 if isinstance(network, FlowUNet) else least_error(network)
    if not bound:
        return None
    numbers = network.patch_size**2 * network.channels
    return (f"WARNING: a token has {numbers} numbers and --hidden_size is {network.hidden_size}, so the velocity's "
            f"mean squared error stays above {bound:.2f} for ever; use --output residual, a smaller --patch_size or a "
            "larger --hidden_size")


def can_be_guided(num_classes: int, options: dict) -> bool:
    """Whether a model has classes and its training, of these options, dropped labels."""
    return num_classes > 1 and dropped_labels(options)


# --- checkpoints ------------------------------------------------------------------------------------------------------

@dataclass
class LoadedFlow:
    """A model ready to be sampled, and where it came from."""
    network: DiT | DualDiT | FlowUNet       # in eval mode, float32 parameters, on the device asked for
    weights: str                    # ema or raw
    path: Path
    fingerprint: str                # first 16 hex digits of the file's SHA-256
    epochs: int
    options: dict                   # of the training run
    label_names: list[str] | None
    vae_fingerprint: str | None     # of the autoencoder whose latents it models, or ANY_AUTOENCODER; None: pixels
    vae: str | None = None          # that autoencoder's folder or name
    few_steps: dict | None = None   # of a student: its times (`distill.student`)

    @property
    def is_guidable(self) -> bool:
        """Whether there are classes, and the training dropped labels."""
        return can_be_guided(self.network.num_classes, self.options)

    @property
    def denoiser(self) -> OutputDenoiser:
        """The network for the sampler."""
        return denoiser_of(self.network)


def content_of(path, digest=None):
    """What a file of weights holds: a checkpoint of this repository, or published weights, plain, as safetensors or
    within a training run's. digest: as in `load_torch`. Raises InputError."""
    if Path(path).suffix == SAFETENSORS:
        content = load_safetensors(path)
        if digest:
            digest.update(Path(path).read_bytes())
        return content
    try:
        return load_torch(path, "checkpoint", digest)
    except InputError as error:
        try:
            return published_state(path)
        except InputError:
            raise error from None


def load_published_weights(path, weights: str, device, fingerprint: str) -> LoadedFlow:
    """A DiT with published weights of DiT or SiT (`networks.dit.load_published`). Raises InputError."""
    network = load_published(path).requires_grad_(False).eval().to(device)
    knows_latents = network.config["channels"] not in PIXEL_CHANNELS
    return LoadedFlow(network, weights, Path(path), fingerprint, 0, {"label_dropout": PUBLISHED_DROPOUT}, None,
                      ANY_AUTOENCODER if knows_latents else None)


def load_checkpoint(path, weights: str = "ema", device="cpu") -> LoadedFlow:
    """The model in a checkpoint of `python -m flow.train`, or in a file of published DiT or SiT weights.

    weights: ema or raw. Raises InputError if the file is missing, damaged, of another family, or does not fit.
    """
    digest = hashlib.sha256()
    with expecting(path, "checkpoint"):
        content = content_of(path, digest)
    if is_published(content):
        return load_published_weights(path, weights, device, digest.hexdigest()[:16])
    if not isinstance(content, dict) or content.get("family") != FAMILY:
        found = content.get("family") or content.get("model_type") if isinstance(content, dict) else None
        raise InputError(f"{path}: is a checkpoint of {found or 'something else'}, expected one of the flow family; "
                         "use the command of its own family")
    state = weights_in(content, weights)
    network = build_network(content["config"])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not fit its sizes ({str(error).splitlines()[1].strip()[:120]})") \
            from error
    broken = next((name for name, value in state.items() if not torch.isfinite(value).all()), None)
    if broken:
        raise InputError(f"{path}: {weights} weight {broken} is not finite; use an earlier checkpoint")
    network.requires_grad_(False).eval().to(device)
    options = content.get("options") or {}
    return LoadedFlow(network, weights, Path(path), digest.hexdigest()[:16], int(content["epochs"]), options,
                      content.get("label_names"), content.get("vae_fingerprint"),
                      content.get("vae") or options.get("vae"), content.get("few_steps"))
