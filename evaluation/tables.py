"""Tables of results: which measurements belong side by side, their mean and spread over seeds, and their layout.

A table holds one metric under one protocol (data set, split, reference, number of images, weights, precision), so
that only numbers that can be compared stand beside each other: epochs are rows, ways of sampling are columns.
"""
import csv
import math
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import InputError
from evaluation.results_table import FEW_IMAGES, KEY_COLUMNS, OF_LEVEL

HIGHER_IS_BETTER = ("precision", "recall", "precision_lite0", "recall_lite0", "groups")
UNRANKED = ("kurtosis", "contrast")         # good where real images have the same
METRIC_LABELS = {"fid": "FID", "kid": "KID", "precision": "Precision", "recall": "Recall",
                 "fd_lite0": "Fréchet distance of EfficientNet-Lite0's features (fd_lite0, not FID)",
                 "kd_lite0": "Kernel distance of EfficientNet-Lite0's features (kd_lite0, not KID)",
                 "precision_lite0": "Precision in EfficientNet-Lite0's features",
                 "recall_lite0": "Recall in EfficientNet-Lite0's features",
                 "groups": "Share of images in the group of their class, animal or vehicle, by EfficientNet-Lite0",
                 "fd_tiny": "Fréchet distance of a small classifier's features (fd_tiny, not FID; history, measured no "
                            "more)",
                 "swd": "Sliced Wasserstein distance, mean of the levels"}
LEVEL_LABELS = {"swd": "Sliced Wasserstein distance", "kurtosis": "Kurtosis of the detail",
                "contrast": "Contrast of the detail"}
DECIMALS = {"fid": 2, "kid": 5, "precision": 3, "recall": 3, "kd_lite0": 4, "precision_lite0": 3,
            "recall_lite0": 3, "groups": 3}        # other metrics: four significant digits
FILE_HASH = re.compile(r"(?<=ep)_[0-9a-f]{16}")         # of a guiding checkpoint, another one for every training
PROTOCOL = ("metric", "dataset", "split", "reference_hash", "num_images", "weights", "precision")
ALIKE = tuple(name for name in PROTOCOL if name != "reference_hash")     # what a reader sees of it
APART = (*PROTOCOL, "seed")     # what rows have in common whose mean over trainings is taken; seed: the images'
ROW = ("epochs", "num_steps", "num_model_calls")
COLUMN = ("name", "path", "step_size", "solver", "x32_mode")


@dataclass
class Cell:
    """One cell: what is shown, what it is sorted by (None: empty, sorted last), and whether it is the row's best."""
    text: str
    value: float | None = None
    best: bool = False


@dataclass
class Table:
    """A table, and a note above it that says what it holds."""
    name: str
    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]] = field(default_factory=list)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, its title and note above it."""
        def escaped(text):
            return text.replace("|", "\\|")
        lines = [f"**{escaped(self.title)}.** {escaped(self.note)}".strip(), "",
                 "| " + " | ".join(map(escaped, self.header)) + " |",
                 "|" + "|".join(" ---: " if is_numeric(self, k) else " --- " for k in range(len(self.header))) + "|"]
        for row in self.rows:
            cells = [f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text) for cell in row]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def is_numeric(table: Table, column: int) -> bool:
    """Whether any cell of that column has a number."""
    return any(row[column].value is not None for row in table.rows)


# --- mean and spread ------------------------------------------------------------------------------------------------

@dataclass
class Spread:
    """Values of one measurement under several seeds."""
    seeds: list[int]
    mean: float
    standard_deviation: float | None        # of the sample (n - 1); None for a single seed


def spread_of(values: list[float], seeds: list[int]) -> Spread:
    """Mean and sample standard deviation of values measured under these seeds, each once."""
    return Spread(sorted(seeds), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def spread_over_seeds(rows: list[dict]) -> Spread:
    """Mean and sample standard deviation of rows that differ in their seed alone. Raises InputError if one recurs."""
    seeds = sorted(row["seed"] for row in rows)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"results of {rows[0]['checkpoint']}, {rows[0]['path']}, {rows[0]['metric']}: a seed occurs "
                         f"twice among {seeds}, expected each once; delete one of the rows")
    return spread_of([row["value"] for row in rows], seeds)


def metric_label(metric: str) -> str:
    """A metric's name in titles; it may be of one level of a pyramid, such as swd_32."""
    if not OF_LEVEL.fullmatch(metric):
        return METRIC_LABELS.get(metric, metric)
    kind, level = metric.split("_")
    return f"{LEVEL_LABELS[kind]}, level {level}"


def format_value(metric: str, value: float) -> str:
    """A metric's value with the digits that its table shows."""
    if metric in DECIMALS:
        return f"{value:.{DECIMALS[metric]}f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def format_spread(metric: str, spread: Spread) -> str:
    """`mean ± standard deviation`, or the mean alone for a single seed."""
    text = format_value(metric, spread.mean)
    if spread.standard_deviation is None:
        return text
    digits = len(text.partition(".")[2])
    return f"{text} ± {spread.standard_deviation:.{digits}f}"


def is_ranked(metric: str) -> bool:
    """Whether lower, or higher, is better."""
    return metric.partition("_")[0] not in UNRANKED


def mark_best(cells: list[Cell], higher: bool) -> None:
    """Mark the best of some cells; equal ones are all marked, a value that stands alone is not."""
    values = [cell.value for cell in cells if cell.value is not None and math.isfinite(cell.value)]
    if len(values) > 1:
        best = max(values) if higher else min(values)
        for cell in cells:
            cell.best = cell.value == best


def mark_best_of_metric(cells: list[Cell], metric: str) -> None:
    """`mark_best` in the metric's own direction; nothing where it has none."""
    if is_ranked(metric):
        mark_best(cells, metric in HIGHER_IS_BETTER)


# --- which measurements belong together -----------------------------------------------------------------------------

def run_name(checkpoint: str) -> str:
    """The name of the training run in a checkpoint's file name: `baseline` for `baseline_20ep.pth`."""
    return re.sub(r"(_\d+ep)?\.pth$", "", Path(checkpoint).name)


def solver_of_row(row: dict) -> str:
    """Solver and constants of a row, alike for all seeds of training: without the hash of a guiding checkpoint."""
    return FILE_HASH.sub("", row["solver"])


def take(row: dict, names) -> tuple:
    """The values of some columns; `name` stands for the training run's name."""
    return tuple(run_name(row["checkpoint"]) if name == "name" else row[name] for name in names)


def grouped(rows: list[dict], key) -> dict:
    """Rows by `key(row)`, in order of first occurrence."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def earlier_trainings(rows: list[dict]) -> dict[tuple, int]:
    """How often a name was trained anew after a checkpoint: (model_type, name, checkpoint_hash) -> 0 for the latest.

    A name has been trained anew if another checkpoint of the same epoch is measured. All checkpoints that were first
    measured before this one belong to an earlier training.
    """
    numbers = {}
    for (model_type, name), members in grouped(rows,
                                               lambda row: (row["model_type"], run_name(row["checkpoint"]))).items():
        first = {}                                              # hash -> (when it was first measured, itself)
        for row in members:
            when = (str(row["finished"]), row["checkpoint_hash"])
            first[row["checkpoint_hash"]] = min(first.get(row["checkpoint_hash"], when), when)
        of_epoch = [{row["checkpoint_hash"] for row in own}
                    for own in grouped(members, lambda row: row["epochs"]).values()]
        training = {this: max(sum(first[other] <= first[this] for other in hashes) for hashes in of_epoch)
                    for this in first}
        numbers |= {(model_type, name, this): max(training.values()) - number for this, number in training.items()}
    return numbers


def of_latest_trainings(rows: list[dict]) -> list[dict]:
    """The rows of the latest training of each name."""
    numbers = earlier_trainings(rows)
    return [row for row in rows if not numbers[row["model_type"], run_name(row["checkpoint"]), row["checkpoint_hash"]]]


def of_latest_paths(rows: list[dict]) -> list[dict]:
    """Of rows that differ in the path behind its name alone, or in nothing, the one measured last."""
    alike = [column for column in KEY_COLUMNS if column != "path_hash"]
    return [max(own, key=lambda row: str(row["finished"]))
            for own in grouped(rows, lambda row: take(row, alike)).values()]


def by_protocol(rows: list[dict], metric: str) -> dict[str, list[dict]]:
    """The rows of a metric, apart where a mean over trainings would join what cannot be compared (APART): what is
    said of the protocol -> its rows.

    Of a name that was trained anew, and of a path that was found anew, the latest counts. A line is printed for rows
    that are left out, and one for rows that are kept apart.
    """
    latest = [row for row in of_latest_paths(of_latest_trainings(rows)) if row["metric"] == metric]
    num_left_out = sum(row["metric"] == metric for row in rows) - len(latest)
    protocols = {}
    for values, own in grouped(latest, lambda row: take(row, APART)).items():
        row = dict(zip(APART, values))
        protocols[f"{row['num_images']:,} images of seed {row['seed']}, {weights_word(row['weights'])} weights, "
                  f"{row['precision']}, against {row['dataset']}, split {row['split']} "
                  f"({row['reference_hash']})"] = own
    if num_left_out:
        print(f"{metric}: rows left out: {num_left_out}, of an earlier training or path of the same name", flush=True)
    if len(protocols) > 1:
        print(f"{metric}: {len(latest)} rows of {len(protocols)} protocols, which are not joined: "
              f"{'; '.join(protocols)}", flush=True)
    return protocols


@dataclass
class Comparison:
    """Measurements of one metric under one protocol. `cells`: (row, column) -> Spread; columns carry their label."""
    protocol: dict
    row_keys: list[tuple]               # values of ROW, rising
    labels: list[str]                   # one per column
    cells: dict                         # (row key, label) -> Spread
    paths: dict                         # label -> path type
    constants: dict                     # ROW and COLUMN attributes that are the same throughout
    has_earlier: bool


@dataclass(frozen=True)
class Names:
    """What a system calls its ways of sampling."""
    paths: dict = field(default_factory=dict)       # path type -> label, in the order of the columns
    runs: dict = field(default_factory=dict)        # model type -> the name of its usual run, which a label leaves out


def column_label(column: dict, all_columns: list[dict], model_type: str, names: Names) -> str:
    """What a column is called: the path, and what tells it from the other columns."""
    words = [names.paths.get(column["path"], column["path"])]
    if column["name"] != names.runs.get(model_type):
        words.append(column["name"])
    if len({c["solver"] for c in all_columns}) > 1:
        words.append(column["solver"])
    if len({c["step_size"] for c in all_columns if c["step_size"]}) > 1 and column["step_size"]:
        words.append(column["step_size"])
    if column["x32_mode"] not in ("joint", ""):
        words.append(f"32 {column['x32_mode']}")
    return ", ".join(words)


def unique_labels(labels: list[str], columns: list[dict]) -> list[str]:
    """Labels that tell any two columns apart; equal ones are replaced by everything that is known of the column."""
    return [label if labels.count(label) == 1 else
            f"{label} ({', '.join(f'{name} {value or None}' for name, value in column.items() if name != 'path')})"
            for label, column in zip(labels, columns)]


def compare(rows: list[dict], metric: str, names: Names = Names()) -> list[Comparison]:
    """Everything measured in one metric, as one Comparison per protocol.

    Trainings of the same name are kept apart, and so are paths of the same name in a row and a column: the latest has
    the plain label, and the others get columns `earlier training 1`, `earlier 1`, ...
    """
    order, trainings = list(names.paths), earlier_trainings(rows)
    comparisons = []
    rows = [row for row in rows if row["metric"] == metric]
    for protocol, members in sorted(grouped(rows, lambda row: take(row, PROTOCOL)).items(), key=str):
        column_keys = sorted({(row["model_type"], *take(row, COLUMN)) for row in members}, key=lambda key: (
            key[0] != "baseline", order.index(key[2]) if key[2] in order else len(order), key[1:]))
        columns = [dict(zip(COLUMN, key[1:])) for key in column_keys]
        labels = unique_labels([column_label(column, columns, key[0], names)
                                for key, column in zip(column_keys, columns)], columns)
        ranked = {}                                             # label -> {row key: Spread}, in column order
        paths = {}
        for column_key, column, name in zip(column_keys, columns, labels):
            own = [row for row in members if (row["model_type"], *take(row, COLUMN)) == column_key]
            by_cell = grouped(own, lambda row: (trainings[row["model_type"], run_name(row["checkpoint"]),
                                                          row["checkpoint_hash"]], take(row, ROW)))
            for (training, row_key), in_cell in sorted(by_cell.items(), key=lambda item: item[0]):
                variants = grouped(in_cell, lambda row: (row["checkpoint_hash"], row["path_hash"])).values()
                latest_first = sorted(variants, key=lambda v: max(str(row["finished"]) for row in v), reverse=True)
                for rank, variant in enumerate(latest_first):
                    label = name + f", earlier training {training}" * bool(training) + f", earlier {rank}" * bool(rank)
                    ranked.setdefault(label, {})[row_key] = spread_over_seeds(variant)
                    paths[label] = column["path"]
        cells = {(row_key, label): spread for label, spreads in ranked.items() for row_key, spread in spreads.items()}
        constants = {name: values.pop() for name in ROW + COLUMN[2:4]
                     if len(values := {take(row, [name])[0] for row in members} - {""}) == 1}
        comparisons.append(Comparison(dict(zip(PROTOCOL, protocol)), sorted({key for key, _ in cells}), list(ranked),
                                      cells, paths, constants, any(", earlier " in label for label in ranked)))
    return comparisons


def direction(metric: str) -> str:
    """Which values of a metric are good, as a sentence."""
    if not is_ranked(metric):
        return "To be compared with what real images score (`evaluation.noise_floor`)."
    return f"{'Higher' if metric in HIGHER_IS_BETTER else 'Lower'} is better."


def weights_word(weights: str) -> str:
    """What a text calls the weights `ema` or `raw`."""
    return weights.upper() if weights == "ema" else weights


def protocol_note(comparison: Comparison) -> str:
    """What was measured, on what, in one sentence or two."""
    protocol, constants = comparison.protocol, comparison.constants
    words = [f"{constants['num_steps']} steps"] if "num_steps" in constants else []
    if constants.get("num_model_calls") not in (None, constants.get("num_steps")):
        words.append(f"{constants['num_model_calls']} network calls")
    words += [f"solver {constants['solver']}"] if "solver" in constants else []
    words += [f"step size {constants['step_size']}"] if "step_size" in constants else []
    words += [f"{weights_word(protocol['weights'])} weights", protocol["precision"],
              f"against {protocol['dataset']}, split {protocol['split']}"]
    counts = sorted({len(spread.seeds) for spread in comparison.cells.values()})
    note = f"{direction(protocol['metric'])} " + ", ".join(words) + "; "
    if counts == [1]:
        note += "one seed, so no spread"
    else:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        note += f"mean ± sample standard deviation over {number} seeds"
    note += "; best per row in bold." if is_ranked(protocol["metric"]) else "."
    if protocol["num_images"] < FEW_IMAGES.get(protocol["metric"], 0):
        few = FEW_IMAGES[protocol["metric"]]
        note += f" Fewer than {few:,} images: biased upwards, compare within this table only."
    if comparison.has_earlier:
        note += " Earlier: another path, or another training, under the same name, measured before."
    return note


def metric_tables(rows: list[dict], metric: str, names: Names = Names(), marker: str | None = None) -> list[Table]:
    """One table per protocol: epochs down, ways of sampling across. marker: what a text calls it; None: the metric."""
    tables, comparisons = [], compare(rows, metric, names)
    for comparison in comparisons:
        heads = [label for label, key in (("epoch", "epochs"), ("steps", "num_steps"), ("calls", "num_model_calls"))
                 if key == "epochs" or key not in comparison.constants]
        title = f"{metric_label(metric)}, {comparison.protocol['num_images']:,} images"
        note = protocol_note(comparison)
        if sum(take(other.protocol, ALIKE) == take(comparison.protocol, ALIKE) for other in comparisons) > 1:
            note += f" The real images are those of hash {comparison.protocol['reference_hash']}."
        table = Table(marker or metric, title, note, heads + comparison.labels)
        for row_key in comparison.row_keys:
            first = [Cell(str(value), value) for column, value in zip(ROW, row_key)
                     if column == "epochs" or column not in comparison.constants]
            cells = []
            for label in comparison.labels:
                spread = comparison.cells.get((row_key, label))
                cells.append(Cell(format_spread(metric, spread), spread.mean) if spread else Cell("–"))
            mark_best_of_metric(cells, metric)
            table.rows.append(first + cells)
        tables.append(table)
    return tables


def bf16_tables(rows: list[dict], names: Names = Names()) -> list[Table]:
    """What bf16 changes: measurements made in both precisions with the same seeds, everything else being equal."""
    both = ("bf16", "float32")
    table = Table("bf16", "bf16 against float32 generation",
                  "The same checkpoint, path and seeds in both; mean ± sample standard deviation over the seeds, of "
                  "the difference too.",
                  ["checkpoint", "path", "32 branch", "steps", "images", "metric", *both, "bf16 − float32"])
    alike = [column for column in KEY_COLUMNS if column not in ("precision", "seed")]
    for members in grouped(rows, lambda row: take(row, alike)).values():
        values = {name: {row["seed"]: row["value"] for row in members if row["precision"] == name} for name in both}
        seeds = sorted(set(values["bf16"]) & set(values["float32"]))
        if not seeds:
            continue
        first = members[0]
        columns = [[values[name][seed] for seed in seeds] for name in both]
        columns.append([a - b for a, b in zip(*columns)])
        table.rows.append([Cell(first["checkpoint"]), Cell(names.paths.get(first["path"], first["path"])),
                           Cell(first["x32_mode"] or "–"), Cell(str(first["num_steps"]), first["num_steps"]),
                           Cell(f"{first['num_images']:,}", first["num_images"]), Cell(first["metric"]),
                           *(Cell(format_spread(first["metric"], spread), spread.mean)
                             for spread in (spread_of(column, seeds) for column in columns))])
    return [table] if table.rows else []


# --- tables of the other measurements -------------------------------------------------------------------------------

def read_csv(path) -> list[dict]:
    """Rows of a CSV with a header, values as text. Raises InputError if it cannot be read."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: could not be read as CSV ({error}); make it again") from error
    if any(None in row or None in row.values() for row in rows):
        raise InputError(f"{path}: a line has another number of cells than the header; make it again")
    return rows


