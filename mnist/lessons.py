"""The sections of the tour: figures and measurements of trained models. Compared images have the same start noise."""
import csv
from pathlib import Path

import numpy as np
import torch

from engine.files import save_png
from engine.options import CALLS_PER_STEP
from engine.sampling import denoise_along, from_uint8, start_noise, to_uint8
from evaluation.digit_scores import SCORES, damages
from evaluation.figures import figure, loss_curves, plain_log_axis, style_of_curve
from evaluation.page import Section
from evaluation.tables import Cell, Table
from mnist.models import (DDIM_START, Model, cropped, decoded_noise, load_model, load_vae, padded, reconstructed)
from mnist.options import SOLVERS, judge_of
from evaluation.small_images import class_rows, grid, principal_components, scatter
from networks.exact_denoiser import ExactDenoiser, nearest_distances
from scheduler import CLEAN, CosineSteps, noise_added

CALLS = (4, 8, 16, 32, 64)
REFERENCE_STEPS = 200
SHARES = (0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1)
ERROR_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
NUM_LOOKED = 200        # images that errors and distances are of
FLOW_STEPS, DIFFUSION_STEPS, EXACT_STEPS = 10, 50, 40   # of samples; a flow's strip has twice as many
MIDPOINT = {"solver": "midpoint"}


# Section -> heading, text, line of code. A number in braces is filled in.
TEXTS = {
    "forward": ("From a digit to noise", """
        Training data are made by ruining images: a digit and noise are mixed, a x_0 + s eps, from all digit
        at the left to all noise at the right. DDPM keeps a² + s² = 1; the flow goes a straight line, a + s
        = 1. The same digit and the same noise are mixed in both rows.""",
        "x_t = noise_added(x_0, eps, *process.levels(t))"),
    "learning": ("What is learned", """
        The network sees the mixture and the time, and answers with what is asked of it: the noise (DDPM),
        or the direction from noise to image (flow). Its squared error is all that is minimised. The losses
        of different models measure different things: compare shapes, not heights.""",
        "loss = (network(x_t, t, labels) - training_target(kind, x_0, eps, a, s)).square().mean()"),
    "backward": ("From noise to a digit", """
        Sampling goes back: the network predicts the clean image, the sampler takes a small step towards it,
        and asks again. Coarse shape is decided first, strokes last.""",
        'shown, strip = model.strip(model.path(20), seed, range(3), labels, solver="midpoint")'),
    "solvers": ("How many calls?", """
        A sampler follows a curve; a better one needs fewer questions to the network for the same error. All
        start from the same noise and are compared with where 200 steps of midpoint end. Midpoint and Heun
        ask twice a step, so that they make half as many steps.""",
        "denoise_along(denoiser, doubling_path(model, calls // calls_per_step), starts, solver=solver)"),
    "guidance": ("Asking for a class", """
        One network knows each class and none. Going on past the class, away from none, makes digits clearer
        and more alike: accuracy rises, diversity falls.""",
        "x_0 = unconditional + w * (conditional - unconditional)"),
    "latents": ("A smaller space", """
        The autoencoder squeezes {} pixels into {} numbers. A straight line between two codes passes through
        shapes that are hardly digits, and so does random noise when it is decoded: most of the space is
        empty. The latent model learns where it is not, at a fraction of the cost of pixels.""",
        "vae.decode(torch.lerp(vae.encode(first), vae.encode(second), share))"),
    "exact": ("The exact answer", """
        For {} training digits the best possible answer can be written down: the average of all digits, each
        weighted by how well it explains the noised image. Nothing beats it on the training digits. But
        sampling with it only draws these again. Look at test digits near the image: there a network that has
        learned what digits are like is ahead of the exact answer, which knows a list.""",
        "x_0 = softmax(-|x_t - a * digits|² / (2 s²)) @ digits"),
    "scored": ("Are they digits?", """
        A small classifier looks. Accuracy: is it the digit asked for? fd_digits: do its features spread as
        those of real digits do, in percent of their variance? Diversity: do images of one class differ as
        real ones do? A score is worth something only if damage moves it, so damaged digits stand below.""",
        "judge.scores(images, labels)"),
}


def rows_of_images(rows: dict, titles=()):
    """A Figure with a row per label. rows: label -> uint8 [n, C, H, W]; titles: over the columns of the first row."""
    count = max(len(images) for images in rows.values())
    fig, axes = figure(1.3 + 0.62 * count, 0.72 * len(rows) + 0.35 * bool(len(titles)), nrows=len(rows), squeeze=False)
    for ax, (label, images) in zip(axes[:, 0], rows.items()):
        ax.imshow(grid(images, len(images), enlarge=2), interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        ax.spines[:].set_visible(False)
    if len(titles):
        step = 2 * (rows[next(iter(rows))].shape[-1] + 1)
        top = axes[0, 0].secondary_xaxis("top")
        top.set_xticks(step * (np.arange(len(titles)) + 0.5) - 1, titles, fontsize=8)
        top.tick_params(length=0)
        top.spines[:].set_visible(False)
    return fig


def noised_rows(models: dict[str, Model], image: torch.Tensor, shares) -> dict[str, torch.Tensor]:
    """One digit, uint8 [1, C, S, S] padded, on its way to noise under each model's process, by share of the way."""
    x_0 = from_uint8(image)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    rows = {}
    for name, model in models.items():
        process = model.denoiser.processes[0]
        end, clean = process.noisiest, max(process.clean, 0)            # of timesteps 0, the last that is noised
        x_t = [noise_added(x_0, eps, *process.levels(torch.tensor(clean + share * (end - clean)))) for share in shares]
        rows[name] = Model(model.denoiser, None, model.image_size, "").decode(torch.cat(x_t))
    return rows


def doubling_path(model: Model, num_steps: int) -> torch.Tensor:
    """A path [num_steps + 1] of even steps. The times for N steps are among those for 2 N. A noise prediction starts at
    timestep 980."""
    process = model.denoiser.processes[0]
    if not isinstance(process, CosineSteps):
        return process.uniform_path(num_steps)
    start = DDIM_START if model.denoiser.kind == "eps" else process.noisiest
    path = torch.linspace(start, 0, num_steps + 1, dtype=torch.float64)
    path[-1] = CLEAN
    return path


def solver_errors(model: Model, seed: int = 0, num_images: int = 20) -> dict[str, list[float]]:
    """Error of each solver at each of CALLS: solver -> root mean square difference per pixel from the result of 200
    steps of midpoint from the same start noise. Classes take turns; there is no guidance."""
    denoiser = model.denoiser
    starts = start_noise(denoiser.shapes, seed, range(num_images))
    labels = None if denoiser.num_classes is None else torch.arange(num_images) % denoiser.num_classes

    def end(solver, num_steps):
        return denoise_along(denoiser, doubling_path(model, num_steps), starts, labels=labels, solver=SOLVERS[solver],
                             clip=model.clips).xs[0]

    truth = end("midpoint", REFERENCE_STEPS)
    return {name: [float((end(name, calls // CALLS_PER_STEP[solver]) - truth).square().mean().sqrt())
                   for calls in CALLS]
            for name, solver in SOLVERS.items()}


def curves(panels: dict[str, dict], x, xlabel: str, ylabel: str, is_log_x: bool = True):
    """A Figure with a panel per title: {curve: values at x}."""
    fig, axes = figure(4.2 * len(panels), 3.4, ncols=len(panels), squeeze=False, sharey=True)
    for ax, (title, lines) in zip(axes[0], panels.items()):
        for k, (name, values) in enumerate(lines.items()):
            ax.plot(x, values, marker="o", markersize=3, label=name, **style_of_curve(k))
        ax.set(xscale="log" if is_log_x else "linear", yscale="log", xlabel=xlabel, title=title)
        if is_log_x:
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.minorticks_off()
        plain_log_axis(ax.yaxis)
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel(ylabel)
    return fig


@torch.inference_mode()
def errors_by_time(model: Model, exact: ExactDenoiser, images: torch.Tensor, shares, seed: int = 0) -> dict:
    """Root mean square error per pixel of the predicted clean image, for `network` and `exact`, without a class, at
    shares of the way from digit to noise. images: uint8 [N, C, S, S], padded."""
    process, x_0 = model.denoiser.processes[0], from_uint8(images)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    errors = {"network": [], "exact": []}
    for share in shares:
        t = torch.full((len(x_0),), process.clean + share * (process.noisiest - process.clean)).float()
        x_t = noise_added(x_0, eps, *process.levels(t))
        for name, denoiser in (("network", model.denoiser), ("exact", exact)):
            [predicted] = denoiser.clean([x_t], [t])
            errors[name].append(float((predicted - x_0).square().mean().sqrt()))
    return errors


def memorising(images: torch.Tensor, train_images: np.ndarray, chosen: torch.Tensor) -> dict:
    """How near images come to training digits: the median distance to the nearest one, and the nearest ones of the
    images numbered `chosen`. images, train_images: uint8 [N, C, S, S]."""
    distances = nearest_distances(images, train_images)[:, 0]
    points = from_uint8(torch.from_numpy(np.array(train_images))).flatten(1)
    nearest = torch.cdist(from_uint8(images[chosen]).flatten(1), points).argmin(1)
    return {"median": float(distances.median()), "nearest": torch.from_numpy(np.array(train_images[nearest.numpy()]))}


def exact_of(model: Model, images: torch.Tensor, labels=None) -> ExactDenoiser:
    """The exact denoiser of a model's process, of uint8 training images [N, C, S, S]."""
    return ExactDenoiser(padded(images), model.denoiser.processes[0], labels)


def exact_samples(exact: ExactDenoiser, num_steps: int, count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Images from the exact denoiser's own flow: uint8 [count, C, size, size]."""
    path = exact.processes[0].uniform_path(num_steps)
    x = denoise_along(exact, path, start_noise(exact.shapes, seed, range(count)), solver="midpoint").xs[0]
    return cropped(to_uint8(x), size)


class Tour:
    """The sections, and the folder in which their figures lie until the page is written."""

    def __init__(self, args, folder: Path, device):
        self.args, self.folder, self.sections = args, folder, []
        self.models = {name: load_model(path, device, args.vae) for name in ("flow", "ddpm", "latent")
                       if (path := getattr(args, name)) is not None}
        self.vae = load_vae(args.vae, "--vae").to(device) if args.vae else None
        self.pixels = {name: model for name, model in self.models.items() if model.vae is None}
        self.judge, (self.train_set, self.test_set) = judge_of(args)
        self.test_images = torch.tensor(self.test_set.images[:1000])
        self.scores = {}

    def add(self, name: str, figures: dict, tables=(), numbers=()) -> None:
        """A section of TEXTS. figures: caption -> Figure or PIL image; numbers: for the braces of its text."""
        title, text, code = TEXTS[name]
        files = []
        for caption, drawn in figures.items():
            path = self.folder / f"{len(self.sections)}_{len(files)}.png"
            save_png(path, drawn)
            files.append((path, caption))
        self.sections.append(Section(title, " ".join(text.split()).format(*numbers), list(tables), files, code))

    def labels(self, model, count: int):
        """Classes that take turns, int64 [count]; None for a model without classes."""
        return None if model.denoiser.num_classes is None else torch.arange(count) % model.denoiser.num_classes

    def drawn(self, model, count: int, w: float = 1.0):
        """Images by the midpoint solver in ten steps, or by DDIM in fifty."""
        how, steps = (MIDPOINT, FLOW_STEPS) if model.denoiser.kind == "velocity" else ({}, DIFFUSION_STEPS)
        return model.images(model.path(steps), self.args.seed, range(count), self.labels(model, count), w, **how)

    def forward(self) -> None:
        """A digit on its way to noise, by each model's noise process."""
        image = padded(self.test_images[:1])
        self.add("forward",
                 {"A test digit and one noise, by share of the way.": rows_of_images(
                     noised_rows(self.pixels, image, SHARES), [f"{share:.0%}" for share in SHARES])})

    def learning(self) -> None:
        """The curves of loss that stand beside the checkpoints; the section is left out if all logs are missing."""
        logs = {}
        for path in (self.args.flow, self.args.ddpm, self.args.vae, self.args.latent):
            for log in sorted(path.parent.parent.glob("*_training.csv")) if path else []:
                with open(log, newline="") as file:
                    logs[log.name.removesuffix("_training.csv")] = list(csv.DictReader(file))
        if logs:
            self.add("learning",
                     {"Loss by step: logged values, and their moving average.":
                      loss_curves(logs, {"loss": "training"})})

    def backward(self) -> None:
        """The way of three digits out of noise, by each model."""
        figures = {}
        for name, model in self.models.items():
            path, how = ((model.path(2 * FLOW_STEPS), MIDPOINT) if model.denoiser.kind == "velocity" else
                         (model.path(DIFFUSION_STEPS), {}))
            _, strip = model.strip(path, self.args.seed, range(3), self.labels(model, 3), **how)
            figures[f"{name}: three digits come out of noise ({len(path) - 1} steps), left to right."] = \
                rows_of_images({f"digit {k}": strip[:, k] for k in range(3)})
        self.add("backward", figures)

    def solvers(self) -> None:
        """Each solver's error by its number of network calls, for the models of pixels."""
        found = {name: solver_errors(model, self.args.seed) for name, model in self.pixels.items()}
        self.add("solvers",
                 {"Error against network calls, log-log.":
                  curves(found, CALLS, "network calls", "RMS difference per pixel")})

    def guidance(self) -> None:
        """Images and scores by guidance scale, for models trained with dropped labels; no section if there are none."""
        figures, rows = {}, []
        for name, model in self.models.items():
            if not model.is_guidable:
                continue
            columns = {}
            for w in SCALES:
                images = self.drawn(model, self.args.num_samples, w)
                columns[f"w = {w:g}"] = class_rows(images, model.denoiser.num_classes, 3)
                if model.image_size == 28:
                    scores = self.judge.scores(images, self.labels(model, len(images)))
                    rows.append([Cell(name), Cell(f"{w:g}", w), *score_cells(scores)])
            fig, axes = figure(1.15 * len(columns) + 0.2, 4.0, ncols=len(columns))
            for ax, (title, column) in zip(axes, columns.items()):
                ax.imshow(column, interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                ax.set_title(title, fontsize=9)
            figures[f"{name}: a row per digit, three samples each, from the same noise in every column."] = fig
        if figures:
            table = Table("guidance", "Scores by guidance scale", f"{self.args.num_samples} images each; real digits: "
                          "accuracy near 1, distance near 0, diversity 1.", ["model", "w", *SCORES], rows)
            self.add("guidance", figures, [table])

    def latents(self) -> None:
        """What the VAE does to digits: there and back, a walk between two codes, noise decoded."""
        some = self.test_images[:10]
        x = from_uint8(padded(self.test_images))
        with torch.inference_mode():
            codes = self.vae.encode(x)
            first, second = codes[0], codes[1]
            walk = torch.stack([torch.lerp(first, second, share) for share in torch.linspace(0, 1, 10)])
            between = cropped(to_uint8(self.vae.decode(walk)), some.shape[-1])
        rows = {"digit": some, "back again": reconstructed(self.vae, some), "a walk": between,
                "from noise": decoded_noise(self.args.vae, self.args.seed, range(10), "cpu")}
        if "latent" in self.models:
            rows["by the model"] = self.drawn(self.models["latent"], 10)
        self.add("latents",
                 {"Test digits and their way through the code; noise decoded as it is, and denoised first.":
                  rows_of_images(rows),
                  "Codes of test digits, by class.": scatter([("first two principal components",
                                                               principal_components(codes.flatten(1)),
                                                               self.test_set.labels[:1000])])},
                 numbers=(x[0].numel(), codes[0].numel()))

    def exact(self) -> None:
        """The first model of pixels beside the exact denoiser of its training digits, and how much it copies them."""
        name, model = next(iter(self.pixels.items()))
        train_images, held_out = torch.tensor(self.train_set.images), self.test_images[:NUM_LOOKED]
        exact = exact_of(model, train_images)
        found = {title: errors_by_time(model, exact, padded(images), ERROR_SHARES) for title, images in
                 (("digits it was trained on", train_images[:NUM_LOOKED]), ("test digits", held_out))}
        images, size = self.drawn(model, NUM_LOOKED), model.image_size
        copies = exact_samples(exact, EXACT_STEPS, 10, size, self.args.seed)
        near = {title: memorising(shown, self.train_set.images, torch.arange(10))
                for title, shown in (("network", images), ("exact", copies), ("test digits", held_out))}
        rows = {"network": images[:10], "nearest digit": near["network"]["nearest"], "exact": copies,
                "nearest to that": near["exact"]["nearest"]}
        table = Table("memorising", "Distance to the nearest training digit", "Median root mean square difference per "
                      "pixel, of -1 ... 1. A model that copies is at 0.", ["images", "distance"],
                      [[Cell(title), Cell(f"{value['median']:.3f}", value["median"])] for title, value in near.items()])
        self.add("exact",
                 {f"Error of the clean image predicted ({name}, no class), by share of the way to noise.":
                  curves(found, ERROR_SHARES, "share of noise", "RMS error per pixel", False),
                  "Samples, and the training digits nearest to them.": rows_of_images(rows)}, [table],
                 [f"{len(train_images):,}"])

    def scored(self) -> None:
        """Scores of every model of 28-pixel digits, beside real digits and damaged ones."""
        rows = []
        floor = self.judge.noise_floor(self.train_set, self.args.num_samples, 1)[0]
        sets = {"real digits": floor}
        for name, model in self.models.items():
            if model.image_size == 28:
                images = self.drawn(model, self.args.num_samples)
                sets[name] = self.judge.scores(images, self.labels(model, len(images)))
        labels = self.test_set.labels[:1000]
        for name, images in damages(self.test_images.numpy(), labels).items():
            sets[f"test digits, {name}"] = self.judge.scores(images, labels)
        rows = [[Cell(name), *score_cells(scores)] for name, scores in sets.items()]
        self.add("scored", {},
                 [Table("scores", "Scores of models and of damaged digits", f"{self.args.num_samples} images of each "
                        f"model, {len(labels)} damaged digits.", ["images", *SCORES], rows)])


def score_cells(scores: dict) -> list[Cell]:
    """Three cells."""
    return [Cell(f"{scores[name]:.3g}", scores[name]) for name in SCORES]
