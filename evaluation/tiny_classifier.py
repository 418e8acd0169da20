"""Fréchet distance on the features of a small classifier, `fd_tiny`: a stand-in where there are no Inception weights.

The classifier is not part of this project: a folder outside it holds `fd_tiny.py`, which defines the network and its
features, and `fd_tiny.pt`, its weights. The distance is no FID, is never called so, and cannot be compared with one.
"""
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from engine.chunks import in_chunks
from engine import devices
from evaluation import reference_cache
from engine.errors import InputError
from evaluation.fid import FeatureStatistics, frechet_distance
from engine.files import sha256_of_file

CODE_NAME, WEIGHTS_NAME = "fd_tiny.py", "fd_tiny.pt"
BATCH_SIZE = 500


@dataclass
class TinyClassifier:
    """The classifier's code, its network on a device, and a hash of both files."""
    code: ModuleType
    network: torch.nn.Module
    files_hash: str

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, 64, 64] on any device -> float64 [B, 320] on the CPU, by the code's own `features`."""
        try:
            with devices.exact_float32():
                return torch.from_numpy(self.code.features(images, self.network, BATCH_SIZE))
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.code.__file__}: its features could not be used ({first_line(error)}); expected "
                             "features(images, net, batch_size) -> numpy array [N, D]") from error

    def statistics(self, images) -> FeatureStatistics:
        """Statistics of uint8 images [N, 3, 64, 64], array or tensor."""
        statistics = None
        for batch in in_chunks(images, BATCH_SIZE):
            features = self.features(batch)
            statistics = (statistics or FeatureStatistics(features.shape[1])).add(features)
        return statistics


def first_line(error: Exception) -> str:
    """An exception's kind and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def find_files(folder) -> tuple[Path, Path]:
    """The code and the weights in `folder`. Raises InputError where one is not there."""
    files = Path(folder) / CODE_NAME, Path(folder) / WEIGHTS_NAME
    for file in files:
        if not file.is_file():
            raise InputError(f"--fd_tiny: found no {file}, expected a folder with {CODE_NAME} and {WEIGHTS_NAME}; give "
                             "it, or choose other --metrics")
    return files


def load(folder, device="cpu") -> TinyClassifier:
    """The classifier in `folder`, whose Python file is run. Raises InputError where it is not there or does not fit."""
    code_file, weights_file = find_files(folder)
    spec = importlib.util.spec_from_file_location("fd_tiny_code", code_file)
    code = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
        network = code.load_net(device)
    except Exception as error:                      # whatever a foreign file may raise
        raise InputError(f"{code_file}: could not be used ({first_line(error)}); "
                         f"expected load_net(device) with weights that fit") from error
    return TinyClassifier(code, network, f"{sha256_of_file(code_file)[:8]}{sha256_of_file(weights_file)[:8]}")


def distance(statistics_a: FeatureStatistics, statistics_b: FeatureStatistics) -> float:
    """Fréchet distance of two sets from the statistics of their features."""
    return frechet_distance(*statistics_a.mean_and_covariance(), *statistics_b.mean_and_covariance())


def reference_statistics(image_set, classifier: TinyClassifier, cache_dir) -> FeatureStatistics:
    """Statistics of all real images, computed once. image_set: data.ImageSet."""
    return FeatureStatistics.from_state(reference_cache.load_or_compute(
        cache_dir, image_set, "fd_tiny", f"fd_tiny {classifier.files_hash}",
        lambda: classifier.statistics(image_set.images).state()))
