#!/usr/bin/env bash
# A text-to-image distillation on several machines: started alike on each of them, as the recipes beside it do.
#   ./scripts/distill/on_nodes.sh MODEL PROMPTS IMAGES [options of distill.train]
# MODEL: a folder in diffusers' layout, or a name on the hub. PROMPTS: .txt or .parquet. IMAGES: a folder of real images
# with captions (NAME.txt beside NAME.png, or metadata.jsonl). Checkpoints and cache must lie where all machines see
# them.
#   NODES        machines (8)
#   PROCESSES    GPUs of each (8)
#   MAIN         address of the machine that the others meet at (localhost, for one machine)
#   PORT         its free port (29500)
# What every device will hold is printed before anything is loaded. Goes on where it stopped when started again.
set -uo pipefail
arguments="MODEL PROMPTS IMAGES"
source "$(dirname "$0")/common.sh" || exit
model=$1 prompts=$(path_of "$2") images=$(path_of "$3")
[ ! -e "$model" ] || model=$(path_of "$model")
shift 3
source "$(dirname "$0")/../environment.sh" || exit
find_real_images "$images" --model_id "$model" --prompts "$prompts" "$@" || exit
exec "$PYTHON" -m torch.distributed.run --nnodes "${NODES:-8}" --nproc_per_node "${PROCESSES:-8}" --rdzv_backend c10d \
    --rdzv_endpoint "${MAIN:-localhost}:${PORT:-29500}" --rdzv_id distillation -m distill.train \
    --model_id "$model" --prompts "$prompts" "${real_images[@]}" --resume "$@"
