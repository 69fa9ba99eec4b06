from itertools import pairwise

import pytest
import torch
from torch import nn

from compress_cli.errors import RecipeError
from compress_cli.networks.models.vgg import Vgg

S = [64, 128, 256, 512, 512]
A = [64, 128, 256, 256, 512, 512, 512, 512]
B = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
D = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
E = [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512]


def by_hand(widths):
    """Filters with a bias, two numbers a channel for the normalisation, a hundred classes."""
    return sum(9 * before * after + 3 * after for before, after in pairwise([3, *widths])) + 512 * 100 + 100


@pytest.mark.parametrize(("depth", "widths"), [(8, S), (11, A), (13, B), (16, D), (19, E)])
def test_the_convolutions_are_those_of_the_tables(depth, widths, signature):
    with torch.device("meta"):
        net = Vgg(depth=depth).build(signature())
    assert [module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d)] == widths
    assert sum(parameter.numel() for parameter in net.parameters()) == by_hand(widths)


@pytest.mark.parametrize(("depth", "published"), [(8, 3.97), (13, 9.46)])
def test_sizes_are_those_of_the_distillation_literature(depth, published, parameters):
    assert round(parameters({"type": "vgg", "depth": depth}) / 1e6, 2) == published


def test_too_few_pixels_are_refused_with_the_size_that_is_needed(network):
    narrow = {"type": "vgg", "depth": 8, "widths": [4, 4, 4, 4, 4]}
    assert network(narrow, pixels=8).eval()(torch.rand(2, 3, 8, 8))["label"].shape == (2, 100)
    with pytest.raises(RecipeError, match="needs 8 x 8 pixels; the dataset gives 7 x 7"):
        network(narrow, pixels=7)


@pytest.mark.parametrize(("pixels", "pools"), [(32, 3), (63, 3), (64, 4)])
def test_larger_pictures_are_halved_once_more(pixels, pools, network):
    net = network({"type": "vgg", "depth": 8, "widths": [4, 4, 4, 4, 4]}, pixels=pixels)
    assert sum(isinstance(module, nn.MaxPool2d) for module in net.modules()) == pools
