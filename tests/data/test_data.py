"""Data sets: where images come from, how they become 64x64, the cache, and one clear line for whatever is wrong."""
import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import image_files
import data
from engine import synthetic_faces
from conftest import ROOT, wait_until
from engine.errors import InputError

ANIMALS = ROOT / ".." / "shared" / "data" / "animals64"


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """`datasets` keeps its files below tmp_path."""
    import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")


@pytest.fixture
def load(tmp_path):
    """load_images with a cache below tmp_path."""
    return lambda dataset, split="train": data.load_images(str(dataset), split, tmp_path / "cache")


def random_image(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """An RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    """[3, H, W] uint8."""
    return np.asarray(image).transpose(2, 0, 1)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def make_folder(folder: Path, *names: str) -> Path:
    """A folder of random 64x64 PNGs with these names; number k has seed k."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        random_image(seed).save(folder / name)
    return folder


def make_parquet(folder: Path, split: str, **columns) -> Path:
    """`split`-00000-of-00001.parquet in hub layout. columns: name -> values, images as PIL images."""
    import datasets
    folder.mkdir(parents=True, exist_ok=True)
    features = {name: datasets.Image() if name == "image" else datasets.ClassLabel(names=["cat", "dog", "wild"])
                for name in columns if name == "image" or name == "label" and not isinstance(columns[name][0], str)}
    table = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        table = table.cast_column(name, feature)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def streamed(**columns):
    """What `datasets.load_dataset(name, streaming=True)` gives of a hub data set whose one split is `train`."""
    import datasets
    features = {name: datasets.Image() if isinstance(values[0], Image.Image) else datasets.ClassLabel(names=["a", "b"])
                for name, values in columns.items()}
    table = datasets.Dataset.from_dict(columns, datasets.Features(features))
    return datasets.IterableDatasetDict(train=table.to_iterable_dataset())


def cache_file(tmp_path, suffix: str = ".npy") -> Path:
    """The one image file (or label file, or record) in the cache."""
    found = [path for path in (tmp_path / "cache" / "images").glob(f"*{suffix}")
             if suffix != ".npy" or ".labels" not in path.name]
    assert len(found) == 1
    return found[0]


# --- one image --------------------------------------------------------------------------------------------------------

def test_a_64x64_image_stays_as_it_is():
    image = random_image(0)
    assert np.array_equal(image_files.square(image), pixels(image))


@pytest.mark.parametrize("width, height", [(192, 64), (64, 192), (67, 64)])
def test_the_centre_is_kept(width, height):
    image = random_image(1, width, height)
    left, top = (width - 64) / 2, (height - 64) / 2
    if left == int(left):
        expected = pixels(image)[:, int(top):int(top) + 64, int(left):int(left) + 64]
        assert np.array_equal(image_files.square(image), expected)
    else:                   # half a pixel off the grid: about the mean of both neighbours
        first, second = (pixels(image)[:, :, start:start + 64].astype(float) for start in (1, 2))
        found = image_files.square(image).astype(float)
        assert np.abs(found - (first + second) / 2).mean() < 0.5 * np.abs(first - second).mean()


def test_the_shorter_side_becomes_64_and_left_stays_left():
    """384x128, three squares of one colour: the middle one fills the result; a ramp in it keeps its direction."""
    picture = np.zeros((128, 384, 3), np.uint8)
    picture[:, :128, 0], picture[:, 256:, 2] = 255, 255
    picture[:, 128:256, 1] = np.arange(128)
    picture[64:, 128:256, 0] = 200
    found = image_files.square(Image.fromarray(picture)).astype(int)
    assert found.shape == (3, 64, 64)
    found = found[:, :, 2:-2]                               # the filter reaches two pixels over the cut
    assert (found[2] == 0).all() and np.abs(found[1] - (2 * np.arange(2, 62) + 0.5)).max() <= 1
    assert (found[0, :30] == 0).all() and (found[0, 34:] == 200).all()


def test_shrinking_is_antialiased():
    """A checkerboard of single pixels, shrunk to a quarter, becomes grey instead of a pattern."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    found = image_files.square(Image.fromarray(board)).astype(int)
    assert np.abs(found - 127.5).max() < 3


def test_small_images_are_enlarged():
    assert (image_files.square(Image.new("RGB", (5, 9), (10, 20, 30))) == np.array([10, 20, 30])[:, None, None]).all()


def test_greyscale_has_three_equal_channels():
    grey = random_image(2).convert("L")
    found = image_files.square(grey)
    assert all(np.array_equal(found[channel], np.asarray(grey)) for channel in range(3))


def test_sixteen_bits_become_eight_and_one_bit_black_and_white():
    values = (np.arange(4096).reshape(64, 64) * 16).astype(np.uint16)
    found = image_files.square(Image.open(io.BytesIO(encoded(Image.fromarray(values)))))
    assert np.array_equal(found[0], values >> 8)
    assert set(np.unique(image_files.square(Image.fromarray(np.eye(64) > 0)))) == {0, 255}


def test_palette_images_show_their_colours():
    indices = np.arange(4096).reshape(64, 64) % 3
    image = Image.new("P", (64, 64))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata(indices.ravel().tolist())
    expected = np.eye(3, dtype=np.uint8)[indices].transpose(2, 0, 1) * 255
    assert np.array_equal(image_files.decode(encoded(image), "a palette"), expected)


def test_transparency_is_laid_over_white():
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, 32:, :] = [200, 100, 0, 255]
    picture[:, :16, 3] = 0                                  # black, fully transparent; then black, half opaque
    picture[:, 16:32, 3] = 128
    found = image_files.square(Image.fromarray(picture))
    assert (found[:, :, :16] == 255).all() and np.abs(found[:, :, 16:32].astype(int) - 127).max() <= 1
    assert (found[:, :, 32:] == np.array([200, 100, 0])[:, None, None]).all()
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([1, 2, 3, 9, 9, 9])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    assert (image_files.decode(buffer.getvalue(), "a palette") == 255).all()


def test_large_jpeg_at_reduced_resolution_agrees_with_full_decoding():
    smooth = random_image(3, 8, 8).resize((1024, 1024), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG")
    full = image_files.square(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert np.abs(image_files.decode(content, "a photograph").astype(int) - full).max() <= 3


def test_exif_orientation_is_ignored():
    image = random_image(4)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3                                        # upside down
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(image_files.decode(buffer.getvalue(), "an image"), pixels(image))


# --- sources ----------------------------------------------------------------------------------------------------------

def test_a_folder_is_read_recursively_in_order_of_path(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "b.png", "a/z.PNG", "a/deep/er/y.bmp", ".hidden.png", ".dir/x.png")
    (folder / "notes.txt").write_text("no image")
    images = load(folder)
    assert (images.labels, images.dataset, images.split, len(images)) == (None, str(folder), "train", 3)
    for found, seed in zip(images.images, (2, 1, 0)):       # a/deep/er/y.bmp, a/z.PNG, b.png
        assert np.array_equal(found, pixels(random_image(seed)))
    with pytest.raises(InputError, match="no split 'validation'; it has train; name one of them with --split"):
        load(folder, "validation")


def test_linked_folders_are_followed_and_circles_end(tmp_path, load):
    make_folder(tmp_path / "elsewhere", "a.png")
    folder = make_folder(tmp_path / "photos", "b.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    assert len(load(folder)) == 2


def test_split_folders_are_splits(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "test/d.png")
    assert [len(load(folder, split)) for split in ("train", "validation", "test")] == [2, 1, 1]
    assert np.array_equal(load(folder, "validation").images[0], pixels(random_image(2)))
    with pytest.raises(InputError, match="no split 'val'; it has test, train, validation"):
        load(folder, "val")
    random_image(9).save(folder / "stray.png")
    with pytest.raises(InputError, match="stray.png lies outside"):
        load(folder)


def test_a_cache_inside_the_data_set_does_not_disturb_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_folder(tmp_path / "photos", "a.png"))
    data.load_images(".")
    record = next(Path("cache/images").glob("*.json")).stat().st_mtime_ns
    assert len(data.load_images(".")) == 1
    assert [path.stat().st_mtime_ns for path in Path("cache/images").glob("*.json")] == [record]


def test_hub_layout_with_labels(tmp_path, load, capsys):
    photos = [random_image(0), random_image(1).convert("L"), random_image(2, 128, 64)]
    folder = make_parquet(tmp_path / "animals", "train", image=photos, label=[2, 0, 1])
    make_parquet(folder, "validation", image=photos[:1], label=[1])
    train = load(folder)
    assert train.images.dtype == np.uint8 and train.images.shape == (3, 3, 64, 64)
    assert train.labels.dtype == np.int64 and train.labels.tolist() == [2, 0, 1]
    for found, photo in zip(train.images, photos):
        assert np.array_equal(found, image_files.square(photo))
    assert load(folder, "validation").labels.tolist() == [1]
    with pytest.raises(InputError, match="no split 'test'; it has train, validation; name one of them"):
        load(folder, "test")
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert left == ["images"]                               # what `datasets` wrote on the way is gone


def test_hub_layout_labels_as_text_or_absent(tmp_path, load):
    photos = [random_image(seed) for seed in range(3)]
    assert load(make_parquet(tmp_path / "text", "train", image=photos, label=["dog", "cat", "dog"])).labels.tolist() \
        == [1, 0, 1]
    assert load(make_parquet(tmp_path / "none", "train", image=photos)).labels is None


def test_names_of_classes(tmp_path, load):
    photos = [random_image(seed) for seed in range(3)]
    folder = make_parquet(tmp_path / "named", "train", image=photos, label=[2, 0, 1])
    assert load(folder).label_names == load(folder, "train[:1]").label_names == ["cat", "dog", "wild"]
    folder = make_parquet(tmp_path / "text", "train", image=photos, label=["dog", "cat", "wild"])
    make_parquet(folder, "validation", image=photos[:2], label=["wild", "dog"])
    validation = load(folder, "validation")                 # which lacks the first class
    assert validation.labels.tolist() == [2, 1] and validation.label_names == ["cat", "dog", "wild"]


def test_names_that_are_numbers_are_in_their_order(tmp_path, load):
    names = [str(k) for k in range(12)]
    folder = make_parquet(tmp_path / "numbers", "train", image=[random_image(0)] * 12, label=names)
    assert load(folder).labels.tolist() == list(range(12)) and load(folder).label_names == names
    assert data.natural_order(["b", "a10", "a9", "a09"]) == ["a09", "a9", "a10", "b"]


def test_missing_labels(tmp_path, load, capsys):
    photos = [random_image(seed) for seed in range(2)]
    hidden = load(make_parquet(tmp_path / "hidden", "train", image=photos, label=[-1, -1]))
    assert (hidden.labels, hidden.label_names) == (None, None) and "missing" not in capsys.readouterr().out
    assert load(make_parquet(tmp_path / "some", "train", image=photos, label=[1, None])).labels is None
    assert "1 of 2 labels are missing" in capsys.readouterr().out


def test_folders_of_classes_are_labels(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "train/c10/a.png", "train/c9/b.png", "test/c10/c.png", "test/c10/d.png")
    assert load(folder).labels.tolist() == [0 + 1, 0] and load(folder).label_names == ["c9", "c10"]
    assert load(folder, "test").labels.tolist() == [1, 1]
    assert load(make_folder(tmp_path / "flat", "b/x.png", "a/y.png")).labels.tolist() == [0, 1]
    for name, files in (("deep", ("a/x.png", "b/c/y.png")), ("one", ("a/x.png", "a/y.png")),
                        ("top", ("a/x.png", "b.png"))):
        assert load(make_folder(tmp_path / name, *files)).labels is None


@pytest.mark.parametrize("size, channels", [(28, 1), (32, 3), (64, 1)])
def test_other_sizes_and_grey(tmp_path, size, channels):
    """Images of that size stay as they are, bit for bit; others are resized; each form has a cache of its own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    small = random_image(0, size, size).convert("L" if channels == 1 else "RGB")
    small.save(folder / "a.png")
    random_image(1, 100, 80).save(folder / "b.png")
    found = data.load_images(folder, "train", tmp_path / "cache", size, channels).images
    assert found.shape == (2, channels, size, size) and found.dtype == np.uint8
    assert np.array_equal(found[0], np.asarray(small).reshape(size, size, channels).transpose(2, 0, 1))
    assert data.load_images(folder, "train", tmp_path / "cache").images.shape == (2, 3, 64, 64)
    assert np.array_equal(found, data.load_images(folder, "train", tmp_path / "cache", size, channels).images)
    assert data.load_images("digits:8", "train", tmp_path / "cache", size, channels).images.shape[1:] == found.shape[1:]


def test_sizes_and_channels_that_do_not_exist(tmp_path):
    for form in ((0, 3), (64, 2)):
        with pytest.raises(InputError, match="^--image_size, --channels: found "):
            data.load_images("synthetic:8", "train", tmp_path / "cache", *form)


def test_other_columns(tmp_path):
    folder = tmp_path / "table"
    make_parquet(folder, "train", image=[random_image(0)], label=[2])
    make_parquet(folder, "test", image=[random_image(1)], label=[0])
    import datasets
    for split in ("train", "test"):
        path = folder / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "hub")).rename_columns(
            {"image": "picture", "label": "species"}).to_parquet(path)
    load = lambda **columns: data.load_images(folder, "train", tmp_path / "cache", **columns)  # noqa: E731
    found = load(image_column="picture", label_column="species")
    assert np.array_equal(found.images[0], pixels(random_image(0)))
    assert found.labels.tolist() == [2] and found.label_names == ["cat", "dog", "wild"]
    assert load(image_column="picture").labels is None
    for columns, message in (({}, "no column `image`, only picture, species; rename the column that holds .* `image`$"),
                             ({"image_column": None}, "only picture, species; name the column .*--image_column"),
                             ({"image_column": "img"}, "^--image_column: found img, .*only picture, species"),
                             ({"image_column": "picture", "label_column": "x"}, "^--label_column: found x, .*species")):
        with pytest.raises(InputError, match=message) as caught:
            load(**columns)
        assert "\n" not in str(caught.value)
    photos = make_folder(tmp_path / "photos", "a.png")
    with pytest.raises(InputError, match="^--label_column: found with .*no columns"):
        data.load_images(photos, "train", tmp_path / "cache", label_column="label")


def test_the_native_form_of_a_split_without_images(tmp_path):
    """Of a table, and of idx files; a clear line as from the loading itself."""
    import datasets
    make_idx(tmp_path / "idx", count=0)
    (tmp_path / "table").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": []}, features).to_parquet(tmp_path / "table" / "train-00000-of-00001.parquet")
    for name in ("idx", "table"):
        for ask in (data.native_form, lambda folder: data.load_images(folder, "train", tmp_path / "cache")):
            with pytest.raises(InputError, match=f"^--dataset: .*{name}: split train has no images; expected at least"):
                ask(str(tmp_path / name))


@pytest.mark.parametrize("alias, name, image_column, label_column", [
    ("mnist", "ylecun/mnist", "image", "label"), ("cifar10", "uoft-cs/cifar10", "img", "label"),
    ("cifar100", "uoft-cs/cifar100", "img", "fine_label"),
    ("tiny-imagenet", "zh-plus/tiny-imagenet", "image", "label")])
def test_short_names_of_hub_data_sets(load, monkeypatch, alias, name, image_column, label_column):
    import datasets

    def load_dataset(path, streaming):
        assert path == name and streaming
        return streamed(**{image_column: [random_image(0)], label_column: [1]})
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load(alias)
    assert np.array_equal(found.images[0], pixels(random_image(0)))
    assert found.labels.tolist() == [1] and found.label_names == ["a", "b"]
    assert load(name).content_hash == found.content_hash


def make_idx(folder: Path, count: int = 5) -> np.ndarray:
    """MNIST's four files as torchvision lays them out, the test images packed; returns the training images."""
    import gzip
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, number in (("train", count), ("t10k", 2)):
        images = np.random.default_rng(number).integers(0, 256, (number, 28, 28), dtype=np.uint8)
        contents = {f"{prefix}-images-idx3-ubyte": np.array([2051, number, 28, 28], ">i4").tobytes() + images.tobytes(),
                    f"{prefix}-labels-idx1-ubyte": np.array([2049, number], ">i4").tobytes() + bytes(range(number))}
        for name, content in contents.items():
            if prefix == "t10k":
                (raw / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (raw / name).write_bytes(content)
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def test_idx_files(tmp_path):
    images = make_idx(tmp_path / "mnist")
    load = lambda split="train": data.load_images(tmp_path / "mnist", split, tmp_path / "cache", 28, 1)  # noqa: E731
    found = load()
    assert np.array_equal(found.images[:, 0], images) and found.labels.tolist() == list(range(5))
    assert found.label_names == [str(digit) for digit in range(10)]
    assert load("test").labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="no split 'validation'; it has train, test"):
        load("validation")


@pytest.mark.parametrize("name, content, message", [
    ("train-images-idx3-ubyte", lambda whole: whole[:-1], "holds 3919 values, expected 3920 .5 x 28 x 28.*cut short"),
    ("train-images-idx3-ubyte", lambda whole: whole[:7], "ends after 7 bytes, within its header of 16"),
    ("train-images-idx3-ubyte", lambda whole: b"", "begins with nothing, expected the header"),
    ("train-images-idx3-ubyte", lambda whole: b"<html>" + whole, "begins with 3c68746d, expected the header"),
    ("train-labels-idx1-ubyte", lambda whole: np.array([2049, 2], ">i4").tobytes() + b"ab", "2 labels, .* 5 images"),
    ("t10k-images-idx3-ubyte.gz", lambda whole: whole[:-20], "cannot be read")])
def test_damaged_idx_files(tmp_path, load, name, content, message):
    make_idx(tmp_path / "mnist")
    path = tmp_path / "mnist" / "MNIST" / "raw" / name
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(InputError, match=f"{name}: .*{message}.*fetch"):
        load(tmp_path / "mnist", "test" if "t10k" in name else "train")


def test_images_with_a_metadata_table_are_opened_by_datasets(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "a.png", "b.png")
    (folder / "metadata.csv").write_text("file_name,label\na.png,4\nb.png,7\n")
    assert load(folder).labels.tolist() == [4, 7]


def test_synthetic(load):
    train, validation = load("synthetic:16"), load("synthetic:16", "validation")
    assert np.array_equal(train.images, synthetic_faces.draw_images(range(16)))
    assert train.labels.tolist() == [k % 3 for k in range(16)]
    assert len(validation) == 2
    apart = np.abs(validation.images[:, None].astype(int) - train.images[None]).mean((2, 3, 4))
    assert apart.min() > 5                                  # no validation image is among the training images
    assert np.array_equal(load("synthetic:24").images[:16], train.images)
    with pytest.raises(InputError, match="no split 'test'; it has train, validation; name one of them"):
        load("synthetic:16", "test")


def test_synthetic_defaults(monkeypatch, load):
    monkeypatch.setattr(synthetic_faces, "draw", lambda index: np.full((3, 64, 64), index % 251, np.uint8))
    assert len(load("synthetic")) == 4000 and len(load("synthetic", "validation")) == 500


@pytest.mark.skipif(not ANIMALS.is_dir(), reason="../shared/data/animals64 is not there")
def test_animals64(load):
    train, validation = load(ANIMALS), load(ANIMALS, "validation")
    assert np.bincount(train.labels).tolist() == [1500, 3000, 8000]
    assert train.images.shape == (12500, 3, 64, 64) and validation.images.shape == (1250, 3, 64, 64)
    assert set(validation.labels.tolist()) == {0, 1, 2}
    grey = (train.images == train.images[:, :1]).all((1, 2, 3))
    assert 50 < grey.sum() < 400


@pytest.mark.slow
@pytest.mark.parametrize("name, size, channels, last", [("mnist", 28, 1, "9"), ("cifar10", 32, 3, "truck")])
def test_the_shared_small_images(tmp_path, name, size, channels, last):
    folder = ANIMALS.parent / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    found = data.load_images(folder, "test", tmp_path / "cache", size, channels)
    assert found.images.shape == (10_000, channels, size, size)
    assert found.label_names[9] == last and len(found.label_names) == 10 and found.labels.max() == 9


# --- slices and hashes ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part, expected", [("[:5]", range(5)), ("[-4:]", range(12, 16)), ("[3:7]", range(3, 7)),
                                            ("[-6:-2]", range(10, 14)), ("[14:]", range(14, 16)), ("[:]", range(16)),
                                            ("[:-15]", range(1)), ("[:16]", range(16))])
def test_slices(load, part, expected):
    found, whole = load("synthetic:16", "train" + part), load("synthetic:16")
    assert np.array_equal(found.images, whole.images[list(expected)])
    assert np.array_equal(found.labels, whole.labels[list(expected)])
    assert found.split == "train" + part
    assert found.content_hash == hashlib.sha256(whole.images[list(expected)].tobytes()).hexdigest()[:16]
    assert (found.content_hash == whole.content_hash) == (len(expected) == 16)


@pytest.mark.parametrize("split", ["train[:17]", "train[16:]", "train[5:5]", "train[7:3]", "train[-17:]"])
def test_slices_beyond_the_images(load, split):
    with pytest.raises(InputError, match="train has 16 images"):
        load("synthetic:16", split)


@pytest.mark.parametrize("split", ["train[:10%]", "train[::2]", "train[5]", "train[]", "train[a:b]", "", "[:5]", "a/b"])
def test_slices_that_cannot_be_read(load, split):
    with pytest.raises(InputError, match="^split: found .*train\\[:500\\]"):
        load("synthetic:16", split)


# --- cache ------------------------------------------------------------------------------------------------------------

def test_keys_of_64x64_colour_caches_stay(tmp_path, load, monkeypatch):
    """The names of cache files of the first published version: a cache made then is still found."""
    import datasets
    monkeypatch.setattr(datasets, "load_dataset", lambda path, streaming: streamed(image=[random_image(0)]))
    load("huggan/AFHQv2")
    assert cache_file(tmp_path).name == "huggan_AFHQv2_train_c289966f119d9d27.npy"


def test_a_cache_of_a_folder_from_before_there_were_names_is_built_again(tmp_path, load, capsys):
    folder = make_folder(tmp_path / "photos", "a/x.png", "b/y.png")
    load(folder)
    record_path = cache_file(tmp_path, ".json")
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps({key: record[key] for key in record if key != "label_names"}))
    capsys.readouterr()
    assert load(folder).label_names == ["a", "b"] and "building it again" in capsys.readouterr().out


def test_the_cache_is_used_and_memory_mapped(tmp_path, load, monkeypatch):
    folder = make_folder(tmp_path / "photos", "a.png", "b.png")
    first = load(folder)
    monkeypatch.setattr(data, "decode", lambda *_: pytest.fail("decoded again"))
    second = load(folder)
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable
    assert np.array_equal(first.images, second.images) and first.content_hash == second.content_hash
    record = json.loads(cache_file(tmp_path, ".json").read_text())
    assert record["count"] == 2 and record["content_hash"] == hashlib.sha256(second.images.tobytes()).hexdigest()[:16]
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def test_a_changed_folder_is_read_again_and_a_missing_one_refused(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "a.png")
    before = load(folder)
    random_image(8).save(folder / "b.png")
    added = load(folder)
    assert len(added) == 2 and added.content_hash != before.content_hash
    state = (folder / "b.png").stat()
    random_image(7).save(folder / "b.png")
    os.utime(folder / "b.png", ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    assert np.array_equal(load(folder).images[1], pixels(random_image(7)))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(InputError, match="no such folder"):
        load(folder)


def damage_truncate(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 100)


def damage_flip(path):
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte[0] ^ 255]))
    os.utime(path, ns=(0, 0))                               # surely another time than when it was written


def damage_replace(path):
    np.save(path, np.zeros((2, 3, 64, 64), np.float32))


def damage_pickle(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def damage_remove(path):
    path.unlink()


@pytest.mark.parametrize("suffix, damage", [
    (".npy", damage_truncate), (".npy", damage_flip), (".npy", damage_replace), (".npy", damage_pickle),
    (".npy", damage_remove), (".json", damage_truncate), (".labels.npy", damage_truncate),
    (".labels.npy", damage_flip), (".labels.npy", damage_remove)])
def test_a_damaged_cache_is_built_again(tmp_path, load, capsys, suffix, damage):
    whole = load("synthetic:12")
    images, content_hash = np.array(whole.images), whole.content_hash
    del whole
    damage(cache_file(tmp_path, suffix))
    capsys.readouterr()
    again = load("synthetic:12")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and "damaged cache" in printed[0] and "building it again" in printed[0]
    assert np.array_equal(again.images, images) and again.content_hash == content_hash
    assert again.labels.tolist() == [k % 3 for k in range(12)]
    load("synthetic:12")
    assert capsys.readouterr().out == ""


def test_a_copied_cache_is_checked_once_by_content_and_accepted(tmp_path, load, monkeypatch, capsys):
    load("synthetic:12")
    os.utime(cache_file(tmp_path), ns=(0, 0))
    monkeypatch.setattr(data, "write_cache", lambda *_: pytest.fail("built again"))
    assert len(load("synthetic:12")) == 12


def test_a_failed_build_leaves_nothing(tmp_path, load):
    folder = make_folder(tmp_path / "photos", *(f"{k}.png" for k in range(5)))
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"3\.png: cannot be read as an image"):
        load(folder)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


DECODER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from engine import image_files
import data
from engine import synthetic_faces as synthetic
draw, end = synthetic.draw, time.monotonic() + 60
def draw_late(index):
    with open("drawn.txt", "a") as file:
        file.write(f"{index}\\n")
    while not os.path.exists("go"):
        time.sleep(0.02)
        if time.monotonic() > end:
            os._exit(1)
    return draw(index)
synthetic.draw = draw_late
print(data.load_images("synthetic:8", "train", "cache").content_hash)
"""


def start_decoder(folder):
    """Another process that decodes eight images once there is a file `go`, and prints the content hash."""
    return subprocess.Popen([sys.executable, "-c", DECODER, str(ROOT)], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_of_two_processes_one_decodes_and_the_other_waits(tmp_path):
    first = start_decoder(tmp_path)
    wait_until((tmp_path / "drawn.txt").exists)
    second = start_decoder(tmp_path)
    assert second.stdout.readline() == "waiting for another process that decodes synthetic:8 train\n"
    (tmp_path / "go").touch()
    (hash_of_first, _), (hash_of_second, _) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert len(hash_of_first) == 17 and hash_of_first == hash_of_second
    assert sorted((tmp_path / "drawn.txt").read_text().split()) == [str(k) for k in range(8)]
    assert not list((tmp_path / "cache").rglob(".building*"))


def test_what_a_killed_decoder_left_is_removed(tmp_path, load):
    killed = start_decoder(tmp_path)
    wait_until((tmp_path / "drawn.txt").exists)
    killed.kill()
    killed.communicate()
    [left] = (tmp_path / "cache").rglob(".building*")
    (left / "part").mkdir()
    (left / "part" / "table.arrow").write_text("half")
    assert list((tmp_path / "cache").rglob("*.tmp*"))
    assert len(load("synthetic:8")) == 8
    assert not [path for path in (tmp_path / "cache").rglob("*") if ".tmp" in path.name or ".building" in path.name]


# --- device and options -----------------------------------------------------------------------------------------------

def test_on_the_cpu_the_tensor_shares_the_memory_map(load, recwarn):
    images = load("synthetic:12").images
    tensor = data.images_on(images, "cpu")
    assert tensor.dtype == torch.uint8 and tensor.data_ptr() == images.ctypes.data
    assert not [warning for warning in recwarn if warning.category is UserWarning]      # torch: not writable
    assert np.array_equal(data.images_on(images[3:5], torch.device("cpu")).numpy(), images[3:5])


@pytest.mark.gpu
def test_on_the_gpu_if_it_fits(load, monkeypatch):
    images = load("synthetic:12").images
    tensor = data.images_on(images, "cuda:0")
    assert tensor.device == torch.device("cuda:0") and np.array_equal(tensor.cpu().numpy(), images)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (images.nbytes, images.nbytes))
    assert data.images_on(images, "cuda:0").device.type == "cpu"


def test_too_large_for_the_gpu_stays_in_host_memory(load, monkeypatch, capsys):
    images = load("synthetic:12").images
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * images.nbytes - 1, 10 * images.nbytes))
    assert data.images_on(images, "cuda:0").data_ptr() == images.ctypes.data
    assert "stay in host memory" in capsys.readouterr().out


def test_options():
    parser = argparse.ArgumentParser()
    data.add_data_options(parser)
    assert vars(parser.parse_args([])) == {"dataset": "huggan/AFHQv2", "cache_dir": "cache"}
    parser = argparse.ArgumentParser()
    data.add_data_options(parser, image_size=28, channels=1, columns=True)
    assert vars(parser.parse_args(["--image_column", "img"])) == {
        "dataset": "huggan/AFHQv2", "cache_dir": "cache", "image_size": 28, "channels": 1, "image_column": "img",
        "label_column": None}


# --- wrong input ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dataset", ["synthetic:", "synthetic:0", "synthetic:-5", "synthetic:7", "synthetic:many",
                                     "synthetic:1.5", "synthetic:99999999999"])
def test_wrong_synthetic_counts(load, dataset):
    with pytest.raises(InputError, match="^--dataset: found 'synthetic:.*whole number from 8 to "):
        load(dataset)


@pytest.mark.parametrize("dataset", ["./nowhere", "../nowhere", "/no/where", "~/no-where", "a/b/c", "~no-such-user"])
def test_a_folder_that_is_not_there(load, dataset):
    with pytest.raises(InputError, match="--dataset: .*no such folder, expected a folder of images"):
        load(dataset)


def test_a_file_and_an_empty_folder(tmp_path, load):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="found a file"):
        load(tmp_path / "empty" / "notes.txt")
    with pytest.raises(InputError, match=r"no images in it \(1 files\), expected images"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="found nothing"):
        load("")


def test_images_beside_parquet_are_refused(tmp_path, load):
    folder = make_parquet(make_folder(tmp_path / "both", "x.png"), "train", image=[random_image(0)])
    with pytest.raises(InputError, match="holds both a table .*parquet.* and images .*x.png"):
        load(folder)


def test_a_folder_written_by_save_to_disk(tmp_path, load):
    import datasets
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="save_to_disk.*to_parquet"):
        load(tmp_path / "saved")


def test_damaged_parquet_and_wrong_columns(tmp_path, load):
    folder = make_parquet(tmp_path / "broken", "train", image=[random_image(0)])
    damage_truncate(folder / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match="broken: `datasets` cannot open this folder"):
        load(folder)
    with pytest.raises(InputError, match="no column `image`, only label, picture"):
        load(make_parquet(tmp_path / "no_image", "train", label=[0], picture=[1]))
    import datasets
    (tmp_path / "numbers").mkdir()
    datasets.Dataset.from_dict({"image": [1, 2]}).to_parquet(tmp_path / "numbers" / "train.parquet")
    with pytest.raises(InputError, match="column `image` of split train holds .*int64.*, expected images"):
        load(tmp_path / "numbers")


def test_a_corrupt_image_in_parquet_is_named_by_its_number(tmp_path, load):
    import datasets
    stored = [{"bytes": encoded(random_image(k)), "path": f"n{k}.png"} for k in range(3)]
    stored[1]["bytes"] = b"this is no image"
    features = datasets.Features({"image": datasets.Image()})
    for name, rows, message in (("corrupt", stored, r"image 1 of split train \(n1.png\): cannot be read as an image"),
                                ("missing", [stored[0], None], "image 1 of split train is empty"),
                                ("none", [], "split train has no images|cannot open")):
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(tmp_path / name / "train.parquet")
        with pytest.raises(InputError, match=message):
            load(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(random_image(0))[:500],
                                     encoded(random_image(0, 300, 300), "JPEG")[:2000],
                                     encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")])
def test_unreadable_images_are_named(tmp_path, load, content):
    folder = make_folder(tmp_path / "photos", "good.png")
    (folder / "bad.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"photos/bad\.jpg: cannot be read as an image .*or remove it$") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_link_to_nothing_is_named(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "good.png")
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(InputError, match=r"gone\.png: cannot be read"):
        load(folder)


def test_the_hub_out_of_reach_and_a_name_it_does_not_have(load, monkeypatch):
    import datasets
    with pytest.raises(InputError, match="nobody/nothing: .*cannot be reached .*local folder, or --dataset synthetic"):
        load("nobody/nothing")

    def not_found(**_):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'nobody/nothing' doesn't exist\non the Hub")
    monkeypatch.setattr(datasets, "load_dataset", not_found)
    with pytest.raises(InputError, match=r"nobody/nothing: .*does not give it \(Dataset .* doesn't exist on"):
        load("nobody/nothing")


def test_a_hub_data_set_is_fetched_once(load, monkeypatch):
    import datasets
    calls = []

    def load_dataset(path, streaming):
        calls.append(path)
        return streamed(image=[random_image(0)])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    first, second = load("huggan/AFHQv2"), load("huggan/AFHQv2")
    assert calls == ["huggan/AFHQv2"] and np.array_equal(first.images[0], pixels(random_image(0)))
    assert first.content_hash == second.content_hash
    with pytest.raises(InputError, match="no split 'validation'; it has train; name one of them with --split"):
        load("huggan/AFHQv2", "validation")


def test_a_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(InputError, match="--cache_dir: .*cannot be written to"):
        data.load_images("synthetic:8", "train", tmp_path / "cache")
