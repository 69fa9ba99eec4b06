"""Teachers opened from artifacts, against running the model oneself."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress_cli.data.batch import Batch
from compress_cli.distillation import table
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Table

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
BATCH = Batch({"image": IMAGES}, {}, torch.arange(4))


def whole(directory, kind):
    return Draft(kind, "k", {}).commit(directory)


@pytest.fixture
def checkpoint(toy, tmp_path):
    restored = restore.build(Convnet(widths=(4, 6), convs=1), toy().signature(), 0)
    restore.save(restored, tmp_path)
    return whole(tmp_path, Checkpoint), restored.network.eval()


@pytest.fixture(params=["N", 1, 3])
def black_box(tmp_path, request):
    """For any number of samples, or for so many."""
    weight = np.random.default_rng(0).standard_normal((72, 3)).astype(np.float32) / 255
    nodes = [helper.make_node("Flatten", ["image"], ["row"]), helper.make_node("MatMul", ["row", "w"], ["scores"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [request.param, 2, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [request.param, 3])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    return whole(tmp_path, OnnxModel), weight


def test_a_checkpoint_has_the_outputs_of_its_network(checkpoint):
    artifact, network = checkpoint
    outputs = teacher_for(artifact).open(artifact, ("layer1",), "cpu")(BATCH)
    expected = network(IMAGES)["logits"]
    assert torch.equal(outputs.heads["logits"], expected)
    assert not outputs.heads["logits"].requires_grad
    assert outputs.class_axes == {"logits": 1}
    conv, norm, _ = network.body.layer1
    torch.testing.assert_close(outputs.features["layer1"], norm(conv(network.normalise[0](IMAGES))).relu())


def test_a_checkpoint_has_the_same_outputs_again(checkpoint):
    """Its normalisation statistics do not move, and its features are those of the present batch."""
    artifact, _ = checkpoint
    opened = teacher_for(artifact).open(artifact, ("layer2",), "cpu")
    first, other, again = opened(BATCH), opened(Batch({"image": IMAGES / 2}, {}, torch.arange(4))), opened(BATCH)
    assert torch.equal(first.heads["logits"], again.heads["logits"])
    assert torch.equal(first.features["layer2"], again.features["layer2"])
    assert not torch.equal(first.features["layer2"], other.features["layer2"])


def test_an_unknown_layer_is_refused_when_it_is_opened(checkpoint):
    with pytest.raises(RecipeError, match="no layer 'layer7'"):
        teacher_for(checkpoint[0]).open(checkpoint[0], ("layer7",), "cpu")


def test_a_black_box_gives_its_outputs(black_box):
    artifact, weight = black_box
    outputs = teacher_for(artifact).open(artifact, (), "cpu")(BATCH)
    torch.testing.assert_close(outputs.heads["scores"], IMAGES.flatten(1) @ torch.from_numpy(weight))
    assert outputs.features == {}
    assert outputs.class_axes == {}  # a file does not tell them


def test_a_black_box_has_no_features(black_box):
    with pytest.raises(RecipeError, match="asks for the teacher's layer 'layer1', but the teacher is an ONNX file"):
        teacher_for(black_box[0]).open(black_box[0], ("layer1",), "cpu")


def test_a_black_box_that_takes_something_else_is_refused(black_box):
    opened = teacher_for(black_box[0]).open(black_box[0], (), "cpu")
    with pytest.raises(RecipeError, match="takes an input 'image'; the dataset gives: picture"):
        opened(Batch({"picture": IMAGES}, {}, torch.arange(4)))


def test_a_table_has_the_class_axes_of_the_outputs_it_stores(tmp_path):
    arrays = {
        ("heads", "tags"): np.zeros((4, 5, 3), np.float32),
        ("heads", "age"): np.zeros((4, 1), np.float32),
        ("heads", "other"): np.zeros((4, 2), np.float32),
        ("features", "layer1"): np.zeros((4, 7), np.float32),
    }
    writer = table.Writer(tmp_path, np.arange(4), 4, 1, arrays, {"tags": 2, "age": None, "layer1": 1})
    writer.write(arrays)
    writer.close()
    stored = whole(tmp_path, Table)
    assert table.StoredOutputs(stored).class_axes == {"tags": 2, "age": None}
    assert teacher_for(stored).open(stored, ("layer1",), "cpu")(BATCH).class_axes == {"tags": 2, "age": None}
