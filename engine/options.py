"""The options of every training, and which of them a resumed run may change."""
import re
from pathlib import Path

from engine.command_line import add_device_options, plain_options, real_number, seed_number, whole_number
from engine.errors import InputError

LEARNING_RATE_MIN = 1e-6
WEIGHTS = ("ema", "raw")                              # averaged, or as the last step left them
CALLS_PER_STEP = {"ddim": 1, "heun": 2, "midpoint": 2, "multistep": 1, "renoise": 1}       # network calls, by solver
SOLVERS = tuple(CALLS_PER_STEP)                         # of `engine.sampling`
PAIRINGS = ("independent", "diagonal", "near", "fused", "clock")         # of the times of two scales
TIME_SAMPLINGS = ("logit_normal", "uniform", "mixture")                        # of `engine.denoising_task`

# Every option decides a run's numbers, except these: where it runs and writes, how much it says, how long it is (the
# number of steps is compared itself), and the data's name, since their hash is compared. --precision may change, for a
# run that diverged in bf16 can only go on in float32; the change is printed.
NOT_DECISIVE = {"device", "num_threads", "precision", "compile", "name", "checkpoint_dir", "output_dir", "cache_dir",
                "save_every", "save_epochs", "state_every", "val_every", "val_split", "val_images", "log_every",
                "sample_every", "no_tensorboard", "resume", "overwrite", "epochs", "max_steps", "dataset", "split",
                "fsdp", "sharded_state", "teacher", "vae", "vae_checkpoint", "model_id", "tiny_vae", "prompts",
                "gradient_checkpointing"}


def add_correction_options(group) -> None:
    """--eps_scale and --told_log_snr, against exposure bias (`engine.denoiser.Corrected`)."""
    group.add_argument("--eps_scale", type=real_number(0, open_below=True), default=1.0, metavar="SCALE",
                       help="the predicted noise is multiplied with it; below 1 against exposure bias")
    group.add_argument("--told_log_snr", type=real_number(-20, 20), default=0.0, metavar="LESS",
                       help="the network is told a log SNR lower by so much")


def add_lead_options(group, **ranges: tuple[float, float]) -> None:
    """--KIND_lead LOW HIGH for every kind of --timesteps in which the coarse scale leads. ranges: the defaults."""
    for kind, (low, high) in ranges.items():
        group.add_argument(f"--{kind}_lead", type=real_number(-20, 20), nargs=2, default=[low, high],
                           metavar=("LOW", "HIGH"),
                           help=f"range of the coarse scale's lead in log SNR, uniform, for --timesteps {kind}")


def lead_range(args, kind: str) -> tuple[float, float]:
    """--KIND_lead. Raises InputError if its numbers are in the wrong order."""
    low, high = getattr(args, f"{kind}_lead")
    if low > high:
        raise InputError(f"--{kind}_lead: found {low:g} {high:g}, expected the smaller number first")
    return low, high


def add_training_options(parser, name: str) -> None:
    """Adds the options that every training has. name: the default of --name, which its checkpoints are called by."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=whole_number(1), default=100, help="passes over the images")
    group.add_argument("--max_steps", type=whole_number(1), default=None, help="stop after so many optimizer steps")
    group.add_argument("--batch_size", type=whole_number(1), default=64, help="images per step, over all processes")
    group.add_argument("--grad_accum", type=whole_number(1), default=1, help="parts a batch is worked through in")
    group.add_argument("--learning_rate", type=real_number(0, open_below=True), default=1e-4, help="highest rate")
    group.add_argument("--lr_schedule", choices=("cosine", "constant"), default="cosine",
                       help=f"cosine falls to {LEARNING_RATE_MIN:g} at the last step")
    group.add_argument("--warmup_steps", type=whole_number(0), default=0, help="steps of linear rise at the start")
    group.add_argument("--ema_decay", type=real_number(0, 1), default=0.9999,
                       help="decay of the weights' moving average, lower in early steps")
    group.add_argument("--seed", type=seed_number, default=0, help="decides weights, order, timesteps and noise")
    group.add_argument("--compile", action="store_true", help="torch.compile the model (minutes at the start)")

    group.add_argument("--fsdp", action="store_true",
                       help="under torchrun, spread weights and optimizer over the processes (FSDP2) instead of "
                            "copying them")

    group.add_argument("--sharded_state", action="store_true",
                       help="every process writes its part of a training state (torch.distributed.checkpoint) into a "
                            "folder that all machines see; any number of processes goes on from it")

    group = parser.add_argument_group("output")
    group.add_argument("--name", default=name,
                       help="checkpoints are {name}_{E}ep.pth")
    group.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="for checkpoints")
    group.add_argument("--output_dir", type=Path, default=Path("results"), help="for log, loss curve and run record")
    group.add_argument("--save_every", type=whole_number(1), default=20, metavar="EPOCHS", help="checkpoint interval")
    group.add_argument("--save_epochs", type=whole_number(1), nargs="+", default=None, metavar="EPOCH",
                       help="checkpoint these epochs instead; the last epoch always is")
    group.add_argument("--state_every", type=whole_number(0), default=0, metavar="STEPS",
                       help="how often the full training state is saved, beside every checkpoint; 0: every ten minutes")
    group.add_argument("--val_every", type=whole_number(0), default=0, metavar="EPOCHS",
                       help="validation interval; 0: never")
    group.add_argument("--log_every", type=whole_number(1), default=50, metavar="STEPS", help="steps per log line")
    group.add_argument("--no_tensorboard", action="store_true", help="write no TensorBoard events")
    group.add_argument("--resume", action="store_true", help="continue from the newest good training state")
    group.add_argument("--overwrite", action="store_true", help="replace checkpoints of the same name")
    add_device_options(parser)


def check_options(args) -> None:
    """Raises InputError for options that contradict each other or make no sense together."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", args.name):
        raise InputError(f"--name: found {args.name!r}, expected at most 100 letters, digits, dots, dashes and "
                         "underscores, for the names of files")
    if args.resume and args.overwrite:
        raise InputError("--resume and --overwrite: found both, expected one: continue what is there, or replace it")
    beyond = [epoch for epoch in args.save_epochs or [] if epoch > args.epochs]
    if beyond:
        raise InputError(f"--save_epochs: found {beyond[0]}, expected at most {args.epochs}, the number of --epochs")
    if args.lr_schedule == "cosine" and args.learning_rate < LEARNING_RATE_MIN:
        raise InputError(f"--learning_rate: found {args.learning_rate:g}, expected at least {LEARNING_RATE_MIN:g}, "
                         "where the cosine schedule ends; or add --lr_schedule constant")
    if args.ema_decay == 1:
        raise InputError("--ema_decay: found 1, which never moves from the initial weights; expected less")


def check_fills_a_batch(args, num_images: int | None) -> None:
    """Raises InputError if the images of --dataset and --split are too few for a batch. None: not counted yet."""
    if num_images is not None and num_images < args.batch_size:
        raise InputError(f"--batch_size: found {args.batch_size}, expected at most {num_images}, the number of images "
                         f"in {args.dataset} ({args.split})")


def check_same_run(path, state: dict, args, task, num_steps: int) -> None:
    """Raises InputError if a resumed run would not be the run that was saved.

    task: its `content_hash` and `labels_hash` name the images and labels given now (states of earlier versions have no
    hash of labels); its `older_options` stand in for options that states of earlier versions lack.
    """
    saved, given = {**task.older_options, **state["options"]}, plain_options(args)
    for key, value in given.items():
        if key not in NOT_DECISIVE and key in saved and saved[key] != value:
            raise InputError(f"--{key}: found {value}, but {path} was trained with {saved[key]}; give the "
                             "same options to --resume, or another --name")
    if state["dataset_hash"] != task.content_hash:
        raise InputError(f"--dataset: the images in {args.dataset} are not the ones {path} was trained on; use the "
                         "same images, or another --name")
    if state.get("labels_hash", task.labels_hash) != task.labels_hash:
        raise InputError(f"--dataset: the labels of the images in {args.dataset} are not those {path} was trained on; "
                         "use the same labels, or another --name")
    if state["num_steps"] != num_steps and args.lr_schedule != "constant":
        raise InputError(f"--epochs: found a run of {num_steps} steps, but {path} belongs to one of "
                         f"{state['num_steps']}; the cosine schedule is sized for that, give the same --epochs and "
                         "--max_steps")
    if state["step"] > num_steps:
        raise InputError(f"--epochs: found a run of {num_steps} steps, but {path} is at step {state['step']} already")
