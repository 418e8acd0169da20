#!/usr/bin/env python3
"""Images for a file of prompts, and scores: python -m distill.evaluate_prompts --checkpoint STUDENT --prompts FILE.

With --model_id alone it is the teacher that draws. Image k depends on --seed, its prompt and k. Under torchrun the
prompts are divided over the processes. A run that was stopped goes on where it was: images that are there are not drawn
again.
"""
import hashlib
from pathlib import Path

from data import add_data_options
from distill.options import USUAL_CLIP
from distill.texts import read_prompts
from engine.command_line import (Parser, add_device_options, real_number, refuse_without_effect, run_script,
                                 seed_number, start_device, whole_number, write_run_record)
from engine.errors import InputError
from evaluation.options import add_metric_options

OF_TEACHER = ["num_steps", "guidance_scale", "resolution"]


def parse(argv=None):
    parser = Parser(__doc__)
    group = parser.add_argument_group("what draws")
    group.add_argument("--checkpoint", type=Path, default=None, metavar="FILE", help="a text-to-image student's")
    group.add_argument("--model_id", default=None, metavar="FOLDER_OR_NAME",
                       help="a model in diffusers' layout; beside --checkpoint: its teacher, where that has moved")
    group.add_argument("--weights", choices=("ema", "raw"), default="ema", help="a student's averaged or raw weights")
    group.add_argument("--num_steps", type=whole_number(1, 1000), default=50,
                       help="DDIM steps of a model, not of a student")
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
    group.add_argument("--seed", type=seed_number, default=42, help="with a prompt and its number, decides the image")
    group.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER",
                       help="for NUMBER.png, prompts.json and scores.json")
    add_data_options(parser, left_out="none, and no distance to real images")
    add_metric_options(parser, "real images of --dataset to compare with")
    parser.add_argument("--clip", default=None, metavar="FOLDER_OR_NAME",
                        help=f"CLIP model for the CLIP score; left out: {USUAL_CLIP}, if it is in the hub's cache")
    add_device_options(parser)
    args = parser.parse_args(argv)
    if args.checkpoint is None and args.model_id is None:
        raise InputError("--checkpoint, --model_id: found neither, expected a student or a model in diffusers' layout")
    if args.checkpoint is not None:
        refuse_without_effect(parser, args, OF_TEACHER, "with --checkpoint, whose student has its own")
    else:
        refuse_without_effect(parser, args, ["weights"], "without --checkpoint")
    if args.dataset is None:
        refuse_without_effect(parser, args, ["metrics", "reference_split", "inception"], "without --dataset")
    if args.prompts.suffix == ".txt":
        refuse_without_effect(parser, args, ["text_column"], f"for {args.prompts}, which has no columns")
    return args


def main():
    args = parse()
    prompts = read_prompts(args.prompts, args.text_column)
    if len(prompts) < (args.num_images or 0):
        raise InputError(f"--num_images: found {args.num_images}, expected at most {len(prompts)}, the number of "
                         f"prompts in {args.prompts}")
    prompts = prompts[:args.num_images]
    import torch
    from distill.prompt_images import begin_or_go_on, draw_missing, find_clip, sampler_of, scores_of
    from distill.text_to_image import need_large_packages
    from engine import distributed
    need_large_packages()
    args.device = distributed.local_gpu(args.device)
    device = start_device(args)
    group = distributed.join(device)
    clip = find_clip(args, device, say=group.is_main)
    sampler, key = sampler_of(args, device)
    key |= {"prompts": hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16], "num_images": len(prompts),
            "seed": args.seed, "resolution": sampler.model.resolution, "precision": args.precision,
            "tiny_vae": args.tiny_vae}
    if group.is_main:
        begin_or_go_on(args.output_dir, key)
        if num_cut := sampler.model.texts.num_cut_off(prompts):
            print(f"{num_cut} of {len(prompts)} prompts have more than {sampler.model.texts.num_tokens} tokens and are "
                  "cut off there", flush=True)
    group.wait()
    num_drawn = torch.tensor(float(draw_missing(sampler, prompts, args, group)), device=device)
    num_drawn = int(group.sum(num_drawn))
    if group.is_main:
        print(f"{args.output_dir}: {num_drawn} images drawn, {len(prompts) - num_drawn} were there", flush=True)
    scores = scores_of(args, prompts, sampler.model.resolution, clip, group, device)
    if group.is_main:
        for name, (value, error) in scores.items():
            print(f"{name} {value:.4f}{'' if error is None else f' +- {error:.4f}'}", flush=True)
        values = {name: {"value": value, "standard_error": error} for name, (value, error) in scores.items()}
        write_run_record(args.output_dir / "scores.json", args, device, **key, clip_model=clip.name if clip else None,
                         scores=values)
    distributed.leave()


if __name__ == "__main__":
    run_script(main)
