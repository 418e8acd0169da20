"""The options of every command that scores images: which metrics, and what they need."""
from pathlib import Path

DETAIL_LEVELS = (64, 32)                                # of the Laplacian pyramid, without what remains below
DETAIL_ROWS = tuple(f"{name}_{size}" for name in ("kurtosis", "contrast") for size in DETAIL_LEVELS)
METRIC_ROWS = {"fid": ("fid",), "kid": ("kid",), "precision_recall": ("precision", "recall"),
               "swd": ("swd", "swd_64", "swd_32", "swd_16"), "fd_tiny": ("fd_tiny",), "detail": DETAIL_ROWS}
INCEPTION_METRICS = ("fid", "kid", "precision_recall")
INCEPTION_NAME = "pt_inception-2015-12-05-6726825d.pth"


def add_metric_options(parser, split_help: str) -> None:
    """--metrics, --reference_split, --inception and --fd_tiny."""
    group = parser.add_argument_group("scores")
    group.add_argument("--metrics", nargs="+", action="each_once", choices=list(METRIC_ROWS), default=None,
                       help="left out: fid where Inception weights are to be had, else swd, which needs none; detail: "
                       "kurtosis and contrast of the finest levels, to be compared with those of real images")
    group.add_argument("--reference_split", default="train", metavar="SPLIT", help=split_help)
    group.add_argument("--inception", type=Path, default=None, metavar="FILE",
                       help=f"{INCEPTION_NAME}; left out: from the torch hub cache, else downloaded")
    group.add_argument("--fd_tiny", type=Path, default=Path("../shared/tools"), metavar="FOLDER",
                       help="for the metric fd_tiny: folder with fd_tiny.py, which is run, and fd_tiny.pt")
