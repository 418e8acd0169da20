"""What the sampler asks of a model: the clean image, given noised ones. It knows no family and no kind of output."""
import copy
from collections.abc import Callable

import torch

from scheduler import NoiseProcess, clean_image


class Denoiser:
    """Predicts clean images from noised ones; one entry per scale in every list (LIFT has two, all others one).

    shapes: [C, H, W] per scale. processes: the noise process per scale. held: scales that the sampler leaves as they
    are. num_evaluations counts images that went through a network, so that a guided prediction of B images counts 2 B.
    num_classes: None without labels.
    """

    shapes: list[tuple[int, ...]]
    processes: list[NoiseProcess]
    held: frozenset = frozenset()
    num_evaluations = 0
    num_classes: int | None = None

    def clean(self, xs: list[torch.Tensor], ts: list[torch.Tensor], labels=None) -> list[torch.Tensor]:
        """The clean image per scale. xs: [B, C, H, W] each; ts: [B] each, in the processes' own times; labels: int64
        [B] or None."""
        raise NotImplementedError

    def null_labels(self, num: int, device) -> torch.Tensor:
        """What images without a class are told: the number behind the last class, int64 [num]."""
        return torch.full((num,), self.num_classes, device=device)


class OutputDenoiser(Denoiser):
    """A network whose outputs, one per scale, are of a kind that means a clean image (`scheduler.clean_image`).

    num_classes: None for a network without labels; its null class, for guidance, is number `num_classes`.
    """

    network: Callable
    kind: str
    num_classes: int | None = None

    def outputs(self, network, xs, ts, labels=None) -> list[torch.Tensor]:
        """What `network`, called as this denoiser's own, puts out per scale; xs, ts and labels as in `clean`."""
        raise NotImplementedError

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`; without labels the network is asked for its null class."""
        self.num_evaluations += len(xs[0])
        return [clean_image(self.kind, output.to(x.dtype), x, *process.levels(t, x.dtype)) for output, x, t, process
                in zip(self.outputs(self.network, xs, ts, labels), xs, ts, self.processes)]

    def with_network(self, network) -> "OutputDenoiser":
        """The same with another network, called alike."""
        other = copy.copy(self)
        other.network = network
        return other


class NetworkDenoiser(OutputDenoiser):
    """A network of one scale, called as network(x, t), or network(x, t, labels) where it has classes.

    network_time: from the process's time to what the network is told. The rest as in `OutputDenoiser`.
    """

    def __init__(self, network, process: NoiseProcess, kind: str, shape, num_classes: int | None = None,
                 network_time=None):
        self.network, self.process, self.kind, self.num_classes = network, process, kind, num_classes
        self.shapes, self.processes = [tuple(shape)], [process]
        self.network_time = network_time or (lambda t: t)

    def outputs(self, network, xs, ts, labels=None) -> list[torch.Tensor]:
        """What `network`, called as this denoiser's own, puts out per scale; xs, ts and labels as in `clean`."""
        [x], [t] = xs, ts
        if self.num_classes is None:
            return [network(x, self.network_time(t))]
        if labels is None:
            labels = self.null_labels(len(x), x.device)
        return [network(x, self.network_time(t), labels)]


class Guided(Denoiser):
    """Classifier-free guidance: unconditional + scale (conditional - unconditional), in clean images (Ho and Salimans
    2022, eq. 6). Both halves go through the network in one batch; scales 1 and 0 need one half alone.

    interval: (low, high) in log SNR; guidance acts where low <= log SNR <= high (Kynkaanniemi et al. 2024), outside it
    the prediction is the conditional one. All images of a batch must be at the same time then.
    """

    def __init__(self, denoiser: NetworkDenoiser, scale: float, interval: tuple[float, float] | None = None):
        self.denoiser, self.scale, self.interval = denoiser, scale, interval
        self.shapes, self.processes, self.held = denoiser.shapes, denoiser.processes, denoiser.held

    @property
    def num_evaluations(self) -> int:
        """Those of the denoiser inside."""
        return self.denoiser.num_evaluations

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`. Without labels there is nothing to guide towards: the unconditional prediction."""
        if labels is None or self.scale == 0:
            return self.denoiser.clean(xs, ts)
        if self.scale == 1 or not self.acts_at(ts[0]):
            return self.denoiser.clean(xs, ts, labels)
        null = self.denoiser.null_labels(len(labels), labels.device)
        both = self.denoiser.clean([torch.cat([x, x]) for x in xs], [torch.cat([t, t]) for t in ts],
                                   torch.cat([labels, null]))
        return [unconditional + self.scale * (conditional - unconditional)
                for conditional, unconditional in (x_0.chunk(2) for x_0 in both)]

    def acts_at(self, t: torch.Tensor) -> bool:
        """Whether guidance acts at these times."""
        if self.interval is None:
            return True
        low, high = self.interval
        return low <= float(self.processes[0].log_snr(t[0])) <= high
