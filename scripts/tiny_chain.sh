#!/usr/bin/env bash
# Every script once, seconds each, in a temporary folder: does the chain hold together?
set -euo pipefail
words=""
source "$(dirname "$0")/environment.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder" generated/tiny_chain' EXIT        # quickstart.sh names the folder of PNG files by $OUTPUT
export DEVICE=cpu DATASET=synthetic:64 HIDDEN_DIMS="8 16" EPOCHS=2 BATCH_SIZE=16 NUM_STEPS=6 NUM_IMAGES=16 GRID=8 \
    MAP_IMAGES=2 SEEDS="42 43" METRICS=swd OUTPUT="$folder/tiny_chain" CHECKPOINTS="$folder/checkpoints"
readme="$folder/README.md"
printf '<!-- table:study_%s -->\n<!-- end:study_%s -->\n' training training paths paths \
    predictions predictions clean_error clean_error detail detail validation validation > "$readme"
export TRAIN_OPTIONS="--cache_dir $folder/cache --no_tensorboard" FLOW_DATASET=digits:64 MNIST_DATASET=digits:256 \
    BENCHMARKS="train_step sampling flow_step mnist_step" IGNORE_TARGETS=1 \
    TRAIN_STEP_OPTIONS="--hidden_dims 8 16 --batch_size 2 --rounds 1 --device cpu" \
    SAMPLING_OPTIONS="--hidden_dims 8 16 --num_images 2 --num_steps 2 --repeats 1 --device cpu" \
    FLOW_STEP_OPTIONS="--preset debug --batch_size 2 --rounds 1 --peak_gflops 10 --sampling --device cpu" \
    MNIST_STEP_OPTIONS="--preset fast --batch_size 2 --rounds 1 --steps 1 --sampling_steps 1 --device cpu" \
    FLOW_OPTIONS="--preset debug --image_size 16 --batch_size 16 --max_steps 3 --no_tensorboard \
        --cache_dir $folder/cache" \
    FLOW_SAMPLING="--num_images 10 --num_steps 2" \
    MNIST_OPTIONS="--fast --batch_size 32 --max_steps 3 --epochs 1 --sample_every 0 --cache_dir $folder/cache" \
    MNIST_SAMPLING="--num_samples 30 --sampling_steps 2 --cache_dir $folder/cache" \
    DISTILL_OPTIONS="--max_steps 3 --epochs 1 --batch_size 8 --no_tensorboard --cache_dir $folder/cache"
export STUDY_SETTINGS="SEEDS=0 EPOCHS=1 GRID=20 K=1 EDGE_IMAGES=1 MAX_LEAD=1 SCHEDULE_IMAGES=1 LEADS=lead_2 \
    LEAD=lead_2 LEAD_EDGE_IMAGES=1 LEAD_IMAGES=4 ERROR_IMAGES=4 ERROR_TIMESTEPS=2 STEPS=18 SOLVERS=ddim GATE_IMAGES=8 \
    GATE_STEPS=50 THREADS=1 VAL_SPLIT=validation README=$readme" STUDY_TRAIN_OPTIONS="--val_images 4"
COMPARED="baseline lift_independent" ABLATIONS="baseline_v_eps lift_native_v_eps" \
    ./scripts/gpu_run.sh data benchmarks lift chain flow mnist distill study

lift="$CHECKPOINTS/lift_dual_timestep_2ep.pth"
baseline="$CHECKPOINTS/baseline_2ep.pth"
small=(--dataset synthetic:64 --num_images 8 --device cpu)
"$PYTHON" -m lift.plot_heatmap "$OUTPUT/heatmap_8_2ep.pth" --paths greedy_total unconstrained_64 --num_steps 6 \
    --num_resamples 3 --output "$OUTPUT/again.png"
"$PYTHON" -m lift.eval_mse --checkpoint "$lift" "${small[@]}" --output "$OUTPUT/mse"
"$PYTHON" -m lift.eval_mse --checkpoint "$lift" --compare_baseline "$baseline" --num_timesteps 3 "${small[@]}" \
    --output "$OUTPUT/model_error"
"$PYTHON" -m lift.eval_mse --checkpoint "$lift" --compare_baseline "$baseline" --inputs self --num_steps 3 \
    "${small[@]}" --output "$OUTPUT/exposure"
"$PYTHON" -m lift.super_resolve --checkpoint "$lift" "${small[@]}" --num_steps 4 --num_shown 4 \
    --output "$OUTPUT/super_resolution"
"$PYTHON" generate_with_path_30.py --checkpoint "$lift" --path lead --num_steps 4 --num_images 4 --solver multistep \
    --x32 fixed --output_dir "$folder/images" --grid_png "$folder/grid.png" --device cpu
"$PYTHON" -m lift.compute_schedule --checkpoint "$baseline" --dataset synthetic:64 --grid 8 --num_steps 4 \
    --edge_images 2 \
    --output_dir "$OUTPUT" --device cpu
"$PYTHON" -m lift.search_lead --checkpoint "$baseline" --dataset synthetic:64 --grid 8 --num_steps 4 --edge_images 1 \
    --num_images 8 --output_dir "$OUTPUT" --device cpu
"$PYTHON" -m scripts.choose_constants --checkpoints "$lift" "${small[@]}" --choice_images 8 --calls 2 --metrics swd \
    --choose_by swd --results "$OUTPUT/constants.csv" --choices "$OUTPUT/choices.csv" --output "$OUTPUT/constants.json"
grep -q "| LIFT, independent timesteps |" "$readme" && grep -q "| baseline lead |" "$readme" \
    && grep -q "timesteps; reconciled |" "$readme" && grep -q "| baseline, v, loss of the noise | 0 |" "$readme" \
    && grep -q "| kurtosis, level 64 |" "$readme" && grep -q "| 64, epoch 1 |" "$readme" \
    || { echo "tiny_chain.sh: study.sh filled no table" >&2; exit 1; }
for file in fid_results.csv report.html heatmap_8_2ep.png samples_dp_total.png baseline_loss.png mse.png \
    model_error.png exposure.png super_resolution.png again.png lead_baseline_2ep_4steps.json constants.json; do
    [ -s "$OUTPUT/$file" ] || { echo "tiny_chain.sh: $file is missing or empty" >&2; exit 1; }
done
echo "tiny chain: every script ran"
