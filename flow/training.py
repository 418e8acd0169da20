"""From the options of a training to its task: data, autoencoder, network."""
import numpy as np
import torch

from data import choose_val_split, columns_in, images_on, load_images, num_in_common
from engine.denoising_task import Pixels, check_labels
from engine.distributed import Group
from engine.errors import InputError
from engine.loop import Loop
from engine.options import check_fills_a_batch
from flow.latents import Latents, PosteriorSamples
from flow.model import build_network, rank_warning
from flow.task import FlowTask
from networks.bands import check_side
from networks.dit import check_sizes
from networks.flow_unet import check_unet


def sides_of(args, side: int) -> list[int]:
    """The sides of the network's images or latents: one side, or two, of which the second is half the first."""
    return [side, side // 2] if args.scales else [side]


def network_of(args, side: int, channels: int, num_classes: int):
    """A fresh network for images or latents of that side. Raises InputError for sizes that do not divide."""
    sides = sides_of(args, side)
    of_dit = ("num_heads", "mlp_ratio", "qk_norm", "time_scale", "output")
    sizes = {name: getattr(args, name)
             for name in ("patch_size", "hidden_size", "depth", *(of_dit if args.network == "dit" else ["network"]))}
    where = {"image_sizes": sides} if len(sides) > 1 else {"image_size": side}
    bands = {"bands": True} if args.bands else {}
    return build_network({**where, "channels": channels, "num_classes": num_classes, **sizes, **bands})


def check_labelled(args, split: str, has_labels: bool | None) -> None:
    """Raises InputError for a split without labels unless --unconditional. None: not known yet."""
    if has_labels is False and not args.unconditional:
        raise InputError(f"--dataset: {args.dataset}: its split {split} has no labels; expected a column of labels, or "
                         "folders named by class; name the column with --label_column, or add --unconditional")


def labels_and_names(args, images, split: str) -> tuple[torch.Tensor, list[str] | None]:
    """Labels int64 [N] and the names of the classes. Raises InputError for data without labels unless
    --unconditional."""
    check_labelled(args, split, images.labels is not None)
    if args.unconditional:
        return torch.zeros(len(images), dtype=torch.int64), None
    return torch.from_numpy(np.array(images.labels, dtype=np.int64)), images.label_names


def flow_task(args, images, held_out, device, latents: Latents | None = None) -> FlowTask:
    """The task of a run. images, held_out (or None): ImageSet; latents: of --vae. Raises InputError if data, network
    and autoencoder do not fit together."""
    labels, names = labels_and_names(args, images, args.split)
    num_classes = len(names) if names else int(labels.max()) + 1
    channels, size = images.images.shape[1:3]
    facts = {"label_names": names}
    if latents is not None:
        facts["vae_fingerprint"] = latents.fingerprint
        size, channels = latents.side_of(size), latents.channels
    torch.manual_seed(args.seed)
    network = network_of(args, size, channels, num_classes)

    def clean_images(image_set, flip: bool):
        if latents is None:
            return Pixels(images_on(image_set.images, device), device)
        return PosteriorSamples(latents.encoded(image_set.images, image_set.content_hash, flip, args.cache_dir), device)

    validation = None
    if held_out is not None:
        held_out_labels = labels_and_names(args, held_out, args.val_split)[0][:args.val_images]
        check_labels(held_out_labels, num_classes, f"--val_split: {args.val_split}")
        validation = clean_images(held_out, False), held_out_labels
    return FlowTask(args, network, clean_images(images, args.flip), labels, images.content_hash, device,
                    fitted_to=images.images if args.output == "residual" else None, held_out=validation,
                    latents=latents, facts=facts)


def make_task(args, device, group: Group) -> FlowTask:
    """Read autoencoder and data and build the task. A line warns of a network that is too narrow to learn all. Raises
    InputError for sizes that do not divide before data are read, and for data that cannot be trained on before they are
    decoded, where that can be known."""
    latents = Latents(args.vae, device) if args.vae else None
    side = args.image_size if latents is None else latents.side_of(args.image_size)
    if args.network == "unet":
        check_unet(sides_of(args, side), args.patch_size, args.hidden_size)
    else:
        check_sizes(sides_of(args, side), args.patch_size, args.hidden_size, args.num_heads, args.mlp_ratio,
                    args.output)
    if args.bands:
        check_side(side, "--image_size" if latents is None else "--vae: side of the latents")
    choose_val_split(args, "test", group.is_main)
    how = dict(cache_dir=args.cache_dir, size=args.image_size, channels=args.channels, **columns_in(vars(args)))

    def check(facts):
        check_fills_a_batch(args, facts.count)
        check_labelled(args, args.split, facts.has_labels)

    images = load_images(args.dataset, args.split, beside=[args.val_split] * bool(args.val_every), check=check, **how)
    held_out = None
    if args.val_every:
        held_out = load_images(args.dataset, args.val_split, **how,
                               check=lambda facts: check_labelled(args, args.val_split, facts.has_labels))
    task = flow_task(args, images, held_out, device, latents)
    if group.is_main and held_out and (seen := num_in_common(images.images, held_out.images[:args.val_images])):
        print(f"WARNING: --val_split: {seen} of the held-out images are among the training images; their loss says "
              "nothing of unseen ones", flush=True)
    if group.is_main and (warning := rank_warning(task.networks["model"])):
        print(warning, flush=True)
    return task


def loop_of(args, images, group: Group, device) -> Loop:
    """The loop of a run on given images, for benchmarks."""
    return Loop(flow_task(args, images, None, device), args, group, device)
