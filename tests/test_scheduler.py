"""Noise process and sampling steps against golden numbers, closed forms and round trips."""
import math

import numpy as np
import pytest
import torch

from networks.scales import downsample_to_32, reconcile
from scheduler import (CLEAN, CosineSteps, ddim_step, eps_from_v, extrapolate, predict_eps, predict_x_0,
                       step_from_x_0)

schedule = CosineSteps()


def test_schedule_equals_the_golden_one(golden):
    assert np.abs(schedule.alphas_cumprod.numpy() - golden["alphas_cumprod"]).max() < 1e-6


def test_facts_of_the_schedule():
    assert schedule.alphas_cumprod[0].item() == pytest.approx(0.9999, abs=1e-12)
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(0.0031948, abs=5e-8)
    assert schedule.t_at(torch.tensor([0.01, 1.0, 100.0]).log()).round().tolist() == [943, 495, 54]
    assert schedule.t_to_log_snr(torch.tensor([0, 999])).tolist() == pytest.approx([9.210, -5.743], abs=1e-3)
    assert schedule.alpha_cumprod(torch.tensor(CLEAN)) == 1


def test_log_snr_and_timestep_round_trip():
    t = torch.cat([torch.arange(1000.0), torch.rand(1000) * 999]).double()
    assert (schedule.t_at(schedule.t_to_log_snr(t)) - t).abs().max() < 1e-8
    log_snr = torch.linspace(-5.74, 9.21, 777, dtype=torch.float64)
    assert (schedule.t_to_log_snr(schedule.t_at(log_snr)) - log_snr).abs().max() < 1e-10
    assert schedule.t_at(torch.tensor([-100.0, 100.0])).tolist() == [999, 0]
    assert torch.equal(schedule.t_to_log_snr(torch.arange(1000)), schedule.log_snrs)


def test_fractional_timesteps_and_their_derivative():
    whole = torch.arange(1000)
    assert torch.equal(schedule.alpha_cumprod_at(whole).float(), schedule.alpha_cumprod(whole))
    t = torch.tensor([0.25, 499.5, 998.9], dtype=torch.float64)
    log_snr = torch.logit(schedule.alpha_cumprod_at(t))
    torch.testing.assert_close(log_snr, schedule.t_to_log_snr(t), rtol=1e-12, atol=1e-10)
    value, slope = torch.func.jvp(schedule.alpha_cumprod_at, (t,), (torch.ones_like(t),))
    between = schedule.alpha_cumprod_at(t + 1e-4) - schedule.alpha_cumprod_at(t - 1e-4)
    torch.testing.assert_close(slope, between / 2e-4, rtol=1e-6, atol=0)
    whole = torch.tensor([0.0, 500.0, 999.0], dtype=torch.float64)          # at the last, the slope before it
    value, slope = torch.func.jvp(schedule.alpha_cumprod_at, (whole,), (torch.ones_like(whole),))
    log_snr_slope = torch.stack([schedule.log_snrs[t + 1] - schedule.log_snrs[t] for t in (0, 500, 998)])
    torch.testing.assert_close(slope, value * (1 - value) * log_snr_slope, rtol=1e-9, atol=0)


def test_v_and_noise_say_the_same():
    x_0, noise = torch.rand(5, 3, 8, 8).double() * 2 - 1, torch.randn(5, 3, 8, 8).double()
    t = torch.tensor([0, 54, 495, 943, 999])
    abar = schedule.alpha_cumprod(t, torch.float64)
    a = abar[:, None, None, None]
    v, x_t = a.sqrt() * noise - (1 - a).sqrt() * x_0, schedule.add_noise(x_0, noise, t)
    torch.testing.assert_close(eps_from_v(x_t, v, abar), noise)
    # An error of v is one of the clean image times sqrt(1 - abar): at the noisy end it stays what it is.
    wrong = predict_x_0(x_t, eps_from_v(x_t, v + 0.1, abar), abar, clip=False)
    torch.testing.assert_close(x_0 - wrong, 0.1 * (1 - a).sqrt().expand_as(x_0))


def test_ddim_equals_every_golden_case(golden):
    x, eps = torch.from_numpy(golden["ddim_x"]), torch.from_numpy(golden["ddim_eps"])
    clean = torch.tensor(1.0)
    for case, (t, t_next) in enumerate(golden["ddim_pairs"].tolist()):
        abar, abar_next = (schedule.alpha_cumprod(torch.tensor(value)) for value in (t, t_next))
        for key, target, clip in (("ddim_out_clip1", abar_next, True), ("ddim_out_clip0", abar_next, False),
                                  ("ddim_out_to_clean", clean, True)):
            torch.testing.assert_close(ddim_step(x, eps, abar, target, clip), torch.from_numpy(golden[key][case][None]),
                                       atol=2e-5, rtol=1e-5)


def test_exact_noise_leads_back_to_the_clean_image():
    x_0, noise = torch.rand(5, 3, 8, 8).double() * 2 - 1, torch.randn(5, 3, 8, 8).double()
    t = torch.tensor([0, 54, 495, 943, 999])
    abar = schedule.alpha_cumprod(t, torch.float64)
    x_t = schedule.add_noise(x_0, noise, t)
    one = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(ddim_step(x_t, noise, abar, one), x_0)
    torch.testing.assert_close(predict_eps(x_t, predict_x_0(x_t, noise, abar, clip=False), abar), noise)


def test_one_step_equals_two_where_the_prediction_does_not_change():
    """For a constant x_0 the flow is a straight line in z, so DDIM steps compose exactly."""
    x, x_0 = torch.randn(1, 3, 8, 8).double(), torch.rand(1, 3, 8, 8).double()
    a, b, c = schedule.alpha_cumprod(torch.tensor([900, 400, 20]), torch.float64)
    torch.testing.assert_close(step_from_x_0(step_from_x_0(x, x_0, a, b), x_0, b, c), step_from_x_0(x, x_0, a, c))


def test_ancestral_step_has_the_posterior_variance():
    """eta = 1: variance (1 - abar') / (1 - abar) (1 - abar / abar') of q(x_t' | x_t, x_0) (Ho et al. 2020, eq. 7)."""
    abar, abar_next = schedule.alpha_cumprod(torch.tensor([600, 500]), torch.float64)
    x, x_0 = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    noise = torch.randn(200_000, dtype=torch.float64)
    steps = step_from_x_0(x, x_0, abar, abar_next, eta=1.0, noise=noise)
    beta = 1 - abar / abar_next
    assert steps.var().item() == pytest.approx((beta * (1 - abar_next) / (1 - abar)).item(), rel=0.02)


def test_extrapolation_is_exact_for_a_prediction_linear_in_log_snr():
    """x_0(lambda) = a + b lambda, known at the ends of the last step: the middle of the next one is met exactly."""
    a, b, last, now, following = 0.3, -0.2, 1.0, 1.7, 3.1
    found = extrapolate(a + b * now, a + b * last, following - now, now - last)
    assert found == pytest.approx(a + b * (now + following) / 2)
    assert extrapolate(1.0, 0.5, math.inf, 1.0) == 1.0
    assert extrapolate(1.0, 0.5, 1.0, 0.0) == 1.0


def test_reconciled_predictions_agree_and_are_weighted_by_precision():
    x_0_64, x_0_32 = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 4, 4).double()
    # SNR 1 at the 64 scale counts as 4 at the 32 scale.
    abar = {snr: torch.tensor(snr / (1 + snr), dtype=torch.float64) for snr in (1.0, 4.0, 12.0)}
    for snr_32, share in ((4.0, 1 / 2), (12.0, 3 / 4), (1.0, 1 / 5)):
        fine, coarse = reconcile(x_0_64, x_0_32, abar[1.0], abar[snr_32])
        mean = downsample_to_32(x_0_64)
        torch.testing.assert_close(coarse, mean + share * (x_0_32 - mean))
        torch.testing.assert_close(downsample_to_32(fine), coarse)
        detail = [x - downsample_to_32(x).repeat_interleave(2, -1).repeat_interleave(2, -2) for x in (fine, x_0_64)]
        torch.testing.assert_close(*detail)                             # what is finer stays
    same = reconcile(x_0_64, downsample_to_32(x_0_64), abar[1.0], abar[12.0])
    torch.testing.assert_close(same[0], x_0_64)


def test_reconciled_predictions_of_independent_views_have_the_least_error():
    """A clean image seen twice in noise, each view its own best guess: no other share of the two does better."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(1, 1, 512, 512, generator=generator, dtype=torch.float64) * 1e4          # no prior to speak of
    abar_64, abar_32 = schedule.alpha_cumprod(torch.tensor([600, 400]), torch.float64)
    views = [x + ((1 - abar) / abar).sqrt() * torch.randn(x.shape, generator=generator, dtype=torch.float64)
             for x, abar in ((x_0, abar_64), (downsample_to_32(x_0), abar_32))]
    fine, coarse = reconcile(*views, abar_64, abar_32)
    direction = views[1] - downsample_to_32(views[0])
    errors = [(coarse + change * direction - downsample_to_32(x_0)).square().mean() for change in (-0.05, 0, 0.05)]
    assert errors[1] < min(errors[0], errors[2])
    assert (fine - x_0).square().mean() < (views[0] - x_0).square().mean()
