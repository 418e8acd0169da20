"""Checkpoints of every family as tiny runs leave them, for the demo's tests."""
import atexit
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_tiny_checkpoints
from data import ImageSet
from distill import options as distill_options
from distill import train as distill_train
from engine import files
from engine.loop import train
from flow import train as flow_train
from flow.training import make_task as make_flow_task
from lift import checkpoints, error_map, paths
from lift.heatmap_file import add_origin, heatmap_path
from mnist import training as mnist_training

SMALL = ["--batch_size", "4", "--num_threads", "1", "--device", "cpu", "--precision", "float32", "--no_tensorboard"]


@functools.cache                        # one for all tests of a process
def shelf_folder() -> Path:
    """Where the checkpoints lie; the folder goes when the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    fill(Path(folder.name))
    return Path(folder.name)


def fill(folder: Path) -> None:
    """A baseline and LIFT with its error map, a flow with classes, digits with classes and without, a student of
    LIFT."""
    write_tiny_checkpoints(folder / "checkpoints")
    lift = checkpoints.load_model(folder / "checkpoints/lift_dual_timestep_1ep.pth")
    images = np.random.RandomState(0).randint(0, 256, (1, 3, 64, 64)).astype(np.uint8)
    heatmap = error_map.estimate(lift.model, images, paths.timestep_grid(5), K=1, batch_size=1)
    heatmap = add_origin(heatmap, lift, ImageSet(images, None, "drawn", "train", "hash"))
    files.save_torch(heatmap_path(folder / "results", 5, "lift_dual_timestep", 1, "ema"), heatmap)
    places = ["--cache_dir", str(folder / "cache"), "--checkpoint_dir", str(folder / "checkpoints"), "--output_dir",
              str(folder / "results")]
    train(make_flow_task, flow_train.parse_args(
        ["--dataset", "digits:16", "--image_size", "8", "--hidden_size", "16", "--depth", "1", "--num_heads", "2",
         "--mlp_ratio", "2", "--patch_size", "4", "--max_steps", "2", "--name", "tiny_flow", *places, *SMALL]))
    train(distill_train.make_task, distill_options.parse(
        ["--teacher", str(lift.path), "--max_steps", "2", "--dfake_gen_update_ratio", "2",
         "--denoising", "--num_denoising_step", "2", "--backward_simulation", "--sample_every", "0", "--name",
         "student",
         *places, *SMALL]))
    for name, conditioning in (("plain", "none"), ("classes", "concat")):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", [
                "train_rf", "--dataset", "digits:16", "--batch_size", "8", "--epochs", "1", "--num_threads", "1",
                "--sample_every", "0", "--precision", "float32", "--base_channels", "8", "--channel_multipliers", "1",
                "2", "--attention_levels", "1", "--patch_size", "1", "--conditioning", conditioning, "--name", name])
            mnist_training.run("tiny", "rf", "flow")
    (folder / "checkpoints/notes.pth").write_text("no checkpoint")
    torch.set_num_threads(1)
