"""The server that tests fork trainings from: it has loaded what takes seconds, so that every fork need not."""
import sys

from conftest import in_two_processes
from engine.loop import Loop

DEAR = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint", "lift.tasks", "flow.training",
        "distill.task", "pytest")


def state_of_a_fork() -> tuple[list[str], bool]:
    """What of `DEAR` is not loaded, and whether a loss curve would be drawn."""
    return [name for name in DEAR if name not in sys.modules], Loop.draws_curves


def test_a_fork_has_everything_loaded_and_draws_no_loss_curve():
    assert in_two_processes(state_of_a_fork) == [([], False)] * 2
