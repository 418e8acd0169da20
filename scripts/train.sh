#!/usr/bin/env bash
# Train the baseline and LIFT: side by side on two GPUs, one after the other on one GPU or none.
# Arguments go to both: ./scripts/train.sh --dataset huggan/AFHQv2 --epochs 100
#   BASELINE_OPTIONS, LIFT_OPTIONS    further options for one of the two
#   DEVICE                            run both there, one after the other
set -uo pipefail
source "$(dirname "$0")/environment.sh" || exit
read -r -a BASELINE_OPTIONS <<< "${BASELINE_OPTIONS:-}"
read -r -a LIFT_OPTIONS <<< "${LIFT_OPTIONS:-}"

NUM_GPUS=$("$PYTHON" -c "import torch; print(torch.cuda.device_count())") || exit
status=0
report() {    # NAME STATUS
    [ "$2" -eq 0 ] || { echo "train.sh: $1 failed with status $2" >&2; status=$2; }
}
if [ -z "${DEVICE:-}" ] && [ "$NUM_GPUS" -ge 2 ]; then
    mkdir -p logs
    echo "baseline on GPU 0 (logs/train_baseline.log), LIFT on GPU 1"
    "$PYTHON" train_baseline.py --device 0 "$@" "${BASELINE_OPTIONS[@]}" > logs/train_baseline.log 2>&1 &
    baseline=$!
    trap 'kill -TERM "$baseline" 2>/dev/null' INT TERM
    "$PYTHON" train_lift.py --device 1 "$@" "${LIFT_OPTIONS[@]}"
    report train_lift.py $?
    wait "$baseline"
    report "train_baseline.py (logs/train_baseline.log)" $?
else
    where=(); [ -n "${DEVICE:-}" ] && where=(--device "$DEVICE")
    "$PYTHON" train_baseline.py "${where[@]}" "$@" "${BASELINE_OPTIONS[@]}"; report train_baseline.py $?
    [ "$status" -ge 128 ] && exit "$status"     # Ctrl-C means both
    "$PYTHON" train_lift.py "${where[@]}" "$@" "${LIFT_OPTIONS[@]}"; report train_lift.py $?
fi
exit "$status"
