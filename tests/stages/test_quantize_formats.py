"""Quantising checkpoints into files, and choosing bits by a promise."""

import warnings

import numpy as np
import onnx
import pytest
import torch

from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import RecipeError
from compress_cli.measurement import sessions
from compress_cli.networks import restore
from compress_cli.stages.export import Export
from compress_cli.stages.quantize import Quantize
from compress_cli.store.artifact import Checkpoint, OnnxModel, Program
from tests.stages.test_quantize import Bench


def export(self, network, signature, example, path, metadata):
    """By the legacy exporter, in a tenth of the time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, example, path, dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Onnx, "export", export)
        yield Bench(tmp_path_factory.mktemp("formats"))


def quantize(**settings):
    return Quantize.model_validate({"samples": 32, **settings})


def test_a_checkpoint_becomes_a_file_where_the_format_is_one_of_files(bench):
    stage = quantize(quantizer="codebook")
    assert stage.produces({"start": (Checkpoint,)}) is OnnxModel
    result = bench.run(stage, bench.checkpoint)
    facts = result.manifest.facts
    assert isinstance(result, OnnxModel)
    assert facts["stored_in"] == "codes"
    assert [(entry["operator"], entry["weights"]) for entry in facts["layers"]] == [("Conv", 72), ("Conv", 1152)]
    assert len(facts["left_float"]) == 1  # the head, of 48 weights
    assert facts["sqnr_db"]["logits"] > 10
    shipped = bench.run(Export(), result)
    assert shipped.manifest.facts["parity"]["heads"]["logits"]["max_abs_error"] == 0
    assert sessions.open_session(shipped.file("model.onnx")).metadata


def test_a_program_is_described_layer_by_layer(bench):
    layers = bench.program.manifest.facts["layers"]
    assert len(layers) == 3
    for entry in layers:
        assert (entry["weight_bits"], entry["activation_bits"]) == (8, 8)
        assert entry["weight_sqnr_db"] > 30
        assert 0 <= entry["activation_clipped"] < 0.02
    assert layers[0]["activation_range"][0] < 0 < layers[0]["activation_range"][1]  # normalised pictures


def test_overrides_reach_the_layers_of_a_checkpoint(bench):
    chosen = [{"layers": "fc", "weights": "float"}, {"layers": "*", "weights": 4}, {"layers": "fc", "weights": "float"}]
    stage = quantize(quantizer={"type": "static_int8", "overrides": chosen})
    result = bench.run(stage, bench.checkpoint)
    assert isinstance(result, Program)
    facts = result.manifest.facts
    assert [entry["weight_bits"] for entry in facts["layers"]] == [4, 4]
    assert "body.fc: linear" in facts["left_float"]
    codes = [
        tensor
        for tensor in restore.program(result).state_dict().values()
        if str(tensor.dtype) == "torch.int8" and tensor.ndim > 1
    ]
    assert all(3 < len(code.unique()) <= 15 for code in codes)
    with pytest.raises(RecipeError, match=r"no layer is called 'head'") as caught:
        bench.run(
            quantize(quantizer={"type": "static_int8", "overrides": [{"layers": "head", "weights": 4}]}), bench.checkpoint
        )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("calibration", ["min_max", "percentile", "entropy", "mse"])
def test_every_calibration_serves_checkpoints_and_files_alike(bench, calibration):
    stage = quantize(quantizer={"type": "static_int8", "calibration": calibration})
    program, file = (bench.run(stage, start).manifest.facts for start in (bench.checkpoint, bench.file))
    for facts in (program, file):
        assert facts["sqnr_db"]["logits"] > 20
    ranges = [[entry["activation_range"] for entry in facts["layers"]] for facts in (program, file)]
    np.testing.assert_allclose(ranges[0][:2], ranges[1][:2], rtol=1e-4, atol=1e-4)


def test_a_file_that_is_mostly_float_or_no_smaller_says_so(bench):
    stage = quantize(quantizer={"type": "static_int8", "overrides": [{"layers": "*[!c]", "weights": "float"}]})
    facts = bench.run(stage, bench.file).manifest.facts
    assert facts["integer_share"] < 0.5
    assert facts["notes"][-1].startswith("only ")
    assert "of the weights are integers; float: " in facts["notes"][-1]
    facts = bench.run(quantize(quantizer={"type": "linear", "bits": 16}), bench.file).manifest.facts
    grew = facts["size_bytes"] >= bench.file.manifest.facts["size_bytes"]
    assert any(note.startswith("the file is no smaller than the float one") for note in facts["notes"]) == grew


def test_outputs_without_samples_or_with_other_shapes_are_left_out_of_the_comparison(bench):
    """A file that counts, and one whose boxes vary: only what can be compared is."""
    model = onnx.load(bench.file.file("model.onnx"))
    model.graph.node.append(onnx.helper.make_node("Shape", ["logits"], ["size"]))
    model.graph.node.append(onnx.helper.make_node("Greater", ["logits", "zero"], ["above"]))
    model.graph.node.append(onnx.helper.make_node("NonZero", ["above"], ["places"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, (2,)))
    model.graph.output.append(onnx.helper.make_tensor_value_info("places", onnx.TensorProto.INT64, (2, "found")))
    output = bench.folder()
    onnx.save(model, output / "model.onnx")
    result = bench.run(quantize(), bench.artifact(output, OnnxModel, {}))
    assert result.manifest.facts["sqnr_db"]["logits"] > 20
