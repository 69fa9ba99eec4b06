"""What is fuzzed: each target takes bytes, does what a command would do with a file of them, and lets only clear refusals out.

Any exception but CompressError is a finding; so is a target that takes longer than a moment.
"""

import io
import json
import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from compress_cli.data import arrays
from compress_cli.document import Document
from compress_cli.errors import CompressError
from compress_cli.onnx_graph import layers
from compress_cli.pipeline import plan, recipe
from compress_cli.statistics import gate
from compress_cli.store import artifact, safetensors
from compress_cli.store.record import Record


def _written(content, name):
    folder = Path(tempfile.gettempdir(), f"compress-fuzz-{os.getpid()}")
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def a_recipe(content):
    """Loaded and planned, as `compress plan` does."""
    with suppress(CompressError):
        plan.plan(recipe.load(_written(content, "r.yaml")))


def an_override(content):
    """`--set`, on a small recipe."""
    text = content.decode("utf-8", "surrogateescape")
    path = _written(b"dataset: digits\nstages:\n  - {type: train, model: mlp, training: {epochs: 1}}\n", "s.yaml")
    with suppress(CompressError):
        recipe.load(path, [text])


def a_document(content):
    with suppress(CompressError):
        Document.read(_written(content, "d.yaml")).data()


def a_gate(content):
    with suppress(CompressError):
        gate.parse(content.decode("utf-8", "surrogateescape"))


def a_manifest(content):
    path = _written(content, "manifest.json")
    with suppress(CompressError):
        artifact.read(path.parent)
    sealed = _sealed(content)
    if sealed is not None:
        path.write_bytes(sealed)
        with suppress(CompressError):
            found = artifact.read(path.parent)
            if found is not None:
                found.faults()
                found.extra_files()
    path.unlink()


def _sealed(content):
    """The same with a seal that fits: whoever writes a manifest can seal it."""
    with suppress(ValueError, RecursionError):
        document = json.loads(content)
        if isinstance(document, dict):
            document.pop("seal", None)
            return json.dumps({**document, "seal": artifact._seal(document)}).encode()
    return None


def a_record(content):
    path = _written(content, "run.json")
    with suppress(CompressError):
        Record.read(path.parent)


def an_onnx_file(content):
    """`compress inspect`."""
    with suppress(CompressError):
        layers.of_onnx(_written(content, "m.onnx")).model_dump_json()


def a_safetensors_file(content):
    with suppress(CompressError):
        safetensors.listing(_written(content, "w.safetensors")).model_dump_json()


def an_npz_file(content):
    with suppress(CompressError):
        arrays.read(_written(content, "a.npz"))


TARGETS = {target.__name__: target for target in (
    a_recipe, an_override, a_document, a_gate, a_manifest, a_record, an_onnx_file, a_safetensors_file, an_npz_file,
)}  # fmt: skip

RECIPE = b"""\
name: x
seed: 3
device: cpu
threads: 2
dataset: {type: digits, split_seed: 1}
baseline: teacher
gates: [accuracy_drop<=0.01, 'pruned.size_bytes<=200kB', {promise: speedup>=1.5, undecided: pass}]
stages:
  - &t {type: train, name: teacher, model: {type: convnet, widths: [8, 16]}, training: {epochs: 2, precision: float32}}
  - {type: distill, name: student, teacher: teacher, model: mlp, training: {epochs: 1}, losses: [soft_targets]}
  - {type: prune, name: pruned, keep: {macs: 0.5}, training: {epochs: 1}}
  - quantize
  - export
"""


def seeds():
    """Target -> a few files that are right, to begin from."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    scale, zero = (
        numpy_helper.from_array(np.asarray(number), name) for number, name in ((np.float32(1), "s"), (np.int8(0), "z"))
    )
    matrix = numpy_helper.from_array(np.ones((8, 4), np.int8), "q")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Gemm", ["f", "d"], ["y"], transB=0),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ("n", 3, 2, 2)), ("y", ("n", 4)))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight, scale, zero, matrix])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
                         "a.bias": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]}}).encode()  # fmt: skip
    packed, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, a=np.arange(40).reshape(10, 4), label=np.arange(10, dtype=np.uint8))
    np.savez(plain, a=np.arange(6.0))
    manifest = artifact.Manifest(
        format=1, kind="Table", key="k", stage={"type": "train"}, facts={"loss": 0.5},
        inputs={"start": [{"key": "k", "digest": "d"}]},
        environment={"threads": 1}, wall_time_s=1.0, files={"a.bin": {"sha256": "0" * 64, "bytes": 3}},
    )  # fmt: skip
    run = Record(recipe="r", store="../.store", seed=0, baseline="", rows=[], steps={"a": "b"}, wall_time_s=1.0)
    return {
        "a_recipe": [RECIPE],
        "a_document": [RECIPE, b"a: &a [1, 2.5e-3, .inf, 'x']\n? b\n: {c: !!str 1, d: *a}\n"],
        "an_override": [b"stages.train.model={type: mlp, hidden: [3]}", b"stages.0.training.epochs=2", b"seed=1"],
        "a_gate": [b"accuracy_drop<=0.01", b"int8.size_bytes <= 200kB", b"speedup>=1.5e0"],
        "a_manifest": [_sealed(manifest.model_dump_json().encode())],
        "a_record": [run.model_dump_json().encode()],
        "an_onnx_file": [model.SerializeToString()],
        "a_safetensors_file": [struct.pack("<Q", len(header)) + header + b"\0" * 14],
        "an_npz_file": [packed.getvalue(), plain.getvalue()],
    }  # fmt: skip
