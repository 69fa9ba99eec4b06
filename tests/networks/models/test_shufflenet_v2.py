import pytest
import torch
from pydantic import ValidationError

from compress_cli.networks.models import Model


def by_hand(widths, blocks, last, classes):
    """Parameters for three colours and a stem of 24."""
    before, total = 24, 3 * 24 + 2 * 24
    for width, count in zip(widths, blocks, strict=True):
        half = width // 2
        total += (9 + 2) * before + (before + 2) * half  # short branch
        total += (before + 2) * half + (9 + 2) * half + (half + 2) * half
        total += (count - 1) * (2 * (half + 2) * half + (9 + 2) * half)
        before = width
    return total + (before + 2) * last + last * classes + classes


def test_size_is_that_of_the_distillation_literature(parameters):
    count = parameters("shufflenet_v2")
    assert count == by_hand((116, 232, 464), (4, 8, 4), 1024, 100)
    assert round(count / 1e6, 2) == 1.36


def test_half_of_the_channels_passes_a_block_untouched(settled):
    net = settled({"type": "shufflenet_v2", "widths": [8, 16, 24], "blocks": [2, 1, 1], "stem": 4, "last": 8}, pixels=8).body
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        out = net.layer1[1](x)
        assert torch.equal(out[:, 0::2], x[:, :4])
        torch.testing.assert_close(out[:, 1::2], net.layer1[1].branch(x[:, 4:]))


@pytest.mark.parametrize("widths", [[115, 232, 464], [0, 2, 4]])
def test_odd_widths_are_refused(widths):
    with pytest.raises(ValidationError, match=r"multiple of 2|greater than or equal to 2"):
        Model.model_validate({"type": "shufflenet_v2", "widths": widths})
