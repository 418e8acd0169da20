"""A page on localhost on which any checkpoint of this repository draws: python -m demo."""
import os
from pathlib import Path

from demo.found import FAMILIES
from engine.command_line import Parser, add_device_options, run_script, start_device, whole_number
from engine.errors import InputError


def parse_args(argv=None, family: str | None = None):
    """The command line. family: what --family is where it is left out."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("what is shown")
    group.add_argument("--family", choices=tuple(FAMILIES), default=family,
                       help="chosen at the start; left out: the first that has a checkpoint")
    group.add_argument("--checkpoint", "--checkpoint_path", type=Path, default=None, metavar="FILE",
                       help="chosen at the start; left out: the first of the family")
    group.add_argument("--checkpoints", type=Path, nargs="+", default=[Path("checkpoints"), Path("experiments")],
                       metavar="FOLDER", help="where checkpoints are looked for, folders inside included")
    group.add_argument("--heatmaps", type=Path, nargs="+", default=[Path("results")], metavar="FOLDER",
                       help="where LIFT's error maps are looked for")
    group = parser.add_argument_group("who can reach it")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                       help="address to listen at; 0.0.0.0 lets in everyone in the network")
    group.add_argument("--port", type=whole_number(1, 65535), default=None,
                       help="left out: the first free one from 7860 on")
    group.add_argument("--share", action="store_true", help="a public address by gradio's tunnel, which it downloads")
    add_device_options(parser)
    return parser.parse_args(argv)


def main(family: str | None = None, argv=None):
    """family: chosen at the start unless --family names another."""
    args = parse_args(argv, family)
    for folder in args.checkpoints + args.heatmaps:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--checkpoints, --heatmaps: {folder} is a file, expected a folder; a file goes to "
                             "--checkpoint")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"            # read when gradio is imported
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError(f"gradio: not installed ({error}), which the page needs; pip install '.[demo]'") from error
    from demo.page import Page, Settings, launch
    device = start_device(args)
    settings = Settings(args.checkpoints, args.heatmaps, args.family, args.checkpoint, device, args.precision)
    launch(Page(settings), args.host, args.port, args.share)


if __name__ == "__main__":
    run_script(main)
