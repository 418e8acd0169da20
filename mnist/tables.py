"""The tables of this family's text, from the files in results/published/mnist."""
import csv
import json
from pathlib import Path

from engine.files import expecting
from evaluation.digit_scores import SCORES
from evaluation.tables import Cell, Table
from evaluation.text_tables import UnknownTable, with_tables

TEXT, FOLDER = Path("mnist/README.md"), Path("results/published/mnist")
NOT_RUN = "not run"


def number(value, digits: str = ".3g") -> Cell:
    """A cell; empty text is a dash."""
    return Cell("–") if value in ("", None) else Cell(format(float(value), digits), float(value))


def scores_of(row: dict) -> list[Cell]:
    """Cells of accuracy, distance and diversity; a row without scores was not run, and its cells say so."""
    return [number(row[name], ".3f" if name == "accuracy" else ".3g") if name in row else Cell(NOT_RUN)
            for name in SCORES]


def quality_table(found: dict) -> Table:
    """A row per model, seed and way of sampling."""
    rows = []
    for row in found["rows"]:
        expected = ", ".join(f"{name} {value:g}" for name, value in row["expected"].items())
        minutes = row["training_seconds"] / 60 if "training_seconds" in row else None
        rows.append([Cell(row["model"]), Cell(str(row["seed"])), Cell(row["sampling"]), number(row.get("calls"), ".0f"),
                     number(row.get("training_steps"), ".0f"), number(minutes, ".0f"), *scores_of(row), Cell(expected)])
    if found["real digits"]:
        rows.append([Cell("real digits"), *[Cell("–")] * 5, *scores_of(found["real digits"]), Cell("–")])
    return Table("quality", "Quality of short trainings", f"{found['num_samples']:,} images each, classes balanced. "
                 "Expected: as written down before the measurement. Minutes: of one core, which did other work too.",
                 ["model", "seed", "sampling", "calls", "steps", "minutes", *SCORES, "expected"], rows)


def damages_table(found: dict) -> Table:
    """Test digits with known damages, beside several draws of real ones."""
    return Table("damages", "What damage does to the scores", f"{found['options']['num_samples']:,} digits each.",
                 ["digits", *SCORES], [[Cell(row["what"]), *scores_of(row)] for row in found["rows"]])


def benchmark_table(found: dict) -> Table:
    """Training and sampling against plain loops."""
    rates = found["images_per_second"]
    rows = [[Cell(what), number(rates[f"{what} plain"]), number(rates[f"{what} ours"]), number(found[ratio], ".2f"),
             Cell(f"{found['target']:g}" if what == "training" else "–")]
            for what, ratio in (("training", "ratio"), ("sampling", "sampling_ratio"))]
    return Table("mnist_step", "The documented DDPM against a plain loop", f"{found['device']}, {found['precision']}, "
                 f"batches of {found['batch_size']}, {found['rounds']} rounds in alternation; images per second, of "
                 "sampling and call.", ["what", "plain", "ours", "ratio", "target"], rows)


def first_flow_table(rows: list[dict]) -> Table:
    """The flow of 2,000 steps."""
    calls = [2 * int(row["num_steps"] or 0) * (1 if row["guidance_scale"] == "1.0" else 2) for row in rows]
    return Table("flow_2000_steps", "The flow after 2,000 steps", "1,000 images, seed 0.",
                 ["guidance w", "calls", *SCORES],
                 [[Cell(row["guidance_scale"]), number(count or None, ".0f"), *scores_of(row)]
                  for row, count in zip(rows, calls)])


TABLES = {"quality": ("quality.json", quality_table), "damages": ("damages.json", damages_table),
          "mnist_step": ("mnist_step.json", benchmark_table),
          "flow_2000_steps": ("flow_2000_steps_scores.csv", first_flow_table)}


def tables_named(name: str, folder=FOLDER) -> list[Table]:
    """The table that a marker names; none if its file is missing. Raises UnknownTable for an unknown name, InputError
    for a foreign file."""
    if name not in TABLES:
        raise UnknownTable(f"table:{name}: found {name!r}, expected one of {', '.join(TABLES)}")
    file_name, make = TABLES[name]
    path = Path(folder) / file_name
    if not path.is_file():
        return []
    with expecting(path, "measurement of the digit models"), open(path, newline="", encoding="utf-8") as file:
        return [make(list(csv.DictReader(file)) if path.suffix == ".csv" else json.load(file))]


def text_with_tables(text: str, folder=FOLDER) -> str:
    """This family's text with its tables written anew."""
    return with_tables(text, lambda name: tables_named(name, folder), str(TEXT), folder, may_empty=True)
