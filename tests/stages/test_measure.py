"""The stages that measure: one file's figures, two files' times."""

import json
from dataclasses import replace

import numpy as np
import pytest

from compress_cli import artifact
from compress_cli.artifact import Comparison, Measurement, OnnxModel
from compress_cli.context import Context
from compress_cli.datasets.digits import Digits
from compress_cli.errors import StageError
from compress_cli.measure import COMPARISON, MEASUREMENT, PREDICTIONS, Figures, Timing
from compress_cli.stages import Stage
from compress_cli.stages.compare import Compare
from compress_cli.stages.measure import Measure
from compress_cli.tasks.classification import Classification


@pytest.fixture
def context(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    return Context(
        inputs={},
        output=output,
        dataset=Digits(),
        task=Classification(),
        device="cpu",
        seed=0,
        log=lambda progress: None,
        key="0" * 64,
        memory=tmp_path,
        splits=("val", "test"),
    )


@pytest.fixture
def stored(tmp_path):
    """An OnnxModel artifact of a file."""

    def _stored(path, name):
        folder = tmp_path / name
        folder.mkdir()
        path.rename(folder / "model.onnx")
        artifact.write_manifest(folder, OnnxModel, name, {"type": "export"}, {}, {}, {}, 0.0)
        return artifact.read(folder)

    return _stored


@pytest.mark.parametrize("split", ["test", "val"])
def test_measurement(context, stored, digits_file, split):
    path, weight, bias = digits_file()
    size = path.stat().st_size
    facts = Measure(split=split).run(replace(context, inputs={"start": (stored(path, "a"),)}))
    samples = Digits().split(split)
    scores = samples.inputs["image"].reshape(len(samples), -1) @ weight + bias
    right = scores.argmax(1) == samples.targets["label"]
    found = Figures.model_validate_json((context.output / MEASUREMENT).read_text())
    assert (found.split, found.samples, found.primary) == (split, len(samples), "accuracy")
    assert found.metrics["accuracy"].value == facts["accuracy"] == right.mean()
    assert (found.contents.parameters, found.contents.macs, found.contents.size_bytes) == (650, 640, size)
    with np.load(context.output / PREDICTIONS, allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["head.logits"], scores, atol=1e-4)
        np.testing.assert_array_equal(arrays["correct"], right)
        np.testing.assert_array_equal(arrays["index"], samples.index)


def test_measuring_twice_gives_the_same_bytes(context, stored, digits_file):
    ready = replace(context, inputs={"start": (stored(digits_file()[0], "a"),)})
    made = []
    for _ in range(2):
        Measure().run(ready)
        made.append([(context.output / name).read_bytes() for name in (MEASUREMENT, PREDICTIONS)])
    assert made[0] == made[1]


def test_comparison(context, stored, digits_file, linear_file):
    rng = np.random.default_rng(0)
    baseline = stored(linear_file(rng.random((64, 20_000)), name="large.onnx"), "large")
    start = stored(digits_file()[0], "small")
    ready = replace(context, inputs={"baseline": (baseline,), "start": (start,)}, splits=("test",))
    facts = Compare(seconds=0.2, batch=4, threads=1).run(ready)
    found = Timing.model_validate_json((context.output / COMPARISON).read_text())
    assert facts["verdict"] == found.speedup.verdict == "faster"
    assert facts["speedup"] == found.speedup.speedup.value > 2
    assert (found.speedup.model.batch, found.speedup.model.threads) == (4, 1)
    assert found.machine == dict(Compare().depends())


def test_nan_makes_no_measurement(context, stored, linear_file):
    ready = replace(context, inputs={"start": (stored(linear_file(np.full((64, 10), np.nan)), "a"),)})
    with pytest.raises(StageError, match="is NaN for 467 of 467"):
        Measure().run(ready)
    assert not (context.output / MEASUREMENT).exists()


@pytest.mark.parametrize(("stage", "kind"), [(Measure(), Measurement), (Compare(baseline="a"), Comparison)])
def test_contract(stage, kind):
    assert stage.produces({"start": (OnnxModel,)}) is kind
    assert Stage.model_validate(json.loads(stage.model_dump_json())) == stage
    assert stage.depends()["onnxruntime"]
    assert "train" not in stage.splits
