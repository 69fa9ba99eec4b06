"""The instrument: the same answers as plain NumPy, for any batch, and a refusal to give a figure where there is none."""

import numpy as np
import pytest

from compress_cli.data.datasets import Split
from compress_cli.data.datasets.digits import Digits
from compress_cli.data.tasks.classification import Classification
from compress_cli.errors import ArtifactError, DataError, StageError
from compress_cli.measurement.measure import evaluate, predict, sample
from compress_cli.measurement.sessions import open_session


def silent(progress):
    pass


@pytest.fixture(scope="module")
def split():
    return Digits().split("test")


def by_hand(split, weight, bias):
    return split.inputs["image"].reshape(len(split), -1).astype(np.float64) @ weight + bias


@pytest.mark.parametrize("batch", [1, 64, 467, 1000])
def test_predictions_are_those_of_numpy(digits_file, split, batch):
    path, weight, bias = digits_file()
    heads = predict(open_session(path), split, batch, silent)
    assert list(heads) == ["logits"]
    np.testing.assert_allclose(heads["logits"], by_hand(split, weight, bias), atol=1e-4)


@pytest.mark.parametrize("fixed", [1, 10, 500])
def test_a_file_that_insists_on_a_batch_gets_it(digits_file, split, fixed):
    path, weight, bias = digits_file(shape=(fixed, 1, 8, 8))
    heads = predict(open_session(path), split, 64, silent)
    np.testing.assert_allclose(heads["logits"], by_hand(split, weight, bias), atol=1e-4)
    assert len(sample(open_session(path), split, 1)["image"]) == fixed


def test_metrics_are_those_of_numpy(digits_file, split):
    path, weight, bias = digits_file()
    result = evaluate(open_session(path), split, Classification(), 100, silent)
    right = by_hand(split, weight, bias).argmax(1) == split.targets["label"]
    assert 0.85 < right.mean() < 1
    assert result.metrics["accuracy"].value == right.mean()
    np.testing.assert_array_equal(result.scores["accuracy"].right, right)
    np.testing.assert_array_equal(result.index, split.index)


def test_progress_ends_with_everything_done(digits_file, split):
    reports = []
    predict(open_session(digits_file()[0]), split, 50, reports.append)
    assert (reports[-1].done, reports[-1].total) == (len(split), len(split))


def split_of(**inputs):
    count = len(next(iter(inputs.values())))
    return Split(inputs, {"label": np.zeros(count, np.int64)}, np.arange(count))


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": np.zeros((4, 3, 8, 8), np.uint8)},
        {"image": np.zeros((4, 1, 28, 28), np.uint8)},
        {"image": np.zeros((4, 64), np.float32)},
        {"image": np.zeros((4, 1, 8, 8), np.int64)},  # whole numbers are not silently made real
        {"picture": np.zeros((4, 1, 8, 8), np.uint8), "mask": np.zeros((4, 8), np.uint8)},
    ],
)
def test_other_inputs_than_the_file_takes(digits_file, inputs):
    path, _, _ = digits_file()
    with pytest.raises(ArtifactError) as error:
        predict(open_session(path), split_of(**inputs), 4, silent)
    message = str(error.value)
    assert str(path) in message
    assert "file: image: float32 (?, 1, 8, 8)" in message
    assert all(f"{name}: {array.dtype} (N, " in message for name, array in inputs.items())


def test_one_input_fits_whatever_it_is_called(digits_file, split):
    path, weight, bias = digits_file(takes="input.1")
    heads = predict(open_session(path), split, 64, silent)
    np.testing.assert_allclose(heads["logits"], by_hand(split, weight, bias), atol=1e-4)


def test_double_precision_is_taken_as_single(digits_file, split):
    path, weight, bias = digits_file()
    doubled = Split({"image": split.inputs["image"].astype(np.float64)}, split.targets, split.index)
    np.testing.assert_allclose(
        predict(open_session(path), doubled, 64, silent)["logits"], by_hand(split, weight, bias), atol=1e-4
    )


def test_no_figure_for_nan(linear_file, split):
    weight = np.zeros((64, 10))
    weight[0, 3] = np.nan
    with pytest.raises(StageError, match="output 'logits' is NaN for 467 of 467 samples") as error:
        evaluate(open_session(linear_file(weight)), split, Classification(), 64, silent)
    assert error.value.exit_code == 4


def test_no_figure_for_no_samples(digits_file, split):
    with pytest.raises(DataError, match="split is empty"):
        evaluate(open_session(digits_file()[0]), split.take(slice(0)), Classification(), 64, silent)


def test_labels_the_file_does_not_know(linear_file, split):
    with pytest.raises(DataError, match="labels go from 0 to 9, but head 'logits' has 7 classes"):
        evaluate(open_session(linear_file(np.zeros((64, 7)))), split, Classification(), 64, silent)


def test_an_output_without_samples(tmp_path, split):
    from onnx import TensorProto, helper, save

    node = helper.make_node("ReduceSum", ["image"], ["logits"], keepdims=0)
    graph = helper.make_graph(
        [node],
        "sum",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 1, 8, 8))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ())],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "sum.onnx")
    with pytest.raises(StageError, match=r"output 'logits' has shape \(\) for 64 samples"):
        predict(open_session(tmp_path / "sum.onnx"), split, 64, silent)
