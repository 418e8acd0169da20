"""The demo's computing part, without gradio: what each family draws, what is counted, what is refused, what is
stopped."""
import threading

import numpy as np
import pytest
import torch

import families
from demo import found, generation, view
from demo.generation import (ALL_CLASSES, Cancelled, DistilledControls, FlowControls, LiftControls, MnistControls,
                             corners_of, draw, open_checkpoint, path_types)
from demo.guard import MOST_BYTES, Guard
from demo.job import Job
from demo.options import FAMILIES
from distill.generate import student_of
from distill.student import few_steps_of
from engine import files
from engine.denoiser import Guided
from engine.errors import InputError
from engine.sampling import sample, to_uint8
from lift import paths
from lift.sampling import check_timesteps, generate, uniform_diagonal
from networks.adm import EDMNetwork, config_of
from scheduler import LinearFlow
from tiny_shelf import shelf_folder


@pytest.fixture(scope="module")
def shelf():
    """Name of a checkpoint's file -> opened."""
    folder = shelf_folder()
    each, passed_over = found.find_checkpoints([folder / "checkpoints", folder / "experiments", folder / "absent"])
    assert len(passed_over) == 1 and "notes.pth" in passed_over[0]
    return {one.path.name.rsplit("_", 1)[0] if one.base != "mnist" else one.path.parents[1].name.split("-")[-1]:
            open_checkpoint(one, "ema", "cpu", [folder / "results"]) for one in each}


# --- what is found ----------------------------------------------------------------------------------------------------

def test_every_family_is_found_and_known(shelf):
    assert {name: opened.found.family for name, opened in shelf.items()} == {
        "baseline": "lift", "lift_dual_timestep": "lift", "tiny_flow": "flow", "student": "distilled", "plain": "mnist",
        "classes": "mnist"}
    assert shelf["student"].found.base == "lift" and set(FAMILIES) == set(generation.CONTROLS)
    assert [len(opened.class_names or []) for opened in shelf.values()] == [
        10 if name in ("tiny_flow", "classes") else 0 for name in shelf]


def test_only_paths_whose_maps_are_there_are_offered(shelf):
    assert path_types(shelf["baseline"]) == ["uniform", "lead"]
    offered = path_types(shelf["lift_dual_timestep"])
    assert {"drawn", "diagonal", "dp_64", "dp_total", "greedy_64", "lead_2"} <= set(offered)
    assert not {"dp_step", "dp_directional", "dp_diagonal"} & set(offered)
    one = shelf["lift_dual_timestep"].found
    without = open_checkpoint(one, "raw", "cpu", [one.path.parents[1] / "results"])         # the map is of ema weights
    assert without.heatmap is None and set(offered) - set(path_types(without)) == {
        "dp_64", "dp_total", "unconstrained_64", "unconstrained_total", "greedy_64", "greedy_total",
        "identity_64", "identity_total"}


def test_a_file_that_goes_is_told(shelf, tmp_path):
    one = found.Found(tmp_path / "gone.pth", "flow", "flow")
    with pytest.raises(InputError, match="gone.pth: no such checkpoint any more"):
        open_checkpoint(one, "ema", "cpu")
    with pytest.raises(InputError, match="--checkpoint: .*gone.pth is no file"):
        found.look_at(one.path)


# --- what is drawn ----------------------------------------------------------------------------------------------------

def test_lift_draws_both_scales_along_a_drawn_path(shelf):
    opened, steps = shelf["lift_dual_timestep"], []
    controls = LiftControls("drawn", "900,300 500,100", 5.0, "ddim", 2, 7)
    result = draw(opened, controls, lambda *step: steps.append(step))
    [walk] = result.walks
    assert steps == [(k, 5) for k in range(6)]
    assert (walk.num_model_calls, list(walk.images)) == (5, ["64×64", "32×32"]) and walk.seconds > 0
    expected = generate(opened.model.model, paths.path_through([(900, 300), (500, 100)], 5), 7, range(2))
    assert torch.equal(walk.images["64×64"], to_uint8(expected.x_64))
    assert torch.equal(walk.images["32×32"], to_uint8(expected.x_32))
    assert walk.strip["32×32"].shape == (6, 3, 32, 32) and torch.equal(walk.strip["64×64"][-1], walk.images["64×64"][0])
    assert walk.captions[0] == "999, 999" and walk.captions[-1] == "image"
    assert result.path.tolist()[0] == [999, 999] and "error along the path" in result.notes[-1]


def test_lift_draws_a_path_of_the_map_and_a_baseline(shelf):
    result = draw(shelf["lift_dual_timestep"], LiftControls("dp_total", num_steps=3, num_images=1))
    heatmap = shelf["lift_dual_timestep"].heatmap
    assert result.path.tolist() == paths.path_from_heatmap(heatmap, "dp_total", 3).tolist()
    result = draw(shelf["baseline"], LiftControls("uniform", num_steps=3, num_images=1))
    assert list(result.walks[0].images) == ["64×64"] and result.path is None and result.walks[0].captions[0] == "999"
    assert "no winner of a search" in draw(shelf["baseline"], LiftControls("lead", num_steps=2)).notes[0]


@pytest.mark.parametrize("solver, num_calls, interval, expected", [
    ("ddim", 4, (0, 1), 8), ("heun", 4, (0, 1), 8), ("midpoint", 2, (0, 1), 4), ("multistep", 4, (0.3, 0.6), 5)])
def test_flow_counts_its_calls(shelf, solver, num_calls, interval, expected):
    """A guided prediction is two calls; of the times 0, 0.25, 0.5, 0.75 one lies within 0.3...0.6."""
    opened = shelf["tiny_flow"]
    controls = FlowControls("3", 3.0, *interval, solver, num_calls, 2, 1)
    [walk] = draw(opened, controls).walks
    assert walk.num_model_calls == expected and walk.images["8×8"].shape == (2, 3, 8, 8)
    if interval == (0, 1):
        per_step = {"ddim": 1, "heun": 2, "midpoint": 2}[solver]
        samples = sample(Guided(opened.model.denoiser, 3.0), LinearFlow().uniform_path(num_calls // per_step), 1,
                         range(2), labels=torch.tensor([3, 3]), solver=solver, clip=False)
        assert torch.equal(walk.images["8×8"], to_uint8(samples.xs[0]))


def test_mnist_with_classes_and_without(shelf):
    [guided] = draw(shelf["classes"], MnistControls(ALL_CLASSES, 2.0, "midpoint", 2, 3, 0)).walks
    assert guided.images["28×28"].shape == (3, 1, 28, 28) and guided.num_model_calls == 8
    [plain] = draw(shelf["plain"], MnistControls(num_steps=3, num_images=2)).walks
    assert plain.num_model_calls == 3 and plain.strip["28×28"].shape == (4, 1, 28, 28)
    model = shelf["plain"].model
    assert torch.equal(plain.images["28×28"], model.drawing(model.path(3)).images(0, range(2)))


def test_a_student_stands_beside_its_teacher(shelf):
    opened, teacher, steps = shelf["student"], shelf["lift_dual_timestep"], []
    student, other = draw(opened, DistilledControls(teacher=teacher.found, teacher_steps=5, num_images=2),
                          lambda *step: steps.append(step)).walks
    assert (student.num_model_calls, other.num_model_calls) == (2, 5)
    assert [step for step, _ in steps] == [0, 1, 2, *range(2, 8)] and {total for _, total in steps} == {7}
    assert student.images["64×64"].shape == other.images["64×64"].shape == (2, 3, 64, 64)
    start, start_of_other = student.strip["64×64"][0], other.strip["64×64"][0]
    assert torch.equal(start, start_of_other)                                           # from the same noise
    along = generate(teacher.model.model, uniform_diagonal(5), 42, range(2))
    assert torch.equal(other.images["32×32"], to_uint8(along.x_32))
    assert len(draw(opened, DistilledControls(num_images=1)).walks) == 1


def test_a_student_of_edms_network_stands_beside_its_teacher(tmp_path):
    """From sigma 80 in one call, and the teacher from the same noise in four; a class of three."""
    torch.manual_seed(0)
    network = EDMNetwork(16, 16, (1, 2), 1, (), 3)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    state = network.state_dict()
    files.save_torch(tmp_path / "edm.pth", state)
    files.save_torch(tmp_path / "student_1ep.pth", {
        "family": "edm", "config": config_of(state, "edm.pth"), "few_steps": few_steps_of([[999]], [[999]], "free"),
        "epochs": 1,
        "model_state": state, "ema_state": {"shadow": state, "decay": 0.9}})
    [one], [passed_over] = found.find_checkpoints([tmp_path])
    assert (one.family, one.base) == ("distilled", "edm") and "edm that is no student" in passed_over
    opened = open_checkpoint(one, "ema", "cpu")
    teacher = found.Found(tmp_path / "edm.pth", "edm", "edm")
    student, other = draw(opened, DistilledControls(teacher=teacher, teacher_steps=4, class_name=opened.class_names[2],
                                                    num_images=2, seed=3)).walks
    assert (student.num_model_calls, other.num_model_calls) == (1, 4) and len(opened.class_names) == 3
    assert torch.equal(student.strip["16×16"][0], other.strip["16×16"][0])
    loaded = families.load(tmp_path / "student_1ep.pth")
    expected = sample(*student_of(loaded), 3, range(2), labels=torch.tensor([2, 2]), solver="renoise", clip=False)
    assert torch.equal(student.images["16×16"], to_uint8(expected.xs[0]))


# --- what is refused --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, controls, message", [
    ("lift_dual_timestep", LiftControls(num_steps=2.5), "steps: found '2.5', expected a whole number"),
    ("lift_dual_timestep", LiftControls(num_images=None), "images: found ''"),
    ("lift_dual_timestep", LiftControls(num_images=65), "images: found '65', .* at most 64"),
    ("lift_dual_timestep", LiftControls(seed=-1), "seed: found '-1'"),
    ("lift_dual_timestep", LiftControls("drawn", "900,300 950,100"), r"path: goes from \(900, 300\) to \(950, 100\)"),
    ("lift_dual_timestep", LiftControls("drawn", "900;300"), "corners: found '900', expected pairs"),
    ("lift_dual_timestep", LiftControls("drawn", "1000,3"), "path: found corners from 3 to 1000, expected"),
    ("lift_dual_timestep", LiftControls("dp_step"), "path: found 'dp_step', expected one of drawn"),
    ("lift_dual_timestep", LiftControls(None), "path: found 'None'"),
    ("lift_dual_timestep", LiftControls(solver="heun"), "solver: found 'heun', expected one of ddim, multistep"),
    ("baseline", LiftControls("drawn"), "path: found 'drawn', expected one of uniform"),
    ("tiny_flow", FlowControls(solver="heun", num_calls=7), "calls: found 7 with heun, which makes 2 a step"),
    ("tiny_flow", FlowControls(interval_low=0.7, interval_high=0.2), "--guidance_interval: found 0.7 0.2"),
    ("tiny_flow", FlowControls(interval_high=1.5), "guidance interval, to: found '1.5'"),
    ("tiny_flow", FlowControls("eleven"), "class: found 'eleven', expected one of"),
    ("plain", MnistControls("3"), "class: found '3', but .* is a model without classes"),
    ("plain", MnistControls(guidance_scale=2), "--guidance_scale: .* is a model without classes"),
    ("classes", MnistControls(guidance_scale="x"), "w: found 'x', expected a number"),
    ("student", DistilledControls(class_name="1"), "class: found '1', but")])
def test_bad_input_is_one_line_before_any_work(shelf, name, controls, message):
    with pytest.raises(InputError, match=message) as error:
        draw(shelf[name], controls, lambda *_: pytest.fail("work had begun"))
    assert "\n" not in str(error.value)


def test_a_teacher_must_fit(shelf):
    for teacher, message in (("baseline", "makes other images"), ("student", "is a student itself"),
                             ("tiny_flow", "makes other images")):
        with pytest.raises(InputError, match=f"teacher: .*{message}"):
            draw(shelf["student"], DistilledControls(teacher=shelf[teacher].found))
    with pytest.raises(InputError, match="teacher's guidance: found 3, but .* knows no prediction without a class"):
        draw(shelf["student"], DistilledControls(teacher=shelf["lift_dual_timestep"].found, guidance_scale=3))


# --- paths by hand ----------------------------------------------------------------------------------------------------

def test_a_path_through_corners_passes_them_evenly():
    path = check_timesteps(paths.path_through([(999, 500), (500, 500), (500, 0)], 10))
    total = 499 + 499 + 500 + 500
    assert path[0].tolist() == [999, 999] and path[-1].tolist() == [0, 0] and len(path) == 11
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(path, axis=0)).sum(1))])      # every leg is along one axis
    assert np.abs(along - np.linspace(0, total, 11)).max() <= 1.5  # a step ends at the next whole place
    assert np.abs(paths.path_through([], 18) - uniform_diagonal(18)).max() <= 1
    assert paths.path_through([(0, 0), (0, 0)], 999).tolist() == uniform_diagonal(999).tolist()
    with pytest.raises(InputError, match="--num_steps: found 1000, expected 1...999"):
        paths.path_through([], 1000)


def test_corners_are_pairs():
    assert corners_of(" 700,900; 200,100 ") == [(700, 900), (200, 100)] and corners_of(None) == []
    with pytest.raises(InputError, match="corners: found 201, expected at most 200"):
        corners_of("5,5 " * 201)


# --- jobs -------------------------------------------------------------------------------------------------------------

def test_a_job_tells_its_progress_and_hands_on_what_comes_of_it():
    gate = threading.Event()

    def work(report):
        for k in range(3):
            report(k, 3)
            gate.wait(10)
        return "picture"

    job = Job(work)
    events = job.progress()
    assert next(events) in ((0, 0), (0, 3))
    gate.set()
    assert list(events)[-1] == (2, 3) and job.result == "picture"
    failing = Job(lambda report: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(failing.progress())


def test_a_cancelled_job_stops_at_its_next_step_and_the_next_one_runs(shelf):
    taken, is_named = [], threading.Event()

    def work(report):
        is_named.wait()                         # the thread may run before the name `job` is bound

        def slow(step, num_steps):
            taken.append(step)
            if step == 2:
                job.cancel()
            report(step, num_steps)
        return draw(shelf["plain"], MnistControls(num_steps=50, num_images=1), slow)

    job = Job(work)
    is_named.set()
    with pytest.raises(Cancelled):
        list(job.progress())
    assert taken == [0, 1, 2] and job.result is None
    after = Job(lambda report: draw(shelf["plain"], MnistControls(num_steps=2, num_images=1), report))
    assert list(after.progress())[-1] == (2, 2) and len(after.result.walks) == 1


# --- what the page is told, and what it may ask -----------------------------------------------------------------------

def test_words_are_escaped_and_pictures_are_exact(shelf):
    import base64
    import io
    import re

    from PIL import Image
    result = draw(shelf["plain"], MnistControls(num_steps=2, num_images=2))
    result.walks[0].label = "<b>"
    result.notes.append("a < b")
    text = view.result_html(result)
    assert "<b>" not in text and "&lt;b&gt;" in text and "a &lt; b" in text and "2 network calls per image" in text
    first = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])))
    assert np.array_equal(np.asarray(first), result.walks[0].images["28×28"][0, 0].numpy())
    assert text.count("<img ") == 2 + 3
    assert view.line_html("<x>", True) == '<div class="error" role="alert">&lt;x&gt;</div>'
    assert 'value="1" max="3"' in view.progress_html(1, 3) and "value" not in view.progress_html(0, 0, "waiting")


def test_the_map_is_drawn_with_the_noise_at_the_top_left(shelf):
    import base64
    import io

    import matplotlib
    from PIL import Image
    heatmap = dict(shelf["lift_dual_timestep"].heatmap)
    heatmap["error_64"], heatmap["error_32"] = torch.full((5, 5), 0.5), torch.full((5, 5), 0.5)
    heatmap["error_64"][0, 4] = 99.5                                # t_64 = 999, t_32 = 0
    data = view.map_picture(heatmap).partition("base64,")[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    colors = matplotlib.colormaps["viridis"]
    assert picture.shape == (view.MAP_PIXELS, view.MAP_PIXELS, 3)
    for place, shade in (((0, -1), 1.0), ((0, 0), 0.0), ((-1, 0), 0.0), ((-1, -1), 0.0)):
        assert picture[place].tolist() == list(colors(shade, bytes=True)[:3])
    assert view.map_picture(None) == ""


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 0), ("GET", "/assets/index.js", 0), ("POST", "/gradio_api/queue/join", 0), ("GET", "/config", 0),
    ("GET", "/gradio_api/queue/data", 0), ("POST", "/gradio_api/cancel", 0), ("HEAD", "/", 0),
    ("POST", "/gradio_api/upload", 403), ("GET", "/gradio_api/file=/etc/passwd", 403), ("POST", "/upload", 403),
    ("GET", "/gradio_api/proxy=http://example.invalid", 403), ("POST", "/gradio_api/run/predict", 403),
    ("POST", "/gradio_api/vibe-edit", 403), ("GET", "/monitoring", 403), ("DELETE", "/", 403), ("PUT", "/", 403),
    ("POST", "/gradio_api/process_recording", 403), ("GET", "/gradio_api/run-history/records", 403)])
def test_the_guard_lets_through_what_the_page_needs(method, path, status):
    assert Guard(None).refusal(method, path, {})[0] == status


def test_the_guard_knows_hosts_and_sizes():
    guard = Guard(None, ("localhost", "127.0.0.1", "::1"))
    for host, status in ((b"localhost:7860", 0), (b"127.0.0.1", 0), (b"[::1]:7860", 0), (b"evil.example:7860", 403),
                         (b"", 403)):
        assert guard.refusal("GET", "/", {b"host": host.decode()})[0] == status
    for headers, status in (({b"content-length": str(MOST_BYTES)}, 0), ({b"content-length": str(MOST_BYTES + 1)}, 413),
                            ({b"content-length": "x"}, 413), ({b"transfer-encoding": "chunked"}, 413)):
        assert Guard(None).refusal("POST", "/gradio_api/cancel", headers)[0] == status
