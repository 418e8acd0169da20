"""A training in a folder of its own, EXPERIMENTS/YYYYMMDD_HHMMSS-NAME, which `--resume FOLDER` continues.

Its config.json holds the verb and all options; log, curves and checkpoints lie beside it.
"""
import contextlib
import json
import shutil
import sys
import time
from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path

from engine.command_line import command_words, plain_options, refuse_without_effect, whole_number
from engine.errors import InputError
from engine.files import expecting, write_json
from engine.image_folder import ENLARGED, image_grid

CONFIG = "config.json"
FOLDERS = ("checkpoints", "epoch_samples", "final_samples")
UNUSED_OPTIONS = {"checkpoint_dir": None, "output_dir": None, "val_every": 0}            # with their defaults
PREVIEW_COLUMNS = 10            # images in a row of a picture


def add_experiment_options(parser) -> None:
    """--experiments, --sample_every, and --resume with a folder in place of the flag in `engine.options`. The options
    that an experiment folder leaves without effect are hidden (`refuse_others`)."""
    parser.conflict_handler = "resolve"
    group = parser.add_argument_group("output")
    group.add_argument("--experiments", type=Path, default=Path("experiments"), metavar="FOLDER",
                       help="where the experiment folder YYYYMMDD_HHMMSS-NAME is made")
    group.add_argument("--sample_every", type=whole_number(0), default=10, metavar="EPOCHS",
                       help="interval of the pictures in epoch_samples; 0: none")
    group.add_argument("--resume", type=Path, default=None, metavar="FOLDER",
                       help="continue the experiment in that folder, with its options")
    for option, default in UNUSED_OPTIONS.items():
        group.add_argument(f"--{option}", default=default, help=SUPPRESS)


def refuse_others(parser, args) -> None:
    """Raises InputError for options of other trainings that have no effect on an experiment."""
    refuse_without_effect(parser, args, UNUSED_OPTIONS, "on an experiment, which has a folder of its own and no "
                                                        "held-out images")


def saved_options(folder: Path, experiments: Path) -> dict:
    """The options of the experiment in `folder`. Raises InputError for a folder that is none, or one of another verb.

    experiments: where they are made, for the message.
    """
    record = folder / CONFIG
    if not record.is_file():
        raise InputError(f"--resume: {folder} is no experiment folder (it has no {CONFIG}); give one of those in "
                         f"{experiments}")
    with expecting(record, "options of an experiment"):
        saved = json.loads(record.read_text(encoding="utf-8"))
        if saved["verb"] != Path(sys.argv[0]).stem:
            raise InputError(f"--resume: {folder} is an experiment of {saved['verb']}; resume it with that")
        return dict(saved["options"])


def new_folder(experiments: Path, name: str) -> Path:
    """A folder's name that is not taken yet, from the date and time."""
    folder = experiments / f"{time.strftime('%Y%m%d_%H%M%S')}-{name}"
    while folder.exists():                          # another run of that name began in this second
        folder = folder.with_name(folder.name + "-again")
    return folder


def work_in(args, folder: Path) -> None:
    """Let a training write everything into `folder`."""
    args.checkpoint_dir, args.output_dir = folder / "checkpoints", folder


def share_folder(args, group) -> None:
    """All processes work in the folder of the first one, for the clocks that named their folders differ."""
    work_in(args, Path(group.main_text(str(args.output_dir))))


def note_experiment(args, group) -> None:
    """Make the experiment's folders and its config.json, and print where they are; the main process does."""
    if not group.is_main:
        return
    for name in FOLDERS:
        (args.output_dir / name).mkdir(parents=True, exist_ok=True)
    if not args.resume:
        options = {key: value for key, value in plain_options(args).items()
                   if key not in ("resume", "checkpoint_dir", "output_dir")}
        write_json(args.output_dir / CONFIG, {"verb": Path(sys.argv[0]).stem, "options": options})
    print(f"experiment folder: {args.output_dir}", flush=True)


def train_into_folder(make_task: Callable, args) -> None:
    """`engine.loop.train`; of an experiment that did not begin, nothing stays."""
    from engine.distributed import is_first_process
    from engine.loop import train
    experiments = args.output_dir.parent
    was_there = experiments.exists()
    try:
        train(make_task, args, share_folder)
    finally:
        if is_first_process() and not (args.output_dir / CONFIG).exists():
            shutil.rmtree(args.output_dir, ignore_errors=True)
            if not was_there:
                with contextlib.suppress(OSError):          # of another run that began meanwhile
                    experiments.rmdir()


class InExperiment:
    """Beside a Task, what it writes into its experiment folder besides the loop's own files."""

    def pictures(self, networks, step: int, epoch: float) -> dict:
        """The preview into epoch_samples, the last one into final_samples too; `more_pictures` beside them."""
        preview = image_grid(self.preview(networks), PREVIEW_COLUMNS, ENLARGED)
        pictures = {"epoch_samples": preview, **self.more_pictures(networks)}
        if step == self.num_steps:
            pictures["final_samples"] = preview
        return {self.args.output_dir / folder / f"epoch_{epoch:g}.png": picture for folder, picture in pictures.items()}

    def more_pictures(self, networks) -> dict:
        """Pictures that only this task has: folder -> picture of PIL, or Figure."""
        return {}

    def resume_words(self) -> list[str]:
        """The verb and the folder, which holds all other options."""
        words = command_words()
        return [*words[:1 + (words[0] == "-m")], "--resume", str(self.args.output_dir)]
