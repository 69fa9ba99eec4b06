import pytest
from pydantic import ValidationError
from torch import nn

from compress_cli.networks.models import Model

TABLE = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]  # table 2: t, c, n


def by_hand(width, classes):
    """Parameters for three colours, with no rounding to do."""
    before, total = int(32 * width), 27 * int(32 * width) + 2 * int(32 * width)
    for expansion, channels, blocks in TABLE:
        after = int(channels * width)
        for _ in range(blocks):
            inside = expansion * before
            total += (
                (before * inside + 2 * inside if expansion > 1 else 0) + 9 * inside + 2 * inside + inside * after + 2 * after
            )
            before = after
    return total + before * 1280 + 2 * 1280 + 1280 * classes + classes


def test_size_is_that_of_the_distillation_literature(parameters):
    count = parameters({"type": "mobilenet_v2", "width": 0.5})
    assert count == by_hand(0.5, 100) == 812_548
    assert round(count / 1e6, 2) == 0.81


def test_size_is_that_of_the_paper_at_its_settings(parameters):
    settings = {"type": "mobilenet_v2", "strides": [2, 1, 2, 2, 2, 1, 2, 1], "multiple": 8, "dropout": 0.2}
    assert parameters(settings, classes=1000) == by_hand(1.0, 1000) == 3_504_872  # as torchvision's mobilenet_v2


def test_channels_are_rounded_as_by_the_authors(network):
    body = network({"type": "mobilenet_v2", "width": 0.35, "multiple": 8}).body
    ends = [[module for module in layer.modules() if isinstance(module, nn.Conv2d)][-1].out_channels for layer in body[:8]]
    assert ends == [16, 8, 8, 16, 24, 32, 56, 112]


def test_the_last_convolution_grows_but_never_shrinks(network):
    assert network({"type": "mobilenet_v2", "width": 0.25}).body.fc.in_features == 1280
    assert network({"type": "mobilenet_v2", "width": 1.5}).body.fc.in_features == 1920


@pytest.mark.parametrize(("activation", "kind"), [("relu6", nn.ReLU6), ("relu", nn.ReLU)])
def test_every_activation_is_the_one_asked_for(activation, kind, network):
    body = network({"type": "mobilenet_v2", "width": 0.125, "activation": activation}).body
    activations = [type(module) for module in body.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    assert activations == [kind] * (1 + 1 + 2 * 16 + 1)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"width": 0.0}, "greater than 0"), ({"strides": [2, 1]}, "at least 8"), ({"strides": [3] * 8}, "1 or 2")],
)
def test_settings_that_make_no_network_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Model.model_validate({"type": "mobilenet_v2", **settings})
