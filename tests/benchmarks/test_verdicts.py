"""Whether verdicts are true: a model against itself, and against itself with a tenth of its nodes repeated."""

import os
from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from compress_cli.measurement.example import made_up
from compress_cli.measurement.latency import compare
from compress_cli.measurement.sessions import open_session

pytestmark = pytest.mark.slow
NODES = 20
SIZES = {"a few hundredths of a ms": (8, 8), "half a ms": (16, 16), "two ms": (32, 16)}  # channels, pixels a side
SECONDS = 0.3


def chain(path, channels, side, repeated=0):
    """A file of convolutions in a row, of which so many, spread evenly, are done twice."""
    rng, nodes, weights, last = np.random.default_rng(0), [], {}, "image"
    for place in range(NODES):
        weights[f"w{place}"] = rng.normal(0, 0.1, (channels, channels, 3, 3)).astype(np.float32)
        for turn in range(2 if repeated and place % (NODES // repeated) == 0 else 1):
            nodes.append(helper.make_node("Conv", [last, f"w{place}"], [f"c{place}.{turn}"], pads=[1] * 4))
            last = f"c{place}.{turn}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", channels, side, side))],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ("batch", channels, side, side))],
        [numpy_helper.from_array(each, name) for name, each in weights.items()],
    )
    assert len(nodes) == NODES + repeated
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def verdicts(tmp_path, comparisons, repeated):
    """How often each verdict falls, over sizes and numbers of threads alike, with freshly opened sessions each time."""
    cases = {(size, threads): Counter() for size in SIZES for threads in (1, 2)}
    for seed in range(comparisons):
        size, threads = list(cases)[seed % len(cases)]
        files = [chain(tmp_path / f"{each}.onnx", *SIZES[size], each) for each in {0: None, repeated: None}]
        sessions = open_session(files[0], threads), open_session(files[-1], threads)
        feeds = made_up(sessions[0], 1)
        cases[size, threads][compare(*sessions, (feeds, feeds), SECONDS, seed).verdict] += 1
    for (size, threads), each in cases.items():
        print(f"\n{size}, {threads} threads: {dict(each)}", end="")
    found = sum(cases.values(), Counter())
    print(f"\nall: {dict(found)}; load {os.getloadavg()}")
    return found


def test_a_model_is_not_faster_than_itself(tmp_path):
    found = verdicts(tmp_path, 600, repeated=0)
    assert found["faster"] + found["slower"] <= 20
    assert found["too noisy to say"] <= 60


def test_a_tenth_more_work_is_slower(tmp_path):
    found = verdicts(tmp_path, 200, repeated=2)
    assert found["slower"] >= 180
    assert found["faster"] <= 4  # the level is 1% to either side: more than 4 of 200 come once in 1,000 times
