"""What every script's command line shares: options, one-line errors, and the record of a run.

Options are read without torch, which takes seconds to import: a module is imported where its work begins.
"""
import argparse
import contextlib
import functools
import math
import os
import platform
import subprocess
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path

from engine.errors import InputError
from engine.files import write_json

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("auto", "bf16", "float32")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "datasets", "pytorch-fid")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default as it would be written on the command line. A flag that is left out is said by its absence."""

    def _get_help_string(self, action):
        is_flag = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if is_flag or action.default in (None, "", []):
            return action.help
        if isinstance(action.default, (list, tuple)):
            return f"{action.help} (default: {shlex.join(map(str, action.default)).replace('%', '%%')})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Shows defaults in --help and answers a wrong option in one line. Knows the actions `each_once` and
    `gone`."""

    def __init__(self, description: str):
        super().__init__(" ".join(["python", *program_words()]), description=description, allow_abbrev=False,
                         formatter_class=HelpFormatter)
        self.register("action", "each_once", EachOnce)
        self.register("action", "gone", Gone)

    def error(self, message: str):
        print(f"error: {message.removeprefix('argument ')} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


class EachOnce(argparse.Action):
    """For an option of several values. A value that is named twice would be measured twice, so it is an error."""

    def __call__(self, parser, namespace, values, option_string=None):
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise argparse.ArgumentError(self, f"found {repeated} more than once, expected each value once")
        setattr(namespace, self.dest, values)


class Gone(argparse.Action):
    """For an option of earlier versions. Its use is an error whose message ends with `const`, the new spelling; --help
    does not show it."""

    def __init__(self, option_strings, dest, const):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="*", const=const, help=argparse.SUPPRESS,
                         default=argparse.SUPPRESS)

    def __call__(self, parser, namespace, values, option_string=None):
        raise argparse.ArgumentError(self, f"found {' '.join(values)}, an option that is gone; expected {self.const}")


def run_script(main) -> None:
    """Call `main()`; print an InputError as one line and exit with status 2; Ctrl-C exits with 130.

    Characters that the terminal's encoding lacks are printed escaped. If the reader of the output has gone, as `head`
    does when it has enough, the program ends with one line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)        # Python flushes once more at its end
        with contextlib.suppress(BrokenPipeError):
            print("error: output: its reader is gone, so the work ends here; what was saved before stays",
                  file=sys.stderr, flush=True)
        sys.exit(141)


def whole_number(minimum: int, maximum: int | None = None):
    """An argparse type: an integer of at least `minimum`, and at most `maximum` if there is one."""
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < minimum or (maximum is not None and value > maximum):
            most = "" if maximum is None else f" and at most {maximum}"
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least {minimum}{most}")
        return value
    return parse


seed_number = whole_number(0, 2**63 - 1)                # an argparse type: what torch.manual_seed takes


def real_number(minimum: float, maximum: float = math.inf, open_below: bool = False):
    """An argparse type: a finite number from `minimum` to `maximum`; `open_below` excludes `minimum` itself."""
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (minimum < value if open_below else minimum <= value) or not value <= maximum or math.isinf(value):
            above = f"above {minimum:g}" if open_below else f"of at least {minimum:g}"
            below = "" if math.isinf(maximum) else f" and at most {maximum:g}"
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a number {above}{below}")
        return value
    return parse


def refuse_without_effect(parser: argparse.ArgumentParser, args: argparse.Namespace, options, where: str) -> None:
    """Raises InputError if one of `options`, which have no effect here, has another value than its default. where: in
    which case they have no effect, such as "without --x"."""
    for option in options:
        value = getattr(args, option)
        if value != parser.get_default(option):
            found = " ".join(f"{part:g}" if isinstance(part, float) else str(part)
                             for part in (value if isinstance(value, list) else [value]))
            raise InputError(f"--{option}: found {found}, which has no effect {where}; leave it out")


def add_device_options(parser: argparse.ArgumentParser, precision: str | None = "auto") -> None:
    """--device, --precision (left out if `precision`, its default, is None) and --num_threads."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", default=None, metavar="{cpu,0,1,cuda:1}",
                       help="where to run; left out: the first GPU, else the CPU")
    if precision is not None:
        group.add_argument("--precision", choices=PRECISIONS, default=precision,
                           help="arithmetic of convolutions and matrix products; auto: bf16 where the device has it")
    group.add_argument("--num_threads", type=whole_number(0, 4096), default=0, metavar="THREADS",
                       help="CPU threads; 0: as many as this process may use")


def start_device(args: argparse.Namespace, tf32: bool = False):
    """Choose and configure the torch.device, replace `auto` in args.precision by its meaning, and print both in one
    line.

    tf32: whether a GPU may round the factors of float32 products to 10 bits. For training; measurements are exact.
    """
    from engine import devices
    device = devices.choose_device(args.device)
    devices.configure(device, args.num_threads, tf32)
    args.precision = devices.choose_precision(getattr(args, "precision", "float32"), device)
    rounded = " (TF32 products)" if tf32 and device.type == "cuda" and args.precision == "float32" else ""
    print(f"device: {devices.describe(device)}, precision: {args.precision}{rounded}", flush=True)
    git_revision()                              # now, since files may change while a long run goes on
    return device


@functools.cache
def git_revision() -> str:
    """The commit this code was at when first asked, with `+changes` if other files than results differ; `unknown`
    outside git."""
    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout
    try:
        changes = git("status", "--porcelain", "-uno", ":!results").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def version_of(package: str) -> str | None:
    """The version of a package that is installed, None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def program_words() -> list[str]:
    """The words behind `python` that name this program: `-m room.verb` for one that was started so."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]


def command_words() -> list[str]:
    """The words behind `python` that started this program."""
    return [*program_words(), *map(str, sys.argv[1:])]


def plain_options(args: argparse.Namespace) -> dict:
    """The options as plain types: paths as text, also inside lists."""
    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value
    return {key: plain(value) for key, value in vars(args).items()}


def write_run_record(path, args: argparse.Namespace, device=None, **results) -> None:
    """JSON beside an output: the command, every option, versions, git revision, seed, machine, and `results`."""
    from engine import devices
    versions = {"python": platform.python_version(), **{package: version_of(package) for package in PACKAGES}}
    write_json(path, {
        "command": shlex.join(command_words()),
        "options": plain_options(args),
        "seed": getattr(args, "seed", None),
        "git_revision": git_revision(),
        "versions": versions,
        "device": devices.describe(device) if device else None,
        "processor": devices.processor_name(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **results,
    })
