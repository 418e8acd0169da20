"""From a checkpoint and the name of a path to uint8 images: what the scripts that generate have in common."""
import hashlib
import re
from pathlib import Path

import numpy as np

from lift import checkpoints
from lift import heatmap_file
from lift import paths
from engine.devices import naming_compiler_errors
from engine.drawing import in_batches
from engine.errors import InputError
from engine.files import expecting, load_torch
from engine.options import NOT_DECISIVE
from engine.sampling import check_solver, to_uint8
from lift.coupling import Guidance, check_can_disagree
from lift.options import PATH_NAMES
from lift.sampling import check_timesteps, generate
from networks.unet import compiled

SCHEDULE_COSTS = ("step_doubling", "directional")    # which edge costs --path dp of the baseline takes, first found


def check_generation(args, loaded: checkpoints.LoadedModel) -> None:
    """Raises InputError for options of `add_generation_options` that this model or the solver does not have."""
    model_type = loaded.model_type
    if args.x32 != "joint":
        if model_type == "baseline":
            raise InputError(f"--x32: found {args.x32} for a baseline, which has no 32 branch; leave it out")
        check_can_disagree(loaded.model, f"--x32: found {args.x32}")
    if args.guide_noisy_32 and (model_type == "baseline" or args.x32 in ("random", "fixed")):
        found = "for a baseline, without a 32 branch" if model_type == "baseline" else f"with --x32 {args.x32}"
        raise InputError(f"--guide_noisy_32: found {found}; leave it out")
    if args.guide and args.guide_noisy_32:
        raise InputError("--guide and --guide_noisy_32: found both, expected one of the two")
    if args.guide_interval and args.guide_interval[0] > args.guide_interval[1]:
        low, high = args.guide_interval
        raise InputError(f"--guide_interval: found {low:g} {high:g}, expected the smaller number first")
    check_solver(args.solver, args.eta)


def load_guide(loaded: checkpoints.LoadedModel, args, device) -> checkpoints.LoadedModel | None:
    """The checkpoint of --guide, None without. Raises InputError unless it is an earlier one of the same run."""
    if args.guide is None:
        return None
    guide = checkpoints.load_model(args.guide, loaded.model_type, args.weights, device)
    for option in sorted((loaded.options.keys() & guide.options.keys()) - NOT_DECISIVE):
        if loaded.options[option] != guide.options[option]:
            raise InputError(f"--guide: {guide.path} was trained with --{option} {guide.options[option]}, "
                             f"{loaded.path} with {loaded.options[option]}; expected an earlier checkpoint of the same "
                             "run")
    if guide.epochs >= loaded.epochs:
        raise InputError(f"--guide: {guide.path} is of epoch {guide.epochs}, {loaded.path} of epoch {loaded.epochs}; "
                         "expected an earlier checkpoint of the same run")
    return guide


def guidance_of(args, guide=None) -> Guidance | None:
    """The guidance that the options ask for, or None. guide: --guide's model as it is called, perhaps compiled."""
    if not (args.guide or args.guide_noisy_32):
        return None
    return Guidance(args.guide_scale, tuple(args.guide_interval) if args.guide_interval else None, guide)


def num_calls(path: np.ndarray, args) -> int:
    """Network calls per image along a path [N + 1, scales]: one a step, and one more where guidance acts."""
    guidance = guidance_of(args)
    return len(path) - 1 + (guidance.num_calls(path) if guidance else 0)


def name_of(path) -> str:
    """The run's name in a checkpoint's file name: checkpoints/baseline_20ep.pth -> baseline."""
    return re.sub(r"_\d+ep$", "", Path(path).stem)


def load_schedule(path, expect_grid: int | None = None) -> dict:
    """A file of lift.compute_schedule: timesteps [n] and one-dimensional edge costs [n, J + 1]. Raises InputError if it
    is missing, foreign, or has another number of timesteps than `expect_grid`."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such schedule; make it with lift.compute_schedule, or give the --grid and folder "
                         "of one that is there")
    heatmap = load_torch(path, "heatmap")
    needed = ("timesteps", "edge_costs", "checkpoint", "checkpoint_fingerprint", "weights")
    missing = [key for key in needed if not isinstance(heatmap, dict) or key not in heatmap]
    if missing:
        raise InputError(f"{path}: has no {missing[0]} in it, expected a schedule written by lift.compute_schedule")
    with expecting(path, "schedule"):
        if expect_grid is not None and len(heatmap["timesteps"]) != expect_grid:
            raise InputError(f"{path}: is a schedule of {len(heatmap['timesteps'])} points, expected {expect_grid}; "
                             f"use --grid {len(heatmap['timesteps'])} or another schedule")
    return heatmap


def map_file(loaded: checkpoints.LoadedModel, args) -> Path:
    """The file of the error map, or schedule, for a checkpoint's paths: --heatmap, or its own in --heatmap_dir."""
    return args.heatmap or heatmap_file.heatmap_path(args.heatmap_dir, args.grid, name_of(loaded.path), loaded.epochs,
                                                     loaded.weights)


def path_name(loaded: checkpoints.LoadedModel, path_type: str, args) -> str:
    """A path as the table of results names it. If --allow_mismatch took another checkpoint's map, the name tells
    whose."""
    file = map_file(loaded, args)
    if path_type in paths.WITHOUT_MAP or not args.allow_mismatch or not file.is_file():
        return path_type
    heatmap = load_torch(file, "heatmap")
    if (heatmap["checkpoint_fingerprint"], heatmap["weights"]) == (loaded.fingerprint, loaded.weights):
        return path_type
    return f"{path_type} (map of {Path(heatmap['checkpoint']).stem} {heatmap['checkpoint_fingerprint'][:8]})"


def find_path(loaded: checkpoints.LoadedModel, path_type: str, args, say: bool = True) -> np.ndarray:
    """The timesteps of a path for a checkpoint, int64 [num_steps + 1, 2]. args: those of `add_generation_options`.

    A lead that was never searched for is the family's default. A line says so, if `say`, and also if a lead was
    searched for with another number of steps. Raises InputError for a path of the other model type, for a heatmap that
    is missing or of another grid or checkpoint, and for a number of steps that the grid does not allow.
    """
    if path_type not in PATH_NAMES[loaded.model_type]:
        raise InputError(f"path {path_type!r}: {loaded.path} is a {loaded.model_type} checkpoint, expected one of "
                         f"{', '.join(PATH_NAMES[loaded.model_type])}")
    if path_type in paths.WITHOUT_MAP:
        return paths.path_without_map(path_type, args.num_steps)
    file = map_file(loaded, args)
    if path_type == "lead" and args.heatmap is None and not file.is_file():
        return default_lead(args, loaded, say)
    if not file.is_file():
        script = "compute_heatmap_30.py" if loaded.model_type == "lift" else "lift.compute_schedule"
        needed = paths.EDGE_COST_NAMES.get(path_type) if loaded.model_type == "lift" else None
        costs = f" --edge_costs {needed[0]}" if needed else ""
        raise InputError(f"{file}: no such heatmap, needed for path {path_type} of {loaded.path.name}; make one with "
                         f"{script} --checkpoint {loaded.path} --grid {args.grid} --output_dir {args.heatmap_dir}"
                         f"{costs}, or give one with --heatmap")
    load = load_schedule if loaded.model_type == "baseline" else heatmap_file.load_heatmap
    heatmap = load(file, args.grid)
    heatmap_file.check_heatmap_matches(file, heatmap, loaded, args.allow_mismatch)
    if path_type == "lead" and "lead" not in heatmap:
        return default_lead(args, loaded, say)
    sought_for = heatmap.get("lead_num_steps", args.num_steps)
    if path_type == "lead" and sought_for != args.num_steps and say:
        print(f"path lead of {loaded.path.name}: its search was for {sought_for} steps, here it is used with "
              f"{args.num_steps}", flush=True)
    if loaded.model_type == "lift" or path_type == "lead":
        try:
            return check_timesteps(paths.path_from_heatmap(heatmap, path_type, args.num_steps,
                                                           step_size=args.step_size, max_jump=args.max_jump))
        except InputError as error:
            raise InputError(f"{error} (heatmap: {file})") from error
    costs = next((np.asarray(heatmap["edge_costs"][name]) for name in SCHEDULE_COSTS
                  if np.ndim(heatmap["edge_costs"].get(name)) == 2), None)
    if costs is None:
        raise InputError(f"{file}: has no edge costs of a single scale ({' or '.join(SCHEDULE_COSTS)}), needed for "
                         f"path dp; compute them with lift.compute_schedule --checkpoint {loaded.path}")
    timesteps = np.asarray(heatmap["timesteps"])
    return check_timesteps(paths.schedule_path(paths.limit_jump(costs, args.max_jump), timesteps, args.num_steps))


def default_lead(args, loaded: checkpoints.LoadedModel, say: bool) -> np.ndarray:
    """The lead family's path [N + 1, 2] with its default parameters. say: print that no search found a better one."""
    if say:
        print(f"path lead of {loaded.path.name}: no winner of a search was found, so {paths.Lead()} is used; "
              "lift.search_lead finds one", flush=True)
    return paths.lead_path(args.num_steps)


def path_hash(path: np.ndarray) -> str:
    """A path's identity in the table of results: the first 12 hex digits of the SHA-256 of its int64 timesteps."""
    return hashlib.sha256(np.ascontiguousarray(path, dtype="<i8").tobytes()).hexdigest()[:12]


def reads_step_size(path_type: str) -> bool:
    """Whether --step_size has a meaning for a path: it has for paths that are found on the error maps themselves."""
    return path_type.endswith(("_64", "_total"))


def solver_name(args, guide: checkpoints.LoadedModel | None = None) -> str:
    """The solver as the table of results names it, followed by what else decides an image: eta, the correction of
    exposure bias, guidance. Parts at their default are left out. guide: the checkpoint of --guide."""
    parts = [args.solver] + [f"eta{args.eta:g}"] * (args.eta != 0) + [f"eps{args.eps_scale:g}"] * (args.eps_scale != 1)
    parts += [f"told{args.told_log_snr:g}"] * (args.told_log_snr != 0)
    if args.guide or args.guide_noisy_32:
        parts += [f"guide{args.guide_scale:g}", f"{guide.epochs}ep_{guide.fingerprint}" if guide else "noisy32"]
        parts += ["from{:g}to{:g}".format(*args.guide_interval)] if args.guide_interval else []
    return "_".join(parts)


def network_of(loaded: checkpoints.LoadedModel, args, say: bool = True):
    """The checkpoint's model, compiled with --compile; a line says so, if `say`."""
    if not args.compile:
        return loaded.model
    if say:
        print(f"{loaded.path.name}: compiling with its first batch, which takes minutes", flush=True)
    return compiled(loaded.model)


def generate_uint8(model, path: np.ndarray, seed: int, num_images: int, args, group=None, progress: str | None = None,
                   guide=None):
    """This process's share of images 0...num_images - 1, batch by batch, on the model's device.

    Yields (indices, uint8 [B, 3, 64, 64], number of images [] that are not finite, network calls). Process r of a
    distributed.Group takes images r, r + size, ...; no image depends on the batch size or the number of processes.
    guide: as in `guidance_of`. Nothing waits for the device within a batch. With --compile the last batch is filled up
    to the size of the others and cut again, for another size would be compiled anew.
    """
    def draw(indices):
        filling = indices[-1:] * (args.batch_size - len(indices)) if args.compile else []
        with naming_compiler_errors():
            samples = generate(model, path, seed, indices + filling, solver=args.solver, eta=args.eta,
                               x32_mode=args.x32, precision=args.precision, eps_scale=args.eps_scale,
                               told_log_snr=args.told_log_snr, guidance=guidance_of(args, guide))
        x_64 = samples.x_64[:len(indices)]
        return to_uint8(x_64), (~x_64.flatten(1).isfinite().all(1)).sum(), samples.num_model_calls

    for indices, drawn in in_batches(draw, num_images, args.batch_size, group, progress):
        yield indices, *drawn


def check_finite(num_broken: int, num_images: int, what: str) -> None:
    """Raises InputError if any generated image is not finite."""
    if num_broken:
        raise InputError(f"{what}: {int(num_broken)} of {num_images} generated images are not finite; use an earlier "
                         "checkpoint or --precision float32")
