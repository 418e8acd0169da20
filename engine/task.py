"""What is trained: networks, optimizers, batches and losses. The loop (`engine/loop.py`) knows no more of a family."""
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine import seeds
from engine.command_line import command_words
from engine.errors import InputError
from engine.optimization import learning_rate_at
from engine.seeds import seeded_generator
from engine.sharding import shard

Networks = Mapping[str, nn.Module]


def epoch_order(seed: int, epoch: int, num_images: int) -> torch.Tensor:
    """The order in which an epoch visits the images: a permutation, int64 [num_images]."""
    return torch.randperm(num_images, generator=seeded_generator(seed, seeds.EPOCH_ORDER, epoch))


@dataclass(frozen=True)
class Update:
    """One optimizer step: which network's weights move, and along the gradient of which loss.

    loss(networks, batch) returns scalars by name: "loss" is minimised, all are logged. It draws no random numbers.
    """
    trains: str
    loss: Callable[[Networks, Any], dict[str, torch.Tensor]]


class Task:
    """One training: what a family hands to the loop.

    networks: trained and saved, by name; an epoch checkpoint holds the first. frozen: networks that losses call and
    that are not saved. frozen_hashes: of the files that these and others come from. averaged: names of the networks
    with an EMA. num_images: in an epoch. content_hash: of these images. columns: the losses' names in the order of the
    log.
    """

    networks: dict[str, nn.Module]
    frozen: dict[str, nn.Module] = {}
    frozen_hashes: dict[str, str] = {}
    averaged: tuple[str, ...] = ()
    num_images: int
    content_hash: str
    labels_hash: str | None = None                  # of their labels, where these are trained on
    columns: tuple[str, ...] = ("loss",)
    has_validation = False                          # whether there are held-out images
    command = "the command that trained it"         # for messages about a checkpoint of another task
    rate_options = "--learning_rate"                # what to lower where a run diverges
    older_options: dict = {}                        # values of options that states of earlier versions lack

    def __init__(self, args):
        self.args = args
        self.order_of = (-1, None)      # an epoch, and the order of its images

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; 0 where the images do not fill a batch."""
        args = self.args
        return min(args.epochs * (self.num_images // args.batch_size), args.max_steps or sys.maxsize)

    def indices(self, step: int) -> torch.Tensor:
        """The numbers of a step's images, over all processes: int64 [batch_size]. Every epoch has a fresh order."""
        size = self.args.batch_size
        epoch, place = divmod(step, self.num_images // size)
        if self.order_of[0] != epoch:
            self.order_of = (epoch, epoch_order(self.args.seed, epoch, self.num_images))
        return self.order_of[1][place * size:(place + 1) * size]

    def optimizer(self, name: str, parameters) -> torch.optim.Optimizer:
        """The optimizer of a network; its learning rate is set at every step."""
        return torch.optim.AdamW(parameters, lr=self.args.learning_rate, weight_decay=0.01, fused=True)

    def learning_rate(self, name: str, step: int, num_steps: int, num_updates: int) -> float:
        """The rate of a network at a step; num_updates: how often its weights have moved before."""
        args = self.args
        return learning_rate_at(step, num_steps, args.learning_rate, args.lr_schedule, args.warmup_steps)

    def compiled(self, network: nn.Module):
        """The network by way of torch.compile; it is called alike. The compiler runs at the first call, for minutes."""
        return torch.compile(network)

    def begin(self) -> None:
        """Called once before the first step of a run that is not resumed."""

    def batch(self, step: int, part: slice) -> Any:
        """The share `part` of the step's global batch, with all random draws. They depend on seed and step alone."""
        raise NotImplementedError

    def updates(self, step: int) -> Sequence[Update]:
        """The optimizer steps of a step, in order. Here one, of the network `model` along the task's `losses`."""
        return [Update("model", self.losses)]

    def losses(self, networks: Networks, batch: Any) -> dict[str, torch.Tensor]:
        """Of a task with that one update: scalars by name, as `Update` says."""
        raise NotImplementedError

    def logged(self, means: dict[str, float]) -> dict[str, float]:
        """What a log line says, from the mean of every loss since the last line; `columns` name its entries."""
        return means

    def validate(self, networks: Networks) -> dict:
        """Held-out losses by name; nested lists are written to a file of their own."""
        return {}

    def validation_text(self, result: dict) -> str:
        """What is printed of a validation."""
        return ", ".join(f"{key} {value:.5f}" for key, value in result.items() if isinstance(value, float))

    def validation_detail(self, result: dict) -> str:
        """What is printed below it for the averaged weights: a small table, or ""."""
        return ""

    def loss_figure(self, logs: dict[str, list[dict]]):
        """A matplotlib Figure of the losses (run name -> rows of its log), or None."""
        return None

    def pictures(self, networks: Networks, step: int, epoch: float) -> dict:
        """What `preview` makes, as PIL images or figures, by the file that each goes to. Asked for every --sample_every
        epochs; with FSDP all processes are asked, and one writes."""
        return {}

    def shard_frozen(self, device: torch.device) -> None:
        """Spread the frozen networks over all processes, as `engine.sharding.shard` does."""
        for network in self.frozen.values():
            shard(network, device)

    def resume_words(self) -> list[str]:
        """The words behind `python` that continue this run."""
        return [word for word in command_words() if word not in ("--resume", "--overwrite")] + ["--resume"]

    def check_content(self, path, state: dict) -> None:
        """Raises InputError for a state of another task."""
        found = state.get("family")
        if found != self.content().get("family"):
            raise InputError(f"{path}: is a state of family {found}, expected {self.content().get('family')}; choose "
                             "another --name")
        for name, expected in self.frozen_hashes.items():
            if (state.get("frozen_hashes") or {}).get(name) != expected:
                raise InputError(f"{path}: was trained with another {name} than the one given (its file's hash "
                                 "differs); give the same file, or another --name")

    def preview(self, networks: Networks) -> torch.Tensor | None:
        """Images to look at: uint8 [n, C, H, W], or None."""
        return None

    def content(self) -> dict:
        """`family`, and what builds the first network; plain types."""
        raise NotImplementedError

    def completed(self, content: dict) -> dict:
        """A checkpoint's content, with what is measured of the weights in it."""
        return content

    def describe_batch(self, step: int) -> str:
        """Which times a step's batch had, for the message about a loss that is not finite."""
        return ""
