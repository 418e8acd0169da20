#!/usr/bin/env bash
# The whole chain: train a baseline and LIFT, map the error, find paths, generate, score, draw.
# As it stands: a small run on procedural images, on a CPU, without network after the set-up.
# The real run is the same script:
#   DATASET=huggan/AFHQv2 HIDDEN_DIMS="64 128 256 512" EPOCHS=100 BATCH_SIZE=64 LEARNING_RATE=1e-4 NUM_IMAGES=5000 \
#   K=4 MAP_IMAGES=16 OUTPUT=results/afhq CHECKPOINTS=checkpoints/afhq ./scripts/quickstart.sh
# Training resumes where it was stopped; finished rows of the table are not measured again. OVERWRITE=1 starts anew.
set -euo pipefail
DATASET="${DATASET:-synthetic:2000}"            # synthetic[:N], a folder, or a hub name
OUTPUT="${OUTPUT:-results/quickstart}"
CHECKPOINTS="${CHECKPOINTS:-checkpoints/quickstart}"
HIDDEN_DIMS="${HIDDEN_DIMS:-16 32 64}"
EPOCHS="${EPOCHS:-3}"
BATCH_SIZE="${BATCH_SIZE:-8}"                      # small, so that a short run takes many steps
LEARNING_RATE="${LEARNING_RATE:-1e-3}"
NUM_STEPS="${NUM_STEPS:-18}"                    # network calls per image
NUM_IMAGES="${NUM_IMAGES:-256}"                 # generated per path
GRID="${GRID:-30}"                              # points per axis of the error map
K="${K:-1}"                                     # probes per image
MAP_IMAGES="${MAP_IMAGES:-2}"                   # images per cell of the error map
SEEDS="${SEEDS:-42}"
TRAIN_OPTIONS="${TRAIN_OPTIONS:---parametrization residual}"     # further options for both trainings
export LIFT_OPTIONS="${LIFT_OPTIONS:---native_32}"               # for LIFT's alone
METRICS="${METRICS:-}"              # left out: fid where Inception weights are to be had, else fd_lite0, kd_lite0, swd
[ "$MAP_IMAGES" -ge 2 ] 2>/dev/null || {
    echo "quickstart.sh: MAP_IMAGES: found $MAP_IMAGES, expected a whole number of at least 2" >&2; exit 2; }
words=""
source "$(dirname "$0")/environment.sh"
read -r -a hidden_dims <<< "$HIDDEN_DIMS"
read -r -a train_options <<< "$TRAIN_OPTIONS"
read -r -a seeds <<< "$SEEDS"
read -r -a metrics <<< "${METRICS:+--metrics $METRICS}"
read -r -a device <<< "${DEVICE:+--device $DEVICE}"
[ -n "${OVERWRITE:-}" ] && again=(--overwrite) || again=(--resume)
data=(--dataset "$DATASET")
heatmap="$OUTPUT/heatmap_${GRID}_${EPOCHS}ep.pth"

map_the_error() {       # DO: note or start
    "$1" compute_heatmap_30.py "${data[@]}" --checkpoint "$CHECKPOINTS/lift_dual_timestep_${EPOCHS}ep.pth" \
        --grid "$GRID" --K "$K" --batch_size "$MAP_IMAGES" --target_error 0 --num_steps "$NUM_STEPS" \
        --output_dir "$OUTPUT" --overwrite "${device[@]}"
}
evaluate() {            # DO CHECKPOINT OPTIONS...
    "$1" eval_fid_batch.py "${data[@]}" --checkpoint "$CHECKPOINTS/$2_${EPOCHS}ep.pth" \
        --results "$OUTPUT/fid_results.csv" --num_images "$NUM_IMAGES" --num_steps "$NUM_STEPS" \
        --seeds "${seeds[@]}" "${metrics[@]}" "${device[@]}" "${@:3}"
}
generate() {            # CHECKPOINT PATH OPTIONS...
    start generate_with_path_30.py --checkpoint "$CHECKPOINTS/$1_${EPOCHS}ep.pth" --path "$2" \
        --num_images 32 --grid_images 32 --num_steps "$NUM_STEPS" --output_dir "generated/$(basename "$OUTPUT")/$2" \
        --grid_png "$OUTPUT/samples_$2.png" --overwrite "${device[@]}" "${@:3}"
}
train() {
    DEVICE="${DEVICE:-}" run ./scripts/train.sh "${data[@]}" --hidden_dims "${hidden_dims[@]}" --epochs "$EPOCHS" \
        --batch_size "$BATCH_SIZE" --learning_rate "$LEARNING_RATE" --warmup_steps 50 --flip \
        --checkpoint_dir "$CHECKPOINTS" --output_dir "$OUTPUT" "${train_options[@]}" "${again[@]}"
}

map_the_error note
evaluate note baseline                          # the other commands have no further setting
[ -z "${CHECK_ONLY:-}" ] || train               # which asks too, and first of all else
check

stage "1/5 training: baseline, then LIFT (side by side with two GPUs)"
train

stage "2/5 error map on a ${GRID}x${GRID} grid, and the paths through it"
if [ -e "$heatmap" ] && [ -z "${OVERWRITE:-}" ]; then
    echo "$heatmap is there already; OVERWRITE=1 makes it anew"
else
    map_the_error start
fi

stage "3/5 generation along each path, and scores"
evaluate start baseline
evaluate start lift_dual_timestep --paths diagonal dp_64 dp_total --heatmap "$heatmap" --grid "$GRID"

stage "4/5 sample grids"
generate baseline uniform
for path in diagonal dp_64 dp_total; do generate lift_dual_timestep "$path" --heatmap "$heatmap" --grid "$GRID"; done

stage "5/5 tables, figures and report"
start -m lift.report --results "$OUTPUT/fid_results.csv" --grid "$GRID" --num_steps "$NUM_STEPS" \
    --heatmap "$heatmap" --baseline_checkpoint "$CHECKPOINTS/baseline_${EPOCHS}ep.pth" \
    --lift_checkpoint "$CHECKPOINTS/lift_dual_timestep_${EPOCHS}ep.pth" "${device[@]}"
cat <<END

== done ==
samples of both models   $OUTPUT/samples_uniform.png (baseline), $OUTPUT/samples_diagonal.png (LIFT)
error map and paths      $OUTPUT/heatmap_${GRID}_${EPOCHS}ep.png
scores                   $OUTPUT/fid_results.csv
all of it as one page    $OUTPUT/report.html
END
