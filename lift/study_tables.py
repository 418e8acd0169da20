"""The tables of the study: training runs, paths and numbers of steps side by side, from the table of results.

Runs of the study are named NAME_seedS, where S is the seed of training. A table varies one thing over its rows and
another over its columns, with columns of its own for every metric. Whatever else could differ is the same in all rows
of results that it takes.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Callable

from engine.run_files import epoch_of
from engine.errors import InputError
from engine.files import expecting
from lift.paths import FIXED_LEADS
from lift.options import X32_MODES
from scheduler import CosineSteps
from evaluation.options import rows_of
from lift.labels import PATH_LABELS
from lift.study_runs import CONTESTED, LABELS, SWAPPED
from evaluation.tables import (FEW_IMAGES, PROTOCOL, Cell, Spread, Table, direction, format_spread, grouped, is_ranked,
                               mark_best_of_metric, of_latest_trainings, read_csv, run_name, solver_of_row,
                               spread_of, spread_over_seeds, take)

RUN_SEED = r"(?P<name>baseline\w*?|lift_\w+?)_seed(?P<seed>\d+)"
RUN_EPOCHS = RUN_SEED + r"_(?P<epochs>\d+)ep"
RUN = re.compile(RUN_SEED + "$")
RUN_WITH_EPOCHS = re.compile(RUN_EPOCHS + "$")
MAP_FILE = re.compile(rf"(heatmap|logsnr)_(?P<grid>\d+)_(?!baseline){RUN_EPOCHS}(_plot)?$")    # baselines have no map
EXPOSURE_FILE = re.compile(rf"exposure_{RUN_EPOCHS}$")
ERROR_FILE = re.compile(rf"model_error_{RUN_EPOCHS}(?P<reconciled>_reconciled)?$")
VALIDATION_FILE = re.compile(RUN_SEED + "_validation$")
TRAINING_FOLDER = re.compile(r"training_(?P<epochs>\d+)ep$")
ERROR_CONTENT = "table of lift.eval_mse --compare_baseline"
FIGURE_FILE = re.compile(rf"(?P<kind>model_error|exposure|heatmap|logsnr|samples)_((?P<grid>\d+)_)?{RUN_EPOCHS}"
                         r"(?P<reconciled>_reconciled)?$")
CAPTIONS = {"model_error": "Error of LIFT's 64 prediction beside the baseline's",
            "exposure": "Error on images and on own samples, and what the samplers met",
            "heatmap": "Error map and paths",
            "logsnr": "The same map, its paths by each scale's own change in log SNR",
            "samples": "Samples from the same start noises"}
LINEAR_DENOISER = "linear_denoiser"                     # in place of a run's name
WITHOUT_NETWORK = {"real": "Real images", "normal": "Images of the normal law with their mean and covariance"}
# Metrics of each table, where measured; lower is better in all. fd_tiny is history: it is no longer measured.
METRICS = ("fid", "kid", "fd_lite0", "kd_lite0", "fd_tiny", "swd")
LEVELS = ("swd_64", "swd_32", "swd_16")
SHORT_LABELS = {"fid": "FID", "kid": "KID", "fd_lite0": "fd_lite0", "kd_lite0": "kd_lite0", "fd_tiny": "fd_tiny",
                "swd": "SWD", "swd_64": "SWD, level 64", "swd_32": "SWD, level 32", "swd_16": "SWD, level 16",
                "kurtosis_64": "kurtosis, level 64",
                "kurtosis_32": "kurtosis, level 32", "contrast_64": "contrast, level 64",
                "contrast_32": "contrast, level 32"}
MANY_STEPS = 50                                         # the gate is judged by protocols with this many steps
NOISY_FROM = 600                                        # timesteps of the noisy end
SCHEDULE = CosineSteps()
NUM_STEPS = 18                                          # where steps are not compared
SHARED = ("metric", "model_type", "dataset", "split", "reference_hash", "num_images")     # with the noise floor


@dataclass(frozen=True)
class Comparison:
    """Which rows of the results a table takes, and what it calls its own rows and columns."""
    title: str
    heading: str                                        # over the first column
    takes: Callable[[dict], bool]                       # row of results -> whether it belongs here
    row: Callable[[dict], str]
    column: Callable[[dict], str]
    needs: Callable[[list[dict]], bool] = lambda rows: any(row["path"] not in ("uniform", "diagonal") for row in rows)
                                                        # whether rows of one protocol are what it is about
    common_seeds: bool = True                           # whether a column keeps to the seeds of training that all its
                                                        # cells have, so that no cell is ahead by another draw
    metrics: tuple[str, ...] = METRICS


def run_of(row: dict) -> tuple[str, int] | None:
    """(name, seed of training) of a row of results, None where it is not a run of the study."""
    match = RUN.match(run_name(row["checkpoint"]))
    return (match["name"], int(match["seed"])) if match and match["name"] in LABELS else None


def caption_of(name: str) -> str | None:
    """What a figure of the study shows, by its file name without suffix; None for other figures."""
    match = FIGURE_FILE.match(name)
    if not match or match["name"] not in LABELS:
        return None
    words = [LABELS[match["name"]], f"seed {match['seed']}", f"{match['epochs']} epochs"]
    words += [f"{match['grid']} points"] if match["grid"] else []
    words += ["predictions reconciled"] if match["reconciled"] else []
    return f"{CAPTIONS[match['kind']]}: {'; '.join(words)}."


def others(rows: list[dict]) -> list[dict]:
    """The rows of networks that the study does not name."""
    return [row for row in rows if row["model_type"] not in WITHOUT_NETWORK and not run_of(row)]


def without_network(rows: list[dict]) -> list[dict]:
    """The rows of images that no network made."""
    return [row for row in rows if row["model_type"] in WITHOUT_NETWORK]


def run_seed(row: dict) -> int:
    """The seed of training of a row of the study."""
    return run_of(row)[1]


def run_label(row: dict) -> str:
    """What the tables call the run of a row."""
    return LABELS[run_of(row)[0]]


def steps_label(row: dict) -> str:
    """The number of steps in words."""
    return f"{row['num_steps']} steps"


def path_label(row: dict) -> str:
    """The way of sampling: model, path, step size and solver."""
    label = PATH_LABELS.get(row["path"], row["path"])
    if is_one_of(row, "baseline") and not label.startswith("baseline"):
        label = f"baseline {label}"
    words = [label, row["step_size"]]
    words += [row["solver"]] if row["solver"] != "ddim" else []
    return ", ".join(word for word in words if word)


def is_plain(row: dict) -> bool:
    """DDIM with the 32 branch denoised jointly."""
    return row["solver"] == "ddim" and row["x32_mode"] == "joint"


def is_one_of(row: dict, *names: str) -> bool:
    """Whether a row is of one of these runs."""
    return run_of(row)[0] in names


def way_label(row: dict) -> str:
    """The run, its path, and the constants of sampling: solver with correction and guidance."""
    words = [run_label(row)] + ([] if gate_path(row) else [PATH_LABELS[row["path"]]])
    return ", ".join(words + ([] if row["solver"] == "ddim" else [solver_of_row(row)]))


def sampler_label(row: dict) -> str:
    """Which pairs of times a sampler visits: the baseline's, at one time or with pure noise at 32, or with a lead."""
    if row["x32_mode"] == "random":
        return "32 drawn anew"
    return "both at one time" if gate_path(row) else PATH_LABELS[row["path"]]


def gate_path(row: dict) -> bool:
    """Evenly spaced timesteps, the same for both scales."""
    return row["path"] in ("uniform", "diagonal")


def branch_label(row: dict) -> str:
    """What happens to the 32 scale, in training and in sampling."""
    if is_one_of(row, "lift_loss64"):
        return "loss on 64 only, joint"
    return {"joint": "as it is", "random": "32 branch drawn anew at every step",
            "fixed": "32 branch held fixed"}[row["x32_mode"]]


def predictions_label(row: dict) -> str:
    """The run, and how its two predictions are used."""
    words = {"joint": "each scale's own", "from_64": "32 from 64", "reconciled": "reconciled"}
    return run_label(row) + ("" if row["model_type"] == "baseline" else f"; {words[row['x32_mode']]}")


def of_predictions(row: dict) -> bool:
    """NUM_STEPS steps of DDIM along fixed paths, however the two predictions are used."""
    return (row["num_steps"] == NUM_STEPS and row["solver"] == "ddim"
            and row["x32_mode"] in ("joint", "from_64", "reconciled")
            and (gate_path(row) or row["path"] in FIXED_LEADS))


def level_label(row: dict) -> str:
    """The run, how its two predictions are used, and the path."""
    return ", ".join([predictions_label(row)] + ([] if gate_path(row) else [PATH_LABELS[row["path"]]]))


COMPARISONS = {
    "study_gate": Comparison(
        "Is it the path or the model? Evenly spaced steps", "model",
        lambda row: gate_path(row) and is_plain(row)
        and is_one_of(row, "baseline", "lift_independent", "lift_band", "baseline_v", "lift_independent_v",
                      "baseline_v_eps", "lift_independent_v_eps", "lift_native_v_eps", "baseline_residual",
                      "lift_native_residual"),
        run_label, steps_label, lambda rows: any(row["num_steps"] >= MANY_STEPS for row in rows)),
    "study_paths": Comparison(
        "Paths and solvers", "path",
        lambda row: row["num_steps"] < MANY_STEPS and row["x32_mode"] == "joint"
        and is_one_of(row, "baseline", "lift_independent"), path_label, steps_label),
    "study_training": Comparison(
        f"Training timesteps, {NUM_STEPS} steps", "model",
        lambda row: row["num_steps"] == NUM_STEPS and is_plain(row) and row["step_size"] in ("", "index")
        and row["path"] in ("uniform", "diagonal", "dp_64", "dp_total"), run_label,
        lambda row: "evenly spaced" if gate_path(row) else PATH_LABELS[row["path"]], common_seeds=False),
    "study_branch": Comparison(
        f"The 32 branch, on the diagonal, {NUM_STEPS} steps", "LIFT",
        lambda row: row["num_steps"] == NUM_STEPS and row["path"] == "diagonal" and row["solver"] == "ddim"
        and (is_one_of(row, "lift_independent") and row["x32_mode"] in ("joint", "random", "fixed")
             or is_one_of(row, "lift_loss64") and row["x32_mode"] == "joint"),
        branch_label, lambda row: "",
        lambda rows: any(row["x32_mode"] != "joint" for row in rows)),
    "study_predictions": Comparison(
        f"Two predictions of one image, {NUM_STEPS} steps", "model; predictions",
        of_predictions, predictions_label,
        lambda row: "evenly spaced" if gate_path(row) else PATH_LABELS[row["path"]],
        lambda rows: any(row["x32_mode"] == "reconciled" for row in rows), common_seeds=False),
    "study_levels": Comparison(
        f"Sliced Wasserstein distance by level, {NUM_STEPS} steps", "model; predictions",
        lambda row: row["num_steps"] == NUM_STEPS and is_plain(row) and gate_path(row)
        or of_predictions(row) and row["x32_mode"] == "reconciled" and row["path"] == "lead_3",
        level_label, lambda row: "", lambda rows: any(row["x32_mode"] == "reconciled" for row in rows),
        common_seeds=False, metrics=LEVELS),
    "study_constants": Comparison(
        "Constants of sampling, chosen on other noise and other images", "model, path, constants",
        lambda row: is_one_of(row, *CONTESTED) and row["solver"].startswith("ddim") and row["x32_mode"] == "joint"
        and (gate_path(row) or row["path"] in FIXED_LEADS),
        way_label, lambda row: f"{row['num_model_calls']} calls",
        lambda rows: any(row["solver"] != "ddim" for row in rows), common_seeds=False),
    "study_swap": Comparison(
        f"The loss of one, the sampler of the other, {NUM_STEPS} steps", "trained",
        lambda row: row["num_steps"] == NUM_STEPS and row["solver"] == "ddim" and is_one_of(row, *SWAPPED)
        and (row["x32_mode"] == "joint" and (gate_path(row) or row["path"] in FIXED_LEADS)
             or row["x32_mode"] == "random" and gate_path(row)),
        run_label, sampler_label, lambda rows: any(row["path"] in FIXED_LEADS for row in rows), common_seeds=False),
    "study_detail": Comparison(
        f"Detail of the images, {NUM_STEPS} steps", "model; predictions",
        of_predictions, level_label, lambda row: "", lambda rows: True, common_seeds=False, metrics=rows_of("detail")),
}


# --- comparisons ------------------------------------------------------------------------------------------------------

def latest(rows: list[dict]) -> list[dict]:
    """Rows of the checkpoint and path of a run that were measured last; other versions are out of date."""
    versions = grouped(rows, lambda row: (row["checkpoint_hash"], row["path_hash"])).values()
    return max(versions, key=lambda members: max(str(row["finished"]) for row in members))


def spread_over_runs(rows: list[dict], of_training: bool) -> Spread:
    """Mean of the runs' means over the seeds of sampling.

    With `of_training` the spread is over the seeds of training; a single run has none. Otherwise there must be one run,
    and the spread is over the seeds of sampling. Raises InputError for runs that differ in more than the seed, and for
    a seed of sampling that occurs twice.
    """
    by_run = grouped(rows, run_of)
    if len({name for name, _ in by_run}) > 1:
        names = ", ".join(sorted({name for name, _ in by_run}))
        raise InputError(f"study: rows of {names} share a cell, expected one run's")
    spreads = {seed: spread_over_seeds(latest(members)) for (_, seed), members in by_run.items()}
    if not of_training:
        return next(iter(spreads.values()))
    return spread_of([spread.mean for spread in spreads.values()], list(spreads))


def of_common_seeds(cells: list[list[dict]]) -> list[list[dict]]:
    """The rows of each cell with a seed of training that all cells with rows have; all rows if there is no such
    seed."""
    seeds = [set(map(run_seed, rows)) for rows in cells if rows]
    common = set.intersection(*seeds) if seeds else set()
    return [[row for row in rows if run_seed(row) in common] for rows in cells] if common else cells


def scores_without_network(all_rows: list[dict], protocol: dict, metrics) -> str:
    """A sentence with the scores of images that no network made, under that protocol, as far as they were measured."""
    sentences = []
    for model_type, what in WITHOUT_NETWORK.items():
        phrases = []
        for metric in metrics:
            wanted = {**protocol, "metric": metric, "model_type": model_type}
            rows = [row for row in all_rows if all(row[column] == wanted[column] for column in SHARED)]
            if rows:
                phrases.append(f"{SHORT_LABELS[metric]} {format_spread(metric, spread_over_seeds(rows))}")
        if phrases:
            sentences.append(f"{what} in place of generated ones score {', '.join(phrases)}.")
    return " ".join(sentences) or "Noise floor not measured."


def has_seeds_of_training(rows: list[dict]) -> bool:
    """Whether any run was trained with more than one seed."""
    runs = {run_of(row) for row in rows}
    return len({name for name, _ in runs}) < len(runs)


def epochs_of_training(number: int) -> str:
    """The words for it."""
    return f"{number} epoch{'s' * (number != 1)} of training"


def note_of(protocol: dict, members: list[dict], without_network: str) -> str:
    """What was measured, on what, and how the spread is to be read."""
    if has_seeds_of_training(members):
        spread = "mean ± sample standard deviation over the seeds of training, without ± a single one"
    elif len({row["seed"] for row in members}) > 1:
        spread = "one seed of training, mean ± sample standard deviation over the seeds of sampling"
    else:
        spread = "one seed of training and of sampling, so no spread"
    weights = "EMA" if protocol["weights"] == "ema" else protocol["weights"]
    for metric in dict.fromkeys(row["metric"] for row in members):
        if protocol["num_images"] < FEW_IMAGES.get(metric, 0):
            spread += f"; {SHORT_LABELS[metric]} of fewer than {FEW_IMAGES[metric]:,} images is biased upwards"
    metric = members[0]["metric"]
    best = "; best per column in bold where all its cells have the same seeds" if is_ranked(metric) else ""
    return (f"{direction(metric)} {epochs_of_training(protocol['epochs'])}, {protocol['num_images']:,} images a cell, "
            f"{weights} weights, {protocol['precision']}, against {protocol['dataset']}, split {protocol['split']}; "
            f"{spread}{best}. {without_network}")


def order_of(rows: list[dict], label: Callable[[dict], str], by_steps: bool = False) -> list[str]:
    """The labels in the order in which runs and paths are named above. `by_steps`: by the number of steps first."""
    runs, paths = list(LABELS), list(PATH_LABELS)

    def place(row):
        run = 0 if by_steps else runs.index(run_of(row)[0])
        return (row["num_steps"] if by_steps else 0, row["solver"] != "ddim", run,
                paths.index(row["path"]) if row["path"] in paths else len(paths), row["step_size"],
                X32_MODES.index(row["x32_mode"]))
    return list(dict.fromkeys(label(row) for row in sorted(rows, key=place)))


def comparison_tables(rows: list[dict], name: str) -> list[Table]:
    """A table for every protocol in which there is something to compare."""
    comparison = COMPARISONS[name]
    taken = [row for row in rows if row["metric"] in comparison.metrics and run_of(row) and comparison.takes(row)]
    tables = []
    protocol_columns = ["epochs", *(column for column in PROTOCOL if column != "metric")]
    for key, members in sorted(grouped(taken, lambda row: take(row, protocol_columns)).items(), key=str):
        protocol = dict(zip(protocol_columns, key))
        metrics = [metric for metric in comparison.metrics if any(row["metric"] == metric for row in members)]
        row_labels = order_of(members, comparison.row)
        columns = [(metric, label) for metric in metrics
                   for label in order_of(members, comparison.column, by_steps=True)]
        if len(row_labels) < 2 or not comparison.needs(members):
            continue
        found = {}                                      # (metric, column) -> rows of results, a list for each row label
        for metric, column_label in columns:
            cells = [[row for row in members if (row["metric"], comparison.row(row), comparison.column(row))
                      == (metric, row_label, column_label)] for row_label in row_labels]
            found[metric, column_label] = of_common_seeds(cells) if comparison.common_seeds else cells
        used = [row for cells in found.values() for cell in cells for row in cell]
        table = Table(name, comparison.title, note_of(protocol, used, scores_without_network(rows, protocol, metrics)),
                      [comparison.heading, *(", ".join(filter(None, (SHORT_LABELS[metric], label)))
                                             for metric, label in columns)],
                      [[Cell(label)] for label in row_labels])
        for (metric, _), cells in found.items():
            spreads = [spread_over_runs(cell, has_seeds_of_training(used)) if cell else None for cell in cells]
            column = [Cell(format_spread(metric, spread), spread.mean) if spread else Cell("–") for spread in spreads]
            if len({frozenset(map(run_seed, cell)) for cell in cells if cell}) == 1:
                mark_best_of_metric(column, metric)
            for line, cell in zip(table.rows, column):
                line.append(cell)
        tables.append(table)
    return tables


# --- beside the table of results --------------------------------------------------------------------------------------

def without_network_table(rows: list[dict]) -> list[Table]:
    """Scores of images that no network made, by their number: real images, and images of the normal law."""
    rows = [row for row in without_network(rows) if row["metric"] in METRICS]
    tables = []
    columns = ("dataset", "split", "reference_hash")
    for (dataset, split, _), members in grouped(rows, lambda row: take(row, columns)).items():
        metrics = [metric for metric in METRICS if any(row["metric"] == metric for row in members)]
        table = Table("study_floor", "What images score that no network made",
                      f"{dataset}, split {split}: real images against the others, those of the normal law against all; "
                      "mean ± sample standard deviation over draws.",
                      ["images", "drawn", *(SHORT_LABELS[metric] for metric in metrics)])
        by_draw = grouped(members, lambda row: (row["model_type"], row["num_images"]))
        for model_type, number in sorted(by_draw, key=lambda draw: (list(WITHOUT_NETWORK).index(draw[0]), draw[1])):
            drawn, cells = by_draw[model_type, number], []
            for metric in metrics:
                of_metric = [row for row in drawn if row["metric"] == metric]
                spread = spread_over_seeds(of_metric) if of_metric else None
                cells.append(Cell(format_spread(metric, spread), spread.mean) if spread else Cell("–"))
            table.rows.append([Cell(WITHOUT_NETWORK[model_type]), Cell(f"{number:,}", number), *cells])
        tables.append(table)
    return tables


def files_of_runs(folder, pattern: re.Pattern, suffix: str) -> list[tuple[re.Match, Path]]:
    """(match, file) of the files whose name is of a run of the study, by run, seed, epochs, and name."""
    order = list(LABELS)
    found = [(match, path) for path in Path(folder).glob(f"*{suffix}")
             if (match := pattern.match(path.stem)) and match["name"] in LABELS]
    return sorted(found, key=lambda item: (order.index(item[0]["name"]), int(item[0]["seed"]),
                                           int(item[0].groupdict().get("epochs", 0)), item[1].name))


def run_cells(match: re.Match) -> list[Cell]:
    """Model, seed of training, and epochs if the file's name has them."""
    return [Cell(LABELS[match["name"]]), *(Cell(match[part], int(match[part])) for part in ("seed", "epochs")
                                               if part in match.groupdict())]


def identity_table(folder) -> list[Table]:
    """How far each optimised path is from the one that the same optimiser finds for an identity Jacobian."""
    table = Table("study_identity", "How much of a path came from the model",
                  "Mean distance in grid cells between the path found on the model's error map and the one that the "
                  "same optimiser finds for an identity Jacobian; the share of its points where the 32 scale leads in "
                  "log SNR, and what the path does.",
                  ["model", "seed", "epochs", "grid", "path", "step size", "distance (cells)", "32 leads",
                   "what it does"])
    for match, path in files_of_runs(folder, MAP_FILE, ".json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for row in content["paths"]:
                if row["distance"] is not None:
                    table.rows.append([*run_cells(match), Cell(match["grid"], int(match["grid"])),
                                       Cell(PATH_LABELS.get(row["path"], row["path"])),
                                       Cell(content["options"]["step_size"]),
                                       Cell(f"{row['distance']:.2f}", row["distance"]),
                                       Cell(f"{row['share_32_leads']:.0%}", row["share_32_leads"]), Cell(row["kind"])])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is no record of an error map ({type(error).__name__}: {error}); make it "
                             "again") from error
    return [table] if table.rows else []


def error_files(folder, pattern: re.Pattern = ERROR_FILE, conditions=None) -> list[tuple[re.Match, Path, list[dict]]]:
    """(match, file, rows) of every run's file of lift.eval_mse. conditions(rows): what all files have in common, in
    words; left out: the images. Raises InputError for a file that was measured otherwise than the first."""
    conditions = conditions or images_of
    found = []
    for match, path in files_of_runs(folder, pattern, ".csv"):
        with expecting(path, ERROR_CONTENT, "make it again"):
            rows = read_csv(path)
            about = conditions(rows)
        if found and about != (expected := conditions(found[0][2])):
            raise InputError(f"{path}: found {about}, expected {expected} as in the other files; make it again")
        found.append((match, path, rows))
    return found


def images_of(rows: list[dict]) -> str:
    """The images that a file of lift.eval_mse was measured on, in words."""
    return "{num_images} images ({dataset}, split {split})".format(**rows[0])


def samples_of(rows: list[dict]) -> str:
    """The same for a file with --inputs self, with the model's own samples."""
    return images_of(rows) + " and as many of the model's own samples ({num_steps} steps, sampling seed " \
        "{sampling_seed})".format(**rows[0])


def model_error_table(folder) -> list[Table]:
    """LIFT's 64 error over the baseline's, mean over the timesteps, for every run, from the files of lift.eval_mse.

    The timesteps share their images, so the standard error of the mean is at most the mean of the standard errors.
    """
    columns, lines = ("ratio", "ratio_standard_error"), []
    for match, path, rows in error_files(folder):
        with expecting(path, ERROR_CONTENT, "make it again"):
            means = {curve: [fmean(float(row[column]) for row in members) for column in columns]
                     for curve, members in grouped(rows, lambda row: row["curve"]).items()}
        lines.append((match, rows, means))
    if not lines:
        return []
    curves = list(dict.fromkeys(curve for *_, means in lines for curve in means))
    table = Table("study_model_error", "Error of LIFT's 64 prediction over the baseline's",
                  f"Ratio of mean squared noise errors, mean over t_64 from 0 to 999, on {images_of(lines[0][1])} with "
                  "the same noise, ± an upper bound of its standard error over the images. Columns: what t_32 is. "
                  "Below 1, LIFT predicts better.",
                  ["model", "predictions", "seed", "epochs", "beside", *curves])
    for match, rows, means in lines:
        model, seed, epochs = run_cells(match)
        predictions = Cell("reconciled" if match["reconciled"] else "own")
        cells = (Cell("{:.3f} ± {:.3f}".format(*means[curve]), means[curve][0]) if curve in means else Cell("–")
                 for curve in curves)
        table.rows.append([model, predictions, seed, epochs, Cell(rows[0]["baseline"]), *cells])
    return [table]


def exposure_table(folder) -> list[Table]:
    """Error on images and on a model's own samples, and the norm of the noise predicted on what its sampler met, means
    over the steps of a path, from the files of lift.eval_mse --inputs self. A baseline has one line, whatever is
    measured beside it."""
    columns, lines, about = ("error_true", "error_own", "met_over_own", "met_over_true"), {}, ""
    for match, path, rows in error_files(folder, EXPOSURE_FILE, samples_of):
        with expecting(path, ERROR_CONTENT, "make it again"):
            about, beside = samples_of(rows), RUN_WITH_EPOCHS.match(Path(rows[0]["baseline"]).stem)
            for (model, way), members in grouped(rows, lambda row: (row["model"], row["path"])).items():
                run = match if model == "lift" else beside
                if run and run["name"] in LABELS:
                    means = [[fmean(float(row[f"{column}{ending}"]) for row in members)
                              for ending in ("", "_standard_error")] for column in columns]
                    lines[(*run.group("name", "seed", "epochs"), way)] = run_cells(run), means
    if not lines:
        return []
    table = Table("study_exposure", "Error on images, and what a sampler meets",
                  f"Means over the steps of a path, ± an upper bound of the standard error, on {about}. Noise "
                  "error at 64 on both; norm of the noise predicted on what the sampler met, over that on its own "
                  "samples noised, which tells exposure bias, and over that on images.",
                  ["model", "seed", "epochs", "path", "error on images", "error on own samples", "met / own",
                   "met / images"])
    order = list(LABELS)
    for (name, *_, way), (cells, means) in sorted(lines.items(), key=lambda line: order.index(line[0][0])):
        table.rows.append([*cells, Cell(PATH_LABELS[way]), *(Cell("{:.4f} ± {:.4f}".format(*mean), mean[0])
                                                            for mean in means)])
    return [table]


def clean_error_table(folder) -> list[Table]:
    """Error of the clean image that each model's own noise prediction implies, at the noisy end of the diagonal.

    From the files of lift.eval_mse: an error d of the noise is an error d / sqrt(SNR) of x_0.
    """
    errors, about = {}, ""                              # (run, seed, epochs) -> t -> squared error of x_0
    for match, path, rows in error_files(folder):
        if match["reconciled"]:
            continue
        with expecting(path, ERROR_CONTENT, "make it again"):
            noisy = [row for row in rows if row["curve"] == "diagonal" and int(row["t_64"]) >= NOISY_FROM]
            about = f"{images_of(rows)}, weights: {rows[0]['weights']}"
            beside = Path(rows[0]["baseline"])
            runs = [(match["name"], int(match["seed"]), int(match["epochs"]), "mse_lift")]
            if (baseline := RUN.match(run_name(beside))) and baseline["name"] in LABELS:
                runs.append((baseline["name"], int(baseline["seed"]), epoch_of(beside), "mse_baseline"))
            if "mse_linear" in rows[0]:
                runs.append((LINEAR_DENOISER, 0, 0, "mse_linear"))
            for *run, column in runs:
                errors[tuple(run)] = {int(row["t_64"]): float(row[column]) / float(SCHEDULE.snr(int(row["t_64"])))
                                      for row in noisy}
    times = sorted({t for found in errors.values() for t in found}, reverse=True)
    if not times:
        return []
    table = Table("study_clean_error", "Squared error of the predicted clean 64 image, at the noisy end",
                  f"{about}. Both timesteps t; LIFT's own 64 prediction, before it is clipped to [-1, 1]. Mid-grey for "
                  "every pixel would be wrong by the images' mean square, which is below 1.",
                  ["model", "seed", "epochs", *(f"t = {t}" for t in times)])
    labels = {LINEAR_DENOISER: "linear denoiser, no network"} | LABELS
    for name, seed, epochs in sorted(errors, key=lambda run: (list(labels).index(run[0]), *run[1:])):
        found, is_run = errors[name, seed, epochs], name != LINEAR_DENOISER
        table.rows.append([Cell(labels[name]), *(Cell(str(n), n) if is_run else Cell("–") for n in (seed, epochs)),
                           *(Cell(f"{found[t]:.3f}", found[t]) if t in found else Cell("–") for t in times)])
    return [table]


def validation_tables(folder) -> list[Table]:
    """Loss on held-out images during training, of averaged weights, from the trainings' own validation.

    One table per number of epochs: the runs of each lie in a folder of their own.
    """
    folders = {int(match["epochs"]): path for path in Path(folder).glob("training_*ep")
               if (match := TRAINING_FOLDER.match(path.name))}
    return [table for epochs in sorted(folders) for table in validation_table(folders[epochs], epochs)]


def validation_table(folder, num_epochs: int) -> list[Table]:
    """The table of the runs of so many epochs."""
    found = []                                          # (match, epoch -> [loss_64, loss_32 or None])
    for match, path in files_of_runs(folder, VALIDATION_FILE, ".csv"):
        with expecting(path, "table of a training's validation", "train again"):
            found.append((match, {float(row["epoch"]): [float(row["loss_64"]),
                                                        float(row["loss_32"]) if row.get("loss_32") else None]
                                  for row in read_csv(path) if row["weights"] == "ema"}))
    epochs = sorted({epoch for _, losses in found for epoch in losses})
    if not epochs:
        return []
    shown = sorted({epochs[0], epochs[len(epochs) // 2], epochs[-1]})       # a hundred would not fit
    table = Table("study_validation", f"Loss on held-out images during {epochs_of_training(num_epochs)}",
                  "Mean squared error, EMA weights, at the same timesteps and noise for all; LIFT's two timesteps are "
                  "independent, whatever it was trained on. The loss of v is not to be compared with that of the "
                  "noise.",
                  ["model", "seed", *(f"{scale}, epoch {epoch:g}" for scale in (64, 32) for epoch in shown)])
    for match, losses in found:
        values = [losses.get(epoch, (None, None))[scale] for scale in (0, 1) for epoch in shown]
        table.rows.append([*run_cells(match), *(Cell("–") if value is None else Cell(f"{value:.4f}", value)
                                                for value in values)])
    return [table]


def tables_named(name: str, rows: list[dict], folder) -> list[Table]:
    """The tables of a marker's name, one of NAMES. rows: of the table of results; folder: where it lies."""
    if name in COMPARISONS:
        return comparison_tables(of_latest_trainings(rows), name)
    if name == "study_floor":
        return without_network_table(rows)
    return FILE_TABLES[name](Path(folder) / "study")


FILE_TABLES = {"study_identity": identity_table, "study_model_error": model_error_table,
               "study_exposure": exposure_table,
               "study_clean_error": clean_error_table, "study_validation": validation_tables}
NAMES = ("study_floor", *COMPARISONS, *FILE_TABLES)
