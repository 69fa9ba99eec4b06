"""Joins of which an operand gets too few steps of the range that all share."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress_cli.quantization import annotation
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from tests.quantization.small_files import model, node, normal, run, sqnr_db

BATCHES = [{"x": normal(16, 4, 8, seed=seed)} for seed in range(3)]


def token_and_patches(scale, reader="LayerNormalization"):
    """Patches (n, 4, 8) and a token (n, 1, 8), `scale` times as large, joined, normalised and weighted: (n, 5, 8)."""
    constants = {
        "patch.weight": normal(8, 8, seed=1), "token.weight": normal(8, 8, seed=2, scale=scale),
        "axes": np.array([1]), "gain": np.ones(8, np.float32), "last.weight": normal(8, 8, seed=3),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "patch.weight"], ["patches"]), node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        node("MatMul", ["mean", "token.weight"], ["token"]), node("Concat", ["token", "patches"], ["joined"], axis=1),
    ]  # fmt: skip
    nodes += [node(reader, ["joined", "gain"], ["read"], axis=-1)] if reader == "LayerNormalization" else []
    nodes.append(node("MatMul", ["read" if reader == "LayerNormalization" else "joined", "last.weight"], ["y"]))
    return model(nodes, constants, {"x": ("n", 4, 8)}, {"y": ("n", 5, 8)})


def quantised(proto, folder, **settings):
    before, after = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(proto, before)
    facts = StaticInt8(reduce_range=False, **settings).quantize_onnx(before, "file", BATCHES, after)
    (expected,), (result,), operators = run(before, BATCHES[0])[0], *run(after, BATCHES[0])
    return expected, result, operators, facts


def test_an_operand_of_one_step_leaves_its_join_float(tmp_path):
    """What it would get is counted here once more, with the extremes as range."""
    proto = token_and_patches(0.03)
    calibration = {"calibration": {"type": "min_max"}}
    coarse = quantised(proto, tmp_path, float_joins=False, **calibration)
    expected, fine, operators, facts = quantised(proto, tmp_path, **calibration)
    pixels = np.concatenate([batch["x"] for batch in BATCHES])
    patches = pixels @ normal(8, 8, seed=1)
    token = pixels.mean(1, keepdims=True) @ normal(8, 8, seed=2, scale=0.03)
    step = (patches.max() - patches.min()) / 255
    (starved,) = facts["float_joins"]
    assert (starved["join"], starved["operand"]) == ("joined", "token")
    assert starved["steps"] == pytest.approx(np.sqrt(np.square(token).mean()) / step, rel=0.01)
    assert 0.5 < starved["steps"] < 1.5
    assert starved["sqnr_db"] == pytest.approx(sqnr_db(token, np.round(token / step) * step), abs=0.3)
    assert "joined: Concat" in facts["left_float"]
    assert "QLinearConcat" in coarse[2]
    assert "QLinearConcat" not in operators
    assert sqnr_db(expected[:, 0], coarse[1][:, 0]) < 15
    assert sqnr_db(expected[:, 0], fine[:, 0]) > 30


@pytest.mark.parametrize(("scale", "reader"), [(3.0, "LayerNormalization"), (0.03, "MatMul")])
def test_joins_of_likes_and_joins_before_a_layer_stay_integers(scale, reader, tmp_path):
    """The input of a layer has one range in any case: a float join before it would only take time."""
    proto = token_and_patches(scale, reader)
    _, _, operators, facts = quantised(proto, tmp_path)
    written = (tmp_path / "int8.onnx").read_bytes()
    quantised(proto, tmp_path, float_joins=False)
    assert written == (tmp_path / "int8.onnx").read_bytes()
    assert "QLinearConcat" in operators
    assert "float_joins" not in facts


class Joined(nn.Module):
    """A token beside patches, a residual sum and a head of the token: (n, 4, 8) -> (n, 4)."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * scale)
        self.patches, self.block, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)
        nn.init.normal_(self.patches.weight)

    def forward(self, x):
        joined = torch.cat([self.token.expand(x.shape[0], -1, -1), self.patches(x)], 1)
        moved = joined.transpose(1, 2).transpose(1, 2)
        return self.head((self.norm(moved) + self.block(self.norm(moved)))[:, 0])


@pytest.mark.parametrize(("scale", "is_float"), [(0.01, True), (1.0, False)])
def test_a_graph_of_pytorch_leaves_the_same_joins_float(scale, is_float):
    network, inputs = Joined(scale).eval(), [torch.from_numpy(batch["x"]) for batch in BATCHES]
    results = []
    for float_joins in (True, False):
        quantizer = StaticInt8(reduce_range=False, float_joins=float_joins)
        prepared = quantizer.prepare(network, (inputs[0],))
        with torch.no_grad():
            for batch in inputs:
                prepared(batch)
            found = quantizer.settle(prepared)
            left = annotation.left_float(prepared)
            assert bool(found) == (is_float and float_joins) == ("network: cat" in left)
            converted = quantizer.convert(prepared)
            results.append(sqnr_db(network(inputs[0]).numpy(), converted(inputs[0]).numpy()))
    assert results[0] > 30
    assert results[1] < 20 if is_float else results[0] == results[1]
