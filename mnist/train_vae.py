#!/usr/bin/env python3
"""Train the variational autoencoder whose latents the latent models work in."""
from engine.command_line import real_number, run_script, whole_number
from mnist.training import FAST_STEPS, parse, parser_of, train_into_folder


def vae_task(args, device, group):
    """The VAETask of a run. What cannot be is refused before the data set is decoded."""
    import torch
    from mnist.tasks import form_of_images, note_experiment, training_images
    from mnist.vae_task import VAETask
    from networks.vae import VAE
    shape = form_of_images(args)
    torch.manual_seed(args.seed)
    vae = VAE(shape, args.base_channels, args.channel_multipliers, args.latent_channels, args.patch_size)
    image_set, images = training_images(args)
    note_experiment(args, group)
    return VAETask(vae, images, image_set, args, device)


def main():
    parser = parser_of(__doc__, "vae", {"max_steps": FAST_STEPS["vae"], "base_channels": 32,
                                        "channel_multipliers": [1, 2], "patch_size": 2})
    group = parser.add_argument_group("network")
    group.add_argument("--base_channels", type=whole_number(8, 4096), default=64, metavar="CHANNELS")
    group.add_argument("--channel_multipliers", type=whole_number(1, 64), nargs="+", default=[1, 2, 4],
                       metavar="FACTOR", help="channels per level, in base channels; every level halves the image")
    group.add_argument("--latent_channels", type=whole_number(1, 64), default=2)
    group.add_argument("--patch_size", type=whole_number(1, 16), default=1, metavar="PIXELS",
                       help="the network sees patches of so many pixels as one")
    group.add_argument("--kl_weight", type=real_number(0), default=1e-6,
                       help="of the divergence, summed over the latent")
    parser.set_defaults(epochs=20, learning_rate=1e-4)
    train_into_folder(vae_task, parse(parser))


if __name__ == "__main__":
    run_script(main)
