"""Whole layers left out: those that do nothing first, and the checkpoint replays it."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.context import Context
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.data.tasks.classification import Classification
from compress_cli.errors import RecipeError
from compress_cli.networks import bypassing, restore
from compress_cli.networks.edits.bypass import Bypass
from compress_cli.networks.models.resnet import Resnet
from compress_cli.stages import Stage, drop_layers
from compress_cli.store.artifact import Checkpoint, Draft

pytestmark = pytest.mark.usefixtures("one_thread")
SIGNATURE = Signature(inputs={"image": Input(shape=(3, 8, 8))}, heads={"logits": Head(shape=(4,))})


class Pictures(Dataset):
    """Noise with random classes."""

    def signature(self):
        return SIGNATURE

    def split(self, name):
        random = np.random.default_rng(len(name))
        images = random.normal(size=(64, 3, 8, 8)).astype(np.float32)
        return Split({"image": images}, {"label": random.integers(0, 4, 64)}, np.arange(64))

    def fingerprint(self):
        return "pictures"


@pytest.fixture
def dropped(tmp_path):
    """Run the stage on a network that is labelled by itself: settings -> (its checkpoint, facts)."""

    def _dropped(network, model, monkeypatch, **settings):
        split = Pictures.split

        def own(dataset, name):
            part = split(dataset, name)
            with torch.no_grad():
                labels = network(torch.from_numpy(part.inputs["image"]))["logits"].argmax(1).numpy()
            return Split(part.inputs, {"label": labels}, part.index)

        labelled = {name: own(Pictures(), name) for name in ("train", "val")}
        monkeypatch.setattr(Pictures, "split", lambda dataset, name: labelled[name])
        for name in ("start", "result"):
            (tmp_path / name).mkdir()
        restore.save(restore.Restored(network, model), tmp_path / "start")
        start = Draft(Checkpoint, "start", {}, {}).commit(tmp_path / "start")
        context = Context(
            inputs={"start": (start,)}, output=tmp_path / "result", dataset=Pictures(), task=Classification(), device="cpu",
            seed=0, log=lambda progress: None, key="k", memory=tmp_path,
        )  # fmt: skip
        facts = Stage.model_validate({"type": "drop_layers", **settings}).run(context)
        return Draft(Checkpoint, "result", {}, json.loads(json.dumps(facts))).commit(tmp_path / "result"), facts

    return _dropped


def test_blocks_that_add_nothing_go_first(dropped, lively, monkeypatch):
    model = Resnet(depth=20, widths=(8, 8, 8))
    network = restore.build(model, SIGNATURE, 0).network
    lively(network)
    silent = ["layer1.1", "layer2.2"]
    for name in silent:
        norms = [module for module in network.body.get_submodule(name).modules() if isinstance(module, nn.BatchNorm2d)]
        norms[-1].weight.data.zero_()
        norms[-1].bias.data.zero_()
    with torch.no_grad():  # classes that are about as frequent
        images = torch.from_numpy(Pictures().split("val").inputs["image"])
        network.body.fc.bias -= network.eval()(images)["logits"].mean(0)
    result, facts = dropped(network, model, monkeypatch, remove=3)
    assert facts["dropped"][:2] == silent
    assert facts["accuracy"][:3] == [1.0, 1.0, 1.0]
    assert facts["accuracy"][3] < 1.0
    again = restore.checkpoint(result)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        two = restore.checkpoint(result).network  # its third dropped layer put back
        Bypass(layers=tuple(facts["dropped"]))(network.body)
        torch.testing.assert_close(again.network(images)["logits"], network.eval()(images)["logits"])
    assert sum(parameter.numel() for parameter in two.body.parameters()) == facts["parameters"][1]
    assert facts["macs"][1] < facts["macs"][0]


def test_only_repeated_layers_that_keep_the_shape_can_be_left_out():
    body = Resnet(depth=20).build(SIGNATURE)
    found = bypassing.candidates(body, (torch.randn(2, 3, 8, 8),))
    assert list(found) == ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]


def test_layers_of_transformers():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
    assert bypassing.candidates(encoder, (torch.randn(2, 5, 8),)) == dict.fromkeys(("layers.0", "layers.1", "layers.2"), False)


def test_more_than_there_are(dropped, lively, monkeypatch):
    model = Resnet(depth=8)
    network = restore.build(model, SIGNATURE, 0).network
    lively(network)
    with pytest.raises(RecipeError, match=r"remove: 2 layers can't be left out; those that could: none"):
        dropped(network, model, monkeypatch, remove=2)


def silent_resnet(lively, silent):
    """A network of depth 20 whose named blocks add nothing, with classes that are about as frequent."""
    model = Resnet(depth=20, widths=(8, 8, 8))
    network = restore.build(model, SIGNATURE, 0).network
    lively(network)
    for name in silent:
        norm = network.body.get_submodule(name).bn2
        norm.weight.data.zero_()
        norm.bias.data.zero_()
    with torch.no_grad():
        images = torch.from_numpy(Pictures().split("val").inputs["image"])
        network.body.fc.bias -= network.eval()(images)["logits"].mean(0)
    return network, model


def block_macs(side):
    """Two 3 x 3 convolutions of 8 channels on side x side places."""
    return 2 * 9 * 8 * 8 * side * side


def test_blocks_go_until_a_share_of_the_multiply_accumulates_remains(dropped, lively, monkeypatch):
    network, model = silent_resnet(lively, ["layer1.1", "layer1.2", "layer3.1"])
    blocks = 3 * block_macs(8) + 3 * block_macs(4) + 3 * block_macs(2)
    macs = 9 * 3 * 8 * 64 + blocks + 8 * 8 * 16 + 8 * 8 * 4 + 8 * 4  # the stem, two projections, the classifier
    stage = {"type": "prune", "depth": {"keep": {"macs": 0.505}}}
    _, facts = dropped(network, model, monkeypatch, **stage)
    assert facts["macs"][0] == macs
    gone = sum(block_macs({"1": 8, "2": 4, "3": 2}[name[5]]) for name in facts["dropped"])
    assert facts["macs"][1] == macs - gone
    assert facts["got"]["macs"] == (macs - gone) / macs <= 0.505 * 1.02
    last = block_macs({"1": 8, "2": 4, "3": 2}[facts["dropped"][-1][5]])
    assert (macs - gone + last) / macs > 0.505 * 1.02, "the last block need not have gone"
    assert set(facts["dropped"]) == {"layer1.1", "layer1.2", "layer3.1"}


def test_a_share_of_the_blocks_is_a_number_of_them(dropped, lively, monkeypatch):
    network, model = silent_resnet(lively, ["layer2.2"])
    _, facts = dropped(network, model, monkeypatch, ratio=0.2)  # of seven that could go
    assert facts["dropped"] == ["layer2.2"]


def test_a_cost_that_no_depth_reaches(dropped, lively, monkeypatch):
    network, model = silent_resnet(lively, [])
    with pytest.raises(
        RecipeError, match=r"keep.macs: 0.1 is out of reach by leaving out layers: without all 7 .* 0\.\d+ remains"
    ):
        dropped(network, model, monkeypatch, type="prune", depth={"keep": {"macs": 0.1}})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"depth": {}}, "give one of 'remove'"),
        ({"depth": {"remove": 1, "ratio": 0.5}}, "give one of 'remove'"),
        ({"depth": {"ratio": 1.0}}, "less than 1"),
        ({"depth": {"remove": 1}, "keep": {"macs": 0.5}}, "'keep' is about channels"),
        ({"depth": {"remove": 1}, "round_to": 8}, "'round_to' is about channels"),
        ({}, "or 'ratios' by layer, or 'depth'"),
    ],
)
def test_what_depth_does_not_go_with(settings, word):
    with pytest.raises(ValueError, match=word):
        Stage.model_validate({"type": "prune", **settings})


def test_a_smoke_run_ranks_the_blocks_once_and_tells_what_all_rounds_will_take(tmp_path, lively, monkeypatch):
    """Seven blocks on 32 of 64 samples took 3 s; a run ranks 7, 6 and 5 of them on all samples."""
    calls = []

    def _rank(ranking, rest, gone):
        calls.append(rest)
        ranking.spent_s = 3.0
        return {name: float(number) for number, name in enumerate(rest)}

    monkeypatch.setattr(drop_layers._Ranking, "without_each", _rank)
    restored = restore.build(Resnet(depth=20, widths=(4, 4, 4)), SIGNATURE, 0)
    lively(restored.network)
    for name in ("start", "result"):
        (tmp_path / name).mkdir()
    restore.save(restored, tmp_path / "start")
    context = Context(
        inputs={"start": (Draft(Checkpoint, "start", {}, {}).commit(tmp_path / "start"),)}, output=tmp_path / "result",
        dataset=Pictures(), task=Classification(), device="cpu", seed=0, log=lambda progress: None, key="k",
        memory=tmp_path, limit=2,
    )  # fmt: skip
    facts = Stage.model_validate({"type": "drop_layers", "remove": 3, "batch": 16}).run(context)
    assert [len(rest) for rest in calls] == [7]
    assert facts["dropped"] == [*calls[0]][:-4:-1]
    assert facts["pace"]["more_s"] == pytest.approx(3.0 * 2 * (7 + 6 + 5) / 7 - 3.0)
