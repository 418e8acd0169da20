"""The dual-scale DiT against its formulas written out, and sampled along paths of the plane of its two times."""
import pytest
import torch
import torch.nn.functional as F

from engine.denoiser import Guided
from engine.errors import InputError
from engine.sampling import sample
from networks.dit import DiT, position_embedding
from networks.dual_dit import DualDiT, DualFlowDenoiser

SIZES = dict(channels=3, patch_size=4, hidden_size=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=5)
FINE_TOKENS, COARSE_TOKENS = 16, 4


def random_model(**options) -> DualDiT:
    """Sides 16 and 8, with every parameter drawn at random: training starts with zeros in the modulations."""
    torch.manual_seed(0)
    model = DualDiT((16, 8), **SIZES, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def inputs(batch: int = 3):
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(batch, 3, size, size, generator=generator) for size in (16, 8)]
    return xs, [torch.rand(batch, generator=generator) for _ in xs], torch.arange(batch)


@torch.no_grad()
def test_forward_is_its_formula():
    """Scale by scale: shift, scale and gate from that scale's time; attention over the tokens of both, head by head."""
    model = random_model()
    xs, ts, labels = inputs()
    hidden = [F.conv2d(x, e.proj.weight, e.proj.bias, stride=4).flatten(2).mT for x, e in zip(xs, model.x_embedders)]
    hidden = [h + place for h, place in zip(hidden, model.pos_embed.split([FINE_TOKENS, COARSE_TOKENS]))]
    conditions = [model.t_embedder(t) + model.y_embedder.embedding_table.weight[labels] for t in ts]

    def norm(h, shift, scale):
        h = (h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True, correction=0) + 1e-6).sqrt()
        return h * (1 + scale[:, None]) + shift[:, None]

    for block in model.blocks:
        parts = [block.adaLN_modulation[s][1](F.silu(conditions[s])).chunk(6, dim=1) for s in (0, 1)]
        q, k, v = block.attn.qkv(torch.cat([norm(h, *p[:2]) for h, p in zip(hidden, parts)], 1)).chunk(3, dim=2)
        heads = [((q[..., h] @ k[..., h].mT) / 8**0.5).softmax(-1) @ v[..., h] for h in (slice(0, 8), slice(8, 16))]
        seen = block.attn.proj(torch.cat(heads, 2)).split([FINE_TOKENS, COARSE_TOKENS], dim=1)
        hidden = [h + p[2][:, None] * a for h, p, a in zip(hidden, parts, seen)]
        hidden = [h + p[5][:, None] * block.mlp(norm(h, *p[3:5])) for h, p in zip(hidden, parts)]
    for s, found in enumerate(model(xs, ts, labels)):
        last, side = model.final_layers[s], (4, 2)[s]
        tokens = last.linear(norm(hidden[s], *last.adaLN_modulation[1](F.silu(conditions[s])).chunk(2, dim=1)))
        for row in range(side):
            for column in range(side):
                patch = found[:, :, 4 * row:4 * row + 4, 4 * column:4 * column + 4]
                expected = tokens[:, row * side + column].view(-1, 4, 4, 3).permute(0, 3, 1, 2)
                assert torch.allclose(patch, expected, atol=1e-4)


def test_a_coarse_token_lies_in_the_middle_of_its_four():
    angles = 10_000.0 ** -(torch.arange(4) / 4)
    coarse = position_embedding(2, 16, spacing=2).view(2, 2, 16)        # places 0.5 and 2.5 in each direction
    assert torch.allclose(coarse[0, 1, :4], torch.sin(2.5 * angles))
    assert torch.allclose(coarse[1, 0, 12:], torch.cos(2.5 * angles))
    assert torch.equal(position_embedding(4, 16, spacing=1)[:, 0], torch.arange(4.0).sin().repeat(4))


def test_a_quarter_more_tokens_and_the_other_scales_layers():
    """What a second scale adds to a DiT: tokens, a patch embedding, modulations and a last layer."""
    model, single = DualDiT((16, 8), **SIZES), DiT(16, **SIZES)
    assert len(model.pos_embed) == 1.25 * len(single.pos_embed)
    width, numbers = 16, 48
    modulations = (2 * 6 + 2) * (width * width + width)
    more = modulations + (numbers * width + width) + (width * numbers + numbers)
    assert sum(p.numel() for p in model.parameters()) == more + sum(p.numel() for p in single.parameters())


def test_each_scale_sees_the_others_image_and_time():
    model = random_model()
    xs, ts, labels = inputs()
    before = model(xs, ts, labels)
    for scale in (0, 1):
        for changed in ("image", "time"):
            xs_2, ts_2 = list(xs), list(ts)
            if changed == "image":
                xs_2[scale] = xs[scale] + 1
            else:
                ts_2[scale] = 1 - ts[scale]
            after = model(xs_2, ts_2, labels)
            assert all((a - b).abs().max() > 1e-3 for a, b in zip(after, before)), (scale, changed)


@pytest.mark.parametrize("output", ["velocity", "clean", "residual"])
def test_every_weight_is_moved_under_autocast(output):
    model = random_model(output=output)
    xs, ts, _ = inputs(5)
    with torch.autocast("cpu", torch.bfloat16):
        velocities = model(xs, ts, torch.arange(5))
    assert [v.dtype for v in velocities] == [torch.float32] * 2
    assert [v.shape for v in velocities] == [x.shape for x in xs]
    sum(v.square().mean() for v in velocities).backward()
    assert all(p.grad.abs().max() > 0 for n, p in model.named_parameters() if n != "y_embedder.embedding_table.weight")
    assert (model.y_embedder.embedding_table.weight.grad.abs().amax(1) > 0).tolist() == [True] * 5 + [False]  # no null


def test_training_starts_at_each_scales_own_affine_velocity():
    torch.manual_seed(0)
    model = DualDiT((16, 8), **SIZES, output="residual")
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)
    model.fit([images, images[:, :, ::2, ::2]])
    xs, ts, labels = inputs()
    for affine, v, x, t in zip(model.affines, model(xs, ts, labels), xs, ts):
        assert torch.equal(v, affine.velocity(torch.zeros_like(x), x, t))
        assert affine.variance.std() > 0                                # it was fitted
    assert not DualDiT((16, 8), **SIZES)(xs, ts, labels)[0].any()       # of a velocity output: zero


def test_any_path_of_the_plane_with_a_call_a_step():
    denoiser = DualFlowDenoiser(random_model())
    path = torch.tensor([[0, 0], [0, 0.3], [0.2, 0.7], [0.2, 1], [0.6, 1], [1, 1]], dtype=torch.float64)
    whole = sample(denoiser, path, 3, range(4), labels=torch.arange(4), clip=False)
    assert whole.num_model_calls == 5 and [tuple(x.shape) for x in whole.xs] == [(4, 3, 16, 16), (4, 3, 8, 8)]
    alone = sample(denoiser, path, 3, [2], labels=torch.tensor([2]), clip=False)
    assert all(torch.allclose(a[0], w[2], atol=1e-5) for a, w in zip(alone.xs, whole.xs))
    diagonal = sample(denoiser, torch.linspace(0, 1, 6).double().repeat(2, 1).T, 3, range(4), labels=torch.arange(4),
                      clip=False)
    assert not torch.allclose(diagonal.xs[0], whole.xs[0], atol=1e-3)


@torch.no_grad()
def test_clean_images_and_guidance():
    model = random_model()
    denoiser = DualFlowDenoiser(model)
    xs, ts, labels = inputs()
    means = denoiser.clean(xs, ts, labels)
    for x_0, x, t, v in zip(means, xs, ts, model(xs, ts, labels)):
        assert torch.allclose(x_0, x + (1 - t).view(-1, 1, 1, 1) * v, atol=1e-5)
    null, before = denoiser.clean(xs, ts), denoiser.num_evaluations
    for found, a, b in zip(Guided(denoiser, 4).clean(xs, ts, labels), means, null):
        assert torch.allclose(found, b + 4 * (a - b), atol=1e-4)
    assert denoiser.num_evaluations == before + 6


def test_bad_sizes_are_told():
    with pytest.raises(InputError, match="--scales: found 16 4"):
        DualDiT((16, 4), **SIZES)
    with pytest.raises(InputError, match="--patch_size: found 8, expected a divisor of the coarse side 12"):
        DualDiT((24, 12), **SIZES | {"patch_size": 8})
