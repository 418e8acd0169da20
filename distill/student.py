"""A student for the sampler: a path of few points, and a denoiser that may be called at other levels."""
import torch

from engine.denoiser import Denoiser, Times, numbers_of
from engine.sampling import to_device
from networks.scales import downsample_to_32


def few_steps_of(places: list[list[int]], called_at: list[list[int]], coupling: str) -> dict:
    """The entry `few_steps` of a student's checkpoint, plain types. places, called_at: [N][scales] among the levels."""
    return {"places": places, "called_at": called_at, "coupling": coupling}


def path_of(few_steps: dict, times: list[torch.Tensor], processes) -> torch.Tensor:
    """The student's path to the clean image: [N + 1, scales]. times: per scale, the process's time at every place."""
    columns = [torch.cat([times[s][[place[s] for place in few_steps["places"]]].double(),
                          torch.tensor([process.clean], dtype=torch.float64)]) for s, process in enumerate(processes)]
    path = torch.stack(columns, dim=1)
    return path.long() if all(not t.is_floating_point() for t in times) else path


class StudentDenoiser(Denoiser):
    """A student's clean images. A conditioning time changes only what the first call is told, not its input.

    tied: the image of the second scale is the 2x2 mean of the first; free: it is the network's own.
    """

    def __init__(self, denoiser: Denoiser, few_steps: dict, times: list[torch.Tensor]):
        self.denoiser, self.coupling = denoiser, few_steps["coupling"]
        self.shapes, self.processes = denoiser.shapes, denoiser.processes
        self.asked_at = {}
        for place, called in zip(few_steps["places"], few_steps["called_at"]):
            key = tuple(float(times[s][place[s]]) for s in range(len(times)))
            self.asked_at[key] = [times[s][called[s]] for s in range(len(times))]

    @property
    def num_evaluations(self) -> int:
        """How many images went through the network of the denoiser inside."""
        return self.denoiser.num_evaluations

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`, at the student's own times alone."""
        called = self.asked_at[tuple(numbers_of(ts))]
        ts = Times([to_device(time, t.device).expand(len(t)) for time, t in zip(called, ts)], called)
        return coupled(self.denoiser.clean(xs, ts, labels), self.coupling)


def coupled(x_0s: list[torch.Tensor], coupling: str) -> list[torch.Tensor]:
    """The student's images per scale, [B, C, S, S] each. With tied scales the second is the 2x2 mean of the first."""
    return [x_0s[0], downsample_to_32(x_0s[0])] if len(x_0s) == 2 and coupling == "tied" else list(x_0s)
