"""Text-to-image teachers in diffusers' layout, Stable Diffusion and SDXL: UNet, noise, texts, autoencoder.

Besides image and time, such a UNet is told one flat row of numbers per image: the embeddings of the text's tokens, one
token after the other, and for SDXL the pooled embedding behind them. Rows pass through losses, guidance and samplers in
place of the labels of other teachers.

diffusers and transformers (the extra `large`) take seconds to import, and most of the house needs neither.
"""
import hashlib
import json
import os
import re
from pathlib import Path

import torch
from torch import nn

from distill import lora
from distill.few_steps import times_of_places
from distill.student import StudentDenoiser, path_of
from engine import devices
from engine.denoiser import Guided, NetworkDenoiser
from engine.errors import InputError, need_packages
from engine.files import expecting, load_torch, sha256_of_file
from engine.run_files import weights_in
from engine.sampling import Samples, sample, to_uint8
from flow.latents import Latents
from scheduler import DiscreteSteps

KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}        # diffusers' names of what a UNet puts out
TINY_VAES = {False: "madebyollin/taesd", True: "madebyollin/taesdxl"}   # by whether it is SDXL
HUB_PATTERNS = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
HUB_LEFT_OUT = ["*.fp16.safetensors", "*non_ema*", "safety_checker/*"]
TINY_VAE_PATTERNS = ["config.json", "*.safetensors"]
BLOCK = re.compile(r"(?:.*\.)?(?:resnets|transformer_blocks)\.\d+")       # what FSDP2 gathers of a UNet at a time


def need_large_packages() -> None:
    """Raises InputError where the extra `large` is not installed."""
    need_packages("large", ("diffusers", "peft", "transformers"), "--model_id: text-to-image")
    import diffusers
    import transformers
    for package in (diffusers, transformers):
        package.utils.logging.disable_progress_bar()


def local_folder(name, option: str = "--model_id", patterns=HUB_PATTERNS, cached_only: bool = False) -> Path:
    """The folder of that name, or where the hub's client keeps the model of that name, fetched if need be.

    patterns: of the files that are fetched: configurations, vocabularies and safetensors weights. cached_only: nothing
    is fetched. Raises InputError.
    """
    folder = Path(os.path.expanduser(str(name)))
    if folder.is_dir():
        return folder
    if re.match(r"[./~]", str(name)) or str(name).count("/") != 1:
        raise InputError(f"{option}: {name}: found no such folder, expected one in diffusers' layout or a name on the "
                         "hub such as stabilityai/stable-diffusion-xl-base-1.0")
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns, ignore_patterns=HUB_LEFT_OUT,
                                      local_files_only=cached_only))
    except Exception as error:                          # the hub's client raises many unrelated types
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{option}: {name}: is no folder here, and the Hugging Face hub does not give it ({reason}); "
                         "give a folder in diffusers' layout") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a part of a model, without half-precision copies. Raises InputError without any."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if ".fp16." not in path.name
             and "non_ema" not in path.name]
    if not files:
        raise InputError(f"{folder}: has no .safetensors file, expected the weights in that format; pickled weights "
                         "(.bin) are never opened; save the model again with save_pretrained")
    return files


def read_json(path: Path, what: str) -> dict:
    """A JSON file of a model's folder. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected {what}; give a folder in diffusers' layout")
    with expecting(path, what):
        return json.loads(path.read_text(encoding="utf-8"))


def load_part(kind, folder: Path):
    """A network of diffusers or transformers from its folder: safetensors weights, eval mode, no gradient, float32.

    Raises InputError.
    """
    weight_files(folder)
    try:
        network = kind.from_pretrained(str(folder), use_safetensors=True, torch_dtype=torch.float32)
    except Exception as error:                          # both libraries raise many unrelated types
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{folder}: cannot be opened as {kind.__name__} ({reason}); fetch it again") from error
    return network.eval().requires_grad_(False)


def halved(network: nn.Module) -> nn.Module:
    """The network with the weights of its matrix products and convolutions in bfloat16, in place.

    Autocast rounds just these anyway, so that under it nothing changes: a teacher so stored still equals a float32
    critic of the same weights, bit for bit, and takes 2 bytes per parameter.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(torch.bfloat16)
    return network


class ConditionedUNet(nn.Module):
    """A UNet2DConditionModel as network(x, t, rows).

    num_tokens: of a text's embedding. size: of the latents, pixels a side. time_ids: for SDXL height, width, two zeros,
    height, width; None otherwise.
    """

    def __init__(self, unet, num_tokens: int, size: int, time_ids: tuple[int, ...] | None = None):
        super().__init__()
        self.unet, self.num_tokens, self.size = unet, num_tokens, size
        self.text_width = unet.config.cross_attention_dim
        ids = None if time_ids is None else torch.tensor([time_ids], dtype=torch.float32)
        self.register_buffer("time_ids", ids, persistent=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """x: latents [B, C, s, s]; t: timesteps [B]; rows: [B, tokens x width (+ pooled)] -> [B, C, s, s]."""
        length = self.num_tokens * self.text_width
        tokens = rows[:, :length].reshape(len(x), self.num_tokens, self.text_width)
        added = None
        if self.time_ids is not None:
            added = {"text_embeds": rows[:, length:], "time_ids": self.time_ids.expand(len(x), -1)}
        return self.unet(x, t, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False)[0]

    def blocks_to_shard(self) -> list[nn.Module]:
        """What FSDP2 gathers one after the other."""
        return [module for name, module in self.unet.named_modules() if BLOCK.fullmatch(name)]

    def critic_parts(self) -> dict:
        """Where a critic's head and its step embedding are put (`distill.critic.Critic`)."""
        config = self.unet.config
        return {"bottleneck": "unet.mid_block", "channels": config.block_out_channels[-1],
                "size": self.size // 2 ** (len(config.block_out_channels) - 1), "time_embedding": "unet.time_embedding",
                "embedding_width": self.unet.time_embedding.linear_2.out_features}


class TextDenoiser(NetworkDenoiser):
    """A NetworkDenoiser whose labels are rows [B, W]. null_row: what images without a text are told, [W]."""

    def __init__(self, network, process, kind: str, shape, num_texts: int, null_row: torch.Tensor):
        super().__init__(network, process, kind, shape, num_texts)
        self.null_row = null_row

    def null_labels(self, num: int, device) -> torch.Tensor:
        """The unconditional row, [num, W]."""
        return self.null_row.to(device).expand(num, -1)


class TextEncoder(nn.Module):
    """An encoder of transformers, in a module of ours: FSDP2 changes the class of what it spreads, and transformers
    decides by its classes what is put out. second_last: whether its second-last states are asked for, not its last."""

    def __init__(self, encoder, second_last: bool):
        super().__init__()
        self.encoder, self.second_last = encoder, second_last

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token numbers [B, n] -> states [B, n, w], and the pooled state [B, p] of an encoder that has one."""
        found = self.encoder(tokens, output_hidden_states=self.second_last)
        states = found.hidden_states[-2] if self.second_last else found.last_hidden_state
        return states, getattr(found, "text_embeds", None)


class TextEncoders:
    """Texts -> rows. One encoder (Stable Diffusion: its last states), or two (SDXL: their second-last states side by
    side, and the pooled state of the second), each with its own tokenizer: the second one of SDXL pads differently."""

    def __init__(self, folder: Path, is_sdxl: bool, device):
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
        self.is_sdxl, self.device, self.pairs = is_sdxl, torch.device(device), []
        kinds = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection} if is_sdxl else {"": CLIPTextModel}
        for ending, kind in kinds.items():
            part = folder / f"tokenizer{ending}"
            if not (part / "tokenizer_config.json").is_file():
                raise InputError(f"{part}: has no tokenizer_config.json, expected a tokenizer of transformers; fetch "
                                 "the model again")
            with expecting(part, "tokenizer of transformers"):
                tokenizer = CLIPTokenizer.from_pretrained(str(part))
            encoder = TextEncoder(load_part(kind, folder / f"text_encoder{ending}"), is_sdxl).to(device)
            self.pairs.append((tokenizer, encoder))
        self.num_tokens = self.pairs[0][0].model_max_length

    def tokens(self, texts: list[str]) -> list[torch.Tensor]:
        """Token numbers of each tokenizer: int64 [B, tokens], padded and cut off."""
        return [tokenizer(texts, padding="max_length", max_length=self.num_tokens, truncation=True,
                          return_tensors="pt").input_ids for tokenizer, _ in self.pairs]

    def num_cut_off(self, texts: list[str]) -> int:
        """How many texts have more tokens than the encoders read."""
        lengths = self.pairs[0][0](texts, truncation=False, verbose=False).input_ids
        return sum(len(tokens) > self.num_tokens for tokens in lengths)

    @torch.no_grad()
    def rows(self, texts: list[str]) -> torch.Tensor:
        """float32 [B, W] on the device."""
        found = [encoder(tokens.to(self.device)) for (_, encoder), tokens in zip(self.pairs, self.tokens(texts))]
        states = torch.cat([states for states, _ in found], dim=-1).flatten(1)
        pooled = [found[-1][1]] if self.is_sdxl else []
        return torch.cat([states, *pooled], dim=1).float()


class TinyDecoder:
    """An AutoencoderTiny that decodes scaled latents: a small network, fast, and a little less sharp."""

    def __init__(self, name, device):
        from diffusers import AutoencoderTiny
        self.vae = load_part(AutoencoderTiny, local_folder(name, "--tiny_vae", TINY_VAE_PATTERNS)).to(device)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, s, s] -> images [B, 3, S, S], about in [-1, 1]."""
        return self.vae.decode(latents.float() / self.vae.config.scaling_factor).sample


class TextToImage:
    """A model in diffusers' layout, on a device, in eval mode.

    name: its folder or its name on the hub. resolution: pixels a side, a multiple of the autoencoder's factor; None:
    what the UNet was made for. must_be_sdxl: whether another one is refused. tiny_vae: folder or name of an
    AutoencoderTiny, "" for the usual one, None to decode with the model's own. half: weights in bfloat16, for use under
    autocast. Raises InputError.
    """

    def __init__(self, name, device="cpu", resolution: int | None = None, must_be_sdxl: bool = False,
                 tiny_vae: str | None = None, half: bool = False):
        need_large_packages()
        from diffusers import UNet2DConditionModel
        self.name, self.device, self.folder = str(name), torch.device(device), local_folder(name)
        self.is_sdxl = kind_of(self.folder, must_be_sdxl)
        vae = read_json(self.folder / "vae" / "config.json", "the autoencoder's configuration")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        unet = load_part(UNet2DConditionModel, self.folder / "unet")
        size = unet.config.sample_size if resolution is None else resolution // factor
        self.resolution = size * factor
        if resolution not in (None, self.resolution):
            raise InputError(f"--resolution: found {resolution}, expected a multiple of {factor}, the factor of the "
                             "autoencoder")
        self.shape = (unet.config.in_channels, size, size)
        self.process, self.kind = process_of(self.folder / "scheduler")
        self.texts = TextEncoders(self.folder, self.is_sdxl, device)
        ids = (self.resolution, self.resolution, 0, 0, self.resolution, self.resolution)
        self.network = ConditionedUNet(unet, self.texts.num_tokens, size, ids if self.is_sdxl else None).to(device)
        # Stable Diffusion was trained with the empty text, SDXL with zeros.
        index = read_json(self.folder / "model_index.json", "a model in diffusers' layout")
        self.null_row = self.texts.rows([""])[0]
        if self.is_sdxl and index.get("force_zeros_for_empty_prompt", True):
            self.null_row = torch.zeros_like(self.null_row)
        if half:
            self.halve()
        self.latents = Latents(self.folder / "vae", device)
        self.decode = self.latents.decode
        if tiny_vae is not None:
            self.decode = TinyDecoder(tiny_vae or TINY_VAES[self.is_sdxl], device).decode
        files = [self.folder / "scheduler" / "scheduler_config.json", self.folder / "unet" / "config.json",
                 *weight_files(self.folder / "unet")]
        self.fingerprint = hashlib.sha256("".join(map(sha256_of_file, files)).encode()).hexdigest()[:16]

    def halve(self) -> None:
        """`halved` UNet and text encoders. Adapters of the UNet stay float32."""
        unet = self.network.shared[0] if isinstance(self.network, lora.AdaptedNetwork) else self.network
        for network in (unet, *(encoder for _, encoder in self.texts.pairs)):
            halved(network)

    def denoiser(self, num_texts: int) -> TextDenoiser:
        """The model as the engine sees it. num_texts: how many texts its labels are drawn from."""
        return TextDenoiser(self.network, self.process, self.kind, self.shape, num_texts, self.null_row)

    def content(self) -> dict:
        """What a student's checkpoint says of its teacher: plain types."""
        return {"family": "text_to_image", "model_id": self.name, "teacher": self.fingerprint,
                "resolution": self.resolution, "is_sdxl": self.is_sdxl}


def kind_of(folder: Path, must_be_sdxl: bool = False) -> bool:
    """Whether the model is SDXL, from its list of parts. Raises InputError if it must be and is not."""
    index = read_json(folder / "model_index.json", "a model in diffusers' layout")
    found = bool((index.get("text_encoder_2") or [None])[0])
    if must_be_sdxl and not found:
        raise InputError(f"--sdxl: {folder} has one text encoder, expected SDXL with two; leave --sdxl out")
    return found


def process_of(folder: Path) -> tuple[DiscreteSteps, str]:
    """The noise process that a scheduler's configuration describes, and what the UNet puts out. Raises InputError."""
    from diffusers import DDPMScheduler
    config = read_json(folder / "scheduler_config.json", "a scheduler's configuration")
    kind = KINDS.get(config.get("prediction_type", "epsilon"))
    with expecting(folder / "scheduler_config.json", "scheduler's configuration"):
        alphas_cumprod = DDPMScheduler.from_config(config).alphas_cumprod.double()
    if kind is None or len(alphas_cumprod) != 1000 or not 0 < alphas_cumprod[-1] < alphas_cumprod[0] < 1:
        found = f"alphas_cumprod from {float(alphas_cumprod[0]):.4g} to {float(alphas_cumprod[-1]):.4g}"
        raise InputError(f"{folder}: found prediction {config.get('prediction_type')!r}, {len(alphas_cumprod)} "
                         f"timesteps with {found}; expected {', '.join(KINDS)}, 1000 timesteps, values between 0 and 1")
    return DiscreteSteps(alphas_cumprod), kind


def student_content(path, digest=None, lazily: bool = False) -> dict:
    """What a student's checkpoint holds. digest, lazily: as in `load_torch`. Raises InputError for anything else."""
    content = load_torch(path, "checkpoint", digest, lazily=lazily)
    if not isinstance(content, dict) or content.get("family") != "text_to_image":
        raise InputError(f"--checkpoint: {path} is no student of a text-to-image model, expected one made by python -m "
                         "distill.train --model_id")
    return content


def load_student(path, weights: str = "ema", device="cpu", model_id=None, tiny_vae: str | None = None,
                 half: bool = False) -> tuple[TextToImage, dict, str]:
    """A student's model, its few steps, and the first 16 hex digits of its checkpoint's SHA-256.

    weights: ema (averaged) or raw. model_id: its teacher's folder or name, where that has moved. The rest as in
    `TextToImage`. Raises InputError for a checkpoint of anything else, and for another teacher.
    """
    digest = hashlib.sha256()
    content = student_content(path, digest)
    with expecting(path, "checkpoint"):
        model = TextToImage(model_id or content["model_id"], device, content["resolution"], tiny_vae=tiny_vae)
        if model.fingerprint != content["teacher"]:
            raise InputError(f"--model_id: {model.folder} has other weights than the teacher of {path}; give the "
                             "folder of that one")
        state = weights_in(content, weights)
        if "lora" in content:
            lora.merge_adapter(model.network, state, **content["lora"])
        else:
            model.network.load_state_dict(state)
        if half:
            model.halve()
        return model, content["few_steps"], digest.hexdigest()[:16]


class TextSampler:
    """Texts -> images, of a student in its few steps or of a model in many.

    few_steps: a student's (`distill.student`), or None for `num_steps` of DDIM with guidance.
    """

    def __init__(self, model: TextToImage, few_steps: dict | None = None, num_steps: int = 50,
                 guidance_scale: float = 1.0, precision: str = "float32"):
        self.model, self.precision = model, precision
        denoiser = model.denoiser(1)
        if few_steps is None:
            self.path, self.solver = model.process.uniform_path(num_steps), "ddim"
            self.denoiser = Guided(denoiser, guidance_scale)
        else:
            times = [times_of_places(model.process)]
            self.path, self.solver = path_of(few_steps, times, [model.process]), "renoise"
            self.denoiser = StudentDenoiser(denoiser, few_steps, times)

    def latents(self, texts: list[str], seed: int, indices, on_step=None) -> Samples:
        """Image k of a text depends on the seed and k alone. texts: one per index. on_step: as in `engine.sampling`."""
        with devices.autocast(self.model.device, self.precision):
            rows = self.model.texts.rows(texts)
        return sample(self.denoiser, self.path, seed, indices, labels=rows, solver=self.solver, clip=False,
                      precision=self.precision, on_step=on_step, device=self.model.device)

    def images(self, texts: list[str], seed: int, indices, on_step=None) -> torch.Tensor:
        """uint8 [B, 3, S, S]. Raises InputError for latents that are not finite."""
        x = self.latents(texts, seed, indices, on_step).xs[0]
        if not x.isfinite().all():
            raise InputError(f"{self.model.name}: an image of {min(indices)}...{max(indices)} is not finite; use an "
                             "earlier checkpoint or --precision float32")
        return to_uint8(self.model.decode(x))
