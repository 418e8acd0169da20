"""Random generators that depend on what they are for and on nothing else.

A key names the use (a seed, then a step, an epoch or an image's number), so that any draw can be made again alone:
after a resume, in another process, at another batch size.
"""
import numpy as np
import torch

# First number after the seed: what the randomness is for. Never reuse one, or two uses draw the same numbers.
SAMPLE_START, SAMPLE_STEP, EPOCH_ORDER, TRAIN_BATCH, TRAIN_NOISE, VALIDATION = range(6)
VALIDATION_SEED = 0                     # not the run's own, so that runs of the same kind of loss can be compared
PATH_COSTS = 20
NORMAL_LAW = 21
NOISE_CHANGE, PATCH_CHANGE = 22, 23          # of known changes of images
ERROR_MAP_IMAGES, ERROR_MAP_NOISE, ERROR_MAP_PROBES = range(30, 33)


def seeded_generator(seed: int, *key: int, device="cpu") -> torch.Generator:
    """A torch generator on `device` whose stream is fixed by (seed, *key), all non-negative integers."""
    high, low = np.random.SeedSequence([seed, *key]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(high) << 32 | int(low))
