#!/usr/bin/env bash
# The published recipe for SDXL in one step: as sdxl_8node.sh, called at timestep 399, where a noise prediction is not
# steep.
#   ./scripts/distill/sdxl_1step_8node.sh MODEL PROMPTS IMAGES [more options of distill.train]
# The environment is that of on_nodes.sh.
arguments="MODEL PROMPTS IMAGES"
source "$(dirname "$0")/common.sh" || exit
exec "$(dirname "$0")/on_nodes.sh" "${@:1:3}" --name sdxl_1_step --sdxl --resolution 1024 --batch_size 128 --fsdp \
    --sharded_state --use_fp16 --gradient_checkpointing --tiny_vae --conditioning_timestep 399 --real_guidance_scale 8 \
    --generator_lr 5e-7 --guidance_lr 5e-7 --dfake_gen_update_ratio 5 --max_grad_norm 10 --warmup_step 500 \
    --cls_on_clean_image --gen_cls_loss --gen_cls_loss_weight 5e-3 --guidance_cls_loss_weight 1e-2 \
    --diffusion_gan --diffusion_gan_max_timestep 1000 --ema_decay 0 "${@:4}"
