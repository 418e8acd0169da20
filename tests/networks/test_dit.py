"""The DiT against numbers of the earlier public implementation (tests/reference/flow.npz), and what it adds to it."""
import argparse
import zlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import families
from engine.errors import InputError
from engine.files import sha256_of_file
from engine.sampling import from_uint8
from flow.drawing import drawing_of, latents_of
from flow.model import load_checkpoint
from networks import dit
from networks.affine_velocity import AffineVelocity
from networks.dit import DiT, PRESETS, least_error, load_published, position_embedding, time_features

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "flow.npz")
MODELS = ("a", "b")
EXACT, ROUNDED = 1e-5, 5e-4         # where t = 0; elsewhere the original rounds angles of up to 10^4 to float32


def reference(model: str, name: str) -> torch.Tensor:
    values = torch.from_numpy(REFERENCE[f"{model}_{name}"])
    return values.long() if name == "labels" else values


def named_weights(model: torch.nn.Module) -> None:
    """Give every parameter the reference's values, drawn from its name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(parameter.shape))
            scale = 0.02 if name.endswith("bias") else 1 / np.sqrt(np.prod(parameter.shape[1:]))
            parameter.copy_(torch.from_numpy((r * scale).astype(np.float32)))


def reference_model(name: str) -> DiT:
    *sizes, mlp_ratio, num_classes = REFERENCE[f"{name}_config"]
    model = DiT(*map(int, sizes), mlp_ratio, int(num_classes))
    named_weights(model)
    return model


def assert_rows(found: torch.Tensor, expected: torch.Tensor) -> None:
    """The first row, t = 0, to 1e-5; the others to 5e-4."""
    assert found.shape == expected.shape
    assert (found[0] - expected[0]).abs().max() < EXACT
    assert (found[1:] - expected[1:]).abs().max() < ROUNDED


def tiny(output: str = "velocity", **options) -> DiT:
    torch.manual_seed(0)
    return DiT(8, 3, 4, 16, 2, 2, 2, 5, output=output, **options)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_sizes_are_the_reference(name):
    model = reference_model(name)
    assert sorted(n for n, _ in model.named_parameters()) == sorted(REFERENCE[f"{name}_parameter_names"])
    count = sum(p.numel() for p in model.parameters())
    assert [count + model.pos_embed.numel(), count] == REFERENCE[f"{name}_num_parameters"].tolist()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_layer_puts_out_the_reference(name):
    model = reference_model(name)
    seen = {}
    for key, module in [("tokens", model.x_embedder), ("t_embedding", model.t_embedder),
                        ("y_embedding", model.y_embedder), ("block_0", model.blocks[0]),
                        ("last_block", model.blocks[-1]), ("final_tokens", model.final_layer)]:
        module.register_forward_hook(lambda _, __, output, key=key: seen.__setitem__(key, output))
    seen["v"] = model(reference(name, "x"), reference(name, "t"), reference(name, "labels"))
    for key, found in seen.items():
        assert_rows(found, reference(name, key))
    assert torch.allclose(model.pos_embed, reference(name, "pos_embed"), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_guidance_is_the_reference(name):
    model, x, t = reference_model(name), reference(name, "x"), reference(name, "t")
    v, v_null = model(x, t, reference(name, "labels")), model(x, t)
    assert_rows(v_null, reference(name, "v_null"))
    for scale in (0, 1, 4):
        assert_rows(v_null + scale * (v - v_null), reference(name, f"v_cfg{scale}"))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_training_steps_are_the_reference(name):
    model = reference_model(name)
    x_0, eps, t = reference(name, "train_x1"), reference(name, "x"), reference(name, "train_t")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-8)
    losses = []
    for step in range(6):
        share = t.reshape(-1, 1, 1, 1)
        v = model(share * x_0 + (1 - share) * eps, t, reference(name, "labels"))
        loss = (v - (x_0 - eps)).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = {n: p.grad.norm().item() for n, p in model.named_parameters()}
            expected = dict(zip(REFERENCE[f"{name}_parameter_names"], REFERENCE[f"{name}_grad_norms"]))
            assert norms == pytest.approx(expected, rel=ROUNDED)
        optimizer.step()
    assert losses == pytest.approx(REFERENCE[f"{name}_train_losses"].tolist(), rel=ROUNDED)


def test_time_features_are_the_reference():
    t = torch.from_numpy(REFERENCE["time_features_t"])
    assert (time_features(t) - torch.from_numpy(REFERENCE["time_features"])).abs().max() < ROUNDED


PARAMETERS = {"debug": (154_304, 194_960), "small": (32_614_080, 32_858_896), "big": (129_813_696, 130_303_504),
              "semilarge": (419_391_680, 420_044_816), "large": (457_171_136, 457_824_272),
              "xlarge": (674_081_472, 674_816_272)}


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_counts_of_the_presets(preset):
    def count(**sizes):
        with torch.device("meta"):
            return sum(p.numel() for p in DiT(**PRESETS[preset] | sizes).parameters())
    assert (count(image_size=32, channels=3, patch_size=8, num_classes=10),
            count(image_size=32, channels=4, patch_size=2, num_classes=1000)) == PARAMETERS[preset]


def test_position_embedding_tells_columns_from_rows():
    table = position_embedding(4, 16).view(4, 4, 16)                    # [row, column, width]
    assert torch.equal(table[0, :, :8], table[3, :, :8]) and torch.equal(table[:, 0, 8:], table[:, 3, 8:])
    assert torch.allclose(table[2, 3, :4], torch.sin(3 * 10_000.0 ** -(torch.arange(4) / 4)))
    assert torch.allclose(table[2, 3, 12:], torch.cos(2 * 10_000.0 ** -(torch.arange(4) / 4)))


def test_initial_values():
    torch.manual_seed(0)
    model = DiT(16, 3, 4, 96, 2, 4, 4, 200)
    state = model.state_dict()
    zero = [name for name, value in state.items() if not value.any()]
    assert set(zero) == {name for name in state if name.endswith("bias") or "adaLN" in name} | {
        "final_layer.linear.weight"}
    bounds = {"blocks.0.attn.qkv.weight": (6 / 192)**0.5, "blocks.1.mlp.fc1.weight": (6 / 480)**0.5,
              "x_embedder.proj.weight": (6 / (96 + 48))**0.5}
    for name, bound in bounds.items():
        largest = state[name].abs().max().item()
        assert 0.98 * bound < largest <= bound, name
    for name in ("y_embedder.embedding_table.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"):
        assert state[name].std().item() == pytest.approx(0.02, rel=0.05), name
    x = torch.randn(2, 3, 16, 16)
    assert not model(x, torch.rand(2)).any()


def test_time_stays_exact_under_autocast():
    model = tiny()
    t = torch.tensor([0.123, 0.987])
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.t_embedder(t)
    assert inside.dtype == torch.float32 and torch.equal(inside, model.t_embedder(t))


@pytest.mark.parametrize("output", dit.OUTPUTS)
def test_velocity_is_float32_under_autocast_and_moves_every_weight(output):
    model = tiny(output)
    named_weights(model)
    with torch.autocast("cpu", torch.bfloat16):
        v = model(torch.randn(5, 3, 8, 8), torch.rand(5), torch.arange(5))
    assert v.dtype == torch.float32 and v.shape == (5, 3, 8, 8)
    v.square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_clean_output_is_the_way_to_a_clean_image():
    model = tiny("clean")
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(0.5)                        # the clean image is 0.5 everywhere
    x_t, t = torch.randn(3, 3, 8, 8), torch.tensor([0.0, 0.6, 0.99])
    v = model(x_t, t)
    assert torch.allclose(x_t[:2] + (1 - t[:2]).reshape(-1, 1, 1, 1) * v[:2], torch.full((2, 3, 8, 8), 0.5), atol=1e-6)
    assert torch.allclose(v[2], (0.5 - x_t[2]) / 0.05)                  # no more than 20 times the clean image's error


def test_qk_norm_forgets_the_length_of_queries_and_keys():
    model = tiny(qk_norm=True)
    named_weights(model)
    for block in model.blocks:
        for norm in (block.attn.q_norm, block.attn.k_norm):
            torch.nn.init.ones_(norm.weight)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    before = model(x, t)
    with torch.no_grad():
        for block in model.blocks:
            for values in (block.attn.qkv.weight, block.attn.qkv.bias):
                values[:32] *= 3                                        # rows of q and k
    assert torch.allclose(model(x, t), before, atol=1e-4)
    model.blocks[0].attn.q_norm = torch.nn.Identity()
    assert not torch.allclose(model(x, t), before, atol=1e-3)


# --- the residual output ----------------------------------------------------------------------------------------------

def correlated_images(count: int) -> torch.Tensor:
    """uint8 [count, 3, 8, 8]: smooth, with colours that go together and a mean that is not grey."""
    rng = np.random.default_rng(0)
    smooth = rng.standard_normal((count, 1, 8, 8)).cumsum(2).cumsum(3) * 6
    return torch.from_numpy(np.clip(150 + smooth + 8 * rng.standard_normal((count, 3, 8, 8)), 0, 255).astype(np.uint8))


def test_affine_velocity_is_the_regression_on_the_noised_coefficient():
    """Coefficient by coefficient, the affine velocity is the least-squares line through (c_t, v) over many draws."""
    images = correlated_images(500)
    affine = AffineVelocity(8)
    affine.fit(images)
    x_0 = from_uint8(images).double().repeat(40, 1, 1, 1)
    eps = torch.from_numpy(np.random.default_rng(1).standard_normal(x_0.shape))
    for t in (0.0, 0.3, 0.8):
        x_t, v = t * x_0 + (1 - t) * eps, x_0 - eps
        best = affine.velocity(torch.zeros_like(x_t), x_t, torch.full((len(x_t),), t))
        rest, c = affine.coefficients(v - best), affine.coefficients(x_t)
        unit = affine.velocity(torch.ones_like(x_t), x_t, torch.full((len(x_t),), t)) - best
        assert (rest.mean(0)).abs().max() < 0.05                        # 4 standard errors of the worst coefficient
        slope = (rest * (c - c.mean(0))).mean(0) / c.var(0)
        assert slope.abs().max() < 0.05
        q = t**2 * affine.variance.double() + (1 - t)**2
        assert torch.allclose(rest.var(0), affine.variance / q, rtol=0.1, atol=1e-3)
        ones = affine.coefficients(torch.ones_like(x_t[:1]))[0]
        assert torch.allclose(affine.coefficients(unit)[0], (affine.variance / q).sqrt() * ones, atol=1e-6)


def test_residual_has_no_pole_and_its_predictor_is_saved():
    model, images = tiny("residual"), correlated_images(200)
    model.fit(images)
    x_0 = from_uint8(images[:4])
    assert model(x_0, torch.ones(4)).isfinite().all()                   # t = 1
    again = tiny("residual")
    again.load_state_dict(model.state_dict())
    x, t = torch.randn(4, 3, 8, 8), torch.tensor([0.0, 0.3, 0.7, 1.0])
    assert torch.equal(model(x, t), again(x, t)) and not torch.equal(model(x, t), tiny("residual")(x, t))
    assert {"affine.colors", "affine.mean", "affine.variance"} <= model.state_dict().keys()


# --- published weights ------------------------------------------------------------------------------------------------

def published(model: DiT, channels_out: int) -> dict[str, torch.Tensor]:
    """The state dict of a model in the published layout, with `channels_out` output channels and its pos_embed."""
    state = dict(model.state_dict()) | {"pos_embed": model.pos_embed[None].clone()}
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        by_channel = state[name].unflatten(0, (-1, model.channels))     # [p p, C, ...]
        more = torch.full((len(by_channel), channels_out - model.channels, *by_channel.shape[2:]), 7.0)
        state[name] = torch.cat([by_channel, more], 1).flatten(0, 1)
    return state


@pytest.fixture
def latent_model():
    model = DiT(8, 4, 2, 48, 3, 4, 4, 7, time_scale=1.0)
    named_weights(model)
    return model


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": {}, "ema": state, "opt": {},
                                                                      "args": argparse.Namespace(model="DiT-S/2")}])
@pytest.mark.parametrize("channels_out", [4, 8])
def test_published_weights_load(tmp_path, latent_model, wrap, channels_out):
    torch.save(wrap(published(latent_model, channels_out)), tmp_path / "dit.pt")
    loaded = load_published(tmp_path / "dit.pt", num_heads=4)
    assert loaded.config == latent_model.config
    x, t, labels = torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([0, 6])
    assert torch.equal(loaded(x, t, labels), latent_model(x, t, labels))
    with pytest.raises(Exception, match="Namespace|Unsupported"):       # allowed for that load alone
        torch.save(argparse.Namespace(), tmp_path / "other.pt")
        torch.load(tmp_path / "other.pt", weights_only=True)


@pytest.mark.parametrize("name", ["dit.safetensors", "dit.pth", "run.pt"])
def test_published_weights_are_a_model_of_the_flow_family(tmp_path, name):
    """As safetensors, as a state dict, and within a training run: by `families.load` and by `flow.load_checkpoint`."""
    model = DiT(8, 3, 2, 64, 1, 2, 4, 7, time_scale=1.0)
    named_weights(model)
    path, state = tmp_path / name, published(model, 6)
    if name.endswith("safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        run = {"ema": state, "model": {}, "args": argparse.Namespace(model="DiT-S/2")}
        torch.save(run if name == "run.pt" else state, path)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.rand(2), torch.tensor([0, 6])
    by_family, by_flow = families.load(path), load_checkpoint(path)
    assert by_family.family == "flow" and by_family.is_guidable and by_flow.vae_fingerprint is None
    assert by_family.fingerprint == by_flow.fingerprint == sha256_of_file(path)[:16]
    for network in (by_family.network, by_flow.network):
        assert torch.equal(network(x, t, labels), model(x, t, labels))
    draw = drawing_of(by_flow, Namespace(guidance_scale=4.0, guidance_interval=None, guidance_reuse=0.0,
                                         coarse_shift=1.0, eps_scale=1.0, told_log_snr=0.0, labels=None, vae=None,
                                         grid="uniform", num_steps=2, solver="ddim", shift=1.0, precision="float32"),
                      "cpu")
    images, num_broken, num_calls = draw(0, range(3))
    assert images.shape == (3, 3, 8, 8) and num_broken == 0 and num_calls == 4


def test_published_weights_of_latents_ask_for_their_autoencoder(tmp_path):
    """Whose they are the file does not tell."""
    model = DiT(8, 4, 2, 64, 1, 2, 4, 7, time_scale=1.0)
    torch.save(published(model, 8), tmp_path / "dit.pth")
    for load in (families.load, lambda path: latents_of(load_checkpoint(path), None, "cpu")):
        with pytest.raises(InputError, match="--vae: .*dit.pth has published weights of a model of latents"):
            load(tmp_path / "dit.pth")


def test_published_weights_that_are_none_are_refused(tmp_path, latent_model):
    state = published(latent_model, 4)
    path = tmp_path / "dit.pt"
    for content, message in [(state | {"pos_embed": state["pos_embed"].flip(1)}, "pos_embed"),
                             ({"conv.weight": torch.zeros(1)}, "x_embedder.proj.weight"),
                             ({k: v for k, v in state.items() if "fc2" not in k}, "published layout")]:
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            load_published(path, num_heads=4)
    torch.save(state, path)
    with pytest.raises(InputError, match="hidden size 48"):
        load_published(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged or foreign, expected a file of published DiT or SiT weights"):
        load_published(path)


def test_bad_sizes_are_told():
    with pytest.raises(InputError, match="--patch_size: found 8"):
        DiT(36, 3, 8, 16, 1, 2, 1, 5)
    with pytest.raises(InputError, match="--hidden_size: found 18"):
        DiT(32, 3, 8, 18, 1, 2, 1, 5)
    with pytest.raises(InputError, match="--mlp_ratio: found 0.05 with --hidden_size 16, expected at least 0.0625"):
        DiT(32, 3, 8, 16, 1, 2, 0.05, 5)
    with pytest.raises(InputError, match="--output: found 'noise'"):
        DiT(32, 3, 8, 16, 1, 2, 1, 5, output="noise")


def test_bound_of_narrow_networks():
    with torch.device("meta"):
        assert least_error(DiT(32, 3, 8, 64, 2, 2, 1, 10)) == pytest.approx(1 - 64 / 192)
        assert least_error(DiT(32, 3, 8, 64, 2, 2, 1, 10, output="clean")) == 0
        assert least_error(DiT(32, 3, 4, 96, 2, 2, 1, 10)) == 0
