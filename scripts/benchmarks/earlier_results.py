"""The JSON file of a benchmark that can be stopped: what it has measured so far."""
import json
from pathlib import Path

from engine.errors import InputError
from engine.files import expecting


def earlier_results(path: Path, settings: dict) -> dict | None:
    """What an earlier call wrote to `path`, a JSON object; None without one. settings: entries that must be the same.

    Raises InputError if it was made with other settings.
    """
    if not path.exists():
        return None
    with expecting(path, "JSON file of an earlier call", "choose another --output"):
        found = json.loads(path.read_text(encoding="utf-8"))
        earlier = {key: found[key] for key in settings}
    for key, value in settings.items():
        if earlier[key] != value:
            raise InputError(f"{path}: made with {key} {earlier[key]}, found {value}; choose another --output")
    return found


def results_of_rows(path: Path, settings: dict, references) -> dict:
    """Settings, references and rows of a table so far. references(): measures them, where no earlier call did."""
    results = earlier_results(path, settings) or {**settings, "references": None, "rows": {}}
    results["references"] = results["references"] or references()
    return results
