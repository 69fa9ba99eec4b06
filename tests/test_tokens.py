"""Models of tokens: named inputs with an attention mask, from training to a measured file."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress_cli import plugin
from compress_cli.networks.models import Model

ENCODER = Path(__file__).parent / "encoder.py"
LENGTH, CLASSES = 9, 3
RECIPE = """\
dataset: {type: npz, train: tokens.npz, inputs: [ids, attention_mask], classes: [few, some, many]}
compare: {seconds: 0.02}
threads: 1
stages:
  - type: train
    name: teacher
    model: {type: encoder, width: 24, depth: 2}
    training: &training {epochs: 6, batch: 32, optimizer: {type: adamw, learning_rate: 0.01}}
  - type: distill
    name: student
    teacher: teacher
    model: {type: encoder, width: 12, depth: 1}
    losses:
      - {type: soft_targets, temperature: 2.0}
      - {type: hidden_states, mask: attention_mask, layers: [embedding, {student: layers.0, teacher: layers.1}]}
      - {type: cls_token, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: attention_transfer, mask: attention_mask, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: vid, mask: attention_mask, weight: 0.1, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: similarity_preserving, mask: attention_mask, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: pkt, mask: attention_mask, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: rkd, mask: attention_mask, weight: 0.1, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: triplet, mask: attention_mask, weight: 0.1, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: crd, mask: attention_mask, weight: 0.1, negatives: 64, layers: [{student: layers.0, teacher: layers.1}]}
      - {type: self_distillation, mask: attention_mask, weight: 0.1, exits: [layers.0]}
    training: *training
  - type: export
    name: onnx
"""


def tokens(samples, kind=np.int64):
    """Sequences behind a token that stands for them all; the class is which of three tokens leads among those that are
    not padding, and padding is noise."""
    random = np.random.RandomState(0)
    label = np.arange(samples) % CLASSES
    lengths = random.randint(4, LENGTH + 1, samples)
    ids = random.randint(2, 24, (samples, LENGTH))
    mask = np.arange(LENGTH) < lengths[:, None]
    ids[:, 0] = 1
    ids[mask & (ids >= 10) & (ids < 13)] = 2
    ids[np.arange(samples), random.randint(1, lengths)] = 10 + label
    ids[~mask & (random.rand(samples, LENGTH) < 0.8)] = 10
    return {"ids": ids.astype(np.int64), "attention_mask": mask.astype(kind), "label": label}


@pytest.fixture(scope="module", autouse=True)
def _encoder():
    """The model of the plugin file, under its name."""
    plugin.register(ENCODER)
    yield
    del plugin._OUTSIDE[Model]["encoder"]  # other tests count the models there are


@pytest.fixture
def recipe(tmp_path):
    """recipe(kind): the recipe's path, beside tokens whose mask is of that type."""

    def write(kind):
        np.savez(tmp_path / "tokens.npz", **tokens(600, kind))
        (tmp_path / "r.yaml").write_text(RECIPE)
        return "r.yaml"

    return write


@pytest.mark.slow
def test_from_training_to_a_measured_file(tmp_path, compress, recipe):
    ran = compress("run", recipe(np.int64), "--json")
    assert ran.code == 0, ran
    rows = {row["name"]: row for row in json.loads(ran.out)["rows"]}
    assert all(rows[name]["metrics"]["accuracy"]["value"] > 0.9 for name in ("teacher", "student")), rows
    assert rows["student"]["parameters"] < rows["teacher"]["parameters"] / 3
    session = onnxruntime.InferenceSession(tmp_path / "runs/r/onnx/model.onnx")
    assert [(each.name, each.type) for each in session.get_inputs()] == [
        ("ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
    given = {name: each[:5] for name, each in tokens(600).items() if name != "label"}
    (before,) = session.run(None, given)
    given["ids"] = np.where(given["attention_mask"] == 0, 7, given["ids"])
    np.testing.assert_array_equal(session.run(None, given)[0], before)  # what is padding does not matter


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (np.int32, np.float32, np.bool_)]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, *SLOW])
def test_masks_of_every_type_pass_every_stage(compress, recipe, kind):
    ran = compress("run", recipe(kind), "--smoke")
    assert ran.code == 0, ran


def test_a_mask_that_is_no_input_is_named(compress, recipe):
    ran = compress("run", recipe(np.int64), "--smoke", "--set", "stages.student.losses.hidden_states.mask=mask")
    assert ran.code == 2
    assert "there is no input 'mask'" in ran.err
    assert "attention_mask" in ran.err
