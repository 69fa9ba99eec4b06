"""`compress sensitivity`: what the pruning of each layer costs, as a table, a document and a plot."""

import json

RECIPE = """
dataset: digits
stages:
  - {type: train, name: big, model: {type: mlp, hidden: [24, 16]}, training: {epochs: 2, batch: 256}}
  - {type: prune, name: small, ratio: 0.5, criterion: l1, ignore: []}
  - {type: export, name: file}
"""

QUANTISED = """
dataset: digits
stages:
  - {type: train, name: big, model: {type: mlp, hidden: [24]}, training: {epochs: 1, batch: 256, precision: float32}}
  - {type: quantize, name: program, samples: 32}
  - {type: quantize, name: file, start: big, quantizer: dynamic_int8}
"""


def test_the_curves_of_a_stage_that_prunes(compress, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    outcome = compress("sensitivity", "r.yaml", "--stage", "small", "--plot", "c.html", "--json", "-q")
    assert outcome.code == 0, outcome
    document = json.loads(outcome.out)
    changes = document["curves"]["changes"]
    assert list(changes) == [line["name"] for line in document["findings"]["lines"]]
    assert len(changes) == 2
    assert [share for share, _ in next(iter(changes.values()))] == [0.125, 0.25, 0.5, 0.75, 0.875]
    assert all(-1 <= change <= 1 for row in changes.values() for _, change in row)
    page = (tmp_path / "c.html").read_text()
    assert page.count("<polyline") == 2
    again = compress("sensitivity", "r.yaml", "--stage", "small")
    assert again.code == 0, again
    assert "accuracy_change_at_0.875" in again.out
    for layer in changes:
        assert layer in again.out
    other = compress("sensitivity", "r.yaml", "--stage", "big", "-q")  # of its model, by the stage's own criterion
    assert other.code == 0, other


def test_a_stage_that_has_no_sensitivity(compress, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    outcome = compress("sensitivity", "r.yaml", "--stage", "file")
    assert outcome.code == 2
    assert "--stage file: makes a file, of which no layer can be cut or rounded alone; name a stage that trains" in outcome.err
    outcome = compress("sensitivity", "r.yaml", "--stage", "smal")
    assert outcome.code == 2
    assert "there is no stage 'smal' in r.yaml; did you mean 'small'?" in outcome.err


def test_the_sensitivity_of_a_stage_that_quantises(compress, tmp_path):
    (tmp_path / "q.yaml").write_text(QUANTISED)
    refused = compress("sensitivity", "q.yaml", "--stage", "program", "--plot", "c.html")
    assert refused.code == 2
    assert "--plot: a quantisation has one figure for each layer, not a curve" in refused.err
    assert not (tmp_path / "runs").exists()  # it is said before any training
    refused = compress("sensitivity", "q.yaml", "--stage", "file")
    assert refused.code == 2
    assert "--stage file: makes a file, of which no layer can be cut or rounded alone; name the stage that it" in refused.err
    outcome = compress("sensitivity", "q.yaml", "--stage", "program", "--json", "-q")
    assert outcome.code == 0, outcome
    findings = json.loads(outcome.out)["findings"]
    assert findings["columns"] == ["accuracy_change", "sqnr_db"]
    assert [line["name"] for line in findings["lines"]] == ["1", "3", "all together", "interplay"]
