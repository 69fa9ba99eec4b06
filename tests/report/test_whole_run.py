"""A run whose recipe asks for more than a report has by itself: it reaches every form, and gates may stand on it."""

import json
from pathlib import Path

import jsonschema
import pytest

from compress_cli.cli.schema import schema_of

RECIPE = """\
dataset: digits
threads: 1
gates: [attack.pgd_4_accuracy>=0, {promise: agreement>=50%, undecided: pass}, alike.1_cka>=0]
stages:
  - {type: train, name: teacher, model: {type: mlp, hidden: [32]}, training: &fast {epochs: 2, precision: float32}}
  - {type: similarity, name: alike, teacher: teacher, layers: ["1"]}
  - {type: train, name: small, model: {type: mlp, hidden: [8]}, training: *fast}
  - {type: attack, epsilons: [4.0], samples: 64}
"""


@pytest.fixture
def run(compress, one_thread):
    Path("r.yaml").write_text(RECIPE)
    outcome = compress("run", "r.yaml", "--quiet")
    assert outcome.code == 0, outcome
    return outcome


def test_it_reaches_every_form(run, compress):
    document = json.loads(Path("runs/r/report.json").read_text())
    jsonschema.validate(document, schema_of("report"))
    jsonschema.validate(document, json.loads(compress("schema", "report").out))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "rows": [{"name": 3}]}, schema_of("report"))

    tables = {table["name"]: table for table in document["findings"] if table["name"]}
    assert {name: table["model"] for name, table in tables.items()} == {"alike": "teacher", "attack": "small"}
    assert [row["predictions"] is None for row in document["rows"]] == [True, False]
    assert document["rows"][1]["predictions"]["samples"] == 467
    page, text = Path("runs/r/report.html").read_text(), Path("runs/r/report.md").read_text()
    for form in (run.out, text, page):
        assert "Attack" in form or "attacks" in form
        assert "pgd 4" in form
        assert "Kornblith" in form
    assert page.count("data:image/png;base64,") == len(document["rows"][1]["predictions"]["changed"]) > 0
    assert [result["outcome"] for result in document["gates"]] == ["met", document["gates"][1]["outcome"], "met"]

    again = compress("report", "runs/r", "--html")
    assert again.out == page
    together = json.loads(compress("report", "runs/r", "runs/r", "--json").out)
    jsonschema.validate(together, schema_of("runs"))
    assert "side by side" in compress("report", "runs/r", "runs/r", "--html").out
    assert compress("report", "runs/r", "runs/r").out.count("teacher") >= 3

    refused = compress("report", "runs/r", "--gate", "attack.pgd_5_accuracy>=0")
    assert refused.code == 2
    assert "did you mean 'pgd_4_accuracy'" in refused.err
    assert compress("schema", "reprot").code == 2
