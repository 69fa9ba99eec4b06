"""A float ONNX file, made ready to be quantised: folded, simplified, without operators that have an integer twin."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compress_cli.errors import ArtifactError, CompressError, StageError
from compress_cli.onnx_graph import files, graph, quantised, rebuilding
from compress_cli.onnx_graph.card import STORAGE
from compress_cli.quantization import layers

QUANTISED = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger",
             "MatMulNBits", "QGemm", "DynamicQuantizeMatMul")  # fmt: skip
CODES = (TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
SMALL = 1024  # numbers of a constant that a shape may depend on
CONSTANTS_APART = 4  # the version of the file format from which constants are no inputs


def load(path: Path) -> onnx.ModelProto:
    """The model with its external weights, and with plain tensors in the place of packed ones: what rebuilds these are integer
    operators, too. ArtifactError where a part can't be read, or lies outside the file's folder."""
    model = files.load(path)
    for part in files.external_files(path, model):
        if not part.is_file():
            raise ArtifactError(f"{path}: its weights lie in another file, which is missing: {part}")
    onnx.load_external_data_for_model(model, str(path.parent))
    if rebuilding.rebuilt(model.graph):
        rebuilding.unpack(model)
        account = [number for number, entry in enumerate(model.metadata_props) if entry.key == STORAGE]
        for number in reversed(account):
            del model.metadata_props[number]
    return model


def check(model: onnx.ModelProto, name: str, operators: tuple[str, ...] = quantised.WEIGHTED) -> None:
    """StageError where a file is quantised already, or has none of the operators that hold what is quantised."""
    counts = files.operators(model)
    integers = next((operator for operator in QUANTISED if operator in counts), "")
    if integers:
        raise StageError(f"{name}: is quantised already (it holds {integers}); quantise the float file")
    if coded := _coded(model.graph):
        raise StageError(f"{name}: is quantised already ('{coded}' is made of codes); quantise the float file")
    if not any(operator in counts for operator in operators):
        others = next((operator for operator in layers.WITH_WEIGHTS if operator in counts), "")
        remedy = f"; dynamic_int8 and weight_only take its {others}" if others else ""
        raise StageError(f"{name}: there is nothing to quantise: it has no {', '.join(operators)}{remedy}")


def _coded(main: onnx.GraphProto) -> str:
    """The first weight that is decoded from small integers; empty where none is."""
    codes = {tensor.name: tensor.data_type in CODES for tensor in main.initializer}
    for node in main.node:
        if all(name in codes for name in node.input if name):
            codes |= dict.fromkeys(node.output, any(codes[name] for name in node.input if name))
            continue
        weights = [node.input[at] for at in layers.POSITIONS.get(node.op_type, ()) if at < len(node.input)]
        if coded := next((name for name in weights if codes.get(name)), ""):
            return coded
    return ""


@contextlib.contextmanager
def failures_of_onnxruntime(name: str) -> Iterator[None]:
    """Turn any exception of ONNX Runtime into a StageError; it has no class of its own."""
    try:
        yield
    except (CompressError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StageError(
            f"{name}: ONNX Runtime fails on it ({type(error).__name__}: {reason}); quantise the checkpoint that it was "
            "exported from, or export it with another opset"
        ) from error


def simplified(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The graph as ONNX Runtime simplifies it: batch norms and constants folded, functions written out, weights as
    initialisers. Each node has a name of its own."""
    files.strip(model)
    _separate_constants(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="compress-simple-") as folder, failures_of_onnxruntime(name):
        path = Path(folder, "simple.onnx")
        options.optimized_model_filepath = str(path)
        plain = Path(folder, "plain.onnx")
        plain.write_bytes(model.SerializeToString())
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
        simple = files.load(path)
    for number, node in enumerate(simple.graph.node):
        node.name = f"n{number}"
    return simple


def _separate_constants(model: onnx.ModelProto) -> None:
    """Old files list weights among the inputs, where a caller might replace them; nothing that is could be folded."""
    constants = {tensor.name for tensor in model.graph.initializer}
    ports = [port for port in model.graph.input if port.name not in constants]
    model.graph.ClearField("input")
    model.graph.input.extend(ports)
    model.ir_version = max(model.ir_version, CONSTANTS_APART)


def with_integer_twins(model: onnx.ModelProto) -> None:
    """Write operators without an integer kernel as ones that have it, where both give the same: hard swish and hard sigmoid
    as sums, limits and products, the mean over a picture as global pooling, a quotient by a constant as a product."""
    nodes, constants = [], {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = _ranks(model)
    added: dict[str, TensorProto] = {}
    for node in model.graph.node:
        twins = _twins(node, constants, ranks, added)
        for number, twin in enumerate(twins[:-1]):
            twin.name = f"{node.name}_{number}"
        twins[-1].name = node.name
        nodes += twins
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(added.values())


def _twins(
    node: onnx.NodeProto, constants: dict[str, TensorProto], ranks: dict[str, int], added: dict[str, TensorProto]
) -> list[onnx.NodeProto]:
    def constant(value: float | list[int]) -> str:
        array = np.array(value, np.int64 if isinstance(value, list) else np.float32)
        name = f"{node.output[0]}_constant{sum(key.startswith(f'{node.output[0]}_constant') for key in added)}"
        added[name] = numpy_helper.from_array(array, name)
        return name

    def clipped(source: str, scale: float, shift: float, result: str) -> list[onnx.NodeProto]:
        """max(0, min(1, scale x + shift))"""
        names = [f"{result}_shifted", f"{result}_clipped"]
        return [
            helper.make_node("Add", [source, constant(shift / scale)], [names[0]]),
            helper.make_node("Clip", [names[0], constant(0.0), constant(1 / scale)], [names[1]]),
            helper.make_node("Mul", [names[1], constant(scale)], [result]),
        ]

    match node.op_type:
        case "HardSwish":
            gate = f"{node.output[0]}_gate"
            return [*clipped(node.input[0], 1 / 6, 0.5, gate), helper.make_node("Mul", [node.input[0], gate], node.output)]
        case "HardSigmoid":
            settings = {entry.name: entry.f for entry in node.attribute}
            if (scale := settings.get("alpha", 0.2)) > 0:
                return clipped(node.input[0], scale, settings.get("beta", 0.5), node.output[0])
        case "Gemm" if len(node.input) > 2 and node.input[2] and not _is_vector(constants.get(node.input[2])):
            settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            if settings.pop("beta", 1.0) == 1:  # a sum of two values, which ONNX Runtime has taken for a bias
                product = f"{node.output[0]}_product"
                return [
                    helper.make_node("Gemm", node.input[:2], [product], **settings),
                    helper.make_node("Add", [product, node.input[2]], node.output),
                ]
        case "Div":
            divisor = constants.get(node.input[1])
            if divisor is not None and divisor.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(divisor)
                if np.all(np.abs(values) > np.finfo(np.float32).tiny):
                    name = f"{node.output[0]}_reciprocal"
                    added[name] = numpy_helper.from_array((1 / values).astype(np.float32), name)
                    return [helper.make_node("Mul", [node.input[0], name], node.output)]
        case "ReduceMean":
            axes = _axes(node, constants)
            if ranks.get(node.input[0]) == 4 and axes and {axis % 4 for axis in axes} == {2, 3}:
                if graph.attribute(node, "keepdims", 1):
                    return [helper.make_node("GlobalAveragePool", node.input[:1], node.output)]
                pooled = f"{node.output[0]}_pooled"
                return [
                    helper.make_node("GlobalAveragePool", node.input[:1], [pooled]),
                    helper.make_node("Flatten", [pooled], node.output, axis=1),
                ]
    return [node]


def _is_vector(tensor: TensorProto | None) -> bool:
    """Whether a constant has one number for each output."""
    return tensor is not None and sum(size > 1 for size in tensor.dims[:-1]) == 0


def _axes(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> list[int]:
    """Empty where they are not known."""
    if len(node.input) > 1 and node.input[1] in constants:
        return [int(axis) for axis in numpy_helper.to_array(constants[node.input[1]]).reshape(-1)]
    return next(([*entry.ints] for entry in node.attribute if entry.name == "axes"), [])


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> how many axes it has, as far as that can be inferred: from the shapes of weights, not from their values."""
    weights = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > SMALL]
    light = files.without(model, {tensor.name for tensor in weights})
    light.graph.input.extend(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights)
    try:
        inferred = onnx.shape_inference.infer_shapes(light).graph
    except onnx.shape_inference.InferenceError:
        return {}
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values if value.type.tensor_type.HasField("shape")}
