"""The table of results, `results/fid_results.csv`: a row per measured value, written by several processes at once.

`add` takes a lock on a side file, reads the table, writes it whole under a temporary name and renames that. So no
process loses another's rows. After a kill or on a full disk the table is the earlier one or the new one, never half of
it. Lines that cannot be read as rows are named by number and kept byte for byte.
"""
import csv
import io
import math
import re
import sys
from pathlib import Path

from engine.errors import InputError
from engine.files import locked, written_whole

COLUMNS = ("checkpoint", "checkpoint_hash", "model_type", "epochs", "weights", "path", "path_hash", "step_size",
           "solver", "x32_mode", "precision", "num_steps", "num_model_calls", "seed", "num_images", "dataset", "split",
           "reference_hash", "metric", "value", "standard_error", "git_revision", "finished")
COST_COLUMNS = ("gflop", "seconds_per_image")       # of an image; rows of earlier versions end before them
HEADERS = [",".join(COLUMNS + COST_COLUMNS), ",".join(COLUMNS)]         # of a table, and of an earlier one
KEY_COLUMNS = COLUMNS[:-4]              # what was measured; the last four say what came out, and when
WHOLE_NUMBERS = ("epochs", "num_steps", "num_model_calls", "seed", "num_images")
REAL_NUMBERS = ("value", "standard_error")
# Metric -> dimensions of its features: with fewer images its covariance is singular, its value biased upwards.
FEW_IMAGES = {"fid": 2048, "fd_lite0": 1280}
# fd_tiny is history: an earlier measure, on a classifier of the project's own. It is no longer computed.
METRICS = ("fid", "kid", "precision", "recall", "fd_lite0", "kd_lite0", "precision_lite0", "recall_lite0", "groups",
           "fd_tiny", "swd", "swd_64", "swd_32", "swd_16", "kurtosis_64", "kurtosis_32", "contrast_64", "contrast_32")
OF_LEVEL = re.compile(r"(swd|kurtosis|contrast)_[1-9]\d*")         # of images of other sizes


def metrics_of(rows: list[dict]) -> list[str]:
    """The metrics of some rows, in the order of METRICS, then levels of other sizes."""
    found = {row["metric"] for row in rows}
    return [*(metric for metric in METRICS if metric in found), *sorted(found - set(METRICS))]


def parse_line(line: str) -> dict:
    """The row in one line, with numbers converted; an absent standard error is None, an absent cost no key at all.
    Raises ValueError."""
    try:
        fields = next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration) as error:
        raise ValueError(str(error) or "found an empty line") from error
    if len(fields) not in (len(COLUMNS), len(COLUMNS) + len(COST_COLUMNS)):
        raise ValueError(f"found {len(fields)} fields, expected {len(COLUMNS) + len(COST_COLUMNS)}")
    row = dict(zip(COLUMNS, fields))
    costs = {column: text for column, text in zip(COST_COLUMNS, fields[len(COLUMNS):]) if text}
    for column in (*WHOLE_NUMBERS, *REAL_NUMBERS, *costs):
        text = row[column] = costs.get(column, row.get(column))
        if column == "standard_error" and text == "":
            row[column] = None
            continue
        try:
            row[column] = int(text) if column in WHOLE_NUMBERS else float(text)
        except ValueError:
            raise ValueError(f"found {text!r} in column {column}, expected a number") from None
        if not math.isfinite(row[column]):
            raise ValueError(f"found {text!r} in column {column}, expected a finite number")
    if row["metric"] not in METRICS and not OF_LEVEL.fullmatch(row["metric"]):
        raise ValueError(f"found metric {row['metric']!r}, expected one of {', '.join(METRICS)}")
    return row


def format_line(row: dict) -> str:
    """One line without its line break; the inverse of `parse_line`. Raises InputError for a row that does not fit."""
    if wrong := sorted((set(row) ^ set(COLUMNS)) - set(COST_COLUMNS)):
        raise InputError(f"results row: found missing or unknown columns {', '.join(wrong)}, expected exactly those of "
                         "results_table.COLUMNS")
    text = {column: "" if value is None else repr(value) if isinstance(value, float) else str(value)
            for column, value in row.items()}
    buffer = io.StringIO()
    csv.DictWriter(buffer, COLUMNS + COST_COLUMNS, restval="", lineterminator="").writerow(text)
    line = buffer.getvalue()
    if "\n" in line or "\r" in line:
        raise InputError(f"results row: found a line break in one of its values ({line!r}), expected none")
    try:
        parse_line(line)
    except ValueError as error:
        raise InputError(f"results row for {row['checkpoint']}, {row['path']}: {error}; not written") from None
    return line


def key_of(row: dict) -> tuple:
    """What a row measured, as text: two rows with the same key are the same measurement."""
    return tuple("" if row[column] is None else str(row[column]) for column in KEY_COLUMNS)


def read_text(path: Path) -> str:
    """The file's content, "" if there is none. Raises InputError for a folder or a foreign header."""
    if path.is_dir():
        raise InputError(f"{path}: found a folder, expected a CSV of results")
    try:
        # surrogateescape: bytes that are no UTF-8 are written back as they were
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror or error}); check its permissions") from error
    header = text.split("\n", 1)[0].rstrip("\r")
    if text and header not in HEADERS:
        raise InputError(f"{path}: line 1 is {header[:60]!r}, expected the header {HEADERS[0][:60]!r}...; it is "
                         "no table of results of this project, or its header is damaged; move it or mend line 1")
    return text


def split_lines(text: str) -> list[tuple[int, str, dict | None, str]]:
    """(line number, line, row or None, what is wrong with it or "") for every line under the header."""
    lines = []
    for number, line in enumerate(text.split("\n")[1:], start=2):
        line = line.rstrip("\r")
        if line:
            try:
                lines.append((number, line, parse_line(line), ""))
            except ValueError as error:
                lines.append((number, line, None, str(error)))
    return lines


def read(path, warn=True) -> list[dict]:
    """All rows, in the order of the file; an absent file has none. Numbers are int or float, hashes stay text.

    A damaged line is left out and, if `warn`, named on stderr; the file keeps it. Raises InputError for a file that
    is no table of results.
    """
    rows = []
    for number, _, row, reason in split_lines(read_text(Path(path))):
        if row is not None:
            rows.append(row)
        elif warn:
            print(f"WARNING: {path}: line {number} is damaged ({reason}); it is kept in the file but not used; mend or "
                  "delete it", file=sys.stderr, flush=True)
    return rows


def find(rows: list[dict], key: dict) -> list[dict]:
    """The rows that agree with every column named in `key` (any columns, not only the identifying ones)."""
    unknown = set(key) - set(COLUMNS)
    if unknown:
        raise KeyError(f"no such column: {', '.join(sorted(unknown))}")
    return [row for row in rows if all(row[column] == value for column, value in key.items())]


def add(path, rows: list[dict], replace: bool = False) -> int:
    """Add rows (dicts with all COLUMNS; standard_error may be None or "", costs left out) and return how many were
    added.

    A row whose key is in the table already is left out, or with `replace` takes that row's place. All of `rows` appear
    at once. Raises InputError if a row does not fit or the file cannot be written; the table then stays as it was.
    """
    path = Path(path)
    new = {key_of(row): format_line(row) for row in rows}           # of equal keys, the last
    with locked(path):
        text = read_text(path)
        present = {key_of(row): line for _, line, row, _ in split_lines(text) if row is not None}
        if not replace:
            new = {key: line for key, line in new.items() if key not in present}
        if not new:
            return 0
        outdated = {present[key] for key in new if key in present}
        kept = [HEADERS[0], *(line for line in text.split("\n")[1:] if line and line.rstrip("\r") not in outdated)]
        content = "\n".join([*kept, *new.values()]) + "\n"
        with written_whole(path) as file:
            file.write(content.encode("utf-8", "surrogateescape"))
    return len(new)
