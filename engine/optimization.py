"""How weights move: the learning rate of every step, and the moving average of the parameters."""
import math

import torch

from engine.options import LEARNING_RATE_MIN


def learning_rate_at(step: int, num_steps: int, highest: float, schedule: str = "cosine", warmup_steps: int = 0):
    """Learning rate of optimizer step 0...num_steps-1: linear rise, then cosine to exactly LEARNING_RATE_MIN.

    The cosine is that of Loshchilov and Hutter 2017, eq. 5, without restarts, at every step. Before it the rise takes
    at most half of the steps, so that even a short run ends at the minimum. schedule: cosine or constant.
    """
    if schedule == "cosine":
        warmup_steps = min(warmup_steps, longest_warmup(num_steps))
    if step < warmup_steps:
        return highest * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return highest
    falling = num_steps - 1 - warmup_steps              # steps from the highest rate to the lowest
    progress = min((step - warmup_steps) / falling, 1.0) if falling else 1.0
    return LEARNING_RATE_MIN + (highest - LEARNING_RATE_MIN) * 0.5 * (1 + math.cos(math.pi * progress))


def longest_warmup(num_steps: int) -> int:
    """The most steps of linear rise in a run of so many steps with a cosine."""
    return num_steps // 2


class ExponentialMovingAverage:
    """Moving average of a model's parameters, in one fused operation over all of them.

    The decay rises as (1 + n) / (10 + n) over updates n until it reaches `decay`. So the initial weights soon count
    little.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.parameters = [p.detach() for p in model.parameters()]
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, num_updates: int) -> None:
        """Move the average towards the parameters; `num_updates` counts the updates before this one."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        torch._foreach_lerp_(list(self.shadow.values()), self.parameters, 1 - decay)

    def state_dict(self) -> dict:
        """`shadow` and `decay`, as in the published checkpoints."""
        return {"shadow": on_cpu(self.shadow), "decay": self.decay}

    def load_state_dict(self, state: dict) -> None:
        """Copy a saved average in."""
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)


def on_cpu(tensors: dict) -> dict:
    """Copies of the tensors on the CPU in plain layout."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
