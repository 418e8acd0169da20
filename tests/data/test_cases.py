"""Kinds of folders and files that users have and that once went wrong: each ends in the right images or in one line."""
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import data
from conftest import ROOT
from engine.errors import InputError


@pytest.fixture
def load(tmp_path):
    """load_images with a cache below tmp_path."""
    return lambda dataset, split="train": data.load_images(str(dataset), split, tmp_path / "cache")


def image_of(level: int, size: int = 64) -> Image.Image:
    """A picture of one grey level."""
    return Image.new("RGB", (size, size), (level,) * 3)


def make_folder(folder: Path, *names: str) -> Path:
    """Pictures under these names; number k has level k."""
    for level, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image_of(level).save(folder / name)
    return folder


def levels(images: data.ImageSet) -> list[int]:
    """The level of every picture."""
    return images.images[:, 0, 0, 0].tolist()


def png(level: int) -> dict:
    """A row of an image column."""
    buffer = io.BytesIO()
    image_of(level).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{level}.png"}


def one_line(error) -> str:
    """The message, which has to be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_words_for_splits_in_file_names(tmp_path, load):
    names = ["bus 1.png", "train 1.png", "crash test.png"]
    folder = make_folder(tmp_path / "photos", *names)
    (folder / "metadata.csv").write_text("file_name,label\n" + "".join(f"{name},0\n" for name in names))
    with pytest.raises(InputError, match="1 of 3 files would not be read .bus 1.png") as error:
        load(folder)
    one_line(error)


def test_metadata_of_a_part(tmp_path, load):
    folder = make_folder(tmp_path / "photos", "a/0.png", "a/1.png", "b/0.png")
    (folder / "a" / "metadata.csv").write_text("file_name,label\n0.png,0\n1.png,1\n")
    with pytest.raises(InputError, match="lists 2 of 3 images"):
        load(folder)


def test_a_stray_table(tmp_path, load):
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("train-00000-of-00001.parquet", "more.parquet"):
        pq.write_table(pa.table({"image": [png(1)]}), folder / name)
    with pytest.raises(InputError, match="1 of 2 files would not be read .more.parquet"):
        load(folder)


def test_other_suffixes_are_read_or_counted(tmp_path, load, capsys):
    folder = make_folder(tmp_path / "photos", "a.jpg", "b.JPG", "c.jfif", "d.jpe", "e.tga")
    for name in ("i.heic", "h", "k.heic"):
        (folder / name).write_bytes(b"?")
    assert len(load(folder)) == 5
    assert "3 files are passed over (.heic: 2, no suffix: 1)" in capsys.readouterr().out


@pytest.mark.parametrize("prefix, train, held_out", [("", "Train", "Valid"), ("faces/", "train", "val"),
                                                    ("a/b/", "TRAIN", "Validation")])
def test_split_folders_at_any_depth_and_in_any_case(tmp_path, load, prefix, train, held_out):
    folder = make_folder(tmp_path / "photos", f"{prefix}{train}/cat/0.png", f"{prefix}{train}/dog/0.png",
                         f"{prefix}{held_out}/dog/0.png")
    assert levels(load(folder)) == [0, 1] and levels(load(folder, "validation")) == [2]
    assert load(folder, "validation").labels.tolist() == [1]


def test_rows_of_numbers_are_no_images(tmp_path, load):
    folder = tmp_path / "flat"
    folder.mkdir()
    pq.write_table(pa.table({"image": [list(range(784))] * 2}), folder / "train.parquet")
    with pytest.raises(InputError, match="column `image` of split train holds rows of numbers"):
        load(folder)


def test_relative_paths_in_a_table(tmp_path, load, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "images/0.png"}]}), folder / "train.parquet")
    monkeypatch.chdir(make_folder(tmp_path / "elsewhere", "images/0.png"))
    with pytest.raises(InputError, match="only a path .images/0.png"):
        load(folder)


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
def test_integers_of_32_bits_are_refused(tmp_path, load, kind):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.full((64, 64), 200, np.int32).astype(kind).view(np.int32)).save(folder / "a.tif")
    with pytest.raises(InputError, match="a.tif: .*32-bit pixels"):
        load(folder)


def test_what_a_user_may_not_expect_is_said(tmp_path, load, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.full((64, 64), 4095, np.uint16)).save(folder / "twelve_bits.png")
    Image.fromarray(np.full((64, 64), 65535, np.uint16)).save(folder / "sixteen_bits.png")
    image_of(0).save(folder / "moving.gif", save_all=True, append_images=[image_of(200)])
    exif = Image.Exif()
    exif[0x0112] = 6
    image_of(9).save(folder / "sideways.jpg", exif=exif)
    load(folder)
    printed = capsys.readouterr().out
    for text in ("several pictures, of which the first", "EXIF orientation, which is ignored", "16 bits but use less"):
        assert "1 of 4 images" in next(line for line in printed.splitlines() if text in line)


def test_bad_images_are_named_at_once(tmp_path, load):
    folder = make_folder(tmp_path / "photos", *(f"{k}.png" for k in range(6)))
    for k in (1, 3, 4):
        (folder / f"{k}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="^3 of 6 images cannot be used: .*1.png.*3.png.*4.png") as error:
        load(folder)
    one_line(error)
    assert not list((tmp_path / "cache").rglob("*.npy*"))


def test_the_limit_of_pixels_is_named(tmp_path, load, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="a.png: has 4096 pixels, more than the limit of 2000; .*MAX_IMAGE_PIXELS"):
        load(make_folder(tmp_path / "photos", "a.png"))


def test_the_limit_of_pixels_is_lifted():
    code = "import data; from PIL import Image; print(Image.MAX_IMAGE_PIXELS)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, "MAX_IMAGE_PIXELS": "400000000"})
    assert found.stdout == "200000000\n"


@pytest.mark.parametrize("name", ["synthetic", "digits", "mnist", "cifar10"])
def test_a_folder_called_like_a_data_set(tmp_path, load, monkeypatch, name):
    make_folder(tmp_path / name, "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"write ./{name} for the folder"):
        load(name)
    assert len(load(f"./{name}")) == 1
    assert data.without_slash(f"./{name}/") == f"./{name}" and data.without_slash(name) == name


def test_one_folder_has_one_spelling(tmp_path, monkeypatch):
    make_folder(tmp_path / "photos", "a.png")
    monkeypatch.chdir(tmp_path)
    for spelling in ("photos", "./photos", "photos/", str(tmp_path / "photos"), "photos/../photos"):
        assert data.without_slash(spelling) == "photos"
    assert data.without_slash("huggan/AFHQv2") == "huggan/AFHQv2" and data.without_slash("./gone") == "./gone"


def test_difficult_names(tmp_path, load):
    long = make_folder(tmp_path / ("\u732b" * 80), "a.png")
    assert len(load(long)) == len(load(long)) == 1
    no_utf_8 = os.fsdecode(b"caf\xe9")
    found = load(make_folder(tmp_path / no_utf_8, "a.png"))
    assert found.dataset.endswith("caf\\xe9") and found.dataset.encode()
    with pytest.raises(InputError, match="has a line break") as error:
        load(make_folder(tmp_path / "two\nlines", "a.png"))
    one_line(error)
