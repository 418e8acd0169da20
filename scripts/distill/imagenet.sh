#!/usr/bin/env bash
# The published recipe for one step on ImageNet-64 (Yin et al. 2024): EDM's class-conditional network, a GAN, five
# updates of the critic for one of the student, batches of 280. The published run has no planned end; its checkpoints
# are scored.
#   ./scripts/distill/imagenet.sh EDM_WEIGHTS IMAGENET_FOLDER [more options of distill.train]
# EDM_WEIGHTS: the network's plain state dict, or .safetensors. IMAGENET_FOLDER: any data set of data.py with its
# classes, a path with a slash or a name.
#   PROCESSES    GPUs (7, of 40 images each)
# Goes on where it stopped when started again with --resume.
set -uo pipefail
arguments="EDM_WEIGHTS IMAGENET_FOLDER"
source "$(dirname "$0")/common.sh" || exit
teacher=$(path_of "$1") dataset=$(dataset_of "$2")
shift 2
source "$(dirname "$0")/../environment.sh" || exit
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "${PROCESSES:-7}" -m distill.train \
    --name imagenet --teacher "$teacher" --dataset "$dataset" --batch_size 280 --seed 10 \
    --generator_lr 2e-6 --guidance_lr 2e-6 --dfake_gen_update_ratio 5 --max_grad_norm 10 --warmup_step 500 \
    --cls_on_clean_image --gen_cls_loss --gen_cls_loss_weight 3e-3 --guidance_cls_loss_weight 1e-2 \
    --diffusion_gan --diffusion_gan_max_timestep 1000 --ema_decay 0 --use_fp16 --epochs 400 --save_every 5 "$@"
