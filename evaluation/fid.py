"""Fréchet inception distance, and KID, precision and recall from the same features.

Images are uint8 [N, 1 or 3, H, W]; grey becomes three equal channels. Features are those of pytorch_fid's own
InceptionV3, [N, 2048], with the same preprocessing. So the distance equals the one that `python -m pytorch_fid` gives
for these images as PNG files. Only distances on these features and weights are called FID.

The formulas serve the features of any network. An extractor is an object with `features(images)`, `num_features`,
`settings` (what its features depend on, as text) and `network`: `Inception` here, `lite_features.Lite0`.
"""
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from engine.chunks import in_chunks
from engine import devices
from evaluation import reference_cache
from engine.errors import InputError
from engine.files import load_torch, sha256_of_file
from evaluation.options import INCEPTION_NAME
from evaluation.results_table import FEW_IMAGES

NUM_FEATURES = 2048
SIDE = 299                      # pixels that the network resizes its images to
WEIGHTS_NAME = INCEPTION_NAME
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_NAME}"
WEIGHTS_SHA256 = WEIGHTS_NAME.removesuffix(".pth").rsplit("-", 1)[-1]      # the first 8 hex digits, in the file's name
DOWNLOAD_TIMEOUT_SECONDS = 20
INCEPTION_BATCH = 50
NUM_KID_SUBSETS = 10
NUM_NEIGHBOURS = 3
ROWS_PER_CHUNK = 1024


# Inception

class WeightsMissing(InputError):
    """The Inception weights are not on disk and cannot be downloaded."""


def hub_folder() -> Path:
    """Where torch.hub, and with it pytorch_fid, keeps weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(file=None) -> Path:
    """The Inception weights: `file` if given, else from the torch hub cache, else downloaded into it.

    The file's SHA-256 is checked. Raises WeightsMissing where there are none, InputError for a wrong file.
    """
    path = Path(file) if file else hub_folder() / WEIGHTS_NAME
    if file and not path.is_file():
        raise InputError(f"--inception: found no file {path}, expected {WEIGHTS_NAME} from {WEIGHTS_URL}")
    if not path.is_file():
        timeout = socket.getdefaulttimeout()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix=WEIGHTS_SHA256)
        except (OSError, RuntimeError) as error:
            raise WeightsMissing(
                f"Inception weights: {WEIGHTS_NAME} is not in {path.parent} and could not be downloaded "
                f"({str(error).splitlines()[0]}); get it from {WEIGHTS_URL} and put it into that folder, or give it as "
                "--inception FILE") from error
        finally:
            socket.setdefaulttimeout(timeout)
    found = sha256_of_file(path)
    if not found.startswith(WEIGHTS_SHA256):
        raise InputError(f"{path}: its SHA-256 begins with {found[:8]}, expected {WEIGHTS_SHA256}, the weights of "
                         f"pytorch-fid; replace it by {WEIGHTS_URL}")
    return path


def three_channels(images: torch.Tensor) -> torch.Tensor:
    """[B, 1 or 3, H, W] -> [B, 3, H, W]: grey becomes three equal channels. Raises InputError for other shapes."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(f"features: found images of shape {list(images.shape)}, expected [N, 1 or 3, H, W]")
    return images.expand(-1, 3, -1, -1)


@dataclass
class Inception:
    """pytorch_fid's InceptionV3 up to its last pooling, and which weights it has."""
    network: torch.nn.Module
    weights_hash: str
    num_features: int = NUM_FEATURES

    @property
    def settings(self) -> str:
        """What the features depend on: part of the key of cached references."""
        return f"inception {self.weights_hash}"

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1 or 3, H, W] on any device -> float32 [B, 2048] on the network's device, which is not waited for.

        Exact float32: no bfloat16 and no TF32, whatever the generating network uses.
        """
        device = next(self.network.parameters()).device
        with devices.exact_float32(), torch.autocast(device.type, enabled=False):
            return self.network(three_channels(images.to(device, non_blocking=True)).float() / 255)[0].flatten(1)


def load_inception(path, device="cpu") -> Inception:
    """pytorch_fid's network with the weights in `path`, in eval mode on `device`. Raises InputError."""
    import pytorch_fid.inception            # with torchvision, takes as long to import as torch
    state = load_torch(path, "file of Inception weights")
    original = pytorch_fid.inception.load_state_dict_from_url
    try:
        # pytorch_fid unpickles whatever lies in the hub cache; it gets weights that were read without running code.
        pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: state
        network = pytorch_fid.inception.InceptionV3()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: does not hold the weights of pytorch-fid's Inception network; replace it by "
                         f"{WEIGHTS_URL}") from error
    finally:
        pytorch_fid.inception.load_state_dict_from_url = original
    return Inception(network.eval().to(device), sha256_of_file(path)[:16])


def features_of(images, extractor, batch_size: int = INCEPTION_BATCH, progress: str | None = None):
    """Features of uint8 images [N, 1 or 3, H, W], array or tensor, batch by batch: yields float32 [B, D]."""
    num_batches = -(-len(images) // batch_size)
    for batch in tqdm(in_chunks(images, batch_size), total=num_batches, desc=progress, disable=progress is None):
        yield extractor.features(batch)


# Statistics and the Fréchet distance

class FeatureStatistics:
    """Number, sum and sum of outer products of features, in float64: memory does not grow with their number."""

    def __init__(self, num_features: int = NUM_FEATURES, device="cpu"):
        self.count = 0
        self.sum = torch.zeros(num_features, dtype=torch.float64, device=device)
        self.outer = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)

    def add(self, features: torch.Tensor) -> "FeatureStatistics":
        """Take in features [B, D]; the device is not waited for."""
        features = features.to(self.sum.device, torch.float64)
        self.count += len(features)
        self.sum += features.sum(0)
        self.outer.addmm_(features.T, features)
        return self

    def sum_over(self, group) -> "FeatureStatistics":
        """The same over all processes of a distributed.Group."""
        if group.size > 1:
            count = torch.tensor(float(self.count), dtype=torch.float64, device=self.sum.device)
            self.count = int(group.sum(count))
            group.sum(self.sum)
            group.sum(self.outer)
        return self

    def mean_and_covariance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[D] and [D, D], float64 on the CPU; the covariance divides by N - 1. Raises InputError for N < 2."""
        if self.count < 2:
            raise InputError(f"covariance of features: found {self.count} images, expected at least 2")
        mean = self.sum.cpu() / self.count
        covariance = (self.outer.cpu() - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return mean, (covariance + covariance.T) / 2

    def state(self) -> dict:
        """Plain types and tensors, to be saved."""
        return {"count": self.count, "sum": self.sum.cpu(), "outer": self.outer.cpu()}

    @staticmethod
    def from_state(state: dict) -> "FeatureStatistics":
        """Inverse of `state`."""
        statistics = FeatureStatistics(len(state["sum"]))
        statistics.count, statistics.sum, statistics.outer = int(state["count"]), state["sum"], state["outer"]
        return statistics


def square_root(covariance: torch.Tensor) -> torch.Tensor:
    """R [D, rank] with R R^T = covariance, float64 [D, D], positive semidefinite.

    Cholesky where the matrix is safely regular; else from the eigenvectors, without those whose eigenvalue is zero up
    to rounding.
    """
    negligible = len(covariance) * torch.finfo(torch.float64).eps
    root, failed = torch.linalg.cholesky_ex(covariance)
    pivots = root.diagonal().square()
    if not failed and pivots.min() > negligible * pivots.max():
        return root
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > negligible * values[-1].clamp(min=0)
    return vectors[:, keep] * values[keep].sqrt()


def frechet_distance(mean_a, covariance_a, mean_b, covariance_b) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared distance of two Gaussians (Dowson and Landau
    1982). Arrays or tensors [D] and [D, D], symmetric and positive semidefinite; computed in float64 on the CPU.

    With C_a = R R^T, the trace of the root is that of (R^T C_b R)^(1/2), a symmetric matrix, and so the sum of the
    roots of its eigenvalues.
    """
    mean_a, covariance_a, mean_b, covariance_b = (torch.as_tensor(value, dtype=torch.float64, device="cpu")
                                                  for value in (mean_a, covariance_a, mean_b, covariance_b))
    root = square_root(covariance_a)
    trace_of_root = torch.linalg.eigvalsh(root.T @ covariance_b @ root).clamp(min=0).sqrt().sum()
    difference = mean_a - mean_b
    return float(difference @ difference + covariance_a.trace() + covariance_b.trace() - 2 * trace_of_root)


def fid(statistics_a: FeatureStatistics, statistics_b: FeatureStatistics) -> float:
    """The Fréchet distance of two sets from their statistics; fastest with the smaller set first."""
    return frechet_distance(*statistics_a.mean_and_covariance(), *statistics_b.mean_and_covariance())


def warning_for_few(num_images: int, what: str, metric: str = "fid") -> str | None:
    """The warning for a Fréchet distance that so few images bias; None where they are enough."""
    if num_images >= FEW_IMAGES[metric]:
        return None
    return (f"WARNING: {'FID' if metric == 'fid' else metric} with {num_images} {what} images, fewer than "
            f"{FEW_IMAGES[metric]}: the covariance is singular and the value biased upwards; compare it only with "
            "values of the same number of images")


# Distances that need the features themselves

def polynomial_kernel(features_a: torch.Tensor, features_b: torch.Tensor) -> torch.Tensor:
    """(a . b / D + 1)^3: [N, D], [M, D] -> [N, M]."""
    return (features_a @ features_b.T / features_a.shape[1] + 1) ** 3


def squared_mmd(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with that kernel (Gretton et al. 2012, eq. 3). Features [N, D] and
    [M, D]; N, M >= 2."""
    a, b = features_a.double(), features_b.double()

    def mean_of_pairs(x):
        kernel = polynomial_kernel(x, x)
        return (kernel.sum() - kernel.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(mean_of_pairs(a) + mean_of_pairs(b) - 2 * polynomial_kernel(a, b).mean())


def kid(features_a: torch.Tensor, features_b: torch.Tensor, num_subsets: int = NUM_KID_SUBSETS, seed: int = 0):
    """Kernel inception distance (Binkowski et al. 2018) -> (value, standard error or None).

    Both sets, [N, D] and [M, D], are split at random into the same number of disjoint subsets. The value is the mean of
    the subsets' unbiased squared MMD. Its standard error is honest, since no image is in two subsets. The value is not
    multiplied by 1000. Raises InputError for fewer than 2 images.
    """
    smaller = min(len(features_a), len(features_b))
    if smaller < 2:
        raise InputError(f"KID: found {smaller} images in a set, expected at least 2")
    num_subsets = min(num_subsets, smaller // 2)
    random = np.random.default_rng(seed)
    subsets = [torch.from_numpy(random.permutation(len(f))).to(f.device).tensor_split(num_subsets)
               for f in (features_a, features_b)]
    values = [squared_mmd(features_a[i], features_b[j].to(features_a.device)) for i, j in zip(*subsets)]
    standard_error = float(np.std(values, ddof=1) / np.sqrt(num_subsets)) if num_subsets > 1 else None
    return float(np.mean(values)), standard_error


def squared_distances(features_a: torch.Tensor, features_b: torch.Tensor) -> torch.Tensor:
    """|a - b|^2 for all pairs in float64: [N, D], [M, D] -> [N, M], never below 0."""
    a, b = features_a.double(), features_b.double()
    return (a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T).clamp(min=0)


def neighbour_radii(features: torch.Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> torch.Tensor:
    """Squared distance of each point to its k-th nearest other point: [N, D] -> float64 [N]."""
    radii = []
    for start in range(0, len(features), ROWS_PER_CHUNK):
        distances = squared_distances(features[start:start + ROWS_PER_CHUNK], features)
        rows = torch.arange(len(distances), device=distances.device)
        distances[rows, start + rows] = torch.inf               # a point is not its own neighbour
        radii.append(distances.kthvalue(num_neighbours, dim=1).values)
    return torch.cat(radii)


def share_inside(points: torch.Tensor, features: torch.Tensor, radii: torch.Tensor) -> float:
    """The share of `points` [N, D] that lie in at least one ball around `features` [M, D]."""
    inside = [(squared_distances(part, features) <= radii).any(1) for part in points.split(ROWS_PER_CHUNK)]
    return float(torch.cat(inside).double().mean())


def precision_recall(generated: torch.Tensor, real: torch.Tensor, num_neighbours: int = NUM_NEIGHBOURS,
                     seed: int = 0) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019): [N, D], [M, D] -> two shares.

    A set's manifold is the union of balls around its points; each ball reaches to the point's 3rd nearest neighbour.
    Precision is the share of generated images in the real manifold, recall the share of real images in the generated
    one. Both depend on the number of images, so the larger set is thinned out at random to the size of the smaller.
    Raises InputError.
    """
    size = min(len(generated), len(real))
    if size <= num_neighbours:
        raise InputError(f"precision and recall: found {size} images in a set, expected more than {num_neighbours}")

    def thinned(features):
        if len(features) == size:
            return features
        chosen = np.sort(np.random.default_rng(seed).choice(len(features), size, replace=False))
        return features[torch.from_numpy(chosen).to(features.device)]

    generated, real = thinned(generated), thinned(real).to(generated.device)
    return (share_inside(generated, real, neighbour_radii(real, num_neighbours)),
            share_inside(real, generated, neighbour_radii(generated, num_neighbours)))


# The real images

def reference_features(image_set, extractor, cache_dir, batch_size: int = INCEPTION_BATCH) -> torch.Tensor:
    """Features of all real images, float32 [N, D] on the CPU, computed once. image_set: data.ImageSet."""
    def compute():
        return torch.cat([features.cpu() for features in features_of(
            image_set.images, extractor, batch_size, "features of the reference")])
    return reference_cache.load_or_compute(cache_dir, image_set, "features", extractor.settings, compute)


def reference_statistics(image_set, extractor, cache_dir, batch_size: int = INCEPTION_BATCH,
                         from_features: bool = False) -> FeatureStatistics:
    """Statistics of all real images, computed once, on the CPU. image_set: data.ImageSet.

    from_features: go by way of `reference_features`, where those are needed as well.
    """
    def compute():
        statistics = FeatureStatistics(extractor.num_features, next(extractor.network.parameters()).device)
        if from_features:
            batches = reference_features(image_set, extractor, cache_dir, batch_size).split(batch_size)
        else:
            batches = features_of(image_set.images, extractor, batch_size, "statistics of the reference")
        for features in batches:
            statistics.add(features)
        return statistics.state()
    return FeatureStatistics.from_state(reference_cache.load_or_compute(
        cache_dir, image_set, "statistics", extractor.settings, compute))
