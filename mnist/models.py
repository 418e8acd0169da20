"""The models of this family: a UNet with its noise process, in pixels or in the latents of a VAE, and their files."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.chunks import in_chunks
from engine.denoiser import Guided, NetworkDenoiser
from engine.errors import InputError
from engine.files import expecting, load_torch, sha256_of_file
from engine.sampling import from_uint8, sample, start_noise, to_uint8
from networks.conditional_unet import ConditionalUNet
from networks.vae import VAE
from scheduler import CLEAN, CosineSteps, LinearFlow

FAMILY = "mnist"
BETA_MAX = 0.9999
NETWORK_TIME_OF_NOISE = 999.0           # the network's time of pure noise; that of a flow's image is 0
DDIM_START = 980                        # at 999 abar is 2e-10, and a noise prediction says nothing of the image
EDGE_MULTIPLE = 8                       # images are padded with black to a side that can be halved three times


def padded(images: torch.Tensor) -> torch.Tensor:
    """The images with a black margin, so that their sides are multiples of 8: [N, C, 28, 28] -> [N, C, 32, 32]."""
    height, width = (-side % EDGE_MULTIPLE for side in images.shape[2:])
    black = 0 if images.dtype == torch.uint8 else -1.0
    return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2), value=black)


def cropped(images: torch.Tensor, size: int) -> torch.Tensor:
    """The inner size x size pixels, [..., S, S] -> [..., size, size]: inverse of `padded`."""
    top = (images.shape[-1] - size) // 2
    return images[..., top:top + size, top:top + size]


def to_network_time(t: torch.Tensor) -> torch.Tensor:
    """From LinearFlow's time, 0 noise ... 1 image, to the network's, 999 noise ... 0 image."""
    return NETWORK_TIME_OF_NOISE * (1 - t)


@dataclass
class Model:
    """A denoiser, where its clean images lie (pixels, or the latents of `vae`), and the side of the images."""
    denoiser: NetworkDenoiser
    vae: VAE | None
    image_size: int
    name: str
    dropped_labels: bool = True         # whether it was trained without a class too, which guidance needs

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
    def channels(self) -> int:
        """Of the images."""
        return (self.denoiser.shapes[0] if self.vae is None else self.vae.settings["shape"])[0]

    def path(self, num_steps: int, mode: str = "ddim") -> torch.Tensor:
        """Times [num_steps + 1] of a sampling, even ones; in mode ddpm every timestep and CLEAN.

        DDIM of a noise prediction takes every k-th timestep where 1000 = k num_steps: 980, 960 ... 0 for 50. Other
        numbers of steps start at 980, or where 980 has too few timesteps below it, at num_steps - 1. Raises InputError.
        """
        process = self.denoiser.processes[0]
        if not isinstance(process, CosineSteps):
            return process.uniform_path(num_steps)
        if mode == "ddpm":
            return torch.arange(self.num_timesteps - 1, CLEAN - 1, -1)
        if not 1 <= num_steps <= self.num_timesteps:
            raise InputError(f"--sampling_steps: found {num_steps}, expected 1...{self.num_timesteps}")
        stride, rest = divmod(process.num_timesteps, num_steps)
        if self.denoiser.kind != "eps":
            t = torch.linspace(process.noisiest, 0, num_steps, dtype=torch.float64)
        elif rest or num_steps == 1:
            t = torch.linspace(max(DDIM_START, num_steps - 1), 0, num_steps, dtype=torch.float64)
        else:
            t = torch.arange(num_steps - 1, -1, -1) * stride
        return torch.cat([t.round().long(), torch.tensor([CLEAN])])

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """uint8 images [B, C, image_size, image_size] of what the sampler holds."""
        with torch.inference_mode():
            return cropped(to_uint8(x if self.vae is None else self.vae.decode(x.float())), self.image_size)

    def images(self, path, seed: int, indices, labels=None, guidance_scale: float = 1.0, batch_size: int = 250,
               **how) -> torch.Tensor:
        """Generated images of those numbers: uint8 [n, C, S, S] on the CPU. how: as in `engine.sampling.sample`."""
        denoiser = self.denoiser if labels is None else Guided(self.denoiser, guidance_scale)
        device = next(self.denoiser.network.parameters()).device
        parts = []
        for chosen in torch.arange(len(indices)).split(batch_size):
            part = None if labels is None else labels[chosen].to(device)
            x = sample(denoiser, path, seed, [indices[k] for k in chosen], labels=part, clip=self.clips,
                       device=device, **how).xs[0]
            parts.append(self.decode(x).cpu())
        return torch.cat(parts)

    def strip(self, path, seed: int, indices, labels=None, guidance_scale: float = 1.0, **how):
        """The sampler's state on its way: the steps before which it is shown (`strip_points`), and its images, uint8
        [points, N, C, S, S]; the last ones are the result."""
        process, num_steps = self.denoiser.processes[0], len(path) - 1
        is_ddim = isinstance(process, CosineSteps) and num_steps < self.num_timesteps
        shown, points = strip_points(num_steps, from_clean=is_ddim), []

        def note(step, times, xs):
            if step in shown:
                points.append(self.decode(xs[0]).cpu())

        self.images(path, seed, indices, labels, guidance_scale, batch_size=len(indices), on_step=note, **how)
        return shown, torch.stack(points)


def strip_points(num_steps: int, from_clean: bool = False) -> list[int]:
    """The steps before which a denoising strip shows the image: the first, every tenth of the way and the last, and
    the number num_steps for the result. from_clean: tenths are counted from the last step back, as in strips of DDIM,
    which so show timesteps 980, 900, 800 ... 0 of 50 steps."""
    stride = max(num_steps // 10, 1)
    tenths = range(num_steps - 1, 0, -stride) if from_clean else range(0, num_steps - 1, stride)
    return [*sorted({0, *tenths, num_steps - 1}), num_steps]


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


def weights_of(content: dict, raw: bool = False) -> dict:
    """The averaged weights, with the buffers of the raw ones; or the raw ones."""
    averaged = {} if raw else content.get("ema_state", {}).get("shadow", {})
    return {**content["model_state"], **averaged}


def load_vae(path, option: str = "--vae_checkpoint") -> VAE:
    """A trained VAE in eval mode."""
    content = load_checkpoint(path, "vae", option)
    with expecting(path, "VAE checkpoint"):
        vae = VAE(**content["settings"])
        vae.load_state_dict(weights_of(content))
    return vae.eval().requires_grad_(False)


@torch.inference_mode()
def reconstructed(vae: VAE, images: torch.Tensor) -> torch.Tensor:
    """A VAE's reconstruction of images, uint8 [N, C, S, S] both; the latent is the posterior's mean."""
    device = next(vae.parameters()).device
    parts = [vae.decode(vae.encode(from_uint8(padded(part).to(device)))).cpu() for part in in_chunks(images, 250)]
    return cropped(to_uint8(torch.cat(parts)), images.shape[-1])


@torch.inference_mode()
def decoded_noise(path, seed: int, indices, device) -> torch.Tensor:
    """Standard normal latents decoded by the VAE in a checkpoint: uint8 [N, C, S, S] on the CPU."""
    vae, size = load_vae(path, "--checkpoint").to(device), load_torch(path)["image_size"]
    [z] = start_noise([vae.latent_shape], seed, indices, device)
    return cropped(to_uint8(torch.cat([vae.decode(part) for part in z.split(250)])), size).cpu()


CONTENT = ("family", "model", "name", "process", "kind", "settings", "image_size", "channels", "vae_checkpoint",
           "vae_hash")


def load_model(path, device="cpu", vae_checkpoint=None) -> Model:
    """A trained model with its VAE. vae_checkpoint: the VAE's file, if it has moved since the training."""
    return model_of(load_checkpoint(path, "denoiser", "--checkpoint"), path, device, vae_checkpoint)


def model_of(content: dict, path, device="cpu", vae_checkpoint=None, raw: bool = False) -> Model:
    """The model in a checkpoint's content, with averaged weights or raw ones; the rest as in `load_model`."""
    with expecting(path, "checkpoint"):
        denoiser = build_denoiser(content["process"], content["kind"], content["settings"])
        denoiser.network.load_state_dict(weights_of(content, raw))
    vae = None
    if content["vae_hash"] is not None:
        vae_path = vae_checkpoint or content["vae_checkpoint"]
        vae = load_vae(vae_path)
        if sha256_of_file(vae_path) != content["vae_hash"]:
            raise InputError(f"--vae_checkpoint: {vae_path} is not the VAE that {path} was trained with (latents "
                             f"{list(vae.latent_shape)}, expected {content['settings']['shape']}); give that one")
        vae.to(device)
    denoiser.network.to(device).eval()
    return Model(denoiser, vae, content["image_size"], content["name"],
                 content["options"].get("label_dropout", 0) > 0)
