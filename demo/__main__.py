"""A page on localhost on which any checkpoint of this repository draws: python -m demo."""
import os

from demo.options import parse_args
from engine.command_line import run_script, start_device
from engine.errors import InputError, need_packages


def main(family: str | None = None, argv=None):
    """family: chosen at the start unless --family names another."""
    args = parse_args(argv, family)
    for folder in args.checkpoints + args.heatmaps:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--checkpoints, --heatmaps: {folder} is a file, expected a folder; a file goes to "
                             "--checkpoint")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"            # these two are read at the import of gradio and of the
    os.environ.setdefault("HF_HUB_OFFLINE", "1")                # hub's client: a click on a page fetches no model
    need_packages("demo", ("gradio",), "python -m demo: the page")
    from demo.page import Page, Settings, launch
    device = start_device(args)
    settings = Settings(args.checkpoints, args.heatmaps, args.family, args.checkpoint, device, args.precision,
                        args.tiny_vae)
    launch(Page(settings), args.host, args.port, args.share)


if __name__ == "__main__":
    run_script(main)
