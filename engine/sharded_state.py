"""The tensors of a training state, each process's part written by itself (torch.distributed.checkpoint).

They lie in a folder beside the state's file, which holds everything else. The file is written last: only a
folder with its file is complete. Any number of processes can go on from such a state.
"""
import contextlib
import pickle
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import StorageMeta

from engine.errors import InputError

# What a table of contents is made of: module -> names.
ALLOWED = {"torch": {"Size"}, "torch.serialization": {"_get_layout"},
           "pathlib": {"PosixPath"}, "pathlib._local": {"PosixPath"},
           "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
           "torch.distributed.checkpoint.metadata": {
               "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties",
               "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"}}


class PlainUnpickler(pickle.Unpickler):
    """Opens the table of contents that torch pickles. Of the callables that a pickle names, it calls those in ALLOWED
    alone."""

    def find_class(self, module: str, name: str):
        """One of ALLOWED, or a data type of tensors. Raises UnpicklingError for anything else."""
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}")


class PlainReader(dcp.FileSystemReader):
    """Reads a folder without running code that is in it; torch opens the tensors themselves as plain tensors only."""

    def read_metadata(self, *args, **kwargs):
        """The table of contents. Raises InputError for one that holds anything else."""
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with self.fs.create_stream(path, "rb") as file:
                metadata = PlainUnpickler(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
        except (OSError, AttributeError, EOFError, IndexError, KeyError, TypeError, ValueError,
                pickle.UnpicklingError) as error:
            raise InputError(f"{path}: is missing, damaged or foreign ({error}), expected the contents of a training "
                             "state; delete the state to go on from the one before it") from error
        return metadata


@contextlib.contextmanager
def quiet_alone():
    """Context without torch's warning about a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def named_tensors(networks, averages) -> dict[str, torch.Tensor]:
    """Weights and moving averages by one name each, not copied. networks, averages: by the network's name."""
    weights = {f"{name}/model/{key}": value for name, network in networks.items()
               for key, value in network.state_dict().items()}
    return weights | {f"{name}/average/{key}": value for name, average in averages.items()
                      for key, value in average.shadow.items()}


def save(folder: Path, networks, averages, optimizers) -> dict[str, int]:
    """Write weights, averages and moments into the folder; returns its files' sizes. Called by all processes."""
    moments = {f"{name}/optimizer/{number}/{key}": value for name, optimizer in optimizers.items()
               for number, values in optimizer.state_dict()["state"].items() for key, value in values.items()}
    with quiet_alone():
        dcp.save(named_tensors(networks, averages) | moments,
                 storage_writer=dcp.FileSystemWriter(str(folder), overwrite=True))
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def load(folder: Path, networks, averages, optimizers) -> None:
    """Read them back, in place, whatever the number of processes. Called by all. Raises InputError."""
    reader = PlainReader(str(folder))
    found = reader.read_metadata().state_dict_metadata
    tensors = named_tensors(networks, averages)
    states = {name: {} for name in optimizers}
    for key in (key for key in found if "/optimizer/" in key):
        name, _, number, moment = key.split("/")
        parameter = [p for group in optimizers[name].param_groups for p in group["params"]][int(number)]
        like_it = found[key].size == parameter.shape
        value = torch.zeros_like(parameter, requires_grad=False) if like_it else \
            torch.zeros(found[key].size, dtype=found[key].properties.dtype)
        tensors[key] = states[name].setdefault(int(number), {})[moment] = value
    if tensors.keys() != found.keys():
        differing = sorted(tensors.keys() ^ found.keys())
        raise InputError(f"{folder}: {len(differing)} tensors are in it or in this training alone, first "
                         f"{differing[0]}; give the options of its training")
    with quiet_alone():
        dcp.load(tensors, storage_reader=reader)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict({"state": states[name], "param_groups": optimizer.state_dict()["param_groups"]})
