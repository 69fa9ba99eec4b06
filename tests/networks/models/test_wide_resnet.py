import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from compress_cli.networks.models import Model


def by_hand(depth, widening, classes):
    """Parameters for three colours: normalisation before each convolution, a 1 x 1 convolution where widths change."""
    blocks, before, total = (depth - 4) // 6, 16, 27 * 16
    for stage, width in enumerate((16 * widening, 32 * widening, 64 * widening)):
        total += 9 * before * width + (2 * blocks - 1) * 9 * width * width  # convolutions
        total += 2 * before + (2 * blocks - 1) * 2 * width  # normalisations of what goes into each
        total += before * width if stage or before != width else 0
        before = width
    return total + 2 * before + before * classes + classes


@pytest.mark.parametrize(("depth", "widening", "published"), [(40, 2, 2.26), (16, 2, 0.70), (40, 1, 0.57)])
def test_sizes_are_those_of_the_distillation_literature(depth, widening, published, parameters):
    count = parameters({"type": "wide_resnet", "depth": depth, "widening": widening})
    assert count == by_hand(depth, widening, 100)
    assert round(count / 1e6, 2) == published


@pytest.mark.parametrize(("depth", "widening", "published"), [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0)])
def test_sizes_are_those_of_the_paper(depth, widening, published, parameters):
    """Table 3 and 4 of Zagoruyko & Komodakis, ten classes."""
    assert abs(parameters({"type": "wide_resnet", "depth": depth, "widening": widening}, classes=10) / 1e6 - published) <= 0.05


def test_a_block_adds_the_raw_input_or_projects_the_activated_one(settled):
    net = settled({"type": "wide_resnet", "depth": 16, "widths": [2, 3, 4], "stem": 3}, pixels=16).body
    x = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        same, other = net.layer1[1], net.layer2[0]
        out = same.conv2(functional.relu(same.bn2(same.conv1(functional.relu(same.bn1(x))))))
        torch.testing.assert_close(same(x.clone()), x + out)
        activated = functional.relu(other.bn1(x))
        out = other.conv2(functional.relu(other.bn2(other.conv1(activated))))
        torch.testing.assert_close(other(x.clone()), other.shortcut(activated) + out)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"depth": 20}, "6n \\+ 4, such as"), ({"widening": 0}, "equal to 1"), ({"dropout": 1.0}, "less than 1")],
)
def test_settings_that_make_no_network_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Model.model_validate({"type": "wide_resnet", **settings})
