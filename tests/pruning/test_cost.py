"""Multiply-accumulates and parameters, reckoned on paper."""

import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.networks import narrowing, proof, restore
from compress_cli.networks.edits.narrow import Narrow
from compress_cli.networks.models.ds_cnn import DsCnn
from compress_cli.onnx_graph.contents import contents
from compress_cli.pruning import channels, dependency_graph
from compress_cli.pruning.cost import Cost

SIGNATURE = Signature(inputs={"image": Input(shape=(3, 8, 8))}, heads={"logits": Head(shape=(10,))})
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = (torch.rand(2, 3, 8, 8),)


def test_residual_by_hand(architectures):
    body = architectures["residual"]().build(SIGNATURE)
    groups = dependency_graph.build(body, IMAGES).groups
    cost = Cost(body, IMAGES, groups)
    assert [group.layer for group in groups] == ["stem.0", "first.0", "wide.0"]

    def macs(stem, first, wide):
        at_8 = 64 * 9 * (3 * stem + stem * first + first * stem)
        at_4 = 16 * (9 * stem * wide + stem * wide)
        return at_8 + at_4 + wide * 10

    def parameters(stem, first, wide):
        convs = 9 * (3 * stem + stem * first + first * stem) + stem + 9 * stem * wide + stem * wide + wide
        return convs + 2 * (stem + first + stem + wide) + wide * 10 + 10

    for stem, first, wide in ((16, 32, 24), (8, 32, 24), (16, 8, 24), (5, 7, 11)):
        kept = [stem, first, wide]
        assert cost.macs(kept) == macs(stem, first, wide)
        assert cost.parameters(kept) == parameters(stem, first, wide)
    assert cost.macs() == macs(16, 32, 24)
    assert cost.parameters() == sum(parameter.numel() for parameter in body.parameters())


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat", "grouped", "flat"])
def test_what_was_foretold_is_what_the_cut_model_costs(architectures, name):
    body = architectures[name]().build(SIGNATURE)
    groups = dependency_graph.build(body, IMAGES).groups
    kept = [max(1, group.channels // 3) for group in groups]
    cost = Cost(body, IMAGES, groups)
    foretold = cost.macs(kept), cost.parameters(kept)
    after = channels.cut(body, groups, [torch.arange(group.channels - keep) for group, keep in zip(groups, kept, strict=True)])
    Narrow(shapes={name: tuple(tensor.shape) for name, tensor in after.items()})(body)
    cut = Cost(body, IMAGES)
    assert (cut.macs(), cut.parameters()) == foretold
    assert cut.parameters() == sum(parameter.numel() for parameter in body.parameters())


def test_layers_used_twice_and_shared_weights():
    body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    body[2].weight = body[0].weight
    cost = Cost(body, (torch.rand(2, 5, 4),))
    assert cost.macs() == 2 * 5 * 16  # five positions, two layers
    assert cost.parameters() == 16
    twice = nn.Sequential(body[0], nn.ReLU(), body[0])
    assert Cost(twice, (torch.rand(2, 4),)).macs() == 2 * 16


def test_an_encoder_layer_counts_each_of_its_products():
    """In evaluation PyTorch would compute the whole layer by one operator."""
    body, positions = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 5
    cost = Cost(body, (torch.rand(2, positions, 16),))
    projections = {"self_attn.in_proj_weight": 16 * 48, "self_attn.out_proj.weight": 16 * 16}
    sizes = {**projections, "linear1.weight": 16 * 32, "linear2.weight": 32 * 16}
    assert cost.by_weight() == {name: positions * size for name, size in sizes.items()}


class Heard(nn.Module):
    """A front end of fixed filters, made as the model runs, and one of a stored table; then a layer of weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.arange(6.0), persistent=False)
        self.register_buffer("table", torch.rand(6, 5), persistent=False)
        self.scale = nn.Parameter(torch.ones(4, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, sound):
        filters = (self.rows[:, None] * self.rows[:4]).cos()[:, None]  # (6, 1, 4)
        spectrum = nn.functional.conv1d(sound[:, None], filters, stride=2).mean(2)  # (N, 6)
        mixed = spectrum @ self.table  # (N, 5)
        changed = mixed @ (self.scale * 2).t()  # its factor follows a parameter: no fixed cost
        return self.head(mixed) + (changed @ changed.t()).mean()  # a product of two activations


def test_a_fixed_front_end_counts_and_no_width_changes_it():
    cost = Cost(Heard(), (torch.rand(2, 20),))
    assert cost.fixed == 9 * 6 * 4 + 6 * 5
    assert cost.by_weight() == {"scale": 5 * 4, "head.weight": 5 * 3}  # the factor of `changed` is computed from a parameter
    assert cost.macs() == cost.fixed + 5 * 4 + 5 * 3


def test_what_a_cut_counts_is_what_the_exported_file_counts(tmp_path):
    """A network on raw sound, whose front end is most of its work, counted operator by operator in the file."""
    spec = Input(shape=(2000,), dtype="float32")
    signature = Signature(inputs={"sound": spec}, heads={"logits": Head(shape=(3,))})
    model = DsCnn(rate=8000, channels=8, blocks=1, strides=(2, 2), mels=10, coefficients=4)
    network = restore.build(model, signature, 0).network.eval()
    Onnx().export(network, signature, proof.example(signature), tmp_path / "m.onnx", {})
    cost = Cost(network.body, (torch.randn(2, 2000),))
    assert cost.macs() == contents(tmp_path / "m.onnx").macs
    assert cost.fixed > cost.macs() / 2


def test_a_transposed_convolution_counts_where_it_reads():
    body = nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False)
    assert Cost(body, (torch.rand(1, 4, 5, 5),)).macs() == 25 * 4 * 6 * 4


class Standardised(nn.Conv2d):
    """Each filter has mean 0 and deviation 1, as computed anew in every pass (Qiao et al. 2019, arXiv:1903.10520)."""

    def forward(self, x):
        rows = nn.functional.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return nn.functional.conv2d(x, rows.reshape_as(self.weight), self.bias)


def test_a_weight_that_is_computed_from_another_counts():
    body, inputs = nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), (torch.randn(2, 3, 6, 6),)
    assert Cost(body, inputs).macs() == 4 * 4 * (3 * 8 * 9 + 8 * 4)


def test_layers_whose_weights_are_computed_stay_whole_with_a_reason():
    body = nn.Sequential(nn.Conv2d(3, 6, 1), Standardised(6, 8, 3), nn.ReLU(), Standardised(8, 6, 1), nn.Conv2d(6, 4, 1))
    dependencies = dependency_graph.build(body, (torch.randn(2, 3, 6, 6),))
    assert [group.layer for group in dependencies.groups] == []
    assert dependencies.whole.keys() == {"0", "1", "3", "4"}
    assert "takes all of them together" in dependencies.whole["0"]


class Mixer(nn.Module):
    """Positions are mixed channel by channel, and channels position by position (Tolstikhin et al. 2021, arXiv:2105.01601)."""

    def __init__(self):
        super().__init__()
        self.embed, self.tokens, self.back, self.fc = nn.Linear(3, 10), nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(10, 4)

    def forward(self, x):
        x = self.embed(x)  # (N, 6, 10)
        return self.fc((x + self.back(self.tokens(x.transpose(1, 2)).relu()).transpose(1, 2)).mean(1))


def test_mixing_positions_costs_less_where_there_are_fewer_channels():
    body, inputs = Mixer(), (torch.randn(2, 6, 3),)
    groups = dependency_graph.build(body, inputs).groups
    cost = Cost(body, inputs, groups)
    assert [group.layer for group in groups] == ["embed", "tokens"]
    assert cost.macs([10, 7]) == 6 * 3 * 10 + 10 * (6 * 7 + 7 * 6) + 10 * 4
    assert cost.macs([4, 5]) == 6 * 3 * 4 + 4 * (6 * 5 + 5 * 6) + 4 * 4
    narrowing.narrow(body, groups, [torch.arange(6), torch.arange(2)])
    assert Cost(body, inputs).macs() == cost.macs([4, 5])
