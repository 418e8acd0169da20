"""Who imports whom: every import of a module is read and must point downwards; names have one home."""
import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from conftest import ROOT

# Rooms from the ground up; a room imports itself and those below. A room is a folder or a module at the top.
LEVELS = (("scheduler",), ("engine",), ("networks",), ("data", "baseline_model", "model"), ("evaluation",),
          ("lift", "flow", "mnist"), ("families",), ("distill",), ("demo",),
          ("train_baseline", "train_lift", "compute_heatmap_30", "generate_with_path_30", "eval_fid_batch", "scripts"))
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
APART = LEVELS[5]                               # what two of them need moves down


def modules() -> list[Path]:
    """Every Python file but the tests, relative to the root."""
    folders = [ROOT / room for room in LEVEL_OF if (ROOT / room).is_dir()]
    inside = (path for folder in folders for path in folder.rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.py"), *inside])


def room_of(path: Path) -> str:
    """The first part of a module's name."""
    return path.parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def imported_by(tree: ast.Module) -> set[str]:
    """Full names of the modules, or of names in them, that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; name the room"
            # `from lift import paths` names a module, `from lift.paths import Lead` something in one.
            names |= {f"{node.module}.{alias.name}" if node.module in LEVEL_OF else node.module for alias in node.names}
    return names


def points_upwards(importer: str, imported: str) -> bool:
    """Whether a room may not import another."""
    if importer == imported:
        return False
    return LEVEL_OF[imported] > LEVEL_OF[importer] or importer in APART and imported in APART


def violations() -> set[tuple[str, str]]:
    """(module, what it imports) wherever an import points upwards."""
    return {(path.as_posix(), name) for path in modules() for name in imported_by(tree_of(path))
            if name.partition(".")[0] in LEVEL_OF and points_upwards(room_of(path), name.partition(".")[0])}


@pytest.mark.parametrize("importer, imported, expected", [
    ("engine", "scheduler", False), ("engine", "networks", True), ("model", "baseline_model", False),
    ("evaluation", "lift", True), ("lift", "flow", True), ("mnist", "lift", True), ("lift", "lift", False),
    ("families", "mnist", False), ("lift", "families", True), ("distill", "families", False),
    ("distill", "train_lift", True), ("scripts", "train_lift", False), ("demo", "distill", False),
    ("distill", "demo", True)])
def test_which_directions_are_allowed(importer, imported, expected):
    assert points_upwards(importer, imported) is expected


def test_imports_inside_functions_are_read():
    tree = ast.parse("import os\ndef f():\n    from lift import paths, jvp\n    from flow.model import DiT\n"
                     "    import mnist.vae")
    assert imported_by(tree) == {"os", "lift.paths", "lift.jvp", "flow.model", "mnist.vae"}


def test_every_module_stands_in_a_room():
    assert len(modules()) > 60
    assert {room_of(path) for path in modules()} <= set(LEVEL_OF)
    folders = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests"}
    assert folders <= set(LEVEL_OF), "a folder with modules that no level names"


def test_imports_point_downwards():
    assert not violations(), "move what is needed down, or hand it in"


def test_packages_of_extras_are_imported_where_they_are_used():
    """So that everything else works without them; the page's module is opened by the demo alone."""
    extras, openers = {"diffusers", "transformers", "peft", "gradio", "starlette", "accelerate"}, []
    for path in modules():
        tree = tree_of(path)
        top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        found = {name.partition(".")[0] for name in imported_by(top)} & extras
        assert found == ({"gradio", "starlette"} if path.as_posix() == "demo/page.py" else set()), path
        openers += [path.as_posix()] * ("demo.page" in imported_by(tree))
    assert openers == ["demo/__main__.py"]


def test_no_module_edits_the_path_of_imports():
    for path in [*modules(), *(p.relative_to(ROOT) for p in (ROOT / "scripts").glob("*.sh"))]:
        assert not re.search(r"\bsys\.path\b|\bsite\.addsitedir\b|\bPYTHONPATH=", (ROOT / path).read_text()), path


def without_docstring(node) -> str:
    """What a function or class does, whatever its layout and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    arguments = [ast.dump(node.args)] if hasattr(node, "args") else [ast.dump(base) for base in node.bases]
    return "\n".join(arguments + [ast.dump(line) for line in body])


# Names that two rooms may share. Commands: every command has a function of that name. Families: each family, or stage,
# has its own way to do the same. Homonyms: the word means another thing in each room, and reads well in both.
OF_COMMANDS = {"main", "parse", "parse_args", "parse_options", "make_images", "add_sampling_options",
               "add_training_options", "choose_precision", "train", "measure", "references"}
OF_FAMILIES = {"Candidates", "denoiser_of", "draw", "drawing_of", "estimate", "find_path", "half_size", "images_of",
               "kind_of", "labels_of", "load", "load_checkpoint", "load_model", "load_vae", "make_task",
               "model_of", "name_of", "network_of", "num_calls", "path_hash", "scores_of", "tables_named"}
HOMONYMS = {"Comparison", "Run", "Settings", "Walk", "find", "gflop_of_forward", "number", "read_text", "table",
            "title_of", "with_tables"}


# Constants that two rooms may share. Sizes: how much each takes at once, shows or allows. Own lists: what each
# measures, runs, expects or calls its own. Homonyms as above.
OWN_SIZES = {"BATCH_SIZE", "CALLS", "CELL", "FORMAT_VERSION", "GRID_COLUMNS", "IMAGES_PER_CHUNK", "MARGIN",
             "MOST_BYTES", "MOST_DIFFERENCE", "NUM_EPOCHS", "NUM_SHOWN", "PREVIEW_COLUMNS", "SIDE", "SIZES",
             "VALIDATION_BATCH"}
OWN_LISTS = {"EXPECTED", "FAMILY", "LABELS", "METRICS", "NAME", "NAMES", "OF_OTHERS", "OUTPUTS", "PACKAGES", "RUNS",
             "SHOWN", "SOLVERS", "TARGETS", "WAYS"}
CONSTANT_HOMONYMS = {"ALLOWED", "BETA_MAX", "CONTROLS", "FAMILIES", "KINDS", "PATTERNS", "PLAIN", "POLICY", "WEIGHTS"}
# Those of them whose value is the same in two rooms, by choice of each.
EQUAL = {"FORMAT_VERSION", "GRID_COLUMNS", "IMAGES_PER_CHUNK"}


def constants_of(tree: ast.Module):
    """(name, value as text) of every upper-case name that a module assigns."""
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple) else \
                    [node.value] * len(names)
                for name, value in zip(names, values):
                    if isinstance(name, ast.Name) and re.fullmatch("[A-Z][A-Z0-9_]*", name.id):
                        yield name.id, ast.unparse(value)


def test_no_public_name_has_two_homes_but_those_that_are_listed():
    """No list may grow in secret, nor keep a name that one room alone has."""
    rooms, constants, values = defaultdict(set), defaultdict(set), defaultdict(set)
    for path in modules():
        tree = tree_of(path)
        for node in tree.body:
            is_defined = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if is_defined and not node.name.startswith("_"):
                rooms[node.name].add(room_of(path))
        for name, value in constants_of(tree):
            constants[name].add(room_of(path))
            values[name, value].add(room_of(path))
    assert {name for name, found in rooms.items() if len(found) > 1} == OF_COMMANDS | OF_FAMILIES | HOMONYMS
    assert {name for name, found in constants.items() if len(found) > 1} == OWN_SIZES | OWN_LISTS | CONSTANT_HOMONYMS
    assert {name for (name, _), found in values.items() if len(found) > 1} == EQUAL


def test_the_top_level_has_at_most_24_entries():
    """Beside dotfiles, of what git knows."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    top = {name.partition("/")[0] for name in names.split("\0") if name and not name.startswith(".")}
    assert "README.md" in top and len(top) <= 24, sorted(top)


def test_nothing_is_defined_twice_in_different_rooms():
    """Of the same name and body, where one of them could call the other."""
    homes = defaultdict(list)
    for path in modules():
        for node in tree_of(path).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                homes[node.name, without_docstring(node)].append(path)
    assert len(homes) > 500
    twice = {name: [str(path) for path in paths] for (name, _), paths in homes.items()
             if len({room_of(path) for path in paths}) > 1}
    assert not twice


def test_no_line_is_longer_than_120_columns():
    names = [*modules(), *(path.relative_to(ROOT) for folder, ending in (("tests", "py"), ("scripts", "sh"))
                           for path in (ROOT / folder).rglob(f"*.{ending}"))]
    assert {name.suffix for name in names} == {".py", ".sh"}
    long = [f"{name}:{number}" for name in names
            for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120]
    assert not long
