"""Networks with dense heads: every axis of a head is compared, and its outputs carry its class axis."""

import pytest
import torch
from torch import nn

from compress_cli.data.batch import Batch
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import StageError
from compress_cli.networks import features, restore
from compress_cli.networks.models import Model

TOKENS = Input(shape=(5, 4))


class Tagger(Model):
    """Gives (N, T, 3), or (N, 3, T) where classes come first."""

    first: bool = False

    def build(self, signature):
        return nn.Sequential(nn.Linear(4, 3), nn.Flatten(2) if not self.first else Transposed())


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def signature(**head):
    return Signature(inputs={"x": TOKENS}, heads={"tags": Head(**head)})


@pytest.mark.parametrize(
    ("first", "shape", "class_axis"), [(False, (5, 3), 1), (True, (3, 5), 0), (False, (None, 3), 1), (False, (5, 3), None)]
)
def test_outputs_carry_the_class_axis_of_a_batch(first, shape, class_axis):
    network = restore.build(Tagger(first=first), signature(shape=shape, class_axis=class_axis), 0).network
    batch = Batch({"x": torch.zeros(2, 5, 4)}, {}, torch.arange(2))
    outputs = features.outputs(network, network.signature, batch, (), {})
    assert outputs.class_axes == {"tags": None if class_axis is None else class_axis + 1}
    if class_axis is not None:
        assert outputs.heads["tags"].shape[outputs.class_axes["tags"]] == 3


@pytest.mark.parametrize(("first", "gives"), [(False, "5 x 3"), (True, "3 x 5")])
def test_a_head_of_another_shape_is_refused_whatever_its_last_axis(first, gives):
    wrong = [(3,), (5,), (4, 3), (4, 5), (3, None, 5), (None, 4)]
    for shape in wrong:
        asked = " x ".join("any" if size is None else str(size) for size in shape)
        with pytest.raises(StageError, match=rf"gives heads tags \({gives}\), and the data asks for tags \({asked}\)"):
            restore.build(Tagger(first=first), signature(shape=shape), 0)
