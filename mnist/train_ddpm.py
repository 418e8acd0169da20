#!/usr/bin/env python3
"""Train a diffusion model of digits in pixels: the network learns the noise (Ho et al. 2020)."""
from engine.command_line import run_script
from mnist.training import run

if __name__ == "__main__":
    run_script(lambda: run(__doc__, "ddpm", "ddpm"))
