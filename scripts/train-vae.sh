#!/usr/bin/env bash
source "$(dirname "$0")/environment.sh" || exit
exec "$PYTHON" -m mnist.train_vae "$@"
