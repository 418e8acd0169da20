#!/usr/bin/env bash
# The published second stage of imagenet.sh: its best student and critic at a quarter of the rate, with new optimizers.
#   ./scripts/distill/imagenet_resumed.sh EDM_WEIGHTS IMAGENET_FOLDER STATE [more options of distill.train]
# STATE: the training state (.state.pth) of the first stage to start from. The rest as there.
set -uo pipefail
arguments="EDM_WEIGHTS IMAGENET_FOLDER STATE"
source "$(dirname "$0")/common.sh" || exit
teacher=$1 dataset=$2 state=$(path_of "$3")
shift 3
exec "$(dirname "$0")/imagenet.sh" "$teacher" "$dataset" --name imagenet_resumed --ckpt_only_path "$state" \
    --generator_lr 5e-7 --guidance_lr 5e-7 "$@"
