"""What constant inputs give, against ONNX Runtime."""

import numpy as np
import onnx
import pytest

from compress_cli.quantization import biases, layers
from tests.quantization.small_files import model, node, normal, run

CONSTANT = np.array([1.0, -2.0, 0.5, 3.0], np.float32)  # of each channel


@pytest.mark.parametrize(
    ("operator", "shape", "settings"),
    [
        ("Conv", (6, 4, 3, 3), {"kernel_shape": [3, 3]}),
        ("Conv", (6, 2, 3, 3), {"kernel_shape": [3, 3], "group": 2}),
        ("Conv", (4, 1, 3, 3), {"kernel_shape": [3, 3], "group": 4}),
        ("Gemm", (6, 4), {"transB": 1, "alpha": 0.5}),
        ("Gemm", (4, 6), {"alpha": 2.0}),
    ],
)
def test_inputs_that_are_the_same_everywhere_give_what_is_computed_for_them(tmp_path, operator, shape, settings):
    space = (5, 5) if operator == "Conv" else ()
    outputs = shape[0] if operator == "Conv" or "transB" in settings else shape[1]
    nodes = [node(operator, ["x", "w"], ["y"], name="layer", **settings)]
    wide = ("n", outputs, *[3 for _ in space])
    proto = model(nodes, {"w": normal(*shape)}, {"x": ("n", 4, *space)}, {"y": wide})
    onnx.save(proto, tmp_path / "m.onnx")
    feed = np.broadcast_to(CONSTANT.reshape(1, 4, *[1 for _ in space]), (1, 4, *space)).copy()
    expected = run(tmp_path / "m.onnx", {"x": feed})[0][0]
    (layer,) = layers.layers(proto)
    found = biases.of_constant(layers.array(proto, "w"), layer, proto.graph.node[0], CONSTANT)
    np.testing.assert_allclose(np.broadcast_to(found.reshape(1, -1, *[1 for _ in space]), expected.shape), expected, rtol=1e-5)
