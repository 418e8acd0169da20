#!/usr/bin/env python3
"""Distil a teacher into a student of 1, 2 or 4 steps: python -m distill.train --teacher CHECKPOINT."""
from data import load_images, to_device
from distill.options import needs_images, parse
from engine.command_line import run_script


def make_task(args, device, group):
    """The teacher from its checkpoint, real images where they are needed."""
    import torch
    import families
    from distill.task import DistillationTask
    loaded = families.load(args.teacher, args.weights, device, option="--teacher")
    images = labels = None
    content_hash = "none"
    if needs_images(args):
        channels, side = loaded.denoiser.shapes[0][0], loaded.size or loaded.denoiser.shapes[0][-1]
        found = load_images(args.dataset, args.split, cache_dir=args.cache_dir, size=side, channels=channels)
        images, content_hash = to_device(found.images, device), found.content_hash
        images = loaded.padded(images) if loaded.padded else images
        labels = None if found.labels is None else torch.as_tensor(found.labels)
    task = DistillationTask(loaded.denoiser, images, labels, args, loaded, content_hash, device)
    if group.is_main:
        steps = ", ".join("(" + ",".join(map(str, place)) + ")" for place in task.few_steps["places"])
        print(f"student of {args.num_denoising_step} steps at {steps}, the first called at "
              f"{task.few_steps['called_at'][0]}; {args.dfake_gen_update_ratio} critic updates for one of the student",
              flush=True)
    return task


def main():
    args = parse()
    from engine.loop import train
    train(make_task, args)


if __name__ == "__main__":
    run_script(main)
