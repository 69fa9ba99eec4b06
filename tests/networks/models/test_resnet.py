import pytest
import torch
from pydantic import ValidationError

from compress_cli.networks.features import observe
from compress_cli.networks.models import Model


def by_hand(depth, stem, widths, classes):
    """Parameters of a network for three colours: 3 x 3 convolutions, two numbers a channel for each normalisation."""
    blocks, total, before = (depth - 2) // 6, 27 * stem + 2 * stem, stem
    for stage, width in enumerate(widths):
        total += 9 * before * width + (2 * blocks - 1) * 9 * width * width + blocks * 4 * width
        if stage > 0 or before != width:
            total += before * width + 2 * width
        before = width
    return total + before * classes + classes


X4 = {"widths": [64, 128, 256], "stem": 32}


@pytest.mark.parametrize(
    ("settings", "published"),
    [
        ({"depth": 20}, 0.28),
        ({"depth": 32}, 0.47),
        ({"depth": 44}, 0.67),
        ({"depth": 56}, 0.86),
        ({"depth": 110}, 1.74),  # some tables cut it off to 1.73
        ({"depth": 8, **X4}, 1.23),
        ({"depth": 32, **X4}, 7.43),
    ],
)
def test_sizes_are_those_of_the_distillation_literature(settings, published, parameters):
    count = parameters({"type": "resnet", **settings})
    assert round(count / 1e6, 2) == published
    assert count == by_hand(settings["depth"], settings.get("stem", 16), settings.get("widths", [16, 32, 64]), 100)


def test_a_sum_is_what_the_stage_gives_before_its_activation(settled):
    net = settled({"type": "resnet", "depth": 14, "widths": [4, 6, 8]}, pixels=16)
    with torch.no_grad(), observe(net, ("layer2", "layer2.1.sum")) as seen:
        net(255 * torch.rand(2, 3, 16, 16))
    assert (seen["layer2.1.sum"] < 0).any()
    assert torch.equal(seen["layer2.1.sum"].relu(), seen["layer2"])


def test_the_stem_is_as_wide_as_the_first_stage_unless_said_otherwise(network):
    assert network({"type": "resnet", "depth": 8, "widths": [4, 6, 8]}).body.conv1.out_channels == 4
    assert network({"type": "resnet", "depth": 8, "widths": [4, 6, 8], "stem": 5}).body.conv1.out_channels == 5


@pytest.mark.parametrize(("form", "before"), [("padding", [8, 16]), ("padding_behind", [0, 0])])
def test_zeros_lie_on_both_sides_as_in_published_weights_or_behind(form, before, network):
    """The code that the widely used CIFAR weights come from pads planes // 4 on both sides."""
    body = network({"type": "resnet", "depth": 8, "shortcut": form}).body
    for stage, zeros in zip((body.layer2, body.layer3), before, strict=True):
        planes = stage[0].conv1.out_channels
        x = torch.rand(1, planes // 2, 8, 8) + 1
        expected = torch.zeros(1, planes, 4, 4)
        expected[:, zeros : zeros + planes // 2] = x[:, :, ::2, ::2]
        assert zeros in (planes // 4, 0)
        assert torch.equal(stage[0].shortcut(x), expected)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"depth": 21}, "6n \\+ 2, such as 20"),
        ({"widths": [16, 32, 0]}, "greater than 0"),
        ({"widths": [16, 32]}, "at least 3"),
        ({"stem": 0}, "greater than or equal to 1"),
        ({"stem": 32, "shortcut": "padding"}, "'padding' adds channels, so widths must not shrink"),
        ({"stem": 32, "shortcut": "padding_behind"}, "'padding_behind' adds channels, so widths must not shrink"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Model.model_validate({"type": "resnet", **settings})
