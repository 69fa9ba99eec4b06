"""Pruning, rounding and teachers in one training: what it promises, and that what ships is what was trained."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError

from compress_cli.data.datasets.digits import Digits
from compress_cli.errors import RecipeError
from compress_cli.measurement import sessions
from compress_cli.networks import restore
from compress_cli.networks.edits.mask import Mask, masks_of
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.resnet import Resnet
from compress_cli.pruning import weights as selection
from compress_cli.stages import Stage
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program, Table
from compress_cli.store.saves import Saves, Saving
from compress_cli.training import loop

pytestmark = pytest.mark.usefixtures("one_thread")

INT8 = {"type": "static_int8", "reduce_range": False}
TRAINING = {"epochs": 3, "batch": 16, "optimizer": {"type": "sgd", "learning_rate": 0.02}}
GRADUAL = {"end": 2, "every": 1}
WEIGHTS = {"weights": {"ratio": 0.75}}
CHANNELS = {"channels": {"ratio": 0.5, "round_to": 2}}
BY_COST = {"channels": {"keep": {"parameters": 0.5}, "round_to": 1, "criterion": "taylor"}}
TAUGHT = [{"type": "hints", "layers": ["layer1"], "weight": 0.1}, {"type": "soft_targets", "weight": 0.5}, "cross_entropy"]


def joint(**settings):
    """A stage with these settings, an int8 file's grid and a short training."""
    return Stage.model_validate(
        {"type": "joint", "quantizer": INT8, "gradual": GRADUAL, "training": TRAINING, "samples": 40, **settings}
    )


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
def start(toy, tmp_path, lively):
    """start(model, mask): a checkpoint of lively weights, of which the second convolution's may be masked."""

    def _start(model=None, mask=None):
        restored = restore.build(model or Convnet(widths=(8, 12), convs=1, dropout=0.1), toy().signature(), 0)
        lively(restored.network.body)
        if mask is not None:
            restored.network.body.get_parameter("layer2.0.weight").data.mul_(mask)
            restored.network.edits = (Mask.of({"layer2.0.weight": mask}),)
        folder = tmp_path / f"start{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        restore.save(restored, folder)
        return Draft(Checkpoint, folder.name, {}).commit(folder)

    return _start


@pytest.fixture
def train(toy, context_for, perform):
    """train(stage, start, dataset, **changes of the context): the Program."""

    def _train(stage, source, dataset=None, **changes):
        roles = {"start": (source,), **({"teacher": (source,)} if stage.teacher else {}), **changes.pop("inputs", {})}
        return perform(stage, context_for(dataset or toy(), inputs=roles, **changes), Program)

    return _train


@pytest.fixture
def simulations(monkeypatch):
    """Each network as its training left it, in order: of a joint training, the simulation with all its channels."""
    networks, fit = [], loop.fit

    def _fit(network, *arguments, **settings):
        networks.append(network)
        return fit(network, *arguments, **settings)

    monkeypatch.setattr(loop, "fit", _fit)
    return networks


def integers(program):
    """The int8 weights of a program's graph, by shape."""
    state = restore.program(program).state_dict()
    return {tuple(tensor.shape): tensor for tensor in state.values() if tensor.dtype == torch.int8 and tensor.dim() > 1}


@pytest.mark.parametrize("ranges", ["moving", pytest.param("learned", marks=pytest.mark.slow)])
def test_the_ratio_is_kept_exactly_in_weights_and_integers(start, train, ranges):
    before = start()
    program = train(joint(**WEIGHTS, ranges=ranges), before)
    network, facts = restore.checkpoint(program).network, program.manifest.facts
    masks, codes = masks_of(network.edits), integers(program)
    assert masks.keys() == selection.prunable(network.body).keys()
    for name, mask in masks.items():
        weight = network.body.get_parameter(name)
        assert int((~mask).sum()) == round(0.75 * mask.numel()), name
        assert torch.equal(weight != 0, mask), name
        assert not codes[tuple(mask.shape)][~mask].any(), name
        assert codes[tuple(mask.shape)][mask].any(), name
        assert facts["sparse_layers"][name] == [mask.numel(), int(mask.sum())]
    assert {entry["weight_bits"] for entry in facts["layers"]} == {8}


def test_the_ramp_is_the_cubic_of_the_paper_and_only_epochs_at_its_end_count(start, train):
    """3 steps an epoch, 6 to the end: 1 - (1 - 3/6)^3 of 0.75 after the first (Zhu & Gupta 2017, equation 1)."""
    facts = train(joint(**WEIGHTS), start()).manifest.facts
    assert [figures["sparsity"] for figures in facts["epochs"]] == pytest.approx([0.75 * (1 - 0.5**3), 0.75, 0.75], abs=0.01)
    assert facts["kept_epoch"] >= 2


def test_two_of_four_is_reached_by_way_of_three_of_four(start, train):
    program = train(joint(weights={"n_of_m": {"n": 2, "m": 4}}), start())
    masks = masks_of(restore.checkpoint(program).edits)
    for name, mask in masks.items():
        rows = mask.movedim(1, -1).reshape(-1, 4)  # four inputs that follow each other
        assert (rows.sum(1) == 2).all(), name
    assert [figures["sparsity"] for figures in program.manifest.facts["epochs"]] == pytest.approx([0.25, 0.5, 0.5])


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Convnet(widths=(8, 12), convs=1), CHANNELS),
        pytest.param(Resnet(depth=8, widths=(8, 8, 16)), BY_COST, marks=pytest.mark.slow),
    ],
)
def test_channels_are_gone_from_the_file_and_their_cost_is_what_was_asked(start, train, context_for, toy, perform, model, what):
    source = start(model)
    program = train(joint(**what), source)
    facts = program.manifest.facts
    file = perform(Stage.model_validate("export"), context_for(toy(), inputs={"start": (program,)}), OnnxModel)
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(file.file("model.onnx")).graph.initializer]
    shipped = sorted(array.shape for array in arrays if array.ndim == 4 and array.dtype == np.int8)
    network = restore.checkpoint(program).network
    assert shipped == sorted(tuple(weight.shape) for weight in network.parameters() if weight.dim() == 4)
    counted = sum(weight.numel() for weight in network.body.parameters())
    assert facts["parameters"] == [sum(weight.numel() for weight in restore.checkpoint(source).network.parameters()), counted]
    if "keep" in what["channels"]:
        assert counted / facts["parameters"][0] == pytest.approx(0.5, rel=0.02)
    else:
        assert {after / before for before, after in facts["widths"].values()} == {0.5}


def test_a_group_normalisation_would_tell_masked_channels_from_removed_ones(start, train, monkeypatch):
    """Its layers stay whole; those with a batch norm are cut."""

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(2, 8, 3), torch.nn.Conv2d(8, 8, 3)
            self.groups, self.batch = torch.nn.GroupNorm(1, 8), torch.nn.BatchNorm2d(8)
            self.fc = torch.nn.Linear(8, 3)

        def forward(self, x):
            y = torch.relu(self.groups(self.first(x)))
            return self.fc(torch.relu(self.batch(self.second(y))).mean((2, 3)))

    monkeypatch.setattr(Convnet, "build", lambda self, signature: Mixed())
    facts = train(joint(**CHANNELS), start()).manifest.facts
    assert facts["widths"] == {"second": [8, 4]}
    assert "a normalisation tells its masked channels" in facts["whole"]["first"]


FEW, HALF = {"channels": {"ratio": 0.25, "round_to": 2}}, {"weights": {"ratio": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize("what", [FEW, HALF], ids=lambda what: next(iter(what)))
def test_the_shipped_file_decides_as_the_trained_simulation(context_for, perform, train, simulations, what):
    """On digits: 99.5% of all samples, and 95% of the tenth that the simulation is least sure of."""
    digits = Digits()
    rate = {"type": "sgd", "learning_rate": 0.1}
    teacher = Stage.model_validate(
        {"type": "train", "model": {"type": "convnet", "widths": [8, 12], "convs": 1},
         "training": {"epochs": 4, "batch": 32, "precision": "float32", "optimizer": rate}}
    )  # fmt: skip
    source = perform(teacher, context_for(digits))
    longer = {**TRAINING, "epochs": 4, "batch": 32}
    settings = {"ranges": "learned", "training": longer, "samples": 512, "quantizer": "static_int8"}
    stage = joint(**what, teacher="t", losses=TAUGHT, **settings)
    program = train(stage, source, digits)
    facts, val = program.manifest.facts, digits.split("val")
    file = perform(Stage.model_validate("export"), context_for(digits, inputs={"start": (program,)}), OnnxModel)
    session, simulation = sessions.open_session(file.file("model.onnx")), simulations[-1].eval()
    agree, margins, right = [], [], []
    for name in ("train", "val", "test"):
        split = digits.split(name)
        images = split.inputs["image"].astype(np.float32)
        expected = simulation(torch.from_numpy(images))["logits"].detach().numpy()
        decided, ordered = session.run({"image": images})["logits"].argmax(1), np.sort(expected, 1)
        agree += list(decided == expected.argmax(1))
        margins += list(ordered[:, -1] - ordered[:, -2])
        right += list(decided == split.targets["label"]) if name == "val" else []
    narrow = np.argsort(margins)[: len(margins) // 10]
    assert np.mean(agree) >= 0.995
    assert np.mean(np.array(agree)[narrow]) >= 0.95
    assert np.mean(right) > 0.8
    assert facts["epochs"][facts["kept_epoch"] - 1]["accuracy"] == pytest.approx(np.mean(right), abs=2.1 / len(val))


@pytest.mark.parametrize(
    ("what", "kills"),
    [(CHANNELS, (4,)), *(pytest.param(each, (1, 3, 6, 8, 10), marks=pytest.mark.slow) for each in (CHANNELS, WEIGHTS))],
)
def test_killed_and_resumed_it_ends_in_the_same_bytes(start, toy, context_for, tmp_path, what, kills):
    """3 epochs of 3 steps; masks grow until the sixth, so that some resumes come before that and some after."""
    training = {**TRAINING, "ema": 0.9, "clip_norm": 1.0}
    stage, source = joint(**what, ranges="learned", freeze={"after_epochs": 2}, training=training), start()
    expected = context_for(toy(), inputs={"start": (source,)})
    stage.run(expected)
    for at in kills:
        saves = tmp_path / f"saves{at}"
        saves.mkdir()
        with pytest.raises(Killed):
            stage.run(context_for(toy(), inputs={"start": (source,)}, saves=Mortal(saves, at)))
        reports = []
        again = context_for(toy(), inputs={"start": (source,)}, saves=Saves(saves), log=reports.append)
        stage.run(again)
        assert any("resumed at" in report.note for report in reports)
        for path in expected.output.iterdir():
            assert (again.output / path.name).read_bytes() == path.read_bytes(), (at, path.name)


def test_what_an_earlier_stage_masked_stays_zero_when_channels_go(start, train):
    mask = torch.rand((12, 8, 3, 3), generator=torch.Generator().manual_seed(0)) < 0.25
    program = train(joint(**CHANNELS), start(mask=mask))
    network = restore.checkpoint(program).network
    (remaining,) = masks_of(network.edits).values()
    assert remaining.shape == (6, 4, 3, 3)
    assert torch.equal(network.body.get_parameter("layer2.0.weight") != 0, remaining)
    assert not integers(program)[6, 4, 3, 3][~remaining].any()
    assert program.manifest.facts["sparsity"] == pytest.approx(float((~remaining).float().mean()))


@pytest.mark.slow
def test_a_stored_table_teaches_what_its_teacher_teaches(start, train, toy, context_for, perform):
    views = {"augment": [{"type": "crop", "padding": 1}], "views": 2}
    source, digests = start(), {}
    for cached in (False, True):
        stage = joint(**WEIGHTS, teacher="t", losses=TAUGHT, teacher_cache=cached, training={**TRAINING, **views})
        inputs = {"teacher": (source,)}
        tables = {role: (perform(need, context_for(toy(), inputs=inputs), Table),) for role, need in stage.needs().items()}
        assert len(tables) == cached
        program = train(stage, source, inputs=tables)
        digests[cached] = {name: program.manifest.files[name] for name in ("weights.safetensors", "state.safetensors")}
    assert digests[True] == digests[False]


@pytest.mark.parametrize("what", [WEIGHTS, CHANNELS], ids=lambda what: next(iter(what)))
def test_two_batches_go_through_it_before_the_long_run(start, toy, context_for, what):
    facts = joint(**what).run(context_for(toy(), inputs={"start": (start(),)}, limit=2))
    assert facts["planned_steps"] == 9


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "neither is there"),
        ({**WEIGHTS, **CHANNELS}, "not both: mask weights in a stage 'sparsify' before"),
        ({"weights": {}}, "give one target"),
        ({"weights": {"ratio": 0.5, "n_of_m": {"n": 2, "m": 4}}}, "give one target"),
        ({"weights": {"n_of_m": {"n": 2, "m": 4}, "scope": "global"}}, "scope: global"),
        ({"channels": {"ratio": 0.5, "keep": {"macs": 0.5}}}, "give either 'ratio'"),
        ({"channels": {"keep": {"latency": 0.5}}}, "keep.latency: is measured on files of a cut model"),
        ({"channels": {"ratio": 0.5, "distribution": "sensitivity"}}, "reads curves"),
        ({**WEIGHTS, "gradual": {"end": 4}}, "training ends after 3"),
        ({**WEIGHTS, "quantizer": "linear"}, "no simulation"),
        ({**WEIGHTS, "freeze": {"after_epochs": 3}}, "not before the end"),
        ({**WEIGHTS, "losses": ["soft_targets"]}, "name one in the field 'teacher'"),
    ],
)
def test_what_can_t_be_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        joint(**settings)


def test_less_than_what_is_masked_already_is_refused(start, train):
    mask = torch.arange(12 * 8 * 9).reshape(12, 8, 3, 3) % 10 == 0
    with pytest.raises(RecipeError, match=r"has a sparsity of 0.\d+ already, and 0.75 is asked for"):
        train(joint(**WEIGHTS), start(mask=mask))
