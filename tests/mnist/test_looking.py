"""The verbs that look at models: pictures, measurements, what seems wrong, and the page that teaches."""
import json
import re
import sys

import pytest
import torch
from PIL import Image

from engine.errors import InputError
from engine.files import save_torch
from evaluation import class_conditioning, denoiser_errors, digit_scores, digit_tables
from evaluation.small_images import class_rows, principal_components, projection, scatter
from mnist import debug_conditioned_generation, lessons, score, tour, visualize_cfg_effect, visualize_distribution
from mnist.models import Model, build_denoiser, load_model
from mnist.options import sampling_of
from networks.margin import padded
from test_report import open_pages
from tiny_digits import place, trained                          # noqa: F401  fixtures


def test_looking_at_models(trained, place, tmp_path):
    """Each verb writes its picture and its record, and says in the end what it found."""
    folder, models = trained
    digits = ["--dataset", "digits:400", "--cache_dir", folder / "cache", "--num_threads", "1"]
    place(visualize_cfg_effect, *digits, "--checkpoint", models["flow"], "--compare_with", models["latent"],
          "--guidance_scales", "1", "3", "--num_samples", "20", "--per_cell", "2", "--sampling_steps", "2", "--output",
          tmp_path / "cfg.png")
    rows = json.loads((tmp_path / "cfg.json").read_text())["rows"]
    assert [(row["checkpoint"], row["guidance_scale"]) for row in rows] == [
        (str(models[name]), w) for name in ("flow", "latent") for w in (1, 3)]      # both kinds of conditioning
    assert all(row["fd_digits"] > 0 for row in rows)
    place(visualize_distribution, *digits, "--checkpoint", models["flow"], "--num_samples", "40", "--sampling_steps",
          "2",
          "--projection", "pca", "--output", tmp_path / "points")
    assert Image.open(tmp_path / "points.png").width > 1000
    place(score, *digits, "--num_samples", "20", "--output", tmp_path / "damages.csv")
    names = [row["what"] for row in json.loads((tmp_path / "damages.json").read_text())["rows"]]
    assert "mirrored" in names and "real digits, draw 5" in names
    place(score, *digits, "--num_samples", "20", "--checkpoint", models["vae"], "--output", tmp_path / "vae.csv")
    assert json.loads((tmp_path / "vae.json").read_text())["rows"][0]["what"] == "reconstructions"


def two_clouds() -> torch.Tensor:
    """Forty points of twenty numbers each: the second half far from the first."""
    points = torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    points[20:] += 30
    return points


def tells_clouds_apart(placed) -> bool:
    """Whether every point of the plane [40, 2] lies nearer to the middle of its own cloud."""
    placed = torch.as_tensor(placed)
    distances = torch.cdist(placed, torch.stack([placed[:20].mean(0), placed[20:].mean(0)]))
    return distances.argmin(1).tolist() == [0] * 20 + [1] * 20


def test_without_umap_points_are_placed_by_principal_components(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "umap", None)
    args = visualize_distribution.parse_args(["--checkpoint", "x.pth"])
    name, project = projection(args.projection, args.seed)
    assert name == "pca" and "umap-learn is not installed (pip install .[umap])" in capsys.readouterr().out
    assert tells_clouds_apart(project(two_clouds()))


@pytest.mark.slow
def test_umap_places_like_beside_like_and_the_same_way_again():
    args = visualize_distribution.parse_args(["--checkpoint", "x.pth"])
    name, project = projection(args.projection, args.seed)
    placed = project(two_clouds())
    assert name == "umap" and placed.shape == (40, 2) and tells_clouds_apart(placed)
    assert (placed == project(two_clouds())).all()


def test_drawn_digits_teach_something_about_others(trained, place, tmp_path, monkeypatch, capsys):
    """Where the digits are no drawn ones, it is said how well a classifier of drawn ones names them."""
    monkeypatch.setattr(digit_scores, "DRAWN", "digits:401")                # so that these pass for real ones
    place(score, "--dataset", "digits:400", "--cache_dir", trained[0] / "cache", "--num_threads", "1", "--num_samples",
          "20", "--output", tmp_path / "a.csv")
    share = json.loads((tmp_path / "a.json").read_text())["drawn_accuracy"]
    assert f"a classifier of drawn digits names {share:.1%} of 50 real ones right" in capsys.readouterr().out
    assert 0.1 < share <= 1
    monkeypatch.setattr(digit_scores, "DRAWN", "digits")                    # and now for what they are
    place(score, "--dataset", "digits:400", "--cache_dir", trained[0] / "cache", "--num_threads", "1", "--num_samples",
          "20", "--output", tmp_path / "b.csv")
    assert "drawn_accuracy" not in json.loads((tmp_path / "b.json").read_text())


def untrained(path, conditioning="none", image_size=28, channels=1, label_dropout=0.0):
    """A checkpoint of a tiny flow as it was built."""
    shape = [channels, *padded(torch.zeros(1, channels, image_size, image_size)).shape[2:]]
    denoiser = build_denoiser("flow", "velocity", {
        "shape": shape, "base_channels": 8, "channel_multipliers": [1], "attention_levels": [],
        "conditioning": conditioning, "num_classes": 0 if conditioning == "none" else 10})
    save_torch(path, {"family": "mnist", "model": "denoiser", "name": "rf", "process": "flow", "kind": "velocity",
                      "settings": denoiser.network.settings, "image_size": image_size, "channels": channels,
                      "vae_checkpoint": None, "vae_hash": None, "model_state": denoiser.network.state_dict(),
                      "ema_state": {"shadow": {}},
                      "options": {"label_dropout": label_dropout}})
    return path


@pytest.mark.parametrize("conditioning", ["none", "concat"])
def test_a_model_that_cannot_be_guided_is_scored_at_the_class_alone(conditioning, trained, place, tmp_path):
    """One without classes, and one that was trained with --label_dropout 0."""
    place(score, "--dataset", "digits:400", "--cache_dir", trained[0] / "cache", "--num_threads", "1", "--num_samples",
          "20", "--sampling_steps", "1", "--checkpoint", untrained(tmp_path / "a.pth", conditioning), "--output",
          tmp_path / "scores.csv")
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert [row["guidance_scale"] for row in rows[:-1]] == [1] and rows[-1]["what"] == "real digits, draw 1"


@pytest.mark.parametrize("module", [score, visualize_cfg_effect, visualize_distribution, debug_conditioned_generation])
def test_what_cannot_be_scored_is_refused_before_a_classifier_is_trained(module, place, tmp_path, monkeypatch):
    """Judges are asked for last."""
    monkeypatch.setattr(digit_scores, "judge_of", lambda *_, **__: pytest.fail("the judge was asked for"))
    scales = "--guidance_scales" if module in (score, visualize_cfg_effect) else "--guidance_scale"
    for words, message in (
            ([untrained(tmp_path / "a.pth", "concat"), scales, "2"], f"{scales}: found 2, .* without dropped labels"),
            ([untrained(tmp_path / "b.pth", "concat", 32), scales, "1"], "32 pixels in 1 channels"),
            ([untrained(tmp_path / "c.pth", "concat", 28, 3), scales, "1"], "28 pixels in 3 channels")):
        with pytest.raises(InputError, match=message):
            place(module, "--checkpoint", *words, "--output", tmp_path / "out.png")


def test_the_tour_refuses_what_draws_no_digits_before_a_classifier_is_trained(place, tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "judge_for", lambda *_: pytest.fail("the judge was asked for"))
    with pytest.raises(InputError, match="--flow: .* 28 pixels in 3 channels"):
        place(tour, "--flow", untrained(tmp_path / "a.pth", channels=3), "--output", tmp_path / "tour.html")


@pytest.mark.parametrize("words, message", [
    (["--eta", "0.5"], "--eta: found 0.5, which has no effect without --checkpoint"),
    (["--sampling_steps", "50"], "--sampling_steps: found 50, which has no effect without --checkpoint"),
    (["--guidance_scales", "1", "2"], "--guidance_scales: found 1 2, which has no effect without --checkpoint")])
def test_scores_of_real_digits_know_no_sampling(place, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        place(score, *words, "--output", tmp_path / "scores.csv")


def test_a_grid_of_guidances_needs_as_many_images_as_it_shows(place, tmp_path):
    with pytest.raises(InputError, match=r"--num_samples: found 20, expected at least 30, .*--per_cell"):
        place(visualize_cfg_effect, "--checkpoint", "x.pth", "--num_samples", "20", "--output", tmp_path / "a.png")


@pytest.mark.parametrize("words, sampler, num_steps", [
    ([], "midpoint", 10), (["--eta", "0.5"], "euler", 10), (["--mode", "ddpm"], None, 1000)])
def test_sampling_where_nothing_is_given(words, sampler, num_steps):
    """Each option stands alone, and the record tells what was taken."""
    args = visualize_cfg_effect.parse_args(["--checkpoint", "x.pth", *words])
    model = Model(build_denoiser("ddpm", "eps", {"shape": (1, 8, 8), "base_channels": 8, "channel_multipliers": (1,),
                                                 "attention_levels": ()}), None, 8, "")
    path, _ = sampling_of(args, model, visualize_cfg_effect.USUAL)
    assert args.sampler == sampler and len(path) == num_steps + 1
    args = visualize_cfg_effect.parse_args(["--checkpoint", "x.pth", "--mode", "ddpm", "--sampling_steps", "5"])
    with pytest.raises(InputError, match="--sampling_steps: found 5, which has no effect with --mode ddpm"):
        sampling_of(args, model, visualize_cfg_effect.USUAL)


def test_debugging_ends_with_what_looks_wrong(trained, place, tmp_path, capsys, monkeypatch):
    folder, models = trained
    monkeypatch.setattr(debug_conditioned_generation, "ways_of", lambda model, w: {
        "one": (model.path(2), 1.0, {}), "two": (model.path(2), w, {})})
    place(debug_conditioned_generation, "--dataset", "digits:400", "--cache_dir", folder / "cache", "--num_threads",
          "1",
          "--checkpoint", models["latent"], "--num_samples", "20", "--output", tmp_path / "debug")
    verdict = json.loads((tmp_path / "debug.json").read_text())["verdict"]
    assert "draws the class asked for in" in verdict                        # after four steps of training
    assert capsys.readouterr().out.strip().endswith(f"{verdict}.") and (tmp_path / "debug.png").is_file()


@pytest.mark.parametrize("trained_kind, names", [
    ("flow", ["Euler 50", "midpoint 10"]), ("ddpm", ["DDIM 50", "DDPM 1000"]), ("latent", ["DDIM 50", "DDPM 999"])])
def test_a_way_of_sampling_is_called_by_the_steps_that_it_takes(trained, trained_kind, names):
    ways = debug_conditioned_generation.ways_of(load_model(trained[1][trained_kind]), 3.0)
    assert list(ways) == [f"{name}, w = {w}" for name in names for w in (1, 3)]
    assert all(int(way.partition(",")[0].split()[1]) == len(path) - 1 for way, (path, *_) in ways.items())


def test_findings_name_what_is_wrong():
    """Nothing where nothing is, and each fault by its own sentence."""
    distances = torch.ones(11, 11).double() - torch.eye(11)
    good = {"distances": distances, "effects": {0.0: 0.5}, "gradients": {"a": 0.8, "b": 0.6}, "accuracies": {"x": 0.9}}
    assert class_conditioning.findings(**good) == []
    alike = distances.clone()
    alike[3, 8] = alike[8, 3] = 0.01
    for change, words in (({"distances": alike}, "classes 3 and 8"), ({"effects": {0.0: 0.001}}, "hardly reaches"),
                          ({"gradients": {"a": 1.0, "b": 0.0}}, "1 layers get no gradient, b"),
                          ({"accuracies": {"x": 0.2}}, "x draws the class asked for in 20%"),
                          ({"accuracies": {"x": 0.9, "y": 0.6}}, "y \\(60% right\\) falls far behind x \\(90%")):
        [sentence] = class_conditioning.findings(**good | change)
        assert re.search(words, sentence)


def test_a_network_that_does_not_hear_the_class_is_found(trained):
    """Its class maps set to nought: no distance, no effect."""
    model = load_model(trained[1]["flow"])
    before = class_conditioning.class_effects(model.denoiser, model.path(10))
    torch.nn.init.zeros_(model.denoiser.network.class_maps)
    after = class_conditioning.class_effects(model.denoiser, model.path(10))
    assert len(before) == 5 and min(before.values()) > 0 and set(after.values()) == {0.0}
    assert torch.nan_to_num(class_conditioning.code_distances(model.denoiser.network.class_codes)).sum() == 0


def test_gradient_norms_are_those_of_the_loss(trained):
    """Their squares add to one, and a layer that is cut off has none."""
    model = load_model(trained[1]["ddpm"])
    x, labels = torch.randn(6, 1, 32, 32), torch.arange(6)
    norms = class_conditioning.gradient_norms(model.denoiser, x, labels)
    assert sum(norm**2 for norm in norms.values()) == pytest.approx(1) and norms["class_maps"] > 0
    torch.nn.init.zeros_(model.denoiser.network.final_conv[2].weight)
    cut = class_conditioning.gradient_norms(model.denoiser, x, labels)
    assert cut["class_maps"] == 0 and cut["final_conv.2"] == pytest.approx(1)


def test_pictures():
    images = torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1)          # classes 0 1 2 3 0 1 2 3
    picture = class_rows(images, 4, 2)
    assert [[picture.getpixel((3 * x + 2, 3 * y + 2))[0] for x in range(2)]
            for y in range(4)] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1])
    found = torch.from_numpy(principal_components(points))
    torch.testing.assert_close(found[:, 0].std(), points[:, 1].double().std(), rtol=0.02, atol=0)
    assert abs(float(torch.corrcoef(found.T)[0, 1])) < 1e-6
    assert len(scatter([("a", found.numpy(),
                         None), ("b", found.numpy(), torch.arange(200) % 10, found.numpy())]).axes) == 2


def test_the_number_of_a_class_does_not_hide_it():
    """Ten classes, each no larger than a letter: no number covers the middle of any class, and each is in the colour of
    its own."""
    points = torch.cartesian_prod(torch.arange(5.0), torch.arange(2.0))
    labels = torch.arange(1000) % 10
    spread = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 0.02
    figure = scatter([("tight", (points[labels] + spread).numpy(), labels)])
    figure.draw_without_rendering()
    [axes] = figure.axes
    middles, [dots] = axes.transData.transform(points.numpy()), axes.collections
    assert [text.get_text() for text in axes.texts] == [str(label) for label in range(10)]
    for text in axes.texts:
        box = text.get_window_extent()
        assert not any(box.contains(*middle) for middle in middles)
        assert text.get_color() == tuple(dots.to_rgba(int(text.get_text())))


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    """The tour of all four tiny models, with fewer steps; and the words that it was called with."""
    folder, models = trained
    words = ["--dataset", "digits:400", "--cache_dir", str(folder / "cache"), "--num_samples", "20", "--num_threads",
             "1"]
    output = tmp_path_factory.mktemp("tour") / "tour.html"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CALLS": (2, 4), "SCALES": (1.0, 2.0), "EXACT_STEPS": 2, "NUM_LOOKED": 20,
                            "ERROR_SHARES": (0.1, 0.5, 0.9)}.items():
            patch.setattr(lessons, name, value)
        patch.setattr(denoiser_errors, "REFERENCE_STEPS", 3)
        patch.setattr("mnist.models.FLOW_STEPS", 2)
        patch.setattr("mnist.models.DDIM_STEPS", 2)
        patch.setattr("sys.argv", ["tour", *words, *(str(word) for name, path in models.items()
                                                     for word in (f"--{name}", path)), "--output", str(output)])
        tour.main()
    return output, words


def test_the_tour_shows_everything_and_asks_for_nothing(page):
    text = page[0].read_text()
    assert len(re.findall("<h2", text)) == 8 and len(text.encode()) < tour.MOST_BYTES and text.count("<pre>") == 8
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)               # nothing from outside


def test_the_tour_keeps_what_it_measured_of_solvers_and_beside_the_exact_denoiser(page):
    record = page[0].with_suffix(".json")
    found = json.loads(record.read_text())["exact"]
    errors = found["errors"]["digits it was trained on"]
    assert all(best < error for best, error in zip(errors["exact"], errors["network"], strict=True))
    [table] = digit_tables.tables_named("exact", record.parent, {})
    assert table.header[1:3] == ["network, digits it was trained on", "exact, digits it was trained on"]
    assert [row[2].value for row in table.rows] == errors["exact"] and table.rows[1][0].text == "50%"
    [table] = digit_tables.tables_named("memorising", record.parent, {})
    assert {row[0].text: row[1].value for row in table.rows} == found["distances"]
    solvers = json.loads(record.read_text())["solvers"]
    assert solvers["calls"] == [2, 4] and solvers["errors"].keys() == {"flow", "ddpm"}
    assert all(len(errors) == 2 and min(errors) > 0 for of_model in solvers["errors"].values()
               for errors in of_model.values())


def test_the_tour_in_a_browser(page, tmp_path):
    """At both widths no error, every picture there, nothing that scrolls sideways."""
    widths = (390, 1100)
    results, log = open_pages([(page[0].read_text(), width) for width in widths], tmp_path)
    assert "CONSOLE" not in log
    for width, result in zip(widths, results, strict=True):
        assert result["problems"] == [] and result["width"] == [width, width]
        assert len(result["images"]) >= 10 and all(side > 100 for size in result["images"] for side in size)


def test_the_tour_says_what_it_leaves_out(page, trained, place, tmp_path, capsys):
    place(tour, *page[1], "--vae", trained[1]["vae"], "--output", tmp_path / "part.html")
    assert "left out for want of a checkpoint: solvers" in capsys.readouterr().out
    with pytest.raises(InputError, match="--flow, --ddpm, --vae, --latent: found none"):
        place(tour, *page[1], "--output", tmp_path / "none.html")
    with pytest.raises(InputError, match="--vae"):
        place(tour, *page[1], "--latent", trained[1]["latent"], "--vae", trained[1]["flow"], "--output",
              tmp_path / "none.html")
