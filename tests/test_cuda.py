"""The same spine on a GPU; where there is none, on a pretended one, whose numbers are the CPU's."""

import json
from pathlib import Path

import pytest
import torch

REAL = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu if REAL else pytest.mark.slow]

RECIPE = """\
dataset: digits
device: cuda
stages:
  - type: train
    name: teacher
    model: {type: convnet, widths: [16, 32]}
    training: &training
      {epochs: 15, batch: 64, deterministic: true, precision: float32, augment: [{type: crop, padding: 1}]}
  - type: distill
    name: student
    model: {type: convnet, widths: [8, 16]}
    training: *training
  - type: prune
    ratio: 0.25
    round_to: 4
    criterion: taylor
    teacher: teacher
    training: {epochs: 4, batch: 64, deterministic: true, precision: float32, optimizer: {type: sgd, learning_rate: 0.02}}
  - quantize
  - export
"""
TRAINED = ("teacher", "student", "prune")


@pytest.fixture(autouse=True)
def _device(request):
    if REAL:
        yield
        return
    with request.getfixturevalue("pretended_cuda").device():
        yield


@pytest.fixture
def ran(compress, tmp_path):
    """ran("first", "--set", ...): the recipe's rows, from a run in that folder."""

    def _ran(output, *arguments):
        (tmp_path / "r.yaml").write_text(RECIPE)
        outcome = compress("run", "r.yaml", "--output", output, *arguments)
        assert outcome.code == 0, outcome
        return json.loads(Path(output, "r", "report.json").read_text())["rows"]

    return _ran


def manifest(stage, output):
    return json.loads(Path(output, "r", stage, "manifest.json").read_text())


def test_every_stage_runs_on_cuda_and_the_same_recipe_gives_the_same_bytes(ran):
    rows = ran("first")
    assert all(row["metrics"]["accuracy"]["value"] > 0.9 for row in rows), rows
    assert manifest("teacher", "first")["environment"]["device"] == f"cuda ({torch.cuda.get_device_name()})"
    ran("second")
    for stage in TRAINED:
        assert manifest(stage, "first")["files"] == manifest(stage, "second")["files"], stage


@pytest.mark.skipif(REAL, reason="a GPU adds in another order")
def test_the_numbers_are_the_cpu_s(ran):
    short = [each for stage in TRAINED for each in ("--set", f"stages.{stage}.training.epochs=1")]
    ran("cuda", "--set", "threads=1", *short)
    ran("cpu", "--set", "threads=1", *short, "--set", "device=cpu")
    for stage in (*TRAINED, "quantize", "export"):
        assert manifest(stage, "cuda")["files"] == manifest(stage, "cpu")["files"], stage


@pytest.mark.parametrize("precision", ["float32", "float32_channels_last", "bfloat16", "bfloat16_channels_last"])
def test_every_precision_trains_to_the_same_accuracy(ran, precision):
    rows = ran("runs", "--until", "teacher", "--set", f"stages.teacher.training.precision={precision}")
    assert rows[0]["metrics"]["accuracy"]["value"] > 0.9
