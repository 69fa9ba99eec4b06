"""Every activation of PyTorch, in place too, leaves channels where they are; gated ones pair them."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress_cli.networks import narrowing
from compress_cli.pruning import channels, dependency_graph

pytestmark = pytest.mark.usefixtures("one_thread")

ACROSS_CHANNELS = {"Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
ARGUMENTS = {"Threshold": (0.1, 0.2), "PReLU": (6,), "threshold_": (0.1, 0.2)}
CLASSES = set(nn.modules.activation.__all__) - ACROSS_CHANNELS - {"GLU", "MultiheadAttention"}
NO_ACTIVATIONS = {"scaled_addmm_"}
IN_PLACE = [name for name in dir(functional) if name[0] != "_" and name[-1] == "_" and name not in NO_ACTIVATIONS]
METHODS = ("abs_", "clamp_", "exp_", "mul_", "neg_", "sigmoid_", "square_", "tanh_")
OPERANDS = {"clamp_": (-0.5, 0.5), "mul_": (2.0,)}


class Function(nn.Module):
    def __init__(self, function, arguments=()):
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x):
        return self.function(x, *self.arguments)


def layers():
    """Name -> an activation of six channels."""
    found = {}
    for name in sorted(CLASSES):
        kind, arguments = getattr(nn, name), ARGUMENTS.get(name, ())
        found[name] = kind(*arguments)
        if "inplace" in inspect.signature(kind).parameters:
            found[f"{name} in place"] = kind(*arguments, inplace=True)
    found |= {name: Function(getattr(functional, name), ARGUMENTS.get(name, ())) for name in IN_PLACE}
    return found | {f"Tensor.{name}": Function(getattr(torch.Tensor, name), OPERANDS.get(name, ())) for name in METHODS}


def drawn(activation, read=6):
    """Two convolutions with the activation between, weights without any symmetry, and their groups."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), activation, nn.Conv2d(read, 5, 1)).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    inputs = torch.randn(2, 3, 4, 4)
    return module, inputs, dependency_graph.build(module, (inputs,))


def compared(module, inputs, groups, removed):
    """What the module without these channels computes, and what it computes with them masked."""
    silent = copy.deepcopy(module)
    silent.load_state_dict(channels.masked(module, groups, removed))
    expected = silent(inputs)
    narrowing.narrow(module, groups, removed)
    return module(inputs), expected


def test_the_list_of_activations_holds_what_networks_use():
    assert {"ReLU in place", "Hardswish in place", "SiLU in place", "Mish", "PReLU", "RReLU", "hardtanh_"} <= set(layers())


@pytest.mark.parametrize("name", layers())
def test_an_activation_is_followed_and_the_cut_network_computes_what_the_masked_one_does(name):
    with torch.no_grad():
        module, inputs, dependencies = drawn(layers()[name])
        assert {group.layer: group.channels for group in dependencies.groups} == {"0": 6}
        before = module(inputs)
        after, expected = compared(module, inputs, dependencies.groups, [torch.tensor([1, 4])])
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, expected)


def test_a_gated_linear_unit_loses_a_channel_of_each_half():
    with torch.no_grad():
        module, inputs, dependencies = drawn(nn.GLU(1), read=3)
        assert [(group.layer, group.channels, group.multiple) for group in dependencies.groups] == [("0", 3, 2)]
        after, expected = compared(module, inputs, dependencies.groups, [torch.tensor([1])])
    assert (module[0].out_channels, module[2].in_channels) == (4, 2)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("name", sorted(ACROSS_CHANNELS))
def test_an_activation_over_all_channels_keeps_them(name):
    kind = getattr(nn, name)
    _, _, dependencies = drawn(kind() if name == "Softmax2d" else kind(dim=1))
    assert dependencies.groups == ()
    assert dependencies.whole["0"].endswith("takes all of them together")
