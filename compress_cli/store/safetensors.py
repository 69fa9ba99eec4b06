"""The contents of a file of tensors, module by module; only its header and the zeros among its values are read."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph.layers import Layer, Listing, known_sum

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8e4m3fn", "F8_E5M2": "float8e5m2",
}  # fmt: skip
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The running statistics of batch norm: no parameters, though they are saved with them."""
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


class Entry(NamedTuple):
    """One tensor, as the header describes it."""

    kind: str
    shape: tuple[int, ...]
    begin: int  # its first byte, counted from the end of the header
    end: int  # the byte after its last


def listing(path: Path, what: str = "safetensors file", prefix: str = "", macs: dict[str, int] | None = None) -> Listing:
    """The modules of a file of tensors, by the names before the last dot; ArtifactError where it is not whole.

    prefix: of the names to list, which is left away. macs: weight name without it -> multiply-accumulates for one sample;
    the file itself does not say how often a weight is used.
    """
    header, start = _header(path)
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size > start else np.empty(0, np.uint8)
    modules: dict[str, dict[str, Entry]] = {}
    for key, entry in header.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name.rpartition(".")[2] not in STATISTICS:
            modules.setdefault(name.rpartition(".")[0] or name, {})[name] = entry
    layers = [_layer(module, tensors, data[start:], macs) for module, tensors in modules.items()]
    total = sum(macs.values()) if macs is not None else None
    unknown = "" if macs is not None else "tensors alone do not say how often they are used"
    return Listing.of(path, what, layers, path.stat().st_size, total, unknown)


def _layer(module: str, tensors: dict[str, Entry], data: np.ndarray, macs: dict[str, int] | None) -> Layer:
    kinds: Counter[str] = Counter()
    for entry in tensors.values():
        kinds[KINDS.get(entry.kind, entry.kind.lower())] += math.prod(entry.shape)
    return Layer(
        name=module,
        shapes=[list(entry.shape) for entry in tensors.values()],
        kinds=dict(kinds),
        parameters=kinds.total(),
        zeros=known_sum(_zeros(data[entry.begin : entry.end], entry.kind) for entry in tensors.values()),
        macs=sum(macs.get(name, 0) for name in tensors) if macs is not None else None,
    )


def _header(path: Path) -> tuple[dict[str, Entry], int]:
    """Tensor name -> its entry; and where the tensors' bytes begin."""
    refused = f"{path}: is not a whole safetensors file"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LONGEST_HEADER:
                raise ArtifactError(refused)
            document = json.loads(file.read(length))
        entries = {name: _entry(tensor) for name, tensor in document.items() if name != "__metadata__" and name.encode()}
        is_whole = _covers(list(entries.values()), path.stat().st_size - 8 - length)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: there is no such file") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, OverflowError, RecursionError):
        raise ArtifactError(refused) from None
    if not is_whole:
        raise ArtifactError(refused)
    return entries, 8 + length


def _entry(document: dict[str, Any]) -> Entry:
    begin, end = map(int, document["data_offsets"])
    return Entry(str(document["dtype"]), tuple(map(int, document["shape"])), begin, end)


def _covers(entries: list[Entry], size: int) -> bool:
    """Whether each of so many bytes belongs to exactly one tensor, as the format wants, and holds it."""
    order = sorted((entry.begin, entry.end) for entry in entries)
    borders = [0, *(end for _, end in order)]
    is_seamless = [begin for begin, _ in order] == borders[:-1] and borders[-1] == size
    return bool(entries) and is_seamless and all(map(_fits, entries))


def _fits(entry: Entry) -> bool:
    """Whether the tensor's bytes can hold it; of types that are not known here a value takes at least a bit."""
    size = entry.end - entry.begin
    is_plausible = len(entry.shape) <= 32 and all(0 <= axis < 2**63 for axis in entry.shape)
    if not is_plausible or size < 0:
        return False
    bits = math.prod(entry.shape) * (BITS.get(entry.kind) or (8 if entry.kind.startswith("F8") else 1))
    return bits == 8 * size if entry.kind in BITS or entry.kind.startswith("F8") else bits <= 8 * size


def _zeros(values: np.ndarray, kind: str) -> int | None:
    """Zeros among raw little-endian values; in every IEEE format both 0 and -0 are 0 but for the sign bit."""
    bits = BITS.get(kind)
    if bits is None:
        return None
    whole = np.frombuffer(values.tobytes(), f"<u{bits // 8}")
    if kind.startswith(("F", "BF")):
        whole = whole & np.array(2 ** (bits - 1) - 1, whole.dtype)
    return int(len(whole) - np.count_nonzero(whole))
