"""Data sets: from photographs of any size, or the procedural faces, to uint8 [N, C, S, S] in a cache file.

`--dataset` names one of
  synthetic, synthetic:N     procedural faces (engine/synthetic_faces.py): N for training (4000 if left out), N // 8
                             others for validation; synthetic:100 holds the first 100 of synthetic:200
  digits, digits:N           drawn digits (engine/synthetic_digits.py), labelled: N for training (20000 if left out),
                             N // 8 others for the split test
  a folder of images         every image below it, in order of path. The split is `train`; if it has sub-folders
                             train, validation (val, valid), test, at any depth and in any case, these are the splits
                             and nothing may lie outside them. Other files are passed over, with a line. Where every
                             image lies in the folder of one of several classes, these are the labels
  a folder of idx files      MNIST as torchvision keeps it (MNIST/raw/train-images-idx3-ubyte ...): train and test
  a data-set folder          one that holds parquet or arrow files, or images with metadata.csv or metadata.jsonl;
                             opened by `datasets`: column `image` or `img`, perhaps `label` or `fine_label`;
                             --image_column and --label_column name others
  a name on the hub          likewise, such as huggan/AFHQv2 (which has only `train`); mnist, cifar10,
                             cifar100 and tiny-imagenet stand for their names there

The kind of a folder is told by the files in it, never by a guess of `datasets`. A folder with both images and parquet
is refused, and so is one of which `datasets` would leave out files. A folder of images that is called like one of the
names above, such as mnist, is given as ./mnist.

Images are made into one form and kept as engine/image_files.py says. The key of a cache is made of the source, the
split and the preprocessing; for a folder the source is its path and every file's name, size and time of change. So a
changed folder gets a new cache, and a folder that is gone is an error. A hub data set is its name: delete the cache to
fetch it again. It is streamed into this cache, and nothing of it is kept anywhere else.
"""
import contextlib
import gzip
import hashlib
import itertools
import json
import logging
import math
import os
import re
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from engine import synthetic_digits, synthetic_faces
from engine.command_line import whole_number
from engine.errors import InputError
from engine.files import printable, remove_leftovers, scratch_folder, sha256_of_file
from engine.image_files import (SIDE, Form, Source, check_cache_dir, content_hash_of, decode, read_cache, square,
                                state_of, without_images, write_cache)

DEFAULT_DATASET = "huggan/AFHQv2"
DEFAULT_COUNTS = {"synthetic": 4000, "digits": 20_000}
VALIDATION_START = 1_000_000_000        # first index of synthetic validation images: no training set reaches it
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
                  ".jfif", ".jpe", ".jp2", ".avif", ".tga")
TABLE_SUFFIXES = (".parquet", ".arrow")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation",
                 "test": "test"}
HUB_ALIASES = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100",
               "tiny-imagenet": "zh-plus/tiny-imagenet"}
COLUMN_OPTIONS = ("image_column", "label_column")
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")    # looked for in this order
OLDER_SPLIT_FOLDERS = ("train", "validation", "val", "test")
IDX_PREFIXES = {"train": "train", "test": "t10k"}                           # split -> how its idx files begin
MAX_NAME_BYTES = 100                    # of a data set's name within a cache file's
NATIVE_FORMS = {"mnist": (28, 1), "cifar10": (32, 3), "cifar100": (32, 3), "tiny-imagenet": (64, 3)}


@dataclass
class ImageSet:
    """Images of one split, and what identifies them."""
    images: np.ndarray              # uint8 [N, C, S, S], read-only, memory-mapped
    labels: np.ndarray | None       # int64 [N]
    dataset: str                    # as it was asked for
    split: str                      # as it was asked for, slice and all
    content_hash: str               # first 16 hex digits of the SHA-256 of the bytes of `images`
    label_names: list[str] | None = None    # by number, where the data set names its classes

    def __len__(self) -> int:
        return len(self.images)


class Facts(NamedTuple):
    """What is known of the images asked for before they are decoded; None: not yet."""
    count: int | None
    has_labels: bool | None
    label_names: list[str] | None       # [] where classes have no names


def num_in_common(images: np.ndarray, others: np.ndarray) -> int:
    """How many of `others` are among `images`, to the last bit; uint8 [N, C, S, S] each."""
    digests = {hashlib.sha256(image.tobytes()).digest() for image in images}
    return sum(hashlib.sha256(image.tobytes()).digest() in digests for image in others)


def add_data_options(parser, image_size: int | None = None, channels: int = 3, columns: bool = False,
                     left_out: str | None = None) -> None:
    """Adds --dataset and --cache_dir. A family that works at any size passes its default `image_size` and `channels`;
    then --image_size and --channels are added too. columns: --image_column and --label_column, which the command
    hands to `load_images` by `columns_in`. left_out: what the command takes where --dataset is left out, in words; it
    finds None there."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default=None if left_out else DEFAULT_DATASET, metavar="NAME_OR_FOLDER",
                       type=without_slash,
                       help="a name on the Hugging Face hub (mnist, cifar10, cifar100 and tiny-imagenet are short for "
                            "theirs), a data-set folder, a folder of images, synthetic or synthetic:COUNT, digits or "
                            "digits:COUNT" + (f"; left out: {left_out}" if left_out else ""))
    group.add_argument("--cache_dir", default="cache", metavar="FOLDER", help="where decoded images are kept")
    if image_size is not None:
        group.add_argument("--image_size", type=whole_number(1, 4096), default=image_size, metavar="PIXELS",
                           help="side of the centred square that images are resized to")
        group.add_argument("--channels", type=int, choices=(1, 3), default=channels, help="1: grey, 3: RGB")
    if columns:
        group.add_argument("--image_column", default=None, metavar="COLUMN",
                           help=f"which column of a table holds the images; left out: {' or '.join(IMAGE_COLUMNS)}")
        group.add_argument("--label_column", default=None, metavar="COLUMN",
                           help=f"which column of a table holds the classes; left out: {' or '.join(LABEL_COLUMNS)}, "
                                "or none")


def add_val_options(group, usual: str, least: int = 1) -> None:
    """Adds --val_split and --val_images, at least so many. usual: the split where --val_split is left out; the command
    calls `choose_val_split`."""
    group.add_argument("--val_split", default=None, metavar="SPLIT",
                       help=f"held-out images, for --val_every; left out: {usual}, or what a data set without it has "
                            "beside the training images")
    group.add_argument("--val_images", type=whole_number(least), default=500, help="how many held-out images to use")


def choose_val_split(args, usual: str, say: bool) -> None:
    """--val_split, where --val_every needs it and it was left out, becomes `usual`, or the first split other than
    --split's of a data set that has no `usual`, as far as that is known before it is opened. Raises InputError as
    `load_images` does."""
    if not args.val_every or args.val_split is not None:
        return
    args.val_split = usual
    _, splits, _ = find_splits(str(args.dataset), Form(None, None), columns_in(vars(args)))
    if splits is not None and usual not in splits:
        others = [split for split in splits if split != parse_split(args.split)[0]]
        if others:
            args.val_split = others[0]
            if say:
                print(f"--val_split: left out, so {args.val_split}", flush=True)


def columns_in(options: dict) -> dict:
    """--image_column and --label_column among a command's options, or a record's, as `load_images` takes them; {}
    where there are none."""
    return {name: options[name] for name in COLUMN_OPTIONS if name in options}


def without_slash(dataset: str) -> str:
    """One spelling per folder, for records and comparisons of runs: `photos/`, `./photos` and its absolute path all
    become `photos` if it lies below or beside the working folder. A name that is no folder here stays as it is."""
    folder = os.path.expanduser(dataset)
    if not os.path.isdir(folder) or dataset in DEFAULT_COUNTS or dataset in HUB_ALIASES:
        return dataset.rstrip("/") or dataset
    relative = os.path.relpath(folder)
    if relative in DEFAULT_COUNTS or relative in HUB_ALIASES:
        return f"./{relative}"
    return os.path.abspath(folder) if relative.startswith("../..") else relative


def load_images(dataset: str, split: str = "train", cache_dir="cache", size: int = SIDE, channels: int = 3, *,
                beside=(), check: Callable[[Facts], None] | None = None, **columns: str | None) -> ImageSet:
    """The images of a split, from the cache or decoded into it, size x size, grey (channels 1) or in colour (3).

    columns: `image_column` and `label_column` of a data-set folder or a hub data set, None where they are called as
    usual; a command without these options leaves them out, and then no error advises them. split: a name, or a name
    with a slice of images: `train[:500]`, `train[-256:]`, `train[100:200]`. beside: other splits of the data set that
    will be asked for, so that one that is missing is told before this one is decoded. check(facts) raises InputError
    for images that the caller cannot use; it is called before they are decoded. Raises InputError for anything missing
    or unreadable, and removes the unfinished cache file.
    """
    dataset, (base_split, part) = str(dataset), parse_split(split)
    if size < 1 or channels not in (1, 3):
        raise InputError(f"--image_size, --channels: found {size} and {channels}, expected at least one pixel, and 1 "
                         "(grey) or 3 (RGB) channels")
    form = Form(size, channels)
    identity, open_source = find(dataset, base_split, form, columns, beside)

    def check_what_is_known(count, has_labels, label_names):
        if part is not None and count is not None:
            within = check_slice(part, count, split)
            count = within.stop - within.start
        if check is not None:
            check(Facts(count, has_labels, label_names))

    key = json.dumps([identity, base_split, form.preprocessing], sort_keys=True)
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]+", "_", Path(dataset).name if identity.get("folder") else dataset).strip("_")
    name = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    path = Path(cache_dir) / "images" / f"{name}_{base_split}_{key}.npy"
    needs_names = "folder" in identity      # a hub's earlier caches are good without: their numbers are the hub's
    cached = read_cache(path, form, needs_names)
    if cached is None:
        check_cache_dir(cache_dir)
        with scratch_folder(path.with_name(f".building_{path.stem}"), f"waiting for another process that decodes "
                            f"{dataset} {base_split}", wait=True) as work_folder:
            cached = read_cache(path, form, needs_names, say=False)        # it may have come while waiting
            if cached is None:
                remove_leftovers(path.parent, f"{path.stem}.*")
                source = open_source(base_split, work_folder, beside)
                check_what_is_known(source.count, source.has_labels, source.label_names)
                write_cache(path, source, printable(dataset), base_split, form)
                cached = read_cache(path, form, needs_names)
        if cached is None:
            raise InputError(f"{path}: cannot be read back after it was written; check the disk, or choose another "
                             "--cache_dir")
    images, labels, content_hash, label_names = cached
    check_what_is_known(len(images), labels is not None, label_names or [])
    if part is not None:
        part = check_slice(part, len(images), split)
        images, labels = images[part], None if labels is None else labels[part]
        content_hash = content_hash_of(images)
    return ImageSet(images, labels, printable(dataset), split, content_hash, label_names)


def native_form(dataset: str, split: str = "train", **columns: str | None) -> tuple[int, int]:
    """Side in pixels and channels of a data set's first image, for families that work at any size. columns: as in
    `load_images`. Raises InputError as that does, and for a split without images."""
    dataset, (base_split, _) = str(dataset), parse_split(split)
    if dataset in NATIVE_FORMS:
        return NATIVE_FORMS[dataset]
    _, open_source = find(dataset, base_split, Form(None, None), columns)
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(base_split, Path(folder))
        first = source.read(0, 1)
        if not len(first):
            raise without_images(dataset, base_split)
        channels, size, _ = source.decode(first[0]).shape
    return size, channels


def find(dataset: str, base_split: str, form: Form, columns: dict, beside=()):
    """The identity of a split, a dict for the cache's key, and open_source(split, work_folder, beside) -> Source.
    beside: other splits, whose absence is told here, or where the source is opened if only that tells. Raises
    InputError if there is no such data set or split."""
    identity, splits, open_source = find_splits(dataset, form, columns)
    if splits is not None and base_split not in splits:
        raise unknown_split(dataset, base_split, splits)
    for other in beside:
        name, part = parse_split(other)
        if splits is not None and name not in splits:
            raise unknown_split(dataset, name, splits)
        if splits is not None and part is not None:
            check_slice(part, open_source(name, None).count, other)
    return identity, open_source


def find_splits(dataset: str, form: Form, columns: dict):
    """As `find`, but of all splits: identity, their names (None: not known before they are opened), open_source."""
    if unknown := sorted(set(columns) - set(COLUMN_OPTIONS)):
        raise TypeError(f"load_images: {', '.join(unknown)} is no option of it")
    if not dataset.isprintable() and re.search(r"[\x00-\x1f\x7f\u2028\u2029]", dataset):
        raise InputError(f"--dataset: {dataset!r}: has a line break or another control character in its name; "
                         "rename it")
    if not dataset:
        raise InputError("--dataset: found nothing, expected a name, a folder or synthetic")
    if dataset in DEFAULT_COUNTS or dataset in HUB_ALIASES:
        check_no_namesake(dataset)
    if re.fullmatch(r"(synthetic|digits)(:.*)?", dataset):
        identity, splits, open_source = find_drawn(dataset, form)
    elif dataset not in HUB_ALIASES and (Path(os.path.expanduser(dataset)).exists() or re.match(r"[./~]", dataset)
                                         or dataset.count("/") > 1):
        identity, splits, open_source = find_folder(dataset, form, columns)
    else:
        identity, splits, open_source = find_on_hub(HUB_ALIASES.get(dataset, dataset), form, columns)
    given = {key: name for key, name in columns.items() if name is not None}
    if given and not ("hub" in identity or splits is None):
        raise InputError(f"--{next(iter(given))}: found with --dataset {dataset}, which has no columns; "
                         "leave it out")
    return identity | given, splits, open_source


def images_on(images: np.ndarray, device):
    """uint8 [N, C, S, S] as a tensor: on the GPU if it fits in half of the free memory, else on the CPU.

    On the CPU the tensor shares the read-only memory map: it is no copy, and is read only.
    """
    import torch
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(np.asarray(images))
    device = torch.device(device)
    if device.type != "cuda":
        return tensor
    free = torch.cuda.mem_get_info(device)[0]
    if images.nbytes > free / 2:
        print(f"images: {images.nbytes / 2**30:.1f} GiB stay in host memory ({free / 2**30:.1f} GiB free on {device})",
              flush=True)
        return tensor
    return tensor.to(device)


# --- splits -----------------------------------------------------------------------------------------------------------

def parse_split(split: str) -> tuple[str, slice | None]:
    """`train[100:200]` -> ("train", slice(100, 200)). Raises InputError."""
    match = re.fullmatch(r"([A-Za-z_][\w.-]*)(?:\[(-?\d+)?:(-?\d+)?\])?", split)
    if not match:
        raise InputError(f"split: found {split!r}, expected a name, or a name with a slice of images such as "
                         "train[:500], train[-256:] or train[100:200]")
    name, start, stop = match.groups()
    is_sliced = split.endswith("]")
    return name, slice(start and int(start), stop and int(stop)) if is_sliced else None


def check_slice(part: slice, count: int, split: str) -> slice:
    """`part` with 0 <= start < stop <= count. Raises InputError if it asks for images that are not there."""
    start, stop = (limit + count if limit is not None and limit < 0 else limit for limit in (part.start, part.stop))
    start, stop = 0 if start is None else start, count if stop is None else stop
    if not 0 <= start < stop <= count:
        raise InputError(f"split: found {split!r}, but {split.split('[')[0]} has {count} images; expected a slice of "
                         "at least one image within them")
    return slice(start, stop)


def unknown_split(dataset: str, split: str, splits) -> InputError:
    """The error for a split that is not there; names those that are."""
    return InputError(f"--dataset: {dataset}: has no split {split!r}; it has {', '.join(splits)}; name "
                      "one of them with --split, --val_split or --reference_split, or a part such as train[:500]")


# --- sources ----------------------------------------------------------------------------------------------------------

def find_drawn(dataset: str, form: Form):
    """Identity, splits and opener of the procedural faces and the drawn digits. Raises InputError for a bad count."""
    kind, _, count = dataset.partition(":")
    if dataset != kind and not (count.isascii() and count.isdigit() and 8 <= int(count) <= VALIDATION_START):
        raise InputError(f"--dataset: found {dataset!r}, expected {kind} or {kind}:COUNT with COUNT a whole "
                         f"number from 8 to {VALIDATION_START}")
    module, held_out = {"synthetic": (synthetic_faces, "validation"), "digits": (synthetic_digits, "test")}[kind]
    num_train = int(count or DEFAULT_COUNTS[kind])
    indices = {"train": range(num_train), held_out: range(VALIDATION_START, VALIDATION_START + num_train // 8)}
    # The drawing code itself is part of the identity, so that a change of it can never meet an old cache.
    identity = {kind: num_train, "code": sha256_of_file(module.__file__)}

    def drawn(index):
        image = module.draw(index)
        if image.shape == (form.channels, form.size, form.size):
            return image
        return square(Image.fromarray(image.transpose(1, 2, 0).squeeze()), form)

    return identity, list(indices), lambda split, work_folder, beside=(): Source(
        len(indices[split]), lambda: (module.labels_of(indices[split]), None),
        lambda start, stop: indices[split][start:stop], drawn, True, [])


def check_no_namesake(dataset: str) -> None:
    """Raises InputError if a folder of images lies here under a name that means another data set."""
    if Path(dataset).is_dir() and any(file.suffix.lower() in (*IMAGE_SUFFIXES, *TABLE_SUFFIXES) or "-ubyte" in file.name
                                      for file in list_files(Path(dataset))):
        other = HUB_ALIASES.get(dataset) or f"{dataset}:{DEFAULT_COUNTS[dataset]}"
        raise InputError(f"--dataset: {dataset}: is a folder of images here and also stands for {other}; write "
                         f"./{dataset} for the folder, or {other}")


def find_on_hub(dataset: str, form: Form, columns: dict):
    """Identity, splits (None: not known before it is opened) and opener of a hub data set."""
    return {"hub": dataset}, None, lambda split, work_folder, beside=(): open_with_datasets(
        dataset, split, form, columns, beside=beside, path=dataset)


def list_files(folder: Path) -> list[Path]:
    """All files below `folder`, hidden ones left out, in order of path; links are followed, none twice."""
    def refuse(error: OSError):
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); repair or remove it") from error

    found, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def find_folder(dataset: str, form: Form, columns: dict):
    """Identity, splits (None where only `datasets` knows them) and opener of a local folder. Raises InputError."""
    folder = Path(os.path.expanduser(dataset))
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise InputError(f"--dataset: {dataset}: found {found}, expected a folder of images or a data-set folder")
    files = list_files(folder)
    tables = [file for file in files if file.suffix.lower() in TABLE_SUFFIXES and file.name not in METADATA_NAMES]
    photos = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    metadata = [file for file in files if file.name in METADATA_NAMES]
    if tables and photos:
        raise InputError(f"--dataset: {dataset}: holds both a table ({tables[0].relative_to(folder)}) and images "
                         f"({photos[0].relative_to(folder)}); expected one kind, so point it at the folder meant")
    idx_files = {} if tables or photos else find_idx_files(files)
    if idx_files:
        listing = [[file.relative_to(folder).as_posix(), *state_of(file)] for file in sorted(idx_files.values())]
        splits = [split for split, prefix in IDX_PREFIXES.items() if (prefix, "images") in idx_files]
        return {"folder": str(folder.resolve()), "files": listing}, splits, \
            lambda split, work_folder, beside=(): open_idx(idx_files, IDX_PREFIXES[split], form)
    if not tables and not photos:
        raise InputError(f"--dataset: {dataset}: no images in it ({len(files)} files), expected images "
                         f"({' '.join(IMAGE_SUFFIXES)}), or parquet, arrow or idx files")
    relevant = sorted({*tables, *photos, *metadata, *(file for file in files if file.name == "README.md")})
    try:
        listing = [[file.relative_to(folder).as_posix(), *state_of(file)] for file in relevant]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); repair or remove it") from error
    identity = {"folder": str(folder.resolve()), "files": listing}
    if tables or metadata:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            raise InputError(f"--dataset: {dataset}: was written by save_to_disk, which load_dataset does not open; "
                             "write it with to_parquet")
        what = {"path": str(folder)} if tables else {"path": "imagefolder", "data_dir": str(folder)}
        return identity, None, lambda split, work_folder, beside=(): open_with_datasets(
            dataset, split, form, columns, beside=beside, **what, cache_dir=work_folder, expected=tables or photos)
    splits, depth_of = {}, {}
    for file in photos:
        folders = file.relative_to(folder).parts[:-1]
        depth = next((k for k, name in enumerate(folders) if name.lower() in SPLIT_FOLDERS), None)
        depth_of[file] = 0 if depth is None else depth + 1
        splits.setdefault(None if depth is None else SPLIT_FOLDERS[folders[depth].lower()], []).append(file)
    if list(splits) == [None]:
        splits = {"train": photos}
    elif None in splits:
        raise InputError(f"--dataset: {dataset}: has the split folders {', '.join(filter(None, splits))}, but "
                         f"{splits[None][0].relative_to(folder)} lies outside them; move it, or point --dataset at "
                         "the folder meant")
    elif any(file.relative_to(folder).parts[0] not in OLDER_SPLIT_FOLDERS for file in photos):
        identity["splits"] = "any depth and case"       # such a folder was once one split: not to meet that cache
    class_of = {file: file.relative_to(folder).parts[depth_of[file]:-1] for file in photos}
    names = natural_order({name for parts in class_of.values() for name in parts})
    if len(names) < 2 or any(len(parts) != 1 for parts in class_of.values()):
        names = None                    # not one folder for each of several classes

    def open_source(split, work_folder, beside=()):
        passed_over = Counter(file.suffix or "no suffix" for file in files if file not in relevant)

        def read(start, stop):
            if passed_over and start == 0:
                print(f"{printable(dataset)}: {passed_over.total()} files are passed over ("
                      f"{', '.join(f'{suffix}: {number}' for suffix, number in sorted(passed_over.items()))})",
                      flush=True)
            return splits[split][start:stop]

        labels = names and np.array([names.index(*class_of[file]) for file in splits[split]], np.int64)
        return Source(len(splits[split]), lambda: (labels, names), read,
                      lambda file: decode(file, str(file), form), names is not None, names or [])
    return identity, list(splits), open_source


def find_idx_files(files: list[Path]) -> dict:
    """The idx files of MNIST as torchvision lays them out (`MNIST/raw/train-images-idx3-ubyte`, perhaps `.gz`):
    (prefix `train` or `t10k`, `images` or `labels`) -> file."""
    found = {}
    for file in reversed(files):            # an unpacked file comes before its .gz in order of path, and is taken
        if match := re.fullmatch(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", file.name):
            found[match[1], match[2]] = file
    return found


def read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """The bytes of an idx file as uint8 with that many dimensions. Raises InputError for another or a cut file.

    The format (Y. LeCun's MNIST page): two zero bytes, type 8 (bytes), the number of dimensions, their sizes as
    big-endian 32-bit numbers, the values.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch it again") from error
    start = 4 + 4 * num_dimensions
    if content[:4] != bytes([0, 0, 8, num_dimensions]):
        raise InputError(f"{path}: begins with {content[:4].hex() or 'nothing'}, expected the header of an idx file of "
                         f"bytes with {num_dimensions} dimensions; fetch it again")
    if len(content) < start:
        raise InputError(f"{path}: ends after {len(content)} bytes, within its header of {start}; it was cut short, so "
                         "fetch it again")
    shape = np.frombuffer(content[4:start], ">u4").astype(int).tolist()
    if len(content) - start != math.prod(shape):
        raise InputError(f"{path}: holds {len(content) - start} values, expected {math.prod(shape)} "
                         f"({' x '.join(map(str, shape))}); it was cut short or changed, so fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def open_idx(files: dict, prefix: str, form: Form) -> Source:
    """A split of MNIST's idx files; label k is called "k". Raises InputError."""
    images, labels, names = read_idx(files[prefix, "images"], 3), None, None
    if (prefix, "labels") in files:
        labels = read_idx(files[prefix, "labels"], 1).astype(np.int64)
        if len(labels) != len(images):
            raise InputError(f"{files[prefix, 'labels']}: holds {len(labels)} labels, but "
                             f"{files[prefix, 'images'].name} {len(images)} images; fetch both again")
        names = [str(label) for label in range(max(10, labels.max(initial=0) + 1))]
    return Source(len(images), lambda: (labels, names), lambda start, stop: images[start:stop],
                  lambda image: square(Image.fromarray(image), form), labels is not None, names or [])


def open_with_datasets(dataset: str, split: str, form: Form, columns: dict, expected=(), beside=(), **what) -> Source:
    """A split as a stream of rows, by `datasets.load_dataset(streaming=True, **what)`. Images stay encoded until they
    are decoded one by one, and no part of the data set is written to a disk.

    dataset: its name, for messages. expected: the files that must all be read. beside: splits that must be there too.
    Raises InputError without a usable column of images.
    """
    import datasets                     # takes a second to import, and most runs find their cache
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    is_local = "cache_dir" in what
    if not is_local:                    # without an answer the hub's client goes on trying for half a minute
        print(f"opening {dataset} on the Hugging Face hub", flush=True)
    with explained(dataset, is_local):
        tables = datasets.load_dataset(**what, streaming=True)
    if expected:
        with explained(dataset, is_local):
            check_all_read(dataset, tables, expected, **what)
    for name in (split, *(parse_split(other)[0] for other in beside)):
        if name not in tables:
            raise unknown_split(dataset, name, tables)
    with explained(dataset, is_local):
        features = columns_of(tables[split])
    image_column = chosen_column(features, columns.get("image_column"), IMAGE_COLUMNS, "--image_column", dataset, split)
    if image_column is None:
        todo = "name the column that holds the images with --image_column, or rename it" \
            if "image_column" in columns else "rename the column that holds the images to `image`"
        raise InputError(f"--dataset: {dataset}: split {split} has no column `image`, only {', '.join(features)}; "
                         f"{todo}")
    label_column = chosen_column(features, columns.get("label_column"), LABEL_COLUMNS, "--label_column", dataset, split)
    no_labels = InputError(f"--label_column: {dataset}: column {label_column} of split {split} holds neither whole "
                           "numbers nor texts alone; name another column")
    if label_column and not re.match("u?int|bool|(large_)?string|null", getattr(features[label_column], "dtype", "")):
        if columns.get("label_column"):
            raise no_labels
        label_column = None
    holds = features[image_column]
    if not isinstance(getattr(holds, "feature", None) or {}, dict) and \
            not hasattr(holds.feature, "feature") and not isinstance(holds, datasets.Image):
        raise InputError(f"--dataset: {dataset}: column `{image_column}` of split {split} holds rows of numbers, "
                         "expected images; a row of numbers has no height and width, so write them as images")
    try:            # an empty table tells at once what a stream tells at its first row: that the column cannot be cast
        datasets.Dataset.from_dict({image_column: []}, datasets.Features({image_column: holds})).cast_column(
            image_column, datasets.Image(decode=False))
    except Exception as error:
        raise InputError(f"--dataset: {dataset}: column `{image_column}` of split {split} holds {holds}, expected "
                         "images") from error
    wanted = [image_column, *([label_column] if label_column else [])]
    rows = enumerate(undecoded(tables[split].select_columns(wanted), image_column))
    values = []                         # of the column of labels, as far as it has been read

    def read(start, stop):
        with explained(dataset, is_local):
            part = list(itertools.islice(rows, stop - start))
        values.extend(example[label_column] for _, example in part if label_column)
        return [(row, example[image_column]) for row, example in part]

    def labels():
        if label_column is None:
            return None, None
        with explained(dataset, is_local):
            found = labels_of(values, getattr(features[label_column], "names", None),
                              lambda: others_of(tables, split, label_column), f"{printable(dataset)} {split}")
        if found[0] is None and columns.get("label_column"):
            raise no_labels
        return found

    def decode_row(item):
        row, stored = item
        where = f"{dataset}: image {row} of split {split}"
        if stored is None:
            raise InputError(f"{where} is empty, expected an image; remove the row")
        if stored["bytes"] is None and not os.path.isabs(stored["path"] or ""):
            raise InputError(f"{where} is only a path ({stored['path']}), and where it begins is not known; write the "
                             "images into the table, or use a folder of images with metadata.csv")
        where += f" ({stored['path']})" if stored["path"] else ""
        return decode(stored["path"] if stored["bytes"] is None else stored["bytes"], where, form)
    told = (tables[split].info.splits or {}).get(split)
    return Source(told and told.num_examples, labels, read, decode_row, None if label_column else False,
                  getattr(features[label_column], "names", None) if label_column else [])


@contextlib.contextmanager
def explained(dataset: str, is_local: bool):
    """Turns every error within into an InputError: `datasets` and the hub's client raise many unrelated types."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(explain(error, dataset, is_local)) from error


def columns_of(table) -> dict:
    """The columns of a streamed table: name -> kind of content, from the first row if its format does not tell."""
    import datasets
    return table.features or datasets.Dataset.from_list(list(table.take(1))).features


def undecoded(table, image_column: str):
    """A streamed table whose images come as they are stored: {"bytes": ..., "path": ...}."""
    import datasets
    return table.cast_column(image_column, datasets.Image(decode=False))


def others_of(tables, split: str, column: str):
    """Yields the values of a column in all splits but one; they are streamed too."""
    for name, table in tables.items():
        if name != split and column in columns_of(table):
            yield from (example[column] for example in table.select_columns([column]))


def check_all_read(dataset: str, tables, expected, **what) -> None:
    """Raises InputError if `datasets` leaves out files of a folder, for it guesses splits by words in their names.

    expected: all tables, or all images, of the folder.
    """
    import datasets
    files = datasets.load_dataset_builder(**what).config.data_files or {}
    read = {os.path.realpath(file) for part in files.values() for file in part}
    left_out = [file for file in expected if os.path.realpath(file) not in read]
    if left_out:
        raise InputError(f"--dataset: {dataset}: {len(left_out)} of {len(expected)} files would not be read "
                         f"({', '.join(file.name for file in left_out[:5])}), since `datasets` takes words such as "
                         "train or test in file names for splits; rename the files, or give each split a folder")
    if what["path"] != "imagefolder":
        return
    num_rows = sum(1 for table in tables.values() for _ in undecoded(table, "image"))
    if num_rows != len(expected):
        raise InputError(f"--dataset: {dataset}: its metadata lists {num_rows} of {len(expected)} images; list all, or "
                         "move the others away")


def explain(error: Exception, dataset: str, is_local: bool) -> str:
    """What went wrong in `datasets.load_dataset`, and what to do, in one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if is_local:
        return (f"--dataset: {dataset}: `datasets` cannot open this folder ({reason}); repair it, or use a folder of "
                "images")
    todo = "use --dataset with a local folder, or --dataset synthetic"
    unreachable = ("Offline", "Connection", "Timeout", "LocalEntryNotFound", "Proxy", "SSL")
    text = f"{type(error).__name__} {type(error.__cause__).__name__} {reason}"
    if any(word in text for word in unreachable):
        return f"--dataset: {dataset}: is no folder here, and the Hugging Face hub cannot be reached ({reason}); {todo}"
    return f"--dataset: {dataset}: is no folder here, and the Hugging Face hub does not give it ({reason}); {todo}"


def chosen_column(features: dict, given: str | None, usual, option: str, dataset: str, split: str) -> str | None:
    """The column that was given, or the first of the usual names there is. Raises InputError if it is missing."""
    if given is not None and given not in features:
        raise InputError(f"{option}: found {given}, but {dataset} has in split {split} only "
                         f"{', '.join(features)}; name one of them")
    return given or next((name for name in usual if name in features), None)


def labels_of(values: list, names: list[str] | None, others, what: str) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels of a split, int64 [N], and the names of the classes. (None, None) if labels are missing, or of a
    kind other than whole numbers and texts.

    values: of the column of labels. names: of the classes, if the data set names them. others(): the values in the
    other splits. what: the split, for the line about missing labels. Numbers stay as they are. Texts are numbered in
    natural order, over all splits together. A label is missing if it is empty, or -1 although classes have names.
    """
    num_missing = sum(value is None or names is not None and value == -1 for value in values)
    if num_missing:
        if num_missing < len(values):
            print(f"{what}: {num_missing} of {len(values)} labels are missing, so none is used", flush=True)
        return None, None
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64), list(names) if names else None
    if all(isinstance(value, str) for value in values):
        names = natural_order({*values, *(value for value in others() if isinstance(value, str))})
        number_of = {name: number for number, name in enumerate(names)}
        return np.array([number_of[value] for value in values], np.int64), names
    return None, None


def natural_order(names) -> list[str]:
    """Texts in order, with the numbers in them compared as numbers: "2" before "11"."""
    return sorted(names, key=lambda name: ([int(part) if k % 2 else part
                                            for k, part in enumerate(re.split(r"([0-9]+)", name))], name))
