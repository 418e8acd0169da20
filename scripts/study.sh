#!/usr/bin/env bash
# The study of the README: does a dual-scale model pay, and which path? All of it, or the phases that are named:
#   ./scripts/study.sh [train] [maps] [samples] [floor] [error] [training] [paths] [scale32] [predictions]
#                      [gate] [detail] [constants] [swap] [tables]
# constants chooses corrections and guidance on other noise and images than it reports (scripts/choose_constants.py),
# for baseline and LIFT alike; swap samples what was trained in one way in the way of the other.
# Every setting can be given from outside. As it stands it is the GPU's: default-size models.
#   DEVICES    where jobs run, one process each: "0 1", or "cpu cpu" with THREADS=1; left out: all GPUs, else one CPU
# Finished parts are not done again, stopped trainings resume: start it again after any stop. Logs: $LOGS.
set -euo pipefail
DATASET="${DATASET:-../shared/data/animals64}"  # a folder, or a hub name
VAL_SPLIT="${VAL_SPLIT:-validation}"            # held-out images; of train alone: TRAIN_OPTIONS="--split train[500:]"
HIDDEN_DIMS="${HIDDEN_DIMS:-64 128 256 512}"
EPOCHS="${EPOCHS:-100}"
BATCH_SIZE="${BATCH_SIZE:-64}"
LEARNING_RATE="${LEARNING_RATE:-1e-4}"
WARMUP_STEPS="${WARMUP_STEPS:-100}"
TRAIN_OPTIONS="${TRAIN_OPTIONS:-}"              # further options of every training
SEEDS="${SEEDS:-0 1}"                           # of training; ablations, paths and gate have the first
COMPARED="${COMPARED:-baseline lift_independent lift_band baseline_v_eps lift_independent_v_eps \
    lift_native_v_eps baseline_residual lift_native_residual lift_native_band_residual lift_native_near_residual \
    lift_native_fused_residual lift_native_skip_residual lift_bands_residual}"      # trained with every seed
ABLATIONS="${ABLATIONS-lift_diagonal lift_light32 lift_loss64 baseline_v lift_independent_v \
    lift_native_light32_v_eps lift_native_band_v_eps lift_native_diagonal_residual}"      # with the first seed
NUM_IMAGES="${NUM_IMAGES:-5000}"                # generated per row
GATE_IMAGES="${GATE_IMAGES:-1000}"              # where there are 250 steps
GATE_STEPS="${GATE_STEPS:-18 50 250}"
GATED="${GATED:-baseline lift_independent lift_band baseline_v_eps lift_native_v_eps \
    baseline_residual lift_native_residual}"    # runs compared with so many steps
STEPS="${STEPS:-9 18 36}"                       # of the comparison of paths
SOLVERS="${SOLVERS:-ddim multistep}"
SAMPLING_SEEDS="${SAMPLING_SEEDS:-42}"
LEADS="${LEADS:-lead_1 lead_2 lead_3 lead_5}"    # paths on which the two predictions are made to agree
LEAD="${LEAD:-lead_3}"                          # the one of them that samples and details are shown for
CALLS="${CALLS:-9 18}"                          # network calls per image, with and without constants
PAIRS="${PAIRS:-diagonal lead_2}"               # LIFT's ways of sampling of the phases constants and swap
CHOOSE_BY="${CHOOSE_BY:-kd_lite0}"              # the score that constants are chosen by, on VAL_SPLIT
CHOICE_IMAGES="${CHOICE_IMAGES:-1000}"          # generated for every constant that is tried
METRICS="${METRICS:-fd_lite0 kd_lite0 swd}"
GRID="${GRID:-40}"                              # 36 steps on the diagonal need 37 points
K="${K:-2}"                                     # probes per image of the error maps
MAP_IMAGES="${MAP_IMAGES:-8}"
EDGE_IMAGES="${EDGE_IMAGES:-4}"                 # for step doubling over the plane, a hundred thousand calls each
SCHEDULE_IMAGES="${SCHEDULE_IMAGES:-32}"        # for step doubling on the diagonal and of the baseline, 500 calls each
LEAD_EDGE_IMAGES="${LEAD_EDGE_IMAGES:-8}"       # for the search for a lead, 4,000 calls each
MAX_LEAD="${MAX_LEAD:-8}"                       # only between cells whose scales are so close in log SNR
LEAD_IMAGES="${LEAD_IMAGES:-256}"               # generated per finalist of the search for a lead
ERROR_IMAGES="${ERROR_IMAGES:-512}"             # held out, for the error beside the baseline's
ERROR_TIMESTEPS="${ERROR_TIMESTEPS:-28}"
THREADS="${THREADS:-0}"
PRECISION="${PRECISION:-auto}"
FLOOR_IMAGES="${FLOOR_IMAGES:-}"                # further numbers of real images to score against the others
CHECKPOINTS="${CHECKPOINTS:-checkpoints/study}"
OUTPUT="${OUTPUT:-results/study}"               # maps, training logs and side measurements; must be named study
LOGS="${LOGS:-logs/study}"
GENERATED="${GENERATED:-generated/study}"        # single images of the sample grids
[ "$(basename "$OUTPUT")" = study ] || {
    echo "study.sh: OUTPUT: found $OUTPUT, expected a folder named study, where the tables look for it" >&2; exit 2; }
for setting in DATASET CHECKPOINTS OUTPUT LOGS GENERATED; do
    [[ "${!setting}" != *[[:space:]]* ]] || {
        echo "study.sh: $setting: found '${!setting}', expected a path without spaces; a link to it will do" >&2
        exit 2; }
done
[[ " ${*:-constants} " != *" constants "* || "$VAL_SPLIT" != train* || "$VAL_SPLIT" =~ ^train\[:[0-9]+\]$ ]] || {
    echo "study.sh: VAL_SPLIT: found $VAL_SPLIT, expected train[:N] or another split than train, so that" \
        "constants are chosen on other images than they are reported on" >&2
    exit 2; }
words="train maps samples floor error training paths scale32 predictions gate detail constants swap tables"
source "$(dirname "$0")/environment.sh"
phases=(${@:-$words})
RESULTS="$(dirname "$OUTPUT")/fid_results.csv"
if [ -z "${DEVICES:-}" ]; then
    DEVICES=$("$PYTHON" -c "import torch; print(*range(torch.cuda.device_count()) or ['cpu'])")
fi
expect_numbers 0 SEEDS
expect_numbers 1 EPOCHS GRID STEPS
read -r -a seeds <<< "$SEEDS"
read -r -a compared <<< "$COMPARED"
read -r -a ablations <<< "$ABLATIONS"
read -r -a devices <<< "$DEVICES"
first="${seeds[0]}"
data="--dataset $DATASET"

declare -A trainings opponents                  # of every run there can be: its command, the baseline beside it
{
    read -r contested; read -r swapped
    while IFS=$'\t' read -r name command beside; do
        trainings[$name]=$command; opponents[$name]=$beside
    done
} < <("$PYTHON" -c "from lift.study_runs import CONTESTED, RUNS, SWAPPED, command_of, opponent_of
print(*CONTESTED, sep='|')
print(*SWAPPED, sep='|')
for name in RUNS: print(name, command_of(name), opponent_of(name), sep='\t')")
for name in "${compared[@]}" "${ablations[@]}"; do
    [ -n "${trainings[$name]:-}" ] || refuse "COMPARED, ABLATIONS" "$name" "some of: ${!trainings[*]}"
done

# Jobs: a line each, its name and a command; as many at once as there are devices. All run; a failure is the status.
run_jobs() {
    export PYTHON THREADS DEVICES LOGS
    xargs -r -d '\n' -n 1 -P "${#devices[@]}" --process-slot-var=SLOT bash -c '
        read -r name command <<< "$0"
        devices=($DEVICES)
        echo "$(date +%T) $name"
        $PYTHON $command --device "${devices[SLOT]}" --num_threads "$THREADS" >> "$LOGS/$name.log" 2>&1 || {
            echo "study.sh: $name failed, see $LOGS/$name.log: $(tail -n 1 "$LOGS/$name.log")" >&2; exit 1; }'
}

early() { echo $((EPOCHS > 4 ? EPOCHS / 4 : 1)); }      # the epoch whose checkpoint can guide the last one
checkpoint() { echo "$CHECKPOINTS/${1}_${EPOCHS}ep.pth"; }
heatmap() { echo "$OUTPUT/heatmap_${GRID}_${1}_${EPOCHS}ep"; }     # without its suffix
runs() {    # every training as NAME_seedS
    local name seed
    for name in "${compared[@]}"; do for seed in "${seeds[@]}"; do echo "${name}_seed$seed"; done; done
    for name in "${ablations[@]}"; do echo "${name}_seed$first"; done
}
lift_runs() { runs | grep -v '^baseline'; }
# loss64 has not learned its 32 output, and the parts of two bands cannot disagree
with_two_outputs() { lift_runs | grep -v -e '^lift_loss64' -e '^lift_bands' | here; }
# While checking, every run counts as trained and nothing as up to date, so that all jobs there can be are named.
checking=""
is_trained() { [ -n "$checking" ] || [ -e "$(checkpoint "$1")" ]; }
here() { while read -r run; do if is_trained "$run"; then echo "$run"; fi; done; }     # those trained
is_up_to_date() { [ -z "$checking" ] && [ "$1" -nt "$(checkpoint "$2")" ]; }    # FILE RUN: made after its checkpoint
opponent() { echo "${opponents[${1%_seed*}]}_seed${1##*_seed}"; }      # the baseline that a run is measured beside
model_type() { case "$1" in baseline*) echo baseline ;; *) echo lift ;; esac; }
# RUN: the path of evenly spaced timesteps, by the model's name
evenly_spaced() { case "$1" in baseline*) echo uniform ;; *) echo diagonal ;; esac; }

train_jobs() {
    local run options again
    runs | while read -r run; do
        [ -z "$checking" ] && is_trained "$run" && continue
        options="${trainings[${run%_seed*}]}"
        again="--overwrite"     # the logs of a run whose checkpoints are not here
        if compgen -G "$CHECKPOINTS/${run}_*ep.pth" >/dev/null; then again=""; fi
        if compgen -G "$CHECKPOINTS/${run}_step*" >/dev/null; then again="--resume"; fi
        echo "train_$run $options $data --hidden_dims $HIDDEN_DIMS --epochs $EPOCHS --batch_size $BATCH_SIZE" \
            "--learning_rate $LEARNING_RATE --warmup_steps $WARMUP_STEPS --flip --val_split $VAL_SPLIT --val_every 1" \
            "--save_epochs $(early) $EPOCHS" \
            "--seed ${run##*_seed} --name $run --checkpoint_dir $CHECKPOINTS" \
            "--output_dir $OUTPUT/training_${EPOCHS}ep" \
            "--precision $PRECISION $TRAIN_OPTIONS $again"
    done
}

map_jobs() {
    local run edges
    for run in $(lift_runs | here); do
        edges=""
        if [ "$run" = "lift_independent_seed$first" ]; then
            edges="--edge_costs step_doubling step_doubling_diagonal"
        fi
        is_up_to_date "$(heatmap "$run").json" "$run" || echo "map_$run compute_heatmap_30.py $data" \
            "--checkpoint $(checkpoint "$run") --grid $GRID --K $K --batch_size $MAP_IMAGES --target_error 0" \
            "--edge_images $EDGE_IMAGES --max_lead $MAX_LEAD" \
            "--diagonal_edge_images $SCHEDULE_IMAGES --output_dir $OUTPUT --overwrite $edges"
    done
    run="baseline_seed$first"
    ! is_trained "$run" || is_up_to_date "$(heatmap "$run").json" "$run" || echo "schedule_$run" \
        "-m lift.compute_schedule $data --checkpoint $(checkpoint "$run") --grid $GRID --edge_images $SCHEDULE_IMAGES" \
        "--output_dir $OUTPUT --overwrite"
}
lead_jobs() {       # they add to the files of map_jobs
    local run
    for run in $(printf '%s\n' "baseline_seed$first" "lift_independent_seed$first" | here); do
        is_up_to_date "$OUTPUT/lead_$GRID/lead_${run}_${EPOCHS}ep_18steps.json" "$run" || echo "lead_$run" \
            "-m lift.search_lead $data --checkpoint $(checkpoint "$run") --grid $GRID" \
            "--edge_images $LEAD_EDGE_IMAGES --num_images $LEAD_IMAGES" \
            "--heatmap $(heatmap "$run").pth --output_dir $OUTPUT/lead_$GRID --overwrite"
    done
}
draw_logsnr_paths() {   # the same maps, each scale's error times its own change in log SNR
    local run drawn
    for run in $(lift_runs | here); do
        drawn="$OUTPUT/logsnr_${GRID}_${run}_${EPOCHS}ep"
        is_up_to_date "${drawn}_plot.json" "$run" || "$PYTHON" -m lift.plot_heatmap --step_size logsnr \
            "$(heatmap "$run").pth" --output "$drawn.png" --overwrite
    done
}

evaluate() {    # RUN STEPS IMAGES "PATHS" [OPTION...]
    local run=$1 steps=$2 images=$3 paths=$4 label; shift 4
    is_trained "$run" || return 0
    label=$(tr -c 'a-z0-9\n' _ <<< "$images $METRICS $*")
    echo "eval_${run}_${steps}_$label eval_fid_batch.py $data --model_type $(model_type "$run")" \
        "--checkpoints $(checkpoint "$run")" \
        "--paths $paths --num_steps $steps --num_images $images --seeds $SAMPLING_SEEDS --metrics $METRICS" \
        "--heatmap_dir $OUTPUT --grid $GRID --results $RESULTS --precision $PRECISION $*"
}
gate_jobs() {
    local steps run
    for steps in $GATE_STEPS; do for run in $GATED; do
        evaluate "${run}_seed$first" "$steps" "$GATE_IMAGES" "$(evenly_spaced "$run")"
    done; done
}
training_jobs() {
    local run
    for run in $(runs | here); do
        case "$run" in
            baseline*) evaluate "$run" 18 "$NUM_IMAGES" uniform ;;
            *) evaluate "$run" 18 "$NUM_IMAGES" "diagonal dp_64 dp_total" ;;
        esac
    done
}
path_jobs() {
    local steps solver on_diagonal schedule
    for steps in $STEPS; do for solver in $SOLVERS; do
        on_diagonal=""; schedule=""
        # With more steps there is no such path on this grid.
        if [ "$steps" -lt "$GRID" ]; then on_diagonal="dp_diagonal"; schedule="dp"; fi
        evaluate "baseline_seed$first" "$steps" "$NUM_IMAGES" "uniform $schedule lead" --solver "$solver"
        evaluate "lift_independent_seed$first" "$steps" \
            "$NUM_IMAGES" "diagonal $on_diagonal dp_64 dp_total identity_64 identity_total dp_step lead" \
            --solver "$solver"
        evaluate "lift_independent_seed$first" "$steps" "$NUM_IMAGES" "dp_64 dp_total" --solver "$solver" \
            --step_size logsnr
    done; done
}
scale32_jobs() {
    local x32
    for x32 in joint random fixed; do evaluate "lift_independent_seed$first" 18 "$NUM_IMAGES" diagonal \
        --x32 "$x32"; done
    evaluate "lift_loss64_seed$first" 18 "$NUM_IMAGES" diagonal
}
predictions_jobs() {
    local run
    for run in $(with_two_outputs); do
        evaluate "$run" 18 "$NUM_IMAGES" "diagonal $LEADS" --x32 reconciled
    done
    evaluate "lift_independent_seed$first" 18 "$NUM_IMAGES" "$LEADS"
    for run in $(runs | grep -E '^lift_(independent|band|loss64)_seed' | here); do
        evaluate "$run" 18 "$NUM_IMAGES" diagonal --x32 from_64
    done
}
detail_jobs() {
    local run
    for run in $(runs | here); do METRICS=detail evaluate "$run" 18 "$GATE_IMAGES" "$(evenly_spaced "$run")"; done
    for run in $(with_two_outputs); do
        METRICS=detail evaluate "$run" 18 "$GATE_IMAGES" "$LEAD" --x32 reconciled
    done
    without_network floor_detail "$GATE_IMAGES" detail
}
floor_jobs() {
    local numbers
    numbers=$(printf '%s\n' $NUM_IMAGES $GATE_IMAGES $FLOOR_IMAGES | sort -nu | tr '\n' ' ')    # each once
    without_network floor "$numbers" "$METRICS"
}
without_network() {     # NAME "IMAGES" "METRICS"
    local images
    for images in real normal; do
        echo "$1_$images -m evaluation.noise_floor $data --images $images --num_images $2 --metrics $3" \
            "--results $RESULTS"
    done
}
error_jobs() {
    local run beside output reconciled
    for run in $(lift_runs | here); do for reconciled in "" --reconciled; do
        [[ "$run$reconciled" != lift_bands*--reconciled ]] || continue
        beside=$(opponent "$run")
        is_trained "$beside" || { echo "study.sh: $run is not measured: no $beside" >&2; continue; }
        output="$OUTPUT/model_error_${run}_${EPOCHS}ep${reconciled/--/_}"
        { is_up_to_date "$output.json" "$run" && is_up_to_date "$output.json" "$beside"; } || echo \
            "error_$run$reconciled -m lift.eval_mse $data" \
            "--checkpoint $(checkpoint "$run") --compare_baseline $(checkpoint "$beside")" \
            "--split $VAL_SPLIT --num_images $ERROR_IMAGES --num_timesteps $ERROR_TIMESTEPS" \
            "--output $output --overwrite $reconciled"
        output="$OUTPUT/exposure_${run}_${EPOCHS}ep"
        [ -n "$reconciled" ] || { is_up_to_date "$output.json" "$run" && is_up_to_date "$output.json" "$beside"; } ||
            echo "exposure_$run -m lift.eval_mse $data --inputs self" \
            "--checkpoint $(checkpoint "$run") --compare_baseline $(checkpoint "$beside")" \
            "--split $VAL_SPLIT --num_images $ERROR_IMAGES --output $output --overwrite"
    done; done
}

# What was expected before anything was measured: at 9 calls a correction helps every model by fd_lite0, LIFT with a
# lead most; at 18 calls the baseline is best as it is, and LIFT with a lead still gains; guidance at equal calls, with
# half of the steps, loses to plain steps for all.
constants_jobs() {
    local run seed files guides guide output is_fresh reported=train
    if [[ "$VAL_SPLIT" =~ ^train\[:([0-9]+)\]$ ]]; then reported="train[${BASH_REMATCH[1]}:]"; fi
    for run in $(runs | grep -E "^($contested)_seed$first$" | here); do
        files=""; guides="--guides"; is_fresh=1
        output="$OUTPUT/constants_${run%_seed*}_${EPOCHS}ep.json"
        for seed in "${seeds[@]}"; do
            run="${run%_seed*}_seed$seed"
            is_trained "$run" || continue
            files+=" $(checkpoint "$run")"
            is_up_to_date "$output" "$run" || is_fresh=""
            guide="$CHECKPOINTS/${run}_$(early)ep.pth"
            if [ "$(early)" -lt "$EPOCHS" ] && [ -e "$guide" ]; then guides+=" $guide"; else guides+=" none"; fi
        done
        [ -z "$is_fresh" ] || continue
        if [[ "$guides" == *none* ]]; then guides=""; fi
        echo "constants_${run%_seed*} -m scripts.choose_constants $data --checkpoints$files $guides --calls $CALLS" \
            "--paths $(case "$run" in baseline*) echo uniform ;; *) echo "$PAIRS" ;; esac)" \
            "--choice_split $VAL_SPLIT --choice_images $CHOICE_IMAGES --choose_by $CHOOSE_BY" \
            "--seeds $SAMPLING_SEEDS --reference_split $reported --num_images $NUM_IMAGES --metrics $METRICS" \
            "--results $RESULTS --choices $OUTPUT/choices.csv --precision $PRECISION" \
            "--output $output --overwrite"
    done
}
swap_jobs() {
    local run
    for run in $(runs | grep -E "^($swapped)_seed" | here); do
        case "$run" in
            baseline*) evaluate "$run" 18 "$NUM_IMAGES" uniform ;;
            *) evaluate "$run" 18 "$NUM_IMAGES" "$PAIRS" ;;
        esac
        case "$run" in lift_native*) evaluate "$run" 18 "$NUM_IMAGES" diagonal --x32 random ;; esac
    done
}

sample_jobs() {
    local run
    for run in $(runs | here); do sample_job "$run" "$(evenly_spaced "$run")" joint ""; done
    for run in $(with_two_outputs); do sample_job "$run" "$LEAD" reconciled _reconciled; done
}
sample_job() {      # RUN PATH X32 SUFFIX
    local grid="$OUTPUT/samples_${1}_${EPOCHS}ep$4"
    is_up_to_date "$grid.json" "$1" || echo "samples_$1$4 generate_with_path_30.py --checkpoint $(checkpoint "$1")" \
        "--path $2 --x32 $3 --num_images 24 --grid_images 24 --output_dir $GENERATED/$1$4 --grid_png $grid.png" \
        "--precision $PRECISION --overwrite"
}

jobs_of() {     # PHASE
    case "$1" in
        maps) map_jobs; lead_jobs ;;
        paths) path_jobs ;;
        samples) sample_jobs ;;
        tables) ;;
        *) "$1_jobs" ;;
    esac
}

checking=yes
for phase in "${phases[@]}"; do
    while read -r name command; do note $command --num_threads "$THREADS"; done < <(jobs_of "$phase")
done
check
checking=""

mkdir -p "$OUTPUT" "$LOGS"
for phase in "${phases[@]}"; do
    stage "$phase"
    if [[ " floor train tables " != *" $phase "* ]] && [ -z "$(runs | here)" ]; then
        echo "study.sh: EPOCHS, CHECKPOINTS: found no *_${EPOCHS}ep.pth of these runs in $CHECKPOINTS;" \
            "run phase train" >&2
        exit 2
    fi
    case "$phase" in
        maps) map_jobs | run_jobs; lead_jobs | run_jobs; draw_logsnr_paths ;;
        tables) "$PYTHON" -m lift.report --results "$RESULTS" ${README:+--readme $README} --grid 30 ;;
        *) jobs_of "$phase" | run_jobs ;;
    esac
done
