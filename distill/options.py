"""The options of a distillation, named as in the published code. Where that has no default, the default is ours."""
from pathlib import Path

from data import add_data_options, add_val_options
from engine import options
from engine.command_line import Parser, real_number, refuse_without_effect, whole_number
from engine.errors import InputError

COUPLINGS = ("tied", "free")
NUM_LEVELS = 1000
USUAL_CLIP = "openai/clip-vit-large-patch14"            # of the CLIP score, on the hub
OF_TEXT = ["prompts", "text_column", "resolution", "sdxl", "tiny_vae", "lora", "lora_rank", "lora_alpha",
           "gradient_checkpointing"]
OF_OTHERS = ["weights", "vae", "coupling", "loss_weight_32", "student_t_32", "image_column",
             "label_column"]                            # of all teachers but these
OF_REAL_IMAGES = ["dataset", "image_column", "label_column"]
OF_THE_HEAD = ["guidance_cls_loss_weight", "diffusion_gan", "diffusion_gan_max_timestep"]
OF_MATCHING = ["min_step_percent", "max_step_percent", "level_schedule"]
WITHOUT_EFFECT = ["learning_rate", "lr_schedule", "warmup_steps"]       # each network has a rate of its own


def add_switch(group, name: str, default: bool | None, text: str) -> None:
    """--NAME and --no_NAME."""
    group.add_argument(f"--{name}", action="store_true", default=default, help=text)
    group.add_argument(f"--no_{name}", dest=name, action="store_false", default=default, help="turns that off")


def add_distillation_options(parser: Parser) -> None:
    """Everything that `distill.train` takes."""
    add_data_options(parser, columns=True, left_out="what the teacher was trained on")
    parser.add_argument("--split", default="train", help="real images, for the GAN and for noised inputs")
    group = parser.add_argument_group("teacher")
    group.add_argument("--teacher", type=Path, default=None, metavar="FILE", help="checkpoint of any family")
    group.add_argument("--weights", choices=("ema", "raw"), default="ema", help="the teacher's averaged or raw weights")
    group.add_argument("--vae", default=None, metavar="FILE_OR_FOLDER",
                       help="autoencoder of a teacher of latents; left out: where it lay when the teacher was trained")
    group.add_argument("--real_guidance_scale", type=real_number(1), default=1.0, metavar="SCALE",
                       help="classifier-free guidance of the teacher")
    group.add_argument("--ckpt_only_path", type=Path, default=None, metavar="STATE",
                       help="training state of an earlier distillation, whose student and critic this one starts from")
    add_text_options(parser)
    group = parser.add_argument_group("turns and rates")
    group.add_argument("--dfake_gen_update_ratio", type=whole_number(1), default=5, metavar="UPDATES",
                       help="updates of the critic for one of the student")
    group.add_argument("--generator_lr", type=real_number(0, open_below=True), default=2e-6, help="of the student")
    group.add_argument("--guidance_lr", type=real_number(0, open_below=True), default=2e-6, help="of the critic")
    group.add_argument("--warmup_step", type=whole_number(0), default=500, metavar="UPDATES",
                       help="updates of a network in which its rate rises")
    group.add_argument("--max_grad_norm", type=real_number(0, open_below=True), default=10.0,
                       help="longer gradients are shortened to it")
    group = parser.add_argument_group("GAN")
    group.add_argument("--cls_on_clean_image", action="store_true", help="a head on the critic, trained on real images")
    group.add_argument("--gen_cls_loss", action="store_true", help="the student's loss from that head")
    group.add_argument("--gen_cls_loss_weight", type=real_number(0), default=3e-3, metavar="WEIGHT", help="its weight")
    group.add_argument("--guidance_cls_loss_weight", type=real_number(0), default=1e-2, metavar="WEIGHT",
                       help="weight of the head's loss in the critic's")
    add_switch(group, "diffusion_gan", True, "the head sees noised images; without, images as they are, at t = 0")
    group.add_argument("--diffusion_gan_max_timestep", type=whole_number(1, NUM_LEVELS), default=NUM_LEVELS,
                       metavar="LEVEL",
                       help="the head sees images noised to levels below")
    group.add_argument("--gan_alone", action="store_true", help="no distribution matching")
    group.add_argument("--shared_critic_pass", action="store_true",
                       help="the critic's pass that denoises the student's images serves their logits too")
    group = parser.add_argument_group("levels and steps")
    group.add_argument("--min_step_percent", type=real_number(0, 1), default=0.02, metavar="SHARE",
                       help="lowest level of distribution matching")
    group.add_argument("--max_step_percent", type=real_number(0, 1), default=0.98, metavar="SHARE", help="highest")
    group.add_argument("--conditioning_timestep", type=whole_number(0, NUM_LEVELS - 1), default=None, metavar="T",
                       help="time that the first step is told; left out: 399 for a noise prediction, but 999 for "
                       "several steps of a text-to-image model, as its saved pipeline calls it; 999 for all else")
    group.add_argument("--denoising", action="store_true", help="a student of several steps")
    group.add_argument("--num_denoising_step", type=whole_number(1), default=1, metavar="STEPS", help="how many")
    group.add_argument("--backward_simulation", action="store_true",
                       help="later steps start from the student's own images, not from noised real ones")
    for name, text in (("critic_step", "the critic knows the student's step"),
                       ("level_schedule", "before the last step, levels above the next one alone")):
        add_switch(group, name, None, f"{text}; left out: on above one step; published: off")
    group = parser.add_argument_group("LIFT")
    group.add_argument("--coupling", choices=COUPLINGS, default="tied",
                       help="tied: the 32 image is the 2x2 mean of the 64 image; free: the network's own")
    group.add_argument("--loss_weight_32", type=real_number(0), default=1.0, metavar="WEIGHT", help="of the 32 losses")
    group.add_argument("--student_t_32", type=whole_number(0, NUM_LEVELS - 1), nargs="+", default=None, metavar="T",
                       help="the 32 scale's timesteps of the steps; left out: those of the 64 scale")
    options.add_training_options(parser, "student")
    parser.add_argument("--use_fp16", action="store_true",
                        help="bfloat16 arithmetic of all three networks; without it and --precision: float32")
    parser.add_argument("--epoch_steps", type=whole_number(1), default=1000, metavar="STEPS",
                        help="updates of the critic that are called an epoch, whatever the number of real images")
    parser.add_argument("--sample_every", type=whole_number(0), default=1, metavar="EPOCHS",
                        help="pictures of student and teacher in as many steps; 0: none")
    add_val_options(parser, "test", least=2)
    parser.set_defaults(lr_schedule="constant", precision=None, ema_decay=0.999)


def add_text_options(parser: Parser) -> None:
    """Adds the options of a text-to-image teacher, in place of --teacher."""
    group = parser.add_argument_group("text to image (pip install '.[large]')")
    group.add_argument("--model_id", default=None, metavar="FOLDER_OR_NAME",
                       help="teacher in diffusers' layout: Stable Diffusion or SDXL, a folder or a name on the hub")
    group.add_argument("--prompts", "--train_prompt_path", type=Path, default=None, metavar="FILE",
                       help="the student's prompts: .txt with one a line, or .parquet")
    group.add_argument("--text_column", default=None, metavar="COLUMN",
                       help="of prompts, and of captions of real images; left out: text, caption, prompt or TEXT")
    group.add_argument("--resolution", type=whole_number(8), default=None, metavar="PIXELS",
                       help="side of the images; left out: what the UNet was made for")
    group.add_argument("--sdxl", action="store_true", help="the teacher must be SDXL (the folder tells which it is)")
    group.add_argument("--tiny_vae", nargs="?", const="", default=None, metavar="FOLDER_OR_NAME",
                       help="show images through an AutoencoderTiny; without a name, the usual one on the hub")
    group.add_argument("--lora", action="store_true",
                       help="one frozen UNet for all three networks, an adapter each for student and critic")
    group.add_argument("--lora_rank", type=whole_number(1), default=64, metavar="RANK", help="of an adapter")
    group.add_argument("--lora_alpha", type=real_number(0, open_below=True), default=8.0, help="weighs alpha / rank")
    group.add_argument("--gradient_checkpointing", action="store_true",
                       help="activations are computed again in the backward pass: less memory, more time")


def needs_images(args) -> bool:
    """Whether a distillation trains on real images."""
    return args.cls_on_clean_image or args.denoising and not args.backward_simulation


def uses_images(args) -> bool:
    """Whether real images are read at all: to train on, or to measure distances to."""
    return needs_images(args) or args.val_every > 0


def check_flags(args) -> None:
    """Raises InputError for a flag without another flag that it needs, and for impossible numbers."""
    def needs(flag: str, is_given, needed: str, has_needed) -> None:
        if is_given and not has_needed:
            raise InputError(f"{flag}: found without {needed}, which it needs; add {needed} or leave {flag} out")

    needs("--backward_simulation", args.backward_simulation, "--denoising", args.denoising)
    needs("--gen_cls_loss", args.gen_cls_loss, "--cls_on_clean_image", args.cls_on_clean_image)
    needs("--gan_alone", args.gan_alone, "--gen_cls_loss", args.gen_cls_loss)
    needs("--shared_critic_pass", args.shared_critic_pass, "--cls_on_clean_image", args.cls_on_clean_image)
    needs("--denoising", args.denoising, "--num_denoising_step above 1", args.num_denoising_step > 1)
    needs("--num_denoising_step", args.num_denoising_step > 1, "--denoising", args.denoising)
    if args.shared_critic_pass and not args.diffusion_gan:
        raise InputError("--shared_critic_pass: found with --no_diffusion_gan, whose head sees images without noise; "
                         "leave one of the two out")
    if args.num_denoising_step > NUM_LEVELS // 2:
        raise InputError(f"--num_denoising_step: found {args.num_denoising_step}, expected 1...{NUM_LEVELS // 2}")
    if not 0 <= args.min_step_percent < args.max_step_percent <= 1:
        raise InputError(f"--min_step_percent: found {args.min_step_percent} and --max_step_percent "
                         f"{args.max_step_percent}, expected 0 <= min < max <= 1")
    found = args.student_t_32
    if found is not None and (len(found) != args.num_denoising_step or found[0] != NUM_LEVELS - 1
                              or sorted(set(found)) != found[::-1]):
        raise InputError(f"--student_t_32: found {' '.join(map(str, found))}, expected {args.num_denoising_step} "
                         f"falling timesteps from {NUM_LEVELS - 1} on, one per step")


def parse(argv=None):
    """The command line of `distill.train`. Raises InputError for options that have no effect beside the others."""
    parser = Parser("Distil a teacher into a student of few steps (DMD2, Yin et al. 2024).")
    add_distillation_options(parser)
    args = parser.parse_args(argv)
    refuse_without_effect(parser, args, WITHOUT_EFFECT, "in distillation: use --generator_lr, --guidance_lr and "
                          "--warmup_step")
    if (args.teacher is None) == (args.model_id is None):
        found = "neither" if args.teacher is None else "both"
        raise InputError(f"--teacher, --model_id: found {found}, expected one: a checkpoint of this repository, or a "
                         "text-to-image model in diffusers' layout")
    if args.model_id is None:
        refuse_without_effect(parser, args, OF_TEXT, "without --model_id")
    else:
        refuse_without_effect(parser, args, OF_OTHERS, "with --model_id")
        if not needs_images(args) and args.prompts is not None and args.prompts.suffix == ".txt":
            refuse_without_effect(parser, args, ["text_column"], f"for {args.prompts}, which has no columns, without "
                                                                 "real images")
    if not args.lora:
        refuse_without_effect(parser, args, ["lora_rank", "lora_alpha"], "without --lora")
    if args.use_fp16:
        refuse_without_effect(parser, args, ["precision"], "beside --use_fp16")
        args.precision = "bf16"
    args.precision = args.precision or "float32"
    if args.gan_alone:
        refuse_without_effect(parser, args, OF_MATCHING, "with --gan_alone, which leaves out distribution matching")
    for name in ("critic_step", "level_schedule"):
        if getattr(args, name) is not None and args.num_denoising_step == 1:
            raise InputError(f"--{name}: found, or --no_{name}, with a student of one step, where it has no effect; "
                             "leave it out, or add --num_denoising_step")
        if getattr(args, name) is None:
            setattr(args, name, args.num_denoising_step > 1)
    if not args.cls_on_clean_image:
        refuse_without_effect(parser, args, OF_THE_HEAD, "without --cls_on_clean_image")
    if not args.gen_cls_loss:
        refuse_without_effect(parser, args, ["gen_cls_loss_weight"], "without --gen_cls_loss")
    if not args.diffusion_gan:
        refuse_without_effect(parser, args, ["diffusion_gan_max_timestep"], "with --no_diffusion_gan")
    if not args.val_every:
        refuse_without_effect(parser, args, ["val_split", "val_images"], "without --val_every")
    training, looking = "--cls_on_clean_image, or --denoising without --backward_simulation", "--val_every or "
    if not needs_images(args):
        refuse_without_effect(parser, args, ["split"], f"without {training}")
    if not uses_images(args):
        refuse_without_effect(parser, args, OF_REAL_IMAGES, f"without {looking}{training}")
    check_flags(args)
    return args
