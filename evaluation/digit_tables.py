"""Tables of what was measured of models that draw digits, from files such as those in results/published/mnist."""
import json
from pathlib import Path

from engine.files import expecting
from evaluation.digit_scores import SCORES
from evaluation.tables import Cell, Table
from evaluation.text_tables import UnknownTable

NOT_RUN = "not run"
JUDGED = {"fd_digits": 1, "accuracy": -1}       # what two times are judged by; 1: lower is better


def number(value, digits: str = ".3g") -> Cell:
    """A cell; empty text is a dash."""
    return Cell("–") if value in ("", None) else Cell(format(float(value), digits), float(value))


def scores_of(row: dict) -> list[Cell]:
    """Cells of accuracy, distance and diversity; a row without scores was not run, and its cells say so."""
    return [number(row[name], ".3f" if name == "accuracy" else ".3g") if name in row else Cell(NOT_RUN)
            for name in SCORES]


def quality_table(found: dict, asked: dict) -> Table:
    """A row per model, seed and way of sampling. asked: model -> way of sampling -> what was asked of it."""
    rows = []
    for row in found["rows"]:
        expected = ", ".join(f"{name} {value:g}" for name, value in row["expected"].items())
        minutes = row["training_seconds"] / 60 if "training_seconds" in row else None
        rows.append([Cell(row["model"]), Cell(str(row["seed"])), Cell(row["sampling"]), number(row.get("calls"), ".0f"),
                     number(row.get("training_steps"), ".0f"), number(minutes, ".0f"),
                     Cell(f"{row['training_processor']}, {row['precision']}" if minutes else "–"), *scores_of(row),
                     Cell(expected),
                     Cell(asked.get(row["model"], {}).get(row["sampling"], "–"))])
    if found["real digits"]:
        rows.append([Cell("real digits"), *[Cell("–")] * 6, *scores_of(found["real digits"]), *[Cell("–")] * 2])
    return Table("quality", "Quality of short trainings", f"{found['num_samples']:,} images each, classes balanced. "
                 "Expected: as written down before the measurement; asked: of this family. "
                 "Minutes: of one core, which did other work too.",
                 ["model", "seed", "sampling", "calls", "steps", "minutes", "trained on", *SCORES, "expected", "asked"],
                 rows)


def damages_table(found: dict) -> Table:
    """Test digits with known damages, beside several draws of real ones."""
    note = f"{found['options']['num_samples']:,} digits each."
    if "classifier_accuracy" in found:
        note += f" The classifier that scores them names {found['classifier_accuracy']:.1%} of the test digits right."
    if "drawn_accuracy" in found:
        note += (" A classifier that has seen drawn digits alone (`--dataset digits`) names "
                 f"{found['drawn_accuracy']:.1%} of the real test digits right; chance is 10%.")
    return Table("damages", "What damage does to the scores", note,
                 ["digits", *SCORES], [[Cell(row["what"]), *scores_of(row)] for row in found["rows"]])


def benchmark_table(found: dict) -> Table:
    """Training and sampling against plain loops."""
    rates = found["images_per_second"]
    rows = [[Cell(what), number(rates[f"{what} plain"]), number(rates[f"{what} ours"]), number(found[ratio], ".2f"),
             Cell(f"{found['target']:g}")]
            for what, ratio in (("training", "ratio"), ("sampling", "sampling_ratio"))]
    name = "mnist_step" if found["precision"] == "float32" else f"mnist_step_{found['precision']}"
    return Table(name, "The documented DDPM against a plain loop", f"{found['device']}, {found['precision']}, "
                 f"batches of {found['batch_size']}, {found['rounds']} rounds in alternation; images per second, of "
                 "sampling and call.", ["what", "plain", "ours", "ratio", "target"], rows)


def exact_table(found: dict) -> Table:
    """A network's error of the clean image beside that of the exact denoiser of its training digits (mnist.tour)."""
    exact = found["exact"]
    columns = {f"{who}, {digits}": errors for digits, both in exact["errors"].items() for who, errors in both.items()}
    rows = [[Cell(f"{share:.0%}"), *(number(errors[k], ".3f") for errors in columns.values())]
            for k, share in enumerate(exact["shares"])]
    return Table("exact", "Error of the predicted clean image", f"Root mean square per pixel of -1 ... 1, no class; "
                 f"the network is a {exact['model']} of {found['options'][exact['model']].split('/')[-1]}.",
                 ["share of noise", *columns], rows)


def memorising_table(found: dict) -> Table:
    """How far samples lie from the training digits that are nearest to them (mnist.tour)."""
    return Table("memorising", "Distance to the nearest training digit", "Median root mean square difference per pixel "
                 "of -1 ... 1. A model that copies is at 0.", ["images", "distance"],
                 [[Cell(title), number(distance, ".3f")] for title, distance in found["exact"]["distances"].items()])


def digit_correction(row: dict) -> str:
    """What was chosen to correct a cell's exposure bias, in words."""
    if row["told_log_snr"]:
        return f"told −{row['told_log_snr']:g}"
    return f"noise × {row['eps_scale']:g}" if row["eps_scale"] != 1 else "none"


def beside_baseline(rows: list[dict], own: list[dict], calls: list[int], score: str, sign: int) -> str:
    """At which calls all seeds of a line are better, or worse, than all of the baseline with the same correction or
    none. rows: all; own: of the line; sign: 1 of a score that is better if it is lower, else -1."""
    ahead, behind = [], []
    for number in calls:
        values = [sign * row[score] for row in own if row["calls"] == number]
        baseline = [sign * row[score] for row in rows if (row["cell"], row["calls"], row["corrected"]) == (
            "baseline", number, own[0]["corrected"])]
        if min(len(values), len(baseline)) > 1 and own[0]["cell"] != "baseline":
            ahead += [str(number)] * (max(values) < min(baseline))
            behind += [str(number)] * (min(values) > max(baseline))
    parts = [f"{word} at {', '.join(found)}" for word, found in (("ahead", ahead), ("behind", behind)) if found]
    return "; ".join(parts) or "–"


def dual_digits_table(found: dict) -> Table:
    """A row per model, lead and correction; fd_digits at each number of calls, mean and deviation over the seeds."""
    rows, lines = found["rows"], found["summary"]
    calls = sorted({line["calls"] for line in lines})
    seeds = sorted({line["seeds"] for line in lines})
    keys = list(dict.fromkeys((row["cell"], row["shift"], row["corrected"]) for row in rows))
    changed = {(row["cell"], row["shift"]) for row in rows if row["corrected"] and digit_correction(row) != "none"}
    as_before = [key for key in keys if key[2] and key[:2] not in changed]
    keys = [key for key in keys if key not in as_before]
    table = Table("dual_digits", "Two times against one",
                  f"Digits, {found['options']['steps']:,} steps of training, {' to '.join(map(str, seeds))} seeds a "
                  f"row, {found['options']['num_samples']:,} images each. fd_digits (lower is better), mean ± "
                  "deviation over seeds. Corrected: by the constants in the last column, one for each number of calls, "
                  "chosen on the training of another seed. "
                  + f"For {len(as_before)} lines no correction was best, so they are shown once. " * bool(as_before)
                  + "Beside the baseline, by either score: at which calls all seeds are on one side of all of its "
                  "seeds, with the same correction or none. A result counts where both agree. Expected: "
                  f"{found['expected']}",
                  ["model", "coarse part", "corrected", *(f"{number} calls" for number in calls),
                   f"accuracy at {calls[-1]}", f"GFLOP at {calls[-1]}", f"ms at {calls[-1]}",
                   *(f"beside the baseline, {score}" for score in JUDGED), "constants"])
    for cell, shift, is_corrected in keys:
        own = [row for row in rows if (row["cell"], row["shift"], row["corrected"]) == (cell, shift, is_corrected)]
        of_calls = [next(line for line in lines if (line["cell"], line["shift"], line["corrected"], line["calls"]) == (
            cell, shift, is_corrected, number)) for number in calls]
        scores = [Cell(f"{line['fd_digits']:.2f}"
                       + (f" ± {line['fd_digits_deviation']:.2f}" if line["seeds"] > 1 else ""), line["fd_digits"])
                  for line in of_calls]
        last = of_calls[-1]
        table.rows.append([Cell(cell), Cell("equal times" if shift == 1 else "ahead"),
                           Cell("yes" if is_corrected else "no"), *scores, number(last["accuracy"], ".3f"),
                           number(last["gflop"], ".2f"), number(1000 * last["seconds_per_image"], ".1f"),
                           *(Cell(beside_baseline(rows, own, calls, *judged)) for judged in JUDGED.items()),
                           Cell("; ".join(map(digit_correction, of_calls)) if is_corrected else "–")])
    return table


TABLES = {"quality": ("quality.json", quality_table), "damages": ("damages.json", damages_table),
          **{name: (f"{name}.json", benchmark_table) for name in ("mnist_step", "mnist_step_bf16")},
          "exact": ("tour.json", exact_table), "memorising": ("tour.json", memorising_table),
          "dual_digits": ("dual_digits.json", dual_digits_table)}


def tables_named(name: str, folder, asked: dict) -> list[Table]:
    """The table that a marker names, of its file in `folder`; none if that is missing. asked: as in `quality_table`.
    Raises UnknownTable for an unknown name, InputError for a foreign file."""
    if name not in TABLES:
        raise UnknownTable(f"table:{name}: found {name!r}, expected one of {', '.join(TABLES)}")
    file_name, make = TABLES[name]
    path = Path(folder) / file_name
    if not path.is_file():
        return []
    with expecting(path, "measurement of the digit models"), open(path, encoding="utf-8") as file:
        found = json.load(file)
        return [make(found, asked) if make is quality_table else make(found)]
