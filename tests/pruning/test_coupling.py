"""Residual streams of vision transformers are cut: their code reads widths, or divides them by the number of heads."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress_cli.networks import narrowing
from compress_cli.networks.edits.narrow import Narrow
from compress_cli.networks.narrowing import Proof
from compress_cli.pruning import channels, coupling, dependency_graph
from compress_cli.stages import _cut

pytestmark = pytest.mark.usefixtures("one_thread")


def vit():
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 4, "hidden_dim": 24, "mlp_dim": 40}
    return VisionTransformer(**sizes, num_classes=5)


def swin(version):
    from torchvision.models import swin_transformer as swins

    settings = {}
    if version == 2:
        settings = {"block": swins.SwinTransformerBlockV2, "downsample_layer": swins.PatchMergingV2}
    return swins.SwinTransformer([2, 2], 12, [2, 2], [3, 6], [4, 4], num_classes=5, **settings)


IMAGES = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)
STREAMS = {  # layer -> (channels, multiple)
    "vit": {"conv_proj": (24, 1)},
    "swin": {"features.0.0": (3, 4), "features.2.reduction": (6, 4)},
    "swin_v2": {"features.0.0": (3, 4), "features.2.reduction": (6, 4)},
}
BUILDERS = {"vit": vit, "swin": lambda: swin(1), "swin_v2": lambda: swin(2)}


def enlivened(module):
    """In evaluation mode, with weights none of which is zero or equals another."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1)
    return module.eval()


def over_what_remains(x, shape, weight=None, bias=None, eps=1e-5):
    """Layer normalisation of the channels whose scale is not 0 alone; the others become 0."""
    there = (weight != 0).to(x)
    mean = (x * there).sum(-1, keepdim=True) / there.sum()
    variance = ((x - mean).square() * there).sum(-1, keepdim=True) / there.sum()
    return (x - mean) / (variance + eps).sqrt() * weight + bias


@pytest.mark.parametrize("name", BUILDERS)
def test_the_residual_stream_of_a_vision_transformer_is_cut_exactly(name, monkeypatch):
    module = enlivened(BUILDERS[name]()).double()
    inputs = tuple(image.double() for image in IMAGES)
    edits = narrowing.open_attention(module)
    proof = Proof(module, inputs)
    groups, whole = _cut.cuttable(module, inputs, (), proof)
    assert STREAMS[name].items() <= {group.layer: (group.channels, group.multiple) for group in groups}.items()
    assert len(whole) == 1  # the classifier
    assert not {layer for group in groups for layer in group.coupled} & {group.layer for group in groups}
    removed = [torch.arange(1, group.channels, 2) for group in groups]
    silent = copy.deepcopy(module)
    silent.load_state_dict(channels.masked(module, groups, removed))
    with torch.no_grad():
        before = module(*inputs)
        with monkeypatch.context() as patched:
            patched.setattr(functional, "layer_norm", over_what_remains)
            expected = silent(*inputs)
        edits.append(narrowing.narrow(module, groups, removed))
        torch.testing.assert_close(module(*inputs), expected, rtol=1e-9, atol=1e-10)
        assert not torch.allclose(before, expected, rtol=1e-3)
        fresh = BUILDERS[name]().eval().double()
        for edit in edits:
            edit(fresh)
        fresh.load_state_dict(module.state_dict())
        torch.testing.assert_close(fresh(*inputs), expected, rtol=1e-9, atol=1e-10)


def test_the_stream_of_a_vision_transformer_takes_class_token_positions_and_the_width_in_code_along():
    module = enlivened(vit())
    narrowing.open_attention(module)
    groups, _ = _cut.cuttable(module, IMAGES, (), Proof(module, IMAGES))
    stream = next(group for group in groups if group.layer == "conv_proj")
    edit = narrowing.narrow(module, [stream], [torch.arange(10)])
    assert edit.shapes["class_token"] == (1, 1, 14)
    assert edit.shapes["encoder.pos_embedding"] == (1, 17, 14)
    assert edit.numbers["hidden_dim"] == 14 == module.hidden_dim
    assert module.encoder.layers.encoder_layer_0.self_attention.num_heads == 4


def test_a_stream_that_lost_heads_is_cut_again():
    module = enlivened(swin(1))
    before, _ = _cut.cuttable(module, IMAGES, (), Proof(module, IMAGES))
    narrowing.narrow(module, before, [torch.tensor([0]) for _ in before])
    proof = Proof(module, IMAGES)
    after, _ = _cut.cuttable(module, IMAGES, (), proof, before)
    assert [(group.layer, group.coupled) for group in after] == [(group.layer, group.coupled) for group in before]
    assert {group.layer: group.channels for group in after}["features.2.reduction"] == 5
    assert proof.holds(after, [torch.tensor([1]) for _ in after])


def test_heads_of_different_numbers_are_not_coupled():
    stream, two, three = (group(name, count) for name, count in (("stream", 12), ("two", 2), ("three", 3)))
    assert coupling.coupled(stream, [two, three]) is None
    assert coupling.coupled(group("stream", 13), [two]) is None
    assert coupling.coupled(stream, [three]).channels == 3


def group(name, count):
    index = torch.arange(count if name == "stream" else 12).reshape(count, -1)
    part = channels.Part(f"{name}.weight", "makes", torch.zeros(12, 12), 0, index)
    return channels.Group(name, count, index.shape[1], (part,))


class Shaped(nn.Module):
    """A scale whose code keeps its shape as a tuple."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.shape = nn.Parameter(torch.ones(width)), (width, 1, 1)

    def forward(self, x):
        return x * self.scale.view(self.shape)


def test_a_width_in_a_tuple_of_the_code_follows():
    module = enlivened(nn.Sequential(nn.Conv2d(3, 8, 1), Shaped(8), nn.Conv2d(8, 5, 1)))
    (found,) = Proof(module, IMAGES).provable(dependency_graph.build(module, IMAGES).groups)
    edit = narrowing.narrow(module, [found], [torch.tensor([1, 4, 6])])
    assert module[1].shape == (5, 1, 1)
    fresh = nn.Sequential(nn.Conv2d(3, 8, 1), Shaped(8), nn.Conv2d(8, 5, 1))
    Narrow(shapes=edit.shapes, numbers=edit.numbers)(fresh)
    assert fresh[1].shape == (5, 1, 1)
    assert fresh(*IMAGES).shape == (2, 5, 16, 16)


def test_a_number_that_equals_the_width_by_chance_keeps_its_value():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.features = nn.Conv2d(3, 8, 1), nn.Linear(8 * 8 * 2, 5), 8

        def forward(self, x):
            return self.two(functional.adaptive_avg_pool2d(self.one(x), (self.features, 2)).flatten(1))

    module = enlivened(Pooled())
    (found,) = Proof(module, IMAGES).provable(dependency_graph.build(module, IMAGES).groups)
    assert narrowing.narrow(module, [found], [torch.tensor([3])]).numbers == {}
    assert module.features == 8


def test_a_layer_that_stands_in_two_places_is_cut_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
            self.again = nn.ModuleList([self.norm, nn.ReLU()])

        def forward(self, x):
            x = self.first(x)
            return self.last(self.again[1](self.again[0](x)) + self.norm(x))

    module = enlivened(Twice())
    groups = dependency_graph.build(module, IMAGES).groups
    proof = Proof(module, IMAGES)
    assert proof.provable(groups) == list(groups)
    assert proof.provable(groups) == list(groups)  # the proof leaves the layer as it was
    silent = copy.deepcopy(module)
    silent.load_state_dict(channels.masked(module, groups, [torch.tensor([2, 5])]))
    narrowing.narrow(module, groups, [torch.tensor([2, 5])])
    assert module.again[0] is module.norm
    torch.testing.assert_close(module(*IMAGES), silent(*IMAGES))
