"""Weights and files that fit by their names, and whether they do what they should on val."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from compress_cli.context import Context
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.preprocess import Preprocess
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.data.tasks.classification import Classification
from compress_cli.errors import DataError, RecipeError, StageError
from compress_cli.measurement import measure, sessions
from compress_cli.networks import restore
from compress_cli.networks.models.resnet import Resnet
from compress_cli.quantization import opset
from compress_cli.stages import Stage, _onnx_preprocess, _val_check
from compress_cli.store.artifact import Draft, read

pytestmark = pytest.mark.usefixtures("one_thread")
SIGNATURE = Signature(
    inputs={"image": Input(shape=(3, 8, 8), mean=(128.0,) * 3, deviation=(60.0,) * 3)}, heads={"logits": Head(shape=(4,))}
)
PATTERNS = np.random.default_rng(7).integers(0, 200, (4, 3, 8, 8))


class Patterns(Dataset):
    """Four pictures under noise."""

    val: bool = True

    def signature(self):
        return SIGNATURE

    def split(self, name):
        start, size = {"train": (0, 256), "val": (256, 200 if self.val else 0)}[name]
        generator = np.random.default_rng(start)
        labels = generator.integers(0, 4, size)
        images = (PATTERNS[labels] + generator.integers(0, 56, (size, 3, 8, 8))).astype(np.uint8)
        return Split({"image": images}, {"label": labels}, np.arange(start, start + size))

    def fingerprint(self):
        return "patterns"


@pytest.fixture
def load(tmp_path):
    """Settings -> the artifact that load makes, and the notes it logs."""

    def _load(dataset=None, limit=None, **settings):
        output = tmp_path / f"loaded{len(list(tmp_path.iterdir()))}"
        output.mkdir()
        notes = []
        stage = Stage.model_validate({"type": "load", **settings}, context={"base": tmp_path})
        context = Context(
            inputs={}, output=output, dataset=dataset or Patterns(), task=Classification(), device="cpu", seed=0,
            log=lambda progress: notes.append(progress.note), key="k", memory=tmp_path, limit=limit,
        )  # fmt: skip
        facts = stage.run(context)
        Draft(stage.produces({}), "k", {}, facts).commit(output)
        notes = [note for note in notes if note]
        assert facts.get("notes", []) == notes
        return read(output), notes

    return _load


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Weights of the form with padding on both sides, trained until they are right; path and accuracy on val."""
    torch.manual_seed(0)
    restored = restore.build(Resnet(depth=8, widths=(8, 16, 32), shortcut="padding"), SIGNATURE, 0)
    network, train = restored.network, Patterns().split("train")
    images, labels = torch.from_numpy(train.inputs["image"]).float(), torch.from_numpy(train.targets["label"])
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for step in range(32):
        rows = slice(step % 4 * 64, step % 4 * 64 + 64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images[rows])["logits"], labels[rows]).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("published") / "w.safetensors"
    save_file(network.body.state_dict(), path)
    val = Patterns().split("val")
    with torch.no_grad():
        chosen = network.eval()(torch.from_numpy(val.inputs["image"]).float())["logits"].argmax(1).numpy()
    return path, float((chosen == val.targets["label"]).mean())


def settings(path, form):
    return {"weights": str(path), "model": {"type": "resnet", "depth": 8, "widths": [8, 16, 32], "shortcut": form}}


def test_published_weights_keep_their_accuracy_in_their_form(load, published):
    path, accuracy = published
    assert accuracy > 0.95
    _, notes = load(**settings(path, "padding"), expect={"accuracy": accuracy})
    assert notes == []
    assert load(**settings(path, "padding"))[1] == []


def test_published_weights_in_the_other_form_are_caught(load, published):
    path, accuracy = published
    message = rf"these weights do not do what they should: on val accuracy 0\.\d+ where at least {accuracy:g} is expected"
    with pytest.raises(StageError, match=message) as error:
        load(**settings(path, "padding_behind"), expect={"accuracy": accuracy})
    assert error.value.exit_code == 4


def test_weights_that_do_hardly_better_than_guessing_are_noted(load, published, tmp_path):
    state = {name: torch.zeros_like(tensor) for name, tensor in load_file(published[0]).items()}
    save_file(state, tmp_path / "zero.safetensors")
    _, notes = load(**settings(tmp_path / "zero.safetensors", "padding"))
    (note,) = notes
    assert note.startswith("the weights have accuracy 0.2")
    assert "on val, where guessing has 0.25: if they should do better, they were trained with another normalisation" in note


def test_another_normalisation_is_noted(load, published):
    other = {"mean": [1e4] * 3, "deviation": [60.0] * 3}
    _, notes = load(**settings(published[0], "padding"), **other)
    assert len(notes) == 1


def test_what_can_not_be_checked_is_refused_or_left_out(load, published):
    path, _ = published
    with pytest.raises(DataError, match="expect: the dataset has no val split to check on"):
        load(Patterns(val=False), **settings(path, "padding"), expect={"accuracy": 0.9})
    with pytest.raises(RecipeError, match="expect: the task 'classification' has no metric 'acuracy'; it has: accuracy"):
        load(**settings(path, "padding"), expect={"acuracy": 0.9})
    assert load(Patterns(val=False), **settings(path, "padding_behind"))[1] == []
    assert load(**settings(path, "padding_behind"), limit=2, expect={"accuracy": 0.99})[1] == []  # a smoke run


def test_where_less_is_better_a_metric_is_at_most_what_is_expected():
    task = SimpleNamespace(metrics={"errors": "lower"}, better="lower")
    _val_check._compare({"errors": 0.1}, {"errors": 0.1}, task)
    with pytest.raises(StageError, match=r"on val errors 0\.2 where at most 0\.1 is expected"):
        _val_check._compare({"errors": 0.2}, {"errors": 0.1}, task)


def test_a_metric_without_a_value_is_named(load, published):
    """Of four classes every answer is among the best five, so there is no such metric."""
    with pytest.raises(RecipeError, match="expect: 'top5_accuracy' has no value on val; those that have one: accuracy, cross"):
        load(**settings(published[0], "padding"), expect={"top5_accuracy": 0.9})


def test_a_metric_has_its_direction_whatever_the_primary_one_has():
    task = SimpleNamespace(metrics={"errors": "lower", "hits": "higher"}, better="lower")
    _val_check._compare({"hits": 4.0}, {"hits": 3.0}, task)
    with pytest.raises(StageError, match=r"on val hits 3 where at least 4 is expected"):
        _val_check._compare({"hits": 3.0}, {"hits": 4.0}, task)


def matched_filters(path, prepare, kind=TensorProto.FLOAT, opset=20, pixels=8, resized=None, **settings):
    """An ONNX file that is right only on prepared pictures: the distance to each prepared pattern."""
    filters = prepare.apply(PATTERNS.astype(np.uint8) + np.uint8(28)).reshape(4, -1)
    shape = ("batch", pixels, pixels, 3) if prepare.layout == "nhwc" else ("batch", 3, pixels, pixels)
    nodes = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("Gemm", ["flat", "filters", "bias"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(filters.T.astype(np.float32)), "filters"),
        numpy_helper.from_array((-(filters**2).sum(1) / 2).astype(np.float32), "bias"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 4))], weights,
    )  # fmt: skip
    if opset < 9:
        graph.input.extend(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights)
    opsets, version = [helper.make_opsetid("", opset)], 3 if opset < 9 else 8
    model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    onnx.save_model(model, path, **settings)


WANTED = {
    "scaled": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "turned": {"mean": [104.0, 117.0, 123.0], "colour": "bgr", "layout": "nhwc"},
    "one_number": {"scale": 0.5, "mean": [3.0], "std": [2.0]},
    "larger": {"size": 20, "scale": 1 / 255},
    "smaller": {"size": 5, "scale": 1 / 255},
}

if "crop" in Preprocess.model_fields:
    WANTED |= {
        "resized": {"resize": 12, "crop": 9, "scale": 1 / 255},
        "cropped": {"crop": 5, "colour": "bgr", "layout": "nhwc"},
    }


@pytest.mark.parametrize("name", WANTED)
def test_preprocessing_becomes_part_of_the_graph(load, tmp_path, name):
    prepare = Preprocess.model_validate(WANTED[name])
    matched_filters(tmp_path / "m.onnx", prepare, pixels=prepare.apply(np.zeros((1, 3, 8, 8), np.uint8)).shape[2])
    loaded, notes = load(onnx="m.onnx", inputs=["image"], preprocess=WANTED[name], expect={"accuracy": 0.99})
    assert notes == []
    session = sessions.open_session(loaded.file("model.onnx"), threads=1)
    assert [(name, port.shape) for name, port in session.inputs.items()] == [("image", (None, 3, 8, 8))]
    images = Patterns().split("val").inputs["image"][:5]
    before = sessions.open_session(tmp_path / "m.onnx", threads=1).run({"input": prepare.apply(images)})["logits"]
    grey_levels = 1 if name in ("larger", "smaller", "resized") else 1e-3  # libraries round resized bytes to whole ones
    pixels = prepare.apply(images[:1]).size
    largest = np.abs(prepare.apply(PATTERNS.astype(np.uint8))).max()
    np.testing.assert_allclose(
        session.run({"image": images.astype(np.float32)})["logits"], before, rtol=1e-4,
        atol=grey_levels * prepare.scale * largest * pixels,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "version"), [("smaller", 7), ("smaller", 17), ("cropped", 9), ("resized", 11)])
def test_a_file_of_an_old_opset_is_converted_for_its_preparation(load, tmp_path, name, version):
    prepare = Preprocess.model_validate(WANTED[name])
    pixels = prepare.apply(np.zeros((1, 3, 8, 8), np.uint8)).shape[2]
    matched_filters(tmp_path / "m.onnx", prepare, pixels=pixels, opset=version)
    loaded, notes = load(onnx="m.onnx", inputs=["image"], preprocess=WANTED[name], expect={"accuracy": 0.99})
    target = 10 if name == "cropped" else 18
    assert notes == [f"converted from opset {version} to {target}; outputs differ by 0 of the largest"]
    assert loaded.manifest.facts["converted"]["to_opset"] == loaded.manifest.facts["opsets"]["ai.onnx"] == target


def test_a_prepared_file_of_the_oldest_format_can_still_be_converted(load, tmp_path):
    """Its constants are inputs too, and those of the preparation are not."""
    matched_filters(tmp_path / "m.onnx", Preprocess.model_validate(WANTED["scaled"]), opset=8)
    loaded, _ = load(onnx="m.onnx", inputs=["image"], preprocess=WANTED["scaled"], expect={"accuracy": 0.99})
    images = Patterns().split("val").inputs["image"][:5].astype(np.float32)
    model = onnx.load(loaded.file("model.onnx"))
    later, proof = opset.converted(model, 13, {"image": images}, "m.onnx", "lacks much")
    assert (opset.version(later), proof["relative_error"] < 1e-5) == (13, True)


def test_half_precision_is_fed_in_its_type(load, tmp_path):
    prepare = Preprocess.model_validate(WANTED["scaled"])
    matched_filters(tmp_path / "m.onnx", prepare, kind=TensorProto.FLOAT16)
    load(onnx="m.onnx", inputs=["image"], preprocess=WANTED["scaled"], expect={"accuracy": 0.99})


def test_without_its_preprocessing_a_file_is_caught(load, tmp_path):
    matched_filters(tmp_path / "m.onnx", Preprocess(mean=(128.0,), std=(60.0,), colour="bgr"))
    with pytest.raises(StageError, match=r"do not do what they should: on val accuracy 0\.\d+ where at least 0.99"):
        load(onnx="m.onnx", inputs=["image"], expect={"accuracy": 0.99})


def test_weights_in_other_files_stay_with_a_prepared_graph(load, tmp_path):
    prepare = Preprocess.model_validate(WANTED["scaled"])
    external = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    matched_filters(tmp_path / "m.onnx", prepare, **external)
    loaded, _ = load(onnx="m.onnx", inputs=["image"], preprocess=WANTED["scaled"], expect={"accuracy": 0.99})
    assert loaded.manifest.facts["merged"] == ["m.data"]
    val = Patterns().split("val")
    session = sessions.open_session(loaded.file("model.onnx"), threads=1)
    result = measure.evaluate(session, val, Classification(), 64, lambda progress: None)
    assert result.metrics["accuracy"].value > 0.99


@pytest.mark.parametrize(
    ("file", "prepare", "message"),
    [
        ({"kind": TensorProto.UINT8}, {"scale": 0.5}, "takes image as uint8, and prepared pictures are real numbers"),
        ({"opset": 17}, {"size": 8, "scale": 0.5}, ""),
        ({}, {"size": 5}, r"makes pictures of the shape \(3, 5, 5\), and .* takes image \(3, 8, 8\) for each sample"),
        ({}, {"layout": "nhwc"}, r"makes pictures of the shape \(8, 8, 3\), and .* takes image \(3, 8, 8\)"),
        ({}, {"mean": [1.0, 2.0]}, "preprocess.mean: has 2 values for pictures of 3 channels"),
    ],
)
def test_what_the_graph_can_not_hold_is_refused(load, tmp_path, file, prepare, message):
    matched_filters(tmp_path / "m.onnx", Preprocess(size=file.get("pixels")), **file)
    if not message:
        load(onnx="m.onnx", inputs=["image"], preprocess=prepare)
        return
    with pytest.raises(RecipeError, match=message):
        load(onnx="m.onnx", inputs=["image"], preprocess=prepare)


class Turned(Preprocess):
    """With a setting that is not known here."""

    degrees: float = 0.0


def test_a_setting_that_no_node_stands_for_is_refused(tmp_path):
    matched_filters(tmp_path / "m.onnx", Preprocess())
    model = onnx.load(tmp_path / "m.onnx")
    _onnx_preprocess.prepend(model, "input", (3, 8, 8), Turned(), tmp_path)
    with pytest.raises(RecipeError, match=r"preprocess\.degrees: can't become part of an ONNX graph"):
        _onnx_preprocess.prepend(model, "input", (3, 8, 8), Turned(degrees=90.0), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "w.pt", "model": "lenet", "preprocess": {"scale": 0.5}}, "'preprocess' belongs to 'onnx'"),
        ({"onnx": "m.onnx", "preprocess": {"std": [0.0]}}, "can't be 0|greater than 0"),
        ({"onnx": "m.onnx", "preprocess": {"scal": 0.5}}, "there is no field 'scal'; did you mean 'scale'"),
        ({"outputs": "o.npz", "expect": {"accuracy": 0.5}}, "'outputs' takes no inputs, heads or expect"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        Stage.model_validate({"type": "load", **settings})


def test_settings_survive_dump_and_load():
    settings = {"type": "load", "onnx": "m.onnx", "preprocess": WANTED["turned"], "expect": {"accuracy": 0.5}}
    stage = Stage.model_validate(settings)
    assert Stage.model_validate(json.loads(json.dumps(stage.model_dump(mode="json")))) == stage
