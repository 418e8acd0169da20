#!/usr/bin/env bash
# Everything after training of the README's small run: error maps, scores, side measurements, figures, tables.
# Finished parts are not measured again. DATASET, EPOCHS ("10"; the last one with all seeds), DEVICE, NUM_IMAGES;
# README: texts whose tables are written anew ("lift/README.md results/published/lift/study.md"), none if left out.
#   ./scripts/small_study.sh [baseline]     baseline: what needs no LIFT, while that is still training
set -euo pipefail
words="baseline"
source "$(dirname "$0")/environment.sh"
DATASET="${DATASET:-../shared/data/animals64}"
NUM_IMAGES="${NUM_IMAGES:-1000}"
EPOCHS="${EPOCHS:-10}" SEEDS="${SEEDS:-42 43 44}"
expect_numbers 1 EPOCHS
expect_numbers 0 SEEDS
read -r -a epochs <<< "$EPOCHS"
read -r -a seeds <<< "$SEEDS"
read -r -a where <<< "${DEVICE:+--device $DEVICE}"
lifts=() baselines=()
for epoch in "${epochs[@]}"; do
    lifts+=("checkpoints/lift_dual_timestep_${epoch}ep.pth") baselines+=("checkpoints/baseline_${epoch}ep.pth")
done
lift="${lifts[-1]}" baseline="${baselines[-1]}"
common=(--dataset "$DATASET" "${where[@]}")

is_up_to_date() { [ "$1" -nt "$2" ]; }      # FILE CHECKPOINT: made after it
evaluate() { "$1" eval_fid_batch.py "${common[@]}" --num_images "$NUM_IMAGES" "${@:2}"; }        # DO OPTION...
score() {       # DO CHECKPOINT...: each with the first seed, the last with all; DO: note or start
    evaluate "$1" --checkpoints "${@:2}" --seeds "${seeds[0]}"
    evaluate "$1" --checkpoint "${!#}" --seeds "${seeds[@]}"
}
score note "${baselines[@]}"
check
score start "${baselines[@]}"
if [ "${1:-}" = baseline ]; then exit 0; fi     # while LIFT is still training

for epoch in "${epochs[@]}"; do
    checkpoint="checkpoints/lift_dual_timestep_${epoch}ep.pth"
    is_up_to_date "results/heatmap_30_${epoch}ep.pth" "$checkpoint" || start compute_heatmap_30.py \
        "${common[@]}" --checkpoint "$checkpoint" --K 1 --batch_size 8 --target_error 0 --overwrite
done
score start "${lifts[@]}"

is_up_to_date results/mse.csv "$lift" || start -m lift.eval_mse "${common[@]}" --checkpoint "$lift" --overwrite
is_up_to_date results/model_error.csv "$lift" || start -m lift.eval_mse "${common[@]}" --checkpoint "$lift" \
    --compare_baseline "$baseline" --num_images 128 --num_timesteps 14 --overwrite
is_up_to_date results/super_resolution.csv "$lift" || start -m lift.super_resolve "${common[@]}" \
    --checkpoint "$lift" --overwrite
start -m lift.report ${README:+--readme $README} \
    --baseline_checkpoint "$baseline" --lift_checkpoint "$lift" "${where[@]}" \
    --title "LIFT: small models on photographs"
