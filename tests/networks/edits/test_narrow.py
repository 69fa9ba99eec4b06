"""A record of narrower layers, replayed on a fresh model."""

import json

import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import ArtifactError
from compress_cli.networks.edits import Edit
from compress_cli.networks.edits.narrow import Narrow
from compress_cli.pruning import channels, dependency_graph

SIGNATURE = Signature(inputs={"image": Input(shape=(3, 8, 8))}, heads={"logits": Head(shape=(10,))})
IMAGES = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat", "grouped", "flat", "two_headed"])
def test_replayed_from_json_it_gives_the_same_model(architectures, lively, name):
    body = lively(architectures[name]().build(SIGNATURE))
    groups = dependency_graph.build(body, IMAGES).groups
    before = body.state_dict()
    after = channels.cut(body, groups, [torch.arange(group.channels // 2) for group in groups])
    edit = Narrow(shapes={name: tuple(t.shape) for name, t in after.items() if t.shape != before[name].shape})
    edit(body)
    body.load_state_dict(after)

    read = Edit.model_validate(json.loads(json.dumps(edit.model_dump(mode="json"))))
    assert read == edit
    fresh = architectures[name]().build(SIGNATURE).eval()
    read(fresh)
    fresh.load_state_dict(after, strict=True)
    for one, other in zip(body.modules(), fresh.modules(), strict=True):
        assert repr(one) == repr(other)  # widths, groups and so on, not only tensors
    with torch.no_grad():
        one, other = body(*IMAGES), fresh(*IMAGES)
    assert all(torch.equal(one[head], other[head]) for head in one) if isinstance(one, dict) else torch.equal(one, other)


def test_every_kind_of_layer_follows():
    model = nn.ModuleDict({
        "conv": nn.Conv1d(4, 6, 3), "grouped": nn.Conv2d(8, 12, 1, groups=4), "depthwise": nn.Conv2d(6, 6, 3, groups=6),
        "transposed": nn.ConvTranspose2d(4, 6, 2), "linear": nn.Linear(5, 7), "norm": nn.BatchNorm2d(6, affine=False),
        "layer": nn.LayerNorm(8), "group": nn.GroupNorm(2, 8), "words": nn.Embedding(10, 8), "prelu": nn.PReLU(8),
    })  # fmt: skip
    Narrow(shapes={
        "conv.weight": (5, 3, 3), "conv.bias": (5,), "grouped.weight": (8, 1, 1, 1), "grouped.bias": (8,),
        "depthwise.weight": (4, 1, 3, 3), "depthwise.bias": (4,), "transposed.weight": (3, 5, 2, 2), "transposed.bias": (5,),
        "linear.weight": (6, 4), "linear.bias": (6,), "norm.running_mean": (5,), "norm.running_var": (5,),
        "layer.weight": (6,), "layer.bias": (6,), "group.weight": (6,), "group.bias": (6,), "words.weight": (10, 6),
        "prelu.weight": (6,),
    })(model)  # fmt: skip
    assert model["conv"](torch.rand(1, 3, 9)).shape == (1, 5, 7)
    assert model["grouped"](torch.rand(1, 4, 2, 2)).shape == (1, 8, 2, 2)
    assert model["depthwise"](torch.rand(1, 4, 5, 5)).shape == (1, 4, 3, 3)
    assert model["transposed"](torch.rand(1, 3, 2, 2)).shape == (1, 5, 3, 3)
    assert model["linear"](torch.rand(1, 4)).shape == (1, 6)
    assert model["norm"].eval()(torch.rand(1, 5, 2, 2)).shape == (1, 5, 2, 2)
    for name in ("layer", "group", "prelu"):
        assert model[name](torch.rand(2, 6)).shape == (2, 6)
    assert model["words"](torch.tensor([1])).shape == (1, 6)
    text = repr(model)
    parts = """Conv1d(3, 5|Conv2d(4, 8|Conv2d(4, 4|groups=4|ConvTranspose2d(3, 5|in_features=4, out_features=6|BatchNorm2d(5
        |LayerNorm((6,)|GroupNorm(2, 6|Embedding(10, 6)|PReLU(num_parameters=6)"""
    for part in parts.split("|"):
        assert part.strip() in text


def test_shared_tensors_stay_shared_and_frozen_ones_frozen():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    model[0].weight.requires_grad_(False)
    Narrow(shapes={"0.weight": (2, 2), "1.weight": (2, 2)})(model)
    assert model[0].weight is model[1].weight
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("shapes", [{"1.weight": (2, 2)}, {"0.scale": (2,)}, {"0.weight": (2,)}])
def test_a_record_of_another_model_is_refused(shapes):
    with pytest.raises(ArtifactError, match=r"narrows '.*' to .*, which its architecture does not hold"):
        Narrow(shapes=shapes)(nn.Sequential(nn.Linear(4, 4)))
