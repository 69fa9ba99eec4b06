"""The answers of two measurements, compared."""

import numpy as np
import pytest

from compress_cli.data.datasets.digits import Digits
from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.measurement import measure
from compress_cli.stages.compare_predictions import ComparePredictions
from compress_cli.stages.measure import Measure
from compress_cli.statistics.intervals import wilson
from compress_cli.statistics.predictions import PredictionComparison as Document
from compress_cli.store import artifact
from compress_cli.store.artifact import Draft, Measurement


@pytest.fixture
def measured(tmp_path):
    """`measured(classes)`: the Measurement of a model that says these classes of digits."""
    dataset = Digits()

    def _measured(classes, split="test", index=None):
        folder = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        samples = dataset.split(split)
        figures = {
            "split": split, "samples": len(samples), "primary": "accuracy", "metrics": {}, "better": {}, "shares": [],
            "contents": {
                "parameters": 1, "kinds": {}, "nonzero": 1, "macs": 1, "size_bytes": 1, "gzip_bytes": 1, "zstd_bytes": None,
                "peak_activation_bytes": 1, "bytes_by_kind": {}, "largest": [],
            },
        }  # fmt: skip
        (folder / measure.MEASUREMENT).write_text(measure.Figures.model_validate(figures).model_dump_json())
        index = samples.index if index is None else index
        np.savez(folder / measure.PREDICTIONS, index=index, **{"head.logits": np.eye(10, dtype=np.float32)[classes] * 5})
        return Draft(Measurement, "k", {"type": "measure"}).commit(folder)

    return dataset, _measured


def test_damage_of_stored_answers(measured, context_for):
    dataset, made = measured
    split = dataset.split("test")
    labels = split.targets["label"]
    worse = labels.copy()
    worse[[4, 7]] = (labels[[4, 7]] + 1) % 10
    context = context_for(dataset, inputs={"baseline": (made(labels),), "start": (made(worse),)}, splits=("val", "test"))
    ComparePredictions(baseline="a").run(context)
    comparison = Document.model_validate_json((context.output / measure.PREDICTION_COMPARISON).read_text())
    assert comparison.right_to_wrong == wilson(2, 467)
    assert [sample.index for sample in comparison.changed] == split.index[[4, 7]].tolist()
    with np.load(context.output / measure.PICTURES) as kept:
        np.testing.assert_array_equal(kept["index"], split.index[[4, 7]])
        np.testing.assert_array_equal(kept["images"], split.inputs["image"][[4, 7]])


def test_nothing_changed_keeps_no_pictures(measured, context_for):
    dataset, made = measured
    same = made(dataset.split("test").targets["label"])
    context = context_for(dataset, inputs={"baseline": (same,), "start": (same,)}, splits=("val", "test"))
    assert ComparePredictions(baseline="a").run(context)["agreement"] == 1.0
    assert not (context.output / measure.PICTURES).exists()


def test_measurements_of_other_samples_are_refused(measured, context_for):
    dataset, made = measured
    test, val = (dataset.split(name).targets["label"] for name in ("test", "val"))
    pair = {"baseline": (made(test),), "start": (made(val, "val"),)}
    with pytest.raises(RecipeError, match="same split"):
        ComparePredictions(baseline="a").run(context_for(dataset, inputs=pair, splits=("val", "test")))
    moved = {"baseline": (made(test),), "start": (made(test, index=np.arange(467)),)}
    with pytest.raises(ArtifactError, match="other samples"):
        ComparePredictions(baseline="a").run(context_for(dataset, inputs=moved, splits=("val", "test")))


def test_a_measure_stage_takes_the_model_before_it(measured):
    assert ComparePredictions(baseline="a").produces({}) is artifact.Comparison
    assert "train" not in ComparePredictions(baseline="a").splits
    assert Measure().produces({}) is Measurement
