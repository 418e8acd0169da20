"""Tables of what the benchmarks measured: the last line of each, as `scripts/bench.sh` keeps it."""
import contextlib
import functools
import json
import re
import statistics
from pathlib import Path

from engine.errors import InputError
from evaluation.tables import Cell, Table, format_spread, grouped, spread_of
from networks.presets import DEFAULT_HIDDEN_DIMS

# What each benchmark's ratio is, and whether it should be at least or at most its target.
GPU_FOLDER = "gpu"              # below the results, where scripts/gpu_run.sh leaves its own
BENCHMARKS = {
    "train_step_handicaps": ("training step, images/s over the best plain step", "≥"),
    "train_step": ("training step, images/s over a plain step with all its handicaps (below)", "≥"),
    "train_step_compile": ("the same with `--compile`", "≥"),
    "training_time": ("minutes of 100 epochs of 15,803 images, LIFT at default size", "≤"),
    "sampling": ("generation, images/s over a plain loop", "≥"),
    "sampling_compile": ("the same with `--compile`", "≥"),
    "error_map": ("error map, time of a plain loop over ours at equal standard error", "≥"),
    "dynamic_program": ("dynamic program on 100×100 points, time of nested loops over ours", "≥"),
    "frechet": ("Fréchet distance at 2048 dimensions, time of pytorch-fid over ours", "≥"),
    "resume_after_kills": ("share of weights that equal those of a run never killed, bit for bit", "≥"),
    "two_processes": ("largest relative difference of a loss, two processes from one", "≤"),
    "flow_step": ("training step of a flow, images/s over a plain DiT step", "≥"),
    "flow_step_compile": ("the same with `--compile`", "≥"),
    "flow_step_bf16": ("the same in bf16", "≥"),
    "flow_step_bf16_compile": ("the same in bf16 with `--compile`", "≥"),
    "flow_step_latents": ("the same for `big` on latents", "≥"),
    "distill_step": ("iteration of distillation, time of the published structure over ours", "≥"),
    "distill_step_bf16": ("the same in bf16", "≥"),
    "precision": ("loss gap of bf16 from float32 over that between two seeds", "≤"),
}
OPTION = re.compile(r"_(compile|handicaps|latents|bf16)")         # that scripts/bench.sh gives, behind a name
BENCHMARK_DETAILS = ("device", "num_threads", "precision", "images_per_second", "ratio_uncompiled",
                     "compiled_over_uncompiled", "memory_ratio", "minutes_100_epochs", "seconds", "seconds_30",
                     "num_kills",
                     "num_half_written", "max_steps", "relative_difference", "plain_images_per_second",
                     "ours_images_per_second", "compiled_images_per_second", "mean_difference_in_grey_levels",
                     "git_revision")


@contextlib.contextmanager
def written_by(path, script: str):
    """Turns what foreign content leads to into an InputError: `path` is not what `script` writes."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not what {script} writes ({error}); run it again") from error


def of_file(name: str, script: str):
    """Makes of a function from a file's content to tables one from a folder to the tables of `name` in it. The folder
    may lack the file, and then there are none. script: what writes the file, for a message."""
    def of_folder(tables_of):
        @functools.wraps(tables_of)
        def tables_in(folder) -> list[Table]:
            path = Path(folder) / name
            if not path.exists():
                return []
            with written_by(path, script):
                return tables_of(json.loads(path.read_text(encoding="utf-8")))
        return tables_in
    return of_folder


def benchmark_rows(folder, row_of, names=tuple(BENCHMARKS)) -> list[list[Cell]]:
    """A row for every benchmark that `scripts/bench.sh` left in `{folder}/benchmarks/`. row_of(name, last line): the
    row, or None to leave it out."""
    rows = []
    for name in names:
        path = Path(folder) / "benchmarks" / f"{name}.json"
        if not path.exists():
            continue
        try:
            row = row_of(name, json.loads(path.read_text(encoding="utf-8")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is no benchmark's last line ({error}); run scripts/bench.sh {name}") from error
        if row is not None:
            rows.append(row)
    return rows


def with_gpu(folder, title: str) -> list[tuple[Path, str]]:
    """The two folders that may hold benchmarks, each with its table's title."""
    return [(Path(folder), title), (Path(folder) / GPU_FOLDER, f"{title} on a GPU")]


def benchmarks_tables(folder) -> list[Table]:
    """Claim, measurement and target of every benchmark; measurements on a GPU have a table of their own."""
    def row_of(name: str, found: dict) -> list[Cell]:
        claim, sign = BENCHMARKS[name]
        options = "".join(f" --{option}" for option in OPTION.findall(name)).replace("--bf16", "--precision bf16")
        script = f"{OPTION.sub('', name)}.py{options}"
        details = "; ".join(f"{key.replace('_', ' ')} {short(found[key])}" for key in BENCHMARK_DETAILS
                            if found.get(key) is not None)
        return [Cell(claim), Cell(f"`benchmarks/{script}`"), Cell(f"{found['ratio']:.3g}", found["ratio"]),
                Cell(f"{sign} {found['target']:g}", found["target"]), Cell("yes" if found["ok"] else "no"),
                Cell(details)]

    tables = [Table("benchmarks", title, "The last line of each, as `scripts/bench.sh` kept it.",
                    ["claim", "script", "measured", "target", "met", "figures"], benchmark_rows(where, row_of))
              for where, title in with_gpu(folder, "Benchmarks")]
    return [table for table in tables if table.rows]


def arithmetic_tables(folder) -> list[Table]:
    """How much of a machine's matrix-product rate a training step uses, from benchmarks/train_step.py."""
    def row_of(name: str, found: dict) -> list[Cell] | None:
        side = "compiled" if found["compile"] else "ours"
        convolution = found["convolution_gflops"][found["precision"]]
        if found["hidden_dims"] != list(DEFAULT_HIDDEN_DIMS):
            return None
        return [Cell("compiled" if found["compile"] else "as it is"), Cell(found["device"]), Cell(found["precision"]),
                *(Cell(f"{value:.{digits}f}", value) for value, digits in (
                    (found["images_per_second"][side], 2), (found["gflop_per_image"], 2), (found["gflops_used"], 0),
                    (found["gflops_peak"], 0), (found["fraction_of_peak"], 3), (convolution, 0)))]

    tables = [Table("arithmetic", title,
                    "LIFT at default size, forward and backward. Product rate: the best of several matrix products on "
                    "the same machine; convolution: 3×3, 128 channels at 32×32, forward.",
                    ["training step", "machine", "precision", "images/s", "needed per image (GFLOP)", "used (GFLOP/s)",
                     "product rate (GFLOP/s)", "fraction of it", "convolution (GFLOP/s)"],
                    benchmark_rows(where, row_of, ("train_step", "train_step_compile")))
              for where, title in with_gpu(folder, "Arithmetic of a training step")]
    return [table for table in tables if table.rows]


@of_file("benchmarks/train_step_handicaps.json", "scripts/benchmarks/train_step.py --handicaps")
def handicap_tables(found: dict) -> list[Table]:
    """What each handicap of the plain step in benchmarks/train_step.py costs, and the ratio that is left without
    them."""
    rows = [[Cell(row["removed"]), *(Cell(f"{row[key]:.2f}", row[key]) for key in ("images_per_second", "ratio"))]
            for row in found["handicaps"]]
    note = (f"LIFT, hidden dims {', '.join(map(str, found['hidden_dims']))}, batches of {found['batch_size']}, "
            f"{found['precision']}, {found['device']}; each row without the handicaps above it too. Claimed is the "
            f"ratio to the fastest: {found['ratio']:.2f}.")
    return [Table("handicaps", "Our training step beside the plain one without its handicaps", note,
                  ["taken away", "images/s", "ours over it"], rows)]


@of_file("first_contact.json", "scripts/benchmarks/first_contact.py")
def first_contact_tables(found: dict) -> list[Table]:
    """What scripts/benchmarks/first_contact.py found: seconds until a command answers, and of the two scripts."""
    sides = ("before", "after")
    rows = [[Cell(f"`{name}`"), *(Cell(f"{found['seconds'][side][name]:.2f}", found["seconds"][side][name])
                                  for side in sides)] for name in found["seconds"]["after"]]
    rows += [[Cell(f"the {name}, once"), *(Cell("failed" if value is None else f"{value:.0f}", value) for value in (
        found["scripts"][side][name] for side in sides))] for name in found["scripts"]["after"]]
    note = (f"Median wall time of {found['rounds']} starts in alternation, nothing else running: "
            f"{found['processor']}, {found['cores']} cores. Before: the flat layout. The two scripts are single "
            "runs, which something beside them may have slowed.")
    return [Table("first_contact", "Seconds that a stranger waits", note, ["asked", "before", "now"], rows)]


@of_file("house_speed.json", "scripts/benchmarks/house_speed.py")
def house_speed_tables(found: dict) -> list[Table]:
    """What scripts/benchmarks/house_speed.py found: three commands of the flat layout and of this one."""
    rows = [[Cell(what), *(Cell(f"{row['seconds'][side]:.2f}", row["seconds"][side])
                           for side in ("before", "after")),
             Cell(f"{row['speed_after_over_before']:.3f}", row["speed_after_over_before"]),
             Cell(" to ".join(f"{value:.3f}" for value in row["quartiles"]))]
            for what, row in found["rows"].items()]
    note = (f"Seconds of {found['compared']}, medians of {found['rounds']} rounds in alternation; "
            f"{found['device']}, {found['precision']}, hidden dims {', '.join(map(str, found['hidden_dims']))}. "
            f"Before: {found['revisions']['before']}, now: {found['revisions']['after']}. Asked: at least "
            f"{found['target']:g} times the speed of before.")
    return [Table("house_speed", "Speed before and after the move into rooms", note,
                  ["command", "before", "now", "speed now over before", "middle half of the rounds"], rows)]


@of_file("lite_features.json", "scripts/benchmarks/lite_features.py")
def lite_features_tables(found: dict) -> list[Table]:
    """Both distances of known changes, how far a change is from the floor, and the shares."""
    changes = grouped(found["rows"], lambda row: row["change"])
    protocols = sorted({(row["side"], row["num_images"]) for row in found["rows"]})
    speed = ", ".join(f"{value:.0f} images/s to {side}" for side, value in found["images_per_second"].items())
    about = (f"Photographs of {found['dataset']} against {found['num_reference']:,} others, after a change; columns: "
             f"number of images, and the side that all are resized to ({speed}, {found['device']}).")

    def values(change: str, protocol, name: str) -> list[float]:
        return [row[name] for row in changes[change] if (row["side"], row["num_images"]) == protocol]

    def frechet_cell(change: str, protocol) -> Cell:
        drawn = values(change, protocol, "fd_lite0")
        spread = spread_of(drawn, list(range(len(drawn)))) if drawn else None
        return Cell(format_spread("fd_lite0", spread), spread.mean) if spread else Cell("–")

    def kernel_cell(change: str, protocol) -> Cell:
        drawn, errors = (values(change, protocol, name) for name in ("kd_lite0", "kd_standard_error"))
        mean = statistics.fmean(drawn) if drawn else None
        return Cell(f"{mean:.3f} ± {statistics.fmean(errors):.3f}", mean) if drawn else Cell("–")

    def told_apart(change: str, protocol, name: str) -> Cell:
        several = [values(which, protocol, name) for which in (change, "none")]
        if min(map(len, several)) < 2:
            return Cell("–")
        deviation = statistics.fmean(statistics.variance(drawn) for drawn in several)**0.5
        distance = (statistics.fmean(several[0]) - statistics.fmean(several[1])) / deviation
        return Cell(f"{distance:.1f}", distance)

    def table(title: str, note: str, heads, cells_of, shown=changes) -> Table:
        return Table("lite_features", title, note, ["change", *heads],
                     [[Cell("none: the floor" if change == "none" else change), *cells_of(change)] for change in shown])

    heads = [f"{num_images:,} at {side}" for side, num_images in protocols]
    tables = [table("fd_lite0 of known changes", f"{about} Mean ± sample standard deviation over draws of different "
                    "images, where there are several.", heads,
                    lambda change: [frechet_cell(change, protocol) for protocol in protocols]),
              table("kd_lite0 of known changes", f"{about} Mean over the draws ± the standard error of a single score.",
                    heads, lambda change: [kernel_cell(change, protocol) for protocol in protocols])]
    few = min(num_images for _, num_images in protocols)
    several = [protocol for protocol in protocols
               if protocol[1] == few and len(values("none", protocol, "fd_lite0")) > 1]
    columns = [(name, protocol) for name in ("fd_lite0", "kd_lite0") for protocol in several]
    if several:
        tables.append(table(f"How far {few:,} changed images are from as many unchanged ones",
                            "The difference of the mean scores, in standard deviations of a single score.",
                            [f"{name} at {side}" for name, (side, _) in columns],
                            lambda change: [told_apart(change, protocol, name) for name, protocol in columns],
                            [change for change in changes if change != "none"]))
    side, many = most = max(protocol for protocol in protocols if protocol[0] == protocols[0][0])
    names = ("precision", "recall", "animal", "vehicle")

    def shares_of(change: str) -> list[Cell]:
        shares = [statistics.fmean(values(change, most, name)) for name in names]
        return [Cell(f"{share:.3f}", share) for share in shares]
    tables.append(table(f"Shares of {many:,} images at {side}", "Precision and recall in the same features; first "
                        "guesses of the network that are animals, or vehicles.", names, shares_of,
                        [change for change in changes if values(change, most, "recall")]))
    return tables


def short(value) -> str:
    """A number with three digits, a dictionary of numbers, or text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
