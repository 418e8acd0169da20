"""Images for prompts, and their scores: which are drawn already, which a process has to draw, and the real images."""
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
from distill.clip_score import ClipScore
from distill.options import USUAL_CLIP
from distill.text_to_image import TextSampler, TextToImage, load_student
from engine.errors import InputError
from engine.files import expecting, save_png, write_json
from engine.image_folder import refuse_images
from evaluation import scoring


def sampler_of(args, device) -> tuple[TextSampler, dict]:
    """The sampler, and the entries that identify it. Raises InputError."""
    half = args.precision == "bf16"
    if args.checkpoint is None:
        model = TextToImage(args.model_id, device, args.resolution, tiny_vae=args.tiny_vae, half=half)
        key = {"model": model.fingerprint, "num_steps": args.num_steps, "guidance_scale": args.guidance_scale}
        return TextSampler(model, None, args.num_steps, args.guidance_scale, args.precision), key
    model, few_steps, fingerprint = load_student(args.checkpoint, args.weights, device, args.model_id, args.tiny_vae,
                                                 half)
    key = {"model": fingerprint, "weights": args.weights, "few_steps": few_steps}
    return TextSampler(model, few_steps, precision=args.precision), key


def begin_or_go_on(folder: Path, key: dict) -> None:
    """Write the entries that identify the images, or compare them with an earlier run's. Raises InputError if they
    differ."""
    record = folder / "prompts.json"
    if not record.is_file():
        refuse_images(folder, overwrite=False)
        write_json(record, key)
        return
    with expecting(record, "record of images for prompts"):
        found = json.loads(record.read_text(encoding="utf-8"))
    for name, value in key.items():
        if found.get(name) != value:
            raise InputError(f"{record}: its images have {name} {str(found.get(name))[:60]}, expected "
                             f"{str(value)[:60]}; choose another --output_dir")


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


def find_clip(args, device, say: bool = True) -> ClipScore | None:
    """The CLIP model of --clip, or the usual one. Where the usual one is missing: None, and a line that says so."""
    try:
        return ClipScore(args.clip or USUAL_CLIP, device)
    except InputError as error:
        if args.clip is not None:
            raise
        if say:
            print(f"no CLIP score: {error}; fetch it, or give a folder as --clip", flush=True)
        return None


def scores_of(args, prompts: list[str], size: int, clip: ClipScore | None, group, device) -> dict:
    """Distances to the real images, where there are any, and the CLIP score, where there is a model: name -> (value,
    standard error or None). Of all processes, the main one's counts."""
    scores, scorer, clip_sums = {}, None, torch.zeros(2, dtype=torch.float64, device=device)
    if args.dataset is not None:
        if not group.is_main:
            group.wait()                            # the main process decodes; the others find the cache
        metrics, weights_file = scoring.choose_metrics(args)
        if args.metrics is None:                    # large images by the thousand do not fit into memory together
            metrics = [metric for metric in metrics if metric not in scoring.OF_ALL_IMAGES]
        image_set = data.load_images(args.dataset, args.reference_split, args.cache_dir, size)
        if group.is_main:
            group.wait()
            scoring.say_what_becomes_of(metrics, (3, size, size))
            scoring.warn_of_few(metrics, {"generated": len(prompts), "real": len(image_set)})
        networks = scoring.Networks(metrics, weights_file, device)
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
