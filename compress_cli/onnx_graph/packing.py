"""Weights stored in fewer bytes, losslessly; standard operators rebuild them when a runtime opens the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compress_cli.onnx_graph import coding, graph, rebuilding
from compress_cli.onnx_graph.decoding import Decoder

VERSION = 1
Form = Literal["bitmask", "index_delta", "codebook", "bitmask+codebook", "index_delta+codebook"]
Storage = Literal["auto", "dense", "bitmask", "index_delta", "codebook", "bitmask+codebook", "index_delta+codebook"]
FORMS: tuple[Form, ...] = ("bitmask", "index_delta", "codebook", "bitmask+codebook", "index_delta+codebook")

SMALLEST = 256  # values of a tensor: below, the operators take more than is won
WORTH = 0.8
"""`auto` packs a tensor where it takes at most this share of its bytes: a packed file starts slower, and other tools see no
plain weights in it. An int8 tensor of a dense model has up to 10% zeros by chance."""
OPENING_BYTES, BYTES_A_VALUE = 10**9, 32
"""Memory that rebuilding may take while a runtime opens the file, and about what each value takes of it; tensors beyond that
stay dense."""
ROUNDING = 3  # neighbouring numbers among which a factor is looked for: a quotient is rounded, too
OLDEST_OPSET = 18  # that has all operators which rebuild weights
KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)


def pack(
    model: onnx.ModelProto, storage: Storage, unfolded: Mapping[str, np.ndarray] = MappingProxyType({})
) -> dict[str, Form]:
    """Store each weight tensor in the form that `storage` names, or `auto` in the smallest, where it takes fewer bytes so.

    The rebuilt weights equal those stored before and keep their names; tensors that are packed already are packed anew.
    `unfolded`: tensors as they were before an exporter multiplied their channels with a batch norm's factors, which makes many
    values of few; the factors are stored apart then. Returns name -> form of the tensors that were packed: none below opset 18.
    """
    main = model.graph
    if rebuilding.rebuilt(main):
        rebuilding.unpack(model)
    if storage == "dense" or graph.opset(model) < OLDEST_OPSET:
        return {}
    names = [name for node in main.node for name in (*node.input, *node.output)]
    decoder, forms, opening_bytes = Decoder([*names, *(tensor.name for tensor in main.initializer)]), dict[str, Form](), 0
    for tensor in list(_candidates(main)):
        array, factors = _without_factors(numpy_helper.to_array(tensor), unfolded.get(tensor.name))
        form = smallest(array, FORMS, WORTH) if storage == "auto" else smallest(array, (storage,), 1.0)
        if form is None or opening_bytes + BYTES_A_VALUE * array.size > OPENING_BYTES:
            continue
        opening_bytes += BYTES_A_VALUE * array.size
        if factors is not None:
            decoder.factors[tensor.name] = factors
        _store(decoder, tensor.name, array, form)
        main.initializer.remove(tensor)
        forms[tensor.name] = form
    nodes = [*decoder.nodes, *main.node]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del main.node[:]
    main.node.extend(kept)
    main.initializer.extend(decoder.constants)
    return forms


def _without_factors(array: np.ndarray, unfolded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A tensor with few values, and the factor of each output channel that makes it the array, bit for bit; or the array."""
    if unfolded is None or unfolded.shape != array.shape or unfolded.dtype != array.dtype or array.ndim < 2:
        return array, None
    if coding.codebook(unfolded.reshape(-1), False) is None or coding.codebook(array.reshape(-1), False) is not None:
        return array, None
    rows, wanted = (part.reshape(len(array), -1) for part in (unfolded, array))
    at = np.abs(rows).argmax(1)[:, None]
    largest, product = (np.take_along_axis(part, at, 1) for part in (rows, wanted))
    factors = np.where(largest == 0, 0, product / np.where(largest == 0, 1, largest)).astype(array.dtype)  # (out, 1)
    for direction in (-np.inf, np.inf):
        near = factors.copy()
        for _ in range(ROUNDING):
            wrong = (rows * near != wanted).any(1, keepdims=True)
            near = np.where(wrong, np.nextafter(near, array.dtype.type(direction)), near)
        if not (rows * near != wanted).any():
            return unfolded, near.reshape(-1, *[1] * (array.ndim - 1))
        factors = np.where((rows * near != wanted).any(1, keepdims=True), factors, near)
    return array, None


def account(model: onnx.ModelProto) -> dict[str, int]:
    """The bytes of a file with packed weights by what they hold: codes, codebook, positions, values, `dense` for constants
    that are not packed, and `graph` for all else (operators, names, metadata). Empty where no weight is packed."""
    roles = rebuilding.parts(model.graph)
    if not roles:
        return {}
    layout, counts = rebuilding.layout(model.graph), Counter[str]()
    for tensor in model.graph.initializer:
        if tensor.name not in layout:
            bits = math.prod(tensor.dims) * graph.bits(graph.kind(tensor))
            counts[roles.get(tensor.name, "dense")] += math.ceil(bits / 8)
    return {**dict(sorted(counts.items())), "graph": model.ByteSize() - counts.total()}


def smallest(array: np.ndarray, forms: tuple[Form, ...], worth: float) -> Form | None:
    """The form that takes the fewest bytes; None where none takes less than this share of what the array does."""
    sizes = {form: size for form in forms if (size := size_bytes(array, form)) is not None}
    best = min(sizes, key=lambda form: sizes[form], default=None)
    return best if best is not None and sizes[best] < worth * array.nbytes else None


def size_bytes(array: np.ndarray, form: Form) -> int | None:
    """Bytes that a tensor takes in a form, with the operators that rebuild it; None where it can't be, or is larger, so."""
    flat = array.reshape(-1)
    if not np.isfinite(flat).all():
        return None
    is_sparse, is_coded = form != "codebook", "codebook" in form
    if is_sparse and not is_coded and np.count_nonzero(flat) >= flat.size * (1 - 1 / (8 * flat.itemsize)):
        return None
    if form.startswith("index_delta") and not flat.any():
        return None
    if is_coded and coding.codebook(flat[flat != 0] if is_sparse else flat, with_zero=is_sparse) is None:
        return None
    decoder = Decoder()
    _store(decoder, "", array, form)
    return decoder.size_bytes()


def _store(decoder: Decoder, name: str, array: np.ndarray, form: Form) -> None:
    is_coded = "codebook" in form
    if form == "codebook":
        decoder.dense(name, array)
    elif form.startswith("bitmask"):
        decoder.bitmask(name, array, is_coded)
    else:
        decoder.index_delta(name, array, is_coded)


def _candidates(main: onnx.GraphProto) -> Iterator[TensorProto]:
    """Constants that hold weights, of number types in which ONNX Runtime rebuilds them."""
    weights, books = graph.weights(main), graph.codebooks(main)
    ports = {port.name for port in (*main.input, *main.output)}
    for tensor in main.initializer:
        is_weight = tensor.name in weights and tensor.name not in books and tensor.name not in ports
        is_local = tensor.data_location != TensorProto.EXTERNAL
        if is_weight and is_local and tensor.data_type in KINDS and math.prod(tensor.dims) >= SMALLEST:
            yield tensor
