"""The tensors of a training state, of which every process writes its part (torch.distributed.checkpoint).

The folder lies beside the file with everything else, which comes last: without it nothing counts. Any number of processes
can go on from it.
"""
import pickle
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import StorageMeta

from engine.errors import InputError

ALLOWED_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")


class PlainUnpickler(pickle.Unpickler):
    """Opens the table of contents that torch pickles, and nothing else: no other class and no function is called."""

    def find_class(self, module: str, name: str):
        """A class of torch's tables of contents, or a data type or layout of tensors."""
        is_plain = module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout))
        if is_plain or (module, name) == ("torch", "Size") or module in ALLOWED_MODULES and "." not in name:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}")


class PlainReader(dcp.FileSystemReader):
    """Reads a folder without running what is in it; the tensors themselves torch opens as plain ones alone."""

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
            raise InputError(f"{path}: is missing, damaged or foreign ({error}), expected the contents of a training state; "
                             "delete the state to go on from the one before it") from error
        return metadata


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
    dcp.load(tensors, storage_reader=reader)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict({"state": states[name], "param_groups": optimizer.state_dict()["param_groups"]})
