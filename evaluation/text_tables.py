"""Tables inside a text (lift/README.md, say): what stands between `<!-- table:NAME -->` and `<!-- end:NAME -->`."""
import re

from lift import study_tables
from evaluation.benchmark_tables import arithmetic_tables, benchmarks_tables, lite_features_tables
from engine.errors import InputError
from evaluation.results_table import COLUMNS, METRICS, WHOLE_NUMBERS
from evaluation.tables import SIDE_TABLES, Table, bf16_tables, metric_tables, path_cost_tables, side_table

NO_RESULTS = "_No results yet._"
MEASURED = {"benchmarks": benchmarks_tables, "arithmetic": arithmetic_tables, "path_costs": path_cost_tables,
            "lite_features": lite_features_tables}
WITHOUT_CONDITIONS = ("bf16", *MEASURED, *SIDE_TABLES, *(name for name in study_tables.NAMES if name not in study_tables.COMPARISONS))
MARKER = re.compile(r"^<!-- (table|end):(.*?) -->$", re.MULTILINE)     # on a line of its own


class UnknownTable(InputError):
    """A marker that stands for no table."""


def selected(rows: list[dict], name: str, conditions: list[str]) -> list[dict]:
    """The rows that agree with all conditions, `column=value` each. Raises UnknownTable for an unknown column."""
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or column not in COLUMNS:
            raise UnknownTable(f"table:{name}: found {condition!r}, expected column=value with a column of "
                               "results/fid_results.csv")
        wanted = int(value) if column in WHOLE_NUMBERS and value.isdigit() else value
        rows = [row for row in rows if row[column] == wanted]
    return rows


def tables_named(name: str, rows: list[dict], folder) -> list[Table]:
    """The tables that a marker's name stands for. rows: of the results CSV; folder: where the other CSVs lie.

    That of a metric or of a comparison of the study may be followed by conditions on the models' rows: `fid
    num_images=1000 weights=ema`. Raises UnknownTable for an unknown name or column, and for conditions elsewhere.
    """
    kind, *conditions = name.split() or [""]
    if kind in METRICS:
        return metric_tables(selected(study_tables.others(rows), name, conditions), kind, name)
    if kind in study_tables.COMPARISONS:
        chosen = selected([row for row in rows if study_tables.run_of(row)], name, conditions)
        return study_tables.tables_named(kind, chosen + study_tables.without_network(rows), folder)
    if conditions and kind in WITHOUT_CONDITIONS:
        raise UnknownTable(f"table:{name}: found conditions, expected {kind} alone")
    if kind == "bf16":
        return bf16_tables(rows)
    if kind in MEASURED:
        return MEASURED[kind](folder)
    if kind in SIDE_TABLES:
        table = side_table(folder, kind)
        return [table] if table else []
    if kind in study_tables.NAMES:
        return study_tables.tables_named(kind, rows, folder)
    raise UnknownTable(f"table:{name}: found {kind!r}, expected one of "
                       f"{', '.join((*METRICS, *study_tables.COMPARISONS, *WITHOUT_CONDITIONS))}")


def with_tables(text: str, rows: list[dict], folder, source: str, may_empty: bool = False) -> str:
    """`text` with what stands between `<!-- table:NAME -->` and `<!-- end:NAME -->` replaced by the tables.

    source: the text's file name, for messages. Raises InputError for markers that do not pair up or whose name is not
    known, and, unless `may_empty`, where there is a table for which there are no results.
    """
    pieces, position, opened, emptied = [], 0, None, []
    for match in MARKER.finditer(text):
        kind, name = match.groups()
        if kind == "table":
            if opened is not None:
                raise InputError(f"{source}: table:{opened} has no end:{opened} before table:{name}; add it")
            opened, started = name, match.end()
            try:
                found = tables_named(name, rows, folder)
            except UnknownTable as error:
                raise InputError(f"{source}: {error}; correct the marker") from error
            body = "\n\n".join(table.markdown() for table in found) or NO_RESULTS
            pieces += [text[position:match.end()], "\n", body, "\n"]
        else:
            if opened != name:
                raise InputError(f"{source}: found end:{name}, expected "
                                 + (f"end:{opened}" if opened is not None else f"table:{name} before it"))
            if body == NO_RESULTS and text[started:match.start()].strip() not in ("", NO_RESULTS):
                emptied.append(name)
            position, opened = match.start(), None
    if opened is not None:
        raise InputError(f"{source}: table:{opened} has no end:{opened}; add it")
    if emptied and not may_empty:
        raise InputError(f"{source}: {', '.join(emptied)}: found tables for which {folder} has no results; give the "
                         "results that they are of, name another text, or empty them by hand")
    return "".join(pieces) + text[position:]
