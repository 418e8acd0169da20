"""Known changes of photographs, and what EfficientNet-Lite0's distances make of them."""
import dataclasses
import time

import numpy as np
import torch

import data
from evaluation import fid, image_changes, lite_features, normal_law

# Changes that make other images, and those that only repeat some.
CHANGED = {"none": lambda images: images,
           "noise of 5 grey levels": lambda images: image_changes.with_noise(images, 5),
           "noise of 20 grey levels": lambda images: image_changes.with_noise(images, 20),
           "half the side and back": image_changes.blurred,
           "16 patches shuffled": image_changes.with_shuffled_patches,
           "normal law of the pixels": lambda images: normal_law.draw(images, len(images), 0)}
REPEATED = {"half of the images, twice": lambda num_images: num_images // 2,
            "100 images, again and again": lambda num_images: 100}
NUM_TIMED = 200


def shuffled(image_set: data.ImageSet, num_reference: int) -> tuple[data.ImageSet, data.ImageSet]:
    """(candidates, reference), each known by a content hash of its own."""
    order = np.random.default_rng(0).permutation(len(image_set))
    return tuple(dataclasses.replace(image_set, images=image_set.images[part], labels=None,
                                     content_hash=f"{image_set.content_hash}-{name}-{num_reference}")
                 for name, part in (("candidates", order[:-num_reference]), ("reference", order[-num_reference:])))


def changed(candidates: data.ImageSet, change: str, num_images: int) -> data.ImageSet:
    """The first candidates after a change."""
    images = CHANGED[change](torch.from_numpy(candidates.images[:num_images]))
    name = change.replace(" ", "_")
    return dataclasses.replace(candidates, images=images,
                               content_hash=f"{candidates.content_hash}-{num_images}-{name}")


def images_per_second(lite: lite_features.Lite0, images) -> float:
    """How many images' features a second."""
    lite.features(torch.from_numpy(images[:50]))
    start = time.perf_counter()
    for _ in fid.features_of(images[:NUM_TIMED], lite):
        pass
    return NUM_TIMED / (time.perf_counter() - start)


def scores(features: torch.Tensor, reference: torch.Tensor, statistics: fid.FeatureStatistics,
           lite: lite_features.Lite0) -> dict[str, float]:
    """A row's values."""
    distance = fid.fid(fid.FeatureStatistics(lite.num_features).add(features), statistics)
    kernel, error = fid.kid(features, reference)
    precision, recall = fid.precision_recall(features, reference)
    return {"fd_lite0": distance, "kd_lite0": kernel, "kd_standard_error": error, "precision": precision,
            "recall": recall, **lite_features.class_shares(lite.first_guesses(features))}
