"""Opening and running ONNX files, and the messages where that fails."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

from compress_cli.errors import ArtifactError, StageError
from compress_cli.measurement.sessions import Options, Port, cores, machine, open_session


@pytest.fixture
def model(linear_file):
    return linear_file(np.eye(4, 3), shape=("batch", 4), metadata={"who": "test"})


def test_ports_and_metadata(model):
    session = open_session(model, threads=1)
    assert session.inputs == {"image": Port((None, 4), "float32")}
    assert session.outputs == {"logits": Port((None, 3), "float32")}
    assert session.metadata == {"who": "test"}
    assert (session.threads, session.batch) == (1, None)


def test_run_gives_outputs_by_name(model):
    x = np.random.default_rng(0).random((5, 4), np.float32)
    np.testing.assert_allclose(open_session(model).run({"image": x})["logits"], x[:, :3])


def test_a_fixed_batch_is_known(linear_file):
    assert open_session(linear_file(np.eye(4), shape=(7, 4))).batch == 7


def broken(tmp_path, model, how):
    whole, path = model.read_bytes(), tmp_path / f"{how}.onnx"
    parsed = onnx.load(model)
    match how:
        case "missing":
            return path
        case "folder":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("this is a text, not a model\n")
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "operator":
            parsed.graph.node[0].op_type = "Flaten"
            onnx.save(parsed, path)
        case "domain":
            parsed.graph.node[0].domain = "my.company"
            parsed.opset_import.append(onnx.helper.make_opsetid("my.company", 1))
            onnx.save(parsed, path)
        case "later":
            parsed.ir_version = 99
            onnx.save(parsed, path)
        case "axis":  # what ONNX Runtime takes, and Python's strings do not
            assert whole.count(b"batch") == 2
            path.write_bytes(whole.replace(b"batch", b"\x96atch"))
        case "external":
            onnx.save(parsed, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
            (tmp_path / "weights.bin").unlink()
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "there is no such file"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "is not an ONNX file, or is truncated"),
        ("truncated", "is not an ONNX file, or is truncated"),
        ("operator", "an operator that ONNX Runtime .* does not have .*Flaten"),
        ("domain", "an operator that ONNX Runtime .* does not have .*my.company:Flatten"),
        ("later", "later ONNX version .*IR version: 99"),
        ("axis", "a name is not UTF-8"),
        ("external", "its weights lie in another file, which is missing.*weights.bin"),
    ],
)
def test_what_can_not_be_opened(tmp_path, model, how, message, capfd):
    path = broken(tmp_path, model, how)
    with pytest.raises(ArtifactError, match=message) as error:
        open_session(path)
    assert str(error.value).startswith(str(path))
    assert "onnxruntime_src" not in str(error.value)
    assert capfd.readouterr().err == ""  # ONNX Runtime's own log stays silent


def test_a_provider_that_is_not_there(model):
    with pytest.raises(ValidationError, match=r"has no provider 'cpuu'; did you mean 'cpu'"):
        Options(providers=("cpuu",))
    assert Options(providers=("cpu",)) == Options(providers=("CPUExecutionProvider",)) == Options()


def test_options_reach_the_session(model):
    asked = Options(optimisation="basic", execution="parallel", inter_threads=2)
    session = open_session(model, 1, asked)
    settings = session.raw.get_session_options()
    assert settings.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert settings.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (1, 2)


def value_info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def file_of(path, nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("shapes", "axes", "batch"),
    [
        ({"x": ("batch", 16), "h": (2, "batch", 4)}, {"x": 0, "h": 1}, None),
        ({"x": ("n", 16), "h": (2, 1, 4)}, {"x": 0}, None),
        ({"x": (1, 16), "h": (2, 1, 4)}, {}, None),  # which of them counts samples is not known
        ({"x": ("seq", "batch", 16)}, {"x": 1}, None),
        ({"x": ("seq", 16)}, {}, None),
        ({"x": (None, 16), "scalar": ()}, {"x": 0}, None),
        ({"x": (3, 16), "y": (3, 2)}, {"x": 0, "y": 0}, 3),
        ({"h": (2, 1, 4), "x": ("N", 16)}, {"x": 0}, None),
        ({"x": ("points", 3), "y": ("edges", 2)}, {}, None),
        ({"x": (0, 3)}, {"x": 0}, None),
    ],
)
def test_which_axis_counts_samples(tmp_path, shapes, axes, batch):
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    inputs = [value_info(name, shape) for name, shape in shapes.items()]
    session = open_session(file_of(tmp_path / "m.onnx", nodes, inputs, [value_info(f"{name}_out", None) for name in shapes]))
    assert (session.batch_axes, session.batch) == (axes, batch)
    feeds = {name: np.zeros([5 if axes.get(name) == at else size or 1 for at, size in enumerate(port.shape)])
             for name, port in session.inputs.items()}  # fmt: skip
    assert session.samples(feeds) == (5 if axes else None)


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.UINT4])
def test_outputs_that_numpy_does_not_have(tmp_path, kind):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=kind), helper.make_node("Identity", ["x"], ["z"])]
    inputs, outputs = [value_info("x", ("n", 2))], [value_info("y", ("n", 2), kind), value_info("z", ("n", 2))]
    x = np.ones((3, 2), np.float32)
    both = open_session(file_of(tmp_path / "both.onnx", nodes, inputs, outputs)).run({"x": x})
    assert both.keys() == {"z"}
    only = file_of(tmp_path / "only.onnx", nodes[:1], inputs, outputs[:1])
    with pytest.raises(
        ArtifactError, match=r"output 'y' is (bfloat16|uint4), which NumPy does not have; export it with a Cast"
    ):
        open_session(only).run({"x": x})


def test_messages_name_the_users_file_too(model):
    session = open_session(model, origin="mine.onnx")
    with pytest.raises(StageError, match=rf"^mine.onnx \(its copy {model}\): ONNX Runtime could not run it"):
        session.run({"image": np.zeros((1, 9), np.float32)})
    model.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"^mine.onnx \(its copy .*\): is empty"):
        session.reopened()


def test_a_session_opens_again(model):
    first = open_session(model, 1, Options(optimisation="basic"))
    second = first.reopened()
    assert (second.path, second.threads, second.options) == (first.path, first.threads, first.options)
    assert second.raw is not first.raw
    assert first.opened_in_s > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": np.zeros((2, 5), np.float32)}, "Got: 5 Expected: 4"),
        ({"image": np.zeros((2, 4))}, "double"),
        ({"picture": np.zeros((2, 4), np.float32)}, "image"),
    ],
)
def test_inputs_that_do_not_fit(model, inputs, message):
    with pytest.raises(StageError, match=message) as error:
        open_session(model).run(inputs)
    assert str(model) in str(error.value)


def test_the_machine_is_named():
    facts = machine()
    assert facts["processor"]
    assert 1 <= cores() == facts["cores"]
