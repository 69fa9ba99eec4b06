"""Teachers opened from artifacts, against running the model oneself."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress_cli.data.batch import Batch
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel

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


def test_a_checkpoint_says_what_its_network_says(checkpoint):
    found, network = checkpoint
    made = teacher_for(found).open(found, ("layer1",), "cpu")(BATCH)
    expected = network(IMAGES)["logits"]
    assert torch.equal(made.heads["logits"], expected)
    assert not made.heads["logits"].requires_grad
    conv, norm, _ = network.body.layer1
    torch.testing.assert_close(made.features["layer1"], norm(conv(network.normalise[0](IMAGES))).relu())


def test_a_checkpoint_says_the_same_again(checkpoint):
    """Its normalisation statistics do not move, and its features are those of the batch at hand."""
    found, _ = checkpoint
    opened = teacher_for(found).open(found, ("layer2",), "cpu")
    first, other, again = opened(BATCH), opened(Batch({"image": IMAGES / 2}, {}, torch.arange(4))), opened(BATCH)
    assert torch.equal(first.heads["logits"], again.heads["logits"])
    assert torch.equal(first.features["layer2"], again.features["layer2"])
    assert not torch.equal(first.features["layer2"], other.features["layer2"])


def test_an_unknown_layer_is_refused_when_it_is_opened(checkpoint):
    with pytest.raises(RecipeError, match="no layer 'layer7'"):
        teacher_for(checkpoint[0]).open(checkpoint[0], ("layer7",), "cpu")


def test_a_black_box_gives_its_outputs(black_box):
    found, weight = black_box
    made = teacher_for(found).open(found, (), "cpu")(BATCH)
    torch.testing.assert_close(made.heads["scores"], IMAGES.flatten(1) @ torch.from_numpy(weight))
    assert made.features == {}


def test_a_black_box_shows_no_features(black_box):
    with pytest.raises(RecipeError, match="asks for the teacher's layer 'layer1', but the teacher is an ONNX file"):
        teacher_for(black_box[0]).open(black_box[0], ("layer1",), "cpu")


def test_a_black_box_that_takes_something_else_is_refused(black_box):
    opened = teacher_for(black_box[0]).open(black_box[0], (), "cpu")
    with pytest.raises(RecipeError, match="takes an input 'image'; the dataset gives: picture"):
        opened(Batch({"picture": IMAGES}, {}, torch.arange(4)))
