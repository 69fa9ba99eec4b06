"""Training through the rounding to integers: what is trained, what ships, and what an earlier stage bought."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from compress_cli.data.datasets.digits import Digits
from compress_cli.errors import StageError
from compress_cli.losses import Pair
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.hints import Hints
from compress_cli.measurement import sessions
from compress_cli.networks import restore
from compress_cli.networks.edits.mask import Mask, masks_of
from compress_cli.networks.models.convnet import Convnet
from compress_cli.onnx_graph import files
from compress_cli.quantization.quantizers.linear import Linear
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.stages._integer_training import Freeze
from compress_cli.stages.export import Export
from compress_cli.stages.quantize import Quantize
from compress_cli.stages.quantize_aware import QuantizeAware
from compress_cli.stages.train import Train
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program
from compress_cli.store.saves import Saves, Saving
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.sgd import Sgd

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = Convnet(widths=(8, 12), convs=1, dropout=0.1)
SHORT = TrainingConfig(epochs=2, batch=16, optimizer=Sgd(learning_rate=0.02))
INT8 = StaticInt8(reduce_range=False)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Saves):
    """Saves that end the process at the nth piece of work, after it is saved."""

    def __init__(self, folder, at):
        super().__init__(folder, Saving(steps=1, epochs=1))
        self.left = at

    def step(self, state, epoch_ended=False):
        self.left -= 1
        super().step(state, epoch_ended)
        if not self.left:
            raise Killed


@pytest.fixture
def trained(monkeypatch):
    """Each network as its training left it, in order: of a quantisation-aware one, the trained simulation."""
    networks, fit = [], loop.fit

    def _fit(network, *arguments, **settings):
        networks.append(network)
        return fit(network, *arguments, **settings)

    monkeypatch.setattr(loop, "fit", _fit)
    return networks


@pytest.fixture
def checkpoint(toy, tmp_path, lively):
    """A checkpoint for `toy` whose second convolution is three quarters masked."""
    restored = restore.build(MODEL, toy().signature(), 0)
    lively(restored.network.body)
    weight = restored.network.body.get_parameter("layer2.0.weight")
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.25
    weight.data.mul_(mask)
    restored.network.edits = (Mask.of({"layer2.0.weight": mask}),)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    restore.save(restored, folder)
    return Draft(Checkpoint, "c", {}).commit(folder)


def test_the_shipped_file_decides_as_the_trained_simulation(context_for, perform, trained):
    """On digits: 99.5% of all samples, and 95% of the tenth that the simulation is least sure of."""
    digits, optimizer = Digits(), Sgd(learning_rate=0.1)
    start = perform(
        Train(model=MODEL, training=TrainingConfig(epochs=5, batch=32, precision="float32", optimizer=optimizer)),
        context_for(digits),
    )
    stage = QuantizeAware(
        teacher="t",
        quantizer=StaticInt8(),
        losses=(Hints(layers=(Pair(student="layer1", teacher="layer1"),), weight=0.1), CrossEntropy()),
        freeze=Freeze(after_epochs=1, ranges=True),
        training=TrainingConfig(epochs=2, batch=32, optimizer=Sgd(learning_rate=0.02)),
    )
    program = perform(stage, context_for(digits, inputs={"start": (start,), "teacher": (start,)}), Program)
    facts = program.manifest.facts
    val = digits.split("val")
    converted = restore.program(program)(torch.from_numpy(val.inputs["image"]).float())["logits"].detach().numpy()
    accuracy = (converted.argmax(1) == val.targets["label"]).mean()
    assert accuracy > 0.9
    assert facts["epochs"][facts["kept_epoch"] - 1]["accuracy"] == pytest.approx(accuracy, abs=2.1 / len(val))
    assert facts["precision"]["name"] == "float32"
    ranges = {layer["layer"]: layer["activation_range"] for layer in facts["layers"]}
    drawn = [entry for entry in facts["distributions"] if entry["kind"] == "activations"]
    assert {entry["layer"] for entry in drawn} == {*ranges}  # three layers: all are among the worst four
    for entry in drawn:  # the trained grid under what calibration saw
        assert [entry["grid"]["low"], entry["grid"]["high"]] == pytest.approx(ranges[entry["layer"]], abs=1e-6)
        assert sum(entry["shares"]) == pytest.approx(1, abs=1e-3)

    file = perform(Export(), context_for(digits, inputs={"start": (program,)}), OnnxModel)
    operators = files.operators(files.load(file.file("model.onnx")))
    assert operators["QuantizeLinear"] > 3
    assert not operators.get("BatchNormalization")
    session, simulation = sessions.open_session(file.file("model.onnx")), trained[-1].eval()
    agree, margins = [], []
    for name in ("train", "val", "test"):
        images = digits.split(name).inputs["image"].astype(np.float32)
        expected = simulation(torch.from_numpy(images))["logits"].detach().numpy()
        ordered = np.sort(expected, 1)
        agree += list(session.run({"image": images})["logits"].argmax(1) == expected.argmax(1))
        margins += list(ordered[:, -1] - ordered[:, -2])
    narrow = np.argsort(margins)[: len(margins) // 10]
    assert np.mean(agree) >= 0.995
    assert np.mean(np.array(agree)[narrow]) >= 0.95


@pytest.mark.parametrize("ranges", ["moving", pytest.param("learned", marks=pytest.mark.slow)])
def test_masked_weights_are_zero_in_the_program_and_its_integers(toy, context_for, perform, checkpoint, ranges):
    context = context_for(toy(), inputs={"start": (checkpoint,)})
    program = perform(QuantizeAware(quantizer=INT8, ranges=ranges, training=SHORT), context, Program)
    restored, converted = restore.checkpoint(program), restore.program(program)
    (mask,) = masks_of(restored.network.edits).values()
    weight = restored.network.body.get_parameter("layer2.0.weight")
    assert torch.equal(weight != 0, mask)
    assert not torch.equal(weight, restore.checkpoint(checkpoint).network.body.get_parameter("layer2.0.weight"))
    integers = [
        tensor for tensor in converted.state_dict().values() if tensor.dtype == torch.int8 and tensor.shape == mask.shape
    ]
    assert len(integers) == 1
    assert not integers[0][~mask].any()
    assert program.manifest.facts["sparsity"] == pytest.approx(float((~mask).float().mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("ranges", "kills"),
    [("learned", (4,)), *(pytest.param(each, (1, 3, 6, 8), marks=pytest.mark.slow) for each in ("moving", "learned"))],
)
def test_killed_and_resumed_it_ends_in_the_same_bytes(toy, context_for, tmp_path, checkpoint, ranges, kills):
    """2 epochs of 3 steps; frozen after 4 steps, so that some resumes come after it."""
    training = SHORT.model_copy(update={"ema": 0.9, "clip_norm": 1.0})
    stage = QuantizeAware(quantizer=INT8, ranges=ranges, freeze=Freeze(after_epochs=1, ranges=True), training=training)
    expected = context_for(toy(), inputs={"start": (checkpoint,)})
    stage.run(expected)
    for at in kills:
        saves = tmp_path / f"saves{at}"
        saves.mkdir()
        with pytest.raises(Killed):
            stage.run(context_for(toy(), inputs={"start": (checkpoint,)}, saves=Mortal(saves, at)))
        reports = []
        again = context_for(toy(), inputs={"start": (checkpoint,)}, saves=Saves(saves), log=reports.append)
        stage.run(again)
        assert any("resumed at" in report.note for report in reports)
        for name in ("weights.safetensors", "state.safetensors"):
            assert (again.output / name).read_bytes() == (expected.output / name).read_bytes(), (at, name)


@pytest.mark.parametrize("ranges", ["moving", pytest.param("learned", marks=pytest.mark.slow)])
def test_without_a_val_split_the_integers_are_those_of_the_last_step(toy, context_for, checkpoint, ranges):
    """No validation rounds the weights once more after the last step."""
    training = TrainingConfig(epochs=1, batch=16, optimizer=Sgd(learning_rate=0.3))
    context = context_for(toy(val=0), inputs={"start": (checkpoint,)})
    (simulation,) = QuantizeAware(quantizer=INT8, ranges=ranges, training=training).run(context)["simulation"].values()
    assert simulation["max_abs_error"] < 1e-3


def test_frozen_batch_norms_keep_their_statistics_and_others_move(toy, context_for, checkpoint):
    before = restore.checkpoint(checkpoint).network.state_dict()
    moved = {}
    for freeze in (None, Freeze(after_epochs=0)):
        context = context_for(toy(), inputs={"start": (checkpoint,)})
        QuantizeAware(quantizer=INT8, freeze=freeze, training=SHORT.model_copy(update={"keep": "last"})).run(context)
        after = load_file(context.output / "weights.safetensors")
        moved[freeze is None] = {name for name, tensor in after.items() if not np.array_equal(tensor, before[name].numpy())}
    statistics = {name for name in before if "running" in name}
    assert statistics
    assert statistics <= moved[True]
    assert not statistics & moved[False]
    assert "body.layer1.0.weight" in moved[False]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quantizer": Linear()}, "no simulation"),
        ({"quantizer": StaticInt8(per_channel=False)}, "no simulation"),
        ({"training": TrainingConfig(epochs=1, precision="bfloat16")}, "float32"),
        ({"training": TrainingConfig(epochs=1, keep_epochs=(1,))}, "keep_epochs"),
        ({"training": TrainingConfig(epochs=1, regularizers=({"type": "l1", "weight": 0.1},))}, "regularizers"),
        ({"freeze": Freeze(after_epochs=2)}, "not before the end"),
        ({"teacher": "t", "losses": (CrossEntropy(),)}, "learns from 't'"),
        ({"losses": ("soft_targets",)}, "name one in the field 'teacher'"),
        ({"teacher_cache": True}, "no teacher"),
    ],
)
def test_what_can_t_be_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        QuantizeAware(**{"training": SHORT, **settings})


def test_a_convolution_that_is_read_before_and_after_its_batch_norm_is_refused(toy, context_for, checkpoint, monkeypatch):
    """Folding would change what the other reader gets: the integers would not be what was trained."""

    class Forked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4)
            self.fc = torch.nn.Linear(4, 3)
            torch.nn.init.constant_(self.norm.weight, 5.0)

        def forward(self, x):
            y = self.conv(x)
            return self.fc((torch.relu(self.norm(y)) + y).mean((2, 3)))

    monkeypatch.setattr(Convnet, "build", lambda self, signature: Forked())
    restored = restore.build(MODEL, toy().signature(), 0)
    monkeypatch.setattr(restore, "checkpoint", lambda artifact: restored)
    restored.network.eval()
    with pytest.raises(StageError, match="can't be trained in integers"):
        QuantizeAware(quantizer=INT8, training=SHORT).run(context_for(toy(), inputs={"start": (checkpoint,)}))


@pytest.mark.slow
def test_at_three_bits_training_wins_back_what_rounding_cost(context_for, perform):
    """Weights of 3 bits on digits, three seeds: each trained model is better than the one that was only rounded."""
    digits = Digits()
    quantizer = StaticInt8(reduce_range=False, overrides=({"layers": "*", "weights": 3},))
    val = digits.split("val")
    images = torch.from_numpy(val.inputs["image"]).float()
    for seed in range(3):
        training = TrainingConfig(epochs=8, batch=32, precision="float32", optimizer=Sgd(learning_rate=0.1))
        start = perform(Train(model=MODEL, training=training), context_for(digits, seed=seed))
        accuracy = {}
        for name, stage in {
            "rounded": Quantize(quantizer=quantizer),
            "moving": QuantizeAware(quantizer=quantizer, training=SHORT),
            "learned": QuantizeAware(quantizer=quantizer, ranges="learned", training=SHORT),
        }.items():
            program = perform(stage, context_for(digits, seed=seed, inputs={"start": (start,)}), Program)
            accuracy[name] = (restore.program(program)(images)["logits"].argmax(1).numpy() == val.targets["label"]).mean()
        assert min(accuracy["moving"], accuracy["learned"]) > accuracy["rounded"], (seed, accuracy)
