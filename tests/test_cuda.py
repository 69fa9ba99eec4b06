"""The same spine on a GPU."""

import json
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

RECIPE = """\
dataset: digits
device: cuda
stages:
  - type: train
    name: teacher
    model: {type: convnet, widths: [16, 32]}
    training: {epochs: 5, deterministic: true, augment: [{type: crop, padding: 1}]}
  - type: distill
    name: student
    model: {type: convnet, widths: [8, 16]}
    training: {epochs: 5, deterministic: true}
  - {type: prune, ratio: 0.25, round_to: 4, teacher: teacher, training: {epochs: 2, deterministic: true}}
  - quantize
  - export
"""


def manifest(stage, output):
    return json.loads(Path(output, "r", stage, "manifest.json").read_text())


def test_every_stage_runs_on_cuda_and_the_same_recipe_gives_the_same_bytes(compress, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    outcome = compress("run", "r.yaml", "--output", "first", "--set", "stages.0.training.precision=float32")
    assert outcome.code == 0, outcome
    rows = json.loads(Path("first/r/report.json").read_text())["rows"]
    assert rows[-1]["metrics"]["accuracy"]["value"] > 0.85
    assert manifest("teacher", "first")["environment"]["device"] == "cuda"
    outcome = compress("run", "r.yaml", "--output", "second", "--set", "stages.0.training.precision=float32")
    assert outcome.code == 0, outcome
    assert manifest("teacher", "first")["files"] == manifest("teacher", "second")["files"]


@pytest.mark.parametrize("precision", ["float32", "float32_channels_last", "bfloat16", "bfloat16_channels_last"])
def test_every_precision_trains_to_the_same_accuracy(compress, tmp_path, precision):
    (tmp_path / "r.yaml").write_text(RECIPE)
    outcome = compress("run", "r.yaml", "--until", "teacher", "--set", f"stages.teacher.training.precision={precision}")
    assert outcome.code == 0, outcome
    assert json.loads(Path("runs/r/report.json").read_text())["rows"][0]["metrics"]["accuracy"]["value"] > 0.85
