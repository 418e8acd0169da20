#!/usr/bin/env python3
"""Train a rectified flow in the latents of a VAE."""
from engine.command_line import run_script
from mnist.training import run

if __name__ == "__main__":
    run_script(lambda: run(__doc__, "latent_rf", "flow", latent=True))
