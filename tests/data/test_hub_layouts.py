"""Hub data sets, from small local files in their hub layout: the three of classes, and how they are streamed."""
import io

import numpy as np
import pytest
from PIL import Image

import data
from data import load_images
from engine import image_files
from engine.errors import InputError

WORDNET = ["n01443537", "n01629819", "n01641577", "n02085620"]


def png(rng, size: int, mode: str = "RGB") -> dict:
    shape = (size, size) if mode == "L" else (size, size, 3)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(folder, split: str, image_column: str, size: int, columns: dict, names: dict, grey_every: int = 0):
    """A parquet file of that layout. columns: label numbers by column; names: of their classes."""
    import datasets
    rng = np.random.default_rng(0)
    count = len(next(iter(columns.values())))
    pictures = [png(rng, size, "L" if grey_every and k % grey_every == 0 else "RGB") for k in range(count)]
    features = {image_column: datasets.Image()} | {key: datasets.ClassLabel(names=names[key]) for key in columns}
    table = datasets.Dataset.from_dict({image_column: pictures} | columns, features=datasets.Features(features))
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The three data sets in folders, which stand for their names on the hub."""
    import datasets
    ten, hundred = [f"class {k}" for k in range(10)], [f"fine {k}" for k in range(100)]
    for split, count in (("train", 40), ("test", 20)):
        labels = [7 * k % 10 for k in range(count)]
        write(tmp_path / "cifar10", split, "img", 32, {"label": labels}, {"label": ten})
        write(tmp_path / "cifar100", split, "img", 32, {"fine_label": [3 * k % 100 for k in range(count)],
                                                        "coarse_label": [k % 20 for k in range(count)]},
              {"fine_label": hundred, "coarse_label": [f"coarse {k}" for k in range(20)]})
    for split, count in (("train", 40), ("valid", 12)):
        write(tmp_path / "tiny", split, "image", 64, {"label": sorted(k % 4 for k in range(count))}, {"label": WORDNET},
              grey_every=5)
    folders = {"uoft-cs/cifar10": "cifar10", "uoft-cs/cifar100": "cifar100", "zh-plus/tiny-imagenet": "tiny"}
    load_dataset = datasets.load_dataset
    asked = []

    def from_folder(path, **how):
        asked.append(path)
        files = {"train": str(tmp_path / folders[path] / "train-*.parquet")} | {
            split: str(file) for split in ("test", "valid")
            for file in (tmp_path / folders[path]).glob(f"{split}-*.parquet")}
        return load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hub"), **how)
    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    return tmp_path, asked


def test_aliases_open_their_layouts(hub):
    folder, asked = hub
    cache = folder / "cache"
    images = load_images("cifar10", "train", cache, size=32)
    assert images.images.shape == (40, 3, 32, 32) and images.labels.tolist() == [7 * k % 10 for k in range(40)]
    assert images.label_names[7] == "class 7"
    fine = load_images("cifar100", "test", cache, size=32)
    assert fine.labels.tolist() == [3 * k % 100 for k in range(20)] and fine.label_names[99] == "fine 99"
    coarse = load_images("cifar100", "test", cache, size=32, label_column="coarse_label")
    assert coarse.labels.tolist() == [k % 20 for k in range(20)] and coarse.content_hash == fine.content_hash
    assert coarse.label_names[19] == "coarse 19"
    tiny = load_images("tiny-imagenet", "train", cache)
    assert tiny.labels.tolist() == sorted(tiny.labels.tolist()) and tiny.label_names == WORDNET
    grey, colour = tiny.images[0], tiny.images[1]
    assert (grey == grey[:1]).all() and not (colour == colour[:1]).all()
    assert load_images("tiny-imagenet", "valid", cache).images.shape == (12, 3, 64, 64)
    assert asked == ["uoft-cs/cifar10", *["uoft-cs/cifar100"] * 2, *["zh-plus/tiny-imagenet"] * 2]
    again = load_images("cifar10", "train", cache, size=32)                 # from the cache, names too
    assert len(asked) == 5 and again.label_names == images.label_names and np.array_equal(again.images, images.images)
    with pytest.raises(InputError, match="--label_column: found breed, but uoft-cs/cifar10 has in split train only"):
        load_images("cifar10", "train", cache, size=32, label_column="breed")
    with pytest.raises(InputError, match="--label_column: found with --dataset synthetic:8, which has no columns"):
        load_images("synthetic:8", "train", cache, label_column="breed")


def test_a_hub_data_set_is_never_whole_in_memory_nor_decoded_by_others(hub, monkeypatch):
    """At most a window of encoded images lives at any time, no PIL image is made but ours, and nothing but the cache is
    written. The cache has the bytes that numpy would write."""
    import datasets
    monkeypatch.setattr(image_files, "WINDOW", 8)
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("decoded by `datasets`"))
    alive, most, decode = set(), [], image_files.decode

    class Encoded(bytes):
        def __init__(self, _):
            alive.add(id(self))

        def __del__(self):
            alive.discard(id(self))
    undecoded = data.undecoded

    def noted(table, column):
        for row in undecoded(table, column):
            row[column]["bytes"] = Encoded(row[column]["bytes"])
            yield row
    monkeypatch.setattr(data, "undecoded", noted)
    monkeypatch.setattr(data, "decode", lambda file, *rest: most.append(len(alive)) or decode(file, *rest))
    folder, _ = hub
    found = load_images("cifar10", "train", folder / "cache", size=32)
    assert len(most) == 40 and 1 <= max(most) <= 2 * 8          # a window, and the next before the last is let go
    assert not (folder / "hub").exists() or not [path for path in (folder / "hub").rglob("*.arrow")]
    [file] = [path for path in (folder / "cache/images").glob("cifar10_train_*.npy") if ".labels" not in path.name]
    np.save(folder / "numpy.npy", np.array(found.images))
    assert file.read_bytes() == (folder / "numpy.npy").read_bytes()


def test_a_stream_that_breaks_off_is_one_line_and_leaves_no_cache(hub, monkeypatch):
    folder, asked = hub
    undecoded = data.undecoded

    def broken(table, column):
        for number, row in enumerate(undecoded(table, column)):
            if number == 11:
                raise ConnectionError("Connection reset\nby peer")
            yield row
    monkeypatch.setattr(data, "undecoded", broken)
    with pytest.raises(InputError,
                       match="^--dataset: uoft-cs/cifar10: .*cannot be reached .Connection reset by peer") as error:
        load_images("cifar10", "train", folder / "cache", size=32)
    assert "\n" not in str(error.value) and not [path for path in (folder / "cache").rglob("*") if path.is_file()]


def test_labels_that_are_texts_are_numbered_over_all_streamed_splits(tmp_path, monkeypatch):
    import datasets
    rng = np.random.default_rng(0)
    for split, labels in (("train", ["owl", "cat", "owl"]), ("test", ["ant", "cat"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict({"image": [png(rng, 8) for _ in labels], "label": labels}, features).to_parquet(
            tmp_path / f"{split}.parquet")
    load_dataset = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **how: load_dataset(
        "parquet", data_files={split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}, **how))
    found = load_images("somebody/birds", "train", tmp_path / "cache", size=8)
    assert found.label_names == ["ant", "cat", "owl"] and found.labels.tolist() == [2, 1, 2]
