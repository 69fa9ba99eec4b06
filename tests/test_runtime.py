"""Opening and running ONNX files, and what is said where that fails."""

import numpy as np
import onnx
import pytest

from compress_cli.errors import ArtifactError, StageError
from compress_cli.runtime import Port, cores, machine, open_session


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
    with pytest.raises(ArtifactError, match=r"has no NoSuchProvider; it has: .*CPUExecutionProvider"):
        open_session(model, provider="NoSuchProvider")


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
