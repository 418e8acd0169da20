#!/usr/bin/env bash
# Students of digits: 1, 2 and 4 calls, of a class-conditional flow in pixels, then their scores beside their teacher's.
#   ./scripts/distill/mnist.sh TEACHER MNIST [more options of distill.train]
# TEACHER: a checkpoint of mnist.train_rf with --conditioning. MNIST: a folder, with a slash, or a name such as mnist.
#   NAME         how the runs are called: NAME_STEPS_calls_seedSEED (digits)
#   STEPS        calls of the students (1 2 4)
#   SEEDS        of their trainings (0 1)
#   ITERATIONS   updates of the critic of each (1500)
#   GUIDANCE     of the teacher (2)
#   GAN          options of the GAN; empty for none
#   SIMULATION   options of students of several steps (--backward_simulation)
#   VALIDATION   options of the distances on the way, of student and teacher (--val_every 1)
#   OUTPUT       JSON, table and picture, without ending (results/distill_digits)
# Students that are finished are not trained again, and scores that are there not measured again. After each student,
# the minutes that the others will take are printed.
set -uo pipefail
arguments="TEACHER MNIST"
source "$(dirname "$0")/common.sh" || exit
teacher=$(path_of "$1") dataset=$(dataset_of "$2")
shift 2
source "$(dirname "$0")/../environment.sh" || exit
gan="${GAN---cls_on_clean_image --gen_cls_loss --gen_cls_loss_weight 1e-2 --shared_critic_pass}"
STEPS="${STEPS:-1 2 4}" SEEDS="${SEEDS:-0 1}" ITERATIONS="${ITERATIONS:-1500}"
expect_numbers 1 STEPS
expect_numbers 0 SEEDS
students=() steps_of=($STEPS) seeds_of=($SEEDS)
NUM_TRAININGS="${NUM_TRAININGS:-$((${#steps_of[@]} * ${#seeds_of[@]}))}"
name_of() { echo "${NAME:-digits}_$1_calls_seed$2"; }
set_options() {     # STEPS SEED: options of a student's training, real_images not among them
    local several=()
    [ "$1" = 1 ] || several=(--denoising --num_denoising_step "$1" ${SIMULATION---backward_simulation})
    options=(--name "$(name_of "$1" "$2")" --teacher "$teacher" --seed "$2" --real_guidance_scale "${GUIDANCE:-2}"
        --generator_lr 2e-4 --guidance_lr 2e-4 --warmup_step 20 --batch_size 32 --dfake_gen_update_ratio 3
        --max_steps "$ITERATIONS" --epochs 100 --epoch_steps 500 --state_every 250 --save_every 100 --no_tensorboard
        --resume $gan ${VALIDATION---val_every 1} "${several[@]}" "${more[@]}")
}
score() {           # DO STUDENT...
    "$1" -m scripts.benchmarks.digit_students --teacher "$teacher" --students "${@:2}" --dataset "$dataset" \
        --guidance_scale "${GUIDANCE:-2}" --output "${OUTPUT:-results/distill_digits}"
}
more=("$@")

declare -A uses_images                          # by steps: yes, or nothing
for steps in "${steps_of[@]}"; do
    set_options "$steps" "${seeds_of[0]}"
    find_real_images "$dataset" "${options[@]}" || exit
    uses_images[$steps]="${real_images[*]:+yes}"
done
score note student.pth
check || exit
for steps in "${steps_of[@]}"; do
    for seed in "${seeds_of[@]}"; do
        start=$SECONDS name=$(name_of "$steps" "$seed")
        if ! compgen -G "checkpoints/${name}_*ep.pth" > /dev/null; then
            set_options "$steps" "$seed"
            start -m distill.train "${options[@]}" ${uses_images[$steps]:+--dataset "$dataset"} || exit
            trained "$start"
        else
            was_there
        fi
        students+=(checkpoints/"${name}"_*ep.pth)
    done
done
score start "${students[@]}"
