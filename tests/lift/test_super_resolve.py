"""Super-resolution and denoising steps: what is held stays held, quality measures in closed form, the command."""
import csv
import json
import math

import numpy as np
import pytest
import torch

from lift import measurements, super_resolution
from lift.coupling import NOISIEST_SHAPES
from lift import sampling
from lift.options import SOLVERS
from lift import super_resolve
from conftest import write_tiny_checkpoints
from engine.errors import InputError
from engine.sampling import from_uint8, start_noise, to_uint8
from scheduler import CosineSteps, predict_eps

SCHEDULE = CosineSteps()


class KnowsTheImage(torch.nn.Module):
    """A denoiser that knows x_0 at both scales and predicts exactly the noise that is left; it notes its inputs."""

    def __init__(self, x_0_64, x_0_32=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.model_type = "baseline" if x_0_32 is None else "lift"
        self.clean = (x_0_64, x_0_32)[:1 if x_0_32 is None else 2]
        self.seen = []

    def forward(self, *inputs):
        x, t = inputs[:len(self.clean)], inputs[len(self.clean):]
        self.seen.append((x, t))
        eps = [predict_eps(x_s, x_0, SCHEDULE.alpha_cumprod(t_s)) for x_s, x_0, t_s in zip(x, self.clean, t)]
        return tuple(eps) if len(eps) > 1 else eps[0]


@pytest.fixture
def images():
    """uint8 [3, 3, 64, 64]."""
    return np.random.RandomState(0).randint(0, 256, (3, 3, 64, 64)).astype(np.uint8)


def test_half_size_is_the_rounded_mean_of_four():
    image = np.zeros((1, 3, 64, 64), np.uint8)
    image[0, 0, :2, :2] = [[10, 20], [30, 41]]                  # 25.25
    image[0, 1, 62:, 62:] = [[255, 255], [255, 254]]            # 254.75
    half = super_resolution.half_size(image)
    assert half.shape == (1, 3, 32, 32) and half.dtype == np.uint8
    assert half[0, 0, 0, 0] == 25 and half[0, 1, 31, 31] == 255 and half.astype(int).sum() == 280


def test_bicubic_keeps_constants_and_ramps():
    flat = np.full((1, 3, 32, 32), 77, np.uint8)
    assert (super_resolution.bicubic_double_size(flat) == 77).all()
    ramp = np.broadcast_to(4 * np.arange(32, dtype=np.uint8), (1, 3, 32, 32))
    large = super_resolution.bicubic_double_size(ramp)
    expected = 4 * ((np.arange(64) + 0.5) / 2 - 0.5)            # pixel centres: 1, 3, 5, ...
    assert np.abs(large[0, :, :, 6:-6] - expected[6:-6]).max() <= 0.5


def test_psnr_of_a_known_difference(images):
    truth = images // 2
    assert super_resolution.psnr(truth, truth + 10).tolist() == pytest.approx([20 * math.log10(25.5)] * 3)
    assert super_resolution.psnr(truth, truth).tolist() == [math.inf] * 3


def test_psnr_of_bicubic_on_a_checkerboard_of_pixels():
    truth = np.zeros((1, 3, 64, 64), np.uint8)
    truth[..., ::2, ::2] = truth[..., 1::2, 1::2] = 200         # every 2x2 block has mean 100
    given = super_resolution.half_size(truth)
    assert (given == 100).all()
    assert super_resolution.psnr(truth, super_resolution.bicubic_double_size(given))[0] == pytest.approx(
        20 * math.log10(255 / 100))


def test_ssim_in_closed_form(images):
    assert super_resolution.ssim(images, images).tolist() == pytest.approx([1] * 3)
    a, b, c_1 = 100, 140, (0.01 * 255)**2
    flat = [np.full((1, 3, 64, 64), value, np.uint8) for value in (a, b)]
    assert super_resolution.ssim(*flat)[0] == pytest.approx((2 * a * b + c_1) / (a**2 + b**2 + c_1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_x_32_is_held_clean_while_x_64_is_found(images, solver):
    given = super_resolution.half_size(images)
    x_32 = from_uint8(torch.from_numpy(given))
    model = KnowsTheImage(from_uint8(torch.from_numpy(images)), x_32)
    result = super_resolution.super_resolve(model, given, 7, 42, range(3), solver=solver)
    assert np.abs(result.astype(int) - images).max() <= 1       # float32 at the edge of two grey values
    assert len(model.seen) == 7
    assert [int(t[0][0]) for _, t in model.seen] == sampling.uniform_diagonal(7)[:-1, 0].tolist()
    for x, t in model.seen:
        assert torch.equal(x[1], x_32) and t[1].tolist() == [0, 0, 0]


def test_the_path_is_one_that_generate_takes():
    path = sampling.check_timesteps(super_resolution.held_clean_path(18))
    assert path[0].tolist() == [999, 0] and path[-1].tolist() == [0, 0] and not path[:, 1].any()


# --- denoising steps ------------------------------------------------------------------------------------------------

def test_denoising_steps_show_states_and_predictions(images):
    x_0_64 = from_uint8(torch.from_numpy(images[:1]))
    x_0_32 = from_uint8(torch.from_numpy(super_resolution.half_size(images[:1])))
    model = KnowsTheImage(x_0_64, x_0_32)
    path = np.array([[999, 999], [600, 300], [300, 0], [0, 0]])
    rows = sampling.denoising_steps(model, path, 42, 5)
    assert list(rows) == ["x_64", "x_0 at 64", "x_32", "x_0 at 32"] and all(len(row) == 4 for row in rows.values())
    x_64, x_32 = start_noise(NOISIEST_SHAPES, 42, [5])
    assert np.array_equal(rows["x_64"][0], to_uint8(x_64)[0]) and np.array_equal(rows["x_32"][0], to_uint8(x_32)[0])
    for scale, clean in (("64", x_0_64), ("32", x_0_32)):
        target = to_uint8(clean)[0].numpy().astype(int)
        assert rows[f"x_0 at {scale}"][3] is None
        for image in (*rows[f"x_0 at {scale}"][:3], rows[f"x_{scale}"][3]):
            assert np.abs(image - target).max() <= 1
    assert np.array_equal(rows["x_32"][2], rows["x_32"][3])     # it had arrived
    assert not model._forward_hooks                             # the model is left as it was


def test_denoising_steps_of_the_baseline(images):
    model = KnowsTheImage(from_uint8(torch.from_numpy(images[:1])))
    rows = sampling.denoising_steps(model, sampling.uniform_diagonal(3), 42, 0)
    assert list(rows) == ["x_64", "x_0 at 64"] and [len(row) for row in rows.values()] == [4, 4]


# --- the command ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of tiny random models."""
    return write_tiny_checkpoints(tmp_path_factory.mktemp("super_resolve"))


def run(folder, output, *more):
    super_resolve.main(["--checkpoint", str(folder / "lift_dual_timestep_1ep.pth"), "--dataset", "synthetic:40",
                        "--num_images", "4", "--num_steps", "2", "--num_shown", "2", "--cache_dir",
                        str(folder / "cache"), "--device", "cpu", "--precision", "float32", "--num_threads", "1",
                        "--output", str(output), *more])


def test_command_writes_table_grid_and_record(folder, tmp_path):
    run(folder, tmp_path / "sr", "--batch_size", "4")
    with open(tmp_path / "sr.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["bicubic", "LIFT", "LIFT, reconciled"]
    consistency = {row["method"]: float(row["consistency"]) for row in rows}
    assert consistency["LIFT, reconciled"] > consistency["LIFT"] + 3        # its coarse part is the image given
    assert float(rows[0]["psnr"]) > float(rows[1]["psnr"])      # random weights know nothing
    record = json.loads((tmp_path / "sr.json").read_text())
    for row in rows:
        values = record["per_image"][row["method"]]["psnr"]
        assert len(values) == 4
        mean, standard_error = measurements.mean_and_standard_error(values)
        assert (float(row["psnr"]), float(row["psnr_standard_error"])) == pytest.approx((mean, standard_error))
    assert (tmp_path / "sr.png").read_bytes().startswith(b"\x89PNG")
    run(folder, tmp_path / "again", "--batch_size", "3")        # per-image seeds: the batch size changes nothing
    again = json.loads((tmp_path / "again.json").read_text())["per_image"]["LIFT"]["psnr"]
    assert again == pytest.approx(record["per_image"]["LIFT"]["psnr"], abs=1e-2)


@pytest.mark.parametrize("more, words", [
    (["--num_images", "50"], "--num_images: found 50"), (["--num_steps", "1000"], "--num_steps: found 1000"),
    (["--checkpoint", "BASELINE"], "is a baseline checkpoint")])
def test_wrong_input_leaves_no_output(more, words, folder, tmp_path):
    with pytest.raises(InputError) as caught:
        run(folder, tmp_path / "sr", *(str(folder / "baseline_1ep.pth") if word == "BASELINE" else word
                                       for word in more))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_earlier_output_is_kept_unless_told_otherwise(folder, tmp_path):
    (tmp_path / "sr.png").write_text("earlier")
    with pytest.raises(InputError, match="--overwrite"):
        run(folder, tmp_path / "sr")
    assert [path.name for path in tmp_path.iterdir()] == ["sr.png"]
