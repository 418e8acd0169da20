#!/usr/bin/env python3
"""Train a rectified flow of digits in pixels: the network learns the velocity (Liu et al. 2023)."""
from engine.command_line import run_script
from mnist.training import run

if __name__ == "__main__":
    run_script(lambda: run(__doc__, "rf", "flow"))
