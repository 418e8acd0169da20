#!/usr/bin/env bash
# Everything that needs a GPU, in one go: benchmarks, then the chain at default size, into $OUTPUT (results/gpu).
#   DATASET=huggan/AFHQv2 EPOCHS=100 ./scripts/gpu_run.sh         VENV=none uses the Python that is active
# EPOCHS, NUM_IMAGES and the other settings of quickstart.sh shorten it. Exit status 1 if a benchmark missed its target.
# How long each training took is in $OUTPUT/*_run.json: seconds.
set -uo pipefail
source "$(dirname "$0")/environment.sh" || exit
"$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || {
    echo "gpu_run.sh: found no GPU, expected one; on a CPU, run ./scripts/bench.sh and ./scripts/quickstart.sh" >&2; exit 2; }
export OUTPUT="${OUTPUT:-results/gpu}" CHECKPOINTS="${CHECKPOINTS:-checkpoints/gpu}" DATASET="${DATASET:-huggan/AFHQv2}"
export HIDDEN_DIMS="${HIDDEN_DIMS:-64 128 256 512}" EPOCHS="${EPOCHS:-100}" BATCH_SIZE="${BATCH_SIZE:-64}"
export LEARNING_RATE="${LEARNING_RATE:-1e-4}" NUM_IMAGES="${NUM_IMAGES:-5000}" SEEDS="${SEEDS:-42 43 44}"
export K="${K:-4}" MAP_IMAGES="${MAP_IMAGES:-16}" TRAIN_OPTIONS="${TRAIN_OPTIONS:---compile}"
mkdir -p "$OUTPUT"
"$PYTHON" -c "import torch; print(torch.__version__, [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())])" \
    | tee "$OUTPUT/machine.txt"

status=0
benchmarks="${BENCHMARKS:-train_step train_step_compile error_map sampling sampling_compile frechet}"
BENCHMARKS_DIR="$OUTPUT/benchmarks" ./scripts/bench.sh $benchmarks || status=1
./scripts/quickstart.sh || status=1
exit "$status"
