"""The files of a training run: epoch checkpoints, full states to resume from, and the lock on a run's name."""
import contextlib
import fcntl
import random
import re
import shutil
from glob import escape
from pathlib import Path

from engine.errors import InputError
from engine.files import expecting, load_torch, save_torch

NUM_STATES_KEPT = 2


def checkpoint_path(folder, name: str, epoch: int) -> Path:
    """Where the weights after `epoch` epochs lie."""
    return Path(folder) / f"{name}_{epoch}ep.pth"


def epoch_of(path) -> int:
    """The epoch in a checkpoint's file name, 0 if there is none."""
    match = re.search(r"_(\d+)ep\.pth$", Path(path).name)
    return int(match.group(1)) if match else 0


def list_checkpoints(folder, name: str) -> list[Path]:
    """All epoch checkpoints of that name, by epoch."""
    pattern = re.compile(re.escape(name) + r"_\d+ep\.pth")
    return sorted((p for p in Path(folder).glob(f"{escape(name)}_*ep.pth") if pattern.fullmatch(p.name)), key=epoch_of)


def weights_in(content: dict, weights: str = "ema") -> dict:
    """The state dict in a checkpoint's content. weights: raw, or ema, the averaged ones, with all else that the network
    keeps, such as buffers, from the raw ones. Raises KeyError where there is none."""
    averaged = content["ema_state"]["shadow"] if weights == "ema" else {}
    return {**content["model_state"], **averaged}


def state_path(folder, name: str, step: int) -> Path:
    """Where the full training state after `step` optimizer steps lies."""
    return Path(folder) / f"{name}_step{step:08d}.state.pth"


def list_states(folder, name: str) -> list[Path]:
    """All training states of that name, oldest first."""
    pattern = re.compile(re.escape(name) + r"_step\d{8,}\.state\.pth")
    return sorted((p for p in Path(folder).glob(f"{escape(name)}_step*.state.pth") if pattern.fullmatch(p.name)),
                  key=lambda p: int(re.search(r"_step(\d+)", p.name).group(1)))


def tensors_folder(path) -> Path:
    """The folder with the tensors of the state in `path`, where each process wrote its own part
    (`engine.sharded_state`): `x.state.pth` -> `x.state.tensors`."""
    return Path(path).with_suffix(".tensors")


def remove(path) -> None:
    """Remove a file; if it is a state's, its tensors too."""
    Path(path).unlink(missing_ok=True)
    shutil.rmtree(tensors_folder(path), ignore_errors=True)


def remove_orphaned_tensors(folder, name: str) -> None:
    """Remove tensors without a state's file; the process that wrote them was killed before it wrote the file."""
    for path in Path(folder).glob(f"{escape(name)}_step*.state.tensors"):
        if re.fullmatch(re.escape(name) + r"_step\d{8,}\.state\.tensors", path.name) and \
                not path.with_suffix(".pth").exists():
            shutil.rmtree(path, ignore_errors=True)


def check_tensor_files(path, state: dict) -> None:
    """Raises InputError if a file beside the state is missing or has another size than when it was written."""
    with expecting(path, "training state", "delete it"):
        sizes = dict(state.get("tensor_files") or {})
    for name, size in sizes.items():
        file = tensors_folder(path) / name
        found = f"{file.stat().st_size} bytes" if file.is_file() else "no such file"
        if found != f"{size} bytes":
            raise InputError(f"{file}: found {found}, expected {size} bytes; restore it, or delete {path}")


def save_state(folder, name: str, state: dict) -> Path:
    """Write a training state, then remove all others but the one before it. Raises InputError on a full disk.

    States of later steps are removed too: they were damaged, and the resumed run has passed them over.
    """
    path = state_path(folder, name, state["step"])
    save_torch(path, state)
    states = list_states(folder, name)
    kept = states[:states.index(path) + 1][-NUM_STATES_KEPT:]
    for other in set(states) - set(kept):
        remove(other)
    return path


def newest_good_state(folder, name: str) -> tuple[Path, dict] | None:
    """The newest training state that can be read: (path, content); None where there is none.

    A line is printed for every damaged state. Raises InputError if all states are damaged.
    """
    paths = list_states(folder, name)
    for path in reversed(paths):
        try:
            state = load_torch(path, "training state")
            check_tensor_files(path, state)
            return path, state
        except InputError as error:
            print(f"passing over a damaged training state: {error}", flush=True)
    if paths:
        raise InputError(f"{folder}: all {len(paths)} training states of {name} are damaged; start again with "
                         "--overwrite")
    return None


@contextlib.contextmanager
def name_held(args):
    """Hold the run's name; the lock goes with the process, however it ends. Raises InputError if another has it."""
    if not args.name or "/" in args.name:
        raise InputError(f"--name: found {args.name!r}, expected the beginning of a file name; folders belong into "
                         "--checkpoint_dir")
    with contextlib.ExitStack() as held:
        for option, folder in folders_of(args).items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(folder / f".{args.name}.lock", "w"))
            except OSError as error:
                raise InputError(f"{option}: {folder} cannot be made or written ({error.strerror}); choose another "
                                 "folder") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"--name: {args.name} is being trained into {folder} by another process; wait for it, "
                                 "or choose another --name") from None
        yield


def folders_of(args) -> dict[str, Path]:
    """Where a run writes: option -> folder, each folder once."""
    folders = {"--checkpoint_dir": args.checkpoint_dir, "--output_dir": args.output_dir}
    return folders if args.checkpoint_dir.resolve() != args.output_dir.resolve() else {
        "--checkpoint_dir": args.checkpoint_dir}


def existing_files(args) -> list[Path]:
    """Checkpoints and states of the run's name."""
    return (list_checkpoints(args.checkpoint_dir, args.name)
            + list_states(args.checkpoint_dir, args.name))


# --- random states ---

def random_states() -> dict:
    """The states of all global random generators, in plain types."""
    import numpy as np
    import torch
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    return {"torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
            "python": [version, list(words), gauss_next]}


def restore_random_states(states: dict) -> None:
    """Inverse of `random_states`; GPU states only where the number of GPUs is the same."""
    import numpy as np
    import torch
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss_next = states["python"]
    random.setstate((version, tuple(words), gauss_next))
