#!/usr/bin/env bash
# The published recipe for Stable Diffusion 1.5 in one step (Yin et al. 2024): 64 GPUs, batches of 2048, guidance 1.75.
#   ./scripts/distill/sd15_8node.sh MODEL PROMPTS IMAGES [more options of distill.train]
# The environment is that of on_nodes.sh.
# Its second stage: --name sd15_resumed --ckpt_only_path STATE --generator_lr 5e-7 --guidance_lr 5e-7.
arguments="MODEL PROMPTS IMAGES"
source "$(dirname "$0")/common.sh" || exit
exec "$(dirname "$0")/on_nodes.sh" "${@:1:3}" --name sd15 --resolution 512 --batch_size 2048 --fsdp --use_fp16 \
    --gradient_checkpointing --conditioning_timestep 999 --real_guidance_scale 1.75 \
    --generator_lr 1e-5 --guidance_lr 1e-5 --dfake_gen_update_ratio 10 --max_grad_norm 10 --warmup_step 500 \
    --cls_on_clean_image --gen_cls_loss --gen_cls_loss_weight 1e-3 --guidance_cls_loss_weight 1e-2 \
    --diffusion_gan --diffusion_gan_max_timestep 1000 --ema_decay 0 "${@:4}"
