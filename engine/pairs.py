"""Times of two scales, or of two bands of one image, that are drawn together: the coarse one leads in log SNR.

LIFT draws whole timesteps, a flow draws times between 0 and 1; the pairs are the same.
"""
from collections.abc import Callable

import torch


def draw_leads(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Leads of the coarse scale in log SNR, uniform from `low` to `high`: float64 [count] on the CPU."""
    return torch.empty(count, dtype=torch.float64).uniform_(low, high, generator=generator)


def clock_times(t_fine: torch.Tensor, t_coarse: torch.Tensor, leads: torch.Tensor,
                leading: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Pairs of times [B], in turn: a fine one as drawn with the coarse one ahead, a coarse one with the fine one
    behind. So both scales are seen at every time, although one leads.

    t_fine, t_coarse: drawn independently, [B]; leads: float64 [B]; leading(t, leads): the times ahead of t by as much
    in log SNR (`NoiseProcess.leading_t`).
    """
    is_ahead = torch.arange(len(leads)) % 2 == 0
    return [torch.where(is_ahead, t_fine, leading(t_coarse, -leads)),
            torch.where(is_ahead, leading(t_fine, leads), t_coarse)]
