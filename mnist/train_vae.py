#!/usr/bin/env python3
"""Train the variational autoencoder whose latents the latent models work in."""
from engine.command_line import real_number, run_script, whole_number
from mnist.training import parse, parser_of


def vae_task(args, device, group):
    """The VAETask of a run."""
    import torch
    from mnist.tasks import note_experiment, training_images
    from mnist.vae_task import VAETask
    from networks.vae import VAE
    image_set, images = training_images(args)
    torch.manual_seed(args.seed)
    vae = VAE(images.shape[1:], args.base_channels, args.channel_multipliers, args.latent_channels)
    note_experiment(args)
    return VAETask(vae, images, image_set.content_hash, args, device)


def main():
    parser = parser_of(__doc__, "vae")
    group = parser.add_argument_group("network")
    group.add_argument("--base_channels", type=whole_number(8, 4096), default=64, metavar="CHANNELS")
    group.add_argument("--channel_multipliers", type=whole_number(1, 64), nargs="+", default=[1, 2, 4],
                       metavar="FACTOR", help="channels per level, in base channels; every level halves the image")
    group.add_argument("--latent_channels", type=whole_number(1, 64), default=2)
    group.add_argument("--kl_weight", type=real_number(0), default=1e-6,
                       help="of the divergence, summed over the latent")
    parser.set_defaults(epochs=20, learning_rate=1e-4, preset="documented")
    args = parse(parser)
    if args.fast and args.base_channels == 64:
        args.base_channels = 16
    from engine.loop import train
    train(vae_task, args)


if __name__ == "__main__":
    run_script(main)
