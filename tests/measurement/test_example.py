"""Synthetic inputs: the file's shapes, and what the user states of them."""

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.measurement.example import shapes, synthetic, values
from compress_cli.measurement.sessions import open_session


@pytest.fixture
def speech(tmp_path):
    """Two inputs that need options: samples of sound, and their rate, a scalar; and a past that may be empty."""
    inputs = [
        helper.make_tensor_value_info("sound", TensorProto.FLOAT, ("batch", "length")),
        helper.make_tensor_value_info("sr", TensorProto.INT64, ()),
        helper.make_tensor_value_info("past", TensorProto.FLOAT, ("batch", 0)),
    ]
    nodes = [helper.make_node("Concat", ["sound", "past"], ["y"], axis=1), helper.make_node("Identity", ["sr"], ["rate"])]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("rate", TensorProto.INT64, ()),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    save(model, tmp_path / "speech.onnx")
    return open_session(tmp_path / "speech.onnx", threads=1)


def test_inputs_have_the_files_shapes(linear_file):
    session = open_session(linear_file(np.eye(4), shape=("batch", 2, 2)))
    assert synthetic(session, 3)["image"].shape == (3, 2, 2)
    assert synthetic(open_session(linear_file(np.eye(4), shape=(5, 4))), 3)["image"].shape == (5, 4)
    with pytest.raises(ArtifactError, match=r"input 'image' is float32 \(\?, 1, \?\).*--data"):
        synthetic(open_session(linear_file(np.eye(4), shape=("batch", 1, "length"))), 3)


def test_shapes_values_and_axes_of_0(speech):
    stated, numbers = shapes(speech, ("sound=2x512",)), values(speech, ("sr=16000",))
    feeds = synthetic(speech, 2, stated, numbers)
    assert {name: array.shape for name, array in feeds.items()} == {"sound": (2, 512), "sr": (), "past": (2, 0)}
    assert (feeds["sr"].dtype, int(feeds["sr"])) == (np.int64, 16000)
    assert speech.run(feeds)["rate"] == 16000
    assert shapes(speech, ("past=2x0",)) == {"past": (2, 0)}


@pytest.mark.parametrize(
    ("read", "option", "message"),
    [
        (shapes, "sound=2x", "is not of the form input=1x3x224x224"),
        (shapes, "sund=2x3", "the file has no input 'sund'; did you mean 'sound'"),
        (values, "sr=fast", "is not of the form input=number, such as sr=16000"),
        (values, "rate=1", "the file has no input 'rate'"),
        (values, "sr=0.5", "input 'sr' takes int64, which does not hold 0.5"),
        (values, "16000", "the file has no input ''"),
    ],
)
def test_slips(speech, read, option, message):
    with pytest.raises(RecipeError, match=message):
        read(speech, (option,))


def test_another_shape_than_the_files(speech):
    with pytest.raises(ArtifactError, match=r"which \(2, 3, 4\) is not"):
        synthetic(speech, 1, {"sound": (2, 3, 4)})
