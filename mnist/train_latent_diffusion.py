#!/usr/bin/env python3
"""Train a diffusion model in the latents of a VAE (Rombach et al. 2022)."""
from engine.command_line import run_script
from mnist.training import run

if __name__ == "__main__":
    run_script(lambda: run(__doc__, "latent_diffusion", "ddpm", latent=True))
