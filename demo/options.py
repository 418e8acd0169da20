"""The command line of the demo, and the families that it offers."""
from pathlib import Path

from engine.command_line import Parser, add_device_options, whole_number

FAMILIES = {"lift": "LIFT", "flow": "Flow", "mnist": "MNIST", "distilled": "Distilled", "text_to_image": "Text to "
                                                                                                         "image"}


def parse_args(argv=None, family: str | None = None):
    """The command line. family: what --family is where it is left out."""
    parser = Parser("A page on localhost on which any checkpoint of this repository draws.")
    group = parser.add_argument_group("what is shown")
    group.add_argument("--family", choices=tuple(FAMILIES), default=family,
                       help="chosen at the start; left out: the first that has a checkpoint")
    group.add_argument("--checkpoint", "--checkpoint_path", type=Path, default=None, metavar="FILE",
                       help="chosen at the start; left out: the first of the family")
    group.add_argument("--checkpoints", type=Path, nargs="+", default=[Path("checkpoints"), Path("experiments")],
                       metavar="FOLDER", help="where checkpoints are looked for, folders inside included")
    group.add_argument("--heatmaps", type=Path, nargs="+", default=[Path("results")], metavar="FOLDER",
                       help="where LIFT's error maps are looked for")
    group.add_argument("--tiny_vae", default="", metavar="FOLDER_OR_NAME",
                       help="the small autoencoder that text to image may decode with; left out: the usual one in the "
                            "hub's cache")
    group = parser.add_argument_group("who can reach it")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                       help="address to listen at; 0.0.0.0 lets in everyone in the network")
    group.add_argument("--port", type=whole_number(1, 65535), default=None,
                       help="left out: the first free one from 7860 on")
    group.add_argument("--share", action="store_true", help="a public address by gradio's tunnel, which it downloads")
    add_device_options(parser)
    return parser.parse_args(argv)
