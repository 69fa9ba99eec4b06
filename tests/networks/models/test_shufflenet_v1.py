import pytest
import torch
from pydantic import ValidationError

from compress_cli.networks.features import observe
from compress_cli.networks.models import Model


def by_hand(widths, blocks, groups, classes):
    """Parameters for three colours and a stem of 24; a grouped 1 x 1 convolution has 1 / groups of the weights."""
    before, total = 24, 3 * 24 + 2 * 24
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            convolved = width - before if block == 0 else width  # the pooled input is appended
            narrow, read = convolved // 4, before // (1 if stage == block == 0 else groups)
            total += read * narrow + 9 * narrow + narrow // groups * convolved + 2 * (narrow + narrow + convolved)
            before = width
    return total + before * classes + classes


def test_size_is_that_of_the_distillation_literature(parameters):
    count = parameters("shufflenet_v1")
    assert count == by_hand((240, 480, 960), (4, 8, 4), 3, 100)
    assert round(count / 1e6, 2) == 0.95


@pytest.mark.parametrize(("groups", "first"), [(1, 144), (2, 200), (4, 272), (8, 384)])
def test_the_papers_other_widths_build_and_run(groups, first, network):
    settings = {"type": "shufflenet_v1", "groups": groups, "widths": [first, 2 * first, 4 * first], "blocks": [1, 2, 1]}
    assert network(settings, pixels=8).eval()(torch.rand(1, 3, 8, 8))["label"].shape == (1, 100)


def test_the_pooled_input_stands_behind_the_convolved_channels(settled):
    net = settled({"type": "shufflenet_v1", "widths": [36, 60, 84], "blocks": [1, 1, 1], "stem": 12}, pixels=16)
    with torch.no_grad(), observe(net, ("relu", "layer1", "layer1.0.bn3")) as seen:
        net(255 * torch.rand(2, 3, 16, 16))
    pooled = torch.nn.functional.avg_pool2d(seen["relu"], 3, stride=2, padding=1)
    torch.testing.assert_close(seen["layer1"], torch.cat([seen["layer1.0.bn3"].relu(), pooled], dim=1))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"widths": [241, 480, 960]}, "multiples of groups"), ({"widths": [30, 60, 90]}, "30 after 24 is too narrow: 36 or more")],
)
def test_settings_that_make_no_network_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Model.model_validate({"type": "shufflenet_v1", **settings})
