#!/usr/bin/env python3
"""A student as a folder that diffusers opens: python -m distill.save_pipeline --checkpoint STUDENT --output_dir FOLDER.

Everything but the UNet is its teacher's; the scheduler is LCMScheduler, which predicts the clean image and noises it
again as our own sampler does. With diffusers: DiffusionPipeline.from_pretrained(FOLDER), then the call that is printed.
"""
import os
import shutil
from pathlib import Path

from engine.command_line import Parser, run_script
from engine.errors import InputError
from engine.files import check_can_be_written, expecting, write_json


def parse(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a text-to-image student's")
    parser.add_argument("--model_id", default=None, metavar="FOLDER_OR_NAME", help="its teacher, where that has moved")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or raw weights")
    parser.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER", help="must not exist yet")
    return parser.parse_args(argv)


def call_of(few_steps: dict) -> dict:
    """The arguments with which a diffusers pipeline calls the student at its own times. Raises InputError."""
    called = [place[0] for place in few_steps["called_at"]]
    if called != sorted(set(called), reverse=True):
        raise InputError(f"--checkpoint: the student is called at {called}, which LCMScheduler does not do, since "
                         "these times do not fall; distil with --conditioning_timestep 999, or sample with python -m "
                         "distill.evaluate_prompts")
    return {"timesteps": called, "num_inference_steps": len(called), "guidance_scale": 0.0}


def save_pipeline(model, few_steps: dict, folder: Path) -> None:
    """The folder, whole or not at all. model: the student's `distill.text_to_image.TextToImage`."""
    from diffusers import DiffusionPipeline, LCMScheduler
    call = call_of(few_steps)
    pipeline = DiffusionPipeline.from_pretrained(str(model.folder), use_safetensors=True, unet=model.network.unet)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config, clip_sample=False,
                                                  original_inference_steps=len(call["timesteps"]))
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    try:
        pipeline.save_pretrained(str(temporary), safe_serialization=True)
        write_json(temporary / "few_steps.json", {**few_steps, "call": call})
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"--output_dir: {folder} could not be written ({error.strerror or error}); free some space or "
                         "choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main():
    args = parse()
    if args.output_dir.exists():
        raise InputError(f"--output_dir: {args.output_dir} exists already; choose another folder")
    check_can_be_written(args.output_dir / "model_index.json")
    from distill.text_to_image import load_student, student_content
    content = student_content(args.checkpoint, lazily=True)
    with expecting(args.checkpoint, "checkpoint"):
        call_of(content["few_steps"])                   # before its teacher is loaded
    model, few_steps, _ = load_student(args.checkpoint, args.weights, model_id=args.model_id)
    save_pipeline(model, few_steps, args.output_dir)
    given = ", ".join(f"{key}={value}" for key, value in call_of(few_steps).items() if key != "num_inference_steps")
    print(f"{args.output_dir}: sample with DiffusionPipeline.from_pretrained(...)(prompt, {given})")


if __name__ == "__main__":
    run_script(main)
