#!/usr/bin/env bash
source "$(dirname "$0")/environment.sh" || exit
exec "$PYTHON" -m mnist.generate --guidance_scale 3 --output_dir results/mnist_conditioned_latent_diffusion "$@"
