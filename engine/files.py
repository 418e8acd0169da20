"""Writing files whole or not at all, and reading files without running code that is in them."""
import contextlib
import contextvars
import csv
import fcntl
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

from engine.errors import InputError

SAFETENSORS = ".safetensors"                # how a file of tensors alone ends
PICKLE = b"\x80"                            # how a pickle starts, and how torch's format before its zip files does
TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# What `written_whole` has written within `written_together` and not yet renamed: path -> temporary file.
held_back = contextvars.ContextVar("held_back", default=None)


@contextlib.contextmanager
def written_together(overwrite: bool = True):
    """Files that `written_whole` writes within the block appear together at its end, in their order.

    If anything goes wrong before the end, none appears and earlier files stay as they were. Within the block the new
    files cannot be read under their names. overwrite: False raises InputError, and keeps the file, if another process
    has written one of them meanwhile.
    """
    temporary_of = {}
    token = held_back.set(temporary_of)
    try:
        yield
        if overwrite:
            for path, temporary in temporary_of.items():
                os.replace(temporary, path)
        else:
            place_new(temporary_of)
    finally:
        held_back.reset(token)
        for temporary in temporary_of.values():
            temporary.unlink(missing_ok=True)


def place_new(temporary_of: dict) -> None:
    """Give temporary files their names, all or none. temporary_of: path -> temporary file. Raises InputError if a name
    is taken."""
    placed = []
    try:
        for path, temporary in temporary_of.items():
            try:
                os.link(temporary, path)                    # unlike a rename, fails where there is a file
            except FileExistsError:
                raise
            except OSError:                                 # a file system without links
                if path.exists():
                    raise FileExistsError(path) from None
                os.replace(temporary, path)
            placed.append(path)
    except FileExistsError:
        for other in placed:
            other.unlink()
        raise InputError(f"{path}: was written by another process meanwhile and is kept; add --overwrite to replace "
                         "it, or choose another output") from None


@contextlib.contextmanager
def written_whole(path, mode: str = "wb"):
    """Open a temporary file beside `path` for writing and rename it to `path` once all has been written and synced.

    If anything goes wrong, the temporary file is removed and an earlier `path` stays as it was. A full disk or a
    folder without write permission raises InputError. Within `written_together` the rename waits for the block's end.
    """
    path = named_file(path)
    together = held_back.get()
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        how = {} if "b" in mode else {"newline": "", "encoding": "utf-8"}
        with open(temporary, mode, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if together is None:
            os.replace(temporary, path)
        else:
            together[path] = temporary
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: could not be written ({reason}); what was there under that name is as it was; free "
                         "some space or choose another folder") from error
    finally:
        if together is None or path not in together:
            with contextlib.suppress(OSError):      # no folder to write into: no temporary file either
                temporary.unlink(missing_ok=True)


def remove_leftovers(folder, pattern: str) -> None:
    """Delete temporary files that a killed process left behind in `folder`, for target names matching `pattern`."""
    for leftover in Path(folder).glob(f"{pattern}.tmp*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path, while_waiting: str | None = None):
    """Hold the exclusive lock of `path`, on the side file `{path}.lock`. If another process has it, wait.

    The kernel frees the lock when its holder closes the file or dies, so nobody waits for a dead process.
    while_waiting: a line that is printed if the lock is not free at once.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(path.name + ".lock"), "a")
    except OSError as error:
        raise InputError(f"{path}: no lock file can be made beside it ({error.strerror or error}); choose a folder "
                         "that can be written") from error
    with file:
        lock_or_wait(file, while_waiting)
        yield


@contextlib.contextmanager
def scratch_folder(path, busy: str, wait: bool = False):
    """An empty folder at `path` that this process alone holds. At the end it is removed with its content.

    A folder that a killed process left behind is emptied first. If a living process holds it: with `wait` the line
    `busy` is printed and the process waits, without it InputError is raised. Raises InputError too if the folder cannot
    be made.
    """
    path = Path(path)
    descriptor = hold_folder(path, busy, wait)
    try:
        for leftover in path.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def hold_folder(path: Path, busy: str, wait: bool) -> int:
    """Make a folder and lock it; returns the descriptor that holds the lock. The rest as in `scratch_folder`."""
    while True:
        descriptor = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):        # its holder may remove it at any moment
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                if wait:
                    lock_or_wait(descriptor, busy)
                else:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(busy) from None
        except OSError as error:
            raise InputError(f"{path}: no such folder can be made and held ({error.strerror or error}); choose another "
                             "place") from error
        if descriptor is not None:
            os.close(descriptor)


def lock_or_wait(file, while_waiting: str | None) -> None:
    """Take the exclusive lock of an open file, printing `while_waiting` if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if while_waiting:
            print(while_waiting, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def save_torch(path, content) -> None:
    """torch.save, whole or not at all. `content`: tensors and plain Python types only."""
    import torch
    with written_whole(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:           # torch reports a failed write as RuntimeError, from its zip writer
            raise OSError(None, str(error).splitlines()[0]) from error


def refuse_pickle(path, file, what: str) -> None:
    """Raises InputError for an open file that is a pickle and was not written by torch. what: as in `load_torch`."""
    file.seek(0)
    start = file.read(len(TORCH_PICKLE))
    file.seek(0)
    if start.startswith(PICKLE) and start != TORCH_PICKLE:
        raise InputError(f"{path}: is a pickle, expected a {what} of plain tensors and numbers; refused without "
                         "running it; store its state dict by torch.save or as safetensors")


def load_torch(path, what: str = "file", digest=None, accepted=(), lazily: bool = False):
    """torch.load of plain types, refusing code. what: the kind of file expected, for the messages.

    digest: a hashlib object that is fed the bytes of the file that is loaded, even if another takes its name meanwhile.
    accepted: classes that are welcome beside the plain types. lazily: tensors stay in the file until they are used.
    Every block is compared with its CRC32 in the file, which torch.load itself does not do, but not lazily. Raises
    InputError if the file is missing, truncated, damaged, not written by torch, or holds other pickled objects.
    """
    import torch
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: found a folder, expected a {what}")
    if not path.is_file():
        raise InputError(f"{path}: no such {what}; check the path, or make it first")
    try:
        with open(path, "rb") as file:
            if digest:
                hashlib.file_digest(file, lambda: digest)
            is_zip = zipfile.is_zipfile(file)
            if is_zip and not lazily and (damaged := zipfile.ZipFile(file).testzip()):
                raise ValueError(f"checksum of {damaged}")
            refuse_pickle(path, file, what)
            stays = lazily and is_zip               # torch's format before its zip files is read whole
            with torch.serialization.safe_globals(accepted):
                return torch.load(str(path) if stays else file, map_location="cpu", weights_only=True, mmap=stays)
    except PermissionError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check its permissions") from error
    except InputError:
        raise
    except Exception as error:              # foreign bytes can lead the unpickler to any exception at all
        if isinstance(error, pickle.UnpicklingError) and ("Unsupported global" in str(error)
                                                          or "unsupported GLOBAL" in str(error)):
            raise InputError(f"{path}: holds a pickled object, expected a {what} of plain tensors and numbers; refused "
                             "without running it") from error
        raise InputError(f"{path}: is truncated, damaged or foreign, expected a {what}; restore or make it "
                         "again") from error


@contextlib.contextmanager
def expecting(path, what: str, advice: str = "restore or make it again"):
    """Turns the errors that foreign content leads to, such as a missing key, into an InputError that names the file.
    what: the kind of file expected. advice: what to do."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror or error}); check its permissions") from error
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if type(error).__name__ == "OutOfMemoryError":          # torch's, a RuntimeError
            raise
        reason = str(error).partition("\n")[0][:120]
        raise InputError(f"{path}: its content is not what a {what} holds ({type(error).__name__}: {reason}); "
                         f"{advice}") from error


def write_json(path, content) -> None:
    """Indented JSON, whole or not at all."""
    with written_whole(path, "w") as file:
        json.dump(content, file, indent=2, sort_keys=False)
        file.write("\n")


def write_csv(path, rows: list[dict], columns: list[str]) -> None:
    """A CSV with a header line, whole or not at all."""
    with written_whole(path, "w") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def printable(name: str) -> str:
    """A file's name that can be printed and written everywhere: bytes that are not UTF-8 are escaped (`caf\\xe9`)."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def sha256_of_file(path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_file(path) -> Path:
    """The path. Raises InputError if it has no file name, as in "/" and ""."""
    if not Path(path).name:
        raise InputError(f"output: found {str(path)!r}, expected the name of a file")
    return Path(path)


def load_safetensors(path) -> dict:
    """The tensors of a safetensors file. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; give the network's weights") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); store the weights again") from error


def check_can_be_written(path) -> None:
    """Raises InputError if `path` is a folder, or lies where no file can be made; makes nothing."""
    path = named_file(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a file; choose another output")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        found = "cannot be written" if folder.is_dir() else "is a file, not a folder"
        raise InputError(f"{path}: cannot be made, {folder} {found}; choose another output")


def refuse_existing(path, overwrite: bool) -> None:
    """Raises InputError if `path` exists and `overwrite` is false, or could not be written."""
    if Path(path).is_file() and not overwrite:
        raise InputError(f"{path}: exists already; add --overwrite to replace it, or choose another output")
    check_can_be_written(path)


def outputs_beside(prefix, overwrite: bool, kinds=("csv", "json", "png")) -> dict[str, Path]:
    """{kind: PREFIX.kind} for a run's outputs. Raises InputError if one exists and `overwrite` is false."""
    outputs = {kind: named_file(prefix).with_name(f"{Path(prefix).name}.{kind}") for kind in kinds}
    for path in outputs.values():
        refuse_existing(path, overwrite)
    return outputs


def save_png(path, image) -> None:
    """Write a PIL image or a matplotlib figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    if hasattr(image, "savefig"):
        image.savefig(buffer, format="png")
    else:
        image.save(buffer, format="PNG")
    with written_whole(path) as file:
        file.write(buffer.getvalue())
