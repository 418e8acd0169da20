"""Many images, a few at a time."""
import numpy as np
import torch


def in_chunks(images, size: int):
    """Images as tensors of at most `size` of them, in order: uint8 [N, ...], array or tensor. An array is copied, since
    one in a file can be read only."""
    for start in range(0, len(images), size):
        chunk = images[start:start + size]
        yield chunk if isinstance(chunk, torch.Tensor) else torch.from_numpy(np.array(chunk))
