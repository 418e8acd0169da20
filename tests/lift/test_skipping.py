"""LIFT that leaves out its 64x64 level where the 64 scale is noise."""
import pytest
import torch

from engine.errors import InputError
from engine.files import save_torch
from engine.flops import gflop_done_by, gflop_of
from lift import checkpoints, objective, sampling
from model import LIFTDualTimestepModel
from networks.presets import DEFAULT_HIDDEN_DIMS, PARAMETRIZATIONS
from networks.scales import upsample_to_64
from scheduler import CosineSteps, predict_x_0
from train_lift import parse_args

SCHEDULE = CosineSteps()
DIMS = [8, 16]


def skipping(parametrization: str = "eps") -> LIFTDualTimestepModel:
    torch.manual_seed(0)
    model = LIFTDualTimestepModel(DIMS, parametrization, native_32=True, skip_64_at_noise=True)
    for parameter in model.final_conv_32[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False).eval()


def inputs(t_64):
    t_64 = torch.tensor(t_64)
    return torch.randn(len(t_64), 3, 64, 64), torch.randn(len(t_64), 3, 32, 32), t_64, torch.tensor([900, 500, 20, 700])


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_images_at_noise_do_not_see_the_64_level(parametrization):
    model = skipping(parametrization)
    mixed = inputs([999, 500, 999, 998])
    eps_64, eps_32 = model(*mixed)
    full = LIFTDualTimestepModel(DIMS, parametrization, native_32=True).eval()
    full.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = full(*mixed)
    for found, whole in zip((eps_64, eps_32), expected):
        assert torch.allclose(found[[1, 3]], whole[[1, 3]], atol=1e-4)
        assert (found[[0, 2]] - whole[[0, 2]]).abs().max() > 1e-3
    alone = model(*(value[[0, 2]] for value in mixed))
    assert all(torch.allclose(a, b[[0, 2]], atol=1e-4) for a, b in zip(alone, (eps_64, eps_32)))
    for layers in (model.init_conv, model.encoder_blocks[0], model.decoder_blocks[-1], model.final_conv):
        for parameter in layers.parameters():
            parameter.fill_(float("nan"))
    again = model(*(value[[0, 2]] for value in mixed))
    assert all(torch.equal(a, b) for a, b in zip(alone, again))
    x_0 = [predict_x_0(x[[0, 2]], eps, SCHEDULE.alpha_cumprod(t[[0, 2]]), clip=s == 1)
           for s, (x, eps, t) in enumerate(zip(mixed[:2], alone, mixed[2:]))]
    assert torch.allclose(x_0[0], upsample_to_64(x_0[1]), atol=1e-3)


def test_a_call_at_noise_has_three_quarters_of_the_arithmetic():
    def of(name):
        def call():
            model = LIFTDualTimestepModel(DEFAULT_HIDDEN_DIMS, native_32=True, skip_64_at_noise=True)
            t = torch.zeros(1)
            getattr(model, name)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32), t, t)
        return gflop_of(call)
    assert 0.73 < of("at_32_alone") / of("at_both_scales") < 0.78


def test_a_share_of_every_batch_is_such_pairs():
    rule = objective.timestep_rule(parse_args(["--native_32", "--skip_64_at_noise", "0.25"]))
    t_64, t_32 = objective.draw_timesteps(rule, 64, torch.Generator().manual_seed(0), SCHEDULE)
    plain = objective.draw_timesteps(objective.TimestepRule(), 64, torch.Generator().manual_seed(0), SCHEDULE)
    skipped = torch.arange(64) % 4 == 3
    assert (t_64[skipped] == 999).all() and 300 < t_32[skipped].double().mean() < 700
    assert all(torch.equal(a[~skipped], b[~skipped]) for a, b in zip((t_64, t_32), plain))
    batch = objective.training_batch(torch.zeros(64, 3, 64, 64, dtype=torch.uint8), torch.arange(64), rule, 0, 0,
                                     slice(0, 8), False, SCHEDULE, torch.device("cpu"))
    model = skipping().requires_grad_(True)
    errors = objective.errors_per_image(model, 2, batch, SCHEDULE, "float32")
    sum(error.mean() for error in errors).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())
    for words, message in ((["--skip_64_at_noise", "0.25"], "--skip_64_at_noise: found 0.25, which has no effect"),
                           (["--skip_64_at_noise", "0.9", "--native_32"], "--skip_64_at_noise")):
        with pytest.raises((InputError, SystemExit), match=message if "0.25" in words else None):
            parse_args(words)


def test_checkpoint_and_sampling(tmp_path):
    model = skipping()
    content = {"model_state": model.state_dict(), "hidden_dims": DIMS, "parametrization": "eps", "epochs": 1,
               "options": {}}
    for is_skipping in (True, False):
        save_torch(tmp_path / "lift.pth", content | ({"skip_64_at_noise": True} if is_skipping else {}))
        assert checkpoints.load_model(tmp_path / "lift.pth", "lift", "raw").model.skip_64_at_noise == is_skipping
    path = [[999, 999], [999, 500], [400, 200], [0, 0]]
    samples = sampling.generate(model, path, 0, range(2))
    assert samples.x_64.isfinite().all() and samples.num_model_calls == 3


def test_arithmetic_of_an_image_along_a_path(tmp_path):
    """Calls at t_64 = 999 count as what they do."""
    from types import SimpleNamespace
    from lift.candidates import Candidates
    content = {"model_state": skipping().state_dict(), "hidden_dims": DIMS, "parametrization": "eps", "epochs": 1,
               "options": {}}
    found = {}
    for is_skipping in (True, False):
        path = tmp_path / f"{is_skipping}.pth"
        save_torch(path, content | ({"skip_64_at_noise": True} if is_skipping else {}))
        candidates = Candidates.__new__(Candidates)
        candidates.loaded, candidates.guide = checkpoints.load_model(path, "lift", "raw"), None
        candidates.paths = {"p": sampling.check_timesteps([[999, 999], [999, 500], [400, 200], [0, 0]])}
        candidates.args = SimpleNamespace(batch_size=8, compile=False, solver="ddim", eta=0.0, x32="joint",
                                          eps_scale=1.0, precision="float32", told_log_snr=0.0, guide=None,
                                          guide_noisy_32=False)
        found[is_skipping] = candidates.gflop("p", "cpu")
    model, t = skipping(), torch.tensor([999])
    alone = gflop_done_by(lambda: model.at_32_alone(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32), t, t))
    assert found[True] == pytest.approx(2 * alone + found[False] / 3, rel=1e-6) and alone < found[False] / 3
