"""Image files of any size and mode, made into one form and kept in a cache: uint8 [N, C, S, S].

An image is decoded once. EXIF orientation is ignored, transparency is laid over white, 16 bits become 8, and every
other mode is converted to RGB. Then the centred square is resized to S x S by an antialiased bicubic filter, which is
the geometry of resizing the shorter side to S and cropping; S is 64 unless another size is asked for. RGB images of
that size stay as they are, bit for bit.

A cache is three files: `NAME_SPLIT_KEY.npy` with the images, and `.labels.npy` and `.json` beside it. The JSON record
is written last: only a cache with a record is complete.
"""
import hashlib
import io
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from engine.errors import InputError
from engine.files import write_json, written_whole


SIDE = 64
EXIF_ORIENTATION = 0x0112
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
WINDOW = 256                            # images held in memory at once while a cache is built
if os.environ.get("MAX_IMAGE_PIXELS", "").isdigit():
    Image.MAX_IMAGE_PIXELS = int(os.environ["MAX_IMAGE_PIXELS"]) // 2       # Pillow refuses twice this number


@dataclass(frozen=True)
class Form:
    """What every image is made into: side in pixels, and 1 channel (grey) or 3 (RGB). None keeps the image's own."""
    size: int | None = SIDE
    channels: int | None = 3
    notes: Counter = field(default_factory=Counter, compare=False)      # what to say once of the images: text -> number

    @property
    def preprocessing(self) -> str:
        """Part of the cache's key."""
        grey = ", grey" if self.channels == 1 else ""
        return f"centre square, bicubic to {self.size}{grey}, white behind transparency, version 1"


@dataclass
class Source:
    """A split that can be decoded, part by part.

    read(start, stop) gives items for `decode`, none behind the end; it is asked for each part once, in order.
    decode(item) gives uint8 [C, S, S] and is called in several threads. labels(), asked for once all has been read,
    gives the labels, int64 [N], and the names of the classes, each None where there are none.
    """
    count: int | None               # how many images there are; None: not known before the end
    labels: Callable[[], tuple]
    read: Callable
    decode: Callable
    has_labels: bool | None = None                  # None: not known before the end
    label_names: list[str] | None = None            # likewise; [] where classes have no names


def decode(file, where: str, form: Form = Form()) -> np.ndarray:
    """An image file (path or bytes) to uint8 [channels, size, size]. Raises InputError that names it as `where`."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            if form.size:
                image.draft(None, (4 * form.size, 4 * form.size))     # a large JPEG is decoded at a half or less
            note_on(image, form.notes)
            return square(image, form)
    except Image.DecompressionBombError as error:
        raise InputError(f"{where}: has {image_size_of(error)} pixels, more than the limit of "
                         f"{2 * Image.MAX_IMAGE_PIXELS}; shrink it, or set the environment variable MAX_IMAGE_PIXELS "
                         "to a larger number") from error
    except Exception as error:                              # Pillow raises many types for a damaged file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{where}: cannot be read as an image ({reason}); repair or remove it") from error


def image_size_of(error: Exception) -> str:
    """The number of pixels in Pillow's message on an image that is too large."""
    found = re.search(r"\((\d+) pixels\)", str(error))
    return found[1] if found else "too many"


def note_on(image: Image.Image, notes: Counter) -> None:
    """Count, in `notes`, what a user may not expect of the way this image is read."""
    if getattr(image, "n_frames", 1) > 1:
        notes["hold several pictures, of which the first is used"] += 1
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        notes["are to be turned or mirrored by their EXIF orientation, which is ignored"] += 1
    if image.mode.startswith("I;16") and np.asarray(image).max() < 1 << 14:
        notes["have 16 bits but use less than a quarter of their range, so they become dark"] += 1


def square(image: Image.Image, form: Form = Form()) -> np.ndarray:
    """A PIL image of any size and mode to uint8 [channels, size, size]: its centred square, resized."""
    channels = form.channels or (1 if image.mode in GREY_MODES else 3)
    image = to_rgb(image)
    side = min(image.size)
    size = form.size or side
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1) if channels == 3 else np.asarray(image.convert("L"))[None]


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any 8-bit or 16-bit mode; what is transparent becomes white. Raises ValueError for floating point."""
    if image.mode in ("F", "I"):
        raise ValueError("floating-point pixels, whose range is not known" if image.mode == "F" else
                         "32-bit pixels, whose range is not known")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def check_cache_dir(cache_dir) -> None:
    """Raises InputError if nothing can be written into the cache."""
    try:
        (Path(cache_dir) / "images").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            pass
    except OSError as error:
        raise InputError(f"--cache_dir: {cache_dir}: cannot be written to ({error.strerror}); choose another folder") \
            from error


def content_hash_of(images: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 of the bytes of images, uint8 [N, C, S, S], or of labels, int64 [N]."""
    return hashlib.sha256(np.ascontiguousarray(images)).hexdigest()[:16]


def side_path(path: Path, suffix: str) -> Path:
    """`x.npy` -> `x.labels.npy` or `x.json`."""
    return path.with_name(path.name.removesuffix(".npy") + suffix)


def state_of(path: Path) -> list[int]:
    """Size and time of change of a file: equal as long as nobody wrote to it."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def image_or_error(decode_item, item):
    """The decoded image, or the InputError of decoding it. So one pass finds every bad image."""
    try:
        return decode_item(item)
    except InputError as error:
        return error


def write_header(file, form: Form, count: int) -> None:
    """Write the .npy header of uint8 [count, C, S, S] at the file's beginning. Its length does not depend on the count,
    for numpy leaves room for the first number to grow. So it can be written again once the count is known."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False,
                                                "shape": (count, form.channels, form.size, form.size)})


def without_images(dataset: str, split: str) -> InputError:
    """The error for a split that has no image."""
    return InputError(f"--dataset: {dataset}: split {split} has no images; expected at least one")


def write_cache(path: Path, source: Source, dataset: str, split: str, form: Form) -> None:
    """Decode a source into the three cache files, the record last.

    At most WINDOW images are in memory at once. Raises InputError if there is no image, or a broken one.
    """
    digest, bad, count = hashlib.sha256(), [], 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, written_whole(path) as file, \
            tqdm(total=source.count, desc=f"{dataset} {split}", unit="image") as progress:
        write_header(file, form, 0)
        while len(items := source.read(count, count + WINDOW)):
            count += len(items)
            for image in pool.map(lambda item: image_or_error(source.decode, item), items):
                progress.update()
                if isinstance(image, InputError):
                    bad.append(image)
                    continue
                data = image.tobytes()
                digest.update(data)
                file.write(data)
        if count == 0:
            raise without_images(dataset, split)
        if len(bad) == 1:
            raise bad[0]
        if bad:
            raise InputError(f"{len(bad)} of {count} images cannot be used: " + " | ".join(map(str, bad[:20]))
                             + (" | ..." if len(bad) > 20 else "")) from bad[0]
        labels, label_names = source.labels()
        write_header(file, form, count)
    for note, number in sorted(form.notes.items()):
        print(f"{dataset} {split}: {number} of {count} images {note}", flush=True)
    labels_hash = None
    if labels is not None:
        with written_whole(side_path(path, ".labels.npy")) as file:
            np.save(file, labels, allow_pickle=False)
        labels_hash = content_hash_of(labels)
    write_json(side_path(path, ".json"), {
        "dataset": dataset, "split": split, "preprocessing": form.preprocessing, "count": count,
        "content_hash": digest.hexdigest()[:16], "labels_hash": labels_hash, "label_names": label_names,
        "images_file": state_of(path)})


def read_cache(path: Path, form: Form, needs_names: bool = False, say: bool = True) -> tuple | None:
    """Images (memory-mapped), labels, content hash and names of classes, as in ImageSet. None without a cache; None
    and, if `say`, a line for a damaged one.

    Shape and size are always checked. The content is checked if size or time of the file differ from the record's.
    """
    record_path = side_path(path, ".json")
    if not record_path.exists():
        return None
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        images = np.lib.format.open_memmap(path, mode="r")         # refuses pickled objects, as np.load would
        if images.dtype != np.uint8 or images.shape != (record["count"], form.channels, form.size, form.size):
            raise ValueError(f"holds {images.dtype} {images.shape}")
        if state_of(path) != record["images_file"] and content_hash_of(images) != record["content_hash"]:
            raise ValueError("content differs from its hash")
        labels = None
        if record["labels_hash"] is not None:
            labels = np.array(np.lib.format.open_memmap(side_path(path, ".labels.npy"), mode="r"))
            if labels.dtype != np.int64 or labels.shape != (len(images),) \
                    or content_hash_of(labels) != record["labels_hash"]:
                raise ValueError("labels differ from their hash")
        if needs_names and "label_names" not in record:
            raise ValueError("made by an earlier version, which kept no names of classes")
        return images, labels, record["content_hash"], record.get("label_names")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        if say:
            print(f"{path}: damaged cache ({' '.join(str(error).split())[:100]}); building it again", flush=True)
        return None
