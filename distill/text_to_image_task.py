"""Distillation of a text-to-image model: its texts, latents and memory; the losses are those of `distill.task`."""
import hashlib

import torch

from data import load_images
from distill import memory
from distill.few_steps import student_times
from distill.lora import AdaptedNetwork, adapter_of, add_adapter_layers
from distill.student import few_steps_of
from distill.task import DistillationTask
from distill.text_to_image import TextToImage, local_folder, need_large_packages
from distill.texts import captions_of, read_prompts
from engine import devices
from engine.errors import InputError
from engine.seeds import TRAIN_BATCH, seeded_generator
from engine.sharding import shard_each
from families import Loaded
from flow.latents import PosteriorSamples


class TextToImageTask(DistillationTask):
    """As `DistillationTask`; labels are numbers of texts: first the prompts, then the captions of the real images.

    model: in float32. In bf16 arithmetic its UNet, the teacher, and its text encoders are halved at the end; all
    trained weights stay float32. moments: posterior mean and deviation of the real images' latents, float16
    [N, 1, 2, C, s, s], or None.
    """

    def __init__(self, model: TextToImage, prompts: list[str], captions: list[str], moments, args, content_hash: str):
        self.model, self.texts = model, [*prompts, *captions]
        self.posterior = None if moments is None else PosteriorSamples(moments, model.device)
        content = model.content()
        if args.lora:
            content["lora"] = {"rank": args.lora_rank, "alpha": args.lora_alpha}
            torch.manual_seed(args.seed)                # the adapters' first weights: the same in every process
            add_adapter_layers(model.network.unet, args.lora_rank, args.lora_alpha)
            model.network.requires_grad_(False)
            model.network = AdaptedNetwork(model.network)
        loaded = Loaded("text_to_image", model.network, model.denoiser(len(prompts)), model.kind, content, model.folder,
                        "raw", model.fingerprint, is_steep=model.kind == "eps", is_guidable=True, decode=model.decode)
        numbers = None if moments is None else torch.arange(len(prompts), len(self.texts))
        super().__init__(loaded.denoiser, moments, numbers, args, loaded, content_hash, model.device)
        self.frozen |= {f"text encoder {number}": encoder for number, (_, encoder) in enumerate(model.texts.pairs)}
        if args.precision == "bf16":
            model.halve()                               # after student, critic and average have their float32 copies
        texts_hash = hashlib.sha256("\0".join(self.texts).encode()).hexdigest()[:16]
        self.frozen_hashes = {**self.frozen_hashes, "set of texts": texts_hash}
        if args.gradient_checkpointing:
            self.networks["generator"].unet.enable_gradient_checkpointing()
            self.networks["critic"].network.unet.enable_gradient_checkpointing()

    def shard_frozen(self, device: torch.device) -> None:
        """As in `Task`; of the UNet that adapted networks share, the blocks. A critic's pass may end in its middle, so
        that its root, some hundredths of it, stays whole, as do the layers that adapters are put in place of."""
        super().shard_frozen(device)
        if self.args.lora:
            base = self.frozen["teacher"].shared[0]
            shard_each(base.blocks_to_shard(), device, kept_whole=adapter_of(base).values())

    def choose_steps(self) -> dict:
        """As in `DistillationTask`, but a noise prediction of several steps starts at 999, as published: LCMScheduler,
        which others will sample the student with, calls at falling times alone."""
        args = self.args
        if args.num_denoising_step > 1 and args.conditioning_timestep is None:
            places = [[place] for place in student_times(args.num_denoising_step)]
            return few_steps_of(places, places, args.coupling)
        return super().choose_steps()

    def told(self, labels: torch.Tensor) -> torch.Tensor:
        """Texts of these numbers as rows [B, W]."""
        with devices.autocast(self.device, self.args.precision):
            return self.model.texts.rows([self.texts[number] for number in labels.tolist()])

    def real_images(self, step: int, picks: torch.Tensor, part: slice) -> torch.Tensor:
        """Latents [B, C, S, S] of the real images that `picks[part]` names, with fresh posterior noise."""
        generator = seeded_generator(self.args.seed, TRAIN_BATCH, step, 1)
        noise = torch.randn(len(picks), *self.model.shape, generator=generator)
        indices = picks[part]
        return self.posterior(indices, torch.zeros_like(indices), noise[part].to(self.device))


def check_text_options(args) -> None:
    """Raises InputError for options that a text-to-image teacher has no use for, or that exclude each other."""
    if args.prompts is None:
        raise InputError("--model_id: found without --prompts, expected .txt or .parquet with the student's prompts")
    if args.lora and args.gradient_checkpointing:
        raise InputError("--lora: found with --gradient_checkpointing, whose second pass would miss the adapters; "
                         "leave one of the two out")
    if args.val_every:
        raise InputError("--val_every: found with --model_id, where distances are measured by python -m "
                         "distill.evaluate_prompts; leave it out")
    if args.ckpt_only_path is not None and args.sharded_state:
        raise InputError("--ckpt_only_path: found with --sharded_state, expected a state in one file")


def make_task(args, device, group, needs_images: bool) -> TextToImageTask:
    """The model of --model_id, its prompts, and latents of real images where they are needed. Raises InputError."""
    check_text_options(args)
    if needs_images and args.dataset is None:
        raise InputError("--dataset: left out with --model_id, expected real images with captions")
    need_large_packages()
    prompts = read_prompts(args.prompts, args.text_column)
    folder = local_folder(args.model_id)
    if group.is_main:
        print(f"{folder}, {group.size} processes:", flush=True)
    memory.check_fits(memory.estimate(folder, args, group.size), device, group.is_main)
    captions, images, content_hash = [], None, "none"
    if needs_images:
        captions = captions_of(args.dataset, args.split, args.text_column)
    model = TextToImage(args.model_id, device, args.resolution, args.sdxl, args.tiny_vae)
    if needs_images:
        found = load_images(args.dataset, args.split, cache_dir=args.cache_dir, size=model.resolution)
        if len(found) != len(captions):
            raise InputError(f"--dataset: {args.dataset}: found {len(found)} images and {len(captions)} captions, "
                             "expected as many; give every image a caption")
        images = model.latents.encoded(found.images, found.content_hash, False, args.cache_dir)
        content_hash = found.content_hash
    if args.tiny_vae is not None:
        model.latents = None                            # it has encoded the images, and is not needed to show others
    if group.is_main and (num_cut := model.texts.num_cut_off(prompts + captions)):
        print(f"{num_cut} of {len(prompts) + len(captions)} texts have more than {model.texts.num_tokens} tokens and "
              "are cut off there", flush=True)
    return TextToImageTask(model, prompts, captions, images, args, content_hash)
