#!/usr/bin/env python3
"""Train the variational autoencoder whose latents the latent models work in. Each of its levels halves the image."""
from engine.command_line import real_number, run_script, whole_number
from engine.experiment import train_into_folder
from mnist.training import FAST, add_size_options, parse, parser_of


def main():
    parser = parser_of(__doc__, "vae", FAST["vae"])
    group = add_size_options(parser, base_channels=64, channel_multipliers=[1, 2, 4], patch_size=1)
    group.add_argument("--latent_channels", type=whole_number(1, 64), default=2)
    group.add_argument("--kl_weight", type=real_number(0), default=1e-6,
                       help="of the divergence, summed over the latent")
    parser.set_defaults(epochs=20, learning_rate=1e-4)
    args = parse(parser)
    from mnist.tasks import vae_task
    train_into_folder(vae_task, args)


if __name__ == "__main__":
    run_script(main)
