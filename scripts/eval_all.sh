#!/usr/bin/env bash
# Evaluate every checkpoint of the baseline and of LIFT: one process per GPU, or one alone where there is none.
# Arguments go to every eval_fid_batch.py: ./scripts/eval_all.sh --dataset huggan/AFHQv2 --seeds 42 43 --num_images 5000
#   CHECKPOINTS    files to evaluate; left out: all of checkpoints/baseline_*ep.pth and lift_dual_timestep_*ep.pth
#   BASELINE_PATHS, LIFT_PATHS    paths of each; left out: uniform, and diagonal dp_64 dp_total
#   DEVICE         run all there, one after the other
#   LOGS           where the output of several processes goes, eval_*.log (logs)
# Finished rows are skipped, so it can be started again after any stop.
set -uo pipefail
words=any
source "$(dirname "$0")/environment.sh" || exit
read -r -a BASELINE_PATHS <<< "${BASELINE_PATHS:-uniform}"
read -r -a LIFT_PATHS <<< "${LIFT_PATHS:-diagonal dp_64 dp_total}"
if [ -n "${CHECKPOINTS:-}" ]; then
    read -r -a files <<< "$CHECKPOINTS"
else
    shopt -s nullglob
    files=(checkpoints/baseline_*ep.pth checkpoints/lift_dual_timestep_*ep.pth)
fi
[ "${#files[@]}" -gt 0 ] || { echo "eval_all.sh: found no checkpoints; train first, or set CHECKPOINTS" >&2; exit 2; }

if [ -n "${DEVICE:-}" ]; then
    devices=("$DEVICE")
else
    num_gpus=$("$PYTHON" -c "import torch; print(torch.cuda.device_count())") || exit
    if [ "$num_gpus" -gt 0 ]; then mapfile -t devices < <(seq 0 $((num_gpus - 1))); else devices=(cpu); fi
fi

evaluate() {    # DO DEVICE FILE [ARGUMENT...]; DO: note, or the Python that does it
    local do=$1 device=$2 file=$3; shift 3
    case "$(basename "$file")" in
        baseline*) "$do" eval_fid_batch.py --model_type baseline --checkpoints "$file" \
                       --paths "${BASELINE_PATHS[@]}" --device "$device" "$@" ;;
        *) "$do" eval_fid_batch.py --model_type lift --checkpoints "$file" \
               --paths "${LIFT_PATHS[@]}" --device "$device" "$@" ;;
    esac
}
for file in "${files[@]}"; do evaluate note "${devices[0]}" "$file" "$@"; done
check || exit

work_through() {    # POSITION [ARGUMENT...]: every file whose number falls to this device; the last failure is returned
    local position=$1 status=0 k; shift
    for ((k = position; k < ${#files[@]}; k += ${#devices[@]})); do
        evaluate "$PYTHON" "${devices[position]}" "${files[k]}" "$@"
        local result=$?
        [ "$result" -eq 0 ] || { echo "eval_all.sh: ${files[k]} failed with status $result" >&2; status=$result; }
        [ "$result" -lt 128 ] || return "$result"    # Ctrl-C means all
    done
    return "$status"
}

if [ "${#devices[@]}" -eq 1 ]; then
    work_through 0 "$@"
    exit
fi
log_of() { echo "${LOGS:-logs}/eval_${1//:/}.log"; }
mkdir -p "${LOGS:-logs}" || exit
processes=()
for position in "${!devices[@]}"; do
    log=$(log_of "${devices[position]}")
    echo "device ${devices[position]}: $log"
    work_through "$position" "$@" > "$log" 2>&1 &
    processes+=($!)
done
trap 'for process in "${processes[@]}"; do pkill -TERM -P "$process"; kill -TERM "$process"; done 2>/dev/null' INT TERM
status=0
for position in "${!processes[@]}"; do
    wait "${processes[position]}"
    result=$?
    [ "$result" -eq 0 ] || { echo "eval_all.sh: device ${devices[position]} failed with status $result, see" \
        "$(log_of "${devices[position]}")" >&2; status=$result; }
done
exit "$status"
