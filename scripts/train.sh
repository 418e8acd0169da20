#!/usr/bin/env bash
# Train the baseline and LIFT: side by side on two GPUs, one after the other on one GPU or none.
# Arguments go to both: ./scripts/train.sh --dataset huggan/AFHQv2 --epochs 100
#   BASELINE_OPTIONS, LIFT_OPTIONS    further options for one of the two
#   DEVICE                            run both there, one after the other
#   LOGS                              where the baseline's output goes if both run at once (logs)
set -uo pipefail
words=any
source "$(dirname "$0")/environment.sh" || exit
read -r -a BASELINE_OPTIONS <<< "${BASELINE_OPTIONS:-}"
read -r -a LIFT_OPTIONS <<< "${LIFT_OPTIONS:-}"
log="${LOGS:-logs}/train_baseline.log"
where=(); [ -n "${DEVICE:-}" ] && where=(--device "$DEVICE")
note train_baseline.py "${where[@]}" "$@" "${BASELINE_OPTIONS[@]}"
note train_lift.py "${where[@]}" "$@" "${LIFT_OPTIONS[@]}"
check || exit

NUM_GPUS=$("$PYTHON" -c "import torch; print(torch.cuda.device_count())") || exit
status=0
running=()
# Ctrl-C or SIGTERM: every training saves its state, and none goes on alone.
stop() { stopped=yes; kill -TERM "${running[@]}" 2>/dev/null; }
trap stop INT TERM
finish() {    # NAME PID: wait for it, also through a signal to this script
    wait "$2"; local code=$?
    while kill -0 "$2" 2>/dev/null; do wait "$2"; code=$?; done
    [ "$code" -eq 0 ] || { echo "train.sh: $1 failed with status $code" >&2; status=$code; }
}
if [ -z "${DEVICE:-}" ] && [ "$NUM_GPUS" -ge 2 ]; then
    mkdir -p "$(dirname "$log")" || exit
    echo "baseline on GPU 0 ($log), LIFT on GPU 1"
    "$PYTHON" train_baseline.py --device 0 "$@" "${BASELINE_OPTIONS[@]}" > "$log" 2>&1 & running+=($!)
    "$PYTHON" train_lift.py --device 1 "$@" "${LIFT_OPTIONS[@]}" & running+=($!)
    finish train_lift.py "${running[1]}"
    finish "train_baseline.py ($log)" "${running[0]}"
else
    "$PYTHON" train_baseline.py "${where[@]}" "$@" "${BASELINE_OPTIONS[@]}" & running=($!)
    finish train_baseline.py "${running[0]}"
    [ -n "${stopped:-}" ] && exit "$status"
    if [ "$status" -eq 2 ] && [ "${#BASELINE_OPTIONS[@]}" -eq 0 ]; then     # LIFT was to have the same options
        echo "train.sh: LIFT is not trained, since the baseline refused the options that both have" >&2
        exit 2
    fi
    "$PYTHON" train_lift.py "${where[@]}" "$@" "${LIFT_OPTIONS[@]}" & running=($!)
    finish train_lift.py "${running[0]}"
fi
exit "$status"
