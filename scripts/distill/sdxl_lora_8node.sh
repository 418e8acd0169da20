#!/usr/bin/env bash
# SDXL in four steps by adapters: one frozen UNet on every GPU, and a hundred times the rate of sdxl_8node.sh.
#   ./scripts/distill/sdxl_lora_8node.sh MODEL PROMPTS IMAGES [more options of distill.train]
# The environment is that of on_nodes.sh.
arguments="MODEL PROMPTS IMAGES"
source "$(dirname "$0")/common.sh" || exit
exec "$(dirname "$0")/on_nodes.sh" "${@:1:3}" --name sdxl_lora --sdxl --resolution 1024 --batch_size 128 --lora \
    --lora_rank 64 --lora_alpha 8 --use_fp16 --tiny_vae --denoising --num_denoising_step 4 --backward_simulation \
    --no_critic_step --no_level_schedule --conditioning_timestep 999 --real_guidance_scale 8 \
    --generator_lr 5e-5 --guidance_lr 5e-5 --dfake_gen_update_ratio 5 --max_grad_norm 10 --warmup_step 500 \
    --cls_on_clean_image --gen_cls_loss --gen_cls_loss_weight 5e-3 --guidance_cls_loss_weight 1e-2 \
    --diffusion_gan --diffusion_gan_max_timestep 1000 --ema_decay 0 "${@:4}"
