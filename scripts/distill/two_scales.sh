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
baseline=$(path_of "$1") lift=$(path_of "$2") dataset=$(dataset_of "$3")
shift 3
source "$(dirname "$0")/../environment.sh" || exit
STEPS="${STEPS:-1 2 4}" SEEDS="${SEEDS:-0 1}"
expect_some_of "1 2 4" STEPS
expect_numbers 1 STEPS
expect_numbers 0 SEEDS
declare -A ahead=([1]="999" [2]="999 249" [4]="999 499 249 99")         # t_32 of the steps, where it leads
students=() steps_of=($STEPS) seeds_of=($SEEDS) NUM_TRAININGS=0
train() {       # DO NAME TEACHER more options; DO: note or start
    "$1" -m distill.train --name "$2" --teacher "$3" --dataset "$dataset" \
        --cls_on_clean_image --gen_cls_loss --shared_critic_pass --generator_lr 5e-5 --guidance_lr 5e-5 \
        --warmup_step 20 --batch_size 16 --max_steps "${ITERATIONS:-2000}" --epochs 1000 --epoch_steps 500 \
        --state_every 250 --save_every 1000 ${VALIDATION---val_every 1 --val_split validation} --no_tensorboard \
        --resume "${@:4}"
}
distil() {      # NAME TEACHER more options
    local start=$SECONDS
    if compgen -G "checkpoints/${1}_*ep.pth" > /dev/null; then
        was_there
    else
        train start "$@" || return
        trained "$start"
    fi
    students+=(checkpoints/"${1}"_*ep.pth)
}
models() {      # DO WORD...: every student in turn, its name, teacher and options behind these words
    local seed steps several ending
    for seed in "${seeds_of[@]}"; do
        for steps in "${steps_of[@]}"; do
            several=(--seed "$seed") ending="${steps}_calls_seed$seed"
            [ "$steps" = 1 ] || several+=(--denoising --num_denoising_step "$steps" --backward_simulation)
            "$@" "${PREFIX:-}single_$ending" "$baseline" "${several[@]}" "${more[@]}" || return
            "$@" "${PREFIX:-}tied_$ending" "$lift" "${several[@]}" "${more[@]}" || return
            [ "$steps" = 1 ] || "$@" "${PREFIX:-}ahead_$ending" "$lift" "${several[@]}" \
                --student_t_32 ${ahead[$steps]} "${more[@]}" || return
        done
    done
}
score() {       # DO CHECKPOINT more options
    "$1" eval_fid_batch.py --dataset "$dataset" --results "${RESULTS:-results/two_scales.csv}" \
        ${SCORING:---num_images 1000} --checkpoint "${@:2}"
}
score_teachers() {      # DO
    score "$1" "$baseline" --paths uniform --num_steps "${TEACHER_STEPS:-18}" ${TEACHER_SCORING:-} &&
        score "$1" "$lift" --paths diagonal --num_steps "${TEACHER_STEPS:-18}" ${TEACHER_SCORING:-}
}
more=("$@")
for steps in "${steps_of[@]}"; do
    NUM_TRAININGS=$((NUM_TRAININGS + ${#seeds_of[@]} * (steps == 1 ? 2 : 3)))
done

models train note
[ "${SCORING:-}" = none ] || { score note student.pth; score_teachers note; }
check || exit
models distil || exit
[ "${SCORING:-}" != none ] || exit 0
for student in "${students[@]}"; do
    score start "$student" || exit
done
score_teachers start
