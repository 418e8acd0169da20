"""What the server of `conftest.forks` loads, once for all processes that are forked from it; nothing is computed here.

The first optimizer of a process loads torch._dynamo, the first checkpoint of spread networks
torch.distributed.checkpoint: seconds each, for processes that train for less.
"""
import gc

import pytest                                           # noqa: F401
import torch
import torch._dynamo                                    # noqa: F401
import torch.distributed.checkpoint.state_dict          # noqa: F401
import torch.distributed.fsdp                           # noqa: F401
import torch.distributed.launcher.api                   # noqa: F401

import conftest                                         # noqa: F401
import data                                             # noqa: F401
import distill.task                                     # noqa: F401
import families                                         # noqa: F401
import flow.training                                    # noqa: F401
import lift.tasks                                       # noqa: F401
import scripts.benchmarks.resume_after_kills            # noqa: F401
from engine import loop

torch.set_num_threads(1)
loop.Loop.draws_curves = False
gc.freeze()                                             # no fork looks through what the server has loaded
