#!/usr/bin/env bash
# Everything that needs a GPU, into $OUTPUT (results/gpu): all of it, or the phases that are named:
#   ./scripts/gpu_run.sh [data] [tests] [benchmarks] [lift] [time] [chain] [flow] [mnist] [distill] [study]
#   DATASET=huggan/AFHQv2 EPOCHS=100 ./scripts/gpu_run.sh
#   VENV=none DATASET=synthetic:15803 FLOW_DATASET=digits MNIST_DATASET=digits ./scripts/gpu_run.sh
#                                                       a box without network whose Python has the packages
# data reads the data sets, so that one that cannot be had is told before hours of work; tests are those that need a
# GPU; benchmarks measure compiled and uncompiled beside the plain side; lift is LIFT's training, which time holds
# against six minutes; chain is quickstart.sh at default size, with the training that is there already; flow and mnist
# train their models, generate and score; distill makes students of the chain's two models; study is study.sh.
# EPOCHS, NUM_IMAGES and the other settings of quickstart.sh shorten it, *_OPTIONS below the other families, and
# STUDY_SETTINGS="NAME=value ..." the study. A stopped chain goes on where it was; each phase and BENCHMARKS="..." can
# have a command of its own. Settings are looked at before the first phase; with CHECK_ONLY=1 that is all.
# DEVICE=cpu tries all of it where there is no GPU: give it small settings, as tiny_chain.sh does. Exit status 1 if
# something failed or missed its target.
set -uo pipefail
[ -z "${OVERWRITE:-}" ] || {
    echo "gpu_run.sh: OVERWRITE: has no effect here; delete what is to be made anew" >&2; exit 2; }
words="data tests benchmarks lift time chain flow mnist distill study"
source "$(dirname "$0")/environment.sh" || exit
phases=(${@:-$words})
arguments="" source "$(dirname "$0")/distill/common.sh" || exit
[ -n "${DEVICE:-}" ] || "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || {
    echo "gpu_run.sh: found no GPU, expected one; on a CPU, run ./scripts/bench.sh and ./scripts/quickstart.sh" >&2
    exit 2; }
export OUTPUT="${OUTPUT:-results/gpu}" CHECKPOINTS="${CHECKPOINTS:-checkpoints/gpu}" DATASET="${DATASET:-huggan/AFHQv2}"
export HIDDEN_DIMS="${HIDDEN_DIMS:-64 128 256 512}" EPOCHS="${EPOCHS:-100}" BATCH_SIZE="${BATCH_SIZE:-64}"
export LEARNING_RATE="${LEARNING_RATE:-1e-4}" NUM_IMAGES="${NUM_IMAGES:-5000}" SEEDS="${SEEDS:-42 43 44}"
export K="${K:-4}" MAP_IMAGES="${MAP_IMAGES:-16}"
export TRAIN_OPTIONS="${TRAIN_OPTIONS:---compile}" LIFT_OPTIONS="${LIFT_OPTIONS:- }"
FLOW_DATASET="${FLOW_DATASET:-cifar10}" MNIST_DATASET="${MNIST_DATASET:-mnist}"
FLOW_OPTIONS="${FLOW_OPTIONS:---preset small --epochs 100 --compile}"          # of its training
FLOW_SAMPLING="${FLOW_SAMPLING:---num_images 5000 --batch_size 250}"
MNIST_OPTIONS="${MNIST_OPTIONS:-}"              # of every training; left out: the documented sizes and epochs
MNIST_SAMPLING="${MNIST_SAMPLING:---num_samples 1000}"
DISTILL_OPTIONS="${DISTILL_OPTIONS:---max_steps 10000 --epochs 100 --generator_lr 1e-5 --guidance_lr 1e-5}"
export BENCHMARKS_DIR="$OUTPUT/benchmarks" TRAINING_RUN="$OUTPUT/lift_dual_timestep_run.json"
device=(${DEVICE:+--device "$DEVICE"})
into=(--checkpoint_dir "$CHECKPOINTS" --output_dir "$OUTPUT")
trained() { echo "$CHECKPOINTS/$1_${EPOCHS}ep.pth"; }

# A step of a phase, which ends with its first failure. While checking, it is only noted for `check`.
step() {
    if [ -n "$checking" ]; then note "$@" "${device[@]}"; return; fi
    echo "- ${*:1:4}"
    start "$@" "${device[@]}"
}

benchmarks() {
    FLOW_STEP_OPTIONS="${FLOW_STEP_OPTIONS:---sampling}" ./scripts/bench.sh ${BENCHMARKS:-train_step_compile \
        sampling_compile error_map flow_step_compile flow_step_latents mnist_step distill_step}
}
lift() {
    step train_lift.py --dataset "$DATASET" --hidden_dims $HIDDEN_DIMS --epochs "$EPOCHS" --batch_size "$BATCH_SIZE" \
        --learning_rate "$LEARNING_RATE" --warmup_steps 50 --flip "${into[@]}" $TRAIN_OPTIONS --resume
}
chain() { run ./scripts/quickstart.sh; }
study() {
    run env OUTPUT="$OUTPUT/study" CHECKPOINTS="$CHECKPOINTS/study" LOGS="$OUTPUT/study/logs" \
        GENERATED="generated/$(basename "$OUTPUT")/study" SEEDS="0 1" GRID=40 K=2 MAP_IMAGES=8 \
        DEVICES="${DEVICE:-}" VAL_SPLIT="${VAL_SPLIT:-train[:500]}" \
        TRAIN_OPTIONS="$TRAIN_OPTIONS ${STUDY_TRAIN_OPTIONS:---split train[500:]}" \
        ${STUDY_SETTINGS:-} ./scripts/study.sh
}

flow() {
    step -m flow.train --dataset "$FLOW_DATASET" $FLOW_OPTIONS "${into[@]}" --resume &&
        step -m flow.generate --checkpoint "$(newest "$CHECKPOINTS/flow")" $FLOW_SAMPLING --overwrite \
            --output_dir "generated/$(basename "$OUTPUT")/flow" --grid_png "$OUTPUT/samples_flow.png"
}

mnist_training() {      # VERB NAME [OPTION...]: a new experiment, or the one that was begun
    local found
    found=$(compgen -G "$OUTPUT/mnist/*-$2" | sort | tail -n 1)
    step -m "mnist.$1" --dataset "$MNIST_DATASET" $MNIST_OPTIONS --name "$2" --experiments "$OUTPUT/mnist" "${@:3}" \
        ${found:+--resume "$found"}
}
mnist() {
    local model
    mnist_training train_vae vae || return
    local vae=(--vae_checkpoint "$(newest "$OUTPUT/mnist/*-vae/checkpoints/vae")")
    mnist_training train_rf rf --conditioning cross_attention && mnist_training train_ddpm ddpm &&
        mnist_training train_latent_rf latent_rf "${vae[@]}" &&
        mnist_training train_latent_diffusion latent_diffusion "${vae[@]}" &&
        mnist_training train_conditioned_latent_diffusion conditioned "${vae[@]}" || return
    for model in rf ddpm latent_rf latent_diffusion conditioned; do
        local checkpoint=(--checkpoint "$(newest "$OUTPUT/mnist/*-$model/checkpoints/$model")" --overwrite)
        local guided=(--guidance_scales 1)
        case "$model" in rf | conditioned) guided=(--guidance_scales 1 2) ;; esac
        step -m mnist.generate "${checkpoint[@]}" --output_dir "$OUTPUT/mnist/samples_$model" &&
            step -m mnist.score "${checkpoint[@]}" --dataset "$MNIST_DATASET" $MNIST_SAMPLING "${guided[@]}" \
                --output "$OUTPUT/mnist/scores_$model.csv" || return
    done
    step -m mnist.visualize_cfg_effect "${checkpoint[@]}" --dataset "$MNIST_DATASET" $MNIST_SAMPLING \
        --output "$OUTPUT/mnist/cfg_effect.png"
}

distil() {              # NAME TEACHER [OPTION...]: a student, and its images beside the teacher's
    find_real_images "$DATASET" --teacher "$2" $DISTILL_OPTIONS "${@:3}" || return
    step -m distill.train --teacher "$2" "${real_images[@]}" --name "$1" $DISTILL_OPTIONS "${into[@]}" \
        --resume "${@:3}" &&
        step -m distill.generate --checkpoint "$(newest "$CHECKPOINTS/$1")" --teacher "$2" --overwrite \
            --output_dir "generated/$(basename "$OUTPUT")/$1"
}
distill() {
    distil student_baseline "$(trained baseline)" --cls_on_clean_image --gen_cls_loss &&
        distil student_lift "$(trained lift_dual_timestep)" --denoising --num_denoising_step 2 --backward_simulation \
            --student_t_32 999 249
}

checking=yes
for phase in "${phases[@]}"; do
    case "$phase" in
        benchmarks | chain | study) CHECK_ONLY=1 "$phase" || exit ;;
        lift | flow | mnist | distill) "$phase" || exit ;;
    esac
done
check || exit
checking=""

mkdir -p "$OUTPUT"
"$PYTHON" -c "import torch
print(torch.__version__, [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())])" \
    | tee "$OUTPUT/machine.txt"
status=0
for phase in "${phases[@]}"; do
    stage "$phase"
    case "$phase" in
        data) "$PYTHON" -c "import sys, data
from engine import command_line
command_line.run_script(lambda: [print(len(data.load_images(name).images), 'images of', name)
                                 for name in sys.argv[1:]])" \
                  "$DATASET" "$FLOW_DATASET" "$MNIST_DATASET" || exit ;;
        tests) ./scripts/test.sh -m gpu -n 0 || status=1 ;;
        time) ./scripts/bench.sh training_time || status=1 ;;
        *) "$phase" || status=1 ;;
    esac
    [ -z "$stopped" ] || exit 143
done
exit "$status"
