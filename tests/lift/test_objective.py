"""Timesteps, batches and losses: distributions, shares between processes, and closed forms."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.errors import InputError
from engine.task import epoch_order
from lift import objective
from lift.checkpoints import build_model
from lift.objective import TimestepRule, draw_timesteps, fused_within
from scheduler import CosineSteps
from engine.seeds import seeded_generator

schedule = CosineSteps()
CPU = torch.device("cpu")


def draw(rule, count=20_000):
    return draw_timesteps(rule, count, seeded_generator(1), schedule)


def test_independent_timesteps_are_uniform_and_free_of_each_other():
    t_64, t_32 = draw(TimestepRule("independent"))
    for t in (t_64, t_32):
        counts = torch.bincount(t // 100, minlength=10).double()
        assert t.min() >= 0 and t.max() <= 999 and len(counts) == 10
        assert ((counts - 2000) ** 2 / 2000).sum() < 27.9           # chi-squared, 9 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(t_64, t_32)[0, 1]) < 0.03


def test_diagonal_timesteps_are_equal():
    t_64, t_32 = draw(TimestepRule("diagonal"))
    assert torch.equal(t_64, t_32) and t_64.float().std() > 250


def test_band_leads_by_what_was_asked():
    t_64, t_32 = draw(TimestepRule("band", 1.0, 4.0, noise_share=0.0, independent_share=0.0))
    lead = schedule.t_to_log_snr(t_32) - schedule.t_to_log_snr(t_64)
    inside = (t_32 > 5) & (t_64 < 999)                              # near t = 0 log SNR moves much per timestep
    assert lead[inside].min() > 0.9 and lead[inside].max() < 4.1
    middle = (t_64 > 300) & (t_64 < 900)
    assert abs(lead[middle].mean() - 2.5) < 0.05 and abs(lead[middle].std() - 3 / 12**0.5) < 0.05


def test_band_shares():
    t_64, t_32 = draw(TimestepRule("band", 0.0, 5.0, noise_share=0.15, independent_share=0.15))
    assert abs((t_32 == 999).double().mean() - 0.15) < 0.01
    behind = (t_32 > t_64 + 2) & (t_32 < 999)                        # only independent pairs can lag
    assert abs(behind.double().mean() - 0.075) < 0.01


def variance_given(log_snr_64, log_snr_32=None, prior=0.3):
    """Variance of the 2x2 mean of a Gaussian block of pixels given one noised view of it or two, from the joint
    covariance of four pixels of variance `prior`, correlated by 0.2, and the views x + sigma eps."""
    block = torch.full((4, 4), 0.2 * prior, dtype=torch.float64) + 0.8 * prior * torch.eye(4, dtype=torch.float64)
    mean = torch.full((1, 4), 0.25, dtype=torch.float64)
    views, noise = [torch.eye(4, dtype=torch.float64)], [torch.full((4,), float((-log_snr_64).exp()))]
    if log_snr_32 is not None:
        views, noise = [*views, mean], [*noise, torch.full((1,), float((-log_snr_32).exp()))]
    views, noise = torch.cat(views), torch.diag(torch.cat(noise).double())
    gain = mean @ block @ views.T @ torch.linalg.inv(views @ block @ views.T + noise)
    return float(mean @ block @ mean.T - gain @ views @ block @ mean.T)


@pytest.mark.parametrize("lead", [-3.0, 0.0, 0.7, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("t", [0, 3, 40, 500, 900, 985])
def test_fused_views_leave_the_coarse_image_as_uncertain_as_one_view(t, lead):
    """The 2x2 mean of pixels that are exchangeable is one of the block's own axes, so precisions add up on it whatever
    the correlation of the pixels; at the ends of the schedule another lead makes up the sum."""
    one = schedule.t_to_log_snr(torch.tensor([t]))
    low, high = schedule.log_snrs[-1].item(), schedule.log_snrs[0].item()
    log_snr_64, log_snr_32 = fused_within(one, torch.tensor([lead], dtype=torch.float64), low, high)
    assert variance_given(log_snr_64, log_snr_32) == pytest.approx(variance_given(one), rel=1e-7)
    assert low <= log_snr_64 <= high and low <= log_snr_32 <= high
    if low + 1e-6 < log_snr_64 and low < log_snr_32 < high:
        assert float(log_snr_32 - log_snr_64) == pytest.approx(lead, abs=1e-6)


def test_fused_views_at_the_noisy_end_are_both_pure_noise():
    """Where even two views of pure noise say more than was asked: by at most 5/4, four pixels and one over four."""
    low, high = schedule.log_snrs[-1].item(), schedule.log_snrs[0].item()
    one = torch.tensor([low, low + 0.2, low + math.log(1.25) + 0.01], dtype=torch.float64)
    log_snr_64, log_snr_32 = fused_within(one, torch.full((3,), 2.0, dtype=torch.float64), low, high)
    torch.testing.assert_close(log_snr_64, torch.full_like(one, low))
    assert log_snr_32[:2].tolist() == [low, low] and log_snr_32[2] > low


def test_fused_timesteps_say_together_what_a_uniform_one_says():
    rule = TimestepRule("fused", 0.0, 2.0)
    t_64, t_32 = draw(rule)
    assert t_64.dtype == t_32.dtype == torch.int64 and min(t_64.min(), t_32.min()) >= 0
    snr = schedule.snr(t_64) + schedule.snr(t_32) / 4
    single = torch.randint(1000, (20_000,), generator=seeded_generator(1))       # the first draw, as of the baseline
    assert (schedule.t_at(snr.log()) - single)[single < 970].abs().max() < 1.01
    lead = schedule.t_to_log_snr(t_32) - schedule.t_to_log_snr(t_64)
    middle = (single > 300) & (single < 800)
    assert abs(lead[middle].mean() - 1) < 0.03 and abs(lead[middle].std() - 2 / 12**0.5) < 0.02
    assert -0.02 < lead[middle].min() and lead[middle].max() < 2.02


def test_the_rule_of_a_checkpoint_without_the_newer_option():
    """Runs from before --fused_lead keep their rule; a lead that is turned round is refused by its own name."""
    args = SimpleNamespace(timesteps="band", band_lead=[0.0, 5.0], band_noise_share=0.1, band_independent_share=0.2)
    assert objective.timestep_rule(args) == TimestepRule("band", 0.0, 5.0, 0.1, 0.2)
    args.timesteps, args.fused_lead = "fused", [0.5, 1.5]
    rule = objective.timestep_rule(args)
    assert (rule.kind, rule.lead_min, rule.lead_max) == ("fused", 0.5, 1.5)
    args.fused_lead = [2.0, 1.0]
    with pytest.raises(InputError, match="--fused_lead: found 2 1"):
        objective.timestep_rule(args)


def test_an_epoch_visits_every_image_once_in_its_own_order():
    first, second = epoch_order(0, 0, 100), epoch_order(0, 1, 100)
    assert sorted(first.tolist()) == list(range(100)) == sorted(second.tolist())
    assert first.tolist() != second.tolist() and torch.equal(first, epoch_order(0, 0, 100))


def test_shares_of_a_batch_are_the_batch():
    images = torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8)
    indices = torch.tensor([3, 1, 4, 15, 9, 2])

    def batch(part):
        return objective.training_batch(images, indices, TimestepRule(), 0, 7, part, True, schedule, CPU)

    whole, shares = batch(slice(0, 6)), [batch(slice(start, start + 2)) for start in (0, 2, 4)]
    for field in ("x_0_64", "noise_64", "noise_32", "t_64", "t_32"):
        assert torch.equal(getattr(whole, field), torch.cat([getattr(share, field) for share in shares])), field
    pairs = zip(whole.x_0_64, objective.from_uint8(images[indices]))
    mirrored = [torch.equal(found, clean.flip(2)) for found, clean in pairs]
    assert any(mirrored) and not all(mirrored)


class KnownNoise(torch.nn.Module):
    """Predicts the given noise times a factor."""

    def __init__(self, batch, factor):
        super().__init__()
        self.batch, self.factor = batch, factor

    def forward(self, x_64, x_32, t_64, t_32):
        return self.batch.noise_64 * self.factor, self.batch.noise_32 * self.factor


@pytest.mark.parametrize("factor", [1.0, 0.0, 0.5])
def test_error_of_a_known_prediction(factor):
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batch = objective.training_batch(images, torch.arange(4), TimestepRule(), 0, 0, slice(0, 4), False, schedule, CPU)
    errors = objective.errors_per_image(KnownNoise(batch, factor), 2, batch, schedule, "float32")
    for error, noise in zip(errors, (batch.noise_64, batch.noise_32)):
        torch.testing.assert_close(error, (1 - factor) ** 2 * (noise**2).mean((1, 2, 3)))
    a, b = (error.mean() for error in errors)
    assert objective.total_loss([a, b]) == a + b
    assert objective.total_loss([a, b], "both", 0.25) == a + 0.25 * b
    assert objective.total_loss([a, b], "64") == a


@pytest.mark.parametrize("model_type", ["baseline", "lift"])
def test_error_of_v_is_that_of_the_last_layer(model_type):
    """Squared error of v, of which the model's callers only see the noise it implies."""
    torch.manual_seed(0)
    model = build_model(model_type, [8, 16], "v")
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batch = objective.training_batch(images, torch.arange(4), TimestepRule(), 0, 0, slice(0, 4), False, schedule, CPU)
    batch.t_64, batch.t_32 = torch.tensor([0, 300, 999, 999]), torch.tensor([999, 0, 600, 999])
    outputs = []
    model.final_conv.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        errors = objective.errors_per_image(model, 1 + (model_type == "lift"), batch, schedule, "float32", "v")
    scales = ((batch.x_0_64, batch.noise_64, batch.t_64, lambda x: x),
              (F.avg_pool2d(batch.x_0_64, 2), batch.noise_32, batch.t_32, lambda x: F.avg_pool2d(x, 2)))
    assert len(errors) == (2 if model_type == "lift" else 1)
    for error, (x_0, noise, t, to_size), output in zip(errors, scales, outputs[0].split(3, dim=1)):
        abar = schedule.alpha_cumprod(t)[:, None, None, None]
        v = abar.sqrt() * noise - (1 - abar).sqrt() * x_0
        torch.testing.assert_close(error, (to_size(output) - v).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_validation_is_the_same_at_every_call_and_batch_size_and_fills_its_bins():
    images = torch.randint(0, 256, (50, 3, 64, 64), dtype=torch.uint8)

    def network(x_64, x_32, t_64, t_32):
        return x_64, x_32

    results = [objective.validate(network, 2, images, 0, schedule, "float32", CPU, size) for size in (50, 7)]
    assert results[0]["loss_64"] == pytest.approx(results[1]["loss_64"], rel=1e-6)
    for bins in (results[0]["bins_64"], results[0]["bins_32"]):
        bins = np.array(bins)
        assert bins.shape == (5, 5) and np.isfinite(bins).all()
    # Predicting the input is right where all is noise and wrong where there is none.
    assert np.array(results[0]["bins_64"])[4].mean() < 0.1 < np.array(results[0]["bins_64"])[0].mean()


def test_bins_as_a_table():
    lines = objective.bins_text([[i + j / 10 for j in range(5)] for i in range(5)]).splitlines()
    assert lines[1].split()[2:] == ["0", "200", "400", "600", "800"]
    assert lines[3].split() == ["200", "1.0000", "1.1000", "1.2000", "1.3000", "1.4000"] and len(lines) == 7
