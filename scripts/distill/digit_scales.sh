#!/usr/bin/env bash
# Does a student gain from a second scale where few calls are left? Digits at 28 pixels, and at 28 and 14: two small
# UNets of equal arithmetic and steps as teachers, then their students of 1, 2 and 4 calls (two_scales.sh), then the
# scores of all of them in one table.
#   ./scripts/distill/digit_scales.sh MNIST [more options of distill.train]
#   MNIST            a folder, with a slash, or a name such as mnist
#   SINGLE, DUAL     checkpoints of such teachers, where they are there already
#   TEACHER_STEPS    of the teachers' trainings (3000)
#   STEPS, SEEDS     of the students (1 2 4; 0 1)
#   ITERATIONS       updates of the critic of each student (1500)
#   GUIDANCE         of the teachers (2)
#   NUM_SAMPLES      images of a row of the table (1000)
#   OUTPUT           JSON, table and picture, without ending (results/distill_digit_scales)
# What is finished is not done again. After each training, the minutes that the others will take are printed.
set -uo pipefail
arguments=MNIST
source "$(dirname "$0")/common.sh" || exit
dataset=$(dataset_of "$1")
shift
single=${SINGLE:+$(path_of "$SINGLE")} dual=${DUAL:+$(path_of "$DUAL")}
two_scales="$(path_of "$(dirname "$0")")/two_scales.sh"
source "$(dirname "$0")/../environment.sh" || exit
STEPS="${STEPS:-1 2 4}" SEEDS="${SEEDS:-0 1}"
train() {       # DO NAME and the options of its sizes: a teacher; DO: note or start, here and below
    "$1" -m flow.train --dataset "$dataset" --name "$2" "${@:3}" --channels 1 --network unet --patch_size 2 \
        --hidden_size 32 --depth 1 --no-flip --batch_size 64 --learning_rate 2e-3 --lr_schedule cosine \
        --ema_decay 0.995 --max_steps "${TEACHER_STEPS:-3000}" --sample_every 0 --no_tensorboard --resume
}
teacher() {     # the same but DO: trains it unless it is there
    newest "checkpoints/$1" > /dev/null || train start "$@" || return
    found=$(newest_of_training "checkpoints/$1")
}
distil() {      # SINGLE DUAL [more options]: all students
    STEPS="$STEPS" SEEDS="$SEEDS" SCORING=none PREFIX=digit_ VALIDATION="${VALIDATION---val_every 1}" \
        ITERATIONS="${ITERATIONS:-1500}" "$two_scales" "$1" "$2" "$dataset" \
        --real_guidance_scale "${GUIDANCE:-2}" --batch_size 32 --generator_lr 2e-4 --guidance_lr 2e-4 \
        --dfake_gen_update_ratio 3 "${@:3}"
}
score() {       # DO SINGLE DUAL STUDENT...
    "$1" -m scripts.benchmarks.digit_students --teacher "$2" "$3" --students "${@:4}" \
        --dataset "$dataset" --guidance_scale "${GUIDANCE:-2}" --num_samples "${NUM_SAMPLES:-1000}" \
        --output "${OUTPUT:-results/distill_digit_scales}"
}
of_single=(digit_scales_single --image_size 28) of_dual=(digit_scales_dual --scales 28 14)

CHECK_ONLY=1 distil single.pth dual.pth "$@" || exit
train note "${of_single[@]}"
train note "${of_dual[@]}"
score note single.pth dual.pth student.pth
check || exit
[ -n "$single" ] || { teacher "${of_single[@]}" && single=$found; } || exit
[ -n "$dual" ] || { teacher "${of_dual[@]}" && dual=$found; } || exit
distil "$single" "$dual" "$@" || exit
students=()
for name in single tied ahead; do
    for steps in $STEPS; do
        for seed in $SEEDS; do
            [ "$name $steps" = "ahead 1" ] || students+=(checkpoints/"digit_${name}_${steps}_calls_seed$seed"_*ep.pth)
        done
    done
done
score start "$single" "$dual" "${students[@]}"
