"""FID, KID, precision and recall against closed forms, brute force and pytorch-fid itself."""
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine import devices
from engine import distributed
from evaluation import fid
from evaluation import reference_cache
from evaluation import scoring
from conftest import wait_until
from engine.errors import InputError
from engine.files import save_torch


def random_images(count, seed):
    """uint8 [count, 3, 64, 64]: coloured clouds, so that sets differ in mean and in spread."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((count, 3, 8, 8)).repeat(8, 2).repeat(8, 3)
    return np.clip(128 + 10 * seed + (30 + 5 * seed) * coarse + 20 * random.standard_normal((count, 3, 64, 64)),
                   0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def stand_in_weights(tmp_path_factory):
    """A file with random weights for pytorch_fid's own architecture, at the place where it looks for the real ones."""
    import pytorch_fid.inception                        # with torchvision, takes as long to load as torch
    import torchvision
    built = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torchvision.models.Inception3, "load_state_dict", lambda self, _: built.append(self))
        pytorch_fid.inception.fid_inception_v3()
    generator = torch.Generator().manual_seed(0)
    state = built[0].state_dict()
    for name, value in state.items():
        if value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("bn.bias"):
            value.normal_(0, 0.3, generator=generator)
    path = tmp_path_factory.mktemp("torch_home") / "hub" / "checkpoints" / fid.WEIGHTS_NAME
    save_torch(path, dict(state))
    return path


@pytest.fixture
def accept_stand_in(stand_in_weights, monkeypatch):
    """Let the stand-in weights pass for pytorch-fid's."""
    monkeypatch.setenv("TORCH_HOME", str(stand_in_weights.parents[2]))
    monkeypatch.setattr(fid, "WEIGHTS_SHA256", hashlib.sha256(stand_in_weights.read_bytes()).hexdigest()[:8])
    return stand_in_weights


@pytest.fixture(scope="session")
def inception(stand_in_weights):
    return fid.load_inception(stand_in_weights)


def statistics_of(features):
    return fid.FeatureStatistics(features.shape[1]).add(torch.as_tensor(features))


# Fréchet distance

def random_covariance(size, seed, rank=None):
    factor = (np.random.default_rng(seed).standard_normal((size, rank or 2 * size))
              * np.geomspace(1, 0.01, size)[:, None])
    return factor @ factor.T / size


def test_frechet_distance_of_diagonal_gaussians():
    mean_a, mean_b = np.zeros(5), np.array([1.0, 0, 0, 2, 0])
    deviation_a, deviation_b = np.array([1.0, 2, 3, 4, 0]), np.array([2.0, 2, 1, 0, 0])
    expected = 5 + ((deviation_a - deviation_b) ** 2).sum()
    found = fid.frechet_distance(mean_a, np.diag(deviation_a**2), mean_b, np.diag(deviation_b**2))
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_commuting_rotated_gaussians():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    a, b = np.arange(1.0, 7), np.array([3.0, 1, 4, 1, 5, 9])
    found = fid.frechet_distance(np.zeros(6), rotation * a @ rotation.T, np.zeros(6), rotation * b @ rotation.T)
    assert found == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


def test_frechet_distance_is_zero_for_equal_and_symmetric():
    a, b, mean = random_covariance(40, 0), random_covariance(40, 1), np.ones(40)
    assert fid.frechet_distance(mean, a, mean, a) == pytest.approx(0, abs=1e-10)
    assert fid.frechet_distance(mean, a, 0 * mean, b) == pytest.approx(fid.frechet_distance(0 * mean, b, mean, a))
    assert fid.frechet_distance(mean, 0 * a, mean, 0 * a) == 0


@pytest.mark.parametrize("rank", [None, 39, 5, 1])
def test_square_root_of_regular_and_singular_covariances(rank):
    covariance = torch.from_numpy(random_covariance(40, 0, rank))
    root = fid.square_root(covariance)
    assert root.shape == (40, rank or 40)
    assert torch.allclose(root @ root.T, covariance, atol=1e-13)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize("size, rank_a, rank_b", [(200, None, None), (200, 60, None), (200, None, 60), (200, 60, 45),
                                                  (3, None, None)])
def test_frechet_distance_agrees_with_pytorch_fid(size, rank_a, rank_b):
    from pytorch_fid.fid_score import calculate_frechet_distance
    a, b = random_covariance(size, 0, rank_a), 1.7 * random_covariance(size, 1, rank_b)
    mean_a, mean_b = np.random.default_rng(2).standard_normal((2, size))
    expected = calculate_frechet_distance(mean_a, a, mean_b, b)
    assert fid.frechet_distance(mean_a, a, mean_b, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_few_images_is_exact():
    """With fewer images than features, tr (C_a C_b)^(1/2) is the nuclear norm of the small matrix of products."""
    random = np.random.default_rng(3)
    a, b = random.standard_normal((30, 120)), 2 * random.standard_normal((20, 120)) + 1
    centred_a, centred_b = (x - x.mean(0) for x in (a, b))
    trace = np.linalg.svd(centred_a @ centred_b.T / np.sqrt(29 * 19), compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum() - 2 * trace
    assert fid.fid(statistics_of(a), statistics_of(b)) == pytest.approx(expected, rel=1e-8)


# Statistics

def test_statistics_are_mean_and_covariance_however_they_are_divided():
    features = np.random.default_rng(0).standard_normal((101, 20)).astype(np.float32) + 3
    whole = statistics_of(features)
    parts = [statistics_of(features[:1]), statistics_of(features[1:60]), statistics_of(features[60:])]
    others = [iter([torch.tensor(float(part.count)), part.sum, part.outer]) for part in parts[1:]]
    of_three = SimpleNamespace(size=3, sum=lambda values: values.add_(sum(next(other) for other in others)))
    merged = parts[0].sum_over(of_three)
    for statistics in (whole, merged, fid.FeatureStatistics.from_state(whole.state())):
        mean, covariance = statistics.mean_and_covariance()
        assert statistics.count == 101
        assert np.allclose(mean, features.astype(np.float64).mean(0), rtol=1e-13)
        assert np.allclose(covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-12)


def test_statistics_of_one_image_have_no_covariance():
    with pytest.raises(InputError, match="found 1 images, expected at least 2"):
        statistics_of(np.zeros((1, 4))).mean_and_covariance()


def test_few_images_are_said_loudly(capsys):
    assert fid.warning_for_few(2048, "generated") is None
    assert "FID with 2047 generated images, fewer than 2048" in fid.warning_for_few(2047, "generated")
    assert fid.warning_for_few(1280, "scored", "fd_lite0") is None
    assert "fd_lite0 with 1279 scored images, fewer than 1280" in fid.warning_for_few(1279, "scored", "fd_lite0")
    scoring.warn_of_few(["swd"], {"drawn": 5})
    assert capsys.readouterr().out == ""
    scoring.warn_of_few(["swd", "fid"], {"drawn": 2047, "real": 3000})
    said = capsys.readouterr().out
    assert said.startswith("WARNING: FID with 2047 drawn images") and said.count("WARNING") == 1


# Inception

def test_features_do_not_depend_on_the_batch(inception):
    images = torch.from_numpy(random_images(3, 1))
    together = inception.features(images)
    assert together.shape == (3, 2048) and together.dtype == torch.float32
    alone = torch.cat(list(fid.features_of(images.numpy(), inception, batch_size=2)))
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01


def run_pytorch_fid(stand_in_weights, *arguments):
    """`python -m pytorch_fid` on a CPU with the stand-in weights -> what it printed."""
    done = subprocess.run([sys.executable, "-m", "pytorch_fid", "--device", "cpu", "--num-workers", "0",
                           "--dims", "2048",
                           *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "TORCH_HOME": str(stand_in_weights.parents[2]), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_folder(folder, images):
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{k:03d}.png")
    return folder


def statistics_of_images(images, inception):
    statistics = fid.FeatureStatistics()
    for features in fid.features_of(images, inception):
        statistics.add(features)
    return statistics


def test_statistics_equal_those_of_pytorch_fid(inception, stand_in_weights, tmp_path, monkeypatch):
    """The same images as PNG files in a flat folder through what `python -m pytorch_fid --save-stats` calls."""
    from pytorch_fid.fid_score import save_fid_stats
    images = random_images(6, 0)
    monkeypatch.setenv("TORCH_HOME", str(stand_in_weights.parents[2]))
    save_fid_stats([str(write_folder(tmp_path / "images", images)), str(tmp_path / "stats.npz")], 6, "cpu", 2048, 0)
    mean, covariance = (v.numpy() for v in statistics_of_images(images, inception).mean_and_covariance())
    with np.load(tmp_path / "stats.npz") as theirs:
        assert np.abs(theirs["mu"]).max() > 0.1 and np.abs(theirs["sigma"]).max() > 0.001
        assert np.abs(mean - theirs["mu"]).max() < 1e-7 * np.abs(theirs["mu"]).max()
        assert np.abs(covariance - theirs["sigma"]).max() < 1e-9 * np.abs(theirs["sigma"]).max()


def test_exact_float32_sets_and_restores():
    def settings():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    before = settings()
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        with pytest.raises(ZeroDivisionError), devices.exact_float32():
            assert settings() == ("highest", False)
            1 / 0
        assert settings() == ("high", True)
        assert devices.exact_float32()(settings)() == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.gpu
def test_fid_on_a_gpu_agrees_with_the_cpu(inception, stand_in_weights):
    values = [fid.fid(*(statistics_of_images(random_images(64, seed), network) for seed in (0, 1)))
              for network in (inception, fid.load_inception(stand_in_weights, "cuda"))]
    assert values[1] == pytest.approx(values[0], rel=1e-3) and values[0] > 0


@pytest.mark.gpu
def test_scores_of_images_still_being_made_on_a_gpu_agree_with_the_cpu(inception, stand_in_weights):
    values = []
    references = SimpleNamespace(statistics=statistics_of_images(random_images(32, 1), inception))
    for device, network in (("cpu", inception), ("cuda", fid.load_inception(stand_in_weights, "cuda"))):
        scorer = scoring.Scorer(["fid"], SimpleNamespace(inception=network, tiny=None), torch.device(device))
        images = torch.from_numpy(random_images(32, 0)).to(device)
        for indices in torch.arange(32).split(10):
            made = torch.zeros(len(indices), 3, 64, 64, dtype=torch.uint8, device=device)
            if device == "cuda":                # the copy, within the device, comes late: the host does not wait for it
                torch.cuda._sleep(100_000_000)
            scorer.take(indices.tolist(), made.copy_(images[int(indices[0]):int(indices[-1]) + 1]))
        values.append(scorer.scores(32, references, distributed.Group(0, 1))["fid"][0])
    assert values[1] == pytest.approx(values[0], rel=1e-3) and values[0] > 0


def test_a_score_of_fewer_images_than_stated_is_none():
    scorer = scoring.Scorer(["swd"], SimpleNamespace(extractors={}), torch.device("cpu"))
    scorer.take([0, 1], torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="took in 2 images, expected 3"):
        scorer.scores(3, None, distributed.Group(0, 1))


@pytest.mark.slow                   # the root of a 2048 x 2048 matrix takes pytorch-fid a minute on a busy CPU
def test_fid_equals_pytorch_fid(inception, stand_in_weights, tmp_path):
    """The same images as PNG files in flat folders through `python -m pytorch_fid`, 2048 dimensions."""
    generated, real = random_images(24, 0), random_images(30, 1)
    printed = run_pytorch_fid(stand_in_weights, write_folder(tmp_path / "generated", generated),
                              write_folder(tmp_path / "real", real))
    theirs = float(printed.rsplit("FID:", 1)[1])
    ours = fid.fid(statistics_of_images(generated, inception), statistics_of_images(real, inception))
    assert ours > 0.1
    assert ours == pytest.approx(theirs, rel=1e-6, abs=0)


# Weights

def test_weights_are_found_in_the_hub_cache(accept_stand_in):
    import pytorch_fid.inception
    assert fid.find_weights() == accept_stand_in
    assert fid.find_weights(accept_stand_in) == accept_stand_in
    assert fid.WEIGHTS_NAME == "pt_inception-2015-12-05-6726825d.pth"
    assert fid.WEIGHTS_URL == pytorch_fid.inception.FID_WEIGHTS_URL


def test_weights_with_another_hash_are_refused(stand_in_weights, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(stand_in_weights.parents[2]))
    for file in (None, stand_in_weights):
        with pytest.raises(InputError, match="SHA-256 begins with .*, expected 6726825d"):
            fid.find_weights(file)


def test_missing_weights_say_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(fid, "WEIGHTS_URL", "http://localhost:9/" + fid.WEIGHTS_NAME)      # nobody listens there
    with pytest.raises(fid.WeightsMissing) as caught:
        fid.find_weights()
    message = str(caught.value)
    assert fid.WEIGHTS_NAME in message and str(tmp_path / "hub" / "checkpoints") in message and "\n" not in message
    assert "--inception" in message
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []
    with pytest.raises(InputError, match="--inception: found no file"):
        fid.find_weights(tmp_path / "none.pth")


def test_weights_are_downloaded_and_checked(stand_in_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(fid, "WEIGHTS_URL", stand_in_weights.as_uri())
    with pytest.raises(fid.WeightsMissing, match="hash"):
        fid.find_weights()
    monkeypatch.setattr(fid, "WEIGHTS_SHA256", hashlib.sha256(stand_in_weights.read_bytes()).hexdigest()[:8])
    assert fid.find_weights().read_bytes() == stand_in_weights.read_bytes()


def test_foreign_and_pickled_weights_are_refused(tmp_path):
    save_torch(tmp_path / "foreign.pth", {"weight": torch.zeros(3)})
    with pytest.raises(InputError, match="does not hold the weights"):
        fid.load_inception(tmp_path / "foreign.pth")
    torch.save({"x": SimpleNamespace()}, tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="pickled object"):
        fid.load_inception(tmp_path / "pickled.pth")


# KID

def test_mmd_in_one_dimension_is_a_distance_of_moments():
    """(xy + 1)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3, so with all pairs MMD^2 compares the first three moments."""
    a, b = np.random.default_rng(0).standard_normal((2, 7))
    kernel = (np.multiply.outer(np.r_[a, b], np.r_[a, b]) + 1) ** 3
    off = ~np.eye(7, dtype=bool)
    expected = kernel[:7, :7][off].mean() + kernel[7:, 7:][off].mean() - 2 * kernel[:7, 7:].mean()
    found = fid.squared_mmd(torch.from_numpy(a)[:, None], torch.from_numpy(b)[:, None])
    assert found == pytest.approx(expected, rel=1e-12)
    moments = sum(weight * (np.mean(a**p) - np.mean(b**p)) ** 2 for weight, p in ((3, 1), (3, 2), (1, 3)))
    diagonals = sum((np.mean(np.diag(k)) - k.mean()) / 6 for k in (kernel[:7, :7], kernel[7:, 7:]))
    assert found == pytest.approx(moments - diagonals, rel=1e-9)


def test_kid_is_unbiased_and_its_standard_error_is_right():
    random = np.random.default_rng(1)
    draws = [fid.kid(*(torch.from_numpy(random.standard_normal((n, 8))) for n in (100, 150))) for _ in range(200)]
    values, errors = np.array(draws).T
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(200)
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.25)


def test_kid_of_shifted_gaussians():
    """x ~ N(m, I), y ~ N(0, I) in D dimensions: E (x.y/D + 1)^3 in closed form by the moments of a Gaussian."""
    size, count = 4, 20_000
    random = np.random.default_rng(2)
    shift = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    a, b = (torch.from_numpy(random.standard_normal((count, size))) for _ in range(2))
    value, standard_error = fid.kid(a + shift, b)

    def expected_kernel(m, n):          # E (x.y/D + 1)^3 for independent x ~ N(m, I), y ~ N(n, I)
        dot, mm, nn, d = m @ n, m @ m, n @ n, size
        second = d + mm + nn + dot**2
        third = dot**3 + 3 * dot * (mm + nn + d) + 6 * dot
        return 1 + 3 * dot / d + 3 * second / d**2 + third / d**3

    zero = torch.zeros_like(shift)
    expected = expected_kernel(shift, shift) + expected_kernel(zero, zero) - 2 * expected_kernel(shift, zero)
    assert abs(value - float(expected)) < 4 * standard_error < 0.1 * float(expected)


def test_kid_of_few_images():
    a = torch.randn(3, 5)
    assert fid.kid(a, torch.randn(9, 5))[1] is None
    with pytest.raises(InputError, match="found 1 images"):
        fid.kid(a[:1], a)


# Precision and recall

def test_precision_and_recall_of_equal_and_of_distant_sets():
    a = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    assert fid.precision_recall(a, a) == (1.0, 1.0)
    assert fid.precision_recall(a, a + 100) == (0.0, 0.0)


def test_precision_sees_quality_and_recall_sees_coverage():
    random = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    real = centres.repeat_interleave(200, 0) + torch.randn(400, 2, generator=random)
    one_mode = torch.randn(400, 2, generator=random)
    precision, recall = fid.precision_recall(one_mode, real)
    assert precision > 0.9 and recall == pytest.approx(0.5, abs=0.06)
    precision, recall = fid.precision_recall(real, one_mode)
    assert precision == pytest.approx(0.5, abs=0.06) and recall > 0.9


def test_precision_and_recall_on_a_line_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])              # 1st neighbours at 1, 1, 1 and 8
    generated = torch.tensor([[-0.5], [2.5], [3.5], [30.0]])        # 1st neighbours at 3, 1, 1 and 26.5
    assert fid.precision_recall(generated, real, num_neighbours=1) == (3 / 4, 4 / 4)
    assert fid.precision_recall(real, generated, num_neighbours=1) == (4 / 4, 3 / 4)


def test_precision_and_recall_agree_with_brute_force(monkeypatch):
    monkeypatch.setattr(fid, "ROWS_PER_CHUNK", 7)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((30, 4)), random.standard_normal((30, 4)) + 0.7

    def share(points, features):
        radii = [sorted(np.linalg.norm(f - features, axis=1))[3] for f in features]         # [0] is the point itself
        return np.mean([any(np.linalg.norm(p - f) <= r for f, r in zip(features, radii)) for p in points])

    found = fid.precision_recall(torch.from_numpy(a), torch.from_numpy(b))
    assert found == (pytest.approx(share(a, b)), pytest.approx(share(b, a)))


def test_precision_and_recall_use_equal_numbers():
    a, b = torch.randn(50, 3), torch.randn(400, 3)
    random = np.sort(np.random.default_rng(0).choice(400, 50, replace=False))
    assert fid.precision_recall(a, b) == fid.precision_recall(a, b[torch.from_numpy(random)])
    with pytest.raises(InputError, match="found 3 images"):
        fid.precision_recall(a[:3], b)


# Reference cache

def image_set(seed=1, count=6, **changes):
    images = random_images(count, seed)
    return SimpleNamespace(**{"images": images, "dataset": "pets", "split": "train", "labels": None,
                              "content_hash": hashlib.sha256(images.tobytes()).hexdigest()[:16], **changes})


def test_reference_is_computed_once_and_by_content(inception, tmp_path, monkeypatch):
    first = fid.reference_statistics(image_set(), inception, tmp_path)
    monkeypatch.setattr(fid.Inception, "features", lambda *_: pytest.fail("computed again"))
    again = fid.reference_statistics(image_set(dataset="other name"), inception, tmp_path)
    assert again.count == 6 and torch.equal(again.outer, first.outer)
    with pytest.raises(pytest.fail.Exception):
        fid.reference_statistics(image_set(seed=2), inception, tmp_path)
    with pytest.raises(pytest.fail.Exception):
        fid.reference_statistics(image_set(), fid.Inception(inception.network, "other weights"), tmp_path)


def test_statistics_from_features_are_the_same(inception, tmp_path):
    direct = fid.reference_statistics(image_set(), inception, tmp_path / "a")
    by_features = fid.reference_statistics(image_set(), inception, tmp_path / "b", from_features=True)
    assert torch.allclose(direct.outer, by_features.outer, rtol=1e-12)
    assert fid.reference_features(image_set(), inception, tmp_path / "b").shape == (6, 2048)


def test_another_data_sets_reference_is_refused_and_a_damaged_one_made_again(tmp_path, capsys):
    pets, cars = image_set(1), image_set(2)
    compute = lambda: {"value": 1}                          # noqa: E731
    reference_cache.load_or_compute(tmp_path, cars, "swd", "", compute)
    name = lambda images: reference_cache.cache_path(tmp_path, "swd", images.content_hash, "")      # noqa: E731
    name(cars).rename(name(pets))
    with pytest.raises(InputError, match=f"content_hash '{cars.content_hash}', expected '{pets.content_hash}'"):
        reference_cache.load_or_compute(tmp_path, pets, "swd", "", compute)
    name(pets).write_bytes(name(pets).read_bytes()[:100])
    assert reference_cache.load_or_compute(tmp_path, pets, "swd", "", compute) == {"value": 1}
    assert "computed again" in capsys.readouterr().out


def slow_reference(folder, log, seconds):
    def compute():
        with open(log, "a") as file:
            file.write("computed\n")
        time.sleep(seconds)
        return {"value": 3}
    assert reference_cache.load_or_compute(folder, image_set(), "swd", "", compute) == {"value": 3}


@pytest.mark.parametrize("first_dies", [False, True])
def test_second_process_waits_and_survives_the_first(tmp_path, first_dies):
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    first = context.Process(target=slow_reference, args=(tmp_path, log, 60 if first_dies else 1))
    first.start()
    wait_until(lambda: log.exists() and log.read_text())
    second = context.Process(target=slow_reference, args=(tmp_path, log, 0))
    second.start()
    time.sleep(0.3)
    assert second.is_alive() and log.read_text() == "computed\n"
    if first_dies:
        os.kill(first.pid, signal.SIGKILL)
    second.join(20)
    first.join(20)
    assert second.exitcode == 0
    assert log.read_text() == "computed\n" * (2 if first_dies else 1)
    assert reference_cache.load_or_compute(tmp_path, image_set(), "swd", "", dict) == {"value": 3}
