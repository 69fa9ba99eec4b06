"""Models of other makes, each knowing one task and taking one input: one student of both tasks, from load to report."""

import json
from html import unescape
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.measurement import sessions

TRAINING = "{epochs: 12, batch: 16, precision: float32, optimizer: {type: sgd, learning_rate: 0.05}}"
DATA = """\
dataset: {type: npz, train: data.npz, inputs: [picture, depth], targets: [shape, colour], test_share: 0.3}
task: {type: classification, head: shape_output, target: shape}
threads: 1
compare: {seconds: 0.05}
stages:
"""
STUDENT = f"""\
  - type: distill
    name: both
    teacher: [colours, shapes]
    model: {{type: mlp, hidden: [16]}}
    inputs: [picture]
    losses:
      - {{type: soft_targets, head: shape_output, teacher: shapes}}
      - {{type: soft_targets, head: colour_output, teacher: colours}}
    training: {TRAINING}
  - type: prune
    ratio: 0.5
    round_to: 1
    teacher: both
    losses: [{{type: soft_targets, head: shape_output}}, {{type: soft_targets, head: colour_output}}]
    training: {TRAINING}
"""


def fitted(inputs, labels):
    """Weights (values, classes) and bias (classes,) of a linear classifier, by least squares."""
    rows = np.c_[inputs.reshape(len(inputs), -1).astype(np.float64), np.ones(len(inputs))]
    solved = np.linalg.lstsq(rows, 8 * np.eye(labels.max() + 1)[labels] - 4, rcond=1e-6)[0].astype(np.float32)
    return solved[:-1], solved[-1]


def write_onnx(path, inputs, weight, bias, takes, gives):
    nodes = [helper.make_node("Flatten", [takes], ["flat"]), helper.make_node("Gemm", ["flat", "weight", "bias"], [gives])]
    graph = helper.make_graph(
        nodes, "linear", [helper.make_tensor_value_info(takes, TensorProto.FLOAT, ("batch", *inputs.shape[1:]))],
        [helper.make_tensor_value_info(gives, TensorProto.FLOAT, ("batch", len(bias)))],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture
def run(compress, things, one_thread):
    """Run stages of the recipe; its report as JSON, by row name."""

    def _run(stages):
        Path("r.yaml").write_text(DATA + stages)
        outcome = compress("run", "r.yaml", "--quiet")
        assert outcome.code == 0, outcome
        return {row["name"]: row for row in json.loads(Path("runs/r/report.json").read_text())["rows"]}, outcome.out

    return _run


def right(session, things):
    answers = session.run({"picture": things["picture"].astype(np.float32)})
    return {name: (answers[f"{name}_output"].argmax(1) == things[name]).mean() for name in ("shape", "colour")}


def check_report(rows, out, teacher_bytes):
    """The teacher without the task's head is the baseline: it has a size, and no accuracy, with the reason."""
    reason = "this model has no head 'shape_output', which the task is about (it has: colour_output)"
    assert rows["colours"]["reason"] == reason
    assert rows["colours"]["metrics"] == {}
    assert rows["colours"]["size_bytes"] == teacher_bytes
    assert rows["colours"]["parameters"] == 2 * 6 * 6 * 2 + 2
    assert rows["shapes"]["metrics"]["accuracy"]["value"] == 1.0
    assert rows["shapes"]["parameters"] == 6 * 6 * 3 + 3
    for name in rows.keys() - {"colours"}:
        assert not rows[name]["reason"]
        assert rows[name]["metrics"]["accuracy"]["value"] > 0.9
        assert rows[name]["change"] is None
        assert rows[name]["predictions"] is None
        assert rows[name]["compression_ratio"] == pytest.approx(teacher_bytes / rows[name]["size_bytes"])
    forms = (out, Path("runs/r/report.md").read_text().replace("\\_", "_"), unescape(Path("runs/r/report.html").read_text()))
    assert all(reason.partition(" (it has")[0] in " ".join(form.split()) for form in forms)


@pytest.mark.slow
def test_two_onnx_files_teach_one_student_of_both_tasks(run, things, compress):
    for name, inputs, takes, gives in (
        ("shape", "depth", "input", "logits"),
        ("colour", "picture", "picture", "colour_output"),
    ):
        write_onnx(f"{name}.onnx", things[inputs], *fitted(things[inputs], things[name]), takes, gives)
    rows, out = run(f"""\
  - {{type: load, name: colours, onnx: colour.onnx}}
  - {{type: load, name: shapes, onnx: shape.onnx, inputs: [depth], heads: [shape_output]}}
{STUDENT}\
  - quantize
  - export
""")
    assert Path("runs/r/colours/model.onnx").read_bytes() == Path("colour.onnx").read_bytes()
    shapes = sessions.open_session(Path("runs/r/shapes/model.onnx"))
    assert (list(shapes.inputs), list(shapes.outputs)) == (["depth"], ["shape_output"])
    shipped = sessions.open_session(Path("runs/r/export/model.onnx"))
    assert (list(shipped.inputs), set(shipped.outputs)) == (["picture"], {"shape_output", "colour_output"})
    assert min(right(shipped, things).values()) > 0.9
    assert rows["export"]["kinds"]["int8"] == 8 * (2 * 6 * 6 + 3 + 2)
    check_report(rows, out, Path("colour.onnx").stat().st_size)
    task = "{type: classification, head: colour_output, target: colour}"
    other = compress("eval", "runs/r/export/model.onnx", "--data", "{type: npz, train: data.npz, inputs: [picture, depth], "
                     "targets: [shape, colour]}", "--task", task, "--seconds", "0.05", "--json")  # fmt: skip
    assert json.loads(other.out)["metrics"]["accuracy"]["value"] > 0.9
