#!/usr/bin/env python3
"""Images for a file of prompts, and their scores: python -m distill.evaluate_prompts --checkpoint STUDENT --prompts FILE.

With --model_id alone it is the teacher that draws. Image k depends on --seed, its prompt and k. Under torchrun the prompts
are divided over the processes. A run that was stopped goes on where it was: images that are there are not drawn again.
"""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
from distill.clip_score import USUAL, ClipScore
from distill.text_to_image import TextSampler, TextToImage, load_student, need_large_packages
from distill.texts import read_prompts
from engine import distributed
from engine.command_line import (Parser, add_device_options, real_number, refuse_without_effect, run_script, seed_number,
                                 start_device, whole_number, write_run_record)
from engine.errors import InputError
from engine.files import expecting, save_png, write_json
from engine.image_folder import refuse_images
from evaluation import scoring

OF_TEACHER = ["num_steps", "guidance_scale", "resolution"]


def parse(argv=None):
    parser = Parser(__doc__)
    group = parser.add_argument_group("what draws")
    group.add_argument("--checkpoint", type=Path, default=None, metavar="FILE", help="a text-to-image student's")
    group.add_argument("--model_id", default=None, metavar="FOLDER_OR_NAME",
                       help="a model in diffusers' layout; beside --checkpoint: the student's teacher, where that has moved")
    group.add_argument("--weights", choices=("ema", "raw"), default="ema", help="a student's averaged or raw weights")
    group.add_argument("--num_steps", type=whole_number(1, 1000), default=50, help="of a model that is no student: DDIM")
    group.add_argument("--guidance_scale", type=real_number(0), default=7.5, help="likewise: classifier-free guidance")
    group.add_argument("--resolution", type=whole_number(8), default=None, metavar="PIXELS", help="likewise")
    group.add_argument("--tiny_vae", nargs="?", const="", default=None, metavar="FOLDER_OR_NAME",
                       help="decode with an AutoencoderTiny; without a name, the usual one on the hub")
    group = parser.add_argument_group("what is drawn")
    group.add_argument("--prompts", "--eval_prompt_path", type=Path, required=True, metavar="FILE",
                       help=".txt with a prompt a line, or .parquet")
    group.add_argument("--text_column", default=None, metavar="COLUMN", help="of a .parquet")
    group.add_argument("--num_images", type=whole_number(1), default=None, metavar="IMAGES",
                       help="for the first prompts alone; left out: all")
    group.add_argument("--batch_size", type=whole_number(1), default=8, metavar="IMAGES", help="drawn at once")
    group.add_argument("--seed", type=seed_number, default=42, help="with an image's number and prompt, decides that image")
    group.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER",
                       help="for NUMBER.png, prompts.json and scores.json")
    data.add_data_options(parser)
    parser.set_defaults(dataset=None)               # without a folder of real images there is no distance to any
    scoring.add_metric_options(parser, "real images of --dataset to compare with")
    parser.add_argument("--clip", default=None, metavar="FOLDER_OR_NAME",
                        help=f"CLIP model for the CLIP score; left out: {USUAL}, if it is in the hub's cache")
    add_device_options(parser)
    args = parser.parse_args(argv)
    if args.checkpoint is None and args.model_id is None:
        raise InputError("--checkpoint, --model_id: found neither, expected a student or a model in diffusers' layout")
    if args.checkpoint is not None:
        refuse_without_effect(parser, args, OF_TEACHER, "with --checkpoint, whose student has its own")
    else:
        refuse_without_effect(parser, args, ["weights"], "without --checkpoint")
    return args


def sampler_of(args, device) -> tuple[TextSampler, dict]:
    """What draws, and what identifies it. Raises InputError."""
    half = args.precision == "bf16"
    if args.checkpoint is None:
        model = TextToImage(args.model_id, device, args.resolution, tiny_vae=args.tiny_vae, half=half)
        key = {"model": model.fingerprint, "num_steps": args.num_steps, "guidance_scale": args.guidance_scale}
        return TextSampler(model, None, args.num_steps, args.guidance_scale, args.precision), key
    model, few_steps, fingerprint = load_student(args.checkpoint, args.weights, device, args.model_id, args.tiny_vae, half)
    return TextSampler(model, few_steps, precision=args.precision), \
        {"model": fingerprint, "weights": args.weights, "few_steps": few_steps}


def begin_or_go_on(folder: Path, key: dict) -> None:
    """Write what identifies the images, or compare it with what is there. Raises InputError if they are others."""
    record = folder / "prompts.json"
    if not record.is_file():
        refuse_images(folder, overwrite=False)
        write_json(record, key)
        return
    with expecting(record, "record of images for prompts"):
        found = json.loads(record.read_text())
    for name, value in key.items():
        if found.get(name) != value:
            raise InputError(f"{record}: its images have {name} {str(found.get(name))[:60]}, expected {str(value)[:60]}; choose "
                             "another --output_dir")


def draw_missing(sampler: TextSampler, prompts: list[str], args, group) -> int:
    """Draw this process's images that are not there yet; returns how many."""
    from PIL import Image
    missing = [index for index in range(group.rank, len(prompts), group.size)
               if not (args.output_dir / f"{index:05d}.png").is_file()]
    with tqdm(total=len(missing), desc="images", unit="image", disable=not group.is_main) as progress:
        for first in range(0, len(missing), args.batch_size):
            indices = missing[first:first + args.batch_size]
            images = sampler.images([prompts[index] for index in indices], args.seed, indices)
            for index, image in zip(indices, images.permute(0, 2, 3, 1).cpu().numpy()):
                save_png(args.output_dir / f"{index:05d}.png", Image.fromarray(image))
            progress.update(len(indices))
    return len(missing)


def batches_of(args, prompts: list[str], group):
    """This process's images, from their files: yields numbers, uint8 [B, 3, S, S] and texts."""
    from PIL import Image
    own = list(range(group.rank, len(prompts), group.size))
    for first in range(0, len(own), args.batch_size):
        indices = own[first:first + args.batch_size]
        images = []
        for index in indices:
            with Image.open(args.output_dir / f"{index:05d}.png") as image:
                images.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
        yield indices, torch.stack(images), [prompts[index] for index in indices]


def find_clip(args, device) -> ClipScore | None:
    """The CLIP model, or None, with a line, where it was not asked for and is not at hand."""
    try:
        return ClipScore(args.clip or USUAL, device)
    except InputError as error:
        if args.clip is not None:
            raise
        print(f"no CLIP score: {error}; fetch it, or give a folder as --clip", flush=True)
        return None


def scores_of(args, prompts: list[str], size: int, clip: ClipScore | None, group, device) -> dict:
    """Distances to the real images, where there are any, and the CLIP score, where there is a model. Of all processes, the
    main one's counts."""
    scores, scorer, clip_sums = {}, None, torch.zeros(2, dtype=torch.float64, device=device)
    if args.dataset is not None:
        if not group.is_main:
            group.wait()                            # the main process decodes; the others find the cache
        metrics, weights_file = scoring.choose_metrics(args)
        image_set = data.load_images(args.dataset, args.reference_split, args.cache_dir, size)
        if group.is_main:
            group.wait()
            scoring.warn_of_few(metrics, {"generated": len(prompts), "real": len(image_set)})
        networks = scoring.Networks(metrics, weights_file, args.fd_tiny, device)
        references = scoring.References(metrics, image_set, networks, args.cache_dir, device)
        scorer = scoring.Scorer(metrics, networks, device)
    if scorer is None and clip is None:
        return {}
    for indices, images, texts in batches_of(args, prompts, group):
        if scorer is not None:
            scorer.take(indices, images.to(device))
        if clip is not None:
            cosines = clip.scores(images, texts)
            clip_sums += torch.stack([cosines.sum(), cosines.square().sum()]).to(device)
    if scorer is not None:
        scores |= scorer.scores(len(prompts), references, group)
    if clip is not None:
        mean, square = (group.sum(clip_sums) / len(prompts)).tolist()
        error = (max(square - mean**2, 0) / (len(prompts) - 1))**0.5 if len(prompts) > 1 else None
        scores["clip_score"] = mean, error
    return scores


def main():
    args = parse()
    prompts = read_prompts(args.prompts, args.text_column)[:args.num_images]
    need_large_packages()
    args.device = distributed.local_gpu(args.device)
    device = start_device(args)
    group = distributed.join(device)
    clip = find_clip(args, device)
    sampler, key = sampler_of(args, device)
    key |= {"prompts": hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16], "num_images": len(prompts),
            "seed": args.seed, "resolution": sampler.model.resolution, "precision": args.precision,
            "tiny_vae": args.tiny_vae}
    if group.is_main:
        begin_or_go_on(args.output_dir, key)
        if num_cut := sampler.model.texts.num_cut_off(prompts):
            print(f"{num_cut} of {len(prompts)} prompts have more than {sampler.model.texts.num_tokens} tokens and are cut "
                  "off there", flush=True)
    group.wait()
    num_drawn = torch.tensor(float(draw_missing(sampler, prompts, args, group)), device=device)
    num_drawn = int(group.sum(num_drawn))
    if group.is_main:
        print(f"{args.output_dir}: {num_drawn} images drawn, {len(prompts) - num_drawn} were there", flush=True)
    scores = scores_of(args, prompts, sampler.model.resolution, clip, group, device)
    if group.is_main:
        for name, (value, error) in scores.items():
            print(f"{name} {value:.4f}{'' if error is None else f' +- {error:.4f}'}", flush=True)
        write_run_record(args.output_dir / "scores.json", args, device, **key,
                         clip_model=clip.name if clip else None,
                         scores={name: {"value": value, "standard_error": error} for name, (value, error) in scores.items()})
    distributed.leave()


if __name__ == "__main__":
    run_script(main)
