"""What will be refused is refused before its images are decoded."""
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

import data
from conftest import write_tiny_checkpoints
from data import Facts, load_images
from engine.errors import InputError
from mnist import training

NIGHT = ["--val_every", "1", "--val_split", "night"]
NO_NIGHT = "has no split 'night'"
BEYOND = ["--val_every", "1", "--val_split", "train[:99]"]
PHOTOS = ["--dataset", "photos"]                    # of no class
DISTILL = ["--teacher", "baseline_1ep.pth", "--cls_on_clean_image", "--gen_cls_loss", "--batch_size", "2"]
FLOW = ["--patch_size", "16"]
UNLABELLED = "its split train has no labels"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a folder of eight pictures and tiny checkpoints; a picture that is decoded is a
    failure."""
    (tmp_path / "photos").mkdir()
    for k in range(8):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / f"photos/{k}.png")
    write_tiny_checkpoints(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "write_cache", lambda *_: pytest.fail("images were decoded"))
    return tmp_path


@pytest.mark.parametrize("command, words, message", [
    ("train_baseline", NIGHT, NO_NIGHT), ("train_lift", [*PHOTOS, *NIGHT], NO_NIGHT),
    ("train_lift", [*PHOTOS, *BEYOND], "has 8 images; expected a slice"),
    ("train_baseline", ["--batch_size", "16"], "--batch_size: found 16, expected at most 8"),
    ("train_baseline", ["--split", "train[:3]", "--batch_size", "4"], "--batch_size: found 4, expected at most 3"),
    ("flow.train", [*FLOW, "--batch_size", "8", *NIGHT], NO_NIGHT),
    ("flow.train", [*FLOW, "--batch_size", "16"], "--batch_size: found 16, expected at most 8"),
    ("flow.train", [*FLOW, *PHOTOS, "--batch_size", "4"], UNLABELLED),
    ("mnist.train_rf", ["--batch_size", "16"], "--batch_size: found 16, expected at most 8"),
    ("mnist.train_rf", [*PHOTOS, "--batch_size", "4", "--conditioning", "concat"], "has no labels; expected none"),
    ("distill.train", [*DISTILL, *NIGHT], NO_NIGHT), ("distill.train", [*DISTILL, *PHOTOS, *BEYOND], "has 8 images"),
    ("eval_fid_batch", ["--checkpoint", "baseline_1ep.pth", "--metrics", "groups"], "found no names of classes"),
    ("scripts.choose_constants", ["--checkpoints", "baseline_1ep.pth", "--metrics", "swd", "--choose_by", "swd",
                                  "--reference_split", "night"], NO_NIGHT)])
def test_a_command_refuses_before_it_decodes(command, words, message, place, monkeypatch):
    words = words if "--dataset" in words else ["--dataset", "synthetic:8", *words]
    monkeypatch.setattr("sys.argv", [command, *words, "--device", "cpu"])
    before = {path.name for path in place.iterdir()}
    main = getattr(import_module(command), "main", lambda: training.run("", "rf", "flow"))
    with pytest.raises(InputError, match=message):
        main()
    assert {path.name for path in place.iterdir()} - before <= {"cache", "checkpoints", "results"}


@pytest.mark.parametrize("command, words, usual", [
    ("train_baseline", [], "validation"), ("flow.train", [*FLOW, "--unconditional"], "test"),
    ("distill.train", DISTILL[:2], "test")])
def test_held_out_images_are_those_that_a_data_set_has(command, words, usual, place, monkeypatch, capsys):
    """Where --val_split is left out: the usual split, or the only other one; a data set of one split is refused."""
    def asked(dataset, *more):
        monkeypatch.setattr("sys.argv", [command, *words, "--batch_size", "2", "--val_every", "1", "--dataset", dataset,
                                         "--device", "cpu", *more])
        with pytest.raises((InputError, pytest.fail.Exception)) as error:
            import_module(command).main()
        assert "\n" not in str(error.value)
        return str(error.value), capsys.readouterr().out

    for dataset, there in (("synthetic:16", "validation"), ("digits:16", "test")):
        refused, said = asked(dataset)
        assert refused == "images were decoded" and ("--val_split" in said) == (there != usual)
        assert f"--val_split: left out, so {there}" in said or there == usual
    assert f"has no split '{usual}'; it has train; name one of them with --split, --val_split" in asked("photos")[0]
    assert "has no split 'night'" in asked("synthetic:16", "--val_split", "night")[0]


def test_what_only_a_table_knows_is_asked_of_it_before_its_images_are_decoded(place):
    import datasets
    (place / "table").mkdir()
    pixels = [Image.fromarray(np.zeros((8, 8, 3), np.uint8))] * 3
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict({"image": pixels, "label": [0, 1, 1]}, features).to_parquet(
        place / "table/train-00000-of-00001.parquet")
    with pytest.raises(InputError, match=NO_NIGHT):
        load_images("table", beside=["train[:2]", "night"])
    seen = []

    def refuse(facts):
        seen.append(facts)
        raise InputError("none of these")
    with pytest.raises(InputError, match="none of these"):
        load_images("table", check=refuse)
    assert seen == [Facts(None, None, ["cat", "dog"])]


def test_of_a_cache_all_is_known(tmp_path):
    seen = []
    for _ in range(2):
        load_images("digits:16", "train[4:]", tmp_path, beside=["test"], check=seen.append)
    assert seen == [Facts(12, True, [])] * 3                # before and after it was decoded, and from the cache
