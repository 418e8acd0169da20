"""The sections of the tour: figures and measurements of trained models. Compared images have the same start noise.

Their words are in tour.md.
"""
from functools import partial
from pathlib import Path

import torch

from engine.files import save_png
from engine.sampling import from_uint8, sample
from evaluation.denoiser_errors import errors_by_noise, solver_errors
from evaluation.digit_scores import SCORES
from evaluation.digit_tables import memorising_table, scores_of
from evaluation.figures import curve_panels, image_rows, loss_curves
from evaluation.page import read_sections
from evaluation.small_images import class_rows, picture_columns, principal_components, scatter
from evaluation.tables import Cell, Table, read_csv
from mnist.models import DDIM_START, Model, decoded_noise, images_of, load_model, reconstructed
from mnist.options import SOLVERS, check_draws_digits, digit_vae, judge_for
from networks.exact_denoiser import ExactDenoiser, nearest_images
from networks.margin import padded
from scheduler import noise_added

CALLS = (4, 8, 16, 32, 64)
SHARES = (0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1)
ERROR_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
NUM_LOOKED = 200        # images that errors and distances are of
EXACT_STEPS = 40        # of the exact denoiser's samples


class Tour:
    """The page's title and lead, its sections, and the folder in which their figures lie until the page is written."""

    def __init__(self, args, folder: Path, device):
        self.args, self.folder, self.device, self.sections, self.measured = args, folder, device, [], {}
        self.title, self.lead, self.words = read_sections(Path(__file__).with_name("tour.md"))
        self.models = {name: load_model(path, device, args.vae) for name in ("flow", "ddpm", "latent")
                       if (path := getattr(args, name)) is not None}
        self.vae = digit_vae(args.vae, device, "--vae") if args.vae else None
        for name, model in self.models.items():
            check_draws_digits(model, getattr(args, name), f"--{name}")
        self.pixels = {name: model for name, model in self.models.items() if model.vae is None}
        self.guidable = {name: model for name, model in self.models.items() if model.is_guidable}
        self.logs = {log.name.removesuffix("_training.csv"): read_csv(log)
                     for path in (args.flow, args.ddpm, args.vae, args.latent) if path
                     for log in sorted(path.parent.parent.glob("*_training.csv"))}
        self.judge, self.train_set, self.test_set = judge_for(args)
        self.test_images = torch.tensor(self.test_set.images[:1000])
        self.test_labels = self.test_set.labels[:1000]

    def add(self, name: str, figures: dict, tables=(), numbers=()) -> None:
        """The section of that name. figures: caption -> Figure or PIL image; numbers: for the braces of its text."""
        section = self.words[name]
        section.text, section.tables = section.text.format(*numbers), list(tables)
        for caption, drawn in figures.items():
            path = self.folder / f"{len(self.sections)}_{len(section.figures)}.png"
            save_png(path, drawn)
            section.figures.append((path, caption))
        self.sections.append(section)

    def drawn(self, model: Model, count: int, w: float = 1.0) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images of all classes in turn, and their classes."""
        return model.usual_drawing(w).labelled(self.args.seed, range(count))

    def forward(self) -> None:
        """A digit on its way to noise, by each model's noise process."""
        x_0, shares, rows = from_uint8(padded(self.test_images[:1])), torch.tensor(SHARES), {}
        eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(self.args.seed))
        for name, model in self.pixels.items():
            process = model.denoiser.processes[0]
            x_t = noise_added(x_0, eps, *process.levels(process.at_share(1 - shares)))
            rows[name] = images_of(x_t, None, model.image_size)
        self.add("forward", {"A test digit and one noise, by share of the way.":
                             image_rows(rows, [f"{share:.0%}" for share in SHARES])})

    def learning(self) -> None:
        """The curves of loss, of the logs that lie beside the checkpoints."""
        self.add("learning", {"Loss by step: logged values, and their moving average.":
                              loss_curves(self.logs, {"loss": "training"})})

    def backward(self) -> None:
        """The way of three digits out of noise, by each model."""
        figures = {}
        for name, model in self.models.items():
            draw = model.usual_drawing()
            _, strip = draw.strip(self.args.seed, range(3))
            figures[f"{name}: three digits come out of noise ({len(draw.path) - 1} steps), left to right."] = \
                image_rows({f"digit {k}": strip[:, k] for k in range(3)})
        self.add("backward", figures)

    def solvers(self) -> None:
        """Each solver's error by its number of network calls, for the models of pixels."""
        found = {}
        for name, model in self.pixels.items():
            start = DDIM_START if model.denoiser.kind == "eps" else None
            path_of = partial(model.denoiser.processes[0].even_path, start=start)
            found[name] = solver_errors(model.denoiser, path_of, SOLVERS, CALLS, model.clips, self.args.seed,
                                        device=self.device)
        self.measured["solvers"] = {"calls": CALLS, "errors": found}
        self.add("solvers", {"Error against network calls, log-log.":
                             curve_panels(found, CALLS, "network calls", "RMS difference per pixel")})

    def guidance(self) -> None:
        """Images and scores by guidance scale, for models trained with dropped labels."""
        figures, rows = {}, []
        for name, model in self.guidable.items():
            columns = []
            for w in SCALES:
                images, labels = self.drawn(model, self.args.num_samples, w)
                columns.append((f"w = {w:g}", class_rows(images, model.denoiser.num_classes, 3)))
                rows.append([Cell(name), Cell(f"{w:g}", w), *scores_of(self.judge.scores(images, labels))])
            figures[f"{name}: a row per digit, three samples each, from the same noise in every column."] = \
                picture_columns(columns, width=1.15)
        table = Table("guidance", "Scores by guidance scale", f"{self.args.num_samples} images each; real digits: "
                      "accuracy near 1, distance near 0, diversity 1.", ["model", "w", *SCORES], rows)
        self.add("guidance", figures, [table])

    def latents(self) -> None:
        """What the VAE does to digits: there and back, a walk between two codes, noise decoded."""
        some = self.test_images[:10]
        x = from_uint8(padded(self.test_images))
        with torch.inference_mode():
            codes = self.vae.encode(x.to(self.device))
        walk = torch.stack([torch.lerp(codes[0], codes[1], share) for share in torch.linspace(0, 1, 10).tolist()])
        rows = {"digit": some, "back again": reconstructed(self.vae, some),
                "a walk": images_of(walk, self.vae, some.shape[-1]).cpu(),
                "from noise": decoded_noise(self.args.vae, self.args.seed, range(10), self.device)}
        if "latent" in self.models:
            rows["by the model"], _ = self.drawn(self.models["latent"], 10)
        points = principal_components(codes.flatten(1).cpu())
        self.add("latents",
                 {"Test digits and their way through the code; noise decoded as it is, and denoised first.":
                  image_rows(rows),
                  "Codes of test digits, by class.": scatter([("first two principal components", points,
                                                               self.test_labels)])},
                 numbers=(x[0].numel(), codes[0].numel()))

    def exact(self) -> None:
        """The first model of pixels beside the exact denoiser of its training digits, and how much it copies them."""
        name, model = next(iter(self.pixels.items()))
        process = model.denoiser.processes[0]
        train_images, held_out = torch.tensor(self.train_set.images), self.test_images[:NUM_LOOKED]
        exact = ExactDenoiser(padded(train_images).to(self.device), process)
        both = {"network": model.denoiser, "exact": exact}
        errors = {title: errors_by_noise(both, padded(images).to(self.device), ERROR_SHARES)
                  for title, images in (("digits it was trained on", train_images[:NUM_LOOKED]),
                                        ("test digits", held_out))}
        copies = sample(exact, process.uniform_path(EXACT_STEPS), self.args.seed, range(10), solver="midpoint",
                        device=self.device).xs[0]
        shown = {"network": self.drawn(model, NUM_LOOKED)[0], "exact": images_of(copies, None, model.image_size).cpu(),
                 "test digits": held_out}
        near = {title: nearest_images(images, train_images) for title, images in shown.items()}
        rows = {}
        for title, label in (("network", "nearest digit"), ("exact", "nearest to it")):
            rows |= {title: shown[title][:10], label: train_images[near[title][1][:10, 0]]}
        medians = {title: distances.median().item() for title, (distances, _) in near.items()}
        self.measured["exact"] = {"model": name, "shares": ERROR_SHARES, "errors": errors, "distances": medians}
        self.add("exact",
                 {f"Error of the clean image predicted ({name}, no class), by share of the way to noise.":
                  curve_panels(errors, ERROR_SHARES, "share of noise", "RMS error per pixel", False),
                  "Samples, and the training digits nearest to them.": image_rows(rows)},
                 [memorising_table(self.measured)], [f"{len(train_images):,}"])

    def scored(self) -> None:
        """Scores of every model, beside real digits and damaged ones."""
        sets = {"real digits": self.judge.noise_floor(self.train_set, self.args.num_samples, 1)[0]}
        sets |= {name: self.judge.scores(*self.drawn(model, self.args.num_samples))
                 for name, model in self.models.items()}
        sets |= {f"test digits, {name}": scores for name, scores in
                 self.judge.scores_of_damages(self.test_images.numpy(), self.test_labels).items()}
        self.add("scored", {},
                 [Table("scores", "Scores of models and of damaged digits", f"{self.args.num_samples} images of each "
                        f"model, {len(self.test_labels)} damaged digits.", ["images", *SCORES],
                        [[Cell(name), *scores_of(scores)] for name, scores in sets.items()])])
