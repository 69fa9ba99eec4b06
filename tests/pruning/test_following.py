"""Channels followed through code: moves, splits, attention; a cut computes what the masked model does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress_cli.networks import narrowing
from compress_cli.networks.narrowing import Proof
from compress_cli.pruning import channels, dependency_graph

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(module, *inputs):
    """The module with weights that no channel shares with another, its inputs, its groups, and those that are proved."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1)
    edits = narrowing.open_attention(module.eval())
    groups = dependency_graph.build(module, inputs).groups
    proved = [group.layer for group in Proof(module, inputs).provable(groups)]
    return groups, proved, edits


def named(groups):
    return {group.layer: (group.channels, group.multiple) for group in groups}


def halved(module, groups, *inputs):
    """What the module computes without the first half of each group's channels, and what it computes with these masked."""
    removed = [torch.arange(group.channels // 2) for group in groups]
    silent = copy.deepcopy(module)
    silent.load_state_dict(channels.masked(module, groups, removed))
    expected = silent(*inputs)
    narrowing.narrow(module, groups, removed)
    return module(*inputs), expected


class Attention(nn.Module):
    """Query, key and value by three layers, or by one; heads counted by an attribute."""

    def __init__(self, fused, kernel):
        super().__init__()
        self.num_heads, self.head_dim, self.kernel = 4, 6, kernel
        names = {"qkv": 72} if fused else {"q": 24, "k": 24, "v": 24}
        self.embed, self.out, self.fc = nn.Linear(5, 16), nn.Linear(24, 16), nn.Linear(16, 3)
        for name, width in names.items():
            self.add_module(name, nn.Linear(16, width))

    def forward(self, x):
        x = self.embed(x)
        n, t, _ = x.shape
        if hasattr(self, "qkv"):
            q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (layer(x).view(n, t, self.num_heads, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.kernel:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) / self.head_dim**0.5).softmax(-1) @ v
        return self.fc((x + self.out(mixed.transpose(1, 2).reshape(n, t, -1))).mean(1))


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("fused", "layer"), [(True, "qkv"), (False, "q")])
def test_whole_heads_are_cut(fused, layer, kernel):
    module, inputs = Attention(fused, kernel), torch.randn(2, 7, 5)
    groups, proved, _ = drawn(module, inputs)
    assert named(groups) == {"embed": (16, 1), layer: (4, 18 if fused else 6)}
    assert proved == ["embed", layer]
    after, expected = halved(module, groups, inputs)
    assert module.num_heads == 2
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_heads_of_pytorchs_attention_are_cut_and_the_record_replays():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.embed, self.layers, self.fc = nn.Linear(5, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x):
            return self.fc(self.layers(self.embed(x)).mean(1))

    module, inputs = Encoder(), torch.randn(2, 7, 5)
    with torch.no_grad():
        groups, proved, edits = drawn(module, inputs)
        heads = [group for group in groups if group.layer.endswith("self_attn")]
        assert [(group.channels, group.multiple) for group in heads] == [(4, 12), (4, 12)]
        assert {group.layer for group in heads} <= set(proved)
        edits.append(narrowing.narrow(module, heads, [torch.tensor([1, 3]), torch.tensor([0])]))
        fresh = Encoder().eval()
        for edit in edits:
            edit(fresh)
        fresh.load_state_dict(module.state_dict())
        assert [layer.self_attn.num_heads for layer in fresh.layers.layers] == [2, 3]
        torch.testing.assert_close(fresh(inputs), module(inputs))


@pytest.mark.parametrize("need_weights", [True, False])
def test_an_opened_attention_computes_what_pytorchs_does(need_weights):
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(16, 4, batch_first=True).eval(), torch.randn(3, 7, 16)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = True
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    settings = {"key_padding_mask": padding, "attn_mask": causal, "need_weights": need_weights}
    expected, shares = layer(x, x, x, **settings)
    narrowing.open_attention(holder := nn.ModuleList([layer]))
    after, own = holder[0](x, x, x, **settings)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    assert (own is None) == (shares is None)
    if shares is not None:
        torch.testing.assert_close(own, shares)


class Halves(nn.Module):
    """Half of the channels passes by, the other half is computed with; then they are shuffled (ShuffleNetV2's block)."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 24, 1), nn.Linear(24, 5)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1)) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            kept, taken = x.chunk(2, 1)
            x = torch.cat([kept, block(taken)], 1)
            x = x.view(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.fc(x.mean((2, 3)))


def test_halves_that_are_shuffled_together_lose_the_same_places():
    module, inputs = Halves(), torch.randn(2, 3, 4, 4)
    groups, proved, _ = drawn(module, inputs)
    assert named(groups) == {"stem": (6, 4), "blocks.0.0": (8, 1), "blocks.1.0": (8, 1)}
    assert set(proved) == set(named(groups))
    after, expected = halved(module, groups, inputs)
    assert module.stem.out_channels == 12
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_a_depthwise_convolution_with_several_channels_out_of_each():
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(), nn.Conv2d(12, 4, 2), nn.Flatten())
    inputs = torch.randn(2, 3, 4, 4)
    groups, proved, _ = drawn(module, inputs)
    assert named(groups) == {"0": (6, 1)}
    assert proved == ["0"]
    after, expected = halved(module, groups, inputs)
    assert (module[1].in_channels, module[1].out_channels, module[1].groups) == (3, 6, 3)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


class Conv1D(nn.Module):
    """As Hugging Face has it: a linear layer whose weight is (in, out), computed by addmm."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx, self.weight, self.bias = nf, nx, nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


def test_a_linear_layer_of_another_library_is_followed():
    module, inputs = nn.Sequential(Conv1D(8, 5), nn.ReLU(), Conv1D(3, 8)), torch.randn(2, 4, 5)
    groups, proved, _ = drawn(module, inputs)
    assert named(groups) == {"0": (8, 1)}
    assert [part.role for part in groups[0].parts] == ["other", "makes", "reads"]
    assert proved == ["0"]
    after, expected = halved(module, groups, inputs)
    assert (module[0].nf, module[2].nx) == (4, 4)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_an_operation_that_is_not_known_keeps_its_channels():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.two(self.one(x).sort(-1).values)

    dependencies = dependency_graph.build(Sorted(), (torch.rand(2, 4),))
    assert dependencies.groups == ()
    assert dependencies.whole["one"] == "the operation 'sort' takes them, through which channels can't be followed"


def test_a_convolution_of_one_channel_is_not_depthwise():
    module, inputs = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten()), torch.randn(2, 1, 6, 6)
    groups, proved, _ = drawn(module, inputs)
    assert proved == ["0"]
    after, expected = halved(module, groups, inputs)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_channels_that_a_constant_of_the_code_takes_part_in_stay_whole():
    """A buffer outside the state dict, such as a front end's filters, could be cut in no file of weights."""

    class Filters(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("bands", torch.rand(6, 9, 1), persistent=False)
            self.conv = nn.Conv1d(6, 8, 1)
            self.fc = nn.Conv1d(8, 3, 1)

        def forward(self, sound):
            return self.fc(self.conv(nn.functional.conv1d(sound, self.bands)))

    groups, proved, _ = drawn(Filters(), torch.rand(2, 9, 5))
    assert proved == ["conv"]
    assert all("bands" not in part.name for group in groups for part in group.parts)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_is_cut_with_its_channels_where_it_is_stored(persistent):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer("scale", torch.arange(1.0, 7.0), persistent)

        def forward(self, x):
            return self.two(self.one(x) * self.scale)

    module, inputs = Scaled(), torch.randn(2, 4)
    groups, proved, _ = drawn(module, inputs)
    assert proved == (["one"] if persistent else [])
    if persistent:
        after, expected = halved(module, groups, inputs)
        assert module.scale.tolist() == [4.0, 5.0, 6.0]
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_an_opened_attention_is_recorded_for_any_number_of_samples():
    """Which an export needs."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    narrowing.open_attention(layer)
    x = torch.randn(3, 7, 16)
    graph = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    torch.testing.assert_close(graph(x[:2]), layer(x[:2]))


class SplitAttention(nn.Module):
    """Two branches of a convolution are weighed by a softmax over branches and added (ResNeSt)."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.conv(x)
        x = x.reshape(len(x), 2, -1, *x.shape[2:])
        shares = self.fc(functional.hardswish(x.sum(1).mean((2, 3), keepdim=True)))
        shares = shares.reshape(len(x), 2, -1, 1, 1).softmax(1)
        return self.last((x * shares).sum(1))


def test_branches_that_are_added_lose_the_same_places():
    module, inputs = SplitAttention(), torch.randn(2, 3, 4, 4)
    groups, proved, _ = drawn(module, inputs)
    assert named(groups) == {"conv": (8, 2)}
    assert proved == ["conv"]
    after, expected = halved(module, groups, inputs)
    assert (module.conv.out_channels, module.fc.in_channels, module.fc.out_channels) == (8, 4, 8)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_a_sum_over_all_channels_keeps_them():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(1, 2)

        def forward(self, x):
            return self.two(self.one(x).sum(-1, keepdim=True))

    dependencies = dependency_graph.build(Summed(), (torch.rand(2, 4),))
    assert dependencies.groups == ()
    assert dependencies.whole["one"] == "the operation 'sum' takes all of them together"


def test_a_layer_normalisation_over_the_second_axis_is_followed_and_proved():
    """ConvNeXt's: the axes are permuted around it."""

    class Normalised(nn.LayerNorm):
        def forward(self, x):
            x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
            return x.permute(0, 3, 1, 2)

    module, inputs = nn.Sequential(nn.Conv2d(3, 8, 1), Normalised(8), nn.Conv2d(8, 5, 1)), torch.randn(2, 3, 4, 4)
    groups, proved, _ = drawn(module, inputs)
    assert named(groups) == {"0": (8, 1)}
    assert proved == ["0"]
    narrowing.narrow(module, groups, [torch.tensor([0, 5])])
    assert module[1].normalized_shape == (6,)
    assert module(inputs).shape == (2, 5, 4, 4)
