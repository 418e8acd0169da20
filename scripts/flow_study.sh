#!/usr/bin/env bash
# The first study of the flow family: output x patch x solver x calls x guidance, two seeds, on CIFAR-10. Beside the
# transformer, at the same arithmetic for an image (within a twentieth) as its patch 4: a UNet, and two scales.
#   DATASET=../shared/data/cifar10 ./scripts/flow_study.sh
# By its arithmetic that is about 20 hours of a core that does 100 GFLOP a second in bf16, half of them for scores: a
# night of two cores. It was not run. Smaller:
#   STEPS=1500 SIZES="--hidden_size 128 --depth 4 --num_heads 4" OUTPUTS="velocity residual" PATCHES=4 \
#   SEEDS=0 OTHERS= PRECISION=float32 ...
# Trainings resume where they were stopped and finished rows are not measured again, so that the script can be started
# as often as there is time. Everything lies below $OUTPUT; the table is $OUTPUT/study.md, and of every model there is a
# picture with a row per class. METRICS="fd_lite0 kd_lite0 swd" for a data set with other classes than CIFAR-10's.
set -euo pipefail
DATASET="${DATASET:-cifar10}" OUTPUT="${OUTPUT:-results/flow_study}"
CHECKPOINTS="${CHECKPOINTS:-checkpoints/flow_study}"
SIZES="${SIZES:---hidden_size 256 --depth 6 --num_heads 4 --mlp_ratio 4}"                # 5 M parameters
UNET="${UNET:---network unet --patch_size 1 --hidden_size 32 --depth 2}"
DUAL="${DUAL:---scales 32 16 --patch_size 4 --hidden_size 248 --depth 5 --num_heads 4 --mlp_ratio 4}"
STEPS="${STEPS:-3000}" BATCH_SIZE="${BATCH_SIZE:-64}" LEARNING_RATE="${LEARNING_RATE:-5e-4}"
OUTPUTS="${OUTPUTS:-velocity clean residual}" PATCHES="${PATCHES:-4 8}" SEEDS="${SEEDS:-0 1}"
OTHERS="${OTHERS-unet dual}"
CALLS="${CALLS:-10 20 32}" SOLVERS="${SOLVERS:-ddim midpoint multistep}" GUIDANCE="${GUIDANCE:-1 2 4}"
NUM_IMAGES="${NUM_IMAGES:-500}" METRICS="${METRICS:-fd_lite0 kd_lite0 swd groups}"
words=""
source "$(dirname "$0")/environment.sh"
expect_some_of "unet dual" OTHERS
expect_numbers 1 CALLS
expect_numbers 0 SEEDS
read -r -a metrics <<< "$METRICS"
read -r -a device <<< "${DEVICE:+--device $DEVICE} ${NUM_THREADS:+--num_threads $NUM_THREADS} \
    ${PRECISION:+--precision $PRECISION}"

train() {       # DO NAME SEED OPTION...; DO: note or start, here and below
    "$1" -m flow.train --dataset "$DATASET" --name "$2" --seed "$3" "${@:4}" --max_steps "$STEPS" --epochs 1000000 \
        --batch_size "$BATCH_SIZE" --learning_rate "$LEARNING_RATE" --save_every 1000000 --sample_every 0 \
        --val_every 1000000 --no_tensorboard --checkpoint_dir "$CHECKPOINTS" --output_dir "$OUTPUT" \
        "${device[@]}" --resume
}
score() {       # DO CHECKPOINT: at every guidance, solver and number of calls
    local guidance solver calls steps
    for guidance in $GUIDANCE; do
        for solver in $SOLVERS; do
            for calls in $CALLS; do
                steps=$calls
                [ "$solver" != midpoint ] || steps=$((calls / 2))           # two calls a step
                "$1" eval_fid_batch.py --dataset "$DATASET" --checkpoints "$2" --solver "$solver" \
                    --num_steps "$steps" --guidance_scale "$guidance" --num_images "$NUM_IMAGES" \
                    --metrics "${metrics[@]}" --results "$OUTPUT/fid_results.csv" "${device[@]}"
            done
        done
    done
}
study() {       # NAME SEED OPTION...: train, score, draw
    local name=$1 checkpoint
    if ! newest "$CHECKPOINTS/$name" > /dev/null; then
        stage "training $name"
        train start "$@"
    fi
    checkpoint=$(newest_of_training "$CHECKPOINTS/$name")
    score start "$checkpoint"
    [ -s "$OUTPUT/samples_$name.png" ] || start -m flow.generate --checkpoint "$checkpoint" --solver midpoint \
        --num_steps 10 --guidance_scale 2 --num_images 8 --output_dir "generated/flow_study/$name" \
        --grid_png "$OUTPUT/samples_$name.png" --overwrite "${device[@]}"
    start -m flow.study_table --results "$OUTPUT/fid_results.csv" --metrics "${metrics[@]}" \
        --output "$OUTPUT/study.md"
}

patch_of() { sed -n 's/.*--patch_size \([0-9]*\).*/\1/p' <<< "$*"; }
models() {      # DO WORD...: every model in turn, its name, seed and options behind these words
    local seed patch output other
    for seed in $SEEDS; do
        for patch in $PATCHES; do
            for output in $OUTPUTS; do
                "$@" "${output}_patch${patch}_seed${seed}" "$seed" --output "$output" --patch_size "$patch" $SIZES
            done
        done
        for other in $OTHERS; do
            case "$other" in
                unet) "$@" "unet_patch$(patch_of $UNET)_seed${seed}" "$seed" $UNET ;;
                dual) "$@" "dual_patch$(patch_of $DUAL)_seed${seed}" "$seed" $DUAL ;;
            esac
        done
    done
}

models train note
score note "$CHECKPOINTS/any_1ep.pth"
check
models study
