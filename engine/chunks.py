"""Many images, a few at a time."""
import numpy as np
import torch


def in_chunks(images, size: int):
    """Yields uint8 tensors [n, ...] of at most `size` images, in order. images: uint8 [N, ...], array or tensor. An
    array is copied, since an array in a file is read-only."""
    for start in range(0, len(images), size):
        chunk = images[start:start + size]
        yield chunk if isinstance(chunk, torch.Tensor) else torch.from_numpy(np.array(chunk))
