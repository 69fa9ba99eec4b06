"""Quantising checkpoints and ONNX files, and writing what ships."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress_cli.context import Context
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.data.tasks.classification import Classification
from compress_cli.deployment.exporters import Exporter
from compress_cli.errors import StageError
from compress_cli.measurement import sessions
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.onnx_graph import layers
from compress_cli.onnx_graph.card import Card
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.settings import Folder
from compress_cli.stages import export
from compress_cli.stages.export import Export
from compress_cli.stages.quantize import Quantize
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program

SIGNATURE = Signature(
    inputs={"image": Input(shape=(1, 8, 8), mean=(100.0,), deviation=(50.0,))},
    heads={"logits": Head(shape=(3,), classes=("dark", "grey", "bright"))},
)
KEY = "0123456789abcdef" * 4
SAMPLES = {"train": 96, "val": 40, "test": 0}


class Brightness(Dataset):
    """Pictures whose class is how bright they are."""

    root: Folder
    shift: int = 0
    val: bool = True

    def signature(self):
        return SIGNATURE

    def split(self, name):
        size = SAMPLES[name] if self.val or name != "val" else 0
        start = 1000 * list(SAMPLES).index(name)
        generator = np.random.default_rng(start)
        labels = generator.integers(0, 3, size)
        images = (labels[:, None, None, None] * 80 + generator.integers(0, 80, (size, 1, 8, 8))).astype(np.uint8)
        return Split({"image": images}, {"label": labels}, np.arange(start, start + size))

    def fingerprint(self):
        return "brightness"


class Copying(Exporter):
    """Writes a file made before: PyTorch's exporter takes seconds."""

    file: Path

    def export(self, network, signature, example, path, metadata):
        path.write_bytes(self.file.read_bytes())


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """What the tests start from: one checkpoint, its Program and its file, made once."""
    return Bench(tmp_path_factory.mktemp("stages"))


class Bench:
    def __init__(self, root):
        self.root, self.count, self.messages = root, 0, []
        torch.manual_seed(0)
        restored = restore.build(Convnet(widths=(8, 16), convs=1), SIGNATURE, 0)
        network = restored.network.train()
        with torch.no_grad():  # batch norms get the statistics of real pictures, and the heads something to tell apart
            for _ in range(30):
                network(torch.from_numpy(self.dataset().split("train").inputs["image"]).float())
        network.eval()
        self.restored = restored
        output = self.folder()
        restore.save(restored, output)
        self.checkpoint = self.artifact(output, Checkpoint, {})

    @cached_property
    def program(self):
        return self.run(Quantize(samples=64), self.checkpoint)

    @cached_property
    def file(self):
        return self.run(Export(), self.checkpoint)

    def dataset(self, **settings):
        return Brightness(root=self.root, **settings)

    def folder(self):
        self.count += 1
        output = self.root / str(self.count)
        output.mkdir()
        return output

    def artifact(self, output, kind, facts):
        return Draft(kind, output.name, {}, json.loads(json.dumps(facts, allow_nan=False))).commit(output)

    def run(self, stage, start, limit=None, **dataset):
        context = Context(
            inputs={"start": (start,)}, output=self.folder(), dataset=self.dataset(**dataset), task=Classification(),
            device="cpu", seed=0, log=self.messages.append, key=KEY, memory=self.root, limit=limit,
        )  # fmt: skip
        facts = stage.run(context)
        return self.artifact(context.output, stage.produces({"start": (type(start),)}), facts)


def images(name="val"):
    return Brightness(root=Path()).split(name).inputs["image"].astype(np.float32)


def test_a_program_close_to_the_float_model_with_facts(bench):
    assert isinstance(bench.program, Program)
    facts = bench.program.manifest.facts
    assert facts["calibration_samples"] == 64
    assert facts["check_samples"] == SAMPLES["val"]
    assert facts["left_float"][:2] == ["normalise.0: sub", "normalise.0: mul"]
    x = torch.from_numpy(images())
    with torch.no_grad():
        expected, simulated = bench.restored.network(x)["logits"], restore.program(bench.program)(x)["logits"]
    by_hand = 10 * torch.log10((expected**2).sum() / ((expected - simulated) ** 2).sum()).item()
    assert facts["sqnr_db"]["logits"] == pytest.approx(by_hand, abs=0.01)
    assert by_hand > 25


def test_the_same_settings_give_the_same_bytes(bench):
    again = bench.run(Quantize(samples=64), bench.checkpoint)
    assert again.digest == bench.program.digest
    assert bench.run(Quantize(samples=32), bench.checkpoint).digest != again.digest


def test_a_smoke_run_sees_two_batches(bench):
    bench.messages.clear()
    result = bench.run(Quantize(batch=4), bench.checkpoint, limit=2)
    assert (result.manifest.facts["calibration_samples"], result.manifest.facts["check_samples"]) == (8, 8)
    assert [(progress.what, progress.done, progress.total) for progress in bench.messages] == [
        ("calibrate", 1, 2),
        ("calibrate", 2, 2),
    ]


def test_without_val_the_check_falls_back_on_train(bench):
    result = bench.run(Quantize(samples=16), bench.checkpoint, val=False)
    assert result.manifest.facts["check_samples"] == 16


def test_what_goes_in_decides_what_comes_out(bench):
    assert Quantize().produces({"start": (Checkpoint,)}) is Program
    assert Quantize().produces({"start": (OnnxModel,)}) is OnnxModel
    assert Program not in Quantize.consumes["start"].kinds
    assert Export().produces({"start": (Program,)}) is OnnxModel


def test_a_float_file_is_proved_and_says_what_it_is(bench):
    facts = bench.file.manifest.facts
    assert facts["parity"]["samples"] == SAMPLES["val"]
    head = facts["parity"]["heads"]["logits"]
    assert head["relative_error"] < 1e-5
    assert head["argmax_agreement"] == 1.0
    path = bench.file.file("model.onnx")
    assert facts["size_bytes"] == path.stat().st_size
    card = Card.from_metadata(sessions.open_session(path).metadata)
    assert card is not None
    assert (card.fingerprint, card.key, card.task["type"]) == ("brightness", KEY, "classification")
    assert card.classes == {"logits": ("dark", "grey", "bright")}
    assert card.dataset["shift"] == 0
    assert "root" not in card.dataset
    assert str(bench.root).encode() not in path.read_bytes()


def test_labels_that_do_not_exclude_each_other_are_no_classes(bench):
    """An answer is not one of them: `predict` must not make shares of 1 of their scores."""

    class Tags(Brightness):
        def signature(self):
            return SIGNATURE.model_copy(
                update={"heads": {"logits": Head(shape=(3,), class_axis=None, classes=("a", "b", "c"))}}
            )

    context = Context(
        inputs={"start": (None,)}, output=bench.root, dataset=Tags(root=bench.root), task=Classification(), device="cpu",
        seed=0, key=KEY,
        log=lambda progress: None, memory=bench.root,
    )  # fmt: skip
    card = export._card(context)
    assert (card.classes, card.independent) == ({"logits": ("a", "b", "c")}, ("logits",))


def test_an_int8_file_is_smaller_and_as_good_as_its_simulation(bench):
    result = bench.run(Export(metadata="none"), bench.program)
    head = result.manifest.facts["parity"]["heads"]["logits"]
    assert 0.5 < head["error_growth"] < 1.5
    path = result.file("model.onnx")
    assert sessions.open_session(path).metadata == {}
    assert path.stat().st_size < 0.75 * bench.file.file("model.onnx").stat().st_size
    counts = result.manifest.facts["operators"]
    assert counts["Conv"] == 2
    assert counts["QuantizeLinear"] >= 3


@pytest.mark.parametrize("route", ["program", "file"])
def test_layers_of_a_quantised_file_are_called_as_in_the_network(bench, route):
    result = bench.run(Export(), bench.program) if route == "program" else bench.run(Quantize(samples=16), bench.file)
    learned = (torch.nn.Conv2d, torch.nn.Linear)
    body = restore.checkpoint(bench.checkpoint).network.body
    listed = layers.of_onnx(result.file("model.onnx")).layers
    integers = [layer.name for layer in listed if "int8" in layer.kinds]
    assert integers == [name for name, module in body.named_modules() if isinstance(module, learned)]


def test_a_file_that_strays_is_refused_with_what_to_do(bench, monkeypatch):
    settings = Quantize(samples=16, quantizer=StaticInt8(reduce_range=False))
    program = bench.run(settings, bench.checkpoint)
    copying = Export(exporter=Copying(file=bench.file.file("model.onnx")))
    true_run = sessions.Session.run

    def saturated(self, inputs):
        """As on a processor whose 16-bit sums overflow."""
        return {name: head + 0.3 * np.abs(head).max() * np.sign(head) for name, head in true_run(self, inputs).items()}

    monkeypatch.setattr(sessions.Session, "run", saturated)
    with pytest.raises(StageError, match=r"'logits' is \d+\.\d times further .*reduce_range: true"):
        bench.run(copying, program)
    with pytest.raises(StageError, match=r"'logits' differs by up to .* of its range"):
        bench.run(copying, bench.checkpoint)


def test_a_file_that_decides_otherwise_now_and_then_says_so(bench, monkeypatch):
    """Three of 40 samples: the first of each 16, in batches of 32."""
    copying = Export(exporter=Copying(file=bench.file.file("model.onnx")))
    true_run = sessions.Session.run

    def turned(self, inputs):
        return {
            name: np.where(np.arange(len(head))[:, None] % 16, head, -head) for name, head in true_run(self, inputs).items()
        }

    assert "decides" not in str(bench.run(copying, bench.program).manifest.facts["notes"])
    monkeypatch.setattr(sessions.Session, "run", turned)
    monkeypatch.setattr("compress_cli.stages.export.GROWTH_LIMIT", np.inf)
    facts = bench.run(copying, bench.program).manifest.facts
    assert "head 'logits': in ONNX Runtime it decides as in PyTorch on only 92.5% of 40 samples" in facts["notes"]


def test_an_onnx_file_is_quantised_and_exported_alike(bench):
    quantised = bench.run(Quantize(samples=64), bench.file)
    facts = quantised.manifest.facts
    assert isinstance(quantised, OnnxModel)
    assert [name.partition(": ")[2] for name in facts["left_float"]] == ["Sub", "Mul"]
    assert facts["sqnr_db"]["logits"] > 25
    assert Card.from_metadata(sessions.open_session(quantised.file("model.onnx")).metadata).key == KEY
    assert bench.run(Quantize(samples=64), bench.file).digest == quantised.digest
    shipped = bench.run(Export(), quantised)
    assert shipped.manifest.facts["parity"]["heads"]["logits"]["max_abs_error"] == 0
    assert onnx.load(shipped.file("model.onnx")).graph == onnx.load(quantised.file("model.onnx")).graph
    with pytest.raises(StageError, match="the file of int8: is quantised already"):
        bench.run(Quantize(start="int8"), quantised)


def test_a_file_that_insists_on_a_batch_gets_it(bench):
    model = onnx.load(bench.file.file("model.onnx"))
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 3
    output = bench.folder()
    onnx.save(model, output / "model.onnx")
    fixed = bench.artifact(output, OnnxModel, {})
    quantised = bench.run(Quantize(samples=10), fixed)
    assert sessions.open_session(quantised.file("model.onnx")).batch == 3
    bench.run(Export(samples=10), quantised)


def test_a_file_of_an_old_opset_is_converted_said_and_shipped(bench):
    generator, node = np.random.default_rng(0), onnx.helper.make_node
    weights = {"w": generator.normal(size=(4, 1, 3, 3)), "f": generator.normal(size=(3, 144))}
    tensors = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    nodes = [
        node("Conv", ["image", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["t"]),
        node("Gemm", ["t", "f", "zero"], ["logits"], transB=1),
    ]
    tensors.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "zero"))
    ports = [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ("batch", 1, 8, 8))]
    ports += [onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    head = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("batch", 3))
    graph = onnx.helper.make_graph(nodes, "old", ports, [head], tensors)
    output = bench.folder()
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 7)], ir_version=3)
    onnx.save(model, output / "model.onnx")
    old = bench.artifact(output, OnnxModel, {"file": "squeeze.onnx"})
    bench.run(Export(), old)  # a float file keeps its opset
    bench.messages.clear()
    quantised = bench.run(Quantize(samples=64), old)
    facts = quantised.manifest.facts
    assert (facts["converted"]["from_opset"], facts["converted"]["to_opset"]) == (7, 13)
    assert facts["sqnr_db"]["logits"] > 20
    notes = [progress.note for progress in bench.messages if progress.note]
    assert len(notes) == 1
    assert notes[0].startswith("squeeze.onnx: converted from opset 7 to 13; outputs differ by")
    bench.run(Export(), quantised)


def test_nan_is_refused(bench):
    output = bench.folder()
    broken = restore.build(Convnet(widths=(8, 16), convs=1), SIGNATURE, 0)
    with torch.no_grad():
        broken.network.body.get_parameter("fc.bias").fill_(float("nan"))
    restore.save(broken, output)
    start = bench.artifact(output, Checkpoint, {})
    with pytest.raises(StageError, match="NaN"):
        bench.run(Quantize(samples=16), start)
    with pytest.raises(StageError, match="differs by up to nan"):
        bench.run(Export(samples=16, exporter=Copying(file=bench.file.file("model.onnx"))), start)
