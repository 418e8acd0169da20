#!/usr/bin/env bash
# What each part of the method is worth, in the shape of the paper's table: students of digits of four calls without one
# of the parts each, two seeds, scored beside the full method.
#   ./scripts/distill/ablation.sh TEACHER MNIST [more options of distill.train]
# TEACHER, MNIST and the environment as for mnist.sh. OUTPUT: results/distill_ablation where left out; STEPS: of two at
# least, for the published critic differs from there.
set -uo pipefail
arguments="TEACHER MNIST"
source "$(dirname "$0")/common.sh" || exit
export STEPS="${STEPS:-4}" SEEDS="${SEEDS:-0 1}" OUTPUT="${OUTPUT:-results/distill_ablation}"
expect_numbers 2 STEPS
digits="$(dirname "$0")/mnist.sh"
steps_of=($STEPS) seeds_of=($SEEDS)
of_a_row=$((${#steps_of[@]} * ${#seeds_of[@]}))
export NUM_TRAININGS=$((5 * of_a_row)) NUM_TRAINED=0
rows() {
    NAME=full "$digits" "$@" &&
        NUM_TRAINED=$of_a_row NAME=one_time_scale "$digits" "$@" --dfake_gen_update_ratio 1 &&
        NUM_TRAINED=$((2 * of_a_row)) GAN="" NAME=no_gan "$digits" "$@" &&
        NUM_TRAINED=$((3 * of_a_row)) SIMULATION="" NAME=no_simulation "$digits" "$@" &&
        NUM_TRAINED=$((4 * of_a_row)) NAME=published_critic "$digits" "$@" --no_critic_step --no_level_schedule
}
CHECK_ONLY=1 rows "$@" || exit
[ -n "${CHECK_ONLY:-}" ] || rows "$@"
