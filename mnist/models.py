"""The models of this family: a UNet with its noise process, in pixels or in the latents of a VAE, and their files."""
from dataclasses import dataclass
from functools import partial

import torch

from engine.chunks import in_chunks
from engine.denoiser import Guided, NetworkDenoiser, refuse_student
from engine.drawing import BATCH_SIZE, Drawing
from engine.errors import InputError
from engine.files import expecting, load_torch, sha256_of_file
from engine.run_files import weights_in
from engine.sampling import from_uint8, start_noise, to_uint8
from networks.conditional_unet import ConditionalUNet
from networks.margin import cropped, padded
from networks.vae import VAE
from scheduler import CosineSteps, LinearFlow

FAMILY = "mnist"
BETA_MAX = 0.9999
NETWORK_TIME_OF_NOISE = 999.0           # the network's time of pure noise; that of a flow's image is 0
DDIM_START = 980                        # at 999 abar is 2e-10, and a noise prediction says nothing of the image
FLOW_STEPS, DDIM_STEPS = 10, 50         # of samples that are to be looked at


def to_network_time(t: torch.Tensor) -> torch.Tensor:
    """From LinearFlow's time, 0 noise ... 1 image, to the network's, 999 noise ... 0 image."""
    return NETWORK_TIME_OF_NOISE * (1 - t)


@torch.inference_mode()
def images_of(x: torch.Tensor, vae: VAE | None, size: int) -> torch.Tensor:
    """The images in x [B, C, S, S], uint8 [B, C, size, size]. x: padded images in [-1, 1], or latents of `vae`."""
    decoded = x if vae is None else torch.cat([vae.decode(part.float()) for part in x.split(BATCH_SIZE)])
    return cropped(to_uint8(decoded), size)


@dataclass
class Model:
    """A denoiser, where its clean images lie (pixels, or the latents of `vae`), and the side of the images."""
    denoiser: NetworkDenoiser
    vae: VAE | None
    image_size: int
    name: str
    dropped_labels: bool = True         # whether it was trained without a class too, which guidance needs
    device: torch.device | None = None  # where the networks are; left out, where the weights are

    def __post_init__(self):
        if self.device is None:
            self.device = next(self.denoiser.network.parameters()).device

    @property
    def is_guidable(self) -> bool:
        """Whether it predicts with a class and without."""
        return self.denoiser.num_classes is not None and self.dropped_labels

    @property
    def clips(self) -> bool:
        """As in `families.Loaded`."""
        return self.vae is None and self.denoiser.processes[0].clips_pixels

    @property
    def num_timesteps(self) -> int:
        """Those of a diffusion model that can be stepped from. A noise prediction of latents leaves 999 out: a step
        from there multiplies its error by a hundred, and nothing clips the result."""
        return self.denoiser.processes[0].num_timesteps - (self.denoiser.kind == "eps" and not self.clips)

    @property
    def classes(self) -> range | None:
        """Their numbers; None for a model without classes."""
        return None if self.denoiser.num_classes is None else range(self.denoiser.num_classes)

    @property
    def channels(self) -> int:
        """Of the images."""
        return (self.denoiser.shapes[0] if self.vae is None else self.vae.settings["shape"])[0]

    def path(self, num_steps: int) -> torch.Tensor:
        """Times [num_steps + 1] of a sampling, even ones; of a diffusion model whole timesteps, in `num_timesteps`
        steps all of them. A noise prediction's fifty are 980, 960 ... 0. Raises InputError."""
        process = self.denoiser.processes[0]
        if not isinstance(process, CosineSteps):
            return process.uniform_path(num_steps)
        if not 1 <= num_steps <= self.num_timesteps:
            raise InputError(f"--sampling_steps: found {num_steps}, expected 1...{self.num_timesteps}")
        return process.strided_path(num_steps, DDIM_START if self.denoiser.kind == "eps" else None)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """What the network sees of images, uint8 [B, C, image_size, image_size]: padded images in [-1, 1], or
        latents, on the networks' device."""
        x = from_uint8(padded(images).to(self.device))
        return x if self.vae is None else self.vae.encode(x)

    def drawing(self, path, classes=None, guidance_scale: float = 1.0, **how) -> Drawing:
        """How images are drawn along a path. classes: the numbers of those that take turns, or None. how: as in
        `engine.sampling.sample`."""
        return Drawing(self.denoiser if classes is None else Guided(self.denoiser, guidance_scale), path, classes,
                       torch.nn.Identity() if self.vae is None else lambda x: self.vae.decode(x.float()),
                       partial(cropped, size=self.image_size), self.device, {"clip": self.clips, **how})

    def usual_drawing(self, guidance_scale: float = 1.0, **how) -> Drawing:
        """Of all classes in turn, in a way that suits the model: a flow's ten steps of midpoint, or fifty of DDIM."""
        solver, num_steps = ("midpoint", FLOW_STEPS) if self.denoiser.kind == "velocity" else ("ddim", DDIM_STEPS)
        return self.drawing(self.path(num_steps), self.classes, guidance_scale, solver=solver, **how)


def build_denoiser(process_name: str, kind: str, settings: dict) -> NetworkDenoiser:
    """An untrained denoiser. process_name: ddpm or flow; kind: of output; settings: of ConditionalUNet."""
    network = ConditionalUNet(**settings)
    is_flow = process_name == "flow"
    process = LinearFlow() if is_flow else CosineSteps(beta_max=BETA_MAX)
    return NetworkDenoiser(network, process, kind, settings["shape"],
                           network.num_classes if network.conditioning != "none" else None,
                           to_network_time if is_flow else None)


def kind_of(content) -> str:
    """The kind of model in a checkpoint's content: `vae` or `denoiser`."""
    is_ours = isinstance(content, dict) and content.get("family") == FAMILY
    return content.get("model") if is_ours else "no model of mnist"


def load_checkpoint(path, kind: str, option: str) -> dict:
    """A checkpoint of this family. kind: `vae` or `denoiser`. Raises InputError for anything else, naming `option`."""
    content = load_torch(path, "checkpoint")
    found = kind_of(content)
    if found != kind:
        raise InputError(f"{option}: {path} holds {found}, expected a {kind} of this family")
    return content


def load_vae(path, option: str = "--vae_checkpoint") -> VAE:
    """A trained VAE in eval mode."""
    content = load_checkpoint(path, "vae", option)
    with expecting(path, "VAE checkpoint"):
        vae = VAE(**content["settings"])
        vae.load_state_dict(weights_in(content))
    return vae.eval().requires_grad_(False)


@torch.inference_mode()
def reconstructed(vae: VAE, images: torch.Tensor) -> torch.Tensor:
    """A VAE's reconstruction of images, uint8 [N, C, S, S] both; the latent is the posterior's mean."""
    device = next(vae.parameters()).device
    return torch.cat([images_of(vae.encode(from_uint8(padded(part).to(device))), vae, images.shape[-1]).cpu()
                      for part in in_chunks(images, BATCH_SIZE)])


@torch.inference_mode()
def decoded_noise(path, seed: int, indices, device) -> torch.Tensor:
    """Standard normal latents decoded by the VAE in a checkpoint: uint8 [N, C, S, S] on the CPU."""
    vae, size = load_vae(path, "--checkpoint").to(device), load_torch(path)["image_size"]
    [z] = start_noise([vae.latent_shape], seed, indices, device)
    return images_of(z, vae, size).cpu()


def load_model(path, device="cpu", vae_checkpoint=None) -> Model:
    """A trained model with its VAE. vae_checkpoint: the VAE's file, if it has moved since the training. Raises
    InputError for a student of few steps."""
    content = load_checkpoint(path, "denoiser", "--checkpoint")
    refuse_student(content.get("few_steps"), path)
    return model_of(content, path, device, vae_checkpoint)


def model_of(content: dict, path, device="cpu", vae_checkpoint=None, weights: str = "ema",
             option: str = "--vae_checkpoint") -> Model:
    """The model in a checkpoint's content. weights: ema or raw; option: the VAE's; the rest as in `load_model`."""
    with expecting(path, "checkpoint"):
        denoiser = build_denoiser(content["process"], content["kind"], content["settings"])
        denoiser.network.load_state_dict(weights_in(content, weights))
    vae = None
    if content["vae_hash"] is not None:
        vae = load_vae(vae_path := vae_checkpoint or content["vae_checkpoint"], option)
        if sha256_of_file(vae_path) != content["vae_hash"]:
            raise InputError(f"{option}: {vae_path} is not the VAE that {path} was trained with (latents "
                             f"{list(vae.latent_shape)}, expected {content['settings']['shape']}); give that one")
        vae.to(device)
    denoiser.network.to(device).eval()
    return Model(denoiser, vae, content["image_size"], content["name"],
                 content["options"].get("label_dropout", 0) > 0)
