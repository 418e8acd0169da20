#!/usr/bin/env bash
# The family of digits from nothing to a page: a flow, a DDPM, a VAE and a model in its latents, and the tour of them.
# As it stands: drawn digits, on a CPU, without network after the set-up, in minutes. The real run is the same script:
#   DATASET=mnist FAST= STEPS=11700 VAE_STEPS=2340 LATENT_STEPS=11700 OUTPUT=results/mnist \
#       EXPERIMENTS=experiments/mnist ./scripts/mnist_quickstart.sh
# A training that was stopped goes on, one that is done stays. OVERWRITE=1 writes the page anew.
set -euo pipefail
words=""
source "$(dirname "$0")/environment.sh"

DATASET="${DATASET:-digits:5000}"               # digits[:N], mnist, or a folder of labelled digits
OUTPUT="${OUTPUT:-results/mnist_quickstart}" EXPERIMENTS="${EXPERIMENTS:-experiments/quickstart}"
FAST="${FAST---fast}"                           # empty: the documented sizes, batches and rates
STEPS="${STEPS:-500}"                           # of a model of pixels
VAE_STEPS="${VAE_STEPS:-150}"
LATENT_STEPS="${LATENT_STEPS:-750}"             # of the model of latents, which is cheap
NUM_SAMPLES="${NUM_SAMPLES:-100}"               # that a score on the page is of
expect_numbers 1 STEPS VAE_STEPS LATENT_STEPS
read -r -a device <<< "${DEVICE:+--device $DEVICE} ${NUM_THREADS:+--num_threads $NUM_THREADS}"

trained() { newest "$EXPERIMENTS/*-$1/checkpoints/$1"; }

model() {       # VERB NAME STEPS [OPTION...]: train, go on, or pass over what is done
    local found
    [ -z "$(trained "$2")" ] || return 0
    found=$(compgen -G "$EXPERIMENTS/*-$2" | sort | tail -n 1 || true)
    run "$PYTHON" -m "mnist.$1" --dataset "$DATASET" $FAST --name "$2" --experiments "$EXPERIMENTS" --max_steps "$3" \
        --epochs 1000000 --save_every 1000000 --sample_every 0 --log_every 20 "${@:4}" "${device[@]}" \
        ${found:+--resume "$found"}
}

tour=(-m mnist.tour --dataset "$DATASET" --num_samples "$NUM_SAMPLES" --output "$OUTPUT/tour.html" --overwrite
      "${device[@]}")
note "${tour[@]}"
check

stage "1/5 a flow in pixels with classes: $STEPS steps"
model train_rf flow "$STEPS" --conditioning cross_attention
stage "2/5 a DDPM in pixels with classes: $STEPS steps"
model train_ddpm ddpm "$STEPS" --conditioning cross_attention
stage "3/5 a VAE: $VAE_STEPS steps"
model train_vae vae "$VAE_STEPS"
stage "4/5 a diffusion model of its latents: $LATENT_STEPS steps"
model train_conditioned_latent_diffusion latent "$LATENT_STEPS" --vae_checkpoint "$(trained vae)"

stage "5/5 pictures"
mkdir -p "$OUTPUT"
run "$PYTHON" -m mnist.generate --checkpoint "$(trained flow)" --sampler midpoint --sampling_steps 10 \
    --guidance_scale 2 \
    --output_dir "$OUTPUT/flow" --overwrite "${device[@]}"
if [ -n "${OVERWRITE:-}" ] || [ ! -s "$OUTPUT/tour.html" ]; then
    run "$PYTHON" "${tour[@]}" --flow "$(trained flow)" --ddpm "$(trained ddpm)" --vae "$(trained vae)" \
        --latent "$(trained latent)"
fi
cat <<END

== done ==
forty digits, a class each in turn    $OUTPUT/flow/grid.png
the page that teaches                 $OUTPUT/tour.html
END
