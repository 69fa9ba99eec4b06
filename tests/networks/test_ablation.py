"""Outputs without one layer or another are those of plain passes, to the last bit."""

import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.networks import ablation, bypassing
from compress_cli.networks.edits.bypass import Bypass
from compress_cli.networks.models import Network
from compress_cli.networks.models.resnet import Resnet

IMAGE = (3, 8, 8)
SIGNATURE = Signature(inputs={"image": Input(shape=IMAGE)}, heads={"logits": Head(shape=(4,))})
CALLS = []


class Block(nn.Module):
    def __init__(self, as_tuple=False):
        super().__init__()
        self.conv, self.as_tuple = nn.Conv2d(3, 3, 3, padding=1), as_tuple

    def forward(self, x):
        CALLS.append(self)
        y = x + torch.tanh(self.conv(x))
        return (y, None) if self.as_tuple else y


class Twisted(nn.Module):
    """Blocks of which one is called twice, one gives a tuple, one's output is changed in place and read again at the end."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block(as_tuple=True), Block(), Block()])
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        first, second, third, *rest = self.blocks
        early = first(x)
        x = second(torch.relu_(early))
        x = third(second(x))[0]
        for block in rest:
            x = block(x)
        return self.head((x + early).mean((2, 3)))


@pytest.fixture(params=[Twisted, lambda: Resnet(depth=20).build(SIGNATURE)], ids=["twisted", "resnet"])
def network(request):
    torch.manual_seed(0)
    return Network(request.param(), SIGNATURE).eval()


@pytest.fixture
def images():
    return torch.rand(5, *IMAGE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 3, 9])
def test_outputs_without_a_layer_are_those_of_a_plain_pass(network, images, count):
    found = bypassing.candidates(network.body, (images,))
    names = [*found][:count]
    outputs = dict(ablation.without_each(network, found, names, (images,)))
    assert set(outputs) == set(names)
    blocks = {name: network.body.get_submodule(name) for name in found}
    for name in names:
        Bypass(layers=(name,), tuples=(name,) if found[name] else ())(network.body)
        with torch.inference_mode():
            plain = network(images)["logits"].numpy()
        assert outputs[name]["logits"].tobytes() == plain.tobytes()
        network.body.set_submodule(name, blocks[name])
    assert all(network.body.get_submodule(name) is block for name, block in blocks.items())
    assert len({array["logits"].tobytes() for array in outputs.values()}) == len(names)


def test_what_comes_before_a_layer_is_not_computed_again(images):
    """5 blocks: all of them once, and then behind each that is left out."""
    network = Network(nn.Sequential(*(Block() for _ in range(5)), nn.Flatten(), nn.Linear(192, 4)), SIGNATURE).eval()
    found = bypassing.candidates(network.body, (images,))
    assert len(found) == 5
    CALLS.clear()
    assert len(list(ablation.without_each(network, found, [*found], (images,)))) == 5
    assert len(CALLS) == 5 + 4 + 3 + 2 + 1
