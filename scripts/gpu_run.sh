#!/usr/bin/env bash
# Everything that needs a GPU, into $OUTPUT (results/gpu): all of it, or the phases that are named:
#   ./scripts/gpu_run.sh [data] [tests] [benchmarks] [lift] [time] [chain]
#   DATASET=huggan/AFHQv2 EPOCHS=100 ./scripts/gpu_run.sh
#   VENV=none DATASET=synthetic:15803 ./scripts/gpu_run.sh      a box without network whose Python has the packages
# data reads the data set, so that one that cannot be had is told before hours of work; tests are those that need a
# GPU; benchmarks measure compiled and uncompiled beside the plain side; lift is LIFT's training, which time holds
# against six minutes; chain is quickstart.sh at default size, with the training that is there already.
# EPOCHS, NUM_IMAGES and the other settings of quickstart.sh shorten it. A stopped chain goes on where it was; each phase
# and BENCHMARKS="..." can have a command of its own. Exit status 1 if something failed or missed its target.
set -uo pipefail
source "$(dirname "$0")/environment.sh" || exit
all_phases=(data tests benchmarks lift time chain)
phases=("$@")
[ $# -gt 0 ] || phases=("${all_phases[@]}")
[ -z "${OVERWRITE:-}" ] || { echo "gpu_run.sh: OVERWRITE: has no effect here; delete what is to be made anew" >&2; exit 2; }
for phase in "${phases[@]}"; do
    [[ " ${all_phases[*]} " == *" $phase "* ]] || {
        echo "gpu_run.sh: found phase $phase, expected some of: ${all_phases[*]}" >&2; exit 2; }
done
"$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || {
    echo "gpu_run.sh: found no GPU, expected one; on a CPU, run ./scripts/bench.sh and ./scripts/quickstart.sh" >&2; exit 2; }
export OUTPUT="${OUTPUT:-results/gpu}" CHECKPOINTS="${CHECKPOINTS:-checkpoints/gpu}" DATASET="${DATASET:-huggan/AFHQv2}"
export HIDDEN_DIMS="${HIDDEN_DIMS:-64 128 256 512}" EPOCHS="${EPOCHS:-100}" BATCH_SIZE="${BATCH_SIZE:-64}"
export LEARNING_RATE="${LEARNING_RATE:-1e-4}" NUM_IMAGES="${NUM_IMAGES:-5000}" SEEDS="${SEEDS:-42 43 44}"
export K="${K:-4}" MAP_IMAGES="${MAP_IMAGES:-16}" TRAIN_OPTIONS="${TRAIN_OPTIONS:---compile}" LIFT_OPTIONS="${LIFT_OPTIONS:- }"
export BENCHMARKS_DIR="$OUTPUT/benchmarks" TRAINING_RUN="$OUTPUT/lift_dual_timestep_run.json"
mkdir -p "$OUTPUT"
"$PYTHON" -c "import torch; print(torch.__version__, [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())])" \
    | tee "$OUTPUT/machine.txt"

status=0
for phase in "${phases[@]}"; do
    printf '\n== %s ==\n' "$phase"
    case "$phase" in
        data) "$PYTHON" -c "import sys, data
from engine import command_line
command_line.run_script(lambda: print(len(data.load_images(sys.argv[1]).images), 'images'))" "$DATASET" || exit ;;
        tests) ./scripts/test.sh -m gpu -n 0 || status=1 ;;
        benchmarks) ./scripts/bench.sh ${BENCHMARKS:-train_step_compile sampling_compile error_map} || status=1 ;;
        lift) run "$PYTHON" train_lift.py --dataset "$DATASET" --hidden_dims $HIDDEN_DIMS --epochs "$EPOCHS" \
                  --batch_size "$BATCH_SIZE" --learning_rate "$LEARNING_RATE" --warmup_steps 50 --flip \
                  --checkpoint_dir "$CHECKPOINTS" --output_dir "$OUTPUT" ${DEVICE:+--device "$DEVICE"} $TRAIN_OPTIONS \
                  --resume || status=1 ;;
        chain) run ./scripts/quickstart.sh || status=1 ;;
        time) ./scripts/bench.sh training_time || status=1 ;;
    esac
    [ -z "$stopped" ] || exit 143
done
exit "$status"
