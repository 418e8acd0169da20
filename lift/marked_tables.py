"""The tables that a marker in a text of S1 stands for, `<!-- table:NAME -->`."""
from evaluation import text_tables
from evaluation.benchmark_tables import (arithmetic_tables, benchmarks_tables, first_contact_tables, handicap_tables,
                                         house_speed_tables, lite_features_tables)
from evaluation.results_table import METRICS
from evaluation.tables import Table, bf16_tables, metric_tables
from evaluation.text_tables import UnknownTable, markdown_of, selected
from lift import study_tables
from lift.labels import NAMES
from lift.side_tables import SIDE_TABLES, path_cost_tables, side_table


MEASURED = {"benchmarks": benchmarks_tables, "arithmetic": arithmetic_tables, "handicaps": handicap_tables,
            "house_speed": house_speed_tables, "first_contact": first_contact_tables,
            "path_costs": path_cost_tables, "lite_features": lite_features_tables}
WITHOUT_CONDITIONS = ("bf16", *MEASURED, *SIDE_TABLES,
                      *(name for name in study_tables.NAMES if name not in study_tables.COMPARISONS))


def tables_named(name: str, rows: list[dict], folder) -> list[Table]:
    """The tables that a marker's name stands for. rows: of the results CSV; folder: where the other CSVs lie.

    The name of a metric, or of one of the study's comparisons, may be followed by conditions on the models' rows: `fid
    num_images=1000 weights=ema`. Raises UnknownTable for an unknown name or column, and for conditions elsewhere.
    """
    kind, *conditions = name.split() or [""]
    if kind in METRICS:
        return metric_tables(selected(study_tables.others(rows), name, conditions), kind, NAMES, name)
    if kind in study_tables.COMPARISONS:
        chosen = selected([row for row in rows if study_tables.run_of(row)], name, conditions)
        return study_tables.tables_named(kind, chosen + study_tables.without_network(rows), folder)
    if conditions and kind in WITHOUT_CONDITIONS:
        raise UnknownTable(f"table:{name}: found conditions, expected {kind} alone")
    if kind == "bf16":
        return bf16_tables(rows, NAMES)
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
    """A text with the tables of these results in it, as `text_tables.with_tables` says."""
    return text_tables.with_tables(text, lambda name: markdown_of(tables_named(name, rows, folder)), source, folder,
                                   may_empty)
