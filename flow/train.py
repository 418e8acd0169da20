#!/usr/bin/env python3
"""Train a flow: a Diffusion Transformer that carries noise to images of a class, in pixels or in latents."""
import argparse
import sys

from data import add_data_options, load_images, to_device
from engine.command_line import Parser, real_number, refuse_without_effect, run_script, whole_number
from engine.errors import InputError
from engine.options import add_training_options
from flow.options import TIME_DISTRIBUTIONS, add_network_options, fill_preset, refuse_older_names

LABEL_DROPOUT = 0.1


def parse_args(argv=None):
    """The command line. Raises InputError for options that contradict each other, or of the earlier implementation."""
    refuse_older_names(sys.argv[1:] if argv is None else argv)
    parser = Parser(__doc__)
    add_data_options(parser)
    data = parser.add_argument_group("images")
    data.add_argument("--split", default="train", help="images to train on")
    data.add_argument("--val_split", default="test", help="held-out images, for --val_every")
    data.add_argument("--val_images", type=whole_number(1), default=500, help="how many held-out images to use")
    data.add_argument("--image_size", type=whole_number(1, 4096), default=32, metavar="PIXELS", help="their side")
    data.add_argument("--image_column", default=None, metavar="COLUMN", help="left out: image or img")
    data.add_argument("--label_column", default=None, metavar="COLUMN", help="left out: label or fine_label")
    data.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True,
                      help="mirror half of the images at random")
    add_network_options(parser)
    group = parser.add_argument_group("flow")
    group.add_argument("--time_distribution", choices=TIME_DISTRIBUTIONS, default="logit_normal",
                       help="how the flow times of a batch are drawn")
    group.add_argument("--time_mean", type=real_number(-10, 10), default=0.0, help="of the normal behind logit_normal")
    group.add_argument("--time_deviation", type=real_number(0, 10, open_below=True), default=1.0,
                       help="of the normal behind logit_normal")
    group.add_argument("--label_dropout", type=real_number(0, 1), default=LABEL_DROPOUT,
                       help="share of labels that become the null class, which guidance needs")
    group.add_argument("--unconditional", action="store_true", help="one class for all images, labels or not")
    group.add_argument("--vae", default=None, metavar="FOLDER_OR_NAME",
                       help="train in the latents of this AutoencoderKL; left out: in pixels")
    add_training_options(parser, "flow")
    parser.set_defaults(dataset="cifar10", batch_size=256, lr_schedule="constant")
    args = parser.parse_args(argv)
    if not args.val_every:
        refuse_without_effect(parser, args, ["val_split", "val_images"], "without --val_every")
    if args.time_distribution == "uniform":
        refuse_without_effect(parser, args, ["time_mean", "time_deviation"], "with --time_distribution uniform")
    if args.vae is not None and args.output == "residual":
        raise InputError("--output: found residual with --vae, expected it without (its affine predictor is one of "
                         "pixels); use velocity or clean")
    fill_preset(args)
    return args


def labels_and_names(args, images, split: str):
    """int64 [N] and the names of the classes or None. Raises InputError where there are none and nobody said so."""
    import numpy as np
    import torch
    if args.unconditional:
        return torch.zeros(len(images), dtype=torch.int64), None
    if images.labels is None:
        raise InputError(f"--dataset: {args.dataset}: its split {split} has no labels; expected a column of labels, or "
                         "folders named by class; name the column with --label_column, or add --unconditional")
    return torch.from_numpy(np.array(images.labels, dtype=np.int64)), images.label_names


def number_of_classes(labels, names) -> int:
    """As many as there are names, else one more than the highest label."""
    return len(names) if names else int(labels.max()) + 1


def flow_task(args, images, held_out, device):
    """The FlowTask of a run. images, held_out (or None): ImageSet. Raises InputError for what does not fit together."""
    import torch
    from flow.latents import Latents, PosteriorSamples
    from flow.task import FlowTask, Pixels
    from networks.dit import DiT
    labels, names = labels_and_names(args, images, args.split)
    num_classes = number_of_classes(labels, names)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"--dataset: {args.dataset}: has label {int(labels.max())}, expected 0 to {num_classes - 1}")
    size, channels = images.images.shape[-1], images.images.shape[1]
    latents = Latents(args.vae, device) if args.vae else None
    facts = {"label_names": names}
    if latents is not None:
        facts["vae_fingerprint"] = latents.fingerprint
        size, channels = size // latents.factor, latents.channels
    torch.manual_seed(args.seed)
    network = DiT(size, channels, args.patch_size, args.hidden_size, args.depth, args.num_heads, args.mlp_ratio,
                  num_classes, qk_norm=args.qk_norm, time_scale=args.time_scale, output=args.output)

    def clean_of(image_set, flip: bool):
        if latents is None:
            return Pixels(to_device(image_set.images, device), device)
        moments = latents.encoded(image_set.images, image_set.content_hash, flip, args.cache_dir)
        return PosteriorSamples(moments, device)

    validation = None
    if held_out is not None:
        held_out_labels = labels_and_names(args, held_out, args.val_split)[0][:args.val_images]
        if held_out_labels.max() >= num_classes:
            raise InputError(f"--val_split: {args.val_split}: has label {int(held_out_labels.max())}, expected 0 to "
                             f"{num_classes - 1}, as in {args.split}")
        validation = clean_of(held_out, False), held_out_labels
    return FlowTask(args, network, clean_of(images, args.flip), labels, images.content_hash, device,
                    images=images.images if args.output == "residual" else None, held_out=validation, latents=latents,
                    facts=facts)


def make_task(args, device, group):
    """Read the data and build the task; says what a network so narrow can never learn."""
    from flow.model import rank_warning
    how = dict(cache_dir=args.cache_dir, size=args.image_size, image_column=args.image_column,
               label_column=args.label_column)
    images = load_images(args.dataset, args.split, **how)
    held_out = load_images(args.dataset, args.val_split, **how) if args.val_every else None
    task = flow_task(args, images, held_out, device)
    warning = rank_warning(task.networks["model"])
    if warning and group.is_main:
        print(warning, flush=True)
    return task


def loop_of(args, images, group, device):
    """The loop of a run on given images, as the benchmark times it."""
    from engine.loop import Loop
    return Loop(flow_task(args, images, None, device), args, group, device)


def main():
    args = parse_args()
    from engine.loop import train
    train(make_task, args)


if __name__ == "__main__":
    run_script(main)
