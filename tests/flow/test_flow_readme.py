"""The numbers in the family's text are those of the files they come from."""
import json

import pytest

from conftest import ROOT

OUTPUTS = ROOT / "results/published/flow/flow_outputs.json"


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
