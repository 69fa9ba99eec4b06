"""Opening and running ONNX files, and what is said where that fails."""

import time

import numpy as np
import onnx
import onnxruntime
import pytest
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
    ("how", "said"),
    [
        ("missing", "there is no such file"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "is not an ONNX file, or is truncated"),
        ("truncated", "is not an ONNX file, or is truncated"),
        ("operator", "an operator that ONNX Runtime .* does not have .*Flaten"),
        ("domain", "an operator that ONNX Runtime .* does not have .*my.company:Flatten"),
        ("later", "later ONNX version .*IR version: 99"),
        ("axis", "a name in it is not UTF-8"),
        ("external", "its weights lie in another file, which is missing.*weights.bin"),
    ],
)
def test_what_can_not_be_opened(tmp_path, model, how, said, capfd):
    path = broken(tmp_path, model, how)
    with pytest.raises(ArtifactError, match=said) as error:
        open_session(path)
    assert str(error.value).startswith(str(path))
    assert "onnxruntime_src" not in str(error.value)
    assert capfd.readouterr().err == ""  # ONNX Runtime's own log stays silent


def test_a_provider_that_is_not_there(model):
    with pytest.raises(ValidationError, match=r"has no provider 'cpuu'; did you mean 'cpu'"):
        Options(providers=("cpuu",))
    assert Options(providers=("cpu",)) == Options(providers=("CPUExecutionProvider",)) == Options()
    assert open_session(model).works_in_caller


def test_options_reach_the_session(model):
    asked = Options(optimisation="basic", execution="parallel", inter_threads=2)
    session = open_session(model, 1, asked)
    settings = session.raw.get_session_options()
    assert settings.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert settings.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (1, 2)
    assert not session.works_in_caller


@pytest.mark.parametrize("threads", [1, 2])
def test_the_caller_works_from_start_to_end(linear_file, threads):
    """Where nothing disturbs a run, the caller's CPU time is its time by the wall clock, however many threads there are."""
    session = open_session(linear_file(np.ones((512, 512)), shape=("batch", 512)), threads)
    x, shares = {"image": np.ones((32, 512), np.float32)}, []
    for _ in range(1000):
        wall, cpu = time.perf_counter(), time.thread_time()
        session.raw.run(None, x)
        shares.append((time.thread_time() - cpu) / (time.perf_counter() - wall))
    assert np.quantile(shares, 0.95) > 0.9


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"image": np.zeros((2, 5), np.float32)}, "Got: 5 Expected: 4"),
        ({"image": np.zeros((2, 4))}, "double"),
        ({"picture": np.zeros((2, 4), np.float32)}, "image"),
    ],
)
def test_inputs_that_do_not_fit(model, inputs, said):
    with pytest.raises(StageError, match=said) as error:
        open_session(model).run(inputs)
    assert str(model) in str(error.value)


def test_the_machine_is_named():
    found = machine()
    assert found["processor"]
    assert 1 <= cores() == found["cores"]
