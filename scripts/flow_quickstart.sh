#!/usr/bin/env bash
# Flow from nothing to pictures: train a small class-conditional DiT, draw a row per class at several guidance scales.
# As it stands: drawn digits, on a CPU, without network after the set-up, in minutes. The real run is the same script:
#   DATASET=cifar10 CHANNELS=3 IMAGE_SIZE=32 FLIP=--flip STEPS=800000 BATCH_SIZE=128 \
#   NETWORK="--preset big --patch_size 8 --output residual" \
#   OUTPUT=results/flow_cifar10 CHECKPOINTS=checkpoints/flow_cifar10 ./scripts/flow_quickstart.sh
# Training resumes where it was stopped. OVERWRITE=1 starts anew.
set -euo pipefail
words=""
source "$(dirname "$0")/environment.sh"

DATASET="${DATASET:-digits:5000}"               # digits[:N], a folder with a folder per class, or a hub name
OUTPUT="${OUTPUT:-results/flow_quickstart}"
CHECKPOINTS="${CHECKPOINTS:-checkpoints/flow_quickstart}"
IMAGE_SIZE="${IMAGE_SIZE:-28}" CHANNELS="${CHANNELS:-1}"
FLIP="${FLIP:---no-flip}"                       # digits are not mirrored
STEPS="${STEPS:-1000}" BATCH_SIZE="${BATCH_SIZE:-64}" LEARNING_RATE="${LEARNING_RATE:-1e-3}"
NETWORK="${NETWORK:---hidden_size 128 --depth 4 --num_heads 4 --mlp_ratio 4 --patch_size 4 --output residual}"
SAMPLING="${SAMPLING:---solver midpoint --num_steps 10}"        # 20 calls per image, 40 with guidance
GUIDANCE="${GUIDANCE:-1 2 4}"
read -r -a network <<< "$NETWORK"
read -r -a sampling <<< "$SAMPLING"
read -r -a device <<< "${DEVICE:+--device $DEVICE}"
[ -n "${OVERWRITE:-}" ] && again=(--overwrite) || again=(--resume)

draw() {                                        # DO CHECKPOINT SCALE; DO: note or start
    "$1" -m flow.generate --checkpoint "$2" --guidance_scale "$3" "${sampling[@]}" --num_images 80 \
        --output_dir "generated/$(basename "$OUTPUT")/guidance$3" --grid_png "$OUTPUT/samples_guidance$3.png" \
        --overwrite "${device[@]}"
}

for scale in $GUIDANCE; do draw note "$CHECKPOINTS/flow_1ep.pth" "$scale"; done
check

stage "1/2 training: $STEPS steps of $BATCH_SIZE images"
if [ -n "${OVERWRITE:-}" ] || ! newest "$CHECKPOINTS/flow" > /dev/null; then
    run "$PYTHON" -m flow.train --dataset "$DATASET" --image_size "$IMAGE_SIZE" --channels "$CHANNELS" "$FLIP" \
        --max_steps "$STEPS" --epochs 1000000 --batch_size "$BATCH_SIZE" --learning_rate "$LEARNING_RATE" \
        --log_every 50 \
        --save_every 1000000 --sample_every 0 --checkpoint_dir "$CHECKPOINTS" --output_dir "$OUTPUT" "${network[@]}" \
        "${device[@]}" "${again[@]}"
fi
checkpoint=$(newest_of_training "$CHECKPOINTS/flow")

stage "2/2 a row per class, at guidance $GUIDANCE"
for scale in $GUIDANCE; do draw start "$checkpoint" "$scale"; done
cat <<END

== done ==
a row per class          $(for scale in $GUIDANCE; do printf '%s ' "$OUTPUT/samples_guidance$scale.png"; done)
error by tenth of t      $OUTPUT/flow_training.csv
END
