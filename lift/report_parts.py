"""The parts of the report: texts with their tables, figures, and the sections of the HTML page."""
import json
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.command_line import git_revision
from engine.errors import InputError
from engine.files import expecting, written_whole
from engine.sampling import to_uint8
from evaluation import benchmark_tables, figures, page, results_table, tables
from lift import (checkpoints, heatmap_file, marked_tables, path_summary, paths, sampling, side_tables,
                  study_tables)
from lift.answer import ANSWER, QUESTION
from lift.figures import path_evolution
from lift.labels import NAMES, PATH_LABELS, path_color

FIGURE_CAPTIONS = (
    (r"path_evolution", "Paths over their error maps, epoch by epoch: the 64 error above, the total below."),
    (r"samples", "Samples from the same seeds: a column is one start noise, a row one way of sampling."),
    (r"denoising_(.+)", "What both scales hold along the path {0}, and the clean image predicted there."),
    (r"training_loss", "Training loss: logged values, and their moving average."),
    (r"by_epoch_(.+)", "{0} against the epoch; bands are one sample standard deviation over seeds."),
)
MAX_EPOCHS_SHOWN = 5           # more would not be legible side by side
SIDE_FIGURES = {"mse": "Noise-prediction error with both scales noisy, or only one.",
                "model_error": "Error of LIFT's 64 prediction beside the baseline's, on the same images and noise: the "
                               "model's own error, apart from that of any path. Bands are two standard errors.",
                "exposure": "Error on images (full) and on the models' own samples (dashed), and the norm of the noise "
                            "predicted on what a sampler met, over that on its own samples noised: exposure bias.",
                "super_resolution": "Super-resolution without retraining: the 32×32 image given, bicubic upsampling, "
                                    "LIFT with x_32 held, and the truth."}


# --- README ---------------------------------------------------------------------------------------------------------

def read_text(path: Path) -> str:
    """A text file's content. Raises InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"--readme: {path} could not be read ({reason}); check the path") from error


def agrees(readme: Path, rows, results: Path) -> bool:
    """Whether the tables in `readme` are those of the results. If not, its first line that differs is printed."""
    text = read_text(readme)
    expected = marked_tables.with_tables(text, rows, results.parent, str(readme), may_empty=True)
    if text != expected:
        different = next(k for k, (a, b) in enumerate(zip(text.splitlines() + [""], expected.splitlines() + [""]), 1)
                         if a != b)
        print(f"{readme}: its tables differ from the results, first in line {different}; run python -m lift.report "
              f"--results {results} --readme {readme}", file=sys.stderr)
        return False
    print(f"{readme}: agrees with the results")
    return True


def update_readme(readme: Path, rows, folder) -> None:
    """Write the tables into `readme`, if that changes it."""
    text = read_text(readme)
    new_text = marked_tables.with_tables(text, rows, folder, str(readme))
    if new_text != text:
        with written_whole(readme, "w") as file:
            file.write(new_text)
    print(f"{readme}: {'tables written' if new_text != text else 'up to date'}")


# --- figures --------------------------------------------------------------------------------------------------------

def metric_figure(rows, metric: str):
    """A metric against the epoch, a panel per protocol."""
    panels = []
    for comparison in tables.compare(rows, metric, NAMES):
        for settings in sorted({row_key[1:] for row_key in comparison.row_keys}):
            series = []
            for label in comparison.labels:
                spreads = [(row_key[0], comparison.cells[row_key, label]) for row_key in comparison.row_keys
                           if row_key[1:] == settings and (row_key, label) in comparison.cells]
                if spreads:
                    series.append({"label": label, "color": path_color(comparison.paths[label]),
                                   "epochs": [epoch for epoch, _ in spreads],
                                   "means": [spread.mean for _, spread in spreads],
                                   "deviations": [np.nan if spread.standard_deviation is None
                                                  else spread.standard_deviation for _, spread in spreads]})
            protocol = comparison.protocol
            panels.append({"title": f"{protocol['num_images']:,} images, {settings[0]} steps, {protocol['weights']} "
                                    f"weights, {protocol['precision']}, {protocol['dataset']}", "series": series})
    return figures.metric_by_epoch(panels, tables.metric_label(metric).partition(",")[0])


def is_replaced(folder: Path, checkpoint: str, fingerprint: str) -> bool:
    """Whether a checkpoint has been trained anew since something was measured on it, as its training's record tells.

    checkpoint: its file name; fingerprint: of the file that was measured. Records of earlier versions do not tell.
    """
    path = Path(folder) / f"{tables.run_name(checkpoint)}_run.json"
    with expecting(path, "record of a training", "make it again or remove it"):
        now = json.loads(path.read_text(encoding="utf-8")).get("checkpoints", {}) if path.exists() else {}
        return now.get(Path(checkpoint).name, fingerprint) != fingerprint


def is_of_earlier_weights(path: Path) -> bool:
    """Whether a picture, or a table, belongs to a checkpoint that `is_replaced`; the CSV or the record beside it
    tells."""
    of_picture = path.with_name(re.sub(r"(_blocks|_steps)?\.\w+$", "", path.name))
    table, record = (of_picture.with_name(f"{of_picture.name}.{kind}") for kind in ("csv", "json"))
    named = []
    if table.exists():
        first = (tables.read_csv(table) or [{}])[0]
        named = [(first.get(name), first.get(f"{name}_hash")) for name in ("checkpoint", "baseline")]
    elif record.exists():
        with expecting(record, "record of a run", "make it again or remove it"):
            content = json.loads(record.read_text(encoding="utf-8"))
            named = [(content.get("options", {}).get("checkpoint"), content.get("checkpoint_fingerprint"))]
    return any(is_replaced(path.parent, checkpoint, fingerprint) for checkpoint, fingerprint in named
               if checkpoint and fingerprint)


def age_of(path: Path) -> str:
    """What a caption adds for a file that `is_of_earlier_weights`."""
    return " Of earlier weights: this name has been trained anew since." if is_of_earlier_weights(path) else ""


def find_heatmaps(folder: Path, grid: int) -> list[tuple[int, Path]]:
    """(epoch, file) of the EMA heat maps of the default LIFT run, by epoch. A map of earlier weights is left out, with
    a line."""
    found = []
    for path in Path(folder).glob(f"heatmap_{grid}_*ep.pth"):
        if match := re.fullmatch(rf"heatmap_{grid}_(\d+)ep\.pth", path.name):
            if is_of_earlier_weights(path):
                print(f"path evolution: {path} is left out, its checkpoint has been trained anew since")
            else:
                found.append((int(match[1]), path))
    return sorted(found)


def evolution_figure(heatmaps, args):
    """Diagonal, DP-64 and DP-Total over the two error maps, at up to five of the epochs, evenly chosen."""
    shown = sorted({round(k) for k in np.linspace(0, len(heatmaps) - 1, MAX_EPOCHS_SHOWN)})
    columns = []
    for epoch, path in (heatmaps[k] for k in shown):
        heatmap = heatmap_file.load_heatmap(path, args.grid)
        timesteps = heatmap["timesteps"].numpy()
        found = (paths.path_from_heatmap(heatmap, path_type, args.num_steps, step_size=args.step_size,
                                         max_jump=args.max_jump) for path_type in ("diagonal", "dp_64", "dp_total"))
        diagonal, dp_64, dp_total = (path_summary.grid_position(path, timesteps) for path in found)
        error_64, error_32 = heatmap["error_64"].numpy(), heatmap["error_32"].numpy()
        columns.append({"title": f"epoch {epoch}", "timesteps": timesteps, "error_64": error_64,
                        "error_total": error_64 + error_32, "paths_64": {"diagonal": diagonal, "dp_64": dp_64},
                        "paths_total": {"diagonal": diagonal, "dp_total": dp_total}})
    return path_evolution(columns)


def training_figure(logs):
    """Loss curves of every training log in the results folder."""
    with expecting(logs[0].parent / "*_training.csv", "log of a training", "remove or restore the one that is none"):
        return figures.loss_curves({run_of_log(path): tables.read_csv(path) for path in logs})


def run_of_log(path: Path) -> str:
    """A run's name, from its log's file name; `(loss of v)` is added if its record says so."""
    name = path.name.removesuffix("_training.csv")
    record = path.with_name(f"{name}_run.json")
    with expecting(record, "record of a training", "make it again or remove it"):
        options = json.loads(record.read_text(encoding="utf-8"))["options"] if record.exists() else {}
        is_of_v = options.get("loss_target") == "v"
    return f"{name} (loss of v)" if is_of_v else name


def load_lift_heatmap(args, lift):
    """The LIFT checkpoint's heat map; None if no path needs one. Raises InputError for a map of another checkpoint."""
    if set(args.paths) <= {"diagonal"}:
        return None
    name = tables.run_name(lift.path.name)
    path = args.heatmap or heatmap_file.heatmap_path(args.results.parent, args.grid, name, lift.epochs, args.weights)
    heatmap = heatmap_file.load_heatmap(path)
    heatmap_file.check_heatmap_matches(path, heatmap, lift, args.allow_mismatch)
    return heatmap


def sample_figures(args, device) -> dict:
    """Figures that need the models: the sample grid and a denoising strip per path. File name -> Figure."""
    baseline = checkpoints.load_model(args.baseline_checkpoint, "baseline", args.weights, device)
    lift = checkpoints.load_model(args.lift_checkpoint, "lift", args.weights, device)
    heatmap = load_lift_heatmap(args, lift)
    ways = {"baseline": (baseline.model, sampling.uniform_diagonal(args.num_steps))}
    for path_type in args.paths:
        path = paths.path_from_heatmap(heatmap, path_type, args.num_steps, step_size=args.step_size,
                                       max_jump=args.max_jump)
        ways[path_type] = (lift.model, path)
    options = {"solver": args.solver, "precision": args.precision}
    rows, drawn = {}, {}
    for path_type, (model, path) in tqdm(ways.items(), desc="samples", unit="path"):
        label = PATH_LABELS.get(path_type, path_type)
        samples = sampling.generate(model, path, args.seed, range(args.num_images), **options)
        rows[label] = to_uint8(samples.x_64).cpu().numpy()
        if path_type != "baseline":
            steps = sampling.denoising_steps(model, path, args.seed, 0, **options)
            drawn[f"denoising_{path_type}"] = figures.denoising_strip(path, steps, f"{label}, {len(path) - 1} steps")
    numbers = [f"image {k}" for k in range(args.num_images)]
    return {"samples": figures.image_rows(rows, numbers)} | drawn


def caption_of(name: str) -> str:
    """What the figure of that file name shows."""
    for pattern, caption in FIGURE_CAPTIONS:
        if match := re.fullmatch(pattern, name):
            words = [PATH_LABELS.get(word) or tables.metric_label(word) for word in match.groups()]
            return caption.format(*words)
    return name.replace("_", " ")


# --- report ---------------------------------------------------------------------------------------------------------

def raw_rows_table(rows) -> tables.Table:
    """Every row of the CSV as it is."""
    table = tables.Table("rows", "All measurements", "Every row of the results CSV, one per seed.",
                         [*results_table.COLUMNS, *results_table.COST_COLUMNS])
    for row in rows:
        values = [row.get(column) for column in table.header]
        table.rows.append([tables.Cell("" if value is None else str(value),
                                       value if isinstance(value, (int, float)) else None) for value in values])
    return table


def report_sections(rows, folder: Path, figure_dir: Path) -> list[page.Section]:
    """The sections for everything in the results folder, in reading order."""
    drawn = sorted(figure_dir.glob("*.png"))
    taken = set()

    def pick(*patterns):
        chosen = [path for pattern in patterns for path in drawn if re.fullmatch(pattern, path.stem)]
        taken.update(chosen)
        return [(path, caption_of(path.stem)) for path in chosen]

    ours = study_tables.others(rows)
    metrics = results_table.metrics_of(ours)
    results = page.Section("Results", "Each table holds one metric under one protocol; click a heading to sort.",
                             [table for metric in metrics for table in tables.metric_tables(ours, metric, NAMES)],
                             pick(*(f"by_epoch_{metric}" for metric in metrics)))
    of_study = page.Section("Study", "Does a dual-scale model pay, and which path?",
                              [table for name in study_tables.NAMES
                               for table in study_tables.tables_named(name, rows, folder)],
                              [(path, caption) for path in sorted((folder / "study").glob("*.png"))
                               if (caption := study_tables.caption_of(path.stem))])
    samples = page.Section("Samples", "", [], pick("samples", "denoising_.+"))
    heatmaps = [(path, f"Error map and paths: {path.stem.replace('_', ' ')}." + age_of(path))
                for path in sorted(folder.glob("heatmap_*.png"))]
    map_section = page.Section("Error maps and paths", "", [], pick("path_evolution") + heatmaps)
    measured = [table for name in side_tables.SIDE_TABLES if (table := side_tables.side_table(folder, name))]
    for table in measured:
        table.note += age_of(folder / f"{table.name}.csv")
    side = page.Section("Other measurements", "", measured,
                          [(folder / f"{name}.png", caption + age_of(folder / f"{name}.png"))
                           for name, caption in SIDE_FIGURES.items()
                           if (folder / f"{name}.png").exists()])
    training = page.Section("Training", "", [], pick("training_loss"))
    known = {path for section in (map_section, side) for path, _ in section.figures}
    known |= set(folder.glob("*_loss.png"))                     # shown together in training_loss
    others = [(path, path.stem.replace("_", " ")) for path in sorted(folder.glob("*.png")) if path not in known]
    others += [(path, caption_of(path.stem)) for path in drawn if path not in taken]
    more = page.Section("More figures", "", [], others)
    speed = page.Section("Speed", "Ratios measured side by side in one run, in alternation.",
                           [*benchmark_tables.benchmarks_tables(folder),
                            *benchmark_tables.arithmetic_tables(folder)], [])
    raw = page.Section("Data", "", [raw_rows_table(rows)] if rows else [])
    return [of_study, results, samples, map_section, side, training, speed, more, raw]


def write_report(args, rows) -> None:
    """The HTML page."""
    finished = max((row["finished"] for row in rows), default="")
    lead = f"{len(rows):,} measurements" + (f", the latest of {finished}" if finished else "")
    lead = f"{QUESTION} {ANSWER}{page.PARAGRAPH}{lead}; page made at revision {git_revision()[:12]}."
    content = page.page(args.title, lead, report_sections(rows, args.results.parent, args.output_dir),
                        page.read_records(args.results.parent), args.html.parent)
    with written_whole(args.html, "w") as file:
        file.write(content)
    print(f"wrote {args.html} ({len(content) / 1e6:.1f} MB)")
