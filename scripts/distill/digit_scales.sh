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
single=${SINGLE:+$(realpath -- "$SINGLE")} dual=${DUAL:+$(realpath -- "$DUAL")}
two_scales="$(realpath -- "$(dirname "$0")")/two_scales.sh"
source "$(dirname "$0")/../environment.sh" || exit
teacher() {     # NAME and the options of its sizes: trains it unless it is there
    local name=$1
    shift
    newest() { compgen -G "checkpoints/${name}_*ep.pth" | sort -V | tail -n 1; }
    [ -n "$(newest)" ] || run "$PYTHON" -m flow.train --dataset "$dataset" --name "$name" "$@" --channels 1 \
        --network unet --patch_size 2 --hidden_size 32 --depth 1 --no-flip --batch_size 64 --learning_rate 2e-3 \
        --lr_schedule cosine --ema_decay 0.995 --max_steps "${TEACHER_STEPS:-3000}" --sample_every 0 --no_tensorboard \
        --resume || return
    found=$(newest)
    [ -n "$found" ] || { echo "digit_scales.sh: $name: no checkpoint after its training" >&2; return 1; }
}
[ -n "$single" ] || { teacher digit_scales_single --image_size 28 && single=$found; } || exit
[ -n "$dual" ] || { teacher digit_scales_dual --scales 28 14 && dual=$found; } || exit
SCORING=none PREFIX=digit_ VALIDATION="${VALIDATION---val_every 1}" ITERATIONS="${ITERATIONS:-1500}" \
    "$two_scales" "$single" "$dual" "$dataset" \
    --real_guidance_scale "${GUIDANCE:-2}" --batch_size 32 --generator_lr 2e-4 --guidance_lr 2e-4 \
    --dfake_gen_update_ratio 3 "$@" || exit
students=()
for name in single tied ahead; do
    for steps in ${STEPS:-1 2 4}; do
        for seed in ${SEEDS:-0 1}; do
            [ "$name $steps" = "ahead 1" ] || students+=(checkpoints/"digit_${name}_${steps}_calls_seed$seed"_*ep.pth)
        done
    done
done
run "$PYTHON" -m scripts.benchmarks.digit_students --teacher "$single" "$dual" --students "${students[@]}" \
    --dataset "$dataset" --guidance_scale "${GUIDANCE:-2}" --num_samples "${NUM_SAMPLES:-1000}" \
    --output "${OUTPUT:-results/distill_digit_scales}"
