"""`factorise`: budgets met, layers named, checkpoints restored, and stages that follow."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.networks import proof, restore
from compress_cli.networks.edits import Edit
from compress_cli.networks.edits.codebook import Codebook
from compress_cli.networks.edits.mask import Mask
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.pipeline import plan, recipe
from compress_cli.pruning.cost import Cost
from compress_cli.stages import Stage
from compress_cli.stages._factorisable import factorisable
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program

pytestmark = pytest.mark.usefixtures("one_thread")


def stage(kind="factorise", **settings):
    return Stage.model_validate({"type": kind, **settings})


@pytest.fixture
def convnet(toy, tmp_path, lively):
    """A checkpoint of a convnet with weights far from 0."""
    restored = restore.build(Convnet(widths=(16, 24), convs=2), toy().signature(), 3)
    lively(restored.network.body)
    (tmp_path / "convnet").mkdir()
    restore.save(restored, tmp_path / "convnet")
    return Draft(Checkpoint, "t", {}).commit(tmp_path / "convnet")


@pytest.fixture
def follow(toy, context_for, perform):
    def _follow(source, kind="factorise", result=Checkpoint, **settings):
        return perform(stage(kind, **settings), context_for(toy(), inputs={"start": (source,)}), result)

    return _follow


def outputs(checkpoint):
    network = restore.checkpoint(checkpoint).network
    with torch.no_grad():
        return network(*proof.example(network.signature, 8))["logits"]


def test_a_restored_checkpoint_computes_with_the_factors_of_the_weights(convnet, follow):
    """By hand: a linear layer's product is the truncated SVD of the weight that it had."""
    small = follow(convnet, energy=0.6, round_to=1)
    first, again = restore.checkpoint(small), restore.checkpoint(small)
    assert [edit.type for edit in first.edits] == ["factorise"]
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    original = restore.checkpoint(convnet).network.body
    chosen = small.manifest.facts["layers"]
    assert chosen
    for name, layer in chosen.items():
        assert layer["relative_error"] ** 2 <= 0.4 + 1e-9
        if layer["method"] == "channel":
            weight = original.get_submodule(name).weight.detach()
            reduce, expand = first.network.body.get_submodule(name)
            product = (expand.weight.flatten(1) @ reduce.weight.flatten(1)).detach()
            left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            rank = layer["ranks"][0]
            torch.testing.assert_close(product, (left[:, :rank] * values[:rank]) @ right[:rank], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("counted", ["macs", "parameters"])
@pytest.mark.parametrize("convolutions", ["auto", "tucker"])
def test_a_budget_is_met_and_counted_on_the_model_itself(convnet, follow, counted, convolutions):
    small = follow(convnet, keep={counted: 0.5}, convolutions=convolutions, round_to=1)
    facts = small.manifest.facts
    restored = restore.checkpoint(small)
    costs = [Cost(restore.checkpoint(each).network.body, proof.example(restored.signature)) for each in (convnet, small)]
    assert facts[counted] == [cost.of(counted) for cost in costs]
    assert costs[1].of(counted) / costs[0].of(counted) == pytest.approx(0.5, rel=0.05)
    assert facts["reached"] == (abs(facts["got"][counted] - 0.5) <= 0.01)
    errors = [layer["relative_error"] for layer in facts["layers"].values()]
    assert max(errors) < 1  # none is thrown away for the others
    if convolutions == "tucker":
        assert {layer["method"] for layer in facts["layers"].values()} <= {"tucker", "svd"}


def test_each_layer_loses_the_share_that_ratio_says(convnet, follow):
    small, body = follow(convnet, ratio=0.5, round_to=1), restore.checkpoint(convnet).network.body
    left = restore.checkpoint(small).network.body
    for name in small.manifest.facts["layers"]:
        size = sum(part.weight.numel() for part in left.get_submodule(name))
        assert 0.3 < size / body.get_submodule(name).weight.numel() <= 0.5


def test_a_budget_out_of_reach_names_the_least(convnet, follow):
    with pytest.raises(RecipeError, match=r"keep\.macs: 0\.01 is out of reach by low ranks: at least 0\.\d+ remains"):
        follow(convnet, keep={"macs": 0.01})
    with pytest.raises(RecipeError, match=r"no layer would become smaller by these ranks"):
        follow(convnet, energy=0.999999)


def test_what_can_not_be_factorised_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.read = nn.Linear(8, 8), nn.Linear(8, 8)
            self.one, self.same = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.same.weight = self.one.weight
            self.grouped, self.transposed = nn.Conv1d(8, 8, 3, padding=1, groups=2), nn.ConvTranspose1d(8, 8, 1)
            self.idle, self.named = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = nn.functional.linear(self.plain(x), self.read.weight)
            x = self.named(self.same(self.one(x)))
            return self.transposed(self.grouped(x[:, :, None]))

    places, whole = factorisable(Odd(), (torch.randn(2, 8),), ["nam*"])
    assert list(places) == ["plain"]
    assert whole == {
        "read": "the model's code uses more of it than its result",
        "one": "its weight belongs to another layer too",
        "same": "its weight belongs to another layer too",
        "grouped": "its channels are in groups",
        "transposed": "a ConvTranspose1d has no factors here",
        "idle": "it is not used",
        "named": "named in ignore",
    }
    with pytest.raises(RecipeError, match=r"ignore: no layer is called 'plan'; did you mean 'plain'\?"):
        factorisable(Odd(), (torch.randn(2, 8),), ["plan"])


def test_training_pruning_quantisation_and_export_follow(convnet, follow):
    small = follow(convnet, keep={"macs": 0.6}, round_to=1)
    training = {"epochs": 1, "batch": 16, "precision": "float32"}
    tuned = follow(small, "train", training=training, start="s")
    assert not torch.equal(outputs(tuned), outputs(small))
    pruned = follow(tuned, "prune", ratio=0.5, round_to=1)
    assert [edit.type for edit in restore.checkpoint(pruned).edits] == ["factorise", "narrow"]
    assert pruned.manifest.facts["macs"][1] < 0.6 * pruned.manifest.facts["macs"][0]
    quantised = follow(pruned, "quantize", Program, samples=16)
    file = follow(quantised, "export", OnnxModel)
    assert file.manifest.facts["parity"]["heads"]["logits"]["relative_error"] < 0.1


@pytest.mark.parametrize("demand", ["mask", "codebook"])
def test_a_layer_whose_weights_are_masked_or_shared_stays_whole_and_is_named(demand, toy, tmp_path, follow):
    restored = restore.build(Mlp(hidden=(16, 16)), toy().signature(), 0)
    weight = restored.network.body[1].weight
    kept = torch.rand(weight.shape) < 0.5
    edit = Mask.of({"1.weight": kept}) if demand == "mask" else Codebook.of({"1.weight": kept.int()})
    restored.network.edits = (edit,)
    (tmp_path / "masked").mkdir()
    restore.save(restored, tmp_path / "masked")
    masked = Draft(Checkpoint, "t", {}).commit(tmp_path / "masked")
    before = restore.checkpoint(masked).network.body[1].weight
    small = follow(masked, ratio=0.5, round_to=1)
    facts = small.manifest.facts
    assert "3" in facts["layers"]
    assert ("masked single weights" if demand == "mask" else "share a few values") in facts["whole"]["1"]
    assert torch.equal(restore.checkpoint(small).network.body[1].weight, before)
    with pytest.raises(RecipeError, match=r"no layer would become smaller by these ranks: .*1: "):
        follow(masked, ratio=0.5, ignore=["3", "5"])


RECIPE = """\
dataset: digits
stages:
  - {{type: train, model: mlp, training: {{epochs: 1}}}}
  - {first}
  - {{type: train, name: tuned, start: {start}, training: {{epochs: 1}}}}
  - {{type: factorise, ratio: 0.5{ignore}}}
"""


@pytest.mark.parametrize(
    ("first", "ignore", "refusal"),
    [
        ("{type: sparsify, ratio: 0.5}", "", "'sparsify' masks single weights of every layer"),
        ("{type: sparsify, threshold: 0.01}", "", "'sparsify' masks single weights of every layer"),
        ("{type: share_weights, bits: 4}", "", "'share_weights' shares the values of every layer"),
        ("{type: sparsify, layers: {'1': 0.5}}", "", None),  # the other layers can be factorised
        ("{type: sparsify, ratio: 0.5}", ", ignore: ['1']", None),
        ("{type: prune, ratio: 0.5}", "", None),
    ],
)
def test_a_plan_refuses_to_factorise_what_is_masked_whatever_trained_it_since(first, ignore, refusal, tmp_path):
    start = first.removeprefix("{type: ").split(",")[0]
    (tmp_path / "r.yaml").write_text(RECIPE.format(first=first, start=start, ignore=ignore))
    read = recipe.load(tmp_path / "r.yaml")
    if refusal is None:
        assert plan.plan(read)
        return
    with pytest.raises(RecipeError, match=rf"r\.yaml:6: stages\[3\]: start: {refusal}, .*factorise first"):
        plan.plan(read)


def test_a_record_of_another_model_is_refused():
    edit = Edit.model_validate({"type": "factorise", "layers": {"1": {"method": "tucker", "ranks": [2, 2]}}})
    for model in (nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))):
        with pytest.raises(ArtifactError, match=r"factorises '1' by tucker, which its architecture does not hold so"):
            edit(model)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "give one of 'energy', 'ratio' and 'keep'"),
        ({"energy": 0.9, "ratio": 0.5}, "give one of"),
        ({"energy": 1.0}, "less than 1"),
        ({"keep": {"macs": 0.5, "parameters": 0.5}}, "give one target"),
        ({"ratio": 0.5, "subspaces": [0]}, "numbers of groups begin at 1"),
    ],
)
def test_goals_that_do_not_fit_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        stage(**settings)


def test_a_smoke_run_refuses_no_energy_that_trained_weights_may_have(convnet, toy, context_for):
    """Random weights have full rank: what can't be kept of them says nothing of trained ones."""
    settings = {"energy": 0.999, "round_to": 1}
    with pytest.raises(RecipeError, match="no layer would become smaller"):
        stage(**settings).run(context_for(toy(), inputs={"start": (convnet,)}))
    facts = stage(**settings).run(context_for(toy(), inputs={"start": (convnet,)}, limit=2))
    assert facts["parameters"][1] < facts["parameters"][0]
