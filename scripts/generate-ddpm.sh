#!/usr/bin/env bash
source "$(dirname "$0")/environment.sh" || exit
exec "$PYTHON" -m mnist.generate --output_dir results/mnist_ddpm "$@"
