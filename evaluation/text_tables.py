"""Tables inside a text such as lift/README.md, between `<!-- table:NAME -->` and `<!-- end:NAME -->`."""
import re

from engine.errors import InputError
from evaluation.results_table import COLUMNS, WHOLE_NUMBERS
from evaluation.tables import Table

NO_RESULTS = "_No results yet._"
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


def markdown_of(tables: list[Table]) -> str:
    """What stands between the marks of these tables; "" for none."""
    return "\n\n".join(table.markdown() for table in tables)


def with_markdown(text: str, known: dict[str, str], source: str, folder) -> str:
    """`with_tables` for ready markdown by name. Raises InputError for another name, too."""
    def markdown_named(name: str) -> str:
        if name not in known:
            raise UnknownTable(f"table:{name}: found {name!r}, expected one of {', '.join(known)}")
        return known[name]

    return with_tables(text, markdown_named, source, folder)


def with_tables(text: str, markdown_named, source: str, folder, may_empty: bool = False) -> str:
    """`text` with what stands between `<!-- table:NAME -->` and `<!-- end:NAME -->` replaced by the tables.

    markdown_named: from NAME to its tables' markdown, "" where there are no results; raises UnknownTable for an unknown
    name. source, folder: the text's file name and the folder of its results, for messages. may_empty: whether a table
    may lose its last result. Raises InputError for markers that do not pair up, for unknown names, and for a table
    without results unless `may_empty`.
    """
    pieces, position, opened, emptied = [], 0, None, []
    for match in MARKER.finditer(text):
        kind, name = match.groups()
        if kind == "table":
            if opened is not None:
                raise InputError(f"{source}: table:{opened} has no end:{opened} before table:{name}; add it")
            opened, started = name, match.end()
            try:
                body = markdown_named(name) or NO_RESULTS
            except UnknownTable as error:
                raise InputError(f"{source}: {error}; correct the marker") from error
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
