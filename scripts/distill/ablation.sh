#!/usr/bin/env bash
# What each part of the method is worth, in the shape of the paper's table: students of digits of four calls without one of
# the parts each, two seeds, scored beside the full method.
#   ./scripts/distill/ablation.sh TEACHER MNIST_FOLDER [more options of distill.train]
# TEACHER, MNIST_FOLDER and the environment as for mnist.sh; OUTPUT: results/distill_ablation where left out.
set -uo pipefail
export STEPS="${STEPS:-4}" OUTPUT="${OUTPUT:-results/distill_ablation}"
digits="$(dirname "$0")/mnist.sh"
NAME=full "$digits" "$@" || exit
NAME=one_time_scale "$digits" "$@" --dfake_gen_update_ratio 1 || exit
GAN="" NAME=no_gan "$digits" "$@" || exit
SIMULATION="" NAME=no_simulation "$digits" "$@" || exit
NAME=published_critic "$digits" "$@" --no_critic_step --no_level_schedule || exit
