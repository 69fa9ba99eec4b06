"""Multiply-accumulates operator by operator: on paper, and never 0 where an operator may multiply."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.onnx_graph import macs, shapes
from compress_cli.onnx_graph.graph import Unknown

ONE, ZERO = np.float32(1), np.uint8(0)
MS = "com.microsoft"


def f32(*shape):
    return np.ones(shape, np.float32)


def u8(*shape):
    return np.ones(shape, np.uint8)


def model(nodes, weights, inputs, kind=TensorProto.FLOAT, functions=(), result=TensorProto.FLOAT):
    """A model of these nodes; `inputs`: name -> shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 21), (MS, 1), ("mine", 1), ("ai.onnx.ml", 3))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def counted(proto, sizes=None):
    known = shapes.infer(proto, sizes)
    return macs.total(shapes.inlined(proto), known), known


def ms(operator, inputs, **attributes):
    return helper.make_node(operator, inputs.split(), ["y"], domain=MS, **attributes)


FLOAT_CASES = {
    "FusedMatMul": (ms("FusedMatMul", "x w", alpha=0.5), {"w": f32(7, 4)}, (2, 9, 7), 2 * 9 * 28),
    "FusedMatMul transposed": (ms("FusedMatMul", "x w", transA=1, transB=1), {"w": f32(4, 9)}, (2, 9, 7), 2 * 7 * 4 * 9),
    "FusedGemm": (ms("FusedGemm", "x w b", activation="Relu", transB=1), {"w": f32(4, 7), "b": f32(4)}, (3, 7), 3 * 28),
    "FusedConv": (
        ms("FusedConv", "x w b", activation="Relu", pads=[1] * 4),
        {"w": f32(5, 3, 3, 3), "b": f32(5)}, (1, 3, 8, 8), 5 * 64 * 27,
    ),
    "DynamicQuantizeMatMul": (
        ms("DynamicQuantizeMatMul", "x w s z"), {"w": u8(7, 4), "s": f32(1), "z": u8(1)}, (9, 7), 9 * 28,
    ),
    "MatMulNBits": (
        ms("MatMulNBits", "x w s", K=32, N=10, bits=4, block_size=32), {"w": u8(10, 1, 16), "s": f32(10)}, (3, 32), 3 * 320,
    ),
    # 5 tokens of 8: to 3 * 8 columns; 5 x 5 scores of 8; 5 x 5 weights times 8
    "Attention": (ms("Attention", "x w b", num_heads=2), {"w": f32(8, 24), "b": f32(24)}, (2, 5, 8), 2 * 5 * (8 * 24 + 5 * 16)),
    "MultiHeadAttention": (ms("MultiHeadAttention", "x x x", num_heads=2), {}, (2, 5, 8), 2 * 5 * 5 * 16),
    "QAttention": (
        ms("QAttention", "q w b s s m z wz", num_heads=2),
        {"w": np.ones((8, 24), np.int8), "b": f32(24), "s": ONE, "z": ZERO, "wz": np.int8(0), "m": np.full((2,), 5, np.int32)},
        (2, 5, 8), 2 * 5 * (8 * 24 + 5 * 16),
    ),
    "LSTM": (
        helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=6),
        {"w": f32(1, 24, 3), "r": f32(1, 24, 6)}, (5, 2, 3), 5 * 2 * 4 * 6 * (3 + 6),
    ),
    "Einsum": (helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"), {"w": f32(7, 4)}, (2, 9, 7), 2 * 9 * 28),
    "Einsum of one": (helper.make_node("Einsum", ["x"], ["y"], equation="bij->bji"), {}, (2, 9, 7), 0),
    "QGemm": (
        ms("QGemm", "q s z w s wz", transB=1),
        {"s": ONE, "z": ZERO, "w": np.ones((4, 7), np.int8), "wz": np.int8(0)}, (3, 7), 84,
    ),
    "MatMulIntegerToFloat": (
        ms("MatMulIntegerToFloat", "q w s s z wz"),
        {"s": ONE, "z": ZERO, "w": np.ones((7, 4), np.int8), "wz": np.int8(0)}, (3, 7), 84,
    ),
    "QLinearAdd": (ms("QLinearAdd", "q s z q s z s z"), {"s": ONE, "z": ZERO}, (3, 7), 0),
    "QLinearConcat": (ms("QLinearConcat", "s z q s z q s z", axis=1), {"s": ONE, "z": ZERO}, (3, 7), 0),
    "QLinearGlobalAveragePool": (ms("QLinearGlobalAveragePool", "q s z s z"), {"s": ONE, "z": ZERO}, (2, 3, 8, 8), 0),
    "SkipLayerNormalization": (ms("SkipLayerNormalization", "x x g"), {"g": f32(8)}, (2, 5, 8), 0),
    "linear classifier": (
        helper.make_node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0] * 14, targets=2),
        {}, (3, 7), 42,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOAT_CASES)
def test_an_operator_counts_on_paper_and_its_shape_is_the_runtimes(name):
    node, weights, shape, expected = FLOAT_CASES[name]
    nodes = [node]
    if "q" in node.input:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]))
        weights = {**weights, "one": ONE, "zero": ZERO}
    result = TensorProto.UINT8 if node.op_type.startswith("QLinear") else TensorProto.FLOAT
    proto = model(nodes, weights, {"x": shape}, result=result)
    total, known = counted(proto)
    assert total == expected // (shape[0] if name != "LSTM" else 5)
    (result,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(["y"], {"x": f32(*shape)})
    assert known.shapes.get("y", result.shape if node.domain == "ai.onnx.ml" else None) == result.shape


@pytest.mark.parametrize(
    "node",
    [
        ms("Secret", "x"),
        helper.make_node("Relu", ["x"], ["y"], domain="mine"),  # what a stranger's domain calls Relu may be anything
        helper.make_node("DFT", ["x"], ["y"]),
        ms("GroupQueryAttention", "x x x", num_heads=2, kv_num_heads=1),
    ],
)
def test_what_may_multiply_makes_the_count_unknown_by_name(node):
    with pytest.raises(Unknown, match=f"{node.op_type}.*multiplies is not known"):
        counted(model([node], {}, {"x": (1, 5, 8)}))


def test_every_standard_operator_is_decided():
    """A new version of ONNX shows here which operators are to be placed."""
    unknown = {"CausalConvWithState", "DFT", "Det", "LinearAttention", "MelWeightMatrix", "STFT", "SequenceMap"}
    schemas = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {name for _, name in schemas - macs.FREE - macs.FORMULAS.keys()} == unknown | {"If", "Loop", "Scan"}
    assert not macs.FREE & macs.FORMULAS.keys()


def function(name, *nodes):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a", "b"], ["c"], nodes, opsets)


def test_local_functions_count_as_what_they_do():
    inner = function("inner", helper.make_node("MatMul", ["a", "b"], ["c"]))
    outer = function(
        "outer", helper.make_node("inner", ["a", "b"], ["t"], domain="mine"), helper.make_node("Relu", ["t"], ["c"])
    )
    nodes = [
        helper.make_node("outer", ["x", "w"], ["h"], domain="mine"),
        helper.make_node("outer", ["h", "v"], ["y"], domain="mine"),
    ]
    proto = model(nodes, {"w": f32(7, 4), "v": f32(4, 3)}, {"x": ("n", 7)}, functions=[outer, inner])
    assert counted(proto)[0] == 28 + 12


def test_functions_that_grow_exponentially_or_call_themselves_end_at_once():
    call = [helper.make_node("f0", ["a", "b"], ["t"], domain="mine"), helper.make_node("f0", ["t", "b"], ["c"], domain="mine")]
    functions = [function("f0", helper.make_node("Add", ["a", "b"], ["c"]))]
    for depth in range(1, 40):
        for node in call:
            node.op_type = f"f{depth - 1}"
        functions.append(function(f"f{depth}", *call))
    last = [helper.make_node("f39", ["x", "x"], ["y"], domain="mine")]
    with pytest.raises(Unknown, match=r"stand for 549755813888 operators"):
        counted(model(last, {}, {"x": (1, 2)}, functions=functions))
    itself = function("f", helper.make_node("f", ["a", "b"], ["c"], domain="mine"))
    with pytest.raises(Unknown, match="or itself"):
        counted(model([helper.make_node("f", ["x", "x"], ["y"], domain="mine")], {}, {"x": (1, 2)}, functions=[itself]))


def branch(name, *nodes):
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])


@pytest.mark.parametrize(
    ("then", "other", "expected"),
    [
        (("Relu", "x"), ("Neg", "x"), 0),
        (("MatMul", "x", "w"), ("MatMul", "x", "v"), 49),
        (("MatMul", "x", "w"), ("Neg", "x"), None),
    ],
)
def test_branches_count_where_they_agree(then, other, expected):
    bodies = {
        name: branch(name, helper.make_node(operator, inputs, ["inner"]))
        for name, (operator, *inputs) in {"then_branch": then, "else_branch": other}.items()
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "zero"], ["negative"]),
        helper.make_node("If", ["negative"], ["y"], name="which", **bodies),
    ]
    proto = model(nodes, {"w": f32(7, 7), "v": f32(7, 7), "zero": np.float32(0)}, {"x": ("n", 7)})
    if expected is None:
        with pytest.raises(Unknown, match="If 'which' multiplies depends on the data: 0 or 49"):
            counted(proto)
    else:
        assert counted(proto)[0] == expected


def test_a_scan_multiplies_at_each_step():
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
              {"state": (1, 4), "step": (1, 4), "next": (1, 4), "out": (1, 4)}.items()}  # fmt: skip
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["moved"]),
            helper.make_node("Add", ["moved", "step"], ["next"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        "body", [values["state"], values["step"]], [values["next"], values["out"]],
    )  # fmt: skip
    scan = helper.make_node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    proto = model([scan], {"w": f32(4, 4), "start": f32(1, 4)}, {"x": (6, 1, 4)})
    assert counted(proto)[0] * 6 == 6 * 16


def encoder():
    """Tokens (batch, length) -> positions by Range and Expand, heads by Reshape to computed shapes, attention."""
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "i0"], ["batch"]),
        node("Gather", ["shape", "i1"], ["length"]),
        node("Range", ["i0", "length", "i1"], ["positions"]),
        node("Unsqueeze", ["positions", "axis0"], ["row"]),
        node("Expand", ["row", "shape"], ["rows"]),
        node("Gather", ["table", "x"], ["words"]),
        node("Gather", ["places", "rows"], ["wheres"]),
        node("Add", ["words", "wheres"], ["h"]),  # (batch, length, 8)
        node("Div", ["width", "heads"], ["head_width"]),
        *(node("Unsqueeze", [name, "axis0"], [f"{name}_1"]) for name in ("batch", "length", "heads", "head_width", "width")),
        node("Concat", ["batch_1", "length_1", "heads_1", "head_width_1"], ["split"], axis=0),
        node("Concat", ["batch_1", "length_1", "width_1"], ["joined"], axis=0),
        *(node("MatMul", ["h", name], [f"{name}_all"]) for name in "qkv"),
        *(node("Reshape", [f"{name}_all", "split"], [f"{name}_split"]) for name in "qkv"),
        node("Transpose", ["q_split"], ["q_t"], perm=[0, 2, 1, 3]),
        node("Transpose", ["k_split"], ["k_t"], perm=[0, 2, 3, 1]),
        node("Transpose", ["v_split"], ["v_t"], perm=[0, 2, 1, 3]),
        node("MatMul", ["q_t", "k_t"], ["scores"]),
        node("Softmax", ["scores"], ["attention"]),
        node("MatMul", ["attention", "v_t"], ["mixed"]),
        node("Transpose", ["mixed"], ["mixed_t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["mixed_t", "joined"], ["together"]),
        node("MatMul", ["together", "o"], ["y"]),
    ]
    numbers = {"i0": 0, "i1": 1, "width": 8, "heads": 2}
    weights = {
        **{name: np.int64(value) for name, value in numbers.items()}, "axis0": np.array([0]), "table": f32(50, 8),
        "places": f32(64, 8), **{name: f32(8, 8) for name in "qkvo"},
    }  # fmt: skip
    return model(nodes, weights, {"x": ("batch", "length"), "mask": ("batch", "length")}, TensorProto.INT64)


def test_a_transformer_whose_shapes_are_computed_counts_once_its_length_is_given():
    proto = encoder()
    with pytest.raises(Unknown, match="input 'x' has an open axis besides the batch"):
        counted(proto)
    total, known = counted(proto, {"x": (1, 16)})  # the mask's length has the same name
    assert total == 4 * 16 * 8 * 8 + 2 * 16 * 16 * 8
    assert known.shapes["scores"] == (1, 2, 16, 16)
    assert counted(proto, {"x": (3, 16)})[0] == total
    with pytest.raises(Unknown, match="can't have the shape 1x2x3"):
        counted(proto, {"x": (1, 2, 3)})


class Calibration:
    def __init__(self):
        self.batches = iter([{"x": f32(2, 3, 8, 8)}])

    def get_next(self):
        return next(self.batches, None)


@pytest.mark.parametrize("how", ["fused", "dynamic", "dynamic and fused", "integer operators", "pairs"])
def test_what_onnxruntime_rewrites_counts_as_before(tmp_path, how):
    from onnxruntime import quantization

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["t"]),
        node("MatMul", ["t", "v"], ["m"]),
        node("Gemm", ["m", "u", "b"], ["y"]),
    ]
    rows = np.random.default_rng(0).normal
    weights = {"w": rows(size=(6, 3, 3, 3)), "v": rows(size=(6, 8)), "u": rows(size=(8, 5)), "b": rows(size=5)}
    source, path = tmp_path / "float.onnx", tmp_path / "new.onnx"
    onnx.save(model(nodes, {name: array.astype(np.float32) for name, array in weights.items()}, {"x": ("n", 3, 8, 8)}), source)
    if "dynamic" in how:
        quantization.quantize_dynamic(source, path)
    elif how == "fused":
        path.write_bytes(source.read_bytes())
    else:
        kind = quantization.QuantFormat.QDQ if how == "pairs" else quantization.QuantFormat.QOperator
        quantization.quantize_static(source, path, Calibration(), quant_format=kind)
    if "fused" in how:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(path.read_bytes(), options)
    rewritten = onnx.load(path)
    changed = {"fused": "FusedConv", "dynamic": "ConvInteger", "dynamic and fused": "DynamicQuantizeMatMul", "pairs": "Conv"}
    assert changed.get(how, "QLinearConv") in {node.op_type for node in rewritten.graph.node}
    assert counted(rewritten)[0] == 6 * 64 * 27 + 6 * 8 + 8 * 5
