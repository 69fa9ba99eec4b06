"""A run of several tasks: teachers of one each, a student of all, and a report that keeps them separate."""

import json
from pathlib import Path

import pytest

from compress_cli.networks import restore
from compress_cli.store import artifact

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = "training: {epochs: 6, batch: 16, keep: last, precision: float32, optimizer: {type: sgd, learning_rate: 0.01}}"
RECIPE = f"""\
dataset: {{type: npz, train: data.npz, inputs: [picture], targets: [shape, colour], test_share: 0.3}}
task:
  type: multi_task
  tasks:
    shape: {{type: classification, head: shape_output, target: shape}}
    colour: {{type: classification, head: colour_output, target: colour}}
threads: 1
baseline: both
gates: [mean_accuracy_drop<=0.9, shape_accuracy>=0.5]
compare: {{seconds: 0.02}}
stages:
  - {{type: train, name: shapes, model: {{type: mlp, hidden: [16]}}, heads: [shape_output], {TRAINING}}}
  - {{type: train, name: colours, model: {{type: mlp, hidden: [16]}}, heads: [colour_output], {TRAINING}}}
  - {{type: distill, name: both, teacher: [shapes, colours], model: {{type: mlp, hidden: [16]}}, control: true,
      losses: [{{type: soft_targets, head: shape_output, teacher: shapes}}, {{type: soft_targets, head: colour_output,
        teacher: colours}}], {TRAINING}}}
  - {{type: prune, ratio: 0.25, round_to: 4, criterion: taylor, teacher: both, {TRAINING}}}
"""


@pytest.mark.slow
def test_every_model_is_judged_on_what_it_does(compress, things):
    Path("r.yaml").write_text(RECIPE)
    outcome = compress("run", "r.yaml")
    assert outcome.code == 0, outcome
    report = json.loads(Path("runs/r/report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert report["primary"] == "mean_accuracy"
    assert {name for name in rows["shapes"]["metrics"] if "accuracy" in name} == {"shape_accuracy"}
    assert {name for name in rows["colours"]["metrics"] if "accuracy" in name} == {"colour_accuracy"}
    assert rows["shapes"]["change"] is None  # one task against the mean of two is no comparison
    for name in ("both", "prune"):
        metrics = {metric: estimate["value"] for metric, estimate in rows[name]["metrics"].items()}
        assert metrics["mean_accuracy"] == pytest.approx((metrics["shape_accuracy"] + metrics["colour_accuracy"]) / 2)
        assert metrics["mean_accuracy"] > 0.8
    assert rows["prune"]["change"]["samples"] == report["samples"]
    (worth,) = report["distilled"]
    assert (worth["teacher"], worth["gap_closed"]) == ("", None)
    assert "Each task" in outcome.out
    assert "no teacher was measured on all that the student does" in " ".join(outcome.out.split())
    assert "| shape\\_accuracy % | shape accuracy change % | colour\\_accuracy % |" in Path("runs/r/report.md").read_text()
    assert restore.signature_of(artifact.read(Path("runs/r/prune"))).heads.keys() == {"shape_output", "colour_output"}


def test_a_change_of_one_task_is_no_change_of_the_mean(compress, things):
    """A baseline and a model of the same one task: a gate on the mean of both tasks is about nothing that was measured."""
    head, stages = RECIPE.partition("baseline")[0], RECIPE.partition("stages:\n")[2].splitlines()[0]
    gates = "gates: [small.shape_accuracy_drop<=1, small.mean_accuracy_drop<=1]\n"
    small = stages.replace("name: shapes", "name: small, seeds: [0, 1]")
    Path("r.yaml").write_text(f"{head}{gates}stages:\n{stages}\n{small}\n")
    outcome = compress("run", "r.yaml")
    assert outcome.code == 2
    assert "small.mean_accuracy_drop<=1 (small): not measured" in outcome.err
    report = json.loads(Path("runs/r/report.json").read_text())
    small = report["rows"][1]
    assert (small["change"], small["gained"]) == (None, None)
    assert "shape_accuracy" in small["secondary_changes"]
    assert "small: shape accuracy % over seeds 0, 1" in " ".join(outcome.out.replace("_", " ").split())
    assert [gate["outcome"] for gate in report["gates"]] == ["met", "not measured"]
