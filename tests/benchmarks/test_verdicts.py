"""Whether verdicts are true: a model against itself, and against itself with a tenth of its nodes repeated; on an idle machine
and beside a busy process for each core."""

import multiprocessing
import os
from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from compress_cli.measurement.example import synthetic
from compress_cli.measurement.latency import compare
from compress_cli.measurement.sessions import open_session

pytestmark = pytest.mark.slow
NODES = 20
SIZES = {"a few hundredths of a ms": (8, 8), "half a ms": (16, 16), "two ms": (32, 16)}  # channels, pixels a side
SECONDS = 0.7
COMPARISONS = int(os.environ.get("COMPARISONS", "300"))
LEVEL = 0.01


def chain(path, channels, side, repeated=0):
    """A file of convolutions in a row, of which so many, spread evenly, are done twice."""
    rng, nodes, weights, last = np.random.default_rng(0), [], {}, "image"
    for layer in range(NODES):
        weights[f"w{layer}"] = rng.normal(0, 0.1, (channels, channels, 3, 3)).astype(np.float32)
        for turn in range(2 if repeated and layer % (NODES // repeated) == 0 else 1):
            nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}.{turn}"], pads=[1] * 4))
            last = f"c{layer}.{turn}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", channels, side, side))],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ("batch", channels, side, side))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    assert len(nodes) == NODES + repeated
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def busy():
    """Keep a core busy, in cache and memory, until it is ended."""
    matrix = np.random.default_rng(0).random((300, 300))
    while True:
        matrix = np.clip(matrix @ matrix, 0, 1)


@pytest.fixture(params=[False, True], ids=["idle", "loaded"])
def load(request):
    """Nothing, or a busy process for each core beside the test."""
    processes = [multiprocessing.Process(target=busy, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in processes if request.param else []:
        process.start()
    yield "loaded" if request.param else "idle"
    for process in processes if request.param else []:
        process.kill()
        process.join()


def verdicts(tmp_path, comparisons, repeated):
    """How often each verdict falls, over sizes and numbers of threads alike, with freshly opened sessions each time."""
    cases = {(size, threads): Counter() for size in SIZES for threads in (1, 2)}
    for seed in range(comparisons):
        size, threads = list(cases)[seed % len(cases)]
        files = [chain(tmp_path / f"{extra}.onnx", *SIZES[size], extra) for extra in {0: None, repeated: None}]
        sessions = open_session(files[0], threads), open_session(files[-1], threads)
        feeds = synthetic(sessions[0], 1)
        cases[size, threads][compare(*sessions, (feeds, feeds), SECONDS, seed).verdict] += 1
    for (size, threads), counter in cases.items():
        print(f"\n{size}, {threads} threads: {dict(counter)}", end="")
    print(f"\nload {os.getloadavg()}")
    return sum(cases.values(), Counter())


def test_a_model_is_not_faster_than_itself(tmp_path, load):
    counts = verdicts(tmp_path, COMPARISONS, repeated=0)
    assert counts["faster"] + counts["slower"] <= COMPARISONS * LEVEL
    if load == "idle":
        assert counts["too noisy to say"] <= 0.1 * COMPARISONS


def test_a_tenth_more_work_is_slower(tmp_path, load):
    counts = verdicts(tmp_path, COMPARISONS, repeated=2)
    assert counts["slower"] >= 0.9 * COMPARISONS
    assert counts["faster"] <= COMPARISONS * LEVEL
