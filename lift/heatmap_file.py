"""The file of an error map: its content, its place, and the checks before it is used.

A heatmap file is a dictionary of plain types and tensors, as `error_map.estimate` and `add_origin` fill it:
  format_version        1
  timesteps             int64 [n], falling; maps are indexed [i of t_64, j of t_32]
  error_64, error_32    float64 [n, n]: blocks 64<-64 and 32<-32 of `options.prediction`, each times the chain-rule
                        factor of its scale's own SNR; what DP-64 and DP-Total read
  standard_error_64, standard_error_32          float64 [n, n]
  blocks, block_standard_errors                 {eps, x0: {block name: float64 [n, n]}}, without chain-rule factor
  frobenius             float32 [2, 4, n, n, M]: ||J r||^2, mean over K, per prediction, block and image; nan where a
                        cell was not sampled that far
  num_images            int64 [n, n]
  num_primals, num_tangents                     network evaluations of one image spent
  edge_costs            {name: float64 [n, n, J + 1, J + 1]}, may be empty
  options               of the estimate: K, batch_size, grid, grid_space, chain_rule, normalization, prediction, seed...
  checkpoint, checkpoint_fingerprint, weights, epochs, dataset, split, content_hash
"""
from pathlib import Path

import numpy as np
import torch

from engine.errors import InputError
from engine.files import expecting, load_torch
from lift.error_map import BLOCKS, check_cells, weighted_maps
from lift.options import PREDICTIONS
from lift.paths import Lead
from scheduler import NUM_TIMESTEPS


FORMAT_VERSION = 1
REQUIRED = ("format_version", "timesteps", "error_64", "error_32", "standard_error_64", "standard_error_32", "blocks",
            "block_standard_errors", "frobenius", "num_images", "edge_costs", "options", "checkpoint",
            "checkpoint_fingerprint", "weights", "epochs")
LEAD_KEYS = ("lead", "lead_num_steps")       # added by lift.search_lead: the winner, and the steps it was sought for


def heatmap_path(folder, grid: int, name: str, epoch: int, weights: str) -> Path:
    """Where the map of a checkpoint lies: results/heatmap_30_100ep.pth. A run's name and `raw` are added where they are
    not the usual ones."""
    named = "" if name == "lift_dual_timestep" else f"{name}_"
    return Path(folder) / f"heatmap_{grid}_{named}{epoch}ep{'_raw' if weights == 'raw' else ''}.pth"


def add_origin(heatmap: dict, loaded, image_set) -> dict:
    """The heatmap with where it comes from: a lift.checkpoints.LoadedModel and a data.ImageSet."""
    return {"format_version": FORMAT_VERSION, **heatmap, "checkpoint": loaded.path.name,
            "checkpoint_fingerprint": loaded.fingerprint, "weights": loaded.weights, "epochs": loaded.epochs,
            "dataset": str(image_set.dataset), "split": image_set.split, "content_hash": image_set.content_hash}


def keep_lead(heatmap: dict, path) -> dict:
    """The heatmap, with the lead that lift.search_lead added to an earlier file at `path` of the same weights.

    A lead is found by step doubling and by samples, not on the map. So it stays valid when the map is made anew.
    """
    try:
        earlier = load_torch(path, "heatmap")
    except InputError:              # there is none, or it is damaged and about to be replaced
        return heatmap
    same = isinstance(earlier, dict) and all(earlier.get(key) == heatmap[key]
                                             for key in ("checkpoint_fingerprint", "weights"))
    return {**heatmap, **{key: earlier[key] for key in LEAD_KEYS if key in earlier}} if same else heatmap


def load_heatmap(path, expect_grid: int | None = None) -> dict:
    """A heatmap file, checked. Raises InputError if it is missing, damaged, another kind of file or of another
    grid than `expect_grid`; for infinite or undefined cells, which the message names."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such heatmap; make it with compute_heatmap_30.py, or give the --grid and folder "
                         "of one that is there")
    with expecting(path, "heatmap", "compute it again with compute_heatmap_30.py"):
        return checked_heatmap(load_torch(path, "heatmap"), path, expect_grid)


def checked_heatmap(heatmap, path, expect_grid: int | None) -> dict:
    """The content of a heatmap file, checked as `load_heatmap` says."""
    missing = [key for key in REQUIRED if not isinstance(heatmap, dict) or key not in heatmap]
    if missing:
        raise InputError(f"{path}: has no {missing[0]} in it, expected a heatmap written by compute_heatmap_30.py")
    if heatmap["format_version"] != FORMAT_VERSION:
        raise InputError(f"{path}: found heatmap format {heatmap['format_version']}, expected {FORMAT_VERSION}; "
                         "compute it again with compute_heatmap_30.py")
    timesteps = heatmap["timesteps"]
    if not isinstance(timesteps, torch.Tensor) or timesteps.ndim != 1 or timesteps.dtype != torch.int64 or \
            len(timesteps) < 2 or (timesteps.diff() >= 0).any() or timesteps[-1] < 0 or timesteps[0] >= NUM_TIMESTEPS:
        raise InputError(f"{path}: its timesteps are not a falling list of whole numbers in 0...{NUM_TIMESTEPS - 1}; "
                         "compute it again with compute_heatmap_30.py")
    n = len(timesteps)
    if expect_grid is not None and n != expect_grid:
        raise InputError(f"{path}: is a heatmap of {n}x{n} cells, expected {expect_grid}x{expect_grid}; use --grid {n} "
                         "or another heatmap")
    for key in ("error_64", "error_32", "standard_error_64", "standard_error_32", "num_images"):
        check_shape(heatmap[key], (n, n), key, path)
    for group in ("blocks", "block_standard_errors"):
        for prediction in PREDICTIONS:
            for block in BLOCKS:
                found = heatmap[group].get(prediction, {}).get(block) if isinstance(heatmap[group], dict) else None
                check_shape(found, (n, n), f"{group} {prediction} {block}", path)
    num_images = getattr(heatmap["frobenius"], "shape", [0])[-1:]
    check_shape(heatmap["frobenius"], (len(PREDICTIONS), len(BLOCKS), n, n, *num_images), "frobenius", path)
    cells = np.argwhere(np.ones((n, n)))
    for key in ("error_64", "error_32"):
        check_cells(heatmap[key].numpy().reshape(-1, 1), cells, timesteps.numpy(), f"{path}: {key}")
    for prediction in PREDICTIONS:
        for block in BLOCKS:
            check_cells(heatmap["blocks"][prediction][block].numpy().reshape(-1, 1), cells, timesteps.numpy(),
                        f"{path}: block {prediction} {block}")
    if not isinstance(heatmap["edge_costs"], dict) or not isinstance(heatmap["options"], dict):
        raise InputError(f"{path}: its edge_costs or options are no dictionary; compute it again with "
                         "compute_heatmap_30.py")
    for key in ("error_64", "error_32"):
        if (heatmap[key] < 0).any():
            raise InputError(f"{path}: {key} holds negative errors; compute it again with compute_heatmap_30.py")
    weighted_maps(heatmap["frobenius"].numpy()[..., :1], timesteps.numpy(),
                  *(heatmap["options"][key] for key in ("chain_rule", "normalization", "prediction")))
    int(heatmap["options"]["seed"])
    Lead(**heatmap.get("lead", {})).check()
    int(heatmap.get("lead_num_steps", 1))
    for name, costs in heatmap["edge_costs"].items():
        if not isinstance(costs, torch.Tensor) or costs.ndim != 4 or costs.shape[:2] != (n, n) or costs.isnan().any():
            raise InputError(f"{path}: edge costs {name} are damaged; compute them again with compute_heatmap_30.py")
    return heatmap


def check_shape(value, shape: tuple, name: str, path) -> None:
    """Raises InputError unless `value` is a tensor of that shape."""
    if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape:
        found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"{path}: {name} is {found}, expected {list(shape)}; compute it again with "
                         "compute_heatmap_30.py")


def check_heatmap_matches(path, heatmap: dict, loaded, allow_mismatch: bool = False,
                          can_be_allowed: bool = True) -> None:
    """Raises InputError unless the heatmap in the file `path` was computed from this checkpoint and these weights, or
    `allow_mismatch` is set. loaded: lift.checkpoints.LoadedModel. can_be_allowed: whether the script has that
    option."""
    if allow_mismatch:
        return
    found = heatmap["checkpoint_fingerprint"], heatmap["weights"]
    if found != (loaded.fingerprint, loaded.weights):
        raise InputError(f"{path}: was computed from {heatmap['checkpoint']} ({found[0]}, {found[1]} weights), "
                         f"expected {loaded.path.name} ({loaded.fingerprint}, {loaded.weights} weights); give that "
                         "checkpoint's heatmap" + (", or add --allow_mismatch" if can_be_allowed else ""))
