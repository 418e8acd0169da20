#!/usr/bin/env bash
# Run every benchmark (or the ones named) and keep the last line of each in results/benchmarks/NAME.json.
#   ./scripts/bench.sh                      all
#   ./scripts/bench.sh train_step frechet   these; NAME_compile is NAME.py --compile, which needs
#                                           a C++ compiler on a CPU; train_step_handicaps and
#                                           flow_step_latents (of a GPU, not among all) likewise;
#                                           NAME_bf16 is NAME.py --precision bf16, not among all
#   TRAINING_RUN=results/gpu/lift_dual_timestep_run.json ./scripts/bench.sh training_time
#                                           how long a training took; not among all
#   BENCHMARKS_DIR                          another folder than results/benchmarks
#   TRAIN_STEP_OPTIONS="--rounds 1"         options of train_step and train_step_compile; likewise of the others
#   IGNORE_TARGETS=1                        a missed target is no failure: for a trial with small settings
# Exit status 1 if one failed or missed its target; the others are run all the same.
set -uo pipefail
all="dynamic_program train_step train_step_compile error_map sampling sampling_compile frechet path_costs"
all+=" resume_after_kills two_processes precision flow_step flow_step_compile distill_step"
all+=" train_step_handicaps mnist_step"
words="$all training_time flow_step_latents flow_step_bf16 flow_step_bf16_compile mnist_step_bf16 distill_step_bf16"
source "$(dirname "$0")/environment.sh" || exit
check       # of the words alone, which are looked at above
folder="${BENCHMARKS_DIR:-results/benchmarks}"
mkdir -p "$folder"
status=0
for name in ${@:-$all}; do
    base="${name%_compile}"; base="${base%_handicaps}"; base="${base%_latents}"; base="${base%_bf16}"
    command=(-m "scripts.benchmarks.$base")
    case "${name#"$base"}" in
        "") ;;
        _bf16) command+=(--precision bf16) ;;
        _bf16_compile) command+=(--precision bf16 --compile) ;;
        *) command+=("--${name##*_}") ;;
    esac
    options="${base}_options"; options="${options^^}"
    command+=(${!options:-})
    if [ "$name" = training_time ]; then command+=("${TRAINING_RUN:-results/gpu/lift_dual_timestep_run.json}"); fi
    stage "${command[*]}"
    output=$(mktemp)
    if "$PYTHON" "${command[@]}" | tee "$output" && tail -n 1 "$output" | "$PYTHON" -c "import json, sys
from engine.command_line import git_revision
print(json.dumps(json.load(sys.stdin) | {'git_revision': git_revision()[:12]}, indent=4))" > "$output.json"; then
        mv "$output.json" "$folder/$name.json"
        grep -q '"ok": true' "$folder/$name.json" ||
            { echo "bench.sh: $name missed its target" >&2; [ -n "${IGNORE_TARGETS:-}" ] || status=1; }
    else
        echo "bench.sh: $name failed" >&2; status=1
    fi
    rm -f "$output" "$output.json"
done
exit "$status"
