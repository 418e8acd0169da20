"""Latents of a given, frozen autoencoder, diffusers' AutoencoderKL. Images are encoded once, into a cache.

The cache holds the posterior's mean and deviation for every image and for its mirror image. They are in the flow's
scaled latents, (posterior - shift) x scaling factor. Every training step draws fresh posterior noise.
"""
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from engine.chunks import in_chunks
from engine.denoising_task import CleanImages
from engine.errors import InputError, need_packages
from engine.files import locked, sha256_of_file, written_whole
from engine.sampling import from_uint8, to_device

PIXELS_PER_CHUNK = 32 * 256 * 256       # of the images that are encoded at once
VERSION = 1


class Latents:
    """An AutoencoderKL between images [B, 3, S, S] in [-1, 1] and scaled latents [B, C, S / f, S / f].

    folder: of `save_pretrained`, or a name on the hub. fingerprint: of its weights. Raises InputError.
    """

    def __init__(self, folder, device="cpu"):
        self.vae, self.fingerprint = load_vae(folder)
        self.vae.requires_grad_(False).eval().to(device)
        config = self.vae.config
        self.scale, self.shift = float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)
        self.channels = int(config["latent_channels"])
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.device = torch.device(device)

    def side_of(self, image_size: int) -> int:
        """The side of the latents of images of that side. Raises InputError where the factor does not divide it."""
        if image_size % self.factor:
            raise InputError(f"--image_size: found {image_size}, expected a multiple of {self.factor}, the factor of "
                             "--vae")
        return image_size // self.factor

    @torch.inference_mode()
    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the scaled latents: x [B, 3, S, S] in [-1, 1] -> two of [B, C, S / f, S / f]."""
        posterior = self.vae.encode(x.to(self.device)).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, s, s] -> images [B, 3, S, S], about in [-1, 1]."""
        return self.vae.decode(latents.float() / self.scale + self.shift).sample

    def encoded(self, images, content_hash: str, flip: bool, cache_dir) -> np.ndarray:
        """Moments of all images, from the cache or encoded into it: float16 [N, flips, 2, C, s, s], memory-mapped.

        images: uint8 [N, 3, S, S]. flips: 2 with `flip` (as it is, mirrored), else 1; then mean and deviation.
        """
        side = self.side_of(images.shape[-1])
        key = hashlib.sha256(json.dumps([content_hash, self.fingerprint, flip, VERSION]).encode()).hexdigest()[:16]
        path = Path(cache_dir) / "latents" / f"{key}.npy"
        shape = (len(images), 1 + flip, 2, self.channels, side, side)
        with locked(path, f"waiting for another process that encodes into {path}"):
            if not path.exists():
                self.write(path, images, shape, flip)
        try:
            moments = np.lib.format.open_memmap(path, mode="r")
            if moments.shape != shape or moments.dtype != np.float16:
                raise ValueError(f"holds {moments.dtype} {moments.shape}")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: damaged cache of latents ({error}), expected float16 {shape}; delete it") \
                from error
        return moments

    def write(self, path: Path, images, shape, flip: bool) -> None:
        """Encode all images into the cache file, which appears whole or not at all."""
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        with written_whole(path) as file, tqdm(total=len(images), desc="encoding", unit="image") as progress:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in in_chunks(images, max(1, min(32, PIXELS_PER_CHUNK // images.shape[-1]**2))):
                x = from_uint8(chunk)
                views = [torch.stack(self.moments(view), 1) for view in ([x, x.flip(3)] if flip else [x])]
                file.write(torch.stack(views, 1).half().cpu().numpy().tobytes())
                progress.update(len(chunk))


def decoder_of(latents: Latents | None):
    """The function from the sampler's result to images: the autoencoder's decoder, or the identity for pixels."""
    return torch.nn.Identity() if latents is None else latents.decode


class PosteriorSamples(CleanImages):
    """Scaled latents from the moments that `Latents.encoded` keeps, with fresh posterior noise."""

    has_noise = True

    def __init__(self, moments: np.ndarray, device):
        self.moments, self.device, self.shape = moments, device, tuple(moments.shape[3:])

    def __len__(self) -> int:
        return len(self.moments)

    def __call__(self, indices, flipped=None, noise=None) -> torch.Tensor:
        """As in `CleanImages`: [B, C, s, s]. Mirrored images need the moments of mirrored ones."""
        mirrored = 0 if flipped is None else flipped.long().numpy()
        moments = to_device(torch.from_numpy(self.moments[indices.numpy(), mirrored]), self.device).float()
        return moments[:, 0] + moments[:, 1] * noise


def load_vae(folder):
    """(AutoencoderKL, first 16 hex digits of the SHA-256 of its config and weights). Raises InputError."""
    need_packages("large", ("diffusers",), f"--vae: {folder}: an autoencoder of diffusers")
    from diffusers import AutoencoderKL                 # takes seconds to import, and pixel runs need none of it
    path = Path(folder)
    if re.match(r"[./~]", str(folder)) and not (path / "config.json").is_file():
        raise InputError(f"--vae: {folder}: has no config.json, expected a folder that diffusers' AutoencoderKL wrote")
    try:
        vae = AutoencoderKL.from_pretrained(str(folder), use_safetensors=True)
    except Exception as error:                          # diffusers and the hub's client raise many unrelated types
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"--vae: {folder}: cannot be opened as an AutoencoderKL with safetensors weights ({reason})") \
            from error
    # diffusers fills in Stable Diffusion's where the file has none.
    written = json.loads((path / "config.json").read_text(encoding="utf-8")) if path.is_dir() else vae.config
    if written.get("scaling_factor") is None:
        raise InputError(f"--vae: {folder}: its config.json has no scaling_factor, expected the number that latents "
                         "are multiplied with (0.18215 for Stable Diffusion's); add it")
    if path.is_dir():
        weights = "".join(sha256_of_file(file) for file in sorted(path.glob("*.safetensors")))
    else:
        weights = "".join(hashlib.sha256(value.numpy().tobytes()).hexdigest() for value in vae.state_dict().values())
    # Entries with a leading underscore tell where the model lies and which version wrote it, not what it computes.
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    return vae, hashlib.sha256((json.dumps(config, sort_keys=True, default=str) + weights).encode()).hexdigest()[:16]
