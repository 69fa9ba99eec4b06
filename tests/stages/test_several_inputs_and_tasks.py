"""Paired samples with several inputs, and data with several targets: who sees what, and who teaches what."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress_cli.measurement import sessions
from compress_cli.networks import restore
from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.run import Run
from compress_cli.store import artifact
from compress_cli.store.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = "training: {epochs: 15, batch: 16, keep: last, precision: float32, optimizer: {type: sgd, learning_rate: 0.01}}"
DATA = """\
dataset: {type: npz, train: data.npz, inputs: [picture, depth], targets: [shape, colour], test_share: 0.3}
task: {type: classification, head: shape_output, target: shape}
threads: 1
"""


class Silent:
    def begins(self, step, smoke): ...
    def progress(self, step, progress): ...
    def ended(self, step, cached, seconds, problem): ...


@pytest.fixture
def executed(tmp_path, things):
    """Run a recipe over pictures and depths of things of 3 shapes and 2 colours, measuring only the stages named."""

    def _executed(stages, measured=()):
        (tmp_path / "r.yaml").write_text(DATA + stages)
        planned = plan.plan(recipe.load(tmp_path / "r.yaml"))
        rows = tuple(row for row in planned.rows if row.step.name in measured)
        run = Run(replace(planned, rows=rows), Store(tmp_path / "store"), tmp_path / "run", Silent())
        run.execute()
        return {step.name: run.artifacts[step.key] for step in run.plan.steps if step.key in run.artifacts}, run, things

    return _executed


def answers(checkpoint, *inputs):
    network = restore.checkpoint(checkpoint).network
    with torch.no_grad():
        return {name: logits.argmax(1).numpy() for name, logits in network(*map(torch.from_numpy, inputs)).items()}


def test_a_teacher_of_pictures_teaches_a_student_of_depths(executed):
    """Cross-modal distillation (Gupta et al. 2016): the student never sees a picture or a label, and takes depths alone."""
    artifacts, run, arrays = executed(
        f"""\
compare: {{seconds: 0.02}}
stages:
  - {{type: train, name: seeing, model: {{type: mlp, hidden: [16]}}, inputs: [picture], heads: [shape_output],
      {TRAINING}}}
  - {{type: distill, name: feeling, teacher: seeing, model: {{type: mlp, hidden: [16]}}, inputs: [depth], heads: [shape_output],
      losses: [{{type: soft_targets, temperature: 2.0}}], {TRAINING}}}
  - export
""",
        measured=("export",),
    )
    assert restore.signature_of(artifacts["seeing"]).inputs.keys() == {"picture"}
    session = sessions.open_session(artifacts["export"].file("model.onnx"))
    assert list(session.inputs) == ["depth"]
    assert (answers(artifacts["feeling"], arrays["depth"])["shape_output"] == arrays["shape"]).mean() > 0.9
    assert artifacts["export.measurement"].manifest.facts["accuracy"] > 0.9
    assert not run.problems


@pytest.mark.slow
def test_a_student_of_two_heads_learns_each_task_of_another_teacher(executed):
    artifacts, run, arrays = executed(
        f"""\
compare: {{seconds: 0.02}}
stages:
  - {{type: train, name: shapes, model: {{type: mlp, hidden: [16]}}, inputs: [picture], heads: [shape_output],
      {TRAINING}}}
  - {{type: train, name: colours, model: {{type: mlp, hidden: [16]}}, inputs: [picture], heads: [colour_output],
      task: {{type: classification, head: colour_output, target: colour}}, {TRAINING}}}
  - {{type: distill, name: both, teacher: [shapes, colours], model: {{type: mlp, hidden: [16]}}, inputs: [picture],
      losses: [{{type: soft_targets, head: shape_output, teacher: shapes}}, {{type: soft_targets, head: colour_output}}],
      {TRAINING}}}
""",
        measured=("colours", "both"),
    )
    classes = answers(artifacts["both"], arrays["picture"].astype(np.float32))
    assert (classes["shape_output"] == arrays["shape"]).mean() > 0.9
    assert (classes["colour_output"] == arrays["colour"]).mean() > 0.9
    assert set(sessions.open_session(artifacts["both.onnx"].file("model.onnx")).outputs) == {"shape_output", "colour_output"}
    assert not run.problems
    figures = json.loads(artifacts["colours.measurement"].file("measurement.json").read_text())
    assert figures["metrics"] == {}
    assert figures["reason"] == "this model has no head 'shape_output', which the task is about (it has: colour_output)"
    assert figures["contents"]["parameters"] == 2 * 6 * 6 * 16 + 16 + 16 * 2 + 2
    assert artifact.read(artifacts["colours"].directory).manifest.facts["epochs"][-1]["accuracy"] > 0.8


def test_existing_weights_of_one_task_each_teach_a_student_of_both(executed, things, tmp_path):
    """Linear models of one input and one head each, which were trained on raw values, and never together."""
    for name, source in (("shape", "depth"), ("colour", "picture")):
        rows = np.c_[things[source].reshape(300, -1).astype(np.float64), np.ones(300)]
        solved = np.linalg.lstsq(rows, 8 * np.eye(3)[things[name]] - 4, rcond=1e-6)[0][:, : things[name].max() + 1]
        weight, bias = (torch.from_numpy(part.astype(np.float32)) for part in (solved[:-1], solved[-1]))
        save_file({"1.weight": weight.T.contiguous(), "1.bias": bias}, tmp_path / f"{name}.safetensors")
    artifacts, _, arrays = executed(
        f"""\
compare: {{seconds: 0.02}}
stages:
  - {{type: load, name: shapes, weights: shape.safetensors, model: {{type: mlp, hidden: []}}, inputs: [depth],
      heads: [shape_output], mean: [0, 0, 0, 0, 0, 0], deviation: [1, 1, 1, 1, 1, 1]}}
  - {{type: load, name: colours, weights: colour.safetensors, model: {{type: mlp, hidden: []}}, inputs: [picture],
      heads: [colour_output], mean: [0, 0], deviation: [1, 1]}}
  - {{type: distill, name: both, teacher: [shapes, colours], model: {{type: mlp, hidden: [16]}}, inputs: [picture],
      teacher_cache: true,
      losses: [{{type: soft_targets, head: shape_output, teacher: shapes}}, {{type: soft_targets, head: colour_output}}],
      {TRAINING}}}
  - {{type: prune, ratio: 0.5, round_to: 1, teacher: both, {TRAINING},
      losses: [{{type: soft_targets, head: shape_output}}, {{type: soft_targets, head: colour_output}}]}}
"""
    )
    assert (answers(artifacts["shapes"], arrays["depth"])["shape_output"] == arrays["shape"]).mean() == 1
    for stage in ("both", "prune"):
        classes = answers(artifacts[stage], arrays["picture"].astype(np.float32))
        assert (classes["shape_output"] == arrays["shape"]).mean() > 0.9
        assert (classes["colour_output"] == arrays["colour"]).mean() > 0.9
    assert restore.checkpoint(artifacts["prune"]).network.body[1].out_features == 8
