#!/usr/bin/env python3
"""Distil a teacher into a student of few steps: python -m distill.train --teacher CHECKPOINT, or --model_id MODEL."""
from data import choose_val_split, columns_in, load_images
from distill.options import OF_REAL_IMAGES, needs_images, parse as parse_args, uses_images
from engine.command_line import run_script
from engine.errors import InputError


def make_task(args, device, group):
    """The teacher, real images where they are needed, and the task of both; says the student's steps."""
    if args.model_id is None:
        task = task_of_checkpoint(args, device, group.is_main)
    else:
        from distill import text_to_image_task
        task = text_to_image_task.make_task(args, device, group, needs_images(args))
    if group.is_main:
        steps = ", ".join("(" + ",".join(map(str, place)) + ")" for place in task.few_steps["places"])
        print(f"student of {args.num_denoising_step} steps at {steps}, the first called at "
              f"{task.few_steps['called_at'][0]}; {args.dfake_gen_update_ratio} critic updates for one of the student",
              flush=True)
    return task


def take_teachers_dataset(args, loaded, say: bool) -> None:
    """The data set of the teacher, and the columns of its table that no option names. say: print it, where it is used.

    Raises InputError where images are needed and the teacher names none.
    """
    if uses_images(args) and not loaded.options.get("dataset"):
        raise InputError(f"--dataset: left out, but {args.teacher} does not say what it was trained on; name the real "
                         "images")
    for option in OF_REAL_IMAGES:
        setattr(args, option, getattr(args, option) or loaded.options.get(option))
    if say and uses_images(args):
        print(f"--dataset: left out, so {args.dataset}", flush=True)


def task_of_checkpoint(args, device, say: bool):
    """The task of a teacher that this repository has trained, or of EDM's network. say: print what is chosen here.

    Raises InputError, before anything is put on a device, for a teacher, options and images that do not fit.
    """
    import numpy as np
    import torch
    import families
    from distill.task import DistillationTask, check_distillation, check_has_labels, check_real_labels

    def teacher_on(place):
        return families.load(args.teacher, args.weights, place, "--teacher", args.vae)

    loaded = teacher_on("cpu")
    channels, side = loaded.image_shape[0], loaded.image_shape[-1]
    check_distillation(args, loaded.denoiser, True, loaded.is_guidable)      # before images are looked at
    if args.dataset is None:        # a student's record names what its scores compare with, also if it sees no image
        take_teachers_dataset(args, loaded, say)

    choose_val_split(args, "test", say)

    def images_of(split: str, **what):
        return load_images(args.dataset, split, cache_dir=args.cache_dir, size=side, channels=channels, **what,
                           **columns_in(vars(args)))

    images = labels = held_out = None
    content_hash = "none"
    if needs_images(args):
        found = images_of(args.split, beside=[args.val_split] * bool(args.val_every),
                          check=lambda facts: check_has_labels(args, loaded.denoiser, facts.has_labels))
        images, content_hash = torch.from_numpy(np.array(found.images)), found.content_hash
        labels = None if found.labels is None else torch.as_tensor(found.labels)
        check_real_labels(args, loaded.denoiser, labels)
    if args.val_every:
        held_out = torch.from_numpy(np.array(images_of(args.val_split).images[:args.val_images]))
    if torch.device(device).type != "cpu":
        loaded = teacher_on(device)
    if images is not None:
        images = loaded.inputs_of(images, device)
    return DistillationTask(loaded.denoiser, images, labels, args, loaded, content_hash, device, held_out)


def main():
    args = parse_args()
    from engine.loop import train
    train(make_task, args)


if __name__ == "__main__":
    run_script(main)
