"""Values that weights share, fine-tuned on calibration samples."""

import numpy as np
import onnx
import pytest

from compress_cli.errors import StageError
from compress_cli.quantization.quantizers.codebook import Codebook
from tests.quantization.small_files import digits_network, model, node, normal, run


def test_fine_tuned_values_win_accuracy_at_few_bits(tmp_path):
    """At least half of what k-means alone costs, in a file of the same bytes."""
    calibration, pictures, digits = digits_network(tmp_path / "float.onnx")
    batches = [{"image": calibration[start : start + 32]} for start in range(0, 512, 32)]

    def accuracy(**settings):
        path = tmp_path / "small.onnx"
        Codebook(**settings).quantize_onnx(tmp_path / "float.onnx", "float.onnx", batches, path)
        return (run(path, {"image": pictures})[0][0].argmax(1) == digits).mean(), path.stat().st_size

    exact = (run(tmp_path / "float.onnx", {"image": pictures})[0][0].argmax(1) == digits).mean()
    (clustered, size), (tuned, tuned_size) = accuracy(bits=2), accuracy(bits=2, fine_tune={"steps": 100})
    assert clustered < exact - 0.05
    assert tuned > clustered + 0.5 * (exact - clustered)
    assert tuned_size == size


def single_layer(rows=200):
    """One linear layer with pruned weights, whose inputs go together: errors of weights can cancel."""
    inputs = normal(rows, 6, seed=1) @ normal(6, 24, seed=3)
    weights = normal(24, 16, seed=2)
    weights[::3] = 0
    proto = model([node("MatMul", ["x", "w.weight"], ["y"])], {"w.weight": weights}, {"x": ("n", 24)}, {"y": ("n", 16)})
    return proto, weights, inputs


def test_what_is_learned_beats_the_best_values_of_the_clusters_and_zeros_stay(tmp_path):
    """With the clusters fixed, the outputs are linear in the values: the best ones solve a linear system."""
    proto, weights, inputs = single_layer()
    onnx.save(proto, tmp_path / "float.onnx")

    def quantised(**settings):
        Codebook(bits=2, **settings).quantize_onnx(tmp_path / "float.onnx", "f", [{"x": inputs}], tmp_path / "small.onnx")
        return run(tmp_path / "small.onnx", {"x": np.eye(24, dtype=np.float32)})[0][0]  # the layer's weights

    start, learned = quantised(), quantised(fine_tune={"steps": 600, "batch": 200})
    assert not learned[weights == 0].any()
    assert len({*learned.reshape(-1)} - {0.0}) <= 3
    clusters = [start == value for value in {*start.reshape(-1)} - {0.0}]
    features = np.stack([(inputs @ cluster).reshape(-1) for cluster in clusters], 1)
    expected = (inputs @ weights).reshape(-1)
    best, *_ = np.linalg.lstsq(features, expected, rcond=None)
    assert np.square(inputs @ (learned - weights)).sum() < 0.7 * np.square(features @ best - expected).sum()


def test_without_samples_there_is_nothing_to_learn_from(tmp_path):
    proto, _, _ = single_layer()
    onnx.save(proto, tmp_path / "float.onnx")
    with pytest.raises(StageError, match=r"f: there are no calibration samples, and fine-tuned values need some"):
        Codebook(fine_tune={}).quantize_onnx(tmp_path / "float.onnx", "f", [], tmp_path / "small.onnx")
