"""How much memory static quantisation of a file takes: a multiple of the file's weights, since each copy counts.

python -m pytest tests/benchmarks/test_quantising_memory.py -m slow -s
"""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.slow

WIDTH, LAYERS = 2048, 12  # 192 MB of weights
MOST = 4  # times the file

PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from compress_cli.quantization.quantizers.static_int8 import StaticInt8

def quantise(path):
    batches = [{"x": np.random.default_rng(0).random((4, width), np.float32)} for width in (int(sys.argv[3]),) * 2]
    StaticInt8().quantize_onnx(Path(path), "m", iter(batches), Path(path + ".int8"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

print(*(quantise(path) for path in sys.argv[1:3]))
"""


def write(path, layers):
    """Linear layers one after the other, each of WIDTH by WIDTH weights."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5 for _ in range(layers)]
    nodes = [helper.make_node("MatMul", [f"v{number}", f"w{number}"], [f"v{number + 1}"]) for number in range(layers)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("v0", f"v{layers}")]
    ports[0].name = nodes[0].input[0] = "x"
    initializers = [numpy_helper.from_array(array, f"w{number}") for number, array in enumerate(weights)]
    graph = helper.make_graph(nodes, "linear", ports[:1], ports[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path.stat().st_size


def test_quantising_takes_few_copies_of_the_weights(tmp_path):
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    write(small, 1)
    size = write(large, LAYERS)
    command = [sys.executable, "-W", "ignore", "-c", PEAK, str(small), str(large), str(WIDTH)]
    before, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    print(f"\nquantising a file of {size / 2**20:.0f} MB took {(peak - before) / size:.1f} times its size")
    assert peak - before < MOST * size
