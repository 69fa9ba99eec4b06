"""Pruning from checkpoint to checkpoint."""

import copy
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress_cli import plugin
from compress_cli.context import Context
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.data.tasks.classification import Classification
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import narrowing, proof, restore
from compress_cli.networks.edits.mask import Mask
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.networks.models.resnet import Resnet
from compress_cli.networks.models.shufflenet_v1 import ShufflenetV1
from compress_cli.networks.narrowing import Proof
from compress_cli.pruning import channels, dependency_graph
from compress_cli.pruning.criteria import Criterion
from compress_cli.stages import Stage, _cut, _exported, _importance
from compress_cli.stages.prune import Prune
from compress_cli.statistics.findings import Findings
from compress_cli.store.artifact import Checkpoint, Draft, Table
from compress_cli.store.saves import Saves, Saving
from compress_cli.training import loop

SIGNATURE = Signature(
    inputs={"image": Input(shape=(3, 8, 8), mean=(100.0, 120.0, 130.0), deviation=(50.0, 60.0, 70.0))},
    heads={"logits": Head(shape=(10,))},
)


class Noise(Dataset):
    """Pictures whose class is how bright they are."""

    def signature(self):
        return SIGNATURE

    def split(self, name):
        start, size = {"train": (0, 200), "val": (200, 60), "test": (260, 60)}[name]
        generator = np.random.default_rng(start)
        labels = generator.integers(0, 10, size)
        images = (labels[:, None, None, None] * 20 + generator.integers(0, 40, (size, 3, 8, 8))).astype(np.uint8)
        return Split({"image": images}, {"label": labels}, np.arange(start, start + size))

    def fingerprint(self):
        return "noise"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def step(tmp_path, lively):
    """Prune a model of random weights: settings -> (restored start, restored result, facts, notes)."""
    count = iter(range(1000))

    def _made(output, facts):
        return Draft(Checkpoint, output.name, {}, facts).commit(output)

    def _context(output, notes, **inputs):
        return Context(
            inputs={role: (source,) for role, source in inputs.items()}, output=output, dataset=Noise(), task=Classification(),
            device="cpu", seed=0, log=lambda progress: notes.append(progress.note), key="k", memory=tmp_path,
        )  # fmt: skip

    def _step(model, start=None, inputs=None, **settings):
        notes = []
        if start is None:
            folder = tmp_path / f"start{next(count)}"
            folder.mkdir()
            restored = restore.build(model, SIGNATURE, 0)
            lively(restored.network.body)
            restore.save(restored, folder)
            start = _made(folder, {})
        output = tmp_path / f"pruned{next(count)}"
        output.mkdir()
        stage = Stage.model_validate({"type": "prune", **settings})
        roles = {"start": start, **({"teacher": start} if settings.get("teacher") else {}), **(inputs or {})}
        facts = stage.run(_context(output, notes, **roles))
        pruned = _made(output, json.loads(json.dumps(facts)))
        return restore.checkpoint(start), pruned, facts, [note for note in notes if note]

    return _step


MODELS = {"convnet": Convnet(widths=(16, 32)), "resnet": Resnet(), "mlp": Mlp()}
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 255


def model_of(name, architectures):
    return MODELS[name] if name in MODELS else architectures[name]()


@pytest.mark.parametrize("name", [*MODELS, "residual", "depthwise", "concat", "grouped", "flat"])
def test_a_pruned_checkpoint_restores_bit_for_bit(step, architectures, name, monkeypatch):
    kept = {}
    save = restore.save
    monkeypatch.setattr(restore, "save", lambda restored, output: (kept.update(written=restored), save(restored, output)))
    before, pruned, facts, _ = step(model_of(name, architectures), ratio=0.5)
    again = restore.checkpoint(pruned)
    with torch.no_grad():
        whole, written, reread = (restored.network.eval()(IMAGES)["logits"] for restored in (before, kept["written"], again))
    assert torch.equal(written, reread)
    assert reread.shape == whole.shape == (4, 10)
    count = sum(parameter.numel() for parameter in again.network.body.parameters())
    assert count == facts["parameters"][1] < 0.6 * facts["parameters"][0]
    assert facts["macs"][1] < 0.6 * facts["macs"][0]
    assert [edit.type for edit in again.edits] == ["narrow"]


def test_restoring_needs_no_dependency_graph(step, monkeypatch):
    _, pruned, _, _ = step(MODELS["resnet"], ratio=0.5)
    monkeypatch.setattr(dependency_graph, "follow", None)  # calling it fails from here on
    assert restore.checkpoint(pruned).network(IMAGES)["logits"].shape == (4, 10)
    with pytest.raises(TypeError):
        dependency_graph.follow(None, ())


def test_the_lowest_go_and_the_rest_keep_their_values(step):
    before, pruned, _, _ = step(Mlp(hidden=(8, 8)), ratio=0.5, criterion="l1", round_to=1)
    after = restore.checkpoint(pruned).network.body.state_dict()
    start = before.network.body.state_dict()
    name = next(name for name, tensor in start.items() if tensor.dim() == 2)
    norms = np.abs(start[name].numpy()).sum(1)
    assert torch.equal(after[name], start[name][sorted(np.argsort(norms)[4:])])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("what", ["macs", "parameters"])
def test_targets_are_reached(step, what, share):
    _, _, facts, notes = step(Resnet(), keep={what: share}, round_to=1)
    assert facts["reached"]
    assert facts["asked"] == {what: share}
    assert abs(facts[what][1] / facts[what][0] - share) <= 0.02 * share
    assert facts["got"][what] == facts[what][1] / facts[what][0]
    assert notes == []


def test_the_nearest_that_rounding_allows_is_said(step):
    _, _, facts, notes = step(Convnet(widths=(16, 16), convs=1), keep={"macs": 0.6}, round_to=8)
    assert not facts["reached"]
    assert notes == [f"keep.macs: 0.6 was asked for; {facts['got']['macs']:.3f} is the nearest that rounding allows"]
    assert all(kept in (8, 16) for _, kept in facts["widths"].values())


def test_what_is_out_of_reach_is_refused_with_what_is_not(step):
    message = r"keep\.macs: 0\.01 is out of reach: with these layers and round_to 16, at least 0\.\d+ remains"
    with pytest.raises(RecipeError, match=message):
        step(Convnet(widths=(32, 32)), keep={"macs": 0.01}, round_to=16)


def test_a_cut_of_nothing_is_refused(step):
    with pytest.raises(RecipeError, match=r"no layer loses a channel when \[16, 32\] are rounded to 64"):
        step(MODELS["convnet"], ratio=0.5, round_to=64)


def test_widths_are_rounded(step):
    _, _, facts, _ = step(Convnet(widths=(24, 40, 64), convs=1), ratio=0.4, round_to=8)
    assert {kept for _, kept in facts["widths"].values()} == {16, 24, 40}
    _, _, facts, _ = step(Convnet(widths=(16, 32, 64), convs=1), ratio=0.5)
    assert [kept for _, kept in facts["widths"].values()] == [8, 16, 32]


@pytest.mark.parametrize("round_to", [8, "auto"])
def test_a_shufflenet_is_cut(step, round_to):
    """Between grouped convolutions channels go in units of nine, and the nearest multiple of 8 may be far."""
    model = ShufflenetV1(widths=(240, 480, 960), blocks=(2, 1, 2))
    _, pruned, facts, _ = step(model, ratio=0.5, round_to=round_to)
    assert facts["widths"]["layer1.1.conv1"] == [60, 24]
    assert facts["widths"]["layer3.1.conv1"] == [240, 96]
    assert facts["macs"][1] < 0.7 * facts["macs"][0]
    assert step(model, keep={"macs": 0.5}, round_to="auto" if round_to == "auto" else 1)[2]["reached"]
    assert restore.checkpoint(pruned).network(IMAGES)["logits"].shape == (4, 10)


def test_a_cut_that_goes_wrong_is_not_made(step, monkeypatch):
    monkeypatch.setattr(Proof, "provable", lambda proof, groups: list(groups))
    monkeypatch.setattr(Proof, "holds", lambda proof, groups, removed: False)
    message = "does not compute what the model computes without these channels; name in 'ignore': layer1.0"
    with pytest.raises(StageError, match=message):
        step(Convnet(widths=(16,), convs=1), ratio=0.5)


def test_a_criterion_sees_the_same_samples_wherever_they_lie(step, monkeypatch):
    split = Noise.split

    def turned(dataset, name):
        whole = split(dataset, name)
        return whole.take(np.arange(len(whole))[::-1])

    monkeypatch.setattr(Noise, "split", turned)
    monkeypatch.setattr(_importance, "SAMPLES", 64)
    _, few, _, _ = step(MODELS["convnet"], ratio=0.5, criterion="taylor")
    monkeypatch.setattr(Noise, "split", split)
    _, again, _, _ = step(MODELS["convnet"], ratio=0.5, criterion="taylor")
    few, again = (restore.checkpoint(artifact).network.state_dict() for artifact in (few, again))
    assert all(torch.equal(few[name], again[name]) for name in few)


def test_layers_to_ignore_keep_their_shape(step):
    before, pruned, facts, _ = step(MODELS["convnet"], ratio=0.5, ignore=["layer2.0"])
    assert facts["whole"]["layer2.0"] == "'layer2.0' is in ignore"
    start, after = (restored.network.body.get_submodule("layer2.0") for restored in (before, restore.checkpoint(pruned)))
    assert after.weight.shape == start.weight.shape
    with pytest.raises(RecipeError, match="no layer 'layer9'; did you mean 'layer"):
        step(MODELS["convnet"], ratio=0.5, ignore=["layer9"])


def test_what_can_not_bear_a_cut_stays_whole_and_is_named(step, architectures):
    _, pruned, facts, _ = step(architectures["attention"](), ratio=0.5)
    assert list(facts["widths"]) == ["1.embed", "1.up"]
    assert facts["whole"] == {
        "1.q": "the model does not run, or goes wrong, when it is narrower",
        "1.fc": "it makes an output of the model",
    }
    assert restore.checkpoint(pruned).network(IMAGES)["logits"].shape == (4, 10)


def test_pruned_twice(step):
    _, once, first, _ = step(MODELS["resnet"], keep={"macs": 0.6}, round_to=4)
    _, twice, second, _ = step(None, start=once, keep={"macs": 0.6}, round_to=4)
    assert second["macs"][0] == first["macs"][1]
    again = restore.checkpoint(twice)
    assert [edit.type for edit in again.edits] == ["narrow", "narrow"]
    assert sum(parameter.numel() for parameter in again.network.body.parameters()) == second["parameters"][1]


@pytest.mark.parametrize("teacher", [None, "start"])
def test_what_is_left_is_trained(step, teacher):
    model = Convnet(widths=(16,), convs=1)
    _, plain, _, _ = step(model, ratio=0.5)
    training = {"epochs": 4, "batch": 25, "precision": "float32"}
    _, trained, facts, _ = step(model, ratio=0.5, training=training, teacher=teacher)
    assert len(facts["epochs"]) == 4
    if teacher is None:
        assert facts["epochs"][-1]["loss"] < facts["epochs"][0]["loss"]
    one, other = (restore.checkpoint(artifact).network.state_dict() for artifact in (plain, trained))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in other.items()}
    assert not torch.equal(one["body.fc.weight"], other["body.fc.weight"])


@pytest.mark.parametrize("criterion", plugin.names(Criterion))
def test_every_criterion(step, criterion, capfd):
    _, _, facts, _ = step(MODELS["convnet"], ratio=0.5, criterion=criterion)
    assert {kept for _, kept in facts["widths"].values()} == {8, 16}
    assert capfd.readouterr().out == ""


def test_weights_that_are_not_numbers(step, monkeypatch, tmp_path):
    load = restore.checkpoint

    def spoilt(source):
        restored = load(source)
        restored.network.body.get_parameter("layer1.0.weight").data[3] = float("nan")
        return restored

    monkeypatch.setattr(restore, "checkpoint", spoilt)
    with pytest.raises(StageError, match=r"the weights hold NaN or infinity \(such as layer1.0.weight\)"):
        step(MODELS["convnet"], ratio=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either 'ratio'"),
        ({"ratio": 0.5, "keep": {"macs": 0.5}}, "give either 'ratio'"),
        ({"ratio": 1.0}, "less than 1"),
        ({"ratio": 0.0}, "greater than 0"),
        ({"keep": {}}, "either 'macs' or 'parameters'"),
        ({"keep": {"macs": 0.5, "parameters": 0.5}}, "either 'macs' or 'parameters'"),
        ({"keep": {"mac": 0.5}}, "there is no field 'mac'; did you mean 'macs'"),
        ({"ratio": 0.5, "teacher": "big"}, "'teacher' does nothing without 'training'"),
        ({"ratio": 0.5, "losses": ["soft_targets"]}, "'losses' does nothing without 'training'"),
        ({"ratio": 0.5, "round_to": 0}, "must be a whole number from 1 on, or 'auto'"),
        ({"ratio": 0.5, "round_to": True}, "must be a whole number from 1 on, or 'auto'"),
        ({"ratio": 0.5, "criterion": "l3"}, "there is no criterion 'l3'; choose from: "),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        Stage.model_validate({"type": "prune", **settings})


def test_settings_survive_dump_and_load():
    stage = Prune(keep={"macs": 0.5}, criterion={"type": "random", "seed": 3}, ignore=("fc",), training={"epochs": 2})
    assert Stage.model_validate(json.loads(json.dumps(stage.model_dump(mode="json")))) == stage


def test_channels_that_zero_padding_adds_stay_where_they_are(lively):
    """Padding shortcuts put the channels of a stage in the middle of the next one's, whose outer ones code adds."""
    body = lively(Resnet(depth=8, widths=(4, 8, 16), shortcut="padding").build(SIGNATURE))
    inputs = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    groups, whole = _cut.cuttable(body, inputs, (), Proof(body, inputs))
    assert {group.layer for group in groups} >= {"conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"}
    assert set(whole.values()) >= {"it is joined with channels that no weight makes"}
    removed = [torch.arange(group.channels // 2) for group in groups]
    silent = copy.deepcopy(body)
    silent.load_state_dict(channels.masked(body, groups, removed))
    expected = silent(*inputs)
    narrowing.narrow(body, groups, removed)
    torch.testing.assert_close(body(*inputs), expected, rtol=1e-4, atol=1e-4)


NARROW = Convnet(widths=(16, 32), convs=1)


def test_the_exported_file_has_the_bytes_that_were_asked_for(step):
    _, pruned, facts, _ = step(Mlp(hidden=(256, 256)), keep={"bytes": 0.5}, round_to=1)
    assert facts["reached"]
    assert facts["got"]["bytes"] == pytest.approx(0.5, rel=0.02)
    network = restore.checkpoint(pruned).network
    path = pruned.directory.parent / "model.onnx"
    Onnx().export(network, SIGNATURE, proof.example(SIGNATURE), path, {})
    whole = path.with_name("whole.onnx")
    Onnx().export(
        restore.build(Mlp(hidden=(256, 256)), SIGNATURE, 0).network.eval(), SIGNATURE, proof.example(SIGNATURE), whole, {}
    )
    assert path.stat().st_size / whole.stat().st_size == pytest.approx(0.5, rel=0.02)


@pytest.mark.slow
def test_the_exported_file_has_the_latency_that_was_asked_for(step):
    _, _, facts, _ = step(Convnet(widths=(64, 128), convs=2), keep={"latency": 0.5}, timing={"threads": 1})
    assert facts["got"]["latency"] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("target", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("curve", [lambda macs: macs, lambda macs: 0.1 + 0.9 * macs**2, lambda macs: macs**0.5])
def test_the_search_for_a_measured_share(curve, target):
    asked = []

    def share(kept):
        asked.append(kept)
        return curve(kept[0] / 1000)

    kept, reached = _exported.search(target, lambda macs: [max(1, round(1000 * macs))], share, "latency")
    assert reached == curve(kept[0] / 1000) == pytest.approx(target, rel=0.02)
    assert len(asked) <= _exported.EXPORTS


def test_the_nearest_of_coarse_steps_is_taken_and_what_is_out_of_reach_is_refused():
    steps = lambda macs: [4 if macs < 0.3 else 8 if macs < 0.8 else 16]  # noqa: E731
    assert _exported.search(0.45, steps, lambda kept: kept[0] / 16, "bytes") == ([8], 0.5)
    with pytest.raises(RecipeError, match=r"keep\.bytes: 0.1 is out of reach: the least that could be measured is 0.250"):
        _exported.search(0.1, steps, lambda kept: kept[0] / 16, "bytes")


def test_a_model_that_can_not_be_followed_is_refused_by_its_operation_with_what_to_do():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.two(self.one(x).sort(-1).values)

    body, inputs = Sorted(), (torch.rand(2, 4),)
    refusal = r"no layer that can be cut \(one: the operation 'sort' takes them, .*\); sparsify and factorise"
    with pytest.raises(RecipeError, match=refusal):
        _cut.cuttable(body, inputs, (), Proof(body, inputs))


def test_a_model_that_leaves_pytorch_in_between_is_refused_by_the_layer_behind_which_it_does():
    class Numeric(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.two(torch.from_numpy(np.tanh(self.one(x).detach().numpy())))

    body, inputs = Numeric(), (torch.rand(2, 4),)
    with pytest.raises(RecipeError, match=r"one: nothing that could be followed reads its channels.*NumPy"):
        _cut.cuttable(body, inputs, (), Proof(body, inputs))


def test_layers_by_pattern(step):
    _, _, facts, _ = step(NARROW, ratios={"layer2.*": 0.5}, round_to=1)
    assert facts["widths"] == {"layer1.0": [16, 16], "layer2.0": [32, 16]}
    _, _, facts, _ = step(NARROW, ratio=0.25, ratios={"layer2.*": 0.5}, round_to=1)
    assert facts["widths"] == {"layer1.0": [16, 12], "layer2.0": [32, 16]}
    _, _, facts, _ = step(NARROW, keep={"parameters": 0.4}, ratios={"layer1.*": 0.0}, round_to=1)
    assert facts["widths"]["layer1.0"] == [16, 16]
    assert facts["reached"]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"layer9.*": 0.5}, r"ratios: no layer that can be cut matches 'layer9.\*'; those that can: layer1.0, layer2.0"),
        ({"layer1.*": 0.5, "*.0": 0.25}, r"ratios: 'layer1.\*' and '\*.0' both match layers that are cut with 'layer1.0'"),
    ],
)
def test_patterns_that_do_not_fit(step, ratios, message):
    with pytest.raises(RecipeError, match=message):
        step(NARROW, ratios=ratios)


def test_one_ranking_cuts_where_channels_matter_least(step, monkeypatch):
    load = restore.checkpoint

    def faint(source):
        restored = load(source)
        restored.network.body.get_parameter("layer2.0.weight").data[:24] *= 1e-3
        return restored

    monkeypatch.setattr(restore, "checkpoint", faint)
    settings = {"criterion": "l1", "round_to": 1, "keep": {"macs": 0.6}}
    _, _, facts, _ = step(NARROW, distribution="ranking", **settings)
    assert facts["widths"]["layer1.0"][1] >= 15
    assert facts["widths"]["layer2.0"][1] <= 20
    _, _, facts, _ = step(NARROW, **settings)
    assert facts["widths"]["layer1.0"][1] < 14


@pytest.mark.parametrize("pace", ["even", "cubic"])
def test_steps_come_to_the_same_target(step, pace):
    training = {"epochs": 1, "batch": 50, "precision": "float32"}
    model = Convnet(widths=(32, 64), convs=1)
    settings = {"keep": {"macs": 0.4}, "round_to": 1, "training": training, "teacher": "start"}
    _, pruned, facts, _ = step(model, steps={"count": 3, "pace": pace, "training": training}, **settings)
    shares = [entry["macs"] / facts["macs"][0] for entry in facts["steps"]]
    done = [1 - (1 - t / 3) ** (3 if pace == "cubic" else 1) for t in (1, 2, 3)]
    assert shares == pytest.approx([1 - 0.6 * part for part in done], rel=0.02)
    assert [entry.get("epochs") for entry in facts["steps"]] == [1, 1, 1]
    assert facts["reached"]
    again = restore.checkpoint(pruned)
    assert sum(parameter.numel() for parameter in again.network.body.parameters()) == facts["parameters"][1]


def test_the_cut_is_spread_by_measured_curves(step, tmp_path):
    folder = tmp_path / "curves"
    folder.mkdir()
    costs = {"layer1.0": [[0.5, 0.4], [0.75, 0.6]], "layer2.0": [[0.5, 0.0], [0.75, 0.1]]}
    (folder / "curves.json").write_text(json.dumps({"costs": costs}))
    table = Draft(Table, "curves", {}, {}).commit(folder)
    settings = {"keep": {"macs": 0.6}, "round_to": 1}
    _, _, facts, _ = step(NARROW, distribution="sensitivity", sensitivity="curves", inputs={"sensitivity": table}, **settings)
    assert facts["reached"]
    assert facts["widths"]["layer1.0"][1] >= 14
    assert facts["widths"]["layer2.0"][1] <= 20


def test_what_pfp_foretells_stands_beside_what_is_measured(step):
    _, pruned, facts, _ = step(NARROW, ratio=0.5, criterion="pfp")
    assert set(facts["errors"]) == {"layer1.0", "layer2.0"}
    findings = Findings.model_validate_json(pruned.file("findings.json").read_text())
    assert findings.columns == ["predicted", "measured"]
    assert {line.name: dict(zip(findings.columns, line.cells, strict=True)) for line in findings.lines} == facts["errors"]
    _, pruned, _, _ = step(NARROW, ratio=0.5)
    assert "findings.json" not in pruned.manifest.files  # magnitudes foretell nothing
    for entry in facts["errors"].values():
        assert 0 < entry["measured"] <= 1
        assert 0 < entry["predicted"] <= 1


def test_a_criterion_on_data_without_data(step, monkeypatch):
    split = Noise.split
    monkeypatch.setattr(_cut, "probes", lambda restored, context: (torch.randn(2, 3, 8, 8),))
    monkeypatch.setattr(Noise, "split", lambda dataset, name: split(dataset, name).take(np.arange(0)))
    with pytest.raises(StageError, match="criterion taylor reads gradients on training samples, and the train split is empty"):
        step(NARROW, ratio=0.5, criterion="taylor")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.5, "steps": {"count": 1}}, "greater than or equal to 2"),
        ({"keep": {"latency": 0.5}, "steps": {"count": 2}}, "a latency is reached in one cut"),
        ({"ratio": 0.5, "distribution": "sensitivity"}, "needs the curves of a stage pruning_sensitivity"),
        ({"ratio": 0.5, "sensitivity": "curves"}, "'uniform' reads no curves"),
        ({"ratio": 0.5, "teacher_cache": True, "training": {"epochs": 1}}, "there is no teacher whose outputs could be stored"),
        ({"ratios": {"x": 1.0}}, "less than 1"),
        (
            {"ratio": 0.5, "teacher": "big", "teacher_cache": True, "training": {"epochs": 1, "augment": ["flip"]}},
            "no table could hold the teacher's outputs",
        ),
    ],
)
def test_further_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        Stage.model_validate({"type": "prune", **settings})


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Saves):
    """Saves that end the process, as it were, after so many pieces of work."""

    def __init__(self, folder, left):
        super().__init__(folder, Saving(steps=1, epochs=1))
        self.left = left

    def step(self, state, epoch_ended=False):
        super().step(state, epoch_ended)
        self.left -= 1
        if not self.left:
            raise Killed


STEPS = {
    "masked": {"criterion": "l2"},
    "by data": {"criterion": "taylor", "distribution": "ranking"},
}


@pytest.mark.parametrize("case", STEPS)
def test_killed_between_steps_and_resumed_it_ends_in_the_same_bytes(case, tmp_path, lively, monkeypatch):
    """Trainings between the steps that were done are not repeated."""
    restored = restore.build(Convnet(widths=(16, 16), convs=1), SIGNATURE, 0)
    lively(restored.network.body)
    if case == "masked":
        weight = restored.network.body.get_parameter("layer2.0.weight")
        restored.network.edits = (Mask.of({"layer2.0.weight": torch.rand(weight.shape) < 0.5}),)
    (tmp_path / "start").mkdir()
    restore.save(restored, tmp_path / "start")
    start = Draft(Checkpoint, "start", {}).commit(tmp_path / "start")
    training = {"epochs": 1, "batch": 50, "precision": "float32"}
    stage = Prune.model_validate(
        {"keep": {"macs": 0.4}, "round_to": 1, "steps": {"count": 3, "training": training}, "training": training, **STEPS[case]}
    )
    begun, fit = [], loop.fit
    monkeypatch.setattr(
        loop, "fit", lambda network, *rest: begun.append(network.body.layer1[0].out_channels) or fit(network, *rest)
    )

    def perform(name, saves, limit=None):
        folder = tmp_path / name
        folder.mkdir()
        context = Context(
            inputs={"start": (start,)}, output=folder, dataset=Noise(), task=Classification(), device="cpu", seed=0,
            log=lambda progress: None, key="k", memory=tmp_path, saves=saves, limit=limit,
        )  # fmt: skip
        facts = stage.run(context)
        state = {path.name: path.read_bytes() for path in folder.iterdir()}
        timed = ("seconds", "samples_per_s", "seconds_per_step")
        return state, {name: fact for name, fact in facts.items() if name not in timed}

    smoke = perform("smoke", Saves(), limit=2)[1]
    assert smoke["planned_steps"] == 3 * 4  # of all trainings, for the estimate
    begun.clear()
    expected, facts = perform("whole", Saves())
    assert len(set(begun)) == 3
    for left in (1, 4, 5, 7, 10, 14):  # an epoch has 4 steps and an end: within the three trainings, and between them
        folder = tmp_path / f"saves{left}"
        folder.mkdir()
        with pytest.raises(Killed):
            perform(f"killed{left}", Mortal(folder, left))
        begun.clear()
        again, resumed = perform(f"resumed{left}", Saves(folder))
        assert again == expected, left
        assert resumed["steps"] == facts["steps"]
        assert resumed["widths"] == facts["widths"]
        assert len(begun) == 3 - (left - 1) // 5, left


def test_bytes_in_steps_are_those_of_the_model_before_all_of_them(step):
    _, _, facts, _ = step(Mlp(hidden=(256, 256)), keep={"bytes": 0.4}, round_to=1, steps={"count": 2})
    assert facts["got"]["bytes"] == pytest.approx(0.4, rel=0.03)
    assert facts["parameters"][1] / facts["parameters"][0] == pytest.approx(0.4, abs=0.03)


def test_a_criterion_that_can_not_tell_channels_apart_says_so(step, monkeypatch):
    load = restore.checkpoint

    def fresh(source):
        restored = load(source)
        restored.network.body.get_parameter("layer1.1.weight").data.fill_(1.0)
        return restored

    monkeypatch.setattr(restore, "checkpoint", fresh)
    _, _, facts, notes = step(NARROW, ratio=0.5, criterion="batchnorm_scale")
    assert notes == facts["notes"] == ["criterion batchnorm_scale scores all channels alike in layer1.0: the first go"]
