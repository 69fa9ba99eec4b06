"""The stages that measure: one file's figures, two files' times."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from compress_cli.context import Context
from compress_cli.data.datasets.digits import Digits
from compress_cli.data.signature import Head
from compress_cli.data.tasks.classification import Classification
from compress_cli.errors import RecipeError, StageError
from compress_cli.measurement.latency import TimingConditions
from compress_cli.measurement.measure import COMPARISON, MEASUREMENT, PREDICTIONS, Figures, Timing
from compress_cli.stages import Stage
from compress_cli.stages.compare import Compare
from compress_cli.stages.measure import Measure
from compress_cli.stages.predict import Predict
from compress_cli.store.artifact import Comparison, Draft, Measurement, OnnxModel, Predictions


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
        return Draft(OnnxModel, name, {"type": "export"}).commit(folder)

    return _stored


def measured(context, file, split="test"):
    """The facts of a measurement in `context.output`, with the implied predictions before it."""
    stage, folder = Measure(split=split), context.output.parent / "predictions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    stage.needs()["predictions"].run(replace(context, inputs={"start": (file,)}, output=folder))
    predictions = Draft(Predictions, "p", {"type": "predict"}).commit(folder)
    return stage.run(replace(context, inputs={"start": (file,), "predictions": (predictions,)}))


class TwoTasks(Digits):
    """Two heads of ten classes."""

    def signature(self):
        signature = super().signature()
        return signature.model_copy(update={"heads": {**signature.heads, "value": Head(shape=(10,))}})


def test_a_model_without_the_head_of_the_task_has_a_size(context, stored, digits_file):
    path = digits_file()[0]
    size = path.stat().st_size
    context = replace(context, dataset=TwoTasks(), task=Classification(head="value"))
    assert measured(context, stored(path, "a")) == {}
    figures = Figures.model_validate_json((context.output / MEASUREMENT).read_text())
    assert (figures.metrics, figures.primary, figures.contents.parameters, figures.contents.size_bytes) == (
        {},
        "accuracy",
        650,
        size,
    )
    assert figures.reason == "this model has no head 'value', which the task is about (it has: logits)"


def test_a_task_that_does_not_fit_the_data_is_refused(context, stored, digits_file):
    """Its only head may be about something else than the task: of several, the task has to name one."""
    file = stored(digits_file()[0], "a")
    with pytest.raises(RecipeError, match=r"name the head to evaluate \(there is: logits, value\)"):
        measured(replace(context, dataset=TwoTasks()), file)
    with pytest.raises(RecipeError, match=r"there is no head 'valeu'; did you mean 'value'\?"):
        measured(replace(context, dataset=TwoTasks(), task=Classification(head="valeu")), file)


@pytest.mark.parametrize("split", ["test", "val"])
def test_measurement(context, stored, digits_file, split):
    path, weight, bias = digits_file()
    size = path.stat().st_size
    facts = measured(context, stored(path, "a"), split)
    samples = Digits().split(split)
    scores = samples.inputs["image"].reshape(len(samples), -1) @ weight + bias
    right = scores.argmax(1) == samples.targets["label"]
    figures = Figures.model_validate_json((context.output / MEASUREMENT).read_text())
    assert (figures.split, figures.samples, figures.primary) == (split, len(samples), "accuracy")
    assert figures.metrics["accuracy"].value == facts["accuracy"] == right.mean()
    assert (figures.contents.parameters, figures.contents.macs, figures.contents.size_bytes) == (650, 640, size)
    with np.load(context.output / PREDICTIONS, allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["head.logits"], scores, atol=1e-4)
        np.testing.assert_array_equal(arrays["right.accuracy"], right)
        np.testing.assert_array_equal(arrays["index"], samples.index)


def test_measuring_twice_gives_the_same_bytes(context, stored, digits_file):
    file, made = stored(digits_file()[0], "a"), []
    for _ in range(2):
        measured(context, file)
        made.append([(context.output / name).read_bytes() for name in (MEASUREMENT, PREDICTIONS)])
    assert made[0] == made[1]


def test_comparison(context, stored, digits_file, linear_file):
    rng = np.random.default_rng(0)
    baseline = stored(linear_file(rng.random((64, 20_000)), name="large.onnx"), "large")
    start = stored(digits_file()[0], "small")
    ready = replace(context, inputs={"baseline": (baseline,), "start": (start,)}, splits=("test",))
    facts = Compare(conditions=TimingConditions(seconds=0.2, batch=4, threads=1)).run(ready)
    timing = Timing.model_validate_json((context.output / COMPARISON).read_text())
    assert facts["verdict"] == timing.speedup.verdict == "faster"
    assert facts["speedup"] == timing.speedup.speedup.value > 2
    assert (timing.speedup.model.batch, timing.speedup.model.threads) == (4, 1)
    assert timing.machine == dict(Compare().depends())


def test_a_model_is_timed_alone_where_there_is_no_baseline(context, stored, digits_file):
    ready = replace(context, inputs={"start": (stored(digits_file()[0], "a"),)}, splits=("test",))
    facts = Compare(conditions=TimingConditions(seconds=0.1, threads=1, concurrency=2)).run(ready)
    timing = Timing.model_validate_json((context.output / COMPARISON).read_text())
    assert timing.speedup is None
    assert facts == {"latency_ms": timing.latency.p50_ms.value}
    assert (timing.load.clients, timing.load.batch) == (2, 1)


def test_nan_makes_no_measurement(context, stored, linear_file):
    file = stored(linear_file(np.full((64, 10), np.nan)), "a")
    with pytest.raises(StageError, match="is NaN for 467 of 467"):
        measured(context, file)
    assert not (context.output / MEASUREMENT).exists()


@pytest.mark.parametrize(
    ("stage", "kind"), [(Measure(), Measurement), (Predict(), Predictions), (Compare(baseline="a"), Comparison)]
)
def test_contract(stage, kind):
    assert stage.produces({"start": (OnnxModel,)}) is kind
    assert Stage.model_validate(json.loads(stage.model_dump_json())) == stage
    assert "train" not in stage.splits
