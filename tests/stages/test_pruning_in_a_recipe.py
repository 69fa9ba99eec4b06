"""A whole recipe: curves of sensitivity spread the cut, and every training learns from a teacher's stored outputs."""

import json

RECIPE = """
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, name: big, model: {type: mlp, hidden: [32, 24]}, training: &short {epochs: 1, batch: 256, precision: float32}}
  - {type: pruning_sensitivity, name: curves, ratios: [0.25, 0.5], samples: 128}
  - type: prune
    start: big
    keep: {parameters: 0.5}
    round_to: 1
    distribution: sensitivity
    sensitivity: curves
    criterion: taylor
    steps: {count: 2, training: *short}
    training: *short
    teacher: [big]
    teacher_cache: true
"""


def test_a_recipe_with_curves_steps_and_a_table(compress, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    outcome = compress("run", "r.yaml", "-q", "--json")
    assert outcome.code == 0, outcome
    manifest = json.loads((tmp_path / "runs" / "r" / "prune" / "manifest.json").read_text())
    facts = manifest["facts"]
    assert facts["reached"]
    assert len(facts["steps"]) == 2
    assert [step["epochs"] for step in facts["steps"]] == [1, 1]
    assert set(manifest["inputs"]) == {"start", "teacher", "sensitivity", "big_table"}
    table = (
        [source["kind"] for source in manifest["inputs"]["big_table"]] if "kind" in manifest["inputs"]["big_table"][0] else []
    )
    assert table in ([], ["Table"])
    again = compress("run", "r.yaml", "-q")
    assert again.code == 0, again


def test_a_program_is_not_pruned(compress, tmp_path):
    stages = "[{type: train, model: mlp, training: {epochs: 1}}, quantize, {type: prune, ratio: 0.5}]"
    (tmp_path / "r.yaml").write_text(f"dataset: digits\nstages: {stages}\n")
    outcome = compress("run", "r.yaml", "-q")
    assert outcome.code == 2
    assert "stage 'prune' needs a Checkpoint, but 'quantize' makes a Program" in outcome.err, outcome


def test_a_sensitivity_that_is_no_table_is_refused(compress, tmp_path):
    prune = "{type: prune, ratio: 0.5, distribution: sensitivity, sensitivity: train}"
    stages = f"[{{type: train, model: mlp, training: {{epochs: 1}}}}, {prune}]"
    (tmp_path / "r.yaml").write_text(f"dataset: digits\nstages: {stages}\n")
    outcome = compress("run", "r.yaml", "-q")
    assert outcome.code == 2
    assert "sensitivity" in outcome.err
