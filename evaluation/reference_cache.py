"""What the metrics need of the real images, computed once and kept on disk.

The key of a file is the images' content, the metric and its settings. All of these stand inside it too and are compared
when it is read. While one process computes, others wait for it; the kernel frees the lock if it dies.
"""
import hashlib
from pathlib import Path

from engine.errors import InputError
from engine.files import load_torch, locked, remove_leftovers, save_torch

FORMAT_VERSION = 1


def cache_path(cache_dir, metric: str, content_hash: str, settings: str) -> Path:
    """Where the reference for a metric and the images of that content lies. settings: what else it depends on."""
    settings_hash = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return Path(cache_dir) / f"reference_{metric}_{content_hash}_{settings_hash}.pth"


def load_checked(path: Path, expected: dict) -> dict | None:
    """The content of a cache file, None where it is absent or damaged. Raises InputError if it is of other images."""
    if not path.is_file():
        return None
    try:
        file = load_torch(path, "cached reference")
    except InputError as error:
        print(f"cached reference is computed again: {error}", flush=True)
        return None
    found = {key: file.get(key) for key in expected} if isinstance(file, dict) else {}
    for key, value in expected.items():
        if found.get(key) != value:
            raise InputError(f"{path}: is the reference of {key} {found.get(key)!r}, expected {value!r}; delete it, "
                             "and it is computed again")
    return file["content"]


def load_or_compute(cache_dir, image_set, metric: str, settings: str, compute):
    """compute() -> plain types and tensors, or what an earlier call with the same key saved.

    image_set: data.ImageSet, which only identifies the result. One process at a time computes a key.
    """
    path = cache_path(cache_dir, metric, image_set.content_hash, settings)
    expected = {"format_version": FORMAT_VERSION, "metric": metric, "settings": settings,
                "content_hash": image_set.content_hash, "num_images": len(image_set.images)}
    content = load_checked(path, expected)
    if content is None:
        with locked(path, f"waiting for another process that computes {path.name}"):
            content = load_checked(path, expected)          # it may have come while waiting
            if content is None:
                remove_leftovers(path.parent, path.name)
                content = compute()
                save_torch(path, {**expected, "dataset": str(image_set.dataset), "split": image_set.split,
                                  "content": content})
    return content
