#!/usr/bin/env bash
# Does a student gain from a second scale where few calls are left? Students of 1, 2 and 4 calls of a baseline and of
# LIFT, equal iterations and seeds: single scale; dual scale, tied, on the diagonal; and with the 32 scale ahead.
#   ./scripts/distill/two_scales.sh BASELINE LIFT DATASET [more options of distill.train]
# BASELINE, LIFT: checkpoints of train_baseline.py and train_lift.py of equal sizes and epochs; or two of flow.train,
# the second with --scales. DATASET: what they were trained on, a path with a slash or a name; with classes,
# --real_guidance_scale may follow.
#   STEPS, SEEDS   of the students (1 2 4; 0 1)
#   ITERATIONS     updates of the critic of each (2000)
#   PREFIX         of the students' names (none)
#   VALIDATION     options of the distances on the way (--val_every 1 --val_split validation)
#   SCORING        options of eval_fid_batch.py, which scores all students, 4 calls among them, beside their teachers at
#                  TEACHER_STEPS (18) steps along their even path (--num_images 1000); none: no scores
#   TEACHER_SCORING   more options for the teachers alone, such as --guidance_scale 2 (none)
#   RESULTS        the table that the rows are added to (results/two_scales.csv)
# Students that are finished are not trained again, and after each the minutes for the others are printed; rows that are
# there are not measured again. digit_scales.sh does all of it for digits.
set -uo pipefail
arguments="BASELINE LIFT DATASET"
source "$(dirname "$0")/common.sh" || exit
baseline=$(realpath -- "$1") lift=$(realpath -- "$2") dataset=$(dataset_of "$3")
shift 3
source "$(dirname "$0")/../environment.sh" || exit
declare -A ahead=([1]="999" [2]="999 249" [4]="999 499 249 99")         # t_32 of the steps, where it leads
students=()
distil() {      # NAME TEACHER more options
    local name="${PREFIX:-}$1" teacher=$2 start=$SECONDS
    shift 2
    if compgen -G "checkpoints/${name}_*ep.pth" > /dev/null; then
        was_there
    else
        run "$PYTHON" -m distill.train --name "$name" --teacher "$teacher" --dataset "$dataset" \
            --cls_on_clean_image --gen_cls_loss --shared_critic_pass --generator_lr 5e-5 --guidance_lr 5e-5 \
            --warmup_step 20 --batch_size 16 --max_steps "${ITERATIONS:-2000}" --epochs 1000 --epoch_steps 500 \
            --state_every 250 --save_every 1000 ${VALIDATION---val_every 1 --val_split validation} --no_tensorboard \
            --resume "$@" || return
        trained "$start"
    fi
    students+=(checkpoints/"${name}"_*ep.pth)
}
steps_of=(${STEPS:-1 2 4}) seeds_of=(${SEEDS:-0 1}) NUM_TRAININGS=0
for steps in "${steps_of[@]}"; do
    NUM_TRAININGS=$((NUM_TRAININGS + ${#seeds_of[@]} * (steps == 1 ? 2 : 3)))
done
for seed in "${seeds_of[@]}"; do
    for steps in "${steps_of[@]}"; do
        several=()
        [ "$steps" = 1 ] || several=(--denoising --num_denoising_step "$steps" --backward_simulation)
        distil "single_${steps}_calls_seed$seed" "$baseline" --seed "$seed" "${several[@]}" "$@" || exit
        distil "tied_${steps}_calls_seed$seed" "$lift" --seed "$seed" "${several[@]}" "$@" || exit
        [ "$steps" = 1 ] || distil "ahead_${steps}_calls_seed$seed" "$lift" --seed "$seed" "${several[@]}" \
            --student_t_32 ${ahead[$steps]} "$@" || exit
    done
done
[ "${SCORING:-}" != none ] || exit 0
score() { run "$PYTHON" eval_fid_batch.py --dataset "$dataset" --results "${RESULTS:-results/two_scales.csv}" \
    ${SCORING:---num_images 1000} "$@"; }
for student in "${students[@]}"; do
    score --checkpoint "$student" || exit
done
score --checkpoint "$baseline" --paths uniform --num_steps "${TEACHER_STEPS:-18}" ${TEACHER_SCORING:-} &&
    score --checkpoint "$lift" --paths diagonal --num_steps "${TEACHER_STEPS:-18}" ${TEACHER_SCORING:-}
