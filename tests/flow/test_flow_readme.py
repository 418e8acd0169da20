"""The numbers in the family's text are those of the files they come from."""
import json

import pytest

from conftest import ROOT
from evaluation import results_table
from flow.study_table import EXPECTED, cells_of, tables, with_study

OUTPUTS = ROOT / "results/published/flow/flow_outputs.json"
STUDY = ROOT / "results/published/flow/fid_results.csv"


def test_the_table_of_outputs_is_that_of_the_benchmark():
    text = (ROOT / "flow/README.md").read_text(encoding="utf-8")
    found = json.loads(OUTPUTS.read_text(encoding="utf-8"))
    assert len(found["runs"]) >= 2
    for name, run in found["runs"].items():
        assert f"| {name} | {run['logit_normal']:.4f} | {run['uniform']:.4f} |" in text
    for output, mean in found["mean_logit_normal"].items():
        runs = [run["logit_normal"] for name, run in found["runs"].items() if name.startswith(f"{output} ")]
        assert mean == pytest.approx(sum(runs) / len(runs), abs=1e-5) and mean <= found["expected_at_most"][output]
    errors = [f"{found['mean_logit_normal'][output]:.4f}" for output in ("residual", "velocity")]
    root_text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "held-out error of {}, without it {}, after equal training".format(*errors) in root_text
    affine = found["runs"]["best affine velocity, no network"]["logit_normal"]
    assert f"lower too, {affine:.4f} where 0.228 was expected." in " ".join(text.split())


def test_the_study_is_that_of_its_rows():
    path = ROOT / "flow/README.md"
    rows = results_table.read(STUDY)
    lines = [line for metric in ("fd_lite0", "kd_lite0", "swd", "groups") for line in tables(rows, metric)]
    text = path.read_text(encoding="utf-8")
    assert with_study(text, "\n".join([EXPECTED, "", *lines]).rstrip(), path, STUDY) == text


def test_what_the_study_says_is_what_its_rows_say():
    def scores(output, patch, metric):
        """(guidance, solver, calls) -> value of the one training."""
        cells = cells_of([row for row in results_table.read(STUDY) if row["metric"] == metric])
        found = {(guidance, *column): value for (name, size, guidance, _), row in cells.items()
                 if (name, size) == (output, patch) for column, [value] in row.items()}
        assert len(found) == 12
        return found

    def ahead(metric, one, other, sign=1):
        a, b = scores(*one, metric), scores(*other, metric)
        return all(sign * (b[way] - a[way]) > 0 for way in a)

    fine, coarse = {name: (name, 4) for name in ("velocity", "clean", "residual")}, ("velocity", 8)
    assert ahead("fd_lite0", fine["residual"], fine["velocity"])
    assert ahead("groups", fine["residual"], fine["velocity"], -1)
    assert ahead("swd", fine["velocity"], fine["residual"])
    assert ahead("swd", fine["velocity"], fine["clean"]) and ahead("swd", fine["clean"], fine["residual"])
    for other in (("clean", 8), ("residual", 8)):
        assert ahead("fd_lite0", other, coarse) and ahead("swd", other, coarse) and ahead("groups", other, coarse, -1)
    assert ahead("kd_lite0", coarse, ("clean", 8))
    for output, model in fine.items():
        distance, share = scores(*model, "fd_lite0"), scores(*model, "groups")
        for (guidance, solver, calls), value in distance.items():
            assert calls == 10 or (value > distance[guidance, solver, 10]) == (output != "clean")
            assert guidance == 1 or share[2, solver, calls] > share[1, solver, calls]
            assert output == "clean" or value >= distance[guidance, "multistep", 10]
    for other in (("unet", 2), ("dual", 4)):                # of the transformer's arithmetic and output
        assert ahead("fd_lite0", fine["velocity"], other) and ahead("swd", fine["velocity"], other)
        assert ahead("groups", other, fine["velocity"], -1)
