"""An ONNX file: cleared of what no runtime needs, checked, written with a card."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph import graph as reading

EXPORTER = re.compile(r"pkg\.|onnx\.(infer|quant)")
"""Keys of metadata that exporters and quantisation tools leave for themselves."""
VERSION = 1
LARGEST = 2**31 - 1  # bytes that one ONNX file can hold


def load(path: Path) -> onnx.ModelProto:
    """The model without its external weights; ArtifactError where it is no ONNX file."""
    if not path.is_file():
        raise ArtifactError(f"{path}: {'is a folder, not an ONNX file' if path.is_dir() else 'there is no such file'}")
    if path.stat().st_size > LARGEST:
        raise ArtifactError(f"{path}: is above 2 GB, more than one ONNX file can hold")
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read ({error.strerror})") from None
    except (DecodeError, ValueError):
        raise ArtifactError(
            f"{path}: is not an ONNX file, or is truncated or damaged; export it again or fetch it again"
        ) from None
    if not model.graph.node:
        raise ArtifactError(f"{path}: holds no graph")
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    for message in _messages(model):
        wrong = _wrong(message, opsets)
        if wrong:
            raise ArtifactError(f"{path}: violates ONNX's rules ({wrong}); it is damaged")
    return model


def external_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Files that hold weights of an ONNX file; ArtifactError where one lies outside its folder, also by way of a link."""
    home = path.parent.resolve()
    external = []
    for location in sorted({_entry(tensor, "location") for tensor in _external(model)}):
        file = Path(path.parent, location)
        is_safe = location.isprintable() and not Path(location).is_absolute() and ".." not in Path(location).parts
        if not is_safe or not file.resolve().is_relative_to(home):
            raise ArtifactError(f"{path}: refers to weights outside its folder ({location[:100]!r}), which are never read")
        external.append(file)
    return external


def external_bytes(path: Path, model: onnx.ModelProto) -> int:
    """Bytes of all external weights, once read: several tensors may claim the same ones."""
    total = 0
    for tensor in _external(model):
        length, file = _entry(tensor, "length"), Path(path.parent, _entry(tensor, "location"))
        total += int(length) if length.isdecimal() and len(length) < 20 else file.stat().st_size if file.is_file() else 0
    return total


def _entry(tensor: onnx.TensorProto, name: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == name), "")


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors whose values lie in another file, anywhere in the model: initialisers, attributes, branches, functions."""
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
            yield message


def _messages(whole: Any) -> Iterator[Any]:
    """A model, or a part of it, and all messages that it consists of."""
    left: list[Any] = [whole]
    while left:
        message = left.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                left += [value] if hasattr(value, "ListFields") else value


def _wrong(message: Any, opsets: dict[str, int]) -> str:
    """Which rule a message breaks; empty where it breaks none."""
    if any(isinstance(text, bytes) for text in _texts(message)):
        return "a name is not UTF-8"
    if isinstance(message, onnx.TensorProto):
        if message.data_type not in onnx.TensorProto.DataType.values():
            return f"the number type {message.data_type} of '{message.name}'"
        if any(axis < 0 for axis in message.dims):
            return f"the shape of '{message.name}'"
    if isinstance(message, onnx.NodeProto):
        known = onnx.defs.has(message.op_type, opsets.get(message.domain, 0), message.domain)
        schema = onnx.defs.get_schema(message.op_type, opsets[message.domain], message.domain) if known else None
        if not message.output or (schema and len(message.input) < schema.min_input):
            return f"the inputs or outputs of {message.op_type} '{message.name}'"
    return ""


def _texts(message: Any) -> Iterator[str | bytes]:
    """Its text fields: protobuf returns bytes for text that is not UTF-8."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, doc strings and shapes of intermediate values: up to 190 kB that no runtime reads, and
    shapes that have gone stale mislead quantisation. Operator sets that no node uses go too."""
    graph = model.graph
    parts = (*graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions, graph)
    model.doc_string = ""
    for part in parts:
        part.doc_string = ""
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    used = {node.domain for node in graph.node} | {node.domain for function in model.functions for node in function.node} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(opsets)
    kept = {entry.key: entry.value for entry in model.metadata_props if not EXPORTER.match(entry.key)}
    onnx.helper.set_model_props(model, kept)


def drop_defaults(model: onnx.ModelProto) -> None:
    """Remove attributes that say what ONNX takes without them: exporters write out an axis even where there is one scale."""
    opset = reading.opset(model)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset):
            continue
        known = onnx.defs.get_schema(node.op_type, opset).attributes
        kept = [entry for entry in node.attribute if entry.name not in known or not _is_default(entry, known[entry.name])]
        copies = [onnx.AttributeProto.FromString(entry.SerializeToString()) for entry in kept]
        if len(copies) < len(node.attribute):
            node.ClearField("attribute")
            node.attribute.extend(copies)


def _is_default(entry: onnx.AttributeProto, known: onnx.defs.OpSchema.Attribute) -> bool:
    default = known.default_value
    return default.type == entry.type and onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(entry)


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Call values otherwise, old name -> new, wherever the graph or a branch of it means them; any other value that has a
    new name already gets one of its own."""
    values = [part for part in _messages(model.graph) if isinstance(part, onnx.ValueInfoProto | onnx.TensorProto)]
    nodes = [part for part in _messages(model.graph) if isinstance(part, onnx.NodeProto)]
    known = {value.name for value in values} | {name for node in nodes for name in (*node.input, *node.output)}
    taken = [name for name in names.values() if name in known and name not in names]
    other = {**names, **{name: _unused(number, known | set(names.values())) for number, name in enumerate(taken)}}
    for value in values:
        value.name = other.get(value.name, value.name)
    for node in nodes:
        node.input[:] = [other.get(name, name) for name in node.input]
        node.output[:] = [other.get(name, name) for name in node.output]
    for note in model.graph.quantization_annotation:
        note.tensor_name = other.get(note.tensor_name, note.tensor_name)


def shorten_names(model: onnx.ModelProto, keep: set[str]) -> None:
    """Give intermediate values, and initialisers not in `keep`, short names: in a small int8 file the names would be a
    tenth of all bytes. A node is called as its first output."""
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # the bodies of If and Loop refer to outer names
    kept = keep | {port.name for port in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}
    for name in [tensor.name for tensor in graph.initializer] + [name for node in graph.node for name in node.output]:
        if name not in kept and name not in short:
            short[name] = _unused(len(short), kept)
    for initializer in graph.initializer:
        initializer.name = short.get(initializer.name, initializer.name)
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
        node.name = node.output[0]


def write(model: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
    """Check the model, add `metadata` to its own, and write it: the same model, the same bytes."""
    present = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, dict(sorted({**present, **metadata}.items())))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def without(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy that lacks these initialisers, which never were in its memory."""
    graph = {field.name: value for field, value in model.graph.ListFields()}
    graph["initializer"] = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    fields = {field.name: value for field, value in model.ListFields()}
    return onnx.ModelProto(**fields | {"graph": onnx.GraphProto(**graph)})


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, by name."""
    names = sorted(node.op_type for node in model.graph.node)
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _unused(count: int, kept: set[str]) -> str:
    name = f"v{count}"
    while name in kept:
        name += "_"
    return name
