"""Small files that stand for much: refused in bounded time and memory, by whatever command opens them."""

import contextlib
import os
import resource
import signal
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.errors import ArtifactError
from compress_cli.measurement import sessions
from compress_cli.onnx_graph import expansion, layers, limits
from compress_cli.onnx_graph.contents import contents

node = helper.make_node


def file(path, nodes, weights=None, functions=(), shape=("n", 4)):
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions), path)
    return path


def growing(operator, inputs, weights, **attributes):
    return [
        node(operator, inputs, ["c"], **attributes),
        node("Cast", ["c"], ["f"], to=1),
        node("Add", ["x", "f"], ["y"]),
    ], weights


NUMBER = helper.make_tensor("v", TensorProto.INT64, [1], [1])
HUGE = {
    "ConstantOfShape": growing("ConstantOfShape", ["s"], {"s": np.array([4 * 10**9, 1])}, value=NUMBER),
    "Expand": growing("Expand", ["a", "s"], {"a": np.array([1]), "s": np.array([10**10, 1])}),
    "Range": growing("Range", ["a", "b", "a"], {"a": np.int64(1), "b": np.int64(10**10)}),
    "Tile": growing("Tile", ["a", "s"], {"a": np.array([1]), "s": np.array([10**10])}),
    "computed": (
        [node("Mul", ["s", "s"], ["t"]), *growing("Expand", ["a", "t"], {})[0]],
        {"a": np.array([1]), "s": np.array([10**5, 1])},
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_constants_far_larger_than_the_file_are_refused_before_they_are_made(tmp_path, monkeypatch, name):
    """By their size, or, where the claim makes inference itself grow, by its memory."""
    monkeypatch.setattr(limits, "MEMORY_BYTES", 200_000_000)
    path = file(tmp_path / "m.onnx", *HUGE[name])
    assert path.stat().st_size < 300
    started = time.monotonic()
    with pytest.raises(
        ArtifactError, match=r"(bytes of constants, and the file has \d+|memory than its size explains); it is damaged"
    ):
        sessions.open_session(path)
    with contextlib.suppress(ArtifactError):
        layers.of_onnx(path)  # the constants themselves are never made
    assert time.monotonic() - started < 20


def test_constants_of_usual_size_open(tmp_path):
    nodes, _ = growing("Expand", ["a", "s"], {})
    path = file(tmp_path / "m.onnx", nodes, {"a": np.array([1]), "s": np.array([1, 4])})
    assert sessions.open_session(path).run({"x": np.zeros((2, 4), np.float32)})["y"].tolist() == [[1] * 4] * 2


def test_nested_functions_of_exponential_size_are_refused(tmp_path):
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    functions = [helper.make_function("mine", "f0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets)]
    for depth in range(1, 30):
        calls = [node(f"f{depth - 1}", ["a"], ["t"], domain="mine"), node(f"f{depth - 1}", ["t"], ["b"], domain="mine")]
        functions.append(helper.make_function("mine", f"f{depth}", ["a"], ["b"], calls, opsets))
    path = file(tmp_path / "m.onnx", [node("f29", ["x"], ["y"], domain="mine")], functions=functions)
    with pytest.raises(ArtifactError, match="can't be opened safely: its functions stand for 536870912 operators"):
        sessions.open_session(path)
    held = contents(path)
    assert (held.macs, "536870912 operators" in held.macs_unknown) == (None, True)


def doubling(path, shape=("n", 4)):
    """Each sum of axes is twice as long as the one before: 34 steps make 64 GB."""
    nodes = [node("Constant", [], ["c0"], value_ints=[1] * 8)]
    nodes += [node("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=0) for step in range(33)]
    return file(path, [*nodes, node("Reshape", ["x", "c33"], ["y"])], shape=shape)


@pytest.mark.parametrize("read", [contents, layers.of_onnx, expansion.check])
def test_inference_that_fills_memory_ends_in_a_child(tmp_path, monkeypatch, read):
    monkeypatch.setattr(limits, "MEMORY_BYTES", 200_000_000)
    path = doubling(tmp_path / "m.onnx")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="takes more memory than its size explains"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_what_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "TIME_S", 1)
    started = time.monotonic()
    with pytest.raises(ArtifactError, match="takes more than 1 s; it is damaged, or made to do so"):
        limits.bounded(tmp_path / "m.onnx", lambda: time.sleep(60) or "")
    assert time.monotonic() - started < 20


def test_a_crash_and_a_refusal_and_a_bug_of_the_child_are_told_apart(tmp_path):
    path = tmp_path / "m.onnx"

    def refuse():
        raise ArtifactError("no")

    def fail():
        raise KeyError("a bug")

    assert limits.bounded(path, lambda: "ünïcode") == "ünïcode"
    with pytest.raises(ArtifactError, match=r"^no$"):
        limits.bounded(path, refuse)
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        limits.bounded(path, fail)
    with pytest.raises(ArtifactError, match="fails \\(killed by SIGKILL\\)"):
        limits.bounded(path, lambda: os.kill(os.getpid(), signal.SIGKILL) or "")


def test_the_commands_refuse_it_with_exit_code_3(compress, tmp_path):
    path = file(tmp_path / "m.onnx", *HUGE["Expand"])
    for command in (("eval", path), ("compare", path, path), ("predict", path, path)):
        outcome = compress(*command)
        assert (outcome.code, "bytes of constants" in outcome.err) == (3, True), outcome
