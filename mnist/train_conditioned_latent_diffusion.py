#!/usr/bin/env python3
"""Train a diffusion model with classes in the latents of a VAE, for guidance (Ho and Salimans 2022)."""
from engine.command_line import run_script
from mnist.training import run

if __name__ == "__main__":
    run_script(lambda: run(__doc__, "conditioned_latent_diffusion", "ddpm", latent=True,
                           conditioning="cross_attention"))
