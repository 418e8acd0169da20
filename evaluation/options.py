"""The options of every command that scores images: which metrics, and what they need."""
from pathlib import Path

SMALLEST_LEVEL = 14                                     # pixels of a pyramid's last level: twice a patch of 7
INCEPTION_NAME = "pt_inception-2015-12-05-6726825d.pth"
# By network, on whose features they are: Fréchet distance, unbiased kernel distance, precision and recall.
FEATURE_METRICS = {"inception": ("fid", "kid", "precision_recall"),
                   "lite0": ("fd_lite0", "kd_lite0", "precision_recall_lite0")}
PRECISION_RECALL_ROWS = {"precision_recall": ("precision", "recall"),
                         "precision_recall_lite0": ("precision_lite0", "recall_lite0")}
METRICS = (*FEATURE_METRICS["inception"], *FEATURE_METRICS["lite0"], "swd", "detail")
GROUPS = "groups"                                       # of classes asked for: a metric of eval_fid_batch.py alone
WITHOUT_INCEPTION = ("fd_lite0", "kd_lite0", "swd")     # measured in place of FID


def pyramid_levels(side: int) -> tuple[int, ...]:
    """Sides of the levels of an image's Laplacian pyramid, the low-pass rest last: 64 -> (64, 32, 16)."""
    levels = [side]
    while -(-levels[-1] // 2) >= SMALLEST_LEVEL:
        levels.append(-(-levels[-1] // 2))
    return tuple(levels)


def rows_of(metric: str, side: int = 64) -> tuple[str, ...]:
    """The rows that a metric of images of `side` pixels has in the table of results."""
    levels = pyramid_levels(side)
    if metric == "swd":
        return ("swd", *(f"swd_{level}" for level in levels))
    if metric == "detail":
        return tuple(f"{name}_{level}" for name in ("kurtosis", "contrast") for level in levels[:-1])
    return PRECISION_RECALL_ROWS.get(metric, (metric,))


def add_metric_options(parser, split_help: str, with_groups: bool = False) -> None:
    """--metrics, --reference_split and --inception. with_groups: whether images have a class that was asked for."""
    group = parser.add_argument_group("scores")
    group.add_argument("--metrics", nargs="+", action="each_once", default=None,
                       choices=(*METRICS, GROUPS) if with_groups else METRICS,
                       help="left out: fid where Inception weights are to be had, else "
                       f"{', '.join(WITHOUT_INCEPTION)}; *_lite0: on features of EfficientNet-Lite0, whose weights are "
                       "among the requirements; detail: kurtosis and contrast of the finest levels, to be compared "
                       "with those of real images"
                       + "; groups: share of images that EfficientNet-Lite0 takes for an animal or a vehicle as their "
                         "class is, of the classes of CIFAR-10" * with_groups)
    group.add_argument("--reference_split", default="train", metavar="SPLIT", help=split_help)
    group.add_argument("--inception", type=Path, default=None, metavar="FILE",
                       help=f"{INCEPTION_NAME}; left out: from the torch hub cache, else downloaded")
