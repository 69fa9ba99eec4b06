"""What a model on disk is made of, layer by layer: an ONNX file, or the tensors of a checkpoint. Nothing is run."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph import contents as held
from compress_cli.onnx_graph import files, graph

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8e4m3fn", "F8_E5M2": "float8e5m2",
}  # fmt: skip
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What batch norm remembers of the data: no parameters, though they are saved with them."""
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
PASSING = {"DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape"}
"""Operators through which a constant is still that constant."""


class Layer(BaseModel):
    """One operator with weights or multiplications, or one module of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    operator: str = ""
    shapes: list[list[int]]
    """Of its weights."""
    kinds: dict[str, int]
    """Number type -> parameters stored in it."""
    parameters: int
    zeros: int | None
    """How many of them are 0; None where they can't be read one by one (packed or 8-bit floating formats)."""
    output: list[int | None] | None = None
    """Shape of what it gives, the batch first; None where it is not known."""
    macs: int | None = None
    """For one sample; None where they are not known."""


class Listing(BaseModel):
    """A whole model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    what: str
    parameters: int
    kinds: dict[str, int]
    zeros: int | None
    macs: int | None
    macs_unknown: str = ""
    size_bytes: int
    layers: list[Layer]
    contents: held.Contents | None = None
    """Of an ONNX file: what it holds by bytes, and how far it can be packed."""


def of_onnx(path: Path) -> Listing:
    """The operators of a file that hold weights or multiply; ArtifactError where it, or its external data, can't be read."""
    contents, model = held.contents(path), files.load(path)
    batch, shapes = _shapes(model)
    tensors = {name: tensor for tensor, name in graph.tensors(model.graph)}
    weights, scattered = graph.weights(model.graph), graph.sparse(model.graph)
    zeros = held.zeros(model, weights, path)
    source, books = {name: name for name in weights}, graph.codebooks(model.graph)
    layers = []
    for node in model.graph.node:
        if node.op_type in PASSING and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
            continue
        if node.op_type == "Gather" and source.get(node.input[1]) in books:
            source[node.output[0]] = source[node.input[1]]
            continue
        own = [each for each in dict.fromkeys(source[name] for name in node.input if name in source) if each in weights]
        macs = _macs(node, shapes, batch)
        if own or macs:
            counted = [(weights.pop(each), zeros[each]) for each in own]
            kinds: Counter[str] = Counter()
            for (kind, count), _ in counted:
                kinds[kind] += count
            layers.append(
                Layer(
                    name=node.name or node.output[0],
                    operator=node.op_type,
                    shapes=[list(scattered[each].dims if each in scattered else tensors[each].dims) for each in own],
                    kinds=dict(kinds),
                    parameters=kinds.total(),
                    zeros=_sum([each for _, each in counted]),
                    output=list(shapes[node.output[0]]) if node.output[0] in shapes else None,
                    macs=macs,
                )
            )
    for name, (kind, count) in weights.items():
        shape = list(scattered[name].dims if name in scattered else tensors[name].dims)
        layers.append(Layer(name=name, shapes=[shape], kinds={kind: count}, parameters=count, zeros=zeros[name], macs=0))
    listing = _listing(path, "ONNX file", layers, contents.size_bytes, contents.macs, contents.macs_unknown)
    return listing.model_copy(update={"contents": contents})


def of_safetensors(path: Path, what: str = "safetensors file", prefix: str = "", macs: dict[str, int] | None = None) -> Listing:
    """The modules of a file of tensors, by the names before the last dot; ArtifactError where it is not whole.

    prefix: of the names to list, which is left away. macs: weight name without it -> multiply-accumulates for one sample;
    the file itself does not say how often a weight is used.
    """
    header, start = _header(path)
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size > start else np.empty(0, np.uint8)
    groups: dict[str, list[str]] = {}
    for name in (each.removeprefix(prefix) for each in header if each.startswith(prefix)):
        groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
    layers = []
    for module, names in groups.items():
        kept = [name for name in names if name.rpartition(".")[2] not in STATISTICS]
        kinds: Counter[str] = Counter()
        zeros: list[int | None] = []
        for name in kept:
            kind, shape, begin, end = header[prefix + name]
            kinds[KINDS.get(kind, kind.lower())] += math.prod(shape)
            zeros.append(_raw_zeros(data[start + begin : start + end], kind))
        if kept:
            used = [macs[name] for name in kept if macs and name in macs]
            layers.append(
                Layer(
                    name=module,
                    shapes=[list(header[prefix + name][1]) for name in kept],
                    kinds=dict(kinds),
                    parameters=kinds.total(),
                    zeros=_sum(zeros),
                    macs=sum(used) if macs is not None else None,
                )
            )
    total = sum(macs.values()) if macs is not None else None
    unknown = "" if macs is not None else "tensors alone do not say how often they are used"
    return _listing(path, what, layers, path.stat().st_size, total, unknown)


def _listing(path: Path, what: str, layers: list[Layer], size: int, macs: int | None, unknown: str) -> Listing:
    kinds: Counter[str] = Counter()
    for each in layers:
        kinds.update(each.kinds)
    return Listing(
        path=str(path), what=what, parameters=kinds.total(), kinds=dict(kinds.most_common()),
        zeros=_sum([each.zeros for each in layers]), macs=macs, macs_unknown=unknown, size_bytes=size, layers=layers,
    )  # fmt: skip


def _sum(counts: list[int | None]) -> int | None:
    known = [each for each in counts if each is not None]
    return sum(known) if len(known) == len(counts) else None


def _shapes(model: onnx.ModelProto) -> tuple[int, dict[str, graph.Shape]]:
    try:
        found = graph.shapes(model)
        return found.batch, found.shapes
    except graph.Unknown:
        return 1, {}


def _macs(node: onnx.NodeProto, shapes: dict[str, graph.Shape], batch: int) -> int | None:
    try:
        total = graph.node_macs(node, shapes)
    except graph.Unknown:
        return None
    return total // batch if total % batch == 0 else None


def _header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], int]:
    """Tensor name -> type, shape, first byte, byte after the last; and where the bytes begin."""
    refused = f"{path}: is not a whole safetensors file"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LONGEST_HEADER:
                raise ArtifactError(refused)
            document = json.loads(file.read(length))
        size = path.stat().st_size - 8 - length
        found = {name: _entry(each) for name, each in document.items() if name != "__metadata__" and name.encode()}
        sound = all(_holds(kind, shape, end - begin) for kind, shape, begin, end in found.values())
        order = sorted((begin, end) for _, _, begin, end in found.values())  # each byte is of one tensor, as the format wants
        borders = [0, *(end for _, end in order)]
        sound = sound and [begin for begin, _ in order] == borders[:-1] and borders[-1] == size
    except FileNotFoundError:
        raise ArtifactError(f"{path}: there is no such file") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, OverflowError, RecursionError):
        raise ArtifactError(refused) from None
    if not sound or not found:
        raise ArtifactError(refused)
    return found, 8 + length


def _entry(document: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    begin, end = map(int, document["data_offsets"])
    return str(document["dtype"]), tuple(map(int, document["shape"])), begin, end


def _holds(kind: str, shape: tuple[int, ...], size: int) -> bool:
    """Whether so many bytes can hold such a tensor; of types that are not known here a value takes at least a bit."""
    plausible = len(shape) <= 32 and all(0 <= axis < 2**63 for axis in shape)
    if not plausible or size < 0:
        return False
    bits = math.prod(shape) * (BITS.get(kind) or (8 if kind.startswith("F8") else 1))
    return bits == 8 * size if kind in BITS or kind.startswith("F8") else bits <= 8 * size


def _raw_zeros(values: np.ndarray, kind: str) -> int | None:
    """Zeros among raw little-endian values; in every IEEE format both 0 and -0 are 0 but for the sign bit."""
    bits = BITS.get(kind)
    if bits is None:
        return None
    whole = np.frombuffer(values.tobytes(), f"<u{bits // 8}")
    if kind.startswith(("F", "BF")):
        whole = whole & np.array(2 ** (bits - 1) - 1, whole.dtype)
    return int(len(whole) - np.count_nonzero(whole))
