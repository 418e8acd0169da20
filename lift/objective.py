"""What training minimises: which timesteps a batch gets, how it is noised, and the error per scale.

Every random draw of a batch depends on the run's seed and the step alone. It is made for the whole global batch, of
which a process uses its share. So one process or eight, straight through or resumed, see the same numbers.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine import devices
from engine import seeds
from engine.errors import InputError
from engine.options import lead_range
from engine.pairs import clock_times, draw_leads
from networks.bands import split
from networks.scales import downsample_to_32
from engine.sampling import from_uint8, to_device
from scheduler import NUM_TIMESTEPS, CosineSteps, fused_log_snrs
from engine.seeds import seeded_generator


@dataclass(frozen=True)
class TimestepRule:
    """How t_64 and t_32 are drawn together.

    independent: each uniform on 0...999. diagonal: t_32 = t_64. band: t_64 uniform, and the 32 scale leads by `lead`
    in log SNR, uniform on [lead_min, lead_max]; a share `noise_share` of the images gets t_32 = 999 instead, and a
    share `independent_share` gets independent pairs. fused: pairs with such a lead that say together of the coarse
    image what one view says at a uniform timestep (`fused_within`). clock: such a lead, half of the batch with t_64
    uniform and the 32 scale ahead, half with t_32 uniform and the 64 scale behind. Of any kind, a share `skipped_share`
    of the images gets t_64 = 999 and t_32 uniform instead: the pairs at which a model may skip its 64 level.
    """
    kind: str = "independent"
    lead_min: float = 0.0
    lead_max: float = 5.0
    noise_share: float = 0.15
    independent_share: float = 0.15
    skipped_share: float = 0.0


def timestep_rule(args) -> TimestepRule:
    """The rule that LIFT's options name; for the baseline only t_64 is used."""
    if not hasattr(args, "timesteps"):
        return TimestepRule()
    low, high = lead_range(args, args.timesteps if args.timesteps in ("fused", "clock") else "band")
    if args.band_noise_share + args.band_independent_share > 1:
        raise InputError(f"--band_noise_share and --band_independent_share: found {args.band_noise_share:g} and "
                         f"{args.band_independent_share:g}, expected a sum of at most 1")
    return TimestepRule(args.timesteps, low, high, args.band_noise_share, args.band_independent_share,
                        getattr(args, "skip_64_at_noise", 0.0))


def fused_within(log_snr: torch.Tensor, lead: torch.Tensor, lowest: float, highest: float):
    """log SNR of the two views that say together of the coarse image, the 2x2 mean, what one view of the 64 scale says.

    log_snr: of that one view, float64 of any shape, from `lowest` to `highest`; lead: of the 32 scale over the 64, same
    shape. Returns log_snr_64 and log_snr_32, same shape: those of `scheduler.fused_log_snrs` where both lie between the
    ends. Where one would lie beyond an end it is put there, and the other makes up the sum 4 SNR_64 + SNR_32 = 4 SNR
    with another lead. Where 4 SNR is less than two views at `lowest` say together, both are at `lowest`.
    """
    log_snr_64 = fused_log_snrs(log_snr, lead)[0].clamp(min=lowest)
    log_snr_32 = (4 * (log_snr.exp() - log_snr_64.exp())).clamp(min=0).log().clamp(lowest, highest)
    log_snr_64 = (log_snr.exp() - log_snr_32.exp() / 4).clamp(min=0).log().clamp(lowest, highest)
    return log_snr_64, log_snr_32


def draw_timesteps(rule: TimestepRule, batch_size: int, generator: torch.Generator, schedule: CosineSteps):
    """t_64 and t_32: int64 [batch_size] each, on the CPU. Images that skip are spread evenly over the batch."""
    t_64, t_32 = draw_pairs(rule, batch_size, generator, schedule)
    if rule.skipped_share:
        skipped = (torch.arange(batch_size + 1, dtype=torch.float64) * rule.skipped_share).floor().diff() > 0
        t_64 = torch.where(skipped, NUM_TIMESTEPS - 1, t_64)
        t_32 = torch.where(skipped, torch.randint(NUM_TIMESTEPS, (batch_size,), generator=generator), t_32)
    return t_64, t_32


def draw_pairs(rule: TimestepRule, batch_size: int, generator: torch.Generator, schedule: CosineSteps):
    """As `draw_timesteps`, without images that skip."""
    t_64 = torch.randint(NUM_TIMESTEPS, (batch_size,), generator=generator)
    if rule.kind == "diagonal":
        return t_64, t_64.clone()
    if rule.kind == "fused":
        lead = draw_leads(rule.lead_min, rule.lead_max, batch_size, generator)
        ends = schedule.log_snrs[-1].item(), schedule.log_snrs[0].item()
        return tuple(schedule.t_at(log_snr).round().long()
                     for log_snr in fused_within(schedule.t_to_log_snr(t_64), lead, *ends))
    t_32 = torch.randint(NUM_TIMESTEPS, (batch_size,), generator=generator)
    if rule.kind == "clock":
        return clock_times(t_64, t_32, draw_leads(rule.lead_min, rule.lead_max, batch_size, generator),
                           schedule.leading_t)
    if rule.kind == "band":
        share = torch.rand(batch_size, generator=generator)
        lead = draw_leads(rule.lead_min, rule.lead_max, batch_size, generator)
        in_band = schedule.leading_t(t_64, lead)
        independent = share < rule.independent_share
        pure_noise = ~independent & (share < rule.independent_share + rule.noise_share)
        t_32 = torch.where(independent, t_32, torch.where(pure_noise, NUM_TIMESTEPS - 1, in_band))
    return t_64, t_32


@dataclass
class ScaleBatch:
    """A noised batch: clean images, noises and timesteps per scale; bands are in the places of scales."""
    x_0_64: torch.Tensor        # [B, 3, 64, 64] in [-1, 1]
    x_0_32: torch.Tensor        # [B, 3, 32, 32]
    noise_64: torch.Tensor      # [B, 3, 64, 64]
    noise_32: torch.Tensor      # [B, 3, 32, 32]
    t_64: torch.Tensor          # int64 [B]
    t_32: torch.Tensor          # int64 [B]
    at_noise: tuple[bool, ...] | None = None    # of each image, for a model that skips its 64 level at noise


def batch_of(x_0_64, noise_64, noise_32, t_64, t_32, has_bands: bool) -> ScaleBatch:
    """Of images [B, 3, 64, 64] and their noise. Bands are parts of one image and of one noise: noise_32 is not used."""
    if has_bands:
        (fine, coarse), (noise_64, noise_32) = split(x_0_64), split(noise_64)
        return ScaleBatch(fine, coarse, noise_64, noise_32, t_64, t_32)
    return ScaleBatch(x_0_64, downsample_to_32(x_0_64), noise_64, noise_32, t_64, t_32)


def training_batch(images, indices, rule, seed: int, step: int, part: slice, flip: bool, schedule,
                   device, has_bands: bool = False) -> ScaleBatch:
    """The share `part` of the global batch of one step.

    images: uint8 [N, 3, 64, 64], on the device or on the CPU; indices: int64 [global batch] on the CPU. has_bands: of a
    model of two bands.
    """
    generator = seeded_generator(seed, seeds.TRAIN_BATCH, step)
    t_64, t_32 = draw_timesteps(rule, len(indices), generator, schedule)
    flipped = torch.rand(len(indices), generator=generator) < 0.5
    noise_generator = seeded_generator(seed, seeds.TRAIN_NOISE, step, device=device)
    noise_64 = torch.randn(len(indices), 3, 64, 64, generator=noise_generator, device=device)[part]
    noise_32 = torch.randn(len(indices), 3, 32, 32, generator=noise_generator, device=device)[part]
    chosen = images[to_device(indices[part], images.device)]
    x_0_64 = from_uint8(to_device(chosen, device) if chosen.device.type == "cpu" else chosen)
    if flip:
        x_0_64 = torch.where(to_device(flipped[part], device)[:, None, None, None], x_0_64.flip(3), x_0_64)
    batch = batch_of(x_0_64, noise_64, noise_32, to_device(t_64[part], device), to_device(t_32[part], device),
                     has_bands)
    # No tensor: FSDP2 would move it to the device, and the model would wait for it.
    batch.at_noise = tuple((t_64[part] >= NUM_TIMESTEPS - 1).tolist()) if rule.skipped_share else None
    return batch


def errors_per_image(model, num_scales: int, batch: ScaleBatch, schedule, precision: str, loss_target: str = "eps"):
    """Squared error of the noise or of v, averaged over pixels: [B] per scale (64, then 32 where there are two).

    model: anything callable with the noised images of its scales, then their timesteps; of one scale it puts out the
    noise, of two a list. loss_target: eps, or v, whose squared error is that of the noise over abar, whichever of them
    the network puts out.
    """
    noises, times = (batch.noise_64, batch.noise_32)[:num_scales], (batch.t_64, batch.t_32)[:num_scales]
    clean = (batch.x_0_64, batch.x_0_32)[:num_scales]
    xs = [schedule.add_noise(*scale) for scale in zip(clean, noises, times)]
    told = {} if batch.at_noise is None else {"at_noise": batch.at_noise}
    with devices.autocast(xs[0].device, precision):
        found = model(*xs, *times, **told)
    predictions = [found] if torch.is_tensor(found) else found
    errors = tuple(F.mse_loss(eps.float(), noise, reduction="none").mean((1, 2, 3))
                   for eps, noise in zip(predictions, noises))
    return errors if loss_target == "eps" else tuple(error / schedule.alpha_cumprod(t)
                                                         for error, t in zip(errors, times))


def total_loss(losses, loss_scales: str = "both", loss_weight_32: float = 1.0) -> torch.Tensor:
    """loss_64 + loss_weight_32 * loss_32, or loss_64 alone. losses: scalar tensors per scale."""
    if len(losses) == 1 or loss_scales == "64":
        return losses[0]
    return losses[0] + loss_weight_32 * losses[1]


NUM_BINS = 5


def validation_batch(images: torch.Tensor, start: int, seed: int, device, has_bands: bool = False) -> ScaleBatch:
    """Held-out images with timesteps and noise that are the same at every call.

    images: uint8 [B, 3, 64, 64], of which the first is number `start` of the held-out set. Image k gets t_64 in bin
    k mod 5 of five equal bins and t_32 in bin (k // 5) mod 5, so that any 25 in a row cover all pairs of bins.
    """
    indices = range(start, start + len(images))
    draws = []
    for k in indices:
        generator = seeded_generator(seed, seeds.VALIDATION, k)
        bins = torch.tensor([k % NUM_BINS, k // NUM_BINS % NUM_BINS])
        t = ((bins + torch.rand(2, generator=generator)) * (NUM_TIMESTEPS / NUM_BINS)).long()
        draws.append((torch.randn(3, 64, 64, generator=generator), torch.randn(3, 32, 32, generator=generator), t))
    noise_64, noise_32, t = (torch.stack(values).to(device) for values in zip(*draws))
    return batch_of(from_uint8(images.to(device)), noise_64, noise_32, t[:, 0], t[:, 1], has_bands)


@torch.no_grad()
def validate(model, num_scales: int, images: torch.Tensor, seed: int, schedule, precision: str, device,
             batch_size: int = 50, loss_target: str = "eps", has_bands: bool = False) -> dict:
    """Mean held-out error per scale, and of two scales the mean over each pair of timestep bins.

    Returns {"loss_64", "loss_32", "bins_64", "bins_32"}: floats and nested lists [t_64 bin][t_32 bin] of floats
    (nan for a pair that no image fell in); the last three only of two scales.
    """
    errors, times = [], []
    for start in range(0, len(images), batch_size):
        batch = validation_batch(images[start:start + batch_size], start, seed, device, has_bands)
        errors.append(torch.stack(errors_per_image(model, num_scales, batch, schedule, precision, loss_target)))
        times.append(torch.stack([batch.t_64, batch.t_32]))
    errors, times = torch.cat(errors, dim=1).double().cpu(), torch.cat(times, dim=1).cpu()
    result = {"loss_64": errors[0].mean().item()}
    if num_scales == 2:
        bins = times * NUM_BINS // NUM_TIMESTEPS
        result["loss_32"] = errors[1].mean().item()
        for scale, name in enumerate(("bins_64", "bins_32")):
            result[name] = [[errors[scale][(bins[0] == i) & (bins[1] == j)].mean().item() for j in range(NUM_BINS)]
                            for i in range(NUM_BINS)]
    return result


def bins_text(bins: list[list[float]]) -> str:
    """`bins_64` of `validate` as a small table: t_64 downwards, t_32 across, each in fifths of 0...999; a dash where
    no image fell."""
    starts = [f"{bin * NUM_TIMESTEPS // NUM_BINS:>9}" for bin in range(NUM_BINS)]
    lines = ["64 loss, t_64 from", "      t_32 from" + "".join(starts)]
    lines += [f"{start:>15}" + "".join(f"{'–' if value != value else f'{value:.4f}':>9}" for value in row)
              for start, row in zip(starts, bins)]
    return "\n".join(lines)
