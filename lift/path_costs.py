"""What an edge of a path costs, measured with the denoiser itself: local errors of the sampler, a bound from losses.

Notation: z_s = x_s / sqrt(abar_s) = A_s x + sigma_s eps with log SNR lambda_s, sigma_s = exp(-lambda_s / 2), A_64 the
identity and A_32 the 2x2 mean; x^_s the prediction of the clean image at scale s, clipped to [-1, 1] where the sampler
clips. Lengths are root mean squares over images, channels and pixels; lengths, not squares, are summed along a path.

Everything is measured on real images with real noise, the same for all cells, at grid cells (i of t_64, j of t_32), or
(i,) for a single-scale model. Costs are counted in model calls: one network evaluation of one image.
"""
import contextlib
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from engine import devices
from lift import dynamic_program, paths
from engine import seeds
from engine.errors import InputError
from lift.coupling import has_bands, views
from networks.bands import clipped_parts, joined
from engine.sampling import from_uint8
from scheduler import NUM_TIMESTEPS, CosineSteps, noised, per_image, predict_x_0, step_from_x_0
from engine.seeds import seeded_generator


class Measurement:
    """A denoiser, the images and noises it is measured on, and the grid.

    model: BaselineModel, LIFTDualTimestepModel or anything called like them, which also takes fractional timesteps;
    model.model_type tells the number of scales. x_0: clean images [M, C, H, W] in [-1, 1], whose precision and device
    are kept. timesteps: int64 [n]. clip: as in the sampler. batch_size: images per network call. transform: what a
    difference of 64 images [B, C, H, W] goes through before its length is taken, such as a whitening.
    """

    def __init__(self, model, x_0: torch.Tensor, timesteps, *, seed: int = 0, batch_size: int = 64, clip: bool = True,
                 precision: str = "float32", progress: bool = False, transform=None):
        self.model, self.clip, self.precision = model, clip, precision
        self.batch_size, self.progress, self.transform = batch_size, progress, transform or (lambda x: x)
        self.num_scales = 2 if model.model_type == "lift" else 1
        self.has_bands = has_bands(model)
        self.of_image = 2 if self.has_bands else 1                  # so many scales, the first ones, make up the image
        self.clean = views(model, x_0)[:self.num_scales]                                # per scale [M, C, H, W]
        self.noise = [torch.stack([
            torch.randn(x.shape[1:], generator=seeded_generator(seed, seeds.PATH_COSTS, image, scale))
            for image in range(len(x))]).to(x) for scale, x in enumerate(self.clean)]
        self.num_images = len(x_0)
        self.timesteps = paths.cells_to_timesteps(np.arange(len(timesteps)), timesteps)
        self.log_snr = paths.log_snr_of(self.timesteps)                                 # float64 [n]
        self.schedule = CosineSteps(NUM_TIMESTEPS)

    @classmethod
    def of_images(cls, model, images: np.ndarray, timesteps, **options) -> "Measurement":
        """images: uint8 [M, 3, 64, 64]; the model's device decides where it runs."""
        device = next(model.parameters()).device
        return cls(model, from_uint8(torch.from_numpy(np.array(images))).to(device), timesteps, **options)

    def abar(self, log_snr: np.ndarray) -> torch.Tensor:
        """abar per image at the log SNRs of several states [E]: [E * M] (infinite log SNR is abar 1)."""
        value = torch.sigmoid(torch.as_tensor(log_snr, dtype=torch.float64)).repeat_interleave(self.num_images)
        return value.to(self.clean[0])

    def times(self, log_snr: np.ndarray) -> torch.Tensor:
        """The timesteps of those log SNRs, per image: [E * M], possibly fractions."""
        t = self.schedule.t_at(torch.as_tensor(log_snr)).repeat_interleave(self.num_images)
        return t.to(self.clean[0])

    def times_at(self, cells: np.ndarray) -> list[torch.Tensor]:
        """The timesteps of cells [E, S], whole numbers: per scale [E * M]. By way of log SNR they might come out a
        rounding below, where the interpolation between timesteps has another slope."""
        return [torch.as_tensor(self.timesteps[cells[:, s]]).repeat_interleave(self.num_images).to(self.clean[0])
                for s in range(self.num_scales)]

    def noised(self, cells: np.ndarray) -> list[torch.Tensor]:
        """All images at every cell [E, S]: per scale [E * M, C, H, W], cell by cell."""
        states = []
        for s, (x_0, noise) in enumerate(zip(self.clean, self.noise)):
            repeats = (len(cells), 1, 1, 1)
            states.append(noised(x_0.repeat(repeats), noise.repeat(repeats), self.abar(self.log_snr[cells[:, s]])))
        return states

    def noise_predictions(self, states, times) -> tuple:
        """The network's output per scale, in one call. states: per scale [B, C, H, W]; times: per scale [B]."""
        with devices.autocast(states[0].device, self.precision):
            out = self.model(*states, *times)
        return tuple(eps.to(states[0].dtype) for eps in (out if self.num_scales == 2 else (out,)))

    @torch.no_grad()
    def predictions(self, states, log_snr: np.ndarray) -> list[torch.Tensor]:
        """x^ per scale, in batches. states: per scale [E * M, ...]; log_snr: [E, S]."""
        times = [self.times(log_snr[:, s]) for s in range(self.num_scales)]
        abars = [self.abar(log_snr[:, s]) for s in range(self.num_scales)]
        size = max(self.batch_size // self.num_images, 1) * self.num_images
        parts = []
        for first in range(0, len(states[0]), size):
            part = slice(first, first + size)
            eps = self.noise_predictions([x[part] for x in states], [t[part] for t in times])
            x_0s = [predict_x_0(x[part], e, abar[part], self.clip and not self.has_bands)
                    for x, e, abar in zip(states, eps, abars)]
            parts.append(clipped_parts(*x_0s) if self.clip and self.has_bands else x_0s)
        return [torch.cat(values) for values in zip(*parts)]

    def image(self, states) -> torch.Tensor:
        """The image that states, or predictions, stand for: [E * M, C, H, W]."""
        return joined(*states) if self.has_bands else states[0]

    def advance(self, states, x_0, log_snr, log_snr_next) -> list[torch.Tensor]:
        """One DDIM step of every state; a scale whose log SNR stays is left as it is. log_snr, log_snr_next: [E, S]."""
        moved = []
        for s, (x, prediction) in enumerate(zip(states, x_0)):
            stays = torch.as_tensor(log_snr[:, s] == log_snr_next[:, s]).repeat_interleave(self.num_images).to(x.device)
            step = step_from_x_0(x, prediction, self.abar(log_snr[:, s]), self.abar(log_snr_next[:, s]))
            moved.append(torch.where(per_image(stays, x), x, step))
        return moved

    def lengths(self, values: torch.Tensor) -> np.ndarray:
        """Root mean square per state: [E * M, ...] -> float64 [E]."""
        return values.double().reshape(len(values) // self.num_images, -1).square().mean(1).sqrt().cpu().numpy()

    def arrival_log_snr(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """log SNR [E, S] that the sampler reaches: infinite, the clean image, for a scale that moves to timestep 0."""
        clean = (ends == len(self.timesteps) - 1) & (starts != ends)
        return np.where(clean, np.inf, self.log_snr[ends])

    def blocks(self, cells: np.ndarray, what: str = ""):
        """The rows of `cells` [E, S], in groups of about a batch that keep rows of one cell together: int64 arrays."""
        _, cell_of = np.unique(cells, axis=0, return_inverse=True)
        order = np.argsort(cell_of.ravel(), kind="stable")
        bounds = np.flatnonzero(np.diff(cell_of.ravel()[order], prepend=-1))
        groups, first = [], 0
        for start, end in zip(bounds, [*bounds[1:], len(order)]):
            if (end - first) * self.num_images >= self.batch_size:
                groups.append(order[first:end])
                first = end
        if first < len(order):
            groups.append(order[first:])
        return tqdm(groups, desc=what, unit="batch", disable=not self.progress, leave=False)

    def moves(self, starts: np.ndarray, ends: np.ndarray, what: str):
        """The edges [E, S] that start before the image is clean, block by block. what: the name of the progress bar.

        Yields, for a block of B edges: their rows [B], starts and ends [B, S], the cells that they start at, each once,
        [c, S], and the number of each edge's cell [B].
        """
        before = np.flatnonzero((starts[:, :self.of_image] != len(self.timesteps) - 1).any(1))
        for block in self.blocks(starts[before], what):
            chosen = before[block]
            cells, cell_of = np.unique(starts[chosen], axis=0, return_inverse=True)
            yield chosen, starts[chosen], ends[chosen], cells, cell_of.ravel()

    def rows_of(self, indices: np.ndarray) -> torch.Tensor:
        """The images of several states, as indices into [E * M]: int64 [len(indices) * M]."""
        rows = torch.as_tensor(np.asarray(indices).reshape(-1, 1)) * self.num_images + torch.arange(self.num_images)
        return rows.flatten().to(self.clean[0].device)


# Which edges are worth measuring

@dataclass(frozen=True)
class EdgePlan:
    """The edges that are measured; the others cost infinity, so that no path uses them."""
    starts: np.ndarray          # int64 [E, S] cells
    ends: np.ndarray            # int64 [E, S]
    num_points: int
    max_jump: int

    def fill(self, costs: np.ndarray) -> np.ndarray:
        """Costs [E] as edge costs: [n, n, J + 1, J + 1], or [n, J + 1] for a single scale."""
        num_scales = self.starts.shape[1]
        filled = np.full((self.num_points,) * num_scales + (self.max_jump + 1,) * num_scales, np.inf)
        filled[(*self.starts.T, *(self.ends - self.starts).T)] = costs
        return filled


def plan_edges(timesteps, max_jump: int, num_steps: int, *, num_scales: int = 2, diagonal_only: bool = False,
               max_lead: float | None = None) -> EdgePlan:
    """All edges that some path of exactly `num_steps` steps uses, sorted by start cell.

    diagonal_only: only edges from (i, i) to (k, k). max_lead: for a slow machine, only cells whose scales are at most
    that far apart in log SNR; the end cells always count. Paths then use measured edges alone. Raises InputError where
    no path of `num_steps` steps is left.
    """
    n = len(timesteps)
    dynamic_program.check_num_steps(num_steps, (n - 1,) * (1 if diagonal_only else num_scales),
                          (max_jump,) * (1 if diagonal_only else num_scales))
    usable = dynamic_program.usable_edges(n, max_jump, num_steps, num_scales, diagonal_only)
    rows = np.argwhere(usable)
    starts, moves = rows[:, :num_scales], rows[:, num_scales:]
    ends = starts + moves
    keep = np.ones(len(rows), dtype=bool)
    if max_lead is not None and num_scales == 2:
        log_snr = paths.grid_log_snr(timesteps)
        near = np.abs(log_snr[:, None] - log_snr[None, :]) <= max_lead
        keep &= near[tuple(starts.T)] & near[tuple(ends.T)]
    plan = EdgePlan(starts[keep], ends[keep], n, max_jump)
    allowed = np.where(np.isfinite(plan.fill(np.zeros(keep.sum()))), 0.0, np.inf)
    try:
        (dynamic_program.cheapest_path if num_scales == 2 else dynamic_program.cheapest_schedule)(allowed, num_steps)
    except InputError as error:
        raise InputError(f"--max_lead: found {max_lead}, which leaves no path of {num_steps} steps on {n} points; "
                         "widen it") from error
    return plan


# Step doubling

def step_doubling_num_calls(plan: EdgePlan, num_images: int, of_image: int = 1) -> int:
    """Model calls of `step_doubling_costs`: per image one a start cell, one a midpoint, two an arrival unless clean.
    of_image: as in `Measurement`, 2 for bands."""
    last = plan.num_points - 1
    moving = (plan.starts != plan.ends).any(1) & (plan.starts[:, :of_image] != last).any(1)
    cells = len(np.unique(plan.starts[moving], axis=0))
    return num_images * int(cells + moving.sum() + 2 * (moving & (plan.ends[:, :of_image] != last).any(1)).sum())


def step_doubling_costs(at: Measurement, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Distance between the 64 predictions after one step and after two half steps: float64 [E] for edges [E, S].

    The middle lies halfway in log SNR, scale by scale. If the step brings the 64 scale to the clean image, the images
    themselves are compared. Once the 64 scale is clean, nothing changes it and edges cost 0. No derivative is taken.
    Two bands make up the image together: what has arrived of it is compared as it is, the rest by its prediction.
    """
    last = len(at.timesteps) - 1
    costs = np.zeros(len(starts))
    for chosen, start, end, cells, cell_of in at.moves(starts, ends, "step doubling"):
        states = at.noised(cells)
        x_0 = at.predictions(states, at.log_snr[cells])
        images = at.rows_of(cell_of)
        states, x_0 = ([value[images] for value in values] for values in (states, x_0))
        log_snr, arrival = at.log_snr[start], at.arrival_log_snr(start, end)
        middle = (log_snr + at.log_snr[end]) / 2
        halfway = at.advance(states, x_0, log_snr, middle)
        ends_once = at.advance(states, x_0, log_snr, arrival)
        ends_twice = at.advance(halfway, at.predictions(halfway, middle), middle, arrival)
        difference = at.image(ends_once) - at.image(ends_twice)
        goes_on = np.flatnonzero((end[:, :at.of_image] != last).any(1))
        if len(goes_on):
            images = at.rows_of(goes_on)
            once, twice = (predicted_image(at, [x[images] for x in states], end[goes_on])
                           for states in (ends_once, ends_twice))
            difference[images] = once - twice
        costs[chosen] = at.lengths(at.transform(difference))
    return costs


def predicted_image(at: Measurement, states, cells: np.ndarray) -> torch.Tensor:
    """The image predicted from states at cells [E, S], of which a band at the last cell has arrived: [E * M, ...]."""
    x_0 = at.predictions(states, at.log_snr[cells])
    for s in range(at.of_image if at.has_bands else 0):
        arrived = torch.as_tensor(cells[:, s] == len(at.timesteps) - 1).repeat_interleave(at.num_images)
        x_0[s] = torch.where(per_image(arrived.to(states[s].device), states[s]), states[s], x_0[s])
    return at.image(x_0)


# Local error by derivatives

def inputs_at(at: Measurement, cells: np.ndarray) -> tuple[list, list, list]:
    """Noised states, times and abar of cells [E, S], each a list over scales; abar is shaped to multiply the states."""
    states = at.noised(cells)
    abars = [per_image(at.abar(at.log_snr[cells][:, s]), states[s]) for s in range(at.num_scales)]
    return states, at.times_at(cells), abars


def flow_derivatives(at: Measurement, cells: np.ndarray):
    """States, predictions and the derivatives of the predictions along each scale's own flow, at cells [E, S].

    Scale s' alone follows dz_s'/dlambda_s' = -(z_s' - x^_s') / 2, time included. Since x^_s = z_s - sigma_s eps_s, the
    derivative of x^_s is -sigma_s times the derivative of eps_s, at both scales, and 0 where x^_s is clipped.
    Returns (states, predictions, D) with D[s'][s]: [E * M, ...]. One Jacobian-vector product per scale.
    """
    states, times, abars = inputs_at(at, cells)
    below = np.minimum(at.timesteps[cells], NUM_TIMESTEPS - 2)
    log_snr_table = at.schedule.log_snrs.numpy()
    t_by_log_snr = 1 / (log_snr_table[below + 1] - log_snr_table[below])                # [E, S], as interpolated
    with torch.no_grad():
        eps = at.noise_predictions(states, times)
        unclipped = [predict_x_0(x, e, abar, clip=False) for x, e, abar in zip(states, eps, abars)]
    x_0 = [x.clamp(-1, 1) if at.clip else x for x in unclipped]
    inside = [(x.abs() <= 1) if at.clip else torch.ones_like(x, dtype=torch.bool) for x in unclipped]
    derivatives = []
    for axis in range(at.num_scales):
        tangents = [torch.zeros_like(value) for value in (*states, *times)]
        # x_t = sqrt(abar) z, so that dx_t / dlambda = (sqrt(abar) x^ - abar x_t) / 2 along the flow.
        tangents[axis] = (abars[axis].sqrt() * x_0[axis] - abars[axis] * states[axis]) / 2
        tangents[at.num_scales + axis] = torch.as_tensor(t_by_log_snr[:, axis]).repeat_interleave(
            at.num_images).to(times[axis])
        eps_tangents = noise_derivative(at, states, times, tangents)[1]
        derivatives.append([-((1 - abar) / abar).sqrt() * tangent * mask
                            for abar, tangent, mask in zip(abars, eps_tangents, inside)])
    return states, x_0, derivatives


def noise_derivative(at: Measurement, states, times, tangents) -> tuple:
    """The network's outputs and their derivative along a direction, each per scale: one Jacobian-vector product."""
    # The fused attention kernels have no forward-mode derivative; the plain one does.
    plain_attention = sdpa_kernel(SDPBackend.MATH) if states[0].dtype != torch.float64 else contextlib.nullcontext()
    with plain_attention, torch.no_grad():
        def network(*inputs):
            return at.noise_predictions(inputs[:at.num_scales], inputs[at.num_scales:])
        return torch.func.jvp(network, (*states, *times), tuple(tangents))


def propagate_to_image(at: Measurement, cells: np.ndarray, directions) -> torch.Tensor:
    """J_64,64 dz_64 + J_64,32 dz_32 at cells [E, S], 0 where x^_64 is clipped. directions: dz_s, [E * M, ...] each."""
    states, times, abars = inputs_at(at, cells)
    tangents = [abar.sqrt() * d for d, abar in zip(directions, abars)] + [torch.zeros_like(t) for t in times]
    eps, eps_tangents = noise_derivative(at, states, times, tangents)
    change = directions[0] - ((1 - abars[0]) / abars[0]).sqrt() * eps_tangents[0]
    if at.clip:
        change = change * (predict_x_0(states[0], eps[0], abars[0], clip=False).abs() < 1)
    return change


PROPAGATIONS = ("arrival", "start", "none")


def directional_num_calls(plan: EdgePlan, num_images: int, propagate: str) -> int:
    """Model calls of `directional_costs`, a Jacobian-vector product counted as two: per image 1 + 2 S a start cell, and
    S (S + 1) more a start cell for `start`, or two more an edge that leaves the 64 scale noised for `arrival`."""
    last, num_scales = plan.num_points - 1, plan.starts.shape[1]
    moving = plan.starts[:, 0] != last
    calls_per_cell = 1 + 2 * num_scales + (num_scales * (num_scales + 1) if propagate == "start" else 0)
    num_edges = int((moving & (plan.ends[:, 0] != last)).sum()) if propagate == "arrival" else 0
    return num_images * (len(np.unique(plan.starts[moving], axis=0)) * calls_per_cell + 2 * num_edges)


def form_of_gram(at: Measurement, vectors, lengths: np.ndarray, cell_of: np.ndarray) -> np.ndarray:
    """|sum_p lengths_p vectors_p| per edge: [E]. vectors: P of [cells * M, ...]; lengths: [E, P]; cell_of: [E]."""
    seen = [at.transform(vector).double().reshape(len(vector) // at.num_images, -1) for vector in vectors]
    gram = np.array([[(a * b).mean(1).cpu().numpy() for a in seen] for b in seen])
    return np.sqrt(np.einsum("ep,pqe,eq->e", lengths, gram[:, :, cell_of], lengths).clip(min=0))


def start_jacobian_products(at: Measurement, cells: np.ndarray, derivatives, pairs) -> list[torch.Tensor]:
    """Per pair (s, axis): the clean image's change by D_axis x^_s and, where they differ, by D_s x^_axis with it, since
    both go with the same product of steps. The Jacobians are taken at `cells`. Returns P tensors [cells * M, ...]."""
    nothing = [torch.zeros_like(x) for x in derivatives[0]]
    vectors = []
    for s, axis in pairs:
        directions = list(nothing)
        directions[s] = derivatives[axis][s]
        if axis != s:
            directions[axis] = derivatives[s][axis]
        vectors.append(propagate_to_image(at, cells, directions))
    return vectors


def arrival_costs(at: Measurement, ends: np.ndarray, steps: np.ndarray, cell_of: np.ndarray, derivatives,
                  used) -> np.ndarray:
    """|J_64,64 dz_64 + J_64,32 dz_32| with the Jacobians of the arrival points `ends`: [E], one product an edge."""
    costs = np.zeros(len(ends))
    size = max(at.batch_size // at.num_images, 1)
    for first in range(0, len(ends), size):
        edges = slice(first, first + size)
        images = at.rows_of(cell_of[edges])
        lengths = [per_image(torch.as_tensor(steps[edges, s]).repeat_interleave(at.num_images), x).to(x)
                   for s, x in enumerate(at.clean)]
        errors = [lengths[s] / 4 * sum(lengths[axis] * derivatives[axis][s][images] for axis in range(at.num_scales)
                                       if used[axis][s]) for s in range(at.num_scales)]
        if at.num_scales == 2 and not used[1][0]:           # without cross terms J_64,32 is left out as well
            errors[1] = torch.zeros_like(errors[1])
        costs[edges] = at.lengths(at.transform(propagate_to_image(at, ends[edges], errors)))
    return costs


def directional_costs(at: Measurement, starts: np.ndarray, ends: np.ndarray, cross_terms: bool = True,
                      propagate: str = "arrival") -> np.ndarray:
    """Local error of a DDIM step, from the flow's derivatives at its start: float64 [E] for edges [E, S].

    dz_s = 1/4 Dlambda_s sum_s' Dlambda_s' D_s' x^_s. The cost is the length of J_64,64 dz_64 + J_64,32 dz_32, or of
    dz_64 itself where the 64 scale arrives at the clean image. Once the 64 scale is clean, edges cost 0. cross_terms:
    whether s != s' counts, J_64,32 included. propagate: where the Jacobians are taken.

    arrival: at the arrival point, which takes one more Jacobian-vector product an edge. start: at the start; the cost
    is then a quadratic form in the products of (Dlambda_64, Dlambda_32), with one Gram matrix a cell. none: nowhere;
    the cost is |dz_64|, the form with the Gram matrix of D_64 x^_64 and D_32 x^_64. Moves of the 32 scale alone then
    cost nothing, so a dynamic program makes them first.
    """
    if propagate not in PROPAGATIONS:
        raise InputError(f"propagate: found {propagate!r}, expected one of {', '.join(PROPAGATIONS)}")
    if at.has_bands:
        raise InputError("edge costs: found directional for a model of two bands, whose clipped image has no "
                         "derivative band by band; use step_doubling")
    last, num_scales = len(at.timesteps) - 1, at.num_scales
    used = [[cross_terms or axis == s for s in range(num_scales)] for axis in range(num_scales)]
    axes = [axis for axis in range(num_scales) if used[axis][0]]
    pairs = [(s, axis) for s in range(num_scales if cross_terms else 1) for axis in range(s, num_scales)
             if used[axis][s]]
    costs = np.zeros(len(starts))
    for chosen, start, end, cells, cell_of in at.moves(starts, ends, "directional"):
        derivatives = flow_derivatives(at, cells)[2]
        steps = at.log_snr[end] - at.log_snr[start]                                     # [E, S]
        costs[chosen] = form_of_gram(at, [derivatives[axis][0] for axis in axes], steps[:, axes] * steps[:, :1] / 4,
                                     cell_of)
        goes_on = np.flatnonzero(end[:, 0] != last)
        if propagate == "start" and len(goes_on):
            vectors = start_jacobian_products(at, cells, derivatives, pairs)
            lengths = np.stack([steps[:, s] * steps[:, axis] for s, axis in pairs], axis=1) / 4
            costs[chosen[goes_on]] = form_of_gram(at, vectors, lengths, cell_of)[goes_on]
        if propagate == "arrival":
            costs[chosen[goes_on]] = arrival_costs(at, end[goes_on], steps[goes_on], cell_of[goes_on], derivatives,
                                                   used)
    return costs


# Model error and the documented cost, for any edges

def squared_errors(at: Measurement, cells: np.ndarray) -> np.ndarray:
    """The model's own squared error in x_0, summed over a scale's values and averaged over images: [E, S] at cells."""
    errors = np.zeros(cells.shape)
    for rows in at.blocks(cells, "losses"):
        x_0 = at.predictions(at.noised(cells[rows]), at.log_snr[cells[rows]])
        for s, (prediction, clean) in enumerate(zip(x_0, at.clean)):
            difference = prediction - clean.repeat(len(rows), 1, 1, 1)
            errors[rows, s] = at.lengths(difference)**2 * clean[0].numel()
    return errors


def loss_map_costs(errors: np.ndarray, log_snr_start: np.ndarray, log_snr_end: np.ndarray) -> np.ndarray:
    """What an edge adds to a bound on the Kullback-Leibler divergence of a stochastic sampler: 1/2 sum_s m_s DSNR_s.

    errors: m_s at the start, [E, S], as `squared_errors` gives; log SNRs: [E, S]. Returns float64 [E].
    """
    return (errors * (np.exp(log_snr_end) - np.exp(log_snr_start))).sum(1) / 2


def trapezoid_costs(error_start: np.ndarray, error_end: np.ndarray, step_sizes: np.ndarray) -> np.ndarray:
    """The documented cost of any edges, also off a grid: (error at start + at end) / 2 times the step size: [E]."""
    return (error_start + error_end) / 2 * step_sizes


# Edge costs of a network, as a heatmap keeps them

def measure(model, images, timesteps, num_steps, max_jump, max_images, seed, batch_size, precision, clip, progress,
            diagonal_only, max_lead):
    """The measurement and the plan of edges that both kinds of edge costs share."""
    if len(images) == 0:
        raise InputError("edge costs: found no images, expected at least one; choose another --dataset or split")
    at = Measurement.of_images(model, images[:max_images], timesteps, seed=seed, batch_size=batch_size, clip=clip,
                               precision=precision, progress=progress)
    plan = plan_edges(timesteps, max_jump, num_steps, num_scales=at.num_scales, diagonal_only=diagonal_only,
                      max_lead=max_lead)
    return at, plan


@devices.exact_float32()
def step_doubling_edge_costs(model, images, timesteps, *, num_steps: int = 18, max_jump: int = 5, max_images: int = 4,
                             seed: int = 0, batch_size: int = 64, precision: str = "float32", clip: bool = True,
                             diagonal_only: bool = False, max_lead: float | None = None,
                             progress: bool = False) -> np.ndarray:
    """Edge costs by step doubling: float64 [n, n, J + 1, J + 1] for LIFT, [n, J + 1] for the baseline.

    images: uint8 [.., 3, 64, 64], of which the first `max_images` are used. Prints the number of model calls first.
    diagonal_only, max_lead: which edges are measured, see `plan_edges`; a full 30-point grid with max jump 5
    takes about 80,000 calls an image.
    """
    at, plan = measure(model, images, timesteps, num_steps, max_jump, max_images, seed, batch_size, precision, clip,
                       progress, diagonal_only, max_lead)
    print(f"step doubling: {len(plan.starts)} edges, {at.num_images} images, "
          f"{step_doubling_num_calls(plan, at.num_images, at.of_image)} model calls", flush=True)
    return plan.fill(step_doubling_costs(at, plan.starts, plan.ends))


@devices.exact_float32()
def directional_edge_costs(model, images, timesteps, *, num_steps: int = 18, max_jump: int = 5, max_images: int = 4,
                           seed: int = 0, batch_size: int = 64, precision: str = "float32", clip: bool = True,
                           cross_terms: bool = True, propagate: str = "arrival", diagonal_only: bool = False,
                           max_lead: float | None = None, progress: bool = False) -> np.ndarray:
    """Edge costs by local error: float64 [n, n, J + 1, J + 1] for LIFT, [n, J + 1] for the baseline.

    propagate: see `directional_costs`; with `arrival` every edge takes a Jacobian-vector product, about 55,000 calls an
    image on a 30-point grid; with `start` the cells alone are measured, about 9,000. The rest as in
    `step_doubling_edge_costs`.
    """
    at, plan = measure(model, images, timesteps, num_steps, max_jump, max_images, seed, batch_size, precision, clip,
                       progress, diagonal_only, max_lead)
    print(f"directional: {len(plan.starts)} edges, {at.num_images} images, "
          f"{directional_num_calls(plan, at.num_images, propagate)} model calls", flush=True)
    return plan.fill(directional_costs(at, plan.starts, plan.ends, cross_terms, propagate))


def loss_map_edge_costs(errors_64, errors_32, timesteps, max_jump: int) -> np.ndarray:
    """Edge costs by the loss bound, from maps [n, n] of squared errors in x_0 summed over each scale's values."""
    log_snr = paths.grid_log_snr(timesteps)
    errors = [paths.check_map(error, "loss map") for error in (errors_64, errors_32)]
    snr = np.exp(log_snr)

    def edge_cost(start, end, di, dj):
        return (errors[0][start] * (snr[end[0]] - snr[start[0]])[:, None]
                + errors[1][start] * (snr[end[1]] - snr[start[1]])[None, :]) / 2

    return paths.edge_costs_from(edge_cost, len(log_snr), max_jump)


# The lead family

RHOS = (1.5, 2.0, 3.0, 5.0, 8.0)
LEADS = (-1.0, 0.7, 1.4, 2.5, 4.0)
ONSETS = (0.1, 0.35, 0.7)


def lead_candidates(num_scales: int = 2) -> list[paths.Lead]:
    """The candidates of the search: 80 for two scales; for one, as many spacing exponents and no lead."""
    both = [paths.Lead(rho, 0.0, 0.0) for rho in RHOS] + [
        paths.Lead(rho, lead, onset) for rho, lead, onset in itertools.product(RHOS, LEADS, ONSETS)]
    if num_scales == 2:
        return both
    return [paths.Lead(float(rho), 0.0, 0.0) for rho in np.geomspace(1.0, 30.0, len(both))]


def step_doubling_of_path(at: Measurement, path: np.ndarray) -> float:
    """The step-doubling cost of any path of timesteps [N + 1, 2]; `at` must be over all timesteps (999, 998, ... 0)."""
    cells = NUM_TIMESTEPS - 1 - np.asarray(path)[:, :at.num_scales]
    return float(step_doubling_costs(at, cells[:-1], cells[1:]).sum())


@devices.exact_float32()
def search_lead(model, x_0: torch.Tensor, num_steps: int, *, candidates=None, sample_metric=None,
                num_finalists: int = 4, **options) -> tuple[paths.Lead, list[dict]]:
    """The best parameters of the lead family, and the scores of every candidate, best first.

    model, x_0, options: as in `Measurement`, x_0 [M, C, H, W] in [-1, 1]. Every candidate's path is scored by step
    doubling. sample_metric(path [N + 1, 2]) -> float, less being better, then scores the `num_finalists` cheapest,
    always with the cheapest without a lead among them; it should generate from held-out seeds. For a single scale only
    the spacing exponent is searched, among as many candidates, so that both models have the same budget. Rows: rho,
    lead, onset, step_doubling, sample_metric, path.
    """
    at = Measurement(model, x_0, np.arange(NUM_TIMESTEPS - 1, -1, -1), **options)
    rows = []
    candidates = lead_candidates(at.num_scales) if candidates is None else candidates
    for candidate in tqdm(candidates, desc="lead", unit="candidate", disable=not at.progress, leave=False):
        path = paths.lead_path(num_steps, candidate)
        rows.append({"rho": candidate.rho, "lead": candidate.lead, "onset": candidate.onset,
                     "step_doubling": step_doubling_of_path(at, path), "sample_metric": None, "path": path})
    rows.sort(key=lambda row: row["step_doubling"])
    if sample_metric is not None:
        # Step doubling can favour a lead that samples do not confirm, so the best path without a lead is judged too.
        without_lead = next((k for k, row in enumerate(rows) if row["lead"] == 0), 0)
        if without_lead >= num_finalists:
            rows.insert(num_finalists - 1, rows.pop(without_lead))
        for row in rows[:num_finalists]:
            row["sample_metric"] = float(sample_metric(row["path"]))
        rows[:num_finalists] = sorted(rows[:num_finalists], key=lambda row: row["sample_metric"])
    return paths.Lead(rows[0]["rho"], rows[0]["lead"], rows[0]["onset"]), rows
