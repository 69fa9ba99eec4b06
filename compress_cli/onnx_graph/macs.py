"""Multiply-accumulates of an ONNX graph, counted operator by operator."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx

from compress_cli.onnx_graph import contrib, rebuilding
from compress_cli.onnx_graph.graph import BRANCHING, Unknown, attribute, bodies
from compress_cli.onnx_graph.shapes import Shape, Shapes, values

NONE = {
    "": """
        Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Bernoulli
        BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad
        Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace
        DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
        GatherElements GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
        GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity ImageDecoder ImageScaler
        InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
        LpPool Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg
        NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or
        PRelu Pad Pow QuantizeLinear RMSNormalization RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
        Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round Scatter
        ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
        SequenceLength Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice Softmax
        SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat
        StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK
        Transpose Trilu Unique Unsqueeze Upsample Where Xor
    """,
    "ai.onnx.ml": """
        ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder
        Normalizer OneHotEncoder Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
    """,
    contrib.MICROSOFT: """
        BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BitmaskBiasDropout BitmaskDropout CropAndResize
        DequantizeLinear DynamicTimeWarping EmbedLayerNormalization ExpandDims FastGelu GatherBlockQuantized GatherND Gelu
        GridSample GroupNorm MurmurHash3 NGramRepeatBlock NhwcMaxPool Pad QEmbedLayerNormalization QLinearAdd
        QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
        QLinearSigmoid QLinearSoftmax QLinearWhere QOrderedGelu QOrderedLayerNormalization QuantizeLinear QuickGelu Range
        RotaryEmbedding SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization Tokenizer Trilu UnfoldTensor
        Unique
    """,
}  # fmt: skip
"""Domain -> operators that do no matrix product and no convolution. As is usual, element-wise products, pooling, averages and
normalisation count as no multiply-accumulates. What is neither here nor has a formula below makes a count unknown."""
FREE = {(domain, operator) for domain, operators in NONE.items() for operator in operators.split()}

ShapeOf = Callable[[str], tuple[int, ...]]
"""Name of a value -> its shape; Unknown where it can't be inferred."""
Formula = Callable[[onnx.NodeProto, ShapeOf], int]


def total(model: onnx.ModelProto, known: Shapes) -> int:
    """Multiply-accumulates of a model without functions for one sample; Unknown says why they can't be counted."""
    unpacking = rebuilding.operators(model.graph)  # done once, when the file is opened
    nodes = [node for node in model.graph.node if node.output[0] not in unpacking]
    count = sum(_count(node, known.counted, known.branches) for node in nodes)
    if count % known.batch:
        raise Unknown(f"{count} for the file's batch of {known.batch} is no whole number for a sample")
    return count // known.batch


def of_node(node: onnx.NodeProto, known: Shapes) -> int | None:
    """Multiply-accumulates of one operator for one sample; None where they can't be counted."""
    try:
        count = _count(node, known.counted, known.branches)
    except Unknown:
        return None
    return count // known.batch if count % known.batch == 0 else None


def is_free(node: onnx.NodeProto) -> bool:
    """Whether an operator is known to multiply nothing, whatever its shapes."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type) in FREE


def _count(node: onnx.NodeProto, shapes: dict[str, Shape], branches: dict[str, onnx.NodeProto]) -> int:
    """For the batch that the shapes are for."""
    title = f"{node.op_type} '{node.name or next(iter(node.output), '')}'"

    def shape(name: str) -> tuple[int, ...]:
        axes = shapes.get(name, (None,))
        if None in axes:
            raise Unknown(f"the shape of '{name}' at {title} can't be inferred")
        return tuple(axis for axis in axes if axis is not None)

    if is_free(node):
        return 0
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        if domain == "" and node.op_type in BRANCHING:
            return _branching(branches.get(node.output[0], node), shapes, shape, title)
        formula = FORMULAS.get((domain, node.op_type))
        if formula is None:
            raise Unknown(f"whether and how often {title}{f' of {domain}' * bool(domain)} multiplies is not known")
        return formula(node, shape)
    except (LookupError, ValueError):
        raise Unknown(f"the shapes at {title} do not fit it") from None


def _branching(node: onnx.NodeProto, shapes: dict[str, Shape], shape: ShapeOf, title: str) -> int:
    counts = []
    for body in bodies(node):
        known, branches = {**shapes, **values(body)[0]}, {inner.output[0]: inner for inner in body.node}
        counts.append(sum(_count(inner, known, branches) for inner in body.node))
    if node.op_type == "Scan" and counts[0]:
        scanned = attribute(node, "num_scan_inputs", 1)
        if any(entry.name == "scan_input_axes" for entry in node.attribute):
            raise Unknown(f"how often {title} multiplies is not counted along other axes than the first")
        return counts[0] * shape(node.input[len(node.input) - scanned])[0]
    if node.op_type == "Loop" and counts[0]:
        raise Unknown(f"how often {title} multiplies depends on the data")
    if len(set(counts)) > 1:
        raise Unknown(f"how often {title} multiplies depends on the data: {' or '.join(map(str, sorted(counts)))}")
    return counts[0]


def _convolution(weight: int) -> Formula:
    """Each output takes one product for each weight of its channel; `weight`: position of the weights."""
    return lambda node, shape: math.prod(shape(node.output[0])) * math.prod(shape(node.input[weight])[1:])


def _transposed_convolution(node: onnx.NodeProto, shape: ShapeOf) -> int:
    return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])


def _general_product(right: int) -> Formula:
    """Gemm; `right`: position of the second matrix."""

    def count(node: onnx.NodeProto, shape: ShapeOf) -> int:
        rows, inner = shape(node.input[0])[:: -1 if attribute(node, "transA", 0) else 1]
        return rows * inner * shape(node.input[right])[0 if attribute(node, "transB", 0) else 1]

    return count


def _product(node: onnx.NodeProto, shape: ShapeOf) -> int:
    """MatMul, also of stacks of matrices, and with the first transposed."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise ValueError("the batch's axes are moved")
    return math.prod(shape(node.output[0])) * shape(node.input[0])[-2 if attribute(node, "transA", 0) else -1]


def _packed_product(node: onnx.NodeProto, shape: ShapeOf) -> int:
    return math.prod(shape(node.input[0])) * attribute(node, "N", 0)


def _recurrent(node: onnx.NodeProto, shape: ShapeOf) -> int:
    """At each step each weight, for the input and for the state, is used once."""
    samples = math.prod(shape(node.input[0])[:2])  # steps x batch, in either order
    return samples * (math.prod(shape(node.input[1])) + math.prod(shape(node.input[2])))


def _einsum(node: onnx.NodeProto, shape: ShapeOf) -> int:
    """The product over all indices; nothing where there is one operand: it is summed or turned."""
    equation = next((entry.s.decode() for entry in node.attribute if entry.name == "equation"), "").replace(" ", "")
    operands, _, result = equation.partition("->")
    terms = operands.split(",")
    if len(terms) == 1:
        return 0
    left, right, *further = terms
    summed_alone = set(left) ^ set(right)  # summed before the product, if they are not in the result
    if further or "." in equation or "->" not in equation or summed_alone - set(result):
        raise Unknown(f"products in Einsum '{node.name}' ({equation}) are not counted")
    lengths = {index: axis for term, name in zip(terms, node.input, strict=True)
               for index, axis in zip(term, shape(name), strict=True) if axis != 1}  # fmt: skip
    return math.prod(lengths.values())


def _attention(past: int) -> Formula:
    """ONNX Runtime's attention with its projection of the input to queries, keys and values; `past`: position of earlier
    keys and values."""

    def count(node: onnx.NodeProto, shape: ShapeOf) -> int:
        (batch, length, inputs), columns = shape(node.input[0]), shape(node.input[1])[1]
        v_width = contrib.value_width(node, columns)
        q_width = (columns - v_width) // 2
        has_past = past < len(node.input) and node.input[past]
        seen = length + (shape(node.input[past])[3] if has_past else 0)  # (2, batch, heads, length, width)
        return batch * length * (inputs * columns + seen * (q_width + v_width))

    return count


def _attention_of_heads(node: onnx.NodeProto, shape: ShapeOf) -> int:
    """ONNX Runtime's attention over queries, keys and values (batch, length, width) that are projected already."""
    if any(node.input[6:8]) or len(node.input) < 3 or not node.input[2]:
        raise Unknown(f"multiplications in MultiHeadAttention '{node.name}' with packed or earlier keys are not counted")
    batch, length, q_width = shape(node.input[0])
    value = shape(node.input[2])
    seen, v_width = (value[1], value[2]) if len(value) == 3 else (value[2], value[1] * value[3])
    return batch * length * seen * (q_width + v_width)


def _standard_attention(node: onnx.NodeProto, shape: ShapeOf) -> int:
    """ONNX's attention over (batch, length, heads * width) or (batch, heads, length, width)."""
    query, value = shape(node.input[0]), shape(node.input[2])
    earlier = shape(node.input[4])[2] if len(node.input) > 4 and node.input[4] else 0
    if len(query) == 4:
        batch, heads, length, width = query
        return batch * heads * length * (value[2] + earlier) * (width + value[3])
    batch, length, q_width = query
    heads, v_heads = attribute(node, "q_num_heads", 0), attribute(node, "kv_num_heads", 0)
    if not heads or not v_heads:
        raise ValueError("it does not say how many heads it has")
    return batch * length * (value[1] + earlier) * (q_width + heads * (value[2] // v_heads))


def _linear_model(node: onnx.NodeProto, shape: ShapeOf) -> int:
    coefficients = [len(entry.floats) for entry in node.attribute if entry.name == "coefficients"]
    return shape(node.input[0])[0] * coefficients[0]


FORMULAS: dict[tuple[str, str], Formula] = {
    **{("", name): _convolution(1) for name in ("Conv", "ConvInteger", "DeformConv")},
    **{(domain, "QLinearConv"): _convolution(3) for domain in ("", contrib.MICROSOFT)},
    **{(contrib.MICROSOFT, name): _convolution(1) for name in ("FusedConv", "NhwcFusedConv")},
    ("", "ConvTranspose"): _transposed_convolution,
    (contrib.MICROSOFT, "ConvTransposeWithDynamicPads"): _transposed_convolution,
    ("", "Gemm"): _general_product(1),
    (contrib.MICROSOFT, "FusedGemm"): _general_product(1),
    (contrib.MICROSOFT, "QGemm"): _general_product(3),
    **{("", name): _product for name in ("MatMul", "MatMulInteger", "QLinearMatMul")},
    **{
        (contrib.MICROSOFT, name): _product
        for name in ("DynamicQuantizeMatMul", "FusedMatMul", "FusedMatMulActivation", "MatMulIntegerToFloat", "MatMulInteger16")
    },
    **{(contrib.MICROSOFT, name): _packed_product for name in ("MatMulBnb4", "MatMulNBits")},
    **{("", name): _recurrent for name in ("GRU", "LSTM", "RNN")},
    (contrib.MICROSOFT, "DynamicQuantizeLSTM"): _recurrent,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _standard_attention,
    (contrib.MICROSOFT, "Attention"): _attention(4),
    (contrib.MICROSOFT, "QAttention"): _attention(8),
    (contrib.MICROSOFT, "MultiHeadAttention"): _attention_of_heads,
    ("ai.onnx.ml", "LinearClassifier"): _linear_model,
    ("ai.onnx.ml", "LinearRegressor"): _linear_model,
}
"""Domain and operator -> multiply-accumulates of a node, from the shapes of what it takes and gives."""
