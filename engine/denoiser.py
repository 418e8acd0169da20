"""What the sampler asks of a model: the clean image, given noised ones. It knows no family and no kind of output."""
import copy
from collections.abc import Callable

import torch

from engine.errors import InputError
from scheduler import NoiseProcess, clean_image, noise_in, per_image


class Denoiser:
    """Predicts clean images from noised ones; one entry per scale in every list (LIFT has two, all others one).

    shapes: [C, H, W] per scale. processes: the noise process per scale. held: scales that the sampler leaves as they
    are. num_evaluations: how many images went through a network; a guided prediction of B images counts 2 B.
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

    def begin(self) -> None:
        """Called before the first step of every batch, for what is remembered from step to step."""

    def image(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """The image, or latent, that a sampler's xs stand for: [B, *shapes[0]]. Here it is the first scale's."""
        return xs[0]

    def clipped(self, x_0s: list[torch.Tensor]) -> list[torch.Tensor]:
        """Clean images with every pixel in [-1, 1]."""
        return [x_0.clamp(-1, 1) for x_0 in x_0s]

    def null_labels(self, num: int, device) -> torch.Tensor:
        """What images without a class are told: the number behind the last class, int64 [num]."""
        return torch.full((num,), self.num_classes, device=device)


class Times(list):
    """Times of a batch whose images are all at the same: a tensor [B] per scale, on the device, and the same as
    `numbers`, one per scale, so that what depends on the time alone is decided without waiting for the device."""

    def __init__(self, tensors, numbers):
        super().__init__(tensors)
        self.numbers = [float(number) for number in numbers]


def numbers_of(ts: list[torch.Tensor]) -> list[float]:
    """The time of each scale of a batch at one time; fetched from the device where `ts` are no `Times`."""
    return ts.numbers if isinstance(ts, Times) else [float(t[0]) for t in ts]


def changed_times(ts: list[torch.Tensor], change) -> list[torch.Tensor]:
    """Times of which each scale's became change(scale, t); of `Times`, the numbers too."""
    told = [change(s, t) for s, t in enumerate(ts)]
    if not isinstance(ts, Times):
        return told
    return Times(told, [change(s, torch.tensor(number, dtype=torch.float64)) for s, number in enumerate(ts.numbers)])


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


class Wrapped(Denoiser):
    """A denoiser around another one of the same scales, whose evaluations it counts."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.shapes, self.processes, self.held = denoiser.shapes, denoiser.processes, denoiser.held

    @property
    def num_evaluations(self) -> int:
        """How many images went through the network of the denoiser inside."""
        return self.denoiser.num_evaluations

    def begin(self) -> None:
        """As in `Denoiser`."""
        self.denoiser.begin()

    def image(self, xs) -> torch.Tensor:
        """As in `Denoiser`."""
        return self.denoiser.image(xs)

    def clipped(self, x_0s) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        return self.denoiser.clipped(x_0s)


class Corrected(Wrapped):
    """A correction of exposure bias. A sampler's image gathers errors that the network never saw in training, so it is
    noisier than its level says.

    eps_scale: a factor of the predicted noise, below 1 as a rule (Ning et al. 2023, section 5, divide by a number above
    1). told_log_snr: the network is told a log SNR lower by this number, at every scale. The noise that it then
    predicts is kept, and the clean image follows from this noise at the image's own level. No call is added. Where a =
    0 the noise says nothing of the clean image, so the prediction stays.
    """

    def __init__(self, denoiser: Denoiser, eps_scale: float = 1.0, told_log_snr: float = 0.0):
        super().__init__(denoiser)
        self.eps_scale, self.told_log_snr = eps_scale, told_log_snr

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        told = ts if self.told_log_snr == 0 else changed_times(ts, self.told_time)
        return [self.corrected(*scale) for scale in zip(xs, self.denoiser.clean(xs, told, labels), ts, told,
                                                        self.processes)]

    @classmethod
    def where_asked(cls, denoiser: Denoiser, eps_scale: float, told_log_snr: float) -> Denoiser:
        """The denoiser with that correction; itself where there is nothing to correct."""
        return denoiser if (eps_scale, told_log_snr) == (1, 0) else cls(denoiser, eps_scale, told_log_snr)

    def told_time(self, s: int, t: torch.Tensor) -> torch.Tensor:
        """The time of scale s at which the log SNR is lower by `told_log_snr` than at t."""
        process = self.processes[s]
        return process.t_at(process.log_snr(t) - self.told_log_snr)

    def corrected(self, x, x_0, t, told, process: NoiseProcess) -> torch.Tensor:
        """The clean images [B, C, S, S] at times t [B]. told: the times the network was told; x_0: its prediction."""
        a, s = process.levels(t, x.dtype)
        eps = self.eps_scale * noise_in(x, x_0, *process.levels(told, x.dtype))
        # A scale that has arrived is told no finite noise level: its image is the clean one.
        eps = torch.where(per_image(s, x) == 0, 0, eps)
        return torch.where(per_image(a, x) == 0, x_0, clean_image("eps", eps, x, a, s))


def dropped_labels(options: dict) -> bool:
    """Whether a training of these options told the network no class for some images, which guidance needs. Options
    without --label_dropout, as those of a student, drop none."""
    return options.get("label_dropout", 0) > 0


def check_guidance(scale: float, is_guidable: bool, where, option: str = "--guidance_scale") -> None:
    """Raises InputError for guidance of a model that was always told a class, or never. where: its checkpoint, for
    the message."""
    if scale != 1 and not is_guidable:
        raise InputError(f"{option}: found {scale:g}, but {where} was trained without dropped labels (--label_dropout) "
                         "or without classes, and knows no prediction without a class beside one with it; expected 1")


def refuse_student(few_steps, path) -> None:
    """Raises InputError if the checkpoint at `path` is a student's, where another path would be walked. few_steps: its
    entry of that name, None for any other model."""
    if few_steps:
        raise InputError(f"--checkpoint: {path} is a student whose few steps are its own; draw its images with "
                         "python -m distill.generate")


def log_snr_at_time(process: NoiseProcess, t) -> float:
    """The log SNR of one time, a number or a tensor of one."""
    return float(process.log_snr(torch.as_tensor(t, dtype=torch.float64)))


def acts_at(interval: tuple[float, float] | None, process: NoiseProcess, t) -> bool:
    """Whether guidance acts at time t. interval: of log SNR, both ends included; None: always."""
    return interval is None or interval[0] <= log_snr_at_time(process, t) <= interval[1]


def acts_on(interval: tuple[float, float] | None, process: NoiseProcess, ts) -> bool:
    """`acts_at` for the first scale's time of a batch at one time."""
    return interval is None or acts_at(interval, process, numbers_of(ts)[0])


class Autoguided(Wrapped):
    """Guidance by a weaker denoiser of the same images: weak + scale (denoiser - weak), in clean images (Karras et al.
    2024, eq. 3, whose weaker denoiser is smaller and less trained).

    weak: another object than `denoiser`, for it counts its own evaluations. It is called where guidance acts and
    `scale` is not 1; where it returns None for a scale, that scale is not guided. interval: as in `Guided`, of the
    first scale's log SNR. Outside it the prediction is the denoiser's alone.
    """

    def __init__(self, denoiser: Denoiser, weak: Denoiser, scale: float, interval: tuple[float, float] | None = None):
        super().__init__(denoiser)
        self.weak, self.scale, self.interval = weak, scale, interval

    @property
    def num_evaluations(self) -> int:
        """How many images went through both networks, together."""
        return self.denoiser.num_evaluations + self.weak.num_evaluations

    def begin(self) -> None:
        """As in `Denoiser`."""
        self.denoiser.begin()
        self.weak.begin()

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        x_0s = self.denoiser.clean(xs, ts, labels)
        if self.scale == 1 or not acts_on(self.interval, self.processes[0], ts):
            return x_0s
        return [x_0 if weak is None else weak + self.scale * (x_0 - weak)
                for x_0, weak in zip(x_0s, self.weak.clean(xs, ts, labels))]


class Guided(Wrapped):
    """Classifier-free guidance: unconditional + scale (conditional - unconditional), in clean images (Ho and Salimans
    2022, eq. 6). Both halves go through the network in one batch; scales 1 and 0 need one half alone.

    interval: (low, high) in log SNR. Guidance acts where low <= log SNR <= high (Kynkaanniemi et al. 2024); elsewhere
    the prediction is the conditional one.
    reuse: within a batch, the difference of both predictions is used again while no scale's log SNR has risen by more
    than this since it was measured, and a step then costs the conditional half alone. What is used again is the
    difference of the velocities x_0 - eps, which is (a + s) / s of that of the clean images. 0: measured anew wherever
    the time is another one.
    With an interval or reuse, all images of a batch must be at the same time.
    """

    def __init__(self, denoiser: NetworkDenoiser, scale: float, interval: tuple[float, float] | None = None,
                 reuse: float = 0.0):
        super().__init__(denoiser)
        self.scale, self.interval, self.reuse = scale, interval, reuse
        self.kept = None                        # log SNR per scale, and the difference of velocities per scale

    def around(self, denoiser: Denoiser) -> "Guided":
        """The same guidance of another denoiser."""
        return Guided(denoiser, self.scale, self.interval, self.reuse)

    def begin(self) -> None:
        """As in `Denoiser`: a difference is of its batch."""
        super().begin()
        self.kept = None

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`. Without labels there is nothing to guide towards: the unconditional prediction."""
        if labels is None:
            return self.denoiser.clean(xs, ts)
        if self.scale == 1 or not acts_on(self.interval, self.processes[0], ts):
            return self.denoiser.clean(xs, ts, labels)
        if self.scale == 0:
            return self.denoiser.clean(xs, ts)
        if self.reuse and self.is_kept_at(ts):
            differences = [kept * s / (a + s) for kept, (a, s) in zip(self.kept[1], self.levels(xs, ts))]
            return [conditional + (self.scale - 1) * difference
                    for conditional, difference in zip(self.denoiser.clean(xs, ts, labels), differences)]
        null = self.denoiser.null_labels(len(labels), labels.device)
        both = self.denoiser.clean([torch.cat([x, x]) for x in xs], [torch.cat([t, t]) for t in ts],
                                   torch.cat([labels, null]))
        halves = [x_0.chunk(2) for x_0 in both]
        if self.reuse:                          # a clean scale has no difference; its factor is finite all the same
            self.kept = self.log_snrs(ts), [(conditional - unconditional) * (a + s) / s.clamp(min=1e-6) for
                                            (conditional, unconditional), (a, s) in zip(halves, self.levels(xs, ts))]
        return [unconditional + self.scale * (conditional - unconditional) for conditional, unconditional in halves]

    def levels(self, xs, ts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """a and s per scale, a number for each image, shaped to multiply it."""
        return [tuple(per_image(level, x) for level in process.levels(t, x.dtype))
                for x, t, process in zip(xs, ts, self.processes)]

    def log_snrs(self, ts) -> list[float]:
        """The log SNR of each scale of a batch at one time."""
        return [log_snr_at_time(process, number) for process, number in zip(self.processes, numbers_of(ts))]

    def is_kept_at(self, ts) -> bool:
        """Whether the difference that was measured last holds at these times."""
        return self.kept is not None and all(now == before or 0 <= now - before <= self.reuse
                                             for now, before in zip(self.log_snrs(ts), self.kept[0]))
