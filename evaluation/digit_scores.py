"""Are they digits? Three scores of generated digits, from a small classifier that is trained once into the cache.

accuracy: the share of images that the classifier sorts into the class that was asked for. Without classes, it is the
share of images whose likeliest class has a probability above 0.95. fd_digits: the Fréchet distance of the classifier's
64 features between the images and the test digits, in percent of the trace of the test digits' covariance; 1 is good.
diversity: the mean distance between two images of a class, divided by the one between two test digits of that class,
and averaged over the classes. Below 1 the images of a class resemble each other too much.

A score means something only beside that of real digits: `Judge.noise_floor` scores training digits.
"""
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from data import ImageSet, load_images
from engine import devices
from engine.chunks import in_chunks
from engine.errors import InputError
from engine.optimization import learning_rate_at
from engine.sampling import from_uint8
from engine.seeds import seeded_generator
from evaluation import reference_cache
from evaluation.fid import FeatureStatistics, frechet_distance

NUM_FEATURES = 64
SURE = 0.95                     # probability from which an image without a class asked for counts as a digit
BATCH_SIZE, NUM_EPOCHS, LEARNING_RATE, SEED = 128, 4, 4e-3, 0
INFERENCE_BATCH = 500
SCORES = ("accuracy", "fd_digits", "diversity")
DRAWN = "digits"                # the data set of drawn digits


class DigitClassifier(nn.Module):
    """Three convolutions with batch norm and pooling, 64 features, logits. 60,986 parameters with ten classes."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        layers = []
        for in_channels, out_channels in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels),
                       nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 3 * 3, NUM_FEATURES), nn.ReLU())
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x: [B, 1, 28, 28] in [-1, 1] -> logits [B, num_classes], features [B, 64], at least 0."""
        features = self.features(x)
        return self.head(features), features


def train_classifier(images: np.ndarray, labels: np.ndarray) -> DigitClassifier:
    """A classifier trained on images uint8 [N, 1, 28, 28] and labels int64 [N]. The seed is fixed and one thread works,
    so its weights depend on the images and the machine's arithmetic alone. 60,000 digits take half a minute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network = DigitClassifier(int(labels.max()) + 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        images, labels = torch.from_numpy(np.array(images)), torch.from_numpy(np.array(labels))
        steps_per_epoch = max(1, len(images) // BATCH_SIZE)
        num_steps = NUM_EPOCHS * steps_per_epoch
        for step in range(num_steps):
            epoch, place = divmod(step, steps_per_epoch)
            if place == 0:
                order = torch.randperm(len(images), generator=seeded_generator(SEED, epoch))
            chosen = order[place * BATCH_SIZE:(place + 1) * BATCH_SIZE]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, num_steps, LEARNING_RATE, "cosine", num_steps // 10)
            logits, _ = network(from_uint8(images[chosen]))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[chosen], label_smoothing=0.02).backward()
            optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return network.eval()


@torch.no_grad()
def judgements(network: DigitClassifier, images) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [N, classes] and features [N, 64], float32 on the CPU, of uint8 images [N, 1, 28, 28]."""
    device = next(network.parameters()).device
    with devices.exact_float32():
        parts = [network(from_uint8(chunk.to(device))) for chunk in in_chunks(images, INFERENCE_BATCH)]
    logits, features = (torch.cat(part).cpu() for part in zip(*parts))
    return logits.softmax(1), features


def distances_within(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Mean distance between two different images of each class: [N, D], [N] -> float64 [num_classes].

    A class with fewer than two images has 0.
    """
    means = torch.zeros(num_classes, dtype=torch.float64)
    for label in range(num_classes):
        own = features[labels == label].double()
        if len(own) > 1:
            means[label] = torch.pdist(own).mean()
    return means


@dataclass
class Judge:
    """The classifier, and what it sees in the test digits."""
    network: DigitClassifier
    test_accuracy: float                    # share of the test digits that the classifier names right
    statistics: FeatureStatistics           # of the test digits' features
    distances: torch.Tensor                 # float64 [classes], between two test digits of a class

    def scores(self, images, labels=None) -> dict[str, float]:
        """accuracy (0...1), fd_digits (percent, 0 or more) and diversity (1 for real digits) of images.

        images: uint8 [N, 1, 28, 28], array or tensor, N at least 2. labels: the classes asked for, [N], or None. Few
        images bias the distance upwards, so compare equal numbers. Raises InputError.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (1, 28, 28) or len(images) < 2:
            raise InputError(f"digit scores: found images {list(images.shape)}, expected at least two of [1, 28, 28]")
        probabilities, features = judgements(self.network, images)
        named = probabilities.argmax(1)
        if labels is None:
            accuracy, labels = (probabilities.amax(1) > SURE).double().mean(), named
        else:
            labels = labels.cpu() if isinstance(labels, torch.Tensor) else torch.as_tensor(np.asarray(labels))
            accuracy = (named == labels).double().mean()
        mean, covariance = self.statistics.mean_and_covariance()
        found = FeatureStatistics(NUM_FEATURES).add(features).mean_and_covariance()
        within = distances_within(features, labels, len(self.distances))
        return {"accuracy": float(accuracy),
                "fd_digits": 100 * frechet_distance(*found, mean, covariance) / float(covariance.trace()),
                "diversity": float((within / self.distances).mean())}

    def scores_of_damages(self, images: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
        """The scores of images with known damages (`damages`), by damage."""
        return {name: self.scores(damaged, labels) for name, damaged in damages(images, labels).items()}

    def noise_floor(self, train_set, num_images: int, num_draws: int = 5) -> list[dict[str, float]]:
        """The scores of `num_draws` draws of real training digits, none twice in a draw, classes balanced."""
        return [self.scores(*balanced_part(train_set, num_images, draw)) for draw in range(num_draws)]


def damages(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The images after known damages: name -> uint8 [N, 1, S, S], in the order of the labels. labels: 0...9, at least
    two images each."""
    noisy = np.clip(images + np.random.default_rng(SEED).normal(0, 60, images.shape), 0, 255).astype(np.uint8)
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(float)
    height, width = images.shape[2:]
    blurred = sum(wide[:, :, i:i + height, j:j + width] for i in range(3) for j in range(3)) / 9
    first_two = np.stack([np.flatnonzero(labels == label)[:2] for label in range(10)])
    one_missing, ones = images.copy(), images[labels == 1]
    one_missing[labels == 7] = ones[np.arange((labels == 7).sum()) % len(ones)]
    return {"noise added": noisy, "blurred": blurred.astype(np.uint8), "shifted by 3": np.roll(images, 3, 3),
            "mirrored": images[:, :, :, ::-1].copy(), "sevens replaced by ones": one_missing,
            "20 digits repeated": images[first_two[labels, np.arange(len(images)) % 7 % 2]]}


def balanced_part(image_set, num_images: int, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `num_images` random places in rising order, none twice, with equally many of each class up
    to one: uint8 [num_images, C, S, S], int64 [num_images]."""
    labels = image_set.labels
    classes = np.unique(labels)
    shares = np.full(len(classes), num_images // len(classes)) + (np.arange(len(classes)) < num_images % len(classes))
    random = np.random.default_rng([SEED, draw])
    chosen = np.sort(np.concatenate([random.choice(np.flatnonzero(labels == label), share, replace=False)
                                     for label, share in zip(classes, shares)]))
    return image_set.images[chosen], labels[chosen]


def load_judge(train_set, test_set, cache_dir="cache") -> Judge:
    """A judge. Its classifier is trained on train_set, or comes from the cache; it compares images with test_set.
    Training prints a line. Raises InputError unless both sets are labelled grey 28x28 images."""
    for image_set in (train_set, test_set):
        if image_set.labels is None or image_set.images.shape[1:] != (1, 28, 28):
            raise InputError(f"digit scores: {image_set.dataset} {image_set.split} holds images "
                             f"{list(image_set.images.shape[1:])} {'without' if image_set.labels is None else 'with'} "
                             "labels, expected labelled ones of [1, 28, 28]")
    settings = (f"digits 1: {BATCH_SIZE} {NUM_EPOCHS} {LEARNING_RATE} {SEED}, "
                f"trained on {train_set.content_hash} {len(train_set.images)}")

    def compute():
        print(f"training the digit classifier on {len(train_set.images)} images of {train_set.dataset}", flush=True)
        network = train_classifier(train_set.images, train_set.labels)
        probabilities, features = judgements(network, test_set.images)
        labels = torch.from_numpy(np.array(test_set.labels))
        return {"weights": network.state_dict(), "num_classes": network.head.out_features,
                "accuracy": float((probabilities.argmax(1) == labels).double().mean()),
                "statistics": FeatureStatistics(NUM_FEATURES).add(features).state(),
                "distances": distances_within(features, labels, network.head.out_features)}

    content = reference_cache.load_or_compute(cache_dir, test_set, "digits", settings, compute)
    network = DigitClassifier(content["num_classes"])
    network.load_state_dict(content["weights"])
    judge = Judge(network.eval(), content["accuracy"], FeatureStatistics.from_state(content["statistics"]),
                  content["distances"])
    print(f"digit classifier: {judge.test_accuracy:.4f} of {len(test_set.images)} digits of {test_set.dataset} "
          f"{test_set.split} named right", flush=True)
    return judge


def judge_of(dataset: str, cache_dir="cache", **columns: str | None) -> tuple[Judge, ImageSet, ImageSet]:
    """The judge of a data set's digits, and its training and test digits: grey, 28 pixels a side. columns: as in
    `load_images`. Raises InputError as `load_judge` does."""
    train_set, test_set = (load_images(dataset, split, cache_dir, size=28, channels=1, beside=["test"], **columns)
                           for split in ("train", "test"))
    return load_judge(train_set, test_set, cache_dir), train_set, test_set


def accuracy_of_drawn(test_set, cache_dir="cache") -> float:
    """The share of real test digits that a classifier names right which was trained on drawn ones alone; printed."""
    drawn = load_images(DRAWN, "train", cache_dir=cache_dir, size=28, channels=1)
    share = load_judge(drawn, test_set, cache_dir).test_accuracy
    print(f"a classifier of drawn digits names {share:.1%} of {len(test_set.images)} real ones right; chance is 10%",
          flush=True)
    return share
